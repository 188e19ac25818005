"""Classes of one's own: `classes.json` and mappings, label files with any values or colours, and runs that begin from files on a disk."""
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from stal_nb.app.run_folder import RunFolder
from stal_nb.app.run_view import view_of
from stal_nb.class_check import class_words
from stal_nb.classes import Classes, class_content, content_of, read_classes, read_mapping
from stal_nb.cli import main
from stal_nb.config import Config
from stal_nb.data import ImageFolder, write_sample
from stal_nb.datasets import RunData, found_classes
from stal_nb.label_files import read_labels
from stal_nb.labels import CAMVID, CITYSCAPES, IGNORE, LabelSpace, Sample
from stal_nb.losses import fitting_ranks
from stal_nb.metrics import SegmentationMetrics, benchmark_miou
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError, DataError, LabelError, StalError
from stal_nb.store import LabelStore

FIRE = {"classes": [{"name": "background", "value": 0}, {"name": "smoke", "value": [1, 3], "colour": [200, 200, 200]},
                    {"name": "fire", "value": 2, "colour": "#ff4000"}], "ignore": [255], "background": "background"}
COLOURED = {"classes": [{"name": "black", "colour": [0, 0, 0]}, {"name": "house", "colour": [[128, 0, 0], "#000080"]}], "ignore": [[9, 9, 9]]}
SMALL = dict(backbone="timm/test_efficientnet", weights=None, aspp_channels=16, embedding_dim=8, crop_size=[32, 32], source_batch=2, target_batch=1,
             unlabelled_batch=1, source_steps=2, round_steps=[2], budgets=[2], num_anchors=4, num_negatives=4, bank_capacity=16, bank_push=4,
             annotator="oracle", eval_student=False)


def picture(file, array, mode=None, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array), mode).save(file, **options)
    return file


def read(file, content):
    space, coding = read_classes(content)
    return read_labels(file, space, coding=coding).tolist()


# -- the file -----------------------------------------------------------------------------------------------------------------------


def test_values_colours_names_and_what_is_ignored(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({**FIRE, "comment": "drawn by us"}), encoding="utf-8-sig")
    space, coding = read_classes(tmp_path / "classes.json")
    assert space.classes == ("background", "smoke", "fire") and space.palette[1:] == ((200, 200, 200), (255, 64, 0))
    assert (coding.background, coding.undrawn, coding.numbered) == (0, 0, True) and len(set(space.palette)) == 3
    assert read_classes({"classes": ["a", "b"]}).coding.values[[0, 1, 2, 255]].tolist() == [0, 1, -1, IGNORE]
    masks = read_classes({"classes": [{"name": "a", "value": 0}, {"name": "b", "value": 255}]})
    assert masks.coding.values[[0, 255]].tolist() == [0, 1], "255 is a class here: nothing is ignored unless it is said"
    stray = read_classes({**FIRE, "ignore": [255, "others"]})
    assert stray.coding.others and not coding.others and read_classes({**FIRE, "ignore": "others"}).coding.others
    for name in ("fire", 2, [255, 64, 0], "#FF4000"):
        assert read_classes({**FIRE, "background": name}).coding.background == 2
    assert read_classes({"classes": ["fume\u0301e", "ciel"]}).label_space.classes[0] == "fumée", "accents are compared composed"
    assert class_content("camvid") == content_of(CAMVID) and class_content({}) == {} and "comment" not in class_content(tmp_path / "classes.json")


@pytest.mark.parametrize("changes, message", [
    ({"classes": ["a"]}, "classes: found 1 class, expected a list of 2 to 255"), ({"classes": None}, "classes: found None"),
    ({"classes": [f"c{k}" for k in range(256)]}, "found 256 classes, expected a list of 2 to 255"),
    ({"classes": ["a", "b", "a"]}, r"found the name 'a' twice \(classes 1 and 3\)"), ({"classes": ["a", ""]}, "class 2: found '', expected a name"),
    ({"classes": ["a", 7]}, "class 2: found 7, expected a name, or an object"), ({"classes": [{"name": 7}, "b"]}, "class 1, name: found 7"),
    ({"classes": [{"value": 1}, "b"]}, "class 1, name: found None"), ({"classes": ["a", " b"]}, "class 2: found ' b'"),
    ({"classes": ["a", "b\n"]}, "class 2"), ({"classes": ["a", "\ud800"]}, "class 2"),
    ({"classes": [{"name": "a", "value": 1}, {"name": "b", "value": 1}]}, "found the value 1 in 'a' and in 'b', expected each once"),
    ({"classes": [{"name": "a", "value": [4, 4]}, {"name": "b", "value": 1}]}, "found the value 4 twice in 'a'"),
    ({"classes": [{"name": "a", "value": 70000}, "b"]}, r"class 1 \(a\), value: found 70000, expected a whole number from 0 to 65535"),
    ({"classes": [{"name": "a", "value": -1}, "b"]}, "value: found -1"), ({"classes": [{"name": "a", "value": True}, "b"]}, "value: found True"),
    ({"classes": [{"name": "a", "value": 1.0}, "b"]}, "value: found 1.0"), ({"classes": [{"name": "a", "value": []}, "b"]}, "at least one value"),
    ({"classes": [{"name": "a", "value": 1}, "b"]}, r"class 2 \(b\): found no value, expected one, since other classes have values"),
    ({"classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": "#010203"}]}, r"found the colour \[1, 2, 3\] in 'a' and in 'b'"),
    ({"classes": [{"name": "a", "colour": [1, 2]}, "b"]}, r"colour: found \[1, 2\], expected \[r, g, b\]"),
    ({"classes": [{"name": "a", "colour": "red"}, "b"]}, "colour: found 'red'"), ({"classes": [{"name": "a", "colour": [1, 2, 300]}, "b"]}, "300"),
    ({"classes": [{"name": "a", "color": [1, 2, 3]}, "b"]}, "class 1: found the unknown key 'color', expected some of name, value, colour"),
    ({"ignored": [1]}, "found the unknown key 'ignored', expected some of classes, ignore"), ({"ignore": [2]}, "found the value 2 in 'fire' and in ignore"),
    ({"ignore": ["#ff4000"]}, "in 'fire' and in ignore"), ({"ignore": "all"}, "ignore: found 'all'"), ({"ignore": [255, 255]}, "255 twice in ignore"),
    ({"background": "clouds"}, "background: found 'clouds', expected null or a class: background, smoke, fire"), ({"background": True}, "background"),
    ({"background": 9}, "background: found 9"), ({"name": 3}, "name: found 3"),
])
def test_what_a_class_file_cannot_say(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_classes(changes if "classes" in changes else {**FIRE, **changes}, "classes.json")


@pytest.mark.parametrize("text, message", [
    ('{"classes": [\n"a",\n]}', "classes.json, line 3"), ('{"classes": ["a", "b"], "classes": []}', "found the key 'classes' twice"),
    ("[" * 100_000, "classes.json"), ("", "line 1, column 1"), ("[]", r"classes.json: found \[\], expected an object"),
    ('{"classes": [NaN, "a"]}', "found the number NaN"), (b"\xff\xfe{", "not UTF-8"),
    ('{"ignore": ' + "9" * 5000 + "}", "classes.json"), (None, "classes.json: found No such file"),
])
def test_a_class_file_that_is_no_json(tmp_path, text, message):
    file = tmp_path / "classes.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for use in (read_classes, class_content, lambda path: Config.preset("folder", classes=path)):
        with pytest.raises(ConfigError, match=message):
            use(file)


def test_mappings_by_name_by_file_and_what_they_cannot_say(tmp_path):
    target = read_classes(FIRE).label_space
    (tmp_path / "mapping.json").write_text('{"road": "background", "sky": "smoke", "car": null}')
    table = read_mapping(tmp_path / "mapping.json", CITYSCAPES, target)
    assert table[[CITYSCAPES.index("road"), CITYSCAPES.index("sky")]].tolist() == [0, 1] and (table == IGNORE).sum() == 17
    assert read_mapping({"mapping": {"road": "fire"}, "comment": ""}, CITYSCAPES, target)[0] == 2
    assert torch.equal(read_mapping({}, CITYSCAPES, CAMVID), CITYSCAPES.mapping_to(CAMVID))
    for content, message in (({"raod": "fire"}, "found 'raod', expected a class of the source"), ({"road": 3}, "mapping, road: found 3"),
                             ({"road": "fier"}, "found 'fier', expected a class of the target"), ({"road": None}, "no class of the source"),
                             ({}, "no class of the source"), ([], "found \\[\\]")):
        with pytest.raises(ConfigError, match=message):
            read_mapping(content, CITYSCAPES, target)


def odd(rng, depth=0):
    "Something that JSON can hold and a class file should not, mostly."
    kinds = [None, True, -1, 0, 255, 256, 65_536, 1.5, 10**30, "", "a", "#12345", "#123456", "\ud800", "x" * 200, [], {}, [0, 0, 0], "ignore", "__proto__"]
    if depth < 3 and rng.random() < 0.4:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))] if rng.random() < 0.5 else {
            rng.choice(["name", "value", "colour", "classes", "x", ""]): odd(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice(kinds)


def damaged(rng, content):
    "A copy with up to three places changed, or its text with a few letters changed."
    copy = json.loads(json.dumps(content))
    for _ in range(rng.randrange(4)):
        place = copy
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice([*keys, "ignore", "new"] if isinstance(place, dict) else keys or [None])
            if key is None:
                break
            below = place.get(key) if isinstance(place, dict) else place[key]
            if isinstance(below, (dict, list)) and below and rng.random() < 0.7:
                place = below
                continue
            place[key] = odd(rng)
            break
    text = json.dumps(copy)
    for _ in range(rng.randrange(4) if rng.random() < 0.3 else 0):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", "[", "}", ",", '"', "9", "\\u0000", "-"]) + text[at + rng.randrange(2):]
    return text


def test_a_thousand_damaged_class_and_mapping_files_are_read_or_refused(tmp_path):
    rng, file, read_in, spaces = random.Random(0), tmp_path / "f.json", 0, (CITYSCAPES, read_classes(FIRE).label_space)
    mapping = {"road": "smoke", "sky": None, "car": "fire"}
    for k in range(1000):
        file.write_text(damaged(rng, [FIRE, COLOURED, mapping][k % 3]))
        try:
            found = read_mapping(file, *spaces) if k % 3 == 2 else read_classes(file)
        except ConfigError as error:
            assert str(file) in str(error) and "found" in str(error) and "expected" in str(error) and len(str(error)) < 1000
            str(error).encode()  # can be printed
            continue
        read_in += 1
        if k % 3 == 2:
            assert found.shape == (19,) and ((found < 3) | (found == IGNORE)).all()
        else:
            assert isinstance(found, Classes) and 2 <= found.label_space.num_classes <= 255 and found.coding.values.max() <= IGNORE
            assert read_classes(class_content(file)).label_space == found.label_space, "a configuration keeps what the file says"
    assert 50 < read_in < 900


# -- label files --------------------------------------------------------------------------------------------------------------------


def test_values_of_8_and_16_bits_masks_and_palettes(tmp_path):
    grey = [[0, 1, 2, 3, 255]]
    assert read(picture(tmp_path / "8.png", np.uint8(grey)), FIRE) == read(picture(tmp_path / "16.png", np.uint16(grey)), FIRE) == [[0, 1, 2, 1, IGNORE]]
    deep = {"classes": [{"name": "a", "value": 300}, {"name": "b", "value": [65_535, 44]}]}
    assert read(picture(tmp_path / "deep.png", np.uint16([[300, 65_535, 44]])), deep) == [[0, 1, 1]]
    for values, white in (([0, 1], 1), ([0, 255], 255), ([0, [1, 255]], 1)):
        masks = {"classes": [{"name": "no", "value": values[0]}, {"name": "yes", "value": values[1]}]}
        assert read(picture(tmp_path / "1.png", np.array([[False, True]])), masks) == [[0, 1]]
        assert read(picture(tmp_path / "m.png", np.uint8([[0, white]])), masks) == [[0, 1]]
        assert read(picture(tmp_path / "rgb.png", np.uint8([[[0] * 3, [white] * 3]])), masks) == [[0, 1]], "grey saved with three channels"
    palette = Image.fromarray(np.uint8([[2, 1, 0]]), "P")
    palette.putpalette([9, 9, 9, 128, 0, 0, 0, 0, 0])  # numbers mean other things than in FIRE: its values count; in COLOURED the colours do
    palette.save(tmp_path / "p.png")
    assert read(tmp_path / "p.png", FIRE) == [[2, 1, 0]] and read(tmp_path / "p.png", COLOURED) == [[0, 1, IGNORE]]


def test_colours_black_among_them_and_transparent_pixels(tmp_path):
    colours = [[[0, 0, 0], [128, 0, 0], [0, 0, 128], [9, 9, 9]]]
    assert read(picture(tmp_path / "c.png", np.uint8(colours)), COLOURED) == [[0, 1, 1, IGNORE]]
    clear = np.uint8([[[0, 0, 0, 0], [5, 5, 5, 0], [128, 0, 0, 255]]])
    assert read(picture(tmp_path / "a.png", clear), COLOURED) == [[IGNORE, IGNORE, 1]]
    assert read(tmp_path / "a.png", {**COLOURED, "background": "black"}) == [[0, 0, 1]]
    smoke = np.uint8([[[200, 200, 200], [255, 64, 0]]])
    assert read(picture(tmp_path / "s.png", smoke), FIRE) == [[1, 2]], "one file describes values and colours"


def test_stray_values_are_ignored_where_that_is_said(tmp_path):
    "Three of the 380 masks of a published set hold some pixels of 2, 7, 25 …"
    file = picture(tmp_path / "stray.png", np.uint8([[0, 1, 7, 255]]))
    assert read(file, {**FIRE, "ignore": ["others"]}) == [[0, 1, IGNORE, IGNORE]]
    assert read(picture(tmp_path / "c.png", np.uint8([[[0, 0, 0], [7, 7, 7]]])), {**COLOURED, "ignore": "others"}) == [[0, IGNORE]]


@pytest.mark.parametrize("array, content, message", [
    (np.uint8([[7, 7, 0]]), FIRE, r"l.png: found the value 7 in 2 pixels, expected 0 \(background\), 1 \(smoke\)"),
    (np.uint16([[300]]), FIRE, "found the value 300"),
    (np.uint8([[[1, 2, 3]]]), COLOURED, r"found the colour \[1, 2, 3\] in 1 pixels, expected \[0, 0, 0\] \(black\), \[128, 0, 0\] \(house\)"),
    (np.uint8([[[1, 2, 3]]]), {"classes": ["a", "b"]}, "no colours: state the colour of each class"),
    (np.arange(90, dtype=np.uint8).reshape(1, 30, 3), COLOURED, "Was it saved as JPEG, or scaled with smoothing"),
])
def test_what_a_label_file_may_not_hold(tmp_path, array, content, message):
    with pytest.raises(LabelError, match=message):
        read(picture(tmp_path / "l.png", array), content)


def test_a_jpeg_is_no_label_file(tmp_path):
    with pytest.raises(DataError, match="a JPEG, which changes ids"):
        read(picture(tmp_path / "l.png", np.zeros((8, 8, 3), np.uint8), format="JPEG"), COLOURED)


def test_as_many_classes_as_bytes_can_name(tmp_path):
    most = class_content({"classes": [f"class {k}" for k in range(255)]})
    space, coding = read_classes(most)
    assert len(set(space.palette)) == 255 and (0, 0, 0) not in space.palette
    labels = torch.arange(256).view(16, 16)
    write_sample(Sample(torch.rand(3, 16, 16), labels, "x", ""), tmp_path / "images", tmp_path / "labels")
    data = ImageFolder(tmp_path / "images", tmp_path / "labels", space, coding=coding)
    assert torch.equal(data[0].labels, labels) and (space.colorize(labels)[15, 14] == space.palette[254]).all()
    store = LabelStore(tmp_path / "store", space)
    store.save("x", labels, annotator="Ada", seconds=1.0)
    metrics = SegmentationMetrics(space)
    metrics.update(torch.where(labels == IGNORE, 0, labels)[None], store.load("x")[None])
    assert metrics.compute().miou == 100
    with pytest.raises(ConfigError, match="found 256, expected 1 to 255"):
        LabelSpace("many", tuple(map(str, range(256))), ((0, 0, 0),) * 256)


def test_sixteen_and_thirteen_classes_are_a_matter_of_cityscapes():
    chance = LabelSpace("mine", (*CITYSCAPES.classes, "smoke"), (*CITYSCAPES.palette, (1, 2, 3)))
    assert set(benchmark_miou(torch.eye(20), chance)) == {"miou"} < set(benchmark_miou(torch.eye(19), CITYSCAPES))


def test_ranks_leave_negatives_where_there_are_few_classes():
    for count in range(2, 60):
        for low, high in ((3, 20), (1, 1), (7, 9)):
            ranks = fitting_ranks(count, low, high)
            assert 1 <= ranks[0] < max(2, count) and ranks[0] <= ranks[1] <= max(count, ranks[0])
            assert ranks[0] == low or low >= count


# -- runs that begin from files on a disk ----------------------------------------------------------------------------------------------


def tree(root, values, images="images", labels="labels", count=3, size=(32, 48)):
    "Images in which the label, one of `values` a block, can be seen."
    rng = np.random.default_rng(len(values))
    for k in range(count):
        place = rng.integers(len(values), size=(size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1)
        label = np.array(values)[place]
        shown = rng.integers(60, size=(*size, 3)) + 180 * place[..., None] / len(values)
        picture(root / images / f"{k}.png", np.uint8(shown))
        picture(root / labels / f"{k}.png", np.uint8(label) if label.max() < 256 else np.uint16(label))
    return root


def looked(path):
    "What the dashboard shows of a run."
    folder = RunFolder(path)
    folder.look()
    return view_of(folder)


def command(name, target, source, out=None, **settings):
    words = [name, "--preset", "folder", "--root", str(target), "--source-root", str(source), "--no-bar", *(["--out", str(out)] if out else [])]
    return [*words, *(f"--set={key}={json.dumps(value)}" for key, value in {**SMALL, "source": "folder", **settings}.items())]


def test_masks_of_0_and_255_from_the_command_line_to_the_report(tmp_path, capsys):
    "Source and target have different classes; the target's `classes.json` lies beside its images."
    target, source = tree(tmp_path / "target", [0, 255]), tree(tmp_path / "source", [4, 300, 7])
    tree(target, [0, 255], "val_images", "val_labels", count=2)
    crack = {"classes": [{"name": "sound <b>", "value": 0}, {"name": "crack", "value": 255, "colour": [250, 10, 20]}]}
    (target / "classes.json").write_text(json.dumps(crack))
    (source / "classes.json").write_text(json.dumps({"classes": [{"name": "wall", "value": 4}, {"name": "gap", "value": 300}, {"name": "cat", "value": 7}]}))
    (tmp_path / "mapping.json").write_text('{"wall": "sound <b>", "gap": "crack"}')
    settings = dict(mapping=str(tmp_path / "mapping.json"))
    assert main(command("run", target, source, tmp_path / "run", **settings)) == 0
    said = capsys.readouterr().out
    for words in (f"2 classes (found in {target / 'classes.json'}): sound <b>, crack", "source to target: wall → sound <b>, gap → crack",
                  "ignored classes of the source: cat", "low_rank 3 → 1, high_rank 20 → 2", "label files"):
        assert words in said, words
    assert "mIoU 16" not in said and len([line for line in said.splitlines() if "ranks of L_c" in line]) == 1
    run = Run.open(tmp_path / "run")
    kept = json.loads((run.path / "config.json").read_text())
    assert kept["classes"] == crack and kept["mapping"] == {"wall": "sound <b>", "gap": "crack"} and len(kept["source_classes"]["classes"]) == 3
    assert set(run.summary()["rounds"][0]["iou"]) == {"sound <b>", "crack"} and run.store.label_space.classes == ("sound <b>", "crack")
    page = (run.path / "report.html").read_text()
    assert "sound &lt;b&gt;" in page and "rgb(250,10,20)" in page and "sidewalk" not in page
    view = looked(run.path)
    assert dict(zip(view["classes"], view["colours"], strict=True))["crack"] == "rgb(250,10,20)"
    assert main(command("run", target, source, tmp_path / "run", **settings)) == 0, "the same run again"
    assert "2 classes (" not in capsys.readouterr().out, "said before training, not after it"
    (target / "classes.json").unlink()  # a run keeps its classes
    assert Run.open(tmp_path / "run").data.label_space.classes == ("sound <b>", "crack")


def test_two_hundred_classes_are_learnt(tmp_path, capsys):
    names = {"classes": [f"species {k}" for k in range(200)]}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    both = tree(tmp_path / "both", list(range(200)))
    tree(both, list(range(200)), "val_images", "val_labels", count=1)
    assert main(command("run", both, both, tmp_path / "run", classes=str(tmp_path / "classes.json"), source_steps=1, round_steps=[1], lambda_c=1.0)) == 0
    said = capsys.readouterr().out
    assert "200 classes (setting classes)" in said and "… and 160 further classes" in said and "low_rank" not in said
    run = Run.open(tmp_path / "run")
    assert len(run.summary()["rounds"][0]["iou"]) == len(set(run.data.label_space.palette)) == 200
    assert "species 199" in (run.path / "report.html").read_text()


def test_a_source_folder_has_the_classes_of_the_target(tmp_path):
    "It was read as Cityscapes: CamVid's sky, 0, became road in silence."
    source, target = tree(tmp_path / "source", [0, 3]), tree(tmp_path / "target", [0, 3])
    data = RunData(Config.preset("folder", source="folder", source_root=source, data_root=target, label_space="camvid"))
    assert data.source.label_space is CAMVID and set(data.source[0].labels.unique().tolist()) == {CAMVID.index("sky"), CAMVID.index("road")}
    stated = RunData(Config.preset("folder", source="folder", source_root=source, data_root=target, label_space="camvid", source_classes="cityscapes"))
    assert set(stated.source[0].labels.unique().tolist()) == {CAMVID.index("road"), CAMVID.index("building")}, "wall is building in CamVid"


def test_renderings_bring_the_classes_for_both(tmp_path):
    source, target = tree(tmp_path / "source", [0, 1, 2]), tree(tmp_path / "target", [0, 1])
    (source / "classes.json").write_text(json.dumps(FIRE))
    found = found_classes({"data": "folder", "data_root": target, "source": "folder", "source_root": source})
    assert found == {"classes": class_content(FIRE)}
    config = Config.preset("folder", source="folder", source_root=source, data_root=target, annotator="oracle", **found, exclude=("fire",))
    assert f"found in {source / 'classes.json'}" in class_words(RunData(config))
    assert set(RunData(config).source[0].labels.unique().tolist()) == {0, 1, IGNORE}
    with pytest.raises(ConfigError, match="exclude: found road, expected names of classes of the source such as background, smoke, fire"):
        Config.preset("folder", source="folder", classes=FIRE, exclude=("road",))


@pytest.mark.parametrize("source, classes, message", [
    ([0, 255], ["a", "b"], "source labels: found pixels of 'a' and ignored ones, nothing else"),
    ([255], ["a", "b"], "source labels: found 3 label files in which every pixel is ignored"),
    ([0, 9], ["a", "b"], "found the value 9 in"),
])
def test_labels_that_teach_nothing_are_refused_before_anything_is_written(tmp_path, capsys, source, classes, message):
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    source, target = tree(tmp_path / "source", source), tree(tmp_path / "target", [0, 1])
    for name in ("run", "check-data"):
        out = {"out": tmp_path / "run"} if name == "run" else {}
        assert main(command(name, target, source, classes=str(tmp_path / "classes.json"), **out)) == 1
        captured = capsys.readouterr()
        assert message in captured.out + captured.err, captured
    assert not (tmp_path / "run").exists()


def test_a_plan_says_which_classes_there_are(tmp_path, capsys):
    both = tree(tmp_path / "both", [0, 1])
    assert main(command("plan", both, both, tmp_path / "run", classes={"classes": ["ground", "house"]})) == 0
    said = capsys.readouterr().out
    assert "2 classes (setting classes): ground, house" in said and "low_rank 3 → 1" in said and not (tmp_path / "run").exists()


def test_labels_of_one_class_among_others_are_said(tmp_path, capsys):
    source, target = tree(tmp_path / "source", [0, 1]), tree(tmp_path / "target", [0, 1])
    picture(source / "labels/0.png", np.full((32, 48), 255, np.uint8))
    picture(source / "labels/1.png", np.zeros((32, 48), np.uint8))
    assert main(command("check-data", target, source, classes={"classes": ["a", "b", "c"]})) == 0
    said = capsys.readouterr().out
    for words in ("1 of 3 source labels are ignored everywhere and teach nothing: 0", "1 of 3 source labels show one class alone", "no source label shows c"):
        assert words in said, said


@pytest.mark.parametrize("settings, message", [
    (dict(classes=FIRE, data="scenes"), "classes: found classes of your own for 'scenes', which has those of cityscapes"),
    (dict(source_classes=FIRE, source="gta5"), "source_classes: found classes of your own for 'gta5'"),
    (dict(classes=FIRE, source="gta5", mapping={"road": "street"}), "mapping: found 'street', expected a class of the target"),
    (dict(classes=FIRE, source="gta5"), None), (dict(classes=3), "classes: found 3, expected an object"),
    (dict(mapping="nowhere.json"), "nowhere.json: found No such file"),
])
def test_settings_that_contradict_each_other(settings, message):
    if message is None:  # nothing is said about the mapping: it is looked for by name when the data is opened
        assert Config.preset("folder", **settings).mapping == {}
        return
    with pytest.raises(StalError, match=message):
        Config.preset("folder", **settings)


def test_configurations_of_before_have_no_classes_and_those_of_today_are_json(tmp_path):
    config = Config.preset("folder", classes=FIRE, source="folder", source_classes=COLOURED, mapping={"house": "smoke", "black": None})
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config != Config.preset("folder") and isinstance(hash(config), int)
    old = {key: value for key, value in config.to_dict().items() if key not in ("classes", "source_classes", "mapping")}
    assert (Config.from_dict(old).classes, Config.from_dict(old).mapping) == ({}, {})
