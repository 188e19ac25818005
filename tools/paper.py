"""The first reading path as a PDF to print: a cover with contents, one notebook after the other, the answers at the end of each.

    python -m tools.docs print [--out _docs/first_path.pdf] [NOTEBOOK ...]

The notebooks become pages as on the site (tools/docs.py). `combine` makes one page of them: without navigation, with links that hold on paper,
code unfolded, answers moved behind the text of their notebook. A headless Chromium lays it out and prints it.
"""
from __future__ import annotations

import html
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tools import docs

FIRST_PATH = ("story", "01_scenes", "06_losses", "09_uncertainty", "12_step")  # as nbs/index.ipynb names it; a test compares
HERE = Path(__file__).resolve().parent
FOOT = ('<div style="font: 8px sans-serif; width: 100%; padding: 0 16mm; color: #666; display: flex; justify-content: space-between">'
        '<span>TITLE</span><span class="pageNumber"></span></div>')
SHRINK = """() => {  // what is wider than the page becomes as small as it has to
  for (const e of document.querySelectorAll(".math.display, main.content table")) {
    const room = e.parentElement.clientWidth, inside = e.firstElementChild.getBoundingClientRect().width;
    const wide = Math.max(e.scrollWidth, e.getBoundingClientRect().width, inside);
    if (wide > room + 1) e.style.fontSize = `${Math.max(.5, .98 * room / wide) * parseFloat(getComputedStyle(e).fontSize)}px`;
  }
}"""
DRAWN = "document.fonts.status === 'loaded' && document.querySelectorAll('.stal-plot:not(.js-plotly-plot)').length === 0"
ONLY = "shown => document.querySelectorAll('.stal-part').forEach((part, k) => { part.hidden = shown !== null && k !== shown; })"


class Part(NamedTuple):
    "A notebook on paper."

    name: str  # its stem
    title: str
    body: str  # HTML


# -- one page of many --------------------------------------------------------------------------------------------------------------


def move_answers(body: str) -> str:
    "Answers stand behind the text, numbered, so that nobody reads them with the question. Code stands there without a fold, other folded parts are open."
    answers = []

    def one(match: re.Match) -> str:
        answers.append(match[1])
        n = len(answers)
        return f'<p class="stal-to-answer" id="to-answer-{n}">→ <a href="#answer-{n}">Answer {n}</a>, at the end of this notebook</p>'

    body = re.sub(r"<details>\s*<summary>\s*(?:Show the answer|Answers?)\s*</summary>(.*?)</details>", one, body, flags=re.S)
    body = re.sub(r'<details[^>]*class="code-fold"[^>]*>\s*<summary>Code</summary>(.*?)</details>', r"\1", body, flags=re.S)
    body = re.sub(r"<details(?: open(?:=\"\")?)?(?= |>)", "<details open", body)
    if not answers:
        return body
    listed = "".join(f'<div class="stal-answer" id="answer-{n}"><p><a href="#to-answer-{n}"><b>Answer {n}</b></a></p>{text}</div>'
                     for n, text in enumerate(answers, 1))
    return f'{body}<section id="answers"><h2>Answers</h2>{listed}</section>'


def own_names(body: str, name: str) -> str:
    "Ids of a notebook, and what refers to them, with its name in front: the page holds several notebooks."
    body = re.sub(r'(\s(?:id|for|data-plot|aria-describedby|aria-labelledby)=")([^"]+")', rf"\g<1>{name}--\g<2>", body)
    return re.sub(r'(\shref="#)([^"]+")', rf"\g<1>{name}--\g<2>", body)


def paper_links(body: str, names: tuple[str, ...], base: str) -> str:
    "Links to notebooks on the same paper lead there; those to other pages lead to the published site."
    def one(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        if target in names:
            return f'href="#{target}--{anchor[1:]}"' if anchor else f'href="#{target}"'
        return f'href="{base}/{target}.html{anchor}"'

    return re.sub(r'href="(?:\./)?((?:\w+/)*\w+)\.(?:html|ipynb)(#[^"]*)?"', one, body)


def part_of(page: str, name: str, names: tuple[str, ...], settings: dict) -> Part:
    "What a rendered page has to say, for paper."
    page = docs.finish_page(page, 0, settings, f"{name}.html")
    body = re.search(r"<main[^>]*>(.*)</main>", page, flags=re.S)[1]
    body = re.sub(r'<nav\b.*?</nav>|<button\b.*?</button>|<a [^>]*id="quarto-back-to-top".*?</a>|<noscript>.*?</noscript>', "", body, flags=re.S)
    note = '<p class="stal-live">Here stands an explorer on the site.</p>'
    body = re.sub(r'<div class="stal-explorer".*?<script type="module">.*?</script>', note, body, flags=re.S)
    body = re.sub(r"<script(?![^>]*data-plot).*?</script>", "", body, flags=re.S)
    title = html.unescape(re.sub(r"<[^>]+>", "", re.search(r"<h1[^>]*>(.*?)</h1>", body, flags=re.S)[1])).strip()
    body = own_names(move_answers(body), name)
    return Part(name, title, paper_links(body, names, settings["doc_host"] + settings["doc_baseurl"]))


def title_of(parts: list[Part]) -> str:
    "What is printed, in words."
    return "the first reading path" if tuple(part.name for part in parts) == FIRST_PATH else "notebooks of the course"


def combine(parts: list[Part], head: str, starts: list[int] | None = None) -> str:
    "One page: cover, contents (with the page on which each notebook begins, where that is known), notebooks."
    numbers = starts or [""] * len(parts)
    lines = "".join(f'<li><a href="#{part.name}">{html.escape(part.title)}</a><i></i><span>{number}</span></li>'
                    for part, number in zip(parts, numbers, strict=True))
    cover = ('<section class="stal-part stal-cover" style="break-before: auto"><h1>stal_nb</h1><p>Self-training plus active learning for '
             f"domain-adaptive semantic segmentation: {title_of(parts)}.</p><ol>{lines}</ol><p>Made from the notebooks of the course. What moves "
             "there stands still here; the site has the knobs and explorers. Answers to quick checks and exercises are at the end of each "
             "notebook.</p></section>")
    bodies = "".join(f'<section class="stal-part" id="{part.name}">{part.body}</section>' for part in parts)
    return f'<!doctype html><html lang="en" data-bs-theme="light"><head>{head}</head><body><main class="content">{cover}{bodies}</main></body></html>'


# -- printing ----------------------------------------------------------------------------------------------------------------------


def pages_of(pdf: bytes) -> int:
    "The number of pages of a PDF that Chromium wrote."
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def print_pages(page, address: str, parts: list[Part], head: str, file: Path) -> bytes:
    "The PDF of a combined page, whose contents say where each notebook begins. `page` is Playwright's."
    options = {"prefer_css_page_size": True, "print_background": True, "display_header_footer": True, "header_template": "<span></span>",
               "footer_template": FOOT.replace("TITLE", f"stal_nb: {title_of(parts)}")}

    def shown(starts: list[int] | None) -> None:
        file.write_text(combine(parts, head, starts), encoding="utf-8")
        page.goto(address)
        page.wait_for_function(DRAWN, timeout=60_000)
        page.evaluate(SHRINK)

    shown(None)
    starts = [2]  # the cover is the first page
    for k in range(1, len(parts)):
        page.evaluate(ONLY, k)
        starts.append(starts[-1] + pages_of(page.pdf(**options)))
    shown(starts)
    return page.pdf(**options, outline=True, tagged=True)


def write_pdf(out: Path, names: tuple[str, ...] = FIRST_PATH) -> int:
    "Print notebooks of nbs/ to a file; returns the number of pages. Raises `DocsError` for a name that is none, and without a Chromium."
    from playwright.sync_api import sync_playwright

    from tools.browser import NoBrowser, find_browser
    from tools.lab import ARGUMENTS

    for name in names:
        if not (docs.ROOT / "nbs" / f"{name}.ipynb").is_file():
            raise docs.DocsError(f"{name}: found no nbs/{name}.ipynb, expected the name of a notebook, such as {FIRST_PATH[0]}")
    try:
        browser = find_browser()
    except NoBrowser as problem:
        raise docs.DocsError(str(problem)) from None
    if not browser:
        raise docs.DocsError("print: found no Chromium, expected one on the PATH, or CHROMIUM=/path/to/chrome (python -m tools.browser gets one)")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "pages"
        docs.process_all(docs.ROOT / "nbs", work, names)
        docs.smalldocs(work, warnings=False)
        site, settings = work / "_docs", docs.read_settings()
        rendered = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in names}
        docs.copy_scripts(site)
        if plots := any('class="stal-plot"' in page for page in rendered.values()):
            docs.copy_plotly(site)
        parts = [part_of(page, name, names, settings) for name, page in rendered.items()]
        shutil.copyfile(HERE / "paper.css", site / "paper.css")
        styles = "".join(re.findall(r'<link rel="stylesheet"[^>]*href="(?!https?:)[^"]*"[^>]*>', rendered[names[0]]))
        head = (f'<meta charset="utf-8"><title>stal_nb: {title_of(parts)}</title>{styles}' '<link rel="stylesheet" href="paper.css">'
                + ('<script src="site_libs/stal_nb.js"></script><script src="site_libs/plotly.min.js"></script>' if plots else ""))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=ARGUMENTS)
            page = chromium.new_page(viewport={"width": 672, "height": 980})  # what lies between the margins of A4
            page.emulate_media(media="print", color_scheme="light")
            pdf = print_pages(page, (site / "paper.html").as_uri(), parts, head, site / "paper.html")
            chromium.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(pdf)
    return pages_of(pdf)
