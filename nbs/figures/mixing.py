"""Pictures for 08 Mixing."""

from functools import lru_cache

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from stal_nb.augmentation import paste_augment
from stal_nb.labels import CITYSCAPES, IGNORE, LabelSpace
from stal_nb.mixing import class_boxes, connected_regions, copy_paste, count_in_cells, cutmix
from stal_nb.scenes import SceneDataset

# Panels
#
# Most pictures of the notebook are rows of images, label maps and masks, some with a box drawn into them. One function
# draws them all: it tells by type and shape what a tensor is.


def picture_of(
    # (3,H,W) float image, (H,W) bool mask, (H,W) integer labels, or a finished (H,W,3) picture
    value: Tensor | np.ndarray,
    label_space: LabelSpace = CITYSCAPES,
) -> np.ndarray:  # (H,W) or (H,W,3), ready for `imshow`
    "Images as they are, labels in class colours with 255 in grey, masks in black and white."
    if isinstance(value, np.ndarray):
        return value
    if value.dtype == torch.bool:
        return np.where(value.numpy()[..., None], 255, 40).astype(np.uint8).repeat(3, -1)
    if value.ndim == 3:
        return value.float().permute(1, 2, 0).clamp(0, 1).numpy()
    picture = label_space.colorize(value)
    picture[value.numpy() == IGNORE] = 170
    return picture


def panels(
    *rows: list[tuple],  # each row a list of (title, tensor) or (title, tensor, box (4,) y0, x0, y1, x1)
    width: float = 10.0,  # of the figure, inches
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Rows of pictures with titles; a box is drawn as a white line on a black one, so that it shows on any ground."
    columns = max(map(len, rows))
    tallest = [max(picture_of(cell[1]).shape[0] / picture_of(cell[1]).shape[1] for cell in row) for row in rows]
    heights = [width / columns * t + (0.3 if any(cell[0] for cell in row) else 0.05) for t, row in zip(tallest, rows)]
    figure, axes = plt.subplots(len(rows), columns, figsize=(width, sum(heights)), dpi=80, squeeze=False,
                                gridspec_kw=dict(height_ratios=tallest))
    for axis in axes.flat:
        axis.axis("off")
    for row, line in zip(rows, axes):
        for (title, value, *box), axis in zip(row, line):
            axis.imshow(picture_of(value, label_space), interpolation="nearest")
            axis.set_title(title, fontsize=9)
            if box and box[0] is not None:
                y0, x0, y1, x1 = (float(v) - 0.5 for v in box[0])
                for colour, thickness in (("black", 3.5), ("white", 1.8)):
                    axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour,
                                                 linewidth=thickness))
    figure.tight_layout()
    return figure


# One example of each mixing
#
# Scenes known to show a rare class, so that there is something to paste and to cut. Every tensor comes from the
# library's functions.


@lru_cache(maxsize=64)  # several pictures look for the same
def scene_with(domain: str, class_id: int, start: int = 0, pixels: int = 400, size: tuple[int, int] = (128, 256)):
    "The first scene from number `start` on with at least `pixels` pixels of a class."
    scenes = SceneDataset(domain, start + 500, size=size)
    return next(s for s in (scenes[i] for i in range(start, start + 500))
                if int((s.labels == class_id).sum()) >= pixels)


def example_copy_paste(
    class_names: tuple[str, ...] = ("rider", "bicycle"),  # pasted if the other image has them; the first it surely has
    scale: float = 1.0,  # resize of the pasted image
    seed: int = 0,  # which images
) -> dict[str, Tensor]:
    "A labelled image, another one at `scale`, and the first with the classes of the other pasted in."
    base = SceneDataset("sim", 1000)[500 + 7 * seed]
    other = scene_with("sim", CITYSCAPES.index(class_names[0]), 40 * seed)
    generator = torch.Generator().manual_seed(seed)
    paste_image, paste_labels = paste_augment(other.image, other.labels, base.labels.shape, generator,
                                              scale=(scale, scale))
    classes = torch.zeros(1, CITYSCAPES.num_classes, dtype=torch.bool)
    classes[0, [CITYSCAPES.index(name) for name in class_names]] = True
    image, labels = copy_paste(base.image[None], base.labels[None], paste_image[None], paste_labels[None], classes)
    return dict(base_image=base.image, base_labels=base.labels, paste_image=paste_image, paste_labels=paste_labels,
                classes=classes,
                image=image[0], labels=labels[0])


def example_cutmix(class_name: str = "bicycle", min_size: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """An unlabelled image, a partner that shows a class, the box around one region of it, and the mix. True labels
    stand in for predictions."""
    base = SceneDataset("real", 1000)[700 + 7 * seed]
    other = scene_with("real", CITYSCAPES.index(class_name), 40 * seed, pixels=150)
    wanted = torch.tensor([CITYSCAPES.index(class_name)])
    boxes = class_boxes(other.labels[None], wanted, torch.Generator().manual_seed(seed), min_size=min_size)
    image, labels = cutmix(boxes, (base.image[None], other.image[None]), (base.labels[None], other.labels[None]))
    return dict(base_image=base.image, base_labels=base.labels, other_image=other.image, other_labels=other.labels,
                box=boxes[0],
                image=image[0], labels=labels[0])


def copy_paste_figure(example: dict[str, Tensor]) -> plt.Figure:
    "Before, what comes in, after; images above, labels below."
    titles = (("labelled image", "the other image, resized", "after copy-paste"),
              ("its labels", "its labels", "after copy-paste"))
    keys = ("base_image", "paste_image", "image"), ("base_labels", "paste_labels", "labels")
    return panels(*([(title, example[key]) for title, key in zip(*row)] for row in zip(titles, keys)))


def cutmix_figure(example: dict[str, Tensor]) -> plt.Figure:
    "Before, what comes in, after; images above, labels below; the box where it is cut."
    titles = (("unlabelled image", "its partner, with the box", "after CutMix"),
              ("its pseudo-labels", "the partner's", "after CutMix"))
    keys = ("base_image", "other_image", "image"), ("base_labels", "other_labels", "labels")
    boxes = None, example["box"], None
    return panels(*([(title, example[key], box) for title, key, box in zip(*row, boxes)] for row in zip(titles, keys)))


# Regions


def spiral(height: int, width: int) -> Tensor:  # (height, width) bool
    "One long path that winds inwards, one cell wide: the hardest region for anything that spreads step by step."
    mask = torch.zeros(height, width, dtype=torch.bool)
    y, x, dy, dx, turns = 0, 0, 0, 1, 0
    mask[0, 0] = True

    def free(y: int, x: int) -> bool:
        return not (0 <= y < height and 0 <= x < width) or not mask[y, x]

    while turns < 3:
        inside = 0 <= y + dy < height and 0 <= x + dx < width
        if inside and not mask[y + dy, x + dx] and free(y + 2 * dy, x + 2 * dx):
            y, x, turns = y + dy, x + dx, 0
            mask[y, x] = True
        else:
            dy, dx, turns = dx, -dy, turns + 1
    return mask


def regions_picture(
    regions: Tensor,  # (h,w) int64, 0 = background
) -> np.ndarray:  # (h,w,3) uint8
    "Each region number in a colour of its own; background dark."
    numbers = regions.numpy()
    present, ranks = np.unique(numbers, return_inverse=True)
    if len(present) <= 16:  # few regions: hues far apart
        numbers = ranks.reshape(numbers.shape) + (present[0] > 0)
    golden = np.modf(numbers * 0.6180339887)[0]
    picture = (plt.get_cmap("hsv")(golden)[..., :3] * (170 + 85 * np.modf(numbers * 0.381966)[0])[..., None]).astype(
        np.uint8
    )
    picture[numbers == 0] = 40
    return picture


def rounds_figure(
    masks: dict[str, Tensor],  # title -> (h,w) bool
    rounds: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
) -> plt.Figure:
    "The region numbers of `connected_regions` after a growing number of rounds."
    rows = []
    for title, mask in masks.items():
        cells = []
        for k in rounds:
            regions = connected_regions(mask[None], rounds=k)[0]
            count = len(torch.unique(regions[mask]))
            name = f"{title}, round {k}" if k == rounds[0] else f"round {k}"
            cells.append((f"{name}: {count} number{'s' * (count != 1)}", regions_picture(regions)))
        rows.append(cells)
    return panels(*rows, width=13)


def cells_figure(labels: Tensor, class_id: int, stride: int, window: tuple[slice, slice]) -> plt.Figure:
    "A class in pixels; in cells that count its pixels; in cells that look at one pixel each."
    counts = count_in_cells(labels[None], torch.tensor([class_id]), stride)[0]
    sampled = labels[::stride, ::stride] == class_id
    fine = labels[window] == class_id
    coarse = tuple(slice(w.start // stride, w.stop // stride) for w in window)
    shade = (plt.get_cmap("gray")(0.15 + 0.85 * (counts[coarse] / stride**2).numpy())[..., :3] * 255).astype(np.uint8)
    return panels([("pixels of the class", fine), (f"pixels of it in each {stride} × {stride} cell", shade),
                   ("cells with any", counts[coarse] > 0), ("one pixel looked at a cell", sampled[coarse])], width=13)


# Tables and shares


def table_figure(
    snapshots: dict[str, Tensor],  # title -> (images, C) bool
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "The class × image table at several moments: a filled square = the image is known to show the class."
    figure, axes = plt.subplots(1, len(snapshots), figsize=(13, 3.6), dpi=80, sharey=True)
    colours = np.array(label_space.palette, np.uint8)
    for axis, (title, present) in zip(axes, snapshots.items()):
        axis.imshow(np.where(present.T.numpy()[..., None], colours[:, None], np.uint8(245)), aspect="auto",
                    interpolation="nearest")
        axis.set_title(f"{title}: {int(present.sum())} entries", fontsize=10)
        axis.set_xlabel("image")
    axes[0].set_yticks(range(label_space.num_classes), label_space.classes, fontsize=7)
    figure.tight_layout()
    return figure


def partner_odds(
    present: Tensor,  # (images, C) bool: a table's `present`
    probs: Tensor,  # (C,) probability of each class to be drawn, sums to 1
) -> Tensor:  # (images,) sums to 1
    """Probability of each image to be drawn as partner: a class by `probs`, then evenly one of the images known to show
    it, or any if none is."""
    known = present.T.to(probs.dtype)
    known = torch.where(known.any(1, keepdim=True), known, 1.0)
    return probs @ (known / known.sum(1, keepdim=True))


def odds_figure(
    tables: dict[str, Tensor],  # title -> (images, C) bool
    positions: dict[str, Tensor],  # name of a way to draw classes -> (C,) probabilities
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Tables, and below each the odds of every image to become a partner, for each way to draw classes."
    heights = [19, *[6] * len(positions)]
    figure, axes = plt.subplots(len(heights), len(tables), figsize=(6.4 * len(tables), 2.6 + 0.95 * len(positions)),
                                dpi=80, sharex="col",
                                sharey="row", squeeze=False, gridspec_kw=dict(height_ratios=heights),
                                layout="constrained")
    colours = np.array(label_space.palette, np.uint8)
    for column, (title, present) in zip(axes.T, tables.items()):
        column[0].imshow(np.where(present.T.numpy()[..., None], colours[:, None], np.uint8(245)), aspect="auto",
                         interpolation="nearest")
        column[0].set_title(f"{title}: {int(present.sum())} entries", fontsize=10)
        for axis, (name, probs) in zip(column[1:], positions.items()):
            axis.bar(range(len(present)), 100 * partner_odds(present, probs), color="0.35", width=0.9)
            axis.axhline(100 / len(present), color="#d95f02", linewidth=1)
            axis.text(0.005, 0.95, f"partner, % (classes: {name})", transform=axis.transAxes, fontsize=8, va="top")
            axis.spines[["top", "right"]].set_visible(False)
            axis.margins(y=0.35)
        column[-1].set_xlabel("image")
    axes[0, 0].set_yticks(range(label_space.num_classes), label_space.classes, fontsize=7)
    return figure


def batch_figure(
    # method -> image, labels, mixed image, mixed labels and, for CutMix, boxes (B,4)
    batch: dict[str, tuple[Tensor, ...]],
    width: float = 9.0,
) -> plt.Figure:
    """Four rows a method, an image in each column: before, its labels, after, its labels. White lines: the boxes that
    were cut."""
    rows: list[list[tuple]] = []
    for method, (image, labels, mixed, mixed_labels, *boxes) in batch.items():
        four: list[list[tuple]] = [[], [], [], []]
        for k in range(len(image)):
            box = boxes[0][k] if boxes and boxes[0][k].any() else None
            four[0].append((f"{method} {k + 1}", image[k]))
            four[1].append(("", labels[k]))
            four[2].append(("after", mixed[k], box))
            four[3].append(("", mixed_labels[k], box))
        rows += four
    return panels(*rows, width=width)


def lift_figure(
    shown: dict[str, Tensor],  # title -> (2,C) shares in [0,1], before and after
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    """How many times as often each class is shown after mixing, the rarest class on top; one column a title, one axis
    for all."""
    figure, axes = plt.subplots(1, len(shown), figsize=(13, 3.9), dpi=80, sharey=True, sharex=True, squeeze=False,
                                layout="constrained")
    order = next(iter(shown.values()))[0].argsort(descending=True)
    rows, colours = np.arange(len(order)), np.array(label_space.palette)[order] / 255
    for axis, (title, (before, after)) in zip(axes[0], shown.items()):
        factor = (after / before)[order]
        axis.barh(rows, factor - 1, left=1, color=colours, height=0.75)
        axis.axvline(1, color="0.3", linewidth=1)
        for row, f in zip(rows, factor.tolist()):
            if f > 1.05:
                axis.text(f * 1.03, row, f"{f:.1f}", va="center", fontsize=7)
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 5, 10], ["× 1", "× 2", "× 5", "× 10"])
        axis.minorticks_off()
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(rows, [label_space.classes[k] for k in order], fontsize=7)
    return figure


def sampling_figure(confidence: Tensor, probs: Tensor, drawn: Tensor,
                    label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "Confidence of each class, its sampling probability, and how often it was drawn."
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), dpi=80, sharey=True)
    order, rows = confidence.argsort(descending=True), np.arange(len(probs))
    colours = np.array(label_space.palette)[order] / 255
    axes[0].barh(rows, confidence[order], color=colours)
    axes[0].set_yticks(rows, [label_space.classes[k] for k in order], fontsize=7)
    axes[0].set_title("Conf: mean probability of the right class", fontsize=10)
    axes[1].barh(rows, probs[order], color=colours)
    axes[1].plot(drawn[order], rows, "k.", markersize=5)
    axes[1].axvline(1 / len(probs), color="0.4", linewidth=1, linestyle=":")
    axes[1].set_title("s: sampling probability (dots: share of draws; dotted: all equal)", fontsize=10)
    axes[0].invert_yaxis()
    figure.tight_layout()
    return figure


def frequency_figure(
    shares: dict[str, Tensor],  # title -> (2,C) shares in [0, 1], before and after
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Shares of the classes before (grey) and after (class colour) on a logarithmic axis, with the factor between them."
    figure, axes = plt.subplots(1, len(shares), figsize=(14, 4.8), dpi=80, sharey=True)
    order = next(iter(shares.values()))[0].argsort(descending=True)
    rows = np.arange(len(order))
    colours = np.array(label_space.palette)[order] / 255
    for axis, (title, (before, after)) in zip(axes, shares.items()):
        axis.barh(rows - 0.2, 100 * before[order], 0.38, color="0.72", label="before")
        axis.barh(rows + 0.2, 100 * after[order], 0.38, color=colours)
        axis.set_xscale("log")
        axis.set_xlim(0.05, 700)
        axis.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axis.set_xlabel("%")
        axis.set_title(title, fontsize=10)
        for row, k in zip(rows, order):
            factor = after[k] / before[k]
            weight = "bold" if factor > 1.15 else "normal"
            axis.text(100 * max(before[k], after[k]) * 1.15, row, f"× {factor:.1f}", va="center", fontsize=7,
                      weight=weight)
    axes[0].set_yticks(rows, [label_space.classes[k] for k in order], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False, loc="lower right", fontsize=8)
    figure.tight_layout()
    return figure


# The seam


def distance_to_box(
    boxes: Tensor,  # (B,4) y0, x0, y1, x1
    height: int,
    width: int,
) -> Tensor:  # (B,H,W) int64; 0, 1, 2 … inside counted from the edge, -1, -2 … outside
    "How many pixels each pixel is from the edge of its image's box, along the nearer axis."
    y, x = torch.arange(height, device=boxes.device)[:, None], torch.arange(width, device=boxes.device)
    y0, x0, y1, x1 = boxes.T[:, :, None, None]
    return torch.minimum(torch.minimum(y - y0, y1 - 1 - y), torch.minimum(x - x0, x1 - 1 - x))


def by_distance(
    agree: Tensor,  # (B,H,W) bool
    distance: Tensor,  # (B,H,W) from `distance_to_box`
    reach: int = 24,  # pixels on either side of the edge
) -> tuple[Tensor, Tensor]:  # distances (2 reach,), share of `agree` at each
    "Mean of `agree` at every distance from the edge."
    near = (distance >= -reach) & (distance < reach)
    slot = torch.where(near, distance + reach, 2 * reach).flatten()
    total = torch.zeros(2 * reach + 1).scatter_add_(0, slot, torch.ones(slot.shape))
    hits = torch.zeros(2 * reach + 1).scatter_add_(0, slot, agree.flatten().float())
    return torch.arange(-reach, reach), (hits / total.clamp(min=1))[:-1]


def context_figure(
    curves: dict[str, tuple[Tensor, Tensor]],  # title -> (distances, share)
) -> plt.Figure:
    "Agreement as a function of the distance from the seam."
    figure, axis = plt.subplots(figsize=(8, 3), dpi=80)
    for (title, (distance, share)), style in zip(curves.items(), ("-", "--", ":")):
        axis.plot(distance + 0.5, 100 * share, style, color="black", label=title)
    axis.axvline(0, color="0.6", linewidth=1)
    low, high = axis.get_ylim()
    axis.text(-0.7, low + 0.04 * (high - low), "base image ", ha="right", fontsize=9)
    axis.text(0.7, low + 0.04 * (high - low), " box", fontsize=9)
    axis.set(xlabel="pixels from the seam", ylabel="% of the pixels")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure
