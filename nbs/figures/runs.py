"""Pictures of finished runs, for 01, 13 and 20; small runs for tests."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from matplotlib import pyplot as plt

from stal_nb.app.drawing import LAYOUT
from stal_nb.metrics import SegmentationMetrics
from stal_nb.models import predict_logits
from stal_nb.run import Run

SMALL = dict(
    image_size=(96, 192), crop_size=(64, 128), source_scale=(0.6, 1.2), target_scale=(0.6, 1.2),
    source_images=60, target_images=30, val_images=12, source_batch=2, target_batch=1, unlabelled_batch=2,
    source_steps=20, round_steps=(20, 20), budgets=(0.07, 0.2), num_anchors=20, bank_capacity=500, plan_every=5)


def example_run(
    path: Path,  # folder of the run
    **changes,  # settings to change
) -> Run:  # complete
    "A run of about twenty seconds, for looking at; far too short to be good."
    from stal_nb.config import Config

    few = {"source_steps": 8, "round_steps": (8, 8)} if "IN_TEST" in os.environ else {}  # enough for tests of notebooks
    run = Run.create(Config.preset("demo", **{**SMALL, "name": "example", **few, **changes}), path)
    run.bar = False
    run.finish()
    return run


@torch.inference_mode()
def image_scores(run: Run) -> pd.Series:  # place among the validation images -> mIoU, percent; the worst first
    "mIoU of each validation image after the last round, over the classes that it shows."
    model, scores = run.model_after(f"round {len(run.budgets) - 1}"), {}
    measured = SegmentationMetrics(run.data.label_space)
    for k, sample in enumerate(run.data.val):
        logits = predict_logits(model, sample.image[None].to(run.device), run.config.eval_size)
        measured.reset()
        measured.update(logits.cpu(), sample.labels[None])
        scores[k] = measured.compute().miou
    return pd.Series(scores).sort_values()


# Comparisons
#
# `bench/measure.py` makes the runs that are compared and keeps their summaries in one JSON file.

RUN_COLOURS = {"entropy": "#c0392b", "random": "#2471a3", "quota": "#e08214"}  # runs that acquire labels
KIND_NAMES = {"quota": "entropy with each group's share", "oracle": "all labels"}

# runs of the same number of steps that acquire none, or have all
BOUNDS = {"source": "sim alone", "oracle": "all labels"}


def _points(measured: dict, kind: str) -> dict[int, list[float]]:
    "Labelled images -> mIoU of each seed, for one kind of run."
    points: dict[int, list[float]] = {}
    for run in measured["runs"]:
        if run["kind"] == kind:
            source = [] if kind == "oracle" else [(0, run["source_only"]["miou"])]
            for labelled, miou in source + [(r["labelled"], r["miou"]) for r in run["rounds"]]:
                points.setdefault(labelled, []).append(miou)
    return dict(sorted(points.items()))


def comparison_figure(measured: dict) -> go.Figure:
    """mIoU by acquired labels: a thin line a seed, the mean thick; dashed, the same network and number of steps with no
    or all target labels."""
    figure = go.Figure()
    for kind, colour in RUN_COLOURS.items():
        points = _points(measured, kind)
        if not points:
            continue
        x = list(points)
        for k in range(max(map(len, points.values()), default=0)):
            figure.add_scatter(x=x, y=[v[k] for v in points.values() if k < len(v)], mode="lines",
                               line=dict(color=colour, width=1), opacity=0.4,
                               showlegend=False, hoverinfo="skip")
        figure.add_scatter(x=x, y=[np.mean(v) for v in points.values()], mode="lines+markers",
                           name=KIND_NAMES.get(kind, kind), line=dict(color=colour, width=3), marker_size=9,
                           hovertemplate="%{x} labels<br>mIoU %{y:.1f}<extra>" + kind + "</extra>")
    for kind, words in BOUNDS.items():
        for labelled, values in _points(measured, kind).items():
            words = (
                f"{words}: {np.mean(values):.1f}" if not labelled else f"all {labelled} labels: {np.mean(values):.1f}"
            )
            figure.add_hline(np.mean(values), line_dash="dash", line_color="#777", annotation_text=words,
                             annotation_position="bottom right")
    figure.update_layout(title="mIoU by acquired labels", xaxis_title="labelled target images", yaxis_title="mIoU (%)",
                         legend=dict(orientation="h", y=1.1, x=1, xanchor="right"), **LAYOUT)
    return figure


def comparison_table(measured: dict):
    "The same numbers as a table: mean and standard deviation over seeds."
    import pandas as pd

    rows = []
    for kind in (*RUN_COLOURS, *BOUNDS):
        for labelled, values in _points(measured, kind).items():
            first = labelled == 0 and kind != "source"
            name = (
                "source only, before the first round"
                if first
                else "sim alone, as many steps"
                if kind == "source"
                else KIND_NAMES.get(kind, kind)
            )
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            rows.append({"run": name, "labelled images": labelled, "mIoU (%)": f"{np.mean(values):.1f}{spread}",
                         "seeds": len(values)})
    table = pd.DataFrame(rows).drop_duplicates().sort_values("labelled images", kind="stable")
    return table.set_index("run")


def gap_figure(measured: dict) -> plt.Figure:
    "IoU of each class on real validation images: trained on `sim` alone, and on all real labels; mean over seeds."
    found = {}
    for kind in BOUNDS:
        results = [run["source_only"] if kind == "source" else run["rounds"][-1] for run in measured["runs"]
                   if run["kind"] == kind]
        names = list(results[0]["iou"])
        values = np.ma.masked_invalid([[np.nan if r["iou"][c] is None else r["iou"][c] for c in names]
                                       for r in results])
        # no bar for a class that never occurs
        found[kind] = np.mean([r["miou"] for r in results]), values.mean(0).filled(np.nan)
    order = np.argsort(-found["oracle"][1])
    figure, axis = plt.subplots(figsize=(11, 3.2), dpi=80)
    for k, (kind, label, colour) in enumerate((("source", "trained on sim", "#9ecae1"),
                                               ("oracle", "trained on real", "#08519c"))):
        axis.bar(np.arange(len(order)) + 0.4 * (k - 0.5), found[kind][1][order], 0.4, color=colour,
                 label=f"{label}: mIoU {found[kind][0]:.1f} %")
    axis.set_xticks(range(len(order)), [names[i] for i in order], rotation=45, ha="right")
    axis.set_ylabel("IoU on real (%)")
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def provenance(measured: dict) -> str:
    "Where the numbers come from, in one sentence."
    seeds = sorted({run["seed"] for run in measured["runs"]})
    minutes = [run["seconds"] / 60 for run in measured["runs"] if run["kind"] == "entropy"]
    config = next(run["config"] for run in measured["runs"] if run["kind"] == "entropy")
    return (
        f"preset {measured['preset']}, seeds {', '.join(map(str, seeds))}, "
        f"{' + '.join(map(str, (config['source_steps'], *config['round_steps'])))} steps, "
        f"{measured['cores']} CPU cores, {min(minutes):.1f} minutes of training and evaluation for the quickest run"
    )


# Starting a run by hand
#
# A form for the settings that one changes most, for people who prefer a form to a cell.


def preset_table():  # pandas.DataFrame
    "The presets and what sets them apart."
    import pandas as pd

    from stal_nb.config import PRESETS, Config

    lines = []
    for name in PRESETS:
        config = Config.preset(name)
        epochs = getattr(config, "round_epochs", ())
        length = f"{config.source_steps:,} steps, then " if config.source_steps else ""
        length += (
            " + ".join(f"{e:g}" for e in epochs) + " epochs"
            if epochs
            else " + ".join(f"{n:,}" for n in config.round_steps) + " steps"
        )
        lines.append({
            "preset": name, "labelled source": SOURCE_NAMES.get(getattr(config, "source", "scenes"), "your folder"),
            "target": TARGET_NAMES.get(config.data, "your folder"),
            "network": f"{config.backbone}, output stride {config.output_stride}",
            "crop": "{} × {}".format(*config.crop_size), "training": length,
            "acquired labels in all": ", ".join(f"{b:g}" if not isinstance(b, float) or b > 1 else f"{100 * b:g} %"
                                              for b in config.budgets),
            "labelled by": config.annotator})
    return pd.DataFrame(lines).set_index("preset")

SOURCE_NAMES = {"scenes": "drawn scenes", "gta5": "GTA5", "synthia": "SYNTHIA"}
TARGET_NAMES = {"scenes": "drawn scenes", "camvid": "CamVid", "cityscapes": "Cityscapes"}
