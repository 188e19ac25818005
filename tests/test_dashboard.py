"""The dashboard of a run: what it reads from the folder while somebody writes there, the process that it starts and pauses, and JupyterLab with it."""
import contextlib
import csv
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from browser import open_notebook, run_cell
from figures.planning import plan_table
from figures.runs import preset_table
from stal_nb.app import run_folder as d
from stal_nb.app.dashboard import RunDashboard, query_thumbnails
from stal_nb.app.dashboard_picture import dashboard_picture
from stal_nb.app.form import RunForm
from stal_nb.app.run_folder import RunFolder, Status, saved_step
from stal_nb.app.run_log import Curve, Tail
from stal_nb.app.run_process import pause, start
from stal_nb.app.run_view import duration, paper_figures, view_of
from stal_nb.config import PRESETS
from stal_nb.labels import CITYSCAPES
from stal_nb.run import Run
from stal_nb.runtime.errors import AwaitingLabels, ConfigError, StalError, StoreError
from tiny import TINY, tiny
from together import Command

CLASSES = CITYSCAPES.classes


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def row(step, stage=1.0):
    return {"step": step, "lr": 0.01, "L_s": 2.0 / step, "L_u": stage, "L_c": 3.0, "loss": 4.0, "images_per_second": 20.0, "memory_mb": 900.0,
            **{f"bank/{c}": 10 * k for k, c in enumerate(CLASSES)}, **{f"sampling/{c}": 1 / 19 for c in CLASSES}}


def metrics(miou, **more):
    return {"miou": miou, "iou": {c: miou for c in CLASSES}, "steps": 3, "seconds": 12.0, "student": {"miou": miou - 1}, **more}


def status(folder, state="running", host=None, **facts):
    write(folder / "status.json", {"state": state, "stage": "round 0: train", "step": 2, "steps": 4, "pid": os.getpid(), "host": host or socket.gethostname(),
                                   "updated": time.time(), "seconds_left": 100.0, "message": "", **facts})


def trained(folder, stage="source", miou=11.0, labelled=0, **more):
    "A finished training stage, as its files say it."
    place = folder / ("source" if stage == "source" else f"rounds/{stage:02d}")
    place.mkdir(parents=True, exist_ok=True)
    with (place / "training.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(row(1)))
        writer.writeheader()
        writer.writerows(row(step) for step in (1, 2, 3))
    if stage != "source":
        write(place / "query.json", {"round": stage, "strategy": "random", "ids": ["a"], "entropy": {"a": 0.5}})
        write(place / "labelled.json", {"round": stage, "ids": [str(k) for k in range(labelled)]})
    write(place / "metrics.json", metrics(miou, **more))


@pytest.fixture
def folder(tmp_path):
    "A run that was just created."
    write(tmp_path / "run" / "config.json", tiny().to_dict())
    return tmp_path / "run"


def looked(folder):
    found = RunFolder(folder)
    found.look()
    return found


# -- lines of a file that somebody writes -------------------------------------------------------------------------------------------


def test_a_half_written_line_waits_for_its_end(tmp_path):
    file, tail = tmp_path / "log.jsonl", Tail(tmp_path / "log.jsonl")
    assert tail.read() == (False, [])  # no file yet
    file.write_bytes(b'{"step": 1}\n{"st')
    assert tail.read() == (False, [b'{"step": 1}'])
    assert tail.read() == (False, [])
    with file.open("ab") as handle:
        handle.write('ep": 2, "é": 1}\n'.encode()[:-2])
    assert tail.read() == (False, [])
    with file.open("ab") as handle:
        handle.write(b"}\n")
    assert tail.read() == (False, ['{"step": 2, "é": 1}'.encode()])


@pytest.mark.parametrize("how", ["truncated", "replaced", "removed"])
def test_a_file_that_was_cut_back_is_read_anew(tmp_path, how):
    "Also when it has grown beyond the old length by the next look."
    file, tail = tmp_path / "log.jsonl", Tail(tmp_path / "log.jsonl")
    file.write_bytes(b"one\ntwo\nthree\n")
    tail.read()
    if how == "removed":
        file.unlink()
        assert tail.read() == (True, [])
        file.write_bytes(b"one\n")
        assert tail.read() == (False, [b"one"])
    elif how == "truncated":
        with file.open("r+b") as handle:
            handle.truncate(8)
            handle.seek(8)
            handle.write(b"THREE\nfour\nfive\n")
        assert tail.read() == (True, [b"one", b"two", b"THREE", b"four", b"five"])
    else:
        (tmp_path / "other").write_bytes(b"one\n")
        os.replace(tmp_path / "other", file)
        assert tail.read() == (True, [b"one"])


def test_curves_keep_their_size_and_their_means():
    curve = Curve(limit=100)
    for step in range(1, 10_001):
        curve.add({"step": step, "loss": float(step), "L_u": 7.0})
    assert 50 <= len(curve.rows) <= 100 and sum(curve.counts) == 10_000
    assert np.average([r["loss"] for r in curve.rows], weights=curve.counts) == pytest.approx(5000.5)
    assert curve.last == {"step": 10_000, "loss": 10_000.0, "L_u": 7.0} and {r["L_u"] for r in curve.rows} == {7.0}
    steps = [r["step"] for r in curve.rows]
    assert steps == sorted(set(steps))


def test_a_step_that_comes_again_takes_the_place_of_what_followed():
    curve = Curve()
    for step in (10, 20, 30, 40):
        curve.add({"step": step, "loss": 1.0})
    curve.add({"step": 30, "loss": 2.0})
    assert [(r["step"], r["loss"]) for r in curve.rows] == [(10, 1.0), (20, 1.0), (30, 2.0)]


# -- a folder -----------------------------------------------------------------------------------------------------------------------


def test_no_run_yet_is_said(tmp_path):
    assert "config.json" in view_of(looked(tmp_path / "nothing"))["message"]
    with pytest.raises(StoreError, match="config.json"):
        RunDashboard(tmp_path / "nothing")
    write(tmp_path / "config.json", '{"name": "ha')  # half-written
    assert looked(tmp_path).state[0] == "new"
    write(tmp_path / "config.json", {"colour": "blue"})
    assert looked(tmp_path).state[0] == "failed" and "colour" in looked(tmp_path).state[1]


def test_a_run_that_was_just_created_can_be_started(folder):
    view = view_of(looked(folder))
    assert view["state"] == "new" and view["can"] == {"start": True, "pause": False, "label": False, "again": False}
    assert [s["is"] for s in view["stages"]] == ["now", *["later"] * 7]
    json.dumps(view, allow_nan=False)


def test_a_stage_at_work_is_followed_line_by_line(folder):
    found = looked(folder)
    write(folder / "source" / "log.jsonl", json.dumps(row(1)) + "\n" + json.dumps(row(2))[:30])
    status(folder, stage="source", step=2, steps=3)
    found.look()
    view = view_of(found)
    assert view["state"] == "running" and view["stage"] == "source" and view["can"]["pause"]
    assert found.series(["L_s", "nothing"]).shape == (1, 3) and math.isnan(found.series(["nothing"])[0, 1])
    write(folder / "source" / "log.jsonl", "".join(json.dumps(row(step)) + "\n" for step in (1, 2)) + "not json\n[1]\n{}\n")
    found.look()
    assert found.series(["L_s"]).tolist() == [[1, 2.0], [2, 1.0]]
    assert dict(view["tiles"])["images per second"] == "20.0" and view["classes"] == list(CLASSES)


def test_finished_stages_come_from_their_tables_and_lie_one_after_the_other(folder):
    trained(folder)
    trained(folder, 0, miou=20.0, labelled=1)
    write(folder / "rounds/01/log.jsonl", json.dumps(row(2)) + "\n")
    found = looked(folder)
    assert found.series(["L_s"])[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 8]  # 3 steps each, as measured; then step 2 of round 1
    results = [(r["name"], r["labelled"], r["miou"], r["student"]) for r in view_of(found)["results"]]
    assert results == [("source only", 0, 11.0, 10.0), ("round 0", 1, 20.0, 19.0)]
    assert found.series(["L_s"], most=3)[-1, 0] == 8  # thinned, the newest stays


def test_a_finished_stage_replaces_what_was_seen_of_it_live(folder):
    write(folder / "source" / "log.jsonl", json.dumps(row(1, stage=99.0)) + "\n")
    found = looked(folder)
    trained(folder)
    found.look()
    assert found.series(["L_u"])[:, 1].tolist() == [1.0, 1.0, 1.0]


def test_looking_again_reads_nothing_that_is_the_same(folder, monkeypatch):
    trained(folder)
    trained(folder, 0, miou=20.0, labelled=1)
    found = looked(folder)
    before, opened = view_of(found), []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), real(self, *a, **k))[1])
    found.look()
    assert view_of(found) == before
    assert set(opened) <= {"status.json", "log.jsonl"}


def test_odd_entries_of_the_status_are_left_out(folder):
    write(folder / "status.json", {"state": "running", "stage": None, "step": None, "steps": "many", "pid": 10**30, "seconds_left": "?"})
    assert Status.read(folder / "status.json") == Status("running", pid=10**30)
    assert looked(folder).state[0] == "stopped"
    for text in ("[]", '"x"', '{"sta', ""):
        write(folder / "status.json", text)
        assert Status.read(folder / "status.json") == Status() and looked(folder).state[0] == "new"


def test_the_time_left_is_shared_between_stages(folder):
    trained(folder)
    for name in ("query", "labelled"):
        write(folder / f"rounds/00/{name}.json", {"ids": ["a"]})
    status(folder, step=2, steps=4, seconds_left=100.0)  # 2 steps of this stage and 3 of round 1 are left
    view = view_of(looked(folder))
    tiles = dict(view["tiles"])
    assert (view["stage"], view["step"], view["steps"]) == ("round 0: train", 2, 4)
    assert tiles["left in this stage"] == "40 s" and tiles["training left"] == "2 min"


def test_lengths_in_epochs_are_known_when_the_stage_is_at_work(folder):
    write(folder / "config.json", {**tiny().to_dict(), "round_steps": [0, 0]})
    status(folder, steps=77)
    assert [count for _, _, count in looked(folder).training] == [3, 77, 0]


# -- processes -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper():
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('up', flush=True); time.sleep(60)"  # also where the tests run under nohup
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_process_is_noticed_and_resume_says_where(folder, sleeper):
    import torch
    from safetensors.torch import save_file

    trained(folder)
    write(folder / "rounds/00/query.json", {"ids": ["a"]})
    write(folder / "rounds/00/labelled.json", {"ids": ["a"]})
    save_file({"x": torch.zeros(1)}, folder / "rounds/00/progress.safetensors", {"info": json.dumps({"step": 2})})
    status(folder, pid=sleeper.pid)
    assert looked(folder).state[0] == "running"
    sleeper.kill()
    while d.psutil.Process(sleeper.pid).status() != d.psutil.STATUS_ZOMBIE:  # dead, though nobody has waited for it
        time.sleep(0.01)
    state, message = looked(folder).state
    assert state == "stopped" and "resume continues at step 3" in message and view_of(looked(folder))["can"]["start"]
    (folder / "rounds/00/progress.safetensors").write_bytes(b"\xff" * 40)
    assert "resume continues with stage 'round 0: train'" in looked(folder).state[1]


def test_a_process_between_two_stages_is_at_work(folder, sleeper):
    "`status.json` says 'stopped' at the end of each stage; a notebook that stays open after its last cell is not at work."
    status(folder, state="stopped", pid=sleeper.pid)
    assert looked(folder).state[0] == "running"
    status(folder, state="stopped", pid=sleeper.pid, updated=time.time() + 1)
    assert looked(folder).state[0] == "running"
    status(folder, state="stopped", pid=os.getpid())
    assert looked(folder).state[0] == "stopped"


def test_another_process_with_the_same_number_is_not_taken_for_it(folder, sleeper):
    status(folder, pid=sleeper.pid, updated=time.time() - 3600)
    assert looked(folder).state[0] == "stopped"


def test_a_run_of_another_machine_is_shown_and_cannot_be_paused_from_here(folder):
    status(folder, host="node17", pid=1)
    view = view_of(looked(folder))
    assert view["state"] == "running" and not view["can"]["pause"] and not view["can"]["start"] and "node17" in view["message"] and view["host"] == "node17"
    with pytest.raises(ConfigError, match="at work on node17"):
        pause(folder)
    with pytest.raises(ConfigError, match="of node17 at work"):
        start(folder)
    status(folder, host="node17", updated=time.time() - d.STALE - 60)
    view = view_of(looked(folder))
    assert view["state"] == "silent" and "No word from node17 for 11 minutes" in view["message"] and view["can"]["start"]


def test_states_that_need_a_person(folder):
    trained(folder)
    status(folder, state="failed", message="OutOfMemoryError: smaller crop")
    write(folder / "console.log", "\n".join(f"line {k}" for k in range(100)) + "\nbar 1\rbar 2\n")
    view = view_of(looked(folder))
    assert view["state"] == "failed" and view["message"] == "OutOfMemoryError: smaller crop"
    assert view["console"][-2:] == ["line 99", "bar 2"] and len(view["console"]) == 20
    status(folder, state="stopped")
    assert view_of(looked(folder))["console"] == [] and looked(folder).state[0] == "stopped"


def test_a_run_that_waits_for_labels_lists_them(tmp_path):
    import torch

    run = Run.create(tiny(annotator="person", budgets=(2, 4)), tmp_path / "run")
    run.bar = False
    with pytest.raises(AwaitingLabels):
        run.finish()
    ids = json.loads((run.path / "rounds/00/query.json").read_text())["ids"]
    found = looked(run.path)
    view = view_of(found)
    assert view["state"] == "awaiting labels" and view["can"]["label"] and view["can"]["start"]
    assert view["awaiting"] == {"images": 2, "done": 0, "first": [{"id": id, "done": False} for id in ids]}
    run.store.save(ids[0], torch.zeros(64, 128, dtype=torch.int64))
    found.look()
    assert view_of(found)["awaiting"]["done"] == 1
    board = RunDashboard(run, pictures=0)
    try:
        board.receive({"type": "label"})
        assert len(board.children) == 2 and "Resume" in board.panel.notice
    finally:
        board.close()


def test_only_a_run_is_started_and_only_once(tmp_path, folder, sleeper):
    with pytest.raises(StoreError, match="config.json"):
        start(tmp_path)
    status(folder, pid=sleeper.pid)
    with pytest.raises(ConfigError, match=f"found process {sleeper.pid} of .* at work"):
        start(folder)
    assert pause(folder) and sleeper.wait(20) in (1, -signal.SIGINT, 130)  # SIGINT, and no harder
    assert not pause(folder)


ECHO = "import os, signal, sys; print(sys.argv[1:], signal.getsignal(signal.SIGINT) is signal.default_int_handler, os.getsid(0) == os.getpid()); sys.exit(3)"


def test_a_process_hears_ctrl_c_and_the_kernel_s_group_does_not_reach_it(folder):
    "Jupyter kernels ignore SIGINT between cells, and a child would inherit that."
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(folder, launcher=(sys.executable, "-c", ECHO))
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.wait(30) == 3
    words = (folder / "console.log").read_text().splitlines()
    assert words[0].startswith("--- ") and words[1] == f"['-m', 'stal_nb', 'resume', {str(folder.resolve())!r}, '--no-bar'] True True"


def test_a_process_that_refuses_is_reported_with_its_last_words(folder):
    board = RunDashboard(folder, pictures=0, launcher=(sys.executable, "-c", "print('no such data'); raise SystemExit(1)"))
    try:
        board.receive({"type": "start"})
        with pytest.raises(StalError, match="no such data"):
            board.wait(timeout=30)
        assert board.panel.view["state"] == "failed" and board.panel.view["console"][-1] == "no such data"
        assert board.pause() is False
        board.launcher = ("no-such-launcher", "launch")
        board.receive({"type": "start"})
        assert "found 'no-such-launcher'" in board.panel.notice
    finally:
        board.close()


def test_waiting_has_an_end(folder, sleeper):
    status(folder, stage="source", pid=sleeper.pid)
    board = RunDashboard(folder, pictures=0)
    try:
        with pytest.raises(TimeoutError, match="still running in stage 'source'"):
            board.wait(timeout=0.3, say=None)
        with pytest.raises(ConfigError, match="expected one of source, round 0: query"):
            board.wait(until="round 9")
        assert board.wait(until="source", timeout=5, say=None) == "running"
    finally:
        board.close()


# -- pictures ------------------------------------------------------------------------------------------------------------------------


def test_the_paper_stands_beside_runs_on_its_data_alone(folder):
    assert view_of(looked(folder))["figures"] == {}
    base = tiny().to_dict()
    gta5 = paper_figures({**base, "data": "cityscapes", "source": "gta5"})
    assert gta5["paper, GTA5"] == [(30, 70.0), (65, 75.0), (150, 76.1)] and [p for _, p in gta5["RIPU, 5 %"]] == [71.2]
    synthia = paper_figures({**base, "data": "cityscapes", "source": "synthia"})
    assert [p for _, p in synthia["paper, SYNTHIA"]] == [73.2, 76.0, 76.6]
    assert paper_figures({**base, "data": "camvid", "source": "gta5"}) == {}


def test_an_oracle_beside_the_run_is_drawn(folder):
    write(folder.with_name("run-oracle") / "summary.json", {"rounds": [{"miou": 44.5}]})
    assert view_of(looked(folder), {"mine": 50.0})["lines"] == {"all labels": 44.5, "mine": 50.0}


@pytest.mark.parametrize("far", [0, 1, 2, 3])
def test_every_state_has_a_still_picture(folder, far):
    if far > 0:
        trained(folder)
    if far > 1:
        trained(folder, 0, miou=20.0, labelled=1)
        write(folder / "rounds/00/scores.csv", "id,group,entropy\na,x,0.5\nb,x,0.25\n")
    if far > 2:
        trained(folder, 1, miou=22.0, labelled=3)
        status(folder, stage="summary")
    figure = dashboard_picture(folder, {"all labels": 30.0})
    texts = [t.get_text() for axis in figure.axes for t in axis.texts]
    assert ("nothing measured yet" in texts) == (far == 0) and ("20.0" in texts) == (far > 1)
    figure.canvas.draw()


def test_thumbnails_show_image_and_map(tmp_path):
    run = Run.create(tiny(), tmp_path / "run")
    run.bar = False
    while run.stage != "round 0: train":
        run.advance()
    found = query_thumbnails(run, 0, most=1)
    assert found["round"] == 0 and [set(item) for item in found["items"]] == [{"id", "entropy", "image", "map"}]
    assert all(found["items"][0][part].startswith(b"\xff\xd8") for part in ("image", "map"))
    assert "map" not in query_thumbnails(run, 0, maps=False)["items"][0]
    figure = dashboard_picture(run, pictures=found)
    assert any(axis.get_title().startswith("Round 0 queried 1 of") for axis in figure.axes)


def test_durations_and_plans_are_in_people_s_units():
    assert [duration(s) for s in (0, 89, 300, 12_000, 187_200)] == ["0 s", "89 s", "5 min", "3 h 20 min", "2 d 4 h"]
    plan = {"seconds": 3000.0, "stages": [{"stage": "warm-up", "labelled": 30, "steps": 1000, "epochs": 2.5, "seconds": 3000.0}]}
    table = plan_table(plan)
    assert table.loc["warm-up"].tolist() == ["30", "1,000", "2.5", "about 50 min"] and table.loc["all", "steps"] == "1,000"


# -- JupyterLab ------------------------------------------------------------------------------------------------------------------------

LONGER = {"source_steps": 150, "round_steps": [4, 3], "checkpoint_every": 20}
CELLS = ["""
import sys
sys.path.insert(0, {tests!r})
from stal_nb.app.dashboard import RunDashboard
from stal_nb.run import Run
from tiny import tiny
run = Run.create(tiny(**{longer!r}), "here")
dashboard = RunDashboard(run, {{"all labels": 33.3}}, every=1)
dashboard
""", "print('the kernel', 'answers', 6 * 7)", """
other = RunDashboard("shell", every=1)
other
"""]


class Board:
    "What a person sees of the dashboard in a cell."

    def __init__(self, page, cell):
        self.page, self.root = page, page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".stal-dash")

    @property
    def state(self):
        return self.root.locator(".stal-pill").inner_text()

    @property
    def step(self):
        found = re.search(r"step ([\d,]+) of", self.root.locator(".stal-where").inner_text())
        return int(found[1].replace(",", "")) if found else 0

    def press(self, name):
        self.root.get_by_role("button", name=name, exact=True).click(timeout=30_000)

    def wait(self, *states, step=0, seconds=150):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.state in states and self.step >= step:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{self.state} at {self.step}, expected {states}: {self.root.inner_text()}")


@contextlib.contextmanager
def held(folder):
    "The process of a run stands still while a person looks at the page, however fast it is."
    process = psutil.Process(json.loads((folder / "status.json").read_text())["pid"])
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@pytest.mark.slow
def test_a_person_starts_pauses_and_resumes_in_jupyterlab(tmp_path, new_page, jupyterlab):
    "A run of the notebook goes on in the shell, one of the shell in the notebook; the kernel is free meanwhile."
    tests = os.path.dirname(os.path.abspath(__file__))
    with jupyterlab(tmp_path / "desk", [source.format(tests=tests, longer=LONGER) for source in CELLS]) as address:
        page, desk = new_page(1300, 1700), tmp_path / "desk"
        try:
            open_notebook(page, address)
            run_cell(page, 0)
            here = Board(page, 0)
            here.root.wait_for(timeout=60_000)
            assert here.state == "not started" and here.root.get_by_role("button", name="Pause").is_disabled()

            here.press("Start")
            here.wait("running", step=12)
            with held(desk / "here"):
                page.wait_for_function("document.querySelectorAll('.stal-dash figure path[d]').length > 10")  # losses and sampling probabilities
                before = here.step
                run_cell(page, 1)
                page.wait_for_function("document.querySelector('.jp-Notebook').textContent.includes('the kernel answers 42')", timeout=20_000)
                assert here.state == "running" and "left in this stage" in here.root.inner_text()
                here.press("Pause")
                here.root.get_by_text("the step at work is finished").wait_for(timeout=20_000)
            here.wait("stopped", seconds=60)
            assert before <= here.step < LONGER["source_steps"] and not (desk / "here/source/metrics.json").exists()
            assert here.step == saved_step(desk / "here/source")

            shell = Command("resume", "here", "--no-bar", told=tmp_path / "told", folder=desk)  # begun in the notebook, continued in the shell
            here.wait("running", step=here.step + 1, seconds=60)
            assert shell.poll() is None
            here.wait("complete")
            assert shell.wait(60) == 0
            page.wait_for_timeout(1500)
            shown = here.root.inner_text()
            summary = json.loads((desk / "here/summary.json").read_text())
            assert all(f"{r['miou']:.1f}" in shown for r in [summary["source_only"], *summary["rounds"]]) and "all labels 33.3" in shown
            assert here.root.locator(".stal-shots img").count() == 4 and "Round 1 queried 2 of 9" in shown  # two images and their maps

            words = [f"--set={key}={json.dumps(value)}" for key, value in {**TINY, **LONGER}.items()]
            shell = Command("run", "--out", "shell", *words, "--no-bar", told=tmp_path / "told", folder=desk)  # begun in the shell, continued in the notebook
            while not (desk / "shell/config.json").exists():
                assert shell.poll() is None
                time.sleep(0.1)
            run_cell(page, 2)
            there = Board(page, 2)
            there.wait("running", step=5, seconds=60)
            with held(desk / "shell"):
                there.press("Pause")
                there.root.get_by_text("the step at work is finished").wait_for(timeout=20_000)
            assert shell.wait(60) == 130
            there.wait("stopped", seconds=30)
            there.press("Resume")
            there.wait("complete")
            assert page.evaluate("document.querySelectorAll('.stal-dash *').length") < 4000
            assert not page.problems
        finally:
            page.screenshot(path=os.environ.get("DASHBOARD_PICTURE") or str(tmp_path / "end.png"))


# -- choosing what to run ----------------------------------------------------------------------------------------------------------------


def test_the_form_offers_every_preset_and_asks_for_the_folders_it_reads(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "mine", {**PRESETS["demo"], "source_images": 7})
    monkeypatch.setitem(PRESETS, "paper", {**PRESETS["demo"], "data": "cityscapes", "source": "gta5"})
    form = RunForm("mine", folder=str(tmp_path / "run"))
    assert form.preset.options == tuple(PRESETS) and form.root.disabled and form.source_root.disabled
    assert form.message.value.startswith("7 source, 400 target and 100 validation images; 150 + 150 + 150 steps; 4 then 20")
    form.preset.value = "paper"
    assert not form.root.disabled and not form.source_root.disabled and "#b00020" in form.message.value and form.button.disabled
    form.preset.value = "camvid"
    assert not form.root.disabled and form.source_root.disabled and form.button.disabled
    form.root.value = str(tmp_path / "<nowhere>")
    assert "&lt;nowhere&gt;" in form.message.value and form.button.disabled


def test_the_form_creates_a_run_and_shows_it(tmp_path):
    form = RunForm(folder=str(tmp_path / "run"))
    form.person.value = True
    form.button.click()
    board = form.dashboard.children[0]
    assert board.panel.view["state"] == "new" and json.loads((tmp_path / "run/config.json").read_text())["annotator"] == "person"
    form.seed.value = 5
    form.button.click()  # the folder belongs to another configuration
    assert "seed" in form.message.value and form.dashboard.children == ()
    assert board._closed.is_set()


def test_every_preset_is_in_the_table():
    table = preset_table()
    assert table.index.tolist() == list(PRESETS) and table.loc["demo", "acquired labels in all"] == "1 %, 5 %"
