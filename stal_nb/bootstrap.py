"""Set up a `.venv` and start the project in it, with nothing but the standard library.

    python3 -m stal_nb.bootstrap demo      a complete STAL run on the embedded scenes
    python3 -m stal_nb.bootstrap test      all tests: every notebook, then pytest with a browser
    python3 -m stal_nb.bootstrap setup     only the set-up
    python3 -m stal_nb.bootstrap lab       JupyterLab at the index
    python3 -m stal_nb.bootstrap docs      the documentation site, in _docs/
    python3 -m stal_nb.bootstrap export    the library and README.md from the notebooks
    python3 -m stal_nb.bootstrap clean     remove generated files and noise in notebooks

Each command does all the set-up it needs and may be repeated: a second time, set-up takes a moment. Further arguments go to the program
that the command starts (`demo --set seed=1`, `test tests/test_store.py`). The Makefile has a target for each.

This file must start on any Python 3, also one that is too old, because it is what tells people so. No annotations of newer Pythons here.
"""
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 10)  # of the supported Python versions, as in settings.ini
NEWEST = (3, 13)  # tested; a newer one may lack wheels of some dependency
EXTRAS = "notebooks,dev"
DECLARATIONS = ("settings.ini", "setup.py", "pyproject.toml")  # set-up is repeated when one of them changes
ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class SetupProblem(Exception):
    """Something a person has to do; the message says what."""


def say(text):
    print("[stal_nb] " + text, flush=True)


# -- Python and the virtual environment --------------------------------------------------------------------------------------


def python_version(python):
    """(major, minor) of an interpreter that has `venv`, or None if it cannot be used."""
    try:
        out = subprocess.run([str(python), "-c", "import sys, venv; print(*sys.version_info[:2])"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True).stdout
        major, minor = out.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def choose_python(current=None):
    """This interpreter if it is supported, else a supported one on the PATH. Raises SetupProblem if there is none."""
    found = tuple(sys.version_info[:2]) if current is None else current
    if OLDEST <= found <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)
        if other and python_version(other) == (3, minor):
            say("Python %d.%d is not among the tested versions; using %s instead." % (found + (other,)))
            return other
    if found > NEWEST:
        say("Python %d.%d is newer than the tested %d.%d; trying it all the same." % (found + NEWEST))
        return sys.executable
    raise SetupProblem(
        "Python %d.%d is too old: found %s, expected %d.%d to %d.%d.\nInstall a newer Python (https://www.python.org/downloads/) and start again with it, "
        "for example: make demo PYTHON=python3.12" % (found + (sys.executable,) + OLDEST + NEWEST))


def venv_python(root):
    """The interpreter inside `.venv`."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_pip(python):
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def as_root_with_apt():
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(*packages):
    """True if apt-get installed all packages."""
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends"] + list(packages)):
        say("$ " + " ".join(command))
        if subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL).returncode and command[1] == "install":
            return False
    return True


def make_venv(root, python):
    """Create or repair `root/.venv`; returns its interpreter."""
    folder, inside = root / ".venv", venv_python(root)
    if inside.exists():
        version = python_version(inside)
        if version and version >= OLDEST and has_pip(inside):
            return inside
        say("The environment in .venv is damaged or too old; making it again.")
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise SetupProblem("%s exists and is not a virtual environment. Move it away and start again." % folder)
    version = "%d.%d" % (python_version(python) or sys.version_info[:2])
    command = [str(python), "-m", "venv", "--clear", str(folder)]
    missing = subprocess.run([str(python), "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL).returncode != 0
    if missing and as_root_with_apt():
        say("This Python has no venv module; asking the package manager for it.")
        missing = not (apt_install("python%s-venv" % version) or apt_install("python3-venv"))
    if missing:
        raise SetupProblem(
            "Python %s at %s cannot make virtual environments: its module `venv` or `ensurepip` is missing.\n"
            "On Debian or Ubuntu: sudo apt install python%s-venv   (Fedora: sudo dnf install python3)" % (version, python, version))
    say("Making .venv with Python %s" % version)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode or not has_pip(inside):
        raise SetupProblem("Could not make %s:\n%s" % (folder, done.stdout.decode(errors="replace").strip()[-2000:]))
    return inside


# -- packages -------------------------------------------------------------------------------------------------------------------


def fingerprint(root, python):
    """What the installed packages depend on: the declarations, the interpreter, and the place of the project."""
    digest = hashlib.sha256()
    for name in DECLARATIONS:
        file = root / name
        digest.update(name.encode() + b"\0" + (file.read_bytes() if file.exists() else b"") + b"\0")
    digest.update(repr((str(root), python_version(python))).encode())
    return digest.hexdigest()


def explain_pip_failure(output):
    """What to do about a failed installation, from what pip said."""
    text = output.lower()
    if any(w in text for w in ("no space left", "errno 28", "disk quota")):
        return "The disk is full. The packages need about 7 GB (2 GB with the CPU build of PyTorch)."
    if any(w in text for w in ("newconnectionerror", "name resolution", "failed to resolve", "connection refused", "network is unreachable",
                               "connecttimeout", "read timed out", "proxyerror", "max retries exceeded", "could not fetch url", "certificate_verify_failed")):
        return ("The package index cannot be reached. Check the network, a proxy (HTTPS_PROXY) or a mirror (PIP_INDEX_URL), then start again: "
                "what was already downloaded is kept.")
    if "no matching distribution" in text or "could not find a version" in text or "requires-python" in text or "requires a different python" in text:
        return ("A package has no version for this Python (%d.%d) or this machine. Python %d.%d to %d.%d on 64-bit Linux, macOS or Windows is "
                "supported: make demo PYTHON=python3.12" % (tuple(sys.version_info[:2]) + OLDEST + NEWEST))
    if "error: command" in text or "failed building wheel" in text or "gcc" in text:
        return "A package had to be compiled and could not be. With Python %d.%d to %d.%d ready-made wheels exist." % (OLDEST + NEWEST)
    return "pip said why above. After putting it right, start again; what is installed already is kept."


TOLD = ("Downloading", "Building", "Installing collected", "Successfully", "ERROR", "error", "Retrying", "WARNING: Retrying")  # of what pip says


def pip_install(python, root, target):
    """Install `target` (relative to `root`) with pip, showing what it does."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-e", target]
    say("$ pip install -e '%s'   (the first time: some minutes and several GB, most of it PyTorch)" % target)
    tail = []
    with subprocess.Popen(command, cwd=str(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process:
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            tail = (tail + [line])[-200:]
            if line.lstrip().startswith(TOLD):
                print("  " + line.strip()[:160], flush=True)
    if process.returncode:
        print("\n".join("  " + line for line in tail[-25:]), flush=True)
        raise SetupProblem("The packages could not be installed. " + explain_pip_failure("\n".join(tail)))


class Lock:
    """Lets one set-up at a time work on `.venv`; others wait."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.file = open(str(self.path), "a")
        try:
            import fcntl
        except ImportError:  # Windows: no waiting, and pip itself is safe enough
            return self
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another set-up of this folder is at work; waiting for it.")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_):
        self.file.close()


def set_up(root=ROOT):
    """Make sure that `.venv` holds the project and all it needs; returns its interpreter. Quick when there is nothing to do."""
    stamp, inside = root / ".venv" / "stal_nb-setup.json", venv_python(root)
    with Lock(root / ".setup.lock"):
        try:
            if inside.exists() and json.loads(stamp.read_text())["fingerprint"] == fingerprint(root, inside):
                return inside
        except (OSError, ValueError, KeyError, TypeError):
            pass
        inside = make_venv(root, choose_python())
        pip_install(inside, root, ".[%s]" % EXTRAS)
        temporary = stamp.with_name(stamp.name + ".part")
        temporary.write_text(json.dumps({"fingerprint": fingerprint(root, inside)}) + "\n")
        os.replace(str(temporary), str(stamp))
        say("Set-up complete.")
    return inside


# -- browser ---------------------------------------------------------------------------------------------------------------------


def starts(browser):
    """True if `browser` is a program that answers `--version` (a stub of a package manager does not)."""
    try:
        return subprocess.run([str(browser), "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def playwright_browser(python):
    """Path of the Chromium that Playwright installed, or None."""
    code = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    try:
        out = subprocess.run([str(python), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120).stdout.decode().strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return out if out and os.path.exists(out) and starts(out) else None


def find_browser(python):
    """A Chromium that starts: CHROMIUM, one on the PATH, Playwright's own; None if there is none. Raises SetupProblem if CHROMIUM is wrong."""
    chosen = os.environ.get("CHROMIUM")
    if chosen:
        if starts(chosen):
            return chosen
        raise SetupProblem("CHROMIUM: found %r, expected the path of a Chromium or Chrome that starts." % chosen)
    mac = ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"]
    for name in [shutil.which(b) for b in BROWSERS] + mac:
        if name and os.path.exists(name) and starts(name):
            return name
    return playwright_browser(python)


def browser(python):
    """A Chromium that starts, installed if need be. Raises SetupProblem with the ways to get one."""
    found = find_browser(python)
    if found:
        return found
    if as_root_with_apt():
        say("No Chromium found; installing the package `chromium`.")
        if apt_install("chromium"):
            found = find_browser(python)
            if found:
                return found
    say("Fetching Playwright's Chromium.")
    subprocess.run([str(python), "-m", "playwright", "install", "chromium"])
    found = playwright_browser(python)
    if found:
        return found
    raise SetupProblem(
        "The tests look at pages in Chromium, and none was found or could be installed.\nInstall one (Debian: sudo apt install chromium; elsewhere Chrome, "
        "or: .venv/bin/python -m playwright install --with-deps chromium) or name yours: CHROMIUM=/path/to/chrome make test")


# -- commands --------------------------------------------------------------------------------------------------------------------


def run(python, *arguments, **env):
    """Run a Python module in the environment from the project's root; returns its exit status."""
    path = str(Path(python).parent) + os.pathsep + os.environ.get("PATH", "")
    command = [str(python)] + [str(a) for a in arguments]
    try:
        return subprocess.run(command, cwd=str(ROOT), env=dict(os.environ, PATH=path, **env)).returncode
    except KeyboardInterrupt:
        return 130


def workers(cpus=None):
    """(notebooks at once, threads of each): a notebook may need 2 GB of memory."""
    cpus = cpus or os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        memory = 8.0
    count = max(1, min(cpus, 4, int(memory // 2)))
    return count, max(1, cpus // count)


def demo(arguments):
    """A complete STAL run on the embedded scenes."""
    return run(set_up(), "-m", "stal_nb", "run", "--preset", "demo", *arguments)


def test(arguments):
    """All tests. With arguments, only pytest with these."""
    python = set_up()
    chromium = browser(python)
    say("Browser: " + chromium)
    notebooks = 0
    if not arguments:
        count, threads = workers()
        say("Notebooks, from top to bottom, %d at a time" % count)
        notebooks = run(python, "-c", "from nbdev.test import nbdev_test; nbdev_test(n_workers=%d, do_print=True, timing=True)" % count,
                        OMP_NUM_THREADS=str(threads))
        if notebooks:
            say("FAILED: at least one notebook, see above. Now the other tests.")
    others = run(python, "-m", "pytest", *arguments, CHROMIUM=chromium, MPLBACKEND="agg")
    if notebooks:
        say("FAILED: at least one notebook, see above the pytest output.")
    return notebooks or others


def setup(arguments):
    """Only the set-up."""
    say("Python of the environment: %s" % set_up())
    return 0


def lab(arguments):
    """JupyterLab at the index."""
    return run(set_up(), "-m", "jupyterlab", *(arguments or ["nbs/index.ipynb"]))


def docs(arguments):
    """The documentation site."""
    return run(set_up(), "-m", "stal_nb.docs", "site", *arguments)


def bench(arguments):
    """The benchmarks, as a table and in bench/results.json. Run it on a quiet machine."""
    return run(set_up(), "-m", "bench", *arguments)


def export(arguments):
    """The library and README.md from the notebooks."""
    python = set_up()
    return run(python, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()") or run(
        python, "-m", "stal_nb.docs", "readme")


def clean(arguments):
    """Remove generated files (not .venv, not runs) and noise in notebooks."""
    for pattern in ("_proc", "_docs", "build", "dist", "*.egg-info", ".pytest_cache", ".ruff_cache", "**/__pycache__", "nbs/**/.ipynb_checkpoints"):
        for folder in ROOT.glob(pattern):
            if ".venv" not in folder.parts and folder.is_dir():
                shutil.rmtree(str(folder), ignore_errors=True)
    return run(set_up(), "-c", "from nbdev.clean import nbdev_clean; nbdev_clean()")


COMMANDS = {"demo": demo, "test": test, "setup": setup, "lab": lab, "docs": docs, "bench": bench, "export": export, "clean": clean}


def main(arguments=None):
    """Exit status of a command; problems of the set-up are told in words."""
    parser = argparse.ArgumentParser(prog="python3 -m stal_nb.bootstrap", description="Set up the project in .venv and start it.",
                                     epilog="Further arguments go to the program that the command starts.")
    parser.add_argument("command", choices=list(COMMANDS), help="; ".join("%s: %s" % (k, (f.__doc__ or "").split(".")[0]) for k, f in COMMANDS.items()))
    options, rest = parser.parse_known_args(arguments)
    try:
        return COMMANDS[options.command](rest)
    except SetupProblem as problem:
        print("\n[stal_nb] " + str(problem).replace("\n", "\n[stal_nb] "), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n[stal_nb] Stopped. Start again to continue.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
