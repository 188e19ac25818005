"""The documentation site opens from disk, asks no network for anything, and shows what the notebooks hold."""
import json
import re
import sys

import pytest

from tools import docs, glossary, quick_checks, slides, tour

pytestmark = pytest.mark.slow

if sys.version_info < (3, 11):
    pytest.skip("smalldocs, which renders the site, needs Python 3.11", allow_module_level=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return docs.build_site(tmp_path_factory.mktemp("site") / "docs").parent


def page_of(site, notebook):
    return site / notebook.relative_to(docs.ROOT / "nbs").with_suffix(".html")


def test_every_notebook_has_a_page_with_its_title(site):
    for notebook in docs.notebooks(docs.ROOT / "nbs"):
        title = "".join(json.loads(notebook.read_text())["cells"][0]["source"]).splitlines()[0].removeprefix("# ").strip()
        text = page_of(site, notebook).read_text()
        heading = re.search(r"<h1[^>]*>(.*?)</h1>", text, flags=re.S)
        assert heading and re.sub(r"<[^>]+>|&[#\w]+;|\W", "", heading[1]) == re.sub(r"\W", "", title.replace("`", "")), notebook.name


def test_every_link_leads_somewhere_and_nothing_is_fetched(site):
    assert docs.broken_links(site) == []


def test_every_formula_is_mathml(site):
    "As many formulas as the notebooks have, none left as LaTeX."
    for notebook in docs.notebooks(docs.ROOT / "nbs"):
        cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "markdown"]
        text = re.sub(r"```.*?```|`[^`\n]*`", "", "\n\n".join("".join(c["source"]) for c in cells), flags=re.S)
        page = page_of(site, notebook).read_text()
        written = len(re.findall(r"\$\$.+?\$\$|(?<![\\$])\$(?=\S)[^$\n]*(?:\n[^$\n]+)?\S?\$(?!\d)", text, flags=re.S))
        assert not re.search(r'class="math[^"]*">\s*\\[(\[]', page), notebook.name
        assert written == 0 or page.count("<math") >= 0.8 * written, f"{notebook.name}: {written} formulas, {page.count('<math')} shown"


def test_every_picture_of_a_notebook_is_on_its_page(site):
    for notebook in docs.notebooks(docs.ROOT / "nbs"):
        cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
        shown = [c for c in cells if not re.match(r"#\|\s*(hide|include:\s*false)", "".join(c["source"]))]
        outputs = [o.get("data", {}) for c in shown for o in c["outputs"]]
        page = page_of(site, notebook).read_text()
        still = [d for d in outputs if "image/png" in d and docs.PLOTLY not in d and "text/html" not in d]
        assert page.count("data:image/png;base64") >= len(still), notebook.name
        assert page.count('class="stal-plot"') == sum(docs.PLOTLY in d for d in outputs), notebook.name


def test_pages_open_from_disk_without_errors(site, new_page):
    "On a screen, and on a phone in dark colours. Nothing makes a page wider than the screen; wide tables, formulas and code scroll by themselves."
    page = new_page()
    for file in sorted(site.glob("*.html")):
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1300, "height": 250})  # little to paint
        page.goto(file.as_uri())
        page.wait_for_load_state("load")
        if page.locator(".stal-plot").count():
            page.wait_for_function("document.querySelectorAll('.stal-plot:not(.js-plotly-plot)').length === 0", timeout=20_000)
        for scheme, width in (("light", 1300), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 250})
            background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (sum(background) < 250) == (scheme == "dark"), f"{file.name}: {background}"
            page.wait_for_function(f"document.documentElement.scrollWidth <= {width + 2}", timeout=5_000)
        assert page.problems == [], file.name


def test_every_stored_knob_moves_its_picture(site, new_page):
    "Each slider and list of a page, moved by keyboard, shows another picture with other words; on a phone, none is wider than the screen."
    page, seen = new_page(390, 800, color_scheme="dark"), 0
    picture = "c => c.toDataURL()"
    for file in sorted(site.glob("*.html")):
        if 'class="stal-knob"' not in file.read_text():
            continue
        page.goto(file.as_uri())
        for knob in page.locator(".stal-knob").all():
            knob.locator("xpath=self::*[@data-shown]").wait_for(state="attached")
            canvas, seen = knob.locator("canvas"), seen + 1
            for control in knob.locator("input, select").all():
                before = knob.get_attribute("data-shown"), canvas.get_attribute("aria-label"), canvas.evaluate(picture)
                first = control.input_value()
                control.press("Home" if first != "0" else "End")
                knob.locator(f"xpath=self::*[@data-shown != '{before[0]}']").wait_for(state="attached", timeout=5_000)
                after = knob.get_attribute("data-shown"), canvas.get_attribute("aria-label"), canvas.evaluate(picture)
                assert all(a != b for a, b in zip(before, after)), f"{file.name}: {before[1]}"
        assert page.evaluate("document.documentElement.scrollWidth") <= 392 and page.problems == [], file.name
    assert seen == sum(docs.FRAMES in o.get("data", {}) for n in docs.notebooks(docs.ROOT / "nbs")
                       for c in json.loads(n.read_text())["cells"] for o in c.get("outputs", [])) >= 5


def test_the_explorers_answer_without_a_kernel(site, new_page):
    page = new_page()
    page.goto((site / "09_uncertainty.html").as_uri())
    says = page.locator(".stal-explorer [data-testid=says]")
    says.filter(has_text="of the errors").wait_for()
    before = says.inner_text()
    page.get_by_label("Measure").select_option("ripu")
    page.wait_for_function("before => document.querySelector('[data-testid=says]').textContent !== before", arg=before)
    page.get_by_label("Shade the most uncertain").press("End")
    says.filter(has_text="100 % of the errors").wait_for()
    page.goto((site / "10_selection.html").as_uri())
    explorer = page.locator(".stal-selection")
    for strategy in page.get_by_label("Strategy").locator("option").evaluate_all("options => options.map(o => o.value)"):
        page.get_by_label("Strategy").select_option(strategy)
        page.get_by_label("Budget").press("ArrowRight")
        budget = int(page.get_by_label("Budget").input_value())
        assert explorer.get_attribute("data-strategy") == strategy and explorer.locator(".stal-thumb[aria-pressed=true]").count() == budget
        explorer.locator(".stal-thumb[aria-pressed=true]").last.click()
        explorer.locator("[data-testid=reason]").filter(has_text="Queried: ").wait_for()
    assert page.problems == []


def test_no_page_is_heavy(site):
    assert [f.name for f in site.rglob("*.html") if f.stat().st_size >= 3e6] == []


def test_formulas_have_a_size_and_their_font(site, new_page):
    page = new_page()
    page.goto((site / "06_losses.html").as_uri())
    page.wait_for_function("document.fonts.status === 'loaded'")
    boxes = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect()).map(b => [b.width, b.height])")
    assert len(boxes) > 5 and all(width > 3 and height > 3 for width, height in boxes)
    assert page.evaluate("document.fonts.check('16px \"STIX Two Math Subset\"')")
    assert page.evaluate("[...document.fonts].some(f => f.family.includes('STIX') && f.status === 'loaded')")


def next_page(file):
    "The page to which `next` leads, or None."
    found = re.search(r'class="[^"]*nav-page-next[^"]*"[^>]*>\s*<a [^>]*?href="([^"]+)"', file.read_text())
    return (file.parent / found[1]).resolve() if found else None


def test_reading_order_is_a_click_away(site, new_page):
    "From the first page, 'next' goes through the notebooks in the order of the sidebar."
    page = new_page()
    page.goto((site / "index.html").as_uri())
    page.locator(".nav-page-next a").first.click()
    page.wait_for_load_state("load")
    seen = [(site / "index.html").resolve()]
    while (following := next_page(seen[-1])) and following not in seen:
        seen.append(following)
    assert page.url == seen[1].as_uri() and page.problems == []
    chapters = [f.name for f in seen if f.parent == site.resolve()]
    assert chapters == [n.with_suffix(".html").name for n in docs.notebooks(docs.ROOT / "nbs") if n.parent.name == "nbs"]


def test_search_works_from_disk(site, new_page):
    page = new_page()
    page.goto((site / "index.html").as_uri())
    page.locator(".smalldocs-search input:visible").first.fill("contrastive")
    result = page.locator(".search-result:visible").first
    result.wait_for(timeout=10_000)
    result.click()
    page.wait_for_load_state("load")
    assert page.url.startswith("file:") and page.problems == []


def test_the_score_of_the_quick_checks_counts_and_stays(site, new_page):
    "By keyboard alone: unfold, say so, and the next question has the focus. The filter shows what was not known, and shuffling loses none."
    every = [check for notebook in quick_checks.course(docs.ROOT / "nbs") for check in quick_checks.checks(notebook)]
    page = new_page(390, 844)
    page.goto((site / "self_test.html").as_uri())
    ids, shown = "[...document.querySelectorAll('.quick-check')].map(e => e.id)", page.locator(".quick-check:visible")
    assert page.evaluate(ids) == [check.id for check in every] and page.locator(".quick-check details[open]").count() == 0
    page.locator(".quick-check summary").first.focus()
    for tabs in (1, 2, 1):  # knew, did not, knew
        for key in ["Enter", *["Tab"] * tabs, "Enter"]:
            page.keyboard.press(key)
    assert page.evaluate("document.activeElement.closest('.quick-check').id") == every[3].id
    total, words = page.locator(".self-test-total"), f"Knew 2, did not know 1, {len(every) - 3} of {len(every)} left"
    assert total.inner_text() == words and page.locator(".self-test-tally").first.inner_text().startswith("2 of ")
    page.reload()
    assert total.inner_text() == words
    filtered = page.get_by_role("button", name="Only those I did not know")
    filtered.click()
    assert shown.count() == 1 and shown.get_attribute("id") == every[1].id and page.locator("h2:has(.self-test-tally):visible").count() == 1
    shown.locator("summary").click()
    shown.get_by_role("button", name="I knew it").click()
    assert shown.count() == 0 and page.locator(".self-test-none").is_visible()
    filtered.click()
    page.get_by_role("button", name="Shuffle").click()
    mixed = page.evaluate(ids)
    assert mixed != [check.id for check in every] and sorted(mixed) == sorted(check.id for check in every)
    page.get_by_role("button", name="Shuffle").click()
    assert page.evaluate(ids) == [check.id for check in every]
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Reset").click()
    assert total.inner_text().startswith("Knew 0, did not know 0") and page.problems == []
    assert page.evaluate("Object.keys(JSON.parse(localStorage.getItem('stal_nb.self_test'))).length") == 0


def test_terms_are_explained_on_the_pages_of_the_course(site):
    "Each once a page, in running text, with a note on the same page."
    for notebook in docs.notebooks(docs.ROOT / "nbs"):
        page = page_of(site, notebook)
        text, course = page.read_text(), page.parent == site and glossary.COURSE.fullmatch(page.name)
        marked = re.findall(r'aria-describedby="term-([\w-]+)"', text)
        assert len(marked) == len(set(marked)) and marked == re.findall(r'<p id="term-([\w-]+)">', text), page.name
        assert len(marked) >= 2 if course else not marked, page.name
    assert 'aria-describedby="term-teacher"' in (site / "12_step.html").read_text()


def test_a_term_shows_its_two_lines_by_pointer_key_and_touch(site, new_page):
    page = new_page(390, 800, has_touch=True)
    page.goto((site / "06_losses.html").as_uri())
    bubble, terms = page.locator(".stal-bubble"), page.locator(".stal-term")
    note = page.locator(f"#{terms.first.get_attribute('aria-describedby')}")

    def is_shown():
        bubble.wait_for(timeout=3_000)
        box = bubble.bounding_box()
        assert bubble.inner_text() == note.inner_text() == note.text_content()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] >= 0 and box["y"] + box["height"] <= 800

    terms.first.scroll_into_view_if_needed()
    terms.first.hover()
    is_shown()
    page.keyboard.press("Escape")
    assert bubble.is_hidden()
    terms.first.focus()
    is_shown()
    page.keyboard.press("Tab")
    assert bubble.is_hidden() or bubble.inner_text() != note.text_content()
    terms.first.tap()
    is_shown()
    page.locator("h1").first.tap()
    assert bubble.is_hidden() and page.problems == []


def test_exercises_are_slides_with_folded_answers(site, new_page):
    "One at a time, by the arrow keys and by address; all of them, folded, on paper."
    expected = [one for notebook in quick_checks.course(docs.ROOT / "nbs") for one in slides.read_exercises(notebook)]
    page = new_page()
    page.goto((site / "exercises.html").as_uri())
    sections = page.locator("main.content section.level2")
    shown = "[...document.querySelectorAll('main.content section.level2')].flatMap((s, k) => s.offsetHeight ? [k] : [])"
    assert sections.count() == len(expected) and page.evaluate(shown) == [0]
    for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", len(expected) - 1), ("ArrowRight", len(expected) - 1)):
        page.keyboard.press(key)
        assert page.evaluate(shown) == [at] and page.locator(".stal-slide-bar span").inner_text() == f"{at + 1} / {len(expected)}"
    assert page.locator("main.content details[open]").count() == 0
    assert page.locator("main.content details").count() == len(expected)
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert page.evaluate(shown) == [len(expected) - 1]
    page.locator(".stal-current summary").click()
    assert page.locator(".stal-current details[open]").count() == 1
    page.locator(".stal-slide-bar [data-list]").click()
    assert page.evaluate(shown) == list(range(len(expected)))
    page.locator(".stal-slide-bar [data-list]").click()
    page.emulate_media(media="print")
    assert page.evaluate(shown) == list(range(len(expected))) and page.locator(".stal-slide-bar").is_hidden()
    assert page.problems == []


SWIPE = """(tour, across) => [["touchstart", 0], ["touchend", across]].forEach(([type, moved]) => {
  const touch = new Touch({ identifier: 1, target: tour, clientX: 200 + moved, clientY: 300 });
  tour.dispatchEvent(new TouchEvent(type, { bubbles: true, touches: type === "touchstart" ? [touch] : [], changedTouches: [touch] }));
})"""


def test_the_tour_changes_its_picture_and_keeps_its_size(site, new_page):
    "By button, key, dot and finger; on paper all pictures are there."
    page = new_page(1300, 1000, has_touch=True)
    page.goto((site / "index.html").as_uri())
    frame = page.locator(".stal-tour")
    pictures = frame.locator("img").evaluate_all("all => all.map(i => [i.getAttribute('src'), i.alt])")
    assert [source for source, _ in pictures] == [f"images/tour/{name}.webp" for name in tour.NAMES]
    assert all(len(alt) > 60 for _, alt in pictures) and len({alt for _, alt in pictures}) == len(pictures)
    size = lambda: frame.evaluate("e => [e.offsetWidth, e.offsetHeight]")  # noqa: E731
    before, last = size(), len(pictures) - 1

    def shows(k):
        visible = frame.locator("figure:visible")
        picture = visible.locator("img")
        page.wait_for_function("i => i.complete && i.naturalWidth", arg=picture.element_handle(), timeout=5_000)
        assert picture.get_attribute("src") == pictures[k][0] and len(visible.locator("figcaption").inner_text()) > 60
        assert tuple(picture.evaluate("i => [i.naturalWidth, i.naturalHeight]")) == tour.SIZE and size() == before
        assert frame.get_by_role("status").inner_text() == f"{k + 1} / {last + 1}"

    shows(0)
    assert frame.get_by_role("button", name="Previous picture").is_disabled()
    frame.get_by_role("button", name="Next picture").click()
    shows(1)
    for key, k in (("ArrowRight", 2), ("ArrowLeft", 1), ("End", last), ("ArrowRight", last), ("Home", 0)):
        page.keyboard.press(key)
        shows(k)
    frame.get_by_role("button", name="Picture 4 of").click()
    shows(3)
    for across, k in ((-120, 4), (120, 3), (20, 3)):
        frame.evaluate(SWIPE, across)
        shows(k)
    page.emulate_media(media="print")
    assert frame.locator("figure:visible").count() == len(pictures) and frame.locator(".stal-tour-bar").is_hidden()
    assert page.problems == []
    sizes = [(site / source).stat().st_size for source, _ in pictures]
    assert max(sizes) < 300_000 and sum(sizes) < 1_500_000


def test_a_page_without_the_tour_stays_as_it_is():
    assert tour.slideshow("<main><p>text</p></main>") == "<main><p>text</p></main>"


PRESSED = """main summary, .stal-knob input, .stal-knob select, .stal-explorer input[type=range], .stal-explorer select, .stal-explorer th button,
 .self-test-bar button, .self-test-say button, .stal-tour-bar button, .quarto-btn-toggle, a.pagination-link"""
LOW = """selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 43.9)
  .map(e => `${e.tagName} ${e.className} ${e.getAttribute('aria-label') || e.textContent}: ${e.getBoundingClientRect().height}`)"""


@pytest.mark.parametrize("name", ["index", "story", "06_losses", "10_selection", "self_test", "21_experiments"])
def test_a_phone_shows_all_of_a_page(site, new_page, name):
    "Nothing scrolls the page sideways, fingers hit what is pressed, wide figures keep a size that can be read, and none glares in the dark."
    page = new_page(390, 844, has_touch=True, is_mobile=True, color_scheme="dark")
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_function("document.documentElement.scrollWidth <= 390", timeout=5_000)
    page.evaluate("window.scrollTo(400, 0)")
    assert page.evaluate("window.scrollX") == 0
    assert page.evaluate(LOW, PRESSED) == []
    wide = page.locator("img[data-wide]").evaluate_all("all => all.map(i => [i.getBoundingClientRect().width, i.closest('.cell-output-display').clientWidth])")
    assert all(width == 640 and room <= 390 for width, room in wide) and (wide or name in ("self_test", "21_experiments"))
    assert page.evaluate("[...document.querySelectorAll('.cell-output-display img')].every(i => getComputedStyle(i).filter !== 'none')")


def test_a_formula_that_cannot_be_read_is_named(site):
    with pytest.raises(docs.DocsError, match=r"06_losses.html: found a formula that cannot be read, '\\\\nonsense"):
        docs.formulas(r'<span class="math inline">\(\nonsense{x}\)</span>', "06_losses.html")


def test_an_annotation_that_cannot_be_evaluated_is_shown_as_it_is_written(tmp_path, monkeypatch):
    """Names that exist for type checkers only, in a function of ours, in a class of ours, and in `__new__` of a base class of another package.

    `inspect.signature(cls, eval_str=True)`, which nbdev calls, ends in NameError for all of them. The shell that shows them leaves `__main__` alone."""
    (tmp_path / "hidden_names.py").write_text('''
from __future__ import annotations
import typing as t
if t.TYPE_CHECKING:
    from typing_extensions import Self, Missing

class Base:  # as traitlets.HasDescriptors
    def __new__(cls, /, *args: t.Any, **kwargs: t.Any) -> Self:
        return super().__new__(cls)

class Ours(Base):
    "A class of ours."
    def __init__(self, size: Missing, flag: bool = True):  # what it needs
        self.size = size

def measure(image: Missing | None, weight: "not ( valid" = 1.0) -> Self:  # nothing
    "A function of ours."
''')
    monkeypatch.syspath_prepend(tmp_path)
    cells = [("markdown", "# Title\n\n> Sentence."), ("code", "from hidden_names import Base, Ours, measure"),
             *(("code", f"show_doc({name})") for name in ("Ours", "measure", "Base"))]
    content = [{"cell_type": kind, "id": f"c{k}", "metadata": {}, "source": source} | ({"outputs": [], "execution_count": None} if kind == "code" else {})
               for k, (kind, source) in enumerate(cells)]
    notebook = tmp_path / "page.ipynb"
    notebook.write_text(json.dumps({"cells": content, "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}},
                                    "nbformat": 4, "nbformat_minor": 5}))
    monkeypatch.setattr(docs, "library_imports", lambda nb: ["from hidden_names import Base, Ours, measure"])
    main, nbdevs = sys.modules["__main__"], __import__("fastcore.docments").docments.signature
    with docs.project_folder():
        docs.process_notebook(notebook, tmp_path / "out" / "page.ipynb")
    assert sys.modules["__main__"] is main and __import__("fastcore.docments").docments.signature is nbdevs
    text = json.dumps(json.loads((tmp_path / "out" / "page.ipynb").read_text()))
    assert "size:Missing" in text and "flag:bool=True" in text and "image:Missing | None" in text and "weight:'not ( valid'=1.0" in text and "->Self" in text


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="here"></h1><a href="#here"></a><a href="b.html#there"></a><a href="https://elsewhere.org"></a>'
                                     '<link rel="canonical" href="https://elsewhere.org/a.html"><img src="data:image/png;base64,AA==">')
    (tmp_path / "b.html").write_text('<h1 id="there"></h1><a href="a.html#nothing"></a><a href="none.html"></a><img src="https://elsewhere.org/x.png">'
                                     '<script>"<a href=none2.html>"</script>')
    assert docs.broken_links(tmp_path) == ["b.html: <img src> fetches https://elsewhere.org/x.png", "b.html: no anchor for a.html#nothing",
                                           "b.html: no file for none.html"]
