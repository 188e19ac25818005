"""Pictures for 12 The training step."""

import os
from functools import lru_cache

import numpy as np
import plotly.graph_objects as go
import torch
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from plotly.subplots import make_subplots

from stal_nb.app.demo import demo_model
from stal_nb.augmentation import strong_augment
from stal_nb.config import TrainingConfig
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.losses import pseudo_labels
from stal_nb.mixing import class_boxes, copy_paste, cutmix
from stal_nb.sampling import PlanState, StepLoader, WithoutLabels, plan_step
from stal_nb.scenes import SceneDataset
from stal_nb.step import TERMS


@lru_cache(maxsize=2)
def example_batch(
    seed: int,  # which images
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:  # of `StepLoader`; the teacher's logits of its unlabelled images
    "One batch of scenes, and what the demo model says of it; kept, since every picture of the step begins with it."
    config = TrainingConfig(crop_size=(128, 256), source_scale=(0.9, 1.3), target_scale=(0.9, 1.3), source_batch=1,
                            target_batch=1,
                            unlabelled_batch=2, copy_paste_probability=1.0, paste_scale=(0.8, 1.6), seed=seed)
    source, target = SceneDataset("sim", 40), SceneDataset("real", 40)
    tables = [np.stack([np.bincount(d[i].labels.flatten().numpy(), minlength=256)[:19] > 150 for i in range(40)])
              for d in (source, target)]
    rare = np.array([c in (5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 18) for c in range(19)], float)
    state = PlanState(rare / rare.sum(), *tables, labelled=np.arange(10), unlabelled=np.arange(10, 40))
    batch = StepLoader(config, 19, source, target, WithoutLabels(target))[plan_step(config, 1, 0, state)]
    with torch.no_grad():
        return batch, demo_model()(batch["unlabelled"]).logits


def example_step(
    seed: int = 3,  # which images
    drop_percent: float = 20.0,  # d
) -> dict:  # pictures of one step by name
    """One batch of scenes and what a step makes of it, with the demo model as teacher. Every tensor comes from the
    functions the step calls."""
    batch, logits = example_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    image, labels = copy_paste(batch["image"], batch["labels"], batch["paste_image"], batch["paste_labels"],
                               batch["paste_classes"])
    pseudo = pseudo_labels(logits, drop_percent, valid=~batch["padding"])
    prediction = logits.argmax(1)
    # the picture asks for the rarest class that the teacher does find
    found = torch.nn.functional.one_hot(prediction[2:], 19).sum((1, 2))
    wanted = torch.where(found < 200, found.max() + 1, found).argmin(1)
    boxes = class_boxes(prediction[2:], wanted, generator=generator, stride=4)
    mixed, mixed_labels = cutmix(boxes, (batch["unlabelled"][:2], batch["unlabelled"][2:]),
                                 (pseudo.labels[:2], pseudo.labels[2:]))
    return dict(batch=batch, image=image, labels=labels, prediction=prediction, pseudo=pseudo, boxes=boxes, mixed=mixed,
                mixed_labels=mixed_labels,
                strong=strong_augment(mixed, generator))


def shade_dropped(labels: torch.Tensor, label_space=CITYSCAPES) -> np.ndarray:
    "Class colours, with dropped pixels in grey."
    picture = label_space.colorize(labels)
    picture[np.asarray(labels) == IGNORE] = 170
    return picture


def step_figure(example: dict) -> plt.Figure:
    "What enters a step and what leaves it, image by image."
    def show(t):
        return t.permute(1, 2, 0).clamp(0, 1).numpy()

    batch, colour = example["batch"], CITYSCAPES.colorize
    rows = [
        [("labelled source image", show(batch["image"][0])), ("with rare classes pasted", show(example["image"][0])),
         ("its labels", colour(example["labels"][0]))],
        [("labelled target image", show(batch["image"][1])), ("with rare classes pasted", show(example["image"][1])),
         ("its labels", colour(example["labels"][1]))],
    ]
    for k in range(2):
        rows.append([("unlabelled image, weak view", show(batch["unlabelled"][k])),
                     ("its CutMix partner", show(batch["unlabelled"][2 + k])),
                     ("teacher's prediction, least sure dropped", shade_dropped(example["pseudo"].labels[k]))])
        rows.append([("mixed", show(example["mixed"][k])), ("what the student sees", show(example["strong"][k])),
                     ("what the student is to say", shade_dropped(example["mixed_labels"][k]))])
    figure, axes = plt.subplots(len(rows), 3, figsize=(11, 1.98 * len(rows)), dpi=80)
    for axis, (title, picture) in zip(axes.flat, (cell for row in rows for cell in row)):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    for k, (y0, x0, y1, x1) in enumerate(example["boxes"].tolist()):
        for axis in (axes[2 + 2 * k, 1], axes[3 + 2 * k, 0]):
            axis.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=2))
    figure.tight_layout()
    return figure


# title, factor, (key, name, colour) of each line
def board_panels(label_space=CITYSCAPES) -> list[tuple[str, float, list[tuple[str, str, str]]]]:
    "What the board shows, once for the live and the still version."
    terms = [(name, term.colour) for name, term in TERMS.items()]
    rights = [("right/kept", "kept", "#2ca02c"), ("right/dropped", "dropped", "#888888"),
              ("right/student", "student", "#9467bd")]

    def per_class(prefix):
        colours = (to_hex([value / 255 for value in colour]) for colour in label_space.palette)
        return [(prefix + name, name, colour) for name, colour in zip(label_space.classes, colours)]

    return [("terms of the loss", 1, [(k, k, c) for k, c in terms]),
            ("pull of each term", 1, [("pull/" + k, k, c) for k, c in terms]),
            ("unlabelled pixels kept, %", 100, [("kept", "kept", "#555555")]),
            ("right pseudo-labels, %", 100, rights),
            ("teacher and student: distance", 1, [("gap", "gap", "#d62728")]),
            ("entries in the memory bank", 1, per_class("bank/")),
            ("sampling probability, %", 100, per_class("sampling/"))]


def log_figure(log: list[dict], label_space=CITYSCAPES) -> plt.Figure:
    "The log of a trainer as pictures; panels whose lines it does not have are left out."
    panels = [(title, factor, [line for line in lines if line[0] in log[0]])
              for title, factor, lines in board_panels(label_space)]
    panels = [panel for panel in panels if panel[2]]
    columns = min(4, len(panels))
    figure, axes = plt.subplots(-(-len(panels) // columns), columns,
                                figsize=(3.3 * columns, 2.5 * -(-len(panels) // columns)), dpi=80, squeeze=False)
    steps = [row["step"] for row in log]
    for axis, (title, factor, lines) in zip(axes.flat, panels):
        for key, name, colour in lines:
            axis.plot(steps, [factor * row[key] for row in log], color=colour, label=name, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        if 1 < len(lines) < 6:
            axis.legend(frameon=False, fontsize=8)
    for axis in list(axes.flat)[len(panels):]:
        axis.axis("off")
    many = next((lines for _, _, lines in panels if len(lines) > 5), None)
    if many and len(panels) < axes.size:
        handles = [plt.Line2D([], [], color=colour, label=name) for _, name, colour in many]
        axes.flat[len(panels)].legend(handles=handles, ncol=2, fontsize=7, frameon=False, loc="center")
    figure.tight_layout()
    return figure


class LiveBoard:
    "The same panels, live: pass `board.update` as `Trainer.fit(on_log=...)`."

    def __init__(self, label_space=CITYSCAPES):
        panels = board_panels(label_space)
        grid = make_subplots(rows=2, cols=4, subplot_titles=[title for title, _, _ in panels], horizontal_spacing=0.05,
                             vertical_spacing=0.18)
        self.lines: list[tuple[str, float]] = []
        for k, (_, factor, lines) in enumerate(panels):
            for key, name, colour in lines:
                grid.add_scatter(x=[], y=[], name=name, mode="lines", line=dict(color=colour, width=1.5),
                                 showlegend=False, row=k // 4 + 1, col=k % 4 + 1)
                self.lines.append((key, factor))
        grid.update_layout(height=430, margin=dict(l=30, r=10, t=30, b=30), template="simple_white", font_size=10)
        grid.update_annotations(font_size=12)
        # a stored notebook keeps the still version alone: the live one carries all of plotly.js
        self.live = not os.environ.get("STAL_NB_STORE")
        self.figure, self.log = go.FigureWidget(grid) if self.live else grid, []

    def show(self) -> None:
        "Put the board below the cell."
        if self.live:
            display(self.figure)

    def update(self, row: dict) -> None:
        "Add a row of the log."
        self.log.append(row)
        steps = [r["step"] for r in self.log]
        with self.figure.batch_update():
            for trace, (key, factor) in zip(self.figure.data, self.lines):
                trace.x, trace.y = steps, [factor * r[key] if key in r else None for r in self.log]
