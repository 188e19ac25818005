"""Pictures for 05 Metrics."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from torch import Tensor

from stal_nb.app.demo import demo_model
from stal_nb.labels import CITYSCAPES, IGNORE, LabelSpace
from stal_nb.metrics import Metrics, confusion_counts, iou_per_class, predicted_ids
from stal_nb.scenes import SceneDataset

# Three colours that people with any kind of colour vision can tell apart, used for right, claimed in vain and missed
# wherever two maps are compared.

OUTCOME_COLOURS = {"right": (0, 158, 115), "claimed in vain": (240, 150, 0), "missed": (150, 80, 190)}


class PredictedScenes(NamedTuple):
    "Scenes with the predictions of the demo network."

    images: Tensor  # (B,3,H,W) float32 in [0,1]
    labels: Tensor  # (B,H,W) int64, 255 = ignore
    ids: Tensor  # (B,H,W) int64, predicted classes


@lru_cache(maxsize=8)
def predicted_scenes(
    domain: str,  # "sim" or "real"
    count: int,  # number of scenes
    seed: int = 7,
) -> PredictedScenes:
    "Scenes the demo network was not trained on, with its predictions."
    scenes = SceneDataset(domain, count, size=(128, 256), seed=seed)
    samples = [scenes[k] for k in range(count)]
    images, labels = torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])
    with torch.inference_mode():
        ids = torch.cat([predicted_ids(demo_model()(batch).logits) for batch in images.split(8)])
    return PredictedScenes(images, labels, ids.clone())


def outcome_picture(
    scenes: PredictedScenes,
    index: int,  # which scene
    class_name: str,
    label_space: LabelSpace = CITYSCAPES,
) -> tuple[np.ndarray, float]:  # (H,W,3) uint8; IoU in [0,1], NaN without true pixels
    "A greyed image on which the pixels of one class are right, claimed in vain, or missed."
    labels, ids, chosen = scenes.labels[index], scenes.ids[index], label_space.index(class_name)
    truth, claim = labels == chosen, (ids == chosen) & (labels != IGNORE)
    grey = scenes.images[index].mean(0, keepdim=True).movedim(0, -1).numpy()
    picture = np.repeat(255 * (0.35 + 0.5 * grey), 3, axis=-1)
    for mask, colour in zip((truth & claim, claim & ~truth, truth & ~claim), OUTCOME_COLOURS.values()):
        picture[mask.numpy()] = 0.15 * picture[mask.numpy()] + 0.85 * np.array(colour)
    counts = confusion_counts(ids[None], labels[None], label_space.num_classes)[0, :-1, :-1]
    return picture.astype(np.uint8), iou_per_class(counts)[chosen].item()


def overlap_figure(
    scenes: PredictedScenes,
    index: int,
    class_name: str,
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Image, truth, prediction, and the three areas of one class with their sizes."
    picture, iou = outcome_picture(scenes, index, class_name, label_space)
    labels, ids, chosen = scenes.labels[index], scenes.ids[index], label_space.index(class_name)
    truth, claim = labels == chosen, (ids == chosen) & (labels != IGNORE)
    areas = [int(m.sum()) for m in (truth & claim, claim & ~truth, truth & ~claim)]
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.7), dpi=80, layout="constrained")
    panels = {"image": scenes.images[index].movedim(0, -1).numpy(), "truth": label_space.colorize(labels),
              "prediction": label_space.colorize(ids),
              f"{class_name}: IoU = {areas[0]} / ({areas[0]} + {areas[1]} + {areas[2]}) = {iou:.0%}": picture}
    for axis, (title, panel) in zip(axes.flat, panels.items()):
        axis.imshow(panel)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    handles = [Patch(color=np.array(c) / 255, label=f"{name}: {n} pixels")
               for (name, c), n in zip(OUTCOME_COLOURS.items(), areas)]
    figure.legend(handles=handles, loc="outside lower right", ncol=3, fontsize=9, frameon=False)
    return figure


def overlap_knob(
    scenes: PredictedScenes,
    label_space: LabelSpace = CITYSCAPES,
) -> None:
    "Choose a scene and a class; see its three areas."
    def show(scene, class_name):
        overlap_figure(scenes, scene, class_name, label_space)
        plt.show()

    ipywidgets.interact(show, scene=ipywidgets.IntSlider(2, 0, len(scenes.labels) - 1, description="scene"),
                        class_name=ipywidgets.Dropdown(options=label_space.classes, value=label_space.classes[8],
                                                       description="class"))


# The matrix


def row_percent(
    confusion: Tensor,  # (C,C) counts
) -> np.ndarray:  # (C,C) percent of each row, NaN for classes that do not occur
    "Of all pixels that truly are a class, where did they go?"
    n = confusion.double()
    return (100 * n / n.sum(1, keepdim=True)).numpy()


def confusion_heatmap(
    confusion: Tensor,  # (C,C) counts
    label_space: LabelSpace,
    title: str = "",
) -> go.Figure:
    "The confusion matrix to point at: row-normalised colours, pixel counts on hover."
    n, names = confusion.numpy(), list(label_space.classes)
    percent = np.round(row_percent(confusion), 2)
    share = np.round(100 * n.sum(1) / max(1, n.sum()), 2)
    extra = np.stack([n, np.broadcast_to(share[:, None], n.shape)], -1)
    figure = go.Figure(go.Heatmap(
        z=percent, x=names, y=names, customdata=extra.tolist(), colorscale="Blues", zmin=0, zmax=100, xgap=1, ygap=1,
        colorbar=dict(title="% of row", thickness=12),
        hovertemplate="truth <b>%{y}</b> (%{customdata[1]} % of all pixels)<br>predicted <b>%{x}</b><br>"
                      "%{customdata[0]:,} pixels, %{z:.1f} % of this class<extra></extra>"))
    figure.update_layout(
        title=title, width=720, height=640, margin=dict(l=110, r=20, t=50, b=110), plot_bgcolor="#f2f2f2",
        xaxis=dict(title="predicted", tickangle=-60, showgrid=False),
        yaxis=dict(title="truth", autorange="reversed", showgrid=False))
    return figure


def confusion_figure(
    confusions: dict[str, Tensor],  # title -> (C,C) counts
    label_space: LabelSpace,
) -> plt.Figure:
    "Confusion matrices side by side, each row normalised to 100 %; rows without pixels are hatched."
    names = label_space.classes
    figure, axes = plt.subplots(1, len(confusions), figsize=(5.4 * len(confusions) + 1, 5.6), dpi=80, sharey=True,
                                squeeze=False,
                                layout="constrained")
    for axis, (title, confusion) in zip(axes[0], confusions.items()):
        percent = row_percent(confusion)
        picture = axis.imshow(np.ma.masked_invalid(percent), cmap="Blues", vmin=0, vmax=100)
        for row in np.flatnonzero(np.isnan(percent).all(1)):
            axis.add_patch(plt.Rectangle((-0.5, row - 0.5), len(names), 1, fill=False, hatch="////", edgecolor="0.75",
                                         linewidth=0))
        for t, p in zip(*np.nonzero(np.nan_to_num(percent) >= 20)):
            axis.text(p, t, f"{percent[t, p]:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if percent[t, p] > 55 else "black")
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set(title=title, xlabel="predicted")
    axes[0, 0].set_ylabel("truth")
    figure.colorbar(picture, ax=axes, shrink=0.6, label="% of the true class's pixels")
    return figure


def class_bars(
    metrics: Metrics,
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Share of pixels and IoU of each class, most frequent class first."
    n = metrics.confusion.sum(1).double().numpy()
    order = np.argsort(-n, kind="stable")
    names, colours = [label_space.classes[k] for k in order], [np.array(label_space.palette[k]) / 255 for k in order]
    figure, axes = plt.subplots(2, 1, figsize=(9, 3.9), dpi=80, sharex=True)
    axes[0].bar(names, 100 * n[order] / n.sum(), color=colours)
    axes[0].set(ylabel="% of pixels", title=f"pixel accuracy {metrics.pixel_accuracy:.1f} %: each pixel has a vote")
    axes[1].bar(names, [metrics.iou[c] for c in names], color=colours)
    axes[1].axhline(metrics.miou, color="black", linewidth=1, linestyle="--")
    axes[1].set(ylabel="IoU, %", ylim=(0, 100), title=f"mIoU {metrics.miou:.1f} %: each class has a vote")
    axes[1].set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
    figure.tight_layout()
    return figure


# What a pixel costs


def shift(
    labels: Tensor,  # (B,H,W)
    pixels: int,  # 0 or more, to the right
) -> Tensor:  # (B,H,W); the left edge is continued
    "Move a label map sideways."
    columns = (torch.arange(labels.shape[-1], device=labels.device) - pixels).clamp(min=0)
    return labels[..., columns]


def iou_after_shift(labels: Tensor, pixels: int, label_space: LabelSpace = CITYSCAPES) -> Tensor:  # (C,) in [0,1]
    "IoU of each class when the truth itself, moved sideways, is the prediction."
    moved = shift(labels, pixels)
    known = labels.masked_fill(moved == IGNORE, IGNORE)  # where the moved map has no label there is nothing to score
    return iou_per_class(confusion_counts(moved, known, label_space.num_classes).sum(0)[:-1, :-1])


def shift_figure(
    labels: Tensor,  # (B,H,W)
    class_names: Sequence[str],
    shifts: Sequence[int],  # pixels
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "IoU of a perfect prediction against its displacement."
    curves = torch.stack([iou_after_shift(labels, s, label_space) for s in shifts])
    figure, axis = plt.subplots(figsize=(7.5, 3), dpi=80)
    for name in class_names:
        k = label_space.index(name)
        axis.plot(list(shifts), (100 * curves[:, k]).tolist(), "o-", color=np.array(label_space.palette[k]) / 255,
                  label=name)
    axis.set(xlabel=f"shift, pixels (image width {labels.shape[-1]})", ylabel="IoU, %", ylim=(0, 103))
    axis.legend(frameon=False, ncol=2)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def shift_knob(scene: int = 5) -> None:
    "A slider that moves a perfect prediction sideways."
    scenes = predicted_scenes("sim", 32)
    one = PredictedScenes(*(t[scene:scene + 1] for t in scenes))

    def show(pixels, class_name):
        picture, iou = outcome_picture(one._replace(ids=shift(one.labels, pixels)), 0, class_name)
        plt.figure(figsize=(7, 3.7), dpi=80)
        plt.imshow(picture)
        plt.axis("off")
        plt.title(f"{class_name}, moved by {pixels} of {picture.shape[1]} pixels: IoU {iou:.0%}", fontsize=10)
        plt.show()

    present = [c for k, c in enumerate(CITYSCAPES.classes) if (one.labels == k).any()]
    ipywidgets.interact(show, pixels=ipywidgets.IntSlider(3, 0, 24, description="shift"),
                        class_name=ipywidgets.Dropdown(options=present, value=present[-1], description="class"))
