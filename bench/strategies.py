"""Compare acquisition strategies at equal budget: the same source model and warm-up, one more purchase by each, the same number of steps.

    python bench/strategies.py scenes --seeds 0 1 2
    python bench/strategies.py camvid --root path/to/camvid --seeds 0 1 2
    python bench/strategies.py scenes --strategies random entropy ripu_regions --set budgets=0.02,0.04

A strategy continues from the warm-up of the base run of its seed (`Run.fork`), so runs of a seed differ in the query alone. Every
budget is counted in pixels, so regions and pixels cost as much as images. Runs are kept in runs/strategies/: a stopped comparison
continues where it was, and the results file is written anew after every run; a strategy whose run is complete is only read.
The control `sure` labels the images of lowest entropy, which no one would buy: it is here to be looked at, not in `STRATEGIES`.
"""
import argparse
import json
import os
import platform
from pathlib import Path

import torch
from stored import AS_STORED

from stal_nb.cli import parse_setting
from stal_nb.config import Config
from stal_nb.run import Run
from stal_nb.runtime.errors import BudgetError
from stal_nb.runtime.files import atomic_write_json
from stal_nb.selection import STRATEGIES, StrategyInput, declare, top_k

PRESETS = {"scenes": "demo", "camvid": "camvid"}
ALL = [
    "random", "entropy", "entropy_group_quota", "margin", "least_confidence", "bald", "ensemble", "core_set",
    "uncertainty_diversity", "rare_class", "ripu_regions", "ripu_pixels", "random_regions", "random_pixels", "sure",
]


def sure(pool: StrategyInput) -> list[str]:
    "The images of which the network is surest."
    return [pool.ids[i] for i in top_k(-torch.as_tensor(pool.scores["entropy"]), pool.k, ids=pool.ids)]


STRATEGIES["sure"] = declare(sure, {"entropy"})


def base_run(data: str, root: str, seed: int, folder: Path, changes: dict, bar: bool) -> Run:
    "Source model, first purchase and warm-up, which all strategies share."
    preset = PRESETS[data]
    config = Config.preset(preset, data_root=root, seed=seed, **{**AS_STORED.get(preset, {}), **changes})
    run = Run.create(config, folder)
    run.bar = bar
    while run.stage is not None and not (run.round_folder(0) / "metrics.json").exists():
        run.advance()
    return run


def continued(base: Run, name: str, folder: Path, bar: bool) -> dict:
    "One strategy from the warm-up to the end of the second round."
    run = Run.open(folder) if (folder / "config.json").exists() else base.fork(folder, after=0, strategy=name)
    run.bar = bar
    summary = run.finish()
    query = json.loads((run.round_folder(1) / "query.json").read_text(encoding="utf-8"))
    first, last = summary["rounds"][0], summary["rounds"][-1]
    return {
        "strategy": name,
        "seed": run.config.seed,
        "warm_up": first["miou"],
        "miou": last["miou"],
        "fraction": last["fraction"],
        "images": len(query["ids"]),
        "regions": len(query.get("regions", [])),
        "pixels": query["pixels"],
        "source": summary["source_only"]["miou"],
    }


def write(out: Path, results: list[dict]) -> None:
    "The results so far, those of the other data set included."
    facts = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    atomic_write_json(out, {**facts, "runs": sorted(results, key=lambda r: (r["data"], r["strategy"], r["seed"]))})


def compare(
    data: str, root: str, seeds: list[int], names: list[str], changes: dict, runs: Path, out: Path, bar: bool = False
) -> list[dict]:
    "Every strategy for every seed; what is in `out` for other data, seeds or strategies stays there."
    results = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else []
    for seed in seeds:
        base = base_run(data, root, seed, runs / f"{data}-{seed}", changes, bar)
        for name in names:
            try:
                entry = {"data": data, **continued(base, name, runs / f"{data}-{seed}-{name}", bar)}
            except BudgetError as error:  # regions that do not fit: said, and not guessed at
                print(f"{data}, seed {seed}, {name}: {error}", flush=True)
                continue
            results = [r for r in results if (r["data"], r["seed"], r["strategy"]) != (data, seed, name)] + [entry]
            write(out, results)
            print(
                f"{data}, seed {seed}, {name}: {entry['warm_up']:.1f} -> {entry['miou']:.1f} %, {entry['fraction']:.2%} of the target",
                flush=True,
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(PRESETS))
    parser.add_argument("--root", default="", help="folder of the target data (unused for scenes)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="+", default=ALL, choices=sorted(STRATEGIES), metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--out", type=Path, default=Path("nbs/results/strategies.json"))
    parser.add_argument("--bar", action="store_true")
    options = parser.parse_args()
    compare(
        options.data,
        options.root,
        options.seeds,
        options.strategies,
        dict(parse_setting(text) for text in options.set),
        options.runs,
        options.out,
        options.bar,
    )


if __name__ == "__main__":
    main()
