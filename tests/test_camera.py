"""A fire camera drawn by code: translucent smoke, small fire, a background that nobody drew; through the command line."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from figures.camera import CLASSES, DRAWN, draw_view, label_picture, write_answers, write_camera
from stal_nb.cli import main
from stal_nb.config import Config
from stal_nb.labels import IGNORE
from stal_nb.prediction import find_pictures, pictures_of
from stal_nb.run import Run
from stal_nb.runtime.images import read_image

TINY = [f"--set={name}={value}" for name, value in dict(
    backbone="timm/test_efficientnet", weights="null", aspp_channels=16, embedding_dim=8, crop_size="48,64", source_batch=1, target_batch=1,
    unlabelled_batch=1, source_steps=1, round_steps="1,1", num_anchors=8, num_negatives=8, bank_capacity=64, bank_push=8,
    eval_student="false").items()]


@pytest.mark.parametrize("photograph", [False, True])
def test_smoke_is_translucent_and_fire_small(photograph):
    for seed in range(6):
        view, calm = draw_view(seed, photograph, burning=True), draw_view(seed, photograph, burning=False)
        smoke, fire = view.labels == 1, view.labels == 2
        assert 0 < fire.sum() < 0.01 * fire.size < smoke.sum()
        assert 0.12 < view.veil[smoke].min() and view.veil.max() < 0.95, "what is behind it shines through everywhere"
        assert not calm.labels.any() and not calm.veil.any()
        if not photograph:  # nothing else lies between the drawing and the picture
            behind, veil = view.behind[smoke], view.veil[smoke][:, None]
            grey = (view.image[smoke] / 255 - (1 - veil) * behind) / veil
            assert grey.std(0).max() < 0.03, "one colour of smoke, mixed with what is behind it"
        assert np.array_equal(view.image, draw_view(seed, photograph, burning=True).image)


def test_labels_are_transparent_where_nobody_drew():
    labels = draw_view(0, burning=True).labels
    pixels = np.array(label_picture(labels))
    assert ((pixels[..., 3] == 0) == (labels == 0)).all()
    for position, colour in DRAWN.items():
        assert (pixels[labels == position] == (*colour, 255)).all()


def named(background):
    "classes.json of `new` with names, as an engineer would edit it."
    content = json.loads(Path("classes.json").read_text(encoding="utf-8"))
    assert [entry["colour"] for entry in content["classes"]] == [list(DRAWN[1]), list(DRAWN[2])], "the most common first"
    for entry, name in zip(content["classes"], CLASSES[1:], strict=True):
        entry["name"] = name
    content["classes"].insert(0, {"name": "background"})
    content["background"] = background
    Path("classes.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_fire_camera_from_two_folders_to_answers_from_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truth = write_camera(tmp_path, renderings=6, photographs=6, validation=3, size=(64, 80))
    assert main(["new", "photographs", "--source", "renderings", "--no-bar"]) == 0
    said = capsys.readouterr().out
    for words in ("6 images in train/images/ (6 .jpg), no label pictures", "labels of 6 in labels/", "label colours: 2",
                  "3 labelled images in the target's part val", "Give names to the 2 classes"):
        assert words in said, words
    assert Config.from_file("stal.toml").annotator == "person"
    named("background")
    assert main(["run", "--config", "stal.toml", "--no-bar", *TINY]) == 2
    said = capsys.readouterr().out
    shares = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("  background", "  smoke", "  fire", "  (ignored)"))}
    assert float(shares["background"][0][:-1]) > 80 and 0 < float(shares["fire"][0][:-1]) < 2 and shares["(ignored)"] == ["–", "–"]
    run = Run.open("runs/photographs")
    assert run.store.label_space.classes == CLASSES and set(run.layout.metrics("source")["iou"]) <= set(CLASSES)
    asked = run.awaiting
    write_answers(tmp_path / "answers", {id: truth[id] for id in asked})
    assert main(["import", "runs/photographs", "answers"]) == 0
    assert run.awaiting == [] and f"{len(asked)} saved" in capsys.readouterr().out
    for id in asked:
        assert np.array_equal(run.store.load(id).numpy(), truth[id].labels), "what nobody drew is background here, too"


def test_without_a_background_undrawn_pixels_are_ignored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_camera(tmp_path, renderings=3, photographs=2, validation=2, size=(48, 64))
    assert main(["new", "photographs", "--source", "renderings", "--no-bar"]) == 0
    named(None)
    config = Config.from_file("stal.toml")
    from stal_nb.datasets import RunData

    found = set()
    source = RunData(config).source
    for k in range(len(source)):
        found |= set(source[k].labels.unique().tolist())
    assert found == {1, 2, IGNORE}
    capsys.readouterr()


def grey_run(folder, coding):
    "A run that waits for labels of masks with values of its own; nothing is trained."
    (folder / "data" / "images").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (40, 48, 3), np.uint8)).save(folder / "data" / "images" / f"{k}.png")
    (folder / "data" / "classes.json").write_text(json.dumps(coding))
    status = main(["run", "--root", str(folder / "data"), "--preset", "folder", "--out", str(folder / "run"), "--no-bar", "--set=source=none",
                   "--set=budgets=1,2", "--set=image_size=40,48", *TINY])
    assert status == 2
    return Run.open(folder / "run")


def test_masks_come_in_by_the_runs_values_and_by_a_list_beside_them(tmp_path, capsys):
    names = ("background", "smoke", "fire")
    run = grey_run(tmp_path, {"classes": [{"name": name, "value": value} for name, value in zip(names, (0, 128, 255), strict=True)], "ignore": [7]})
    id, masks = run.awaiting[0], tmp_path / "masks"
    masks.mkdir()
    values = np.tile(np.repeat(np.array([0, 128, 255, 7], np.uint8), 12), (40, 1))
    Image.fromarray(values).save(masks / f"{id}.png")
    assert main(["import", str(run.path), str(masks)]) == 0
    assert run.store.load(id)[0, ::12].tolist() == [0, 1, 2, IGNORE]
    assert main(["export", str(run.path), "--labels", "png", "--to", str(tmp_path / "out")]) == 0
    saved = run.store.load(id)
    for folder in ("out", "out/labels"):  # positions there: its classes.json says so
        run.store.file(id).unlink()
        assert main(["import", str(run.path), str(tmp_path / folder)]) == 0
        assert (run.store.load(id) == saved).all()
    (masks / "classes.json").write_text('{"classes": ["background", "smoke", "cloud"]}')
    capsys.readouterr()
    assert main(["import", str(run.path), str(masks)]) == 1
    assert "found the classes background, smoke, cloud, expected those of the run (background, smoke, fire)" in capsys.readouterr().err
    other = run.layout.labels / f"{next(k for k in '012' if k != id)}.png"
    Image.fromarray(values).save(other)
    assert main(["status", str(run.path)]) == 0
    assert "has no record of who made it" in capsys.readouterr().out


def test_prediction_stretches_deep_pictures_as_the_run_does(tmp_path):
    deep = np.linspace(27000, 29000, 40 * 48).reshape(40, 48).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "thermal.png")
    (picture,) = pictures_of(*find_pictures([tmp_path / "thermal.png"], tmp_path / "out"), image_range=(27000, 29000))
    assert picture.load().max() > 0.99 and (picture.load() == read_image(tmp_path / "thermal.png", (27000, 29000))).all()
