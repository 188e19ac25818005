"""Reading files and augmenting: what is refused, what is kept, and that labels stay with their pixels."""
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stal_nb.augmentation import (
    colour_matrix,
    gaussian_blur,
    nearest_index,
    paste_augment,
    place,
    recolour,
    strong_augment,
    weak_augment,
    window,
)
from stal_nb.data import (
    ImageFolder,
    Pool,
    RelabelledDataset,
    count_classes,
    find_files,
    id_table,
    read_labels,
    split_pool,
    write_sample,
)
from stal_nb.labels import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_ID_OF_LABEL_ID, IGNORE, SYNTHIA, LabelSpace, Sample
from stal_nb.readers import CamVid
from stal_nb.runtime.errors import ConfigError, DataError, LabelError, StalError
from stal_nb.runtime.images import image_size, read_image
from stal_nb.scenes import SceneDataset


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array), mode).save(path, **options)
    return path


def picture(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def camvid(tmp_path):
    "Three training and one validation image in CamVid's layout, PNG and JPEG mixed, with every class and void."
    for split, names in (("train", ("0001TP_1.png", "0001TP_2.jpg", "Seq05VD_f1.JPEG")), ("val", ("0016E5_1.png",))):
        for k, name in enumerate(names):
            save(tmp_path / split / name, picture(seed=k), format="PNG" if name.endswith("png") else "JPEG")
            save(tmp_path / f"{split}annot" / f"{name.partition('.')[0]}.png", (np.arange(24 * 32) % 12).astype(np.uint8).reshape(24, 32))
    return tmp_path


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_png_and_jpeg_becomes_rgb_from_0_to_1(tmp_path):
    rgb = picture()
    grey, alpha = rgb[..., 0], np.dstack([rgb, rgb[..., 0]])
    assert np.allclose(read_image(save(tmp_path / "rgb.png", rgb)), rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    assert np.allclose(read_image(save(tmp_path / "rgba.png", alpha)), rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    for name, array in (("grey.png", grey), ("grey-alpha.png", np.dstack([grey, grey]))):
        assert np.allclose(read_image(save(tmp_path / name, array)), np.stack([grey] * 3) / 255, atol=1e-6)
    deep = grey.astype(np.uint16) * 256 + 77
    assert np.allclose(read_image(save(tmp_path / "grey16.png", deep)), np.stack([deep] * 3) / 65535, atol=1e-6)
    (tmp_path / "rgb16.png").write_bytes(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0, 32768, 65535, 65535, 0, 0)))
    assert np.allclose(read_image(tmp_path / "rgb16.png")[:, 0].T, [[0, 0.5, 1], [1, 0, 0]], atol=1 / 255)
    smooth = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (24, 1))
    for name, mode in (("grey.jpg", "L"), ("rgb.jpg", "RGB"), ("cmyk.jpg", "CMYK")):
        Image.fromarray(smooth).convert("RGB").convert(mode).save(tmp_path / name, quality=95)
        image = read_image(tmp_path / name)
        assert image.shape == (3, 24, 32) and image.dtype == torch.float32 and image.is_contiguous()
        assert np.abs(image.numpy() - smooth / 255).max() < 0.05, name


def test_palette_png_is_shown_in_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 255, 0, 0])
    image.save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png") * 255).round().int()[:, 0].T.tolist() == [[10, 20, 30], [255, 0, 0]]
    assert read_labels(tmp_path / "p.png", CITYSCAPES).tolist() == [[0, 1]]  # as labels, the same file holds ids


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    "Orientation 6: the camera was turned; what is stored as 24 x 32 is shown as 32 x 24."
    smooth = np.dstack([np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (24, 1))] * 3)
    stored = Image.fromarray(smooth)
    exif = stored.getexif()
    exif[0x112] = 6
    stored.save(tmp_path / f"turned.{suffix}", exif=exif)
    image = read_image(tmp_path / f"turned.{suffix}")
    assert image.shape == (3, 32, 24) and image_size(tmp_path / f"turned.{suffix}") == (32, 24)
    assert np.abs(image[0].numpy() - np.rot90(smooth[..., 0], -1) / 255).max() < 0.05


def test_content_decides_not_the_name(tmp_path):
    file = save(tmp_path / "street.png", picture(), format="JPEG")
    assert read_image(file).shape == (3, 24, 32)


@pytest.mark.parametrize("content, found", [
    (b"", "an empty file"), (b"labelled by Kim", "starts with b'labelled'"), (b"GIF89a....", "starts with b'GIF89a..'"),
    (b"\x89PNG\r\n\x1a\n", "breaks off after 8 bytes"), (b"\xff\xd8\xff\xe0", "a JPEG that cannot be decoded")])
def test_what_is_no_picture_is_refused_by_name(tmp_path, content, found):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match="x.png: found .*expected") as error:
        read_image(tmp_path / "x.png")
    assert found in str(error.value)


def test_missing_file_and_folder_in_place_of_a_file(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="expected a readable file"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
def test_truncated_anywhere_is_refused(tmp_path, suffix):
    whole = save(tmp_path / f"whole.{suffix}", picture()).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut: found"):
            read_image(tmp_path / "cut")


def test_a_flipped_byte_anywhere_in_a_png_is_refused(tmp_path):
    whole = save(tmp_path / "whole.png", picture()).read_bytes()
    for at in range(8, len(whole), 53):
        (tmp_path / "bad").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1:])
        with pytest.raises(DataError, match="bad: found"):
            read_image(tmp_path / "bad")


@pytest.mark.parametrize("rows", [b"\0" + bytes(89), b"\x09" * 91 * 20, b""], ids=["too few", "unknown filter", "none"])
def test_png_with_right_checksums_and_wrong_pixels_is_an_error_not_a_crash(tmp_path, rows):
    "Some decoders end the process on a damaged pixel stream."
    (tmp_path / "bad.png").write_bytes(png(30, 20, 8, 2, rows))
    with pytest.raises(DataError, match="bad.png: found a PNG that cannot be decoded"):
        read_image(tmp_path / "bad.png")
    broken = png(30, 20, 8, 2, bytes(91 * 20)).replace(zlib.compress(bytes(91 * 20)), b"hello")
    (tmp_path / "bad.png").write_bytes(broken)
    with pytest.raises(DataError):
        read_image(tmp_path / "bad.png")


# -- label files -------------------------------------------------------------------------------------------------------


def test_label_pngs_of_every_depth_hold_ids(tmp_path):
    ids = np.array([[0, 1, 1, 0], [1, 0, 0, 1]], np.uint8)
    assert read_labels(save(tmp_path / "8.png", ids), CITYSCAPES).tolist() == ids.tolist()
    assert read_labels(save(tmp_path / "16.png", ids.astype(np.uint16)), CITYSCAPES).tolist() == ids.tolist()
    assert read_labels(save(tmp_path / "1.png", ids.astype(bool)), CITYSCAPES).tolist() == ids.tolist()
    (tmp_path / "2.png").write_bytes(png(4, 1, 2, 0, bytes([0, 0b00011011])))
    (tmp_path / "4.png").write_bytes(png(4, 1, 4, 0, bytes([0, 0x01, 0x2F])))
    assert read_labels(tmp_path / "2.png", CITYSCAPES).tolist() == [[0, 1, 2, 3]]
    assert read_labels(tmp_path / "4.png", CITYSCAPES).tolist() == [[0, 1, 2, 15]]
    palette = Image.fromarray(np.array([[0, 5, 14]], np.uint8), "P")
    palette.putpalette([7, 7, 7] * 16)
    palette.save(tmp_path / "p4.png", bits=4)
    assert read_labels(tmp_path / "p4.png", CITYSCAPES).tolist() == [[0, 5, 14]]


def test_unknown_ids_are_named(tmp_path):
    file = save(tmp_path / "street.png", np.array([[0, 18, 19], [255, 33, 19]], np.uint8))
    with pytest.raises(LabelError, match=r"street.png: found class id 19, 33, expected 0 to 18 \(cityscapes\) or 255"):
        read_labels(file, CITYSCAPES)
    many = save(tmp_path / "many.png", np.arange(200, dtype=np.uint8)[None])
    with pytest.raises(LabelError, match="found class id 19, 20, 21, 22, 23 …, expected"):
        read_labels(many, CITYSCAPES)
    deep = save(tmp_path / "deep.png", np.array([[0, 255, 256, 40000]], np.uint16))
    with pytest.raises(LabelError, match="found class id 256, 40000"):
        read_labels(deep, CITYSCAPES)


def test_label_files_that_cannot_hold_ids(tmp_path):
    with pytest.raises(LabelError, match="channels R, G, B, expected one channel"):
        read_labels(save(tmp_path / "rgb.png", picture()), CITYSCAPES)
    with pytest.raises(DataError, match="a JPEG, which changes ids, expected a PNG"):
        read_labels(save(tmp_path / "l.png", picture()[..., 0], format="JPEG"), CITYSCAPES)
    with pytest.raises(DataError, match="breaks off"):
        file = save(tmp_path / "cut.png", picture()[..., 0] % 19)
        file.write_bytes(file.read_bytes()[:-20])
        read_labels(file, CITYSCAPES)


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_camvid_reads_its_layout(camvid):
    data = CamVid(camvid, "train")
    assert data.label_space is CAMVID and data.has_labels and len(data) == 3
    assert data.ids == ["0001TP_1", "0001TP_2", "Seq05VD_f1"] and data.groups == ["0001TP", "0001TP", "Seq05VD"]
    expected = torch.arange(24 * 32).view(24, 32) % 12
    expected[expected == 11] = IGNORE
    for k, sample in enumerate(data):
        assert isinstance(sample, Sample) and (sample.id, sample.group) == (data.ids[k], data.groups[k])
        assert sample.image.shape == (3, 24, 32) and sample.image.dtype == torch.float32
        assert 0 <= sample.image.min() <= sample.image.max() <= 1
        assert sample.labels.dtype == torch.int64 and torch.equal(sample.labels, expected)
    assert torch.equal(data[-1].image, data[2].image)
    with pytest.raises(IndexError):
        data[3]
    assert len(CamVid(str(camvid), "val")) == 1


def test_camvid_void_is_11_and_nothing_above_is_known(camvid):
    save(camvid / "trainannot" / "0001TP_1.png", np.full((24, 32), 12, np.uint8))
    with pytest.raises(LabelError, match=r"0001TP_1.png: found class id 12, expected 0 to 10 \(camvid\) or 11, 255"):
        CamVid(camvid, "train")[0]


def test_camvid_says_which_folders_there_are(camvid, tmp_path):
    with pytest.raises(DataError, match=r"test: found no such folder \(in .*: train, trainannot, val, valannot\), expected"):
        CamVid(camvid, "test")
    with pytest.raises(DataError, match="no folders"):
        CamVid(tmp_path / "elsewhere", "train")


@pytest.mark.parametrize("damage, match", [
    (lambda root: (root / "trainannot/0001TP_2.png").unlink(), r"0001TP_2.jpg: found no label .*1 of 3 images.*expected 0001TP_2.png"),
    (lambda root: [f.unlink() for f in (root / "train").iterdir()], "train: found no .png, .jpg, .jpeg or other picture file, expected at least one"),
    (lambda root: save(root / "train/0001TP_2.png", picture()), "0001TP_2.jpg and 0001TP_2.png, expected one file with the id '0001TP_2'"),
    (lambda root: save(root / "train" / "x.bmp", picture()), "x.bmp: found no label file for it in .*1 of 4 images have none")])
def test_what_file_names_show_is_refused_at_once(camvid, damage, match):
    damage(camvid)
    with pytest.raises(DataError, match=match):
        CamVid(camvid, "train")


def test_label_of_another_size_names_both_files(camvid):
    save(camvid / "trainannot" / "0001TP_1.png", np.zeros((12, 16), np.uint8))
    data = CamVid(camvid, "train")
    with pytest.raises(LabelError, match=r"0001TP_1.png: found a label of 12 x 16 .*expected 24 x 32 as in .*0001TP_1.png"):
        data[0]
    assert data[1].labels.shape == (24, 32)  # the others are unharmed


def test_folder_of_mixed_files_with_subfolders(tmp_path):
    for name in ("a.PNG", "b.JPG", "night/a.jpeg", "night/deep/c.png"):
        save(tmp_path / "x" / name, picture(), format="PNG" if name.lower().endswith("png") else "JPEG")
    for other in ("notes.txt", ".hidden.png", "night/._a.jpeg", ".cache/z.png"):
        (tmp_path / "x" / other).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / other).write_text("no picture")
    data = ImageFolder(tmp_path / "x")
    assert data.ids == ["a", "b", "night/a", "night/deep/c"] and data.groups == ["", "", "night", "night/deep"]
    assert data.label_space is CITYSCAPES and not data.has_labels
    assert all(sample.labels.shape == (24, 32) and (sample.labels == IGNORE).all() for sample in data)
    assert ImageFolder(tmp_path / "x", group=lambda id: id[-1]).groups == ["a", "b", "a", "c"]
    with pytest.raises(DataError, match="found a data set without labels"):
        data.load_labels(0)


def test_folder_with_labels_inside_or_beside(tmp_path):
    for name in ("a", "night/b"):
        save(tmp_path / "x" / f"{name}.jpg", picture())
        save(tmp_path / "x" / "labels" / f"{name}.PNG", np.full((24, 32), 10, np.uint8), format="PNG")
    save(tmp_path / "x" / "labels" / "of_no_image.png", np.zeros((4, 4), np.uint8))
    data = ImageFolder(tmp_path / "x", labels=tmp_path / "x" / "labels", label_space=SYNTHIA)
    assert data.ids == ["a", "night/b"] and data.has_labels and data.label_space is SYNTHIA
    assert (data[1].labels == 10).all()
    with pytest.raises(DataError, match="labels: found nothing, expected a folder"):
        ImageFolder(tmp_path / "x", labels=tmp_path / "labels")
    save(tmp_path / "x" / "night" / "c.jpg", picture())
    with pytest.raises(DataError, match=r"c.jpg: found no label file .*1 of 3 images.*expected night/c.png"):
        ImageFolder(tmp_path / "x", labels=tmp_path / "x" / "labels")


def test_table_says_what_ids_on_disk_mean(tmp_path):
    save(tmp_path / "i" / "a.png", picture(1, 4))
    save(tmp_path / "l" / "a.png", np.array([[7, 26, 0, 33]], np.uint8))
    data = ImageFolder(tmp_path / "i", labels=tmp_path / "l", table=CITYSCAPES_TRAIN_ID_OF_LABEL_ID)
    assert data[0].labels.tolist() == [[0, 13, IGNORE, 18]]
    for bad in (torch.zeros(19), torch.full((256,), 19), torch.full((256,), -2)):
        with pytest.raises(ConfigError, match="table: found"):
            ImageFolder(tmp_path / "i", labels=tmp_path / "l", table=bad)
    assert id_table(CAMVID, ignored=[11]).tolist() == [*range(11), 255, *[-1] * 243, 255]


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="none: found nothing, expected a folder"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(DataError, match=r"found no .*\(1 other files, such as readme.txt\), expected at least one"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="readme.txt: found a file, expected a folder"):
        ImageFolder(tmp_path / "readme.txt")


def test_linked_folders_are_followed_and_circles_are_not(tmp_path):
    save(tmp_path / "disk" / "a.png", picture())
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "city").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(tmp_path / "x")
    assert list(find_files(tmp_path / "x")) == ["city/a"]


def test_datasets_travel_to_loading_processes(camvid):
    data = CamVid(camvid, "train")
    assert pickle.loads(pickle.dumps(data)).ids == data.ids
    loaded = list(DataLoader(ImageFolder(camvid / "train"), batch_size=None, num_workers=1))
    assert [sample.id for sample in loaded] == data.ids and torch.equal(loaded[1].image, data[1].image)


def test_written_samples_come_back(tmp_path):
    scene = SceneDataset("real", 1, size=(32, 48))[0]
    write_sample(scene._replace(id="a/b"), tmp_path / "i", tmp_path / "l")
    again = ImageFolder(tmp_path / "i", labels=tmp_path / "l")[0]
    assert again.id == "a/b" and torch.equal(again.labels, scene.labels)
    assert (again.image - scene.image).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(ConfigError, match="suffix: found '.bmp'"):
        write_sample(scene, tmp_path, suffix=".bmp")


def test_relabelled_scenes_speak_camvid():
    scenes = SceneDataset("sim", 3, size=(64, 128))
    data = RelabelledDataset(scenes, CAMVID)
    mapping = [*CITYSCAPES.mapping_to(CAMVID).tolist(), *[IGNORE] * 237]
    assert (data.label_space, data.ids, data.groups, len(data), data.has_labels) == (CAMVID, scenes.ids, scenes.groups, 3, True)
    for old, new in zip(scenes, data):
        assert new.labels.tolist() == [[mapping[i] for i in row] for row in old.labels.tolist()]
        assert torch.equal(old.image, new.image)
    own = LabelSpace("own", ("ground", "rest"), ((0, 0, 0), (9, 9, 9)))
    by_hand = RelabelledDataset(scenes, own, mapping=torch.tensor([0, 0] + [1] * 17))
    assert set(by_hand[0].labels.unique().tolist()) <= {0, 1, IGNORE}
    for bad in (None, torch.zeros(3).long(), torch.full((19,), 2)):
        with pytest.raises(ConfigError, match="mapping from cityscapes to own"):
            RelabelledDataset(scenes, own, mapping=bad)


def test_pools_keep_ids_and_split_once():
    scenes = SceneDataset("real", 5, size=(32, 64))
    bought, rest = split_pool(scenes, {scenes.ids[4], scenes.ids[1]})
    assert bought.ids == [scenes.ids[1], scenes.ids[4]]
    assert rest.indices == [0, 2, 3] and rest.groups == [scenes.groups[i] for i in (0, 2, 3)]
    assert torch.equal(bought[1].image, scenes[4].image) and bought.label_space is CITYSCAPES
    assert Pool(rest, [2]).ids == [scenes.ids[3]] and len(Pool(scenes, [])) == 0
    for wrong in ([5], [-1], [1, 1]):
        with pytest.raises(ConfigError, match="indices: found .*expected different positions from 0 to 4"):
            Pool(scenes, wrong)
    with pytest.raises(ConfigError, match="found 'x'"):
        split_pool(scenes, ["x"])


def test_counting_classes_agrees_with_a_loop(camvid):
    scenes = SceneDataset("real", 3, size=(32, 64))
    for data in (scenes, CamVid(camvid, "train"), RelabelledDataset(scenes, CAMVID)):
        pixels, images = count_classes(data)
        for c in range(data.label_space.num_classes):
            assert pixels[c] == sum((s.labels == c).sum() for s in data) and images[c] == sum(bool((s.labels == c).any()) for s in data)
    assert torch.equal(count_classes(scenes, [1])[0], torch.bincount(scenes[1].labels[scenes[1].labels != IGNORE], minlength=19))


# -- views -------------------------------------------------------------------------------------------------------------


def painted(height, width, seed=0):
    "An image whose colour is its label, in patches."
    patches = torch.randint(0, 19, (height // 8 + 1, width // 8 + 1), generator=seeded(seed))
    labels = patches.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
    return (labels / 18).expand(3, -1, -1).clone(), labels.clone()


@pytest.mark.parametrize("augment", [weak_augment, paste_augment])
@pytest.mark.parametrize("size", [(50, 90), (64, 64), (200, 31)])
def test_labels_stay_with_their_pixels_and_none_is_invented(augment, size):
    image, labels = painted(*size)
    known = set(labels.unique().tolist()) | {IGNORE}
    for seed in range(30):
        view, ids = augment(image, labels, (48, 64), seeded(seed))
        assert view.shape == (3, 48, 64) and ids.shape == (48, 64) and ids.dtype == torch.int64 and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1 and set(ids.unique().tolist()) <= known
        near = torch.nn.functional.pad(view[:1], (1,) * 4, mode="replicate").unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)[0]
        pure = (near.amax(-1) - near.amin(-1) < 1e-4) & (ids != IGNORE)
        assert torch.equal((view[0] * 18).round().long()[pure], ids[pure])
        padding = ids == IGNORE
        assert torch.allclose(view[:, padding], torch.tensor([[0.485], [0.456], [0.406]]).expand(3, int(padding.sum())))


def test_ignored_pixels_of_the_source_stay_ignored():
    labels = torch.full((40, 40), IGNORE)
    _, ids = weak_augment(torch.rand(3, 40, 40), labels, (20, 30), seeded())
    assert (ids == IGNORE).all()


def test_labels_agree_with_a_pixel_by_pixel_version():
    image, labels = torch.zeros(3, 37, 53), torch.arange(37 * 53).view(37, 53)
    for seed in range(25):
        r = torch.rand(3, generator=seeded(seed)).tolist()
        factor = 0.2 + 3 * r[0]
        rows, columns = window(37, 20, factor, r[1]), window(53, 30, factor, r[2])
        _, ids = place(image, labels, (20, 30), rows, columns)
        for i in range(20):
            for j in range(30):
                inside = rows.at <= i < rows.at + rows.length and columns.at <= j < columns.at + columns.length
                y, x = (axis.start + (2 * (k - axis.at) + 1) * axis.size // (2 * axis.length) for axis, k in ((rows, i), (columns, j)))
                assert ids[i, j] == (labels[y, x] if inside else IGNORE)


def test_windows_stay_inside_and_use_every_place():
    for source in (1, 7, 40, 200):
        for view in (1, 16, 40):
            for factor in (0.05, 0.37, 1.0, 2.6):
                axes = [window(source, view, factor, p) for p in np.linspace(0, 0.9999999, 300)]
                for a in axes:
                    assert 0 <= a.start and a.start + a.size <= source and a.size >= 1
                    assert 0 <= a.at and a.at + a.length <= view and a.length >= 1
                    index = nearest_index(a)
                    assert len(index) == a.length and a.start <= index.min() and index.max() < a.start + a.size
                assert min(a.start for a in axes) == 0 and min(a.at for a in axes) == 0
                assert max(a.start + a.size for a in axes) == source and max(a.at + a.length for a in axes) == view


def test_identity_mirror_and_constant_image():
    image, labels = painted(32, 48)
    view, ids = weak_augment(image, labels, (32, 48), seeded(), scale=(1, 1), flip=False)
    assert torch.allclose(view, image, atol=1e-6) and torch.equal(ids, labels)
    where = window(32, 20, 1.7, 0.3), window(48, 28, 1.7, 0.9)
    plain, mirrored = place(image, labels, (20, 28), *where), place(image, labels, (20, 28), *where, flip=True)
    assert torch.equal(mirrored[0].flip(-1), plain[0]) and torch.equal(mirrored[1].flip(-1), plain[1])
    flat, _ = weak_augment(torch.full((3, 32, 48), 0.25), labels, (20, 28), seeded(), scale=(1, 3))
    assert torch.allclose(flat, torch.tensor(0.25), atol=1e-6)


@pytest.mark.parametrize("augment", [weak_augment, paste_augment])
def test_the_generator_decides_and_nothing_else(augment):
    image, labels = painted(40, 60)
    first, state = augment(image, labels, (32, 32), seeded(3)), torch.get_rng_state()
    second = augment(image, labels, (32, 32), seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(first, second)) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], augment(image, labels, (32, 32), seeded(4))[0])
    generators = seeded(), seeded()
    augment(image, labels, (32, 32), generators[0])
    augment(torch.rand(3, 99, 17), torch.zeros(99, 17).long(), (8, 8), generators[1], scale=(0.3, 0.4))
    assert torch.equal(*(torch.rand(3, generator=g) for g in generators))  # every view draws the same number of numbers


def test_the_input_is_not_changed_and_views_are_not_windows_into_it():
    image, labels = painted(32, 48)
    before = image.clone(), labels.clone()
    view, ids = weak_augment(image, labels, (32, 48), seeded(), scale=(1, 1), flip=False)
    view.zero_(), ids.zero_()
    assert torch.equal(image, before[0]) and torch.equal(labels, before[1])


def test_factor_is_drawn_evenly_on_a_logarithmic_scale():
    "Half of the views of scale (1/2, 2) are enlargements."
    image, labels = torch.zeros(3, 64, 64), torch.zeros(64, 64).long()
    g = seeded()
    padded = [bool((weak_augment(image, labels, (64, 64), g)[1] == IGNORE).any()) for _ in range(400)]
    assert 0.42 < np.mean(padded) < 0.58


@pytest.mark.parametrize("change, match", [
    (dict(labels=torch.zeros(9, 9).long()), r"labels: found shape \(9, 9\), expected the \(H, W\)"),
    (dict(crop_size=(0, 8)), "crop_size: found"), (dict(crop_size=(8,)), "crop_size"),
    (dict(scale=(0, 1)), "scale: found"), (dict(scale=(2, 1)), "scale: found"), (dict(scale=(1,)), "scale")])
def test_views_that_cannot_be_made_are_refused(change, match):
    for augment in (weak_augment, paste_augment):
        with pytest.raises(StalError, match=match):
            augment(**{**dict(image=torch.zeros(3, 8, 8), labels=torch.zeros(8, 8).long(), crop_size=(8, 8), generator=seeded()), **change})


# -- strong views ------------------------------------------------------------------------------------------------------


def slow_recolour(pixel, mean, beta, kappa, sigma, turns, grey):
    "One pixel, step after step, in plain Python."
    luma = lambda c: 0.2989 * c[0] + 0.587 * c[1] + 0.114 * c[2]  # noqa: E731
    c = [beta * v for v in pixel]
    c = [kappa * v + (1 - kappa) * beta * mean for v in c]
    c = [sigma * v + (1 - sigma) * luma(c) for v in c]
    cos, sin, along = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns), sum(c) / 3
    cross = [(c[2] - c[1]) / 3**0.5, (c[0] - c[2]) / 3**0.5, (c[1] - c[0]) / 3**0.5]
    turned = [cos * v + (1 - cos) * along + sin * x for v, x in zip(c, cross)]
    c = [v + luma(c) - luma(turned) for v in turned]
    c = [(1 - grey) * v + grey * luma(c) for v in c]
    return [min(1, max(0, v)) for v in c]


def test_one_matrix_equals_step_after_step():
    images = torch.rand(3, 3, 4, 5, generator=seeded())
    factors = dict(brightness=torch.tensor([0.7, 1.3, 1.0]), contrast=torch.tensor([1.4, 0.6, 1.0]),
                   saturation=torch.tensor([0.5, 1.5, 1.0]), hue=torch.tensor([0.1, -0.07, 0.0]), grey=torch.tensor([0.0, 0.3, 1.0]))
    out = recolour(images, colour_matrix(**factors), factors["brightness"], factors["contrast"])
    for b in range(3):
        mean = sum(0.2989 * p[0] + 0.587 * p[1] + 0.114 * p[2] for p in images[b].flatten(1).T.tolist()) / 20
        for y in range(4):
            for x in range(5):
                expected = slow_recolour(images[b, :, y, x].tolist(), mean, *(float(f[b]) for f in factors.values()))
                assert np.allclose(out[b, :, y, x], expected, atol=1e-5)


def test_blur_equals_a_sum_over_neighbours_and_zero_is_none():
    images, sigma = torch.rand(2, 3, 6, 7, generator=seeded()), torch.tensor([0.0, 0.8])
    out = gaussian_blur(images, sigma, radius=2)
    assert torch.allclose(out[0], images[0], atol=1e-6)
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    weights /= weights.sum()
    for y in range(6):
        for x in range(7):
            value = sum(weights[i + 2] * weights[j + 2] * images[1, :, min(5, max(0, y + i)), min(6, max(0, x + j))]
                        for i in range(-2, 3) for j in range(-2, 3))
            assert torch.allclose(out[1, :, y, x], value, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_strong_views_stay_in_range_in_every_precision(dtype):
    images = torch.rand(6, 3, 16, 20, generator=seeded()).to(dtype)
    for seed in range(5):
        out = strong_augment(images, seeded(seed), strength=2.0)
        assert out.dtype == dtype and out.shape == images.shape and torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1


def test_strong_views_are_the_same_under_autocast_and_for_any_memory_layout():
    images = torch.rand(4, 3, 16, 20, generator=seeded())
    plain = strong_augment(images, seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(strong_augment(images, seeded(1)), plain)
    assert torch.allclose(strong_augment(images.contiguous(memory_format=torch.channels_last), seeded(1)), plain, atol=1e-6)


def test_each_image_gets_its_own_change_and_its_neighbours_do_not_matter():
    images = torch.rand(1, 3, 16, 20, generator=seeded()).expand(16, -1, -1, -1).clone()
    out = strong_augment(images, seeded(0))
    assert len({tuple(o.flatten()[:50].tolist()) for o in out}) > 12
    other = images.clone()
    other[1:] = 0
    assert torch.allclose(strong_augment(other, seeded(0))[0], out[0], atol=1e-6)
    assert torch.equal(images[0], images[1])  # the input is not changed


def test_strength_and_probabilities_switch_things_off():
    images = torch.rand(32, 3, 12, 12, generator=seeded())
    assert torch.allclose(strong_augment(images, seeded(), strength=0), images, atol=1e-6)
    assert torch.allclose(strong_augment(images, seeded(), jitter=0, grey=0, blur=0), images, atol=1e-5)
    assert strong_augment(images, seeded(), jitter=0, grey=1, blur=0).std(1).max() < 1e-5  # all channels alike
    def changed(**probabilities):
        out = strong_augment(images, seeded(3), **{**dict(jitter=0, grey=0, blur=0), **probabilities})
        return ((out - images).abs().amax((1, 2, 3)) > 1e-4).float().mean()
    assert changed(jitter=1) == 1 and changed(blur=1) > 0.7 and 0.2 < changed(blur=0.5) < 0.8 and changed(grey=0.2) < 0.5
    sharp, soft = (strong_augment(images, seeded(), jitter=0, grey=0, blur=1, max_sigma=s).std() for s in (0.3, 3.0))
    assert soft < sharp


def test_no_images_and_tiny_images():
    assert strong_augment(torch.zeros(0, 3, 8, 8), seeded()).shape == (0, 3, 8, 8)
    assert torch.isfinite(strong_augment(torch.rand(2, 3, 1, 2), seeded(), blur=1)).all()


@pytest.mark.parametrize("change, match", [(dict(strength=-1), "strength"), (dict(strength=3), "strength"), (dict(max_sigma=0), "sigma"),
                                           (dict(blur=1.5), "blur: found 1.5"), (dict(grey=-0.1), "grey"), (dict(jitter=2), "jitter")])
def test_strong_settings_that_cannot_work_are_refused(change, match):
    with pytest.raises(ConfigError, match=match):
        strong_augment(torch.zeros(1, 3, 4, 4), seeded(), **change)


def test_jpeg_bytes_changed_at_random_never_crash(tmp_path):
    "Either a picture or a `DataError`; JPEG has no checksum, so small damage can pass as a strange picture."
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(picture()).save(buffer, "JPEG")
    refused = 0
    for _ in range(200):
        data = bytearray(buffer.getvalue())
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        (tmp_path / "x.jpg").write_bytes(data)
        try:
            assert torch.isfinite(read_image(tmp_path / "x.jpg")).all()
        except DataError:
            refused += 1
    assert 0 < refused < 200
