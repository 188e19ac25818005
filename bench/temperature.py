"""Is the uncertainty honest? Expected calibration error of the teachers of an experiment's runs, as they are and at the temperature that a run's own
labels give, as one JSON file that the notebook `temperature` shows.

    FACADE=path/to/facade stal_nb compare experiments/facade_pools.toml
    python bench/temperature.py runs/facade_pools --arms "whole method, random" --out nbs/results/temperature.json

Each stage of each run is measured on the run's validation images. Several experiments may be given, one after the other: rows are added to the file.
"""
import argparse
from pathlib import Path

import torch
from stored import add_rows, stored_runs

from stal_nb.calibration import Calibration, ErrorHistogram
from stal_nb.labels import IGNORE
from stal_nb.models import predict_logits
from stal_nb.run import Run
from stal_nb.stages import fitted_temperature
from stal_nb.temperature import tempered
from stal_nb.uncertainty import entropy


@torch.inference_mode()
def rows_of(run: Run) -> list[dict]:
    "A row a stage: how honest its teacher is on the validation images, before and after."
    rows = []
    for number, stage in enumerate(run.layout.trained):
        fitted = fitted_temperature(run, number + 1)
        if fitted is None:
            continue
        model, honest, errors = run.model_after(stage), (Calibration(), Calibration()), (ErrorHistogram(1000), ErrorHistogram(1000))
        for sample in run.data.val:
            logits = predict_logits(model, sample.image[None].to(run.device), run.config.eval_size).cpu()
            valid, wrong = sample.labels != IGNORE, logits[0].argmax(0) != sample.labels
            said = logits.softmax(1)
            for k, probs in enumerate((said, tempered(said, fitted.value))):
                honest[k].add(probs[0].amax(0), wrong, valid)
                errors[k].add(entropy(probs)[0], wrong, valid)
        before, after = (part.compute().ece for part in honest)
        rows.append({"after": stage, "fitted on": fitted.stage, "images": fitted.images, "T": round(fitted.value, 4),
                     "error": round(errors[0].error_rate, 4), "ece": round(before, 4), "ece at T": round(after, 4),
                     "auroc": round(errors[0].auroc(), 4), "auroc at T": round(errors[1].auroc(), 4)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the experiment")
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results, runs = stored_runs(options.folder)
    if unknown := set(options.arms) - set(results["arms"]):
        parser.error(f"--arms: found {sorted(unknown)}, expected some of {', '.join(results['arms'])}")
    found = [{"experiment": results["name"], "arm": entry["arm"], "seed": entry["seed"], **row} for entry, run in runs if entry["arm"] in options.arms
             for row in rows_of(run)]
    add_rows(options.out, found, same=("experiment", "arm"))


if __name__ == "__main__":
    main()
