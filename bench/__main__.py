"""All benchmarks, or those named: `make bench`, `make bench ARGS="method"`. Prints a table and writes bench/results.json.

A module bench_NAME.py has a function `measure()` that returns a list of entries {name, value, unit, limit, detail}; a limit is the largest
value that is good enough. Exit status 1 if one is exceeded: times of a busy machine mean nothing, so run it alone.
"""
import argparse
import importlib
import json
import os
import platform
from datetime import date
from pathlib import Path

import torch

from stal_nb.runtime.files import atomic_write_json

HERE = Path(__file__).parent


def table(entries: list[dict]) -> str:
    lines = [f"{'':<70}{'value':>10} {'unit':<5}{'limit':>8}"]
    for e in entries:
        limit = "" if e["limit"] is None else f"{e['limit']:g}"
        verdict = "" if e["limit"] is None else "  ok" if e["value"] <= e["limit"] else "  OVER"
        lines.append(f"{e['name']:<70}{e['value']:>10.3f} {e['unit']:<5}{limit:>8}{verdict}\n    {e['detail']}")
    return "\n".join(lines)


def main() -> int:
    names = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}; default all")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(names)}")
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    over = 0
    for name in options.names or names:
        print(f"\n{name}", flush=True)
        entries = importlib.import_module(f"bench.bench_{name}").measure()
        print(table(entries), flush=True)
        results[name] = {"date": date.today().isoformat(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version(),
                         "torch": torch.__version__, "entries": entries}
        atomic_write_json(options.out, results)
        over += sum(e["limit"] is not None and e["value"] > e["limit"] for e in entries)
    return int(over > 0)


if __name__ == "__main__":
    raise SystemExit(main())
