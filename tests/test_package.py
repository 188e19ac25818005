"""The package installs without Jupyter, holds what it should, and imports quickly."""
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = ("matplotlib", "plotly", "ipywidgets", "anywidget", "IPython", "ipykernel", "jupyterlab", "notebook", "nbdev", "fastcore",
             "execnb")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}: blocked, as if it were not installed", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The package, built from a copy of the project without a network."
    copy, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    shutil.copytree(ROOT / "stal_nb", copy / "stal_nb", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(f.relative_to(ROOT)) for f in (ROOT / "stal_nb").rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert {n for n in names if ".dist-info/" not in n} == ours
    assert any(n.endswith("licenses/LICENSE") or n.endswith("dist-info/LICENSE") for n in names)


def entry(wheel, name):
    "Text of the file of a wheel whose name ends with `name`."
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith(name))).decode()


def test_the_wheel_declares_what_settings_say(wheel):
    metadata = entry(wheel, "METADATA")
    assert "Requires-Python: >=3.10" in metadata and re.search(r"^License(-Expression)?: Apache-2.0$", metadata, flags=re.M)
    required = [line.split(": ", 1)[1] for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert any(r.startswith("torch>=") for r in required)
    assert not any(re.split(r"[<>=;! ]", r)[0].lower() in map(str.lower, FORBIDDEN) for r in required)
    assert {"Provides-Extra: notebooks", "Provides-Extra: dev"} <= set(metadata.splitlines())
    assert "stal_nb = stal_nb.cli:main" in entry(wheel, "entry_points.txt")


@pytest.mark.slow
def test_the_wheel_works_without_jupyter_and_plotting(wheel, tmp_path):
    "Every compute module imports and the contrastive loss runs, although no plotting or notebook package can be imported."
    zipfile.ZipFile(wheel).extractall(tmp_path)
    names = [f.relative_to(tmp_path / "stal_nb") for folder in ("", "runtime") for f in (tmp_path / "stal_nb" / folder).glob("*.py")]
    modules = sorted(".".join(n.with_suffix("").parts) for n in names if n.stem not in ("__init__", "__main__", "_modidx"))
    program = BLOCKER + f"""
import importlib, torch, stal_nb
assert {str(tmp_path)!r} in stal_nb.__file__ and stal_nb.__version__
for name in {modules!r}:
    importlib.import_module("stal_nb." + name)
from stal_nb import contrastive_loss
print(float(contrastive_loss(torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 3, 5, 4))))
assert not set({FORBIDDEN!r}) & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < float(done.stdout) < 10


@pytest.mark.slow
def test_the_command_line_without_plotting_says_what_to_install(tmp_path):
    program = BLOCKER + "from stal_nb.cli import main\nsys.exit(main(['run', '--help']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--preset" in done.stdout, done.stderr[-2000:]


def test_importing_the_package_imports_nothing_else():
    "`import stal_nb` costs nothing."
    program = "import sys; before = set(sys.modules); import stal_nb; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["stal_nb"], done.stderr


def test_one_version_everywhere():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    version = settings["DEFAULT"]["version"]
    assert f'\n__version__ = "{version}"\n' in (ROOT / "stal_nb" / "__init__.py").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
