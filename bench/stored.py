"""Finished runs of an experiment's folder, files of rows that scripts add to, and what older files were made with."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stal_nb.experiments import run_key
from stal_nb.run import Run
from stal_nb.runtime.files import atomic_write_json

# preset -> what its runs in `strategies.json` and `uncertainty.json` had: a first purchase that favours nothing, the paper's teacher
AS_STORED = {"camvid": {"first_strategy": "random_group_quota", "teacher_window": 1.0}}


def stored_runs(folder: Path) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Run]]]:
    "What `stal_nb compare` wrote of an experiment, and each of its runs: (what is said of it, the run)."
    results = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    return results, [(entry, Run.open(folder / "runs" / run_key(entry["data"], entry["arm"], entry["seed"]))) for entry in results["runs"]]


def add_rows(file: Path, rows: Sequence[dict[str, Any]], same: Sequence[str]) -> None:
    "Rows of a file, in place of those that agree with one of them in the columns `same`."
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    replaced = {tuple(row[name] for name in same) for row in rows}
    atomic_write_json(file, {"rows": [row for row in known if tuple(row[name] for name in same) not in replaced] + list(rows)})
