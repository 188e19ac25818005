"""The package installs without Jupyter, and its set-up says in words what is missing."""
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stal_nb import bootstrap

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
    assert "stal_nb = stal_nb.rounds:main" in entry(wheel, "entry_points.txt")


def test_the_wheel_works_without_jupyter_and_plotting(wheel, tmp_path):
    "Every compute module imports and the contrastive loss runs, although no plotting or notebook package can be imported."
    zipfile.ZipFile(wheel).extractall(tmp_path)
    modules = sorted(f.stem for f in (tmp_path / "stal_nb").glob("*.py") if f.stem not in ("__init__", "__main__", "_modidx"))
    program = BLOCKER + f"""
import importlib, torch, stal_nb
assert {str(tmp_path)!r} in stal_nb.__file__ and stal_nb.__version__
for name in {modules!r}:
    importlib.import_module("stal_nb." + name)
from stal_nb.losses import contrastive_loss
print(float(contrastive_loss(torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 3, 5, 4))))
assert not set({FORBIDDEN!r}) & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < float(done.stdout) < 10


def test_the_command_line_without_plotting_says_what_to_install(tmp_path):
    program = BLOCKER + "from stal_nb.rounds import main\nsys.exit(main(['run', '--help']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--preset" in done.stdout, done.stderr[-2000:]


def test_importing_the_package_imports_nothing_else():
    "So the set-up starts on a bare Python, and `import stal_nb` costs nothing."
    program = "import sys; before = set(sys.modules); import stal_nb; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["stal_nb"], done.stderr


def test_one_version_everywhere():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    version = settings["DEFAULT"]["version"]
    assert (ROOT / "stal_nb" / "__init__.py").read_text() == f'__version__ = "{version}"\n'
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


# -- set-up ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A stand-in project. pip is a recorder and environments are made without it: no network, no change to the real environment, no waiting."
    real = subprocess.run

    def run(command, *arguments, **options):
        return real([*command, "--without-pip"] if command[1:3] == ["-m", "venv"] else command, *arguments, **options)

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    monkeypatch.setattr(bootstrap, "has_pip", lambda python: bootstrap.python_version(python) is not None)
    for name in bootstrap.DECLARATIONS:
        (tmp_path / name).write_text(name)
    installed = []
    monkeypatch.setattr(bootstrap, "pip_install", lambda python, root, target: installed.append(target))
    return tmp_path, installed


def test_set_up_makes_an_environment_once_and_again_when_declarations_change(project):
    root, installed = project
    python = bootstrap.set_up(root)
    assert python.exists() and installed == [".[notebooks,dev]"]
    assert bootstrap.set_up(root) == python and len(installed) == 1, "nothing to do the second time"
    (root / "settings.ini").write_text("changed")
    bootstrap.set_up(root)
    assert len(installed) == 2


def test_an_installation_that_failed_is_tried_again(project, monkeypatch):
    root, installed = project

    def fails(*_):
        raise bootstrap.SetupProblem("no network")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "pip_install", fails)
        with pytest.raises(bootstrap.SetupProblem, match="no network"):
            bootstrap.set_up(root)
    bootstrap.set_up(root)
    assert len(installed) == 1


def test_a_damaged_environment_is_made_again(project):
    root, installed = project
    python = bootstrap.set_up(root)
    python.unlink()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    bootstrap.set_up(root)
    assert len(installed) == 2 and bootstrap.python_version(python)


def test_a_folder_in_the_way_is_not_touched(project):
    root, _ = project
    (root / ".venv").mkdir()
    (root / ".venv" / "thesis.tex").write_text("precious")
    with pytest.raises(bootstrap.SetupProblem, match="not a virtual environment"):
        bootstrap.set_up(root)
    assert (root / ".venv" / "thesis.tex").read_text() == "precious"


def test_a_python_that_is_too_old_is_told_so(monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    with pytest.raises(bootstrap.SetupProblem, match="Python 3.8 is too old: found .*, expected 3.10 to 3.13"):
        bootstrap.choose_python((3, 8))


def test_another_python_on_the_path_is_used_when_this_one_is_too_old(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/somewhere/" + name if name == "python3.12" else None)
    monkeypatch.setattr(bootstrap, "python_version", lambda python: (3, 12))
    assert bootstrap.choose_python((3, 9)) == "/somewhere/python3.12"
    assert "using /somewhere/python3.12" in capsys.readouterr().out


def test_a_missing_venv_module_is_told_with_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "as_root_with_apt", lambda: False)
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac\n')
    broken.chmod(0o755)
    with pytest.raises(bootstrap.SetupProblem, match="sudo apt install python3"):
        bootstrap.make_venv(tmp_path / "project", broken)


@pytest.mark.parametrize("output, words", [
    ("NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "cannot be reached"),
    ("ERROR: Could not find a version that satisfies the requirement torch>=2.6", "no version for this Python"),
    ("OSError: [Errno 28] No space left on device", "disk is full"),
    ("error: command '/usr/bin/gcc' failed with exit code 1", "had to be compiled"),
    ("something new", "pip said why")])
def test_a_failed_installation_is_explained(output, words):
    assert words in bootstrap.explain_pip_failure(output)


def test_the_command_line_of_set_up_tells_problems_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "choose_python", lambda: (_ for _ in ()).throw(bootstrap.SetupProblem("Python 3.8 is too old")))
    monkeypatch.setattr(bootstrap, "set_up", lambda: bootstrap.choose_python())
    assert bootstrap.main(["demo"]) == 1
    assert capsys.readouterr().err.strip() == "[stal_nb] Python 3.8 is too old"


def test_the_browser_is_the_one_that_the_variable_names(monkeypatch, tmp_path):
    program = tmp_path / "chrome"
    program.write_text("#!/bin/sh\necho Chromium 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(program))
    assert bootstrap.find_browser(sys.executable) == str(program)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(bootstrap.SetupProblem, match="CHROMIUM: found"):
        bootstrap.find_browser(sys.executable)


def test_no_browser_anywhere_is_told_with_the_ways_to_get_one(monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(bootstrap, "find_browser", lambda python: None)
    monkeypatch.setattr(bootstrap, "playwright_browser", lambda python: None)
    monkeypatch.setattr(bootstrap, "as_root_with_apt", lambda: False)
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *a, **k: None)
    with pytest.raises(bootstrap.SetupProblem, match="CHROMIUM=/path/to/chrome make test"):
        bootstrap.browser(sys.executable)


@pytest.mark.parametrize("notebooks, others, expected", [(0, 0, 0), (1, 0, 1), (0, 3, 3), (1, 3, 1)])
def test_make_test_fails_if_either_half_fails(monkeypatch, notebooks, others, expected):
    asked = []

    def run(python, *arguments, **env):
        asked.append(arguments)
        return others if "pytest" in arguments else notebooks

    monkeypatch.setattr(bootstrap, "set_up", lambda: sys.executable)
    monkeypatch.setattr(bootstrap, "browser", lambda python: "chromium")
    monkeypatch.setattr(bootstrap, "run", run)
    assert bootstrap.main(["test"]) == expected
    assert len(asked) == 2 and "nbdev_test" in asked[0][1] and "pytest" in asked[1], "pytest runs last, also when a notebook failed"


def test_further_arguments_reach_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(bootstrap, "set_up", lambda: sys.executable)
    monkeypatch.setattr(bootstrap, "run", lambda python, *arguments, **env: asked.append(arguments) or 0)
    assert bootstrap.main(["demo", "--set", "seed=1"]) == 0
    assert asked == [("-m", "stal_nb", "run", "--preset", "demo", "--set", "seed=1")]


def test_clean_removes_what_was_generated_and_nothing_else(tmp_path, monkeypatch):
    made = ["_docs/index.html", "build/x.py", "stal_nb.egg-info/PKG-INFO", "stal_nb/__pycache__/x.pyc", "nbs/.ipynb_checkpoints/a.ipynb"]
    kept = [".venv/lib/__pycache__/y.pyc", "runs/demo/summary.json", "nbs/a.ipynb", "stal_nb/x.py"]
    for name in made + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    asked = []
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "set_up", lambda: sys.executable)
    monkeypatch.setattr(bootstrap, "run", lambda python, *arguments, **env: asked.append(arguments) or 0)
    assert bootstrap.main(["clean"]) == 0
    assert not any((tmp_path / name).exists() for name in made) and all((tmp_path / name).exists() for name in kept)
    assert "nbdev_clean" in asked[0][1]


def test_set_up_starts_on_old_pythons():
    "It tells people that their Python is too old, so it may not use the syntax of newer ones."
    import ast
    ast.parse((ROOT / "stal_nb" / "bootstrap.py").read_text(), feature_version=(3, 5))
