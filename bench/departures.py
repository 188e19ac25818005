"""Measure what each departure of the released code does on the embedded scenes: mIoU over seeds, the bank, the labels.

    python bench/departures.py --seeds 0 1 2 --out nbs/results/departures.json

For each seed one source model is trained and one draw of 20 target images is labelled; then every variant trains 150 steps on the same
images from the same weights, and differs in the named settings alone. ("labels" concerns the source, so it trains a source model of its
own, from the same start.) M and N are the paper's, 50 and 256, not those of the preset. Runs are kept in runs/departures/ and continued if
interrupted; the JSON file is written anew after each.
"""
import argparse
import csv
import os
import platform
from pathlib import Path

import torch

from stal_nb.config import DEPARTURES, Config
from stal_nb.evaluation import evaluate
from stal_nb.run import Run
from stal_nb.runtime.files import atomic_write_json

LOUD = dict(lambda_u=1.0, drop_percent=20.0)  # the paper's weight of L_u and its share of dropped pixels; the preset has 0.2 and 50 %
VARIANTS = {
    "as published": {}, **DEPARTURES, "all four": {k: v for change in DEPARTURES.values() for k, v in change.items()},
    "loud": LOUD, "loud, filter": {**LOUD, **DEPARTURES["filter"]}}


def base_run(seed: int, folder: Path, interpolated_ids: bool) -> Run:
    config = Config.preset("demo", seed=seed, budgets=(20,), round_steps=(150,), first_strategy="random", num_negatives=256,
                           interpolated_ids=interpolated_ids)
    run = Run.create(config, folder / f"{seed}-{'labels' if interpolated_ids else 'as-published'}")
    run.bar = False
    run.finish()
    return run


def variant_run(name: str, seed: int, folder: Path) -> Run:
    "The finished run of a variant: a fork of the base run after its source stage, unless it is the base run."
    base = base_run(seed, folder, VARIANTS[name].get("interpolated_ids", False))
    if name in ("as published", "labels"):
        return base
    path = folder / f"{seed}-{name.replace(', ', '-').replace(' ', '-')}"
    run = Run.open(path) if (path / "config.json").exists() else base.fork(path, after="source", **VARIANTS[name])
    run.bar = False
    run.finish()
    return run


def row(name: str, seed: int, run: Run) -> dict:
    "What is kept of a run."
    summary, state = run.summary(), run.state_after("round 0")
    last = summary["rounds"][-1]
    with (run.round_folder(0) / "training.csv").open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    crop = evaluate(state.teacher, run.data.val, run.data.label_space, crop=(96, 96), bar=False)  # 769 x 769 of 2048 x 1024, to scale
    return {"variant": name, "seed": seed, "miou": last["miou"], "iou": last["iou"], "source_only": summary["source_only"]["miou"],
            "miou_crop": round(crop.miou, 3),
            "L_c": [round(float(entry["L_c"]), 4) for entry in log], "bank": state.memory.counts.tolist(), "seconds": summary["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/departures"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__, "steps": {"source": 150, "round": 150},
               "labelled": 20, "pool": 400, "validation": 100, "runs": []}
    for seed in options.seeds:
        for name in options.variants:
            results["runs"].append(row(name, seed, variant_run(name, seed, options.runs)))
            print(f"seed {seed}, {name}: mIoU {results['runs'][-1]['miou']:.1f} %", flush=True)
            atomic_write_json(options.out, results)


if __name__ == "__main__":
    main()
