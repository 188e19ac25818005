"""Selection: rankings, quotas and coverage agree with plain Python, nothing depends on file order, bad pools and strategies are stopped."""
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from stal_nb.errors import BudgetError, ConfigError
from stal_nb.selection import STRATEGIES, StrategyInput, group_quotas, k_center, most_uncertain, select, top_k


def a_pool(n=20, k=5, seed=0, cities="abc"):
    dice = random.Random(seed)
    measures = ("entropy", "margin", "least_confidence")
    scores = {m: torch.tensor([dice.randint(0, 8) / 8 for _ in range(n)], dtype=torch.float64) for m in measures}
    ids, groups = [f"{i:03d}" for i in range(n)], [dice.choice(cities) for _ in range(n)]
    return StrategyInput(ids, groups, scores, k, torch.Generator().manual_seed(seed))


def reordered(pool, order, seed=0):
    return replace(pool, ids=[pool.ids[i] for i in order], groups=[pool.groups[i] for i in order],
                   scores={m: s[order] for m, s in pool.scores.items()}, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda x: torch.tensor(x, dtype=torch.float32)])
def test_top_k_is_a_sort_with_ties_broken_by_id(kind):
    dice = random.Random(1)
    for _ in range(200):
        n = dice.randint(0, 25)
        ids, scores, k = [f"{dice.random():.6f}" for _ in range(n)], [dice.randint(0, 4) / 4 for _ in range(n)], dice.randint(0, n)
        found = top_k(kind(scores), k, ids=ids)
        assert found == sorted(range(n), key=lambda i: (-scores[i], ids[i]))[:k]


def test_top_k_without_ids_takes_the_first_position_of_a_tie():
    assert top_k([1, 3, 3, 2], 3) == [1, 2, 3]


def test_quotas_sum_to_the_budget_stay_within_one_of_the_share_and_fit_their_group():
    dice = random.Random(2)
    for _ in range(500):
        groups = [dice.choice("abcdefgh"[:dice.randint(1, 8)]) for _ in range(dice.randint(1, 80))]
        k = dice.randint(0, len(groups))
        quotas, sizes = group_quotas(groups, k), Counter(groups)
        assert sum(quotas.values()) == k and set(quotas) == set(sizes)
        assert all(0 <= quotas[g] <= sizes[g] and abs(quotas[g] - k * sizes[g] / len(groups)) < 1 for g in sizes)
        assert quotas == group_quotas(dice.sample(groups, len(groups)), k)


def test_quotas_of_a_case_worked_by_hand():
    assert group_quotas(["a"] * 6 + ["b"] * 3 + ["c"], 5) == {"a": 3, "b": 2, "c": 0}
    assert group_quotas(["b", "a"], 1) == {"b": 0, "a": 1}  # equal in all: the name decides


def test_with_groups_each_group_sends_its_best():
    dice = random.Random(3)
    for _ in range(100):
        n = dice.randint(1, 40)
        groups, scores, ids = [dice.choice("abc") for _ in range(n)], [dice.randint(0, 5) for _ in range(n)], [f"{i:02d}" for i in range(n)]
        k = dice.randint(0, n)
        expected = []
        for g, quota in group_quotas(groups, k).items():
            expected += sorted((i for i in range(n) if groups[i] == g), key=lambda i: (-scores[i], ids[i]))[:quota]
        assert top_k(scores, k, groups, ids) == sorted(expected, key=lambda i: (-scores[i], ids[i]))


@pytest.mark.parametrize("arguments, error, message", [
    (dict(scores=[0.1, float("nan"), float("inf")], k=1), ConfigError, "scores: found nan for position 1 and 1 more"),
    (dict(scores=[0.1, float("-inf")], k=1, ids=["x", "y"]), ConfigError, "found -inf for image y"),
    (dict(scores=torch.rand(2, 2), k=1), ConfigError, r"found shape \(2, 2\)"),
    (dict(scores=[0.1, 0.2], k=3), BudgetError, "found 3 images to choose, expected at most the 2"),
    (dict(scores=[0.1, 0.2], k=-1), ConfigError, "k: found -1"), (dict(scores=[0.1, 0.2], k=1.0), ConfigError, "k: found 1.0"),
    (dict(scores=[0.1, 0.2], k=1, groups=["a"]), ConfigError, "groups: found 1 entries, expected one for each of 2"),
    (dict(scores=[0.1, 0.2], k=1, ids=["a"]), ConfigError, "ids: found 1 entries")])
def test_top_k_refuses_what_it_cannot_rank(arguments, error, message):
    with pytest.raises(error, match=message):
        top_k(**arguments)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_strategy_depends_on_the_order_of_the_pool(name):
    pool, dice = a_pool(30, 9), random.Random(4)
    expected = select(name, reordered(pool, list(range(30))))
    for _ in range(10):
        assert select(name, reordered(pool, dice.sample(range(30), 30))) == expected
    assert len(set(expected)) == 9


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_budget_is_met_from_nothing_to_everything(name):
    for k in range(13):
        pool = replace(a_pool(12), k=k, generator=torch.Generator().manual_seed(k))
        assert len(set(select(name, pool))) == k
    assert select(name, StrategyInput([], [], {}, 0)) == []


def test_uncertainty_strategies_rank_by_their_own_measure():
    pool = a_pool()
    for name in ("entropy", "margin", "least_confidence"):
        assert select(name, pool) == [pool.ids[i] for i in top_k(pool.scores[name], pool.k, ids=pool.ids)]
    quota = select("entropy_group_quota", pool)
    assert Counter(pool.groups[pool.ids.index(i)] for i in quota) == Counter(group_quotas(pool.groups, pool.k))


def test_random_is_repeatable_and_every_pair_is_equally_likely():
    pool = replace(a_pool(6), k=2)
    draw = lambda seed: tuple(sorted(select("random", replace(pool, generator=torch.Generator().manual_seed(seed)))))  # noqa: E731
    assert draw(7) == draw(7)
    pairs = Counter(draw(seed) for seed in range(3000))
    chi_square = sum((pairs[p] - 200) ** 2 / 200 for p in {(a, b) for a in pool.ids for b in pool.ids if a < b})
    assert len(pairs) == 15 and chi_square < 36.1  # 14 degrees of freedom, one in a thousand


@pytest.mark.parametrize("change, error, message", [
    (dict(k=21), BudgetError, "found 21 images to choose, expected at most the 20"),
    (dict(k=-1), ConfigError, "k: found -1"), (dict(k=True), ConfigError, "k: found True"),
    (dict(ids=[f"{i // 2}" for i in range(20)]), ConfigError, "ids: found '0' twice"),
    (dict(groups=["a"] * 19), ConfigError, "groups: found 19 entries, expected one for each of 20"),
    (dict(scores={"entropy": torch.rand(3)}), ConfigError, r"scores\['entropy'\]: found 3 entries"),
    (dict(scores={"margin": torch.rand(20)}), ConfigError, "scores: found margin, expected 'entropy'"),
    (dict(scores={"entropy": torch.full((20,), torch.nan)}), ConfigError, r"scores\['entropy'\]: found nan for image 000 and 19 more"),
    (dict(features=torch.rand(3, 2)), ConfigError, "features: found 3 rows"),
    (dict(labelled=["zzz", "003"]), ConfigError, "labelled: found '003', which is in the pool too"),
    (dict(ids=[], groups=[], scores={}), BudgetError, "found an empty pool, expected at least the 5")])
def test_a_pool_that_does_not_fit_is_refused_before_anyone_is_asked(change, error, message):
    with pytest.raises(error, match=message):
        select("entropy", replace(a_pool(), **change))


def test_an_unknown_strategy_is_told_which_there_are():
    with pytest.raises(ConfigError, match="found 'oracle', expected one of random, entropy, margin, least_confidence, entropy_group_quota"):
        select("oracle", a_pool())


@pytest.mark.parametrize("answer, message", [
    (["000"] * 5, "found 5 ids, 1 of them different, expected 5 different ones"), (["000", "001"], "found 2 ids"),
    ([f"{i:03d}" for i in range(6)], "found 6 ids"), (["000", "001", "002", "003", "zzz"], "found id 'zzz', which is not in the pool"),
    ([0, 1, 2, 3, 4], "found id 0, which is not in the pool")])
def test_a_strategy_that_answers_wrongly_is_stopped(monkeypatch, answer, message):
    monkeypatch.setitem(STRATEGIES, "mine", lambda pool: answer)
    with pytest.raises(ConfigError, match=f"strategy 'mine': {message}"):
        select("mine", a_pool())


def test_a_strategy_of_ones_own_needs_one_line(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "first", lambda pool: sorted(pool.ids)[:pool.k])
    assert select("first", a_pool()) == ["000", "001", "002", "003", "004"]


def test_missing_inputs_of_a_strategy_are_named():
    with pytest.raises(ConfigError, match="generator: found None"):
        select("random", replace(a_pool(), generator=None))
    with pytest.raises(ConfigError, match="groups: found None"):
        select("entropy_group_quota", replace(a_pool(), groups=None))
    assert len(most_uncertain("margin")(replace(a_pool(), groups=None))) == 5


def plain_k_center(x, labelled, k):
    centres = list(labelled)
    if not centres and k:
        mean = [sum(c) / len(x) for c in zip(*x)]
        centres.append(min(range(len(x)), key=lambda i: sum((a - b) ** 2 for a, b in zip(x[i], mean))))
    while len(centres) < len(labelled) + k:
        nearest = {i: min(sum((a - b) ** 2 for a, b in zip(x[i], x[j])) for j in centres) for i in range(len(x)) if i not in centres}
        centres.append(max(nearest, key=nearest.get))
    return centres[len(labelled):]


@pytest.mark.parametrize("seed", range(6))
def test_k_center_agrees_with_brute_force(seed):
    x = torch.randn(25, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for labelled in ([], [3], [7, 1, 20]):
        for k in (0, 1, 6, 25 - len(labelled)):
            assert k_center(x, labelled, k) == plain_k_center(x.tolist(), labelled, k)
    assert k_center(x, torch.tensor([3]), 4) == k_center(x, [3], 4)


def test_k_center_chooses_twins_last():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [0.0, 4.0], [5.0, 0.0]])
    assert set(k_center(x, [0], 2)) == {2, 3}
    assert sorted(k_center(x, [], 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("arguments, error, message", [
    (dict(features=torch.rand(5), labelled=[], k=1), ConfigError, r"found shape \(5,\)"),
    (dict(features=torch.full((5, 2), torch.nan), labelled=[], k=1), ConfigError, "features: found"),
    (dict(features=torch.rand(5, 2), labelled=[5], k=1), ConfigError, "labelled: found positions 5 to 5, expected positions from 0 to 4"),
    (dict(features=torch.rand(5, 2), labelled=[-1], k=1), ConfigError, "labelled: found positions -1"),
    (dict(features=torch.rand(5, 2), labelled=[0, 1], k=4), BudgetError, "found 4 images to choose, expected at most the 3")])
def test_k_center_refuses_what_it_cannot_cover(arguments, error, message):
    with pytest.raises(error, match=message):
        k_center(**arguments)
