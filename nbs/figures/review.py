"The review's first question: how wrong pixels are by their entropy, and what an entropy query gains over chance."
import json
from pathlib import Path

import pandas as pd

from figures.strategies import read_strategies

SEEDS = (0, 1, 2)
TARGETS = {"drawn streets": ("demo", "scenes"), "CamVid": ("camvid", "camvid")}  # its names in both files


def wrong_pixels(rows, surer):
    "Seed by seed after the warm-up: percent wrong in the four surer fifths by entropy, or in the least sure fifth."
    after = [r for r in rows if r["stage"] == "after" and r["measure"] == "entropy"]
    after.sort(key=lambda r: r["seed"])
    shares = [(1 - r["caught"]) / 0.8 if surer else r["caught"] / 0.2 for r in after]
    return [round(100 * r["error"] * share) for r, share in zip(after, shares, strict=True)]


def over_chance(runs, strategy):
    "Seed by seed: mIoU after a query by the strategy, minus that after a random one."
    miou = {(r["strategy"], r["seed"]): r["miou"] for r in runs}
    gains = [round(miou[strategy, k] - miou["random", k], 1) for k in SEEDS if (strategy, k) in miou]
    return gains or "not measured"


def review_table(folder="results"):
    "Four rows, a column a target, three seeds in each cell."
    uncertainty = json.loads((Path(folder) / "uncertainty.json").read_text(encoding="utf-8"))
    strategies = read_strategies(Path(folder) / "strategies.json")
    columns = {}
    for target, (preset, data) in TARGETS.items():
        rows = uncertainty[preset]["rows"]
        runs = [r for r in strategies if r["data"] == data]
        columns[target] = {"wrong pixels, four surer fifths (%)": wrong_pixels(rows, surer=True),
                           "wrong pixels, least sure fifth (%)": wrong_pixels(rows, surer=False),
                           "entropy against chance (mIoU)": over_chance(runs, "entropy"),
                           "entropy with quotas against chance": over_chance(runs, "entropy_group_quota")}
    return pd.DataFrame(columns)
