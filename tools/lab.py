"""A JupyterLab of its own on loopback and a headless Chromium that works in it: for the tests, and for the pictures of the tour (tools/tour.py)."""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tools.browser import NAMES

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]


def executable():
    "Chromium as `make test` found it, else the first on the PATH, else None for Playwright's own."
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def lab_server(folder, beside):
    "JupyterLab over a folder, with a token, and settings of its own in the folder `beside`: its folder, address and token."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f"JUPYTER{name}": str(beside / name.lower()) for name in (
        "_CONFIG_DIR", "_DATA_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")}
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")]))
    with open(beside / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
             "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"],
            env={**os.environ, **own, "IPYTHONDIR": str(beside / "ipython"), "PYTHONPATH": path}, cwd=folder, stdout=log, stderr=log,
            start_new_session=True)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/api?token={token}", timeout=2)
                    break
                except OSError:
                    assert server.poll() is None, (beside / "lab.log").read_text(encoding="utf-8")
                    time.sleep(0.5)
            yield folder, address, token
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # the server and its kernels: a session of their own
            server.wait(20)


def ask_server(lab_server, method, path):
    "A request to the server; what it answers, as JSON."
    _, address, token = lab_server
    request = urllib.request.Request(f"{address}/api/{path}", method=method, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "null")


def write_desk(folder, sources):
    "A notebook of code cells in a folder; its file."
    cells = [{"cell_type": "code", "id": f"cell-{k}", "metadata": {}, "source": source.strip(), "outputs": [], "execution_count": None}
             for k, source in enumerate(sources)]
    metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    file = Path(folder) / "desk.ipynb"
    file.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return file


@contextmanager
def opened(server, file):
    "The address at which JupyterLab shows a file below its folder, in a workspace of its own; afterwards the file's kernel ends."
    root, address, token = server
    name = file.relative_to(root).as_posix()
    try:
        yield f"{address}/lab/workspaces/{secrets.token_hex(4)}/tree/{name}?token={token}"  # no tabs from before
    finally:
        for session in ask_server(server, "GET", "sessions"):
            if session["path"] == name:
                ask_server(server, "DELETE", f"sessions/{session['id']}")


def kernel_question(page):
    "JupyterLab's question which kernel to take: it asks when the server was slow to list them, also after it has shown an idle kernel."
    return page.locator(".jp-Dialog").filter(has_text="Select Kernel")


def open_notebook(page, address):
    "Go to a notebook and wait until its kernel is idle."
    page.route("**/lab/api/build*", lambda route: route.fulfill(json={"status": "stable", "message": ""}))  # else Node looks, for seconds
    page.add_locator_handler(kernel_question(page), lambda dialog: dialog.locator("button").last.click())  # before any later click, too
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell .cm-content", timeout=60000)
    end = time.monotonic() + 60
    while not page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").count() and time.monotonic() < end:
        if kernel_question(page).count():
            kernel_question(page).locator("button").last.click()
        page.wait_for_timeout(200)


def press_run(page, number):
    "Focus the editor of a cell and run it."
    page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")


def run_cell(page, number):
    "Run a cell and wait until it has a number. A kernel that has just started may not have heard the first time."
    prompt = page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-InputPrompt")
    before, end = prompt.inner_text(), time.monotonic() + 120
    while time.monotonic() < end:
        others = page.locator(".jp-Dialog").filter(has_not_text="Select Kernel").all_inner_texts()
        assert not others, f"JupyterLab asks: {others}"
        press_run(page, number)
        page.wait_for_timeout(2000)
        while (now := prompt.inner_text()).startswith("[*") and time.monotonic() < end:
            page.wait_for_timeout(200)
        if now != before and now.strip("[]: ").isdigit():
            return
    raise AssertionError(f"cell {number} did not run: {prompt.inner_text()}")
