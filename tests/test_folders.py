"""Folders as people keep them: what becomes an image, what a label, what neither, from files on disk and through the command line."""
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stal_nb import datasets
from stal_nb.annotation_formats import kind_of, read_content
from stal_nb.classes import read_classes
from stal_nb.cli import main
from stal_nb.combine import Joined, folder_dataset, hold_out, labelled_only
from stal_nb.config import Config
from stal_nb.data import Pool, has_label, read_split
from stal_nb.datasets import RunData
from stal_nb.foldernames import PROGRAMS, annotation_kind
from stal_nb.folders import look_at
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError, DataError

NOISE = np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), dtype=np.uint8)


def photo(file, k=0, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE[k % 8]).save(file, **options)


def mask(file, value=3):
    file.parent.mkdir(parents=True, exist_ok=True)
    ids = np.full((64, 96), value, np.uint8)
    ids[:20] = 10
    Image.fromarray(ids).save(file)


def pairs(root, images, labels, count=3):
    "`images` and `labels` are patterns with {}."
    for k in range(count):
        photo(root / images.format(k), k)
        mask(root / labels.format(k))


def check(*words):
    return main(["check-data", "--preset", "folder", "--no-bar", "--workers=0", "--set", "source_images=1", "--set", "image_size=[32, 32]", *map(str, words)])


# -- layouts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images, labels, ids", [
    ("images/{}.jpg", "labels/{}.png", "012"), ("{}.jpg", "{}.png", "012"), ("{}.bmp", "{}.png", "012"), ("a{}.png", "a{}_mask.png", ["a0", "a1", "a2"]),
    ("{}.jpg", "{}-GT.PNG", "012"), ("imgs/{}.webp", "masks/{}_mask.png", "012"), ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "012"),
    ("day{}/images/x.tif", "day{}/labels/x.png", ["day0/x", "day1/x", "day2/x"]), ("train/{}.jpg", "trainannot/{}.png", "012"),
    ("images/train/{}.jpg", "labels/train/{}.png", "012"), ("photos/{}.jfif", "masks_2024/{}.jfif.png", "012"),
    ("{}_sat.jpg", "{}_mask.png", ["0_sat", "1_sat", "2_sat"]), ("images/{}.jpg", "labels/{}_P.png", "012"),
    ("leftImg8bit/train/ulm/ulm_{}_leftImg8bit.png", "gtFine/train/ulm/ulm_{}_gtFine_labelIds.png", [f"ulm/ulm_{k}_leftImg8bit" for k in range(3)])])
def test_each_layout_is_recognised_and_told(tmp_path, capsys, images, labels, ids):
    pairs(tmp_path, images, labels)
    found = look_at(tmp_path)
    assert list(found.images) == list(ids) == list(found.labels) and not found.unused and not found.skipped
    assert "labels of 3 in" in found.notes()[0] and Path(images).suffix in found.notes()[0]
    data = folder_dataset(found, CITYSCAPES)
    assert [data.load_labels(k).unique().tolist() for k in range(3)] == [[3, 10]] * 3
    assert check("--root", tmp_path) == 0
    assert f"target: {tmp_path}: 3 images in" in capsys.readouterr().out


def test_parts_are_source_target_and_validation(tmp_path, capsys):
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        pairs(tmp_path, f"{part}/images/{{}}.jpg", f"{part}/labels/{{}}.png", count)
    data = RunData(Config.preset("folder", data_root=tmp_path, source="folder", source_root=tmp_path, annotator="oracle"))
    assert (len(data.source), len(data.target), len(data.val)) == (3, 3, 2) and data.target.ids == ["0", "1", "2"]
    assert data.val.images[0].parent == tmp_path / "val" / "images"
    assert check("--root", tmp_path) == 0
    said = capsys.readouterr().out
    assert "part val: 2 images, for validation" in said and "part test: 1 images, which are left alone" in said
    photo(tmp_path / "elsewhere" / "9.jpg")
    with pytest.raises(DataError, match="found images in train/ and others outside, such as .*9.jpg, expected all in train/"):
        look_at(tmp_path)


def test_old_layout_and_lists_of_voc_divide_a_folder(tmp_path):
    pairs(tmp_path / "old", "images/{}.jpg", "labels/{}.png")
    pairs(tmp_path / "old", "val_images/{}.jpg", "val_labels/{}.png", 2)
    assert len(look_at(tmp_path / "old").images) == 3 and len(look_at(tmp_path / "old").parts["val"].labels) == 2
    pairs(tmp_path / "voc", "JPEGImages/{}.jpg", "SegmentationClass/{}.png", 5)
    for part, names in (("train", "0\n1\n"), ("val", "2\r\n3")):
        (tmp_path / "voc/ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"voc/ImageSets/Segmentation/{part}.txt").write_text(names)
    found = look_at(tmp_path / "voc")
    assert list(found.images) == ["0", "1", "4"] and list(found.parts["val"].images) == ["2", "3"]


def test_validation_alone_is_no_target(tmp_path, capsys):
    pairs(tmp_path, "val/{}.jpg", "val/{}.png")
    assert check("--root", tmp_path) == 1
    assert "found val/, expected train/ with the images to learn from" in capsys.readouterr().err


def test_names_match_in_both_forms_of_an_umlaut(tmp_path):
    name = "Zürich"
    photo(tmp_path / "images" / f"{unicodedata.normalize('NFD', name)}.jpg")
    mask(tmp_path / "labels" / f"{unicodedata.normalize('NFC', name)}.png")
    data = folder_dataset(look_at(tmp_path), CITYSCAPES)
    assert data.ids == [name] and data.has_label(0)
    (tmp_path / "list.txt").write_text(unicodedata.normalize("NFD", f"D:\\camera\\images\\{name}.jpg"), encoding="utf-8")
    assert read_split(tmp_path / "list.txt", data) == [name]


# -- what is no image --------------------------------------------------------------------------------------------------------


def test_labels_runs_and_predictions_do_not_become_images(tmp_path, capsys):
    for k in range(3):
        photo(tmp_path / f"{k}.jpg", k)
        mask(tmp_path / f"answers/{k}.png")  # a name that says nothing
        photo(tmp_path / f"predictions/{k}.png", k + 1)
        photo(tmp_path / f"out/colour/{k}.png", k + 2)
        mask(tmp_path / f"runs/first/labels/{k}.png")
        mask(tmp_path / f"{k}_road.png")  # an ending that nobody knows
    (tmp_path / "runs/first/config.json").write_text(json.dumps(Config.preset("demo").to_dict()))
    found = look_at(tmp_path)
    assert list(found.images) == ["0", "1", "2"] and not found.labels
    assert check("--root", tmp_path) == 0
    said = capsys.readouterr().out
    for words in ("passed over predictions, out/colour: named as predictions", "runs/first: a run of stal_nb",
                  "labels if stated: 'answers'", "labels if stated: label_ending = '_road'"):
        assert words in said.replace("out/colour, predictions", "predictions, out/colour"), words
    assert len(look_at(tmp_path, labels="answers").labels) == len(look_at(tmp_path, ending="_road").labels) == 3


def test_groups_with_the_same_names_are_all_images(tmp_path):
    for place in ("north", "south"):
        for k in range(2):
            photo(tmp_path / place / f"{k}.png", k)
    assert list(look_at(tmp_path).images) == ["north/0", "north/1", "south/0", "south/1"]
    assert look_at(tmp_path).groups == {"north": 2, "south": 2}


def test_what_is_beside_images_is_passed_over_and_named(tmp_path):
    pairs(tmp_path, "images/{}.jpg", "labels/{}.png")
    photo(tmp_path / "preview.png")
    photo(tmp_path / "backup" / "7.jpg")
    (tmp_path / "images" / "4.heic").write_text("a phone's photograph")
    mask(tmp_path / "labels" / "99.png")
    mask(tmp_path / "labels" / "1_color.png")
    found = look_at(tmp_path)
    assert len(found.images) == 3 and [file.name for file in found.unused] == ["99.png"]
    said = "\n".join(found.notes())
    for words in ("backup, preview.png: beside images/", "images/4.heic: .heic is not read", "label files that belong to no image: 1 (99.png)",
                  "1_color.png: named as colours"):
        assert words in said, words


@pytest.mark.parametrize("make, root, words", [
    (lambda d: pairs(d, "images/{}.jpg", "masks/{}.png") or pairs(d, "images/{}.jpg", "gt/{}.png"), "",
     "two labels of the image '0', gt/0.png and masks/0.png.*target_labels"),
    (lambda d: pairs(d, "{}.jpg", "{}_gt.png") or pairs(d, "{}.jpg", "{}_mask.png"), "", "label_ending"),
    (lambda d: photo(d / "images/1.jpg") or photo(d / "photos/1.jpg"), "", "found images/ and photos/, expected one folder of images"),
    (lambda d: photo(d / "1.jpg") or photo(d / "1.png"), "", "found 1.jpg and 1.png, expected one image with the id '1', or an image and a PNG of few values"),
    (lambda d: mask(d / "labels/1.png"), "labels", "1 pictures of few values in a folder that is named as labels"),
    (lambda d: mask(d / "labels/1.png"), "", "found no image but 1 label files, such as 1.png"),
    (lambda d: (d / "notes.txt").write_text("x"), "", r"found no image \(passed over: 1, such as notes.txt\)")])
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, capsys, make, root, words):
    make(tmp_path)
    with pytest.raises(DataError, match=words):
        look_at(tmp_path / root)
    assert check("--root", tmp_path / root) == 1
    assert "stal_nb: DataError: " in capsys.readouterr().err


def test_stated_labels_decide(tmp_path, capsys):
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    pairs(tmp_path, "images/{}.jpg", "gt/{}.png")
    assert check("--root", tmp_path, "--set", "target_labels=gt") == 0
    said = capsys.readouterr().out
    assert "labels of 3 in gt/" in said and "masks/0.png, masks/1.png, masks/2.png: in a folder of labels other than the stated one" in said
    assert check("--root", tmp_path, "--set", "target_labels=nowhere") == 1
    assert "nowhere: found nothing, expected the folder of labels" in capsys.readouterr().err
    assert check("--root", tmp_path, "--set", "target_labels=gt", "--set", "label_ending=_seg") == 1
    assert "found no label file that ends in '_seg', expected one such as 0_seg.png" in capsys.readouterr().err
    pairs(tmp_path / "away", "{}.jpg", "{}.txt.png", 0)
    for k in range(3):
        mask(tmp_path / "elsewhere" / f"{k}.png")
    assert len(look_at(tmp_path, labels=tmp_path / "elsewhere").labels) == 3


@pytest.mark.parametrize("name, content, kind", [
    ("a.json", {"images": [], "annotations": [], "categories": []}, "COCO"), ("0.json", {"version": "5", "shapes": [], "imagePath": "0.jpg"}, "labelme"),
    ("tasks.json", [{"id": 1, "data": {"image": "0.jpg"}, "annotations": []}], "Label Studio"),
    ("annotations.xml", "<?xml version='1.0'?>\n<annotations><version>1.1</version></annotations>", "CVAT"),
    ("0.xml", "<annotation><filename>0.jpg</filename></annotation>", "Pascal VOC boxes")])
def test_files_of_annotation_programs_are_found_and_named(tmp_path, name, content, kind):
    photo(tmp_path / "images" / "0.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "classes.json").write_text('{"classes": [], "categories": [], "images": []}')
    found = look_at(tmp_path)
    assert {file.name: found for file, found in found.annotations.items()} == {name: kind} and not found.labels
    assert f"annotations: {kind}, 1 file: {name}" in found.notes()


LONG = [{"id": k, "file_name": f"{k}.jpg", "height": 8, "width": 8} for k in range(400)]


@pytest.mark.parametrize("name, content, kind", [
    ("empty.json", [], ""), ("tasks.json", [{"id": 1, "data": {"image": "0.jpg"}}], "Label Studio"), ("numbers.json", [1, 2], ""),
    ("blank.json", {"categories": [], "annotations": []}, "COCO"), ("info.json", {"images": LONG, "categories": []}, ""),
    ("middle.json", {"images": LONG, "categories": [{"id": 1, "name": "a"}], "annotations": [
        {"id": k, "image_id": k, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]} for k in range(400)]}, "COCO"),
    ("first.json", {"annotations": [], "categories": [], "info": {}, "images": LONG}, "COCO"),
    ("old.json", {"shapes": [], "lineColor": [0, 255, 0]}, "labelme"), ("other.json", {"text": '"categories" "images" "annotations"'}, ""),
    ("deep.json", {"meta": {"images": [], "annotations": [], "categories": []}}, ""), ("other.xml", "<annotationset/>", ""),
    ("boxes.xml", "<annotation><filename>0.jpg</filename></annotation>", "Pascal VOC boxes"),
    ("cvat.xml", "<?xml version='1.0'?>\n<!-- by hand -->\n<annotations><version>1.1</version></annotations>", "CVAT"),
    ("damaged.json", '{"images": [], "categories": [], "annotations": [', "COCO")])
def test_what_is_found_is_what_is_read(tmp_path, name, content, kind):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    assert annotation_kind(file) == kind
    if not name.startswith("damaged"):
        assert PROGRAMS.get(kind_of(read_content(file)), "") == kind.replace("Pascal VOC boxes", "")


def test_a_reader_of_annotation_files_gives_the_labels(tmp_path):
    "The one place where it plugs in gets the files of the part, and the sizes of the images."
    for part, size in (("train", (64, 96)), ("val", (64, 96))):
        for k in range(2):
            photo(tmp_path / part / f"{k}.jpg", k)
        (tmp_path / f"instances_{part}2017.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "boxes.xml").write_text("<annotation><filename>0.jpg</filename></annotation>")
    asked = []

    def read(files, sizes):
        asked.append(([file.name for file in files], len(sizes), sizes["1"]))
        return {"1": lambda: np.full((64, 96), 4, np.uint8)}

    found = look_at(tmp_path)
    data = folder_dataset(found, CITYSCAPES, read=read)
    assert [data.has_label(k) for k in range(2)] == [False, True] and (data[1].labels == 4).all() and data[1].labels.dtype == torch.int64
    assert folder_dataset(found.parts["val"], CITYSCAPES, read=read).has_labels
    assert asked == [(["instances_train2017.json"], 2, (64, 96)), (["instances_val2017.json"], 2, (64, 96))]
    assert not folder_dataset(found, CITYSCAPES).has_labels
    stated = look_at(tmp_path, labels="instances_val2017.json")
    assert list(stated.parts["val"].annotations.values()) == ["COCO"] and not stated.annotations
    with pytest.raises(DataError, match="notes.txt: found nothing, expected the folder of labels, or a file of an annotation program"):
        look_at(tmp_path, labels="notes.txt")


# -- images without a label --------------------------------------------------------------------------------------------------


def test_frames_without_a_label_stay_unlabelled_and_are_named(tmp_path, capsys):
    pairs(tmp_path, "images/{}.jpg", "labels/{}.png", 5)
    for k in (1, 3):
        (tmp_path / f"labels/{k}.png").unlink()
    data = folder_dataset(look_at(tmp_path), CITYSCAPES)
    assert [has_label(data, k) for k in range(5)] == [True, False, True, False, True] and data.has_labels
    assert (data[1].labels == IGNORE).all() and (data.load_labels(3) == IGNORE).all()
    assert [has_label(Pool(data, [3, 4]), k) for k in range(2)] == [False, True]
    assert check("--root", tmp_path) == 0
    said = capsys.readouterr().out
    assert "images without a label: 2 of 5 (1, 3)" in said and "2 x image without a label, which stays unlabelled: 1, 3" in said
    _, coding = read_classes({"classes": list(CITYSCAPES.classes), "background": "building"})
    as_background = folder_dataset(look_at(tmp_path), CITYSCAPES, coding=coding)
    assert as_background.has_label(1) and (as_background[1].labels == 2).all() and as_background.files(1)[1] is None
    assert not folder_dataset(look_at(tmp_path / "images"), CITYSCAPES, coding=coding).has_labels
    run = RunData(Config.preset("folder", data_root=tmp_path, source="folder", source_root=tmp_path))
    assert len(run.target) == 5 and run.source.ids == labelled_only(data).ids == ["0", "2", "4"]


def test_validation_without_labels_is_refused_and_in_part_it_is_what_is_labelled(tmp_path):
    for k in range(2):
        photo(tmp_path / f"train/{k}.jpg", k)
        photo(tmp_path / f"val/{k}.jpg", k)
    config = Config.preset("folder", data_root=tmp_path)
    with pytest.raises(DataError, match="found validation images without labels"):
        _ = RunData(config).val
    mask(tmp_path / "val/1.png")
    assert RunData(config).val.ids == ["1"]


def test_an_oracle_is_asked_for_what_it_has(tmp_path):
    "A round asks for all images; three of five have an answer."
    pairs(tmp_path / "data", "images/{}.jpg", "labels/{}.png", 5)
    for k in (1, 3):
        (tmp_path / f"data/labels/{k}.png").unlink()
    tiny = dict(backbone="timm/test_efficientnet", weights=None, aspp_channels=16, embedding_dim=8, crop_size=(32, 32), image_size=(32, 32), device="cpu")
    config = Config.preset("folder", data_root=tmp_path / "data", annotator="oracle", source_images=2, source_steps=0, round_steps=(0,), budgets=(1.0,),
                           **tiny)
    run = Run.create(config, tmp_path / "run")
    run.bar = False
    while run.stage and run.stage != "round 0: train":
        run.advance()
    assert run.store.ids() == ["0", "2", "4"]


# -- several folders, and a part held out --------------------------------------------------------------------------------------


def test_several_sources_are_one_with_unique_ids(tmp_path, capsys):
    for place in ("left", "right"):
        pairs(tmp_path / place / "frames", "images/{}.jpg", "labels/{}.png", 2)
    roots = [tmp_path / place / "frames" for place in ("left", "right")]
    assert check("--root", roots[0], "--set", "source=folder", "--source-root", roots[0], "--source-root", roots[1]) == 0
    said = capsys.readouterr().out
    assert f"source: {roots[0]}: 2 images" in said and f"source: {roots[1]}: 2 images" in said and "source: 4 of 4 images" in said
    config = Config.preset("folder", data_root=roots[0], source="folder", source_root=roots)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    source = RunData(config).source
    assert source.ids == ["left/frames/0", "left/frames/1", "right/frames/0", "right/frames/1"] and isinstance(source, Joined)
    assert source[3].id == source.ids[3] and torch.equal(source[3].labels, source.load_labels(3)) and source.groups[3] == "right/frames"
    assert len(RunData(Config.preset("folder", data_root=roots[0], source="folder", source_root=roots, source_images=3)).source) == 3
    with pytest.raises(ConfigError, match="frames twice, expected different folders"):
        _ = RunData(Config.preset("folder", data_root=roots[0], source="folder", source_root=[roots[0], roots[0]])).source


def test_whole_groups_are_held_out_and_added_images_move_no_other(tmp_path, capsys):
    for day in range(8):
        pairs(tmp_path, f"images/day{day}/{{}}.jpg", f"labels/day{day}/{{}}.png", 2)
    (tmp_path / "labels/day0/0.png").unlink()
    config = Config.preset("folder", data_root=tmp_path, annotator="oracle", holdout=0.3)
    data = RunData(config)
    held, left = set(data.val.groups), set(data.target.groups)
    assert held and left and not held & left and len(held | left) == 8
    assert set(RunData(config).val.ids) == set(data.val.ids) != set(RunData(Config.preset("folder", data_root=tmp_path, holdout=0.3, seed=5)).val.ids)
    for day in range(8, 12):
        pairs(tmp_path, f"images/day{day}/{{}}.jpg", f"labels/day{day}/{{}}.png", 2)
    again = RunData(config)
    assert set(data.target.ids) <= set(again.target.ids)
    assert check("--root", tmp_path, "--set", "holdout=0.3") == 0
    assert "held out for validation: " in (said := capsys.readouterr().out) and " of 12 groups (day" in said


def test_without_groups_single_images_are_held_out(tmp_path):
    pairs(tmp_path, "{}.jpg", "{}.png", 40)
    data = folder_dataset(look_at(tmp_path), CITYSCAPES)
    left, held, words = hold_out(data, 0.25, seed=0)
    assert 3 <= len(held) <= 18 and len(left) + len(held) == 40 and "chosen by their ids, seed 0" in words
    with pytest.raises(ConfigError, match="holdout: found 0.2 for 0 labelled images"):
        (tmp_path / "bare").mkdir()
        photo(tmp_path / "bare" / "1.jpg")
        _ = RunData(Config.preset("folder", data_root=tmp_path / "bare", holdout=0.2)).val
    with pytest.raises(ConfigError, match="holdout, target_split: found 0.2 and 'x.txt', expected one of them"):
        Config.preset("folder", data_root=tmp_path, holdout=0.2, target_split="x.txt")
    with pytest.raises(ConfigError, match="holdout: found 1.0, expected a number from 0 to below 1"):
        Config.preset("folder", holdout=1.0)


# -- formats -----------------------------------------------------------------------------------------------------------------


def test_a_folder_of_all_formats_is_read_and_counted(tmp_path, capsys):
    stereo = Image.fromarray(NOISE[0])
    for k, suffix in enumerate((".jpg", ".png", ".webp", ".bmp", ".tif", ".jfif", ".mpo", ".ppm")):
        name = tmp_path / f"images/{k}{suffix}"
        more = {"save_all": True, "append_images": [stereo.rotate(180)]} if suffix == ".mpo" else {"format": "JPEG"} if suffix == ".jfif" else {}
        photo(name, 0, **more)
    Image.fromarray(NOISE[0]).convert("CMYK").save(tmp_path / "images/8.jpg")
    assert check("--root", tmp_path) == 0
    said = capsys.readouterr().out
    assert "9 of 9 images looked at" in said and "64 x 96: 9" in said and "No file is broken." in said and "1 .mpo" in said
    data = folder_dataset(look_at(tmp_path), CITYSCAPES)
    reference = torch.from_numpy(NOISE[0]).movedim(-1, 0) / 255
    for k in (1, 3, 4, 7):
        assert torch.equal(data.load_image(k), reference.float()), data.images[k]
    assert (data.load_image(8) - reference).abs().mean() < 0.1


def test_a_thermal_camera_needs_a_stated_range(tmp_path, capsys):
    celsius = np.linspace(10, 40, 64 * 96).reshape(64, 96)
    (tmp_path / "images").mkdir()
    Image.fromarray(((celsius + 273.15) * 100).astype(np.uint16)).save(tmp_path / "images/0.tiff")
    Image.fromarray(celsius.astype(np.float32)).save(tmp_path / "images/1.tif")
    assert check("--root", tmp_path) == 1
    assert "1.tif: found numbers of 32 bits from 10 to 40, expected a stated range" in capsys.readouterr().out
    assert check("--root", tmp_path, "--set", "image_range=minmax") == 0
    data = RunData(Config.preset("folder", data_root=tmp_path, image_range=(28315, 31315))).target
    assert torch.allclose(data.load_image(0)[0], torch.linspace(0, 1, 64 * 96).view(64, 96), atol=1e-3)
    assert RunData(Config.preset("folder", data_root=tmp_path)).target.load_image(0).std() < 0.02
    capsys.readouterr()
    assert check("--root", tmp_path, "--set", "image_range=5,1") == 1
    assert "image_range: found (5, 1), expected two numbers, the first below the second" in capsys.readouterr().err


# -- kinds of one's own --------------------------------------------------------------------------------------------------------


def test_a_kind_in_a_module_of_ones_own_is_known_on_the_command_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "my_camera.py").write_text(
        "from stal_nb import datasets\nfrom stal_nb.scenes import SceneDataset\n"
        "datasets.register('mine', lambda role, root, config: SceneDataset('real', 3, size=(64, 128)), on_disk=False)\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no camera here')")
    monkeypatch.chdir(tmp_path)
    words = ["check-data", "--set", "data=mine", "--set", "source=mine", "--no-bar", "--workers=0"]
    try:
        assert main(words) == 1 and "data: found 'mine'" in capsys.readouterr().err
        for name in ("my_camera", "my_camera.py", str(tmp_path / "my_camera.py")):
            assert main([*words, "--import", name]) == 0
            assert "target: 3 of 3 images" in capsys.readouterr().out
        for name, said in (("broken", r"--import: found broken, which cannot be imported (RuntimeError: no camera here)"), ("nowhere", "ModuleNotFoundError"),
                           ("nowhere.py", "found no file nowhere.py")):
            assert main([*words, "--import", name]) == 1 and said in capsys.readouterr().err
    finally:
        datasets.KINDS.pop("mine", None)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_folders_that_are_swapped_are_refused(tmp_path, capsys, suffix):
    pairs(tmp_path, "labels/{}" + suffix, "images/{}.png")
    assert check("--root", tmp_path) == 1
    said = capsys.readouterr().err
    assert f"found a picture of few values in images/0.png, and a photograph in labels/0{suffix}" in said and "swapped?" in said


def test_labels_in_files_of_another_kind_are_named_with_the_reason(tmp_path):
    pairs(tmp_path, "images/{}.jpg", "labels/{}.bmp")
    notes = look_at(tmp_path).notes()
    assert "passed over labels/0.bmp, labels/1.bmp, labels/2.bmp: labels are read from PNG alone (a JPEG changes their values)" in notes
