"""A one-sided query is said: groups by exact probabilities, near-duplicates against the pool, dark and blank images."""
import json
from math import comb

import pytest
import torch

from stal_nb.app.report import write_report
from stal_nb.app.run_folder import RunFolder
from stal_nb.app.run_view import last_query
from stal_nb.query_check import duplicate_pairs, group_warnings, query_warnings, tail_probabilities, thumbnails
from stal_nb.run import Run
from stal_nb.scenes import SceneDataset
from tiny import tiny


@pytest.mark.parametrize("n, size, k", [(20, 7, 5), (9, 9, 3), (12, 1, 12), (30, 15, 4)])
def test_tails_are_exact(n, size, k):
    for x in range(max(0, k - (n - size)), min(k, size) + 1):
        p = {i: comb(size, i) * comb(n - size, k - i) / comb(n, k) for i in range(min(k, size) + 1) if k - i <= n - size}
        few, many = tail_probabilities(x, k, size, n)
        assert few == pytest.approx(sum(v for i, v in p.items() if i <= x)) and many == pytest.approx(sum(v for i, v in p.items() if i >= x))


def test_chance_is_seldom_warned_of():
    pool = ["a"] * 60 + ["b"] * 100 + ["c"] * 200
    order = [torch.randperm(360, generator=torch.Generator().manual_seed(s))[:18].tolist() for s in range(400)]
    assert sum(bool(group_warnings([pool[i] for i in some], pool)) for some in order) / 400 < 0.05


def test_a_large_pool_is_judged_in_floats():
    assert 0 < tail_probabilities(600, 5000, 10_000, 100_000)[1] < 1e-4
    (text,) = group_warnings(["a"] * 4, ["a"] * 10 + ["b"] * 190)[:1]
    assert text.startswith("4 of 4 images are of group 'a', which has 5% of the pool: as many by chance in 0.0% of all draws")


def test_copies_are_found_in_any_pool_and_neighbours_of_a_film():
    apart = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    assert duplicate_pairs(apart, range(0, 200, 10)) == []
    twice = torch.cat([apart, apart[7:8] + 1e-3])
    assert duplicate_pairs(twice, [3, 7, 90, 200]) == [(7, 200)]
    film = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)).cumsum(0)
    assert duplicate_pairs(film, range(0, 300, 50)) == []
    assert all(abs(a - b) <= 2 for a, b in duplicate_pairs(film, [10, 11, 100, 200]))
    assert duplicate_pairs(film[:2], [0, 1]) == [] and duplicate_pairs(film, [5]) == []


class Folder:
    ids, groups = [f"{i}" for i in range(8)], ["day"] * 6 + ["night"] * 2

    def __init__(self):
        scenes = SceneDataset("real", 8, size=(48, 96), seed=4)
        self.images = [scenes[i].image for i in range(8)]
        self.images[1] = self.images[1] * 0.08
        self.images[2] = torch.full_like(self.images[2], 0.7)
        self.images[5] = self.images[4]

    def __len__(self):
        return 8

    def load_image(self, k):
        return self.images[k]


def test_dark_blank_and_doubled_images_are_named():
    folder = Folder()
    assert thumbnails(folder, range(8))[1] == ["", "dark", "blank", "", "", "", "", ""]
    found = query_warnings(folder, range(8), ["1", "2", "4", "5"])
    assert found == ["'4' and '5' are as alike as nearest neighbours of the pool", "'1' is dark", "'2' is blank"]
    assert query_warnings(folder, range(8), ["0", "3"]) == [] and query_warnings(folder, range(8), []) == []
    vectors = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert query_warnings(folder, range(8), ["4", "5"], vectors) == []


def test_a_warning_stands_in_the_query_the_dashboard_and_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr("stal_nb.stages.query_warnings", lambda *a: ["3 of 3 images are of <one> kind"])
    run = Run.create(tiny(budgets=(1,), round_steps=(1,), source_steps=1, val_images=1), tmp_path / "run")
    run.bar = False
    run.finish()
    assert json.loads((run.round_folder(0) / "query.json").read_text())["warnings"] == ["3 of 3 images are of <one> kind"]
    folder = RunFolder(run.path)
    folder.look()
    assert last_query(folder)["warnings"] == ["3 of 3 images are of <one> kind"]
    assert "3 of 3 images are of &lt;one&gt; kind" in write_report(run).read_text()
