"""Does the proxy see which labels are worth more? The labelled images of each run of an experiment, judged by the head on frozen features and by the
run itself, as one JSON file that the notebook `proxy` shows.

    CELLS=path/to/cells stal_nb compare experiments/cells_pools.toml
    python bench/proxy_agreement.py runs/cells_pools --out nbs/results/proxy_agreement.json

Several experiments may be given, one after the other: rows are added to the file.
"""
import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from stal_nb.experiments import run_key
from stal_nb.proxy import cell_miou, cell_scale, fit_head, proxy_features
from stal_nb.run import Run
from stal_nb.runtime.files import atomic_write_json


def rows_of(results: dict, folder: Path, size: tuple[int, int] | None) -> list[dict]:
    "A row a run that did not get all labels: what its images are worth to a linear head, and what they were worth to the run."
    rows, features = [], {}
    runs = [(entry, Run.open(folder / "runs" / run_key(entry["data"], entry["arm"], entry["seed"]))) for entry in results["runs"]]
    runs.sort(key=lambda pair: -len(pair[1].data.target))  # "labels only" knows no other images
    for entry, run in runs:
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
        rows.append({"experiment": results["name"], "arm": entry["arm"], "seed": entry["seed"], "labels": len(ids),
                     "proxy": round(cell_miou(head, validation.cells, validation.counts), 3), "run": entry["stages"][-1]["miou"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the experiment")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="that the proxy sees; default: that of the runs")
    options = parser.parse_args()
    results = json.loads((options.folder / "experiment.json").read_text(encoding="utf-8"))
    known = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    kept = [row for row in known if row["experiment"] != results["name"]]
    atomic_write_json(options.out, {"rows": kept + rows_of(results, options.folder, options.size and tuple(options.size))})


if __name__ == "__main__":
    main()
