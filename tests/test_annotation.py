"""Annotators: the oracle and its faults, what a label costs, and the widget: its Python side, its page side, and both in JupyterLab."""
import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib

import numpy as np
import pytest
import torch

from stal_nb.annotation import (
    AnnotatorProtocol, NoisyAnnotator, OracleAnnotator, annotation_seconds, boundary_length, boundary_map, confuse_pieces, count_pieces,
    jitter_boundaries)
from stal_nb.errors import ConfigError, DataError, LabelError, StoreError
from stal_nb.explore.annotation import STATIC, Annotator, pack_image, pack_labels, predictor, unpack_labels
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE
from stal_nb.scenes import SceneDataset
from stal_nb.store import LabelStore

CAR, ROAD, SKY = (CITYSCAPES.index(name) for name in ("car", "road", "sky"))


@pytest.fixture
def scenes():
    return SceneDataset("real", 3, size=(48, 96))


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels", CITYSCAPES)


# -- oracle and cost ---------------------------------------------------------------------------------------------------------------


def test_the_oracle_tells_the_truth_and_a_price(scenes):
    oracle = OracleAnnotator(scenes)
    for sample in (scenes[k] for k in range(3)):
        labels, seconds = oracle.label(sample.id)
        assert labels.dtype == torch.int64 and torch.equal(labels, sample.labels)
        assert seconds == annotation_seconds(sample.labels) > 0
    assert isinstance(oracle, AnnotatorProtocol)
    assert OracleAnnotator([scenes[1]], seconds=lambda labels: 7).label(scenes.ids[1])[1] == 7.0


def test_the_oracle_refuses_what_it_cannot_know(scenes):
    with pytest.raises(ConfigError, match="found 'nowhere', expected one of the 3 ids"):
        OracleAnnotator(scenes).label("nowhere")
    blank = [scenes[0]._replace(labels=torch.full((48, 96), IGNORE))]
    with pytest.raises(DataError, match="This data set has no labels.*a person must label it"):
        OracleAnnotator(blank).label(scenes.ids[0])


def slow_boundary(ids):
    height, width = ids.shape
    pairs, edge = 0, np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < height and u < width and ids[y, x] != ids[v, u]:
                    pairs += 1
                    edge[y, x] = edge[v, u] = True
    return pairs, edge


def slow_pieces(ids, least):
    seen, sizes = set(), []
    for start in np.ndindex(*ids.shape):
        if start in seen:
            continue
        stack, size = [start], 0
        seen.add(start)
        while stack:
            y, x = stack.pop()
            size += 1
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < ids.shape[0] and 0 <= u < ids.shape[1] and (v, u) not in seen and ids[v, u] == ids[y, x]:
                    seen.add((v, u))
                    stack.append((v, u))
        sizes.append(size)
    return sum(size >= least * ids.size for size in sizes)


def test_boundary_and_pieces_agree_with_plain_python():
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (1, 7), (9, 1), (13, 17)):
        ids = generator.choice([0, 3, IGNORE], size=shape)
        pairs, edge = slow_boundary(ids)
        assert boundary_length(ids) == pytest.approx(np.pi / 4 * pairs)
        assert np.array_equal(boundary_map(torch.from_numpy(ids)).numpy(), edge)
        for least in (0, 0.01, 0.05):
            assert count_pieces(ids, least) == slow_pieces(ids, least)
    stack = torch.randint(0, 3, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(boundary_map(stack), torch.stack([boundary_map(one) for one in stack]))


def test_time_grows_with_boundary_and_not_with_resolution():
    labels = torch.zeros(60, 120, dtype=torch.int64)
    assert annotation_seconds(labels) == annotation_seconds(torch.full((60, 120), IGNORE)) == 0
    seconds = [0.0]
    for k in range(5):
        labels[10 * k + 5:10 * k + 12, 20 * k:20 * k + 15] = k + 1
        seconds.append(annotation_seconds(labels))
    assert all(a < b for a, b in zip(seconds, seconds[1:]))
    assert annotation_seconds(labels.repeat_interleave(3, 0).repeat_interleave(3, 1)) == pytest.approx(seconds[-1])
    assert annotation_seconds(labels.numpy()) == seconds[-1]
    assert annotation_seconds(labels, point_seconds=0, piece_seconds=3) == 3 * (count_pieces(labels) - 1)


@pytest.mark.parametrize("labels", [torch.zeros(2, 3, 4, dtype=torch.int64), torch.rand(4, 4), np.zeros((0, 4), int)])
def test_cost_refuses_what_is_not_a_label_map(labels):
    with pytest.raises(ConfigError, match=r"expected whole numbers of shape \(H, W\)"):
        annotation_seconds(labels)


# -- faults of an annotator --------------------------------------------------------------------------------------------------------


def test_a_noisy_annotator_repeats_itself_and_has_the_faults_asked_for(scenes):
    truth = scenes[1].labels
    answer = lambda *options: NoisyAnnotator(scenes, *options).label(scenes.ids[1])[0]  # noqa: E731
    assert torch.equal(answer(0, 0), truth)
    assert torch.equal(answer(2, 0.3, 5), answer(2, 0.3, 5)) and not torch.equal(answer(2, 0.3, 5), answer(2, 0.3, 6))
    wrong = [(answer(jitter, 0) != truth).float().mean() for jitter in (0, 1, 3, 9)]
    assert wrong == sorted(wrong) and wrong[1] > 0
    assert set(answer(3, 1.0).unique().tolist()) <= set(truth.unique().tolist())  # no class that is not in the image
    with pytest.raises(ConfigError, match="expected 0 or more, and 0 to 1"):
        NoisyAnnotator(scenes, jitter=-1)
    with pytest.raises(ConfigError, match="expected 0 or more, and 0 to 1"):
        NoisyAnnotator(scenes, jitter=float("nan"))


def test_confusion_renames_whole_small_pieces_only():
    labels = torch.zeros(40, 50, dtype=torch.int64)
    labels[:, 25:] = 10
    labels[3:6, 3:6], labels[20:24, 40:44], labels[30:33, 5:8] = 11, 13, IGNORE
    renamed = confuse_pieces(labels, 1.0, torch.Generator().manual_seed(0))
    small = (labels == 11) | (labels == 13)
    assert torch.equal(renamed[~small], labels[~small])  # large pieces and unlabelled pixels
    for name in (11, 13):
        new = renamed[labels == name].unique()
        assert len(new) == 1 and new.item() != name and new.item() in (0, 10, 11, 13)
    one = torch.full((8, 8), 4)
    assert torch.equal(confuse_pieces(one, 1.0, torch.Generator(), largest=1.0), one)  # no other class to take
    assert torch.equal(jitter_boundaries(one, 5.0, torch.Generator()), one)


# -- bytes -------------------------------------------------------------------------------------------------------------------------


def test_labels_survive_the_way_to_the_page_and_back(scenes):
    labels = scenes[0].labels.clone()
    labels[:5] = IGNORE
    packed = pack_labels(labels)
    assert len(packed) < labels.numel() / 5
    back = unpack_labels(memoryview(packed), (48, 96), CITYSCAPES, "here")
    assert back.dtype == torch.int64 and torch.equal(back, labels)
    assert pack_image(scenes[0].image)[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("data, message", [
    (b"", "found 0 pixels, expected 2 × 3 = 6"),
    (b"no zlib", "cannot be unpacked"),
    (zlib.compress(bytes(5)), "found 5 pixels"),
    (zlib.compress(bytes(10**7)), "found more than 6 pixels"),
    (zlib.compress(bytes(6))[:-3], "found 6 pixels, expected|cannot be unpacked"),
    (zlib.compress(bytes([0, 1, 2, 3, 19, 255])), "found class id 19"),
])
def test_bytes_that_are_no_labels_are_refused(data, message):
    with pytest.raises(LabelError, match=f"here: .*({message})"):
        unpack_labels(data, (2, 3), CITYSCAPES, "here")


# -- the widget without a page -----------------------------------------------------------------------------------------------------


def listen(annotator):
    sent = []
    annotator.send = lambda content, buffers=None: sent.append((content, buffers))
    return sent


def test_the_page_is_sent_what_the_person_starts_from(scenes, store):
    guess = torch.full((48, 96), SKY)
    store.save(scenes.ids[2], scenes[2].labels, annotator="somebody", seconds=12.0)
    widget = Annotator(scenes, store, predictions={scenes.ids[0]: guess})
    assert widget.status == {scenes.ids[0]: "new", scenes.ids[1]: "new", scenes.ids[2]: "saved"}
    sent = listen(widget)
    for id, begin, start in ((scenes.ids[0], "prediction", guess), (scenes.ids[1], "empty", torch.full((48, 96), IGNORE)),
                             (scenes.ids[2], "saved", scenes[2].labels)):
        widget.receive({"type": "open", "id": id}, [])
        content, data = sent.pop()
        assert (content["type"], content["id"], content["begin"]) == ("image", id, begin)
        assert torch.equal(unpack_labels(data[1], (content["height"], content["width"]), CITYSCAPES, ""), start)
        assert len(data) == (3 if id == scenes.ids[0] else 2)
    empty = Annotator(scenes, store, predictions=lambda sample: guess, start="empty")
    sent = listen(empty)
    empty.receive({"type": "open", "id": scenes.ids[0]}, [])
    assert sent[0][0]["begin"] == "empty" and len(sent[0][1]) == 3


def test_what_is_saved_is_what_was_painted(scenes, store):
    samples = [scenes[k] for k in range(3)]  # a plain list of samples works too
    widget = Annotator(samples, store, ids=[scenes.ids[2], scenes.ids[0]], annotator="Ada")
    sent = listen(widget)
    painted = torch.full((48, 96), IGNORE)
    painted[10:20, 30:60] = CAR
    save = {"type": "save", "id": scenes.ids[0], "request": 7, "seconds": 3.5, "done": False}
    widget.receive(save, [memoryview(pack_labels(painted))])
    assert sent.pop()[0] == {"type": "saved", "id": scenes.ids[0], "request": 7, "done": False}
    assert torch.equal(widget.labels(scenes.ids[0]), painted) and torch.equal(torch.as_tensor(store.load(scenes.ids[0])), painted)
    assert widget.status[scenes.ids[0]] == "saved" and widget.done == []
    provenance = store.provenance(scenes.ids[0])[-1]
    assert provenance["annotator"] == "Ada" and provenance["seconds"] == 3.5
    widget.receive({**save, "done": True, "seconds": 5}, [pack_labels(painted)])
    assert widget.done == [scenes.ids[0]] and widget.label(scenes.ids[0])[1] == 8.5  # all of it
    assert Annotator(scenes, store).done == [scenes.ids[0]]  # a new widget, or a new day
    assert isinstance(widget, AnnotatorProtocol) and widget.name == "Ada"


def test_failures_are_told_and_kept_and_nothing_saved_is_lost(scenes, store, tmp_path):
    def guess(sample):
        raise RuntimeError("out of memory")

    widget = Annotator(scenes, store, predictions={scenes.ids[0]: torch.zeros(4, 4)})
    sent = listen(widget)
    good = torch.full((48, 96), ROAD)
    save = {"type": "save", "id": scenes.ids[1], "request": 1, "seconds": 1.0, "done": True}
    widget.receive(save, [pack_labels(good)])
    bad = [({**save}, [b"noise"], "cannot be unpacked"), ({**save, "seconds": float("nan")}, [pack_labels(good)], "nan seconds"),
           ({**save, "seconds": None}, [pack_labels(good)], "None seconds"), (save, [], "found 0 buffers"),
           ({**save, "id": "nowhere"}, [pack_labels(good)], "found 'save' of 'nowhere'"),
           ({"type": "dance", "id": scenes.ids[0]}, [], "'dance'"), ({}, [], "found None of None"),
           ({"type": "open", "id": scenes.ids[0]}, [], r"found \(4, 4\), expected \(48, 96\)")]
    for number, (content, buffers, message) in enumerate(bad, 1):
        widget.receive(content, buffers)
        assert sent[-1][0]["type"] == "error" and re.search(message, sent[-1][0]["message"]), sent[-1]
        assert len(widget.errors) == number and sent[-1][0]["message"] in widget.errors[-1]
    assert torch.equal(widget.labels(scenes.ids[1]), good)
    model = Annotator(scenes, store, predictions=guess)
    sent = listen(model)
    model.receive({"type": "open", "id": scenes.ids[0]}, [])
    assert sent[0][0]["message"] == "RuntimeError: out of memory"
    blocked = Annotator(scenes, LabelStore(tmp_path / "blocked" / "labels", CITYSCAPES))
    sent = listen(blocked)
    (tmp_path / "blocked").write_text("a file where a folder should be")
    blocked.receive(save, [pack_labels(good)])
    assert sent[0][0]["type"] == "error" and blocked.status[scenes.ids[1]] == "new"
    with pytest.raises(StoreError, match="found nothing saved"):
        blocked.labels(scenes.ids[1])


def test_a_queue_that_cannot_work_is_refused(scenes, store, tmp_path):
    for ids, found in ((["nowhere"], "'nowhere'"), ([], "no id"), ([scenes.ids[0]] * 2, "an id twice")):
        with pytest.raises(ConfigError, match=f"ids: found {found}, expected some of the 3 ids"):
            Annotator(scenes, store, ids=ids)
    with pytest.raises(ConfigError, match="found the classes of camvid"):
        Annotator(scenes, LabelStore(tmp_path / "other", CAMVID))
    with pytest.raises(ConfigError, match="expected 'prediction' or 'empty'"):
        Annotator(scenes, store, start="anything")
    with pytest.raises(ConfigError, match="index: found 3, expected 0 to 2"):
        Annotator(scenes, store).index = 3


def test_a_model_becomes_a_function_of_a_sample(scenes):
    class Flat(torch.nn.Conv2d):
        def forward(self, images, with_embeddings=True):
            return type("Output", (), {"logits": super().forward(images)})

    labels = predictor(Flat(3, 19, 1))(scenes[0])
    assert labels.shape == (48, 96) and labels.dtype == torch.int64 and int(labels.max()) < 19


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
  window.hide = window.show(800);
}"""


class Desk:
    "A widget on a page: what a person does to it, and what comes of it."

    def __init__(self, page, widget, size):
        self.page, self.widget, self.size = page, widget, size
        sent = listen(widget)

        def python(content, buffers):
            sent.clear()
            widget.receive(content, [memoryview(base64.b64decode(b)) for b in buffers])
            return {"status": widget.status, "messages": [[c, [base64.b64encode(b).decode() for b in data or []]] for c, data in sent]}

        page.expose_function("python", python)
        page.set_content("<!doctype html><title>desk</title><body></body>")
        state = {name: getattr(widget, name) for name in ("ids", "index", "status", "classes", "colours")}
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
        self.click(button)
        self.wait("Saved")
        return self.widget.labels(self.widget.ids[self.page.locator("select").first.evaluate("e => e.selectedIndex")])


def stroke(labels, points, size, label):
    "What the brush paints: pixels whose centre is nearer than size / 2 to the line."
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    for (ax, ay), (bx, by) in zip(points, points[1:] or points):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        labels[torch.from_numpy((x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2 < size * size / 4)] = label
    return labels


@pytest.fixture
def guess(scenes):
    return torch.where(torch.arange(48)[:, None].expand(48, 96) < 20, SKY, ROAD)


@pytest.fixture
def desk(new_page, scenes, store, guess):
    page = new_page()
    yield Desk(page, Annotator(scenes, store, predictions={scenes.ids[0]: guess}, start="empty", annotator="Ada"), (48, 96))
    assert not page.problems


def test_each_tool_paints_what_it_says(desk, guess):
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
    assert torch.equal(desk.saved(), guess)
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
    assert int((painted == 0).sum()) == 60 and desk.state() == "saved"
    for _ in range(60):
        desk.page.keyboard.press("Control+z")
    assert desk.page.get_by_role("button", name="Undo").is_disabled() and desk.state() == "unsaved changes"
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
    page.wait_for_function("document.querySelector('select').selectedIndex === 2")
    assert page.get_by_role("button", name="Next image").is_disabled()
    options = page.locator("option").all_text_contents()
    assert [o.split(" · ")[1] for o in options] == ids and "unsaved changes" in options[0] and options[1].endswith("new")
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
    assert desk.page.locator(".stal-under").all_text_contents() == ["0 % unlabelled · x 95, y 47: road", "0 % unlabelled"]
    desk.page.evaluate("window.hide()")
    assert bool((desk.saved() == 0).all())


def test_failures_are_shown_to_the_person(new_page, scenes, tmp_path):
    page = new_page()
    guess = {scenes.ids[1]: torch.zeros(3, 3)}
    desk = Desk(page, Annotator(scenes, LabelStore(tmp_path / "blocked" / "labels", CITYSCAPES), predictions=guess), (48, 96))
    (tmp_path / "blocked").write_text("a file where a folder should be")
    desk.drag((5, 5))
    desk.click("Save")
    desk.wait("Not saved:")
    assert page.locator(".stal-bad").count() == 1 and desk.state() == "unsaved changes" and len(desk.widget.errors) == 1
    desk.click("Next image")
    desk.wait("prediction of 'real-0-000001': found (3, 3), expected (48, 96)")
    assert page.get_by_role("button", name="Save").is_disabled()
    desk.click("Previous image")
    page.evaluate("window.silent = true")
    desk.click("Save")
    desk.wait("Still waiting for the kernel to save this image")
    assert desk.state() == "unsaved changes" and not page.problems


# -- both sides in JupyterLab ------------------------------------------------------------------------------------------------------------


CELLS = ["""
import json
from pathlib import Path

import torch

from stal_nb.explore.annotation import Annotator
from stal_nb.labels import CITYSCAPES
from stal_nb.scenes import SceneDataset
from stal_nb.store import LabelStore

scenes = SceneDataset("real", 3, size=(48, 96))
annotator = Annotator(scenes, LabelStore("labels", CITYSCAPES), predictions=lambda sample: sample.labels, start="empty", annotator="Ada")
annotator
""", """
facts = {"status": annotator.status, "done": annotator.done, "errors": annotator.errors, "index": annotator.index}
facts["labels"] = {id: annotator.labels(id).tolist() for id, status in annotator.status.items() if status != "new"}
Path("facts.json").write_text(json.dumps(facts))
print("facts", "written")
"""]


@pytest.fixture
def lab(tmp_path):
    "JupyterLab on loopback, with a token and settings of its own, in a folder with one notebook. Gives folder and address."
    folder = tmp_path / "desk"
    folder.mkdir()
    cells = [{"cell_type": "code", "id": f"cell-{k}", "metadata": {}, "source": source.strip(), "outputs": [], "execution_count": None}
             for k, source in enumerate(CELLS)]
    metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    (folder / "label.ipynb").write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f"JUPYTER{name}": str(tmp_path / name.lower()) for name in (
        "_CONFIG_DIR", "_DATA_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")}
    log = open(tmp_path / "lab.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"],
        env={**os.environ, **own, "IPYTHONDIR": str(tmp_path / "ipython")}, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.5)
        yield folder, f"http://127.0.0.1:{port}/lab/tree/label.ipynb?token={token}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server and its kernels: a session of their own
        server.wait(20)
        log.close()


def run_cell(page, number):
    "Focus the editor of a cell, run it, and wait until it has a number. A kernel that has just started may not have heard the first time."
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
    prompt = cell.locator(".jp-InputPrompt")
    before, end = prompt.inner_text(), time.monotonic() + 90
    while time.monotonic() < end:
        assert not page.locator(".jp-Dialog").count(), f"JupyterLab asks: {page.locator('.jp-Dialog').inner_text()}"
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(2000)
        while (now := prompt.inner_text()).startswith("[*") and time.monotonic() < end:
            page.wait_for_timeout(200)
        if now != before and now.strip("[]: ").isdigit():
            return
    raise AssertionError(f"cell {number} did not run: {prompt.inner_text()}")


def open_notebook(page, address):
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell .cm-content", timeout=60000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60000)


class LabDesk(Desk):
    def __init__(self, page, folder):
        self.page, self.folder, self.size = page, folder, (48, 96)

    def facts(self):
        (self.folder / "facts.json").unlink(missing_ok=True)
        run_cell(self.page, 1)
        self.page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[1].textContent.includes('facts written')", timeout=30000)
        return json.loads((self.folder / "facts.json").read_text())


def test_a_person_labels_in_jupyterlab(chromium, lab):
    folder, address = lab
    page = chromium.new_page(viewport={"width": 1300, "height": 1200})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(f"{m.text} ({m.location.get('url')})") if m.type == "error" else None)
    try:
        open_notebook(page, address)
        run_cell(page, 0)
        desk = LabDesk(page, folder)
        desk.wait("Starts empty")

        page.get_by_test_id("annotator-canvas").scroll_into_view_if_needed()
        desk.click("car")
        desk.click("Rectangle")
        desk.drag((20, 30), (50, 40))
        expected = torch.full((48, 96), IGNORE)
        expected[30:41, 20:51] = CAR
        desk.click("sky")
        desk.click("Brush")
        desk.brush(7)
        desk.drag((10, 5), (40, 12), (80, 6))
        stroke(expected, [(10, 5), (40, 12), (80, 6)], 7, SKY)
        page.keyboard.press("1")  # a class here; a heading in the notebook, if JupyterLab got it
        desk.drag((60, 44))
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+Shift+z")
        desk.click("Undo")

        desk.click("Next image")
        desk.wait("Starts empty")
        desk.click("Accept prediction")
        page.keyboard.press("d")
        desk.wait("Saved, done")
        desk.click("Previous image")
        page.keyboard.press("Control+s")
        desk.wait("Saved.")
        assert desk.state() == "saved"

        scenes = SceneDataset("real", 3, size=(48, 96))
        ids, store = scenes.ids, LabelStore(folder / "labels", CITYSCAPES)
        assert torch.equal(store.load(ids[0]), expected) and torch.equal(store.load(ids[1]), scenes[1].labels)
        facts = desk.facts()
        assert torch.equal(torch.tensor(facts["labels"][ids[0]]), expected)
        assert facts["status"] == {ids[0]: "saved", ids[1]: "done", ids[2]: "new"} and facts["done"] == [ids[1]] and facts["errors"] == []
        assert store.provenance(ids[0])[-1]["annotator"] == "Ada"

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
        assert desk.state() == "unsaved changes"
        desk.click("Save")
        desk.wait("Saved.")
        assert torch.equal(store.load(ids[0]), expected)
    finally:
        page.screenshot(path=str(folder.parent / "lab.png"))
        page.close()
    assert not problems
