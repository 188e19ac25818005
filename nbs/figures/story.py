"""Pictures for the story on one page: the loop with its labels, and one pixel."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from figures.losses import GREY, chart, kept_picture
from stal_nb.labels import CITYSCAPES, Sample

# The loop and whose labels are where

BLUE, RED, GREEN, DARK = "#2f6db3", "#b0413e", "#3c7a4b", "#333333"
WIDTH, HEIGHT = 12.4, 8.6  # inches, which are the units of the canvas, too


def still(sample: Sample) -> np.ndarray:  # (H,W,3)
    "The image as matplotlib wants it."
    return sample.image.permute(1, 2, 0).numpy()


def truth(sample: Sample) -> np.ndarray:  # (H,W,3) uint8
    "The labels in class colours, 255 in grey."
    return kept_picture(sample.labels)


def loop_figure(
    source: Sample,
    first: Sample,  # a target image that is labelled before the warm-up
    asked: Sample,  # a target image that is labelled after the query
    rest: Sample,  # a target image that is never labelled
    before: tuple[Tensor, Tensor],  # (H,W) pseudo-labels of `asked` and `rest` at the start of the warm-up
    after: Tensor,  # (H,W) pseudo-labels of `rest` after it
    scores: list[tuple[Sample, Tensor, float]],  # three images, their entropy (H,W) and its mean, the highest first
) -> plt.Figure:
    "Four boxes; in each, images above and their labels below, and whose they are."
    free, person, guess = "renderer's labels", "annotator's labels", "teacher's pseudo-labels"
    unused = (1 - (1 - still(asked)) / 4, None, "target images:", "not used")
    given = (still(source), truth(source), "source images:", free)
    boxes = [
        ("1  Source training", "a network learns from rendered images alone", BLUE, [given, unused]),
        ("2  Warm-up (self-training)", "a student learns from all three at once, its average is the teacher", BLUE, [
            given, (still(first), truth(first), "first target images:", person),
            (still(asked), kept_picture(before[0]), "all others:", guess)]),
        ("3  Active selection", "the teacher looks at every unlabelled image; no label is used", RED, [
            (still(sample), picture, f"mean entropy {mean:.2f}", "queried" if k == 0 else "not queried")
            for k, (sample, picture, mean) in enumerate(scores)]),
        ("4  Labelling and training on", "the same training as in 2, with more labels", GREEN, [
            given, (still(asked), truth(asked), "queried images:", person),
            (still(rest), kept_picture(after), "all others:", guess)])]
    figure = plt.figure(figsize=(WIDTH, HEIGHT), dpi=80, facecolor="white")
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    canvas.axis("off")
    for k, box in enumerate(boxes):
        _box(figure, canvas, 0.1 + 6.3 * (k in (1, 2)), 4.9 if k < 2 else 0.8, *box)
    for start, end in (((6.0, 6.7), (6.4, 6.7)), ((9.35, 4.9), (9.35, 4.4)), ((6.4, 2.6), (6.0, 2.6))):
        canvas.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=20, lw=2.5, color="#555555"))
    canvas.plot((3.05, 3.05, 9.35), (0.8, 0.4, 0.4), color="#555555", lw=2.5)
    canvas.add_patch(FancyArrowPatch((9.35, 0.39), (9.35, 0.8), arrowstyle="-|>", mutation_scale=20, lw=2.5,
                                     color="#555555", shrinkA=0))
    canvas.text(6.2, 0.12, "until the budget is spent", ha="center", fontsize=11, color=DARK)
    return figure


def _box(figure: plt.Figure, canvas: plt.Axes, left: float, low: float, title: str, words: str, colour: str,
         columns: list[tuple]) -> None:
    "One box: a title, a line of words, and columns of image, label, and two lines of caption."
    canvas.add_patch(FancyBboxPatch((left, low), 5.9, 3.6, boxstyle="round,pad=0,rounding_size=0.12", fc="white",
                                    ec=colour, lw=2))
    canvas.text(left + 0.15, low + 3.26, title, fontsize=14, weight="bold", color=colour)
    canvas.text(left + 0.15, low + 2.97, words, fontsize=10, color=DARK)
    for n, (image, label, what, whose) in enumerate(columns):
        x = left + 0.1 + 1.92 * n
        for picture, y in ((image, 1.92), (label, 0.93)):
            if picture is None:
                continue
            frame = figure.add_axes((x / WIDTH, (low + y) / HEIGHT, 1.86 / WIDTH, 0.93 / HEIGHT))
            frame.imshow(picture, cmap="magma", vmin=0, vmax=1)
            frame.set(xticks=[], yticks=[])
        canvas.text(x + 0.04, low + 0.62, what, fontsize=10, color=DARK)
        canvas.text(x + 0.04, low + 0.33, whose, fontsize=10, color=colour, weight="bold")


# One pixel


def pixel_figure(
    sample: Sample,
    at: tuple[int, int],  # row, column of the pixel
    probs: dict[str, Tensor],  # name -> (C,) probabilities of the pixel
    most: int = 5,  # classes a panel shows
) -> plt.Figure:
    "Where the pixel is, and what networks say of it."
    figure, axes = plt.subplots(1, 1 + len(probs), figsize=(12, 2.5), dpi=80, layout="constrained",
                                width_ratios=(2, *[1] * len(probs)))
    axes[0].imshow(still(sample))
    axes[0].axis("off")
    for size, colour in ((14, "white"), (10, "black")):
        axes[0].plot(at[1], at[0], "s", markersize=size, markerfacecolor="none", markeredgecolor=colour,
                     markeredgewidth=2)
    axes[0].set_title(f"row {at[0]}, column {at[1]}: {CITYSCAPES.classes[sample.labels[at]]}", fontsize=10)
    for axis, (name, p) in zip(axes[1:], probs.items()):
        order = p.argsort(descending=True)[:most].tolist()
        chart(axis).barh(range(most), p[order].numpy(), color=_colours(order))
        axis.set_yticks(range(most), [CITYSCAPES.classes[c] for c in order], fontsize=8)
        axis.set_xlim(0, 1)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10)
    return figure


def _colours(classes: list[int]) -> list[np.ndarray]:
    return [np.array(CITYSCAPES.palette[c]) / 255 for c in classes]


def entropy_figure(
    entropy: Tensor,  # of all pixels of the batch
    mine: float,  # of the pixel
    limits: dict[str, float],  # words -> entropy
) -> plt.Figure:
    "Where the pixel stands among all pixels of the batch."
    figure, axis = plt.subplots(figsize=(8, 2.3), dpi=80, layout="constrained")
    chart(axis).hist(entropy.flatten().numpy(), bins=80, range=(0, 1), color="#bbbbbb")
    top = axis.get_ylim()[1]
    for words, value in limits.items():
        axis.axvline(value, color="black", linewidth=1, linestyle=":")
        axis.text(value + 0.006, 0.86 * top, words, fontsize=8.5)
    axis.axvline(mine, color=RED, linewidth=2)
    axis.text(mine - 0.006, 0.55 * top, "the pixel", fontsize=9.5, color=RED, ha="right", weight="bold")
    axis.set(yticks=[], xlim=(0, 1), xlabel="entropy of the teacher's prediction, 0 to 1")
    return figure


def pulls_figure(
    gradients: dict[str, Tensor],  # term -> (C,) gradient at the pixel's logits
    classes: list[str],  # which to show
) -> plt.Figure:
    "Minus the gradient: which logits each term raises and lowers."
    figure, axes = plt.subplots(1, len(gradients), figsize=(8.5, 2.1), dpi=80, sharex=True, layout="constrained")
    index = [CITYSCAPES.index(name) for name in classes]
    for axis, (name, gradient) in zip(axes, gradients.items()):
        chart(axis).barh(range(len(index)), (-1e6 * gradient[index]).numpy(), color=_colours(index))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(index)), classes, fontsize=8.5)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("−gradient, millionths", fontsize=8.5)
    return figure


def cosine_figure(
    to_negatives: Tensor,  # (N,) cosines
    to_centre: tuple[float, float],  # cosine to the centre before and after a move against the gradient
    name: str,
) -> plt.Figure:
    "How near the anchor is to its negatives and to the centre of its class."
    figure, axis = plt.subplots(figsize=(8, 2.1), dpi=80, layout="constrained")
    chart(axis).hist(to_negatives.numpy(), bins=40, range=(-1, 1), color=f"#{GREY:02x}{GREY:02x}{GREY:02x}")
    top = axis.get_ylim()[1]
    axis.axvline(to_centre[0], color=GREEN, linewidth=2)
    axis.annotate("", (to_centre[1], 0.5 * top), (to_centre[0], 0.5 * top),
                  arrowprops=dict(arrowstyle="-|>", color=GREEN, lw=2))
    axis.text(to_centre[0] - 0.02, 0.72 * top, f"centre of {name}", fontsize=9.5, color=GREEN, ha="right",
              bbox=dict(facecolor="white", edgecolor="none", pad=2))
    axis.set(yticks=[], xlim=(-1, 1), xlabel=f"cosine between the anchor and its {len(to_negatives)} negatives (grey)")
    return figure
