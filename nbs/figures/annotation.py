"""Pictures for 11 Annotation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from torch import Tensor

from stal_nb.annotation import OracleAnnotator, annotation_seconds, boundary_map
from stal_nb.app.annotator import Annotator
from stal_nb.labels import CITYSCAPES, IGNORE, LabelSpace, Sample
from stal_nb.metrics import SegmentationMetrics

# Pictures


def _show(axis: plt.Axes, picture: Any, title: str, **options: Any) -> None:
    axis.imshow(picture, **options)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def _picture(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def faded(
    image: Tensor,  # (3, H, W) in [0, 1]
    mask: Tensor,  # (H, W) bool: pixels that get a colour
    colours: np.ndarray,  # (H, W, 3) uint8
) -> np.ndarray:  # (H, W, 3) in [0, 1]
    "A pale grey image with some pixels in colour."
    grey = image.mean(0).numpy()[..., None].repeat(3, 2) * 0.35 + 0.6
    return np.where(mask.numpy()[..., None], colours / 255, grey)


def class_shares_of_boundary(
    samples: Sequence[Sample],
    label_space: LabelSpace,
) -> tuple[np.ndarray, np.ndarray]:  # (C,) share of pixels, (C,) share of boundary; each sums to 1
    """How much of the pixels, and how much of the boundary, each class has. A boundary belongs half to the class on
    either side."""
    pixels, edges = np.zeros(256), np.zeros(256)
    for sample in samples:
        ids = sample.labels.numpy()
        pixels += np.bincount(ids.ravel(), minlength=256)
        for a, b in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
            edges += np.bincount(a[a != b], minlength=256) + np.bincount(b[a != b], minlength=256)
    pixels, edges = pixels[: label_space.num_classes], edges[: label_space.num_classes]
    return pixels / max(pixels.sum(), 1), edges / max(edges.sum(), 1)


def boundary_figure(
    sample: Sample,
    samples: Sequence[Sample],  # for the shares
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Where a person's time goes: the boundaries of one image, and the classes that own the boundaries of many."
    figure = plt.figure(figsize=(11, 5), dpi=80, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    axes = top.subplots(1, 3)
    edges = boundary_map(sample.labels)
    _show(axes[0], _picture(sample.image), "the image")
    _show(axes[1], label_space.colorize(sample.labels), "what a person has to draw")
    _show(axes[2], faded(sample.image, edges, label_space.colorize(sample.labels)),
          f"pixels at a boundary: {edges.float().mean():.0%}")
    pixels, shares = class_shares_of_boundary(samples, label_space)
    order = np.argsort(-(shares / np.maximum(pixels, 1e-6)))
    order = order[pixels[order] > 0]
    axis = bottom.subplots()
    place = np.arange(len(order))
    axis.bar(place - 0.2, 100 * pixels[order], 0.38, color="#c8c8c8", label="share of the pixels")
    axis.bar(place + 0.2, 100 * shares[order], 0.38, color=np.array(label_space.palette)[order] / 255,
             edgecolor="black", linewidth=0.6)
    axis.bar(0, 0, color="white", edgecolor="black", linewidth=0.6,
             label="share of the boundary (in the colour of the class)")
    axis.set_xticks(place, [label_space.classes[k] for k in order], rotation=40, ha="right", fontsize=9)
    axis.set_ylabel("per cent")
    axis.set_title(f"{len(samples)} images, dearest class first (boundary per pixel)", fontsize=9)
    axis.legend(frameon=False, loc="upper center")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def corrections(
    prediction: Tensor,  # (H, W) ids
    labels: Tensor,  # (H, W) ids, 255 = unlabelled
) -> Tensor:  # (H, W) bool
    "Labelled pixels whose label differs from the prediction: what the label teaches."
    return (prediction != labels) & (labels != IGNORE)


def corrections_figure(
    samples: Sequence[Sample],  # with the acquired labels
    predictions: Sequence[Tensor],  # (H, W) ids each
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Image, prediction, label, and the pixels that the label corrects, one row an image."
    height, width = samples[0].labels.shape
    tall = 3 * height / width + 0.25
    figure, axes = plt.subplots(len(samples), 4, figsize=(12, len(samples) * tall), dpi=80, squeeze=False,
                                layout="constrained")
    for row, sample, prediction in zip(axes, samples, predictions):
        wrong = corrections(prediction, sample.labels)
        _show(row[0], _picture(sample.image), sample.id)
        _show(row[1], label_space.colorize(prediction), "prediction")
        _show(row[2], label_space.colorize(sample.labels), "label")
        _show(row[3], faded(sample.image, wrong, label_space.colorize(sample.labels)),
              f"what it corrects: {wrong.float().mean():.0%}")
    return figure


def score_labels(
    annotator: Annotator,
    oracle: OracleAnnotator,
    predictions: Mapping[str, Tensor],  # id -> (H, W) ids that the person started from
) -> list[dict]:  # id, labelled (% of pixels), agreement and of the model (mIoU), minutes, by the cost model (minutes)
    "What a person has saved, against the truth."
    rows = []
    for id in [id for id in annotator.ids if annotator.store.has(id)]:
        truth, cost = oracle.answer(id, prediction=predictions[id])
        labels, seconds = annotator.label(id)
        scores = []
        for answer in (labels, predictions[id]):
            metrics = SegmentationMetrics(annotator.store.label_space)
            metrics.update(answer.where(labels != IGNORE, 0)[None], truth.where(labels != IGNORE, IGNORE)[None])
            scores.append(metrics.compute().miou)
        rows.append({"id": id, "labelled": 100 * (labels != IGNORE).float().mean().item(), "agreement": scores[0],
                     "of the model": scores[1],
                     "minutes": seconds / 60, "by the cost model": cost.seconds / 60})
    return rows


def loss_figure(
    sample: Sample,
    probs: Tensor,  # (C, H, W)
) -> plt.Figure:
    "Loss of each pixel on the model's own answer and on the label, in one scale."
    own = -probs.amax(0).clamp(min=1e-9).log()
    loss = (
        -probs.gather(0, sample.labels.clamp(max=len(probs) - 1)[None])[0]
        .clamp(min=1e-9)
        .log()
        .where(sample.labels != IGNORE, 0)
    )
    height, width = loss.shape
    figure, axes = plt.subplots(1, 3, figsize=(12, 4 * height / width + 0.3), dpi=80, layout="constrained")
    _show(axes[0], _picture(sample.image), "the image")
    _show(axes[1], own, f"loss on the model's own answer: {own.mean():.2f}", cmap="viridis", vmin=0, vmax=5)
    shown = axes[2].imshow(loss, cmap="viridis", vmin=0, vmax=5)
    axes[2].set_title(f"loss on the label: {loss.mean():.2f}", fontsize=9)
    axes[2].axis("off")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="loss (5 and more)")
    return figure


def region_figure(
    sample: Sample,
    uncertainty: Tensor,  # (H, W) in [0, 1]
    mask: Tensor,  # (H, W) bool: what is queried
    labels: Tensor,  # (H, W) ids, 255 outside
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Where the model is unsure, what is queried, and the answer."
    height, width = mask.shape
    figure, axes = plt.subplots(1, 3, figsize=(12, 4 * height / width + 0.3), dpi=80, layout="constrained")
    _show(axes[0], uncertainty, "uncertainty", cmap="magma", vmin=0, vmax=1)
    _show(axes[1], _picture(sample.image) * np.where(mask.numpy(), 1, 0.25)[..., None],
          f"queried: {mask.float().mean():.1%} of the pixels")
    _show(axes[2], faded(sample.image, labels != IGNORE, label_space.colorize(labels)), "acquired")
    return figure


def noise_figure(
    image: Tensor,  # (3, H, W)
    truth: Tensor,  # (H, W) ids
    noisy: Mapping[str, Tensor],  # title -> (H, W) ids
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Labels with faults, and where they differ from the truth."
    height, width = truth.shape
    columns, tall = len(noisy) + 1, 3.6 * height / width + 0.25
    figure, axes = plt.subplots(2, columns, figsize=(3.6 * columns, 2 * tall), dpi=80, layout="constrained")
    _show(axes[0, 0], label_space.colorize(truth), "the truth")
    _show(axes[1, 0], _picture(image), "the image")
    for column, (title, labels) in zip(axes.T[1:], noisy.items()):
        wrong = corrections(truth, labels)
        _show(column[0], label_space.colorize(labels), title)
        _show(column[1], faded(image, wrong, label_space.colorize(labels)),
              f"wrong: {wrong.float().mean():.1%} of the pixels")
    return figure


def cost_figure(
    samples: Sequence[Sample],
) -> plt.Figure:
    "Minutes that the cost model gives to each image, and to the whole set in order."
    minutes = np.array([annotation_seconds(sample.labels) / 60 for sample in samples])
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.7), dpi=80, width_ratios=(1.1, 1, 1), layout="constrained")
    axes[0].hist(minutes, bins=15, color="#9e9e9e")
    axes[0].set(xlabel="minutes for an image", ylabel="images")
    axes[0].set_title(f"{len(samples)} images: {minutes.mean():.0f} minutes on average", fontsize=9)
    axes[0].spines[["top", "right"]].set_visible(False)
    for axis, k, word in zip(axes[1:], (int(minutes.argmin()), int(minutes.argmax())), ("cheapest", "dearest")):
        _show(axis, _picture(samples[k].image), f"{word}: {minutes[k]:.0f} minutes")
    return figure
