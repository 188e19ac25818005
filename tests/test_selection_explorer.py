"""The selection explorer: Python side, page side, as a file without a kernel, in JupyterLab; each control changes the picture, quickly."""

import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from browser import open_notebook, run_cell
from figures.strategies import read_strategies, strategies_figure, strategies_table
from stal_nb.app.selection_explorer import PredictedScenes, ScoredPool, SelectionExplorer, explain, image_contents, ranks_of, run_pool
from stal_nb.runtime.errors import ConfigError
from stal_nb.scenes import SceneDataset
from stal_nb.selection import STRATEGIES, StrategyInput, select
from stal_nb.uncertainty import entropy

SIZE = (256, 512)


def a_pool(length=20, size=SIZE):
    "Scenes with made-up predictions: nothing is trained for a test of a widget."
    scenes = SceneDataset("real", length, size=size, seed=3)
    samples = [scenes[i] for i in range(length)]
    images, labels = torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])
    generator = torch.Generator().manual_seed(0)
    sure = 1 + 5 * torch.rand(length, 1, 1, 1, generator=generator)
    probs = (
        sure * torch.nn.functional.one_hot(labels.clamp(max=18), 19).movedim(-1, 1) + torch.rand(length, 19, *size, generator=generator)
    ).softmax(1)
    features = torch.randn(length, 8, generator=generator)
    maps = entropy(probs)
    predicted = PredictedScenes(images, labels, probs, probs.argmax(1) != labels, features, scenes.ids, scenes.groups)
    scores = {name: maps.mean((1, 2)) + 0.1 * torch.rand(length, generator=generator)
              for name in ("margin", "least_confidence", "bald", "ensemble")}
    return ScoredPool(
        predicted,
        scenes.ids,
        scenes.groups,
        maps,
        {"entropy": maps.mean((1, 2)), **scores},
        features,
        probs.mean((2, 3)),
        torch.linspace(0, 1, 19),
    )


@pytest.fixture(scope="module")
def pool():
    return a_pool()


@pytest.fixture
def explorer(pool):
    return SelectionExplorer(pool)


def heard(widget):
    sent = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))
    return sent


# -- Python ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_framed_is_what_the_strategy_asks_for(pool, explorer):
    for name in explorer.queries:
        for k in (0, 1, 7, explorer.most):
            explorer.strategy, explorer.budget = name, k
            assert explorer.query == select(name, pool.input(k))


def test_the_page_is_sent_everything_it_draws(pool, explorer):
    sent = heard(explorer)
    explorer.receive({"type": "open"})
    (content, sheets), = sent
    json.dumps(content, allow_nan=False)
    assert all(sheet[:2] == b"\xff\xd8" for sheet in sheets) and len(sheets) == 2
    assert content["ids"] == pool.ids and [name for name, _ in content["strategies"]] == list(explorer.queries)
    for name, orders in content["orders"].items():
        assert sorted(orders) == list(range(20)), name
        for k, chosen in enumerate(content["chosen"][name]):
            assert [pool.ids[i] for i in chosen] == explorer.queries[name][k]
    assert torch.allclose(torch.tensor(content["shares"]).sum(1), torch.ones(20), atol=1e-2)
    assert torch.allclose(image_contents(pool), torch.tensor(content["shares"]), atol=1e-4)


def test_every_image_has_a_reason_under_every_strategy(pool, explorer):
    for name in explorer.queries:
        for k in (1, 6):
            query = explorer.queries[name][k]
            for id in pool.ids:
                text = explain(pool, name, query, id)
                assert text.startswith("Queried" if id in query else "Not queried") and text.endswith("."), (name, text)
    ranks = ranks_of(pool, "entropy")
    best = pool.ids[ranks.index(1)]
    assert explain(pool, "entropy", [best], best).startswith("Queried: rank 1 of 20 by entropy")
    assert ranks_of(pool, "core_set") is None


def test_reasons_of_core_set_name_the_distance_that_decided(pool, explorer):
    query = explorer.queries["core_set"][4]
    third = pool.at(query)[2]
    nearest = torch.cdist(pool.features[[third]], pool.features[pool.at(query)[:2]]).min().item()
    assert f"pick 3: farthest from all chosen before, {nearest:.2f} from its nearest one" in explain(pool, "core_set", query, query[2])


def test_what_cannot_be_shown_is_refused(pool, explorer):
    with pytest.raises(ConfigError, match="strategies: found 'ripu_pixels', expected some of random"):
        SelectionExplorer(pool, ["entropy", "ripu_pixels"])
    with pytest.raises(ConfigError, match="features: found None"):
        SelectionExplorer(PoolWithout(pool), ["core_set"])
    assert "core_set" not in SelectionExplorer(PoolWithout(pool)).queries  # not asked for by name: left out
    with pytest.raises(ConfigError, match="strategy: found 'oracle', expected one of random, entropy"):
        explorer.strategy = "oracle"
    with pytest.raises(ConfigError, match="budget: found 11, expected 0 to 10"):
        explorer.budget = 11
    with pytest.raises(ConfigError, match="pool: found no images"):
        SelectionExplorer(pool._replace(ids=[]))


class PoolWithout(ScoredPool):
    "A pool whose embeddings no strategy gets."

    def __new__(cls, pool):
        return super().__new__(cls, *pool)

    def input(self, k, seed=0):
        return StrategyInput(self.ids, self.groups, self.scores, k, torch.Generator().manual_seed(seed), class_shares=self.class_shares,
                             class_weights=self.class_weights)


def test_messages_that_make_no_sense_are_passed_over(explorer):
    sent = heard(explorer)
    for content in ({}, {"type": "why", "id": "nobody"}, {"type": "why", "id": explorer.pool.ids[0], "strategy": "oracle", "budget": 3},
                    {"type": "why", "id": explorer.pool.ids[0], "strategy": "entropy", "budget": 99}):
        explorer.receive(content)
    assert not sent


def test_a_strategy_of_ones_own_is_in_the_explorer(pool, monkeypatch):
    monkeypatch.setitem(STRATEGIES, "first", lambda pool: sorted(pool.ids)[:pool.k])
    explorer = SelectionExplorer(pool, ["first", "entropy"])
    explorer.strategy = "first"
    assert explorer.query == sorted(pool.ids)[:10] and explorer.why(pool.ids[0]) == "Queried by first."


def test_a_round_of_a_run_becomes_a_pool_whose_classes_are_predictions(tmp_path):
    from stal_nb.run import Run
    from tiny import tiny

    run = Run.create(tiny(), tmp_path / "run")
    run.bar = False
    while run.stage != "round 1: label":
        run.advance()
    pool = run_pool(run, 1)
    asked = json.loads((run.round_folder(1) / "query.json").read_text())["ids"]
    assert len(pool.ids) == 9 and not set(pool.ids) & set(run.store.ids())
    assert torch.equal(pool.scenes.labels, pool.scenes.probs.argmax(1))  # not the truth
    explorer = SelectionExplorer(pool, ["entropy"])
    explorer.budget = len(asked)
    assert sorted(explorer.query) == sorted(asked), "the explorer shows the query of the run"


def test_measured_strategies_are_drawn_and_missing_ones_are_said_to_be_missing(tmp_path):
    assert read_strategies(tmp_path / "none.json") == []
    assert "Nothing has been measured yet" in strategies_figure([]).axes[0].texts[0].get_text()
    assert strategies_table([]).empty
    runs = [{"data": "scenes", "strategy": name, "seed": seed, "warm_up": 20.0, "miou": 25.0 + seed + bonus}
            for name, bonus in (("random", 0), ("entropy", 1.5)) for seed in range(3)]
    (tmp_path / "some.json").write_text(json.dumps({"runs": runs}))
    table = strategies_table(read_strategies(tmp_path / "some.json"))
    assert (
        table.loc[("scenes", "entropy"), "difference to random"] == "+1.5 ± 0.0"
        and table.loc[("scenes", "entropy"), "mIoU (%)"] == "27.5 ± 1.0"
    )
    assert table.seeds.tolist() == [3, 3] and len(strategies_figure(runs).axes) == 1


# -- in a browser ----------------------------------------------------------------------------------------------------------


class Page:
    "What a person sees of an explorer and does to it."

    def __init__(self, page):
        self.page, self.root = page, page.get_by_role("application", name="Selection explorer").first

    def framed(self):
        return set(self.root.locator(".stal-thumb[aria-pressed=true]").evaluate_all("es => es.map(e => e.dataset.id)"))

    def diamonds(self):
        return set(self.root.locator("path.stal-queried").evaluate_all("es => es.map(e => e.dataset.id)"))

    def choose(self, label, value):
        self.root.get_by_label(label, exact=True).select_option(value)

    def slide(self, value):
        "Milliseconds until the picture has followed, painted."
        return self.page.evaluate("""async ([root, value]) => {
            const slider = root.querySelector("input[type=range]"), start = performance.now();
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
            while (root.dataset.budget !== String(value)) await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            return performance.now() - start; }""", [self.root.element_handle(), value])

    def text(self, part):
        return self.root.get_by_test_id(part).inner_text()

    def check_every_control(self, queries, groups, ids):
        "Each control changes what it should, and nothing says otherwise."
        assert self.framed() == self.diamonds() == set(queries["entropy"][10])
        took = [self.slide(value) for value in (3, 9, 0, 5)]
        assert max(took) < 200, took
        assert self.framed() == self.diamonds() == set(queries["entropy"][5])
        before = self.text("classes"), self.text("overlap")
        for name in queries:
            self.choose("Strategy", name)
            assert self.framed() == self.diamonds() == set(queries[name][5]), name
        assert (self.text("classes"), self.text("overlap"))[0] != before[0]
        self.slide(2)
        assert self.text("overlap") != before[1]
        colours = lambda: self.root.locator("path[data-id]").evaluate_all("es => es.map(e => e.style.fill)")  # noqa: E731
        by_group = colours()
        self.choose("Colour by", "class")
        assert colours() != by_group and "road" in self.root.locator(".stal-legend").inner_text()
        self.choose("Colour by", "group")
        assert all(group in self.root.locator(".stal-legend").inner_text() for group in set(groups))
        self.root.get_by_test_id("overlap").get_by_role("button", name="entropy", exact=True).click()
        assert self.root.get_attribute("data-strategy") == "entropy"
        thumb = self.root.locator(f".stal-thumb[data-id='{queries['entropy'][2][0]}']")
        hidden = lambda: thumb.locator(".stal-map").evaluate("e => getComputedStyle(e).visibility")  # noqa: E731
        self.root.get_by_label("Strategy", exact=True).hover()
        assert hidden() == "hidden"
        thumb.hover()
        assert hidden() == "visible"
        thumb.click()
        self.wait_for_reason("Queried: rank 1 of")
        assert thumb.get_attribute("aria-label").startswith(f"{queries['entropy'][2][0]}, ")
        other = queries["entropy"][10][-1]
        self.root.locator(f"path[data-id='{other}']").click(force=True)
        self.wait_for_reason("Not queried")

    def wait_for_reason(self, start):
        self.page.wait_for_function(
            "([e, t]) => e.querySelector('[data-testid=reason]').textContent.startsWith(t)", arg=[self.root.element_handle(), start]
        )


def test_the_file_without_a_kernel_does_everything(pool, explorer, new_page, tmp_path):
    file = explorer.save_html(tmp_path / "explorer.html")
    page = new_page()
    page.goto(file.as_uri())
    page.wait_for_selector(".stal-thumb")
    Page(page).check_every_control(explorer.queries, pool.groups, pool.ids)
    assert not page.problems


def test_pictures_are_shown_and_each_is_the_one_it_says(pool, explorer, new_page, tmp_path):
    "The colour in the middle of a thumbnail is that of its image."
    page = new_page()
    page.goto(explorer.save_html(tmp_path / "explorer.html").as_uri())
    page.wait_for_selector(".stal-thumb")
    page.wait_for_timeout(300)
    for i in (0, 7, 8, 19):
        shot = page.locator(f".stal-thumb[data-id='{pool.ids[i]}']")
        page.evaluate("e => e.style.opacity = 1", shot.element_handle())
        picture = Image.open(io.BytesIO(shot.locator(".stal-image").screenshot())).convert("RGB").resize((8, 4))
        seen = torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255
        difference = [
            (torch.nn.functional.interpolate(image[None], (4, 8), mode="area")[0] - seen).abs().mean().item()
            for image in pool.scenes.images
        ]
        assert min(range(20), key=difference.__getitem__) == i


CELLS = ["""
import sys
sys.path[:0] = [{tests!r}, {nbs!r}]
from test_selection_explorer import a_pool
from stal_nb.app.selection_explorer import SelectionExplorer
pool = a_pool()
explorer = SelectionExplorer(pool)
explorer
""", """
import json
facts = {{name: getattr(explorer, name) for name in ("query", "strategy", "budget", "selected")}}
json.dump(facts, open("facts.json", "w"))
print("facts", "written")
"""]


@pytest.fixture
def lab(tmp_path, jupyterlab):
    "JupyterLab with the explorer's cells: folder and address."
    tests = os.path.dirname(os.path.abspath(__file__))
    nbs = os.path.join(os.path.dirname(tests), "nbs")
    with jupyterlab(tmp_path / "desk", [source.format(tests=tests, nbs=nbs) for source in CELLS]) as address:
        yield tmp_path / "desk", address


@pytest.mark.slow
def test_a_person_explores_in_jupyterlab(chromium, lab, pool, explorer):
    folder, address = lab
    page = chromium.new_page(viewport={"width": 1300, "height": 1500})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(f"{m.text} ({m.location.get('url')})") if m.type == "error" else None)
    try:
        open_notebook(page, address)
        run_cell(page, 0)
        page.wait_for_selector(".stal-thumb", timeout=60000)
        seen = Page(page)
        seen.check_every_control(explorer.queries, pool.groups, pool.ids)
        seen.choose("Strategy", "core_set")
        seen.slide(4)
        run_cell(page, 1)
        page.wait_for_function("document.querySelectorAll('.jp-CodeCell')[1].textContent.includes('facts written')", timeout=30000)
        facts = json.loads((folder / "facts.json").read_text())
        assert facts["strategy"] == "core_set" and facts["budget"] == 4 and facts["query"] == explorer.queries["core_set"][4]
        assert facts["selected"] == explorer.queries["entropy"][10][-1]
    finally:
        page.screenshot(path=str(folder.parent / "lab.png"))
        page.close()
    assert not problems
