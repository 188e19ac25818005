"""All tests of a checkout: every notebook from top to bottom, then pytest with a browser.

    python -m tools.testing                              all of them
    python -m tools.testing --fast                       without what is marked `slow` or `browser`; of the notebooks, those changed since the last commit
    python -m tools.testing nbs/06_losses.ipynb tests/test_banks.py::test_name      just these; options that are not named here go to pytest

`make test FAST=1` and `make test ARGS="nbs/06_losses.ipynb"` say the same. Each notebook runs in a process of its own and is told with its time when
it ends; pytest runs one process more than there are cores, because tests wait for browsers and other processes. Last stands what failed, with the
line that repeats it.
"""
from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

from tools.browser import NoBrowser, get_browser
from tools.docs import notebooks

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900  # seconds for one notebook
FIRST = ("04_models", "24_your_own_camera", "experiments", "13_run", "store", "calibration", "14_related", "20_full_rounds", "08_mixing", "10_selection",
         "planning", "batchnorm", "distributed", "07_banks", "12_step", "11_annotation", "cli", "22_released_code", "09_uncertainty")
# long ones; 04 trains the network that others wait for, and calibration those of 09: what needs none stands between

PRELOADED = ("matplotlib.pyplot", "nbdev.test", "plotly.express", "torchvision", "timm", "pandas", "scipy.ndimage", "skimage.segmentation", "accelerate",
             "anywidget", "torch.utils.tensorboard", "nbformat")  # what most notebooks import, some seconds each time; the last is for figures of plotly


def workers() -> int:
    "Notebooks or test processes at once: one a core, at most four, 2 GB of memory each."
    import psutil

    return max(1, min(os.cpu_count() or 1, 4, psutil.virtual_memory().total // 2**31))


def all_notebooks() -> list[Path]:
    "Every notebook, long ones first."
    return sorted(notebooks(ROOT / "nbs"), key=lambda f: (FIRST.index(f.stem) if f.stem in FIRST else len(FIRST), -f.stat().st_size))


def changed_notebooks() -> list[Path]:
    "Those that differ from the last commit; all where there is no git."
    done = subprocess.run(["git", "status", "--porcelain", "--", "nbs"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        return all_notebooks()
    return [f for f in all_notebooks() if str(f.relative_to(ROOT)) in done.stdout]


# -- notebooks -------------------------------------------------------------------------------------------------------------------


def draw_coarsely(dpi: int = 30) -> None:
    """Figures that cells show are drawn once and at so few dots an inch, in this process.

    Nobody looks at them while notebooks are tested, and drawing them as a reader sees them is a good part of the time: matplotlib draws a figure when its
    cell ends, again to find the margin that may be cut off, and then as it is shown. Every artist is still drawn; what a cell saves itself (`savefig`)
    keeps its resolution."""
    from IPython.core import pylabtools
    from matplotlib.backend_bases import FigureCanvasBase

    show, coarse = pylabtools.print_figure, {"dpi": dpi, "bbox_inches": None}
    pylabtools.print_figure = lambda figure, *args, **options: show(figure, *args, **{**options, **coarse})  # IPython looks it up for each figure
    FigureCanvasBase.draw_idle = lambda canvas, *args, **options: None


def run_notebook(notebook: Path, output: str) -> None:
    "The body of a process: run a notebook, writing what it says to a file. Exit status 1 if a cell failed."
    from nbdev.test import test_nb

    draw_coarsely()
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    passed, _ = test_nb(notebook, skip_flags=["notest"], basepath=ROOT)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if passed else 1)  # threads of a notebook do not keep the process


def test_notebooks(files: list[Path], at_once: int) -> list[str]:
    "Run notebooks, several at once; one line each as it ends. Returns the names of those that failed."
    can_fork = sys.platform.startswith("linux")  # a fork has imported these already
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    if can_fork and files:
        for module in PRELOADED:
            importlib.import_module(module)
    waiting, running, failed = list(files), {}, []
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < at_once:
                notebook = waiting.pop(0)
                output = os.path.join(folder, f"{len(waiting)}.txt")
                process = context.Process(target=run_notebook, args=(notebook, output))
                process.start()
                running[process] = notebook, output, time.monotonic()
            wait([process.sentinel for process in running], timeout=5)
            for process, (notebook, output, start) in list(running.items()):
                seconds, name = time.monotonic() - start, notebook.relative_to(ROOT).as_posix()
                if process.is_alive() and seconds < TIMEOUT:
                    continue
                process.kill()
                process.join()
                del running[process]
                if process.exitcode == 0:
                    print(f"  {seconds:4.0f} s  {name}", flush=True)
                    continue
                failed.append(name)
                said = Path(output).read_text(encoding="utf-8", errors="replace") if os.path.exists(output) else ""
                reason = f"stopped after {TIMEOUT} s" if seconds >= TIMEOUT else f"exit status {process.exitcode}"
                print(f"  {seconds:4.0f} s  {name}  FAILED ({reason})\n{said[-6000:]}", flush=True)
    return failed


# -- pytest ----------------------------------------------------------------------------------------------------------------------


def run_pytest(arguments: list[str], at_once: int) -> tuple[int, list[str]]:
    "Exit status, and the tests that failed."
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "failed"
        environment = {**os.environ, "MPLBACKEND": "agg", "STAL_NB_FAILED": str(told)}
        several = ["-n", str(at_once)] if at_once > 1 else []  # how tests are shared out: tests/conftest.py
        status = subprocess.call([sys.executable, "-m", "pytest", *several, *arguments], cwd=ROOT, env=environment)
        return (0 if status == 5 else status), told.read_text(encoding="utf-8").splitlines() if told.exists() else []  # 5: no test is left by the marks


def selectable(test: str) -> str:
    "A test's id as a word of a command line: without its parameters if they hold anything that a shell or make reads."
    return test if re.fullmatch(r"[\w./:,=+\-\[\]]+", test) else test.split("[")[0]


def repeat_line(failed: list[str]) -> str:
    "The command that repeats what failed."
    names = list(dict.fromkeys(map(selectable, failed)))
    return f'make test ARGS="{" ".join(names)}"' if len(names) <= 12 else "make test ARGS=--last-failed"


def main(arguments: list[str] | None = None) -> int:
    "Exit status 0 if everything passed."
    parser = argparse.ArgumentParser(prog="python -m tools.testing", description="Every notebook, then pytest. Other arguments go to pytest.")
    parser.add_argument("--fast", action="store_true", default=os.environ.get("FAST", "") not in ("", "0"), help="changed notebooks, and the quick tests")
    options, rest = parser.parse_known_args(arguments)
    files, others = [Path(a).resolve() for a in rest if a.endswith(".ipynb")], [a for a in rest if not a.endswith(".ipynb")]
    for missing in [n for n in files if not n.is_file()]:
        print(f"{missing}: not found, expected a notebook", file=sys.stderr)
        return 2
    start, at_once = time.monotonic(), workers()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # one thread each where several processes share the cores
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // at_once)))
    failed, status = [], 0
    if not rest:
        files = changed_notebooks() if options.fast else all_notebooks()
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        browser = subprocess.Popen([sys.executable, "-m", "tools.browser"], cwd=ROOT, **silent)  # found or installed while notebooks run
    if files:
        print(f"Notebooks from top to bottom, {at_once} at a time:", flush=True)
        failed += test_notebooks(files, at_once)
    if others or not rest:
        try:
            if not rest:
                browser.wait()
            os.environ["CHROMIUM"] = get_browser()
        except NoBrowser as problem:
            print(problem, file=sys.stderr)
            return 1
        arguments, processes = (others, 1) if others else (["-m", "not slow and not browser"] if options.fast else [], at_once + 1)
        print(f"\npytest {' '.join(arguments)}, {processes} at a time:", flush=True)
        status, tests = run_pytest(arguments, processes)
        failed += tests
    print(f"\nTests took {time.monotonic() - start:.0f} s.", flush=True)
    if Path(sys.prefix).name == ".venv-latest":
        from tools.lock import differences

        print("\n".join(differences() or ["All packages have the tested versions."]), flush=True)
    if failed:
        print("FAILED:\n" + "\n".join(f"  {name}" for name in failed) + f"\nOnce more, only these:\n  {repeat_line(failed)}", flush=True)
    return status or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
