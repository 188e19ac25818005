"""What a trained network says of files, through the command line; and the network as a file that runs without PyTorch."""
import copy
import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import stal_nb.onnx_export as onnx_module
from stal_nb import prediction
from stal_nb.cli import main
from stal_nb.config import Config
from stal_nb.labels import CAMVID
from stal_nb.models import predict_logits
from stal_nb.onnx_export import WholeNetwork, compare, export_onnx, with_short_sizes
from stal_nb.prediction import Network, find_pictures, pictures_of, predict_positions, trained_network
from stal_nb.run import Run
from stal_nb.runtime.checkpoints import save_checkpoint
from stal_nb.runtime.errors import ConfigError, DataError, StoreError, TrainingError
from stal_nb.runtime.files import atomic_write_json
from stal_nb.runtime.images import read_image
from stal_nb.step import build_model
from tiny import tiny

STAGES = ("source", "round 0")


def made(path, **settings):
    "A run with two networks that nobody has trained; statistics of BatchNorm are spread, so that classes differ."
    run = Run.create(tiny(**settings), path)
    for number, stage in enumerate(STAGES):
        state = run.checkpoints.new()
        generator = torch.Generator().manual_seed(number)
        for name, tensor in state.teacher.named_parameters():
            if "classifier" in name:
                torch.nn.init.normal_(tensor, std=3, generator=generator)
        save_checkpoint(run.layout.checkpoint(stage), state, stage=number, steps=0)
        atomic_write_json(run.layout.folder(stage) / "metrics.json", {"miou": None, "iou": {}, "seconds": 0})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "One of CamVid's classes whose data are not there (any more)."
    path = tmp_path_factory.mktemp("made") / "run"
    run = made(path)
    config = {**run.config.to_dict(), "data": "camvid", "data_root": "/gone", "source": "gta5", "source_root": "/gone"}
    for stage in STAGES:  # the same networks with eleven classes
        state = torch.nn.Module()
        torch.manual_seed(len(stage))
        state.teacher = torch.nn.Module()
        state.teacher.model = prediction.build_model(run.config, CAMVID.num_classes)
        torch.nn.init.normal_(state.teacher.model.classifier.weight, std=3)
        save_checkpoint(run.layout.checkpoint(stage), state, stage=0, steps=0)
    atomic_write_json(path / "config.json", config)
    return Run.open(path)


@pytest.fixture
def images(tmp_path):
    "Five pictures, one of them broken, in folders with names that results have, too."
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 60)), ("colour/a.jpg", (50, 50)), ("colour/b.png", (33, 47)), ("overlay/c.png", (40, 60))):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(file)
    return tmp_path / "images"


def ids_of(file):
    return np.array(Image.open(file))


def test_pictures_never_take_the_place_of_results(run, images, tmp_path, capsys):
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:100])
    out = images / "said"  # inside of the folder: never taken for images
    for _ in range(2):
        assert main(["predict", str(run.path), str(images), str(out), "--overlay", "--no-bar"]) == 1
        said = capsys.readouterr()
        assert "4 label files" in said.out and "colour-pictures/, overlay-pictures/, areas.csv" in said.out
        assert said.err.count("broken.png") == 1
    model = trained_network(run).model
    for id, suffix in (("a", "png"), ("colour/a", "jpg"), ("colour/b", "png"), ("overlay/c", "png")):
        image = read_image(images / f"{id}.{suffix}")
        with torch.inference_mode():
            expected = predict_logits(model, image[None], run.config.eval_size)[0].argmax(0)
        assert np.array_equal(ids_of(out / f"{id}.png"), expected.numpy())
        assert np.array_equal(ids_of(out / "colour-pictures" / f"{id}.png"), CAMVID.colorize(expected))
        assert Image.open(out / "overlay-pictures" / f"{id}.jpg").size == Image.open(images / f"{id}.{suffix}").size
    with open(out / "areas.csv", encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"a", "colour/a", "colour/b", "overlay/c"}
    ids = ids_of(out / "colour" / "b.png")
    for k, name in enumerate(CAMVID.classes):
        assert int(rows["colour/b"][f"{name} pixels"]) == (ids == k).sum()
        assert float(rows["colour/b"][f"{name} share"]) == pytest.approx((ids == k).mean(), abs=1e-5)


def test_label_files_and_runs_in_a_folder_are_passed_over_and_told(run, images, tmp_path, capsys):
    few = Image.fromarray(np.tile(np.arange(3, dtype=np.uint8), (40, 20)))
    for name in ("labels/a.png", "colour/a.png", "a_mask.png", "runs/first/labels/a.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        few.save(images / name)
    shutil.copy(run.path / "config.json", images / "runs/first/config.json")
    Image.open(images / "a.png").convert("RGB").save(images / "labels.jpg")
    Image.open(images / "colour/b.png").save(images / "seen_gt.png")  # a picture, and no seen.png beside it
    assert main(["predict", str(run.path), str(images), str(tmp_path / "out"), "--no-bar"]) == 0
    said = capsys.readouterr().out
    assert "6 label files" in said and f"passed over {images / 'labels'}: labels, by its name" in said
    assert "a run of stal_nb" in said and "2 more" not in said and "colour/a.png" in said and "a_mask.png" in said
    (tmp_path / "none").mkdir()
    few.save(tmp_path / "none" / "x.txt", "PNG")
    assert main(["predict", str(run.path), str(tmp_path / "none"), str(tmp_path / "out"), "--no-bar"]) == 1
    assert "found no image and no video (passed over: 1, such as x.txt)" in capsys.readouterr().err


def test_it_goes_on_where_it_stopped(run, images, tmp_path, monkeypatch, capsys):
    looked_at = []

    def counted(model, image, *rest):
        if len(looked_at) == 2:
            raise KeyboardInterrupt
        looked_at.append(tuple(image.shape[1:]))
        return predict_positions(model, image, *rest)

    command = ["predict", str(run.path), str(images), str(tmp_path / "out"), "--no-bar"]
    monkeypatch.setattr(prediction, "predict_positions", counted)
    assert main(command) == 130
    monkeypatch.setattr(prediction, "predict_positions", predict_positions)
    capsys.readouterr()
    assert main(command) == 0 and "4 label files" in capsys.readouterr().out
    assert main(command) == 0 and "(4 of them from before)" in capsys.readouterr().out
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(images / "a.png")  # another picture of the same name
    assert main(command) == 0 and "(3 of them from before)" in capsys.readouterr().out
    before = ids_of(tmp_path / "out" / "a.png")
    assert main([*command, "--stage", "source"]) == 0 and "from before" not in capsys.readouterr().out  # another network
    assert not np.array_equal(before, ids_of(tmp_path / "out" / "a.png"))
    assert main([*command, "--stage", "round 5"]) == 1 and "expected one of the finished stages: source, round 0" in capsys.readouterr().err


def test_what_may_be_looked_at(run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(images)
    found = lambda *inputs: list(find_pictures(inputs, tmp_path / "out")[0])  # noqa: E731
    assert found("a.png") == ["a"] and found(images / "colour") == ["a", "b"]
    assert found("*/*.png") == ["colour/b", "overlay/c"] and found("colour/*") == ["a", "b"]
    assert found("**/*.png") == ["a", "colour/b", "overlay/c"] and found("a.png", "overlay") == ["a", "c"]
    for inputs, expected in ((("nothing*",), "found no file of such a name"), (("gone.png",), "gone.png: found nothing, expected an image"),
                             (("a.png", "colour"), "expected one file with the id 'a'")):
        with pytest.raises(DataError, match=expected):
            found(*inputs)
    for out in (images, images / "colour"):
        with pytest.raises(ConfigError, match="expected another"):
            prediction.predict(run, [images if out == images else images / "colour" / "b.png"], out, bar=False)
    assert main(["predict", str(run.path), "a.png", "colour/b.png", str(tmp_path / "two"), "--no-bar"]) == 0
    assert sorted(f.name for f in (tmp_path / "two").glob("*.png")) == ["a.png", "b.png"]


def test_a_network_that_is_not_the_runs_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    config = {**json.loads((copy / "config.json").read_text()), "aspp_channels": 8}
    atomic_write_json(copy / "config.json", config)
    with pytest.raises(StoreError, match="found another network .*expected deeplabv3plus with 11 classes"):
        trained_network(Run.open(copy))
    atomic_write_json(copy / "config.json", {**config, "aspp_channels": 16, "data": "folder"})
    with pytest.raises(StoreError, match="expected deeplabv3plus with 19 classes"):
        trained_network(Run.open(copy))
    (copy / "labels").mkdir()  # what stands beside the labels has the last word: data sets may have been handed to the run
    atomic_write_json(copy / "labels" / "label_space.json", {"name": "mine", "classes": CAMVID.classes, "palette": CAMVID.palette})
    assert trained_network(Run.open(copy)).label_space.name == "mine"


def test_videos_are_labelled_frame_by_frame(run, tmp_path, capsys):
    import imageio_ffmpeg as ffmpeg

    file = tmp_path / "clips" / "day.mp4"
    file.parent.mkdir()
    writer = ffmpeg.write_frames(str(file), (48, 32), fps=5, macro_block_size=2, ffmpeg_log_level="error")
    writer.send(None)
    for k in range(7):
        writer.send(np.full((32, 48, 3), 30 * k, np.uint8))
    writer.close()
    out = tmp_path / "out"
    assert main(["predict", str(run.path), str(tmp_path / "clips"), str(out), "--every", "3", "--overlay", "--no-bar"]) == 0
    assert "3 label files" in capsys.readouterr().out
    assert sorted(f.name for f in (out / "day").iterdir()) == ["000000.png", "000003.png", "000006.png"]
    assert ids_of(out / "day" / "000003.png").shape == (32, 48)
    assert ffmpeg.count_frames_and_secs(str(out / "overlay" / "day.mp4"))[0] == 3
    assert main(["predict", str(run.path), str(file), str(out), "--every", "3", "--no-bar"]) == 0
    assert "(3 of them from before)" in capsys.readouterr().out
    file.write_bytes(b"no video")
    assert main(["predict", str(run.path), str(file), str(tmp_path / "x"), "--no-bar"]) == 1
    assert "day.mp4: found a video that cannot be decoded" in capsys.readouterr().err


def test_without_its_packages_it_says_what_to_install(run, tmp_path, monkeypatch, capsys):
    for name in ("imageio_ffmpeg", "onnxscript"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"pip install 'stal_nb\[video\]'"):
        list(pictures_of({}, {"a": tmp_path / "a.mp4"}))
    assert main(["export", str(run.path), "--onnx", str(tmp_path / "x.onnx")]) == 1
    assert "pip install 'stal_nb[onnx]'" in capsys.readouterr().err and not (tmp_path / "x.onnx").exists()


# -- ONNX ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_computes_what_pytorch_does_at_sizes_it_has_never_seen(run, tmp_path, capsys):
    import onnxruntime as runtime

    file = tmp_path / "model.onnx"
    config = {**json.loads((run.path / "config.json").read_text()), "eval_size": [32, 64]}  # shrinks inside
    shutil.copytree(run.path, tmp_path / "run")
    atomic_write_json(tmp_path / "run" / "config.json", config)
    assert main(["export", str(tmp_path / "run"), "--onnx", str(file), "--stage", "source"]) == 0
    assert "network of source, any size, any batch" in capsys.readouterr().out
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [value.shape for value in (*session.get_inputs(), *session.get_outputs())] == [
        ["batch", 3, "height", "width"], ["batch", 11, "height", "width"]]
    other = Run.open(tmp_path / "run")
    model = trained_network(other, "source").model
    for shape in ((1, 40, 70), (3, 21, 33), (2, 32, 64), (1, 150, 90)):
        images = torch.rand(shape[0], 3, *shape[1:])
        with torch.inference_mode():
            expected = predict_logits(model, images, (32, 64)).numpy()
        found = session.run(["logits"], {"images": images.numpy()})[0]
        assert np.abs(found - expected).max() < 1e-3 and (found.argmax(1) == expected.argmax(1)).mean() > 0.999
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(CAMVID.classes) and json.loads(about["colours"])[0] == [128, 128, 128]
    assert json.loads(about["input"])["range"] == [0, 1] and json.loads(about["inside"])["resized_to"] == [32, 64]
    assert about["stage"] == "source" and about["network"] == trained_network(other, "source").digest


def test_the_default_network_of_a_camera_has_short_formulas_of_its_size():
    "Its padding made an export of any size take more than a quarter of an hour."
    network = build_model(Config.preset("folder", data_root="x", weights=None), 3).eval()
    short, images = with_short_sizes(copy.deepcopy(network)), torch.rand(1, 3, 97, 130)
    assert {type(layer).__name__ for layer in network.modules()} - {type(layer).__name__ for layer in short.modules()} == {"Conv2dSame"}
    with torch.inference_mode():
        assert torch.equal(short(images, with_embeddings=False).logits, network(images, with_embeddings=False).logits)


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_module, "onnx_bytes", lambda *args: b"")
    monkeypatch.setattr(onnx_module, "compare", lambda *args: (0.002, 0.9999))
    with pytest.raises(TrainingError, match="found logits that differ by 0.002 and 99.990% .* nothing was written"):
        export_onnx(run, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
    with pytest.raises(ConfigError, match="size: found"):
        export_onnx(run, tmp_path / "x.onnx", size=(8, 8))


def test_the_whole_network_is_that_of_prediction(run):
    network = trained_network(run)
    assert isinstance(network, Network) and callable(compare)
    images = torch.rand(2, 3, 40, 60)
    for size in (None, (32, 64)):
        with torch.inference_mode():
            assert torch.allclose(WholeNetwork(network.model, size)(images), predict_logits(network.model, images, size), atol=1e-5)
