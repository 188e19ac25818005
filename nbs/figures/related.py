"""Pictures and small trainings for 14 Related work."""

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from stal_nb.app.demo import demo_model
from stal_nb.config import TrainingConfig
from stal_nb.labels import CITYSCAPES
from stal_nb.losses import normalised_entropy
from stal_nb.related import DomainDiscriminator, colour_transfer, domain_accuracy, domain_loss, fourier_swap
from stal_nb.runtime.devices import flush_denormals
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState
from stal_nb.trainer import Trainer

SIZE = (64, 128)
SOURCE, TARGET, INK = "#1f77b4", "#ff7f0e", "#444444"

# The literature


class Work(NamedTuple):
    "A paper of the map."
    name: str
    year: float
    lane: int  # row of the map
    level: float  # place within the row, from 0 below to 1 above
    feeds: bool = False  # whether STAL is made of it


LANES = {"active learning: which labels?": "#d9622b", "learning without labels": "#2f6db3",
         "adaptation: source and target alike": "#3a9a5b"}
WORKS = (
    Work("colour transfer\nReinhard et al.", 2011, 2, 0.75), Work("gradient reversal\nGanin, Lempitsky", 2015, 2, 0.3),
    Work("AdaptSegNet\nTsai et al.", 2018, 2, 0.15), Work("CyCADA\nHoffman et al.", 2018, 2, 0.8),
    Work("ADVENT\nVu et al.", 2019, 2, 0.45), Work("FDA\nYang, Soatto", 2020, 2, 0.75),
    Work("entropy minimisation\nGrandvalet, Bengio", 2011, 1, 0.55), Work("pseudo-label\nLee", 2013, 1, 0.2),
    Work("mean teacher\nTarvainen, Valpola", 2017, 1, 0.15, True), Work("CutMix\nYun et al.", 2019, 1, 0.85, True),
    Work("FixMatch\nSohn et al.", 2020, 1, 0.52), Work("AEL\nHu et al.", 2021, 1, 0.7, True),
    Work("U2PL\nWang et al.", 2022, 1, 0.35, True), Work("UniMatch\nYang et al.", 2023.3, 1, 0.85),
    Work("uncertainty sampling\n(entropy)", 2011, 0, 0.5, True), Work("BALD with dropout\nGal et al.", 2017, 0, 0.75),
    Work("ensembles\nBeluch et al.", 2018, 0, 0.25), Work("core-set\nSener, Savarese", 2018.6, 0, 0.75),
    Work("RIPU\nXie et al.", 2022, 0, 0.2))


def literature_map() -> plt.Figure:
    "Who came when, and what STAL is made of."
    figure, axis = plt.subplots(figsize=(12.5, 5.4), dpi=80, layout="constrained")
    for lane, (title, colour) in enumerate(LANES.items()):
        axis.axhspan(lane, lane + 0.97, color=colour, alpha=0.09, linewidth=0)
        axis.text(2009.9, lane + 0.9, title, color=colour, fontsize=10, va="top", weight="bold")
    end = (2023.5, 1.07)
    for work in WORKS:
        colour = list(LANES.values())[work.lane]
        at = work.year, work.lane + 0.08 + 0.68 * work.level
        if work.feeds:
            axis.annotate("", end, at, arrowprops={"arrowstyle": "-|>", "color": "#777777", "alpha": 0.7,
                                                   "shrinkA": 24, "shrinkB": 42,
                                                   "connectionstyle": "arc3,rad=-0.03"})
        axis.text(*at, work.name, ha="center", va="center", fontsize=8,
                  bbox={"boxstyle": "round", "facecolor": colour if work.feeds else "white", "edgecolor": colour,
                        "alpha": 0.95}, color="white" if work.feeds else INK)
    axis.text(*end, "STAL\nGuan, Yuan", ha="center", va="center", fontsize=10, weight="bold", color="white",
              bbox={"boxstyle": "round", "facecolor": "black"})
    axis.set(xlim=(2009.8, 2024.1), ylim=(0, 3), yticks=[], xticks=[2011, *range(2013, 2024)])
    axis.set_xticklabels(["before\n2012", *range(2013, 2024)])
    axis.spines[["left", "right", "top"]].set_visible(False)
    return figure


# Short trainings


@lru_cache(maxsize=8)
def streets(domain: str, n: int = 24, seed: int = 0) -> SceneDataset:
    "Small scenes, kept in memory."
    return SceneDataset(domain, n, size=SIZE, seed=seed, cache=n)


def stacked(dataset: SceneDataset) -> tuple[Tensor, Tensor]:  # (n,3,H,W), (n,H,W)
    "All of it at once."
    samples = [dataset[k] for k in range(len(dataset))]
    return torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])


def unseen() -> tuple[Tensor, Tensor]:
    "Twelve streets of each domain that no training sees, source first."
    parts = [stacked(streets(domain, 12, seed=7)) for domain in ("sim", "real")]
    return tuple(torch.cat(some) for some in zip(*parts))


def short_training(steps: int, on_log=None, log_every: int = 10, **settings) -> TrainingState:
    """The demo network goes on learning in the real trainer, with 24 labelled source and 24 unlabelled target
    streets."""
    options = {
        "backbone": "tf_efficientnet_lite0", "weights": None, "aspp_channels": 64, "embedding_dim": 64,
        "crop_size": SIZE, "source_scale": (1, 1), "target_scale": (1, 1), "source_batch": 3, "target_batch": 0,
        "unlabelled_batch": 3, "lr": 0.005, "ohem": False, "num_negatives": 32, "bank_capacity": 64, "bank_push": 8,
        "device": "cpu"}
    config = TrainingConfig(**{**options, **settings})
    source, target = streets("sim"), streets("real")
    torch.manual_seed(0)
    state = TrainingState(config, CITYSCAPES.num_classes, len(source), len(target))
    state.student.load_state_dict(demo_model().state_dict())
    state.teacher.update(state.student, 0)  # at step 0 the teacher becomes the student
    trainer = Trainer(config, CITYSCAPES, state, source, target, (), range(len(target)), num_steps=steps,
                      log_every=log_every)
    trainer.fit(bar=False, on_log=on_log and (lambda row: on_log(row, state)))
    return state


@torch.no_grad()
def probs_of(network: nn.Module, images: Tensor) -> Tensor:
    "What a network says of images, in evaluation mode; its own mode stays."
    training = network.training
    network.eval()
    found = torch.cat([network(part, with_embeddings=False).logits.softmax(1) for part in images.split(8)])
    network.train(training)
    return found


# Adversarial alignment


@flush_denormals()
def fresh_verdict(network: nn.Module, steps: int = 40) -> float:
    "Accuracy, on streets it has not seen, of a new discriminator that learns to tell the network's outputs apart."
    seen = probs_of(network, torch.cat([stacked(streets(domain))[0] for domain in ("sim", "real")]))
    n = len(seen) // 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = DomainDiscriminator(seen.shape[1])
        optimizer = torch.optim.SGD(judge.parameters(), 0.03, momentum=0.9)
        for _ in range(steps):
            few = torch.randperm(n)[:8]
            domain_loss(judge, seen[torch.cat([few, n + few])], 8).backward()
            optimizer.step()
            optimizer.zero_grad()
    return domain_accuracy(judge, probs_of(network, unseen()[0]), 12).item()


class Alignment(NamedTuple):
    "Trainings that differ in whether the student hears of the discriminator, and networks to compare them with."
    curves: dict[str, list[tuple[int, float]]]  # (step, accuracy of the discriminator on unseen streets)
    outputs: dict[str, Tensor]  # (24,n) of each network: shares of the classes in each part of unseen streets
    fresh: dict[str, float]  # accuracy of a new discriminator


def _shares(probs: Tensor) -> Tensor:
    "Mean probabilities over 2 x 4 parts of each street, in a row."
    return nn.functional.adaptive_avg_pool2d(probs, (2, 4)).flatten(1)


def watch_alignment(settings: dict, strength: float, steps: int = 40) -> Alignment:
    """Train with L_adv, and with a weight so small that the student hears nothing of it; the discriminator learns as
    fast in both. Beside them the network before, and after at most twenty steps that change nothing but
    BatchNorm's statistics."""
    images, _ = unseen()
    still = short_training(min(20, steps), **{**settings, "lr": 1e-9}).student
    curves, networks = {}, {"before": demo_model(), "BatchNorm alone": still}
    for name, weight in {"the student does not listen": 1e-6, "the student listens": strength}.items():
        curve = curves.setdefault(name, [])

        def look(row, state, curve=curve):
            right = domain_accuracy(state.discriminator, probs_of(state.student, images), 12)
            curve.append((row["step"], right.item()))

        networks[name] = short_training(steps, look, **{**settings, "lambda_adversarial": weight}).student
    outputs = {name: _shares(probs_of(network, images)) for name, network in networks.items()}
    fresh = {name: fresh_verdict(network, min(40, 3 * steps)) for name, network in networks.items()}
    return Alignment(curves, outputs, fresh)


def alignment_figure(found: Alignment) -> plt.Figure:
    "Outputs of both domains in the plane in which they differ most, and the discriminator's accuracy."
    figure, axes = plt.subplots(1, 5, figsize=(14, 2.9), dpi=80, layout="constrained",
                                width_ratios=[1] * 4 + [1.3])
    every = torch.cat(list(found.outputs.values()))
    centre = every.mean(0)
    plane = torch.linalg.svd(every - centre, full_matrices=False).Vh[:2].T
    limits = ((every - centre) @ plane).abs().amax(0) * 1.1
    for axis, (name, rows) in zip(axes, found.outputs.items()):
        at = (rows - centre) @ plane
        for part, colour, label in ((at[:12], SOURCE, "source"), (at[12:], TARGET, "target")):
            axis.scatter(*part.T, color=colour, s=26, label=label)
            axis.scatter(*part.mean(0), color=colour, s=160, marker="+")
        axis.set(title=name, xticks=[], yticks=[], xlim=(-limits[0], limits[0]), ylim=(-limits[1], limits[1]))
    axes[0].legend(fontsize=8, frameon=False)
    for (name, curve), colour in zip(found.curves.items(), ("#999999", "#d62728")):
        axes[4].plot(*zip(*curve), color=colour, marker="o", markersize=3, label=name)
    axes[4].axhline(0.5, color=INK, linewidth=0.8, linestyle="--")
    axes[4].set(title="accuracy of the discriminator", xlabel="step", ylim=(0.4, 1))
    axes[4].legend(fontsize=8, frameon=False, loc="upper left")
    axes[4].spines[["top", "right"]].set_visible(False)
    return figure


def distance_of_domains(rows: Tensor) -> float:
    "How far the centres of both domains are apart, in units of the spread within a domain."
    source, target = rows[:12], rows[12:]
    within = torch.cat([source - source.mean(0), target - target.mean(0)]).square().sum(1).mean().sqrt()
    return ((source.mean(0) - target.mean(0)).norm() / within).item()


# Translation


def pairs(n: int = 2, size: tuple[int, int] = (128, 256)) -> list[tuple[Tensor, Tensor]]:
    "A source and a target street each, of one size: drawn ones."
    source, target = SceneDataset("sim", n, size=size, seed=5), SceneDataset("real", n, size=size, seed=11)
    return [(source[k].image, target[k].image) for k in range(n)]


def camvid_pairs(n: int = 2) -> list[tuple[Tensor, Tensor]]:
    """A drawn source street and a photograph each, where the variable CAMVID names the folder of the data; else
    nothing."""
    root = os.environ.get("CAMVID", "")
    if not (Path(root) / "train").is_dir() or not root:
        return []
    from stal_nb.runtime.images import read_image

    files = sorted(f for f in (Path(root) / "train").iterdir() if f.suffix in (".png", ".jpg"))
    photographs = [read_image(files[k * (len(files) - 1) // max(1, n - 1)]) for k in range(n)]
    source = SceneDataset("sim", n, size=tuple(photographs[0].shape[1:]), seed=5)
    return [(source[k].image, photograph) for k, photograph in enumerate(photographs)]


def _pictures(figure_rows: list[list[tuple[str, Tensor]]], height: float) -> plt.Figure:
    rows, columns = len(figure_rows), max(map(len, figure_rows))
    figure, axes = plt.subplots(rows, columns, figsize=(13, height * rows), dpi=80, squeeze=False,
                                layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for line, row in zip(axes, figure_rows):
        for axis, (title, picture) in zip(line, row):
            axis.imshow(picture.movedim(0, -1).clamp(0, 1) if picture.ndim == 3 else picture)
            axis.set_title(title, fontsize=9)
    return figure


def translation_figure(examples: list[tuple[Tensor, Tensor]], beta: float = 0.01) -> plt.Figure:
    "A source image, the target image it is given the look of, and both ways to do that."
    rows = []
    for image, style in examples:
        x, y = image[None], style[None]
        rows.append([("source", image), ("target", style), (f"Fourier swap, β = {beta:g}", fourier_swap(x, y, beta)[0]),
                     ("colour transfer", colour_transfer(x, y)[0])])
    return _pictures(rows, 1.75)


def beta_figure(image: Tensor, style: Tensor, betas: tuple[float, ...]) -> plt.Figure:
    "One source image under growing β."
    found = [(f"β = {beta:g}", fourier_swap(image[None], style[None], beta)[0]) for beta in betas]
    return _pictures([[("source", image), *found]], 1.6)


# Entropy


def entropy_slope_figure() -> plt.Figure:
    "Entropy of two classes by the probability of the first, and how hard its descent pushes the logit."
    p = torch.linspace(0.001, 0.999, 400)
    z = torch.logit(p).requires_grad_()
    h = normalised_entropy(torch.stack([z, torch.zeros_like(z)]).softmax(0)[None, :, :, None])
    (slope,) = torch.autograd.grad(h.sum(), z)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.5), dpi=80, layout="constrained")
    axes[0].plot(p, h.detach().flatten(), color=INK)
    axes[0].set(xlabel="probability of the first class", title="entropy, normalised")
    axes[1].plot(p, -slope, color="#17becf")
    axes[1].axhline(0, color=INK, linewidth=0.6)
    axes[1].set(xlabel="probability of the first class", title="push on its logit")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


class Collapse(NamedTuple):
    "What a training says of unseen target streets, at each look."
    steps: list[int]
    entropy: list[float]
    right: list[float]
    classes: list[int]  # how many have one pixel in a hundred or more
    last: Tensor  # (12,H,W) the classes predicted at the end


def watch_entropy(steps: int = 30, **settings) -> Collapse:
    "A short training, looked at on twelve unseen target streets."
    images, labels = (part[12:] for part in unseen())
    rows, last = [], []

    def look(step, network):
        probs = probs_of(network, images)
        classes = probs.argmax(1)
        counts = torch.bincount(classes.flatten(), minlength=19)
        rows.append((step, normalised_entropy(probs).mean().item(), (classes == labels).float().mean().item(),
                     int((counts >= 0.01 * counts.sum()).sum())))
        last[:] = [classes]

    look(0, demo_model())
    short_training(steps, lambda row, state: look(row["step"], state.student), **settings)
    return Collapse(*(list(column) for column in zip(*rows)), last[0])


def collapse_figure(trainings: dict[str, Collapse]) -> plt.Figure:
    "Entropy, right pixels and the classes that are left along each training; one street, and what is said of it."
    figure, axes = plt.subplots(1, 4 + len(trainings), figsize=(14, 2.3), dpi=80, layout="constrained",
                                width_ratios=[1, 1, 1, *[1.25] * (1 + len(trainings))])
    titles = {"entropy": "mean entropy", "right": "right pixels", "classes": "classes with 1 % of the pixels"}
    for (name, found), colour in zip(trainings.items(), ("#d62728", "#2ca02c")):
        for axis, field in zip(axes, titles):
            axis.plot(found.steps, getattr(found, field), color=colour, label=name)
    for axis, title in zip(axes, titles.values()):
        axis.set(title=title, xlabel="step", ylim=(0, 10 if "classes" in title else 1))
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False, loc="upper right", borderaxespad=0)
    pictures = {name: CITYSCAPES.colorize(found.last[1]) for name, found in trainings.items()}
    pictures = {"a target street": unseen()[0][13].movedim(0, -1), **pictures}
    for axis, (name, picture) in zip(axes[3:], pictures.items()):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    return figure


# Thresholds, views and averages


def threshold_figure(image: Tensor, thresholds: tuple[float, ...]) -> plt.Figure:
    "The pseudo-labels of a street that are left above each threshold; grey is dropped."
    probs = probs_of(demo_model(), image[None])[0]
    confidence, classes = probs.max(0)
    row = [("target street", image)]
    for threshold in thresholds:
        picture = CITYSCAPES.colorize(classes)
        picture[np.asarray(confidence < threshold)] = 170
        left = (confidence >= threshold).float().mean().item()
        row.append((f"τ = {threshold:g}: {left:.0%} of the pixels", torch.from_numpy(picture).movedim(-1, 0) / 255))
    return _pictures([row], 1.6)


def views_figure(weak: Tensor, boxes: Tensor, views: list[Tensor]) -> plt.Figure:
    "A weak view, and two strong ones of it with their boxes."
    figure = _pictures([[("weak view: the teacher predicts this", weak), *(
        (f"strong view {k + 1}: the student sees this", view) for k, view in enumerate(views))]], 2.3)
    for axis, (y0, x0, y1, x1) in zip(figure.axes[1:], boxes.tolist()):
        axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=2))
    return figure


def noise_figure(decay: float = 0.95, steps: int = 120) -> plt.Figure:
    "A number that a noisy training finds, and its moving average."
    generator = torch.Generator().manual_seed(0)
    student, teacher, path = 2.0, 2.0, []
    for t in range(steps):
        noise = torch.randn((), generator=generator).item()
        student -= 0.3 * (student + 1.5 * noise)  # the slope of a square around 0, with noise
        share = min(1 - 1 / (t + 1), decay)
        teacher = share * teacher + (1 - share) * student
        path.append((student, teacher))
    figure, axis = plt.subplots(figsize=(8, 2.4), dpi=80, layout="constrained")
    for line, (name, colour) in zip(zip(*path), (("student", "#999999"), (f"average, decay {decay:g}", "#2f6db3"))):
        axis.plot(line, color=colour, label=name, linewidth=1 if name == "student" else 2)
    axis.axhline(0, color=INK, linewidth=0.6)
    axis.set(xlabel="step", title="a weight under noisy gradients; its best value is 0")
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
