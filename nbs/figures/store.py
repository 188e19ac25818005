"""Pictures for runtime/store and runtime/files."""

import json
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from stal_nb.labels import CITYSCAPES, IGNORE, LabelSpace, Sample
from stal_nb.store import LabelStore, encode_label

# Labels to look at

UNLABELLED_GREY = 170


def label_picture(
    labels: Tensor | np.ndarray,  # (H, W) ids, 255 = unlabelled
    label_space: LabelSpace = CITYSCAPES,
) -> np.ndarray:  # (H, W, 3) uint8
    "Class colours; unlabelled pixels are grey."
    ids = np.asarray(labels)
    return np.where((ids == IGNORE)[..., None], np.uint8(UNLABELLED_GREY), label_space.colorize(ids))


def half_done(
    sample: Sample,
    share: float = 0.55,  # of the pixels; classes are labelled from the largest on, until there are as many
) -> Tensor:  # (H, W) int64, 255 = unlabelled
    "A label that a person has begun: the large things first."
    counts = torch.bincount(sample.labels.flatten(), minlength=256)[:IGNORE]
    order = counts.argsort(descending=True, stable=True)
    done = order[: int((counts[order].cumsum(0) < share * sample.labels.numel()).sum()) + 1]
    return torch.where(torch.isin(sample.labels, done), sample.labels, IGNORE)


def label_files(
    sample: Sample,
) -> tuple[bytes, bytes]:  # PNGs: the label half done (old), and finished (new)
    "Two versions of a label, as they are stored."
    old, new = (encode_label(ids.to(torch.uint8).numpy(), json.dumps({"id": sample.id, "version": v}))
                for v, ids in ((1, half_done(sample)), (2, sample.labels)))
    return old, new


def show_stored(
    image: Tensor,  # (3, H, W) in [0, 1]
    labels: Tensor,  # (H, W) ids, 255 = unlabelled
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "An image, its label as an image viewer shows the file, the same in class colours, and a corner of the numbers."
    figure, axes = plt.subplots(1, 4, figsize=(13, 2.1), dpi=80, width_ratios=(2, 2, 2, 1.5))
    raw = labels.to(torch.uint8)[..., None].expand(-1, -1, 3).numpy()
    pictures = (image.permute(1, 2, 0).numpy(), raw, label_picture(labels, label_space))
    height, width = labels.shape
    row, column, size = _busiest(labels, 6)
    for axis, picture, title in zip(axes, pictures, ("image", "the file in an image viewer",
                                                     "in class colours; grey: unlabelled (255)")):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
        axis.add_patch(plt.Rectangle((column - 2, row - 2), size + 4, size + 4, fill=False, color="white",
                                     linewidth=1.2))
        axis.axis("off")
    corner = labels[row : row + size, column : column + size]
    colours = label_picture(corner, label_space)
    axes[3].imshow(colours)
    for (y, x), value in np.ndenumerate(corner.numpy()):
        axes[3].text(x, y, str(value), ha="center", va="center", fontsize=8,
                     color="white" if colours[y, x].mean() < 140 else "black")
    axes[3].set_title(f"the numbers in the square ({size} × {size})", fontsize=9)
    axes[3].axis("off")
    figure.tight_layout()
    return figure


def _busiest(labels: Tensor, size: int) -> tuple[int, int, int]:
    "Where a square holds most different ids, and its size."
    squares = labels.unfold(0, size, size).unfold(1, size, size).flatten(2).sort(-1).values
    kinds = (squares.diff(dim=-1) != 0).sum(-1) + 0.5 * (squares == IGNORE).any(-1)
    row, column = divmod(int(kinds.argmax()), kinds.shape[1])
    return row * size, column * size, size


def folder_listing(
    root: str | Path,
) -> str:  # one line a file
    "The files of a folder with their sizes, indented by folder."
    root = Path(root)
    lines = [f"{root.name}/"]
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).parts):
        indent = "    " * len(path.relative_to(root).parts)
        lines.append(f"{indent}{path.name}/" if path.is_dir()
                     else f"{indent + path.name:<44} {path.stat().st_size:>7,} bytes")
    return "\n".join(lines)

COLOURS = {"old": "#c3d3e6", "new": "#33689e"}  # everything else is bad


# Growth


def show_versions(
    store: LabelStore,
    id: str,  # of an image
) -> plt.Figure:
    "Every kept version of a label, oldest first."
    records = [r for r in store.versions(id) if r["kept"]]
    figure, axes = plt.subplots(1, len(records), figsize=(4 * len(records), 2.4), dpi=80, squeeze=False)
    for axis, record in zip(axes[0], records):
        axis.imshow(label_picture(store.load(id, record["version"]), store.label_space))
        restored = f", restored from {record['restored']}" if "restored" in record else ""
        axis.set_title(f"version {record['version']}: {record['annotator']}{restored}", fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    return figure


def show_shelf(
    store: LabelStore,
) -> plt.Figure:
    "The labels of a store, one row a round, with the seconds they took."
    rounds: dict[int, list[dict]] = {}
    for record in store.history():
        rounds.setdefault(record.get("round", 0), []).append(record)
    columns = max(map(len, rounds.values()))
    figure, axes = plt.subplots(len(rounds), columns, figsize=(2.5 * columns, 1.5 * len(rounds)), dpi=80, squeeze=False)
    for row, (number, records) in zip(axes, sorted(rounds.items())):
        for axis, record in zip(row, records):
            axis.imshow(label_picture(store.load(record["id"]), store.label_space))
            axis.set_title(f"{record['id']}: {record['seconds']:.0f} s", fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(f"round {number}", fontsize=9)
    figure.tight_layout()
    return figure


def show_growth(
    store: LabelStore,
    named: int = 8,  # classes with a name in the legend, the largest
) -> plt.Figure:
    "Minutes paid up to each round, and which classes the labelled pixels have."
    classes, records = store.label_space.num_classes, store.history()
    rounds = sorted({r["round"] for r in records})
    minutes = np.cumsum([sum(r["seconds"] for r in records if r["round"] == n) / 60 for n in rounds])
    counts = np.cumsum([sum(r["round"] == n for r in records) for n in rounds])
    pixels = np.zeros((len(rounds), classes))
    for record in records:
        pixels[record["round"] <= np.array(rounds)] += np.bincount(store.load(record["id"]).flatten(), minlength=256)[
            :classes
        ]
    shares = pixels / pixels.sum(1, keepdims=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 2.6), dpi=80, width_ratios=(1, 1.9))
    left.bar(range(len(rounds)), minutes, color=COLOURS["new"], width=0.6)
    for x, (height, count) in enumerate(zip(minutes, counts)):
        left.text(x, height, f"{count} labels", ha="center", va="bottom", fontsize=9)
    left.set_xticks(range(len(rounds)), [f"round {n}" for n in rounds])
    left.set(ylabel="minutes paid so far", ylim=(0, minutes[-1] * 1.2))
    largest = set(np.argsort(-shares[-1])[:named].tolist())
    for c in range(classes):
        colour = np.array(store.label_space.palette[c]) / 255
        right.barh(range(len(rounds)), shares[:, c], left=shares[:, :c].sum(1), color=colour, height=0.7,
                   label=f"{store.label_space.classes[c]} {shares[-1, c]:.1%}" if c in largest else None)
    right.set_yticks(range(len(rounds)), [f"round {n}" for n in rounds])
    right.invert_yaxis()
    right.set(xlabel="share of the labelled pixels", xlim=(0, 1))
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
