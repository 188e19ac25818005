"""The documentation site opens from disk, asks no network for anything, and shows what the notebooks hold."""
import json
import re
import sys

import pytest

from stal_nb import docs

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_from_disk_without_errors(site, new_page, scheme):
    page = new_page(color_scheme=scheme)
    for file in sorted(site.glob("*.html")):
        page.goto(file.as_uri())
        page.wait_for_load_state("load")
        if page.locator(".stal-plot").count():
            page.wait_for_function("document.querySelectorAll('.stal-plot:not(.js-plotly-plot)').length === 0", timeout=20_000)
        assert page.problems == [], file.name
        background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(background) < 250) == (scheme == "dark"), f"{file.name}: {background}"


def test_formulas_have_a_size_and_their_font(site, new_page):
    page = new_page()
    page.goto((site / "06_losses.html").as_uri())
    page.wait_for_function("document.fonts.status === 'loaded'")
    boxes = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect()).map(b => [b.width, b.height])")
    assert len(boxes) > 5 and all(width > 3 and height > 3 for width, height in boxes)
    assert page.evaluate("document.fonts.check('16px \"STIX Two Math Subset\"')")
    assert page.evaluate("[...document.fonts].some(f => f.family.includes('STIX') && f.status === 'loaded')")


def test_pages_fit_a_phone(site, new_page):
    "Nothing makes the page wider than the screen; wide tables, formulas and code scroll by themselves."
    page = new_page(width=390, height=850)
    for file in sorted(site.glob("*.html")):
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 392, file.name


def test_reading_order_is_a_click_away(site, new_page):
    "From the first page, 'next' goes through the notebooks in the order of the sidebar."
    page = new_page()
    page.goto((site / "index.html").as_uri())
    seen = [page.url.rsplit("/", 1)[1]]
    while page.locator(".nav-page-next a").count() and len(seen) < 100:
        page.locator(".nav-page-next a").first.click()
        page.wait_for_load_state("load")
        seen.append(page.url.rsplit("/", 1)[1])
    chapters = [n for n in seen if re.match(r"\d\d_", n) and n != "00_errors.html"]
    numbered = [n.with_suffix(".html").name for n in docs.notebooks(docs.ROOT / "nbs") if n.parent.name == "nbs"]
    assert [n for n in dict.fromkeys(chapters) if n in numbered] == [n for n in numbered if n not in ("index.html", "00_errors.html")]
    assert page.problems == []


def test_search_works_from_disk(site, new_page):
    page = new_page()
    page.goto((site / "index.html").as_uri())
    page.locator(".smalldocs-search input:visible").first.fill("contrastive")
    result = page.locator(".search-result:visible").first
    result.wait_for(timeout=10_000)
    result.click()
    page.wait_for_load_state("load")
    assert page.url.startswith("file:") and page.problems == []


def test_a_formula_that_cannot_be_read_is_named(site):
    with pytest.raises(docs.DocsError, match=r"06_losses.html: found a formula that cannot be read, '\\\\nonsense"):
        docs.formulas(r'<span class="math inline">\(\nonsense{x}\)</span>', "06_losses.html")
