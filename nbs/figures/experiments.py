"""Tables of stored experiments, for 21 Experiments."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from stal_nb.comparison import HEAD, compare, measured, row_cells
from stal_nb.statistics import paired


def read_experiment(file: str | Path) -> dict:  # "runs", and of a comparison "arms", "seeds", "baseline", "data"
    "Stored results."
    return json.loads(Path(file).read_text(encoding="utf-8"))


def paired_table(results: dict, measure: str = "miou", baseline: str = "") -> pd.DataFrame:
    "Each arm against the baseline, or another arm in its place, paired by seed, as `stal_nb compare` prints it."
    rows = [row_cells(row) for row in compare({**results, "baseline": baseline or results["baseline"]}, measure)]
    table = pd.DataFrame(rows, columns=HEAD).set_index(["data", "arm"])
    return table if len(results["data"]) > 1 else table.droplevel("data")


def of_data(results: dict, data: str) -> dict:
    "Of an experiment on several data sets what it did on one, for any of the tables."
    return {**results, "data": [data], "runs": [run for run in results["runs"] if run["data"] == data]}


def _by_seed(results: dict, measure: str) -> pd.DataFrame:
    rows = {(r["arm"], f"seed {r['seed']}"): measured(r, measure) for r in results["runs"]}
    return pd.Series(rows).unstack().loc[results["arms"]]


def seed_table(results: dict, measure: str = "miou") -> pd.DataFrame:
    "A row an arm, a column a seed; percent."
    return _by_seed(results, measure).round(1)


def gap_closed(results: dict, below: tuple[str, ...], above: str) -> pd.DataFrame:
    """How much of the way from the best mean of the arms `below` to the mean of `above` an arm goes, percent.

    Over the seeds that all arms have."""
    table = _by_seed(results, "miou").dropna(axis=1)
    start, end = table.loc[list(below)].mean(axis=1).max(), table.loc[above].mean()
    others = table.drop([*below, above]).mean(axis=1)
    return pd.DataFrame({f"of {start:.1f} to {end:.1f}": 100 * (others - start) / (end - start)})


def with_labels(results: dict, labels: int) -> dict:
    "The same runs as they stood with so many labels, for any of the tables; without those that never did."
    runs = [{**run, "stages": run["stages"][:number + 1]} for run in results["runs"]
            for number, stage in enumerate(run["stages"]) if stage["labelled"] == labels]
    return {**results, "runs": runs, "arms": [arm for arm in results["arms"] if any(run["arm"] == arm for run in runs)]}


def pooled_table(pairs: dict[str, tuple[dict, str, str]], measure: str = "miou") -> pd.DataFrame:
    """One arm against another, paired by seed: a row an experiment, and one of all pairs together, each of which counts
    once. `pairs` is name -> (results, arm, other arm)."""
    def values(name: str, results: dict, arm: str) -> dict[tuple, float | None]:
        return {(name, run["seed"]): measured(run, measure) for run in results["runs"] if run["arm"] == arm}

    found = [(values(name, results, arm), values(name, results, other))
             for name, (results, arm, other) in pairs.items()]
    ours, theirs = ({key: value for pair in found for key, value in pair[side].items()} for side in (0, 1))
    parts = dict(zip(pairs, (paired(*pair) for pair in found), strict=True)) | {"all together": paired(ours, theirs)}
    return pd.DataFrame.from_dict({
        name: {"pairs": len(part.values), "difference": f"{part.mean:+.1f}",
               "95 % interval": f"{part.low:+.1f} to {part.high:+.1f}", "p": f"{part.p:.3f}",
               "pair by pair": ", ".join(f"{value:+.1f}" for value in part.values) if name in pairs else "",
               "what it says": part.verdict}
        for name, part in parts.items()}, orient="index")


def budget_table(results: dict) -> pd.DataFrame:
    "Mean mIoU by the number of labels, a row an arm; arms that are trained once have the last column alone."
    rows = [(run["arm"], stage["labelled"], stage["miou"])
            for run in results["runs"] for stage in run["stages"] if stage["labelled"] > 0]
    table = pd.DataFrame(rows, columns=("arm", "labels", "miou")).groupby(["arm", "labels"]).miou.mean().unstack()
    return table.loc[results["arms"]].rename(columns=lambda n: f"{n} labels")


def mean_table(results: dict, measures: dict[str, str]) -> pd.DataFrame:
    "Means over the seeds, percent: a row an arm, a column a measure with its own name; empty where a run has none."
    columns = {name: {(r["arm"], r["seed"]): measured(r, measure) for r in results["runs"]}
               for name, measure in measures.items()}
    return pd.DataFrame(columns).groupby(level=0).mean().loc[results["arms"]]


def stage_table(results: dict, arms: list[str], measures: dict[str, str]) -> pd.DataFrame:
    "As `mean_table`, with a row for each stage of each arm."
    rows = []
    for run in results["runs"]:
        for number, stage in enumerate(run["stages"] if run["arm"] in arms else ()):
            found = {name: measured({**run, "stages": [stage]}, measure) for name, measure in measures.items()}
            rows.append({"arm": run["arm"], "number": number, "after": stage["stage"], "labels": stage["labelled"],
                         **found})
    table = pd.DataFrame(rows).groupby(["arm", "number", "after", "labels"]).mean().droplevel("number")
    return table.loc[arms]


def query_differences(rows: list[dict], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """What a query is worth above another of the same pool: to the proxy, and to the run. `rows` are those of
    `bench/proxy_agreement.py`, `pairs` (arm, arm that it is compared to)."""
    table = pd.DataFrame(rows).set_index(["experiment", "seed", "arm"])[["proxy", "run"]]
    found = {}
    for arm, other in pairs:
        differences = table.xs(arm, level="arm") - table.xs(other, level="arm")
        found |= {(data, f"seed {seed}", f"{arm} − {other}"): row
                  for (data, seed), row in differences.dropna().iterrows()}
    return pd.DataFrame(found).T.rename_axis(["data", "pool", "queries"])


def agreement_figure(differences: pd.DataFrame, names: dict[str, str]) -> plt.Figure:
    "Differences by the proxy against those of full runs, a dot a pool; upper right and lower left: they agree."
    figure, axis = plt.subplots(figsize=(5.6, 4.4), dpi=80, layout="constrained")
    axis.axhline(0, color="#bbbbbb", linewidth=1)
    axis.axvline(0, color="#bbbbbb", linewidth=1)
    for (data, queries), group in differences.groupby(level=["data", "queries"], sort=False):
        colour = {"cells_pools": "#7b3294", "facade_pools": "#1b7837"}[data]
        marker = "o" if "words" in queries else "s" if "entropy" in queries else "^"
        axis.scatter(group["proxy"], group["run"], color=colour, marker=marker, s=34, alpha=0.8,
                     label=f"{names[data]}: {queries}")
    axis.set_xlabel("difference of two queries by the proxy, mIoU")
    axis.set_ylabel("difference of the full runs, mIoU")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
