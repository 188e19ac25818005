"""A run is a folder: it leaves what it says, continues where it was stopped, and refuses what it cannot do."""
import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stal_nb.errors import BudgetError, ConfigError, StoreError
from stal_nb.rounds import Config, Run, main, parse_setting
from stal_nb.training import StopRequested, Trainer
from tiny import TINY, tiny

SETTINGS = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items()]


def weights(path):
    return {k: v for k, v in load_file(path).items() if k.startswith("state.")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.create(tiny(), tmp_path_factory.mktemp("runs") / "whole")
    run.bar = False
    run.finish()
    return run


def test_a_run_leaves_what_it_promises(finished):
    summary = json.loads((finished.path / "summary.json").read_text())
    assert set(summary) >= {"source_only", "rounds", "seconds", "config"}
    assert [r["round"] for r in summary["rounds"]] == [0, 1]
    assert [r["labelled"] for r in summary["rounds"]] == [1, 3]
    assert [r["fraction"] for r in summary["rounds"]] == pytest.approx([0.1, 0.3])
    assert 0 <= summary["source_only"]["miou"] <= 100
    for entry in summary["rounds"]:
        assert 0 <= entry["miou"] <= 100 and set(entry["iou"]) == set(finished.data.label_space.classes)
    for number in (0, 1):
        folder = finished.round_folder(number)
        assert {"scores.csv", "query.json", "labelled.json", "training.csv", "checkpoint.safetensors", "metrics.json"} == {
            f.name for f in folder.iterdir()}
    assert len(finished.store.ids()) == 3


def test_scores_cover_exactly_the_images_without_a_label(finished):
    with (finished.round_folder(1) / "scores.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    first = json.loads((finished.round_folder(0) / "query.json").read_text())["ids"]
    assert {r["id"] for r in rows} == set(finished.data.target.ids) - set(first)
    chosen = json.loads((finished.round_folder(1) / "query.json").read_text())["ids"]
    best = sorted(rows, key=lambda r: (-float(r["entropy"]), r["id"]))[:2]
    assert sorted(chosen) == sorted(r["id"] for r in best), "the paper's strategy takes the images of highest mean entropy"


def test_bought_labels_are_the_truth_of_exactly_the_queried_images(finished):
    where = {id: k for k, id in enumerate(finished.data.target.ids)}
    for id in finished.store.ids():
        assert torch.equal(torch.as_tensor(finished.store.load(id)).long(), finished.data.target[where[id]].labels)


def test_same_seed_same_machine_same_queries_and_miou(finished, tmp_path):
    again = Run.create(finished.config, tmp_path / "again")
    again.bar = False
    summary = again.finish()
    for one, two in zip(finished.summary()["rounds"], summary["rounds"]):
        assert abs(one["miou"] - two["miou"]) <= 0.1
    for number in (0, 1):
        assert (finished.round_folder(number) / "query.json").read_text() == (again.round_folder(number) / "query.json").read_text()


def test_a_run_stopped_in_the_middle_of_a_stage_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    run = Run.create(finished.config, tmp_path / "stopped")
    run.bar = False
    step = Trainer.one_step

    def interrupted(trainer, batch):
        terms = step(trainer, batch)
        if trainer.stage == 1 and trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return terms

    monkeypatch.setattr(Trainer, "one_step", interrupted)
    with pytest.raises(StopRequested):
        run.finish()
    assert run.stage == "round 0: train"
    monkeypatch.undo()
    resumed = Run.open(tmp_path / "stopped")
    resumed.bar = False
    resumed.finish()
    expected = weights(finished.round_folder(1) / "checkpoint.safetensors")
    found = weights(resumed.round_folder(1) / "checkpoint.safetensors")
    assert expected.keys() == found.keys()
    different = [k for k in expected if not torch.equal(expected[k], found[k])]
    assert not different, f"{len(different)} tensors differ, for example {different[:3]}"


def test_opening_a_run_with_another_configuration_is_refused_and_changes_nothing(finished):
    before = (finished.path / "config.json").read_bytes()
    with pytest.raises(StoreError, match="lr .found 0.01, expected 0.5"):
        Run.create(replace(finished.config, lr=0.5), finished.path)
    assert (finished.path / "config.json").read_bytes() == before


def test_a_folder_with_other_things_in_it_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="not a run"):
        Run.create(tiny(), tmp_path)
    with pytest.raises(StoreError, match="config.json"):
        Run.open(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_budget_above_the_pool_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BudgetError, match="found 11 images, expected at most the 10"):
        Run.create(tiny(budgets=(1, 11)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes, words", [
    (dict(strategy="oracle"), "strategy: found 'oracle', expected one of"), (dict(budgets=(0.3, 0.1)), "do not fall"),
    (dict(round_steps=(1,)), "one of each a round"), (dict(colour="red"), "unknown setting colour"), (dict(lr=0), "lr: found 0"),
    (dict(data="video"), "data: found 'video'"), (dict(crop_size=(3,)), "crop_size"), (dict(mixed_precision="int8"), "mixed_precision")])
def test_bad_settings_say_what_was_found_and_expected(changes, words):
    with pytest.raises(ConfigError, match=words.replace("[", "\\[")):
        tiny(**changes)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="expected one of demo, camvid"):
        Config.preset("mars")


def test_settings_on_the_command_line():
    assert parse_setting("lr=0.5") == ("lr", 0.5)
    assert parse_setting("budgets=0.01,0.05") == ("budgets", [0.01, 0.05])
    assert parse_setting("backbone=resnet18") == ("backbone", "resnet18")
    assert parse_setting("weights=null") == ("weights", None)
    with pytest.raises(ConfigError, match="key=value"):
        parse_setting("lr")


def test_disk_full_while_a_checkpoint_is_saved_keeps_the_one_before(finished, tmp_path, monkeypatch):
    run = Run.create(finished.config, tmp_path / "full")
    run.bar = False
    import stal_nb.training as training
    write, calls = training.atomic_write_bytes, []

    def full(path, data):
        calls.append(path)
        if len(calls) == 1:
            return write(path, data)
        raise StoreError(f"{path}: no space left on device")

    monkeypatch.setattr(training, "atomic_write_bytes", full)
    with pytest.raises(StoreError, match="no space"):
        run.finish()
    kept = calls[0]
    monkeypatch.undo()
    assert load_file(kept), "the earlier checkpoint is whole"
    again = Run.open(tmp_path / "full")
    again.bar = False
    again.finish()
    assert again.stage is None


def test_a_damaged_checkpoint_is_a_typed_error(finished, tmp_path):
    import shutil
    shutil.copytree(finished.path, tmp_path / "copy")
    run = Run.open(tmp_path / "copy")
    file = run.round_folder(1) / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StoreError, match="damaged"):
        run.model_after("round 1")


def test_a_fork_takes_over_what_is_done_and_goes_its_own_way(finished, tmp_path):
    fork = finished.fork(tmp_path / "fork", after=0, strategy="random")
    fork.bar = False
    assert fork.stage == "round 1: query"
    first = json.loads((finished.round_folder(0) / "labelled.json").read_text())["ids"]
    assert fork.store.ids() == first
    assert fork.store.provenance(first[0])[-1]["annotator"] == "taken over"
    summary = fork.finish()
    assert summary["source_only"] == finished.summary()["source_only"] and summary["rounds"][0] == finished.summary()["rounds"][0]
    assert json.loads((fork.round_folder(1) / "query.json").read_text())["strategy"] == "random"


def test_a_fork_with_the_same_settings_ends_with_the_same_weights(finished, tmp_path):
    fork = finished.fork(tmp_path / "same", after=0)
    fork.bar = False
    fork.finish()
    expected = weights(finished.round_folder(1) / "checkpoint.safetensors")
    found = weights(fork.round_folder(1) / "checkpoint.safetensors")
    assert all(torch.equal(expected[k], found[k]) for k in expected)


@pytest.mark.parametrize("after, changes, words", [
    (5, {}, "after: found 5, expected a finished stage"), (0, dict(aspp_channels=32), "aspp_channels: found 32, expected 16"),
    (0, dict(seed=1), "seed: found 1"), (0, dict(budgets=(0.2, 0.3)), "another beginning")])
def test_a_fork_that_contradicts_the_past_is_refused(finished, tmp_path, after, changes, words):
    with pytest.raises(ConfigError, match=words):
        finished.fork(tmp_path / "no", after=after, **changes)
    assert not (tmp_path / "no").exists()


def test_training_and_scoring_never_open_the_files_of_labels_that_were_not_bought(tmp_path, monkeypatch):
    "The oracle reads the labels that it sells. Nothing else touches the truth of the target."
    from stal_nb.data import CamVid, RelabelledDataset, write_sample
    from stal_nb.labels import CAMVID
    from stal_nb.scenes import SceneDataset

    scenes = RelabelledDataset(SceneDataset("real", 8, size=(64, 128)), CAMVID)
    for split, indices in (("train", range(6)), ("val", range(6, 8))):
        for k in indices:
            write_sample(scenes[k], tmp_path / "camvid" / split, tmp_path / "camvid" / f"{split}annot")
    config = tiny(data="camvid", data_root=str(tmp_path / "camvid"), budgets=(1, 2), eval_size=None)
    opened = []
    load = CamVid.load_labels
    monkeypatch.setattr(CamVid, "load_labels", lambda self, index: opened.append((self.split, self.ids[index])) or load(self, index))
    run = Run.create(config, tmp_path / "run")
    run.bar = False
    run.finish()
    assert {id for split, id in opened if split == "train"} == set(run.store.ids())


# -- command line ----------------------------------------------------------------------------------------------------------

def stal(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "stal_nb", *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


def test_command_line_runs_reports_and_repeats(tmp_path):
    done = stal("run", "--preset", "demo", "--out", tmp_path / "run", "--no-bar", *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "source only" in done.stdout and "round 1" in done.stdout
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "summary.json").exists()
    before = (tmp_path / "run" / "summary.json").read_bytes()
    again = main(["run", "--preset", "demo", "--out", str(tmp_path / "run"), "--no-bar", *SETTINGS])
    assert again == 0 and (tmp_path / "run" / "summary.json").read_bytes() == before


def test_command_line_stopped_by_ctrl_c_says_how_to_continue(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "stal_nb", "run", "--out", str(tmp_path / "run"), "--no-bar", *SETTINGS, "--set=round_steps=[400,3]"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "run/rounds/00/progress.safetensors").exists() or process.poll() is not None, 120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stal_nb resume" in errors and "Traceback" not in errors
    assert Run.open(tmp_path / "run").stage == "round 0: train"


def wait_for(condition, seconds):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("arguments, words", [
    (["resume", "nowhere"], "StoreError: run folder nowhere"), (["report", "nowhere"], "StoreError"),
    (["run", "--preset", "mars"], "ConfigError: preset"), (["run", "--preset", "camvid", "--out", "x"], "data_root"),
    (["run", "--preset", "camvid", "--root", "missing", "--out", "x"], "missing"), (["run", "--set", "lr"], "--set")])
def test_command_line_refuses_with_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"
