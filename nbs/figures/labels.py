"""Pictures for 00 Labels."""

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt

from stal_nb.labels import CITYSCAPES, IGNORE, LabelSpace, Sample


def show_labels(
    sample: Sample,
    label_space: LabelSpace = CITYSCAPES,
    class_names: bool = False,  # write the name into the largest piece of each class
) -> plt.Figure:
    "Image and labels side by side."
    figure, axes = plt.subplots(1, 2, figsize=(11, 11 / 2 * sample.image.shape[1] / sample.image.shape[2] + 0.2),
                                dpi=90)
    axes[0].imshow(sample.image.permute(1, 2, 0).numpy())
    axes[1].imshow(label_space.colorize(sample.labels))
    if class_names:
        for index in np.unique(sample.labels):
            ys, xs = np.nonzero(sample.labels.numpy() == index)
            if index != IGNORE and len(ys) > 0.004 * sample.labels.numel():
                k = np.argmin((ys - np.median(ys)) ** 2 + (xs - np.median(xs)) ** 2)
                axes[1].text(xs[k], ys[k], label_space.classes[index], color="white", fontsize=7, ha="center",
                             va="center",
                             bbox=dict(facecolor="black", alpha=0.55, pad=1, linewidth=0))
    for axis in axes:
        axis.axis("off")
    figure.tight_layout()
    return figure


def class_legend(
    *label_spaces: LabelSpace,
) -> plt.Figure:
    "The classes and colours of label spaces, one column each."
    figure, axes = plt.subplots(1, len(label_spaces), figsize=(2.6 * len(label_spaces), 4.2), dpi=90)
    for axis, space in zip(np.atleast_1d(axes), label_spaces):
        for k, (name, colour) in enumerate(zip(space.classes, space.palette)):
            axis.add_patch(plt.Rectangle((0, -k), 0.8, 0.8, color=np.array(colour) / 255))
            axis.text(1, -k + 0.4, f"{k}  {name}", va="center", fontsize=8)
        axis.set(xlim=(0, 6), ylim=(-18.5, 1), title=f"{space.name}, {space.num_classes} classes")
        axis.axis("off")
    figure.tight_layout()
    return figure


def add_class_legend(
    figure: plt.Figure,  # with a constrained layout
    label_space: LabelSpace,
    notes: Mapping[str, str] = {},  # class -> what is said behind its name
) -> None:
    "The colour of each class, below the picture."
    handles = [plt.Line2D([], [], linestyle="", marker="s", markersize=7, color=np.array(colour) / 255,
                          label=name + notes.get(name, ""))
               for name, colour in zip(label_space.classes, label_space.palette, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=10, frameon=False, fontsize=7.5,
                  handletextpad=0.2, columnspacing=1.2)
