"""Settings from the command line, from keywords and from files: what is wrong is told by name, found and expected."""
import json
import random
from dataclasses import fields

import pytest

from stal_nb.cli import configured, main, parser
from stal_nb.config import PRESETS, Config
from stal_nb.runtime.errors import ConfigError, DataError, StalError

NAMES = [one.name for one in fields(Config)]
VALUES = [None, True, False, 0, 1, -1, 64, 2**70, 10**400, 10**5000, 0.0, 0.5, -0.5, 1.5, float("nan"), float("inf"), "", "fast", "none",
          "folder", "\0", "a/../b", "ü\ud800", [], [1], [0], [64, 64], [64, 64, 64], [[1]], ["a"], [None], [0.1, 0.3], {}, {"a": 1}, {"a": "b"},
          {1: 2}, b"x", object, (1, 2), {1, 2}, 1 + 2j, "a" * 300]


def settings(rng):
    names = [*NAMES, "lernrate", "", "validation", 3]
    return {rng.choice(names): rng.choice(VALUES) for _ in range(rng.choice([1, 1, 1, 2, 3]))}


def test_a_thousand_settings_are_taken_or_refused_by_name():
    rng, taken = random.Random(14), 0
    for _ in range(1000):
        values = settings(rng)
        try:
            config = Config.from_dict({**PRESETS[rng.choice(list(PRESETS))], **values})
            assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
            hash(config)
            taken += 1
        except ConfigError as error:
            name = str(error).partition(":")[0]
            assert ": found " in str(error) and ", expected " in str(error) and len(str(error)) < 4000, error
            assert name.split(",")[0] in {*NAMES, "configuration"}, error
    assert 20 < taken < 900


@pytest.mark.parametrize("text, words", [
    ("image_size=64", "image_size: found 64, expected 2 whole numbers, 16 or more"), ("lr=fast", "lr: found 'fast', expected a number above 0"),
    ("weights=true", "weights: found True, expected null or a text"), ("target_images=0", "target_images: found 0, expected a whole number, 1 or more"),
    ("source_images=0", "source_images: found 0, expected 1 to 1,000,000 scenes"), ("crop_size=1,1", r"crop_size: found \[1, 1\], expected 2 whole"),
    ("seed=99999999999999999999", "seed: found 99999999999999999999, expected a whole number from 0 to"), (f"lr={'9' * 5000}", "lr: found"),
    ("lr=" + "[" * 5000, r"lr: found '\[\["), ("lr=", "lr: found '', expected"), ("validation=day", "validation: found 'day', expected a table, name = text"),
    ('validation={"day": 3}', "validation: found {'day': 3}"), ("lernrate=1", "configuration: found unknown setting lernrate"),
    ("data_root=\0", r"data_root: found '\\x00'"), ("device=meta", "device: found 'meta'"), ("device=cpu:99", "device: found 'cpu:99'")])
def test_a_setting_of_a_command_line_is_refused_by_name(text, words, tmp_path, capsys):
    assert main(["run", "--set", text, "--out", str(tmp_path / "run"), "--no-bar"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and not (tmp_path / "run").exists()
    with pytest.raises(StalError, match=words):
        raise StalError(said)


def test_a_thousand_files_are_taken_or_refused_by_file_and_name(tmp_path):
    rng, file, taken = random.Random(14), tmp_path / "stal.toml", 0
    words = [f"{name} = " for name in NAMES] + ["preset = ", "[data]", "[validation]", "[a.b]", "[[a]]", "# ", "= "]
    values = ["1", "-1", "0.5", "nan", "true", '"folder"', '"demo"', '"a/b"', "[1, 2]", "[0.1, 0.2]", "{day = \"x\"}", "1979-05-27", "[", '"', "9" * 5000, "ü"]
    for _ in range(1000):
        lines = [rng.choice(words) + rng.choice(values) * (rng.random() < 0.9) for _ in range(rng.randint(0, 3))]
        file.write_text("\n".join(lines), encoding="utf-8")
        try:
            Config.from_file(file)
            taken += 1
        except ConfigError as error:
            assert str(error).startswith(f"{file}: ") and "found" in str(error) and "expected" in str(error), error
    assert 20 < taken < 900


def toml(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stal.toml").write_text(text, encoding="utf-8")
    return folder / "stal.toml"


FILE = """
preset = "folder"
name = "my camera"
[images]
data_root = "photographs"
source = "none"
target_split = "lists/train.txt"
[rounds]
budgets = [4, 8]
round_steps = [3, 2]
[validation]
day = "tests/day"
night = "/elsewhere/night"
"""


def test_a_file_describes_a_run_and_paths_are_relative_to_it(tmp_path, monkeypatch):
    file = toml(tmp_path / "camera", FILE)
    monkeypatch.chdir(tmp_path)
    config = Config.from_file("camera/stal.toml")
    assert (config.name, config.backbone, config.budgets) == ("my camera", PRESETS["folder"]["backbone"], (4, 8))
    assert config.data_root == str(file.parent / "photographs") and config.target_split == str(file.parent / "lists" / "train.txt")
    assert config.validation == {"day": str(file.parent / "tests" / "day"), "night": "/elsewhere/night"}
    assert config.weights == "imagenet" and config.source_root == ""
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_command_line_changes_single_settings_of_a_file(tmp_path, monkeypatch):
    file = toml(tmp_path / "camera", FILE)
    options = parser().parse_args(["plan", "--config", str(file), "--set", "lr=0.5", "--root", "here", "--setting", "ssda"])
    config = configured(options)
    assert (config.lr, config.data_root, config.budgets) == (0.5, "here", (4, 8))
    with pytest.raises(ConfigError, match="--preset: found 'demo' beside --config"):
        configured(parser().parse_args(["run", "--config", str(file), "--preset", "demo"]))
    with pytest.raises(ConfigError, match="^lr: found 'fast'"):  # the file is right
        configured(parser().parse_args(["run", "--config", str(file), "--set", "lr=fast"]))


@pytest.mark.parametrize("text, kind, words", [
    ("lr = 'fast'", ConfigError, "lr: found 'fast', expected a number above 0"),
    ("[a]\nlr = 1\n[b]\nlr = 2", ConfigError, "b: found lr a second time"),
    ("lr = fast", ConfigError, "Invalid value .at line 1"),
    ("preset = 'moon'", ConfigError, "preset: found 'moon'"), ("preset = 3", ConfigError, "preset: found 3"),
    ("[optimiser]\nlernrate = 1", ConfigError, "unknown setting lernrate"), ("[[rounds]]\na = 1", ConfigError, "unknown setting rounds"),
    ("lr = 1\nlr = 2", ConfigError, "found something else"), ("budgets = [1, 2, 3]", ConfigError, "budgets, round_steps: found 3 and 2"),
    ("validation = 'x'", ConfigError, "validation: found"), (None, DataError, "")])
def test_what_is_wrong_in_a_file_is_told_with_its_name(tmp_path, text, kind, words):
    file = toml(tmp_path, text) if text is not None else tmp_path / "missing.toml"
    with pytest.raises(kind, match=f"{file}: .*{words}"):
        Config.from_file(file)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "stal.toml").write_bytes(b"lr = \xff\xfe")
    with pytest.raises(ConfigError, match="stal.toml: found a file that is not UTF-8"):
        Config.from_file(tmp_path / "stal.toml")
    (tmp_path / "stal.toml").write_bytes("\ufefflr = 0.25\r\n".encode())  # an editor's mark and line ends
    assert Config.from_file(tmp_path / "stal.toml").lr == 0.25


