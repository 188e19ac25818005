"""One headless Chromium for the whole test session, and pages that remember what went wrong on them."""
import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]


def executable():
    "Chromium as `make test` found it, else the first on the PATH, else None for Playwright's own."
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def chromium():
    "A running browser. One for all tests: Playwright's synchronous interface may be entered once a process."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium):
    "A function that opens a page; each page has a list `problems` of console errors, page errors, failed files and requests to a network."
    opened = []

    def make(width=1300, height=1000, **options):
        page = chromium.new_page(viewport={"width": width, "height": height}, **options)
        page.problems = []
        page.on("console", lambda m: page.problems.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: page.problems.append(f"page: {e}"))
        page.on("requestfailed", lambda r: page.problems.append(f"failed: {r.url}"))
        page.on("request", lambda r: page.problems.append(f"network: {r.url}") if leaves_the_machine(r.url) else None)
        opened.append(page)
        return page

    yield make
    for page in opened:
        page.close()


def leaves_the_machine(url):
    "False for files, data and a server of the test itself."
    return url.startswith(("http:", "https:", "ws:", "wss:")) and "//127.0.0.1" not in url and "//localhost" not in url
