"""The rooms of the library: their order is the reading order and the order of imports; none is too large."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = """
    runtime.errors runtime.files runtime.distributed runtime.ops runtime.devices runtime.signals runtime.images runtime.checkpoints runtime.batchnorm
    labels scenes data readers augmentation inspection metrics backbones models losses banks contrast mixing
    uncertainty calibration selection store formats annotation
    config sampling step probe optimisation badsteps traininglog evaluation trainer datasets scoring planning run cli
""".split()
LARGEST = {"file": 500, "class": 250}
KNOWN = {"scenes.py": 700, "run.py": 725, "Run": 670, "LabelStore": 260}  # to be cut; they may shrink, not grow


def modules():
    "name -> file, of everything but pictures and widgets."
    files = [f for folder in ("", "runtime") for f in (ROOT / "stal_nb" / folder).glob("*.py") if f.stem not in ("__init__", "__main__", "_modidx")]
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
    "So there is no circle, and whoever reads in this order meets nothing unknown. Pictures and widgets are imported where a person asks for them."
    later = [other for other in imported(modules()[name]) if other in ORDER and ORDER.index(other) >= ORDER.index(name)]
    assert not later
    pictures = [other for other in imported(modules()[name]) if other.startswith("explore")]
    assert not pictures or name in ("run", "cli", "inspection")


def test_what_is_under_the_floor_imports_nothing_above_it():
    assert not {other for name, file in modules().items() if name.startswith("runtime.") for other in imported(file) if not other.startswith("runtime.")}


@pytest.mark.parametrize("name", ORDER)
def test_no_room_is_too_large(name):
    file = modules()[name]
    assert len(file.read_text().splitlines()) <= KNOWN.get(file.name, LARGEST["file"])
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < KNOWN.get(node.name, LARGEST["class"]), node.name


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
