"""What all tests share."""
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "agg")  # figures go to files, also where there is a display

pytest_plugins = ["browser"]

BROWSERS = {"test_annotator_browser.py": "JupyterLab", "test_dashboard.py": "JupyterLab", "test_uncertainty_explorer.py": "JupyterLab",
            "test_selection_explorer.py": "JupyterLab", "test_site.py": "pages", "test_report.py": "pages"}  # who shares a browser


@pytest.fixture(scope="session")
def project():
    "The root of the project."
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def leaves_the_process_as_it_was():
    "Tests run in random order, so none may leave behind what another one would notice."
    def state():
        torch = sys.modules.get("torch")
        numbers = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) if torch else None
        own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TORCH", "_TORCH", "TRITON"))}  # the latter two: set by compiling
        return {"__main__": sys.modules["__main__"], "current folder": os.getcwd(), "environment": own, "torch": numbers}

    before, modules = state(), set(sys.modules)
    yield
    after = state()
    before["torch"] = before["torch"] or after["torch"]
    gone = {name for name in modules - set(sys.modules) if name.split(".")[0] in ("figures", "stal_nb", "tools")}
    assert not gone, f"took away modules that others have imported: {sorted(gone)}"
    changed = [name for name in before if before[name] != after[name]]
    variables = dict(before["environment"].items() ^ after["environment"].items())
    assert not changed, f"left changed: {', '.join(changed)} {', '.join(sorted(variables))}"


@pytest.fixture
def one_thread():
    "For what is compared to the bit: several threads divide the rows otherwise."
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """What asks for the browser is marked so. The files that share one begin, then slow tests, so that no core waits in the end; the order of each kind
    stays random."""
    for item in items:
        if "chromium" in item.fixturenames:
            item.add_marker("browser")
    items.sort(key=lambda item: (item.path.name not in BROWSERS, item.get_closest_marker("slow") is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files of `BROWSERS` with one name go to one process, which starts a browser and a JupyterLab once; tests of a file with a fixture of its module to
    one, which makes it once; all others to whichever is free."""
    from xdist.scheduler import LoadScopeScheduling

    folder = Path(__file__).resolve().parent
    shared = {file.name for file in folder.glob("test_*.py") if 'scope="module"' in file.read_text()}

    class ByModuleFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return BROWSERS.get(Path(file).name) or (file if Path(file).name in shared else nodeid)

    config.option.loadscopereorder = False  # the order is that of the items
    return ByModuleFixture(config, log)


def pytest_terminal_summary(terminalreporter):
    "Write the ids of what failed into the file that STAL_NB_FAILED names, for `make test`."
    if told := os.environ.get("STAL_NB_FAILED"):
        reports = [r for kind in ("failed", "error") for r in terminalreporter.stats.get(kind, [])]
        Path(told).write_text("".join(f"{name}\n" for name in dict.fromkeys(r.nodeid for r in reports)))
