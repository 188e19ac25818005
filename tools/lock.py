"""The set of package versions that was tested, in constraints.txt.

    python -m tools.lock write         resolve the newest versions for all supported Pythons and platforms (uv), and store them
    python -m tools.lock differences   say which installed packages differ from constraints.txt

PyTorch, and what only it asks for, is left out: it stays the range of settings.ini, so that a CPU build or the build for a GPU can be taken.
"""
from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.docs import ROOT, read_settings

FILE = ROOT / "constraints.txt"
OF_TORCH = ("torch", "torchvision", "triton", "sympy", "mpmath", "setuptools", "nvidia-", "cuda-")  # names, or beginnings that end with a dash
HEAD = """# The versions that were tested, for Python {oldest} and newer on every platform: made by `make lock`, used by `make demo` and `make test`.
# PyTorch and what only it asks for are left to the ranges of settings.ini. To take the newest of everything: make test LATEST=1
"""


def requirements() -> list[str]:
    "All that settings.ini asks for, of the library, the notebooks and development."
    settings = read_settings()
    return [r for name in ("requirements", "notebooks_requirements", "dev_requirements") for r in shlex.split(settings[name])]


def is_of_torch(name: str) -> bool:
    return any(canonicalize_name(name).startswith(start) if start.endswith("-") else canonicalize_name(name) == start for start in OF_TORCH)


def resolve(oldest: str, *options: str) -> list[str]:
    "Lines `name==version ; marker` that uv finds for all platforms. Raises `subprocess.CalledProcessError` with uv's words on the screen."
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text("\n".join(requirements()) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", oldest, "--no-header", "--no-annotate", "--quiet"]
        done = subprocess.run([*command, *options, str(wanted)], check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    return [line for line in done.stdout.splitlines() if line and not is_of_torch(Requirement(line).name)]


def write() -> int:
    "Store the newest versions. An error leaves the file as it was."
    oldest = read_settings()["min_python"]
    try:
        lines = resolve(oldest)
    except subprocess.CalledProcessError as error:
        print(f"uv found no set of versions (exit status {error.returncode}); constraints.txt is as it was.", file=sys.stderr)
        return 1
    beside = FILE.with_name(FILE.name + ".tmp")
    beside.write_text(HEAD.format(oldest=oldest) + "\n".join(lines) + "\n", encoding="utf-8")
    os.replace(beside, FILE)
    print(f"{FILE.name}: {len({Requirement(line).name for line in lines})} packages")
    return 0


def tested() -> dict[str, str]:
    "Package -> version of constraints.txt, for this Python and platform."
    found = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        try:
            here = requirement.marker is None or requirement.marker.evaluate()
        except UndefinedEnvironmentName:
            here = False
        if here:
            found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def differences() -> list[str]:
    "Lines `package: tested 1.0, installed 2.0` for what is installed here in another version than the tested one."
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return [f"{name}: tested {version}, installed {installed[name]}" for name, version in sorted(tested().items()) if installed.get(name, version) != version]


def main(arguments: list[str]) -> int:
    if arguments == ["write"]:
        return write()
    if arguments == ["differences"]:
        print("\n".join(differences()) or "All packages have the tested versions.")
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
