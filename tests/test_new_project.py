"""`stal_nb new`, a run without a source and several validation sets: from files on disk, through the command line."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stal_nb.app.report import score_rows
from stal_nb.class_check import label_shares
from stal_nb.classes import read_classes
from stal_nb.cli import describe, main, measured_line, status_line
from stal_nb.config import Config
from stal_nb.data import has_label
from stal_nb.datasets import RunData
from stal_nb.folders import look_at
from stal_nb.run import Run
from stal_nb.runtime.errors import AwaitingLabels, ConfigError, DataError
from stal_nb.scenes import SceneDataset
from stal_nb.survey import count_codes, read_codes, same_pictures, survey_images
from tiny import TINY, tiny

SMALL = [f"--set={name}={value}" for name, value in dict(
    backbone="timm/test_efficientnet", weights="null", aspp_channels=16, embedding_dim=8, crop_size="64,64", source_batch=1, target_batch=1,
    unlabelled_batch=1, source_steps=2, round_steps="2,1", num_anchors=8, num_negatives=8, bank_capacity=64, bank_push=8, eval_student="false").items()]


def image(file, seed, size=(48, 66)):
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 255, (size[0] // 3, size[1] // 3, 3), dtype=np.uint8)
    Image.fromarray(np.kron(cells, np.ones((3, 3, 1), np.uint8))).save(file)


def label(file, codes, size=(48, 66)):
    file.parent.mkdir(parents=True, exist_ok=True)
    codes = np.array(codes, np.uint8)
    Image.fromarray(np.repeat(np.repeat(codes[None], size[1] // len(codes) + 1, axis=1)[:, :size[1]], size[0], axis=0)).save(file)


def camera(root, count=8, codes=(0, 128, 255), suffix=".bmp", first=0, labelled=None):
    for k in range(count):
        image(root / f"{k:03d}{suffix}", first + k)
        if labelled is None or k < labelled:
            label(root / f"{k:03d}.png", codes)
    return root


def test_a_camera_from_folders_to_a_measured_run_without_a_line_of_python(tmp_path, monkeypatch, capsys):
    camera(tmp_path / "renderings", 6, first=100)
    camera(tmp_path / "street_train", 8)
    camera(tmp_path / "street_val", 3, first=50)
    label(tmp_path / "street_train" / "000.png", (0, 128, 255))
    odd = np.array(Image.open(tmp_path / "street_train" / "000.png"))
    odd[0, 0] = 7  # a slip of the pen
    Image.fromarray(odd).save(tmp_path / "street_train" / "000.png")
    shutil.copy(tmp_path / "street_train" / "001.bmp", tmp_path / "street_val" / "copy.bmp")
    label(tmp_path / "street_val" / "copy.png", (0, 128, 255))
    monkeypatch.chdir(tmp_path)
    assert main(["new", "street_train", "--source", "renderings", "--no-bar"]) == 0
    said = capsys.readouterr().out
    for words in ("target street_train: 8 images in the folder itself (8 .bmp), labels of 8", "sizes: 48 x 66 (8)", "in target and validation: 1 (001 = copy)",
                  "stal_nb run --config stal.toml", "7 (1 pixel, in 1 of 8 files, such as street_train/000.png) is ignored as a slip of the pen",
                  "value 0, value 128, value 255"):
        assert words in said, words
    content = json.loads(Path("classes.json").read_text(encoding="utf-8"))
    assert [entry["value"] for entry in content["classes"]] == [0, 128, 255] and content["ignore"] == [7]
    assert read_classes("classes.json").label_space.num_classes == 3
    config = Config.from_file("stal.toml")
    assert (config.name, config.source, config.annotator, config.budgets) == ("street_train", "folder", "oracle", (3, 6))
    assert config.validation == {"street_val": str(tmp_path / "street_val")} and Path(config.data_root) == tmp_path / "street_train"
    assert main(["run", "--config", "stal.toml", "--no-bar", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "source only" in said and "round 1" in said
    metrics = json.loads(Path("runs/street_train/rounds/01/metrics.json").read_text())
    assert metrics["miou"] == metrics["validation"]["street_val"]["miou"] and len(metrics["iou"]) == 3
    assert main(["new", "street_train"]) == 1
    assert "stal.toml: found a file that is there already, expected none" in capsys.readouterr().err


def test_a_folder_of_photographs_alone_begins_with_a_query(tmp_path, monkeypatch, capsys):
    camera(tmp_path / "photos", 6, suffix=".jpg", labelled=0)
    monkeypatch.chdir(tmp_path)
    assert main(["new", "photos", "--out", "here", "--no-bar"]) == 0
    said = capsys.readouterr().out
    assert "source: none" in said and "No labels show which classes there are" in said and "no mIoU can be measured" in said
    assert main(["run", "--config", "here/stal.toml", "--no-bar", *SMALL]) == 1  # nobody labels with classes that were never stated
    assert "classes.json: found No such file" in capsys.readouterr().err
    Path("here/classes.json").write_text('{"classes": ["background", "smoke"]}', encoding="utf-8")
    config = Config.from_file("here/stal.toml")
    assert (config.source, config.annotator, config.source_steps, config.source_batch) == ("none", "person", 0, 0)
    assert main(["run", "--config", "here/stal.toml", "--no-bar", *SMALL]) == 2  # waits for labels
    assert "first query comes before any training" in capsys.readouterr().out
    run = Run.open("runs/photos")
    assert run.stage == "round 0: label" and run.layout.metrics("source") == {"miou": None, "iou": {}, "steps": 0, "seconds": pytest.approx(0, abs=60)}
    for id in run.awaiting:
        run.store.note(id, "skipped", round=0)
    with pytest.raises(AwaitingLabels, match="found no label after the query"):
        run.advance()


@pytest.mark.parametrize("found, words", [
    ("labels", "found a source without labels"), ("nothing", "expected a folder"), ("broken", "none of which can be read")])
def test_what_new_cannot_use_is_refused(tmp_path, found, words, capsys):
    camera(tmp_path / "target", 3)
    source = tmp_path / "source"
    if found == "labels":
        camera(source, 3, suffix=".jpg", labelled=0)
    if found == "broken":
        source.mkdir()
        (source / "a.jpg").write_bytes(b"\xff\xd8 nothing")
    assert main(["new", str(tmp_path / "target"), "--source", str(source), "--out", str(tmp_path), "--no-bar"]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "stal.toml").exists()


def test_own_colours_and_names_beside_them_become_classes(tmp_path):
    root = tmp_path / "city"
    for k in range(6):
        image(root / "images" / f"{k}.jpg", k)
        pixels = np.zeros((48, 66, 3), np.uint8)
        pixels[:20], pixels[20:30] = (0, 128, 128), (128, 0, 128)
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "labels" / f"{k}.png")
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nsky:0,128,128::\ncar:128,0,128::\n", encoding="utf-8")
    assert main(["new", str(root), "--out", str(tmp_path), "--no-bar"]) == 0
    content = json.loads((tmp_path / "classes.json").read_text(encoding="utf-8"))
    assert [(e["name"], e["colour"]) for e in content["classes"]] == [("sky", [0, 128, 128]), ("colour 0 0 0", [0, 0, 0]), ("car", [128, 0, 128])]\
        or [e["name"] for e in content["classes"]] == ["colour 0 0 0", "sky", "car"]
    coding = read_classes(tmp_path / "classes.json").coding
    assert coding.positions_of_colours(np.array([[0, 128, 128]], np.uint8))[0] == [e["name"] for e in content["classes"]].index("sky")


def test_a_survey_counts_and_names(tmp_path):
    camera(tmp_path / "a", 3)
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "deep.png")
    assert read_codes(tmp_path / "deep.png") == {300: 16}
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "bits.png")
    assert read_codes(tmp_path / "bits.png") == {0: 12, 255: 4}
    picture = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "palette.png")
    codes = count_codes([tmp_path / "palette.png", tmp_path / "nothing.png"])
    assert codes.pixels == {0: 1, 1: 2, 2: 1} and codes.palette[1] == (255, 0, 0) and "nothing.png" in codes.broken[0]
    shutil.copy(tmp_path / "a" / "000.bmp", tmp_path / "a" / "same.bmp")
    photograph = Image.open(tmp_path / "a" / "001.bmp").resize((640, 480), Image.Resampling.BICUBIC)
    photograph.save(tmp_path / "a" / "large.bmp")
    photograph.resize((320, 240)).save(tmp_path / "a" / "small.jpg", quality=80)
    found = survey_images({file.name: file for file in sorted((tmp_path / "a").glob("*.[bj]*"))})
    assert [[id for _, id in group] for group in same_pictures(found.facts)] == [["000.bmp", "same.bmp"], ["large.bmp", "small.jpg"]]


NONE = dict(TINY, source="none", budgets=(2, 4), round_steps=(2, 2), val_images=2)


def test_a_run_without_a_source_works_and_continues_after_a_kill(tmp_path, capsys):
    whole = Run.create(tiny(**NONE), tmp_path / "whole")
    whole.bar = False
    summary = whole.finish()
    assert summary["source_only"] is None and [entry["labelled"] for entry in summary["rounds"]] == [2, 4]
    parts = Run.create(tiny(**NONE), tmp_path / "parts")
    while parts.stage:  # a process that is gone after each stage
        parts = Run.open(tmp_path / "parts")
        parts.bar = False
        parts.advance()
    strip = lambda summary: [{k: v for k, v in entry.items() if k != "seconds"} for entry in summary["rounds"]]  # noqa: E731
    assert strip(parts.summary()) == strip(summary)
    table = describe(summary)
    assert "source only" not in table and "round 1" in table
    assert measured_line(parts).startswith("round 1: mIoU ") and "complete" in status_line(parts.status())
    assert [row[0] for row in score_rows(summary)] == ["after", "round 0", "round 1"]
    training = (parts.layout.folder("round 0") / "training.csv").read_text()
    assert "L_s" in training and "nan" not in training.lower()
    assert main(["report", str(tmp_path / "parts"), "--no-bar"]) == 0
    assert "source only" not in (tmp_path / "parts" / "report.html").read_text(encoding="utf-8")


def test_without_a_source_the_target_takes_its_places_in_the_batch():
    config = Config.from_dict({**NONE, "source_batch": 3, "target_batch": 2})
    assert (config.source_batch, config.target_batch) == (0, 5)
    assert Config.from_dict(config.to_dict()) == config, "a run that is opened again has what it began with"


@pytest.mark.parametrize("changes, words", [
    (dict(budgets=(0, 4)), "budgets: found .* expected a first query above 0"), (dict(first_strategy="entropy"), "first_strategy: found 'entropy'"),
    (dict(first_strategy="ripu_regions"), "first_strategy"), (dict(target_batch=0, source_batch=0), "target_batch: found 0"),
    (dict(source_free=True), "source_free, source_steps")])
def test_what_cannot_work_without_a_source_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        tiny(**{**NONE, **changes})
    assert tiny(**{**NONE, "first_strategy": "random_regions", "region_radius": 4}).source_steps == 0


def test_several_validation_sets_are_measured_by_name(tmp_path, capsys):
    from stal_nb.data import write_sample
    from stal_nb.scenes import SceneDataset

    for name, seed in (("day", 1), ("night", 2)):
        for sample in SceneDataset("real", 2, size=(64, 128), seed=seed):
            write_sample(sample, tmp_path / name / "images", tmp_path / name / "labels")
    folders = {name: str(tmp_path / name) for name in ("day", "night")}
    config = tiny(source_steps=1, round_steps=(1, 1), validation=folders)
    run = Run.create(config, tmp_path / "run")
    run.bar = False
    summary = run.finish()
    found = summary["rounds"][-1]
    each = [found["validation"][name]["miou"] for name in ("day", "night")]
    assert found["miou"] == pytest.approx(sum(each) / 2, abs=1e-3) and set(found["validation"]) == {"day", "night"}
    head, *rows = describe(summary).splitlines()
    assert head.endswith("      day    night") and f"{each[1]:.1f}" in rows[-2]
    assert f"(day {each[0]:.1f}, night {each[1]:.1f})" in measured_line(run)
    assert "night (%)" in score_rows(summary)[0]
    given = Run.create(tiny(source_steps=0, budgets=(1, 2)), tmp_path / "given", validation={"one": SceneDataset("real", 1, size=(64, 128), seed=3)})
    assert list(given.data.validation) == ["one"] and given.data.val is given.data.validation["one"]
    with pytest.raises(DataError, match="expected a folder|found nothing"):
        Run.create(config.__class__.from_dict({**config.to_dict(), "validation": {"dusk": str(tmp_path / "dusk")}}), tmp_path / "dusk_run")
    shutil.rmtree(tmp_path / "day" / "labels")
    with pytest.raises(DataError, match="day: found validation images without labels"):
        Run.create(config, tmp_path / "unlabelled")


def test_plan_and_check_data_name_each_set(tmp_path, monkeypatch, capsys):
    camera(tmp_path / "photos", 6)
    camera(tmp_path / "day", 2, first=30)
    camera(tmp_path / "night", 3, first=40)
    monkeypatch.chdir(tmp_path)
    Path("classes.json").write_text('{"classes": [{"name": "a", "value": 0}, {"name": "b", "value": 128}, {"name": "c", "value": 255}]}', encoding="utf-8")
    Path("stal.toml").write_text('source = "none"\ndata_root = "photos"\nclasses = "classes.json"\nannotator = "oracle"\nbudgets = [2, 4]\n'
                                 'round_steps = [2, 2]\n[validation]\nday = "day"\nnight = "night"\n', encoding="utf-8")
    assert main(["plan", "--config", "stal.toml", "--no-bar", *SMALL[:-1]]) == 0
    said = capsys.readouterr().out
    assert "stal: no source, 6 target images" in said and "5 for validation (day 2, night 3)" in said and "source only" not in said
    assert "! source none: labelled batches hold target images alone" in said
    assert main(["check-data", "--config", "stal.toml", "--no-bar", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "source: none" in said and "validation day: " in said and "validation night: " in said


def test_names_in_annotation_files_become_classes(tmp_path):
    root = tmp_path / "fires"
    for k in range(4):
        image(root / "images" / f"{k}.jpg", k)
    shapes = [{"id": n, "image_id": k, "category_id": c, "iscrowd": 0, "bbox": [0, 0, 9, 9], "area": 81, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}
              for n, (k, c) in enumerate([(0, 1), (1, 1), (1, 2), (2, 2)], start=1)]
    content = {"images": [{"id": k, "file_name": f"images/{k}.jpg", "height": 48, "width": 66} for k in range(4)], "annotations": shapes,
               "categories": [{"id": 1, "name": "smoke"}, {"id": 2, "name": "fire"}, {"id": 3, "name": "unused"}]}
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["new", str(root), "--out", str(tmp_path), "--no-bar"]) == 0
    space, coding = read_classes(tmp_path / "classes.json")
    assert space.classes == ("background", "fire", "smoke") and coding.background == 0
    assert Config.from_file(tmp_path / "stal.toml").annotator == "oracle"  # 3 of 4 images are annotated
    target = RunData(Config.from_file(tmp_path / "stal.toml", holdout=0.0)).target
    assert target.has_labels and target[0].labels.unique().tolist() == [0, 2]


def test_a_thermal_camera_of_real_numbers_gets_its_range(tmp_path, capsys):
    for k in range(3):
        degrees = np.random.default_rng(k).uniform(20.2, 20.6, (48, 66)).astype(np.float32)
        degrees[0, 0] = np.nan  # a dead pixel
        (tmp_path / "heat").mkdir(exist_ok=True)
        Image.fromarray(degrees).save(tmp_path / "heat" / f"{k}.tif")
    assert main(["new", str(tmp_path / "heat"), "--out", str(tmp_path), "--no-bar"]) == 0
    (tmp_path / "classes.json").write_text('{"classes": ["cold", "hot"]}', encoding="utf-8")
    low, high = Config.from_file(tmp_path / "stal.toml").image_range
    assert 20.15 < low < 20.25 and 20.55 < high < 20.65


@pytest.mark.parametrize("value", [1, 255])
def test_labels_of_one_value_are_said_to_be_that(tmp_path, capsys, value):
    camera(tmp_path / "one", 3, (value,))
    assert main(["new", str(tmp_path / "one"), "--out", str(tmp_path), "--no-bar"]) == 1
    said = capsys.readouterr().err
    assert f"found only {value} in 3 label files, expected two classes or more" in said and "JPEG" not in said


def test_what_new_writes_can_be_paid_by_what_is_not_held_out(tmp_path, capsys):
    camera(tmp_path / "a camera", 11)
    assert main(["new", str(tmp_path / "a camera"), "--out", str(tmp_path / "a camera"), "--no-bar"]) == 0
    said = capsys.readouterr().out
    config = Config.from_file(tmp_path / "a camera/stal.toml")
    data = RunData(config)
    held = len(data.validation["val"]) if "val" in data.validation else sum(map(len, data.validation.values()))
    assert f"validation: {held} of 11 images, held out" in said
    assert max(config.budgets) <= len(data.target) == 11 - held
    assert f"--config '{tmp_path}/a camera/stal.toml'" in said  # as a shell takes it


def test_out_must_be_a_folder(tmp_path, capsys):
    camera(tmp_path / "cam", 2)
    assert main(["new", str(tmp_path / "cam"), "--out", str(tmp_path / "cam/000.bmp"), "--no-bar"]) == 1
    assert "--out: found the file" in capsys.readouterr().err


def test_a_plan_without_own_classes_says_which_it_takes(tmp_path, capsys):
    camera(tmp_path / "photos", 4, suffix=".jpg", labelled=0)
    words = ["--preset", "folder", "--root", str(tmp_path / "photos"), "--set", "source=none", "--set", "annotator=person"]
    assert main(["plan", *words, *SMALL, "--set", "budgets=1,2"]) == 0
    assert "19 classes (cityscapes, since no classes.json is stated or found)" in capsys.readouterr().out


def test_a_plan_takes_several_sources_and_passes_over_broken_images(tmp_path, capsys):
    for name, first in (("cam", 0), ("one", 50), ("two", 60)):
        camera(tmp_path / name, 4, first=first)
    assert main(["new", str(tmp_path / "cam"), "--source", str(tmp_path / "one"), "--out", str(tmp_path), "--no-bar"]) == 0
    file = tmp_path / "cam/000.bmp"
    file.write_bytes(file.read_bytes()[:999])
    words = ["plan", "--config", str(tmp_path / "stal.toml"), *SMALL, "--set", "budgets=1,2"]
    capsys.readouterr()
    assert main([*words, "--source-root", str(tmp_path / "one"), "--source-root", str(tmp_path / "two")]) == 0
    said = capsys.readouterr().out
    assert "8 source images, 4 target images in 1 group," in said and "000.bmp: found a BMP that cannot be decoded" in said
    assert "mixed precision: no" in said
    assert main([*words, "--set", "batch_source=2"]) == 1
    assert "unknown setting batch_source, expected source_batch" in capsys.readouterr().err


def test_labels_beside_a_folder_of_images_are_told_and_can_be_stated(tmp_path, monkeypatch, capsys):
    for k in range(3):
        image(tmp_path / f"train/{k}.jpg", k)
        label(tmp_path / f"trainannot/{k}.png", (0, 1))
        label(tmp_path / f"valannot/{k}.png", (0, 1))
    monkeypatch.chdir(tmp_path)
    assert main(["new", "train", "--out", "out", "--no-bar"]) == 0
    said = capsys.readouterr().out
    assert f"beside it lies {tmp_path / 'trainannot'}/" in said and "valannot" not in said
    assert len(look_at("train", "../trainannot").labels) == len(look_at(tmp_path / "train", tmp_path / "trainannot").labels) == 3


def test_images_without_a_label_are_no_ignored_labels(tmp_path):
    camera(tmp_path / "cam", 4, (0, 1), labelled=3)
    (tmp_path / "cam/classes.json").write_text('{"classes": ["a", "b"]}', encoding="utf-8")
    dataset = RunData(Config.preset("folder", data_root=str(tmp_path / "cam"), source="none", classes=str(tmp_path / "cam/classes.json"),
                                    annotator="oracle", budgets=(1, 2), round_steps=(1, 1))).target
    shares = label_shares(dataset)
    assert (shares.total, shares.ignored, shares.blank) == (3, 0, [])


@pytest.mark.parametrize("drawn", [10, 7])
def test_images_that_no_annotation_file_lists_stay_unlabelled(tmp_path, capsys, drawn):
    for k in range(10):
        image(tmp_path / "cam" / f"{k}.jpg", k)
    frames = "".join(f'<image id="{k}" name="{k}.jpg" width="66" height="48"><polygon label="smoke" points="4,4;20,4;20,20"/></image>'
                     for k in range(drawn))
    (tmp_path / "cam/annotations.xml").write_text(f"<annotations>{frames}</annotations>", encoding="utf-8")
    assert main(["new", str(tmp_path / "cam"), "--out", str(tmp_path), "--no-bar"]) == 0
    said = capsys.readouterr().out
    assert ("3 of 10 images show no outline: those that an annotation file lists" in said) == (drawn == 7)
    assert ("held out (each of the images with a chance of 0.2)" in said) == (drawn == 10)
    data = RunData(config := Config.from_file(tmp_path / "stal.toml"))
    assert any("in no annotation file, so without a label: 7, 8, 9" in note for note in data.notes) == (drawn == 7)
    assert sum(has_label(data.target, k) for k in range(len(data.target))) == (7 if drawn == 7 else len(data.target))
    if drawn == 10:
        held = sum(map(len, data.validation.values()))
        assert f"validation: {held} of 10 images" in said and max(config.budgets) <= 10 - held


def test_what_is_no_data_set_is_refused_with_what_it_lacks(tmp_path):
    scenes = SceneDataset("sim", 2, size=(48, 96))
    for wrong, words in (([1, 2], "target: found a list without label_space, ids, groups"), ("images", "found a str without")):
        with pytest.raises(DataError, match=words):
            Run.create(tiny(), tmp_path / "run", source=scenes, target=wrong)
    with pytest.raises(DataError, match="val: found a dict_keys without label_space"):
        Run.create(tiny(), tmp_path / "run", source=scenes, target=scenes, validation={"day": {}.keys()})
    assert not (tmp_path / "run").exists()
