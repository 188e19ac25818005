"""Pictures for 22 The released code."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from figures.contrast import draw_contrast
from figures.losses import View, chart, kept_picture, panels, spotlight, verdict_picture
from stal_nb.augmentation import Window, interpolate_ids, nearest_index
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.losses import contrastive_loss, pseudo_labels
from stal_nb.scenes import SceneDataset

COLOURS = {"as published": "#222222", "filter": "#c1443c", "negatives": "#2f7f9f", "labels": "#b58a1b",
           "counts": "#5b8c3a", "loud": "#777777",
           "loud, filter": "#e07a6f"}


def read_results(
    file: str | Path,  # written by bench/departures.py
) -> tuple[
    dict, pd.DataFrame
]:  # the settings of the runs; one row a run: variant, seed, miou, miou_crop, source_only, bank, L_c, iou
    results = json.loads(Path(file).read_text(encoding="utf-8"))
    return results, pd.DataFrame(results["runs"])


def differences(
    runs: pd.DataFrame, baseline: str = "as published", column: str = "miou"
) -> pd.DataFrame:  # a row a variant: mean, standard deviation over seeds, and both of the differences to the baseline
    "Seeds differ in their data, so a variant is compared with the baseline of its own seed."
    table = runs.pivot(index="seed", columns="variant", values=column)
    minus = table.sub(table[baseline], axis=0)
    order = [name for name in COLOURS if name in table]
    rows = {"mIoU, mean": table.mean(), "sd": table.std(), f"minus {baseline}, mean": minus.mean(),
            "sd of it": minus.std(),
            "seed by seed": minus.apply(lambda column: ", ".join(f"{v:+.1f}" for v in column))}
    return pd.DataFrame(rows).loc[order]


def overview_figure(runs: pd.DataFrame) -> plt.Figure:
    "Every run as a dot; runs of one seed, which share data and start, are joined by a line."
    names = [name for name in COLOURS if name in set(runs.variant)]
    table = runs.pivot(index="seed", columns="variant", values="miou")[names]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.1), dpi=80, layout="constrained", width_ratios=(1, 1.1))
    for _, row in table.iterrows():
        axes[0].plot(range(len(names)), row, color="#cccccc", linewidth=1, zorder=0)
        axes[0].scatter(range(len(names)), row, color=[COLOURS[n] for n in names], s=26)
    axes[0].set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=8)
    axes[0].set_title("mIoU on the target, % (a line is a seed)", fontsize=9)
    rest = [n for n in names if n not in ("as published", "loud")]
    for k, name in enumerate(rest):
        minus = table[name] - table["loud" if name.startswith("loud") else "as published"]
        axes[1].scatter(minus, [k] * len(minus), color=COLOURS[name], s=30)
        axes[1].plot([minus.mean()] * 2, [k - 0.25, k + 0.25], color=COLOURS[name], linewidth=2)
    axes[1].axvline(0, color="#999999", linewidth=1)
    axes[1].set_yticks(range(len(rest)),
                       [f"{n}  minus  {'loud' if n.startswith('loud') else 'as published'}" for n in rest], fontsize=8)
    axes[1].set_ylim(len(rest) - 0.5, -0.5)
    axes[1].set_title("difference within a seed, points of mIoU (bar: mean)", fontsize=9)
    for axis in axes:
        chart(axis)
    return figure


def filter_figure(view: View, drop_percent: float = 20.0) -> plt.Figure:
    "The same street under both filters: what is kept, and whether it is right."
    right = view.logits.argmax(1) == view.labels
    rows = [("weak view", view.sample.image.permute(1, 2, 0)), ("truth", CITYSCAPES.colorize(view.labels[0])),
            ("the teacher's prediction", CITYSCAPES.colorize(view.logits.argmax(1)[0])),
            ("its entropy", pseudo_labels(view.logits, 0).entropy[0], "magma", 0, 1)]
    for keep, name in (("sure", "papers"), ("unsure", "released code")):
        pseudo = pseudo_labels(view.logits, drop_percent, keep)
        kept = pseudo.labels != IGNORE
        share = 100 * right[kept & (view.labels != IGNORE)].float().mean()
        rows += [(f"{name}: kept, d = {drop_percent:g} %", kept_picture(pseudo.labels[0])),
                 (f"blue right, red wrong: {share:.0f} % right", verdict_picture(right, kept)[0])]
    return panels(rows)[0]


def bank_figure(runs: pd.DataFrame) -> plt.Figure:
    "L_c over training and the bank at its end, as published and with the released masks."
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.7), dpi=80, layout="constrained")
    for name in ("as published", "negatives"):
        chosen = runs[runs.variant == name]
        for k, row in enumerate(chosen.itertuples()):
            axes[0].plot(10 * np.arange(1, len(row.L_c) + 1), row.L_c, color=COLOURS[name], linewidth=1.2,
                         label=name if k == 0 else None)
        total = np.array([sum(bank) for bank in chosen.bank])
        axes[1].barh([name] * len(total), total, color=COLOURS[name], height=0.6)
        axes[1].text(total.max(), name, f"  {total.max():,} entries", va="center", fontsize=9)
    axes[0].set_title("$L_c$ during the round, every seed", fontsize=9)
    axes[0].set_xlabel("step", fontsize=8)
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].set_title("memory bank after the last step", fontsize=9)
    axes[1].set_xlim(0, axes[1].get_xlim()[1] * 1.3)
    for axis in axes:
        chart(axis)
    return figure


def resized_labels(
    labels: Tensor,  # (H,W)
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:  # nearest; bilinear
    rows, columns = (nearest_index(Window(0, have, 0, n)) for n, have in zip(size, labels.shape))
    return labels[rows][:, columns], interpolate_ids(labels, size)


def labels_figure(index: int = 2, window: tuple[slice, slice] = (slice(40, 104), slice(60, 188))) -> plt.Figure:
    "A label map enlarged as SYNTHIA's are (1280 x 760 to 2048 x 1024, to scale), by both ways."
    labels = SceneDataset("sim", 8, size=(95, 160), seed=0)[index].labels
    nearest, bilinear = resized_labels(labels, (128, 256))
    wrong = nearest != bilinear
    invented = ~torch.isin(bilinear, labels.unique()) & wrong
    rows = [("nearest", CITYSCAPES.colorize(nearest)), ("bilinear", CITYSCAPES.colorize(bilinear)),
            (f"differs: {wrong.float().mean():.1%} of the pixels", wrong, "Greys", 0, 1),
            (f"a class that the image does not have: {invented.float().mean():.1%}", invented, "Reds", 0, 1)]
    rows += [(f"{title}, a part", picture[window])
             for title, picture in ((r[0].split(":")[0], np.asarray(r[1])) for r in rows[:2])]
    figure, axes = panels(rows, 3, width=12)
    return figure


def invented_table(count: int = 24) -> pd.DataFrame:
    "Pixels of each class before and after bilinear enlargement, over scenes, and how many of those after are wrong."
    before, after, wrong = (torch.zeros(256) for _ in range(3))
    for sample in SceneDataset("sim", count, size=(95, 160), seed=0):
        nearest, bilinear = resized_labels(sample.labels, (128, 256))
        for total, ids in ((before, nearest), (after, bilinear), (wrong, bilinear[nearest != bilinear])):
            total += torch.bincount(ids.flatten(), minlength=256)
    C = CITYSCAPES.num_classes
    share = (100 * wrong / after.clamp(min=1))[:C].double()
    table = pd.DataFrame({"pixels, nearest": before[:C].int(), "pixels, bilinear": after[:C].int(),
                          "wrong among these, %": share}, index=list(CITYSCAPES.classes))
    return table.round(1).sort_values("wrong among these, %", ascending=False)


def class_difference_figure(runs: pd.DataFrame, variant: str = "labels") -> plt.Figure:
    "IoU of each class, variant minus baseline, seed by seed."
    iou = {name: pd.DataFrame(list(runs[runs.variant == name].sort_values("seed").iou))
           for name in ("as published", variant)}
    minus = (iou[variant] - iou["as published"])[list(CITYSCAPES.classes)]
    figure, axis = plt.subplots(figsize=(11, 2.6), dpi=80, layout="constrained")
    axis.bar(range(minus.shape[1]), minus.mean(), color=np.array(CITYSCAPES.palette) / 255, edgecolor="#888888",
             linewidth=0.5)
    for row in minus.values:
        axis.scatter(range(minus.shape[1]), row, color="#222222", s=9, zorder=3)
    axis.axhline(0, color="#999999", linewidth=1)
    axis.set_xticks(range(minus.shape[1]), minus.columns, rotation=35, ha="right", fontsize=8)
    axis.set_title(f"IoU, \"{variant}\" minus \"as published\": mean (bar) and each seed (dot), points", fontsize=9)
    return chart(axis).figure


def crop_figure(index: int = 7, crop: tuple[int, int] = (96, 96)) -> plt.Figure:
    "What a centre crop sees of an image, and how often each class lies in it."
    scenes = SceneDataset("real", 60, size=(128, 256))
    top, left = (128 - crop[0]) // 2, (256 - crop[1]) // 2
    inside = torch.zeros(128, 256, dtype=torch.bool)
    inside[top:top + crop[0], left:left + crop[1]] = True
    whole, seen = torch.zeros(256), torch.zeros(256)
    for sample in scenes:
        whole += torch.bincount(sample.labels.flatten(), minlength=256)
        seen += torch.bincount(sample.labels[inside], minlength=256)
    share = 100 * seen[:19] / whole[:19].clamp(min=1)
    figure, axes = panels([("seen by the released validation, to scale", spotlight(scenes[index], inside)), None], 2,
                          width=11)
    axis = chart(axes[0, 1])
    axis.bar(range(19), share, color=np.array(CITYSCAPES.palette) / 255, edgecolor="#888888", linewidth=0.5)
    axis.axhline(100 * inside.float().mean(), color="#222222", linewidth=1)
    axis.set_xticks(range(19), CITYSCAPES.classes, rotation=60, ha="right", fontsize=7)
    axis.set_title("share of each class's pixels that is seen, % (line: of all pixels)", fontsize=9)
    return figure


def crop_table(runs: pd.DataFrame) -> pd.DataFrame:
    "mIoU of the same networks, whole images and centre crops."
    table = runs.groupby("variant")[["miou", "miou_crop"]].mean().round(1)
    table.columns = ["whole images", "centre crop"]
    return table.loc[[name for name in COLOURS if name in table.index]]


def count_gradients(
    roles,  # of `figures.contrast.assign_roles`
    counts: Sequence[tuple[int, int]],  # (M, N)
    draws: int = 6,
) -> pd.DataFrame:  # one row a pair
    "How L_c and its gradient depend on the two counts: many draws on the same two images."
    rows = []
    for M, N in counts:
        losses, slopes = [], []
        for seed in range(draws):
            embeddings = roles.embeddings.clone().requires_grad_()
            loss = contrastive_loss(*_anchors_from(embeddings, roles, M, N, seed))
            slopes.append(torch.autograd.grad(loss, embeddings)[0].flatten())
            losses.append(loss.item())
        slopes = torch.stack(slopes)
        mean = slopes.mean(0)
        rows.append(
            {
                "M, anchors": M,
                "N, negatives": N,
                "M N": M * N,
                "L_c": np.mean(losses),
                "sd of L_c between draws": np.std(losses),
                "log(1 + N)": np.log(1 + N),
                "noise of the gradient / its mean": (
                    (slopes - mean).norm(dim=1).pow(2).mean().sqrt() / mean.norm()
                ).item(),
            }
        )
    return pd.DataFrame(rows).round(3)


def _anchors_from(embeddings: Tensor, roles, M: int, N: int, seed: int):
    anchors, positives, negatives, valid = draw_contrast(roles._replace(embeddings=embeddings), M, N, seed)
    return anchors, positives.detach(), negatives.detach(), 0.5, valid
