"""A run is killed, damaged and started twice; it ends as if nothing had happened, or says what is wrong."""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stal_nb.cli import main, status_line
from stal_nb.run import Run
from stal_nb.runtime.errors import AwaitingLabels, StoreError
from stal_nb.status import RunStatus
from stal_nb.trainer import Trainer
from tiny import TINY, tiny
from together import Command, forkserver, start

pytestmark = pytest.mark.slow

KILLS = 10


def finish(path):
    "What the killed processes do."
    torch.set_num_threads(1)
    run = Run.open(path)
    run.bar = False
    run.finish()


def weights(run, stage="round 1"):
    return {k: v for k, v in load_file(run.layout.checkpoint(stage)).items() if k.startswith("state.")}


def queries(run):
    return [json.loads((run.round_folder(n) / "query.json").read_text()) for n in range(len(run.config.budgets))]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def processes():
    "Starts processes that have everything imported already."
    context = forkserver()
    start(context, int).join(300)  # the first one waits for what all others have
    return context


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, processes):
    run = Run.create(tiny(), tmp_path_factory.mktemp("runs") / "unbroken")
    begun = time.monotonic()
    process = start(processes, finish, run.path)
    process.join(300)
    assert process.exitcode == 0
    finished = Run.open(run.path)
    finished.took = time.monotonic() - begun
    return finished


def test_a_run_killed_at_random_instants_ends_as_one_that_never_was(unbroken, tmp_path, processes):
    rng, kills, runs = random.Random(5), 0, []
    truth = {sample.id: sample.labels for sample in unbroken.data.target}
    while kills < KILLS:
        run = Run.create(tiny(), tmp_path / f"killed-{len(runs)}")
        runs.append(run)
        stages, acquired = [], set()
        while run.stage is not None:
            process = start(processes, finish, run.path)
            process.join(rng.uniform(0.1, 0.5) * (1 + len(stages) % 3) * unbroken.took)  # one of three has time for at least a stage
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join(60)
            assert process.exitcode in (0, -signal.SIGKILL)
            stages.append(run.stage)
            store = Run.open(run.path).store
            assert acquired <= set(store.ids()), "a label that was there is gone"
            acquired = set(store.ids())
            assert all(torch.equal(store.load(id).long(), truth[id]) for id in acquired)
            assert len(stages) < 60, f"no progress: {stages[-10:]}"
    assert kills >= KILLS
    for run in runs:
        assert queries(run) == queries(unbroken)
        assert same(weights(run), weights(unbroken))
        assert [r["miou"] for r in run.summary()["rounds"]] == [r["miou"] for r in unbroken.summary()["rounds"]]
        assert not list(run.path.rglob("*.tmp")) or Run.open(run.path) and not list(run.path.rglob("*.tmp")), "leftovers are swept"


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "gone"])
def test_a_damaged_checkpoint_of_a_stage_is_said_and_its_stage_repeated(unbroken, tmp_path, damage, one_thread):
    run = unbroken.fork(tmp_path / "damaged", after=0)
    run.bar = False
    file = run.round_folder(0) / "checkpoint.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    {"flipped": lambda: file.write_bytes(content), "truncated": lambda: file.write_bytes(content[: len(content) // 2]),
     "empty": lambda: file.write_bytes(b""), "gone": file.unlink}[damage]()
    with pytest.warns(UserWarning, match="round 0.*trained again"):
        assert run.advance() == "round 0: train"
    assert (run.round_folder(0) / "checkpoint.damaged").exists() == (damage != "gone")
    run.finish()
    assert same(weights(run), weights(unbroken)) and queries(run)[1]["ids"] == queries(unbroken)[1]["ids"]


def test_a_run_has_one_worker_at_a_time(tmp_path, processes):
    run = Run.create(tiny(source_steps=400), tmp_path / "run")
    process = start(processes, finish, run.path)
    deadline = time.monotonic() + 120
    while not (run.status().get("step") or 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    status = run.status()
    assert status["state"] == "running" and status["pid"] == process.pid and status["host"] == socket.gethostname()
    assert 0 < status["step"] <= status["steps"] == 400 and status["seconds_left"] > 0
    with pytest.raises(StoreError, match=f"found process {process.pid} on .* at work on it"):
        Run.open(run.path).advance()
    assert Run.open(run.path).summary()["rounds"] == []  # looking is allowed
    process.kill()
    process.join(60)
    killed = Run.open(run.path).status()
    assert killed["state"] == "stopped" and "gone" in killed["message"] and status_line(killed).startswith("stopped: source, step")
    with Run.open(run.path).working():  # the system has freed the lock
        pass


def test_the_status_says_how_it_ended(unbroken, tmp_path, monkeypatch, capsys):
    assert unbroken.status()["state"] == "complete" and unbroken.status()["stage"] is None
    waits = unbroken.fork(tmp_path / "waits", after=0, annotator="person")
    waits.bar = False
    with pytest.raises(AwaitingLabels):
        waits.finish()
    assert waits.status()["state"] == "awaiting labels" and main(["status", str(waits.path)]) == 0
    assert capsys.readouterr().out.startswith("awaiting labels: round 1: label")
    fails = unbroken.fork(tmp_path / "fails", after=0)
    fails.bar = False
    monkeypatch.setattr(Trainer, "fit", lambda self, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fails.finish()
    assert fails.status()["state"] == "failed" and fails.status()["message"] == "ZeroDivisionError: division by zero"
    assert Run(tmp_path / "new", tiny()).status() == {} and status_line({}) == "nothing was done yet"


def test_long_looks_at_images_give_signs_of_life(unbroken, tmp_path, monkeypatch):
    "Scoring and measuring say how far they are, with what was said of the stage before: a run of another machine that is silent for long counts as dead."
    said, run = [], unbroken.fork(tmp_path / "talks", after=0)
    run.bar = False
    write = RunStatus.write

    def every_word(self, state, **facts):
        write(self, state, **facts)
        said.append((self.layout.next_stage, facts))
        self._written = -1e9  # long ago

    monkeypatch.setattr(RunStatus, "write", every_word)
    run.finish()
    messages = [(stage, facts["message"], facts.get("steps")) for stage, facts in said if "images" in facts.get("message", "")]
    pool, val = len(run.data.target) - len(queries(unbroken)[0]["ids"]), len(run.data.val)
    assert ("round 1: query", f"{pool} of {pool} images scored, about 0 s left", None) in messages
    assert ("round 1: train", f"{val} of {val} images measured, about 0 s left", run.config.round_steps[1]) in messages
    assert Run.open(run.path).status()["message"] == ""


def test_a_run_of_the_command_line_opens_in_a_notebook_and_the_reverse(unbroken, tmp_path):
    settings = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items()]
    command = Command("run", "--out", tmp_path / "run", "--no-bar", *settings, told=tmp_path / "told")
    assert command.wait() == 0, command.said
    opened = Run.open(tmp_path / "run")
    assert opened.stage is None and queries(opened) == queries(unbroken) and same(weights(opened), weights(unbroken))
    half = Run.create(replace(tiny(), name="demo"), tmp_path / "half")
    half.bar = False
    while half.stage != "round 0: label":
        half.advance()
    assert main(["resume", str(half.path), "--no-bar"]) == 0 and Run.open(half.path).stage is None


TWO = """
import json, sys
from stal_nb.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_make_the_run_of_one(unbroken, tmp_path):
    "The same batches, half of each in a process: the same queries, and weights that differ by rounding alone."
    script = tmp_path / "two.py"
    script.write_text(TWO)
    both = {**TINY, "source_batch": 2, "target_batch": 2}
    settings = [f"--set={key}={json.dumps(value)}" for key, value in both.items()]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    done = subprocess.run([*launch, str(script), "run", "--out", str(tmp_path / "two"), "--no-bar", *settings], capture_output=True, text=True, timeout=500,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[:3000] + done.stderr[-1000:]
    two = Run.open(tmp_path / "two")
    one = Run.create(replace(two.config), tmp_path / "one")
    one.bar = False
    one.finish()
    assert two.stage is None and done.stdout.count("source only") == 1, "one process speaks"
    assert [q["ids"] for q in queries(one)] == [q["ids"] for q in queries(two)]
    found, expected = weights(two), weights(one)
    assert found.keys() == expected.keys()
    def apart(prefix):
        names = [name for name, value in expected.items() if name.startswith(prefix) and value.is_floating_point()]
        one, other = (torch.cat([tensors[name].flatten().double() for name in names]) for tensors in (expected, found))
        return ((one - other).norm() / one.norm()).item()

    assert apart("state.student.") < 0.01 and apart("state.teacher.") < 0.01  # measured: 0.001; 4e-5 after the first three steps
    assert apart("state.memory.entries") < 0.1  # which pixel is the last to get into the bank may hang on the last bit
    for mine, theirs in zip(two.summary()["rounds"], one.summary()["rounds"]):
        assert mine["miou"] == pytest.approx(theirs["miou"], abs=0.3)


def test_warnings_of_a_whole_run_are_none(unbroken, tmp_path):
    "Nothing that is normal is warned about."
    run = unbroken.fork(tmp_path / "quiet", after=0)
    run.bar = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run.advance()
