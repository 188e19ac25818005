"""A run asks its own labels whether the source helps: folds, what is trained, the interval, interruptions, the command."""
import hashlib
import json
import math
import shlex

import pytest
import torch

import stal_nb.source_trial as module
from stal_nb.cli import main
from stal_nb.labels import IGNORE
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError
from stal_nb.source_trial import folds_of, source_trial, stored_trial, trial_config, trial_difference, trial_words
from tiny import tiny


@pytest.mark.parametrize("changes", [
    {"domain_batchnorm": True}, {"translation": "fourier"}, {"source_free": True}, {"two_strong_views": True}, {"source_share": [0.5, 0.0]},
    {"budget_unit": "regions", "first_strategy": "random_regions", "strategy": "ripu_regions"}, {"round_steps": (), "round_epochs": (1.0, 1.0)}])
def test_runs_of_any_kind_can_be_asked(changes):
    for source in (True, False):
        config = trial_config(tiny(**changes), 5, source)
        assert config.round_steps == (5,) and not config.round_epochs and config.budget_unit == "images" and not config.source_free


@pytest.fixture
def run(tmp_path):
    "Four labelled images after the first round."
    run = Run.create(tiny(budgets=(4, 5), round_steps=(2, 2), source_steps=1, eval_student=False, annotator="oracle"), tmp_path / "run")
    run.bar = False
    while run.stage != "round 1: query":
        run.advance()
    return run


def files(folder):
    "What a run consists of, by content."
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*"))
            if f.is_file() and "source_trial" not in str(f) and not f.name.startswith(".")}


@pytest.mark.parametrize("images", [2, 5, 17])
@pytest.mark.parametrize("folds", [2, 4, 5])
def test_folds_hold_each_image_once_and_groups_evenly(images, folds):
    group = {f"{'ab'[k % 2]}/{k}": "ab"[k % 2] for k in range(images)}
    if folds > images:
        with pytest.raises(ConfigError, match=f"found {folds} for {images} labelled images"):
            folds_of(group, folds)
        return
    parts = folds_of(group, folds)
    assert sorted(sum(parts, [])) == sorted(group) and parts == folds_of(dict(reversed(group.items())), folds)
    for name in "ab":
        counts = [sum(group[id] == name for id in part) for part in parts]
        assert max(counts) - min(counts) <= 1


def test_both_trainings_differ_in_the_source_alone_and_see_true_labels():
    noisy = tiny(label_jitter=3.0, label_confusion=0.5, split="random", target_split="", lambda_adversarial=0.1, source_batch=2, target_batch=3)
    pair = [trial_config(noisy, 7, source).to_dict() for source in (True, False)]
    assert {name for name in pair[0] if pair[0][name] != pair[1][name]} == {"name", "source_batch", "target_batch"}
    assert [(one["source_batch"], one["target_batch"]) for one in pair] == [(2, 3), (0, 5)]
    for one in pair:
        assert one["round_steps"] == [7] and one["source_steps"] == 0 and one["unlabelled_batch"] == 0 and one["split"] == "own"
        assert one["label_jitter"] == one["label_confusion"] == one["lambda_u"] == one["lambda_adversarial"] == 0


def slow_miou(matrices):
    "Percent; loops over classes."
    total = [[sum(m[i][j] for m in matrices) for j in range(len(matrices[0]))] for i in range(len(matrices[0]))]
    ious = []
    for c in range(len(total)):
        true, claimed = sum(total[c]), sum(row[c] for row in total)
        if true:
            ious.append(total[c][c] / (true + claimed - total[c][c]))
    return 100 * sum(ious) / len(ious)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_interval_is_that_of_leaving_out_one_image_at_a_time(n):
    dice = torch.Generator().manual_seed(n)
    images = {f"i{k}": {name: torch.randint(1, 50, (3, 3), generator=dice).tolist() for name in ("with", "without")} for k in range(n)}
    found = {"images": images, "folds": 2, "steps": 5}
    pick = lambda name, but=None: [image[name] for id, image in images.items() if id != but]  # noqa: E731
    delta = slow_miou(pick("with")) - slow_miou(pick("without"))
    left_out = [slow_miou(pick("with", id)) - slow_miou(pick("without", id)) for id in images]
    pseudo = [delta + (n - 1) * (sum(left_out) / n - one) for one in left_out]
    difference = trial_difference(found)
    assert difference.values == pytest.approx(pseudo) and difference.keys == tuple(images)
    assert difference.mean == pytest.approx(delta)
    spread = (sum((p - sum(pseudo) / n) ** 2 for p in pseudo) / (n - 1) / n) ** 0.5
    from scipy.stats import t

    assert difference.high - difference.mean == pytest.approx(t.ppf(0.975, n - 1) * spread)
    assert f"{delta:+.1f} (95 % interval" in trial_words(found)


def test_words_say_helps_costs_or_nothing():
    def trial(good, bad, n=6):
        right, wrong = [[90, 10], [10, 90]], [[50, 50], [50, 50]]
        return {"images": {str(k): {"with": [[v + k for v in row] for row in (right if good else wrong)],
                                    "without": [[v + k for v in row] for row in (right if bad else wrong)]} for k in range(n)}, "folds": 2, "steps": 1}

    assert "The source helps" in trial_words(trial(True, False))
    assert "The source costs" in trial_words(trial(False, True)) and 'source = "none"' in trial_words(trial(False, True))
    assert "No difference shown" in trial_words(trial(True, True))
    assert "no interval" in trial_words(trial(True, False, n=1))
    half = trial(True, False)
    half["images"]["5"].pop("without")  # interrupted: an image that was measured once is no pair
    assert trial_words(half).startswith("5 labelled images")
    assert math.isnan(trial_difference({"images": {}}).mean)


def test_a_trial_measures_each_labelled_image_twice_and_leaves_the_run_as_it_is(run):
    before = files(run.path)
    found = source_trial(run, folds=2, steps=2)
    assert sorted(found["images"]) == run.labelled_ids() and found["folds"] == 2 and found["seconds"] > 0
    for id, image in found["images"].items():
        pixels = int((run.store.load(id) != IGNORE).sum())
        assert all(sum(map(sum, image[name])) == pixels for name in ("with", "without"))
    assert files(run.path) == before and not (run.path / "source_trial").exists()
    assert stored_trial(run.path / "source_trial.json") == found


def test_an_image_is_measured_by_networks_that_have_not_seen_it(run, monkeypatch):
    seen = []
    create = Run.create

    def watched(config, folder, source, target):
        seen.append((config.name, frozenset(target.ids)))
        return create(config, folder, source, target)

    monkeypatch.setattr(module.Run, "create", watched)
    found = source_trial(run, folds=2, steps=1)
    assert len(seen) == 4
    parts = {ids for _, ids in seen}
    assert len(parts) == 2 and frozenset.union(*parts) == frozenset(found["images"]) and not frozenset.intersection(*parts)


def test_interrupted_it_goes_on_and_with_another_label_it_begins_anew(run, monkeypatch):
    trained = []
    measure = module._measure_fold

    def stops(*arguments):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(arguments[1].name)
        return measure(*arguments)

    monkeypatch.setattr(module, "_measure_fold", stops)
    with pytest.raises(KeyboardInterrupt):
        source_trial(run, folds=2, steps=1)
    monkeypatch.setattr(module, "_measure_fold", lambda *a: (trained.append(a[1].name), measure(*a))[1])
    found = source_trial(run, folds=2, steps=1)
    assert trained == ["0-with", "0-without", "1-with", "1-without"] and all(len(image) == 2 for image in found["images"].values())
    assert source_trial(run, folds=2, steps=1) == found and len(trained) == 4  # nothing left to do
    id = run.labelled_ids()[0]
    run.store.save(id, run.store.load(id).roll(5, 1), annotator="corrected", seconds=1.0)
    again = source_trial(run, folds=2, steps=1)
    assert len(trained) == 8 and again["key"] != found["key"]
    for damage in (b"", b"[]", b"{", json.dumps({"key": again["key"]}).encode()):  # a damaged file is no result
        (run.path / "source_trial.json").write_bytes(damage)
        assert stored_trial(run.path / "source_trial.json") is None
    assert len(source_trial(run, folds=2, steps=1)["images"]) == 4 and len(trained) == 12


def test_what_cannot_be_tried_is_said(tmp_path, run):
    for id in run.labelled_ids()[1:]:  # skipped by a person: nothing can be learnt or measured there
        run.store.save(id, torch.full_like(run.store.load(id), IGNORE), annotator="person", seconds=1.0)
    with pytest.raises(ConfigError, match="found 1 labelled images"):
        source_trial(run)
    alone = Run.create(tiny(source="none", source_batch=0, source_steps=0), tmp_path / "alone")
    with pytest.raises(ConfigError, match="found source = 'none', expected a source to try"):
        source_trial(alone)


def test_command(run, capsys, monkeypatch):
    assert main(["try-source", str(run.path), "--folds", "2", "--steps", "1", "--no-bar"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 labelled images in 2 folds, 1 steps each: mIoU ") and ("The source" in out or "No difference shown" in out)
    assert main(["try-source", str(run.path), "--folds", "1", "--no-bar"]) == 1
    assert "folds: found 1" in capsys.readouterr().err

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stal_nb.cli.source_trial", interrupted)
    typed = ["try-source", str(run.path), "--folds", "3", "--steps", "20", "--no-bar"]
    assert main(typed) == 130
    assert f"Continue with: stal_nb {shlex.join(typed)}\n" in capsys.readouterr().err
