"""Pictures for 07 Banks."""

import base64
import io
from collections.abc import Sequence

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from figures.knobs import knob
from figures.labels import add_class_legend
from figures.trace import FilledBank, Trace
from stal_nb.app.demo import demo_model
from stal_nb.banks import ClassMemoryBank, ConfidenceBank, class_confidence
from stal_nb.labels import CITYSCAPES, LabelSpace
from stal_nb.scenes import SceneDataset

PLACES = ("sim scene {}", "real scene {}", "pasted into sim scene {}", "pasted into real scene {}")


def draw_confidence(
    axis: plt.Axes,
    trace: Trace,
    label_space: LabelSpace,
) -> None:
    "Confidence of each class over the steps, with names where the lines are apart."
    steps, last, floor = len(trace.confidence), trace.confidence[-1], -1.0
    for c in last.argsort().tolist():
        axis.plot(range(1, steps + 1), trace.confidence[:, c].tolist(), color=np.array(label_space.palette[c]) / 255)
        if last[c] > 0.1:  # the unknown classes lie on one another and get no name
            floor = max(float(last[c]), floor + 0.045)
            axis.text(steps + 0.5, floor, label_space.classes[c], fontsize=7, va="center")
    axis.set(xlabel="step", ylabel="Conf", ylim=(0, 1), xlim=(1, steps))
    axis.set_title("confidence of each class", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def staleness_figure(trace: Trace, depth: float) -> plt.Figure:
    """How alike two embeddings of a pixel are, by the steps between them; `depth` = age in steps of the oldest entry in
    the bank."""
    figure, axis = plt.subplots(figsize=(6.5, 2.8), dpi=80, layout="constrained")
    for name, colour in (("teacher", "#1f77b4"), ("student", "#d95f02")):
        axis.plot(trace.staleness(name).tolist(), color=colour, label=name)
    axis.axvspan(0, depth, color="0.9", zorder=0)
    axis.text(depth / 2, 0.05, "in the bank", ha="center", fontsize=8, transform=axis.get_xaxis_transform())
    axis.set(xlabel="age of an embedding, steps", ylabel="cosine between the two", xlim=(0, len(trace.pushed) - 1),
             ylim=(None, 1.01))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


# A ring


def draw_ring(
    axis: plt.Axes,
    bank: ClassMemoryBank,  # of one class and dimension, holding the number of each entry
) -> None:
    "The slots of a ring with the number of the entry in each; an arrow at the next slot to be written."
    capacity, pushed = int(bank.capacity[0]), int(bank.pushed[0])
    filled = int(bank.counts[0])
    angle = np.pi / 2 - 2 * np.pi * np.arange(capacity) / capacity
    for slot in range(capacity):
        number = int(bank.entries[slot, 0])
        colour = plt.cm.Blues(0.9 - 0.75 * (pushed - 1 - number) / capacity) if slot < filled else "white"
        x, y = np.cos(angle[slot]), np.sin(angle[slot])
        axis.add_patch(plt.Circle((x, y), 0.92 * np.pi / capacity, facecolor=colour, edgecolor="0.6"))
        if slot < filled:
            ink = "white" if pushed - 1 - number < capacity / 2 else "black"
            axis.text(x, y, str(number), ha="center", va="center", fontsize=8, color=ink)
    tip = angle[int(bank.write_positions[0])]
    axis.annotate("", (0.72 * np.cos(tip), 0.72 * np.sin(tip)), (0.1 * np.cos(tip), 0.1 * np.sin(tip)),
                  arrowprops=dict(arrowstyle="-|>", color="#d95f02", linewidth=2))
    axis.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    axis.set_title(f"pushed {pushed}, held {filled}", fontsize=9)
    axis.axis("off")


def numbered_bank(
    pushes: int,
    per_push: int,
    capacity: int,
) -> ClassMemoryBank:
    "A bank of one class whose entries are numbered as they come."
    bank = ClassMemoryBank(1, 1, capacity)
    for k in range(pushes):
        bank.push(torch.arange(k * per_push, (k + 1) * per_push)[:, None].float(),
                  torch.zeros(per_push, dtype=torch.int64))
    return bank


def ring_figure(
    pushes: Sequence[int],  # one picture after each of these numbers of pushes
    per_push: int,
    capacity: int,
) -> plt.Figure:
    "A ring at several times."
    figure, axes = plt.subplots(1, len(pushes), figsize=(2.4 * len(pushes), 2.6), dpi=80, squeeze=False)
    for axis, count in zip(axes[0], pushes):
        draw_ring(axis, numbered_bank(count, per_push, capacity))
    figure.tight_layout()
    return figure


def ring_knob() -> None:
    "Push as often as you like, as many as you like."
    def show(pushes, per_push):
        figure, axis = plt.subplots(figsize=(3.2, 3.3), dpi=80)
        draw_ring(axis, numbered_bank(pushes, per_push, 12))
        plt.show()

    ipywidgets.interact(show, pushes=ipywidgets.IntSlider(4, 0, 20, description="pushes"),
                        per_push=ipywidgets.IntSlider(5, 1, 30, description="entries each"))


# What the lanes hold


def principal_plane(filled: FilledBank) -> tuple[Tensor, Tensor]:  # (D,) mean, (D,2) directions
    "The plane in which the entries of all lanes spread most."
    everything = torch.cat([filled.lane(c)[0] for c in range(filled.memory.num_classes)])
    mean = everything.mean(0)
    directions = torch.linalg.svd(everything - mean, full_matrices=False).Vh[:2].T
    return mean, directions * torch.sign(directions.sum(0))


def lane_picture(
    filled: FilledBank,
    step: int,  # after this many steps, 1 or more
    label_space: LabelSpace,
    height: int = 8,  # lines a lane; the last one stays white
    width: int = 3,  # columns a slot
) -> np.ndarray:  # (C height, K width, 3) uint8
    """One lane a class: its slots, coloured by the true class of the entry and sorted within each push; orange: the
    next slot to be written."""
    true_classes, positions = filled.snapshots[step - 1]
    num_classes, capacity = true_classes.shape
    everywhere = true_classes[true_classes >= 0].bincount(minlength=256)
    # rank of a class; empty slots (-1) come last
    order = torch.cat([everywhere.argsort(descending=True).argsort(), torch.tensor([256])])
    blocks = true_classes.view(num_classes, -1, filled.per_push)
    blocks = blocks.gather(2, order[blocks].argsort(2)).flatten(1)
    # -1 = empty
    colours = np.vstack([label_space.palette, np.full((256 - num_classes, 3), 0), [[240, 240, 240]]]).astype(np.uint8)
    picture = colours[blocks.numpy()].repeat(height, 0).repeat(width, 1)
    picture[:, ::filled.per_push * width] = 255  # a thin line between two pushes
    for c, slot in enumerate(positions.tolist()):
        picture[c * height:(c + 1) * height, slot * width:slot * width + max(4, capacity * width // 100)] = 255, 127, 14
    picture[height - 1::height] = 255
    return picture


def draw_lanes(
    axis: plt.Axes,
    filled: FilledBank,
    step: int,  # after this many steps, 1 or more
    label_space: LabelSpace,
    names: bool = True,
) -> None:
    "The lanes after a step."
    num_classes, capacity = filled.snapshots[step - 1][0].shape
    axis.imshow(lane_picture(filled, step, label_space), aspect="auto", interpolation="nearest",
                extent=(0, capacity, num_classes - 0.5, -0.5))
    axis.set_yticks(range(num_classes), label_space.classes if names else [""] * num_classes, fontsize=8)
    axis.set(xlabel="slot", xlim=(-1, capacity + 1))
    axis.set_title(f"after {step} step{'s' if step > 1 else ''}", fontsize=10)
    axis.spines[["top", "right", "bottom", "left"]].set_visible(False)


def banks_figure(
    trace: Trace,
    label_space: LabelSpace,
) -> plt.Figure:
    "Both banks at a glance: the lanes, and the confidence of each class over a training."
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), dpi=80, width_ratios=(1.5, 1), layout="constrained")
    draw_lanes(axes[0], trace.filled, len(trace.pushed), label_space)
    axes[0].set_title("memory bank: true class of each entry, a lane a class", fontsize=10)
    draw_confidence(axes[1], trace, label_space)
    add_class_legend(figure, label_space)
    return figure


def lanes_figure(
    filled: FilledBank,
    label_space: LabelSpace,
    steps: Sequence[int],
) -> plt.Figure:
    "The lanes at several times."
    figure, axes = plt.subplots(1, len(steps), figsize=(3.6 * len(steps) + 1, 4), dpi=80, layout="constrained",
                                squeeze=False)
    for number, (axis, step) in enumerate(zip(axes[0], steps)):
        draw_lanes(axis, filled, step, label_space, names=number == 0)
    return figure


def lanes_knob(filled: FilledBank, label_space: LabelSpace) -> None:
    "A slider through the steps."
    def show(step):
        lanes_figure(filled, label_space, (step,)).set_size_inches(8, 4)
        plt.show()

    ipywidgets.interact(show, step=ipywidgets.IntSlider(12, 1, len(filled.snapshots), description="step"))


def as_png(picture: np.ndarray) -> str:
    "A picture of up to 256 colours as a data address."
    buffer = io.BytesIO()
    Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def lanes_scrubber(
    trace: Trace,
    label_space: LabelSpace,
    start: int = 12,  # the step shown first
) -> go.Figure:
    """The lanes with a slider through the steps that needs no kernel: every step's picture is stored. On the right what
    was pushed so far."""
    filled, (num_classes, capacity) = trace.filled, trace.filled.snapshots[0][0].shape
    pictures = [as_png(lane_picture(filled, k + 1, label_space, height=10, width=2))
                for k in range(len(filled.snapshots))]
    counts = [[f"{n}" for n in row] for row in trace.pushed.tolist()]
    titles = [f"memory bank after step {k + 1}" for k in range(len(pictures))]
    figure = go.Figure(go.Scatter(x=[capacity + 4] * num_classes, y=list(range(num_classes)), text=counts[start - 1],
                                  mode="text",
                                  textposition="middle right", textfont=dict(size=11), hoverinfo="skip"))
    steps = [dict(method="update", label=str(k + 1),
                  args=[{"text": [counts[k]]}, {"images[0].source": picture, "title.text": titles[k]}])
             for k, picture in enumerate(pictures)]
    figure.update_layout(
        title=titles[start - 1], width=820, height=540, margin=dict(l=100, r=10, t=50, b=20), plot_bgcolor="white",
        images=[dict(source=pictures[start - 1], xref="x", yref="y", x=0, y=-0.5, sizex=capacity, sizey=num_classes,
                     sizing="stretch",
                     layer="below")],
        sliders=[dict(active=start - 1, steps=steps, currentvalue=dict(prefix="step "), pad=dict(t=40))],
        xaxis=dict(title="slot", range=[0, capacity + 40], showgrid=False, zeroline=False,
                   tickvals=list(range(0, capacity + 1, 80))),
        yaxis=dict(range=[num_classes - 0.5, -0.5], tickvals=list(range(num_classes)),
                   ticktext=list(label_space.classes), showgrid=False,
                   zeroline=False))
    figure.add_annotation(x=capacity + 22, y=1.0, yref="paper", yanchor="bottom", text="pushed", showarrow=False)
    return figure

CROP = 7, 11  # cells of the small picture under the pointer
_CROP_CELLS = [f'<span style="color:#%{{customdata[{k}]:03x}}">██</span>' for k in range(CROP[0] * CROP[1])]
HOVER = "%{text}<br>" + "<br>".join("".join(_CROP_CELLS[r * CROP[1]:(r + 1) * CROP[1]])
                                    for r in range(CROP[0])) + "<extra></extra>"


def crop_colours(
    image: Tensor,  # (3,H,W) in [0,1]
    y: int,  # the pixel in the middle
    x: int,
    every: int = 3,  # pixels from one cell to the next
) -> np.ndarray:  # (77,) int16 colours 0xrgb of 4 bits a channel, row by row
    """A small picture around a pixel, to be drawn with coloured blocks of text: white outside of the image, the middle
    one magenta."""
    rows, columns = CROP
    padded = F.pad(image, (every * columns,) * 2 + (every * rows,) * 2, value=1.0)
    top, left = y + every * rows - every * (rows // 2), x + every * columns - every * (columns // 2)
    crop = padded[:, top:top + every * rows:every, left:left + every * columns:every]
    red, green, blue = (15 * crop).round().short().flatten(1)
    colours = 256 * red + 16 * green + blue
    colours[len(colours) // 2] = 0xf0f
    return colours.numpy()


def bank_scatter(
    filled: FilledBank,
    lanes: Sequence[str],  # class names; the menu chooses one
    label_space: LabelSpace,
    limit: int = 120,  # points a lane, evenly from its oldest to its newest
) -> go.Figure:
    """Entries of a lane in the principal plane, coloured by their true class; under the pointer where each comes from,
    and what was there."""
    mean, plane = principal_plane(filled)
    colours = ["rgb({},{},{})".format(*c) for c in label_space.palette]
    figure, owners, present = go.Figure(), [], set()
    for number, lane in enumerate(lanes):
        c = label_space.index(lane)
        vectors, origins = filled.lane(c)
        known = torch.nonzero(origins[:, 4] < label_space.num_classes)[:, 0]
        chosen = known[torch.linspace(0, len(known) - 1, min(limit, len(known))).round().long()]
        xy, origins = ((vectors[chosen] - mean) @ plane).numpy().round(3), origins[chosen].tolist()
        text = [
            f"truly <b>{label_space.classes[t]}</b>, pushed in step {step}<br>{PLACES[place].format(scene)}, "
            f"pixel ({x}, {y})"
            for place, scene, y, x, t, step in origins
        ]
        unknown = torch.ones(3, 1, 1)  # of a pasted pixel, the picture is not kept
        crops = np.stack([crop_colours(unknown if place > 1 else filled.scenes[("sim", "real")[place]][scene].image,
                                       *((0, 0) if place > 1 else (y, x))) for place, scene, y, x, _, _ in origins])
        figure.add_scatter(x=xy[:, 0].tolist(), y=xy[:, 1].tolist(), mode="markers", text=text, customdata=crops,
                           hovertemplate=HOVER,
                           marker=dict(color=[colours[row[4]] for row in origins], size=8,
                                       line=dict(color="white", width=0.5)),
                           visible=number == 0, showlegend=False)
        present |= {row[4] for row in origins}
        centre = ((filled.centres[c] - mean) @ plane).numpy().round(3)
        star = dict(symbol="star", size=18, color=colours[c], line=dict(color="black", width=1.5))
        figure.add_scatter(x=[float(centre[0])], y=[float(centre[1])], mode="markers", name=f"centre of {lane}",
                           hoverinfo="name",
                           marker=star, visible=number == 0)
        owners += [number, number]
    for t in sorted(present):  # the legend: classes are colours in every lane
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=dict(color=colours[t], size=8),
                           name=label_space.classes[t])
    buttons = [dict(label=f"lane of {lane}", method="update",
                    args=[{"visible": [o == number for o in owners] + [True] * len(present)},
                          {"title.text": f"what is probably not {lane}"}])
               for number, lane in enumerate(lanes)]
    chosen = [label_space.index(lane) for lane in lanes]
    points = (torch.cat([filled.centres[chosen], *(filled.lane(c)[0] for c in chosen)]) - mean) @ plane
    low, high = points.amin(0) - 0.08, points.amax(0) + 0.08
    figure.update_layout(
        width=820, height=500, margin=dict(l=40, r=10, t=60, b=40), title=f"what is probably not {lanes[0]}",
        plot_bgcolor="#fafafa",
        hoverlabel=dict(bgcolor="white", font=dict(family="monospace", size=11, color="black")),
        updatemenus=[dict(buttons=buttons, x=1.0, xanchor="right", y=1.14, yanchor="top")],
        xaxis=dict(title="first principal component", range=[float(low[0]), float(high[0])], zeroline=False),
        yaxis=dict(title="second", range=[float(low[1]), float(high[1])], zeroline=False))
    return figure


def lane_panels(
    filled: FilledBank,
    lanes: Sequence[str],
    label_space: LabelSpace,
) -> plt.Figure:
    "The still version of `bank_scatter`: one panel a lane."
    mean, plane = principal_plane(filled)
    colours = np.array(label_space.palette) / 255
    figure, axes = plt.subplots(1, len(lanes), figsize=(3.1 * len(lanes), 3.1), dpi=80, sharex=True, sharey=True)
    for axis, lane in zip(axes, lanes):
        c = label_space.index(lane)
        vectors, origins = filled.lane(c)
        xy, centre = ((vectors - mean) @ plane).numpy(), ((filled.centres[c] - mean) @ plane).numpy()
        real = origins[:, 4] < label_space.num_classes
        axis.scatter(*xy[real.numpy()].T, c=colours[origins[real, 4].numpy()], s=9, linewidth=0)
        axis.scatter(*centre, marker="*", s=260, color=colours[c], edgecolor="black", zorder=3)
        axis.set_title(f"not {lane}: {len(xy)} entries", fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.tight_layout()
    return figure


def origin_figure(
    filled: FilledBank,
    lane: str,
    label_space: LabelSpace,
    columns: int = 4,
) -> plt.Figure:
    "The scenes that gave a lane most entries, with a dot at each pixel."
    _, origins = filled.lane(label_space.index(lane))
    figure, axes = plt.subplots(2, columns, figsize=(3.2 * columns, 3.8), dpi=72, layout="constrained")
    for row, (domain, title) in enumerate((("sim", "sim, labelled"), ("real", "real"))):
        mine = origins[origins[:, 0] == row]  # without the pasted ones
        best = mine[:, 1].bincount(minlength=len(filled.scenes[domain])).argsort(descending=True)[:columns]
        for axis, scene in zip(axes[row], best.tolist()):
            grey = filled.scenes[domain][scene].image.mean(0).numpy()
            dots = mine[mine[:, 1] == scene]
            axis.imshow(0.3 + 0.55 * grey, cmap="gray", vmin=0, vmax=1)
            known = dots[:, 4] < label_space.num_classes
            colours = np.array(label_space.palette)[dots[known, 4]] / 255
            axis.scatter(dots[known, 3], dots[known, 2], c=colours, s=16, edgecolor="white", linewidth=0.5)
            axis.set_title(f"{title}: {len(dots)} pixels", fontsize=9)
            axis.axis("off")
    return figure


def lane_truth_figure(
    filled: FilledBank,
    label_space: LabelSpace,
) -> plt.Figure:
    "What each lane is made of, by true class; hatched: entries that are in truth of the lane's own class."
    num_classes = label_space.num_classes
    table = np.zeros((num_classes, num_classes))
    for c in range(num_classes):
        true_classes = filled.lane(c)[1][:, 4]
        table[c] = true_classes[true_classes < num_classes].bincount(minlength=num_classes).numpy()
    figure, axis = plt.subplots(figsize=(9.5, 3.6), dpi=80, layout="constrained")
    bottom = np.zeros(num_classes)
    share = 100 * table / np.maximum(1, table.sum(1, keepdims=True))
    for true_class in np.argsort(-table.sum(0)):
        axis.bar(range(num_classes), share[:, true_class], bottom=bottom,
                 color=np.array(label_space.palette[true_class]) / 255, width=0.85)
        axis.bar([true_class], share[true_class, true_class], bottom=bottom[true_class], width=0.85,
                 color="none", edgecolor="white", hatch="xxxx", linewidth=1.2)
        bottom += share[:, true_class]
    axis.set_xticks(range(num_classes), label_space.classes, rotation=45, ha="right", fontsize=8)
    axis.set(ylabel="% of the lane's entries",
             title="true class of each lane's entries (white mesh: the lane's own class)")
    axis.title.set_fontsize(10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


# Confidence


def replay(
    batch_confidence: Tensor,  # (T,C), NaN where a class did not occur
    momentum: float,
) -> Tensor:  # (T,C)
    "What a confidence bank makes of recorded batches: each batch is an image of one pixel a class."
    num_classes = batch_confidence.shape[1]
    bank = ConfidenceBank(num_classes, momentum)
    curve = []
    for row in batch_confidence:
        labels = torch.where(row.isnan(), 255, torch.arange(num_classes))[None, None]
        bank.update(torch.diag(row.nan_to_num(0.0))[None, :, None], labels)
        curve.append(bank.confidence.clone())
    return torch.stack(curve)


def momentum_figure(
    trace: Trace,
    label_space: LabelSpace,
    momenta: Sequence[float],
    class_names: Sequence[str] = ("road", "car", "sidewalk", "pole"),
) -> plt.Figure:
    "Recorded batch confidences (dots) and the running mean (lines) for some momenta, one panel each."
    steps = np.arange(1, len(trace.batch_confidence) + 1)
    figure, axes = plt.subplots(1, len(momenta), figsize=(3.9 * len(momenta) + 0.4, 3), dpi=80, sharey=True,
                                squeeze=False)
    for axis, momentum in zip(axes[0], momenta):
        curves = replay(trace.batch_confidence, momentum)
        for name in class_names:
            c = label_space.index(name)
            colour = np.array(label_space.palette[c]) / 255
            axis.scatter(steps, trace.batch_confidence[:, c], s=9, color=colour, alpha=0.45, linewidth=0)
            axis.plot(steps, curves[:, c], color=colour, label=name, linewidth=2)
        axis.set(title=f"α = {momentum:g}", xlabel="step", ylim=(-0.03, 1.03))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("confidence")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def momentum_knob(
    trace: Trace,
    label_space: LabelSpace,
) -> None:
    "A slider for the memory of the confidence bank."
    def remember(momentum):
        return momentum_figure(trace, label_space, (momentum,))

    values = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999, 1.0)
    knob(remember, words={"momentum": "{:.1%} of the old value is kept"},
         momentum=ipywidgets.SelectionSlider(options=values, value=0.9, description="α", continuous_update=True))


def scene_confidence(
    domain: str,  # "sim" or "real"
    count: int,
) -> tuple[ConfidenceBank, Tensor]:  # after one update with all scenes; (C,) share of pixels of each class
    "How well the demo network knows each class, on scenes with labels."
    scenes = SceneDataset(domain, count, size=(128, 256), seed=7)
    samples = [scenes[k] for k in range(count)]
    images, labels = torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])
    with torch.inference_mode():
        probs = torch.cat([demo_model()(batch).logits.softmax(1) for batch in images.split(8)])
    bank = ConfidenceBank(CITYSCAPES.num_classes, momentum=0.0)
    bank.update(probs, labels)
    return bank, class_confidence(probs, labels)[1] / (labels != 255).sum()


def tail_figure(
    bank: ConfidenceBank,
    share: Tensor,  # (C,) share of pixels
    label_space: LabelSpace,
) -> plt.Figure:
    "Share of pixels, confidence, probability to be pasted and share of pseudo-labels kept, most frequent class first."
    order = share.argsort(descending=True)
    rows = {"% of pixels": 100 * share, "Conf": bank.confidence, "s: pasted, %": 100 * bank.sampling_probs(),
            "r: kept, %": 100 * bank.class_rate()}
    colours = np.array(label_space.palette)[order] / 255
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 5.2), dpi=80, sharex=True)
    for axis, (name, values) in zip(axes, rows.items()):
        axis.bar(range(len(order)), values[order].numpy(), color=colours)
        axis.set_ylabel(name, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[2].axhline(100 / len(order), color="black", linewidth=1, linestyle="--")
    axes[2].text(len(order) + 0.1, 100 / len(order), "if even", fontsize=8, va="bottom")
    axes[-1].set_xticks(range(len(order)), [label_space.classes[k] for k in order], rotation=45, ha="right", fontsize=8)
    figure.tight_layout()
    return figure


def draw_frequency(
    axis: plt.Axes,
    trace: Trace,
    step: int,  # after this many steps, 1 or more
    label_space: LabelSpace,
) -> None:
    "Each class: its share of the labelled pixels so far, and the probability to be drawn for pasting."
    share = trace.pixels[:step].sum(0) / trace.pixels[:step].sum()
    probs = (1 - trace.confidence[step - 1]).softmax(0)
    seen, ends = share > 0, torch.tensor([1e-5, 1.0])
    axis.plot(ends, ends, color="0.75", linewidth=1, zorder=0)
    axis.text(0.0125, 0.0135, "as often as it occurs", fontsize=7, color="0.5", rotation=45, rotation_mode="anchor",
              transform_rotates_text=True)
    axis.axhline(1 / len(probs), color="0.75", linewidth=1, linestyle="--", zorder=0)
    axis.scatter(share[seen], probs[seen], s=36, c=np.array(label_space.palette)[seen.numpy()] / 255, edgecolor="0.3",
                 linewidth=0.5)
    for k, c in enumerate(share.argsort().tolist()):
        if seen[c]:  # rare classes are named above, frequent ones below, at changing distances
            far = 8 + 8 * (k % 7) if share[c] < 0.03 else -8 - 9 * (k % 4)
            axis.annotate(label_space.classes[c], (share[c], probs[c]), xytext=(0, far), textcoords="offset points",
                          fontsize=7, ha="center",
                          va="bottom" if far > 0 else "top",
                          arrowprops=dict(arrowstyle="-", color="0.7", linewidth=0.5))
    axis.set(xscale="log", yscale="log", xlim=(5e-5, 0.7), ylim=(0.01, 0.2), xlabel="share of labelled pixels")
    axis.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2], ["1 %", "2 %", "5 %", "10 %", "20 %"])
    axis.set_xticks([1e-4, 1e-3, 1e-2, 1e-1], ["0.01 %", "0.1 %", "1 %", "10 %"])
    axis.minorticks_off()
    axis.set_title(f"after {step} step{'s' if step > 1 else ''}", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def frequency_figure(
    trace: Trace,
    label_space: LabelSpace,
    steps: Sequence[int],
) -> plt.Figure:
    "Class frequency against sampling probability at several times of a training."
    figure, axes = plt.subplots(1, len(steps), figsize=(4.4 * len(steps), 3.6), dpi=80, squeeze=False, sharey=True,
                                layout="constrained")
    for axis, step in zip(axes[0], steps):
        draw_frequency(axis, trace, step, label_space)
    axes[0, 0].set_ylabel("s: probability to be drawn")
    return figure


def frequency_knob(
    trace: Trace,
    label_space: LabelSpace,
) -> None:
    "A slider through the steps."
    def show(step):
        frequency_figure(trace, label_space, (step,))
        plt.show()

    ipywidgets.interact(show, step=ipywidgets.IntSlider(20, 1, len(trace.pushed), description="step"))


def absence_figure(
    trace: Trace,
    label_space: LabelSpace,
    class_names: Sequence[str],
) -> plt.Figure:
    """The confidence of some classes step by step: dots where the batch has the class, grey where it has not and the
    number must stay."""
    figure, axes = plt.subplots(1, len(class_names), figsize=(3.7 * len(class_names), 2.6), dpi=80, squeeze=False,
                                layout="constrained")
    steps = np.arange(1, len(trace.confidence) + 1)
    for axis, name in zip(axes[0], class_names):
        c = label_space.index(name)
        absent = trace.batch_confidence[:, c].isnan().numpy()
        for step in steps[absent]:
            axis.axvspan(step - 1, step, color="0.88", linewidth=0)
        values = np.concatenate([[0.0], trace.confidence[:, c].numpy()])
        axis.plot(np.arange(len(values)), values, color=np.array(label_space.palette[c]) / 255, linewidth=1.5)
        axis.plot(steps[~absent], values[1:][~absent], ".", color="black", markersize=4)
        axis.set(xlabel="step", title=f"{name}: absent in {absent.sum()} of {len(steps)} steps", xlim=(0, len(steps)),
                 ylim=(0, None))
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("Conf")
    return figure
