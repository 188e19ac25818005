"""What people's folders and files hold that nobody planned: from files on disk, through the command line."""
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stal_nb.annotation_formats
import stal_nb.foldernames
from stal_nb.cli import describe, main
from stal_nb.comparison import aligned
from stal_nb.labels import LabelSpace, Sample
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError, DataError
from stal_nb.runtime.listing import columns_of, padded
from tiny import TINY, tiny


def photo(file, seed=0, size=(32, 48), **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(file, **options)


def label(file, codes=(0, 1), size=(32, 48)):
    file.parent.mkdir(parents=True, exist_ok=True)
    row = np.array(codes)[np.arange(size[1]) * len(codes) // size[1]]
    Image.fromarray(np.repeat(row[None], size[0], 0).astype(np.uint8)).save(file)


def camera(root, count=6, codes=(0, 1), first=0):
    for k in range(count):
        photo(root / f"images/{k:03d}.jpg", first + k)
        label(root / f"labels/{k:03d}.png", codes)
    return root


def coco(root, annotations, categories, count=3, **about):
    for k in range(count):
        photo(root / f"images/{k:03d}.jpg", k)
    images = [{"id": k, "file_name": f"{k:03d}.jpg", **about} for k in range(count)]
    (root / "annotations.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))


SQUARE = [[2, 2, 30, 2, 30, 20, 2, 20]]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_of_classes_lose_blanks_around_them(here, capsys):
    "Two categories of COCO, and three spellings of labelme, which nobody can tell apart by looking."
    coco(here / "c", [{"id": k, "image_id": k, "category_id": k + 3, "segmentation": SQUARE} for k in range(3)],
         [{"id": 3, "name": "smoke "}, {"id": 4, "name": "smoke"}, {"id": 5, "name": "fire\n"}])
    assert main(["new", "c", "--no-bar"]) == 0 and "! " not in (said := capsys.readouterr().out) and "background, fire, smoke" in said
    assert main(["check-data", "--config", "stal.toml", "--workers", "1", "--no-bar"]) == 0
    assert [entry.get("comment") for entry in json.loads(Path("classes.json").read_text())["classes"]] == [None, "1 outline", "2 outlines"]
    for k in range(2):
        photo(here / f"l/{k}.jpg", k)
        shape = {"label": ("smoke", " ")[k], "points": [[0, 0], [30, 0], [30, 20]], "shape_type": "polygon"}
        (here / f"l/{k}.json").write_text(json.dumps({"version": "5", "shapes": [shape], "imagePath": f"{k}.jpg"}))
    assert main(["new", "l", "--out", "o", "--no-bar"]) == 1
    assert "1.json: shape 0: found label ' ', expected the name of a class" in capsys.readouterr().err


def test_an_empty_annotation_is_left_out_and_a_box_is_refused(here, capsys):
    drawn = {"id": 0, "image_id": 0, "category_id": 1, "segmentation": SQUARE}
    empty = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [], "bbox": [0, 0, 0, 0]}
    names = [{"id": 1, "name": "fire"}]
    coco(here / "c", [drawn, empty], names)
    assert main(["new", "c", "--no-bar"]) == 0
    assert main(["check-data", "--config", "stal.toml", "--workers", "1", "--no-bar"]) == 0
    assert "1 × annotation without an outline: left out" in capsys.readouterr().out
    for wrong in ([drawn, {**empty, "bbox": [1, 2, 3, 4]}], [empty]):
        coco(here / "c", wrong, names)
        assert main(["new", "c", "--out", "o", "--no-bar"]) == 1 and "a box and no outline (1 such)" in capsys.readouterr().err
    coco(here / "c", [{**drawn, "segmentation": [[0.1, 0.2, 0.9, 0.2, 1.0, 0.8]]}], names)
    assert main(["new", "c", "--out", "o", "--no-bar"]) == 1
    assert "coordinates are all at most 1, expected x and y in pixels" in capsys.readouterr().err


def test_new_says_what_a_run_would_refuse(here, capsys):
    "Labels of another size, an image that is turned and its label not, outlines of other images, values that nobody declared."
    camera(here / "c")
    photo(here / "c/images/000.jpg", size=(64, 96))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(here / "c/images/001.jpg", exif=turned)
    (here / "c/classes.json").write_text('{"classes": ["sky"  , "car"], "ignore": [255]}')
    label(here / "c/labels/002.png", (0, 1, 7))
    assert main(["new", "c", "--no-bar"]) == 0
    said = capsys.readouterr().out
    assert "2 labels of another size than the image" in said and "found a label of 32 x 48" in said and "expected 64 x 96" in said
    assert "expected 48 x 32 as in c/images/001.jpg; is the image turned by its EXIF orientation" in said
    assert "! c/labels/002.png: found the value 7 in 512 pixels, expected 0 (sky), 1 (car), 255 (ignore). What is no class" in said
    coco(here / "d", [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": SQUARE}], [{"id": 1, "name": "fire"}], height=64, width=96)
    assert main(["new", "d", "--out", "o", "--no-bar"]) == 0
    assert "3 labels of another size" in (said := capsys.readouterr().out) and "annotations.json: 000.jpg: found a label of 64 x 96" in said
    for k in range(3):
        os.rename(here / f"d/images/{k:03d}.jpg", here / f"d/images/IMG_{k}.jpg")
    assert main(["new", "d", "--out", "p", "--no-bar"]) == 1
    assert "found 000, 001, 002, none of which is an image here" in capsys.readouterr().err.replace(".jpg", "")


def test_values_and_colours_in_one_folder_are_refused(here, capsys):
    camera(here / "c")
    colours = np.zeros((32, 48, 3), np.uint8)
    colours[:16] = 255, 0, 0
    Image.fromarray(colours).save(here / "c/labels/003.png")
    assert main(["new", "c", "--no-bar"]) == 1 and not Path("classes.json").exists()
    assert "found colours in c/labels/003.png, and values of one channel in c/labels/000.png" in capsys.readouterr().err


def test_a_slip_in_two_of_many_labels_is_ignored_and_named(here, capsys):
    for k in range(200):
        photo(here / f"c/images/{k:03d}.png", k, (24, 48))
        label(here / f"c/labels/{k:03d}.png", (0, 1, 2), (24, 48))
    for k in (7, 90):
        file = here / f"c/labels/{k:03d}.png"
        codes = np.array(Image.open(file))
        codes[3, 4] = 113
        Image.fromarray(codes).save(file)
    assert main(["new", "c", "--no-bar"]) == 0
    assert "113 (2 pixels, in 2 of 200 files, such as c/labels/007.png) is ignored as a slip of the pen" in capsys.readouterr().out
    content = json.loads(Path("classes.json").read_text())
    assert [entry["value"] for entry in content["classes"]] == [0, 1, 2] and content["ignore"] == [255, 113]


def test_many_greys_are_doubted(here, capsys):
    camera(here / "c")
    for k in range(6):
        label(here / f"c/labels/{k:03d}.png", range(100), (100, 100))
        photo(here / f"c/images/{k:03d}.jpg", k, (100, 100))
    assert main(["new", "c", "--no-bar"]) == 0
    assert "! 100 classes are many: were the labels scaled with smoothing" in capsys.readouterr().out


def test_label_files_that_cannot_be_used_are_not_called_ignored(here, capsys):
    camera(here / "c", codes=(0, 9))
    (here / "c/classes.json").write_text('{"classes": ["sky", "car"]}')
    check = ["check-data", "--preset", "folder", "--root", "c", "--set=source=none", "--set=annotator=oracle", "--workers", "1", "--no-bar"]
    assert main(check) == 1
    assert "NOTHING TO LEARN: target labels: found 6 label files, none of which can be used" in capsys.readouterr().out


@pytest.mark.parametrize("text, said", [
    ('{\n // two\n "classes": ["a", "b"]}', "JSON has no comments"), ('{"classes": ["a", "b",]}', "no comma behind the last entry"),
    ('{"classes": ["a", "b"],}', "no comma behind the last entry"), ("{'classes': ['a', 'b']}", "double quotes alone"),
    (" \n", "expected JSON: it is empty"), ('{"classes": ["a"]}', "found 1 class, expected a list of 2 to 255 classes"),
])
def test_slips_in_classes_json_are_named(here, capsys, text, said):
    Path("classes.json").write_text(text)
    assert main(["plan", "--preset", "folder", "--root", ".", "--set=classes=classes.json"]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", [r"C:\data", r"C:\Users\me", r"D:\train", r"\new"])
def test_a_backslash_in_toml_is_explained(here, capsys, path):
    r"`\d` and `\U` are no TOML; `\t` and `\n` are, and mean something else."
    Path("stal.toml").write_text(f'data_root = "{path}"\n')
    assert main(["plan", "--config", "stal.toml"]) == 1
    assert "a backslash begins an escape: write paths as \"C:/data\" or 'C:\\data'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b", "a\\b", " a", "", "a\nb"])
def test_names_of_validation_sets_are_names(here, capsys, name):
    Path("stal.toml").write_text(f"data_root = 'c'\n[validation]\n{json.dumps(name)} = 'v'\n")
    assert main(["plan", "--config", "stal.toml"]) == 1 and "validation" in (said := capsys.readouterr().err) and "expected" in said


def test_wide_letters_stand_in_columns(here, capsys):
    "Hangul takes two columns of a terminal; an accent that follows its letter takes none."
    assert (columns_of("하늘 a"), columns_of("e\u0301"), padded("하늘", 6), padded("하늘", 6, right=True)) == (6, 1, "하늘  ", "  하늘")
    camera(here / "c", 3)
    names = ["하늘과 나무와 바다", "car"]
    (here / "c/classes.json").write_text(json.dumps({"classes": names}, ensure_ascii=False), encoding="utf-8")
    assert main(["check-data", "--preset", "folder", "--root", "c", "--set=source=none", "--set=annotator=oracle", "--workers", "1", "--no-bar"]) == 0
    said = capsys.readouterr().out.splitlines()
    for end in ("50.00%", "of the labelled pixels, in 3 images"):
        rows = [line for line in said if end in line and line.strip().startswith(tuple(names))]
        assert len(rows) == 2 and len({columns_of(row[: row.index(end)]) for row in rows}) == 1, rows
    entry = {"miou": 50.0, "validation": {"낮": {"miou": 1.0}, "밤 비": {"miou": 2.0}}}
    table = describe({"source_only": None, "rounds": [{**entry, "round": 0, "labelled": 2, "fraction": 0.5}], "seconds": 1}).splitlines()
    assert columns_of(table[0]) == columns_of(table[1])
    assert len({columns_of(line) for line in aligned([["낮과 밤", "1"], ["day", "2"]]).splitlines()}) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    camera(root / "c", codes=(0, 1)), camera(root / "v", 2, first=40)
    (root / "classes.json").write_text('{"classes": ["sky", "car"]}')
    changes = {"source": "none", "data": "folder", "annotator": "oracle", "budgets": [2, 3], "round_steps": [1, 1], "crop_size": [32, 32],
               "first_strategy": "random", "strategy": "random", "classes": str(root / "classes.json"), "validation": {"day": str(root / "v")}}
    settings = [f"--set={name}={json.dumps(value)}" for name, value in {**TINY, **changes}.items() if name != "name"]
    run = ["run", "--preset", "folder", "--root", str(root / "c"), *settings, "--no-bar"]
    assert main([*run, "--out", str(root / "r")]) == 0
    return root, run


def test_a_finished_run_opens_and_reports_without_its_images(finished, capsys):
    root, run = finished
    shutil.copytree(root / "r", root / "moved")
    expected, page = Run.open(root / "r").summary(), (root / "r/report.html").read_bytes()
    for name in "cv":
        os.rename(root / name, root / f"away-{name}")
    try:
        capsys.readouterr()
        assert main(["resume", str(root / "moved"), "--no-bar"]) == 0
        said = capsys.readouterr().out
        assert "this run is complete" in said and describe(expected) in said and "The report stays as it is: its pictures show images" in said
        assert (root / "moved/report.html").read_bytes() == page
        (root / "moved/report.html").unlink()
        assert main(["report", str(root / "moved")]) == 0
        text = (root / "moved/report.html").read_text(encoding="utf-8")
        assert "The images of this run are not there any more" in text and "<img" not in text and f"{expected['rounds'][-1]['miou']:.1f}" in text
        assert main([*run, "--out", str(root / "r")]) == 0  # the same command once more
        assert main(["status", str(root / "moved")]) == 0
        assert Run.open(root / "moved").summary() == expected
        (root / "moved/summary.json").write_text("{")
        assert main(["resume", str(root / "moved")]) == 1
        assert f"If it has moved, write its new place into {root / 'moved/config.json'}: data_root, validation/day" in capsys.readouterr().err
        with pytest.raises(DataError, match="found nothing, expected a folder"):
            Run.open(root / "moved").summary()
    finally:
        for name in "cv":
            os.rename(root / f"away-{name}", root / name)


def test_what_is_no_run_and_no_label_is_said_to_be_that(finished, here, capsys):
    root, run = finished
    Path("stal.toml").write_text("")
    for command in ("status", "resume", "report"):
        assert main([command, "stal.toml"]) == 1
        assert "run folder stal.toml: found a file, expected a folder made by Run.create" in capsys.readouterr().err
    assert main(["import", str(root / "r"), str(root / "c/labels/000.png")]) == 1
    assert "000.png: found a picture, expected its folder" in capsys.readouterr().err
    assert main(["import", str(root / "r"), str(root / "r/labels")]) == 1
    assert "found no label that is not counted already" in capsys.readouterr().err
    Path("empty").mkdir()
    assert main(["predict", str(root / "r"), "empty", "out", "--no-bar"]) == 1
    assert "empty: found no image and no video, expected one" in capsys.readouterr().err


def test_a_damaged_file_of_labelme_is_no_file_of_another_kind(here, capsys):
    "Its image's name stands at its end, and so is lost; a JSON file of nothing known is passed over as that."
    for k in range(2):
        photo(here / f"c/{k}.jpg", k)
        shape = {"label": "smoke", "points": [[0, 0], [30, 0], [30, 20]], "shape_type": "polygon"}
        text = json.dumps({"version": "5", "flags": {}, "shapes": [shape] * 4, "imagePath": f"{k}.jpg", "imageHeight": 32, "imageWidth": 48})
        (here / f"c/{k}.json").write_text(text[: 200 if k else None])
    assert main(["new", "c", "--no-bar"]) == 1 and "1.json: found no annotations" in capsys.readouterr().err
    (here / "c/1.json").write_text("{}")
    assert main(["new", "c", "--no-bar"]) == 0
    assert "passed over 1.json: of no annotation program that is known" in capsys.readouterr().out


def test_a_large_annotation_file_is_parsed_once(here, monkeypatch):
    coco(here / "c", [{"id": k, "image_id": 0, "category_id": 1, "segmentation": SQUARE} for k in range(20_000)], [{"id": 1, "name": "fire"}])
    read, files = stal_nb.annotation_formats.read_content, []
    for module in (stal_nb.annotation_formats, stal_nb.foldernames):
        monkeypatch.setattr(module, "read_content", lambda file: files.append(file) or read(file))
    assert (here / "c/annotations.json").stat().st_size > stal_nb.foldernames.LARGE
    assert main(["new", "c", "--no-bar"]) == 0 and len(files) == 1


def test_a_data_set_of_something_else_is_refused_before_anything_is_trained(tmp_path):
    class Pairs(list):
        label_space, ids, groups = LabelSpace("mine", ("a", "b"), ((1, 2, 3), (4, 5, 6))), ["0"], [""]

    with pytest.raises(DataError, match=r"target: found a data set whose items are of the kind tuple, expected Sample\(image, labels, id, group\)"):
        Run.create(tiny(), tmp_path / "run", target=Pairs([(np.zeros((3, 32, 32)), np.zeros((32, 32)))]))
    assert Sample._fields == ("image", "labels", "id", "group") and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="expected a name without /"):
        tiny(validation={"a/b": "c"})


def test_an_export_is_refused_before_a_minute_of_work(finished, here, capsys):
    folder, size = ["--onnx", "."], ["--onnx", "a.onnx", "--size", "axb"]
    for wrong, said in ((folder, "--onnx: found the folder ., expected the name of a file"), (size, "--size: found 'axb'")):
        assert main(["export", str(finished[0] / "r"), *wrong]) == 1
        assert said in (told := capsys.readouterr()).err and "writing" not in told.out


def test_validation_inside_of_the_target_is_looked_at(here, capsys):
    "Labels of values that occur there alone, annotation files, and none at all, which a run refuses."
    camera(here / "c/train"), camera(here / "c/val", 2, (0, 9), first=40)
    assert main(["new", "c", "--no-bar"]) == 0 and "2 labelled images in the target's part val" in capsys.readouterr().out
    assert [entry["value"] for entry in json.loads(Path("classes.json").read_text())["classes"]] == [0, 1, 9]
    assert main(["check-data", "--config", "stal.toml", "--workers", "1", "--no-bar"]) == 0
    shutil.rmtree(here / "c/val/labels")
    capsys.readouterr()
    assert main(["new", "c", "--out", "o", "--no-bar"]) == 0
    assert "validation: ! the part val has 2 images without labels, which a run refuses" in capsys.readouterr().out
    for part, name in (("train", "fire"), ("val", "smoke")):
        coco(here / "d" / part, [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": SQUARE}], [{"id": 1, "name": name}], 12)
    assert main(["new", "d", "--out", "p", "--no-bar"]) == 0
    assert "validation: 12 images and annotations in the target's part val" in capsys.readouterr().out
    assert "holdout" not in Path("p/stal.toml").read_text()
    assert [entry["name"] for entry in json.loads(Path("p/classes.json").read_text())["classes"]] == ["background", "fire", "smoke"]


def test_annotation_files_that_are_not_used_and_names_that_nobody_declared_are_told(here, capsys):
    coco(here / "c", [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": SQUARE}], [{"id": 1, "name": "fire"}])
    (here / "c/classes.json").write_text('{"classes": ["background", "smoke"], "background": "background"}')
    assert main(["new", "c", "--no-bar"]) == 0
    assert "! annotations: found outlines of 'fire', expected classes of c/classes.json: background, smoke" in capsys.readouterr().out
    label(here / "c/labels/000.png")
    assert main(["new", "c", "--out", "o", "--no-bar"]) == 0
    assert "annotations: COCO, 1 file: annotations.json; not used, since there are label pictures" in capsys.readouterr().out


def test_that_255_is_ignored_is_told_and_doubted_where_masks_are_of_two_kinds(here, capsys):
    camera(here / "c", codes=(0, 1, 255))
    assert main(["new", "c", "--no-bar"]) == 0
    assert "  255 (33.3% of the pixels, in 6 of 6 files, such as c/labels/000.png) is ignored; if it is a class" in capsys.readouterr().out
    for k in range(6):
        label(here / f"c/labels/{k:03d}.png", (0, (1, 255)[k % 2]))
    assert main(["new", "c", "--out", "o", "--no-bar"]) == 0
    assert "is ignored, but no file has both 1 and 255: are they one class? Then give it the values [1, 255]" in capsys.readouterr().out
