"""Pictures for runtime/calibration, and the measures judged at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from figures.sheets import MAGMA, bare
from stal_nb.app.drawing import still
from stal_nb.app.selection_explorer import PredictedScenes
from stal_nb.app.uncertainty_picture import CAUGHT, DROPPED, ERROR
from stal_nb.calibration import Calibration, ErrorHistogram, error_auroc, reliability, sparsification
from stal_nb.labels import IGNORE, Sample
from stal_nb.uncertainty import (
    ENSEMBLE_MEASURES,
    MEASURES,
    Ensemble,
    class_probs,
    dropout_passes,
    ensemble_passes,
    evaluating,
    ripu,
)

COLOURS = {"entropy": "#7b3294", "margin": "#1b7837", "least_confidence": "#d95f02"}  # one line colour a measure


# Shading the uncertain pixels


def shade_picture(image: Tensor, pixel_map: Tensor, wrong: Tensor, percent: float) -> tuple[np.ndarray, float]:
    """The most uncertain percentage of pixels in grey, errors under it orange, other errors red; and the share of
    errors under it."""
    order = pixel_map.flatten().argsort(descending=True, stable=True)
    shaded = torch.zeros(pixel_map.numel(), dtype=torch.bool)
    shaded[order[:round(percent / 100 * len(order))]] = True
    shaded = shaded.view(pixel_map.shape)
    picture = still(image)
    picture[shaded.numpy()] = DROPPED
    picture[(wrong & ~shaded).numpy()] = ERROR
    picture[(wrong & shaded).numpy()] = CAUGHT
    return picture, (wrong & shaded).sum().item() / max(1, wrong.sum().item())


def threshold_figure(scenes: PredictedScenes, i: int, percents: Sequence[float],
                     measure: str = "entropy") -> plt.Figure:
    "Several thresholds side by side, after the map itself."
    pixel_map = MEASURES[measure](scenes.probs[i:i + 1])[0]
    figure, axes = plt.subplots(1, 1 + len(percents), figsize=(3.1 * (1 + len(percents)), 1.9), dpi=80,
                                layout="constrained")
    bare(axes[0], pixel_map, measure.replace("_", " "), **MAGMA)
    for axis, percent in zip(axes[1:], percents):
        picture, caught = shade_picture(scenes.images[i], pixel_map, scenes.wrong[i], percent)
        bare(axis, picture, f"{percent:.0f}% shaded: {caught:.0%} of the errors")
    return figure


# Does it find errors?


def sparsification_figure(domains: dict[str, PredictedScenes]) -> plt.Figure:
    "Error rate of what remains when the least sure pixels are removed, for each measure, with the oracle and chance."
    figure, axes = plt.subplots(1, len(domains), figsize=(5.6 * len(domains), 3.4), dpi=80, layout="constrained",
                                sharey=True)
    top = 1.15 * max(scenes.wrong.double().mean().item() for scenes in domains.values())
    for axis, (name, scenes) in zip(np.atleast_1d(axes), domains.items()):
        base = scenes.wrong.double().mean().item()
        axis.axhline(base, color="#999999", linewidth=1, linestyle="--")
        axis.text(0.99, base + 0.01 * top, "removed at random", fontsize=8, color="#777777", ha="right", va="bottom")
        oracle = sparsification(scenes.wrong.double(), scenes.wrong)
        axis.plot(oracle.removed, oracle.error, color="black", linestyle=":", linewidth=1.5,
                  label="oracle: errors first")
        for measure, function in MEASURES.items():
            value = function(scenes.probs)
            curve, auroc = sparsification(value, scenes.wrong), error_auroc(value, scenes.wrong)
            axis.plot(curve.removed, curve.error, color=COLOURS[measure],
                      label=f"{measure.replace('_', ' ')}, AUROC {auroc:.3f}")
        axis.set(xlim=(0, 1), ylim=(0, top), xlabel="share of pixels removed, least sure first")
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.02, 0.86))
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_formatter("{x:.0%}")
    np.atleast_1d(axes)[0].set_ylabel("error rate of the rest")
    return figure


def calibration(scenes: PredictedScenes, bins: int = 10) -> pd.DataFrame:
    "One row a bin of confidence: its mean, how many pixels it has, and the share of them that is right."
    found = reliability(scenes.probs.amax(1), scenes.wrong, bins, scenes.labels != IGNORE)
    return pd.DataFrame({name: getattr(found, name).numpy() for name in ("confidence", "pixels", "right")})


def reliability_figure(domains: dict[str, PredictedScenes]) -> plt.Figure:
    "How often a confidence is right, how often it is given, and the expected calibration error."
    figure, axes = plt.subplots(1, len(domains), figsize=(3.7 * len(domains), 3.0), dpi=80, layout="constrained",
                                sharey=True)
    for axis, (name, scenes) in zip(np.atleast_1d(axes), domains.items()):
        table, ece = calibration(scenes), reliability(scenes.probs.amax(1), scenes.wrong, 10,
                                                      scenes.labels != IGNORE).ece
        enough = table[table.pixels > 1000]
        axis.bar((np.arange(len(table)) + 0.5) / len(table), table.pixels / table.pixels.sum(), 0.9 / len(table),
                 color="#d8d8d8", label="share of pixels")
        axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
        axis.vlines(enough.confidence, enough.right, enough.confidence, color="#b0413e", alpha=0.35, linewidth=3)
        axis.plot(enough.confidence, enough.right, "o-", color="#b0413e", label="share that is right")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence $p_{(1)}$")
        axis.set_title(f"{name}: ECE {ece:.3f}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_formatter("{x:.0%}")
    np.atleast_1d(axes)[0].legend(fontsize=8, frameon=False, loc="upper left")
    return figure


# Many measures judged at once


class Judged(NamedTuple):
    "What measures know of one network's errors on some images."
    finders: dict[str, ErrorHistogram]  # measure -> its counts
    calibration: Calibration  # of the network's own confidence
    labels: dict[str, str]  # measure -> as people read it

    def table(self) -> pd.DataFrame:
        "One row a measure: AUROC, AUSE, and the share of the errors in the least sure fifth."
        rows = {self.labels[name]: (h.auroc(), h.ause(), h.caught(0.2)) for name, h in self.finders.items()}
        return pd.DataFrame(rows, ["AUROC", "AUSE", "errors in top 20 %"]).T


def judge_measures(
    network: nn.Module,  # whose errors are to be found
    samples: Iterable[Sample],  # with labels; 255 = does not count
    ensemble: Sequence[nn.Module] = (),  # networks for the ensemble's measures; none = leave these out
    passes: int = 8,  # of dropout; 0 = leave its measures out
    rate: float | None = None,  # of dropout; None = the network's own
    radius: int = 4,  # of RIPU, pixels
    predict: Callable[[nn.Module, Tensor], Tensor] = class_probs,  # (network, images) -> (1, C, H, W) probabilities
    bins: int = 10_000,  # of the histograms
) -> Judged:
    """Stream over images; every measure has to find the same errors, those of the network's plain prediction.

    Measures of an ensemble are judged so by how well they warn of one member's errors. One image's tensors live at a
    time.
    """
    finders, calibration = defaultdict(lambda: ErrorHistogram(bins)), Calibration()
    generator, labels = torch.Generator().manual_seed(0), {}
    for sample in samples:
        images, truth = sample.image[None], sample.labels[None]
        with evaluating(network):
            probs = predict(network, images)
        confidence, predicted = probs.max(1)
        valid = truth != IGNORE
        wrong = (predicted != truth) & valid
        maps = {name: measure(probs) for name, measure in MEASURES.items()} | {"ripu": ripu(probs, radius)}
        labels |= {name: name.replace("_", " ") for name in MEASURES} | {"ripu": f"RIPU, radius {radius}"}
        several = {"dropout": dropout_passes(network, images, passes, generator, rate, predict) if passes else None,
                   "ensemble": ensemble_passes(ensemble, images, predict) if ensemble else None}
        for kind, stream in several.items():
            if stream is not None:
                members = Ensemble(stream)
                for name in ("predictive_entropy", "bald", "variation_ratio", "mean_std"):
                    maps[f"{kind}_{name}"] = ENSEMBLE_MEASURES[name](members)
                    labels[f"{kind}_{name}"] = f"{kind}: {'BALD' if name == 'bald' else name.replace('_', ' ')}"
        for name, value in maps.items():
            finders[name].add(value, wrong, valid)
        calibration.add(confidence, wrong, valid)
    return Judged(dict(finders), calibration, labels)


def finding_figure(
    judged: dict[str, Judged],  # title -> what was found
    shown: Sequence[str],  # measures to draw
) -> plt.Figure:
    """Error rate of what remains when the least sure pixels are removed, with the oracle and chance; one panel a
    network."""
    figure, axes = plt.subplots(1, len(judged), figsize=(4.6 * len(judged), 3.6), dpi=80, layout="constrained",
                                sharey=True)
    top = 1.12 * max(next(iter(j.finders.values())).error_rate for j in judged.values())
    colours = dict(zip(shown, ("#7b3294", "#1b7837", "#d95f02", "#2166ac", "#b2182b", "#666666")))
    for axis, (title, found) in zip(np.atleast_1d(axes), judged.items()):
        base = next(iter(found.finders.values())).error_rate
        removed = np.linspace(0, 1, 101)
        axis.axhline(base, color="#999999", linewidth=1, linestyle="--")
        axis.plot(removed, np.maximum(0, base - removed) / np.maximum(1 - removed, 1e-9), color="black", linestyle=":",
                  linewidth=1.4, label="oracle")
        for name in shown:
            if name in found.finders:
                curve, ause = found.finders[name].curve(), found.finders[name].ause()
                axis.plot(curve.removed, curve.error, color=colours[name], linewidth=1.5,
                          label=f"{found.labels[name]}, AUSE {ause:.3f}")
        axis.set(xlim=(0, 1), ylim=(0, top), xlabel="share of pixels removed, least sure first")
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_formatter("{x:.0%}")
    np.atleast_1d(axes)[0].set_ylabel("error rate of the rest")
    return figure


def results_table(results: dict, data: str) -> pd.DataFrame:
    """Measured runs (`bench/uncertainty_errors.py`): mean ± standard deviation over seeds, a row a measure, before and
    after the warm-up."""
    frame = pd.DataFrame(results[data]["rows"])
    frame["measure"] = pd.Categorical(frame["label"], list(dict.fromkeys(frame["label"])), ordered=True)
    columns = {"auroc": "AUROC", "ause": "AUSE", "caught": "errors in top 20 %"}
    grouped = frame.groupby(["measure", "stage"], observed=True)[list(columns)].agg(["mean", "std"])
    text = pd.DataFrame(
        {
            (stage, shown): grouped.xs(stage, level="stage")[name].apply(
                lambda r: f"{r['mean']:.3f} ± {r['std']:.3f}", axis=1
            )
            for stage in ("before", "after")
            for name, shown in columns.items()
        }
    )
    return text


def calibration_table(results: dict) -> pd.DataFrame:
    """Expected calibration error of the network before and after the warm-up: mean ± standard deviation over seeds, a
    row a data set."""
    rows = {}
    for entry in results.values():
        # one network a seed and stage
        errors = pd.DataFrame(entry["rows"]).drop_duplicates(["seed", "stage"]).groupby("stage")["ece"]
        rows[entry["title"]] = {f"ECE {stage}": f"{errors.mean()[stage]:.3f} ± {errors.std()[stage]:.3f}"
                                for stage in ("before", "after")}
    return pd.DataFrame.from_dict(rows, orient="index")


def results_figure(results: dict) -> plt.Figure:
    "AUROC of every measure before and after the warm-up, a dot a seed, on every data set that was measured."
    names = list(results)
    figure, axes = plt.subplots(1, len(names), figsize=(5.6 * len(names), 3.9), dpi=80, layout="constrained",
                                sharey=True)
    for axis, name in zip(np.atleast_1d(axes), names):
        frame = pd.DataFrame(results[name]["rows"])
        order = list(dict.fromkeys(frame["label"]))[::-1]
        for stage, colour, shift in (("before", "#a6a6a6", 0.16), ("after", "#7b3294", -0.16)):
            part = frame[frame.stage == stage]
            place = np.array([order.index(label) for label in part["label"]]) + shift
            axis.plot(part["auroc"], place, "o", color=colour, markersize=4.5, alpha=0.8, label=f"{stage} the warm-up")
            for k, label in enumerate(order):
                axis.plot([part[part.label == label]["auroc"].mean()] * 2, [k + shift - 0.17, k + shift + 0.17],
                          color=colour, linewidth=2)
        axis.set_yticks(range(len(order)), order, fontsize=8.5)
        errors = frame.drop_duplicates(["seed", "stage"]).groupby("stage")["error"].mean()
        axis.set_title(f"{results[name]['title']}: {errors['before']:.0%} wrong before, {errors['after']:.0%} after",
                       fontsize=10)
        axis.set_xlabel("AUROC: 0.5 = a coin, 1 = errors are the least sure")
        axis.grid(axis="x", color="#e5e5e5")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    np.atleast_1d(axes)[0].legend(fontsize=8, frameon=False, loc="upper left")
    return figure


# What a temperature does to it


def temperature_figure(rows: pd.DataFrame) -> plt.Figure:
    "Calibration error of each run's teachers as they are (grey) and at their temperature (purple), by data and stage."
    groups = list(rows.groupby(["data", "after"], sort=False))[::-1]
    figure, axis = plt.subplots(figsize=(7.2, 0.6 + 0.38 * len(groups)), dpi=80, layout="constrained")
    for place, (_, group) in enumerate(groups):
        heights = place + np.linspace(0.22, -0.22, len(group))
        axis.hlines(heights, group["ece"], group["ece at T"], color="#cccccc", linewidth=1.5, zorder=1)
        for column, colour, label in (("ece", "#777777", "as it is"), ("ece at T", "#7b3294", "at its temperature")):
            axis.scatter(group[column], heights, color=colour, s=18, label=None if place else label, zorder=2)
    axis.set_yticks(range(len(groups)), [f"{data}, {stage}" for (data, stage), _ in groups])
    axis.set_xlim(left=0)
    axis.set_xlabel("expected calibration error on the validation images")
    axis.legend(frameon=False, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
