"""The pictures of the tour on the first page: the product in use, taken in a headless Chromium.

    python -m tools.tour [--run runs/demo] [--out nbs/images/tour]

It needs a finished run of the preset `demo` (`make demo`) and a Chromium (tools/browser.py). JupyterLab opens a notebook of the course and one with the
widgets over the run; what a person does to them is done here with pointer and keys. The words beside the pictures are in nbs/index.ipynb, which
`slideshow` turns into steps on the site (nbs/tour.js); everywhere else they are a list of pictures.
"""
from __future__ import annotations

import argparse
import html
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "nbs" / "images" / "tour"
SIZE = (1400, 800)  # pixels of each picture: width, height
NAMES = ("1_read", "2_run", "3_uncertainty", "4_pixel", "5_query", "6_reason", "7_prediction", "8_corrected", "9_report")
ROUND, BEFORE, LAST = 1, "round 0", "round 1"  # whose query is looked at, the stage whose network asks, the last stage
LOSSES = "06_losses.ipynb"  # the notebook that the first picture shows
CELLS = ["""
from stal_nb.app.dashboard import RunDashboard
from stal_nb.run import Run
run = Run.open("runs/demo")
RunDashboard(run)
""", """
from stal_nb.app.uncertainty_explorer import UncertaintyExplorer
explorer = UncertaintyExplorer.of_run(run, network={last!r}, image=5)
explorer
""", """
from stal_nb.app.selection_explorer import SelectionExplorer, run_pool
selection = SelectionExplorer(run_pool(run, {round}, 40))
selection
""", """
from stal_nb.app.annotator import Annotator, predictor
from stal_nb.labels import CITYSCAPES
from stal_nb.store import LabelStore
says = predictor(run.model_after({stage!r}), probs=True)
annotator = Annotator(run.data.target, LabelStore("labels", CITYSCAPES), ids={ids!r}, index={index}, predictions=says)
annotator
"""]


class TourError(Exception):
    "The pictures cannot be made; the message says why."


# -- pictures ----------------------------------------------------------------------------------------------------------------------


def keep(png: bytes, file: Path) -> None:
    "Write a picture of a page as WebP at the size of all of them; what is less high stands in the middle."
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.resize((SIZE[0], min(SIZE[1], round(picture.height * SIZE[0] / picture.width))), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", SIZE, "white")
    whole.paste(picture, (0, (SIZE[1] - picture.height) // 2))
    file.parent.mkdir(parents=True, exist_ok=True)
    whole.save(file, "WEBP", quality=76, method=6)


def photograph(page: Page, what: Locator, file: Path, room: int = 0) -> None:
    "The upper part of what stands on a page, as wide as it is, with some room at its sides."
    what.evaluate("e => e.scrollIntoView({ block: 'start' })")
    page.wait_for_timeout(800)  # what is drawn after scrolling
    box = what.bounding_box()
    width = box["width"] + 2 * room
    height = min(box["height"], width * SIZE[1] / SIZE[0])
    keep(page.screenshot(clip={"x": box["x"] - room, "y": box["y"], "width": width, "height": height}), file)


def strokes(run, stage: str, id: str, apart: int = 4) -> tuple[str, list[tuple[int, int, int]]]:
    """The class that the model of a stage misses most in an image, and what a person would sweep over to correct it.

    Strokes are (y, first x, last x), in pixels of the image, inside what is of the class and was given another one, each `apart` pixels below the one above."""
    import numpy as np
    from scipy.ndimage import binary_erosion, label

    from stal_nb.models import predict_logits

    index, space = run.data.target.ids.index(id), run.data.label_space
    predicted = predict_logits(run.model_after(stage), run.image(index)[None], run.config.eval_size).argmax(1)[0].numpy()
    truth = run.data.target[index].labels.numpy()
    missed = max(range(space.num_classes), key=lambda k: ((truth == k) & (predicted != k)).sum())
    inside = binary_erosion((truth == missed) & (predicted != missed))
    found = []
    for y in range(0, len(inside), apart):
        pieces, number = label(inside[y])
        found += [(y, int(x[0]), int(x[-1])) for x in (np.flatnonzero(pieces == n) for n in range(1, number + 1))]
    return space.classes[missed], found


def read_a_notebook(page: Page, out: Path) -> None:
    "A notebook of the course in JupyterLab: a picture, an equation with its symbols, the code that is the equation."
    page.keyboard.press("Control+b")  # the list of files makes room
    page.locator(".Toastify button").filter(has_text="No").click(timeout=20_000)  # news of JupyterLab
    page.locator(".jp-Notebook .jp-OutputArea-output img").first.evaluate("e => e.scrollIntoView({ block: 'start' })")
    page.wait_for_timeout(3000)
    keep(page.screenshot(), out / f"{NAMES[0]}.webp")


def look_at_a_run(page: Page, out: Path) -> None:
    "The dashboard of the finished run."
    board = page.locator(".stal-dash")
    board.locator(".stal-pill").filter(has_text="complete").wait_for(timeout=60_000)
    photograph(page, board, out / f"{NAMES[1]}.webp")


def look_at_uncertainty(page: Page, out: Path) -> None:
    "One image, what the network says, how unsure it is and where it is wrong; then what is behind one pixel."
    explorer = page.locator(".stal-uncertainty")
    page.wait_for_selector(".stal-uncertainty[data-shown]", timeout=120_000)
    photograph(page, explorer, out / f"{NAMES[2]}.webp")
    shown = explorer.get_attribute("data-shown")
    explorer.get_by_label("Measure").select_option("margin")
    page.wait_for_function("before => document.querySelector('.stal-uncertainty').dataset.shown !== before", arg=shown)
    explorer.get_by_label("Shade the most uncertain").fill("40")
    canvas = explorer.locator("canvas[data-panel=map]")
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + 0.66 * box["width"], box["y"] + 0.4 * box["height"])
    photograph(page, explorer, out / f"{NAMES[3]}.webp")


def look_at_a_query(page: Page, out: Path) -> None:
    "What two strategies ask for, and why an image is asked for."
    explorer = page.locator(".stal-selection")
    explorer.locator(".stal-thumb").first.wait_for(timeout=180_000)
    explorer.get_by_label("Budget").fill("6")
    explorer.locator(".stal-thumb[aria-pressed=true]").first.click()
    explorer.get_by_test_id("reason").filter(has_text="Queried").wait_for()
    photograph(page, explorer, out / f"{NAMES[4]}.webp")
    explorer.get_by_label("Strategy").select_option("core_set")
    explorer.locator(".stal-thumb[aria-pressed=true]").nth(2).click()
    explorer.get_by_test_id("reason").filter(has_text="farthest").wait_for()
    photograph(page, explorer.locator(".stal-panels"), out / f"{NAMES[5]}.webp", room=8)


def label_an_image(page: Page, name: str, sweeps: list[tuple[int, int, int]], size: tuple[int, int], out: Path) -> None:
    "The annotator as it opens an image, and after the pieces of one class have been corrected with the superpixel tool."
    desk = page.get_by_role("application", name="Annotator").first
    line = desk.locator(".stal-status")
    line.filter(has_text="Starts").wait_for(timeout=60_000)
    photograph(page, desk, out / f"{NAMES[6]}.webp")
    desk.get_by_role("button", name="Superpixel", exact=True).click()
    desk.get_by_role("group", name="Classes").get_by_role("button", name=name, exact=True).click()
    page.wait_for_timeout(500)
    box = page.get_by_test_id("annotator-canvas").first.bounding_box()
    place = lambda x, y: (box["x"] + (x + 0.5) * box["width"] / size[1], box["y"] + (y + 0.5) * box["height"] / size[0])  # noqa: E731
    for y, first, last in sweeps:
        page.mouse.move(*place(first, y))
        page.mouse.down()
        page.mouse.move(*place(last, y), steps=max(2, (last - first) // 2))
        page.mouse.up()
    line.filter(has_text="Saved").wait_for(timeout=20_000)
    page.wait_for_timeout(1500)  # the last save
    photograph(page, desk, out / f"{NAMES[7]}.webp")


def take(folder: Path, out: Path) -> None:
    "All pictures of the tour, of a finished run. Raises `TourError` if it is not finished."
    from playwright.sync_api import sync_playwright

    from stal_nb.app.report import write_report
    from stal_nb.run import Run
    from tools import lab
    from tools.browser import get_browser

    if not (folder / "summary.json").is_file():
        raise TourError(f"{folder}: found no finished run, expected one of the preset demo: make demo")
    run, browser, across = Run.open(folder), get_browser(), {"width": 1200, "height": 1200 * SIZE[1] // SIZE[0]}
    ids = run.layout.query(ROUND)["ids"]
    bright = max(ids, key=lambda id: run.image(run.data.target.ids.index(id)).mean())  # many are asked for because they are dark
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        desk, beside = Path(temporary) / "desk", Path(temporary) / "beside"
        (desk / "runs").mkdir(parents=True)
        beside.mkdir()
        shutil.copyfile(ROOT / "nbs" / LOSSES, desk / LOSSES)
        (desk / "runs" / "demo").symlink_to(folder.resolve(), target_is_directory=True)  # the dashboard shows this path
        filled = [cell.format(ids=ids, index=ids.index(bright), stage=BEFORE, last=LAST, round=ROUND) for cell in CELLS]
        file = lab.write_desk(desk, filled)
        chromium = playwright.chromium.launch(executable_path=browser, args=lab.ARGUMENTS)
        with lab.lab_server(desk, beside) as server:
            with lab.opened(server, desk / LOSSES) as address:
                page = chromium.new_page(viewport=across, device_scale_factor=1.25)
                lab.open_notebook(page, address)
                read_a_notebook(page, out)
                page.close()
            with lab.opened(server, file) as address:
                page = chromium.new_page(viewport={"width": 1300, "height": 1100}, device_scale_factor=1.25)
                lab.open_notebook(page, address)
                page.keyboard.press("Control+b")
                steps = (look_at_a_run, look_at_uncertainty, look_at_a_query,
                         lambda page, out: label_an_image(page, *strokes(run, BEFORE, bright), run.config.image_size, out))
                for number, step in enumerate(steps):
                    lab.run_cell(page, number)
                    step(page, out)
                page.close()
        page = chromium.new_page(viewport=across, device_scale_factor=1.25)
        page.goto(write_report(run).resolve().as_uri())
        page.wait_for_timeout(2000)
        keep(page.screenshot(), out / f"{NAMES[8]}.webp")
        chromium.close()


# -- the page of the site ----------------------------------------------------------------------------------------------------------

STEP = re.compile(r'<div class="quarto-figure[^>]*>\s*<figure[^>]*>\s*<p><img alt="([^"]+)" src="(images/tour/[^"]+)"[^>]*></p>.*?</figure>\s*</div>'
                  r"\s*<p>(.*?)</p>", re.S)
FOLDED = re.compile(r"<details>\s*<summary>[^<]*</summary>\s*(?=<div class=\"quarto-figure)")


def slideshow(page: str) -> str:
    "The pictures of the tour, which a rendered page shows in a row, as steps. A page without them stays as it is."
    steps = list(STEP.finditer(page))
    if not steps:
        return page
    first, after = steps[0].start(), steps[-1].end()
    if FOLDED.search(page, first, after):
        after = page.index("</details>", after) + len("</details>")
    figures = "".join(
        f'<figure><img alt="{step[1]}" src="{html.escape(step[2])}" width="{SIZE[0]}" height="{SIZE[1]}"{" loading=lazy" if k else ""}>'
        f"<figcaption>{step[3]}</figcaption></figure>" for k, step in enumerate(steps))
    tour = f'<div class="stal-tour" role="group" aria-roledescription="slideshow" aria-label="Tour in pictures">{figures}</div>'
    return page[:first] + tour + '<script src="site_libs/tour.js"></script>' + page[after:]


def main(arguments: list[str] | None = None) -> int:
    "Command line. Exit status 1 with a reason if the pictures cannot be made."
    from tools.browser import NoBrowser

    parser = argparse.ArgumentParser(prog="python -m tools.tour", description="The pictures of the tour on the first page.")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo", help="a finished run of the preset demo; default runs/demo")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the pictures; default nbs/images/tour")
    options = parser.parse_args(arguments)
    try:
        take(options.run, options.out)
    except (TourError, NoBrowser) as error:
        print(f"tools.tour: {error}", file=sys.stderr)
        return 1
    for name in NAMES:
        file = options.out / f"{name}.webp"
        print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
