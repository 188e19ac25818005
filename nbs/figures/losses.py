"""Pictures for 06 Losses and 22 The released code."""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from IPython.display import Image as Picture
from IPython.display import display
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stal_nb.app.demo import demo_model
from stal_nb.labels import CITYSCAPES, IGNORE, Sample
from stal_nb.losses import hard_pixels, ohem_cross_entropy, pseudo_label_weights, pseudo_labels
from stal_nb.scenes import SceneDataset

# A scene and the prediction of the demo model


class View(NamedTuple):
    "A scene, and what the demo model predicts of it. The batch axis is kept, since the losses want it."

    sample: Sample
    labels: Tensor  # (1,H,W) the truth
    logits: Tensor  # (1,C,H,W)
    embeddings: Tensor  # (1,D,h,w), four times coarser


@lru_cache(maxsize=32)
def look(
    domain: str = "real",  # "real": the demo model has never seen such a street; "sim": it was trained on these
    index: int = 7,  # which scene
) -> View:
    "Let the demo model, trained on `sim`, look at a scene."
    sample = SceneDataset(domain, 40, size=(128, 256))[index]
    with torch.no_grad():
        output = demo_model()(sample.image[None])
    return View(sample, sample.labels[None], output.logits, output.embeddings)


# Panels

GREY = 170  # dropped pixels


def kept_picture(
    labels: Tensor,  # (H,W), 255 = dropped
) -> np.ndarray:  # (H,W,3) uint8
    "Class colours, with dropped pixels in grey."
    picture = CITYSCAPES.colorize(labels)
    picture[np.asarray(labels) == IGNORE] = GREY
    return picture


def spotlight(
    sample: Sample,
    mask: Tensor,  # (H,W) bool
) -> np.ndarray:  # (H,W,3)
    "The image, dark where the mask is False."
    return sample.image.permute(1, 2, 0).numpy() * np.where(mask.numpy(), 1, 0.2)[..., None]


def panels(
    # (title, picture) or (title, picture, colour map, lowest, highest); None leaves a place free
    pictures: Sequence[tuple],
    columns: int = 4,
    width: float = 12.0,  # of the figure, inches
) -> tuple[plt.Figure, np.ndarray]:  # figure, axes
    "Pictures in rows."
    rows = -(-len(pictures) // columns)
    cell = width / columns
    figure, axes = plt.subplots(rows, columns, figsize=(width, rows * (cell / 2 + 0.32)), dpi=80, squeeze=False,
                                layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, entry in zip(axes.flat, pictures):
        if entry is None:
            continue
        title, picture, *colours = entry
        if colours:
            palette = plt.get_cmap(colours[0]).copy()
            palette.set_bad((GREY / 255,) * 3)
            shown = axis.imshow(np.asarray(picture), cmap=palette, vmin=colours[1], vmax=colours[2])
            figure.colorbar(shown, ax=axis, fraction=0.024, pad=0.01).ax.tick_params(labelsize=7)
        else:
            axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    return figure, axes


def picture_of(figure: plt.Figure) -> np.ndarray:  # (H,W,3) uint8
    "A figure as it is saved, and closed."
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return np.asarray(Image.open(buffer).convert("RGB"))


def show(
    figure: plt.Figure,
    colours: int = 96,  # of the picture's palette
) -> None:
    "Show a figure inside a widget, as a small picture: it is stored in the notebook."
    small = io.BytesIO()
    Image.fromarray(picture_of(figure)).quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    display(Picture(small.getvalue()))


def chart(axis: plt.Axes) -> plt.Axes:
    "Turn a free place of `panels` into a chart."
    axis.axis("on")
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    return axis


# Hard pixels


def hard_figure(
    view: View,
    threshold: float = 0.7,  # pixels whose true class has less probability are hard
    share: float = 0.085,  # at least this share of the pixels is kept
) -> plt.Figure:
    "Which pixels of a labelled image OHEM keeps, and why."
    loss = F.cross_entropy(view.logits, view.labels, ignore_index=IGNORE, reduction="none")
    count = round(share * loss.numel())
    kept, valid = hard_pixels(loss, view.labels, threshold, count), view.labels != IGNORE
    mean, hard = loss[valid].mean(), ohem_cross_entropy(view.logits, view.labels, threshold, count)
    p = torch.exp(-loss)
    figure, axes = panels([
        ("image", view.sample.image.permute(1, 2, 0)),
        ("probability of the true class", p[0].where(valid[0], torch.nan), "viridis", 0, 1),
        (f"kept: {kept.sum() / valid.sum():.0%} of the labelled pixels", spotlight(view.sample, kept[0])), None])
    axis = chart(axes[0, 3])
    bins = np.linspace(0, 1, 41)
    axis.hist([p[kept].numpy(), p[valid & ~kept].numpy()], bins, stacked=True, color=["#d1495b", "#c9ccd1"],
              label=["kept", "not kept"])
    axis.axvline(threshold, color="black", linewidth=1, linestyle=":")
    axis.legend(fontsize=7, frameon=False, loc="upper center")
    axis.set_title(f"pixels by p; mean loss {mean:.2f}, of the kept {hard:.2f}", fontsize=9)
    return figure


# Pseudo-labels


def pseudo_figure(
    view: View,
    drop_percent: float = 20.0,  # d
    keep: str = "sure",  # see `pseudo_labels`
) -> plt.Figure:
    "The prediction of the teacher without the pixels it is least sure of, and whether leaving them out was right."
    pseudo = pseudo_labels(view.logits, drop_percent, keep)
    kept, counts = pseudo.labels != IGNORE, view.labels != IGNORE
    right = view.logits.argmax(1) == view.labels
    def share(mask):
        return f"{right[mask & counts].float().mean():.0%}" if (mask & counts).any() else "–"

    figure, axes = panels([
        ("the teacher's doubt", pseudo.entropy[0], "magma", 0, 1),
        (f"pseudo-labels, d = {drop_percent:g} %", kept_picture(pseudo.labels[0])),
        (f"right: {share(kept)} of the kept, {share(~kept)} of the dropped", verdict_picture(right & counts, kept)[0]),
        None])
    axis = chart(axes[0, 3])
    axis.hist([pseudo.entropy[kept].numpy(), pseudo.entropy[~kept].numpy()], np.linspace(0, 1, 41), stacked=True,
              color=["#30638e", "#aaaaaa"], label=["kept", "dropped"])
    axis.axvline(float(pseudo.threshold), color="black", linewidth=1, linestyle=":")
    axis.legend(fontsize=7, frameon=False)
    axis.set_title(f"pixels by entropy; the line: {float(pseudo.threshold):.2f}", fontsize=9)
    return figure


def verdict_picture(right: Tensor, kept: Tensor) -> np.ndarray:  # (B,H,W,3) uint8
    "Kept and right: blue; kept and wrong: red; dropped: grey."
    picture = np.full((*right.shape, 3), GREY, np.uint8)
    picture[(right & kept).numpy()] = (48, 99, 142)
    picture[(~right & kept).numpy()] = (209, 73, 91)
    return picture


def worth_of_doubt_figure(
    views: Sequence[View],
) -> plt.Figure:
    "How often kept and dropped pseudo-labels are right, by the share that is dropped."
    logits, labels = torch.cat([v.logits for v in views]), torch.cat([v.labels for v in views])
    right, counts = logits.argmax(1) == labels, labels != IGNORE
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.7), dpi=80, sharey=True, layout="constrained")
    drops = np.arange(0, 91, 5)
    for axis, keep, title in zip(axes, ("sure", "unsure"),
                                 ('keep="sure": drop the highest entropy', 'keep="unsure": drop the lowest')):
        kept = [pseudo_labels(logits, float(d), keep).labels != IGNORE for d in drops]
        for masks, colour, name in ((kept, "#30638e", "kept"), ([~k for k in kept], "#999999", "dropped")):
            axis.plot(drops, [100 * right[m & counts].float().mean() for m in masks], color=colour, label=name,
                      marker=".", markersize=4)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("d, percent of the pixels dropped", fontsize=8)
        chart(axis)
    axes[0].set_ylabel("right, % of them", fontsize=8)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


# Weights


def weights_figure(
    view: View,
    gamma: float = 2.0,  # γ
    drop_percent: float = 20.0,  # d
) -> plt.Figure:
    "How much each pixel counts in L_u."
    pseudo = pseudo_labels(view.logits, drop_percent)
    weight, kept = pseudo_label_weights(pseudo, gamma), pseudo.labels != IGNORE
    relative = weight * kept.sum()
    right = (view.logits.argmax(1) == view.labels) & kept
    figure, axes = panels([
        ("confidence of the kept pixels", pseudo.confidence[0].where(kept[0], torch.nan), "viridis", 0, 1),
        (f"weight, γ = {gamma:g} (mean = 1)", relative[0].where(kept[0], torch.nan), "viridis", 0, 2),
        (f"right: {right.sum() / kept.sum():.0%} of the kept, {weight[right].sum():.0%} of the weight",
         verdict_picture(right, kept)[0]),
        None])
    axis = chart(axes[0, 3])
    confidence = torch.linspace(0.1, 1, 100)
    axis.plot(confidence, confidence**gamma / (pseudo.confidence[kept] ** gamma).mean(), color="#30638e")
    axis.set(xlim=(0, 1), ylim=(0, 3))
    axis.set_title("weight by confidence", fontsize=9)
    return figure


def thinning_figure(
    view: View,
    class_rate: Tensor,  # (C,)
    seed: int = 0,
) -> plt.Figure:
    "Which pixels class-rate thinning leaves."
    pseudo = pseudo_labels(view.logits, 20)
    part = pseudo_label_weights(pseudo, class_rate=class_rate, generator=torch.Generator().manual_seed(seed)) > 0
    kept = pseudo.labels != IGNORE
    figure, axes = panels([
        (f"kept by the entropy filter: {kept.float().mean():.0%}", kept_picture(pseudo.labels[0])),
        (f"drawn with probability r_c: {part.float().mean():.0%}",
         kept_picture(pseudo.labels.masked_fill(~part, IGNORE)[0])),
        None], columns=3)
    axis = chart(axes[0, 2])
    present = [c for c in range(19) if (pseudo.labels == c).sum() > 20]
    colours = [np.array(CITYSCAPES.palette[c]) / 255 for c in present]
    axis.barh(range(len(present)), [float(class_rate[c]) for c in present], color=colours)
    axis.plot([float(part[pseudo.labels == c].float().mean()) for c in present], range(len(present)), "k|",
              markersize=9)
    axis.set_yticks(range(len(present)), [CITYSCAPES.classes[c] for c in present], fontsize=7)
    axis.invert_yaxis()
    axis.set_title("r_c (bar) and the share that was drawn (line)", fontsize=9)
    return figure
