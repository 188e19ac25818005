"""Labels of other programs, from files on disk and through the command line: in, out, and why not."""
import base64
import io
import json
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image
from test_store_faults import damaged, twisted

from stal_nb.annotation_files import read_annotations
from stal_nb.cli import main
from stal_nb.labels import IGNORE, LabelSpace
from stal_nb.masks import brush_decode, ellipse_mask, polygon_mask, rle_encode
from stal_nb.run import Run
from stal_nb.runtime.errors import DataError, LabelError, StalError
from stal_nb.runtime.files import atomic_write_json
from tiny import tiny

FIRE = LabelSpace("fire", ("background", "smoke", "fire"), ((40, 40, 40), (200, 200, 200), (255, 80, 0)))
SIZE = (20, 30)
SQUARE, SPOT = [2, 2, 12, 2, 12, 10, 2, 10], [5, 4, 8, 4, 8, 7, 5, 7]


def expected(inner=2, outside=IGNORE):
    "The square of smoke with the spot on top."
    labels = np.full(SIZE, outside, np.uint8)
    labels[2:10, 2:12], labels[4:7, 5:8] = 1, inner
    return labels


def pairs(points):
    return [points[k:k + 2] for k in range(0, len(points), 2)]


def studio_bits(mask):
    "Label Studio's packing, written anew: runs where they are long, single values where not."
    values = np.repeat(np.where(mask, 255, 0).astype(np.uint8).ravel(), 4)
    bits, at = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16)), 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 2 ** 16:
            end += 1
        if end - at > 4:
            kind, length = next((k, n) for k, n in enumerate((3, 4, 8, 16)) if end - at <= 2 ** n)
            bits += f"1{kind:02b}{end - at - 1:0{length}b}{values[at]:08b}"
        else:
            end = min(len(values), at + 4)
            bits += f"000{end - at - 1:03b}" + "".join(f"{v:08b}" for v in values[at:end])
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k:k + 8], 2) for k in range(0, len(bits), 8)]


def coco(folder, name="images/cam1/a.jpg", **first):
    size = {"height": SIZE[0], "width": SIZE[1]}
    content = {"images": [{"id": 5, "file_name": name, **size}, {"id": 6, "file_name": "b.jpg", **size}],
               "categories": [{"id": 1, "name": "smoke"}, {"id": 7, "name": "fire"}, {"id": 9, "name": "zebra"}],
               "annotations": [{"image_id": 5, "category_id": 1, "segmentation": [SQUARE], **first},
                               {"image_id": 5, "category_id": 7, "segmentation": rle_encode(expected() == 2, packed=True)},
                               {"image_id": 5, "category_id": 1, "iscrowd": 1, "segmentation": rle_encode(expected() != IGNORE)}]}
    atomic_write_json(folder / "coco.json", content)
    return folder / "coco.json", content


def labelme(folder):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 3), 255, np.uint8)).save(buffer, "PNG")
    shapes = [{"label": "smoke", "shape_type": "rectangle", "points": [[2, 10], [12, 2]]},
              {"label": "fire", "shape_type": "mask", "points": [[5, 4], [7, 6]], "mask": base64.b64encode(buffer.getvalue()).decode()},
              {"label": "zebra", "shape_type": "linestrip", "points": [[0, 0], [1, 1]]}]
    content = {"version": "5.5", "imagePath": "..\\..\\images\\cam1\\a.jpg", "imageHeight": 20, "imageWidth": 30, "shapes": shapes}
    atomic_write_json(folder / "jsons" / "cam1" / "a.json", content)
    atomic_write_json(folder / "jsons" / "b.json", {**content, "imagePath": "b.jpg", "shapes": []})
    return folder / "jsons", content


def cvat(folder):
    points = {name: ";".join(f"{x},{y}" for x, y in pairs(p)) for name, p in (("square", SQUARE), ("spot", SPOT))}
    text = f"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>
      <image id="0" name="cam1/a.jpg" width="30" height="20">
        <mask label="fire" rle="0, 9" left="5" top="4" width="3" height="3" z_order="4"/>
        <polygon label="smoke" points="{points['square']}" z_order="1"/><polyline label="zebra" points="1,2;3,4"/></image>
      <image id="1" name="b.jpg" width="30" height="20"/></annotations>"""
    (folder / "annotations.xml").write_text(text, encoding="utf-8")
    return folder / "annotations.xml", text


def studio(folder):
    size = {"original_width": 30, "original_height": 20, "image_rotation": 0}
    outline = {"points": [[x / 0.30, y / 0.20] for x, y in pairs(SQUARE)], "polygonlabels": ["smoke"]}
    brush = {"format": "rle", "rle": studio_bits(expected() == 2), "brushlabels": ["fire"]}
    result = [{"type": "polygonlabels", "value": outline, **size}, {"type": "brushlabels", "value": brush, **size},
              {"type": "choices", "value": {"choices": ["x"]}}]
    content = [{"id": 3, "data": {"image": "/data/upload/1/2fa8d3b1-cam1%2Fa.jpg"}, "annotations": [{"result": result}, {"result": [], "was_cancelled": True}]},
               {"id": 4, "data": {"image": "/data/local-files/?d=b.jpg"}, "annotations": []}]
    content[0]["data"]["image"] = "/data/local-files/?d=work%5Ccam1%5Ca.jpg"
    atomic_write_json(folder / "studio.json", content)
    return folder / "studio.json", content


PROGRAMS = {"coco": coco, "labelme": labelme, "cvat": cvat, "label-studio": studio}
IMAGES = {"cam1/a": SIZE, "cam2/a": SIZE, "b": SIZE, "c": SIZE}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_picture_comes_out_of_each_program(program, tmp_path):
    path, _ = PROGRAMS[program](tmp_path)
    found = read_annotations(path, IMAGES, FIRE)
    assert list(found) == ["cam1/a"] and np.array_equal(found["cam1/a"](), expected())
    assert (found.empty, found.missing) == (["b"], ["cam2/a", "c"]) and "without a label: b" in str(found)
    assert np.array_equal(read_annotations(path, IMAGES, FIRE, names={"fire": "ignore"})["cam1/a"](), expected(inner=IGNORE))
    drawn = read_annotations(path, IMAGES, FIRE, background=0)
    assert np.array_equal(drawn["cam1/a"](), expected(outside=0))
    # what nobody has finished is no answer; an empty picture of the other programs is background
    assert (drawn.empty == ["b"]) if program == "label-studio" else (drawn["b"]() == 0).all()
    with pytest.raises(LabelError, match=r"found class 'smoke' \([12] drawn\).*perhaps 'smok'"):
        read_annotations(path, IMAGES, LabelSpace("typing", ("smok", "fire"), ((1, 1, 1), (2, 2, 2))))
    with pytest.raises(LabelError, match="20 × 30 pixels .*expected 30 × 20 as image 'cam1/a'; the program did not turn"):
        read_annotations(path, {**IMAGES, "cam1/a": (30, 20)}, FIRE)
    with pytest.raises(LabelError, match="none of which is an image here"):
        read_annotations(path, {"other": SIZE}, FIRE)
    assert (found.left_out == {}) == (program in ("coco", "label-studio"))  # lines are left out and counted


def test_boxes_are_refused_with_a_reason(tmp_path):
    _, content = coco(tmp_path, segmentation=[], bbox=[2, 2, 10, 8])
    _, text = cvat(tmp_path)
    _, tasks = studio(tmp_path)
    box = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["smoke"]}
    tasks[0]["annotations"][0]["result"][0] |= {"type": "rectanglelabels", "value": box}
    atomic_write_json(tmp_path / "studio.json", tasks)
    (tmp_path / "annotations.xml").write_text(text.replace("<polyline", '<box label="fire" xtl="1" ytl="1" xbr="3" ybr="4"/><polyline'))
    for name in ("coco.json", "annotations.xml", "studio.json"):
        with pytest.raises(LabelError, match=rf"{name}.*found a box and no outline \(1 such\).*a box says where a thing is"):
            read_annotations(tmp_path / name, IMAGES, FIRE)


def test_what_is_doubtful_is_named(tmp_path):
    path, content = coco(tmp_path, name="a.jpg")
    with pytest.raises(LabelError, match="found 'a.jpg', which may be cam1/a, cam2/a"):
        read_annotations(path, IMAGES, FIRE)
    labelme(tmp_path)
    coco(tmp_path)
    with pytest.raises(LabelError, match="found image .* a second time, after .*coco.json"):
        read_annotations(tmp_path, IMAGES, FIRE)
    (tmp_path / "notes.json").write_text("{}")
    files = [tmp_path / "jsons" / "cam1" / "a.json", tmp_path / "jsons" / "b.json"]  # as `folders.look_at` finds them
    assert np.array_equal(read_annotations(files, {"cam2/a": SIZE, "cam1/a": SIZE}, FIRE)["cam1/a"](), expected())
    assert read_annotations(tmp_path, IMAGES, FIRE, kind="coco").others == ["jsons/b.json", "jsons/cam1/a.json", "notes.json"]
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4], SQUARE]
    atomic_write_json(path, content)
    assert read_annotations(path, {"x/a": SIZE}, FIRE).left_out == {"outline of fewer than three points": 1}
    entities = b'<!DOCTYPE x [<!ENTITY a "b">]><annotations/>'
    for name, data in (("x.json", b"{}"), ("x.xml", entities), ("y.json", b"PK\3\4"), ("z.json", "{ä".encode("latin-1"))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: found no annotation"):
            read_annotations(tmp_path / name, IMAGES, FIRE)


def test_outlines_are_exact_and_fast():
    "Triangles around a point fill a square without a gap or an overlap, wherever the point lies; a large outline takes no time."
    rng = np.random.default_rng(0)
    corners = [(0, 0), (16, 0), (16, 16), (0, 16)]
    for x, y in [(8, 8), (3.5, 4.5), *rng.uniform(0, 16, (30, 2))]:
        count = sum(polygon_mask([[*a, *b, x, y]], (16, 16)).astype(int) for a, b in zip(corners, corners[1:] + corners[:1]))
        assert (count == 1).all()
    turn = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    ring = np.stack([1000 + 900 * np.cos(turn), 500 + 450 * np.sin(turn)], 1).ravel().tolist()
    started = time.process_time()
    mask = polygon_mask([ring], (1024, 2048))
    assert time.process_time() - started < 0.5
    assert (mask != ellipse_mask((1000, 500), (900, 450), 0, (1024, 2048))).mean() < 1e-4


def test_brushes_of_any_shape_come_back():
    rng = np.random.default_rng(1)
    for mask in (rng.random((7, 9)) < 0.5, np.zeros((3, 4), bool), np.ones((300, 400), bool)):
        assert np.array_equal(brush_decode(studio_bits(mask), mask.shape), mask)


def test_damaged_annotations_raise_typed_errors_only(tmp_path):
    chance, outcomes = random.Random(2), {"read": 0, "refused": 0}
    for number in range(200):
        program = chance.choice(list(PROGRAMS))
        path, content = PROGRAMS[program](tmp_path)
        file = next(path.rglob("a.json")) if path.is_dir() else path
        if isinstance(content, str) or chance.random() < 0.3:
            file.write_bytes(damaged(file.read_bytes(), chance))
        else:
            file.write_text(json.dumps(twisted(content, chance)), encoding="utf-8")
        try:
            for read in read_annotations(file, IMAGES, FIRE).values():
                assert read().shape == SIZE
            outcomes["read"] += 1
        except StalError as error:
            assert len(str(error)) < 1500
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes


# -- through the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(tmp_path):
    "A run that waits for a person, and its images on disk; nothing is trained."
    rng = np.random.default_rng(0)
    for name in ("cam1/a", "cam2/a", "b", "c"):
        file = tmp_path / "data" / "images" / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(file)
    config = tiny(data="folder", data_root=str(tmp_path / "data"), annotator="person", label_space="cityscapes", source_steps=0,
                  budgets=(0.5, 1.0))
    run = Run.create(config, tmp_path / "run")
    atomic_write_json(run.layout.folder("source") / "metrics.json", {"miou": None, "iou": {}, "seconds": 0})
    query = {"round": 0, "strategy": "random", "ids": ["cam1/a", "b"], "entropy": {}, "unit": "images", "pixels": 1200}
    atomic_write_json(run.layout.round_folder(0) / "query.json", query)
    return run


def test_annotations_go_into_a_run_and_out_again(waiting, tmp_path, capsys):
    path, _ = coco(tmp_path)
    command = ["import", str(waiting.path), str(path), "--no-bar"]
    assert main(command) == 1 and "found class 'smoke' (2 drawn), 'fire' (1 drawn), expected classes of cityscapes" in capsys.readouterr().err
    assert main([*command, "--map", "smoke=sky", "--map", "fire=ignore", "--annotator", "Ada"]) == 0
    said = capsys.readouterr().out
    assert "1 saved" in said and "1 still waited for: b" in said and "without a label: b" in said
    run = Run.open(waiting.path)
    label = run.store.load("cam1/a")
    assert set(label.unique().tolist()) == {10, IGNORE} and run.awaiting == ["b"]
    assert main(["status", str(run.path)]) == 0 and "now: 1 to be labelled: b" in capsys.readouterr().out
    assert run.store.provenance("cam1/a")[-1].items() >= {"annotator": "Ada", "round": 0, "done": True}.items()
    # a second job fills what the first has left open, and keeps the rest
    assert main([*command, "--map", "smoke=ignore", "--map", "fire=car"]) == 0
    both = run.store.load("cam1/a").numpy()
    assert set(np.unique(both).tolist()) == {10, 13, IGNORE} and (both[label.numpy() != IGNORE] == 10).all()
    for kind, where in (("coco", "coco.json"), ("cityscapes", "city"), ("png", "png")):
        assert main(["export", str(run.path), "--labels", kind, "--to", str(tmp_path / "out" / where)]) == 0
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["cam1/a.jpg"]  # the name that the image has
    classes = json.loads((tmp_path / "out" / "png" / "classes.json").read_text())["classes"]
    assert classes[10] == {"name": "sky", "colour": [70, 130, 180], "value": 10}
    for where in ("out/coco.json", "out/city", "out/png/labels"):
        run.store.file("cam1/a").unlink()
        assert main(["import", str(run.path), str(tmp_path / where)]) == 0
        assert torch.equal(run.store.load("cam1/a"), torch.from_numpy(both).long())


def test_files_that_lie_in_labels_and_do_not_count_are_named(waiting, tmp_path, capsys):
    labels = waiting.path / "labels"
    (labels / "cam1").mkdir(parents=True)
    Image.fromarray(np.full(SIZE, 3, np.uint8)).save(labels / "cam1" / "a.png")
    Image.fromarray(np.full(SIZE, 4, np.uint8)).save(labels / "b_mask.png")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(labels / "c.png")
    coco(labels)
    assert main(["status", str(waiting.path)]) == 0
    said = capsys.readouterr().out
    for text in ("files that are not counted as labels: 4", "cam1/a.png has no record", "(of 'b' it would be b.png)", "c.png has 5 × 5 pixels",
                 "coco.json may be an annotation file"):
        assert text in said
    assert main(["import", str(waiting.path), str(labels)]) == 1  # one of them is of another size: none is taken in
    assert "found shape (5, 5), expected (20, 30)" in capsys.readouterr().err and waiting.awaiting == ["cam1/a", "b"]
    (labels / "c.png").unlink()
    assert main(["import", str(waiting.path), str(labels)]) == 0
    assert Run.open(waiting.path).awaiting == [] and "2 saved" in capsys.readouterr().out
    assert main(["status", str(waiting.path)]) == 0 and f"now: all labels are there; continue with: stal_nb resume {waiting.path}" in capsys.readouterr().out
    assert main(["import", str(waiting.path), str(tmp_path / "nowhere")]) == 1 and "nowhere: found nothing" in capsys.readouterr().err


def test_regions_are_answered_when_all_of_them_have_classes(waiting, tmp_path, capsys):
    query = {"round": 0, "strategy": "ripu_regions", "ids": ["cam1/a"], "entropy": {}, "unit": "regions", "pixels": 50, "radius": 2,
             "regions": [["cam1/a", 5, 6], ["cam1/a", 15, 20]]}
    atomic_write_json(waiting.layout.round_folder(0) / "query.json", query)
    part = np.full(SIZE, IGNORE, np.uint8)
    part[3:8, 4:9] = 1
    (tmp_path / "parts" / "cam1").mkdir(parents=True)
    for rows in (slice(0, 0), slice(13, 18)):
        part[rows, 18:23] = 2
        Image.fromarray(part).save(tmp_path / "parts" / "cam1" / "a.png")
        assert waiting.awaiting == ["cam1/a"]
        assert main(["import", str(waiting.path), str(tmp_path / "parts")]) == 0
    assert Run.open(waiting.path).awaiting == []
    assert "1 still waited for: cam1/a" in capsys.readouterr().out


@pytest.mark.parametrize("words, said", [
    (["import", "RUN", "nowhere"], "nowhere: found nothing, expected a file or folder of labels"),
    (["import", "RUN", "RUN", "--format", "voc"], "format: found 'voc', expected one of coco, labelme"),
    (["import", "RUN", "RUN", "--map", "fire"], "--map: found 'fire', expected NAME=CLASS"),
    (["export", "RUN"], "expected --labels (coco, cityscapes, png) or --onnx FILE"),
    (["export", "RUN", "--labels", "voc"], "labels: found 'voc', expected one of coco"),
    (["export", "RUN", "--labels", "coco"], "found no labels, expected at least one to export")], ids=" ".join)
def test_what_cannot_be_done_is_said(waiting, words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([str(waiting.path) if word == "RUN" else word for word in words]) == 1
    assert said in capsys.readouterr().err
