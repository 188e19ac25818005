"""One headless Chromium for the whole test session, pages that remember what went wrong on them, and JupyterLab for those that need it."""
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from tools import lab
from tools.lab import ARGUMENTS, executable, open_notebook, press_run, run_cell

__all__ = ["chromium", "jupyterlab", "lab_server", "new_page", "open_notebook", "open_page", "press_run", "run_cell"]


@pytest.fixture(scope="session")
def chromium():
    "A running browser. One for all tests: Playwright's synchronous interface may be entered once a process."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        yield browser
        browser.close()


def open_page(chromium, width=1300, height=1000, **options):
    "A page with a list `problems` of console errors, page errors, failed files and requests to a network."
    page = chromium.new_page(viewport={"width": width, "height": height}, **options)
    page.problems = []
    page.on("console", lambda m: page.problems.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: page.problems.append(f"page: {e}"))
    page.on("requestfailed", lambda r: page.problems.append(f"failed: {r.url}"))
    page.on("request", lambda r: page.problems.append(f"network: {r.url}") if leaves_the_machine(r.url) else None)
    return page


@pytest.fixture
def new_page(chromium):
    "`open_page`; what it opened is closed after the test."
    opened = []

    def make(*size, **options):
        opened.append(open_page(chromium, *size, **options))
        return opened[-1]

    yield make
    for page in opened:
        page.close()


def leaves_the_machine(url):
    "False for files, data and a server of the test itself."
    return url.startswith(("http:", "https:", "ws:", "wss:")) and "//127.0.0.1" not in url and "//localhost" not in url


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory):
    "One JupyterLab for the whole session: its folder, address and token."
    with lab.lab_server(tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture
def jupyterlab(lab_server):
    "A function of a new folder and sources of cells: makes a notebook there, and gives the context in which JupyterLab shows it at an address."
    @contextmanager
    def opened(folder, sources):
        folder.mkdir()
        with lab.opened(lab_server, lab.write_desk(folder, sources)) as address:
            yield address

    return opened
