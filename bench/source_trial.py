"""Does a run's own cross-validation find out whether the source helps? A trial of each run of an arm, beside what full runs of the same pool and labels
say, as one JSON file that the notebook `source_trial` shows.

    FACADE=path/to/facade stal_nb compare experiments/facade_pools.toml
    python bench/source_trial.py runs/facade_pools --out nbs/results/source_trial.json

Several experiments may be given, one after the other: rows are added to the file. A trial that is there already is not made again.
"""
import argparse
from pathlib import Path

from stored import add_rows, stored_runs

from stal_nb.comparison import measured
from stal_nb.source_trial import source_trial, trial_difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the experiment")
    parser.add_argument("--arm", default="whole method, random", help="whose labels are asked")
    parser.add_argument("--against", nargs=2, default=("labels + source", "labels only"), metavar="ARM", help="full runs: with the source, without")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results, runs = stored_runs(options.folder)
    full = {(entry["arm"], entry["seed"]): measured(entry) for entry, _ in runs}
    for entry, run in runs:
        seed = entry["seed"]
        if entry["arm"] != options.arm or options.seeds and seed not in options.seeds:
            continue
        run.bar = False
        found = source_trial(run)
        difference = trial_difference(found)
        with_source, without = (full[arm, seed] for arm in options.against)
        add_rows(options.out, [{
            "experiment": results["name"], "seed": seed, "images": len(difference.values), "folds": found["folds"], "steps": found["steps"],
            "trial": round(difference.mean, 2), "low": round(difference.low, 2), "high": round(difference.high, 2), "seconds": found["seconds"],
            "full runs": round(with_source - without, 2)}], same=("experiment", "seed"))
        print(f"{results['name']}, seed {seed}: trial {difference.mean:+.1f} ({difference.low:+.1f} to {difference.high:+.1f}), "
              f"full runs {with_source - without:+.1f}, {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
