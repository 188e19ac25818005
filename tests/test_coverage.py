"""Coverage: lazy greedy is plain greedy, hand-computed cases, limits, quotas, and nothing depends on the order of the pool."""
import math
import random

import pytest
import torch

from stal_nb.coverage import (
    ball_radius,
    evenly_spaced,
    every_nth,
    herding,
    k_means,
    kernel_radius,
    lazy_greedy,
    natural_order,
    nearest_centre,
    plus_plus,
    prob_cover,
    typicality,
    typiclust,
    word_coverage,
)
from stal_nb.runtime.errors import BudgetError, ConfigError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit_rows(n, d, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator(seed), dtype=torch.float64), dim=1)


def plain_greedy(value, n, start, k):
    "Every gain in every step; the first of equal ones."
    chosen = list(start)
    for _ in range(k):
        gains = [value([*chosen, i]) - value(chosen) if i not in chosen else -1.0 for i in range(n)]
        chosen.append(max(range(n), key=lambda i: (round(gains[i], 10), -i)))
    return chosen[len(start):]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", [[], [3, 0]])
def test_words_are_the_greedy_maximum_of_a_sum_of_roots(seed, start):
    h = torch.randn(25, 7, generator=generator(seed)).mul(2).softmax(1)
    rows = h.double().tolist()
    value = lambda chosen: sum(math.sqrt(sum(rows[i][w] for i in chosen)) for w in range(7))  # noqa: E731
    assert word_coverage(h, start, 9) == plain_greedy(value, 25, start, 9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ball", [False, True])
@pytest.mark.parametrize("start", [[], [5, 11, 2]])
def test_herding_is_the_greedy_maximum_of_kernel_coverage(seed, ball, start):
    x, u = unit_rows(22, 3, seed), torch.rand(22, generator=generator(seed + 9), dtype=torch.float64)
    points, weights = x.tolist(), u.tolist()

    def kernel(a, b):
        squared = sum((p - q) ** 2 for p, q in zip(a, b))
        return float(squared <= 0.49) if ball else math.exp(-squared / 0.49)

    def value(chosen):
        return sum(w * max((kernel(p, points[j]) for j in chosen), default=0) for p, w in zip(points, weights))

    assert herding(x, start, 8, u, radius=0.7, ball=ball) == plain_greedy(value, 22, start, 8)


def test_an_image_adds_less_to_more():
    "Diminishing returns, which lazy evaluation rests on, for both functions and random sets."
    dice, h, x = random.Random(0), torch.rand(15, 6, generator=generator()), unit_rows(15, 4)
    words = lambda s: h[s].sum(0).sqrt().sum().item()  # noqa: E731
    near = (-torch.cdist(x, x).square()).exp()
    kernels = lambda s: near[s].amax(0).sum().item() if s else 0.0  # noqa: E731
    for _ in range(200):
        order = dice.sample(range(15), 15)
        few, many, new = order[:dice.randint(0, 4)], order[:dice.randint(4, 13)], order[14]
        for value in (words, kernels):
            assert value([*few, new]) - value(few) >= value([*many, new]) - value(many) - 1e-6


def test_lazy_greedy_looks_again_at_few():
    h = torch.rand(3000, 40, generator=generator()).pow(6)
    seen, looked = torch.zeros(40).double(), []

    def gains(positions):
        looked.append(len(positions))
        return ((seen + h[positions].double()).sqrt() - seen.sqrt()).sum(1)

    chosen = lazy_greedy(gains, lambda i: seen.add_(h[i].double()), 3000, 30)
    assert chosen == word_coverage(h, [], 30)
    assert sum(looked) < 3000 + 0.3 * 30 * 3000


def test_quotas_bind_words_and_what_cannot_be_met_is_said():
    h, groups = torch.rand(12, 5, generator=generator()), list("aaaaaaaabbbb")
    chosen = word_coverage(h, [], 4, groups, {"a": 1, "b": 3})
    assert [groups[i] for i in chosen].count("b") == 3
    free = word_coverage(h, [], 4, groups, {"a": 8, "b": 4})
    assert free == word_coverage(h, [], 4)
    with pytest.raises(BudgetError, match="found 4, expected at most the 2 that quotas leave"):
        word_coverage(h, [], 4, groups, {"a": 1, "b": 1})


def test_words_already_seen_are_worth_less():
    h = torch.eye(4)
    assert word_coverage(h, [2, 0], 2) == [1, 3]
    assert word_coverage(torch.cat([h, h[:1] * 0.9]), [0], 3) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_herding_goes_from_coverage_to_uncertainty(seed):
    x, u = unit_rows(40, 6, seed), torch.rand(40, generator=generator(seed))
    assert herding(x, [], 10, u, radius=1e-3) == u.argsort(descending=True)[:10].tolist()
    assert herding(x, [], 1, radius=30.0) == [int(torch.cdist(x, x).square().sum(1).argmin())]
    assert kernel_radius(x[:1]) == 1.0 and kernel_radius(x[:20]) > kernel_radius(x)


def test_twins_are_covered_by_one_label():
    x = unit_rows(6, 4).repeat(2, 1)
    assert len({i % 6 for i in herding(x, [], 6)}) == 6
    assert len({i % 6 for i in word_coverage(torch.eye(6).repeat(2, 1), [], 6)}) == 6


def test_landmarks_stand_for_the_pool():
    blobs = torch.nn.functional.normalize(torch.cat([unit_rows(1, 8, s).repeat(300, 1) + 0.05 * unit_rows(300, 8, s + 20) for s in range(5)]), dim=1)
    chosen = herding(blobs, [], 5, radius=0.5, landmarks=200)
    assert {i // 300 for i in chosen} == set(range(5))


def test_k_means_finds_blobs_and_survives_copies():
    blobs = torch.cat([torch.randn(40, 2, generator=generator(s)) * 0.05 + torch.tensor([s, s % 2]) for s in range(4)])
    labels = nearest_centre(blobs, k_means(blobs, 4, generator()))
    assert len({tuple(labels[40 * s:40 * s + 40].unique().tolist()) for s in range(4)}) == 4
    copies = torch.ones(5, 3)
    assert sorted(plus_plus(copies, 5, generator())) == [0, 1, 2, 3, 4] and k_means(copies, 3, generator()).isfinite().all()


def test_k_means_plus_plus_draws_far_points_more_often():
    x = torch.tensor([[10.0], [9.9], [0.0], [-10.0]])
    second = [plus_plus(x, 2, generator(s))[1] for s in range(400)]
    assert plus_plus(x, 2, generator())[0] == 0 and 1 not in second
    share = second.count(3) / 400  # 400 of 400 + 100 + 0.01
    assert abs(share - 0.8) < 0.08


@pytest.mark.parametrize("seed", range(2))
def test_typical_images_of_uncovered_clusters_come_first(seed):
    blobs = torch.nn.functional.normalize(torch.cat([unit_rows(1, 8, s).repeat(n, 1) + 0.05 * unit_rows(n, 8, s + 20)
                                                     for s, n in enumerate((50, 30, 10))]), dim=1)
    of = lambda i: 0 if i < 50 else 1 if i < 80 else 2  # noqa: E731
    assert [of(i) for i in typiclust(blobs, [], 3, generator(seed))] == [0, 1, 2]
    found = typiclust(blobs, [60], 2, generator(seed))
    assert [of(i) for i in found] == [0, 2] and 60 not in found
    assert sorted(typiclust(blobs, [], 90, generator(seed))) == list(range(90))


def test_typicality_is_the_inverse_mean_distance_to_the_nearest_of_the_cluster():
    x = torch.tensor([[0.0], [1.0], [3.0], [100.0]])
    assert typicality(x, torch.tensor([0, 0, 0, 1]), neighbours=2).tolist() == [0.5, pytest.approx(2 / 3), pytest.approx(0.4), math.inf]


def test_a_ball_is_as_large_as_clusters_allow():
    blobs = torch.cat([torch.randn(60, 2, generator=generator(s)) * 0.01 + torch.tensor([3.0 * s, 0]) for s in range(2)])
    assert 2.9 < ball_radius(blobs, 2, generator()) < 3.0
    assert len(set(prob_cover(unit_rows(30, 4).float(), [1], 10, generator())) - {1}) == 10


def test_every_frame_is_equally_likely_and_gaps_are_even():
    for n, k in ((10, 3), (100, 7), (5, 5), (8, 0)):
        for offset in (0.0, 0.3, 0.999):
            found = evenly_spaced(n, k, offset)
            assert len(set(found)) == k and all(0 <= i < n for i in found)
            gaps = [b - a for a, b in zip(found, found[1:])]
            assert not gaps or max(gaps) - min(gaps) <= 1
    counts = [0] * 10
    for step in range(1000):
        for i in evenly_spaced(10, 3, step / 1000):
            counts[i] += 1
    assert max(counts) - min(counts) <= 2


def test_frames_are_taken_in_their_natural_order_group_by_group():
    ids = [f"{g}/frame{i}" for g in "ba" for i in range(12)]
    found = every_nth(random.Random(0).sample(ids, 24), [], {}, generator())
    assert found == []
    shuffled = random.Random(0).sample(ids, 24)
    found = every_nth(shuffled, [id[0] for id in shuffled], {"a": 3, "b": 1}, generator())
    assert [id[0] for id in found] == ["a", "a", "a", "b"]
    numbers = [int(id[7:]) for id in found[:3]]
    assert [b - a for a, b in zip(numbers, numbers[1:])] == [4, 4]
    assert sorted(["a10", "a9", "a"], key=natural_order) == ["a", "a9", "a10"]


@pytest.mark.parametrize("call, message", [
    (lambda: word_coverage(-torch.ones(3, 2), [], 1), "words: found a negative share"),
    (lambda: word_coverage(torch.full((3, 2), torch.nan), [], 1), r"features: found shape \(3, 2\)"),
    (lambda: herding(unit_rows(3, 2), [3], 1), "labelled: found positions 3 to 3"),
    (lambda: herding(unit_rows(3, 2), [0], 3), "found 3 images to choose, expected at most the 2"),
    (lambda: typiclust(unit_rows(3, 2), [], 4, generator()), "found 4 images")])
def test_what_cannot_be_covered_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
