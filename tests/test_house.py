"""The rooms of the library: their order is the reading order and the order of imports; none is too large."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.docs import notebooks

ROOT = Path(__file__).resolve().parent.parent
ORDER = """
    runtime.errors runtime.files runtime.distributed runtime.ops runtime.devices runtime.signals runtime.images runtime.listing
    runtime.checkpoints runtime.batchnorm
    statistics labels masks annotation_formats annotation_files canvas drawing scenes classes label_files data splits readers augmentation inspection
    metrics backbones models losses banks contrast mixing related
    uncertainty calibration temperature coverage selection query_check label_versions store formats annotation foldernames folders combine pool
    datasets settings config_file config class_check sampling step probe optimisation badsteps traininglog evaluation trainer scored scoring features
    layout places budget planning status poolstate stagecheckpoints stages run survey new_project prediction exchange onnx_export
    arms outcomes workers comparison experiments proxy source_trial
    app.drawing app.pages app.demo app.transfer app.annotator app.uncertainty_picture app.uncertainty_explorer app.selection_explorer app.check_page
    app.report app.experiment_page app.run_log app.run_folder app.run_view app.run_process app.dashboard_picture app.dashboard app.form cli
""".split()
LARGEST = {"file": 500, "class": 250}


def modules():
    "name -> file, of every module."
    files = [f for folder in ("", "runtime", "app") for f in (ROOT / "stal_nb" / folder).glob("*.py") if f.stem not in ("__init__", "__main__", "_modidx")]
    return {".".join(f.relative_to(ROOT / "stal_nb").with_suffix("").parts): f for f in files}


def imported(file):
    "Modules of the library that a file imports, wherever it does."
    package = ["stal_nb", *file.relative_to(ROOT / "stal_nb").parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            if name == "stal_nb":
                yield from (a.name for a in node.names)
            elif name.startswith("stal_nb."):
                yield name.removeprefix("stal_nb.")


def test_each_module_has_its_place():
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_what_comes_before_it(name):
    "So there is no circle, and whoever reads in this order meets nothing unknown. What is looked at and clicked on is on top: `cli` alone knows of it."
    later = [other for other in imported(modules()[name]) if other in ORDER and ORDER.index(other) >= ORDER.index(name)]
    assert not later
    looked_at = [other for other in imported(modules()[name]) if other.startswith("app")]
    assert not looked_at or name == "cli" or name.startswith("app.")


def test_no_module_needs_the_figures_of_the_notebooks():
    assert not [name for name, file in modules().items() if re.search(r"^\s*(from|import) figures", file.read_text(), flags=re.M)]


def test_what_is_under_the_floor_imports_nothing_above_it():
    assert not {other for name, file in modules().items() if name.startswith("runtime.") for other in imported(file) if not other.startswith("runtime.")}


@pytest.mark.parametrize("name", ORDER)
def test_no_room_is_too_large(name):
    file = modules()[name]
    assert len(file.read_text().splitlines()) <= LARGEST["file"]
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < LARGEST["class"], node.name


def exported_cells(notebook):
    sources = ("".join(c["source"]) for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"])
    return [source for source in sources if source.startswith("#| export")]


@pytest.mark.parametrize("notebook", notebooks(ROOT / "nbs"), ids=lambda file: file.stem)
def test_cells_are_small(notebook):
    "A cell above 40 lines holds one definition, which the reader meets as one thing; no line is wider than a page."
    for source in exported_cells(notebook):
        definitions = [node for node in ast.parse(source).body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        assert source.count("\n") < 40 or len(definitions) <= 1, source[:200]
        assert all(len(line) <= 120 for line in source.split("\n")), source[:200]


TEXT = ("read_text", "write_text")


def test_text_files_are_utf8_whatever_the_system_says():
    "Each call that reads or writes text states its encoding; what opens bytes has none."
    for folder in ("stal_nb", "tools", "bench", "nbs/figures"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or "/proc/" in ast.unparse(node):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                stated = {keyword.arg for keyword in node.keywords}
                modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                text = name in TEXT or name == "open" and bool(stated & {"newline", "mode"}) and not any("b" in mode for mode in modes)
                text |= name == "open" and any(mode in ("r", "w", "a", "x") for mode in modes)
                text |= name in ("run", "Popen", "check_output") and "text" in stated
                if text and file.name != "bootstrap.py":  # which runs before anything is known
                    assert "encoding" in stated, f"{file.relative_to(ROOT)}, line {node.lineno}: {ast.unparse(node)[:120]}"


def test_no_function_is_too_long():
    "At most 40 lines, signature and docstring included; `training_step`, the longest, is the method from top to bottom."
    longer = {"training_step": 80, "evaluate": 55, "still_figure": 60, "__init__": 50}
    for name, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < longer.get(node.name, 40), f"{name}.{node.name}"


@pytest.mark.parametrize("options", [["."], ["--select", "E501", "--line-length", "120", "nbs/app", "nbs/figures"]], ids=" ".join)
def test_ruff_finds_nothing(options):
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[:3000]


def test_the_names_people_come_for_are_offered_and_imported_when_asked_for():
    import stal_nb

    for name in stal_nb.__all__:
        assert getattr(stal_nb, name).__name__ == name
    assert set(stal_nb.__all__) <= set(dir(stal_nb)) and len(stal_nb.__all__) == 10
    with pytest.raises(AttributeError, match="module 'stal_nb' has no attribute 'nothing'"):
        stal_nb.nothing
    program = "import sys; before = set(sys.modules); import stal_nb; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["stal_nb"], "nothing is imported before it is asked for"
