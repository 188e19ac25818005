"""Runs of several strategies compared: for 10 Selection."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from stal_nb.app.selection_explorer import title_of

MARKS = {"random": ("o", "#888888"), "entropy": ("s", "#7b3294"), "entropy_group_quota": ("D", "#e08214"),
         "margin": ("^", "#1b7837"),
         "least_confidence": ("v", "#d95f02"), "core_set": ("P", "#2166ac"), "random_group_quota": ("X", "#bbbbbb"),
         "bald": ("<", "#c51b7d"),
         "ensemble": (">", "#8c510a"), "uncertainty_diversity": ("*", "#4393c3"), "rare_class": ("h", "#b2182b"),
         "ripu_regions": ("d", "#01665e"), "ripu_pixels": ("p", "#35978f"), "random_regions": ("8", "#999999"),
         "random_pixels": ("H", "#cccccc"), "sure": ("x", "#000000")}  # marker and colour of a strategy


# Comparisons
#
# `bench/strategies.py` makes the runs that are compared.


def read_strategies(
    file: str | Path = "results/strategies.json",  # beside the notebook
) -> list[dict]:
    "What `bench/strategies.py` measured: one entry a finished run. Empty if there is nothing yet."
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        return []


def _frame(measured: list[dict]) -> pd.DataFrame:
    "One row a run, with its gain over the warm-up and over `random` of the same data and seed."
    table = pd.DataFrame([{key: run[key] for key in ("data", "strategy", "seed", "warm_up", "miou")}
                          for run in measured],
                         columns=["data", "strategy", "seed", "warm_up", "miou"])
    base = table[table.strategy == "random"].set_index(["data", "seed"]).miou
    table["to random"] = [m - base.get((d, s), np.nan) for d, s, m in zip(table.data, table.seed, table.miou)]
    return table


def strategies_table(measured: list[dict]) -> pd.DataFrame:
    "Mean and standard deviation over seeds, of the mIoU and of the difference to `random` of the same seed."
    if not measured:
        return pd.DataFrame(columns=["seeds", "mIoU (%)", "difference to random"])

    def spread(values: pd.Series, sign: str = "") -> str:
        values = values.dropna()
        return (
            ""
            if not len(values)
            else f"{values.mean():{sign}.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
        )

    groups = _frame(measured).groupby(["data", "strategy"])
    table = pd.DataFrame({"seeds": groups.size(), "mIoU (%)": groups.miou.apply(spread),
                          "difference to random": groups["to random"].apply(spread, sign="+"),
                          "mean": groups.miou.mean()})
    return table.sort_values(["data", "mean"], ascending=[False, False]).drop(columns="mean")


def strategies_figure(measured: list[dict]) -> plt.Figure:
    """mIoU of every strategy after the same query from the same warm-up: a dot a seed, mean and standard deviation.
    Tells if nothing was measured."""
    if not measured:
        figure, axis = plt.subplots(figsize=(9, 0.5), dpi=80)
        axis.axis("off")
        axis.text(
            0,
            0.4,
            "Nothing has been measured yet: run python bench/strategies.py scenes, which may be stopped and continued.",
            fontsize=11,
        )
        return figure
    table = _frame(measured)
    sets = list(dict.fromkeys(table.data))
    figure, axes = plt.subplots(1, len(sets), figsize=(6.2 * len(sets), 0.9 + 0.3 * table.strategy.nunique()), dpi=80,
                                layout="constrained", squeeze=False)
    for axis, data in zip(axes[0], sets):
        here = table[table.data == data]
        order = here.groupby("strategy").miou.mean().sort_values().index.tolist()
        for y, name in enumerate(order):
            values = here[here.strategy == name].miou
            colour = MARKS.get(name, ("o", "#444444"))[1]
            axis.plot(values, [y] * len(values), ".", color=colour, alpha=0.6)
            axis.errorbar(values.mean(), y, xerr=values.std() if len(values) > 1 else 0, fmt="D", color=colour,
                          markersize=6, capsize=4)
        axis.axvline(here.drop_duplicates("seed").warm_up.mean(), color="#999999", linestyle=":",
                     label="after the warm-up")
        axis.set_yticks(range(len(order)), [title_of(n) for n in order], fontsize=8.5)
        axis.set(xlabel="mIoU after one more query (%)", title=f"{data}, {here.seed.nunique()} seeds")
        axis.legend(frameon=False, fontsize=8)
        axis.grid(axis="y", color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    return figure
