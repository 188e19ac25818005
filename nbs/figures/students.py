"""Linear students on the demo model's decoder: for 10 Selection."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn import functional as F

from figures.sheets import CHOSEN
from stal_nb.app.demo import demo_model
from stal_nb.labels import IGNORE
from stal_nb.runtime.devices import flush_denormals
from stal_nb.scenes import SceneDataset
from stal_nb.uncertainty import entropy

# Four students
#
# Only the last layer learns: 19 linear scores of the decoder's 64 features, a convex problem that takes a fraction of
# a second.


@torch.no_grad()
def decoder_features(images: Tensor) -> tuple[Tensor, Tensor]:
    """What the demo model's last layer receives (N, P, 64) and returns (N, P, 19), at a quarter of the resolution; P
    pixels an
    image."""
    model, seen = demo_model(), []
    hook = model.classifier.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    for part in images.split(8):
        model(part, with_embeddings=False)
    hook.remove()
    x, logits = (torch.cat(t).flatten(2).movedim(1, -1).clone() for t in zip(*seen))
    return x, logits


class Pixels(NamedTuple):
    "Pixels of scenes for a last layer to learn from, at a quarter of the resolution."
    x: Tensor  # (N, P, 64) decoder features
    labels: Tensor  # (N, P) truth
    predicted: Tensor  # (N, P) class of the demo model
    unsure: Tensor  # (N, P) its entropy


@lru_cache(maxsize=4)
def pixels_of(domain: str, length: int, seed: int) -> Pixels:
    "Scenes of a domain as pixels."
    scenes = SceneDataset(domain, length, size=(128, 256), seed=seed)
    samples = [scenes[i] for i in range(length)]
    x, logits = decoder_features(torch.stack([s.image for s in samples]))
    labels = torch.stack([s.labels for s in samples])[:, 2::4, 2::4].flatten(1)
    return Pixels(x, labels, logits.argmax(-1), entropy(logits.softmax(-1).movedim(-1, 1)))


@flush_denormals()
def fit_head(parts: Sequence[tuple[Tensor, Tensor]], l2: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weights (19, 64) and bias (19,) that minimise the sum of the parts' mean cross entropies, starting from and
    staying near the demo model's."""
    layer = demo_model().classifier
    start = layer.weight.detach().flatten(1)
    weight, bias = start.clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=40, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = sum(F.cross_entropy(x @ weight.T + bias, y, ignore_index=IGNORE)
                    for x, y in parts) + l2 * (weight - start).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def _sim_part(generator: torch.Generator, count: int = 8000) -> tuple[Tensor, Tensor]:
    "Labelled pixels of `sim`, drawn at random."
    sim = pixels_of("sim", 32, 11)
    drawn = torch.randperm(sim.labels.numel(), generator=generator)[:count]
    return sim.x.flatten(0, 1)[drawn], sim.labels.flatten()[drawn]


@lru_cache(maxsize=1)
def sim_heads(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    "An ensemble of last layers, each learnt from other pixels of `sim`."
    return [fit_head([_sim_part(torch.Generator().manual_seed(k), 4000)]) for k in range(count)]


def right_share(head: tuple[Tensor, Tensor], test: Pixels) -> float:
    "Share of right pixels, in per cent."
    weight, bias = head
    return 100 * ((test.x @ weight.T + bias).argmax(-1) == test.labels)[test.labels != IGNORE].double().mean().item()


@lru_cache(maxsize=4)
def four_students(draws: int = 4, count: int = 2000, share: float = 0.1) -> pd.DataFrame:
    "Gain in right pixels on other real images, by which pixels are learnt from and who labels them; one row a draw."
    real, test, rows = pixels_of("real", 32, 5), pixels_of("real", 16, 77), []
    low, high = torch.quantile(real.unsure.flatten(), torch.tensor([share, 1 - share]))
    kinds = {"sure": real.unsure <= low, "unsure": real.unsure >= high,
             "any": torch.ones_like(real.unsure, dtype=torch.bool)}
    answers = {"network": real.predicted, "person": real.labels}
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        sim = _sim_part(generator)
        alone = right_share(fit_head([sim]), test)
        for kind, mask in kinds.items():
            place = mask.flatten().nonzero()[:, 0]
            place = place[torch.randperm(len(place), generator=generator)[:count]]
            for who, labels in answers.items():
                part = real.x.flatten(0, 1)[place], labels.flatten()[place]
                wrong = (labels.flatten()[place] != real.labels.flatten()[place]).double().mean().item()
                rows.append({"draw": draw, "pixels": kind, "labels": who,
                             "gain": right_share(fit_head([sim, part]), test) - alone,
                             "wrong labels": wrong, "sim alone": alone})
    return pd.DataFrame(rows)


def students_figure(students: pd.DataFrame) -> plt.Figure:
    "Gain of each student over one that saw no real pixel: mean, and each draw."
    figure, axis = plt.subplots(figsize=(9, 3), dpi=80, layout="constrained")
    colours, kinds = {"network": "#9ecae1", "person": "#d6604d"}, ["sure", "unsure", "any"]
    for k, who in enumerate(colours):
        for x, kind in enumerate(kinds):
            gain = students.gain[(students.labels == who) & (students.pixels == kind)]
            place = x + 0.36 * (k - 0.5)
            axis.bar(place, gain.mean(), 0.34, color=colours[who], label=f"labelled by the {who}" if not x else None)
            axis.plot([place] * len(gain), gain, ".", color="black", markersize=5)
            axis.annotate(f"{gain.mean():+.1f}", (place, max(gain.max(), 0)), (0, 4), textcoords="offset points",
                          ha="center", fontsize=9)
    share = students[students.labels == "network"].groupby("pixels")["wrong labels"].mean()
    names = {"sure": "the surest tenth", "unsure": "the least sure tenth", "any": "drawn from all"}
    axis.set_xticks(range(3), [f"{names[k]}\n({share[k]:.0%} wrong)" for k in kinds])
    axis.axhline(0, color="#555555", linewidth=1)
    axis.margins(y=0.15)
    axis.set_ylabel("right pixels gained (points)")
    axis.set_title(
        f"2,000 real pixels added to labelled sim (alone: {students['sim alone'].mean():.1f} % right). "
        "In brackets: how often the network is wrong there",
        fontsize=9,
    )
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


@lru_cache(maxsize=4)
def label_ends(draws: int = 8, acquired: int = 4, pool_size: int = 24) -> pd.DataFrame:
    """Whole images acquired from either end of the entropy ranking, or at random, of a pool drawn anew each time: gain
    in
    right pixels."""
    real, test, rows = pixels_of("real", 32, 5), pixels_of("real", 16, 77), []
    score = real.unsure.mean(1)
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        pool = torch.randperm(len(score), generator=generator)[:pool_size]
        ranked, sim = pool[score[pool].argsort()], _sim_part(generator)
        alone = right_share(fit_head([sim]), test)
        for kind, chosen in {"surest": ranked[:acquired], "random": pool[:acquired],
                             "least sure": ranked[-acquired:]}.items():
            part = real.x[chosen].flatten(0, 1), real.labels[chosen].flatten()
            wrong = (real.predicted[chosen] != real.labels[chosen]).double().mean().item()
            rows.append({"draw": draw, "images": kind, "gain": right_share(fit_head([sim, part]), test) - alone,
                         "corrected": wrong})
    return pd.DataFrame(rows)


def ends_figure(ends: pd.DataFrame) -> plt.Figure:
    "One line a draw: the same pool, three ways to spend the same budget."
    figure, axis = plt.subplots(figsize=(7, 2.8), dpi=80, layout="constrained")
    table = ends.pivot(index="draw", columns="images", values="gain")[["surest", "random", "least sure"]]
    for _, row in table.iterrows():
        axis.plot(range(3), row, color="#bbbbbb", linewidth=1)
    axis.errorbar(range(3), table.mean(), table.std(), fmt="o", color=np.array(CHOSEN) / 255, capsize=5, linewidth=2)
    corrected = ends.groupby("images")["corrected"].mean()
    axis.set_xticks(range(3), [f"{k}\n({corrected[k]:.0%} of the pixels corrected)" for k in table])
    axis.set(ylabel="right pixels gained (points)", xlim=(-0.4, 2.4))
    axis.set_title(f"four whole images labelled, {len(table)} pools (grey), mean and standard deviation (red)",
                   fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
