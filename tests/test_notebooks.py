"""Notebooks are the source: the library follows them, and what is stored in them can be read by people."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parent.parent / "nbs"
NOTEBOOKS = sorted(f for f in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts)
DRAWING = {"matplotlib", "plotly", "ipywidgets", "anywidget", "IPython", "fastcore"}
HAND_WRITTEN = {"__init__.py", "__main__.py"}  # modules that no notebook exports


def read(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [(i, "".join(c["source"]), c) for i, c in enumerate(read(notebook)["cells"]) if c["cell_type"] == "code"]


def name(notebook):
    return str(notebook.relative_to(NBS))


@pytest.fixture(params=NOTEBOOKS, ids=name)
def notebook(request):
    return request.param


def test_stored_widgets_have_the_script_and_style_of_today(notebook):
    "A widget's state keeps a copy of both, which a viewer without a kernel runs: it is made anew when they change."
    today = {file.read_text(encoding="utf-8") for file in (NBS.parent / "stal_nb" / "app" / "static").iterdir() if file.is_file()}
    stored = read(notebook)["metadata"].get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for state in (widget["state"] for widget in stored.values() if "_anywidget_id" in widget["state"]):
        for kind in {"_esm", "_css"} & set(state):
            assert state[kind] in today, f"{state['_anywidget_id']}: {kind} is of an earlier version, run the notebook again"


def test_the_library_is_what_the_notebooks_export(project, tmp_path):
    "A fresh export into an empty folder gives the same files, and no file of the library is without its notebook."
    copy = tmp_path / "project"
    shutil.copytree(NBS, copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for file in ("settings.ini", "pyproject.toml"):
        shutil.copyfile(project / file, copy / file)
    (copy / "stal_nb").mkdir()
    for file in HAND_WRITTEN:  # nbdev's index of the library lists them too
        shutil.copyfile(project / "stal_nb" / file, copy / "stal_nb" / file)
    environment = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "PYTHONPATH")}
    done = subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=copy, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh = {str(f.relative_to(copy / "stal_nb")): f.read_bytes() for f in (copy / "stal_nb").rglob("*.py")}
    kept = {str(f.relative_to(project / "stal_nb")): f.read_bytes() for f in (project / "stal_nb").rglob("*.py")}
    assert set(kept) == set(fresh), "run `make export`"
    different = [file for file in fresh if fresh[file] != kept[file]]
    assert not different, f"{different} differ from the notebooks: run `make export`, or move the edit into the notebook"


def test_every_notebook_is_on_the_site(project):
    "The sidebar names each notebook (a pattern may name several)."
    from fnmatch import fnmatch

    import yaml
    entries = yaml.safe_load((NBS / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [e["href"] for e in entries if "href" in e] + [file for e in entries for file in e.get("contents", [])]
    missing = [name(n) for n in NOTEBOOKS if not any(fnmatch(name(n), pattern) for pattern in listed)]
    assert not missing, f"{missing} are not in the sidebar of nbs/_quarto.yml"
    assert all(any(fnmatch(name(n), pattern) for n in NOTEBOOKS) for pattern in listed), "the sidebar names a notebook that does not exist"


def test_it_starts_with_a_title_and_one_sentence(notebook):
    first = read(notebook)["cells"][0]
    assert first["cell_type"] == "markdown"
    title, sentence = [line for line in "".join(first["source"]).splitlines() if line.strip()][:2]
    assert title.startswith("# ") and sentence.startswith("> ") and sentence.rstrip().endswith((".", "?"))


def test_it_is_small_enough_for_a_code_host(notebook):
    assert notebook.stat().st_size < 1.5e6


def test_its_outputs_are_stored_and_none_is_an_error(notebook):
    cells = code_cells(notebook)
    outputs = [o for _, _, c in cells for o in c["outputs"]]
    errors = [f"cell {i}: {o['ename']}" for i, _, c in cells for o in c["outputs"] if o["output_type"] == "error"]
    assert not errors
    explains = [source for _, source, _ in cells if not re.match(r"#\|\s*(export\b|exporti|hide|default_exp)", source)]
    assert outputs or len(explains) < 3, "run it and save it with its outputs"


def test_no_cell_is_kept_from_running(notebook):
    "nbdev_test would pass over cells with these marks in silence."
    text = "\n".join(source for _, source, _ in code_cells(notebook))
    assert not re.search(r"^#\|\s*(notest|eval:\s*false|slow|cuda)", text, flags=re.M)
    first = "".join(read(notebook)["cells"][0]["source"])
    assert "skip_exec" not in first and not (notebook.parent / ".notest").exists()


def test_it_names_no_machine(notebook):
    "No absolute path of somebody's machine, neither in a cell nor in an output."
    def strings(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not key.startswith("image/"):
                    yield from strings(inner)
        elif isinstance(value, list):
            yield "".join(value) if all(isinstance(v, str) for v in value) else ""
            yield from (s for v in value if not isinstance(v, str) for s in strings(v))

    pattern = re.compile(r"(?<![\w.:/<])/(?:home|Users|root|work|tmp|mnt|usr|var|opt|private)/[\w.-]+|[A-Z]:\\\\\w+")
    found = {m[0] for text in strings(read(notebook)["cells"]) for m in pattern.finditer(text)}
    assert not found


def test_it_is_clean(notebook):
    "No run counts and editor settings, which change with every run and hide real differences. Widget states stay: they show the knobs."
    content = read(notebook)
    assert set(content["metadata"]) <= {"kernelspec", "widgets"}
    assert set(content["metadata"].get("kernelspec", {})) <= {"display_name", "language", "name"}
    ids = [cell.get("id") for cell in content["cells"]]
    assert all(ids) and len(set(ids)) == len(ids)
    for i, _, cell in code_cells(notebook):
        assert cell["execution_count"] is None and not cell["metadata"], f"cell {i}: run `make clean`"
        for output in cell["outputs"]:
            assert not output.get("metadata") or set(output["metadata"]) <= {"image/png"}, f"cell {i}"
            assert "text/html" not in output.get("data", {}) or "plotly" not in "".join(output["data"]["text/html"])[:5000], (
                f"cell {i}: a plotly figure with its own copy of plotly.js; set plotly.io.renderers.default = 'plotly_mimetype'")


def test_it_says_nothing_on_stderr(notebook):
    "Warnings and progress bars are noise to a reader."
    noise = [(i, "".join(o["text"])[:200]) for i, _, c in code_cells(notebook) for o in c["outputs"] if o.get("name") == "stderr"]
    assert not noise


def test_its_links_lead_somewhere(notebook):
    "Links to other notebooks and files exist."
    text = "\n".join("".join(c["source"]) for c in read(notebook)["cells"] if c["cell_type"] == "markdown")
    text = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.S)
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:|#|attachment", t)]
    missing = [t for t in targets if not (notebook.parent / t.split("#")[0]).exists()]
    assert not missing


def test_compute_cells_import_no_pictures():
    "Modules other than `app` work without plotting and widget libraries."
    wrong = []
    for file in [f for folder in ("", "runtime") for f in (NBS.parent / "stal_nb" / folder).glob("*.py")]:
        if file.name in HAND_WRITTEN:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wrong += [f"{file.name}: {a.name}" for a in node.names if a.name.split(".")[0] in DRAWING]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in DRAWING:
                wrong.append(f"{file.name}: {node.module}")
    assert not wrong


def test_readme_is_what_the_index_says():
    from tools.docs import write_readme
    assert write_readme(check=True) == [], "run `make export`"


def test_the_networks_that_notebooks_show_come_with_them(monkeypatch):
    "So that nobody trains them, and text about a pixel holds on every machine. They are found by what they were made with."
    monkeypatch.syspath_prepend(NBS)
    from figures import warm_models
    from stal_nb.app import demo

    names = {warm_models.file_name(), demo.demo_file_name({**demo.DEMO_RECIPE, "domain": "sim"})}
    assert {file.name for file in demo.STORED.iterdir()} == names, "store_demo_model() or store_warm_models() was forgotten"
    assert sum(file.stat().st_size for file in demo.STORED.iterdir()) < 20e6


def test_packed_weights_are_nearly_those_that_were_packed(monkeypatch):
    monkeypatch.syspath_prepend(NBS)
    import torch

    from figures.warm_models import WARM_UP, packed, unpacked

    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    trained = {step: {name: value + (0.1 * torch.randn(value.shape) if value.is_floating_point() else 7) for name, value in start.state_dict().items()}
               for step in WARM_UP["snapshots"]}
    found = unpacked(packed(trained, start), start)
    for step, weights in trained.items():
        for name, value in weights.items():
            change = (value - start.state_dict()[name]).abs().max()
            assert found[step][name].dtype == value.dtype and (found[step][name] - value).abs().max() <= max(change / 200, 1e-3), name
    with pytest.raises((KeyError, RuntimeError)):
        unpacked(packed(trained, start), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
