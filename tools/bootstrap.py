"""Set up a virtual environment and start the project in it, with nothing but the standard library.

    python3 -m tools.bootstrap demo      a complete STAL run on the embedded scenes
    python3 -m tools.bootstrap test      all tests; `test --fast` leaves out the slow ones; `test nbs/06_losses.ipynb` runs one

and setup (nothing else), lab, docs, bench, export, lock, clean. Each sets up what it needs; further arguments go to the program that it starts.
Packages are those of constraints.txt, in `.venv`; with --latest (or LATEST=1) the newest, in `.venv-latest`.

This file must start on any Python 3, because it is what tells people that theirs is too old: no newer syntax here.
"""
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.installer import NEWEST, OLDEST, SetupProblem, install, say

if os.name != "nt":
    import fcntl  # one set-up of a folder at a time; on Windows pip alone has to be careful

DECLARATIONS = ("settings.ini", "setup.py", "pyproject.toml", "constraints.txt")  # set-up is repeated when one of them changes
ROOT = Path(__file__).resolve().parent.parent
INSIDE = "Scripts/python.exe" if os.name == "nt" else "bin/python"  # of a virtual environment


def python_version(python, modules="venv"):
    """(major, minor) of an interpreter that has these modules, or None."""
    try:
        code = "import sys, %s; print(*sys.version_info[:2])" % modules
        return tuple(map(int, subprocess.check_output([str(python), "-c", code], stderr=subprocess.DEVNULL, timeout=120).split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def choose_python(current=None):
    """This interpreter if it is not too old, else a supported one on the PATH. Raises SetupProblem if there is none."""
    found = tuple(sys.version_info[:2]) if current is None else current
    if found >= OLDEST:
        return sys.executable  # a newer one than the tested may lack packages; pip says so
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)
        if other and python_version(other) == (3, minor):
            say("Python %d.%d is too old; using %s instead." % (found + (other,)))
            return other
    raise SetupProblem("Python %d.%d is too old: found %s, expected %d.%d to %d.%d.\nInstall a newer one (https://www.python.org/downloads/) and start "
                       "again with it, for example: make demo PYTHON=python3.12" % (found + (sys.executable,) + OLDEST + NEWEST))


def make_environment(folder, python):
    """Create or repair a virtual environment; returns its interpreter. A folder that is something else stays as it is."""
    inside = folder / INSIDE
    if (python_version(inside, "venv, pip") or (0, 0)) >= OLDEST:
        return inside
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise SetupProblem("%s exists and is not a virtual environment. Move it away and start again." % folder)
    say("Making %s with %s" % (folder.name, python))
    done = subprocess.run([str(python), "-m", "venv", "--clear", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode or not python_version(inside, "venv, pip"):
        raise SetupProblem("%s could not make the virtual environment %s:\n%s\nIf its module venv or ensurepip is missing: sudo apt install python3-venv"
                           % (python, folder, done.stdout.decode(errors="replace").strip()[-1500:]))
    return inside


def set_up(root=ROOT, latest=False):
    """Make sure that the environment holds the project and all it needs; returns its interpreter. Quick when there is nothing to do."""
    folder = root / (".venv-latest" if latest else ".venv")
    stamp, inside, declared = folder / "stal_nb-setup.txt", folder / INSIDE, [root / name for name in DECLARATIONS]

    def fingerprint():  # what the installed packages depend on
        return hashlib.sha256(repr((str(root), python_version(inside), [f.exists() and f.read_bytes() for f in declared])).encode()).hexdigest()

    with open(str(root / ".setup.lock"), "a") as file:
        if os.name != "nt":
            fcntl.flock(file, fcntl.LOCK_EX)
        if inside.exists() and stamp.exists() and stamp.read_text() == fingerprint():
            return inside
        install(make_environment(folder, choose_python()), root, latest)
        stamp.write_text(fingerprint())
        say("Set-up complete.")
    return inside


COMMANDS = {  # what the Python of the environment is given
    "demo": ["-m", "stal_nb", "run", "--preset", "demo"], "test": ["-m", "tools.testing"], "docs": ["-m", "tools.docs", "site"],
    "print": ["-m", "tools.docs", "print"],
    "setup": ["-c", "import sys; print('Python of the environment:', sys.executable)"], "lab": ["-m", "jupyterlab", "nbs/index.ipynb"],
    "bench": ["-m", "bench"], "export": ["-m", "tools.docs", "export"], "clean": ["-m", "tools.docs", "clean"], "lock": ["-m", "tools.lock", "write"],
}


def main(arguments=None):
    """Exit status of a command; problems of the set-up are told in words."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.bootstrap", description="Set up the project and start a command in it.")
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--latest", action="store_true", default=os.environ.get("LATEST", "") not in ("", "0"), help="newest versions, in .venv-latest")
    options, rest = parser.parse_known_args(arguments)
    try:
        python = set_up(latest=options.latest)
        inside = dict(os.environ, PATH=str(python.parent) + os.pathsep + os.environ.get("PATH", ""))
        if inside.pop("PYTHONDONTWRITEBYTECODE", ""):  # as images of containers have it: each process would compile PyTorch anew, for up to ten seconds
            inside["PYTHONPYCACHEPREFIX"] = str(python.parent.parent / "compiled")
        return subprocess.call([str(python)] + COMMANDS[options.command] + rest, cwd=str(ROOT), env=inside)
    except SetupProblem as problem:
        return say(str(problem)) or 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
