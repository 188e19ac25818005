"""A label that was acknowledged is there, whole, with its provenance; what cannot be stored is refused in words, and changes nothing."""
import io
import json
import os
import pickle
import random
import resource
import stat
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from figures.crashes import WRITERS, crash_instants, failing_disk, found, save_instants, watching
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE
from stal_nb.runtime import files as files_module
from stal_nb.runtime.errors import ConfigError, LabelError, StalError, StoreError
from stal_nb.runtime.files import (
    append_line,
    atomic_write_bytes,
    atomic_write_json,
    id_of_name,
    name_of_id,
    read_log,
    remove_leftovers,
    temporary_name,
)
from stal_nb.store import LabelStore, decode_label, encode_label


def random_labels(seed, size=(24, 40)):
    "A partial label: all 19 classes, and unlabelled pixels."
    labels = torch.randint(0, 20, size, generator=torch.Generator().manual_seed(seed))
    return labels.where(labels < 19, IGNORE)


OLD, NEW = random_labels(1), random_labels(2)


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


@pytest.fixture
def store(tmp_path):
    store = LabelStore(tmp_path / "labels", CITYSCAPES)
    store.save("street", OLD, annotator="Ada", seconds=7)
    return store


# -- saving and loading ------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(store):
    record = store.save("aachen/img_01", NEW, annotator="Lin", seconds=12.5, round=3)
    found = store.load("aachen/img_01")
    assert torch.equal(found, NEW) and found.dtype == torch.int64
    assert store.has("aachen/img_01") and not store.has("aachen/img_02") and not store.has("street/x")
    assert store.ids() == ["aachen/img_01", "street"] and store.provenance("aachen/img_01") == [record]
    when = datetime.fromisoformat(record.pop("when"))
    assert when.utcoffset() == timedelta(0) and abs(when.timestamp() - time.time()) < 60
    assert record == {"id": "aachen/img_01", "version": 1, "annotator": "Lin", "seconds": 12.5, "size": [24, 40], "round": 3,
                      "labelled": round((NEW != IGNORE).double().mean().item(), 4)}


@pytest.mark.parametrize("change", [
    lambda x: x.to(torch.uint8), lambda x: x.int(), lambda x: x.numpy(), lambda x: x.numpy().astype(np.uint16),
    lambda x: x.t().contiguous().t(), lambda x: np.asfortranarray(x.numpy()), lambda x: x.tolist()])
def test_integers_of_any_kind_are_labels(store, change):
    store.save("street", change(NEW))
    assert torch.equal(store.load("street"), NEW)


def test_a_label_may_be_partial_or_empty_or_one_pixel(store):
    for labels in (torch.full((3, 5), IGNORE), torch.tensor([[18]])):
        store.save("x", labels)
        assert torch.equal(store.load("x"), labels)


def test_files_are_readable_without_the_package(store):
    "Grey values are ids, the log is JSON lines, and the record is in the picture as well."
    image = Image.open(store.root / "street.png")
    assert image.mode == "L" and np.array_equal(np.array(image), OLD.numpy())
    lines = (store.root / "provenance.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == store.provenance("street") == [json.loads(image.info["provenance"])]
    space = json.loads((store.root / "label_space.json").read_text())
    assert tuple(space["classes"]) == CITYSCAPES.classes and space["name"] == "cityscapes"


def test_opening_and_asking_make_no_files(tmp_path):
    store = LabelStore(tmp_path / "labels", CITYSCAPES)
    assert store.ids() == [] and not store.has("x") and store.provenance("x") == [] and store.history() == []
    assert not (tmp_path / "labels").exists()


def test_another_process_sees_what_was_saved_at_once(store):
    "Nothing is remembered in memory: a second store on the same folder agrees, and a copy sent to a loader's process works."
    second = pickle.loads(pickle.dumps(store))
    store.save("later", NEW)
    assert second.has("later") and second.ids() == ["later", "street"] and torch.equal(second.load("later"), NEW)


def test_ids_are_what_a_slow_search_finds(store):
    for id in ("b/2", "b/10", "a", "b/c/d", "ä/ö", "5%", "B"):
        store.save(id, NEW)
    (store.root / "thumbs.db").write_text("foreign")
    (store.root / "CON.png").write_text("foreign")  # no id has this name
    slow = sorted(id for id in (id_of_name(str(f.relative_to(store.root))) for f in store.root.rglob("*.png")) if id)
    assert store.ids() == slow == sorted(["street", "b/2", "b/10", "a", "b/c/d", "ä/ö", "5%", "B"])


def test_asking_for_a_label_lists_no_folder(store, monkeypatch):
    def listing(*_):
        raise AssertionError("a folder was listed")

    for name in ("listdir", "scandir", "walk"):
        monkeypatch.setattr(os, name, listing)
    assert store.has("street") and not store.has("other") and torch.equal(store.load("street"), OLD)


# -- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels, words", [
    (OLD.float(), "found type torch.float32, expected integers"), (OLD == 3, "found type torch.bool"), (OLD.bfloat16(), "bfloat16"),
    (OLD.numpy() / 1, "found type float64"), (OLD[None], r"found shape \(1, 24, 40\), expected \(24, 40\)"), (OLD[:0], "found shape"),
    (OLD * 0 + 19, "found class id 19, expected 0 to 18"), (OLD * 0 - 1, "found class id -1"), (OLD * 0 + 256, "found class id 256"),
    (np.full((24, 40), 2**63, np.uint64), "found class id"), (np.array([["a"]]), "found type <U1"),
    (OLD[:5], r"found shape \(5, 40\), expected \(24, 40\)")])
def test_a_wrong_label_is_refused_and_changes_nothing(store, labels, words):
    before = contents(store.root)
    with pytest.raises(LabelError, match=f"label of 'street': .*{words}"):
        store.save("street", labels, size=(24, 40))
    assert contents(store.root) == before


def test_without_a_size_any_height_and_width_will_do(store):
    store.save("street", NEW[:5])
    with pytest.raises(LabelError, match=r"found shape \(40,\), expected \(H, W\)"):
        store.save("street", NEW[0])


def test_a_label_too_large_to_be_read_again_is_refused(store):
    with pytest.raises(LabelError, match="1 to 80,000,000 pixels"):
        store.save("x", torch.zeros(1, 1, dtype=torch.uint8).expand(10_000, 10_000))


@pytest.mark.parametrize("arguments, words", [
    (dict(seconds=-1), "seconds: found -1"), (dict(seconds=float("nan")), "seconds: found nan"),
    (dict(seconds="long"), "seconds: found 'long'"),
    (dict(annotator=None), "annotator: found None"), (dict(version=3), "found version, expected other names"),
    (dict(when="now"), "found when"), (dict(score=float("inf")), "JSON does not have"), (dict(tool=object()), "object is not JSON"),
    (dict(note="\ud800"), "JSON does not have")])
def test_wrong_provenance_is_refused_and_changes_nothing(store, arguments, words):
    before = contents(store.root)
    with pytest.raises(ConfigError, match=words):
        store.save("street", NEW, **arguments)
    assert contents(store.root) == before


def test_numbers_of_numpy_and_torch_are_recorded_as_numbers(store):
    record = store.save("x", NEW, seconds=np.float32(2), round=np.int64(4), score=torch.tensor(0.5), boxes=[[1, 2]], note="größer")
    assert (record["seconds"], record["round"], record["score"], record["boxes"], record["note"]) == (2, 4, 0.5, [[1, 2]], "größer")
    assert store.provenance("x") == [record] and "größer" in store.log_file.read_text(encoding="utf-8")


BAD_IDS = ["", ".", "..", "../x", "a/../x", "a/..", "/x", "//x", "x/", "a//b", "./x", "\\x", "..\\x", "a\\..\\x", "C:\\x", "c:x",
           "a\0b", "a\nb", "\x7f", "CON", "con", "nul.txt", "a/COM1", "lpt9.png", "aux.", "x.", "x ", "a./b", "a /b", "x" * 252, "ä" * 126,
           "/".join(["x" * 100] * 11), "\ud800", None, 3, b"x", Path("x")]


@pytest.mark.parametrize("id", BAD_IDS, ids=lambda id: repr(id)[:20])
def test_an_unsafe_id_is_refused_everywhere(store, tmp_path, id):
    before = contents(tmp_path)
    for call in (lambda: store.save(id, NEW), lambda: store.has(id), lambda: store.load(id), lambda: store.provenance(id)):
        with pytest.raises(StoreError, match="image id: found .*, expected") as caught:
            call()
        assert len(str(caught.value)) < 400
    assert contents(tmp_path) == before


@pytest.mark.parametrize("id", [
    "0001TP_006690", "aachen/aachen_000000_000019", "a b", "7:45", "50%", "%41", "a%2Fb", "what?*|<>\"", "back\\slash", ".hidden", "..a",
    "a..b", "x.png", "x.png/y", "x.PNG/y", "provenance.jsonl/x", "label_space.json/x", "straße/日本", "console", "x" * 251, "com10",
    ".x.0123abcd-1-0123abcd.tmp"])
def test_a_safe_id_comes_back(store, id):
    store.save(id, NEW)
    assert store.ids() == sorted(["street", id]) and store.has(id) and torch.equal(store.load(id), NEW)
    name = name_of_id(id)
    assert id_of_name(name) == id and len(name.split("/")) == len(id.split("/"))
    assert not set(name) & set('<>:"|?*\\') and not any(part.startswith(".") for part in name.split("/"))


def test_plain_ids_are_their_own_names():
    for id in ("0001TP_006690", "aachen/aachen_000000_000019", "lot 3/größe-1.2"):
        assert name_of_id(id) == f"{id}.png"


def test_no_two_ids_share_a_name():
    chance, names = random.Random(5), {}
    for _ in range(30_000):
        pieces = ["a", "A", ".", "%", "/", "2", "E", "F", "\\", ":", " ", ".png", "ä", "%2E", "tmp"]
        id = "".join(chance.choices(pieces, k=chance.randint(1, 7)))
        try:
            names[id] = name_of_id(id)
        except StoreError:
            continue
        assert id_of_name(names[id]) == id
    assert len(names) > 5000 and len(set(names.values())) == len(names)


def test_ids_that_only_their_case_tells_apart_do_not_overwrite_each_other(store):
    "On a disk that takes `Street` and `street` for one name: played by a copy."
    (store.root / "Street.png").write_bytes((store.root / "street.png").read_bytes())
    for call in (lambda: store.load("Street"), lambda: store.save("Street", NEW)):
        with pytest.raises(StoreError, match="found the label of 'street', expected that of 'Street'"):
            call()
    assert torch.equal(store.load("street"), OLD)


def test_a_store_of_other_classes_is_not_opened(store):
    with pytest.raises(LabelError, match=r"label_space.json: found labels of cityscapes \(19 classes\), expected camvid"):
        LabelStore(store.root, CAMVID)
    store.label_space_file.write_text('{"name": "city')
    with pytest.raises(StoreError, match="label_space.json: found a damaged file"):
        LabelStore(store.root, CITYSCAPES)


# -- damage ------------------------------------------------------------------------------------------------------------------


def png(array, mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, "PNG", **options)
    return buffer.getvalue()


GREY = np.arange(16, dtype=np.uint8).reshape(4, 4)


def four_bits():
    "A grey PNG of 4 bits, as an optimiser of pictures makes it: Pillow multiplies such values by 17."
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes([row[0] << 4 | row[1], row[2] << 4 | row[3]]) for row in GREY.tolist())
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 4, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data, error, words", [
    (b"", StoreError, "damaged file of 0 bytes"), (b"not a picture", StoreError, "damaged"), (png(GREY)[:60], StoreError, "damaged"),
    (png(GREY)[:-12], StoreError, "damaged"), (png(GREY, "RGB"), LabelError, "8 bits and colour type 2"),
    (png(GREY, "P"), LabelError, "colour type 3"), (png(GREY, "LA"), LabelError, "colour type 4"),
    (png(GREY.astype(np.uint16)), LabelError, "found a PNG of 16 bits"), (four_bits(), LabelError, "of 4 bits"),
    (png(GREY > 3), LabelError, "of 1 bits"), (png(GREY + 10), LabelError, "found class id 19, 20")])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_damaged_or_foreign_file_is_named_and_never_guessed_at(store, monkeypatch, data, error, words, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    (store.root / "street.png").write_bytes(data)
    with pytest.raises(error, match=f"street.png: .*{words}"):
        store.load("street")
    store.save("street", NEW)  # it can be replaced, and its past is kept
    assert torch.equal(store.load("street"), NEW) and [r["version"] for r in store.provenance("street")] == [1, 2]


def test_no_flipped_bit_gives_another_label():
    data, wrong = encode_label(OLD.to(torch.uint8).numpy(), '{"version": 1}'), 0
    for place in range(len(data)):
        for bit in (1, 0x20, 0x80):
            try:
                labels, _ = decode_label(data[:place] + bytes([data[place] ^ bit]) + data[place + 1:], CITYSCAPES, "x.png")
            except (StoreError, LabelError):
                continue
            wrong += not torch.equal(labels, OLD)
    assert not wrong


def test_a_missing_label_is_named(store):
    with pytest.raises(StoreError, match="b.png: found no label of 'a/b', expected one saved before"):
        store.load("a/b")


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(store, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", str(store.root))

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "stat", refused)
        with pytest.raises(StoreError, match="street.png: found 'Permission denied'"):
            store.has("street")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        with pytest.raises(StoreError, match="labels: found 'Permission denied'"):
            store.ids()


def test_a_file_in_the_place_of_the_folder_is_a_typed_error(tmp_path):
    (tmp_path / "labels").write_text("a file")
    with pytest.raises(StoreError, match="labels"):
        LabelStore(tmp_path / "labels", CITYSCAPES)


# -- provenance --------------------------------------------------------------------------------------------------------------


def test_a_torn_line_swallows_neither_its_neighbours_nor_the_next(store):
    for torn in (b'{"id": "street", "version": 1, "when": "20', b'{"note": "\xc3', b"\0\0\0\0\0", b"[1, 2]", b"{}"):
        with store.log_file.open("ab") as file:
            file.write(torn)
        before = store.provenance("street")
        store.save("street", NEW, annotator="Lin")
        assert store.provenance("street")[:-1] == before
    assert [r["version"] for r in store.provenance("street")] == [1, 2, 3, 4, 5, 6]


def test_a_log_whose_last_line_lacks_its_end_loses_nothing(tmp_path):
    "Somebody edited it."
    log = tmp_path / "log.jsonl"
    log.write_text('{"version": 1}\n{"version": 2}')
    append_line(log, '{"version": 3}')
    assert [r["version"] for r in read_log(log)] == [1, 2, 3] and log.read_bytes().endswith(b"}\n")


def test_a_record_whose_label_never_came_is_not_told(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        for id in ("street", "new"):
            with pytest.raises(StoreError, match="Input/output error"):
                store.save(id, NEW, annotator="interrupted")
    assert len(read_log(store.log_file)) == 3 and not store.has("new") and store.ids() == ["street"]
    assert [r["annotator"] for r in store.provenance("street")] == ["Ada"] and store.provenance("new") == []
    for id in ("street", "new"):
        store.save(id, NEW, annotator="again")
    assert [r["annotator"] for r in store.provenance("street")] == ["Ada", "again"]
    assert [r["annotator"] for r in store.provenance("new")] == ["again"]
    assert [(r["id"], r["annotator"]) for r in store.history()] == [("street", "Ada"), ("street", "again"), ("new", "again")]


def test_provenance_survives_the_loss_of_the_log_or_of_the_text_in_the_picture(store):
    store.save("street", NEW, annotator="Lin", seconds=3)
    both = store.provenance("street")
    log = store.log_file.read_bytes()
    store.log_file.unlink()
    assert store.provenance("street") == both[1:]
    store.log_file.write_bytes(log)
    (store.root / "street.png").write_bytes(png(NEW.to(torch.uint8).numpy()))  # saved by an image program
    assert store.provenance("street") == both
    assert store.save("street", OLD)["version"] == 3


def test_a_log_that_cannot_be_read_is_named(store):
    store.log_file.unlink()
    store.log_file.mkdir()
    with pytest.raises(StoreError, match="provenance.jsonl: found 'Is a directory'"):
        store.provenance("street")
    with pytest.raises(StoreError, match="provenance.jsonl: found 'Is a directory'"):
        store.save("street", NEW)
    assert torch.equal(store.load("street"), OLD)


# -- crashes -----------------------------------------------------------------------------------------------------------------


def test_at_every_instant_of_a_save_the_label_is_the_old_or_the_new_one(tmp_path):
    rows = save_instants(OLD, NEW, CITYSCAPES)
    steps = [r["last step"] for r in rows]
    assert steps == ["before", "label: opened", "label: half written", "label: written", "label: flushed", "log: opened",
                     "log: half written", "log: written", "log: flushed", "folder: flushed", "label: renamed", "folder: flushed",
                     "save has returned"]  # the first flush of the folder: .versions
    for row in rows:
        assert (row["after a kill"], row["records"]) in {("old", "1"), ("new", "1, 2")}
        assert row["after power failure"] in ("old", "new", "old or new")
    assert rows[-1]["after power failure"] == "new" and rows[-1]["temporary files"] == 0


def test_the_first_label_of_a_store_is_durable_too(tmp_path):
    "The names of a new log and a new picture are on the disk when `save` returns."
    with watching(tmp_path) as disk:
        LabelStore(tmp_path, CITYSCAPES).save("street", NEW)
    disk.note("returned")
    (surely,) = disk.instants[-1].power_lost
    assert set(surely) == {"label_space.json", "provenance.jsonl", "street.png"} and surely == disk.instants[-1].killed


def test_new_folders_are_flushed_into_their_parents(tmp_path, monkeypatch):
    flushed, sync = [], files_module.sync_folder
    monkeypatch.setattr(files_module, "sync_folder", lambda folder: (flushed.append(folder), sync(folder)))
    atomic_write_bytes(tmp_path / "a" / "b" / "x", b"1")
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_each_of_the_four_steps_is_needed():
    outcome = {name: crash_instants(writer, b"old" * 9, b"new" * 9) for name, writer in WRITERS.items()}

    def words(instants, kill):
        return {found(d, b"old" * 9, b"new" * 9) for i in instants for d in ((i.killed,) if kill else i.power_lost)}

    assert "half" in words(outcome["open and write"], True) and "empty" in words(outcome["open, write, flush"], True)
    assert words(outcome["rename"], True) == {"old", "new"} and "empty" in words(outcome["rename"], False)
    assert {found(d, b"old" * 9, b"new" * 9) for d in outcome["flush, rename"][-1].power_lost} == {"old", "new"}
    assert words(outcome["atomic_write_bytes"], False) == {"old", "new"}
    assert [found(d, b"old" * 9, b"new" * 9) for d in outcome["atomic_write_bytes"][-1].power_lost] == ["new"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    mine = temporary_name(tmp_path / "a" / "x.png")
    mine.parent.mkdir()
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{child.pid}-"))
    elsewhere = dead.with_name(dead.name.replace(f"{files_module._machine()}-", "00000000-"))
    old, foreign = temporary_name(tmp_path / "y"), tmp_path / ".editor.tmp"
    for file in (mine, dead, elsewhere, old, foreign):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(foreign, (time.time() - 7200,) * 2)
    store = LabelStore(tmp_path, CITYSCAPES)
    assert {f for f in tmp_path.rglob(".*")} == {mine, elsewhere, foreign} and store.ids() == []
    assert set(remove_leftovers(tmp_path, older_than=-1)) == {mine, elsewhere}
    assert foreign.exists() and remove_leftovers(tmp_path / "nowhere") == []


# -- a disk that fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [dict(room=0), dict(room=100), dict(error="EROFS"), dict(error="EACCES"), dict(room=10, only=".jsonl"),
                                     dict(only=".jsonl", error="EROFS"), dict(room=5, error="EDQUOT", only=".tmp")])
def test_a_full_or_read_only_disk_keeps_the_old_label(store, failure):
    with failing_disk(**failure), pytest.raises(StoreError, match=r"labels/\S+: found '.*', expected .*before is intact"):
        store.save("street", NEW, annotator="Lin")
    assert torch.equal(store.load("street"), OLD) and [r["annotator"] for r in store.provenance("street")] == ["Ada"]
    assert {f.name for f in store.root.rglob("*") if f.is_file()} == {"street.png", "provenance.jsonl", "label_space.json", ".lock"}
    store.save("street", NEW, annotator="Lin")  # once there is room again
    assert torch.equal(store.load("street"), NEW) and [r["version"] for r in store.provenance("street")] == [1, 2]


@pytest.mark.parametrize("name", ["fsync", "replace", "open"])
def test_whichever_call_fails_the_old_file_is_intact(tmp_path, monkeypatch, name):
    file = tmp_path / "x.bin"
    atomic_write_bytes(file, b"old")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fails)
        with pytest.raises(StoreError, match="x.bin: found 'No space left on device', expected to be able to write 3 bytes"):
            atomic_write_bytes(file, b"new")
    assert file.read_bytes() in ((b"old",) if name != "open" else (b"old", b"new"))  # open: of the folder, after the rename
    assert [f.name for f in tmp_path.iterdir()] == ["x.bin"]


def test_the_operating_systems_own_limit_is_a_typed_error(store):
    "No imitation: the kernel refuses files of more than 200 bytes."
    before = contents(store.root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(StoreError, match="street.png: found 'File too large'"):
            store.save("street", NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(store.root) == before


def test_an_interrupt_leaves_nothing_about(store, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save("street", NEW)
    assert torch.equal(store.load("street"), OLD) and not list(store.root.rglob("*.tmp"))


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "x" / "inside").mkdir(parents=True)
    with pytest.raises(StoreError, match="x: found '"):
        atomic_write_bytes(tmp_path / "x", b"1")
    (tmp_path / "y").write_text("a file")
    with pytest.raises(StoreError, match="z: found '"):
        atomic_write_bytes(tmp_path / "y" / "z", b"1")
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["inside", "x", "y"]


def test_file_systems_that_cannot_flush_folders_are_used_all_the_same(tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def picky(handle):
        calls.append(handle)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    atomic_write_bytes(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1" and len(calls) == 2


def test_files_get_the_permissions_that_the_user_asks_for(tmp_path):
    mask = os.umask(0o027)
    try:
        atomic_write_bytes(tmp_path / "x", b"1")
    finally:
        os.umask(mask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("value", [{"miou": float("nan")}, [float("inf")], {1, 2}, {"a": object()}, {(1, 2): 3}, "\ud800"])
def test_what_json_does_not_have_is_refused_before_the_old_file_is_touched(tmp_path, value):
    file = tmp_path / "metrics.json"
    atomic_write_json(file, {"miou": 61.2, "names": ("road", "größer")})
    before = file.read_bytes()
    assert json.loads(before) == {"miou": 61.2, "names": ["road", "größer"]}
    with pytest.raises(StoreError, match="metrics.json: found a value that JSON does not have"):
        atomic_write_json(file, value)
    assert file.read_bytes() == before


def test_every_error_of_the_store_is_caught_as_one(store):
    for call in (lambda: store.load("x"), lambda: store.save("..", NEW), lambda: store.save("x", OLD + 7.5),
                 lambda: store.save("x", OLD, seconds=-1)):
        with pytest.raises(StalError):
            call()
