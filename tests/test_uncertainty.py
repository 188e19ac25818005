"""Uncertainty: the vectorised functions say what plain per-pixel loops say, in every type, and refuse what is not a probability."""
import math

import pytest
import torch

from stal_nb.errors import ConfigError
from stal_nb.losses import normalised_entropy
from stal_nb.uncertainty import (
    MEASURES, box_sum, check_probs, entropy, error_auroc, image_score, least_confidence, margin, region_impurity, region_uncertainty, ripu,
    sparsification)


def some_probs(seed=0, batch=2, classes=19, height=9, width=13, sharpness=3.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(batch, classes, height, width, generator=generator)).softmax(1).to(dtype)


def plain_entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))


def plain_margin(p):
    first, second = sorted(p, reverse=True)[:2]
    return 1 - (first - second)


def plain_least_confidence(p):
    return (1 - max(p)) * len(p) / (len(p) - 1)


PLAIN = {"entropy": plain_entropy, "margin": plain_margin, "least_confidence": plain_least_confidence}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("classes", [2, 3, 19])
def test_each_pixel_agrees_with_the_formula(name, classes):
    probs = some_probs(classes=classes)
    found = MEASURES[name](probs)
    assert found.shape == (2, 9, 13) and found.dtype == torch.float32
    for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(13)).tolist():
        assert found[b, i, j].item() == pytest.approx(PLAIN[name](probs[b, :, i, j].double().tolist()), abs=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_values_stay_in_range_where_rounding_could_leave_it(name):
    probs = torch.cat([torch.eye(7), torch.full((1, 7), 1 / 7), torch.full((1, 7), 1 / 7 + 1e-7), torch.eye(7) * (1 + 2e-7)])
    value = MEASURES[name](probs)
    assert (value >= 0).all() and (value <= 1).all()
    assert torch.allclose(value[:7], torch.zeros(7), atol=1e-6) and value[7].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype, allowed", [(torch.bfloat16, 0.02), (torch.float16, 0.003), (torch.float64, 1e-5)])
def test_other_types_stay_close_and_finite(name, dtype, allowed):
    probs = some_probs(sharpness=12)
    value = MEASURES[name](probs.to(dtype))
    assert value.dtype == dtype and value.isfinite().all()
    assert (value.double() - MEASURES[name](probs).double()).abs().max() < allowed


def test_a_tie_of_the_two_strongest_classes_has_margin_one():
    assert margin(torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])).tolist() == [1.0, 1.0]


def test_entropy_is_the_one_of_the_losses():
    probs = some_probs()
    assert torch.allclose(entropy(probs), normalised_entropy(probs), atol=1e-5)


def test_entropy_can_be_a_loss_even_at_certainty():
    logits = torch.tensor([[200.0, 0.0, -200.0], [1.0, 0.5, 0.0]], requires_grad=True)
    entropy(logits.softmax(1)).sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[1].abs().sum() > 0


@pytest.mark.parametrize("function", [*MEASURES.values(), lambda p: region_impurity(p, 1), lambda p: ripu(p, 1), check_probs])
@pytest.mark.parametrize("bad, found", [
    (torch.zeros(3, 4, dtype=torch.int64), "torch.int64"), (torch.rand(2, 1, 3, 3), r"\(2, 1, 3, 3\)"), (torch.rand(5), r"\(5,\)"),
    ([0.5, 0.5], "list")])
def test_what_is_not_a_batch_of_probabilities_is_refused(function, bad, found):
    with pytest.raises(ConfigError, match=f"probs: found .*{found}.*expected floating-point probabilities"):
        function(bad)


@pytest.mark.parametrize("change, message", [
    (lambda p: p.log(), "logits, call .softmax"), (lambda p: p * 0.98, "class sums from 0.98"),
    (lambda p: p.masked_fill(p == p.max(), torch.nan), "1 values"),
    (lambda p: p.masked_fill(p == p.max(), torch.inf), "NaN or infinite"), (lambda p: p.movedim(1, 3), "dimension 1 is the class")])
def test_check_probs_names_what_is_wrong(change, message):
    with pytest.raises(ConfigError, match=f"^saved.pt: found .*{message}"):
        check_probs(change(some_probs()), "saved.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_check_probs_accepts_every_softmax(dtype):
    check_probs(some_probs(sharpness=5, dtype=dtype))
    check_probs(some_probs(batch=0))


@pytest.mark.parametrize("radius", [0, 1, 16, 32])
def test_window_sums_agree_with_sums_pixel_by_pixel(radius):
    values = torch.rand(40, 23, generator=torch.Generator().manual_seed(1))
    found = box_sum(values, radius)
    rows = values.double().tolist()
    for i in range(0, 40, 3):
        for j in range(0, 23, 2):
            window = [v for row in rows[max(0, i - radius):i + radius + 1] for v in row[max(0, j - radius):j + radius + 1]]
            assert found[i, j].item() == pytest.approx(sum(window), abs=1e-9)


def test_counts_in_windows_are_exact_integers():
    ones = torch.ones(2, 3, 50, 60, dtype=torch.bool)
    found = box_sum(ones, 25)
    assert found.dtype == torch.int32 and found[0, 0, 25, 30].item() == 50 * 51 and found[0, 0, 0, 0].item() == 26 * 26


@pytest.mark.parametrize("radius", [1, 16, 32])
def test_region_scores_agree_with_a_plain_window(radius):
    probs = some_probs(batch=1, classes=5, height=20, width=36)
    impurity, uncertainty, product = (f(probs, radius) for f in (region_impurity, region_uncertainty, ripu))
    predicted, pixel = probs.argmax(1)[0], entropy(probs)[0].double()
    for i, j in ((0, 0), (19, 35), (10, 17), (3, 30)):
        rows, columns = slice(max(0, i - radius), i + radius + 1), slice(max(0, j - radius), j + radius + 1)
        inside = predicted[rows, columns].flatten().tolist()
        expected = plain_entropy([inside.count(c) / len(inside) for c in range(5)])
        mean = pixel[rows, columns].mean().item()
        assert impurity[0, i, j].item() == pytest.approx(expected, abs=1e-5)
        assert uncertainty[0, i, j].item() == pytest.approx(mean, abs=1e-5)
        assert product[0, i, j].item() == pytest.approx(expected * mean, abs=1e-5)


@pytest.mark.parametrize("radius", [-1, 1.5, True, "3"])
def test_a_radius_is_a_whole_number(radius):
    with pytest.raises(ConfigError, match="radius: found"):
        ripu(some_probs(), radius)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_region_scores_in_half_precision(dtype):
    probs = some_probs()
    found = ripu(probs.to(dtype), 2)
    assert found.dtype == dtype and found.isfinite().all()


@pytest.mark.parametrize("how", ["mean", "top"])
@pytest.mark.parametrize("masked", [False, True])
def test_image_scores_agree_with_sorting_by_hand(how, masked):
    generator = torch.Generator().manual_seed(3)
    pixel_map = torch.rand(4, 7, 9, generator=generator)
    valid = torch.rand(4, 7, 9, generator=generator) > 0.4 if masked else None
    found = image_score(pixel_map, how, q=0.15, valid=valid)
    for b in range(4):
        values = sorted((pixel_map[b] if valid is None else pixel_map[b][valid[b]]).flatten().tolist(), reverse=True)
        taken = values[:math.ceil(0.15 * len(values))] if how == "top" else values
        assert found[b].item() == pytest.approx(sum(taken) / len(taken), abs=1e-6)


def test_image_scores_do_not_hide_nan_and_do_not_see_what_is_left_out():
    pixel_map = torch.tensor([[[0.1, 0.3], [float("nan"), 0.2]]])
    valid = ~pixel_map.isnan()
    for how in ("mean", "top"):
        assert image_score(pixel_map, how).isnan().all()
        assert image_score(pixel_map, how, q=1.0, valid=valid).item() == pytest.approx(0.2)
        assert image_score(pixel_map, how, valid=torch.zeros_like(valid)).isnan().all()


def test_a_long_mean_in_half_precision_is_computed_in_single():
    found = image_score(torch.full((1, 512, 1024), 0.3, dtype=torch.float16))
    assert found.dtype == torch.float32 and found.item() == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("arguments, message", [
    (dict(pixel_map=torch.rand(4, 4)), r"expected \(B, H, W\)"), (dict(pixel_map=torch.rand(1, 4, 4), how="max"), "found 'max'"),
    (dict(pixel_map=torch.rand(1, 4, 4), how="top", q=0), "share above 0"), (dict(pixel_map=torch.rand(1, 4, 4), q=1.5), "share above 0"),
    (dict(pixel_map=torch.rand(1, 4, 4), valid=torch.ones(4, 4, dtype=torch.bool)), r"and \(4, 4\)")])
def test_image_score_refuses_what_it_cannot_mean(arguments, message):
    with pytest.raises(ConfigError, match=message):
        image_score(**arguments)


def test_auroc_agrees_with_counting_all_pairs_with_ties():
    generator = torch.Generator().manual_seed(2)
    value = torch.randint(0, 6, (90,), generator=generator) / 5
    wrong = torch.rand(90, generator=generator) < 0.3 + 0.4 * value
    pairs = [(a > b) + 0.5 * (a == b) for a in value[wrong].tolist() for b in value[~wrong].tolist()]
    assert error_auroc(value, wrong) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    keep = torch.arange(90) % 3 > 0
    assert error_auroc(value, wrong, keep) == pytest.approx(error_auroc(value[keep], wrong[keep]), abs=1e-12)
    assert math.isnan(error_auroc(value, torch.zeros_like(wrong)))


def test_sparsification_agrees_with_removing_one_by_one():
    generator = torch.Generator().manual_seed(4)
    value, wrong = torch.rand(50, generator=generator), torch.rand(50, generator=generator) < 0.4
    curve = sparsification(value, wrong, torch.arange(51) / 50)
    left = sorted(zip(value.tolist(), wrong.tolist()), reverse=True)
    for k in range(51):
        rest = [w for _, w in left[k:]]
        assert curve.error[k].item() == pytest.approx(sum(rest) / len(rest) if rest else 0)
        assert curve.caught[k].item() == pytest.approx(1 - sum(rest) / sum(w for _, w in left))


@pytest.mark.parametrize("function", [error_auroc, sparsification])
def test_errors_and_uncertainty_have_one_shape(function):
    for wrong in (torch.zeros(3, dtype=torch.bool), torch.zeros(4)):
        with pytest.raises(ConfigError, match="uncertainty, wrong: found"):
            function(torch.rand(4), wrong)


def test_no_function_of_a_training_step_looks_at_values():
    "On the meta device there are no values: any peek at one would fail."
    probs = torch.empty(2, 19, 8, 8, device="meta")
    regions = [region(probs, 2) for region in (region_impurity, region_uncertainty, ripu)]
    for value in (entropy(probs), margin(probs), least_confidence(probs), *regions):
        assert value.shape == (2, 8, 8) and value.device.type == "meta"
    assert image_score(entropy(probs), "top", valid=torch.empty(2, 8, 8, dtype=torch.bool, device="meta")).shape == (2,)
