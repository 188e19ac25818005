"""The label store under attack: kills, full disks, rival writers, files of other programs. Acknowledged labels stay; errors have a type."""
import json
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import stal_nb.store as store_module
from figures.crashes import failing_disk, kill_trials, race
from stal_nb.formats import (
    cityscapes_labels,
    coco_labels,
    coloured_labels,
    export_cityscapes,
    export_coco,
    export_coloured,
    import_labels,
)
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE, LabelSpace
from stal_nb.masks import pack_rle, polygon_mask, rle_decode, rle_encode
from stal_nb.runtime.errors import ConfigError, DataError, LabelError, StalError, StoreError
from stal_nb.store import LabelStore, StaleLabelError


def random_labels(seed, size=(24, 40)):
    "A partial label: all 19 classes, and unlabelled pixels."
    labels = torch.randint(0, 20, size, generator=torch.Generator().manual_seed(seed))
    return labels.where(labels < 19, IGNORE)


A, B, C = (random_labels(k) for k in range(3))


@pytest.fixture
def store(tmp_path):
    store = LabelStore(tmp_path / "labels", CITYSCAPES)
    store.save("aachen/street_1", A, annotator="Ada", seconds=7)
    return store


ID = "aachen/street_1"


# -- versions ----------------------------------------------------------------------------------------------------------------------


def test_every_version_can_be_listed_loaded_and_restored(store):
    store.save(ID, B, annotator="Lin")
    store.save(ID, C, annotator="Ada", round=2)
    assert [(r["version"], r["annotator"], r["kept"]) for r in store.versions(ID)] == [(1, "Ada", True), (2, "Lin", True), (3, "Ada", True)]
    for version, labels in ((1, A), (2, B), (3, C), (None, C)):
        assert torch.equal(store.load(ID, version), labels)
    assert store.load_with_version(ID)[1] == 3 and store.load_with_version(ID, 2)[1] == 2
    record = store.restore(ID, 1, annotator="Eve")
    assert (record["version"], record["restored"], record["annotator"]) == (4, 1, "Eve")
    assert torch.equal(store.load(ID), A) and torch.equal(store.load(ID, 3), C)
    assert store.ids() == [ID] and [r["version"] for r in store.provenance(ID)] == [1, 2, 3, 4]
    for call in (lambda: store.load(ID, 9), lambda: store.restore(ID, 0), lambda: store.versions("../x")):
        with pytest.raises(StoreError):
            call()
    assert store.versions("nobody") == []


def test_a_label_that_is_not_kept_leaves_its_record(store):
    store.save(ID, B, keep=False)
    store.save(ID, C)
    assert [r["kept"] for r in store.versions(ID)] == [False, True, True]
    with pytest.raises(StoreError, match="000001.png: found no label"):
        store.load(ID, 1)


def test_versions_are_kept_where_files_have_one_name_only(store, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    store.save(ID, B)
    assert torch.equal(store.load(ID, 1), A) and torch.equal(store.load(ID), B)


def test_ids_that_look_like_files_of_versions_do_not_meet(store):
    for id in ("a", "a/000001", "a.png/000001", ".versions/a", ".versions/a.png/000001"):
        store.save(id, A)
        store.save(id, B)
    for id in store.ids():
        if id != ID:
            assert torch.equal(store.load(id, 1), A) and torch.equal(store.load(id, 2), B)
    assert len(store.ids()) == 6


def test_notes_are_in_the_log_and_no_labels(store):
    note = store.note("aachen/street_2", "skipped", annotator="Ada", seconds=3, reason="dark")
    assert store.notes() == [note] and note["event"] == "skipped" and note["reason"] == "dark"
    assert store.ids() == [ID] and store.provenance("aachen/street_2") == [] and len(store.history()) == 1
    with pytest.raises(ConfigError, match="seconds: found -1"):
        store.note(ID, "skipped", seconds=-1)
    with pytest.raises(StoreError, match="image id"):
        store.note("../x", "skipped")


# -- rivals ------------------------------------------------------------------------------------------------------------------------


def test_a_stale_copy_is_refused_with_a_choice_and_changes_nothing(store):
    labels, seen = store.load_with_version(ID)
    store.save(ID, B, annotator="Lin", base=seen)
    before = {f: f.read_bytes() for f in store.root.rglob("*") if f.is_file()}
    words = "found version 2 by 'Lin' at .*, expected version 1.*merge it, or save again with base=2"
    with pytest.raises(StaleLabelError, match=words) as caught:
        store.save(ID, C, annotator="Ada", base=seen)
    error = caught.value
    assert (error.id, error.base, error.version, error.record["annotator"]) == (ID, 1, 2, "Lin") and isinstance(error, StoreError)
    assert {f: f.read_bytes() for f in store.root.rglob("*") if f.is_file()} == before
    assert store.save(ID, C, base=error.version)["version"] == 3  # the choice: mine, theirs is kept
    assert torch.equal(store.load(ID, 2), B)
    with pytest.raises(StaleLabelError, match="expected version 1"):
        store.save("aachen/new", A, base=1)  # somebody removed it
    store.save("aachen/new", A, base=0)
    with pytest.raises(StaleLabelError, match="found version 1, expected version 0|found version 1 by"):
        store.save("aachen/new", B, base=0)


def test_processes_that_say_their_base_lose_no_update(tmp_path):
    result = race(tmp_path / "race", 20, checked=True)
    assert result["counted"] == result["added"] == 40 and result["refused"] > 0, result


def test_threads_of_one_program_take_turns(store):
    failures = []

    def work(k):
        try:
            for _ in range(8):
                store.save(ID, (A, B, C)[k], annotator=str(k))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures and [r["version"] for r in store.provenance(ID)] == list(range(1, 26))
    assert all(torch.equal(store.load(ID, r["version"]), (A, B, C)[int(r["annotator"])]) for r in store.versions(ID)[1:])


def test_a_program_that_holds_the_folder_is_waited_for_and_then_named(store, monkeypatch):
    code = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(store.root / ".lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "1\n"
        monkeypatch.setattr(store_module, "LOCK_SECONDS", 0.3)
        with pytest.raises(StoreError, match="found another program that has been writing for 0.3 s"):
            store.save(ID, B)
    finally:
        holder.kill()
        holder.wait()
    store.save(ID, B)  # the system has freed the lock of the dead
    assert torch.equal(store.load(ID), B)


# -- kills and full disks ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_kills_lose_no_acknowledged_label(tmp_path):
    (result,) = kill_trials(tmp_path, 100, ("store",), seed=11)
    assert result["acknowledged"] > 30 and result["leftovers"] > 0, "too slow, or no kill hit a save"
    assert (result["lost"], result["torn files"], result["leftovers after opening"]) == (0, 0, 0)


@pytest.mark.parametrize("room", [None, 0, 1, 80, 150])
@pytest.mark.parametrize("only", [".tmp", ".jsonl", ""])
def test_a_disk_that_is_full_at_any_byte_keeps_all_versions(store, room, only):
    store.save(ID, B)
    with failing_disk(room=room, only=only), pytest.raises(StoreError, match="before is intact"):
        store.save(ID, C)
    assert torch.equal(store.load(ID), B) and torch.equal(store.load(ID, 1), A)
    assert [r["version"] for r in store.versions(ID)] == [1, 2] and not list(store.root.rglob("*.tmp"))
    assert store.save(ID, C)["version"] == 3 and torch.equal(store.load(ID, 2), B)


def test_a_real_device_without_room_is_a_typed_error(store):
    "/dev/full refuses every byte: the log's line cannot be written, the label before stays."
    store.log_file.unlink()
    store.log_file.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="provenance.jsonl: found 'No space left on device'"):
        store.save(ID, B)
    assert torch.equal(store.load(ID), A) and not list(store.root.rglob("*.tmp"))


# -- run lengths -------------------------------------------------------------------------------------------------------------------


def slow_counts(mask):
    counts, current, run = [], False, 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != current:
                counts.append(run)
                current, run = not current, 0
            run += 1
    return [*counts, run]


def slow_text(counts):
    "COCO's packing, number by number."
    text = ""
    for k, number in enumerate(counts):
        number -= counts[k - 2] if k > 2 else 0
        more = True
        while more:
            low, number = number & 0x1F, number >> 5
            more = number != -1 if low & 0x10 else number != 0
            text += chr(low + (0x20 if more else 0) + 48)
    return text


MASKS = [np.random.default_rng(k).random((h, w)) < share for k, (h, w, share) in enumerate(
    [(1, 1, 0), (1, 1, 1), (1, 9, 0.5), (9, 1, 0.5), (7, 11, 0.02), (7, 11, 0.5), (7, 11, 0.98), (40, 60, 0), (40, 60, 1), (63, 65, 0.3)])]
MASKS.append(np.add.outer(np.arange(90) ** 2, np.arange(120) ** 2) < 3000)


PACKED = "packed run lengths need stal_nb[formats], which `make install` brings"


@pytest.mark.parametrize("mask", MASKS, ids=lambda m: f"{m.shape}-{int(m.sum())}")
def test_run_lengths_agree_with_a_slow_version_and_come_back(mask):
    rle = rle_encode(mask)
    assert rle == {"size": list(mask.shape), "counts": slow_counts(mask)} == rle_encode(torch.from_numpy(mask))
    assert np.array_equal(rle_decode(rle), mask)


@pytest.mark.parametrize("mask", MASKS, ids=lambda m: f"{m.shape}-{int(m.sum())}")
def test_packed_run_lengths_agree_with_a_slow_version_and_come_back(mask):
    pytest.importorskip("pycocotools", reason=PACKED)
    packed = rle_encode(mask, packed=True)
    assert packed == {"size": list(mask.shape), "counts": slow_text(slow_counts(mask))} == pack_rle(rle_encode(mask))
    assert np.array_equal(rle_decode(packed), mask)
    assert np.array_equal(rle_decode({**packed, "counts": packed["counts"].encode()}), mask)


def test_packed_run_lengths_without_pycocotools_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for call in (lambda: rle_encode(MASKS[4], packed=True), lambda: rle_decode({"size": [2, 3], "counts": "6"})):
        with pytest.raises(ConfigError, match=r"found no pycocotools, .*pip install stal_nb\[formats\]"):
            call()
    assert np.array_equal(rle_decode(rle_encode(MASKS[4])), MASKS[4])


def test_texts_that_pycocotools_writes():
    "Noted down from pycocotools 2.0.11, of masks that a line describes."
    disk = np.add.outer((np.arange(20) - 9) ** 2, (np.arange(30) - 14) ** 2) < 50
    checks = (np.add.outer(np.arange(6), np.arange(7)) % 2).astype(bool)
    pytest.importorskip("pycocotools", reason=PACKED)
    assert rle_encode(disk, packed=True)["counts"] == DISK and rle_encode(checks, packed=True)["counts"] == CHECKS
    assert pack_rle({"size": [170009, 1], "counts": [0, 5, 100000, 1, 3, 70000]})["counts"] == LARGE


DISK = "e41`06L2N2N2O000O20N10001N2N2N4Jj4"
CHECKS = "1110010O0010O0010O0010O0010O0010O000"
LARGE = "05PeQ3LS[nL_[T2"


@pytest.mark.parametrize("rle, words", [
    (None, "found size None"),
    ({"size": [2, 3], "counts": [1, 2]}, "for 3 pixels"), ({"size": [2, 3], "counts": [7, -1]}, "none negative"),
    ({"size": [2, 3], "counts": [1.5, 4.5]}, "list of whole numbers"), ({"size": [2, 3], "counts": [[1], [2, 3]]}, "whole numbers"),
    ({"size": [2, 3], "counts": [2**70]}, "whole numbers"), ({"size": [2, 3], "counts": None}, "whole numbers"),
    ({"size": [0, 3], "counts": []}, "size"), ({"size": [10**6, 10**6], "counts": "0"}, "size"),
    ({"size": [True, 2], "counts": [2]}, "size")])
def test_run_lengths_that_are_none_are_refused(rle, words):
    with pytest.raises(LabelError, match=f"here: .*({words})"):
        rle_decode(rle, "here")


@pytest.mark.parametrize("text", ["ab\x7f", "", "o" * 9, "o" * 9 + "0", "ä", "P1", "2", "01", "22", "7", "3X", "0" * 40])
def test_packed_run_lengths_that_are_none_are_refused(text):
    "Also those that pycocotools takes: a text too short, of which it would leave the rest of the mask to chance."
    pytest.importorskip("pycocotools", reason=PACKED)
    with pytest.raises(LabelError, match=r"here: found b.* as packed run lengths, expected those of 2 × 3 pixels"):
        rle_decode({"size": [2, 3], "counts": text}, "here")


def test_polygons_take_the_pixels_whose_centre_is_inside():
    def inside(x, y, points):
        crossings = 0
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1]):
            crossings += (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay)
        return crossings % 2 == 1

    points = [(1.2, 2.3), (17.9, 3.1), (12.4, 14.8), (3.3, 11.1)]
    slow = np.array([[inside(x + 0.5, y + 0.5, points) for x in range(20)] for y in range(16)])
    assert np.array_equal(polygon_mask([[c for p in points for c in p]], (16, 20)), slow)
    for bad in ([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[float("nan")] * 6], [[1e300] * 6], ["abcdef"], [None]):
        with pytest.raises(LabelError, match="expected a polygon"):
            polygon_mask(bad, (16, 20))


# -- out and back ------------------------------------------------------------------------------------------------------------------


def test_what_goes_out_comes_back(store, tmp_path):
    store.save("bonn/x_2", B)
    store.save("plain", torch.full((24, 40), IGNORE))
    sizes = {id: (24, 40) for id in store.ids()}
    export_coloured(store, tmp_path / "coloured")
    for k, packed in enumerate((True, False)):
        export_coco(store, tmp_path / f"coco{k}.json", packed=packed)
    for k, found in enumerate((coloured_labels(tmp_path / "coloured", CITYSCAPES), coco_labels(tmp_path / "coco0.json", CITYSCAPES),
                               coco_labels(tmp_path / "coco1.json", CITYSCAPES))):
        back = LabelStore(tmp_path / f"back{k}", CITYSCAPES)
        assert sorted(import_labels(back, found, annotator="CVAT", sizes=sizes, seconds=5)) == back.ids() == store.ids()
        assert all(torch.equal(back.load(id), store.load(id)) for id in store.ids())
        assert back.provenance(ID)[0]["annotator"] == "CVAT" and back.provenance(ID)[0]["seconds"] == 5
    files = export_cityscapes(store, tmp_path / "city", ids=[ID, "bonn/x_2"])
    assert files[0] == tmp_path / "city" / "gtFine" / "train" / "aachen" / "street_1_gtFine_labelTrainIds.png"
    assert np.array_equal(np.array(Image.open(files[0])), A.numpy()) and Image.open(files[0]).mode == "L"
    assert set(cityscapes_labels(tmp_path / "city", CITYSCAPES)) == {"street_1", "x_2"}
    found = cityscapes_labels(tmp_path / "city", CITYSCAPES, with_city=True)
    back = LabelStore(tmp_path / "back city", CITYSCAPES)
    assert import_labels(back, found) == [ID, "bonn/x_2"] and torch.equal(back.load("bonn/x_2"), B)


def test_cocos_json_has_areas_and_boxes_as_a_slow_count_gives(store, tmp_path):
    content = json.loads(export_coco(store, tmp_path / "x.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(CITYSCAPES.classes)
    assert content["images"] == [{"id": 1, "file_name": f"{ID}.png", "height": 24, "width": 40}]
    for annotation in content["annotations"]:
        mask = (A == annotation["category_id"] - 1).numpy()
        ys, xs = np.nonzero(mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    assert len(content["annotations"]) == len(set(A.unique().tolist()) - {IGNORE})


def test_colours_and_polygons_of_other_programs_are_read(store, tmp_path):
    rgba = np.concatenate([CITYSCAPES.colorize(A), np.full((24, 40, 1), 255, np.uint8)], 2)
    rgba[:3] = (9, 9, 9, 0)  # transparent: nothing is said
    (tmp_path / "c").mkdir()
    Image.fromarray(rgba).save(tmp_path / "c" / "a.png")
    Image.fromarray(CITYSCAPES.colorize(A)).quantize(256).save(tmp_path / "c" / "b.png")
    found = coloured_labels(tmp_path / "c", CITYSCAPES)
    expected = A.clone()
    expected[:3] = IGNORE
    assert np.array_equal(found["a"](), expected.numpy()) and np.array_equal(found["b"](), A.numpy())
    content = {"images": [{"id": "i", "file_name": "s/x.JPG", "height": 24, "width": 40}], "categories": [{"id": 9, "name": "car"}],
               "annotations": [{"image_id": "i", "category_id": 9, "segmentation": [[2, 3, 10, 3, 10, 8, 2, 8]]}]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    label = coco_labels(tmp_path / "x.json", CITYSCAPES)["s/x"]()
    assert (label[3:8, 2:10] == CITYSCAPES.index("car")).all() and (label != IGNORE).sum() == 40


def test_overlaps_are_refused_or_the_last_lies_on_top(tmp_path):
    boxes = [[0, 0, 6, 0, 6, 6, 0, 6], [3, 3, 9, 3, 9, 9, 3, 9]]
    content = {"images": [{"id": 1, "file_name": "x", "height": 10, "width": 10}],
               "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
               "annotations": [{"image_id": 1, "category_id": k + 1, "segmentation": [box]} for k, box in enumerate(boxes)]}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(LabelError, match="annotation 1: found pixels that an earlier annotation gives another class"):
        coco_labels(tmp_path / "x.json", CITYSCAPES)["x"]()
    label = coco_labels(tmp_path / "x.json", CITYSCAPES, overlap="last")["x"]()
    assert (label[3:6, 3:6] == CITYSCAPES.index("bus")).all()
    with pytest.raises(ConfigError, match="overlap: found 'first'"):
        coco_labels(tmp_path / "x.json", CITYSCAPES, overlap="first")


def test_an_import_is_refused_whole(store, tmp_path):
    "One bad label of three: nothing is saved."
    for name, labels in (("a", A), ("b", B), ("c", C[:5])):
        store.save(name, labels)
    export_coco(store, tmp_path / "x.json", ids=["a", "b", "c"])
    back = LabelStore(tmp_path / "back", CITYSCAPES)
    found = coco_labels(tmp_path / "x.json", CITYSCAPES)
    with pytest.raises(LabelError, match=r"label of 'c': found shape \(5, 40\), expected \(24, 40\)"):
        import_labels(back, found, sizes={id: (24, 40) for id in "abc"})
    with pytest.raises(LabelError, match="found a label of 'b' and 1 more, expected ids of the 1 images"):
        import_labels(back, found, sizes={"a": (24, 40)})
    assert back.ids() == []
    with pytest.raises(LabelError, match="found class '.* expected classes of camvid"):
        coco_labels(tmp_path / "x.json", CAMVID)


def test_what_has_no_unambiguous_way_out_is_refused(store, tmp_path):
    store.save("a/b/c", A)
    with pytest.raises(StoreError, match="found 'a/b/c'.*expected 'name' or 'city/name'"):
        export_cityscapes(store, tmp_path / "x")
    store.save("aachen/aachen_1", A)
    store.save("aachen_1", A)
    with pytest.raises(StoreError, match="each name once"):
        export_cityscapes(store, tmp_path / "x", ids=["aachen/aachen_1", "aachen_1"])
    twice = LabelStore(tmp_path / "twice", LabelSpace("twice", ("a", "b"), ((1, 2, 3), (1, 2, 3))))
    twice.save("x", torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(LabelError, match="a colour twice"):
        export_coloured(twice, tmp_path / "y")
    for read in (cityscapes_labels, coloured_labels):
        with pytest.raises(StoreError, match="expected labels to import"):
            read(tmp_path / "nowhere", CITYSCAPES)
    with pytest.raises(DataError, match="x.json: found No such file"):
        coco_labels(tmp_path / "x.json", CITYSCAPES)


WORDS = [b"-1", b"1e999", b"null", b"[]", b"{}", b'"', b"99999999999999999999", b"\xff\x00", b"true", b"[" * 2000]


def damaged(data, chance):
    "Bytes changed, cut, doubled or swapped."
    data = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data) or 1)
        kind = chance.randrange(4)
        if kind == 0 and data:
            data[place % len(data)] = chance.randrange(256)
        elif kind == 1:
            del data[place:place + chance.randint(1, 40)]
        elif kind == 2:
            data[place:place] = data[place:place + chance.randint(1, 40)]
        else:
            data[place:place] = chance.choice(WORDS)
    return bytes(data)


STRANGE = [None, True, -1, 0, 2**70, 1.5, float("nan"), "", "x", "../../x", "\0", "o" * 40, [], [[]], {}, [1, 2, 3],
           [[1, 2]], {"size": [1, 1]}, "ä"]


def twisted(value, chance):
    "A copy of a JSON value with one part replaced."
    if isinstance(value, (dict, list)) and value and chance.random() < 0.85:
        value = dict(value) if isinstance(value, dict) else list(value)
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        if chance.random() < 0.1:
            del value[key]
        else:
            value[key] = twisted(value[key], chance)
        return value
    return chance.choice(STRANGE)


def test_a_thousand_damaged_imports_raise_typed_errors_only(store, tmp_path):
    chance = random.Random(3)
    export_coco(store, tmp_path / "x.json", packed=False)
    packed = export_coco(store, tmp_path / "y.json").read_bytes()
    lists = (tmp_path / "x.json").read_bytes()
    coloured = export_coloured(store, tmp_path / "c", ids=[ID])[0].read_bytes()
    grey = export_cityscapes(store, tmp_path / "g", ids=[ID])[0].read_bytes()
    (tmp_path / "c" / "f").mkdir()
    city = tmp_path / "h" / "gtFine" / "train" / "aachen"
    city.mkdir(parents=True)
    outcomes, started = {"same": 0, "refused": 0, "other": 0}, time.monotonic()
    back = LabelStore(tmp_path / "back", CITYSCAPES)
    for k in range(1000):
        kind = k % 4
        if kind < 2:
            source = chance.choice([packed, lists])
            data = damaged(source, chance) if chance.random() < 0.4 else json.dumps(twisted(json.loads(source), chance)).encode()
            (tmp_path / "z.json").write_bytes(data)
            read = lambda: coco_labels(tmp_path / "z.json", CITYSCAPES)  # noqa: E731
        elif kind == 2:
            (tmp_path / "c" / "f" / "z.png").write_bytes(damaged(coloured, chance))
            read = lambda: coloured_labels(tmp_path / "c" / "f", CITYSCAPES)  # noqa: E731
        else:
            (city / "z_gtFine_labelTrainIds.png").write_bytes(damaged(grey, chance))
            read = lambda: cityscapes_labels(tmp_path / "h", CITYSCAPES)  # noqa: E731
        try:
            labels = [function() for function in read().values()]
            outcomes["same" if len(labels) == 1 and np.array_equal(labels[0], A.numpy()) else "other"] += 1
            if k % 50 == 0:
                import_labels(back, read())
        except StalError as error:
            assert len(str(error)) < 1000
            outcomes["refused"] += 1
    assert outcomes["refused"] > 600, outcomes
    assert not [f for f in (tmp_path.parent, tmp_path, tmp_path.parent.parent) if (f / "x.png").exists()]  # nothing outside the store
    assert time.monotonic() - started < 60
