"""The proxy from the command line, its cells, and the page of an experiment."""
import json

import pytest
import torch
from torch.nn import functional as F

from stal_nb.app.experiment_page import write_experiment_page
from stal_nb.cli import main
from stal_nb.experiments import Experiment
from stal_nb.proxy import CellFeatures, agreement, cell_counts, cell_miou, draw, fit_head, proxy_arms
from stal_nb.runtime.errors import ConfigError
from tests.tiny import tiny

SCENES = """
baseline = "random"
[base]
preset = "demo"
image_size = [64, 128]
target_images = 14
val_images = 5
budgets = [3, 6]
[arms.entropy]
strategy = "entropy"
[arms.random]
strategy = "random"
[arms.core_set]
strategy = "core_set"
[arms."other loss"]
lambda_u = 0.0
[arms.bald]
strategy = "bald"
"""


def test_every_labelled_pixel_is_counted_once_whatever_the_sizes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (37, 53), generator=generator)
    labels[labels == 3] = 255
    counts = cell_counts(labels, (3, 4), 3)
    assert counts.shape == (12, 3) and counts.sum(0).tolist() == [int((labels == c).sum()) for c in range(3)]
    corner = labels[:13, :14]  # rows with 3 y // 37 = 0, columns with 4 x // 53 = 0
    assert counts[0].tolist() == [int((corner == c).sum()) for c in range(3)]


def test_a_head_that_knows_all_is_perfect_and_each_pixel_gets_the_class_of_its_cell():
    cells = F.one_hot(torch.arange(6) % 3, 3).view(1, 6, 3).half()
    counts = (F.one_hot(torch.arange(6) % 3, 3) * 10).view(1, 6, 3)
    head = fit_head(cells[0], counts[0], torch.zeros(3), torch.ones(3), penalty=1e-6)
    assert cell_miou(head, cells, counts) == 100
    mixed = counts.clone()
    mixed[0, 0] = torch.tensor([5, 5, 0])  # half of the first cell is of class 1, and all of it is predicted as class 0
    assert cell_miou(head, cells, mixed) == pytest.approx(100 * (15 / 20 + 20 / 25 + 1) / 3)  # intersection over union by hand


def test_uncertainty_of_the_head_leads_to_what_it_does_not_know():
    "Two kinds of images of clear classes and one that looks like both: entropy asks for that one."
    clear = F.one_hot(torch.tensor([0, 1] * 8), 2).float()
    images = torch.stack([clear] * 8 + [torch.full((16, 2), 0.5)])
    counts = torch.stack([(clear * 9).int()] * 9)
    ids = [f"i{k}" for k in range(9)]
    pool = CellFeatures(ids, ["g"] * 9, images.half(), counts, (4, 4))
    seeds = [seed for seed in range(6) if "i8" not in draw(pool, pool, tiny(seed=seed, strategy="random"), (2,))[0]["ids"]]
    found = [draw(pool, pool, tiny(seed=seed, strategy="entropy"), (2, 3))[1]["ids"] for seed in seeds]
    assert seeds and all(some[-1] == "i8" for some in found)


def test_strategies_are_ranked_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SCENES)
    assert [arm.name for arm in proxy_arms(Experiment.read("small.toml"))] == ["entropy", "random", "core_set"]
    assert main(["compare", "small.toml", "--proxy", "2", "--no-bar"]) == 0
    said, results = capsys.readouterr().out, json.loads((tmp_path / "runs/small/proxy.json").read_text())
    assert "data: 0 arms with full runs; a rank correlation needs at least three" in said and "acquired" in said
    first = {run["arm"]: run["stages"][0]["ids"] for run in results["runs"] if run["seed"] == 0}
    assert len({tuple(ids) for ids in first.values()}) == 1, "the same first query for all"
    caches = list((tmp_path / "runs/small/proxy/data").iterdir())
    times = [file.stat().st_mtime_ns for file in caches]
    assert len(caches) == 2 and main(["compare", "small.toml", "--proxy", "1", "--no-bar"]) == 0
    assert [file.stat().st_mtime_ns for file in caches] == times
    again = json.loads((tmp_path / "runs/small/proxy.json").read_text())
    assert again["runs"] == [run for run in results["runs"] if run["seed"] == 0]
    rho, arms = agreement(results, results)["data"]
    assert arms == 3 and (rho == pytest.approx(1) or rho != rho)


def test_an_experiment_without_strategies_has_no_proxy(tmp_path):
    file = tmp_path / "losses.toml"
    file.write_text("[arms.a]\nlambda_u = 0.0\n[arms.b]\nrecipe = 'all labels'")
    with pytest.raises(ConfigError, match="found none that the proxy knows"):
        proxy_arms(Experiment.read(file))


def test_the_page_escapes_names_and_says_nothing_of_a_single_pair(tmp_path):
    def run(arm, miou):
        stage = {"stage": "round 0", "labelled": 4, "fraction": 0.1, "miou": miou, "iou": {"road": miou}, "validation": {}}
        return {"data": "d", "arm": arm, "seed": 0, "stages": [stage], "seconds": 5, "acquired": {"ids": [], "pool_groups": {}}}

    wicked = "<script>alert(1)</script>"
    results = {"name": wicked, "baseline": "a", "arms": ["a", wicked], "data": ["d"], "seeds": [0], "failed": {"d/x/seed-0": wicked},
               "runs": [run("a", 40.0), run(wicked, 50.0)]}
    page = write_experiment_page(results, tmp_path / "page.html").read_text().split("</head>")[-1].split("<body>")[-1]
    assert "&lt;script&gt;alert(1)" in page and wicked not in page
    assert "no interval: fewer than two pairs" in page and ">higher<" not in page
    empty = write_experiment_page({**results, "runs": [], "failed": {}}, tmp_path / "empty.html").read_text()
    assert "0 runs finished" in empty
