"""A pool that lives: images come, go, break and are replaced while a run waits, and the run's state stays with its image."""
import builtins
import io
import json
import locale
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from stal_nb.cli import main
from stal_nb.config import Config
from stal_nb.data import ImageFolder, write_sample
from stal_nb.labels import CITYSCAPES
from stal_nb.pool import PoolRecord, check_ids, digest_of
from stal_nb.poolstate import InOrder, StageImages, fill, places_in, read_stage_images, rows_for
from stal_nb.run import Run
from stal_nb.runtime.errors import BudgetError, DataError, LabelError, StoreError
from stal_nb.scenes import SceneDataset
from stal_nb.stages import awaited_labels
from tiny import TINY
from together import Command

SHORT = {**TINY, "source_steps": 1, "round_steps": (2, 1), "budgets": (2, 4), "source_images": 4, "checkpoint_every": 1, "eval_student": False}
FOLDER = {**SHORT, "data": "folder", "label_space": "cityscapes", "source": "scenes"}


def camera(root, names, size=(64, 128), seed=0, labels=True):
    "A folder of images, and of labels beside them."
    for sample, name in zip(SceneDataset("real", len(names), size=size, seed=seed), names):
        write_sample(sample._replace(id=name), root / "images", root / "labels" if labels else None, suffix=".jpg")
    return root


def configured(root, **changes):
    return Config.preset("demo", **{**FOLDER, "data_root": str(root), "annotator": "oracle", **changes})


def quiet(run):
    run.bar = False
    return run


@pytest.fixture
def desk(tmp_path):
    return camera(tmp_path / "data", [f"img{k}" for k in range(6)])


def cut(file, keep=0.5):
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * keep)])


def advance_to(run, stage):
    while run.stage != stage:
        run.advance()
    return run


# -- before training -------------------------------------------------------------------------------------------------


def test_a_truncated_image_is_named_and_left_out_before_training(desk, tmp_path, capsys):
    cut(desk / "images/img3.jpg")
    run = quiet(Run.create(configured(desk), tmp_path / "run"))
    told = run.check_files()
    assert "1 image unreadable, left out: 'img3'" in " ".join(told) and str(desk / "images/img3.jpg") in " ".join(told)
    assert "img3.jpg" in capsys.readouterr().out and run.stage == "source"
    assert run.data.target.ids == ["img0", "img1", "img2", "img4", "img5"]
    rows = (tmp_path / "run/pool.csv").read_text(encoding="utf-8")
    assert "img3.jpg" in rows and rows.count("\n") == 7


def test_broken_files_are_refused_by_setting_and_by_number(desk, tmp_path):
    cut(desk / "images/img3.jpg")
    with pytest.raises(DataError, match="found 1 of 6 images that cannot be used, expected none"):
        quiet(Run.create(configured(desk, bad_files="stop"), tmp_path / "stop")).advance()
    for k in range(4):
        cut(desk / f"images/img{k}.jpg", 0.2)
    with pytest.raises(DataError, match="4 of 6 images that cannot be used, expected at most half"):
        quiet(Run.create(configured(desk), tmp_path / "half")).advance()
    assert not (tmp_path / "half/source/metrics.json").exists()


def test_a_broken_label_counts_where_it_is_needed_and_a_wrong_class_is_refused(desk, tmp_path):
    cut(desk / "labels/img1.png")
    run = quiet(Run.create(configured(desk), tmp_path / "oracle"))
    run.check_files()
    assert "img1" not in run.data.target.ids
    person = quiet(Run.create(configured(desk, annotator="person"), tmp_path / "person"))
    person.check_files()
    assert "img1" in person.data.target.ids
    Image.new("L", (128, 64), 77).save(desk / "labels/img2.png")
    with pytest.raises(LabelError, match="img2.png: found class id 77"):
        quiet(Run.create(configured(desk), tmp_path / "wrong")).advance()


def test_a_name_that_windows_does_not_have_is_left_out_by_name(desk, tmp_path):
    shutil.copy(desk / "images/img0.jpg", desk / "images/aux.jpg")
    shutil.copy(desk / "labels/img0.png", desk / "labels/aux.png")
    run = quiet(Run.create(configured(desk), tmp_path / "run"))
    assert "'aux' is a device" in " ".join(run.check_files()) and "aux" not in run.data.target.ids


def test_files_are_opened_once(desk, tmp_path, monkeypatch):
    run = quiet(Run.create(configured(desk), tmp_path / "run"))
    run.check_files()
    monkeypatch.setattr("stal_nb.pool.load_image", lambda *_: pytest.fail("decoded again"))
    assert quiet(Run.open(tmp_path / "run")).check_files() == []
    os.utime(desk / "images/img0.jpg", (1, 1))  # copied, not changed
    assert quiet(Run.open(tmp_path / "run")).check_files() == []
    assert PoolRecord(tmp_path / "run/pool.csv").rows["target", "img0"].modified == 10**9


def test_a_check_that_is_killed_keeps_what_it_has_seen(desk, tmp_path, monkeypatch):
    import stal_nb.pool as pool

    look, seen = pool.look_at, []

    def killed(dataset, index, *rest):
        seen.append(dataset.ids[index])
        if dataset.ids[index] == "img4":
            raise KeyboardInterrupt
        return look(dataset, index, *rest)

    monkeypatch.setattr(pool, "look_at", killed)
    with pytest.raises(KeyboardInterrupt):
        quiet(Run.create(configured(desk), tmp_path / "run")).check_files()
    monkeypatch.setattr(pool, "look_at", lambda dataset, index, *rest: seen.append(dataset.ids[index]) or look(dataset, index, *rest))
    seen.clear()
    run = quiet(Run.open(tmp_path / "run"))
    run.check_files()
    assert set(seen) == {"img4", "img5"} and len(run.data.target) == 6


def test_a_damaged_record_costs_a_second_look_and_nothing_else(desk, tmp_path):
    run = quiet(Run.create(configured(desk), tmp_path / "run"))
    run.check_files()
    for junk in (b"", b"\xff\xfe\x00", b"part,id\ntarget,img0\n"):
        (tmp_path / "run/pool.csv").write_bytes(junk)
        again = quiet(Run.open(tmp_path / "run"))
        again.check_files()
        assert len(again.data.target) == 6 and len(PoolRecord(tmp_path / "run/pool.csv").rows) == 6


# -- while a run waits -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_come_and_go_between_and_inside_of_stages(desk, tmp_path):
    "Through the command line: two stops, between them images that sort before all others, one that is gone, one that broke."
    words = [f"--set={key}={json.dumps(value)}" for key, value in {**FOLDER, "round_steps": [2, 2]}.items() if key != "data"]
    arguments = ["run", "--out", str(tmp_path / "run"), "--root", str(desk), "--set=data=folder", *words, "--no-bar"]
    advance_to(quiet(Run.create(configured(desk, round_steps=(2, 2)), tmp_path / "run")), "round 0: train")
    first = json.loads((tmp_path / "run/rounds/00/query.json").read_text(encoding="utf-8"))["ids"]
    others = [f"img{k}" for k in range(6) if f"img{k}" not in first]
    camera(desk, ["aaa", "img2b"], seed=9)
    (desk / f"images/{others[0]}.jpg").unlink()
    cut(desk / f"images/{others[1]}.jpg")
    assert main(arguments) == 0
    run = Run.open(tmp_path / "run")
    scored = [row.split(",")[0] for row in (tmp_path / "run/rounds/01/scores.csv").read_text(encoding="utf-8").split()[1:]]
    assert set(scored) == {"aaa", "img2b", *others[2:]}
    assert not {others[0], others[1]} & set(run.layout.labelled(1)["ids"]) and len(run.layout.labelled(1)["ids"]) == 4
    began = read_stage_images(run.layout.round_folder(0))
    assert "aaa" in began.unlabelled and others[0] not in began.target and began.labelled == sorted(first)
    rows = read_stage_images(run.layout.folder("source"))
    assert rows.target == [f"img{k}" for k in range(6)] and rows.source == run.data.source.ids


@pytest.mark.slow
def test_a_stage_goes_on_with_the_images_it_began_with(desk, tmp_path, monkeypatch):
    "A training that is stopped after a step draws what the unbroken one draws, although the listing is another one."
    import stal_nb.stages as stages

    config = configured(desk, round_steps=(3, 1), plan_every=1)
    whole, split = (advance_to(quiet(Run.create(config, tmp_path / name)), "round 0: train") for name in ("whole", "split"))
    seen = {"whole": [], "split": []}

    def watch(name, stop=None):
        step = stages.Trainer.one_step

        def one_step(self, batch, *more):
            target = self.loader.pools["unlabelled"]
            seen[name].append([target.ids[i] for i in batch["unlabelled_index"].tolist()])
            if stop is not None and len(seen[name]) == stop:
                self.request_stop()
            return step(self, batch, *more)

        monkeypatch.setattr(stages.Trainer, "one_step", one_step)
        return step

    step = watch("whole")
    whole.advance()
    monkeypatch.setattr(stages.Trainer, "one_step", step)
    watch("split", stop=2)
    with pytest.raises(KeyboardInterrupt):
        split.advance()
    monkeypatch.setattr(stages.Trainer, "one_step", step)
    camera(desk, ["aaa"], seed=9)
    watch("split")
    again = quiet(Run.open(tmp_path / "split"))
    again.advance()
    assert seen["split"] == seen["whole"] and again.stage == "round 1: query"
    assert "aaa" in again.data.target.ids and len(again.state_after("round 0").target_table.present) == 6


def test_a_replaced_image_loses_its_label_which_is_kept(desk, tmp_path):
    run = advance_to(quiet(Run.create(configured(desk), tmp_path / "run")), "round 0: train")
    first, second = run.layout.labelled(0)["ids"]
    (desk / f"images/{second}.jpg").touch()
    camera(desk, [first], seed=77, labels=False)
    again = quiet(Run.open(tmp_path / "run"))
    told = " ".join(again.check_files())
    assert f"1 image replaced: '{first}'" in told and f"the label of '{first}' is set aside" in told
    assert not again.store.has(first) and again.store.has(second)
    assert again.acquired(1) == {second: None} and again.wanted(1, "images") == 3
    again.advance()  # trains with the one that is left
    assert read_stage_images(again.layout.round_folder(0)).labelled == [second]
    old = again.store.restore(first, 1)
    assert old["version"] == 2 and quiet(Run.open(tmp_path / "run")).check_files() == [] and again.store.has(first)


def test_a_kill_between_record_and_label_changes_nothing(desk, tmp_path, monkeypatch):
    run = advance_to(quiet(Run.create(configured(desk), tmp_path / "run")), "round 0: train")
    first = run.layout.labelled(0)["ids"][0]
    camera(desk, [first], seed=77, labels=False)
    for place in ("stal_nb.poolstate.set_labels_aside", "stal_nb.store.files.append_line"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                quiet(Run.open(tmp_path / "run")).check_files()
    again = quiet(Run.open(tmp_path / "run"))
    again.check_files()
    assert not again.store.has(first) and again.store.kept.last_set_aside(first) == 1
    new = again.store.save(first, torch.zeros(64, 128, dtype=torch.int64))
    assert new["version"] == 2
    quiet(Run.open(tmp_path / "run")).check_files()
    assert again.store.has(first), "a label of the new image stays"
    assert torch.equal(again.store.load(first, 1), run.store.load(first, 1))


def test_a_queried_image_that_is_gone_is_not_waited_for(desk, tmp_path):
    run = advance_to(quiet(Run.create(configured(desk, annotator="person"), tmp_path / "run")), "round 0: label")
    first, second = run.layout.query(0)["ids"]
    (desk / f"images/{first}.jpg").unlink()
    again = quiet(Run.open(tmp_path / "run"))
    again.check_files()
    assert awaited_labels(again, 0) == [second] and again.awaiting == [second]
    again.store.save(second, torch.zeros(64, 128, dtype=torch.int64))
    assert again.advance() == "round 0: train" and again.layout.labelled(0)["ids"] == [second]
    assert again.wanted(1, "images") == 3, "an image that nobody labelled costs nothing"


def test_scores_of_a_replaced_image_are_forgotten(desk, tmp_path):
    run = advance_to(quiet(Run.create(configured(desk, first_strategy="entropy", eval_batch=1), tmp_path / "run")), "round 0: query")
    folder = run.layout.round_folder(0)
    folder.mkdir(parents=True)
    rows = "id,group,entropy\n" + "".join(f"img{k},,{9 - k}.0\n" for k in range(4))
    (folder / "scores.part-0.csv").write_text(rows, encoding="utf-8")
    camera(desk, ["img0"], seed=77)
    (desk / "images/img1.jpg").unlink()
    again = quiet(Run.open(tmp_path / "run"))
    again.advance()
    scores = {row["id"]: float(row["entropy"]) for row in
              (dict(zip(("id", "group", "entropy"), line.split(","))) for line in (folder / "scores.csv").read_text(encoding="utf-8").split()[1:])}
    assert set(scores) == {"img0", "img2", "img3", "img4", "img5"} and scores["img2"] == 7.0 and scores["img0"] < 5
    assert again.layout.query(0)["ids"] == ["img2", "img3"]


def test_a_pool_that_shrank_does_not_end_a_run(desk, tmp_path):
    advance_to(quiet(Run.create(configured(desk, budgets=(2, 6)), tmp_path / "run")), "round 0: query")
    with pytest.raises(BudgetError, match="found 7 images, expected at most the 6"):
        Run.create(configured(desk, budgets=(2, 7)), tmp_path / "impossible")
    (desk / "images/img0.jpg").unlink()
    again = quiet(Run.open(tmp_path / "run"))
    again.check_files()
    assert again.budgets == (2, 5)


def test_runs_of_before_open_and_go_on(desk, tmp_path):
    "Without pool.csv, places.json and images.json, and with a relative root."
    run = advance_to(quiet(Run.create(configured(desk), tmp_path / "runs/mine")), "round 0: query")
    for file in ("pool.csv", "places.json", "source/images.json"):
        (run.path / file).unlink()
    config = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
    config["data_root"] = "data"
    del config["bad_files"]
    (run.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    camera(desk, ["aaa"], seed=9)
    again = quiet(Run.open(run.path))
    assert again.config.data_root == str(desk)
    advance_to(again, "round 1: query")
    assert len(again.data.target) == 7 and (run.path / "places.json").exists()


# -- budgets and sizes -----------------------------------------------------------------------------------------------


def test_budgets_count_the_real_sizes(tmp_path):
    root = camera(tmp_path / "data", ["large"], size=(128, 256))
    camera(root, ["small1", "small2", "small3"], size=(32, 64), seed=1)
    pixels = 128 * 256 + 3 * 32 * 64
    run = quiet(Run.create(configured(root, budget_unit="pixels", budgets=(0.5, 1.0), strategy="ripu_regions"), tmp_path / "run"))
    assert run.budgets == (pixels // 2, pixels) and run.budget.pool_pixels == pixels
    assert run.budget.cost({"large": None}) == 128 * 256 and run.budget.cost({"small1": None}) == 32 * 64
    with pytest.raises(BudgetError, match=f"found {pixels + 1} pixels, expected at most the {pixels} pixels"):
        Run.create(configured(root, budget_unit="pixels", budgets=(1, pixels + 1)), tmp_path / "more")
    advance_to(run, "round 0: label")
    query = run.layout.query(0)
    assert query["pixels"] == sum(run.budget.pixels_of(id) for id in query["ids"]) <= pixels // 2


# -- split lists and labels on disk ----------------------------------------------------------------------------------


def test_a_split_is_applied_before_labels_are_asked_for(desk, tmp_path):
    (desk / "labels/img5.png").unlink()
    (tmp_path / "split.txt").write_text("images\\img0.jpg\nimages/img1.jpg\nimg2\n", encoding="utf-8")
    run = quiet(Run.create(configured(desk, target_split=str(tmp_path / "split.txt"), budgets=(1, 2)), tmp_path / "run"))
    assert run.data.target.ids == ["img0", "img1", "img2"]
    run.check_files()
    (desk / "images/img1.jpg").unlink()
    again = quiet(Run.open(tmp_path / "run"))
    assert "missing, left out: 'img1'" in " ".join(again.check_files()) and again.data.target.ids == ["img0", "img2"]


def test_a_person_takes_over_labels_that_some_images_have(desk, tmp_path):
    for k in (0, 2, 3, 4):
        (desk / f"labels/img{k}.png").unlink()
    run = quiet(Run.create(configured(desk, annotator="person", budgets=(3, 4)), tmp_path / "run"))
    assert "2 label files adopted" in " ".join(run.check_files()) and run.store.ids() == ["img1", "img5"]
    assert run.wanted(0, "images") == 1 and run.store.provenance("img1")[0]["annotator"] == "label file"
    assert "adopted" not in " ".join(quiet(Run.open(tmp_path / "run")).check_files())


def test_labels_that_all_images_have_when_a_run_begins_are_left_alone_for_good(desk, tmp_path, capsys):
    run = quiet(Run.create(configured(desk, annotator="person", budgets=(3, 4)), tmp_path / "run"))
    assert "all 6 images have a label file; you label them anew" in " ".join(run.check_files())
    camera(desk, ["new"], seed=9)
    (desk / "labels/new.png").unlink(missing_ok=True)
    told = " ".join(quiet(Run.open(tmp_path / "run")).check_files())
    assert "1 image added: 'new'" in told and "adopted" not in told and not run.store.ids()


def test_labels_that_come_later_for_all_images_are_adopted(desk, tmp_path):
    away = tmp_path / "away"
    shutil.move(desk / "labels", away)
    run = quiet(Run.create(configured(desk, annotator="person", budgets=(3, 4)), tmp_path / "run"))
    run.check_files()
    shutil.move(away, desk / "labels")
    assert "6 label files adopted" in " ".join(quiet(Run.open(tmp_path / "run")).check_files())


# -- pieces ----------------------------------------------------------------------------------------------------------


def test_places_and_rows():
    assert fill([3, 1, 2], [False, True, True]) == [1, 1, 2] and fill([3, 1, 2], [True, True, False]) == [3, 1, 3] and fill([], []) == []
    stage = StageImages(["s"], ["a", "b", "c"], ["b"], ["a", "c"])
    assert places_in(stage, {"a", "b", "c"}, {"b"}) == ([1], [0, 2]) and places_in(stage, {"a"}, {"b"}) == ([], [0, 0])
    table = torch.tensor([[True, False], [False, True]])
    assert rows_for(table, ["a", "b"], ["a", "b"]) is table and rows_for(table, None, ["x", "y"]) is table
    assert torch.equal(rows_for(table, ["a", "b"], ["b", "n", "a"]), torch.tensor([[False, True], [False, False], [True, False]]))
    assert not rows_for(table, None, ["x"]).any()
    scenes = SceneDataset("real", 3, size=(32, 64))
    view = InOrder(scenes, [scenes.ids[2], "gone", scenes.ids[0]])
    assert view.ids == [scenes.ids[2], scenes.ids[0], scenes.ids[0]] and view[1].id == scenes.ids[0]
    with pytest.raises(DataError, match="found none of 1, 'gone' first"):
        InOrder(scenes, ["gone"])


def test_damaged_lists_and_ids_given_twice(tmp_path):
    (tmp_path / "images.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StoreError, match="images.json: found a damaged file"):
        read_stage_images(tmp_path)
    with pytest.raises(DataError, match="found 'a' for two images"):
        check_ids(["a", "b", "a"])
    assert "differ in upper and lower case alone" in check_ids(["Street", "street"])
    assert digest_of(tmp_path / "images.json") != ""


# -- any machine -----------------------------------------------------------------------------------------------------


NAMES = ["거리/한국1", "거리/한국2", "größe/straße1", "größe/straße2", "Üb/é", "plain"]


def korean_windows():
    "From now on, text files that the package opens without saying their encoding are in that of Korea."
    opened, read = io.open, Path.read_text
    locale.getpreferredencoding = lambda *_: "cp949"
    locale.getencoding = lambda: "cp949"
    sys.stdout.reconfigure(encoding="cp949")

    def open_(file, mode="r", buffering=-1, encoding=None, *more, **options):
        if "b" not in mode and encoding in (None, "locale") and "stal_nb" in sys._getframe(1).f_globals.get("__name__", ""):
            encoding = "cp949"
        return opened(file, mode, buffering, encoding, *more, **options)

    builtins.open = io.open = open_
    Path.read_text = lambda self, encoding=None, errors=None: read(self, encoding or "cp949", errors)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["C", "cp949"])
def test_the_loop_on_a_system_of_another_encoding(tmp_path, encoding):
    "From the command line. `C`: no locale at all. `cp949`: as on Korean Windows, whose files are not UTF-8 but whose names are."
    root = camera(tmp_path / "Döner", NAMES)
    (tmp_path / "목록.txt").write_text("\ufeff" + "\n".join(f"images/{name}.jpg" for name in NAMES), encoding="utf-8")
    words = [f"--set={key}={json.dumps(value)}" for key, value in {**FOLDER, "round_steps": [1, 1]}.items() if key not in ("data", "weights")]
    arguments = ["run", "--out", str(tmp_path / "läuft"), "--root", str(root), "--set=data=folder", "--set=weights=null", "--set=annotator=oracle",
                 "--set=name=größer", f"--set=target_split={tmp_path / '목록.txt'}", *words, "--no-bar"]
    if encoding == "C":
        environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        done = subprocess.run([sys.executable, "-m", "stal_nb", *arguments], capture_output=True, env=environment, timeout=300)
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]
    else:
        command = Command(*arguments, told=tmp_path / "told", before=korean_windows)
        assert command.wait() == 0, command.told.read_bytes().decode(errors="replace")[-2000:]
    run = Run.open(tmp_path / "läuft")
    assert run.config.name == "größer" and run.stage is None and set(run.store.ids()) <= set(NAMES) and len(run.store.ids()) == 4
    rows = (tmp_path / "läuft/rounds/00/scores.csv").read_text(encoding="utf-8")
    assert all(name in rows for name in NAMES)
    assert (tmp_path / "läuft/labels" / f"{run.store.ids()[0]}.png").exists()


def test_names_match_in_both_forms_of_unicode(tmp_path):
    "Images from a camera (NFC), labels from a Mac (NFD), a split list from either, and a store that was written with the other form."
    root, apart = camera(tmp_path / "data", NAMES), lambda text: unicodedata.normalize("NFD", text)
    shutil.copytree(root / "labels", tmp_path / "copy")
    shutil.rmtree(root / "labels")
    for name in NAMES:
        target = root / "labels" / apart(f"{name}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "copy" / f"{name}.png", target)
    (tmp_path / "split.txt").write_text("\n".join(apart(f"{name}.jpg") for name in NAMES[:5]), encoding="utf-8")
    run = quiet(Run.create(configured(root, target_split=str(tmp_path / "split.txt"), budgets=(2, 3)), tmp_path / "run"))
    assert set(run.data.target.ids) == set(NAMES[:5])
    advance_to(run, "round 0: train")
    for file in (run.path / "labels").rglob("*.png"):
        if not file.relative_to(run.path).as_posix().isascii() and ".versions" not in file.parts:
            other = run.path / apart(file.relative_to(run.path).as_posix())
            other.parent.mkdir(parents=True, exist_ok=True)
            file.rename(other)
    query = run.layout.round_folder(0) / "query.json"
    query.write_text(apart(query.read_text(encoding="utf-8")), encoding="utf-8")
    again = quiet(Run.open(run.path))
    ids = again.layout.labelled(0)["ids"]
    assert again.store.ids() == ids and all(again.store.has(id) and again.store.versions(id)[-1]["version"] == 1 for id in ids)
    assert again.acquired(1) == dict.fromkeys(ids)
    assert again.store.save(ids[0], again.store.load(ids[0]))["version"] == 2 and len(again.store.ids()) == 2


def test_a_run_opens_from_any_folder_and_after_a_move(tmp_path, monkeypatch):
    camera(tmp_path / "here/data", [f"img{k}" for k in range(6)])
    monkeypatch.chdir(tmp_path / "here")
    run = advance_to(quiet(Run.create(configured("data"), "runs/mine")), "round 0: query")
    assert run.config.data_root == str(tmp_path / "here/data")
    assert json.loads((tmp_path / "here/runs/mine/places.json").read_text(encoding="utf-8")) == {"data_root": "../../data"}
    monkeypatch.chdir("/")
    assert len(Run.open(tmp_path / "here/runs/mine").data.target) == 6
    (tmp_path / "here").rename(tmp_path / "there")
    again = quiet(Run.open(tmp_path / "there/runs/mine"))
    assert again.config.data_root == str(tmp_path / "there/data")
    assert again.advance() == "round 0: label"
    same = Run.create(configured(tmp_path / "there/data"), tmp_path / "there/runs/mine")
    assert same.stage == "round 0: label"
    shutil.rmtree(tmp_path / "there/data")
    alone = Run.open(tmp_path / "there/runs/mine")
    assert not alone.model_after("source").training, "to look at the network needs the run alone"
    with pytest.raises(DataError, match="there/data|here/data"):
        alone.advance()


def test_predict_needs_the_run_alone(tmp_path, capsys):
    root = camera(tmp_path / "data", [f"img{k}" for k in range(6)])
    given = ImageFolder(root / "images", root / "labels", CITYSCAPES)
    run = quiet(Run.create(Config.preset("demo", **{**SHORT, "data": "scenes"}), tmp_path / "run", target=given))
    run.advance()
    shutil.copytree(root / "images", tmp_path / "photos")
    shutil.rmtree(root)
    monkey = tmp_path / "moved"
    (tmp_path / "run").rename(monkey)
    assert main(["predict", str(monkey), str(tmp_path / "photos"), str(tmp_path / "out"), "--no-bar"]) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
