"""A run is a folder: it leaves what it says, continues where it was stopped, and refuses what it cannot do."""
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stal_nb import config, datasets, stages
from stal_nb import scoring as scoring_module
from stal_nb.app.annotator import Annotator
from stal_nb.app.uncertainty_explorer import UncertaintyExplorer
from stal_nb.cli import main, parse_setting
from stal_nb.config import Config
from stal_nb.datasets import label_part
from stal_nb.evaluation import evaluate, same_size_batches
from stal_nb.labels import Sample
from stal_nb.models import predict_logits
from stal_nb.run import Run
from stal_nb.runtime.errors import (
    AwaitingLabels,
    BudgetError,
    ConfigError,
    DataError,
    DeviceMemoryError,
    StoreError,
)
from stal_nb.runtime.signals import StopRequested
from stal_nb.scenes import SceneDataset
from stal_nb.scoring import PartFile, Scoring, score_batch, score_into, score_pool, strip_scores
from stal_nb.selection import STRATEGIES, Region, declare, most_uncertain, region_mask, ripu_map, select_regions
from stal_nb.stages import fitted_temperature
from stal_nb.step import build_model
from stal_nb.trainer import Trainer
from stal_nb.uncertainty import MEASURES, dropout_passes, entropy
from tiny import TINY, tiny
from together import Command, spawn

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


def test_acquired_labels_are_the_truth_of_exactly_the_queried_images(finished):
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
    from stal_nb.runtime import checkpoints
    write, calls = checkpoints.write_checkpoint, []

    def full(path, *content):
        calls.append(path)
        if len(calls) == 1:
            return write(path, *content)
        raise StoreError(f"{path}: no space left on device")

    monkeypatch.setattr(checkpoints, "write_checkpoint", full)
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


def test_training_and_scoring_never_open_the_files_of_labels_that_were_not_acquired(tmp_path, monkeypatch):
    "The oracle reads the labels that it sells. Nothing else touches the truth of the target."
    from stal_nb.data import RelabelledDataset, write_sample
    from stal_nb.labels import CAMVID
    from stal_nb.readers import CamVid
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
    run.advance()  # begins with a look at every file, so that a broken one does not end a run after an hour
    opened.clear()
    run.finish()
    assert {id for split, id in opened if split == "train"} == set(run.store.ids())


# -- command line ----------------------------------------------------------------------------------------------------------

def stal(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "stal_nb", *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.slow
def test_command_line_runs_reports_and_repeats(tmp_path):
    done = stal("run", "--preset", "demo", "--out", tmp_path / "run", "--no-bar", *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "source only" in done.stdout and "round 1" in done.stdout
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "summary.json").exists()
    before = (tmp_path / "run" / "summary.json").read_bytes()
    again = main(["run", "--preset", "demo", "--out", str(tmp_path / "run"), "--no-bar", *SETTINGS])
    assert again == 0 and (tmp_path / "run" / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_command_line_stopped_by_ctrl_c_says_how_to_continue(tmp_path):
    command = Command("run", "--out", tmp_path / "run", "--no-bar", *SETTINGS, "--set=round_steps=[400,3]", told=tmp_path / "told")
    wait_for(lambda: list((tmp_path / "run/rounds/00").glob("progress-*.safetensors")) or command.poll() is not None, 120)
    os.kill(command.pid, signal.SIGINT)
    assert command.wait(60) == 130, command.said
    assert "stal_nb resume" in command.said and "Traceback" not in command.said
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


# -- the scoring pass ------------------------------------------------------------------------------------------------------


class Pictures:
    "Images that are made when asked for, some of another size; reading a label is an error."

    def __init__(self, length, size=(48, 96), other=()):
        self.length, self.size, self.other = length, size, set(other)
        self.ids, self.groups = [f"image,{k:04d}" for k in range(length)], [f"city \"{k % 3}\"" for k in range(length)]
        self.read = []

    def __len__(self):
        return self.length

    def __getitem__(self, k):
        if k >= self.length:
            raise IndexError(k)
        self.read.append(k)
        height, width = self.size
        size = (3, height // 2, width) if k in self.other else (3, height, width)
        image = torch.rand(size, generator=torch.Generator().manual_seed(k))
        return Sample(image, torch.zeros(size[1:], dtype=torch.int64), self.ids[k], self.groups[k])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build_model(tiny(), 19).eval()
    with torch.no_grad():
        for module in model.modules():  # a network that has opinions
            if isinstance(module, torch.nn.Conv2d) and module.out_channels == 19:
                module.weight.normal_(0, 3)
    return model


ALL = Scoring(
    frozenset({"margin", "least_confidence", "bald", "features", "class_shares", "regions"}),
    batch_size=4,
    mc_passes=3,
    pixel_map=ripu_map,
    window=4,
    radius=3,
    suppress=6,
    per_image=2,
)


def test_scores_agree_with_a_plain_pass_over_single_images(network):
    pictures = Pictures(5, other=[2])
    with torch.inference_mode():
        rows = [row for batch in same_size_batches(pictures, range(5), 4) for row in score_batch(network, batch, ALL)]
        for k, row in enumerate(rows):
            output = network(pictures[k].image[None])
            probs = output.logits.double().softmax(1)
            for name, measure in MEASURES.items():
                assert row[name] == pytest.approx(measure(probs).mean().item(), abs=1e-5)
            assert row["features"] == pytest.approx(output.embeddings.mean((2, 3))[0].tolist(), abs=1e-5)
            assert row["class_shares"] == pytest.approx(probs.mean((2, 3))[0].tolist(), abs=1e-5) and sum(
                row["class_shares"]
            ) == pytest.approx(1)
            score = ripu_map(probs.float(), 4, None)[0]
            assert [[y, x] for y, x, _ in row["regions"]] == select_regions(score, 2, 3).tolist()
            assert 0 <= row["bald"] <= 1


def test_bald_and_ensemble_are_means_of_the_mutual_information(network):
    pictures, other = Pictures(2), build_model(tiny(seed=1), 19).eval()
    scoring = Scoring(frozenset({"bald", "ensemble"}), members=(network, other), mc_passes=4, seed=3)
    with torch.inference_mode():
        row = score_batch(network, [pictures[1]], scoring)[0]
        image = pictures[1].image[None]
        probs = torch.stack([m(image).logits.softmax(1) for m in (network, other)]).double()
        assert row["ensemble"] == pytest.approx(
            (entropy(probs.mean(0)) - torch.stack([entropy(p) for p in probs]).mean(0)).mean().item(), abs=1e-5
        )
        masks = torch.stack(list(dropout_passes(network, image, 4, scoring.generator(pictures.ids[1])))).double()
        assert row["bald"] == pytest.approx(
            (entropy(masks.mean(0)) - torch.stack([entropy(p) for p in masks]).mean(0)).mean().item(), abs=1e-5
        )
        both = score_batch(network, [pictures[0], pictures[1]], scoring)[1]
        assert both["bald"] == pytest.approx(row["bald"], abs=1e-6), "dropout masks belong to the image, not to the batch"


def test_a_scoring_pass_sees_large_images_at_the_chosen_scale(network):
    picture = Pictures(1, size=(128, 256))[0]
    small = torch.nn.functional.interpolate(picture.image[None], (64, 128), mode="bilinear", antialias=True)
    with torch.inference_mode():
        row = score_batch(network, [picture], replace(ALL, needs=frozenset(), eval_size=(64, 128)))[0]
        logits = torch.nn.functional.interpolate(network(small).logits, (128, 256), mode="bilinear", align_corners=False)
        assert row["entropy"] == pytest.approx(entropy(logits.softmax(1)).mean().item(), abs=1e-5)


def test_only_what_is_asked_for_is_computed_and_kept(network, tmp_path):
    scored = score_pool(tmp_path, network, Pictures(3), range(3), Scoring(frozenset()), bar=False)
    assert set(scored.rows[0]) == {"id", "group", "entropy"} and [f.name for f in tmp_path.iterdir()] == ["scores.csv"]
    forward = []
    hook = network.representation.register_forward_hook(lambda *_: forward.append(1))
    score_pool(tmp_path / "b", network, Pictures(3), range(3), Scoring(frozenset({"entropy"})), bar=False)
    assert not forward, "embeddings were computed for nobody"
    hook.remove()


def folder_text(folder):
    return {f.name: f.read_text() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("bytes_lost", [1, 9, 40, 200, 2000])
def test_a_pass_killed_at_any_byte_goes_on_and_ends_the_same(network, tmp_path, bytes_lost):
    pictures, pool = Pictures(11, other=[5]), [0, 1, 2, 4, 5, 6, 7, 9, 10]
    whole = score_pool(tmp_path / "whole", network, pictures, pool, ALL, bar=False, also=[3, 8])
    part = PartFile(tmp_path / "torn" / "scores.part-0.csv", ALL)
    with torch.inference_mode():
        for chunk in (pool[:4], pool[4:8]):
            for batch in same_size_batches(pictures, chunk, 4):
                part.add(score_batch(network, batch, ALL))
    part.path.write_bytes(part.path.read_bytes()[:-bytes_lost])
    believed = len(PartFile(part.path, ALL, writable=False).rows)
    assert believed < 8
    pictures.read.clear()
    score_pool(tmp_path / "torn", network, pictures, pool, ALL, bar=False, also=[3, 8])
    assert folder_text(tmp_path / "torn") == folder_text(tmp_path / "whole")
    assert set(pictures.read) == {3, 8, *pool[4 * (believed // 4):]}, "batches that were whole are not computed again"
    pictures.read.clear()
    assert score_pool(tmp_path / "torn", network, pictures, pool, ALL, bar=False, also=[3, 8]).rows == whole.rows and not pictures.read


@pytest.mark.parametrize(
    "tail", [b"\0" * 50, b"image,9999", b'"image,0009",city,0.1', b"\xff\xfe\n", b"x,y,z\n", b'"image,0001",c,half,0.1,0.1\n']
)
def test_bytes_that_are_no_row_are_not_believed(tmp_path, tail):
    scoring = Scoring()
    part = PartFile(tmp_path / "a.csv", scoring)
    row = {"id": "image,0001", "group": "c", "entropy": 1 / 3, "margin": 0.5, "least_confidence": 1e-17}
    part.add([row])
    with open(part.path, "ab") as file:
        file.write(tail)
    again = PartFile(part.path, scoring)
    assert again.rows == {"image,0001": row}
    again.add([row | {"id": "b"}])
    assert list(PartFile(part.path, scoring).rows) == ["image,0001", "b"]


def test_a_part_file_of_other_columns_is_begun_anew(tmp_path):
    PartFile(tmp_path / "a.csv", Scoring()).add([{"id": "a", "group": "", "entropy": 1.0, "margin": 1.0, "least_confidence": 1.0}])
    assert PartFile(tmp_path / "a.csv", Scoring(frozenset())).rows == {}


def test_processes_share_the_pool_and_none_does_the_work_of_another(network, tmp_path):
    pictures, pool = Pictures(19), list(range(19))
    scoring, alone = Scoring(batch_size=2), score_pool(tmp_path / "alone", network, pictures, range(19), Scoring(batch_size=2), bar=False)
    known = []
    for process in range(3):
        pictures.read.clear()
        score_into(
            tmp_path / "shared" / f"p{process}" / "scores", network, pictures, pool, scoring, bar=False, process=process, processes=3
        )
        known.append(set(pictures.read))
    assert set().union(*known) == set(pool) and sum(map(len, known)) == 19
    rows = {}
    for process in range(3):
        rows |= PartFile(tmp_path / "shared" / f"p{process}" / f"scores.part-{process}.csv", scoring, writable=False).rows
    assert [rows[id] for id in pictures.ids] == alone.rows


def test_a_process_that_looks_late_leaves_no_batch_undone(network, tmp_path):
    pictures, scoring = Pictures(10), Scoring(batch_size=1)
    for process in (0, 1):  # the second begins when the first is done
        score_into(tmp_path / "scores", network, pictures, range(10), scoring, bar=False, process=process, processes=2)
    parts = [PartFile(tmp_path / f"scores.part-{k}.csv", scoring, writable=False) for k in (0, 1)]
    assert [len(part.rows) for part in parts] == [5, 5] and {*parts[0].rows, *parts[1].rows} == set(pictures.ids)


@pytest.mark.slow
def test_tables_are_put_together_without_holding_the_rows(tmp_path):
    "Rows of 400 numbers for 500 images: as Python objects some 7 MB, as text 4 MB."
    pictures, scoring = Pictures(1), Scoring(frozenset({"features"}))
    pictures.ids = [f"image-{k:04d}" for k in range(500)]
    part = PartFile(tmp_path / "scores.part-0.csv", scoring)
    vector = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    for id in pictures.ids:
        part.add([{"id": id, "group": "", "entropy": 0.5, "margin": 0.5, "least_confidence": 0.5, "features": vector}])
    tracemalloc.start()
    scoring_module._put_together(tmp_path, pictures, range(500), scoring, [], scoring, ())
    found = scoring_module.Scored(tmp_path).features(pictures.ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(found, torch.tensor(vector).expand(500, -1))
    assert peak < 2e6, f"{peak / 1e6:.1f} MB of Python objects"
    with pytest.raises(StoreError, match="embeddings.csv: found no row for 1 images, 'image-9999' first"):
        scoring_module.Scored(tmp_path).features(["image-0000", "image-9999"])


@pytest.mark.parametrize("doing", ["scoring", "evaluation"])
def test_too_little_memory_while_looking_is_said_with_numbers(tmp_path, monkeypatch, doing):
    run = Run.create(tiny(budgets=(0, 0), source_steps=0, round_steps=(0, 0)), tmp_path / "run")
    run.bar = False
    if doing == "scoring":
        run.advance()

    def full(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB")

    monkeypatch.setattr(stages, "score_pool" if doing == "scoring" else "evaluate", full)
    words = rf"{doing}: found too little memory on cpu \(.* GiB.*for 8 images of 64 x 128 pixels.*eval_batch=4 .*eval_size=\(32, 64\)"
    with pytest.raises(DeviceMemoryError, match=words):
        run.advance()


def test_a_stage_is_saved_before_it_is_measured(tmp_path, monkeypatch):
    run = Run.create(tiny(checkpoint_every=0), tmp_path / "run")
    run.bar = False

    def broken(*arguments, **settings):
        raise DataError("a broken validation image")

    monkeypatch.setattr(stages, "evaluate", broken)
    with pytest.raises(DataError, match="broken validation"):
        run.advance()
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "one_step", broken)  # no step is needed any more
    assert Run.open(run.path).advance() == "round 0: query"


def test_labels_of_other_images_are_told_of_and_not_counted(tmp_path):
    run = Run.create(tiny(source_steps=1, round_steps=(1, 1), strategy="core_set"), tmp_path / "run")
    run.bar = False
    run.store.save("a-typo", torch.zeros(64, 128, dtype=torch.int64))
    with pytest.warns(UserWarning, match="labels of 1 images that are not of the target, 'a-typo' first"):
        summary = run.finish()
    assert [r["labelled"] for r in summary["rounds"]] == [1, 3]


def test_a_part_that_was_finished_does_not_finish_the_whole_image(tmp_path):
    run = Run.create(tiny(annotator="person", first_strategy="random_regions", budget_unit="regions", region_radius=4, target_images=4, budgets=(4, 400),
                          source_steps=1, round_steps=(1, 1)), tmp_path / "run")
    run.bar = False
    with pytest.raises(AwaitingLabels) as first:
        run.finish()
    for id in first.value.ids:
        mask = region_mask(run.queried(1)[id], (64, 128))
        run.store.save(id, torch.where(mask, 0, 255), annotator="Ada", done=True, round=0)
    with pytest.raises(AwaitingLabels) as second:
        run.finish()
    assert set(second.value.ids) == set(json.loads((run.round_folder(1) / "query.json").read_text())["ids"]) and second.value.ids


def test_a_kind_of_data_is_one_function_and_one_row(monkeypatch):
    monkeypatch.setitem(datasets.KINDS, "noon", None)  # taken out again after the test
    datasets.register("noon", lambda role, root, config: SceneDataset("sim", 3, size=(32, 64), seed=1), roles=("source",), on_disk=False)
    assert len(datasets.RunData(tiny(source="noon")).source) == 3
    with pytest.raises(ConfigError, match="data: found 'noon', expected one of scenes, camvid, cityscapes, folder"):
        tiny(data="noon")


def test_data_sets_can_be_handed_to_a_run_and_are_asked_for_again(tmp_path):
    size = dict(size=(64, 128))
    given = dict(source=SceneDataset("sim", 4, **size), target=SceneDataset("real", 5, **size, seed=3), validation=SceneDataset("real", 2, **size, seed=4))
    run = Run.create(tiny(budgets=(0, 0), source_steps=0, round_steps=(0, 0)), tmp_path / "run", **given)
    assert (run.config.source, run.config.data, len(run.data.source), len(run.data.target), len(run.data.val)) == ("given", "given", 4, 5, 2)
    run.bar = False
    assert run.advance() == "round 0: query"
    with pytest.raises(ConfigError, match=r"target: found a run whose images were handed to it, expected them again, as in Run.open\(path, target=...\)"):
        Run.open(run.path).advance()
    again = Run.open(run.path, **given)
    again.bar = False
    assert again.advance() == "round 0: label" and Run.create(run.config, run.path, **given).stage == "round 0: label"


def test_a_folder_in_which_a_run_died_at_its_first_file_can_be_used(tmp_path):
    (tmp_path / ".config.json.1234abcd-77-12ab34cd.tmp").write_text("{")
    assert Run.create(tiny(), tmp_path).stage == "source"


def test_a_fork_that_was_interrupted_is_not_trained_anew_in_silence(finished, tmp_path, monkeypatch):
    import shutil

    def killed(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copytree", killed)
    with pytest.raises(KeyboardInterrupt):
        finished.fork(tmp_path / "fork", after=0, strategy="random")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="it was interrupted. Fork again into this folder"):
        Run.open(tmp_path / "fork").advance()
    assert finished.fork(tmp_path / "fork", after=0, strategy="random").stage == "round 1: query"


def test_a_damaged_member_of_the_ensemble_is_trained_again(finished, tmp_path):
    run = finished.fork(tmp_path / "fork", after=0, strategy="ensemble")
    run.bar = False
    (run.path / "source" / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="Stage 'source' is trained again"):
        assert run.advance() == "source"
    assert run.finish()["complete"]


def test_a_large_seed_is_a_seed(tmp_path):
    run = Run.create(tiny(seed=20240101, source_steps=0, round_steps=(0, 0), first_strategy="random_regions", region_radius=4), tmp_path)
    run.bar = False
    run.advance()
    assert run.advance() == "round 0: label"


@pytest.mark.parametrize("change", [
    dict(seed=-1), dict(seed="a"), dict(paste_classes=0), dict(source_steps=1.5), dict(momentum=-1), dict(val_limit=-1),
    dict(crop_size=(64.5, 128)), dict(num_anchors=1.5), dict(low_rank=9, high_rank=3), dict(round_steps=(1.5, 2)),
    dict(image_size=64), dict(lr="fast"), dict(lr=float("nan")), dict(weights=True), dict(target_images=0), dict(budgets=None),
    dict(name=3), dict(eval_batch=0), dict(source_scale=(0, 1))])
def test_a_setting_that_would_fail_later_is_refused_at_once(change):
    with pytest.raises(ConfigError, match=f"^({'|'.join(change)})"):
        tiny(**change)


@pytest.mark.parametrize("device", ["foo", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_is_not_there_is_named(tmp_path, device):
    with pytest.raises(ConfigError, match=f"device: found '{device}'"):
        Run.create(tiny(device=device), tmp_path / "run")


def one_of_two(rank, folder, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                      ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures = Pictures(9)
    scored = score_pool(f"{folder}/scored", build_model(tiny(), 19).eval(), pictures, range(9), Scoring(frozenset(), batch_size=2), bar=False)
    Path(folder, f"told-{rank}").write_text(f"read {len(pictures.read)} rows {len(scored.rows)}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_accelerate_score_one_pool(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(one_of_two, str(tmp_path), port)
    assert sorted(f.read_text() for f in tmp_path.glob("told-*")) == ["read 4 rows 9", "read 5 rows 9"]
    assert [f.name for f in (tmp_path / "scored").iterdir()] == ["scores.csv"]


def test_memory_for_rows_does_not_hold_images(network, tmp_path):
    "Only the batch in use and the one being read are alive."
    pictures, alive, most = Pictures(40), [], []
    get = pictures.__class__.__getitem__

    class Watched(Pictures):
        def __getitem__(self, k):
            sample = get(self, k)
            alive.append(weakref.ref(sample.image))
            most.append(sum(r() is not None for r in alive))
            return sample

    score_pool(tmp_path, network, Watched(40), range(40), Scoring(frozenset(), batch_size=4), bar=False)
    assert max(most) <= 12  # three batches for a moment: used, waiting, being read


# -- strategies, regions and pixels in the loop ----------------------------------------------------------------------------


STRATEGIES_IN_A_RUN = {
    "core_set": {"embeddings.csv"},
    "uncertainty_diversity": {"embeddings.csv"},
    "rare_class": {"class_shares.csv"},
    "bald": set(),
    "ensemble": set(),
    "margin": set(),
    "ripu_regions": {"regions.csv"},
    "random_pixels": {"regions.csv"},
    "word_coverage": set(),
    "badge_like": {"embeddings.csv"},
}


@pytest.mark.parametrize("name", STRATEGIES_IN_A_RUN)
def test_every_strategy_can_query_in_a_run(finished, tmp_path, name):
    fork = finished.fork(tmp_path / name, after=0, strategy=name, region_radius=5, mc_passes=2)
    fork.bar = False
    fork.advance()
    folder = fork.round_folder(1)
    assert {f.name for f in folder.iterdir()} == {"scores.csv", "query.json", *STRATEGIES_IN_A_RUN[name]}
    query = json.loads((folder / "query.json").read_text())
    assert query["strategy"] == name and query["pixels"] <= 2 * 64 * 128
    if query["unit"] == "images":
        assert len(query["ids"]) == 2 and not set(query["ids"]) & set(fork.store.ids())
    else:
        assert len(query["regions"]) == 2 * 64 * 128 // (11 * 11 if query["unit"] == "regions" else 1)
    if name == "core_set":
        with (folder / "embeddings.csv").open(newline="") as handle:
            assert [row["id"] for row in csv.DictReader(handle)][-1] == fork.store.ids()[-1], "labelled images have embeddings too"


def test_region_labels_flow_through_the_whole_loop(tmp_path):
    "Partly labelled images are kept, are trained on, stay in the pool, and are never asked twice for the same pixel; budgets count pixels."
    run = Run.create(tiny(budgets=(0.1, 0.15, 0.2), budget_unit="pixels", round_steps=(2, 2, 2), strategy="ripu_regions", region_radius=4,
                          per_image=7), tmp_path / "run")
    run.bar = False
    while run.stage != "round 1: train":
        run.advance()
    query = json.loads((run.round_folder(1) / "query.json").read_text())
    whole = json.loads((run.round_folder(0) / "query.json").read_text())["ids"]
    where = {id: k for k, id in enumerate(run.data.target.ids)}
    assert query["radius"] == 4 and len(query["regions"]) == 4096 // 81
    assert query["pixels"] == 81 * len(query["regions"]) and not set(query["ids"]) & set(whole)
    for id in query["ids"]:
        truth, labels = run.data.target[where[id]].labels, run.store.load(id)
        mask = region_mask([Region(i, y, x, 4) for i, y, x in query["regions"] if i == id], (64, 128))
        assert torch.equal(labels[mask], truth[mask]) and bool((labels[~mask] == 255).all())
        assert run.store.provenance(id)[-1]["round"] == 1 and len(run.store.provenance(id)[-1]["regions"]) <= 7
    trainer = {}
    fit = Trainer.fit

    def look(self, *args, **options):
        trainer.update(labelled=set(self.labelled.tolist()), unlabelled=set(self.unlabelled.tolist()))
        return fit(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", look)
        run.advance()
    partly = {where[id] for id in query["ids"]}
    assert trainer["labelled"] == partly | {where[id] for id in whole} and trainer["unlabelled"] == set(range(10)) - {
        where[id] for id in whole
    }
    summary = run.finish()
    assert [r["fraction"] for r in summary["rounds"]] == pytest.approx([0.1, 0.15, 0.2], abs=81 / (10 * 64 * 128))
    assert summary["rounds"][-1]["pixels"] <= 0.2 * 10 * 64 * 128
    seen = {}
    for number in (1, 2):
        for id, y, x in json.loads((run.round_folder(number) / "query.json").read_text())["regions"]:
            mask = region_mask([Region(id, y, x, 4)], (64, 128))
            assert not (seen.get(id, torch.zeros_like(mask)) & mask).any(), "a pixel was queried twice"
            seen[id] = seen.get(id, torch.zeros_like(mask)) | mask
    for id, mask in seen.items():
        assert torch.equal(run.store.load(id)[mask], run.data.target[where[id]].labels[mask])


def test_labelling_of_regions_that_was_stopped_goes_on_and_asks_nothing_twice(finished, tmp_path, monkeypatch):
    fork = finished.fork(tmp_path / "fork", after=0, strategy="ripu_pixels", per_image=100, budgets=(0.1, 0.11), budget_unit="pixels")
    fork.bar = False
    fork.advance()
    queried, part = [], stages.label_part

    def stop_at_the_third(annotator, id, mask):
        queried.append(id)
        if len(queried) == 3:
            raise KeyboardInterrupt
        return part(annotator, id, mask)

    monkeypatch.setattr(stages, "label_part", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        fork.advance()
    again = Run.open(tmp_path / "fork")
    again.bar = False
    again.advance()
    assert again.stage == "round 1: train" and len(queried) == len(set(queried)) + 1  # only the interrupted one
    query = json.loads((again.round_folder(1) / "query.json").read_text())
    for id in query["ids"]:
        assert int((again.store.load(id) != 255).sum()) == sum(i == id for i, _, _ in query["regions"])


@pytest.mark.parametrize(
    "unit, budgets, expected",
    [
        ("images", (1, 3), (1, 3)),
        ("regions", (0.1, 0.3), (68, 204)),
        ("regions", (5, 40), (5, 40)),
        ("pixels", (0.1, 0.3), (8192, 24576)),
        ("pixels", (9000, 20_000), (9000, 20_000)),
    ],
)
@pytest.mark.parametrize("strategy", ["entropy", "ripu_regions", "ripu_pixels"])
def test_any_strategy_spends_any_budget_at_the_price_in_pixels(tmp_path, unit, budgets, expected, strategy):
    run = Run.create(tiny(budgets=budgets, budget_unit=unit, strategy=strategy, region_radius=5), tmp_path / "run")
    assert run.budgets == pytest.approx(expected, abs=1)
    unit_of_strategy = strategy.split("_")[1] if "_" in strategy else "images"
    price = {"images": 64 * 128, "regions": 121, "pixels": 1}
    k = run.wanted(1, unit_of_strategy)  # nothing is acquired yet
    assert k * price[unit_of_strategy] <= run.budgets[1] * price[unit] < (k + 1) * price[unit_of_strategy]


@pytest.mark.parametrize("changes, error, words", [
    (dict(budget_unit="regions", budgets=(1, 10_000), region_radius=5), BudgetError, "found 10000 regions, expected at most the 677"),
    (dict(budget_unit="euros"), ConfigError, "budget_unit: found 'euros'"), (dict(region_radius=0), ConfigError, "region_radius: found 0"),
    (dict(mc_passes=1), ConfigError, "mc_passes: found 1"), (dict(per_image=-1), ConfigError, "per_image: found -1"),
    (dict(first_strategy="ensemble"), ConfigError, "no ensemble yet")])
def test_settings_of_regions_and_strategies_that_cannot_work_are_refused(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        Run.create(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_strategy_that_needs_what_no_pass_computes_is_refused_before_the_run(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "mine", declare(lambda pool: [], needs={"tea leaves"}))
    with pytest.raises(ConfigError, match="'mine' needs tea leaves, expected some of bald, calibrated, class_shares"):
        tiny(strategy="mine")


def test_a_strategy_of_ones_own_runs_in_the_loop(finished, tmp_path, monkeypatch):
    def spread(pool):
        return sorted(pool.ids, key=lambda id: pool.features[pool.ids.index(id)].norm().item())[:pool.k]

    monkeypatch.setitem(STRATEGIES, "mine", declare(spread, needs={"features"}))
    fork = finished.fork(tmp_path / "mine", after=0, strategy="mine")
    fork.bar = False
    assert len(fork.finish()["rounds"]) == 2


def test_an_annotator_that_knows_masks_is_asked_for_the_mask_alone():
    class Knows:
        name = "knows"

        def label(self, id, mask=None):
            return torch.where(mask, 3, 255), 2.0

    class DoesNot:
        name = "does not"

        def label(self, id):
            return torch.full((4, 6), 3), 9.0

    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 2:4] = True
    for annotator, seconds in ((Knows(), 2.0), (DoesNot(), 9.0)):
        labels, took = label_part(annotator, "a", mask)
        assert torch.equal(labels, torch.where(mask, 3, 255)) and took == seconds
    with pytest.raises(StoreError, match=r"found shape \(4, 6\), expected \(8, 6\)"):
        label_part(DoesNot(), "a", torch.zeros(8, 6, dtype=torch.bool))


def test_a_run_may_score_the_centre_alone(finished):
    cropped = Run(finished.path, replace(finished.config, eval_crop=(32, 32)))
    cropped.bar = False
    state = cropped.state_after("round 1")
    found = stages.measure(cropped, state, "test")
    for network, score in ((state.teacher, found["miou"]), (state.student, found["student"]["miou"])):
        expected = evaluate(network, cropped.data.val, cropped.data.label_space, bar=False, crop=(32, 32)).miou
        assert score == pytest.approx(expected, abs=1e-3)
    assert found != stages.measure(finished, state, "test")
    assert Config.from_dict({**finished.config.to_dict(), "eval_crop": [32, 32]}).eval_crop == (32, 32)


# -- a person ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_person(finished, tmp_path):
    "A run that stands before the first query, from the source model of the finished one."
    run = finished.fork(tmp_path / "person", after="source", annotator="person")
    run.bar = False
    run.advance()
    assert run.stage == "round 0: label"
    return run


def test_a_run_waits_for_a_person_and_ends_where_the_oracle_s_run_ended(finished, by_person):
    truth = {sample.id: sample.labels for sample in by_person.data.target}
    for number in range(2):
        query = json.loads((by_person.round_folder(number) / "query.json").read_text())["ids"]
        assert by_person.awaiting == query
        with pytest.raises(AwaitingLabels, match=f"waits for the labels of {len(query)} of {len(query)} images") as caught:
            by_person.advance()
        assert caught.value.ids == query and by_person.stage == f"round {number}: label"
        for id in query[:-1]:
            by_person.store.save(id, truth[id], annotator="me", seconds=60.0, round=number, done=True)
        by_person.store.save(query[-1], truth[query[-1]], annotator="me", round=number, done=False)  # begun, not finished
        assert by_person.awaiting == query[-1:] == Run.open(by_person.path).awaiting
        by_person.store.save(query[-1], truth[query[-1]])  # from a file labelled elsewhere: nothing says it is unfinished
        assert by_person.awaiting == []
        by_person.advance()
        by_person.advance()
        if number == 0:
            by_person.advance()
    ours, theirs = (load_file(r.round_folder(1) / "checkpoint.safetensors") for r in (by_person, finished))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert by_person.awaiting == finished.awaiting == []


def test_the_source_can_fade_out_over_the_rounds(tmp_path, monkeypatch):
    "Its places in the batch go to labelled target images; the last share holds on, and without labels nothing changes."
    fit, seen = stages.fit_and_measure, []
    monkeypatch.setattr(stages, "fit_and_measure", lambda run, stage, name, state, config, steps, **parts: seen.append(
        (stage, config.source_batch, config.target_batch)) or fit(run, stage, name, state, config, steps, **parts))
    run = Run.create(tiny(source_batch=2, target_batch=1, budgets=(0, 1, 2, 3), round_steps=(1, 1, 1, 1), source_share=(0.0, 0.5, 0.0)), tmp_path / "run")
    run.bar = False
    run.finish()
    assert seen[1:] == [("round 0", 2, 1), ("round 1", 1, 2), ("round 2", 0, 3), ("round 3", 0, 3)]
    for wrong in ((), (1.5,), (-0.1, 1.0)):
        with pytest.raises(ConfigError, match="source_share"):
            tiny(source_share=wrong)


def test_a_skipped_image_is_not_waited_for_and_not_trained_on(by_person):
    (id,) = by_person.awaiting
    by_person.store.note(id, "skipped", round=0)
    assert by_person.advance() == "round 0: train"
    assert json.loads((by_person.round_folder(0) / "labelled.json").read_text())["ids"] == []


def test_the_widget_of_a_run_shows_its_query_with_its_predictions(by_person, finished):
    widget = Annotator.of_run(by_person, annotator="me", autosave=0.0)
    assert widget.ids == by_person.awaiting and widget.provenance == {"round": 0} and not widget.finished
    assert widget.predictions(by_person.data.target[0]).shape == (19, 64, 128)
    with pytest.raises(ConfigError, match="expected one that waits for labels"):
        Annotator.of_run(finished)


def test_the_explorer_of_a_run_is_calibrated_by_labels_that_a_teacher_had_not_seen(finished):
    explorer = UncertaintyExplorer.of_run(finished, network="round 0")
    explorer.send = lambda content, buffers=None: None
    fitted = explorer.temperature()
    assert explorer.calibrated and (fitted.images, fitted.stage) == (2, "round 0") and 0.1 <= fitted.value <= 10
    assert explorer.temperature("source only")[1:] == (1, "source"), "the first round's label"
    assert explorer.temperature("round 1") == fitted, "nothing was labelled after the last round: that of the teacher before"
    sample, sure = finished.data.val[0], finished.model_after("round 0")
    with torch.no_grad():
        logits = predict_logits(sure, sample.image[None], finished.config.eval_size)
    assert torch.allclose(explorer.predictions().mean, (logits / fitted.value).softmax(1), atol=1e-5)
    assert fitted_temperature(finished, 0) is None


def test_a_person_is_asked_for_regions_alone(finished, tmp_path):
    run = finished.fork(tmp_path / "regions", after="source", annotator="person", first_strategy="random_regions", strategy="ripu_regions",
                        budget_unit="regions", budgets=(2, 4), region_radius=4)
    run.bar = False
    run.advance()
    widget, queried = Annotator.of_run(run), run.queried(1)
    assert run.awaiting
    for id in run.awaiting:
        sample = run.data.target[run.data.target.ids.index(id)]
        assert torch.equal(widget.regions(sample), region_mask(queried[id], sample.image.shape[1:]))


def test_the_command_line_says_that_it_waits(by_person, capsys):
    assert main(["resume", str(by_person.path), "--no-bar"]) == 2
    assert "waits for the labels of 1 of 1 images" in capsys.readouterr().out


def test_another_annotator_is_refused():
    with pytest.raises(ConfigError, match="annotator: found 'nobody', expected 'oracle' or 'person'"):
        tiny(annotator="nobody")


def test_a_new_measure_is_a_row_of_measures_and_a_row_of_strategies(tmp_path, monkeypatch):
    monkeypatch.setitem(MEASURES, "gini", lambda probs: 1 - probs.square().sum(1))
    monkeypatch.setitem(STRATEGIES, "gini", most_uncertain("gini"))
    monkeypatch.setattr(config, "SCORED", config.SCORED | {"gini"})  # read from MEASURES when it was imported
    logits = torch.randn(1, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    expected = (1 - logits.softmax(1).square().sum(1)).mean()
    assert strip_scores(logits, {"gini", "entropy"})["gini"].item() == pytest.approx(expected.item(), rel=1e-5)
    run = Run.create(tiny(strategy="gini"), tmp_path / "run")
    run.bar = False
    while run.stage != "round 1: label":
        run.advance()
    with open(run.round_folder(1) / "scores.csv") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["gini"]))
    query = json.loads((run.round_folder(1) / "query.json").read_text())
    assert query["strategy"] == "gini" and set(query["ids"]) == {row["id"] for row in rows[:len(query["ids"])]}
