"""What becomes of classes that the source lacks, inside the method: memory bank, sampler, pseudo-labels and copy-paste, as one JSON file that
notebook 21 shows.

    stal_nb compare experiments/scenes_settings.toml
    python bench/open_set.py runs/scenes_settings --out nbs/results/open_set.json

Reads the finished runs of the arms: their logs, their labels, and what the teacher says about the first target images after each stage.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch
from stored import stored_runs

from stal_nb.app.report import read_log
from stal_nb.labels import CITYSCAPES
from stal_nb.metrics import SegmentationMetrics
from stal_nb.models import predict_logits
from stal_nb.run import Run
from stal_nb.runtime.files import atomic_write_json

ARMS = ("SSDA", "open set, UDA", "open set, SSDA")
IMAGES = 60  # target images whose pseudo-labels are counted


@torch.inference_mode()
def pseudo_labels(run: Run, stage: str) -> torch.Tensor:  # (C, C) pixels, rows = truth, columns = the teacher's classes
    "What the teacher says about the first target images, where there is a truth."
    model, counted = run.model_after(stage), SegmentationMetrics(CITYSCAPES)
    for k in range(min(IMAGES, len(run.data.target))):
        sample = run.data.target[k]
        counted.update(predict_logits(model, sample.image[None].to(run.device), run.config.eval_size).cpu(), sample.labels[None])
    return counted.compute().confusion.double()


def inside(run: Run, names: list[str]) -> list[dict]:
    "A row a stage and class."
    rows, log = [], pd.DataFrame(read_log(run))
    classes = [CITYSCAPES.index(name) for name in names]
    for number in range(len(run.budgets)):
        last = log[log["stage"] == f"round {number}"].iloc[-1]
        labelled = list(run.queried(number + 1))
        shown = {name: sum(bool((run.store.load(id) == c).any()) for id in labelled) for name, c in zip(names, classes)}
        found = pseudo_labels(run, f"round {number}")
        true, given = (100 * found.sum(axis) / found.sum() for axis in (1, 0))
        right = 100 * found.diagonal() / found.sum(0).clamp(min=1)
        for name, c in zip(names, classes):
            rows.append({"after": f"round {number}", "labels": len(labelled), "class": name, "bank": int(last[f"bank/{name}"]),
                         "sampling": round(float(last[f"sampling/{name}"]), 4), "labelled images that show it": shown[name],
                         "true share": round(true[c].item(), 2), "pseudo-labels": round(given[c].item(), 2),
                         "of them right": round(right[c].item(), 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the experiment")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    _, runs = stored_runs(options.folder)
    names = next(list(run.config.exclude) for _, run in runs if run.config.exclude)
    rows = [{"arm": entry["arm"], "seed": entry["seed"], **row} for entry, run in runs if entry["arm"] in ARMS for row in inside(run, names)]
    atomic_write_json(options.out, {"classes": names, "images": IMAGES, "rows": rows})


if __name__ == "__main__":
    main()
