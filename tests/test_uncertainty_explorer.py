"""The uncertainty explorer: what Python sends, what it refuses, and in JupyterLab that every control changes the picture, and how soon."""
import json
import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from browser import open_notebook, press_run
from stal_nb.app.uncertainty_explorer import EXPLORED, UncertaintyExplorer
from stal_nb.app.uncertainty_picture import likeliest, shade_scale
from stal_nb.calibration import sparsification
from stal_nb.labels import CITYSCAPES, IGNORE, Sample
from stal_nb.runtime.errors import ConfigError
from stal_nb.scenes import SceneDataset
from stal_nb.temperature import FittedTemperature
from stal_nb.uncertainty import entropy

SIZE = (48, 96)


class Colours(nn.Module):
    "A network without training: a linear map of the colours of a pixel, with dropout. Its seed decides what it believes."

    def __init__(self, seed=0):
        super().__init__()
        self.drop, self.head = nn.Dropout(0.3), nn.Conv2d(3, 19, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(6 * torch.randn(19, 3, 1, 1, generator=generator))
            self.head.bias.copy_(torch.randn(19, generator=generator))

    def forward(self, images):
        return self.head(self.drop(images))


class Surer(Colours):
    "Logits three times as large."

    def forward(self, images):
        return 3 * super().forward(images)


@pytest.fixture(scope="module")
def scenes():
    return SceneDataset("real", 3, size=SIZE)


@pytest.fixture
def explorer(scenes):
    return heard_by_nobody(UncertaintyExplorer(scenes, {"early": Colours(0), "late": Colours(1)}))


def heard_by_nobody(explorer):
    "Keeps what would go to the page in `explorer.outbox`."
    explorer.outbox = []
    explorer.send = lambda content, buffers=None: explorer.outbox.append((content, buffers or []))
    return explorer


def last(explorer):
    content, buffers = explorer.outbox[-1]
    assert content["type"] == "show", content
    types = {"values": np.float32, "order": np.uint32, "shares": np.uint16}
    return content, {name: np.frombuffer(data, types.get(name, np.uint8)) for name, data in zip(content["parts"], buffers)}


def test_a_page_without_a_kernel_shows_what_python_computed(scenes, project, new_page, tmp_path, monkeypatch):
    "For each stored measure and radius the shade holds the same errors, up to the steps in which maps are stored; the explorer stays as it was."
    monkeypatch.syspath_prepend(project / "nbs")
    monkeypatch.delenv("IN_TEST", raising=False)
    from figures.explorers import show_uncertainty
    from tools import live

    shown, explorer = [], UncertaintyExplorer(scenes, {"early": Colours(0), "late": Colours(1)}, image=1, percent=30)
    monkeypatch.setattr("figures.explorers.display", lambda data, raw: shown.append(data))
    show_uncertainty(explorer, ("entropy", "margin", "ripu"), radii=(1, 4, 9))
    assert (explorer.measure, explorer.radius, explorer.image) == ("entropy", 4, 1) and "send" not in vars(explorer)
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{live.explorer_html(shown[0], '1')}", encoding="utf-8")
    page = new_page()
    page.goto((tmp_path / "page.html").as_uri())
    caught = "([wanted]) => Math.abs(document.querySelector('[data-testid=says]').dataset.caught - wanted) < 0.02"

    def agrees(**state):
        for name, value in state.items():
            setattr(explorer, name, value)
        page.wait_for_function(caught, arg=[explorer.caught()], timeout=5_000)
        return page.locator("canvas[data-panel=map]").evaluate("c => c.toDataURL()")

    maps = [agrees()]
    for measure in ("margin", "ripu"):
        page.get_by_label("Measure").select_option(measure)
        page.wait_for_function(f"document.querySelector('canvas[data-panel=map] + figcaption').textContent.includes('{EXPLORED[measure].label}')")
        maps.append(agrees(measure=measure))
    for key, radius in (("ArrowRight", 9), ("ArrowRight", 9), ("ArrowLeft", 4), ("ArrowLeft", 1)):  # only what was stored
        page.get_by_label("Radius").press(key)
        assert page.get_by_label("Radius").input_value() == str(radius)
        agrees(radius=radius)
    page.get_by_label("Shade the most uncertain").press("PageUp")
    agrees(percent=int(page.get_by_label("Shade the most uncertain").input_value()))
    assert len(set(maps)) == 3 and explorer.percent > 30 and page.problems == []


def test_a_new_page_gets_everything_and_then_only_what_changed(explorer):
    explorer.receive({"type": "hello"})
    assert last(explorer)[0]["parts"] == ["picture", "truth", "classes", "shares", "values", "order"]
    explorer.measure = "margin"
    assert last(explorer)[0]["parts"] == ["values", "order"]
    explorer.network = "late"
    assert last(explorer)[0]["parts"] == ["classes", "shares", "values", "order"]
    explorer.image = 1
    assert last(explorer)[0]["parts"] == ["picture", "truth", "classes", "shares", "values", "order"]
    keys = [content["key"] for content, _ in explorer.outbox]
    assert keys == sorted(set(keys)) and json.dumps([content for content, _ in explorer.outbox], allow_nan=False)
    count = len(explorer.outbox)
    explorer.percent, explorer.colours = 55, "stretched"  # the page needs nobody for these
    assert len(explorer.outbox) == count


def test_the_page_gets_the_map_its_order_and_the_likeliest_classes(explorer, scenes):
    explorer.receive({"type": "hello"})
    about, found = last(explorer)
    with torch.no_grad():
        probs = Colours(0).eval()(scenes[0].image[None]).softmax(1)
    assert torch.allclose(torch.from_numpy(found["values"].copy()).view(SIZE), entropy(probs)[0], atol=1e-6)
    valid = scenes[0].labels.flatten().numpy() != IGNORE
    assert sorted(found["order"][valid]) == list(range(valid.sum())) and (found["order"][~valid] == 2**32 - 1).all()
    falling = found["values"][valid][np.argsort(found["order"][valid])]
    assert (np.diff(falling) <= 0).all() and about["map"]["count"] == valid.sum()
    top = probs[0].topk(5, 0)
    assert np.abs(found["shares"].reshape(5, *SIZE) / 65535 - top.values.numpy()).max() < 1e-4
    picked = probs[0].gather(0, torch.from_numpy(found["classes"].reshape(5, *SIZE).astype(np.int64)))
    assert torch.allclose(picked, top.values, atol=1e-6)
    assert (found["truth"] == scenes[0].labels.flatten().numpy()).all()


def test_likeliest_classes_of_few_classes_are_all_of_them():
    classes, shares = likeliest(torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1))
    assert classes.flatten().tolist() == [1, 2, 0] and shares.flatten().tolist() == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("percent", [0, 7, 20, 50, 100])
def test_the_share_of_errors_is_that_of_the_sparsification_curve(explorer, percent):
    view = explorer.pixel_view()
    expected = sparsification(view.values, view.wrong, [percent / 100], view.valid).caught.item()
    assert explorer.caught(percent) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("inference", ["single", "dropout", "ensemble"])
def test_every_measure_can_be_shown(explorer, inference):
    explorer.inference, explorer.passes = inference, 3
    seen = {}
    for name, measure in EXPLORED.items():
        if measure.several and inference == "single":
            continue
        explorer.measure = name
        about, found = last(explorer)
        assert found["values"].min() >= 0 and found["values"].max() <= 1 and about["map"]["name"] == name
        seen[name] = found["values"].tobytes()
    assert len(set(seen.values())) == len(seen) and not explorer.errors


def test_parameters_change_the_maps_that_have_them(explorer):
    explorer.inference, explorer.measure = "dropout", "ripu"
    for name, value in (("radius", 9), ("passes", 5), ("rate", 0.6)):
        before = last(explorer)[1]["values"].tobytes() if explorer.outbox else None
        setattr(explorer, name, value)
        assert last(explorer)[1]["values"].tobytes() != before, name
    explorer.measure = "class_std"
    before = last(explorer)[1]["values"].tobytes()
    explorer.of_class = 10
    assert last(explorer)[1]["values"].tobytes() != before


def test_going_back_to_one_prediction_takes_a_measure_that_one_can_have(explorer):
    explorer.inference, explorer.measure = "dropout", "bald"
    explorer.inference = "single"
    assert explorer.measure == "entropy" and last(explorer)[0]["map"]["name"] == "entropy" and not explorer.errors
    explorer.measure = "bald"  # by code: the page does not offer it
    assert explorer.outbox[-1][0]["type"] == "error" and "expected several" in explorer.errors[-1]


def test_images_without_labels_are_shown_without_a_verdict(scenes):
    blank = [scenes[0]._replace(labels=torch.full(SIZE, IGNORE))]
    explorer = heard_by_nobody(UncertaintyExplorer(blank, Colours()))
    explorer.receive({"type": "hello"})
    about, found = last(explorer)
    assert about["image"]["known"] is False and about["map"]["count"] == SIZE[0] * SIZE[1] and about["map"]["auroc"] is None
    assert math.isnan(explorer.caught()) and explorer.kinds == ["single", "dropout"]
    assert "no labels" in explorer.still(grid=(4, 8)).layout.annotations[3].text


def test_a_network_is_loaded_when_it_is_looked_at(scenes):
    loaded = []

    def load():
        loaded.append(1)
        return Colours(3)

    explorer = heard_by_nobody(UncertaintyExplorer(scenes, {"now": Colours(0), "later": load}))
    explorer.receive({"type": "hello"})
    assert not loaded
    explorer.network = "later"
    explorer.image = 2
    assert len(loaded) == 1 and not explorer.errors


def test_a_measure_of_ones_own_is_offered_and_checked(scenes):
    own = {"second": lambda probs: probs.topk(2, 1).values[:, 1] * 2, "broken": lambda probs: probs[:, 0] * 40}
    explorer = heard_by_nobody(UncertaintyExplorer(scenes, Colours(), measures=own, measure="second"))
    assert not explorer.errors and explorer.pixel_view().values.max() <= 1
    explorer.measure = "broken"
    assert "measure 'broken': found" in explorer.outbox[-1][0]["message"] and "expected" in explorer.errors[-1]


def test_a_network_without_dropout_and_a_failing_one_are_told_to_the_person(scenes):
    explorer = heard_by_nobody(UncertaintyExplorer(scenes, {"plain": nn.Conv2d(3, 19, 1), "odd": nn.Conv2d(4, 19, 1)}))
    explorer.inference = "dropout"
    assert "found no dropout layer" in explorer.outbox[-1][0]["message"]
    explorer.inference, explorer.network = "single", "odd"
    assert explorer.outbox[-1][0]["type"] == "error" and "RuntimeError" in explorer.errors[-1]
    explorer.network = "plain"
    assert explorer.outbox[-1][0]["type"] == "show"


@pytest.mark.parametrize("name, value, message", [
    ("measure", "entropie", "measure: found 'entropie', expected one of entropy, margin"),
    ("network", "last", "expected one of early, late"),
    ("inference", "two", "expected one of single, dropout, ensemble"), ("image", 3, "image: found 3, expected a number from 0 to 2"),
    ("radius", 0, "radius: found 0"), ("passes", 1, "passes: found 1"), ("rate", 1.0, "rate: found 1.0"),
    ("percent", 101, "percent: found 101"),
    ("of_class", 19, "of_class: found 19"), ("colours", "grey", "expected one of auto, 0-1, stretched")])
def test_a_choice_that_does_not_exist_is_refused(explorer, name, value, message):
    with pytest.raises(ConfigError, match=message):
        setattr(explorer, name, value)


def test_a_calibrated_network_is_less_sure_and_says_the_same(scenes):
    "Three times too sure: T = 3 makes it as honest as it was, by every kind of inference; what it predicts stays."
    calls = []

    def fit():
        calls.append(1)
        return FittedTemperature(3.0, 14, "round 0")

    networks = {"surer": Surer(0), "honest": Colours(0)}
    explorer = heard_by_nobody(UncertaintyExplorer(scenes, networks, passes=3, temperatures={"surer": fit}))
    for inference, measure in (("single", "entropy"), ("dropout", "bald"), ("ensemble", "mean_std")):
        explorer.calibrated, explorer.inference, explorer.measure, explorer.network = False, inference, measure, "honest"
        honest = last(explorer)[0]["map"]
        explorer.network = "surer"
        sure = last(explorer)[0]["map"]
        explorer.receive({"type": "hello"})
        classes = last(explorer)[1]["classes"][:SIZE[0] * SIZE[1]]
        explorer.calibrated = True
        explorer.receive({"type": "hello"})
        found, after = last(explorer)[1], last(explorer)[0]["map"]
        assert (found["classes"][:SIZE[0] * SIZE[1]] == classes).all() or inference != "single"
        assert after["confidence"] < sure["confidence"] and after["ece"] < sure["ece"] and sure["fitted"] is None
        if inference == "single":
            for name in ("mean", "confidence", "ece", "auroc"):
                assert after[name] == pytest.approx(honest[name], abs=1e-5)
        if inference == "ensemble":
            assert after["fitted"] is None and "T =" not in explorer.still(grid=(4, 8)).layout.annotations[2].text, "each has its own"
        else:
            assert after["fitted"] == {"value": 3.0, "images": 14, "stage": "round 0"}
            assert explorer.still(grid=(4, 8)).layout.annotations[2].text.startswith(EXPLORED[measure].label + ", T = 3.00")
    assert len(calls) == 1 and not explorer.errors


def test_without_labels_there_is_no_temperature_to_divide_by(scenes):
    explorer = heard_by_nobody(UncertaintyExplorer(scenes, Colours(), temperatures={"network": lambda: None}))
    before = explorer.pixel_view().values
    explorer.calibrated = True
    assert torch.equal(explorer.pixel_view().values, before) and last(explorer)[0]["map"]["fitted"] is None
    with pytest.raises(ConfigError, match="temperatures: found 'x', expected some of network"):
        UncertaintyExplorer(scenes, Colours(), temperatures={"x": lambda: None})


def test_an_explorer_needs_images_networks_and_a_known_ensemble(scenes):
    for samples, networks in (([], Colours()), (scenes, {})):
        with pytest.raises(ConfigError, match="samples, networks: found"):
            UncertaintyExplorer(samples, networks)
    with pytest.raises(ConfigError, match="ensemble: found 'x', expected some of a, b"):
        UncertaintyExplorer(scenes, {"a": Colours(), "b": Colours()}, ensemble=["a", "x"])


def test_the_still_figure_has_all_four_pictures_linked_and_a_slider_that_recolours(explorer):
    figure = explorer.still(grid=(6, 12))
    kinds = [trace.type for trace in figure.data]
    assert kinds == ["image"] * 3 + ["heatmap"] * 3
    texts = figure.data[4].text
    assert len(texts) == 6 and len(texts[0]) == 12 and any(name in texts[3][3] for name in CITYSCAPES.classes)
    assert len({axis.matches or "x" for axis in figure.select_xaxes()}) <= 2
    slider = figure.layout.sliders[0]
    shade, view = figure.data[5].z, explorer.pixel_view()
    for step in slider.steps:
        (change, traces) = step.args
        assert list(traces) == [5] and len(change["colorscale"][0]) >= 2
        percent, share = (int(part.split()[0]) for part in step.label.replace("%:", " ").replace("%", " ").split("  ")[:2])
        caught = (view.wrong.numpy() & (np.asarray(shade) - 128 < percent) & (np.asarray(shade) >= 128)).sum() / view.wrong.sum().item()
        assert round(100 * caught) == share
    assert json.loads(figure.to_json())


def test_colours_of_the_still_error_map_follow_the_threshold():
    for percent in (0, 20, 100):
        stops = shade_scale(percent)
        places = [at for at, _ in stops]
        assert places == sorted(places) and places[0] == 0 and places[-1] == 1
        at = lambda byte: next(c for (a, c), (b, _) in zip(stops, stops[1:]) if a <= byte / 255 <= b and a < b)  # noqa: E731
        assert ("170" in at(10)) == (percent > 10) and ("255, 160" in at(138)) == (percent > 10) and "rgba" in at(101)


# -- in JupyterLab -----------------------------------------------------------------------------------------------------------------------


CELL = """
import sys
sys.path.insert(0, {tests!r})
from test_uncertainty_explorer import Colours
from stal_nb.app.uncertainty_explorer import UncertaintyExplorer
from stal_nb.scenes import SceneDataset
from stal_nb.temperature import FittedTemperature
explorer = UncertaintyExplorer(SceneDataset("real", 3, size=(256, 512)), {{"early": Colours(0), "late": Colours(1)}}, passes=4,
                               temperatures={{"early": lambda: FittedTemperature(2.0, 3, "early")}})
explorer
"""


@pytest.fixture
def lab(tmp_path, project, jupyterlab):
    "JupyterLab with the explorer's cell: its address."
    with jupyterlab(tmp_path / "desk", [CELL.format(tests=str(project / "tests"))]) as address:
        yield address


PICTURES = """() => Object.fromEntries([...document.querySelectorAll('.stal-uncertainty canvas[data-panel]')].map(
  (c) => [c.dataset.panel, c.toDataURL()]))"""
SET = """async ([label, value]) => {  // what a person does to a control, and the milliseconds until the pictures follow
  const root = document.querySelector('.stal-uncertainty'), control = root.querySelector(`[aria-label="${label}"]`);
  const before = root.dataset.shown, asks = !['Shade the most uncertain', 'Colours'].includes(label), start = performance.now();
  control.value = value;
  control.dispatchEvent(new Event(control.tagName === 'SELECT' ? 'change' : 'input', { bubbles: true }));
  while (asks && root.dataset.shown === before && performance.now() - start < 15000) await new Promise((r) => setTimeout(r, 4));
  await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
  return performance.now() - start;
}"""


def open_explorer(page, address):
    open_notebook(page, address)
    for _ in range(30):  # a kernel that has just started may not have heard the first time
        press_run(page, 0)
        try:
            return page.wait_for_selector(".stal-uncertainty[data-shown]", timeout=20000)
        except Exception:
            assert not page.locator(".jp-RenderedText[data-mime-type*=stderr]").count(), page.locator(".jp-OutputArea").inner_text()
    raise AssertionError("the explorer did not open")


@pytest.mark.slow
def test_in_jupyterlab_every_control_changes_the_picture_at_once(chromium, lab, tmp_path):
    page, problems = chromium.new_page(viewport={"width": 1300, "height": 1000}), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(f"{m.text} ({m.location.get('url')})") if m.type == "error" else None)
    try:
        open_explorer(page, lab)
        steps = [("Measure", "margin", {"map", "errors", "picture"}), ("Measure", "ripu", {"map"}), ("Radius", 12, {"map"}),
                 ("Network", "late", {"predicted", "map"}), ("Inference", "dropout", {"predicted", "map"}),
                 ("Measure", "bald", {"map"}),
                 ("Passes", 9, {"map"}), ("Drop", 0.6, {"map"}), ("Colours", "0-1", {"map"}), ("Measure", "class_std", {"map"}),
                 ("Class", 10, {"map"}), ("Inference", "ensemble", {"predicted", "map"}),
                 ("Image", 1, {"picture", "predicted", "map", "errors"}),
                 ("Shade the most uncertain", 60, {"picture", "errors"}), ("Inference", "single", {"map"})]
        for label, value, expected in steps:
            before = page.evaluate(PICTURES)
            page.evaluate(SET, [label, str(value)])
            after = page.evaluate(PICTURES)
            changed = {name for name in after if after[name] != before[name]}
            assert expected <= changed, f"{label} = {value} changed {changed}"
        assert page.locator("[aria-label=Measure]").input_value() == "entropy"  # one prediction has no class_std

        calibrated, says = page.get_by_label("Calibrated"), page.get_by_test_id("calibration")
        assert calibrated.is_disabled() and "T =" not in says.inner_text()  # `late` has no temperature
        page.evaluate(SET, ["Network", "early"])
        before = page.evaluate(PICTURES)
        calibrated.check()
        page.wait_for_function("document.querySelector('[data-testid=calibration]').textContent.includes('T = 2.00, from 3 labelled images that it')")
        after = page.evaluate(PICTURES)
        assert {name for name in after if after[name] != before[name]} >= {"map"} and after["predicted"] == before["predicted"]
        calibrated.uncheck()
        page.wait_for_function("!document.querySelector('[data-testid=calibration]').textContent.includes('T =')")

        times = {}
        for label, pair in (("Measure", ("margin", "entropy")), ("Shade the most uncertain", ("30", "70")), ("Image", ("0", "1"))):
            page.evaluate(SET, [label, pair[0]]), page.evaluate(SET, [label, pair[1]])  # now both are computed
            times[label] = min(page.evaluate(SET, [label, pair[k % 2]]) for k in range(6))
        assert max(times.values()) < 2000, f"milliseconds from control to picture: {times}"

        says = page.get_by_test_id("says").get_attribute("data-caught")
        assert 0 < float(says) <= 1 and "of the errors" in page.get_by_test_id("says").inner_text()

        canvas = page.locator("canvas[data-panel=map]")
        box, before = canvas.bounding_box(), page.evaluate(PICTURES)
        page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
        page.wait_for_function("document.querySelector('.stal-bars').innerText.trim()")
        names = page.locator(".stal-row span:first-child").all_inner_texts()
        assert len(names) == 5 and set(names) <= set(CITYSCAPES.classes)
        shares = [float(i.evaluate("e => parseFloat(e.style.width)")) for i in page.locator(".stal-row i").all()]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.1
        assert all(page.evaluate(PICTURES)[name] != before[name] for name in before)  # the cross is on all four

        page.mouse.down()
        page.mouse.up()
        before = page.evaluate(PICTURES)
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(200)
        assert all(page.evaluate(PICTURES)[name] != before[name] for name in before)  # zoomed together
        where = page.locator(".stal-where").inner_text()
        assert "pinned" in where
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(100)
        assert page.locator(".stal-where").inner_text() != where
        page.keyboard.press("Home")

        page.keyboard.press("Escape")
        page.screenshot(path=str(tmp_path / "lab.png"))
        page.evaluate("document.querySelector('.stal-uncertainty').scrollIntoView()")
    finally:
        page.screenshot(path=os.environ.get("EXPLORER_PICTURE") or str(tmp_path / "end.png"))
        page.close()
    assert not problems


def test_a_sample_without_group_is_enough():
    sample = Sample(torch.rand(3, 8, 10), torch.zeros(8, 10, dtype=torch.int64), "one", "")
    explorer = heard_by_nobody(UncertaintyExplorer([sample], Colours()))
    explorer.receive({"type": "hello"})
    assert last(explorer)[0]["image"]["group"] == "" and not explorer.errors
