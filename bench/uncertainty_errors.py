"""Does uncertainty find errors? Every measure judged before and after the warm-up, over seeds, as one JSON file that notebook 09 draws.

    python bench/uncertainty_errors.py demo --seeds 0 1 2 --out nbs/results/uncertainty.json
    python bench/uncertainty_errors.py camvid --root path/to/camvid --seeds 0 --out nbs/results/uncertainty.json

A run of the preset is trained up to the end of its warm-up (runs/uncertainty/, continued if interrupted). Before: the network that has seen
labelled source images only. After: the teacher of the warm-up. Measures see the validation images; all have to find the errors of the same
network. The ensemble's members are the networks of all seeds at the same stage, so it needs at least two seeds. The file keeps the entries
of other presets.
"""
import argparse
import json
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
from stored import AS_STORED

from stal_nb.config import Config
from stal_nb.models import predict_logits
from stal_nb.run import Run
from stal_nb.runtime.files import atomic_write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "nbs"))
from figures.calibration import judge_measures  # noqa: E402  of the notebooks

STAGES = {"before": "source", "after": "round 0"}
TITLES = {"demo": "embedded scenes", "camvid": "CamVid"}


def trained(preset: str, root: str, seed: int, folder: Path) -> Run:
    "A run of the preset, at least up to the end of its warm-up."
    run = Run.create(Config.preset(preset, data_root=root, seed=seed, **AS_STORED.get(preset, {})), folder)
    run.bar = False
    while not run.products["round 0: train"].exists():
        print(f"{folder.name}: {run.stage}", flush=True)
        run.advance()
    return run


def judge(runs: dict[int, Run], images: int, passes: int) -> list[dict]:
    "One row a seed, stage and measure."
    rows = []
    for stage, name in STAGES.items():
        networks = {seed: deepcopy(run.model_after(name)) for seed, run in runs.items()}
        for seed, run in runs.items():
            size = run.config.eval_size
            chosen = np.linspace(0, len(run.data.val) - 1, min(images, len(run.data.val))).round().astype(int).tolist()
            found = judge_measures(
                networks[seed], (run.data.val[i] for i in chosen), list(networks.values()) if len(runs) > 1 else (), passes, radius=4,
                predict=lambda model, x, size=size: predict_logits(model, x, size).softmax(1))
            ece = found.calibration.compute().ece
            for measure, histogram in found.finders.items():
                numbers = {"auroc": histogram.auroc(), "ause": histogram.ause(), "caught": histogram.caught(0.2),
                           "error": histogram.error_rate}
                rows.append({"seed": seed, "stage": stage, "measure": measure, "label": found.labels[measure], "images": len(chosen),
                             **{name: round(value, 4) for name, value in {**numbers, "ece": ece}.items()}})
            print(f"seed {seed}, {stage}: error {rows[-1]['error']:.3f}, ECE {ece:.3f}, "
                  + ", ".join(f"{r['measure']} {r['auroc']:.3f}" for r in rows[-len(found.finders):]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=list(TITLES))
    parser.add_argument("--root", default="", help="folder of the target data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=100, help="validation images, evenly spread")
    parser.add_argument("--passes", type=int, default=8, help="of dropout")
    parser.add_argument("--runs", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = {seed: trained(options.preset, options.root, seed, options.runs / f"{options.preset}-{seed}") for seed in options.seeds}
    rows = judge(runs, options.images, options.passes)
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    results[options.preset] = {"title": TITLES[options.preset], "seeds": options.seeds, "passes": options.passes, "rows": rows}
    atomic_write_json(options.out, results)


if __name__ == "__main__":
    main()
