"""The paper's data sets: their formats exactly, everything that can be wrong with a file, split lists, one size, and the check before a run."""
import io
import os
import pickle
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import stal_nb.runtime.images
from stal_nb.data import (
    ImageFolder,
    Pool,
    RelabelledDataset,
    Resized,
    count_classes,
    read_labels,
    read_split,
    reader_of,
    resize_labels,
    write_sample,
)
from stal_nb.inspection import check_dataset, inspect_image
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE, SYNTHIA, Sample, remap
from stal_nb.readers import GTA5, SYNTHIA_ID_OF_CLASS, CamVid, Cityscapes, Synthia, label_id_table, synthia_id_table
from stal_nb.runtime.errors import ConfigError, DataError, LabelError
from stal_nb.runtime.images import image_size, read_image
from stal_nb.scenes import SceneDataset
from trees import cityscapes_tree, gta5_tree, synthia_tree

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, interlaced=0, compressed=False):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", rows if compressed else zlib.compress(rows)) + chunk(b"IEND", b"")


def deep(channels, filters=(0, 1, 2, 3, 4)):
    "A PNG of (H, W, 3) 16-bit numbers, its rows filtered in turn by each of the five ways, byte by byte as the standard says."
    raw = np.ascontiguousarray(np.asarray(channels).astype(">u2")).view(np.uint8).reshape(len(channels), -1).astype(int)
    rows = bytearray()
    for y, row in enumerate(raw):
        kind = filters[y % len(filters)]
        rows.append(kind)
        for x, value in enumerate(row):
            left, up, corner = (row[x - 6] if x > 5 else 0), (raw[y - 1][x] if y else 0), (raw[y - 1][x - 6] if y and x > 5 else 0)
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda v: abs(guess - v))
            rows.append((value - (0, left, up, (left + up) // 2, paeth)[kind]) % 256)
    return png(len(channels[0]), len(channels), 16, 2, bytes(rows))


def same(data, scenes, mapping=None):
    "Every sample is the scene it was written from: labels exactly, colours to half a step of 8 bits."
    assert len(data) == len(scenes)
    for sample, scene in zip(data, scenes):
        assert torch.equal(sample.labels, scene.labels if mapping is None else remap(scene.labels, mapping))
        assert sample.labels.dtype == torch.int64 and sample.image.dtype == torch.float32
        assert (sample.image - scene.image).abs().max() <= 0.5 / 255 + 1e-6


# -- GTA5 --------------------------------------------------------------------------------------------------------------


def test_gta5_comes_back_as_it_was_written(tmp_path):
    scenes = gta5_tree(tmp_path, 4, odd=0)
    data = GTA5(tmp_path)
    assert (data.label_space, data.has_labels) == (CITYSCAPES, True)
    assert data.ids == ["00001", "00002", "00003", "00004"] and data.groups == [""] * 4
    same(data, scenes)
    assert pickle.loads(pickle.dumps(data)).ids == data.ids


def test_gta5_labels_on_disk_are_palette_pngs_of_label_ids(tmp_path):
    scene = gta5_tree(tmp_path, 1, odd=0)[0]
    data = (tmp_path / "labels/00001.png").read_bytes()
    assert data[:8] == SIGNATURE and data[24:26] == b"\x08\x03"  # 8 bits, palette
    with Image.open(io.BytesIO(data)) as label:
        ids = np.array(label)
    by_hand = dict(zip(range(19), (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33))) | {255: 0}
    assert ids.tolist() == [[by_hand[c] for c in row] for row in scene.labels.tolist()]


@pytest.mark.slow
def test_a_gta5_label_of_another_size_is_resized_without_inventing_a_class(tmp_path):
    scenes = gta5_tree(tmp_path, 3, size=(48, 80), odd=1)
    data, stored = GTA5(tmp_path), read_labels(tmp_path / "labels/00001.png", CITYSCAPES, label_id_table())
    assert stored.shape == (36, 60) and data[0].labels.shape == data.load_labels(0).shape == (48, 80)
    for i in range(48):
        for j in range(80):
            assert data[0].labels[i, j] == stored[int((i + Fraction(1, 2)) * 36 / 48), int((j + Fraction(1, 2)) * 60 / 80)]
    assert torch.equal(data[1].labels, scenes[1].labels)
    assert check_dataset(data, bar=False).resized == [str(tmp_path / "labels/00001.png")]


@pytest.mark.parametrize("id, meant", [(0, IGNORE), (6, IGNORE), (7, 0), (33, 18), (34, IGNORE), (255, IGNORE), (35, None), (200, None)])
def test_ids_of_gta5_and_cityscapes(tmp_path, id, meant):
    gta5_tree(tmp_path, 1, size=(16, 16), odd=0)
    Image.fromarray(np.full((16, 16), id, np.uint8)).save(tmp_path / "labels/00001.png")
    if meant is None:
        with pytest.raises(LabelError, match=rf"00001.png: found class id {id}, expected 0 to 34 or 255 \(19 of them are classes of cityscapes\)"):
            GTA5(tmp_path)[0]
    else:
        assert GTA5(tmp_path)[0].labels.unique().tolist() == [meant]


# -- SYNTHIA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["GT/LABELS", "LABELS"])
def test_synthia_comes_back_under_both_folder_names(tmp_path, folder):
    scenes = synthia_tree(tmp_path, 3, folder=folder)
    data = Synthia(tmp_path)
    assert data.label_space is SYNTHIA and data.ids == ["0000000", "0000001", "0000002"]
    same(data, scenes, CITYSCAPES.mapping_to(SYNTHIA))
    same(RelabelledDataset(data, CITYSCAPES), scenes)  # the scenes were drawn without the three classes that SYNTHIA lacks


def test_synthia_labels_on_disk_have_three_channels_of_16_bits(tmp_path):
    scene = synthia_tree(tmp_path, 1, size=(16, 32))[0]
    data = (tmp_path / "GT/LABELS/0000000.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (32, 16) and data[24:26] == b"\x10\x02"
    rows = np.frombuffer(zlib.decompress(data[41:-16]), np.uint8).reshape(16, -1)  # after IHDR and the head of IDAT
    assert set(rows[:, 0]) == {2}  # each row as its difference from the one above
    first = np.cumsum(rows[:, 1:], 0, dtype=np.uint8).view(">u2").reshape(16, 32, 3)[..., 0]
    assert first.tolist() == [[SYNTHIA_ID_OF_CLASS[CITYSCAPES.classes[c]] if c != IGNORE else 0 for c in row] for row in scene.labels.tolist()]


def test_synthia_ids_mean_the_same_class_as_cityscapes_train_ids():
    "The table of the literature, id in the file -> Cityscapes' train id, against the one made from names."
    literature = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15, 12: 17, 11: 18}
    to_cityscapes = SYNTHIA.mapping_to(CITYSCAPES)
    for id in range(256):
        position = int(synthia_id_table()[id])
        if id in literature:
            assert int(to_cityscapes[position]) == literature[id]
        else:
            assert position == (IGNORE if id < 23 or id == 255 else -1)


@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("decoder", ["torchvision", "pillow"])
def test_all_16_bits_are_kept_whatever_the_filter_and_the_decoder(tmp_path, monkeypatch, filters, decoder):
    if decoder == "pillow":
        monkeypatch.setattr(stal_nb.runtime.images, "torchvision_decoder", lambda: None)
    channels = np.random.default_rng(0).integers(0, 65536, (7, 9, 3), dtype=np.uint16)
    channels[..., 1] %= 23
    (tmp_path / "l.png").write_bytes(deep(channels, filters))
    assert read_labels(tmp_path / "l.png", SYNTHIA, torch.arange(256) % 16, channel=1).tolist() == (channels[..., 1] % 16).tolist()
    with pytest.raises(LabelError, match="l.png: found class id") as error:
        read_labels(tmp_path / "l.png", SYNTHIA, synthia_id_table(), channel=0)
    unknown = sorted(v for v in set(channels[..., 0].flatten().tolist()) if v > 22)
    assert ", ".join(map(str, unknown[:5])) in str(error.value)


@pytest.mark.parametrize("id", [23, 254, 256, 259, 65535])
def test_ids_above_those_of_synthia_are_refused_also_where_their_lower_byte_would_do(tmp_path, id):
    synthia_tree(tmp_path, 1, size=(16, 16))
    channels = np.zeros((16, 16, 3), np.uint16)
    channels[3, 4, 0] = id  # 259 = 256 + 3, and 3 is road
    (tmp_path / "GT/LABELS/0000000.png").write_bytes(deep(channels))
    with pytest.raises(LabelError, match=rf"0000000.png: found class id {id}, expected 0 to 22 or 255 \(16 of them are classes of synthia\)"):
        Synthia(tmp_path)[0]


def test_synthia_labels_converted_to_one_channel_are_read_and_coloured_ones_are_not(tmp_path):
    synthia_tree(tmp_path, 2, size=(16, 16))
    Image.fromarray(np.full((16, 16), 15, np.uint8)).save(tmp_path / "GT/LABELS/0000000.png")
    assert Synthia(tmp_path)[0].labels.unique().tolist() == [SYNTHIA.index("traffic light")]
    Image.fromarray(np.full((16, 16), 15, np.uint16)).save(tmp_path / "GT/LABELS/0000000.png")
    assert Synthia(tmp_path)[0].labels.unique().tolist() == [SYNTHIA.index("traffic light")]
    Image.fromarray(np.full((16, 16, 3), 15, np.uint8)).save(tmp_path / "GT/LABELS/0000000.png")
    with pytest.raises(LabelError, match="channels R, G, B, expected one channel of class ids or three of 16 bits"):
        Synthia(tmp_path)[0]
    with pytest.raises(LabelError, match="channels R, G, B, expected one channel of class ids$"):  # nobody else means the first of three channels
        read_labels(tmp_path / "GT/LABELS/0000001.png", SYNTHIA)


@pytest.mark.parametrize("rows, compressed", [
    (bytes(61 * 3), False), (b"\x09" * 61 * 10, False), (b"", False), (zlib.compress(bytes(61 * 10))[:-1] + b"x", True), (b"hello", True)],
    ids=["too few", "unknown filter", "none", "wrong check sum", "not compressed"])
def test_a_16_bit_label_with_broken_pixels_is_an_error_not_a_crash(tmp_path, rows, compressed):
    (tmp_path / "bad.png").write_bytes(png(10, 10, 16, 2, rows, compressed=compressed))
    with pytest.raises(DataError, match="bad.png: found a PNG that cannot be decoded"):
        read_labels(tmp_path / "bad.png", SYNTHIA, synthia_id_table(), channel=0)


# -- Cityscapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_ids", [False, True])
def test_cityscapes_comes_back_from_label_ids_and_from_train_ids(tmp_path, train_ids):
    train, val = cityscapes_tree(tmp_path, 7, 2, train_ids=train_ids)
    for split, scenes in (("train", train), ("val", val)):
        data = Cityscapes(tmp_path, split)
        number = [int(id.split("_")[1]) for id in data.ids]
        same(data, [scenes[k] for k in number])
        assert data.label_space is CITYSCAPES and data.has_labels
        for id, group, k in zip(data.ids, data.groups, number):
            city = scenes[k].group.lower().replace(" ", "")
            assert (id, group) == (f"{city}/{city}_{k:06d}_000019", city)
    kind = "labelTrainIds" if train_ids else "labelIds"
    assert all(kind in file.name for file in data.labels)


def test_label_ids_are_taken_where_both_are_there_and_the_kind_that_is_complete_where_one_is_not(tmp_path):
    cityscapes_tree(tmp_path, 3, 1)
    cityscapes_tree(tmp_path, 3, 1, train_ids=True)
    assert all("labelIds" in file.name for file in Cityscapes(tmp_path, "train").labels)
    next(tmp_path.glob("gtFine/train/*/*labelIds.png")).unlink()
    assert all("labelTrainIds" in file.name for file in Cityscapes(tmp_path, "train").labels)
    next(tmp_path.glob("gtFine/train/*/*labelTrainIds.png")).unlink()
    with pytest.raises(DataError, match=r"found no label file for it in .*gtFine/train \(1 of 3 images have none\), expected .*_gtFine_labelIds.png"):
        Cityscapes(tmp_path, "train")


def test_cityscapes_without_fine_labels_is_a_pool(tmp_path):
    cityscapes_tree(tmp_path, 3, 1)
    for data in (Cityscapes(tmp_path, "train", labels=False), Cityscapes((tmp_path / "gtFine").rename(tmp_path / "away").parent, "train")):
        assert not data.has_labels and len(data) == 3 and (data[0].labels == IGNORE).all() and data.groups[0]
        with pytest.raises(DataError, match="found a data set without labels"):
            data.load_labels(0)
        check = check_dataset(data, bar=False)
        assert check.ok and check.pixels is None and "labels   none" in str(check)
    with pytest.raises(DataError, match=r"gtFine/train: found no such folder \(in .*: away, leftImg8bit\), expected images in leftImg8bit/SPLIT/CITY/"):
        Cityscapes(tmp_path, "train", labels=True)


def test_missing_folders_are_named_with_those_that_are_there(tmp_path):
    gta5_tree(tmp_path / "gta5", 1)
    cityscapes_tree(tmp_path / "cs", 2, 1)
    with pytest.raises(DataError, match=r"leftImg8bit/test: found no such folder \(in .*leftImg8bit: train, val\), expected"):
        Cityscapes(tmp_path / "cs", "test")
    with pytest.raises(DataError, match=r"gta5/RGB: found no such folder \(in .*gta5: images, labels\), expected images in RGB/"):
        Synthia(tmp_path / "gta5")
    with pytest.raises(DataError, match=r"GT/LABELS: found no such folder .*expected .*GT/LABELS/ or LABELS/"):
        (tmp_path / "RGB").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "RGB/a.png")
        Synthia(tmp_path)
    with pytest.raises(DataError, match=r"images: found no such folder \(in .*no folders\)"):
        GTA5(tmp_path / "nowhere")
    (tmp_path / "gta5/labels/00001.png").unlink()
    with pytest.raises(DataError, match="labels: found no .png file"):
        GTA5(tmp_path / "gta5")
    Image.new("RGB", (4, 4)).save(tmp_path / "cs/leftImg8bit/train/street.png")
    with pytest.raises(DataError, match="street.png: found an image of another name, expected CITY_SEQUENCE_FRAME_leftImg8bit.png"):
        Cityscapes(tmp_path / "cs", "train")


# -- split lists -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cityscapes(tmp_path):
    cityscapes_tree(tmp_path / "cityscapes", 6, 1, size=(16, 32))
    return Cityscapes(tmp_path / "cityscapes", "train")


def written(tmp_path, text, encoding="utf-8"):
    (tmp_path / "labeled.txt").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return tmp_path / "labeled.txt"


@pytest.mark.parametrize("form", [
    lambda image, label, id: image, lambda image, label, id: f"{image} {label}", lambda image, label, id: f"{image}\t{label}",
    lambda image, label, id: f"./{image}  {label} ", lambda image, label, id: image.replace("/", "\\"), lambda image, label, id: f"cityscapes/{image}",
    lambda image, label, id: f"/elsewhere/cs/{image}",
    lambda image, label, id: image.removeprefix("leftImg8bit/"), lambda image, label, id: image.rpartition("/")[2], lambda image, label, id: id,
    lambda image, label, id: f"{image}\t{label.replace('labelIds', 'labelTrainIds')}"])
def test_split_lists_are_read_in_every_form(tmp_path, cityscapes, form):
    root, order = tmp_path / "cityscapes", [4, 0, 5]
    lines = [form(*(f.relative_to(root).as_posix() for f in cityscapes.files(k)), cityscapes.ids[k]) for k in order]
    for text in ("\n".join(lines), "\r\n".join(lines) + "\r\n\r\n", "\n \n" + "\n\n".join(lines) + "\n"):
        assert read_split(written(tmp_path, text), cityscapes) == [cityscapes.ids[k] for k in order]
    wrapped = RelabelledDataset(Resized(cityscapes, (8, 16)), CAMVID)
    assert read_split(written(tmp_path, "\n".join(lines), "utf-8-sig"), wrapped) == [cityscapes.ids[k] for k in order]


def test_absolute_paths_and_data_sets_without_files(tmp_path, cityscapes):
    assert read_split(written(tmp_path, str(cityscapes.images[2])), cityscapes) == [cityscapes.ids[2]]
    scenes = SceneDataset("real", 5)
    assert read_split(written(tmp_path, f"{scenes.ids[3]}\n{scenes.ids[0]}"), scenes) == [scenes.ids[3], scenes.ids[0]]


@pytest.mark.parametrize("text, found", [
    ("{0}\n\nleftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png\n", "line 3: found 'leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png'"),
    ("{0}\n{1}\n{0}\n", r"line 3: found .* a second time \(first in line 1\)"), ("{0} {1} {2}", "line 1: found '"),
    ("{0}\t{2}", "line 1: found the label .*, expected one of the image"), ("\n \n", "found no image path, expected at least one"),
    ("", "found no image path"), ("/", "line 1: found '/'"), ("_leftImg8bit.png", "line 1: found '_leftImg8bit.png'"), (b"\xff\xfe\x00", "not text")])
def test_split_lists_that_do_not_fit_are_refused_with_file_and_line(tmp_path, cityscapes, text, found):
    if isinstance(text, str):
        text = text.format(*(f.relative_to(tmp_path / "cityscapes").as_posix() for f in cityscapes.images))
    with pytest.raises(DataError, match=f"labeled.txt.*{found}"):
        read_split(written(tmp_path, text), cityscapes)
    with pytest.raises(DataError, match="none.txt: found .*expected a readable file"):
        read_split(tmp_path / "none.txt", cityscapes)


def test_a_name_that_fits_two_images_is_refused_and_a_pool_knows_only_its_own(tmp_path):
    for name in ("north/street", "south/street", "south/square 2"):
        write_sample(SceneDataset("real", 1, size=(16, 32))[0]._replace(id=name), tmp_path / "x")
    data = ImageFolder(tmp_path / "x")
    with pytest.raises(DataError, match="line 1: found a path that fits 2 images, such as north/street and south/street, expected"):
        read_split(written(tmp_path, "street.png"), data)
    assert read_split(written(tmp_path, "south/street.png\nx/south/square 2.png\nnorth/street"), data) == ["south/street", "south/square 2", "north/street"]
    assert read_split(written(tmp_path, "street.png"), Pool(data, [1, 2])) == ["south/street"]
    with pytest.raises(DataError, match="line 1: found 'west/street.png'"):
        read_split(written(tmp_path, "west/street.png"), data)


# -- one size ----------------------------------------------------------------------------------------------------------


def test_resized_labels_lie_under_the_middle_of_each_pixel():
    g = torch.Generator().manual_seed(0)
    for (H, W), (h, w) in (((7, 9), (4, 5)), ((7, 9), (21, 30)), ((5, 5), (5, 9)), ((4, 4), (1, 1))):
        labels = torch.randint(0, 256, (H, W), generator=g)
        slow = [[int(labels[int((i + Fraction(1, 2)) * H / h), int((j + Fraction(1, 2)) * W / w)]) for j in range(w)] for i in range(h)]
        assert resize_labels(labels, (h, w)).tolist() == slow


def test_resized_data_sets_keep_everything_but_the_size(tmp_path):
    gta5_tree(tmp_path, 2, size=(48, 80), odd=1)
    data = GTA5(tmp_path)
    for size in ((32, 64), (64, 100), (48, 80)):
        small = Resized(data, size)
        assert (small.ids, small.groups, small.label_space, small.has_labels, len(small)) == (data.ids, data.groups, CITYSCAPES, True, 2)
        for k in range(2):
            image, labels, id, group = small[k]
            assert image.shape == (3, *size) and labels.shape == size and (id, group) == (data.ids[k], "")
            assert torch.equal(labels, resize_labels(data[k].labels, size)) and 0 <= image.min() <= image.max() <= 1
            assert torch.equal(small.load_image(k), image) and torch.equal(small.load_labels(k), labels)
    assert torch.equal(Resized(data, (48, 80))[1].image, data[1].image)
    for bad in ((0, 4), (4,), (4, 4, 4)):
        with pytest.raises(ConfigError, match="size: found"):
            Resized(data, bad)


def test_wrappers_open_only_the_file_they_need(tmp_path):
    cityscapes_tree(tmp_path, 3, 1, size=(32, 64))
    data = Cityscapes(tmp_path, "train")
    wrapped = Resized(RelabelledDataset(Pool(data, [2, 0]), CAMVID), (16, 32))
    expected = wrapped[0]
    assert wrapped.files(0) == data.files(2) and reader_of(wrapped) is data
    data.labels[2].write_bytes(b"no label")
    assert torch.equal(wrapped.load_image(0), expected.image)
    data.images[0].write_bytes(b"no image")
    assert wrapped.load_labels(1).shape == (16, 32)
    with pytest.raises(DataError):
        wrapped.load_labels(0)
    with pytest.raises(DataError):
        wrapped.load_image(1)


# -- decoding ----------------------------------------------------------------------------------------------------------


def picture(height=24, width=32, seed=0):
    smooth = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.array(Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC))


def test_png_and_jpeg_photographs_are_what_pillow_decodes_bit_by_bit(tmp_path, monkeypatch):
    "The JPEG decoder is torchvision's; both are libjpeg-turbo with the same settings, so the numbers are the same."
    files = {"a.png": {}, "b.jpg": dict(quality=95), "c.jpg": dict(quality=60, subsampling=0), "d.jpg": dict(progressive=True), "e.jpg": dict(subsampling=2)}
    for k, (name, options) in enumerate(files.items()):
        Image.fromarray(picture(101, 203, seed=k)).save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            expected = torch.from_numpy(np.array(opened.convert("RGB"))).movedim(-1, 0).float() / 255
        assert torch.equal(read_image(tmp_path / name), expected)
        with monkeypatch.context() as patch:
            patch.setattr(stal_nb.runtime.images, "torchvision_decoder", lambda: None)
            assert torch.equal(read_image(tmp_path / name), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_image_size_is_that_of_the_decoded_image(tmp_path, orientation, suffix):
    stored = Image.fromarray(picture())
    exif = stored.getexif()
    exif[0x112] = orientation
    stored.save(tmp_path / f"x.{suffix}", exif=exif)
    assert image_size(tmp_path / f"x.{suffix}") == tuple(read_image(tmp_path / f"x.{suffix}").shape[1:])


def test_image_size_of_what_is_no_image(tmp_path):
    (tmp_path / "x.png").write_text("notes")
    for file in ("x.png", "none.png"):
        with pytest.raises(DataError, match=f"{file}: found a file whose size cannot be read"):
            image_size(tmp_path / file)


@pytest.mark.parametrize("depth, colour, row", [(8, 2, 91), (8, 0, 31), (1, 0, 5), (4, 0, 16), (16, 0, 61), (8, 6, 121), (8, 4, 61), (16, 2, 181)])
def test_pixels_that_end_after_a_whole_row_are_refused_and_a_black_last_row_is_not(tmp_path, depth, colour, row):
    "Pillow fills in zeros."
    (tmp_path / "x.png").write_bytes(png(30, 20, depth, colour, bytes(row * 20)))
    assert read_image(tmp_path / "x.png").shape == (3, 20, 30)
    for rows in (0, 1, 19):
        (tmp_path / "x.png").write_bytes(png(30, 20, depth, colour, bytes(row * rows)))
        with pytest.raises(DataError, match="x.png: found a PNG that cannot be decoded"):
            read_image(tmp_path / "x.png")


def test_interlaced_black_pngs_are_whole(tmp_path):
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for width, height in ((30, 20), (3, 1), (1, 9)):
        rows = b"".join(bytes(1 + 3 * len(range(x, width, dx))) * len(range(y, height, dy)) for x, y, dx, dy in passes if x < width)
        (tmp_path / "x.png").write_bytes(png(width, height, 8, 2, rows, interlaced=1))
        assert read_image(tmp_path / "x.png").shape == (3, height, width)


@pytest.mark.parametrize("kind", ["gta5", "synthia", "cityscapes"])
def test_bytes_flipped_at_random_give_typed_errors_only(tmp_path, kind):
    "In PNGs every flip is seen, thanks to the checksums."
    if kind == "gta5":
        gta5_tree(tmp_path, 1, size=(24, 32), odd=0)
        data = GTA5(tmp_path)
    elif kind == "synthia":
        synthia_tree(tmp_path, 1, size=(24, 32))
        data = Synthia(tmp_path)
    else:
        cityscapes_tree(tmp_path, 1, 0, size=(24, 32))
        data = Cityscapes(tmp_path, "train")
    rng = np.random.default_rng(0)
    for file in data.files(0):
        whole = file.read_bytes()
        for _ in range(150):
            at, bit = int(rng.integers(len(whole))), 1 << int(rng.integers(8))
            file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1:])
            with pytest.raises(DataError, match=f"{file.name}: found"):
                data[0]
            found = inspect_image(data, 0)
            assert [name for name, _ in found.errors] == [str(file)]
        for length in rng.integers(0, len(whole), 20):
            file.write_bytes(whole[:length])
            with pytest.raises(DataError, match=f"{file.name}: found"):
                data[0]
        file.write_bytes(whole)
    assert not inspect_image(data, 0).errors


def test_flips_with_the_checksums_put_right_never_crash(tmp_path):
    "Damage that a checksum cannot show, in the compressed pixels of 16-bit labels: a label, or a `DataError`."
    channels = np.zeros((12, 16, 3), np.uint16)
    channels[:6, :, 0] = 3
    whole, rng, refused = deep(channels), np.random.default_rng(0), 0
    body = whole[41:-16]
    for _ in range(300):
        at = int(rng.integers(len(body)))
        changed = body[:at] + bytes([int(rng.integers(256))]) + body[at + 1:]
        (tmp_path / "x.png").write_bytes(SIGNATURE + whole[8:33] + chunk(b"IDAT", changed) + chunk(b"IEND", b""))
        try:
            assert read_labels(tmp_path / "x.png", SYNTHIA, synthia_id_table(), channel=0).shape == (12, 16)
        except DataError:
            refused += 1
    assert refused > 200


# -- the check ---------------------------------------------------------------------------------------------------------


def broken_tree(root):
    "Eight images, of which one is cut, one is no picture, one is gone, one label is a JPEG, one has unknown ids and one another size."
    cityscapes_tree(root, 8, 1, size=(32, 64))
    data = Cityscapes(root, "train")
    data.images[0].write_bytes(data.images[0].read_bytes()[:300])
    data.images[1].write_text("notes")
    data.images[2].unlink()
    Image.new("L", (64, 32)).save(data.labels[3], format="JPEG")
    Image.new("L", (64, 32), 99).save(data.labels[4])
    Image.new("L", (32, 16), 7).save(data.labels[5])
    Image.new("L", (64, 32), 0).save(data.labels[6])  # in order, but nobody has labelled it
    data.labels[7].write_bytes(b"")
    data.images[7].write_bytes(b"")
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_the_check_names_every_broken_file_and_goes_on(tmp_path, workers):
    data = broken_tree(tmp_path)
    check = check_dataset(data, workers=workers, bar=False)
    assert not check.ok and (check.total, check.checked, check.broken, check.workers) == (8, 8, 8, workers)
    expected = [(data.images[0], "breaks off after 300 bytes"), (data.images[1], "starts with b'notes'"), (data.images[2], "expected a readable file"),
                (data.labels[3], "a JPEG, which changes ids"), (data.labels[4], "found class id 99"), (data.labels[5], "found a label of 16 x 32 pixels"),
                (data.images[7], "an empty file"), (data.labels[7], "an empty file")]
    assert [file for file, _ in check.errors] == [str(file) for file, _ in expected]
    for (file, words), (_, message) in zip(expected, check.errors):
        assert message.startswith(f"{file}: found") and words in message and message in str(check)
    assert check.sizes == {(32, 64): 4} and sum(check.groups.values()) == 8 and check.blank == [data.ids[6]]
    assert "BROKEN   8 files:" in str(check) and "1 x label without any class" in str(check)
    whole = [k for k in range(8) if k not in (3, 4, 7)]
    assert torch.equal(check.pixels, count_classes(data, whole)[0]) and torch.equal(check.images, count_classes(data, whole)[1])


def test_a_check_of_sound_files_counts_what_is_there(tmp_path):
    gta5_tree(tmp_path, 5, odd=2)
    Image.new("L", (4, 4)).save(tmp_path / "labels/of_no_image.png")
    data = GTA5(tmp_path)
    check = check_dataset(data, bar=False)
    pixels, images = count_classes(data)
    assert check.ok and torch.equal(check.pixels, pixels) and torch.equal(check.images, images)
    assert check.ignored == sum(int((sample.labels == IGNORE).sum()) for sample in data)
    assert check.sizes == {(64, 128): 5} and len(check.resized) == 2 and check.unused == [str(tmp_path / "labels/of_no_image.png")]
    assert check.images_per_second > 0
    read = sum(f.stat().st_size for k in range(5) for f in data.files(k))
    assert check.megabytes == pytest.approx(read / 1e6)
    text = str(check)
    assert "5 of 5 images looked at" in text and "64 x 128: 5" in text and "No file is broken." in text and "groups" not in text
    assert "2 x label of another size than its image, resized to it: " in text and "1 x label file without an image" in text
    share = float(pixels[0] / pixels.sum())
    assert f"{share:.3%} of the labelled pixels, in {int(images[0])} images" in text


def test_the_check_looks_through_wrappers_and_at_scenes(tmp_path):
    data = broken_tree(tmp_path)
    pool = Pool(data, [5, 6, 0])
    for wrapped in (pool, RelabelledDataset(pool, CAMVID), Resized(pool, (16, 16))):
        check = check_dataset(wrapped, bar=False)
        assert [file for file, _ in check.errors] == [str(data.labels[5]), str(data.images[0])] and check.label_space is wrapped.label_space
    scenes = SceneDataset("real", 4, size=(16, 32))
    assert torch.equal(check_dataset(scenes, bar=False).pixels, count_classes(scenes)[0]) and check_dataset(Pool(scenes, [1]), bar=False).checked == 1


def test_a_limit_looks_at_images_from_all_over(tmp_path):
    gta5_tree(tmp_path, 9, size=(16, 32), odd=0)
    for number in (1, 4, 7):
        (tmp_path / f"images/{number:05d}.png").write_bytes(b"")
    check = check_dataset(GTA5(tmp_path), limit=3, bar=False)
    assert (check.checked, check.total) == (3, 9) and [file[-9:] for file, _ in check.errors] == ["00001.png", "00004.png", "00007.png"]
    assert check_dataset(GTA5(tmp_path), limit=100, bar=False).checked == 9
    with pytest.raises(ConfigError, match="limit: found 0"):
        check_dataset(GTA5(tmp_path), limit=0)


class Deadly(Dataset):
    "A data set whose decoder ends the process at some images, and raises what no reader should at another."

    label_space, has_labels = CITYSCAPES, True

    def __init__(self, length, deadly, rude):
        self.ids, self.groups, self.deadly, self.rude = [f"image {k}" for k in range(length)], ["g"] * length, deadly, rude

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        if index in self.deadly:
            os._exit(1)
        if index in self.rude:
            raise ZeroDivisionError("by a reader")
        return Sample(torch.zeros(3, 4, 4), torch.zeros(4, 4).long(), self.ids[index], "g")


def test_a_process_that_dies_costs_one_image_and_is_named():
    state = torch.get_rng_state()
    check = check_dataset(Deadly(12, deadly={4, 11}, rude={7}), workers=2, bar=False)
    assert check.checked == 12 and [name for name, _ in check.errors] == ["image 4", "image 7", "image 11"]
    assert "the process which read it died" in check.errors[0][1] and "image 7: found ZeroDivisionError (by a reader)" in check.errors[1][1]
    assert check.sizes == {(4, 4): 9} and int(check.pixels[0]) == 9 * 16
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_is_shown_on_request(tmp_path, capsys):
    gta5_tree(tmp_path, 2, size=(16, 32))
    check_dataset(GTA5(tmp_path), bar=False)
    assert capsys.readouterr().err == ""
    check_dataset(GTA5(tmp_path), bar=True)
    assert "checking" in capsys.readouterr().err


def test_the_check_page_is_one_file_that_names_the_broken_ones(tmp_path):
    from stal_nb.app.check_page import label_panels, write_check_page

    data, sound = broken_tree(tmp_path / "<b>"), CamVidLike(tmp_path / "camvid")
    checks = {"target & more": check_dataset(data, bar=False), "other": check_dataset(sound, bar=False)}
    page = write_check_page({"target & more": data, "other": sound}, checks, tmp_path / "check.html")
    text = page.read_text()
    assert text.count("<img ") == 2 and text.count("data:image/jpeg;base64,") == 2 and "8 broken files" in text and "No file is broken." in text
    assert "<b>/leftImg8bit" not in text and "&lt;b&gt;/leftImg8bit" in text and "target &amp; more" in text  # names are shown, not interpreted
    assert "http-equiv" not in text and "<script src" not in text and "<link rel=stylesheet" not in text
    assert write_check_page(sound, checks["other"], tmp_path / "one.html").stat().st_size > 3e6  # plotly.js is inside
    nothing = Pool(data, [0, 1])
    assert label_panels(nothing) is None
    write_check_page(nothing, check_dataset(nothing, bar=False), tmp_path / "nothing.html")


def CamVidLike(root):
    for scene in SceneDataset("real", 3, size=(32, 48)):
        ids = remap(scene.labels, CITYSCAPES.mapping_to(CAMVID))
        write_sample(Sample(scene.image, ids, scene.id, ""), root / "val", root / "valannot")
    return CamVid(root, "val")


def test_the_check_page_opens_without_a_network(tmp_path, new_page):
    from stal_nb.app.check_page import write_check_page

    gta5_tree(tmp_path, 4)
    data, page = GTA5(tmp_path), new_page(width=1100)
    page.goto(write_check_page(data, check_dataset(data, bar=False), tmp_path / "check.html").as_uri())
    page.wait_for_selector(".plotly .bars")
    assert page.locator("img").evaluate("i => i.naturalWidth") > 400
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(".xaxislayer-above text").all_text_contents() == list(CITYSCAPES.classes)
    assert page.problems == []
