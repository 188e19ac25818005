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
# `stal_nb compare` makes the runs that are compared and keeps what they found in one JSON file, `experiment.json`.

# runs that acquire labels
RUN_COLOURS = {"demo": "#c0392b", "entropy": "#c0392b", "random": "#2471a3", "entropy with quotas": "#e08214",
               "words and k-centre": "#1e8449", "words and k-centre, no source": "#7d3c98"}
# runs of the same number of steps that acquire none, or have all
BOUNDS = {"source only": "sim alone", "labels only": "these labels alone", "all labels": "all labels"}


def _points(results: dict, arm: str) -> dict[int, list[float]]:
    "Labelled images -> mIoU of each seed, for one arm."
    points: dict[int, list[float]] = {}
    for run in results["runs"]:
        if run["arm"] == arm:
            for stage in run["stages"][-1:] if arm in BOUNDS else run["stages"]:
                if stage["miou"] is not None:
                    points.setdefault(stage["labelled"], []).append(stage["miou"])
    return dict(sorted(points.items()))


def comparison_figure(results: dict) -> go.Figure:
    """mIoU by acquired labels: a thin line a seed, the mean thick; dashed, the same network and number of steps with
    none, the same or all target labels and nothing else."""
    figure = go.Figure()
    for arm, colour in RUN_COLOURS.items():
        points = _points(results, arm)
        if not points:
            continue
        x = list(points)
        for k in range(max(map(len, points.values()), default=0)):
            figure.add_scatter(x=x, y=[v[k] for v in points.values() if k < len(v)], mode="lines",
                               line=dict(color=colour, width=1), opacity=0.4, showlegend=False, hoverinfo="skip")
        figure.add_scatter(x=x, y=[np.mean(v) for v in points.values()], mode="lines+markers", name=arm,
                           line=dict(color=colour, width=3), marker_size=9,
                           hovertemplate="%{x} labels<br>mIoU %{y:.1f}<extra>" + arm + "</extra>")
    for arm, words in BOUNDS.items():
        for labelled, values in _points(results, arm).items():
            words = f"all {labelled} labels" if arm == "all labels" else words
            figure.add_hline(np.mean(values), line_dash="dash", line_color="#777",
                             annotation_text=f"{words}: {np.mean(values):.1f}",
                             annotation_position="bottom right" if arm == "source only" else "top left")
    figure.update_layout(title="mIoU by acquired labels", xaxis_title="labelled target images", yaxis_title="mIoU (%)",
                         legend=dict(orientation="h", y=1.1, x=1, xanchor="right"), **LAYOUT)
    return figure


def comparison_table(results: dict) -> pd.DataFrame:
    "The same numbers as a table: mean and standard deviation over seeds."
    rows = []
    for arm in (*RUN_COLOURS, *BOUNDS):
        for labelled, values in _points(results, arm).items():
            name = "source only, before the first round" if labelled == 0 and arm not in BOUNDS else arm
            name = "sim alone, as many steps" if arm == "source only" else name
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            rows.append({"run": name, "labelled images": labelled, "mIoU (%)": f"{np.mean(values):.1f}{spread}",
                         "seeds": len(values)})
    table = pd.DataFrame(rows).drop_duplicates().sort_values("labelled images", kind="stable")
    return table.set_index("run")


def gap_figure(results: dict) -> plt.Figure:
    "IoU of each class on real validation images: trained on `sim` alone, and on all real labels; mean over seeds."
    found = {}
    for arm in ("source only", "all labels"):
        last = [run["stages"][-1] for run in results["runs"] if run["arm"] == arm]
        names = list(last[0]["iou"])
        values = np.ma.masked_invalid([[np.nan if r["iou"][c] is None else r["iou"][c] for c in names] for r in last])
        by_class = values.mean(0).filled(np.nan)  # no bar for a class that never occurs
        found[arm] = np.mean([r["miou"] for r in last]), by_class
    order = np.argsort(-found["all labels"][1])
    figure, axis = plt.subplots(figsize=(11, 3.2), dpi=80)
    bars = (("source only", "trained on sim", "#9ecae1"), ("all labels", "trained on real", "#08519c"))
    for k, (arm, label, colour) in enumerate(bars):
        miou, values = found[arm]
        axis.bar(np.arange(len(order)) + 0.4 * (k - 0.5), values[order], 0.4, color=colour,
                 label=f"{label}: mIoU {miou:.1f} %")
    axis.set_xticks(range(len(order)), [names[i] for i in order], rotation=45, ha="right")
    axis.set_ylabel("IoU on real (%)")
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def provenance(results: dict) -> str:
    "Where the numbers come from, in one sentence."
    runs = results["runs"]
    seeds, minutes = sorted({run["seed"] for run in runs}), [run["seconds"] / 60 for run in runs]
    config = next(run["config"] for run in runs if run["arm"] == results["arms"][0])
    return (f"experiments/{results['name']}.toml, seeds {', '.join(map(str, seeds))}, "
            f"{' + '.join(map(str, (config['source_steps'], *config['round_steps'])))} steps, one CPU core a run, "
            f"{min(minutes):.0f} to {max(minutes):.0f} minutes of training and evaluation a run")


def summary_of(run: dict) -> dict:
    "A run of an experiment as `Run.summary` has it."
    first = [stage for stage in run["stages"] if stage["stage"] == "source"]
    rounds = [stage for stage in run["stages"] if stage["stage"] != "source"]
    return {"source_only": first[0] if first else None, "rounds": rounds}


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
