"""Pictures for 09 Uncertainty."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F

from figures.sheets import MAGMA, bare, colourbar
from stal_nb.app.demo import demo_model
from stal_nb.app.drawing import pale, still
from stal_nb.app.selection_explorer import PredictedScenes
from stal_nb.app.uncertainty_picture import ERROR
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.scenes import SceneDataset
from stal_nb.uncertainty import (
    ENSEMBLE_MEASURES,
    MEASURES,
    Ensemble,
    class_probs,
    dropout_passes,
    entropy,
    evaluating,
    image_score,
    region_impurity,
    region_uncertainty,
    ripu,
)


@torch.inference_mode()
def predict_images(images: Tensor, batch: int = 8, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    "Class probabilities (N, C, H, W) and pooled embeddings (N, D) of a network; None = the demo model."
    network = network or demo_model()
    outputs = [network(part) for part in images.split(batch)]
    return torch.cat([o.logits for o in outputs]).softmax(1), torch.cat([o.embeddings.mean((2, 3)) for o in outputs])


def predicted_scenes(
    domain: str,  # "sim", where the demo model was trained, or "real"
    length: int,  # number of scenes
    seed: int = 5,  # which ones; none of them was seen in training
    size: tuple[int, int] = (128, 256),
    network: nn.Module | None = None,  # None = the demo model
) -> PredictedScenes:
    "Draw scenes and predict them."
    scenes = SceneDataset(domain, length, size=size, seed=seed)
    samples = [scenes[i] for i in range(length)]
    images, labels = (torch.stack(t) for t in list(zip(*samples))[:2])
    probs, features = predict_images(images, network=network)
    return PredictedScenes(images, labels, probs, (probs.argmax(1) != labels) & (labels != IGNORE), features,
                           scenes.ids, scenes.groups)


def error_map(image: Tensor, wrong: Tensor) -> np.ndarray:
    "Wrong pixels in red on the washed-out photograph."
    picture = pale(image)
    picture[wrong.numpy()] = ERROR
    return picture


def scene_sheet(
    chosen: Sequence[tuple[PredictedScenes, int]],  # scenes and position in them, one a column
) -> plt.Figure:
    "Image, prediction, entropy and errors, one column a scene."
    figure, axes = plt.subplots(4, len(chosen), figsize=(2.65 * len(chosen) + 0.9, 5.75), dpi=74, layout="constrained")
    for column, (scenes, i) in zip(axes.T, chosen):
        domain = scenes.ids[i].split("-")[0]
        where = "sim, the training domain" if domain == "sim" else f"real, {scenes.groups[i]}"
        bare(column[0], still(scenes.images[i]), where)
        bare(column[1], CITYSCAPES.colorize(scenes.probs[i].argmax(0)))
        unsure = entropy(scenes.probs[i:i + 1])[0]
        bare(column[2], unsure, **MAGMA)
        column[2].set_xlabel(f"mean {unsure.mean():.2f}", fontsize=8, labelpad=2)
        bare(column[3], error_map(scenes.images[i], scenes.wrong[i]))
        column[3].set_xlabel(f"{scenes.wrong[i].float().mean():.0%} of the pixels are wrong", fontsize=8, labelpad=2)
    for axis, name in zip(axes[:, 0], ("image", "prediction", "uncertainty", "errors")):
        axis.set_ylabel(name, fontsize=9)
    colourbar(figure, axes, 0.3)
    return figure


def map_and_histogram(image: Tensor, pixel_map: Tensor, name: str) -> plt.Figure:
    "A photograph, its uncertainty, and how often each value occurs, in the colours of the map."
    figure, axes = plt.subplots(1, 3, figsize=(13, 2.3), dpi=80, layout="constrained", width_ratios=(1, 1, 0.8))
    bare(axes[0], still(image), "image")
    bare(axes[1], pixel_map, name, **MAGMA)
    count, edges = np.histogram(pixel_map.numpy(), 40, (0, 1))
    axes[2].bar(edges[:-1], count / count.sum(), 1 / 40, align="edge", color=plt.cm.magma(edges[:-1] + 1 / 80))
    axes[2].set(xlim=(0, 1), xlabel=f"{name} of a pixel", yticks=[])
    axes[2].set_title("share of the pixels", fontsize=9)
    axes[2].axvline(pixel_map.mean().item(), color="#333333", linestyle=":", linewidth=1.2)
    axes[2].text(pixel_map.mean().item() + 0.01, axes[2].get_ylim()[1] * 0.92, f"mean {pixel_map.mean():.2f}",
                 fontsize=8, va="top")
    axes[2].spines[["top", "right", "left"]].set_visible(False)
    return figure


def measure_maps(scenes: PredictedScenes, i: int) -> plt.Figure:
    "One scene through the three measures, and where margin and entropy rank pixels differently."
    figure, axes = plt.subplots(2, 3, figsize=(10.4, 3.65), dpi=68, layout="constrained")
    maps = {name: measure(scenes.probs[i:i + 1])[0] for name, measure in MEASURES.items()}
    bare(axes[0, 0], still(scenes.images[i]), "image")
    for axis, (name, value) in zip((axes[0, 1], axes[0, 2], axes[1, 0]), maps.items()):
        bare(axis, value, f"{name.replace('_', ' ')}, mean {value.mean():.2f}", **MAGMA)
    ranks = {name: value.flatten().argsort().argsort().view(value.shape) / value.numel()
             for name, value in maps.items()}
    bare(axes[1, 1], ranks["margin"] - ranks["entropy"], "rank in margin minus rank in entropy", cmap="PuOr", vmin=-0.5,
         vmax=0.5)
    bare(axes[1, 2], CITYSCAPES.colorize(scenes.probs[i].argmax(0)), "prediction")
    axes[1, 1].set_xlabel("orange: less sure for entropy      purple: less sure for margin", fontsize=8, labelpad=2)
    colourbar(figure, axes, 0.5)
    return figure


# Three classes in a triangle

CORNERS = np.array([[0, 0], [1, 0], [0.5, 3 ** 0.5 / 2]])  # of the triangle: road, car, tree


def simplex_figure() -> plt.Figure:
    "The three measures over all distributions of three classes, with lines of equal uncertainty."
    steps = 120
    grid = np.array([(a, b, steps - a - b) for a in range(steps + 1) for b in range(steps + 1 - a)]) / steps  # (n, 3)
    x, y = (grid @ CORNERS).T
    marks = np.array([(0.5, 0.5, 0.0), (0.6, 0.2, 0.2)])
    figure, axes = plt.subplots(1, 3, figsize=(12.4, 4.1), dpi=80, layout="constrained")
    for axis, (name, measure) in zip(axes, MEASURES.items()):
        value = measure(torch.from_numpy(grid)).numpy()
        axis.tricontourf(x, y, value, levels=np.linspace(0, 1.0001, 41), cmap="magma", vmin=0, vmax=1)
        axis.tricontour(x, y, value, levels=np.arange(0.1, 1, 0.1), colors="white", linewidths=0.6, alpha=0.7)
        at = measure(torch.from_numpy(marks)).numpy()
        for (px, py), v, p in zip(marks @ CORNERS, at, marks):
            axis.plot(px, py, "o", color="#39d353", markeredgecolor="black", markersize=7)
            axis.annotate(f"{v:.2f}", (px, py), (0, -17 if p[2] == 0 else 10), textcoords="offset points", fontsize=9,
                          ha="center",
                          weight="bold", color="white",
                          bbox=dict(boxstyle="round,pad=0.15", facecolor="black", alpha=0.6, linewidth=0))
        axis.set_title(name.replace("_", " "), fontsize=11)
        for (cx, cy), label, (dx, dy) in zip(CORNERS, ("road", "car", "tree"), ((-4, -12), (4, -12), (0, 6))):
            axis.annotate(label, (cx, cy), (dx, dy), textcoords="offset points", ha="center", fontsize=9)
        axis.set(xlim=(-0.08, 1.08), ylim=(-0.13, 0.97), aspect="equal")
        axis.axis("off")
    colourbar(figure, axes)
    return figure


# Where it lives


def boundary_distance(
    labels: Tensor,  # (N, H, W)
    most: int = 32,  # distances are counted up to here
) -> Tensor:  # (N, H, W) int64, 0 = touches another class; chessboard distance in pixels
    "How far each pixel is from the nearest boundary between two labels."
    x = labels[:, None].float()
    highest, lowest = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    near = (highest != lowest).float()
    distance = torch.full(labels.shape, most)
    for step in range(most):
        distance = torch.where((near[:, 0] > 0) & (distance == most), step, distance)
        near = F.max_pool2d(near, 3, 1, 1)
    return distance


def by_distance(scenes: PredictedScenes, pixel_map: Tensor, edges: Sequence[int] = (0, 1, 2, 4, 8, 16)) -> pd.DataFrame:
    "Pixels, uncertainty and errors by distance from the nearest boundary of the labels."
    distance = boundary_distance(scenes.labels, edges[-1])
    rows = []
    for low, high in zip(edges, [*edges[1:], 10**6]):
        here = (distance >= low) & (distance < high)
        name = f"{low}" if high == low + 1 else f"{low}–{high - 1}" if high < 10**6 else f"{low}+"
        rows.append({"distance": name, "share of pixels": here.double().mean().item(),
                     "mean entropy": pixel_map[here].mean().item(),
                     "error rate": scenes.wrong[here].double().mean().item(),
                     "share of errors": (scenes.wrong & here).sum().item() / scenes.wrong.sum().item()})
    return pd.DataFrame(rows).set_index("distance")


def boundary_figure(table: pd.DataFrame) -> plt.Figure:
    "Left: how unsure and how wrong by distance. Right: where the pixels and the errors are."
    figure, axes = plt.subplots(1, 2, figsize=(11, 2.9), dpi=80, layout="constrained")
    place = np.arange(len(table))
    for axis, (first, second), colours in ((axes[0], ("mean entropy", "error rate"), ("#7b3294", "#d62728")),
                                           (axes[1], ("share of pixels", "share of errors"), ("#bbbbbb", "#d62728"))):
        axis.bar(place - 0.2, table[first], 0.38, color=colours[0], label=first)
        axis.bar(place + 0.2, table[second], 0.38, color=colours[1], label=second)
        axis.set_xticks(place, table.index)
        axis.set_xlabel("pixels from the nearest boundary", fontsize=9)
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].yaxis.set_major_formatter("{x:.0%}")
    return figure


def confidently_wrong_figure(scenes: PredictedScenes, count: int = 2) -> plt.Figure:
    "Scenes with the most pixels that are wrong although their entropy is below the median of all pixels."
    unsure = entropy(scenes.probs)
    sure_errors = scenes.wrong & (unsure < unsure.median())
    worst = sure_errors.flatten(1).sum(1).argsort(descending=True)[:count].tolist()
    figure, axes = plt.subplots(count, 4, figsize=(11, 1.55 * count), dpi=66, layout="constrained")
    for row, i in zip(axes, worst):
        picture = pale(scenes.images[i])
        picture[sure_errors[i].numpy()] = ERROR
        predicted, labels = scenes.probs[i].argmax(0), scenes.labels[i]
        pairs = torch.bincount((labels * 19 + predicted)[sure_errors[i]], minlength=361).argmax().item()
        bare(row[0], still(scenes.images[i]))
        bare(row[1], unsure[i], **MAGMA)
        bare(row[2], CITYSCAPES.colorize(predicted))
        bare(row[3], picture)
        row[3].set_xlabel(f"mostly {CITYSCAPES.classes[pairs // 19]} taken for {CITYSCAPES.classes[pairs % 19]}",
                          fontsize=8, labelpad=2)
    for axis, title in zip(axes[0], ("image", "entropy", "prediction", "wrong, yet surer than half of all pixels")):
        axis.set_title(title, fontsize=9)
    return figure


# Images and regions


def rank_correlation(a: Tensor, b: Tensor) -> float:
    "Spearman's: the correlation of the ranks."
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def score_figure(scenes: PredictedScenes) -> plt.Figure:
    "Image scores against the error rate of the image, one dot an image, cities in colours."
    unsure, wrong = entropy(scenes.probs), scenes.wrong.flatten(1).double().mean(1)
    scores = {"mean entropy": image_score(unsure), "mean entropy of the top 10 %": image_score(unsure, "top", 0.1),
              "mean margin": image_score(MEASURES["margin"](scenes.probs))}
    figure, axes = plt.subplots(1, 3, figsize=(12.4, 3.3), dpi=80, layout="constrained", sharey=True)
    cities = sorted(set(scenes.groups))
    for axis, (name, score) in zip(axes, scores.items()):
        for k, city in enumerate(cities):
            here = torch.tensor([g == city for g in scenes.groups])
            axis.scatter(score[here], wrong[here], s=28, color=plt.cm.Dark2(k), label=city, edgecolor="white",
                         linewidth=0.5)
        axis.set_title(f"rank correlation {rank_correlation(score, wrong):.2f}", fontsize=10)
        axis.set_xlabel(name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.set_major_formatter("{x:.0%}")
    axes[0].set_ylabel("wrong pixels of the image")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside right center",
                  handletextpad=0.1)
    return figure


def extremes_figure(scenes: PredictedScenes) -> plt.Figure:
    "Most and least uncertain images by the mean, and those that the mean of the top 10 % ranks most differently."
    unsure = entropy(scenes.probs)
    mean, top = image_score(unsure), image_score(unsure, "top", 0.1)
    order = mean.argsort(descending=True).tolist()
    rank = {name: score.argsort(descending=True).argsort() for name, score in (("mean", mean), ("top", top))}
    moved = (rank["mean"] - rank["top"])
    columns = [("most unsure", order[0]), ("least unsure", order[-1]),
               ("lifted by top 10 %", moved.argmax().item()), ("lowered by top 10 %", moved.argmin().item())]
    figure, axes = plt.subplots(2, len(columns), figsize=(2.45 * len(columns), 2.95), dpi=80, layout="constrained")
    for column, (title, i) in zip(axes.T, columns):
        bare(column[0], still(scenes.images[i]), title)
        bare(column[1], unsure[i], **MAGMA)
        ranks = rank["mean"][i] + 1, rank["top"][i] + 1
        column[1].set_xlabel(f"mean {mean[i]:.2f}, rank {ranks[0]}\ntop 10 % {top[i]:.2f}, rank {ranks[1]}", fontsize=8,
                             labelpad=2)
    return figure


def region_figure(scenes: PredictedScenes, i: int, radii: Sequence[int]) -> plt.Figure:
    """Impurity, uncertainty and their product for several radii, each picture on its own scale: impurity cannot reach 1
    in a small window. The last column shows where the product differs from impurity alone, both divided by their
    maximum."""
    measures = {"impurity P": region_impurity, "uncertainty U": region_uncertainty, "P · U": ripu}
    figure, axes = plt.subplots(len(radii), 5, figsize=(13.2, 1.6 * len(radii)), dpi=70, layout="constrained")
    for row, radius in zip(np.atleast_2d(axes), radii, strict=True):
        side = 2 * radius + 1
        bare(row[0], CITYSCAPES.colorize(scenes.probs[i].argmax(0)), f"prediction; windows of {side} × {side}")
        relative = {}
        for axis, (name, function) in zip(row[1:4], measures.items(), strict=True):
            value = function(scenes.probs[i:i + 1], radius)[0]
            top = value.max().item() or 1
            bare(axis, value, f"{name}, up to {value.max():.2f}", cmap="magma", vmin=0, vmax=top)
            relative[name] = value / top
        difference = relative["P · U"] - relative["impurity P"]
        bare(row[4], difference, "P · U − P, each ÷ its maximum", cmap="PuOr", vmin=-0.5, vmax=0.5)
    return figure


# Several inferences


def ensemble_figure(
    ensembles: dict[str, Ensemble],  # title of a row -> predictions of this one image
) -> plt.Figure:
    """Predictive entropy as the sum of expected entropy and BALD, the votes and the spread; BALD and the spread
    stretched to their own largest value."""
    figure, axes = plt.subplots(len(ensembles), 5, figsize=(13, 1.55 * len(ensembles)), dpi=72, layout="constrained")
    for row, (title, ensemble) in zip(np.atleast_2d(axes), ensembles.items()):
        for axis, (name, measure) in zip(row, ENSEMBLE_MEASURES.items()):
            value, low = measure(ensemble)[0], name in ("bald", "mean_std", "variation_ratio")
            high = value.flatten().kthvalue(int(0.995 * value.numel())).values.item() if low else 1
            text = "BALD" if name == "bald" else name.replace("_", " ")
            bare(axis, value, f"{text}, {f'up to {value.max():.2f}' if low else f'mean {value.mean():.2f}'}",
                 cmap="magma", vmin=0, vmax=high or 1)
        row[0].set_ylabel(title, fontsize=9)
    return figure


def passes_figure(
    network: nn.Module,
    images: Tensor,  # (B, 3, H, W)
    counts: Sequence[int] = (2, 4, 8, 16, 32),  # T to try
    most: int = 64,  # T that stands for "very many"
) -> plt.Figure:
    "How soon the maps of T passes agree with those of very many: rank correlation of the pixels, for other masks."
    reference = Ensemble(dropout_passes(network, images, most, torch.Generator().manual_seed(1)))
    names = ("predictive_entropy", "bald", "variation_ratio", "mean_std")
    lines, members = {name: [] for name in names}, Ensemble()
    for number, probs in enumerate(dropout_passes(network, images, max(counts)), 1):
        members.add(probs)
        if number in counts:
            for name in names:
                pair = (ENSEMBLE_MEASURES[name](o).flatten()[::7] for o in (members, reference))
                lines[name].append(rank_correlation(*pair))
    figure, axis = plt.subplots(figsize=(5.6, 2.7), dpi=80, layout="constrained")
    for (name, line), colour in zip(lines.items(), ("#7b3294", "#b2182b", "#2166ac", "#1b7837")):
        axis.plot(counts, line, "o-", color=colour, label="BALD" if name == "bald" else name.replace("_", " "),
                  markersize=4)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, counts)
    axis.set(xlabel="passes T", ylabel=f"rank correlation with {most}", ylim=(None, 1.01))
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e5e5e5")
    return figure


# Trust and doubt


def by_share(scenes: PredictedScenes, pixel_map: Tensor, parts: int = 10) -> pd.DataFrame:
    """Pixels of all images in parts of equal size, surest first: how wrong each is, and which share of all errors it
    holds."""
    order = pixel_map.flatten().argsort(stable=True)
    wrong = torch.stack([part.double().mean() for part in scenes.wrong.flatten()[order].tensor_split(parts)])
    edges = pixel_map.flatten()[order][[min(order.numel() - 1, round(order.numel() * k / parts))
                                        for k in range(1, parts + 1)]]
    return pd.DataFrame({"entropy up to": edges.numpy(), "error rate": wrong.numpy(),
                         "share of errors": (wrong / wrong.sum()).numpy()},
                        pd.Index([f"{100 * k // parts}–{100 * (k + 1) // parts} %" for k in range(parts)],
                                 name="pixels, surest first"))


def trust_figure(tables: dict[str, pd.DataFrame]) -> plt.Figure:
    "What a pseudo-label is worth, and what an acquired label changes, from the surest pixels to the least sure."
    figure, axes = plt.subplots(1, len(tables), figsize=(5.4 * len(tables), 2.9), dpi=80, layout="constrained",
                                sharey=True)
    for axis, (title, table) in zip(np.atleast_1d(axes), tables.items()):
        place = np.arange(len(table))
        axis.bar(place, 1 - table["error rate"], 0.86, color="#cfcfcf",
                 label="the network is right: a label changes nothing")
        axis.bar(place, table["error rate"], 0.86, bottom=1 - table["error rate"], color="#d62728",
                 label="it is wrong: a label corrects it, a pseudo-label repeats it")
        axis.set_xticks(place, [i.split("–")[0] if k % 2 == 0 else "" for k, i in enumerate(table.index)], fontsize=8)
        axis.set_xlabel("percentile of entropy: surest at the left, least sure at the right", fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  fontsize=8.5, frameon=False)
    return figure


def strange_images(image: Tensor) -> dict[str, Tensor]:
    "A scene, and images that no label would make useful: noise, black bars, upside down, inverted, nothing at all."
    generator = torch.Generator().manual_seed(0)
    barred = image.clone()
    barred[:, :, :40] = barred[:, :, -40:] = 0
    return {"a street": image, "black bars": barred, "upside down": image.flip(1), "negative": 1 - image,
            "noise": torch.rand(image.shape, generator=generator), "blank": torch.full_like(image, 0.5)}


def strange_figure(network: nn.Module, image: Tensor) -> plt.Figure:
    "Scores of images that are no streets."
    images = strange_images(image)
    batch = torch.stack(list(images.values()))
    with evaluating(network):
        unsure = entropy(class_probs(network, batch))
    figure, axes = plt.subplots(2, len(images), figsize=(2.15 * len(images), 2.75), dpi=72, layout="constrained")
    for column, title, picture, value in zip(axes.T, images, batch, unsure):
        bare(column[0], still(picture), title)
        bare(column[1], value, **MAGMA)
        column[1].set_xlabel(f"mean {value.mean():.2f}", fontsize=9, labelpad=2)
    return figure
