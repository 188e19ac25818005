"""Figure of the notebook `source_trial`: what the trial said of each pool, beside what full runs found."""

from matplotlib import pyplot as plt

COLOURS = {"facade_pools": "#1e8449", "camvid_pools": "#2471a3", "cells_pools": "#7d3c98"}
TITLES = {"facade_pools": "house fronts", "camvid_pools": "CamVid", "cells_pools": "cells"}


def trial_figure(
    rows: list[dict],  # of `results/source_trial.json`
) -> plt.Figure:
    "Each pool a line: the trial with its interval, and a cross for labels + source minus labels only in full runs."
    order = sorted(rows, key=lambda row: (list(TITLES).index(row["experiment"]), row["seed"]))
    figure, axis = plt.subplots(figsize=(9, 0.3 * len(order) + 1.2), dpi=80)
    for k, row in enumerate(order):
        colour = COLOURS[row["experiment"]]
        axis.plot([row["low"], row["high"]], [k, k], color=colour, linewidth=2, alpha=0.5)
        axis.plot(row["trial"], k, "o", color=colour, label="trial, 95 % interval" if not k else None)
        axis.plot(row["full runs"], k, "x", color="black", label="full runs" if not k else None)
    axis.axvline(0, color="#777", linewidth=1)
    axis.set_yticks(range(len(order)), [f"{TITLES[row['experiment']]}, pool {row['seed']}" for row in order])
    axis.invert_yaxis()
    axis.set_xlabel("mIoU with the source minus without, points")
    axis.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    return figure
