"""The page side of the annotator: in a browser with Python behind it, and in a real JupyterLab with reload, killed kernel and two tabs."""
import base64
import json
import os
import re
import signal
import time

import numpy as np
import pytest
import torch

from browser import open_notebook, run_cell
from stal_nb.app.annotator import Annotator
from stal_nb.app.drawing import STATIC
from stal_nb.app.transfer import superpixels
from stal_nb.classes import read_classes
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.scenes import SceneDataset
from stal_nb.store import LabelStore

CAR, ROAD, SKY = (CITYSCAPES.index(name) for name in ("car", "road", "sky"))
TRAITS = ("ids", "index", "status", "spent", "autosave", "safe_colours", "classes", "colours", "heat", "key")


@pytest.fixture
def scenes():
    return SceneDataset("real", 3, size=(48, 96))


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels", CITYSCAPES)


def listen(annotator):
    sent = []
    annotator.send = lambda content, buffers=None: sent.append((content, buffers))
    return sent


# -- the page side, in a browser, with Python behind it but no notebook ----------------------------------------------------------------


HARNESS = """async ([esm, css, state]) => {
  const handlers = [], views = document.body;
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const text = (buffer) => { let s = ""; for (const b of new Uint8Array(buffer)) s += String.fromCharCode(b); return btoa(s); };
  window.silent = false;
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; handlers.filter(([n]) => n === `change:${name}`).forEach(([, f]) => f()); },
    save_changes() {},
    on: (name, f) => handlers.push([name, f]),
    async send(content, callbacks, buffers) {
      if (window.silent) return;
      const { status, messages } = await window.python(content, buffers.map(text));
      model.set("status", status);
      for (const [answer, data] of messages) handlers.filter(([n]) => n === "msg:custom").forEach(([, f]) => f(answer, data.map(bytes)));
    },
  };
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const widget = (await import(url)).default();
  await widget.initialize({ model });
  window.show = (width) => {
    const el = Object.assign(document.createElement("div"), { style: `width: ${width}px` });
    views.append(el);
    const dispose = widget.render({ model, el });
    return () => (dispose(), el.remove());
  };
  window.hide = window.show(1000);
}"""


class Desk:
    "A widget on a page: what a person does to it, and what comes of it."

    def __init__(self, page, widget, size):
        self.page, self.widget, self.size, self.messages = page, widget, size, []
        sent = listen(widget)

        def python(content, buffers):
            sent.clear()
            self.messages.append((content["type"], sum(len(base64.b64decode(b)) for b in buffers)))
            widget.receive(content, [memoryview(base64.b64decode(b)) for b in buffers])
            return {"status": widget.status, "messages": [[c, [base64.b64encode(b).decode() for b in data or []]] for c, data in sent]}

        page.expose_function("python", python)
        page.set_content("<!doctype html><title>desk</title><body></body>")
        state = {name: getattr(widget, name) for name in TRAITS}
        page.evaluate(HARNESS, [(STATIC / "annotator.js").read_text(), (STATIC / "annotator.css").read_text(), state])
        self.wait("Starts")

    def wait(self, text):
        lines = "[...document.querySelectorAll('.stal-status')]"
        self.page.wait_for_function(f"t => {lines}.some(e => e.textContent.includes(t))", arg=text, timeout=15000)

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def at(self, x, y):
        "Page coordinates of the centre of an image pixel, while the whole image is shown."
        box = self.page.get_by_test_id("annotator-canvas").first.bounding_box()
        return box["x"] + (x + 0.5) * box["width"] / self.size[1], box["y"] + (y + 0.5) * box["height"] / self.size[0]

    def drag(self, *points, button="left"):
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down(button=button)
        for point in points[1:]:
            mouse.move(*self.at(*point))
        mouse.up(button=button)

    def brush(self, size):
        slider = self.page.get_by_label("Brush size").first
        slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", size)

    def state(self):
        return self.page.get_by_role("application", name="Annotator").first.get_attribute("data-state")

    def saved(self, button="Save"):
        "Press Save, wait for the answer, read the store."
        self.page.evaluate("for (const e of document.querySelectorAll('.stal-status')) e.textContent = ''")
        self.click(button)
        self.wait("Saved")
        return self.widget.labels(self.widget.ids[self.page.get_by_label("Image", exact=True).first.evaluate("e => e.selectedIndex")])


def stroke(labels, points, size, label):
    "What the brush paints: pixels whose centre is nearer than size / 2 to the line."
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    for (ax, ay), (bx, by) in zip(points, points[1:] or points):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        labels[torch.from_numpy((x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2 < size * size / 4)] = label
    return labels


@pytest.fixture
def predicted(scenes):
    return torch.where(torch.arange(48)[:, None].expand(48, 96) < 20, SKY, ROAD)


@pytest.fixture
def desk(new_page, scenes, store, predicted):
    page = new_page()
    yield Desk(page, Annotator(scenes, store, predictions={scenes.ids[0]: predicted}, start="empty", annotator="Ada", autosave=0), (48, 96))
    assert not page.problems


def test_each_tool_paints_what_it_says(desk, predicted):
    expected = torch.full((48, 96), IGNORE)
    desk.click("car")
    desk.click("Rectangle")
    desk.drag((10, 8), (40, 20))
    expected[8:21, 10:41] = CAR
    desk.click("road")
    desk.click("Brush")
    desk.brush(5)
    desk.drag((5, 30), (60, 40), (80, 25))
    stroke(expected, [(5, 30), (60, 40), (80, 25)], 5, ROAD)
    desk.click("Eraser")
    desk.brush(1)
    desk.drag((20, 8), (20, 20))
    expected[8:21, 20] = IGNORE  # cuts the car in two
    desk.click("sky")
    desk.click("Fill")
    desk.drag((30, 15))
    expected[8:21, 21:41] = SKY
    assert torch.equal(desk.saved(), expected)
    desk.click("Accept prediction")
    assert torch.equal(desk.saved(), predicted)
    desk.click("Undo")
    assert torch.equal(desk.saved("Done"), expected) and desk.widget.done == desk.widget.ids[:1]
    desk.click("Save")  # saving again does not undo Done
    desk.wait("Saved, done")
    provenance = desk.widget.store.provenance(desk.widget.ids[0])
    assert {record["annotator"] for record in provenance} == {"Ada"} and provenance[0]["seconds"] > 0
    assert sum(record["seconds"] for record in provenance) < 60  # each has the time since the one before


def test_sixty_steps_can_be_undone_and_redone(desk):
    desk.brush(1)
    points = [(1 + 3 * (k % 30), 5 + 6 * (k // 30)) for k in range(60)]
    for point in points:
        desk.drag(point)
    painted = desk.saved()
    assert int((painted == 0).sum()) == 60 and desk.state() == "partly"
    for _ in range(60):
        desk.page.keyboard.press("Control+z")
    assert desk.page.get_by_role("button", name="Undo").is_disabled() and desk.state() == "partly, unsaved changes"
    assert bool((desk.saved() == IGNORE).all())
    for _ in range(59):
        desk.page.keyboard.press("Control+Shift+z")
    desk.click("Redo")
    assert desk.page.get_by_role("button", name="Redo").is_disabled()
    assert torch.equal(desk.saved(), painted)
    desk.page.keyboard.press("Control+z")
    desk.drag((90, 40))  # a new step: what was undone is gone
    assert desk.page.get_by_role("button", name="Redo").is_disabled()


def test_unsaved_work_stays_while_one_looks_at_other_images(desk):
    page, ids = desk.page, desk.widget.ids
    desk.click("Rectangle")
    desk.drag((0, 0), (9, 9))
    assert page.get_by_role("button", name="Previous image").is_disabled()
    desk.click("Next image")
    desk.wait("Starts empty")
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('.stal-queue').selectedIndex === 2")
    assert page.get_by_role("button", name="Next image").is_disabled()
    options = page.locator(".stal-queue option").all_text_contents()
    assert [o.split(" · ")[1] for o in options] == ids and "unsaved changes" in options[0] and options[1].endswith("todo")
    page.get_by_label("Image", exact=True).select_option(index=1)
    desk.click("Previous image")
    expected = torch.full((48, 96), IGNORE)
    expected[:10, :10] = 0
    assert torch.equal(desk.saved(), expected)


def test_keys_choose_classes_and_tools(desk):
    page, expected = desk.page, torch.full((48, 96), IGNORE)
    desk.drag((2, 2))  # gives the image the keys
    expected = stroke(expected, [(2, 2)], 9, 0)
    pressed = lambda name: page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed")  # noqa: E731
    for key, name in (("3", "building"), ("0", "terrain"), ("Shift+Digit4", "car"), ("Shift+Digit9", "bicycle")):
        page.keyboard.press(key)
        assert pressed(name) == "true"
    page.keyboard.press("Shift+Digit0")  # there is no twentieth class
    assert pressed("bicycle") == "true"
    page.keyboard.press("r")
    assert pressed("Rectangle") == "true" and pressed("Brush") == "false"
    page.mouse.move(*desk.at(50, 10))
    page.mouse.down()
    page.mouse.move(*desk.at(60, 20))
    page.keyboard.press("Escape")  # not after all
    page.mouse.up()
    page.keyboard.press("a")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+s")
    desk.wait("Saved")
    assert torch.equal(desk.widget.labels(desk.widget.ids[0]), expected)


def test_painting_lands_under_the_pointer_when_zoomed_and_moved(desk):
    page = desk.page
    desk.brush(1)
    x, y = desk.at(30, 24)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)  # without focus the wheel belongs to the page
    page.evaluate("window.scrollTo(0, 0)")
    page.get_by_role("application").focus()
    x, y = desk.at(30, 24)
    page.mouse.move(x, y)
    for _ in range(8):
        page.mouse.wheel(0, -100)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 50, y - 30)
    page.mouse.up(button="right")
    page.mouse.down()
    page.mouse.up()  # the same pixel, which moved with the image
    desk.click("Fit")
    desk.drag((70, 40))
    labels = desk.saved()
    assert sorted(map(tuple, (labels == 0).nonzero().tolist())) == [(24, 30), (40, 70)]


def test_two_views_show_one_work(desk):
    desk.page.evaluate("void window.show(500)")
    desk.click("Rectangle")
    desk.drag((0, 0), (95, 47))
    first, second = desk.page.locator(".stal-under").all_text_contents()
    assert "0 % unlabelled (0 pixels) · x 95, y 47: road" in first and second.startswith("0 % unlabelled (0 pixels) · ")
    desk.page.evaluate("window.hide()")
    assert bool((desk.saved() == 0).all())


def test_failures_are_shown_to_the_person(new_page, scenes, tmp_path):
    page = new_page()
    predicted = {scenes.ids[1]: torch.zeros(3, 3)}
    desk = Desk(page, Annotator(scenes, LabelStore(tmp_path / "blocked" / "labels", CITYSCAPES), predictions=predicted, autosave=0), (48, 96))
    (tmp_path / "blocked").write_text("a file where a folder should be")
    desk.drag((5, 5))
    desk.click("Save")
    desk.wait("Not saved:")
    assert page.locator(".stal-bad").count() == 1 and desk.state() == "todo, unsaved changes" and len(desk.widget.errors) == 1
    desk.click("Next image")
    desk.wait("prediction of 'real-0-000001': found (3, 3), expected (48, 96)")
    assert page.get_by_role("button", name="Save").is_disabled()
    desk.click("Previous image")
    page.evaluate("window.silent = true")
    desk.click("Save")
    desk.wait("Still waiting for the kernel to save this image")
    assert desk.state() == "todo, unsaved changes" and not page.problems




def inside(x, y, points):
    crossings = 0
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1]):
        crossings += (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay)
    return crossings % 2 == 1


def test_a_polygon_takes_the_pixels_inside(desk):
    points = [(10, 5), (60, 12), (48, 40), (20, 33)]
    desk.click("car")
    desk.page.get_by_test_id("annotator-canvas").click(position={"x": 3, "y": 3})  # gives the image the keys
    desk.page.keyboard.press("Control+z")
    desk.page.keyboard.press("l")
    for point in [*points, (70, 45)]:
        desk.drag(point)
    desk.page.keyboard.press("Backspace")  # the last point, after all not
    desk.page.keyboard.press("Enter")
    labels = desk.saved()
    for y in range(48):
        for x in range(96):
            near = min(abs((by - ay) * (x - ax) - (bx - ax) * (y - ay)) / np.hypot(bx - ax, by - ay) for (ax, ay), (bx, by) in zip(
                points, points[1:] + points[:1])) < 1e-6
            if not near:
                assert (labels[y, x] == CAR) == inside(x, y, points), (x, y)
    assert all(labels[y, x] == CAR for x, y in points)
    desk.click("Undo")
    desk.click("Polygon")
    for point in (*points, points[0]):  # the first point closes it
        desk.drag(point)
    assert torch.equal(desk.saved(), labels)


def test_superpixels_are_painted_whole(desk, scenes):
    pieces = torch.from_numpy(superpixels(scenes[0].image, 48 * 96 // 16).astype(np.int64))
    desk.click("car")
    desk.click("Superpixel")
    desk.page.get_by_label("Superpixels").select_option("fine")
    desk.page.wait_for_timeout(500)
    way = [(x, 20) for x in range(20, 41)]
    desk.drag(way[0], way[-1])
    expected = torch.full((48, 96), IGNORE)
    for x, y in way:
        expected[pieces == pieces[y, x]] = CAR
    assert torch.equal(desk.saved(), expected)
    desk.page.keyboard.press("g")  # coarser ones
    desk.page.wait_for_timeout(500)
    desk.drag((80, 40))
    assert int((desk.saved() == CAR).sum()) > int((expected == CAR).sum())


def test_the_colour_picker_takes_the_class_under_the_pointer(desk):
    desk.click("car")
    desk.click("Rectangle")
    desk.drag((10, 10), (20, 20))
    desk.click("road")
    desk.click("Colour picker")
    desk.drag((15, 15))
    assert desk.page.get_by_role("button", name="car", exact=True).get_attribute("aria-pressed") == "true"
    desk.drag((50, 40))  # nothing there: the class stays
    assert desk.page.get_by_role("button", name="car", exact=True).get_attribute("aria-pressed") == "true"


@pytest.fixture
def unsure(new_page, scenes, store):
    "A model that is sure on the left and unsure on the right, where a region is asked for."
    probs = torch.full((19, 48, 96), 0.02 / 18)
    probs[ROAD], probs[SKY, :20], probs[ROAD, :20] = 0.98, 0.98, 0.02 / 18
    probs[:, :, 60:] = 0.5 / 18
    probs[ROAD, 20:, 60:] = 0.5
    probs[SKY, :20, 60:] = 0.5
    mask = torch.zeros(48, 96, dtype=torch.bool)
    mask[10:30, 40:80] = True
    page = new_page()
    widget = Annotator(scenes, store, predictions=lambda s: probs, regions={scenes.ids[1]: mask}, start="empty", autosave=0)
    yield Desk(page, widget, (48, 96)), mask
    assert not page.problems


def test_the_model_is_accepted_in_part(unsure):
    desk, mask = unsure
    predicted = torch.where(torch.arange(48)[:, None].expand(48, 96) < 20, SKY, ROAD)
    desk.click("Accept confident")
    expected = predicted.clone()
    expected[:, 60:] = IGNORE
    assert torch.equal(desk.saved(), expected)
    desk.click("car")
    desk.click("Rectangle")
    desk.drag((0, 0), (9, 9))
    expected[:10, :10] = CAR
    desk.click("sky")
    desk.page.get_by_label("only unlabelled").check()
    desk.click("Accept class")
    expected[:20, 60:] = SKY
    assert torch.equal(desk.saved(), expected)
    desk.page.get_by_label("only unlabelled").uncheck()
    desk.click("Accept class")
    expected[:20] = SKY
    assert torch.equal(desk.saved(), expected)


def test_only_regions_that_were_asked_for_are_painted(unsure):
    desk, mask = unsure
    desk.click("Next image")
    desk.wait("Only the bright regions")
    for tool in ("Rectangle", "Fill", "Brush"):
        desk.click("car" if tool != "Fill" else "road")
        desk.click(tool)
        desk.drag((30, 5), (90, 45)) if tool != "Fill" else desk.drag((50, 20))
    under = desk.page.locator(".stal-under").inner_text()
    assert under.startswith("0 % unlabelled (0 pixels)")  # nothing is missing inside
    labels = desk.saved()
    assert bool((labels[~mask] == IGNORE).all()) and bool((labels[mask] != IGNORE).all())
    desk.click("Accept prediction")
    labels = desk.saved()
    assert bool((labels[~mask] == IGNORE).all()) and bool((labels[mask] == torch.where(
        torch.arange(48)[:, None].expand(48, 96) < 20, SKY, ROAD)[mask]).all())


def test_the_next_uncertain_region_is_where_the_model_is_unsure(unsure):
    desk, _ = unsure
    shot = lambda: desk.page.get_by_test_id("annotator-canvas").screenshot()  # noqa: E731
    before = shot()
    desk.click("Next uncertain region")
    desk.wait("Uncertain region 1 of")
    desk.page.mouse.move(*desk.at(48, 24))  # the middle of the view
    desk.page.wait_for_function("/x \\d+, y/.test(document.querySelector('.stal-under').textContent)")
    under = desk.page.locator(".stal-under").inner_text()
    assert int(re.search(r"x (\d+)", under)[1]) >= 60 and "uncertainty" in under and shot() != before
    desk.page.get_by_role("application").focus()
    for key in ("u", "Shift+U", "Home", "q", "q", "v", "v", "h", "h", "y"):
        desk.page.keyboard.press(key)
    desk.page.wait_for_timeout(200)


def test_hundreds_of_steps_can_be_undone(desk):
    desk.page.get_by_role("application").focus()
    for _ in range(20):
        desk.page.keyboard.press("a")  # the prediction, and nothing again: two steps of the whole image
        desk.page.evaluate("document.querySelector('[aria-label=Undo]').disabled")
        desk.page.keyboard.press("x")
        desk.page.keyboard.press("c")
        desk.page.keyboard.press("Control+z")
        desk.page.keyboard.press("Control+y")
    desk.brush(3)
    for k in range(120):
        desk.drag((2 + k % 90, 2 + 10 * (k // 90)))
    for _ in range(125):
        desk.page.keyboard.press("Control+z")
    assert desk.page.get_by_role("button", name="Undo").is_disabled() and bool((desk.saved() == IGNORE).all())


def test_before_shows_the_start_and_painting_ends_it(desk):
    desk.click("car")
    desk.click("Rectangle")
    desk.drag((0, 0), (95, 47))
    canvas = desk.page.get_by_test_id("annotator-canvas")
    colour = lambda: desk.page.evaluate(  # noqa: E731
        "(() => { const c = document.querySelector('canvas'); return [...c.getContext('2d').getImageData(99, 99, 1, 1).data] })()")
    desk.page.wait_for_timeout(100)
    after = colour()
    desk.click("Before")
    desk.page.wait_for_timeout(100)
    assert colour() != after and canvas.count() == 1
    desk.drag((5, 5))
    desk.page.wait_for_timeout(100)
    assert colour() == after and bool((desk.saved() == CAR).all())


def test_one_can_paint_without_a_mouse(desk):
    page = desk.page
    page.get_by_role("application").focus()
    desk.brush(3)
    page.keyboard.press("Shift+Digit4")
    page.keyboard.press("Control+ArrowRight")  # the cross appears in the middle, at 48, 24, and moves
    page.keyboard.press("Space")
    for _ in range(10):
        page.keyboard.press("Control+ArrowDown")
    page.keyboard.press("Space")
    expected = stroke(torch.full((48, 96), IGNORE), [(49, 24), (49, 34)], 3, CAR)
    page.keyboard.press("Control+s")
    desk.wait("Saved")
    assert torch.equal(desk.widget.labels(desk.widget.ids[0]), expected)


def test_every_control_has_a_name_and_the_keys_are_explained(desk):
    page = desk.page
    for name in ("Brush", "Eraser", "Polygon", "Rectangle", "Fill", "Superpixel", "Undo", "Redo", "Accept prediction", "Save", "Done",
                 "Next image", "Previous image", "ignore", *CITYSCAPES.classes):
        assert page.get_by_role("button", name=name, exact=True).count() == 1, name
    unnamed = page.evaluate("""[...document.querySelectorAll('.stal-annotator :is(button, select, input)')].filter(
        (e) => !(e.getAttribute('aria-label') || e.textContent.trim())).length""")
    assert unnamed == 0
    page.get_by_role("application").focus()
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog", name="Keys").count() == 0
    assert page.evaluate("document.activeElement.getAttribute('role')") == "application"


def own_desk(new_page, tmp_path, names):
    "A desk with classes of one's own, and nothing labelled."
    space = read_classes({"classes": names}).label_space
    samples = [sample._replace(labels=torch.full((48, 96), IGNORE)) for sample in SceneDataset("real", 1, size=(48, 96))]
    return Desk(new_page(), Annotator(samples, LabelStore(tmp_path / "own", space), start="empty", autosave=0), (48, 96)), space


def test_two_classes_of_ones_own_by_key(new_page, tmp_path):
    desk, space = own_desk(new_page, tmp_path, ["sound <b>", "crack"])
    page = desk.page
    assert page.locator(".stal-palette span").all_text_contents() == ["sound <b>", "crack", "ignore"] and page.get_by_label("Find a class").count() == 0
    desk.drag((10, 10))
    for key in ("2", ".", "3", "t", "."):  # crack, around to sound, no third class, nothing to find, crack
        page.keyboard.press(key)
    page.keyboard.press("r")
    desk.drag((50, 20), (60, 30))
    expected = stroke(torch.full((48, 96), IGNORE), [(10, 10)], 9, 0)
    expected[20:31, 50:61] = 1
    assert torch.equal(desk.saved(), expected) and not page.problems
    assert desk.widget.store.label_space.classes == space.classes


def test_forty_classes_are_found_by_name_without_a_mouse(new_page, tmp_path):
    names = ["sky", "Traffic sign", "road sign", "designer bench", "sign", "\u00c9rable", *(f"species {k}" for k in range(34))]
    desk, space = own_desk(new_page, tmp_path, names)
    page, expected = desk.page, torch.full((48, 96), IGNORE)
    pressed = lambda: page.locator(".stal-palette [aria-pressed=true] span").inner_text()  # noqa: E731
    shown = lambda: page.locator(".stal-palette button:visible span").all_text_contents()  # noqa: E731
    page.get_by_role("application").focus()
    page.keyboard.press("Control+ArrowRight")  # the cross, from the middle
    page.keyboard.press("t")
    page.keyboard.type("sign")  # s, i, g and n are commands elsewhere
    assert shown() == ["Traffic sign", "road sign", "designer bench", "sign"] and page.locator(".stal-found span").inner_text() == "sign"
    page.keyboard.press("ArrowDown")  # after the name itself those with the word
    page.keyboard.press("Enter")
    assert pressed() == "Traffic sign" and len(shown()) == 41 and page.get_by_label("Find a class").input_value() == ""
    page.keyboard.press("Space")  # the keys are the image's again
    page.keyboard.press("Space")
    expected = stroke(expected, [(49, 24)], 9, 1)
    page.keyboard.press("t")
    page.keyboard.type("erab")
    page.keyboard.press("Enter")
    assert pressed() == "\u00c9rable"
    page.keyboard.press("t")
    page.keyboard.type("nothing like it")
    page.keyboard.press("Enter")
    assert shown() == [] and pressed() == "\u00c9rable"
    page.keyboard.press("Escape")
    for _ in range(34):
        page.keyboard.press(".")  # to the end of the list, which scrolls
    frame, chosen = (page.locator(place).bounding_box() for place in (".stal-panel", ".stal-palette [aria-pressed=true]"))
    assert pressed() == "species 33" and frame["y"] < chosen["y"] and chosen["y"] + chosen["height"] < frame["y"] + frame["height"] + 2
    page.keyboard.press("r")
    desk.drag((0, 0), (9, 5))
    expected[:6, :10] = 39
    assert torch.equal(desk.saved(), expected)
    page.keyboard.press("y")  # eight colours, five hatchings: forty that differ
    looks = page.eval_on_selector_all(".stal-palette i", "nodes => nodes.slice(0, 40).map((n) => n.style.background)")
    assert len(set(looks)) == 40 and not page.problems


def test_two_fingers_zoom_and_a_pen_sends_fingers_to_the_side(desk):
    send = """([kind, type, id, x, y]) => { const c = document.querySelector('canvas'), b = c.getBoundingClientRect();
        c.dispatchEvent(new PointerEvent(kind, {pointerType: type, pointerId: id, isPrimary: id === 1,
        button: kind === 'pointermove' ? -1 : 0, buttons: 1, clientX: b.left + x, clientY: b.top + y, bubbles: true})) }"""
    touch = lambda *event: desk.page.evaluate(send, list(event))  # noqa: E731
    zoom = lambda: int(re.search(r"(\d+) %$", desk.page.locator(".stal-under").inner_text())[1])  # noqa: E731
    fitted = zoom()
    touch("pointerdown", "touch", 1, 300, 200)
    touch("pointerdown", "touch", 2, 400, 200)
    touch("pointermove", "touch", 2, 500, 200)
    touch("pointerup", "touch", 1, 300, 200)
    touch("pointerup", "touch", 2, 500, 200)
    desk.page.mouse.move(*desk.at(3, 3))
    assert zoom() > 1.5 * fitted
    desk.page.keyboard.press("Home")
    touch("pointerdown", "pen", 5, 300, 200)
    touch("pointerup", "pen", 5, 300, 200)
    painted = int((desk.saved() == 0).sum())
    touch("pointerdown", "touch", 6, 100, 100)  # the hand on the screen
    touch("pointermove", "touch", 6, 200, 100)
    touch("pointerup", "touch", 6, 200, 100)
    assert painted > 0 and int((desk.saved() == 0).sum()) == painted


def test_colours_for_colour_blind_eyes_stay_apart():
    "Colours of one hatching, as red-blind and green-blind eyes see them (Viénot et al., 1999): further apart than Cityscapes' own."
    source = (STATIC / "annotator.js").read_text()
    safe = np.array(json.loads(re.search(r"const SAFE = (\[\[.*?\]\]);", source)[1])) / 255
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {"red": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
             "green": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])}

    def nearest(colours, eye):
        seen = (np.linalg.inv(to_lms) @ blind[eye] @ to_lms @ (colours**2.2).T).T.clip(0, 1) ** (1 / 2.2)
        far = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        return far[~np.eye(len(far), dtype=bool)].min()

    own = np.array(CITYSCAPES.palette) / 255
    for eye in blind:
        assert nearest(safe, eye) > 0.12 > 2 * nearest(own, eye), (eye, nearest(safe, eye), nearest(own, eye))


# -- saving by itself, and rivals ----------------------------------------------------------------------------------------------------


def test_work_is_saved_by_itself_and_only_what_changed_travels(new_page, scenes, store):
    desk = Desk(new_page(), Annotator(scenes, store, start="empty", autosave=0.5), (48, 96))
    desk.click("car")
    desk.drag((10, 10), (30, 12))
    desk.wait("Saved.")
    first = store.load(scenes.ids[0])
    desk.page.mouse.move(*desk.at(60, 30))
    desk.page.mouse.down()
    desk.page.mouse.move(*desk.at(80, 30))
    desk.page.wait_for_timeout(1200)  # still drawing
    during = store.load(scenes.ids[0])
    desk.page.mouse.up()
    assert int((during == CAR).sum()) > int((first == CAR).sum()) > 0
    desk.page.wait_for_function("!document.querySelector('.stal-annotator').dataset.state.includes('unsaved')")
    sizes = [size for kind, size in desk.messages if kind == "save"]
    assert len(sizes) >= 2 and max(sizes) < 300 and torch.equal(store.load(scenes.ids[0]), during)


def test_of_two_tabs_the_later_is_asked_and_nothing_is_lost(new_page, scenes, store):
    ada, lin = (Desk(new_page(), Annotator(scenes, store, start="empty", annotator=name, autosave=0), (48, 96)) for name in ("Ada", "Lin"))
    for desk, name, x in ((ada, "car", 0), (lin, "road", 50)):
        desk.click(name)
        desk.click("Rectangle")
        desk.drag((x, 0), (x + 20, 20))
    hers = ada.saved()
    lin.click("Save")
    dialog = lin.page.get_by_role("alertdialog", name="Two versions")
    dialog.wait_for()
    assert "Ada has saved version 1" in dialog.inner_text() and lin.page.get_by_role("button", name="Done", exact=True).is_disabled()
    assert torch.equal(store.load(scenes.ids[0]), hers)
    dialog.get_by_role("button", name="Merge").click()
    lin.wait("Saved.")
    merged = hers.clone()
    merged[:21, 50:71] = ROAD
    assert torch.equal(store.load(scenes.ids[0]), merged)
    ada.click("Eraser")
    ada.drag((5, 5))
    ada.click("Save")
    ada.page.get_by_role("alertdialog").get_by_role("button", name="Take theirs").click()
    ada.wait("Took the other version")
    assert torch.equal(ada.saved(), merged)
    lin.drag((0, 30), (10, 40))
    lin.click("Save")
    lin.page.get_by_role("alertdialog").get_by_role("button", name="Keep mine").click()
    lin.wait("Saved.")
    merged[30:41, 0:11] = ROAD
    assert torch.equal(store.load(scenes.ids[0]), merged)
    assert [r["annotator"] for r in store.provenance(scenes.ids[0])] == ["Ada", "Lin", "Ada", "Lin"]


def test_skipped_and_done_images_are_told_apart(desk):
    page, ids = desk.page, desk.widget.ids
    desk.click("Skip")
    page.wait_for_function("document.querySelector('.stal-queue').selectedIndex === 1")
    desk.wait("Starts empty")
    desk.click("Done")
    desk.wait("Saved, done")
    assert desk.widget.status == {ids[0]: "skipped", ids[1]: "done", ids[2]: "todo"} and desk.widget.waiting == [ids[2]]
    assert page.locator(".stal-progress").get_attribute("aria-label") == "Progress: 2 of 3 done or skipped"
    kinds = [e.get_attribute("class").split()[0] for e in page.locator(".stal-progress i").all()]
    assert kinds == ["stal-skipped", "stal-done", "stal-todo"]


# -- both sides in JupyterLab ------------------------------------------------------------------------------------------------------------


CELLS = ["""
import json, os
from pathlib import Path

import torch

from stal_nb.app.annotator import Annotator
from stal_nb.labels import CITYSCAPES
from stal_nb.scenes import SceneDataset
from stal_nb.store import LabelStore

scenes = SceneDataset("real", 3, size=(48, 96))
annotator = Annotator(scenes, LabelStore("labels", CITYSCAPES), predictions=lambda sample: sample.labels, start="empty", annotator="Ada")
Path("kernel").write_text(str(os.getpid()))
annotator
""", """
facts = {"status": annotator.status, "done": annotator.done, "errors": annotator.errors, "index": annotator.index}
facts["labels"] = {id: annotator.labels(id).tolist() for id, status in annotator.status.items() if status not in ("todo", "skipped")}
Path("facts.json").write_text(json.dumps(facts))
print("facts", "written")
"""]


@pytest.fixture
def lab(tmp_path, jupyterlab):
    "JupyterLab with the annotator's cells: folder and address."
    with jupyterlab(tmp_path / "desk", CELLS) as address:
        yield tmp_path / "desk", address


class LabDesk(Desk):
    def __init__(self, page, folder):
        self.page, self.folder, self.size = page, folder, (48, 96)

    def facts(self):
        (self.folder / "facts.json").unlink(missing_ok=True)
        run_cell(self.page, 1)
        self.page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[1].textContent.includes('facts written')", timeout=30000)
        return json.loads((self.folder / "facts.json").read_text())


def settled(page):
    "Wait until nothing is unsaved."
    page.wait_for_function("!document.querySelector('.stal-annotator').dataset.state.includes('unsaved')", timeout=15000)


@pytest.fixture
def lab_page(chromium, lab):
    "A page with the notebook; afterwards a picture of it, and no error that the page did not expect."
    folder, address = lab
    page = chromium.new_page(viewport={"width": 1300, "height": 1200})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: page.problems.append(f"{m.text} ({m.location.get('url')})") if m.type == "error" else None)
    try:
        open_notebook(page, address)
        run_cell(page, 0)
        desk = LabDesk(page, folder)
        desk.wait("Starts empty")
        page.get_by_test_id("annotator-canvas").scroll_into_view_if_needed()
        yield desk, folder, address
    finally:
        page.screenshot(path=str(folder.parent / "lab.png"))
        page.close()


def test_a_person_labels_in_jupyterlab_with_every_tool(lab_page):
    desk, folder, _ = lab_page
    page, scenes = desk.page, SceneDataset("real", 3, size=(48, 96))
    ids, store = scenes.ids, LabelStore(folder / "labels", CITYSCAPES)
    expected = torch.full((48, 96), IGNORE)
    desk.click("car")
    desk.click("Rectangle")
    desk.drag((20, 30), (50, 40))
    expected[30:41, 20:51] = CAR
    desk.click("sky")
    desk.click("Brush")
    desk.brush(7)
    desk.drag((10, 5), (40, 12), (80, 6))
    stroke(expected, [(10, 5), (40, 12), (80, 6)], 7, SKY)
    desk.click("Eraser")
    desk.drag((30, 32), (30, 38))
    stroke(expected, [(30, 32), (30, 38)], 7, IGNORE)
    desk.click("road")
    desk.click("Polygon")
    for point in ((60, 30), (80, 30), (80, 44), (60, 44)):
        desk.drag(point)
    page.keyboard.press("Enter")
    expected[30:44, 60:81] = ROAD
    expected[44, [60, 80]] = ROAD  # corners belong to it
    page.keyboard.press("x")
    desk.click("Superpixel")
    page.wait_for_timeout(1500)
    pieces = superpixels(scenes[0].image, 48 * 96 // 16)
    desk.drag((90, 20))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    expected[torch.from_numpy(pieces == pieces[20, 90])] = IGNORE
    page.keyboard.press("1")  # a class here; a heading in the notebook, if JupyterLab got it
    desk.click("Fill")
    desk.drag((44, 35))
    desk.click("Undo")
    desk.click("Redo")
    hit = np.full(expected.shape, False)
    stack = [(35, 44)]
    while stack:
        y, x = stack.pop()
        if 0 <= y < 48 and 0 <= x < 96 and not hit[y, x] and expected[y, x] == CAR:
            hit[y, x] = True
            stack += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    expected[torch.from_numpy(hit)] = 0

    desk.click("Next image")
    desk.wait("Starts empty")
    desk.click("Accept prediction")
    page.keyboard.press("d")
    desk.wait("Saved, done")
    desk.click("Previous image")
    page.keyboard.press("Control+s")
    desk.wait("Saved.")
    settled(page)
    assert desk.state() == "partly"
    assert torch.equal(store.load(ids[0]), expected) and torch.equal(store.load(ids[1]), scenes[1].labels)
    facts = desk.facts()
    assert torch.equal(torch.tensor(facts["labels"][ids[0]]), expected)
    assert facts["status"] == {ids[0]: "partly", ids[1]: "done", ids[2]: "todo"} and facts["done"] == [ids[1]] and facts["errors"] == []
    record = store.provenance(ids[0])[-1]
    assert record["annotator"] == "Ada" and "prediction" in record

    page.keyboard.press("Control+s")  # the notebook
    page.wait_for_function("!document.querySelector('.lm-TabBar-tab.jp-mod-dirty')")
    page.reload()
    page.wait_for_selector(".jp-Notebook .jp-CodeCell .cm-content", timeout=60000)
    page.get_by_role("application", name="Annotator").wait_for(timeout=60000)  # the kernel still has the widget
    desk.wait("Shows the labels saved earlier")
    page.get_by_test_id("annotator-canvas").scroll_into_view_if_needed()
    desk.click("Eraser")
    desk.drag((20, 30), (20, 40))
    stroke(expected, [(20, 30), (20, 40)], 9, IGNORE)
    settled(page)  # by itself
    assert torch.equal(store.load(ids[0]), expected) and not page.problems


def test_a_killed_kernel_takes_less_than_two_seconds_of_work_with_it(lab_page):
    desk, folder, _ = lab_page
    page, store = desk.page, LabelStore(folder / "labels", CITYSCAPES)
    desk.click("Rectangle")
    desk.drag((0, 0), (30, 20))
    settled(page)
    desk.click("car")
    desk.drag((40, 0), (60, 20))
    os.kill(int((folder / "kernel").read_text()), signal.SIGKILL)  # the second rectangle is not saved
    saved = store.load("real-0-000000")
    expected = torch.full((48, 96), IGNORE)
    expected[:21, :31] = 0
    both = expected.clone()
    both[:21, 40:61] = CAR
    assert torch.equal(saved, expected) or torch.equal(saved, both)
    page.locator(".jp-Dialog").wait_for(timeout=60000)  # "Kernel Restarting"
    page.locator(".jp-Dialog button").last.click()
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60000)
    run_cell(page, 0)
    end = time.monotonic() + 90
    while not torch.equal(store.load("real-0-000000"), both) and time.monotonic() < end:
        page.wait_for_timeout(200)
    assert torch.equal(store.load("real-0-000000"), both)  # the page had kept even the rest


def test_two_browser_tabs_in_jupyterlab_lose_no_update(chromium, lab_page):
    desk, folder, address = lab_page
    desk.page.locator(".jp-Notebook .jp-CodeCell").nth(1).locator(".cm-content").click()
    desk.page.keyboard.press("Control+s")  # the notebook: the other tab reads the file
    desk.page.wait_for_function("!document.querySelector('.lm-TabBar-tab.jp-mod-dirty')")
    other = chromium.new_page(viewport={"width": 1300, "height": 1200})
    try:
        other.goto(address)
        other.get_by_role("application", name="Annotator").wait_for(timeout=60000)
        second = LabDesk(other, folder)
        second.wait("Starts empty")
        other.get_by_test_id("annotator-canvas").scroll_into_view_if_needed()
        for one, name, x in ((desk, "car", 0), (second, "road", 50)):  # at the same time: neither has heard of the other
            one.page.bring_to_front()
            one.click(name)
            one.click("Rectangle")
        desk.drag((0, 0), (20, 20))
        second.drag((50, 0), (70, 20))
        dialog = ".stal-conflict"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (asked := [d for d in (desk, second) if d.page.locator(dialog).count()]):
            other.wait_for_timeout(200)
        for one in asked:
            one.page.get_by_role("button", name="Merge", exact=True).click()
        for one in (desk, second):
            settled(one.page)
        labels = LabelStore(folder / "labels", CITYSCAPES).load("real-0-000000")
        assert bool((labels[:21, :21] == CAR).all()) and bool((labels[:21, 50:71] == ROAD).all())
    finally:
        other.close()
