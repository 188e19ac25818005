"""Selection: rankings, quotas and coverage agree with plain Python, nothing depends on file order, bad pools and strategies are stopped."""
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from stal_nb.runtime.errors import BudgetError, ConfigError
from stal_nb.selection import (
    STRATEGIES,
    Region,
    StrategyInput,
    cover,
    declare,
    group_quotas,
    k_center,
    most_uncertain,
    needs_of,
    rare_class,
    region_mask,
    region_strategy,
    select,
    select_regions,
    top_k,
    uncertainty_diversity,
    unit_of,
)


def a_pool(n=20, k=5, seed=0, cities="abc"):
    "A pool with every column, and with ties and twins in each of them."
    dice = random.Random(seed)
    measures = ("entropy", "margin", "least_confidence", "bald", "ensemble", "calibrated")
    scores = {m: torch.tensor([dice.randint(0, 8) / 8 for _ in range(n)], dtype=torch.float64) for m in measures}
    ids, groups = [f"{i:03d}" for i in range(n)], [dice.choice(cities) for _ in range(n)]
    rows = torch.randn(max(1, n // 2), 6, generator=torch.Generator().manual_seed(seed))
    shares = rows.softmax(1).repeat(2, 1)[:n] if n else torch.zeros(0, 6)
    regions = [Region(id, 8 * y, 8, 3) for id in ids for y in range(3)]
    return StrategyInput(
        ids,
        groups,
        scores,
        k,
        torch.Generator().manual_seed(seed),
        features=torch.cat([rows, rows, rows])[:n],
        labelled=["x"],
        labelled_features=rows[:1] + 0.5,
        class_shares=shares,
        class_weights=torch.linspace(0, 1, 6),
        frozen=torch.nn.functional.normalize(torch.cat([rows, rows, rows])[:n], dim=1),
        labelled_frozen=torch.nn.functional.normalize(rows[:1] + 0.5, dim=1),
        words=shares,
        labelled_words=shares[:1] / 2,
        regions=regions,
        region_scores=torch.tensor([dice.randint(0, 8) / 8 for _ in regions]),
    )


def reordered(pool, order, seed=0):
    shuffled = random.Random(seed).sample(range(len(pool.regions)), len(pool.regions))
    return replace(pool, ids=[pool.ids[i] for i in order], groups=[pool.groups[i] for i in order],
                   scores={m: s[order] for m, s in pool.scores.items()}, generator=torch.Generator().manual_seed(seed),
                   features=pool.features[order], class_shares=pool.class_shares[order],
                   frozen=pool.frozen[order], words=pool.words[order], regions=[pool.regions[i] for i in shuffled],
                   region_scores=pool.region_scores[shuffled])


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


def test_k_center_is_blind_to_the_order_of_twins_in_any_block_of_a_large_matrix():
    "Equal rows have equal distances to the last bit, wherever they stand: a matrix product would not promise that."
    x = torch.randn(1000, 37, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    chosen, shuffled = k_center(x, [], 50), k_center(x[order], [], 50)
    assert all(
        torch.equal(x[a], x[order][b]) for a, b in zip(chosen[1:], shuffled[1:])
    )  # the mean, which gives the first, is a sum in another order


@pytest.mark.parametrize("seed", range(4))
def test_core_set_covers_the_pool_and_the_labelled_images_count_as_covered(seed):
    pool = replace(a_pool(16, 5, seed), features=torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)),
                   labelled_features=torch.randn(4, 3, generator=torch.Generator().manual_seed(99)))
    both = torch.cat([pool.labelled_features, pool.features]).double().tolist()
    assert select("core_set", pool) == [pool.ids[i - 4] for i in plain_k_center(both, range(4), 5)]
    assert select("core_set", replace(pool, labelled_features=None)) == [
        pool.ids[i] for i in plain_k_center(pool.features.double().tolist(), [], 5)
    ]


def test_uncertainty_then_diversity_covers_the_most_uncertain():
    pool = replace(a_pool(30, 4), features=torch.randn(30, 6, generator=torch.Generator().manual_seed(2)))
    kept = [pool.ids[i] for i in top_k(pool.scores["entropy"], 8, ids=pool.ids)]
    among = sorted(pool.ids.index(i) for i in kept)
    assert set(select("uncertainty_diversity", pool)) <= set(kept)
    assert select("uncertainty_diversity", pool) == cover(pool, among)
    assert sorted(uncertainty_diversity(pool, factor=1)) == sorted(select("entropy", pool))
    assert uncertainty_diversity(pool, factor=100) == select("core_set", pool)


def test_rare_class_is_the_weighted_sum_of_the_shares():
    pool = a_pool(20, 6)
    score = [sum(w * s for w, s in zip(pool.class_weights.tolist(), row)) for row in pool.class_shares.double().tolist()]
    order = sorted(range(20), key=lambda i: (-round(score[i], 12), pool.ids[i]))
    assert select("rare_class", pool) == [pool.ids[i] for i in order[:6]]
    with pytest.raises(ConfigError, match=r"class_weights: found shape \(5,\)"):
        rare_class(replace(pool, class_weights=torch.rand(5)))


# -- regions and pixels ----------------------------------------------------------------------------------------------------


def plain_regions(score_map, n, radius, suppress):
    left, (height, width), centres = score_map.tolist(), score_map.shape, []
    for _ in range(n):
        free = [(-left[y][x], y, x) for y in range(radius, height - radius) for x in range(radius, width - radius) if left[y][x] > -1e30]
        if not free:
            break
        _, y, x = min(free)
        centres.append([y, x])
        for v in range(max(0, y - suppress), min(height, y + suppress + 1)):
            for u in range(max(0, x - suppress), min(width, x + suppress + 1)):
                left[v][u] = -1e31
    return centres


@pytest.mark.parametrize("radius, suppress", [(0, None), (0, 0), (0, 2), (1, None), (2, None), (2, 1), (3, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_regions_are_the_greedy_choice_with_suppression(radius, suppress, seed):
    tied = torch.randint(0, 7, (13, 19), generator=torch.Generator().manual_seed(seed)).float()
    tied[tied == 3] = -torch.inf
    found = select_regions(tied, 15, radius, suppress)
    expected = tied.masked_fill(tied == -torch.inf, -1e31)
    assert found.tolist() == plain_regions(expected, 15, radius, 2 * radius if suppress is None else suppress)
    assert found.dtype == torch.int64 and found.shape[1] == 2


def test_regions_do_not_overlap_and_all_have_the_full_size():
    score = torch.rand(64, 128, generator=torch.Generator().manual_seed(0))
    for radius in (0, 1, 4, 8):
        centres = select_regions(score, 20, radius).tolist()
        mask = region_mask([Region("a", y, x, radius) for y, x in centres], (64, 128))
        assert int(mask.sum()) == len(centres) * (2 * radius + 1) ** 2
    assert len(select_regions(score, 10_000, 8)) < 10_000  # no more fit


def test_the_map_that_regions_are_taken_from_is_not_changed():
    score = torch.rand(20, 20)
    before = score.clone()
    select_regions(score, 5, 0)
    select_regions(score, 5, 2)
    assert torch.equal(score, before)


def test_a_mask_cuts_off_what_reaches_over_the_border():
    mask = region_mask([Region("a", 0, 0, 2), Region("a", 9, 5)], (10, 12))
    assert int(mask.sum()) == 9 + 1 and mask[2, 2] and mask[9, 5] and not mask[3, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(score_map=torch.rand(3), n=1, radius=0), r"score_map: found shape \(3,\)"),
        (dict(score_map=torch.rand(8, 8), n=1, radius=4), "at least 9 pixels"),
        (dict(score_map=torch.full((8, 8), torch.nan), n=1, radius=0), "NaN"),
        (dict(score_map=torch.full((8, 8), torch.inf), n=1, radius=0), r"\+inf"),
        (dict(score_map=torch.rand(8, 8), n=-1, radius=0), "n: found -1"),
        (dict(score_map=torch.rand(8, 8), n=1, radius=-2), "radius: found -2"),
        (dict(score_map=torch.rand(8, 8), n=1, radius=1.5), "radius: found 1.5"),
        (dict(score_map=torch.rand(8, 8), n=1, radius=1, suppress=-1), "suppress: found -1"),
    ],
)
def test_maps_and_numbers_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        select_regions(**arguments)


def test_region_strategies_take_the_best_of_the_whole_pool_and_break_ties_by_name():
    pool = replace(a_pool(12), k=9)
    order = sorted(range(len(pool.regions)), key=lambda i: (-pool.region_scores[i].item(), pool.regions[i]))
    for name in ("ripu_regions", "ripu_pixels", "random_regions", "random_pixels"):
        assert select(name, pool) == [pool.regions[i] for i in order[:9]]
        assert unit_of(STRATEGIES[name]) == name.split("_")[1] and "regions" in needs_of(STRATEGIES[name])


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(k=61), BudgetError, "found 61 regions to choose, expected at most the 60"),
        (dict(region_scores=torch.rand(3)), ConfigError, "region_scores: found 3 entries, expected one for each of 60 regions"),
        (dict(region_scores=torch.full((60,), torch.nan)), ConfigError, "region_scores: found nan"),
        (
            dict(regions=[Region("zzz", 1, 1)], region_scores=torch.rand(1)),
            ConfigError,
            "regions: found one of image 'zzz', which is not in the pool",
        ),
        (dict(regions=None), ConfigError, "regions: found None, expected candidate regions"),
    ],
)
def test_a_pool_of_regions_that_does_not_fit_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        select("ripu_regions", replace(a_pool(), **change))


def test_embeddings_of_different_networks_are_not_mixed():
    with pytest.raises(ConfigError, match=r"labelled_features: found shape \(2, 3\), expected rows as long as those of features \(20, 6\)"):
        select("core_set", replace(a_pool(), labelled_features=torch.rand(2, 3)))


@pytest.mark.parametrize("name, column", [("core_set", "features"), ("uncertainty_diversity", "features"), ("rare_class", "class_shares"),
                                          ("rare_class", "class_weights"), ("bald", "scores"), ("ensemble", "scores")])
def test_a_strategy_says_which_column_it_misses(name, column):
    pool = replace(a_pool(), **({"scores": {"entropy": torch.rand(20)}} if column == "scores" else {column: None}))
    with pytest.raises(ConfigError, match=f"{column}: found"):
        select(name, pool)


def test_what_a_strategy_needs_is_declared_or_cheap():
    assert needs_of(lambda pool: []) == {"entropy", "margin", "least_confidence"} and unit_of(lambda pool: []) == "images"
    assert needs_of(STRATEGIES["random"]) == set() and needs_of(STRATEGIES["core_set"]) == {"features"}
    mine = region_strategy(lambda probs, radius, generator: probs[:, 0], "pixels", needs={"bald"})
    assert needs_of(mine) == {"regions", "bald"} and unit_of(mine) == "pixels"
    with pytest.raises(ConfigError, match="unit: found 'minutes', expected one of images, regions, pixels"):
        declare(lambda pool: [], unit="minutes")
