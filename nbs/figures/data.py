"""Pictures for 02 Data and 03 Augmentation."""

from collections.abc import Callable
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from stal_nb.app.check_page import to_picture
from stal_nb.augmentation import Window, colour_matrix, gaussian_blur, place, recolour, window
from stal_nb.labels import CITYSCAPES, LabelSpace, Sample


def show_views(
    views: dict[str, tuple[Tensor, Tensor | None]],  # title -> image (3,H,W), labels (H,W) or None
    label_space: LabelSpace = CITYSCAPES,
    width: float = 2.9,  # inches a column
) -> plt.Figure:
    "Views in the upper row, their labels below; black is 255. A view without labels leaves its place empty."
    rows = 2 if any(labels is not None for _, labels in views.values()) else 1
    shape = next(iter(views.values()))[0].shape
    size = width * len(views), rows * width * shape[1] / shape[2] + 0.35
    figure, axes = plt.subplots(rows, len(views), figsize=size, dpi=80, squeeze=False)
    for column, (title, (image, labels)) in zip(axes.T, views.items()):
        column[0].imshow(to_picture(image))
        column[0].set_title(title, fontsize=9)
        if labels is not None:
            column[1].imshow(label_space.colorize(labels))
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def show_images(
    images: dict[str, Tensor],  # title -> (3,H,W)
    columns: int = 4,
    width: float = 2.7,  # inches a column
) -> plt.Figure:
    "Images in a grid."
    rows = -(-len(images) // columns)
    shape = next(iter(images.values())).shape
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, rows * (width * shape[1] / shape[2] + 0.3)),
                                dpi=80, squeeze=False)
    for axis, (title, image) in zip(axes.flat, images.items()):
        axis.imshow(to_picture(image))
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def folder_tree(
    root: Path,
    files: int = 2,  # files named in each folder; the others are counted
) -> str:
    "What is in a folder, as text; only its own name is printed, not where it lies."
    def lines(folder: Path, indent: str):
        inner = sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name))
        plain = [p for p in inner if p.is_file()]
        for path in plain[:files]:
            yield f"{indent}{path.name}"
        if len(plain) > files:
            yield f"{indent}… and {len(plain) - files} more"
        for path in inner:
            if path.is_dir():
                yield f"{indent}{path.name}/"
                yield from lines(path, indent + "    ")

    return "\n".join([f"{Path(root).name}/", *lines(Path(root), "    ")])


def class_chart(
    counts: dict[str, Tensor],  # title -> (C,) pixels a class
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Share of the labelled pixels that each class has, on a logarithmic axis, in the palette's colours."
    size = 4.8 * len(counts), 0.2 * label_space.num_classes + 0.9
    figure, axes = plt.subplots(1, len(counts), figsize=size, dpi=80, sharex=True, squeeze=False)
    for axis, (title, pixels) in zip(axes[0], counts.items()):
        share = (pixels.double() / pixels.sum()).numpy()
        where = np.arange(len(share))
        axis.barh(where, np.maximum(share, 1e-9), color=np.array(label_space.palette) / 255, edgecolor="0.4",
                  linewidth=0.4)
        for k, value in enumerate(share):
            axis.text(max(value, 1e-4) * 1.15, k, f"{value:.2%}" if value else "none", va="center", fontsize=7)
        axis.set(xscale="log", xlim=(1e-4, 3), yticks=where, title=title, xlabel="share of labelled pixels")
        axis.set_yticklabels(label_space.classes, fontsize=8)
        axis.title.set_fontsize(10)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def show_sampling(
    source: int = 8,  # source pixels
    view: int = 5,  # view pixels
) -> plt.Figure:
    "Which source pixel each view pixel takes its label from: counted from pixel corners, and from pixel centres."
    colours = plt.get_cmap("tab10")(np.arange(source) % 10)
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.9), dpi=80)
    scale = source / view
    rules = {"from the corner, ⌊i · c / h⌋: PyTorch's “nearest”": lambda i: i * scale,
             "from the centre, ⌊(i + ½) · c / h⌋: “nearest-exact”": lambda i: (i + 0.5) * scale}
    for axis, (title, rule) in zip(axes, rules.items()):
        for k in range(source):
            axis.add_patch(plt.Rectangle((k, 1.6), 1, 0.6, color=colours[k], ec="white"))
        for i in range(view):
            taken = int(rule(i))
            axis.add_patch(plt.Rectangle((i * scale, 0), scale, 0.6, facecolor=colours[taken], edgecolor="white"))
            axis.annotate("", (taken + 0.5, 1.58), ((i + 0.5) * scale, 0.62),
                          arrowprops=dict(arrowstyle="->", color="0.35"))
        axis.set(xlim=(-0.1, source + 0.1), ylim=(-0.1, 2.3))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    axes[0].text(-0.2, 1.9, "labels", ha="right", va="center", fontsize=8)
    axes[0].text(-0.2, 0.3, "view", ha="right", va="center", fontsize=8)
    figure.tight_layout()
    return figure


def show_window(
    sample: Sample,
    rows: Window,
    columns: Window,
    crop_size: tuple[int, int],  # (height, width) of the view
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Where a view is cut from, and where it lands."
    image, labels = place(sample.image, sample.labels, crop_size, rows, columns)
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.3), dpi=80, gridspec_kw=dict(width_ratios=[1.25, 1, 1]))
    pictures = {"the image, and the window": to_picture(sample.image), "view": to_picture(image),
                "its labels": label_space.colorize(labels)}
    for axis, (title, picture) in zip(axes, pictures.items()):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    axes[0].add_patch(plt.Rectangle((columns.start - 0.5, rows.start - 0.5), columns.size, rows.size, fill=False,
                                    edgecolor="yellow", lw=2))
    figure.tight_layout(pad=0.4)
    return figure


def show_mapping(
    sample: Sample,  # labels in `old`
    old: LabelSpace,
    mapped: Tensor,  # (H,W) its labels in `new`
    new: LabelSpace,
) -> plt.Figure:
    "A sample in two label spaces, and the colours of the second."
    figure, axes = plt.subplots(1, 4, figsize=(13, 2.2), dpi=80, gridspec_kw=dict(width_ratios=[2, 2, 2, 1.2]))
    pictures = {"image": to_picture(sample.image),
                f"{old.num_classes} classes of {old.name}": old.colorize(sample.labels),
                f"mapped to {new.num_classes} of {new.name}": new.colorize(mapped)}
    for axis, (title, picture) in zip(axes, pictures.items()):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    for k, (name, colour) in enumerate(zip(new.classes, new.palette)):
        axes[3].add_patch(plt.Rectangle((0, -k), 0.8, 0.8, color=np.array(colour) / 255))
        axes[3].text(1, -k + 0.4, name, va="center", fontsize=8)
    axes[3].set(xlim=(0, 5), ylim=(0.2 - new.num_classes, 1))
    for axis in axes:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def crop_knob(
    sample: Sample,
    crop_size: tuple[int, int],  # (height, width) of the view
    label_space: LabelSpace = CITYSCAPES,
) -> ipywidgets.Widget:
    "Sliders for what `weak_augment` draws at random: factor, position, flip."
    slider = ipywidgets.FloatSlider

    def draw(factor: float, down: float, right: float, flip: bool):
        height, width = sample.image.shape[1:]
        rows, columns = window(height, crop_size[0], factor, down), window(width, crop_size[1], factor, right)
        image, labels = place(sample.image, sample.labels, crop_size, rows, columns, flip)
        show_views({f"{rows.size} × {columns.size} pixels of the image": (image, labels)}, label_space, width=3.6)
        plt.show()

    return ipywidgets.interactive(
        draw, factor=ipywidgets.FloatLogSlider(value=1.4, base=2, min=-3, max=2, step=0.1, readout_format=".2f"),
        down=slider(value=0.4, min=0, max=0.99, step=0.03), right=slider(value=0.6, min=0, max=0.99, step=0.03),
        flip=False)


def colour_knob(
    image: Tensor,  # (3,H,W) in [0,1]
) -> ipywidgets.Widget:
    "Sliders for what `strong_augment` draws at random: the entries of the colour matrix, and the blur."
    slider = ipywidgets.FloatSlider

    def draw(brightness: float, contrast: float, saturation: float, hue: float, grey: float, sigma: float):
        def one(value):
            return torch.tensor([value])

        matrix = colour_matrix(one(brightness), one(contrast), one(saturation), one(hue), one(grey))
        coloured = recolour(image[None], matrix, one(brightness), one(contrast))
        show_images({"before": image, "after": gaussian_blur(coloured, one(sigma), radius=6)[0]}, columns=2, width=3.2)
        plt.show()

    return ipywidgets.interactive(
        draw, brightness=slider(value=1.0, min=0, max=2, step=0.05),
        contrast=slider(value=1.0, min=0, max=2, step=0.05),
        saturation=slider(value=1.0, min=0, max=3, step=0.05),
        hue=slider(value=0.1, min=-0.5, max=0.5, step=0.02, description="hue (turns)"),
        grey=slider(value=0.0, min=0, max=1, step=0.05),
        sigma=slider(value=0.0, min=0, max=2, step=0.1, description="blur (pixels)"))


def refusal(
    call: Callable[[], object],
    hide: Path,  # this folder's place on the machine is left out of the text
) -> str:
    "The kind and message of the error that a call raises."
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).replace(str(hide) + '/', '').replace(str(hide), '.')}"
    return "no error"
