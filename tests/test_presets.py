"""The paper's recipes on data in the real formats, small enough for a CPU, through the same configuration as the full ones."""
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stal_nb import planning
from stal_nb.app.report import headline, miou_figure
from stal_nb.cli import check_data, configured, main, parser
from stal_nb.config import PAPER, PAPER_BUDGETS, PRESETS, SETTINGS, Config
from stal_nb.data import write_sample
from stal_nb.datasets import RunData
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.prediction import predict
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError, DataError
from stal_nb.scenes import SceneDataset
from stal_nb.stages import measure
from trees import cityscapes_tree, gta5_tree, synthia_tree

pytestmark = pytest.mark.slow

REDUCED = dict(  # sizes and lengths alone: every other number is the preset's
    backbone="resnet18", multi_grid=(2, 4), weights=None, aspp_channels=32, embedding_dim=16, source_images=4, source_size=(64, 128),
    crop_size=(65, 65), source_batch=1, target_batch=1, unlabelled_batch=2, round_steps=(2, 2, 2), round_epochs=(), budgets=(1, 2, 3),
    bank_capacity=(50, *[30] * 18), num_negatives=16, workers=0, checkpoint_every=100,
    mixed_precision="no")
SMALLEST = dict(backbone="timm/test_efficientnet", multi_grid=None)  # where the network of the paper is not what is tested
PAPERS = ("gta5_to_cityscapes", "synthia_to_cityscapes")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    gta5_tree(root / "gta5", 5)
    synthia_tree(root / "synthia", 5)
    cityscapes_tree(root / "cityscapes", 6, 2)
    return root


def roots(trees, preset):
    return dict(data_root=str(trees / "cityscapes"), source_root=str(trees / preset.split("_")[0]))


def make(trees, folder, preset="gta5_to_cityscapes", setting="ssda", **changes):
    run = Run.create(Config.preset(preset, **{**roots(trees, preset), **REDUCED, **changes}).setting(setting), folder)
    run.bar = False
    return run


@pytest.mark.parametrize("preset", PAPERS)
def test_a_paper_preset_runs_every_stage(trees, tmp_path, preset):
    run = make(trees, tmp_path / "run", preset)
    summary = run.finish()
    assert [r["labelled"] for r in summary["rounds"]] == [1, 2, 3] and summary["complete"]
    for entry in summary["rounds"]:
        assert {"miou", "miou_16", "miou_13", "student", "iou"} <= set(entry) and len(entry["iou"]) == 19
    query = json.loads((run.round_folder(1) / "query.json").read_text())
    assert query["strategy"] == "entropy" and all("/" in id for id in query["ids"]), "cities are groups"
    assert not any(f.name.startswith("progress") for f in run.path.rglob("*.safetensors"))
    rows = (run.round_folder(2) / "training.csv").read_text()
    assert "L_c" in rows and "L_u" in rows and "L_s" in rows


def test_the_width_and_the_precision_of_the_preset_run(trees, tmp_path):
    "Bottlenecks with the dilations of the paper, heads as wide as its own, bf16."
    preset = Config.preset("gta5_to_cityscapes")
    own = {name: getattr(preset, name) for name in ("multi_grid", "aspp_channels", "embedding_dim", "mixed_precision")}
    assert own["mixed_precision"] == "bf16"
    run = make(trees, tmp_path / "run", backbone="resnet50", budgets=(1,), round_steps=(1,), **own)
    assert run.finish()["rounds"][0]["miou"] is not None


def test_presets_hold_the_released_numbers():
    for name in PAPERS:
        config = Config.preset(name)
        assert (config.lr, config.head_multiplier, config.momentum, config.weight_decay, config.poly_power) == (2.5e-3, 10, 0.9, 1e-4, 0.9)
        assert (config.backbone, config.output_stride, config.multi_grid, config.aspp_dilations) == ("resnet101", 8, (2, 2, 4), (12, 24, 36))
        assert config.crop_size == (769, 769) and config.source_size == (1024, 2048) and config.source_scale == config.target_scale == (0.5, 2.0)
        assert (config.lambda_u, config.lambda_c, config.temperature, config.num_anchors, config.num_negatives) == (1, 0.1, 0.5, 50, 256)
        assert config.bank_capacity[0] == 50_000 and set(config.bank_capacity[1:]) == {30_000} and len(config.bank_capacity) == 19
        assert (config.drop_percent, config.gamma, config.confidence_momentum) == (20, 2, 0.999)
        assert (config.teacher_decay, config.teacher_window) == (0.99, 1)
        assert config.budgets == (30, 65, 150) and config.source_images == 2000 and set(config.round_epochs) == {200}
        assert config.ohem_kept == pytest.approx(100_000 / (2 * 769 * 769), abs=1e-3)
    assert set(PAPER) <= set(PRESETS["gta5_to_cityscapes"]) and PAPER_BUDGETS["5%"] == (30, 150)
    assert [round(b[-1] / 2975, 3) for b in PAPER_BUDGETS.values()] == [0.01, 0.022, 0.05]


def test_without_first_labels(trees, tmp_path):
    run = make(trees, tmp_path / "uda", setting="uda", **SMALLEST)
    while run.stage != "round 1: query":
        run.advance()
    assert run.store.ids() == [] and run.summary()["rounds"][0]["labelled"] == 0
    assert run.finish()["rounds"][1]["labelled"] == 2


def test_source_free_does_not_touch_the_source(trees, tmp_path):
    shutil.copytree(trees / "gta5", tmp_path / "gta5")
    run = make(trees, tmp_path / "free", setting="source_free", source_root=str(tmp_path / "gta5"), source_steps=2, **SMALLEST)
    assert run.stage == "source" and run.advance() == "round 0: query"
    shutil.rmtree(tmp_path / "gta5")
    again = Run.open(tmp_path / "free")
    again.bar = False
    assert again.finish()["complete"]
    saved = load_file(again.round_folder(0) / "checkpoint.safetensors")
    assert saved["state.source_table.present"].shape == (0, 19)


def test_source_free_without_any_label_follows_pseudo_labels_alone(trees, tmp_path):
    run = make(trees, tmp_path / "free", setting="source_free", source_steps=2, budgets=(0, 1), round_steps=(2, 2), round_epochs=(),
               **SMALLEST)
    summary = run.finish()
    assert [r["labelled"] for r in summary["rounds"]] == [0, 1]
    before, after = (load_file(f / "checkpoint.safetensors") for f in (run.path / "source", run.round_folder(0)))
    name = "state.student.classifier.weight"
    assert not torch.equal(before[name], after[name]) and after[name].isfinite().all()


@pytest.mark.parametrize("preset, gone", [("gta5_to_cityscapes", ("terrain", "truck", "train")),
                                          ("synthia_to_cityscapes", ("terrain", "truck", "train", "road"))])
def test_open_set_hides_classes_of_the_source_alone(trees, preset, gone):
    config = Config.preset(preset, **{**roots(trees, preset), **REDUCED}).setting("open_set")
    assert config.exclude == SETTINGS["open_set"]["exclude"]
    data = RunData(replace(config, exclude=gone))
    hidden = {CITYSCAPES.index(name) for name in gone}
    assert not hidden & {v for k in range(4) for v in data.source[k].labels.unique().tolist()}
    assert {v for k in range(6) for v in data.target[k].labels.unique().tolist()} & {0, 9}


def test_epochs_become_steps(trees, tmp_path):
    run = make(trees, tmp_path / "run", budgets=(1, 3), round_steps=(), round_epochs=(2.0, 1.5), **SMALLEST)
    assert [run.steps_of(0), run.steps_of(1)] == [5, 3]  # 2 x 5 / 2; 1.5 x 3 / 2, rounded up
    halves = make(trees, tmp_path / "halves", budgets=(1, 3), round_steps=(), round_epochs=(2.0, 1.5), unlabelled_batch=1, accumulate=2, **SMALLEST)
    assert [halves.steps_of(0), halves.steps_of(1)] == [5, 3]  # a step of two micro-batches of one image shows two images, too
    assert [stage["epochs"] for stage in halves.plan()["stages"][1:]] == [2.0, 2.0]  # 5 x 2 / 5; 3 x 2 / 3
    with pytest.raises(ConfigError, match="round_epochs: found 2 and 1 entries|budgets, round_epochs: found 2 and 1"):
        Config.preset("gta5_to_cityscapes", budgets=(1, 2), round_epochs=(1.0,))
    with pytest.raises(ConfigError, match="round_steps"):
        Config.preset("gta5_to_cityscapes", round_epochs=(), round_steps=())


def test_source_and_target_lists_choose_images(trees, tmp_path):
    (tmp_path / "source.txt").write_text("images/00002.png\nimages/00004.png\n")
    target = RunData(Config.preset("gta5_to_cityscapes", **roots(trees, "gta5_to_cityscapes"))).target
    (tmp_path / "target.txt").write_text(f"leftImg8bit/train/{target.ids[1]}_leftImg8bit.png\n")
    data = RunData(Config.preset("gta5_to_cityscapes", **{**roots(trees, "gta5_to_cityscapes"), **REDUCED}, source_split=str(tmp_path / "source.txt"),
                                 target_split=str(tmp_path / "target.txt")))
    assert data.source.ids == ["00002", "00004"] and data.target.ids == [target.ids[1]]
    drawn = RunData(Config.preset("gta5_to_cityscapes", **{**roots(trees, "gta5_to_cityscapes"), **REDUCED, "source_images": 3})).source.ids
    assert len(drawn) == 3 and drawn == sorted(drawn)


def test_a_source_of_another_size_is_resized(trees):
    config = Config.preset("synthia_to_cityscapes", **{**roots(trees, "synthia_to_cityscapes"), **REDUCED, "source_size": (48, 80)})
    sample = RunData(config).source[0]
    assert sample.image.shape == (3, 48, 80) and sample.labels.shape == (48, 80)
    assert {*sample.labels.unique().tolist()} <= {*range(19), IGNORE}


@pytest.mark.parametrize("changes, error, words", [
    (dict(source_root=""), ConfigError, "source_root: found nothing, expected the folder of 'gta5'"),
    (dict(data_root=""), ConfigError, "data_root: found nothing, expected the folder of 'cityscapes'"),
    (dict(source_root="nowhere"), DataError, "nowhere"), (dict(data_root="nowhere"), DataError, "nowhere"),
    (dict(source="moon"), ConfigError, "source: found 'moon', expected one of scenes, gta5"), (dict(exclude=("lion",)), ConfigError, "exclude: found lion"),
    (dict(source_size=(4,)), ConfigError, "source_size"), (dict(eval_scales=(0.0,)), ConfigError, "eval_scales"),
    (dict(source_free=True), ConfigError, "source_free, source_steps"), (dict(source_split="missing.txt"), DataError, "missing.txt")])
def test_what_cannot_work_is_refused_before_anything_is_written(trees, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        make(trees, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_unknown_settings_are_named():
    with pytest.raises(ConfigError, match="setting: found 'magic', expected one of ssda, uda, source_free, open_set"):
        Config.preset("demo").setting("magic")


def test_multi_scale_flip_and_windows_in_a_run(trees, tmp_path):
    run = make(trees, tmp_path / "run", budgets=(1,), round_steps=(1,), aspp_channels=256)
    run.finish()
    plain = measure(run, run.state_after("round 0"), "test")
    other = Run(run.path, replace(run.config, eval_scales=(0.75, 1.0), eval_flip=True, eval_window=(48, 48)))
    other.bar = False
    assert measure(other, other.state_after("round 0"), "test")["miou"] != plain["miou"]


# -- a folder of one's own --------------------------------------------------------------------------------------------------------------


def test_a_folder_of_ones_own_is_labelled_and_predicted(tmp_path, capsys):
    scenes = SceneDataset("real", 6, size=(64, 128))
    for sample in scenes:
        write_sample(sample, tmp_path / "mine" / "images")
    small = dict(backbone="timm/test_efficientnet", weights=None, aspp_channels=16, embedding_dim=8, image_size=(64, 128), crop_size=(64, 64), source_images=4,
                 source_batch=1, target_batch=1, unlabelled_batch=1, source_steps=2, round_steps=(2, 2), budgets=(1, 2), num_negatives=8)
    settings = [f"--set={key}={json.dumps(value)}" for key, value in small.items()]
    command = ["--preset", "folder", "--root", str(tmp_path / "mine"), "--out", str(tmp_path / "run"), "--no-bar", *settings]
    assert main(["run", *command]) == 2  # waits for a person
    run, truth = Run.open(tmp_path / "run"), {s.id: s.labels for s in scenes}
    while run.awaiting:
        for id in run.awaiting:
            run.store.save(id, truth[id], annotator="somebody", seconds=60.0, round=len(run.store.ids()), done=True)
        main(["resume", str(run.path), "--no-bar"])
    summary = run.summary()
    assert summary["complete"] and [r["miou"] for r in summary["rounds"]] == [None, None], "nothing to measure with"
    assert len(run.store.ids()) == 2 and "–" in capsys.readouterr().out
    assert main(["predict", str(run.path), str(tmp_path / "mine" / "images"), str(tmp_path / "out"), "--no-bar"]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "out" / "colour").glob("*.png"))) == 6
    with pytest.raises(ConfigError, match="stage: found 'round 7', expected one of the finished stages: source, round 0, round 1"):
        predict(run, [tmp_path / "mine" / "images"], tmp_path / "out", stage="round 7")


def test_an_oracle_without_labels_is_refused(tmp_path):
    for sample in SceneDataset("real", 2, size=(64, 128)):
        write_sample(sample, tmp_path / "images")
    with pytest.raises(ConfigError, match="annotator: found 'oracle' for images without labels"):
        Run.create(Config.preset("folder", data_root=str(tmp_path), annotator="oracle"), tmp_path / "run")


# -- before anything starts -------------------------------------------------------------------------------------------------------------


def test_check_data_counts_and_names_broken_files(trees, tmp_path, capsys):
    shutil.copytree(trees / "gta5", tmp_path / "gta5")
    arguments = ["check-data", "--preset", "gta5_to_cityscapes", "--root", str(trees / "cityscapes"), "--source-root", str(tmp_path / "gta5"), "--workers", "0",
                 "--no-bar", "--set", "source_images=2"]  # a run would take two; every file is read
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "source: 5 of 5 images" in text and "target: 6 of 6 images" in text and "validation: 2 of 2 images" in text and "No file is broken" in text
    (tmp_path / "gta5" / "images" / "00003.png").write_bytes(b"not a picture")
    assert main([*arguments, "--page", str(tmp_path / "check.html")]) == 1
    text = capsys.readouterr().out
    assert "BROKEN" in text and "00003.png" in text
    pages = sorted(tmp_path.glob("check-*.html"))
    assert len(pages) == 3 and all(p.stat().st_size > 10_000 for p in pages)
    config = Config.preset("gta5_to_cityscapes", data_root=str(trees / "cityscapes"), source_root=str(tmp_path / "gta5"), source_images=0)
    assert not check_data(config, bar=False)


def test_the_upper_bound_of_a_preset_in_epochs_has_as_many_steps(trees, tmp_path):
    arguments = ["run", "--preset", "gta5_to_cityscapes", "--set", f"data_root={trees / 'cityscapes'}", "--set", f"source_root={trees / 'gta5'}",
                 "--set", "round_epochs=2,1,1", "--set", "budgets=1,2,3", "--set", "unlabelled_batch=2"]
    run, bound = (configured(parser().parse_args([*arguments, *more])) for more in ([], ["--oracle"]))
    assert run.round_epochs == (2, 1, 1) and bound.round_epochs == () and bound.budgets == (1.0,)
    assert bound.round_steps == (5 + 2 + 2,), "(6 - 1) / 2 twice, (6 - 2) / 2, (6 - 3) / 2 rounded up"


def test_a_run_on_synthia_is_known_by_sixteen_classes():
    results = [{"miou": 40.0, "miou_16": 47.0, "student": {"miou": 39.0, "miou_16": 46.0}}]
    assert headline({"source": "synthia", "data": "cityscapes"}, results) == ("miou_16", "mIoU over 16 classes")
    assert headline({"source": "gta5", "data": "cityscapes"}, results) == ("miou", "mIoU")
    assert headline({"source": "synthia", "data": "cityscapes"}, [{"miou": 1.0}]) == ("miou", "mIoU"), "an old run has no other"
    summary = {"config": {"source": "synthia", "data": "cityscapes", "strategy": "entropy"}, "source_only": None,
               "rounds": [{**results[0], "round": 0, "labelled": 3, "fraction": 0.01}]}
    figure = miou_figure(summary)
    assert list(figure.data[0].y) == [47.0] and figure.layout.yaxis.title.text == "mIoU over 16 classes (%)"


def test_a_plan_says_what_a_run_will_take(trees, tmp_path, capsys):
    run = make(trees, tmp_path / "run", source_steps=4, **SMALLEST)
    plan = run.plan()
    assert [s["steps"] for s in plan["stages"]] == [4, 2, 2, 2] and [s["labelled"] for s in plan["stages"]] == [0, 1, 2, 3]
    assert plan["images"] == {"source": 4, "target": 6, "groups": len(set(run.data.target.groups)), "validation": 2, "sets": {}}
    assert plan["network"]["all"] == sum(p.numel() for p in run.checkpoints.new().student.parameters())
    assert plan["memory"]["all"] == sum(v for k, v in plan["memory"].items() if k != "all") and plan["memory"]["activations"] > 1e6
    assert plan["seconds"] > 0 and plan["disk"]["free"] > 0
    assert run.stage == "source" and not list(run.path.glob("rounds/*"))
    run.advance()
    checkpoint = (run.path / "source" / "checkpoint.safetensors").stat().st_size
    assert plan["disk"]["checkpoint"] == pytest.approx(checkpoint, rel=0.05)
    assert run.plan(processes=2)["memory"]["activations"] == pytest.approx(plan["memory"]["activations"] / 2, rel=0.1)
    settings = [f"--set={key}={json.dumps(value)}" for key, value in REDUCED.items()]
    assert main(["plan", "--preset", "gta5_to_cityscapes", "--out", str(tmp_path / "planned"), "--source-root", str(trees / "gta5"),
                 "--root", str(trees / "cityscapes"), *settings]) == 0
    text = capsys.readouterr().out
    assert "memory of each device" in text and "warm-up" in text and not (tmp_path / "planned").exists()


def test_memory_of_a_step_grows_with_pixels_and_images():
    config = Config.preset("demo", weights=None, embedding_dim=16)
    one = planning.try_step(config, 19, crop_size=(64, 64), tries=1)
    wide = planning.try_step(config, 19, crop_size=(64, 128), tries=1)
    two = planning.try_step(config, 19, crop_size=(64, 64), labelled=2, unlabelled=2, tries=1)
    assert one.scaled((64, 128), 2).saved == pytest.approx(wide.saved, rel=0.1) and one.scaled((64, 64), 4).saved == pytest.approx(two.saved, rel=0.1)


def test_parameters_are_counted_without_a_network():
    counts = planning.count_parameters(Config.preset("gta5_to_cityscapes"), 19)
    assert counts["backbone"] == 42_500_160 and counts["all"] == counts["backbone"] + counts["heads"]
