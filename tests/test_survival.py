"""A training survives: kills, damaged checkpoints, full disks, losses that are no numbers, full memory, loading processes that die."""
import errno
import inspect
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
import zlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from figures.crashes import failing_disk
from stal_nb import optimisation, sampling
from stal_nb import step as step_module
from stal_nb import trainer as loop
from stal_nb.badsteps import MAX_SKIPS, BadSteps, StepUndo
from stal_nb.config import TrainingConfig
from stal_nb.labels import CITYSCAPES, Sample
from stal_nb.optimisation import CalledNetwork, StudentUpdate, prepare_for_processes
from stal_nb.runtime import checkpoints, devices
from stal_nb.runtime.checkpoints import check_checkpoint, load_checkpoint, save_checkpoint
from stal_nb.runtime.errors import ConfigError, DeviceMemoryError, StalError, StoreError, TrainingError, WorkerError
from stal_nb.runtime.signals import GracefulStop, StopRequested
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState, build_model
from stal_nb.trainer import Trainer
from together import spawn

SIZE = (32, 64)
SMALL = TrainingConfig(
    backbone="timm/test_efficientnet", weights=None, aspp_channels=16, embedding_dim=8, crop_size=SIZE, source_batch=1, target_batch=1, unlabelled_batch=2,
    bank_capacity=40, bank_push=8, num_anchors=5, num_negatives=6, anchor_threshold=0.05, device="cpu", plan_every=2, checkpoint_every=2)
CLOCK = ("seconds", "images_per_second", "memory_mb")  # of a row: they differ from run to run
SOURCE, TARGET = SceneDataset("sim", 6, size=SIZE, cache=6), SceneDataset("real", 6, size=SIZE, cache=6)


def new_trainer(folder=None, target=TARGET, num_steps=6, stage=1, config=SMALL, on_step=None, log_every=1, **changes):
    torch.manual_seed(1)
    config = replace(config, **changes)
    return Trainer(config, CITYSCAPES, TrainingState(config, 19, 6, 6), SOURCE, target, labelled=range(2), unlabelled=range(2, 6), num_steps=num_steps,
                   stage=stage, folder=folder, log_every=log_every, on_step=on_step, name="round 0")


def weights(trainer):
    return {k: v.clone() for k, v in trainer.state.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def without_clock(rows):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


class Crash(Exception):
    "The end of a process, as far as a test in one process can have it."


def crash_at(step):
    def on_step(done, _):
        if done == step:
            raise Crash

    return on_step


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    "Six steps without a break."
    trainer = new_trainer(tmp_path_factory.mktemp("unbroken"))
    trainer.fit(bar=False)
    return trainer


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    "The folder of a training that crashed after its fifth step: checkpoints of steps 2 and 4."
    folder = tmp_path_factory.mktemp("crashed")
    with pytest.raises(Crash):
        new_trainer(folder, on_step=crash_at(5)).fit(bar=False)
    assert [f.name for f in new_trainer(folder).checkpoints] == ["progress-000004.safetensors", "progress-000002.safetensors"]
    return folder


@pytest.fixture
def crashed(two_saved, tmp_path):
    for file in two_saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# -- checkpoints: what is in them, and that damage is seen ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    "A checkpoint of a few thousand bytes with all kinds of tensors."
    module = nn.Module()
    for k, dtype in enumerate((torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)):
        module.register_buffer(f"t{k}", (torch.randn(3, 5 + k, generator=torch.Generator().manual_seed(k)) * 3).to(dtype))
    module.register_buffer("scalar", torch.tensor(7.0))
    module.register_buffer("nothing", torch.zeros(0, 3))
    module.register_buffer("pixels", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    file = tmp_path_factory.mktemp("little") / "c.safetensors"
    save_checkpoint(file, module, step=3, words="ä \" \\ \n", stage=1)
    return file, module


def test_a_checkpoint_is_a_safetensors_file_that_anybody_can_read(little):
    file, module = little
    found, own = load_file(file), module.state_dict()
    assert found.keys() == {f"state.{k}" for k in own} and all(torch.equal(found[f"state.{k}"], v) for k, v in own.items())
    with safe_open(file, framework="pt") as opened:
        assert json.loads(opened.metadata()["info"]) == {"step": 3, "words": "ä \" \\ \n", "stage": 1} and len(opened.metadata()["sha256"]) == 64
    assert check_checkpoint(file)["step"] == 3


def test_every_single_flipped_bit_of_a_header_and_random_ones_of_the_rest_are_seen(little, tmp_path):
    file, module = little
    data, copy, before = file.read_bytes(), tmp_path / "flipped.safetensors", module.state_dict()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    places = [*range(0, 8 * 60), *(rng.randrange(8 * header) for _ in range(400)), *(rng.randrange(8 * header, 8 * len(data)) for _ in range(400))]
    for bit in places:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(changed)
        with pytest.raises(StoreError, match="damaged|not a checkpoint"):
            check_checkpoint(copy)
    with pytest.raises(StoreError):
        load_checkpoint(copy, module)
    assert same(before, module.state_dict())


def test_a_file_cut_off_anywhere_or_grown_is_seen(little, tmp_path):
    data, copy = little[0].read_bytes(), tmp_path / "cut.safetensors"
    header = 8 + int.from_bytes(data[:8], "little")
    for length in (0, 1, 7, 8, 9, 30, 40, header - 1, header, header + 1, (header + len(data)) // 2, len(data) - 1):
        copy.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"cut.safetensors: damaged"):
            check_checkpoint(copy)
    copy.write_bytes(data + b"\0")
    with pytest.raises(StoreError, match="damaged"):
        check_checkpoint(copy)


def test_what_is_no_checkpoint_of_ours_is_refused_and_changes_nothing(little, tmp_path):
    file, module = little
    before = {k: v.clone() for k, v in module.state_dict().items()}
    save_file({"state.t0": torch.zeros(3, 5)}, tmp_path / "a.safetensors", {"format": "pt"})
    (tmp_path / "b.safetensors").write_bytes(b"\x80\x04N.")  # a pickle
    other = nn.Module()
    for name, value in module.state_dict().items():
        other.register_buffer(name, value if name != "t1" else torch.zeros(4, 4))
    save_checkpoint(tmp_path / "c.safetensors", other, stage=1)
    for name, words in (("a", "found a header with format"), ("b", "not a checkpoint"), ("c", r"another network .*state.t1: found \(4, 4\), expected \(3, 6\)"),
                        ("d", "not found")):
        with pytest.raises(StoreError, match=f"checkpoint .*{name}.safetensors: .*{words}"):
            load_checkpoint(tmp_path / f"{name}.safetensors", module)
    with pytest.raises(StoreError, match="found stage 1, expected 2"):
        load_checkpoint(file, module, stage=2)
    assert same(before, module.state_dict())


def test_a_checkpoint_needs_no_second_copy_of_the_weights_in_memory(little):
    "What is written are the model's own tensors, where they lie in order."
    own = {t.data_ptr() for t in checkpoints.checkpoint_tensors(little[1]).values() if t.numel()}
    assert little[1].t0.data_ptr() in own
    assert not {t.data_ptr() for t in checkpoints.checkpoint_tensors(little[1], copy=True).values() if t.numel()} & own


# -- resuming ------------------------------------------------------------------------------------------------------------------------


def test_a_crash_between_two_checkpoints_changes_nothing_in_the_end(crashed, unbroken):
    assert len((crashed / "log.jsonl").read_text().splitlines()) == 5
    again = new_trainer(crashed)
    assert again.resume() and again.step == 4 and [row["step"] for row in again.log] == [1, 2, 3, 4]
    again.fit(bar=False)
    assert same(weights(again), weights(unbroken))
    assert without_clock(again.log) == without_clock(unbroken.log)
    assert without_clock(map(json.loads, (crashed / "log.jsonl").read_text().splitlines())) == without_clock(unbroken.log)
    seconds = [row["seconds"] for row in again.log]
    assert seconds == sorted(seconds) and seconds[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(accumulate=2), dict(accumulate=2, bad_loss="skip", workers=1, checkpoint_every=3)])
def test_that_holds_for_micro_batches_too(tmp_path, changes):
    whole = new_trainer(num_steps=5, **changes)
    whole.fit(bar=False)
    with pytest.raises(Crash):
        new_trainer(tmp_path, num_steps=5, on_step=crash_at(4), **changes).fit(bar=False)
    again = new_trainer(tmp_path, num_steps=5, **changes)
    assert again.resume() and again.step == changes.get("checkpoint_every", 2)
    again.fit(bar=False)
    assert same(weights(again), weights(whole)) and without_clock(again.log) == without_clock(whole.log)


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text", "other stage"])
def test_the_checkpoint_before_is_taken_if_the_newest_is_no_good_and_that_is_said(crashed, harm, unbroken):
    newest = new_trainer(crashed).checkpoint
    data = bytearray(newest.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 16
    newest.write_bytes({"cut": data[:-100], "flip": data, "empty": b"", "text": b"hello"}.get(harm, data))
    if harm == "other stage":
        other = new_trainer(crashed, stage=7)
        other.step = 4
        other.save()
    again = new_trainer(crashed)
    with pytest.warns(UserWarning, match="this checkpoint is passed over: checkpoint .*progress-000004.safetensors: "):
        assert again.resume()
    assert again.step == 2 and "passed over" in (crashed / "events.jsonl").read_text()
    again.fit(bar=False)
    assert same(weights(again), weights(unbroken))


def test_with_no_usable_checkpoint_the_stage_begins_anew_and_that_is_said(crashed, unbroken):
    for file in new_trainer(crashed).checkpoints:
        file.write_bytes(file.read_bytes()[:5000])
    again = new_trainer(crashed)
    before = weights(again)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert not again.resume()
    assert [re.search("passed over|begins anew", str(w.message))[0] for w in said] == ["passed over", "passed over", "begins anew"]
    assert again.step == 0 and same(before, weights(again))
    again.fit(bar=False)
    assert same(weights(again), weights(unbroken))
    assert len((crashed / "log.jsonl").read_text().splitlines()) == 6


def test_the_one_checkpoint_of_an_earlier_version_is_continued(tmp_path, unbroken):
    "It was called progress.safetensors, had the log in its header, and no checksum."
    with pytest.raises(Crash):
        new_trainer(tmp_path, on_step=crash_at(3)).fit(bar=False)
    first = new_trainer(tmp_path)
    first.resume()
    with safe_open(first.checkpoint, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118, no dict
    save_file(tensors, tmp_path / "progress.safetensors", {"info": json.dumps({"step": 2, "log": first.log, "stage": 1})})
    first.checkpoint.unlink()
    (tmp_path / "log.jsonl").unlink()
    again = new_trainer(tmp_path)
    assert again.checkpoint.name == "progress.safetensors" and again.resume() and again.step == 2 and len(again.log) == 2
    again.fit(bar=False)
    assert same(weights(again), weights(unbroken)) and without_clock(again.log) == without_clock(unbroken.log)
    again.clear()
    assert not again.checkpoints


def test_the_last_checkpoints_are_kept_and_those_of_steps_to_come_go(tmp_path):
    trainer = new_trainer(tmp_path, keep_checkpoints=3)
    for trainer.step in (2, 4, 6, 8):
        trainer.save()
    assert [f.stem for f in trainer.checkpoints] == ["progress-000008", "progress-000006", "progress-000004"]
    trainer.step = 5
    trainer.save()  # began anew behind 6 and 8
    assert [f.stem for f in trainer.checkpoints] == ["progress-000005", "progress-000004"]
    trainer.clear()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_log_that_was_lost_is_missed_but_stops_nothing(crashed):
    (crashed / "log.jsonl").write_text('{"step": 1}\n{"torn')
    again = new_trainer(crashed)
    with pytest.warns(UserWarning, match="found 1 rows up to step 4, expected 4"):
        assert again.resume()
    again.fit(bar=False)
    assert [row["step"] for row in again.log] == [1, 5, 6]


# -- dying while saving --------------------------------------------------------------------------------------------------------------

def killed_while_saving(rank, folder):
    "Children that save without end, each killed at another instant; the steps that were found saved then."
    torch.set_num_threads(1)
    folder, rng, steps, files = Path(folder), random.Random(0), [], []
    for k in range(8):
        child = os.fork()
        if not child:
            trainer = new_trainer(folder, num_steps=10**6)
            trainer.resume()
            trainer.plan_state, start = trainer.plan_state or trainer.snapshot(), trainer.saved_step or 0
            while True:
                trainer.step += 1
                trainer.save(wait=bool(k % 2))
                if (trainer.saved_step or 0) > start:  # a thread may still be at its first file
                    (folder / "ready").touch()
        while not (folder / "ready").exists():
            time.sleep(0.01)
        time.sleep(0.2 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        (folder / "ready").unlink()
        before, files = len(files), sorted(folder.glob("progress-*.safetensors"))
        # two stay; one more is there between writing and removing, and each that was killed just then leaves one until the next has saved
        assert 1 <= len(files) <= max(3, before + 1), files
        steps.append([check_checkpoint(file)["step"] for file in files][-1])
    (folder / "steps.json").write_text(json.dumps(steps))


@pytest.mark.slow
def test_killed_in_the_middle_of_saving_every_file_is_whole_and_the_next_process_goes_on(tmp_path):
    spawn(killed_while_saving, str(tmp_path), processes=1)
    steps = json.loads((tmp_path / "steps.json").read_text())
    assert len(steps) == 8 and steps == sorted(steps) and steps[-1] > steps[0]
    events = tmp_path / "events.jsonl"
    assert not events.exists() or "passed over" not in events.read_text()
    again = new_trainer(tmp_path, num_steps=10**6)
    assert again.resume() and again.step >= steps[-1]
    assert not [f for f in tmp_path.iterdir() if ".tmp" in f.name], "what killed processes left is removed"


def full_disk(monkeypatch, room, error="ENOSPC"):
    """A disk on which a file cannot be made (`room=None`), or on which `save_file` ends after so many bytes, with the words that it has for it
    (as `test_save_file_tells_of_a_file_that_cannot_grow` finds them)."""
    real, number = checkpoints.save_file, getattr(errno, error)

    def save(tensors, file, metadata):
        real(tensors, file, metadata)
        os.truncate(file, room)
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    if room is None:
        return failing_disk(room, error, only=".tmp")
    monkeypatch.setattr(checkpoints, "save_file", save)
    return ExitStack()


def test_save_file_tells_of_a_file_that_cannot_grow(tmp_path, little):
    "A limit that the system itself keeps, in a process of its own; nothing is left behind, and the file before is intact."
    save_checkpoint(tmp_path / "c.safetensors", little[1], step=1)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            save_checkpoint(tmp_path / "c.safetensors", little[1], step=2)
        except StoreError as error:
            os._exit(0 if "File too large" in str(error) and "before is intact" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert check_checkpoint(tmp_path / "c.safetensors")["step"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_checkpoint_of_the_version_before_is_opened_and_its_checksum_looked_at(little, tmp_path):
    "Its header began with a CRC-32 of the file, the checksum itself taken as zeros."
    file, module = little
    save_file({f"state.{k}": v.contiguous() for k, v in module.state_dict().items()}, tmp_path / "old", {"checksum": "0" * 8, "info": '{"step": 5}'})
    data = (tmp_path / "old").read_bytes()
    at = data.index(b"00000000")
    if not data[8:].startswith(b'{"__metadata__":{"checksum":"'):  # the order in a header is chance; the version before wrote it itself
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        metadata = {"checksum": "0" * 8, "info": header.pop("__metadata__")["info"]}
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        data = len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little"):]
        at = data.index(b"00000000")
    data = data[:at] + f"{zlib.crc32(data):08x}".encode() + data[at + 8:]
    (tmp_path / "old").write_bytes(data)
    assert check_checkpoint(tmp_path / "old") == {"step": 5}
    assert load_checkpoint(tmp_path / "old", module)["step"] == 5
    (tmp_path / "old").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match="damaged: found checksum"):
        check_checkpoint(tmp_path / "old")


@pytest.mark.parametrize("failure", [dict(room=100_000), dict(room=10), dict(room=None), dict(room=100_000, error="EIO"), dict(room=None, error="EROFS")])
def test_disk_full_while_saving_stops_with_the_checkpoint_before_intact(tmp_path, failure, unbroken, monkeypatch):
    def on_step(done, _):
        if done == 3:
            disk.enter_context(full_disk(monkeypatch, **failure))

    disk = ExitStack()
    trainer = new_trainer(tmp_path, on_step=on_step)
    try:
        with pytest.raises(StoreError, match=r"progress-000004.*: found '.+', expected to be able to write [\d,]{7,} bytes there; .*before is intact"):
            trainer.fit(bar=False)
    finally:
        disk.close()
        monkeypatch.undo()
    assert [f.name for f in trainer.checkpoints] == ["progress-000002.safetensors"]
    assert {f.suffix for f in tmp_path.iterdir()} == {".safetensors", ".jsonl"}, "nothing half-written"
    again = new_trainer(tmp_path)
    assert again.resume() and again.step == 2
    again.fit(bar=False)
    assert same(weights(again), weights(unbroken))


# -- losses that are no numbers -------------------------------------------------------------------------------------------------------


def broken_at(monkeypatch, steps, trainer, value=float("nan")):
    "L_u is `value` at these steps (from 0), with a gradient that is no number either."
    real = step_module.unsupervised_loss

    def loss(*arguments, **options):
        return real(*arguments, **options) * (value if trainer.step in steps else 1.0)

    monkeypatch.setattr(step_module, "unsupervised_loss", loss)


def test_a_bad_loss_stops_and_says_which_step_term_and_images(tmp_path, monkeypatch):
    trainer = new_trainer(tmp_path, plan_every=4, log_every=4)
    broken_at(monkeypatch, {2}, trainer)
    with pytest.raises(TrainingError, match=r"round 0, step 3 of 6: found L_u not finite.*unlabelled: .*Step 2 is saved") as caught:
        trainer.fit(bar=False)
    error = caught.value
    assert (error.step, error.terms) == (3, ("L_u",)) and isinstance(error, (StalError, ArithmeticError))
    plan = sampling.plan_step(trainer.config, 1, 2, trainer.plan_state)
    assert error.ids["source"] == [SOURCE.ids[i] for i in plan.source] and error.ids["labelled"] == [TARGET.ids[i] for i in plan.labelled]
    assert error.ids["unlabelled"] == list(dict.fromkeys(TARGET.ids[i] for i in plan.unlabelled + plan.partner))
    assert all(v.isfinite().all() for v in trainer.state.student.parameters()), "the update did not happen"
    assert [f.name for f in trainer.checkpoints] == ["progress-000002.safetensors"]
    assert not (tmp_path / "log.jsonl").exists(), "no row was due before it"
    event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert event["event"] == "bad step" and event["step"] == 3 and event["ids"] == error.ids
    monkeypatch.undo()
    again = new_trainer(tmp_path)
    assert again.resume() and again.step == 2


def test_an_image_with_a_nan_is_found(tmp_path):
    class Poisoned(SceneDataset):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return Sample(sample.image * float("nan"), *sample[1:]) if index == 4 else sample

    with pytest.raises(TrainingError, match="not finite") as caught:
        new_trainer(tmp_path, target=Poisoned("real", 6, size=SIZE), num_steps=20).fit(bar=False)
    assert TARGET.ids[4] in caught.value.ids["unlabelled"] and caught.value.step <= 4  # four unlabelled images, two a step


class Spike(torch.autograd.Function):
    "A value whose gradient is much larger than it should be."

    @staticmethod
    def forward(context, x, factor):
        context.factor = factor
        return x.clone()

    @staticmethod
    def backward(context, slope):
        return slope * context.factor, None


def test_a_gradient_that_is_not_finite_is_a_bad_step_too(monkeypatch):
    real = step_module.supervised_loss
    monkeypatch.setattr(step_module, "supervised_loss", lambda *a, **k: Spike.apply(real(*a, **k), float("inf")))
    with pytest.raises(TrainingError, match="step 1 of 6: found a gradient not finite") as caught:
        new_trainer().fit(bar=False)
    assert caught.value.terms == ("gradient",)


@pytest.mark.parametrize("changes", [{}, dict(accumulate=2)])
def test_a_skipped_step_leaves_weights_teacher_banks_and_momentum_untouched(monkeypatch, changes):
    trainer = new_trainer(bad_loss="skip", bank_capacity=10, copy_paste_probability=1.0, **changes)
    trainer.plan_state = trainer.snapshot()
    batches = list(trainer.batches(0, 4))
    count = len(batches) // 4
    broken_at(monkeypatch, {2}, trainer)
    for step in range(4):
        before = weights(trainer)
        momentum = [v["momentum_buffer"].clone() for v in trainer.optimizer.state.values()]
        trainer.one_step(*batches[count * step:count * (step + 1)])
        untouched = same(before, weights(trainer)) and all(
            torch.equal(a, b["momentum_buffer"]) for a, b in zip(momentum, trainer.optimizer.state.values()))
        assert untouched == (step == 2)
    trainer.check()
    assert trainer.skipped == 1 and trainer.bad_steps.in_a_row == 0


def test_skipped_steps_are_counted_in_the_log_and_training_goes_on(tmp_path, monkeypatch):
    trainer = new_trainer(tmp_path, bad_loss="skip", num_steps=8)
    broken_at(monkeypatch, {1, 2, 5}, trainer)
    log = trainer.fit(bar=False)
    assert [row["skipped"] for row in log] == [0, 1, 2, 2, 2, 3, 3, 3] and log[1]["L_u"] != log[1]["L_u"]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])["L_u"] is None, "NaN is not JSON"
    assert all(v.isfinite().all() for v in trainer.state.state_dict().values() if v.is_floating_point())
    again = new_trainer(tmp_path, bad_loss="skip", num_steps=8)
    assert again.resume() and again.skipped == 3


@pytest.mark.slow
def test_too_many_skips_in_a_row_are_an_error(monkeypatch):
    trainer = new_trainer(bad_loss="skip", num_steps=100, log_every=50, plan_every=50)
    broken_at(monkeypatch, {0, 1, *range(5, 100)}, trainer)
    with pytest.raises(TrainingError, match=f"step {5 + MAX_SKIPS} of 100: .*It is the {MAX_SKIPS}th in a row"):
        trainer.fit(bar=False)


def test_looking_for_bad_losses_does_not_wait_for_the_device():
    asks = re.compile(r"\.(item|cpu|tolist|numpy|nonzero)\(|bool\(|float\(\w+[\[.]")
    for function in (Trainer.one_step, StudentUpdate.backward, StudentUpdate.step, StudentUpdate._move, BadSteps.add, StepUndo.__init__, StepUndo.apply):
        for line in inspect.getsource(function).splitlines():
            assert not asks.search(line.split("#")[0]), line


# -- mixed precision -----------------------------------------------------------------------------------------------------------------


def test_bf16_trains_and_leaves_the_network_as_it_was():
    trainer = new_trainer(mixed_precision="bf16", num_steps=2)
    seen = []
    trainer.state.student.classifier.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    log = trainer.fit(bar=False)
    assert set(seen) == {torch.bfloat16} and all(row["loss"] == row["loss"] for row in log)
    assert all(p.dtype == torch.float32 for p in trainer.state.parameters())
    assert "forward" not in vars(trainer.state.student), "what Accelerate wraps is not the network itself"
    assert trainer.state.student(torch.rand(1, 3, *SIZE)).logits.dtype == torch.float32
    plain = new_trainer(num_steps=2)  # another precision in the same process
    plain.fit(bar=False)
    assert plain.log[0]["loss"] == pytest.approx(log[0]["loss"], rel=0.05) and plain.log[0]["loss"] != log[0]["loss"]


def test_fp16_on_a_cpu_is_refused_with_the_choice_there():
    with pytest.raises(ConfigError, match="found 'fp16' on a CPU, expected 'no' or 'bf16'"):
        new_trainer(mixed_precision="fp16")


def scaled(trainer, factor):
    "As Accelerate does on a GPU under fp16, with torch's scaler for CPUs."
    trainer.accelerator.scaler = trainer.optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=factor)
    optimizer = trainer.optimizer.optimizer
    from accelerate.optimizer import patch_optimizer_step
    trainer.optimizer._accelerate_step_called = False
    trainer.optimizer._optimizer_original_step_method = optimizer.step
    trainer.optimizer._optimizer_patched_step_method = patch_optimizer_step(trainer.optimizer, optimizer.step)
    return trainer


def test_an_overflow_of_the_scaled_gradient_is_no_error_and_the_scale_is_saved(tmp_path, monkeypatch):
    real = step_module.supervised_loss
    monkeypatch.setattr(step_module, "supervised_loss", lambda *a, **k: Spike.apply(real(*a, **k), 1e6))
    trainer = scaled(new_trainer(tmp_path, checkpoint_every=1), 2.0**120)
    trainer.plan_state = trainer.snapshot()
    start = weights(trainer)
    for batch in trainer.batches(0, 2):
        trainer.one_step(batch)
    assert all(torch.equal(start[k], v) for k, v in weights(trainer).items() if k.startswith("student") and "running" not in k and "tracked" not in k)
    trainer.check()
    assert trainer.skipped == 0 and trainer.accelerator.scaler.get_scale() == 2.0**118
    trainer.save()
    again = scaled(new_trainer(tmp_path), 2.0)
    assert again.resume() and again.accelerator.scaler.get_scale() == 2.0**118


def test_a_scaled_step_is_the_plain_one_and_its_bad_loss_an_error(monkeypatch, unbroken):
    trainer = scaled(new_trainer(), 1024.0)
    trainer.fit(bar=False)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(weights(trainer).values(), weights(unbroken).values()) if a.is_floating_point())
    trainer = scaled(new_trainer(), 1024.0)
    broken_at(monkeypatch, {1}, trainer)
    with pytest.raises(TrainingError, match="found L_u not finite"):
        trainer.fit(bar=False)


# -- memory and loading processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), MemoryError(),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999 bytes")])
def test_too_little_memory_is_told_with_numbers_and_what_needs_less(tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    trainer = new_trainer(tmp_path, output_stride=8, accumulate=3)
    trainer.step = 2
    trainer.save()
    monkeypatch.setattr(loop, "training_step", full)
    gib = 2**30
    monkeypatch.setattr(devices, "memory_of", lambda device: {"total": 80 * gib, "free": gib // 2, "held": 79 * gib, "tensors": 70 * gib, "peak": 75 * gib})
    with pytest.raises(DeviceMemoryError) as caught:
        trainer.fit(bar=False)
    words = str(caught.value)
    for part in ("round 0, step 3", "80.0 GiB, 0.5 GiB free, 79.0 GiB of them by this process, 70.0 GiB by tensors, at most 75.0 GiB", "4 images of 32 x 64",
                 "source 1, target 1, unlabelled 2", "mixed_precision='bf16'", "= 1, 1, 1 with accumulate=6", "output_stride=16", "crop_size=(24, 48) (56%",
                 "Step 2 is saved"):
        assert part in words, part
    assert caught.value.__cause__ is error


def test_memory_of_this_machine_is_known():
    found = devices.memory_of(torch.device("cpu"))
    assert 0 < found["held"] < found["total"] and 0 < found["free"] <= found["total"]


class Deadly(SceneDataset):
    "Ends the process that loads one of its images."
    how = "exit"

    def __getitem__(self, index):
        from torch.utils.data import get_worker_info

        if index == 4 and get_worker_info() is not None:
            os._exit(3) if self.how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_loading_process_that_dies_is_named_and_the_run_can_be_resumed(tmp_path, how, monkeypatch):
    monkeypatch.setattr(Deadly, "how", how)
    changes = dict(workers=1, unlabelled_batch=1, cutmix_probability=0.0, lambda_c=0.0, checkpoint_every=1, num_steps=4)
    with pytest.raises(WorkerError, match=r"round 0, step \d: found that a loading process died \(.*pid.* \d+.*\), expected all 1 to live.* saved"):
        new_trainer(tmp_path, target=Deadly("real", 6, size=SIZE), **changes).fit(bar=False)
    again, whole = new_trainer(tmp_path, **changes), new_trainer(**changes)
    again.resume()
    again.fit(bar=False)
    whole.fit(bar=False)
    assert same(weights(again), weights(whole))


def test_an_error_of_a_data_set_stays_what_it_is_and_the_steps_before_are_saved(tmp_path):
    class Broken(SceneDataset):
        def __getitem__(self, index):
            if index == 5:
                raise StoreError("image 5: found rubbish, expected an image")
            return super().__getitem__(index)

    trainer = new_trainer(tmp_path, target=Broken("real", 6, size=SIZE), num_steps=40, checkpoint_every=0, unlabelled_batch=1, plan_every=40)
    with pytest.raises(StoreError, match="found rubbish"):
        trainer.fit(bar=False)
    assert trainer.saved_step == trainer.step and (trainer.step > 0) == bool(trainer.checkpoints)


def test_loading_processes_stay_for_the_whole_stage():
    pids = set()
    trainer = new_trainer(workers=1, num_steps=6, plan_every=2)
    batches = trainer.batches

    def watched(first, last):
        yield from batches(first, last)
        pids.add(trainer.feed.loading._iterator._workers[0].pid)

    trainer.batches = watched
    trainer.fit(bar=False)
    assert len(pids) == 1 and trainer.feed.loading is None


# -- micro-batches -------------------------------------------------------------------------------------------------------------------


def test_the_gradient_of_micro_batches_is_that_of_the_large_batch(monkeypatch):
    "Where it should: without BatchNorm's look at the batch, and for a loss that is a mean over as many pixels in each part."
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: nn.functional.batch_norm(
        x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps))
    supervised = dict(backbone="mobilenet_v3_small", lambda_u=0.0, lambda_c=0.0, ohem=False, dropout=0.0, unlabelled_batch=0, target_batch=0,
                      copy_paste_probability=0.0, source_scale=(1, 1))
    parts, whole = new_trainer(accumulate=2, **supervised), new_trainer(source_batch=2, **supervised)
    gradients = []
    for trainer in (parts, whole):
        monkeypatch.setattr(trainer.optimizer, "step", lambda t=trainer: gradients.append(
            [p.grad.clone() for p in t.state.student.parameters() if p.grad is not None]))
        parts.plan_state = parts.plan_state or parts.snapshot()
    micro = list(parts.batches(0, 1))
    assert len(micro) == 2 and not torch.equal(micro[0]["image"], micro[1]["image"])
    both = parts.one_step(*micro)
    once = whole.one_step({k: torch.cat([micro[0][k], micro[1][k]]) for k in micro[0]})
    assert len(gradients[0]) > 50 and all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(*gradients))
    assert both["L_s"].item() == pytest.approx(once["L_s"].item(), rel=1e-5)
    assert parts.step == whole.step == 1 and parts.images_per_step == whole.images_per_step == 2


def test_a_step_counts_updates_and_the_plan_counts_micro_batches():
    trainer = new_trainer(accumulate=3, num_steps=2)
    updates = []
    step, update = trainer.optimizer.step, trainer.state.teacher.update
    trainer.optimizer.step = lambda: (updates.append("student"), step())
    trainer.state.teacher.update = lambda *a: (updates.append("teacher"), update(*a))
    trainer.fit(bar=False)
    assert updates == ["student", "teacher"] * 2 and trainer.step == 2 and list(trainer.feed.plans) == [0, 1, 2, 3, 4, 5]


# -- stopping, log, callbacks, TensorBoard --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number, unbroken):
    trainer = new_trainer(tmp_path, on_step=lambda done, _: os.kill(os.getpid(), number) if done == 3 else None)
    before = signal.getsignal(number)
    with pytest.raises(StopRequested, match="stopped after step 3 of 6") as caught:
        trainer.fit(bar=False)
    assert caught.value.signal == number and signal.getsignal(number) == before and trainer.checkpoint.name == "progress-000003.safetensors"
    again = new_trainer(tmp_path)
    assert again.resume() and again.step == 3
    again.fit(bar=False)
    assert same(weights(again), weights(unbroken))


def test_a_signal_to_all_processes_of_a_run_stops_it_as_well(tmp_path):
    "As Slurm sends it: the loading processes get it, too."
    def everybody(done, _):
        if done == 3:
            for worker in trainer.feed.loading._iterator._workers:
                os.kill(worker.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = new_trainer(tmp_path, workers=1, on_step=everybody)
    with pytest.raises(StopRequested, match="after step 3"):
        trainer.fit(bar=False)
    assert trainer.saved_step == 3


def test_a_second_signal_interrupts_at_once():
    with GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()


def test_a_training_in_another_thread_can_be_asked_to_stop(tmp_path):
    outcome, reached = [], threading.Event()
    trainer = new_trainer(tmp_path, num_steps=500, on_step=lambda *_: reached.set())

    def work():
        try:
            trainer.fit(bar=False)
        except StopRequested as stopped:
            outcome.append(stopped)

    thread = threading.Thread(target=work)
    thread.start()
    assert reached.wait(60)
    trainer.request_stop()
    thread.join(60)
    assert outcome and outcome[0].signal is None and trainer.saved_step == trainer.step < 500


def test_every_step_is_told_and_rows_have_speed_and_memory(tmp_path):
    steps = []
    trainer = new_trainer(tmp_path, on_step=lambda *told: steps.append(told), log_every=2)
    log = trainer.fit(bar=False)
    assert steps == [(k, 6) for k in range(1, 7)] and [row["step"] for row in log] == [2, 4, 6]
    for row in log:
        assert row["images_per_second"] > 0 and 50 < row["memory_mb"] < 1e6 and row["seconds"] > 0
    assert log == [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert trainer.images_per_step == 4
    assert log[-1]["seconds"] == pytest.approx(sum(8 / row["images_per_second"] for row in log), rel=0.05)


def test_tensorboard_gets_the_rows_and_forgets_what_is_done_again(crashed, monkeypatch):
    trainer = new_trainer(crashed, tensorboard=True)
    trainer.resume()
    trainer.fit(bar=False)
    events = EventAccumulator(str(crashed / "tensorboard")).Reload()
    assert {event.step for event in events.Scalars("L_s")} == {5, 6} and {"loss", "images_per_second", "memory_mb"} <= set(events.Tags()["scalars"])
    assert events.Scalars("L_s")[-1].value == pytest.approx(trainer.log[-1]["L_s"], rel=1e-6)
    again = new_trainer(crashed, tensorboard=True)
    again.resume()
    again.fit(bar=False)
    steps = [event.step for event in EventAccumulator(str(crashed / "tensorboard")).Reload().Scalars("L_s")]
    assert steps == sorted(set(steps)), "what was done twice is there once"
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        new_trainer(crashed, tensorboard=True)
    with pytest.raises(ConfigError, match="expected a folder"):
        new_trainer(tensorboard=True)


# -- settings ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, words", [
    (dict(architecture="unet"), "architecture: found 'unet', expected one of deeplabv3plus"), (dict(multi_grid=()), "multi_grid"),
    (dict(multi_grid=[1, 0, 2]), r"multi_grid: found \[1, 0, 2\]"), (dict(aspp_dilations=[1.5]), "aspp_dilations"), (dict(dropout=1.0), "dropout: found 1.0"),
    (dict(accumulate=0), "accumulate: found 0"), (dict(accumulate=1.5), "accumulate: found 1.5"), (dict(keep_checkpoints=0), "keep_checkpoints: found 0"),
    (dict(bad_loss="ignore"), "bad_loss: found 'ignore', expected 'stop' or 'skip'"), (dict(compile="False"), "compile: found 'False', expected true or false"),
    (dict(separable=1), "separable: found 1"), (dict(aux_head=None), "aux_head"), (dict(sync_batchnorm="yes"), "sync_batchnorm"),
    (dict(tensorboard=0), "tensorboard: found 0"), (dict(plan_every=0), "plan_every: found 0"), (dict(checkpoint_every=-1), "checkpoint_every: found -1")])
def test_a_setting_that_cannot_work_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **changes)


def test_each_setting_of_the_network_reaches_it():
    resnet = replace(SMALL, backbone="resnet50", output_stride=16)

    def built(config, **changes):
        with torch.device("meta"):
            return build_model(replace(config, **changes), 19)

    dilations = [m.dilation[0] for m in built(resnet, multi_grid=[1, 2, 4]).backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert {4, 8} <= set(dilations)  # 2 x (1, 2, 4), where the first block of a stage still has the dilation before
    assert [b[0].dilation[0] for b in built(SMALL, aspp_dilations=[2, 5]).aspp.branches[1:]] == [2, 5]
    assert any(m.groups > 1 for m in built(SMALL).aspp.modules() if isinstance(m, nn.Conv2d))
    assert not any(m.groups > 1 for m in built(SMALL, separable=False).aspp.modules() if isinstance(m, nn.Conv2d))
    assert [m.p for m in built(SMALL, dropout=0.25).aspp.modules() if isinstance(m, nn.Dropout)] == [0.25]
    assert built(SMALL).auxiliary is not None and built(SMALL, aux_head=False).auxiliary is None


def test_another_architecture_is_built_and_what_it_lacks_is_said(monkeypatch):
    def plain(backbone, num_classes, embedding_dim, weights, output_stride, dropout):
        return ("plain", backbone, num_classes, embedding_dim, output_stride, dropout)

    monkeypatch.setitem(step_module.ARCHITECTURES, "plain", plain)
    config = replace(SMALL, architecture="plain", aspp_channels=256)
    assert build_model(config, 19) == ("plain", SMALL.backbone, 19, 8, 16, 0.1)
    with pytest.raises(ConfigError, match="separable: found False, which plain does not have; expected True"):
        build_model(replace(config, separable=False), 19)


def test_compiling_calls_the_compiled_student(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or CalledNetwork(network))
    trainer = new_trainer(compile=True, num_steps=1)
    calls = []
    trainer.student.network.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer.fit(bar=False)
    assert compiled == [trainer.state.student] and calls == [1] and "student.classifier.weight" in trainer.state.state_dict()


# -- two processes -------------------------------------------------------------------------------------------------------------------


def one_of_two(rank, folder, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    folder = Path(folder)
    opened = dict(source_batch=2, target_batch=2, log_every=2, lambda_c=0.0)  # an image of each kind a process, and a head that gets no gradient
    whole = new_trainer(num_steps=4, **opened)
    assert whole.several and whole.is_main == (rank == 0)
    whole.fit(bar=False)
    stopped = new_trainer(folder, num_steps=4, **opened)
    stopped.on_step = None
    one_step = stopped.one_step

    def asks(*batches):
        if rank == 1 and stopped.step == 0:
            stopped.request_stop()  # one process alone is asked
        return one_step(*batches)

    stopped.one_step = asks
    try:
        stopped.fit(bar=False)
        raise AssertionError("it did not stop")
    except StopRequested:
        assert stopped.step == 2
    stopped.accelerator.wait_for_everyone()
    if rank == 0:
        good = stopped.checkpoint
        good.with_name("progress-000003.safetensors").write_bytes(good.read_bytes()[:-1])
    stopped.accelerator.wait_for_everyone()
    again = new_trainer(folder, num_steps=4, **opened)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert again.resume() and again.step == 2
    assert any("passed over" in str(w.message) for w in said) == (rank == 0)
    again.fit(bar=False)
    assert same(weights(whole), weights(again)), "to the last bit, as on one process"
    own = torch.cat([t.double().flatten() for t in weights(again).values()])
    both = again.accelerator.gather(own[None])
    assert torch.equal(both[0], both[1]), "both processes have the same networks and banks"
    (folder / f"done-{rank}").touch()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_save_once_stop_together_and_resume_from_the_same_file(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(one_of_two, str(tmp_path), port)
    assert (tmp_path / "done-0").exists() and (tmp_path / "done-1").exists()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4], "one log"


def test_several_processes_get_synchronised_batchnorm(monkeypatch):
    changed = []
    monkeypatch.setattr(optimisation, "synchronise_batchnorm", lambda network: changed.append(network) or network)
    trainer = new_trainer()
    assert not changed
    prepare_for_processes(trainer.state, trainer.config, unlabelled=True)
    assert changed == [trainer.state.student]
    prepare_for_processes(trainer.state, replace(trainer.config, sync_batchnorm=False, lambda_c=0.0), unlabelled=True)
    assert len(changed) == 1
    asking = {name.partition(".")[0] for name, p in trainer.state.student.named_parameters() if p.requires_grad}
    assert "representation" not in asking and {"classifier", "auxiliary"} <= asking, "heads that no term uses get no gradient to wait for"


@pytest.mark.slow
def test_an_error_with_loading_processes_ends_the_program(tmp_path):
    "An error that nobody catches keeps its frames; the loading processes ignore signals, and must have been let go before Python waits for them."
    script = tmp_path / "fails.py"
    script.write_text("""
import sys
sys.path.insert(0, sys.argv[1])
from tiny import tiny
from stal_nb.labels import CITYSCAPES
from stal_nb.datasets import RunData
from stal_nb.step import TrainingState
from stal_nb.trainer import Trainer

def fail(row):
    raise ValueError("boom")

if __name__ == "__main__":
    config = tiny(workers=1, target_batch=0, unlabelled_batch=0, lambda_u=0.0, lambda_c=0.0, copy_paste_probability=0.0)
    data = RunData(config)
    state = TrainingState(config, 19, len(data.source), len(data.target))
    Trainer(config, CITYSCAPES, state, data.source, num_steps=6, log_every=1).fit(bar=False, on_log=fail)
""")
    tests = Path(__file__).parent
    done = subprocess.run([sys.executable, str(script), str(tests)], cwd=tests.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "ValueError: boom" in done.stderr
