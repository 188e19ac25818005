"""Anchors, negatives and prototypes: pictures for 06 Losses."""

import base64
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from figures.losses import View, chart, kept_picture, look, panels, spotlight
from stal_nb.labels import CITYSCAPES, IGNORE, Sample
from stal_nb.losses import (
    anchor_mask,
    class_prototypes,
    contrastive_loss,
    hard_pixels,
    negative_mask,
    normalised_entropy,
    pseudo_label_weights,
    pseudo_labels,
)
from stal_nb.runtime.devices import flush_denormals
from stal_nb.runtime.ops import sample_pixels

# The first picture: who takes part in what


def overview_figure(
    view: View,
    roles: "Roles",
    class_name: str = "road",  # whose anchors and negatives to show
) -> plt.Figure:
    "One street, and the pixels from which each term of the loss learns."
    pseudo = pseudo_labels(view.logits, 20)
    loss = F.cross_entropy(view.logits, view.labels, ignore_index=IGNORE, reduction="none")
    hard = hard_pixels(loss, view.labels, 0.7, loss.numel() // 12)
    weight = pseudo_label_weights(pseudo)[0]
    relative = (weight / weight[weight > 0].mean()).where(weight > 0, torch.nan)
    figure, axes = panels([
        ("a street the network has never seen", view.sample.image.permute(1, 2, 0)),
        ("the truth", CITYSCAPES.colorize(view.labels[0])),
        ("its prediction", CITYSCAPES.colorize(view.logits.argmax(1)[0])),
        ("its doubt: entropy, 0 to 1", pseudo.entropy[0], "magma", 0, 1),
        ("$L_s$: hard pixels, if it were labelled", spotlight(view.sample, hard[0])),
        ("$L_u$: pseudo-labels, least sure 20 % dropped", kept_picture(pseudo.labels[0])),
        ("$L_u$: weight of each pixel (mean 1)", relative, "viridis", 0, 1.5),
        (f"$L_c$, {class_name}: anchors (●) and negatives (×)", view.sample.image.permute(1, 2, 0) * 0.45)])
    mark_roles(axes[1, 3], roles, 1, CITYSCAPES.index(class_name))
    return figure


# Roles in the contrast


class Roles(NamedTuple):
    "A labelled and an unlabelled image at the resolution of the embeddings, and who is what in L_c."

    samples: tuple[Sample, Sample]
    probs: Tensor  # (2,C,h,w) of the teacher
    labels: Tensor  # (2,h,w): labels, pseudo-labels
    entropy: Tensor  # (2,h,w)
    labelled: Tensor  # (2,) bool
    embeddings: Tensor  # (2,D,h,w)
    anchors: Tensor  # (2,C,h,w) bool
    negatives: Tensor  # (2,C,h,w) bool


@lru_cache(maxsize=8)
def assign_roles(
    labelled_index: int = 3,  # of the labelled `sim` scene
    unlabelled_index: int = 7,  # of the unlabelled `real` scene
    threshold: float = 0.3,  # δ_p
    reliable: float = 20,  # entropy percentile below which an unlabelled pixel is reliable
    unreliable: float = 80,  # and above which it is unreliable
    low_rank: int = 3,
    high_rank: int = 20,
    released: bool = False,
) -> Roles:
    "Find anchors and negatives in one labelled and one unlabelled scene, with the demo model as teacher."
    views = look("sim", labelled_index), look("real", unlabelled_index)
    probs = torch.cat([v.logits for v in views])[..., ::4, ::4].softmax(1)
    labels = torch.cat([views[0].labels, pseudo_labels(views[1].logits, 20).labels])[..., ::4, ::4]
    entropy, labelled = normalised_entropy(probs), torch.tensor([True, False])
    where = probs, labels, entropy, labelled
    return Roles(tuple(v.sample for v in views), *where, torch.cat([v.embeddings for v in views]),
                 anchor_mask(*where, threshold, reliable),
                 negative_mask(*where, low_rank, high_rank, unreliable, released))


def mark_roles(axis: plt.Axes, roles: Roles, image: int, class_index: int, stride: int = 4) -> None:
    "Anchors as dots of the class colour, negatives as crosses, on an image at full resolution."
    colour = np.array(CITYSCAPES.palette[class_index]) / 255
    for mask, style in ((roles.negatives, dict(marker="x", color="#ffe14d", s=13, linewidths=0.8)),
                        (roles.anchors, dict(marker="o", color=colour, s=15, edgecolors="white", linewidths=0.6))):
        y, x = mask[image, class_index].nonzero().T.numpy() * stride
        axis.scatter(x, y, **style)


def roles_figure(
    roles: Roles,
    class_name: str = "car",
) -> plt.Figure:
    "Where the anchors and negatives of a class are, and the three quantities that decide it."
    c = CITYSCAPES.index(class_name)
    rank = 1 + (roles.probs > roles.probs[:, c : c + 1]).sum(1)
    rows = []
    for k, name in enumerate(("labelled", "unlabelled")):
        anchors, negatives = int(roles.anchors[k, c].sum()), int(roles.negatives[k, c].sum())
        rows += [(f"{name}: {'labels' if k == 0 else 'pseudo-labels'}", kept_picture(roles.labels[k])),
                 (f"probability of {class_name}", roles.probs[k, c], "viridis", 0, 1),
                 (f"rank of {class_name} among 19 classes", rank[k], "cividis_r", 1, 19) if k == 0 else
                 (f"rank of {class_name}; outlined: highest entropy", rank[k], "cividis_r", 1, 19),
                 (f"{anchors} anchors (●), {negatives} negatives (×)", roles.samples[k].image.permute(1, 2, 0) * 0.45)]
    figure, axes = panels(rows)
    threshold = roles.entropy[1].flatten().quantile(0.8)
    axes[1, 2].contour(roles.entropy[1] >= threshold, levels=[0.5], colors="#ff3d7f", linewidths=0.8)
    for k in range(2):
        mark_roles(axes[k, 3], roles, k, c)
    return figure


def marks_figure(
    roles: Roles,
    class_names: Sequence[str],
    image: int = 0,  # 0 = the labelled one, 1 = the unlabelled one
) -> plt.Figure:
    "Anchors and negatives of several classes on one image."
    classes = [CITYSCAPES.index(name) for name in class_names]
    dark = roles.samples[image].image.permute(1, 2, 0) * 0.45
    counts = [[int(mask[image, c].sum()) for mask in (roles.anchors, roles.negatives)] for c in classes]
    titles = [f"{name}: {a} anchors (●), {n} negatives (×)" for name, (a, n) in zip(class_names, counts)]
    figure, axes = panels([(title, dark) for title in titles], len(classes))
    for axis, c in zip(axes[0], classes):
        mark_roles(axis, roles, image, c)
    return figure


def telling_pixels(roles: Roles, class_name: str = "car") -> list[tuple[int, int, int]]:  # (image, y, x)
    "Five pixels whose stories differ, as far as the two images have them."
    c = CITYSCAPES.index(class_name)
    anchors, negatives = roles.anchors, roles.negatives
    idle = ~(anchors.any(1) | negatives.any(1))
    masks = [(0, anchors[0, c]), (0, negatives[0, c]), (1, anchors[1].any(0)), (1, negatives[1, c]), (1, idle[1])]
    points = []
    for image, mask in masks:
        places = mask.nonzero()
        if len(places):  # the one nearest to the middle of all: seldom a stray pixel
            middle = places.float().median(0).values
            points.append((image, *places[((places - middle) ** 2).sum(1).argmin()].tolist()))
    return points


def explain_pixels(roles: Roles, points: Sequence[tuple[int, int, int]]) -> pd.DataFrame:
    "What a pixel is in L_c, and why."
    names, rows = CITYSCAPES.classes, []

    def spelled(mask):
        found = [name for name, yes in zip(names, mask.tolist()) if yes]
        return ", ".join(found) if len(found) < 7 else f"{len(found)} classes"

    for number, (k, y, x) in enumerate(points, 1):
        label, top = int(roles.labels[k, y, x]), roles.probs[k, :, y, x].topk(3)
        percentile = (roles.entropy[k] < roles.entropy[k, y, x]).float().mean()
        rows.append({"pixel": number, "image": "labelled" if roles.labelled[k] else "unlabelled",
                     "label": "(dropped)" if label == IGNORE else names[label],
                     "three likeliest": ", ".join(f"{names[c]} {p:.2f}" for p, c in zip(*(t.tolist() for t in top))),
                     "more doubt than": f"{percentile:.0%}", "anchor of": spelled(roles.anchors[k, :, y, x]) or "–",
                     "negative of": spelled(roles.negatives[k, :, y, x]) or "–"})
    return pd.DataFrame(rows).set_index("pixel")


def points_figure(roles: Roles, points: Sequence[tuple[int, int, int]]) -> plt.Figure:
    "The two images with numbered pixels."
    figure, axes = panels([(("labelled", "unlabelled")[k], roles.samples[k].image.permute(1, 2, 0)) for k in range(2)],
                          columns=2, width=9)
    for number, (k, y, x) in enumerate(points, 1):
        axes[0, k].plot(4 * x, 4 * y, "o", markersize=6, markerfacecolor="none", markeredgecolor="white",
                        markeredgewidth=1.5)
        axes[0, k].annotate(str(number), (4 * x, 4 * y), (7, 7), textcoords="offset points", color="white", fontsize=10,
                            fontweight="bold",
                            bbox=dict(facecolor="black", alpha=0.6, pad=1.5, linewidth=0))
    return figure


# Pixels that speak when the mouse is over them


def hover_figure(
    roles: Roles,
    stride: int = 3,  # every how many pixels of the embeddings
):  # plotly figure
    "Both images with one point every few pixels: hovering tells its role and why."
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, horizontal_spacing=0.02, subplot_titles=("labelled", "unlabelled"))
    kinds = (("anchor of a class", "#ffffff", "circle", 5), ("negative of some class", "#ffe14d", "x", 5),
             ("both", "#ff7f0e", "diamond", 6), ("neither", "rgba(160,160,160,0.6)", "circle", 3))
    height, width = roles.entropy.shape[1:]
    for k in range(2):
        buffer = io.BytesIO()
        Image.fromarray((roles.samples[k].image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=80
        )
        source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        axis = dict(xref=f"x{k + 1 if k else ''}", yref=f"y{k + 1 if k else ''}")
        figure.add_layout_image(source=source, x=0, y=0, sizex=width, sizey=height, sizing="stretch", layer="below",
                                **axis)
        points = [(k, y, x) for y in range(0, height, stride) for x in range(0, width, stride)]
        table = explain_pixels(roles, points).reset_index()
        anchor, negative = table["anchor of"] != "–", table["negative of"] != "–"
        groups = anchor & ~negative, negative & ~anchor, anchor & negative, ~anchor & ~negative
        for (name, colour, symbol, size), chosen in zip(kinds, groups):
            at = [points[i] for i in np.nonzero(chosen.to_numpy())[0]]
            text = [
                f"{'label' if k == 0 else 'pseudo-label'}: {row['label']}<br>{row['three likeliest']}<br>"
                f"more doubt than {row['more doubt than']}<br>anchor of: {row['anchor of']}<br>"
                f"negative of: {row['negative of']}"
                for row in table[chosen].to_dict("records")
            ]
            figure.add_scatter(
                x=[x for _, _, x in at] or [None], y=[y for _, y, _ in at] or [None], mode="markers", name=name,
                legendgroup=name,
                showlegend=k == 0, hovertext=text, hoverinfo="text", row=1, col=k + 1,
                marker=dict(color=colour, symbol=symbol, size=size, line=dict(width=0.5, color="#333333")))
    figure.update_xaxes(visible=False, range=[0, width])
    figure.update_yaxes(visible=False, range=[height, 0])
    figure.update_annotations(xanchor="left")  # the titles, away from plotly's own buttons
    for annotation, left in zip(figure.layout.annotations, (0, 0.51)):
        annotation.x = left
    figure.update_layout(height=330, margin=dict(l=5, r=5, t=30, b=5), legend=dict(orientation="h", y=-0.02),
                         plot_bgcolor="rgba(0,0,0,0)",
                         hoverlabel=dict(align="left"))
    return figure


# The contrast itself


def draw_contrast(
    roles: Roles,
    num_anchors: int = 50,  # M
    num_negatives: int = 256,  # N
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # anchors (C,M,D), positives (C,D), negatives (C,M,N,D), valid (C,)
    """The inputs of `contrastive_loss`, with negatives drawn from the two images themselves: what the memory bank will
    replace."""
    generator = torch.Generator().manual_seed(seed)
    flat = roles.embeddings.movedim(1, -1).flatten(0, 2)
    where, has_anchors = sample_pixels(roles.anchors, num_anchors, generator)
    away, has_negatives = sample_pixels(roles.negatives, num_anchors * num_negatives, generator)
    positives, _ = class_prototypes(roles.embeddings, roles.anchors)
    negatives = flat[away].view(len(away), num_anchors, num_negatives, -1)
    return flat[where], positives, negatives, has_anchors & has_negatives


def on_circle(degrees: Sequence[float] | Tensor) -> Tensor:  # (n,2)
    "Unit vectors at angles."
    angle = torch.as_tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


def circle_loss(
    degrees: Tensor,  # (n,) angles of anchors
    positive: float,
    negatives: Sequence[float],
    w: float,
) -> tuple[Tensor, Tensor]:  # (n,) losses, (n,2) gradients
    "L_c of anchors at several angles, each alone, and its gradient."
    anchors = on_circle(degrees)[:, None].requires_grad_()  # (n,1,2)
    centre, others = on_circle([positive]), on_circle(negatives)[None]
    each = torch.stack([contrastive_loss(anchor[None], centre, others, w) for anchor in anchors])
    gradient, = torch.autograd.grad(each.sum(), anchors)
    return each.detach(), gradient[:, 0]


def draw_arrow(axis: plt.Axes, start: Tensor, end: Tensor) -> None:
    style = dict(arrowstyle="-|>", color="black", linewidth=1.8, shrinkA=0, shrinkB=0)
    axis.annotate("", end.tolist(), start.tolist(), arrowprops=style)


def circle_figure(
    angle: float = 150.0,  # of the anchor, degrees
    w: float = 0.5,  # temperature
    positive: float = 60.0,  # of the class centre, degrees
    negatives: Sequence[float] = (100.0, 170.0, 200.0, 290.0, 320.0),  # degrees
) -> plt.Figure:
    "Two-dimensional embeddings: who pulls, who pushes, and where the anchor goes."
    loss, gradient = circle_loss(torch.tensor([angle]), positive, negatives, w)
    anchor, centre, others = on_circle([angle])[0], on_circle([positive])[0], on_circle(negatives)
    push = F.softmax(torch.cat([centre[None], others]) @ anchor / w, 0)  # share of each in the denominator
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), dpi=80, width_ratios=(1, 1.7), layout="constrained")
    axis = axes[0]
    axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="#bbbbbb"))
    axis.scatter(*others.T, s=20 + 500 * push[1:], color="#d1495b", alpha=0.75,
                 label="negatives (size: how hard they push)", zorder=3)
    axis.scatter(*centre, s=170, marker="*", color="#2a9d3f", label="positive: the centre of the class", zorder=3)
    axis.plot([0, anchor[0]], [0, anchor[1]], color="#30638e", linewidth=1)
    axis.scatter(*anchor, s=60, color="#30638e", label="anchor", zorder=4)
    step = -gradient[0]
    length = step.norm()
    if length > 1e-3:  # as long as a walk of that angle, at most 1
        arrow = step / length * min(1.0, 0.5 * float(length))
        draw_arrow(axis, anchor, anchor + arrow)
    axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    axis.axis("off")
    axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.02))
    axis.set_title(f"w = {w:g}: loss {float(loss[0]):.2f}, gradient {float(length):.2f}", fontsize=9)
    every = torch.arange(0, 361, 4)
    chart(axes[1]).plot(every, circle_loss(every, positive, negatives, w)[0], color="#30638e", linewidth=2)
    for at, colour, style in [(positive, "#2a9d3f", "-"), *((n, "#d1495b", ":") for n in negatives)]:
        axes[1].axvline(at, color=colour, linestyle=style, linewidth=1)
    axes[1].plot(angle, loss, "o", color="#30638e", markersize=8)
    axes[1].axhline(math.log(1 + len(negatives)), color="#999999", linewidth=0.8, linestyle="--")
    axes[1].annotate("log(1 + N)", (362, math.log(1 + len(negatives))), fontsize=7, va="center", annotation_clip=False)
    axes[1].set(xlim=(0, 360), ylim=(0, None), xticks=range(0, 361, 60))
    axes[1].set_xlabel("angle of the anchor, degrees (green: positive, red: negatives)", fontsize=8)
    axes[1].set_title("loss wherever the anchor may be", fontsize=9)
    return figure


def temperatures_figure(ws: Sequence[float] = (0.07, 0.2, 0.5, 2.0), angle: float = 150.0) -> plt.Figure:
    "The same anchor at several temperatures: who pushes."
    figure, axes = plt.subplots(1, len(ws), figsize=(3.1 * len(ws), 3.3), dpi=80, layout="constrained")
    positive, negatives = 60.0, (100.0, 170.0, 200.0, 290.0, 320.0)
    anchor, centre, others = on_circle([angle])[0], on_circle([positive])[0], on_circle(negatives)
    for axis, w in zip(axes, ws):
        push = F.softmax(torch.cat([centre[None], others]) @ anchor / w, 0)
        _, gradient = circle_loss(torch.tensor([angle]), positive, negatives, w)
        axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="#bbbbbb"))
        axis.scatter(*others.T, s=15 + 450 * push[1:], color="#d1495b", alpha=0.75)
        for at, share in zip(others * 1.28, push[1:]):
            axis.text(*at, f"{share:.0%}", ha="center", va="center", fontsize=7, color="#d1495b")
        axis.scatter(*centre, s=130, marker="*", color="#2a9d3f")
        axis.scatter(*anchor, s=45, color="#30638e", zorder=4)
        arrow = -gradient[0] / gradient[0].norm() * 0.55
        draw_arrow(axis, anchor, anchor + arrow)
        axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        axis.axis("off")
        axis.set_title(f"w = {w:g}, length of the gradient {float(gradient[0].norm()):.2f}", fontsize=9)
    entries = (("o", "#30638e", 7, "anchor, and where it goes"),
               ("*", "#2a9d3f", 11, "positive: the centre of its class"),
               ("o", "#d1495b", 8, "negatives: share of the push"))
    handles = [plt.Line2D([], [], linestyle="", marker=m, color=colour, markersize=size, label=label)
               for m, colour, size, label in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


# The contrast at work


@flush_denormals()
def learn_circle(
    roles: Roles,
    steps: int = 400,
    w: float = 0.5,
    seed: int = 0,
) -> tuple[list[Tensor], list[float]]:  # embeddings (pixels, 2) of all anchor pixels before and after; the losses
    "Train a small head that turns the demo model's embeddings into two dimensions, with L_c and nothing else."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        features = F.normalize(roles.embeddings.movedim(1, -1), dim=-1)  # (2,h,w,D)
        head = nn.Sequential(nn.Linear(features.shape[-1], 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer, generator = torch.optim.Adam(head.parameters(), 5e-3), torch.Generator().manual_seed(seed)
        snapshots, losses = [F.normalize(head(features), dim=-1).detach()], []
        for _ in range(steps):
            embeddings = head(features).movedim(-1, 1)  # (2,2,h,w)
            flat = embeddings.movedim(1, -1).flatten(0, 2)
            where, has_anchors = sample_pixels(roles.anchors, 32, generator)
            away, has_negatives = sample_pixels(roles.negatives, 64, generator)
            centres, _ = class_prototypes(embeddings, roles.anchors)
            # a class's anchors share negatives
            loss = contrastive_loss(flat[where], centres, flat[away], w, has_anchors & has_negatives)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        snapshots.append(F.normalize(head(features), dim=-1).detach())
    return snapshots, losses


def circle_points(axis: plt.Axes, roles: Roles, points: Tensor, title: str) -> None:
    "Anchor pixels on the unit circle, one ring a class, so that classes at the same angle stay apart."
    axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="#dddddd"))
    classes = [c for c in range(19) if roles.anchors[:, c].sum() >= 5]
    for ring, c in enumerate(classes):
        at = points[roles.anchors[:, c]] * (1 + 0.05 * ring)
        axis.scatter(*at.T, s=7, color=np.array(CITYSCAPES.palette[c]) / 255, label=CITYSCAPES.classes[c])
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    axis.axis("off")
    axis.set_title(title, fontsize=9)


def spread_within(roles: Roles, points: Tensor) -> float:
    "Mean over the classes of the angle, in degrees, between an anchor pixel and the centre of its class."
    angles = []
    for c in range(19):
        own = points[roles.anchors[:, c]]
        if len(own) >= 5:
            angles.append((own @ F.normalize(own.mean(0), dim=0)).clamp(-1, 1).arccos().mean())
    return float(torch.stack(angles).mean().rad2deg())


# snapshots of `learn_circle` by w
def learnt_temperatures_figure(roles: Roles, learnt: dict[float, list[Tensor]]) -> plt.Figure:
    "What the same head learns at several temperatures."
    figure, axes = plt.subplots(1, len(learnt), figsize=(3.4 * len(learnt), 3.5), dpi=80, layout="constrained",
                                squeeze=False)
    for axis, (w, snapshots) in zip(axes[0], learnt.items()):
        circle_points(axis, roles, snapshots[-1],
                      f"w = {w:g}: {spread_within(roles, snapshots[-1]):.0f}° from the centre, on average")
    return figure


def learnt_figure(
    roles: Roles,
    snapshots: list[Tensor],  # from `learn_circle`
    losses: list[float],
) -> plt.Figure:
    "Anchor pixels on the unit circle before and after, and the loss."
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), dpi=80, width_ratios=(1, 1, 0.9), layout="constrained")
    for axis, points, title in zip(axes, snapshots, ("before", "after")):
        circle_points(axis, roles, points, f"anchor pixels, {title}")
    axes[1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(0.98, 0.5), markerscale=2)
    chart(axes[2]).plot(losses, color="#2ca02c")
    axes[2].set_title("$L_c$", fontsize=9)
    axes[2].set_xlabel("step", fontsize=8)
    return figure
