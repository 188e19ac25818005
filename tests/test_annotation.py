"""Annotators: the oracle and its faults, what a label costs, and the Python side of the widget (test_annotator_browser.py has the page)."""
import re
import zlib

import numpy as np
import pytest
import torch

from stal_nb.annotation import (
    AnnotatorProtocol,
    CostModel,
    NoisyAnnotator,
    OracleAnnotator,
    annotation_seconds,
    boundary_length,
    boundary_map,
    confuse_pieces,
    count_pieces,
    jitter_boundaries,
)
from stal_nb.app.annotator import IGNORED, Annotator, predictor
from stal_nb.app.transfer import SEGMENTS, pack_image, pack_labels, superpixels, unpack_labels
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE
from stal_nb.masks import rle_decode
from stal_nb.runtime.errors import ConfigError, DataError, LabelError, StoreError
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


def test_the_cost_of_regions_and_corrections_by_hand():
    cost = CostModel(least=0)
    labels = torch.zeros(10, 20, dtype=torch.int64)
    labels[2:6, 4:9] = CAR
    assert cost(labels).seconds == annotation_seconds(labels)
    misnamed = torch.where(labels == CAR, SKY, labels)
    assert cost(labels, prediction=misnamed) == (0, 1, 2, 3 + 2)  # one piece to name, two to look at
    assert cost(labels, prediction=labels).seconds == 2
    missing = torch.zeros_like(labels)
    outline = 100 * np.pi / 4 * 18 / 10
    assert cost(labels, prediction=missing).seconds == pytest.approx(2 * outline + 10 + 1)
    half = labels.clone()
    half[4:6, 4:9] = 0  # the lower half of the car is missing: 9 pixel edges, and the two rows are one piece
    assert cost(labels, prediction=half).seconds == pytest.approx(2 * 100 * np.pi / 4 * 9 / 10 + 10 + 2)
    one = torch.zeros(10, 20, dtype=torch.bool)
    one[3, 5] = True
    assert cost(labels, mask=one) == (0, 1, 2, 3)  # one pixel: name it
    assert cost(labels, mask=one & False) == (0, 0, 0, 0)
    wild = torch.from_numpy(np.random.default_rng(0).integers(0, 19, (10, 20)))
    assert cost(labels, prediction=wild).seconds <= cost(labels, mask=torch.ones(10, 20, dtype=torch.bool)).seconds  # or start anew
    for bad in (dict(mask=one[:3]), dict(mask=one.long()), dict(prediction=one), dict(prediction=labels[:3])):
        with pytest.raises(ConfigError, match=f"{next(iter(bad))}: found"):
            cost(labels, **bad)


def test_the_oracle_sells_parts(scenes):
    oracle, noisy = OracleAnnotator(scenes), NoisyAnnotator(scenes)
    truth, whole = oracle.label(scenes.ids[0])
    mask = torch.zeros(48, 96, dtype=torch.bool)
    mask[10:30, 20:50] = True
    part, seconds = oracle.label(scenes.ids[0], mask=mask)
    assert torch.equal(part, torch.where(mask, truth, IGNORE)) and 0 < seconds < whole
    assert oracle.label(scenes.ids[0], mask=~mask & mask)[1] == 0
    assert oracle.label(scenes.ids[0], mask, prediction=truth)[1] < seconds
    assert noisy.label(scenes.ids[0], mask=mask)[1] == seconds and bool((noisy.label(scenes.ids[0], mask=mask)[0][~mask] == IGNORE).all())
    labels, cost = oracle.answer(scenes.ids[0], mask)
    assert cost.seconds == seconds and cost.clicks == cost.points + 2 * cost.pieces
    assert OracleAnnotator(scenes, seconds=lambda labels: 7).label(scenes.ids[0], mask=mask)[1] == 7


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


def opened(widget, id):
    "What the page gets: the answer, its parts unpacked, and the maps that come after."
    sent = listen(widget)
    widget.receive({"type": "open", "id": id, "session": "tab", "request": 1}, [])
    (content, data), *more = sent
    assert content["type"] == "image", content
    parts = dict(zip(content["parts"], data))
    size = (content["height"], content["width"])
    labels = unpack_labels(parts["labels"], size, CITYSCAPES, "", IGNORED)
    maps = {name: np.frombuffer(zlib.decompress(d), np.uint8).reshape(size) for c, ds in more for name, d in zip(c["parts"], ds)}
    return content, labels, parts, maps


def saving(id, labels, base, **more):
    return {"type": "save", "id": id, "session": "tab", "request": 7, "base": base, "box": None, "seconds": 3.5, "done": False, **more}, [
        memoryview(pack_labels(labels))]


def test_the_page_is_sent_what_the_person_starts_from(scenes, store):
    predicted = torch.full((48, 96), SKY)
    store.save(scenes.ids[2], scenes[2].labels, annotator="somebody", seconds=12.0)
    widget = Annotator(scenes, store, predictions={scenes.ids[0]: predicted})
    assert widget.status == {scenes.ids[0]: "todo", scenes.ids[1]: "todo", scenes.ids[2]: "partly"}
    for id, begin, start, version in ((scenes.ids[0], "prediction", predicted, 0), (scenes.ids[1], "empty", torch.full((48, 96), IGNORE), 0),
                                      (scenes.ids[2], "saved", scenes[2].labels, 1)):
        content, labels, parts, maps = opened(widget, id)
        assert (content["id"], content["begin"], content["version"], content["session"]) == (id, begin, version, "tab")
        assert torch.equal(labels, start) and list(maps) == (["prediction"] if id == scenes.ids[0] else [])
    empty = Annotator(scenes, store, predictions=lambda sample: predicted, start="empty")
    content, labels, _, maps = opened(empty, scenes.ids[0])
    assert content["begin"] == "empty" and (maps["prediction"] == SKY).all()


def test_probabilities_give_prediction_confidence_and_uncertainty(scenes, store):
    probs = torch.rand(19, 48, 96, generator=torch.Generator().manual_seed(0)).softmax(0)
    maps = opened(Annotator(scenes, store, predictions={scenes.ids[0]: probs}), scenes.ids[0])[3]
    assert np.array_equal(maps["prediction"], probs.argmax(0)) and np.allclose(maps["confidence"] / 255, probs.amax(0), atol=0.003)
    slow = -(probs * probs.log()).sum(0) / np.log(19)
    assert np.allclose(maps["uncertainty"] / 255, slow, atol=0.003)
    own = torch.rand(48, 96)
    maps = opened(Annotator(scenes, store, predictions={scenes.ids[0]: probs}, uncertainty={scenes.ids[0]: own}), scenes.ids[0])[3]
    assert np.allclose(maps["uncertainty"] / 255, own, atol=0.003)


def test_regions_restrict_what_the_person_starts_from(scenes, store):
    mask = torch.zeros(48, 96, dtype=torch.bool)
    mask[10:20, 30:60] = True
    widget = Annotator(scenes, store, predictions=lambda s: s.labels, regions=lambda s: mask)
    content, labels, parts, _ = opened(widget, scenes.ids[0])
    assert torch.equal(labels, torch.where(mask, scenes[0].labels, IGNORE)) and content["parts"] == ["picture", "labels", "mask"]
    for bad in (mask[:5], mask.long()):
        widget = Annotator(scenes, store, regions={scenes.ids[0]: bad})
        sent = listen(widget)
        widget.receive({"type": "open", "id": scenes.ids[0]}, [])
        assert "regions of" in sent[0][0]["message"] and "expected bool of shape (48, 96)" in sent[0][0]["message"]


def test_what_is_saved_is_what_was_painted(scenes, store):
    samples = [scenes[k] for k in range(3)]  # a plain list of samples works too
    done = []
    widget = Annotator(samples, store, ids=[scenes.ids[2], scenes.ids[0]], annotator="Ada", provenance={"round": 2})
    widget.on_done(done.append)
    sent = listen(widget)
    painted = torch.full((48, 96), IGNORE)
    painted[10:20, 30:60] = CAR
    widget.receive(*saving(scenes.ids[0], painted, 0, tools={"Brush": 3}))
    assert sent.pop()[0] == {
        "type": "saved", "id": scenes.ids[0], "request": 7, "session": "tab", "done": False, "version": 1, "spent": 3.5}
    assert torch.equal(widget.labels(scenes.ids[0]), painted) and torch.equal(torch.as_tensor(store.load(scenes.ids[0])), painted)
    assert widget.status[scenes.ids[0]] == "partly" and widget.done == [] and not widget.finished
    record = store.provenance(scenes.ids[0])[-1]
    assert (record["annotator"], record["seconds"], record["round"], record["tools"]) == ("Ada", 3.5, 2, {"Brush": 3})
    widget.receive(*saving(scenes.ids[0], painted, 1, done=True, seconds=5))
    assert widget.done == [scenes.ids[0]] == done and widget.label(scenes.ids[0])[1] == 8.5  # all of it
    widget.receive({"type": "skip", "id": scenes.ids[2], "seconds": 2.0}, [])
    assert widget.finished and widget.waiting == [] and widget.status[scenes.ids[2]] == "skipped" and done == [scenes.ids[0], scenes.ids[2]]
    again = Annotator(scenes, store, annotator="Ada")  # a new widget, or a new day
    assert again.status == {scenes.ids[0]: "done", scenes.ids[1]: "todo", scenes.ids[2]: "skipped"}
    assert again.spent == {scenes.ids[0]: 8.5, scenes.ids[1]: 0.0, scenes.ids[2]: 2.0}
    rows = again.summary()
    assert [r["version"] for r in rows] == [2, 0, 0] and rows[0]["labelled"] == pytest.approx(300 / 4608, abs=1e-4)
    assert isinstance(widget, AnnotatorProtocol) and widget.name == "Ada"


def test_only_the_changed_box_travels(scenes, store):
    widget = Annotator(scenes, store, predictions=lambda s: s.labels)
    opened(widget, scenes.ids[0])
    sent = listen(widget)
    piece = torch.full((4, 6), CAR)
    widget.receive(saving(scenes.ids[0], piece, 0)[0] | {"box": [10, 20, 16, 24]}, [pack_labels(piece)])
    expected = scenes[0].labels.clone()
    expected[20:24, 10:16] = CAR
    assert sent.pop()[0]["type"] == "saved" and torch.equal(widget.labels(scenes.ids[0]), expected)
    fresh = Annotator(scenes, store)  # a new kernel does not know what the page has: it asks for all of it
    sent = listen(fresh)
    fresh.receive(saving(scenes.ids[0], piece, 1)[0] | {"box": [0, 0, 6, 4]}, [pack_labels(piece)])
    assert sent.pop()[0]["type"] == "resend" and len(store.provenance(scenes.ids[0])) == 1
    for box in ([0, 0, 7, 4], [-1, 0, 5, 4], [0, 0, 99, 4], [4, 0, 2, 2], "all", [0.5, 0, 6, 4]):
        widget.receive(saving(scenes.ids[0], piece, 1)[0] | {"box": box}, [pack_labels(piece)])
        assert "found" in widget.errors[-1], box
    assert torch.equal(widget.labels(scenes.ids[0]), expected)


def test_a_stale_tab_is_told_what_is_there(scenes, store):
    one, two = Annotator(scenes, store, annotator="Ada"), Annotator(scenes, store, annotator="Lin")
    sent = listen(two)
    mine, theirs = torch.full((48, 96), ROAD), torch.full((48, 96), SKY)
    listen(one)
    one.receive(*saving(scenes.ids[0], theirs, 0))
    two.receive(*saving(scenes.ids[0], mine, 0))
    content, data = sent.pop()
    assert (content["type"], content["version"], content["annotator"]) == ("conflict", 1, "Ada") and content["when"]
    assert torch.equal(unpack_labels(data[0], (48, 96), CITYSCAPES, ""), theirs) and torch.equal(store.load(scenes.ids[0]), theirs)
    two.receive(*saving(scenes.ids[0], mine, 1))
    assert torch.equal(store.load(scenes.ids[0]), mine) and torch.equal(store.load(scenes.ids[0], 1), theirs)


def test_saves_nobody_asked_for_replace_each_other(scenes, store):
    widget = Annotator(scenes, store)
    listen(widget)
    for version, auto in enumerate((True, True, True, False, True, True)):
        widget.receive(*saving(scenes.ids[0], torch.full((48, 96), version), version, auto=auto))
    assert [r["kept"] for r in store.versions(scenes.ids[0])] == [False, False, False, True, False, True]
    assert torch.equal(store.load(scenes.ids[0], 4), torch.full((48, 96), 3))


def test_what_nobody_can_tell_is_remembered_and_stored_as_unlabelled(scenes, store):
    widget = Annotator(scenes, store)
    listen(widget)
    painted = torch.full((48, 96), IGNORE)
    painted[5:9] = IGNORED
    painted[20:30] = CAR
    widget.receive(*saving(scenes.ids[0], painted, 0))
    assert int((widget.labels(scenes.ids[0]) == IGNORE).sum()) == 38 * 96
    assert np.array_equal(rle_decode(store.provenance(scenes.ids[0])[-1]["ignored"]), (painted == IGNORED).numpy())
    assert torch.equal(opened(Annotator(scenes, store), scenes.ids[0])[1], painted)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_images_are_shown_and_segmented(scenes, store, channels):
    image = torch.cat([scenes[0].image, torch.ones(1, 48, 96)])[-channels:] if channels == 4 else scenes[0].image[:channels]
    samples = [scenes[0]._replace(image=image)]
    widget = Annotator(samples, store)
    assert opened(widget, scenes.ids[0])[2]["picture"][:3] == b"\xff\xd8\xff"
    sent = listen(widget)
    for level in range(3):
        widget.receive({"type": "segments", "id": scenes.ids[0], "level": level}, [])
        pieces = np.frombuffer(zlib.decompress(sent[-1][1][0]), "<u2").reshape(48, 96)
        assert len(np.unique(pieces)) > 3
    widget.receive({"type": "segments", "id": scenes.ids[0], "level": 5}, [])
    assert "found 5, expected 0 (fine) to 2 (coarse)" in sent[-1][0]["message"]


def test_superpixels_follow_edges_and_have_three_sizes():
    image = torch.zeros(3, 120, 200)
    image[:, :, 90:] = 0.9
    counts = [len(np.unique(superpixels(image, n // 10))) for n in SEGMENTS]
    assert counts == sorted(counts, reverse=True) and counts[0] > 2 * counts[2]
    pieces = superpixels(image, 60)
    assert not set(np.unique(pieces[:, :90])) & set(np.unique(pieces[:, 90:]))  # none crosses the edge
    large = superpixels(image.repeat_interleave(8, 1).repeat_interleave(8, 2), 60)  # segmented smaller, enlarged
    assert large.shape == (960, 1600) and not set(np.unique(large[:, :720])) & set(np.unique(large[:, 720:]))


def test_failures_are_told_and_kept_and_nothing_saved_is_lost(scenes, store, tmp_path):
    def predicted(sample):
        raise RuntimeError("out of memory")

    widget = Annotator(scenes, store, predictions={scenes.ids[0]: torch.zeros(4, 4)})
    sent = listen(widget)
    good = torch.full((48, 96), ROAD)
    save, data = saving(scenes.ids[1], good, 0, done=True)
    widget.receive(save, data)
    bad = [(save, [b"noise"], "cannot be unpacked"), ({**save, "seconds": float("nan")}, data, "nan seconds"),
           ({**save, "seconds": None}, data, "None seconds"), (save, [], "found 0 buffers"), ({**save, "base": None}, data, "None as base"),
           ({**save, "id": "nowhere"}, data, "found 'save' of 'nowhere'"),
           ({"type": "dance", "id": scenes.ids[0]}, [], "'dance'"), ({}, [], "found None of 'None'"),
           ({"type": "open", "id": scenes.ids[0]}, [], r"found \(4, 4\), expected \(48, 96\)")]
    for number, (content, buffers, message) in enumerate(bad, 1):
        widget.receive(content, buffers)
        assert sent[-1][0]["type"] == "error" and re.search(message, sent[-1][0]["message"]), sent[-1]
        assert len(widget.errors) == number and sent[-1][0]["message"] in widget.errors[-1]
    assert torch.equal(widget.labels(scenes.ids[1]), good)
    model = Annotator(scenes, store, predictions=predicted)
    sent = listen(model)
    model.receive({"type": "open", "id": scenes.ids[0]}, [])
    assert sent[0][0]["message"] == "RuntimeError: out of memory"
    blocked = Annotator(scenes, LabelStore(tmp_path / "blocked" / "labels", CITYSCAPES))
    sent = listen(blocked)
    (tmp_path / "blocked").write_text("a file where a folder should be")
    blocked.receive(save, data)
    assert sent[0][0]["type"] == "error" and blocked.status[scenes.ids[1]] == "todo"
    with pytest.raises(StoreError, match="found nothing saved"):
        blocked.labels(scenes.ids[1])
    watched = Annotator(scenes, store)
    sent = listen(watched)
    watched.on_done(lambda id: 1 / 0)
    watched.receive({**save, "base": 1}, data)
    assert sent[-1][0]["type"] == "saved" and "ZeroDivisionError" in watched.errors[-1]  # saved all the same


def test_a_saved_label_of_another_size_is_named(scenes, store):
    store.save(scenes.ids[0], torch.zeros(5, 5, dtype=torch.int64))
    widget = Annotator(scenes, store)
    sent = listen(widget)
    widget.receive({"type": "open", "id": scenes.ids[0]}, [])
    assert "found (5, 5), expected (48, 96) as the image" in sent[0][0]["message"]
    flat = Annotator([scenes[1]._replace(image=torch.rand(2, 48, 96))], store)
    sent = listen(flat)
    flat.receive({"type": "open", "id": scenes.ids[1]}, [])
    assert "image: found shape (2, 48, 96), expected (3, H, W), or 1 or 4 channels" in sent[0][0]["message"]


def test_a_queue_that_cannot_work_is_refused(scenes, store, tmp_path):
    for ids, found in ((["nowhere"], "'nowhere'"), ([], "no id"), ([scenes.ids[0]] * 2, "an id twice")):
        with pytest.raises(ConfigError, match=f"ids: found {found}, expected some of the 3 ids"):
            Annotator(scenes, store, ids=ids)
    with pytest.raises(ConfigError, match="found the 11 classes of camvid"):
        Annotator(scenes, LabelStore(tmp_path / "other", CAMVID))
    with pytest.raises(ConfigError, match="expected 'prediction' or 'empty'"):
        Annotator(scenes, store, start="anything")
    with pytest.raises(ConfigError, match="index: found 3, expected 0 to 2"):
        Annotator(scenes, store).index = 3
    widget = Annotator(scenes, store)
    sent = listen(widget)
    widget.index = 2  # the page is told; what the page says itself is not sent back
    widget.receive({"type": "at", "id": scenes.ids[1]}, [])
    assert [c for c, _ in sent] == [{"type": "go", "id": scenes.ids[2]}] and widget.index == 1


def test_a_model_becomes_a_function_of_a_sample(scenes):
    class Flat(torch.nn.Conv2d):
        def forward(self, images, with_embeddings=True):
            return type("Output", (), {"logits": super().forward(images)})

    probs = predictor(Flat(3, 19, 1), probs=True)(scenes[0])
    assert probs.shape == (19, 48, 96) and torch.allclose(probs.sum(0), torch.ones(48, 96))
    labels = predictor(Flat(3, 19, 1))(scenes[0])
    assert labels.shape == (48, 96) and labels.dtype == torch.int64 and int(labels.max()) < 19


def test_a_new_round_asks_again_for_an_image_that_was_done_before(scenes, store):
    "Regions of an image may be asked for in several rounds."
    id, other = scenes.ids[:2]
    store.save(id, scenes[0].labels, annotator="person", round=0, done=True)
    store.note(other, "skipped", round=0)
    assert Annotator(scenes, store, [id, other], provenance={"round": 0}).status == {id: "done", other: "skipped"}
    assert Annotator(scenes, store, [id, other], provenance={"round": 1}).status == {id: "partly", other: "todo"}
    assert Annotator(scenes, store, [id, other]).status == {id: "done", other: "skipped"}
