"""The report of a run opens from disk in a browser, without a network, without errors, with every figure drawn."""
import json

import pytest

from browser import open_page
from figures.runs import comparison_figure, comparison_table, gap_figure, provenance, summary_of
from stal_nb.app.report import write_report
from stal_nb.outcomes import outcome
from stal_nb.run import Run
from tiny import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run.create(tiny(name="<tiny & small>"), tmp_path_factory.mktemp("runs") / "reported")
    run.bar = False
    run.finish()
    return run


@pytest.fixture(scope="module")
def page(run, chromium):
    "The report, opened once: its tests only look."
    page = open_page(chromium)
    page.goto(write_report(run).as_uri())
    page.wait_for_load_state("load")
    yield page
    page.close()


def test_it_opens_without_errors_and_without_a_network(page):
    assert page.problems == []
    assert page.title() == "STAL run"
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 300)")


def test_every_figure_is_drawn(page):
    "mIoU, IoU of each class, loss terms, bank and sampling probabilities; before and after, and one picture a round."
    titles = page.locator(".gtitle").all_text_contents()
    assert titles == ["mIoU by acquired labels", "IoU of each class", "Terms of the loss", "Class-wise memory bank",
                      "Sampling probability of each class"]
    assert page.locator(".js-plotly-plot .main-svg").count() >= 5
    assert page.locator("img").count() == 3
    assert page.evaluate("[...document.images].every(i => i.alt)")


def test_its_table_says_what_the_summary_says(page, run):
    cells = page.locator("table tr:has(td)").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")
    summary = run.summary()
    expected = [["source only", "0", "0.0%", f"{summary['source_only']['miou']:.1f}"]]
    expected += [[f"round {r['round']}", str(r["labelled"]), f"{r['fraction']:.1%}", f"{r['miou']:.1f}"] for r in summary["rounds"]]
    assert [row[:4] for row in cells] == expected
    assert [row[4] for row in cells] == [f"{e['student']['miou']:.1f}" for e in (summary["source_only"], *summary["rounds"])]


def test_names_are_shown_as_they_are(page):
    assert page.locator("h1").text_content() == "STAL run: <tiny & small>"


def test_it_fits_a_phone(page):
    before = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 850})
    try:
        page.wait_for_function("document.documentElement.scrollWidth <= 400")
    finally:
        page.set_viewport_size(before)


def test_a_run_that_is_not_complete_is_reported_as_far_as_it_is(tmp_path, new_page):
    run = Run.create(tiny(), tmp_path / "half")
    run.bar = False
    while run.stage != "round 1: query":
        run.advance()
    page = new_page()
    page.goto(write_report(run).as_uri())
    assert "not complete yet" in page.locator("p.muted").first.text_content()
    assert page.problems == []


# -- comparisons -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(run):
    "What `stal_nb compare` writes, with two seeds."
    kept = outcome(run, {})
    runs = [{"arm": arm, "seed": seed, **kept} for arm in ("entropy", "random") for seed in (0, 1)]
    runs += [{"arm": "source only", "seed": 0, **kept, "stages": kept["stages"][:1]}, {"arm": "all labels", "seed": 0, **kept}]
    return json.loads(json.dumps({"name": "demo", "arms": ["entropy", "random", "source only", "all labels"], "runs": runs}))


def test_comparisons_hold_every_run(compared, run):
    figure, stages = comparison_figure(compared), compared["runs"][0]["stages"]
    means = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert set(means) == {"entropy", "random"} and means["entropy"] == pytest.approx([stage["miou"] for stage in stages])
    assert len(figure.layout.shapes) == 2, "one line for no labels, one for all"
    table = comparison_table(compared)
    assert {"entropy", "random", "all labels", "sim alone, as many steps"} <= set(table.index)
    assert table.loc["entropy", "seeds"].tolist() == [2, 2]
    assert "seeds 0, 1" in provenance(compared) and "experiments/demo.toml" in provenance(compared)
    assert len(gap_figure(compared).axes[0].patches) == 38, "two bars for each of 19 classes"
    summary = summary_of(compared["runs"][0])
    assert summary["source_only"]["miou"] == run.summary()["source_only"]["miou"] and len(summary["rounds"]) == len(run.summary()["rounds"])
