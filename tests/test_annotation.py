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
