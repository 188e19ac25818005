"""Find, or install, the Chromium in which the tests look at pages; `python -m tools.browser` says which."""
import os
import shutil
import subprocess
import sys

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium")


class NoBrowser(Exception):
    "There is no Chromium; the message says how to get one."


def starts(browser: str) -> bool:
    "True if it is a program that answers `--version` (a stub of a package manager does not)."
    try:
        return subprocess.run([browser, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def playwright_browser() -> str | None:
    "The Chromium that Playwright installed."
    code = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    try:
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=120).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return found if found and os.path.exists(found) and starts(found) else None


def find_browser() -> str | None:
    "A Chromium that starts: CHROMIUM, one on the PATH, Playwright's own. Raises `NoBrowser` if CHROMIUM is wrong."
    if chosen := os.environ.get("CHROMIUM"):
        if starts(chosen):
            return chosen
        raise NoBrowser(f"CHROMIUM: found {chosen!r}, expected the path of a Chromium or Chrome that starts.")
    places = [place for place in (*map(shutil.which, NAMES), *MAC) if place and os.path.exists(place)]
    return next(filter(starts, places), None) or playwright_browser()


def apt_install(package: str) -> bool:
    "True if apt-get, where there is one for root, installed it."
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        return False
    environment, silent = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, **silent)
    return subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], env=environment, **silent).returncode == 0


def get_browser() -> str:
    "A Chromium that starts, installed if need be. Raises `NoBrowser` with the ways to get one."
    if found := find_browser():
        return found
    print("No Chromium found; installing one.", flush=True)
    if any(map(apt_install, ("chromium-headless-shell", "chromium"))) and (found := find_browser()):  # the former does a third less to show a page
        return found
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])
    if found := playwright_browser():
        return found
    raise NoBrowser(
        "The tests look at pages in Chromium, and none was found or could be installed.\nInstall one (Debian: sudo apt install chromium; elsewhere Chrome, or: "
        ".venv/bin/python -m playwright install --with-deps chromium) or name yours: CHROMIUM=/path/to/chrome make test")


if __name__ == "__main__":
    try:
        print(get_browser())
    except NoBrowser as problem:
        sys.exit(str(problem))
