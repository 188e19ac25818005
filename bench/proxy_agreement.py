"""Does the proxy see which labels are worth more? The labelled images of each run of an experiment, judged by the head on frozen features and by the
run itself, as one JSON file that the notebook `proxy` shows.

    CELLS=path/to/cells stal_nb compare experiments/cells_pools.toml
    python bench/proxy_agreement.py runs/cells_pools --out nbs/results/proxy_agreement.json

Several experiments may be given, one after the other: rows are added to the file.
"""
import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from stored import add_rows, stored_runs

from stal_nb.proxy import cell_miou, cell_scale, fit_head, proxy_features
from stal_nb.run import Run


def rows_of(name: str, runs: list[tuple[dict, Run]], size: tuple[int, int] | None) -> list[dict]:
    "A row a run that did not get all labels: what its images are worth to a linear head, and what they were worth to the run."
    rows, features = [], {}
    for entry, run in sorted(runs, key=lambda pair: -len(pair[1].data.target)):  # "labels only" knows no other images
        ids, place = entry["acquired"]["ids"], (entry["data"], entry["seed"])
        if place not in features:  # a pool a seed, if the split is random
            with tempfile.TemporaryDirectory() as cache:
                pool, validation = proxy_features(replace(run.config, eval_size=size or run.config.eval_size), Path(cache), bar=False)
            features[place] = pool, validation, cell_scale(pool)
        pool, validation, scale = features[place]
        if not ids or len(ids) == len(pool.ids):
            continue
        places = [pool.ids.index(id) for id in ids]
        head = fit_head(pool.cells[places].flatten(0, 1), pool.counts[places].flatten(0, 1), *scale)
        rows.append({"experiment": name, "arm": entry["arm"], "seed": entry["seed"], "labels": len(ids),
                     "proxy": round(cell_miou(head, validation.cells, validation.counts), 3), "run": entry["stages"][-1]["miou"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the experiment")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="that the proxy sees; default: that of the runs")
    options = parser.parse_args()
    results, runs = stored_runs(options.folder)
    add_rows(options.out, rows_of(results["name"], runs, options.size and tuple(options.size)), same=("experiment",))


if __name__ == "__main__":
    main()
