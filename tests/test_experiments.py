"""Experiments: statistics against scipy, splits, shared stages to the last bit, processes that fail, are killed and continue."""
import json
import math
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from stal_nb.arms import FROM_THE_FIRST_ROUND, Arm, Task, settings_until
from stal_nb.cli import main
from stal_nb.comparison import compare, measured, measures_of, results_text
from stal_nb.config import Config
from stal_nb.datasets import RunData
from stal_nb.experiments import Experiment, jobs_of, plan_lines
from stal_nb.outcomes import outcome
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError, StalError, StoreError
from stal_nb.splits import Concatenated, block_split, without_group
from stal_nb.statistics import holm, mean_interval, paired, rank_correlation, sign_flip_p
from stal_nb.workers import Places, WorkerPool, work
from tests.tiny import TINY, tiny

SHORT = {**TINY, "target_images": 6, "val_images": 2, "source_steps": 2, "round_steps": (2, 2), "budgets": (1, 2), "eval_student": False}


# -- statistics ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 9])
def test_interval_and_sign_flip_test_are_those_of_scipy(n):
    d = np.random.default_rng(n).normal(0.5, 1, n)
    mean, low, high = mean_interval(d)
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((d.mean(), expected.low, expected.high))
    exact = stats.permutation_test((d,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert sign_flip_p(d) == pytest.approx(exact.pvalue)


def test_equal_sums_count_as_equal_whatever_the_order_of_adding():
    assert sign_flip_p([0.1, 0.2, 0.3, -0.6 + 1e-17]) == 1.0
    assert sign_flip_p([0.1] * 10) == 2 / 2**10


def test_many_pairs_are_flipped_at_random_and_repeatably():
    d = np.random.default_rng(0).normal(0.4, 1, 25)
    assert sign_flip_p(d) == sign_flip_p(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.02)


def test_holm_is_the_textbook_and_passes_over_what_was_not_tested():
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.5, 0.6]) == [1.0, 1.0]


def test_pairs_need_both_and_one_pair_has_no_interval():
    found = paired({0: 3.0, 1: None, 2: 5.0, 4: 1.0}, {0: 1.0, 1: 1.0, 2: math.nan})
    assert found.keys == (0,) and found.mean == 2 and math.isnan(found.low) and found.verdict == "no interval: fewer than two pairs"
    assert paired({}, {}).verdict == "no interval: fewer than two pairs"
    with pytest.raises(ConfigError, match="expected finite"):
        mean_interval([1.0, math.inf])


def test_ranks_with_ties_are_those_of_scipy():
    a, b = [3.0, 1.0, 2.0, 2.0, 5.0], [30.0, 20.0, 10.0, 40.0, 50.0]
    assert rank_correlation(dict(enumerate(a)), dict(enumerate(b))) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert math.isnan(rank_correlation({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}))


# -- splits --------------------------------------------------------------------------------------------------------------------


class Frames(SimpleNamespace):
    def __len__(self):
        return len(self.ids)


def frames(**groups):
    names = [(f"{group}_{k}", group) for group, n in groups.items() for k in range(n)]
    names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    return Frames(ids=[i for i, _ in names], groups=[g for _, g in names], label_space=None)


def test_blocks_are_whole_apart_and_of_all_groups():
    data = frames(day=103, dusk=47, short=7)
    pool, val = block_split(data, block=20, gap=2)
    side = {id: s for s, part in enumerate((pool, val)) for id in part.ids}
    assert len(side) == len(pool) + len(val) and {"day", "dusk"} == set(val.groups) and "short" in pool.groups
    for group, n in (("day", 103), ("dusk", 47)):
        row = [side.get(f"{group}_{k}") for k in range(n)]
        assert all(row[k] in (None, k // 20 % 2) for k in range(n))
        assert [k for k in range(n) if row[k] is None] == [k for k in range(20, n) if k % 20 < 2]
    swapped = block_split(data, swapped=True)
    assert [p.ids for p in swapped] == [val.ids, pool.ids]


def test_a_group_is_left_out_and_parts_are_joined(tmp_path):
    config = tiny(target_images=8, val_images=8)
    data = RunData(config)
    whole = Concatenated(data.target, data.val)
    assert whole[9].id == data.val[1].id and torch.equal(whole.load_labels(9), data.val[1].labels)
    group = whole.groups[0]
    pool, val = without_group(whole, group)
    assert set(val.groups) == {group} and group not in pool.groups and len(pool) + len(val) == 16
    divided = RunData(Config.from_dict({**config.to_dict(), "split": f"without:{group}"}))
    assert (divided.target.ids, divided.val.ids) == (pool.ids, val.ids)
    with pytest.raises(StalError, match="the id .* in two parts"):
        Concatenated(data.target, data.target)
    with pytest.raises(ConfigError, match="split: found 'half'"):
        tiny(split="half")


def test_with_random_halves_each_seed_has_a_pool_and_a_query_of_its_own():
    config = tiny(target_images=12, val_images=12, split="random")
    parts = [RunData(Config.from_dict({**config.to_dict(), "seed": seed, "target_images": 12})) for seed in (0, 0, 1)]
    assert parts[0].target.ids == parts[1].target.ids and len(parts[0].target) == len(parts[0].val) == 12
    assert not set(parts[0].target.ids) & set(parts[0].val.ids)
    places = [{id.split("-")[0] + id[-6:] for id in part.target.ids} for part in parts]  # scenes have their seed in their ids
    assert places[0] != places[2] and 12 > len(places[0] & places[2]) > 0


def test_labels_have_the_faults_that_the_settings_ask_for(tmp_path):
    shares = []
    for name, faults in (("true", {}), ("jitter", dict(label_jitter=2.0)), ("confusion", dict(label_confusion=1.0))):
        run = Run.create(tiny(budgets=(2,), round_steps=(1,), source_steps=0, **faults), tmp_path / name)
        run.bar = False
        run.finish()
        truth = {id: run.data.target[run.data.target.ids.index(id)].labels for id in run.labelled_ids()}
        wrong = [(run.store.load(id) != labels).float().mean().item() for id, labels in truth.items()]
        shares.append(sum(wrong) / len(wrong))
    assert shares[0] == 0 and 0.01 < shares[1] < 0.5 and 0 < shares[2] < 0.5
    with pytest.raises(ConfigError, match="label_confusion: found 2"):
        tiny(label_confusion=2)


# -- shared stages -------------------------------------------------------------------------------------------------------------


OTHER = dict(  # another value of each setting that is said not to matter in the source stage
    first_strategy="random_group_quota", strategy="margin", budget_unit="regions", region_radius=4, pixel_spacing=3, per_image=2,
    mc_passes=3, ensemble_size=4, annotator="person", label_jitter=1.0, label_confusion=0.1,
    lambda_u=0.7, lambda_c=0.3, unlabelled_batch=1, drop_percent=10.0, gamma=1.0,
    class_rate=True, strong_views=False, keep_unsure=True, cutmix_probability=0.3, target_scale=(0.6, 1.1), num_anchors=4,
    num_negatives=4, temperature=0.2, anchor_threshold=0.1, low_rank=1, high_rank=5, reliable_percentile=10.0,
    unreliable_percentile=70.0, bank_push=4, released_negatives=True, copy_paste_probability=0.1, paste_scale=(0.5, 1.0),
    paste_classes=2, source_free=True, source_share=(1.0, 1.0), two_strong_views=True, confidence_threshold=0.5, lambda_entropy=0.1, lambda_adversarial=0.1,
    translation="fourier", fourier_beta=0.1, teacher_window=0.5, domain_batchnorm=True)


def test_settings_that_are_said_not_to_matter_before_the_first_round_do_not(tmp_path):
    assert set(OTHER) == FROM_THE_FIRST_ROUND
    base = Config.preset("demo", **{**SHORT, "val_images": 1, "target_batch": 1, "source_batch": 2})
    other = Config.from_dict({**base.to_dict(), **OTHER, "target_batch": 2, "source_batch": 1})
    assert all(getattr(base, name) != value for name, value in OTHER.items())
    assert settings_until(base, -1) == settings_until(other, -1)
    found = []
    for k, config in enumerate((base, other)):
        run = Run.create(config, tmp_path / str(k))
        run.bar = False
        run.advance()
        found.append(load_file(run.layout.checkpoint("source")))
    names = [name for name in found[0] if name.startswith("state.")]
    assert len(names) > 100 and all(torch.equal(found[0][name], found[1][name]) for name in names)


@pytest.mark.slow
def test_an_arm_that_takes_shared_stages_over_is_what_it_is_alone(tmp_path):
    base = {**SHORT, "val_images": 1}
    arms = [Arm("random", {"strategy": "random"}), Arm("margin", {"strategy": "margin"}), Arm("few", {}, "labels only", "random")]
    experiment = Experiment("e", arms, seeds=[0], base=base, out=tmp_path / "e")
    assert [task.until for task in experiment.tasks()] == [0, None, None, None]
    pool = WorkerPool(experiment.places, experiment.tasks(), 1, {"data": {"more": {"val_images": 2}}}, networks=False)
    for task in experiment.tasks():
        work(json.loads(json.dumps(pool.order(task))))
    alone = Run.create(arms[1].config("demo", base, 0), tmp_path / "alone")
    alone.bar = False
    alone.finish()
    fork, results = Run.open(tmp_path / "e/runs/data/margin/seed-0"), experiment.results()
    first, second = (load_file(layout.checkpoint("round 0")) for layout in (alone.layout, Run.open(next(tmp_path.glob("e/shared/*/*/*"))).layout))
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("state."))
    scores = [[{**entry, "seconds": 0} for entry in run.summary()["rounds"]] for run in (alone, fork)]
    assert scores[0] == scores[1] and fork.layout.query(1) == alone.layout.query(1)
    assert not list(tmp_path.glob("e/runs/**/checkpoint.safetensors")), "networks of finished runs were to be removed"
    assert results["runs"][0]["stages"][-1]["validation"]["more"]["images"] == 2
    acquired = {run["arm"]: run["acquired"]["ids"] for run in results["runs"]}
    assert acquired["few"] == acquired["random"] != [] and measured(results["runs"][0]) is not None
    assert {"miou", "area"} <= set(measures_of(results)) and "no interval: fewer than two pairs" in results_text(results)
    json.dumps(results, allow_nan=False)
    with pytest.raises(StoreError, match="found a run with lr = 0.01, expected 0.02 as the experiment says"):
        Experiment("e", arms, seeds=[0], base={**base, "lr": 0.02}, out=tmp_path / "e").run()


# -- processes -----------------------------------------------------------------------------------------------------------------


def pool_of(tmp_path, monkeypatch, scripts, needs=(), jobs=2):
    "A pool whose processes are shell scripts: 'ok' leaves a result, whatever else is run as it is."
    config = tiny()
    parents = dict(needs)
    tasks = [Task(key, config, "data", key, 0, labels_of=parents.get(key)) for key in scripts]
    places = Places(tmp_path)

    def process(self, task):
        log, result = places.log(task), places.result(task.key)
        for file in (log, result):
            file.parent.mkdir(parents=True, exist_ok=True)
        script = scripts[task.key].replace("ok", f"echo {{}} > {result}")
        with log.open("ab") as file:
            return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True)

    monkeypatch.setattr(WorkerPool, "_process", process)
    return WorkerPool(places, tasks, jobs, {})


def test_what_fails_is_named_what_needs_it_is_left_and_the_others_go_on(tmp_path, monkeypatch):
    scripts = {"a": "ok", "bad": "echo 'DataError: no such folder' >&2; exit 1", "c": "ok", "killed": "kill -9 $$", "silent": "exit 3"}
    scripts |= {"late": "ok", "never": "ok"}
    pool, told = pool_of(tmp_path, monkeypatch, scripts, {"late": "a", "never": "bad"}), []
    failed = pool.run(lambda task, reason, progress: told.append((task.key, bool(reason), progress.done)))
    assert set(failed) == {"bad", "killed", "silent", "never"} and pool.done == {"a", "c", "late"}
    assert failed["bad"].startswith("DataError: no such folder, see") and "signal 9 (SIGKILL)" in failed["killed"]
    assert failed["silent"].startswith("exit status 3") and failed["never"] == "needs bad, which failed"
    assert len(told) == 6 and told[-1][2] == 3


def test_a_process_that_ends_well_without_a_result_has_failed(tmp_path, monkeypatch):
    assert set(pool_of(tmp_path, monkeypatch, {"a": "exit 0"}).run(lambda *_: None)) == {"a"}


def test_a_stop_ends_all_processes_and_done_runs_are_not_repeated(tmp_path, monkeypatch):
    pool = pool_of(tmp_path, monkeypatch, {"a": "ok", "b": "sleep 60; ok", "c": "sleep 60; ok"}, jobs=2)

    def stop(task, reason, progress):
        started.extend(pool.running.values())
        os.kill(os.getpid(), signal.SIGTERM)

    started: list = []
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.run(stop)
    assert started and all(process.poll() is not None for process in started) and time.monotonic() - began < 30
    again = pool_of(tmp_path, monkeypatch, {"a": "exit 1", "b": "ok", "c": "ok"})
    assert again.done == {"a"} and again.run(lambda *_: None) == {} and again.done == {"a", "b", "c"}


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not(tmp_path):
    arms = [Arm("only", {"checkpoint_every": 1, "round_steps": (12,), "budgets": (1,), "val_images": 1})]
    experiment = Experiment("e", arms, seeds=[0], base={**SHORT, "source_steps": 0}, out=tmp_path / "e", jobs=1)

    def kill() -> None:
        log = tmp_path / "e/runs/data/only/seed-0/rounds/00"
        while not list(log.glob("*step*")) and not list(log.glob("*.safetensors")):
            time.sleep(0.01)
        os.kill(json.loads((tmp_path / "e/runs/data/only/seed-0/status.json").read_text())["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    first = experiment.run(lambda line: None)
    killer.join(60)
    assert "signal 9" in first["failed"]["data/only/seed-0"] and first["runs"] == []
    lines: list[str] = []
    second = experiment.run(lines.append)
    assert not second["failed"] and "1 runs, 0 of them done" in lines[0] and lines[-1].startswith("[1/1")
    alone = Run.create(arms[0].config("demo", experiment.base, 0), tmp_path / "alone")
    alone.bar = False
    assert alone.finish()["rounds"][0]["miou"] == second["runs"][0]["stages"][-1]["miou"]


def test_what_is_kept_of_a_run_without_a_source_begins_with_its_first_labels(tmp_path):
    run = Run.create(Config.preset("demo", **{**SHORT, "source": "none", "source_steps": 0, "source_batch": 0}), tmp_path / "run")
    run.bar = False
    run.finish()
    kept = outcome(run, {})
    assert [(stage["stage"], stage["labelled"]) for stage in kept["stages"]] == [("round 0", 1), ("round 1", 2)]
    assert len(kept["acquired"]["ids"]) == 2


# -- the file and the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, expected", [
    ("seeds = [0, 0]\n[arms.a]", "seeds: found"), ("seeds = [-1]\n[arms.a]", "whole numbers, 0 or more"), ("jobs = true", "jobs: found True"),
    ("[arms]\na = 3", "arms.a: found 3, expected a table"), ("[arms.a]\nsplit = 'half'", "arm 'a': split: found 'half'"),
    ("[arms.a]\nlabels_of = 'b'", "expected the recipe 'labels only'"), ("modules = ['no_such_module']\n[arms.a]", "modules: found 'no_such_module'"),
    ("[arms.a]\nrecipe = 'labels only'\nlabels_of = 'b'", "labels_of: found 'b', expected one of the arms a"),
    ("[base]\npreset = 'none'\n[arms.a]", "expected one of demo"), ("x = ", "text that is not TOML"), ("", "arms: found none")])
def test_a_wrong_file_is_refused_with_its_name_and_the_key(tmp_path, capsys, text, expected):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    assert main(["compare", str(file)]) == 1
    error = capsys.readouterr().err
    assert str(file) in error and expected in error and not (tmp_path / "runs").exists()


def test_a_stopped_comparison_says_the_whole_command(tmp_path, capsys, monkeypatch):
    "Without its --out it would begin anew elsewhere."
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stal_nb.cli.work_on_experiment", interrupted)
    typed = ["compare", "experiments/demo.toml", "--out", str(tmp_path / "two words"), "--jobs", "2", "--seeds", "0", "1"]
    assert main(typed) == 130
    assert f"Continue with: stal_nb {shlex.join(typed)}\n" in capsys.readouterr().err


def test_the_base_alone_need_not_be_a_whole_configuration(tmp_path):
    "Rounds in the base and budgets with the data: planned and run by its tasks, not by the base."
    data = {"few": {"budgets": [1, 2, 3]}, "more": {"budgets": [2, 4, 6]}}
    experiment = Experiment("e", [Arm("a")], seeds=[0], base={**SHORT, "round_steps": [1, 1, 1]}, data=data, out=tmp_path / "e")
    assert "2 runs" in plan_lines(experiment)[-1] and jobs_of(experiment) >= 1


def test_variables_are_filled_in_wherever_a_setting_names_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    file = tmp_path / "experiment.toml"
    file.write_text("""[base]
data_root = "$HERE/a"
source_root = ["$HERE/b", "~/c"]
validation = { day = "$HERE/d" }
[arms.a]
weights = "null"
""")
    base = Experiment.read(file).base
    assert base["data_root"] == f"{tmp_path}/a" and base["source_root"] == [f"{tmp_path}/b", os.path.expanduser("~/c")]
    assert base["validation"] == {"day": f"{tmp_path}/d"}
    file.write_text('[base]\nvalidation = { day = "$NOT_SET/d" }\n[arms.a]')
    with pytest.raises(ConfigError, match="validation.day: found '.NOT_SET/d', expected the environment variable NOT_SET to be set"):
        Experiment.read(file)


def test_example_files_plan(monkeypatch, capsys, tmp_path):
    "They name real data by a variable; planning opens none of it."
    for name in ("CAMVID", "FACADE", "CELLS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    files = sorted((Path(__file__).parent.parent / "experiments").glob("*.toml"))
    assert files
    for file in files:
        assert main(["compare", str(file), "--plan", "--seeds", "0", "--out", str(tmp_path / "out")]) == 0
        assert "training steps instead of" in capsys.readouterr().out


def test_pairs_of_several_data_sets_are_pooled_and_missing_runs_left_out():
    def run(data, arm, seed, miou):
        return {"data": data, "arm": arm, "seed": seed, "stages": [{"stage": "round 0", "fraction": 0.1, "miou": miou, "iou": {}, "validation": {}}]}

    runs = [run(d, "a", s, 40.0 + s) for d in "xy" for s in range(3)] + [run(d, "b", s, 42.0 + s + (d == "y")) for d in "xy" for s in range(2)]
    rows = {(r.data, r.arm): r for r in compare({"runs": runs, "arms": ["a", "b"], "data": ["x", "y"], "baseline": "a"})}
    assert rows["x", "b"].difference.values == (2.0, 2.0) and rows["y", "b"].difference.mean == 3.0
    assert rows["all", "b"].difference.values == (2.0, 2.0, 3.0, 3.0) and rows["all", "b"].difference.p == 2 / 16
