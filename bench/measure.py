"""Measure a preset: runs of several kinds over seeds, kept as one JSON file that notebooks 20 and index draw.

    python bench/measure.py demo --seeds 0 1 2 --out nbs/results/demo.json
    python bench/measure.py camvid --root path/to/camvid --seeds 0 --out nbs/results/camvid.json

The random and quota runs take the source model and the warm-up of the entropy run over (`Run.fork`), so they differ only in what they
ask for afterwards. The oracle has all target labels, the source run none, both with the same network and number of
steps. Runs are kept in runs/measure/ and continued if interrupted; the JSON file is written anew after each.
"""
import argparse
import os
import platform
from dataclasses import replace
from pathlib import Path

import torch

from stal_nb.cli import parse_setting
from stal_nb.config import Config
from stal_nb.run import Run
from stal_nb.runtime.files import atomic_write_json

FORKS = {"random": "random", "quota": "entropy_group_quota"}  # kinds of run that take the warm-up of the entropy run over
KINDS = ["entropy", *FORKS, "oracle", "source"]


def finish(run: Run, kind: str, bar: bool) -> dict:
    run.bar = bar
    summary = run.finish()
    keep = {key: summary[key] for key in ("source_only", "rounds", "seconds", "config")}
    last = (summary["rounds"] or [summary["source_only"]])[-1]
    print(f"{kind}, seed {run.config.seed}: mIoU {last['miou']:.1f} %, {summary['seconds']:.0f} s", flush=True)
    return {"kind": kind, "seed": run.config.seed, **keep, "config": {**keep["config"], "data_root": ""}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--root", default="", help="folder of the target data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/measure"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bar", action="store_true")
    options = parser.parse_args()
    changes = dict(parse_setting(text) for text in options.set)
    results = {"preset": options.preset, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    results["runs"] = []
    for seed in options.seeds:
        config = Config.preset(options.preset, data_root=options.root, seed=seed, **changes)
        base = options.runs / f"{options.preset}-{seed}"
        for kind in options.kinds:
            folder = base.with_name(f"{base.name}-{kind}")
            if kind in FORKS and (folder / "config.json").exists():
                run = Run.open(folder)
            elif kind in FORKS:
                run = Run.open(f"{base}-entropy").fork(folder, after=0, strategy=FORKS[kind])
            else:
                steps = config.source_steps + sum(config.round_steps)
                alone = replace(config, source_steps=steps, round_steps=(), budgets=())
                run = Run.create({"entropy": config, "oracle": config.oracle(), "source": alone}[kind], folder)
            results["runs"].append(finish(run, kind, options.bar))
            atomic_write_json(options.out, results)


if __name__ == "__main__":
    main()
