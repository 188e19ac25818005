"""Uncertainty: the vectorised functions say what plain per-pixel loops say, in every type, and refuse what is not a probability."""
import math

import pytest
import torch
from torch import nn

from stal_nb.calibration import Calibration, ErrorHistogram, ause, error_auroc, reliability, sparsification
from stal_nb.losses import normalised_entropy
from stal_nb.models import EMATeacher
from stal_nb.runtime.errors import ConfigError
from stal_nb.runtime.ops import check_probs
from stal_nb.uncertainty import (
    ENSEMBLE_MEASURES,
    MEASURES,
    Ensemble,
    bald,
    box_sum,
    class_probs,
    class_std,
    dropout_passes,
    ensemble_passes,
    entropy,
    evaluating,
    expected_entropy,
    image_score,
    least_confidence,
    margin,
    mc_dropout,
    mean_std,
    predictive_entropy,
    region_impurity,
    region_uncertainty,
    ripu,
    variation_ratio,
)


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
    (lambda p: p.log(), "logits, call .softmax"), (lambda p: p * 0.97, "class sums from 0.97"),
    (lambda p: p.masked_fill(p == p.max(), torch.nan), "1 values"),
    (lambda p: p.masked_fill(p == p.max(), torch.inf), "NaN or infinite"), (lambda p: p.movedim(1, 3), "dimension 1 is the class")])
def test_check_probs_names_what_is_wrong(change, message):
    with pytest.raises(ConfigError, match=f"^saved.pt: found .*{message}"):
        check_probs(change(some_probs()), "saved.pt")


@pytest.mark.parametrize("measure", MEASURES.values())
def test_the_maps_refuse_what_is_no_probability(measure):
    "Logits gave a number that looked like an entropy; NaN went through to the ranking."
    logits = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="for logits, call .softmax"):
        measure(logits)
    with pytest.raises(ConfigError, match="for logits, call .softmax"):
        measure(logits.abs())
    with pytest.raises(ConfigError, match="80 values that are NaN"):
        measure(torch.full((1, 5, 4, 4), torch.nan))
    assert measure(torch.empty(2, 5, 4, 4, device="meta").softmax(1)).shape == (2, 4, 4)


def test_elsewhere_than_on_a_cpu_nobody_waits_for_the_check(monkeypatch):
    "The assertion of the device gets its answer as a tensor; nothing reads a number back."
    asked = []
    monkeypatch.setattr(torch, "_assert_async", lambda fine, message: asked.append((fine, message)))
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda self: False))
    assert check_probs(some_probs(), "saved.pt") == some_probs().shape[1] and check_probs(some_probs().log(), "saved.pt")
    assert [bool(fine) for fine, _ in asked] == [True, False] and asked[0][1].startswith("saved.pt: expected probabilities")


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


@pytest.mark.parametrize("radius", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize("function", [ripu, region_impurity, region_uncertainty])
def test_a_radius_is_a_whole_number_above_zero(function, radius):
    with pytest.raises(ConfigError, match="radius: found .*expected an integer of 1 or more"):
        function(some_probs(), radius)
    if radius != 0:
        with pytest.raises(ConfigError, match="radius: found .*expected an integer of 0 or more"):
            box_sum(some_probs(), radius)


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


@pytest.mark.parametrize("values", [7, 1000])
def test_auroc_and_calibration_error_are_those_of_torchmetrics(values):
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    generator = torch.Generator().manual_seed(values)
    value = (torch.randint(1, values, (5000,), generator=generator) + 0.3) / values  # few or many ties, none on an edge
    wrong = torch.rand(5000, generator=generator) < 0.2 + 0.5 * value
    assert error_auroc(value, wrong) == pytest.approx(binary_auroc(value, wrong.int()).item(), abs=1e-6)
    expected = binary_calibration_error(value, (~wrong).int(), n_bins=15, norm="l1").item()
    assert reliability(value, wrong).ece == pytest.approx(expected, abs=1e-6)


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


# -- several members ------------------------------------------------------------------------------------------------------------------


def some_members(count=6, **options):
    return torch.stack([some_probs(seed, **options) for seed in range(count)])


def plain_ensemble(members):
    "The five measures of one pixel from a list of T lists of C probabilities, in plain Python."
    count, classes = len(members), len(members[0])
    mean = [sum(p[c] for p in members) / count for c in range(classes)]
    votes = [max(range(classes), key=lambda c: (p[c], -c)) for p in members]
    spread = [math.sqrt(sum((p[c] - mean[c]) ** 2 for p in members) / count) for c in range(classes)]
    each = sum(map(plain_entropy, members)) / count
    return {"predictive_entropy": plain_entropy(mean), "expected_entropy": each, "bald": plain_entropy(mean) - each,
            "variation_ratio": 1 - max(map(votes.count, range(classes))) / count,
            "mean_std": sum(spread) / classes / (math.sqrt(classes - 1) / classes)}, spread


@pytest.mark.parametrize("classes", [2, 3, 19])
@pytest.mark.parametrize("sharpness", [1.0, 12.0])
def test_measures_of_several_members_agree_with_the_formulas(classes, sharpness):
    members = some_members(classes=classes, height=4, width=5, sharpness=sharpness)
    found, stds = {name: measure(members) for name, measure in ENSEMBLE_MEASURES.items()}, class_std(members)
    for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).tolist():
        expected, spread = plain_ensemble(members[:, b, :, i, j].double().tolist())
        for name in ENSEMBLE_MEASURES:
            assert found[name].shape == (2, 4, 5) and found[name][b, i, j].item() == pytest.approx(expected[name], abs=1e-5), name
        assert stds[b, :, i, j].tolist() == pytest.approx(spread, abs=1e-5)


@pytest.mark.parametrize("shift", [1e-3, 1e-5])
def test_a_small_spread_is_not_lost_to_rounding(shift):
    "The mean of squares minus the squared mean would have no correct digit left here in single precision."
    base = torch.tensor([0.7, 0.3]).view(1, 2, 1, 1).double()
    step = torch.tensor([shift, -shift]).view(1, 2, 1, 1).double()
    found = class_std((base + sign * step).float() for sign in [1, -1] * 50)
    assert found[0, 0].item() == pytest.approx(shift, rel=0.02)


def test_a_stream_a_list_and_a_tensor_are_the_same_ensemble():
    members = some_members()
    forms = [members, list(members), Ensemble(iter(members)), Ensemble().add(members[0])]
    for probs in members[1:]:
        forms[-1].add(probs)
    for measure in (*ENSEMBLE_MEASURES.values(), class_std):
        results = [measure(form if not isinstance(form, list) else iter(form)) for form in forms]
        assert all(torch.equal(result, results[0]) for result in results[1:])


def test_memory_does_not_grow_with_the_number_of_members():
    ensemble, sizes = Ensemble(), []
    for seed in range(40):
        ensemble.add(some_probs(seed))
        sizes.append(sum(t.numel() for t in vars(ensemble).values() if isinstance(t, torch.Tensor)))
    assert len(set(sizes)) == 1 and ensemble.count == 40


def test_one_member_and_equal_members_do_not_disagree():
    probs = some_probs()
    for members in (probs[None], probs.expand(7, -1, -1, -1, -1)):
        for measure in (bald, variation_ratio, mean_std):
            assert measure(members).abs().max() < 1e-6
        assert torch.allclose(predictive_entropy(members), entropy(probs), atol=1e-6)
        assert torch.allclose(expected_entropy(members), entropy(probs), atol=1e-6)


def test_members_that_are_sure_of_different_classes_reach_the_upper_ends():
    members = torch.eye(5).view(5, 1, 5, 1)
    assert bald(members).item() == pytest.approx(1) and mean_std(members).item() == pytest.approx(1)
    assert variation_ratio(members).item() == pytest.approx(0.8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_members_keep_their_type_and_stay_in_range(dtype):
    members = some_members().to(dtype)
    for measure in (*ENSEMBLE_MEASURES.values(), class_std):
        found = measure(members)
        assert found.dtype == dtype and found.isfinite().all() and (found >= 0).all() and (found <= 1).all()
        assert (found.double() - measure(members.double())).abs().max() < (0.02 if dtype != torch.float64 else 1e-12)


@pytest.mark.parametrize("bad, message", [
    ([], "members: found none"), (torch.rand(3, 4), r"members: found \(3, 4\)"),
    (torch.rand(2, 1, 1, 3, 3), r"probs: found \(1, 1, 3, 3\)"), (torch.zeros(2, 1, 3, 4, 4, dtype=torch.int64), "torch.int64"),
    ([torch.full((1, 4, 4, 4), 0.25), torch.full((1, 4, 4, 5), 0.25)], "like the 1 members before")])
def test_what_is_no_ensemble_is_refused(bad, message):
    for measure in (*ENSEMBLE_MEASURES.values(), class_std):
        with pytest.raises(ConfigError, match=message):
            measure(bad)


class Tiny(nn.Module):
    "Body, dropout, head; counts how often its body runs."

    def __init__(self, dropout=0.5, layer=nn.Dropout):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.drop, self.head, self.runs = layer(dropout), nn.Conv2d(8, 4, 1), 0
        self.body.register_forward_hook(self.count)

    def count(self, *_):
        self.runs += 1

    def forward(self, images):
        return self.head(self.drop(self.body(images)))


class Writes(Tiny):
    "Adds what dropout gives INTO the remembered features."

    def forward(self, images):
        features = self.body(images)
        return self.head(features.add_(self.drop(features)))


class Twice(Tiny):
    "Uses its body before and after dropout."

    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        return self.head(self.body(self.again(self.drop(self.body(images)))))


def slow_passes(model, images, count, seed=0):
    "All of the network in each pass, masks by hand."
    generator = torch.Generator().manual_seed(seed)

    def mask(layer, inputs, output):
        shape = output.shape if isinstance(layer, nn.Dropout) else output.shape[:2] + (1, 1)
        return output * (torch.empty(shape).bernoulli_(1 - layer.p, generator=generator) / (1 - layer.p))

    model.eval()
    handle = model.drop.register_forward_hook(mask)
    with torch.no_grad():
        found = torch.stack([model(images).softmax(1) for _ in range(count)])
    handle.remove()
    return found


IMAGES = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("make", [Tiny, Writes, Twice, lambda: Tiny(0.3, nn.Dropout2d)])
def test_remembering_what_comes_before_dropout_changes_nothing(make):
    assert torch.equal(mc_dropout(make(), IMAGES, 5), slow_passes(make(), IMAGES, 5))
    with torch.inference_mode():
        assert torch.equal(mc_dropout(make(), IMAGES, 5), slow_passes(make(), IMAGES, 5))


def test_what_comes_before_dropout_runs_once():
    model = Tiny()
    mc_dropout(model, IMAGES, 9)
    assert model.runs <= 9 and not any("forward" in vars(part) for part in model.modules())
    calls = []
    model.body[0].register_forward_hook(lambda *_: calls.append(1))
    mc_dropout(model, IMAGES, 9)
    assert len(calls) == 1


@pytest.mark.parametrize("training", [True, False])
def test_asking_with_dropout_leaves_network_and_random_numbers_alone(training):
    model = Tiny().train(training)
    model.body[1].eval()  # a frozen BatchNorm in a training network
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [part.training for part in model.modules()]
    state = torch.get_rng_state()
    stream = dropout_passes(model, IMAGES, 4)
    next(stream)
    assert [part.training for part in model.modules()] == modes  # between passes too
    assert not [k for part in model.modules() for k in part._forward_hooks if part is not model.body]
    list(stream)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)

    def fails(network, images):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        mc_dropout(model, IMAGES, 3, predict=fails)
    assert [part.training for part in model.modules()] == modes and not model.drop._forward_hooks


def test_the_generator_decides_and_a_rate_replaces_the_layers():
    model, again = Tiny(), torch.Generator().manual_seed(3)
    first = mc_dropout(model, IMAGES, 3, torch.Generator().manual_seed(3))
    assert torch.equal(first, mc_dropout(model, IMAGES, 3, again)) and not torch.equal(first, mc_dropout(model, IMAGES, 3, again))
    assert torch.equal(mc_dropout(Tiny(0.0), IMAGES, 3, rate=0.5), mc_dropout(Tiny(0.5), IMAGES, 3))
    assert mc_dropout(model, IMAGES, 3, rate=0.9).std(0).mean() > mc_dropout(model, IMAGES, 3, rate=0.05).std(0).mean()
    many = mc_dropout(model, IMAGES, 800)
    assert (many.mean(0) - class_probs(model.eval(), IMAGES)).abs().max() < 0.05  # what remains is scaled up: the mean stays


def test_a_teacher_can_be_asked_with_dropout():
    teacher = EMATeacher(Tiny())
    assert mc_dropout(teacher, IMAGES, 3).std(0).max() > 0.01 and not teacher.model.drop.training


@pytest.mark.parametrize("change, message", [
    (dict(passes=0), "passes: found 0"), (dict(passes=2.5), "passes: found 2.5"), (dict(rate=1.0), "rate: found 1.0"),
    (dict(rate=-0.1), "rate: found -0.1"), (dict(model=Tiny(0.0)), "found no dropout layer"),
    (dict(model=nn.Conv2d(3, 2, 1)), "in Conv2d")])
def test_dropout_that_cannot_be_is_refused_at_once(change, message):
    with pytest.raises(ConfigError, match=message):
        dropout_passes(**{"model": Tiny(), "images": IMAGES, **change})  # not only when the first pass is asked for


def test_an_ensemble_is_its_members_one_after_the_other():
    members = [Tiny().train(), Tiny()]
    nn.init.normal_(members[1].head.weight, generator=torch.Generator().manual_seed(1))
    found = list(ensemble_passes((m for m in members), IMAGES))
    assert members[0].training and len(found) == 2
    for member, probs in zip(members, found):
        with torch.no_grad(), evaluating(member):
            assert torch.equal(probs, member(IMAGES).softmax(1)) and not probs.requires_grad
    assert torch.allclose(Ensemble(found).probs, torch.stack(found).mean(0), atol=1e-6)


# -- error detection and calibration ---------------------------------------------------------------------------------------------------


def some_errors(count=400, seed=2, levels=None):
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(count, generator=generator)
    value = value if levels is None else (value * levels).floor() / levels
    return value, torch.rand(count, generator=generator) < 0.1 + 0.6 * value


def test_ause_agrees_with_removing_one_by_one():
    value, wrong = some_errors(60)
    rate = wrong.double().mean().item()
    ours, best = ([w for _, w in sorted(zip(keys, wrong.tolist()), key=lambda pair: -pair[0])] for keys in (value.tolist(), wrong.tolist()))
    gaps = [(sum(ours[k:]) - sum(best[k:])) / max(1, 60 - k) / rate for k in range(61)]
    assert ause(value, wrong) == pytest.approx(sum((a + b) / 2 for a, b in zip(gaps, gaps[1:])) / 60)
    assert ause(wrong.float(), wrong) == 0 and math.isnan(ause(value, torch.zeros_like(wrong)))
    keep = torch.arange(60) % 4 > 0
    assert ause(value, wrong, keep) == pytest.approx(ause(value[keep], wrong[keep]))


def test_histograms_agree_with_sorting_and_can_be_merged():
    value, wrong = some_errors(5000)
    keep = torch.arange(5000) % 5 > 0
    whole, parts = ErrorHistogram().add(value, wrong, keep), [ErrorHistogram() for _ in range(2)]
    parts[0].add(value[:2000], wrong[:2000], keep[:2000])
    merged = parts[0].merge(parts[1].add(value[2000:], wrong[2000:], keep[2000:]))
    assert torch.equal(merged.counts, whole.counts) and whole.error_rate == pytest.approx(wrong[keep].double().mean().item())
    assert whole.auroc() == pytest.approx(error_auroc(value, wrong, keep), abs=2e-4)
    assert whole.ause() == pytest.approx(ause(value, wrong, keep), abs=2e-3)
    shares = torch.linspace(0, 1, 21, dtype=torch.float64)
    exact = sparsification(value, wrong, shares, keep)
    assert [whole.caught(s) for s in shares.tolist()] == pytest.approx(exact.caught.tolist(), abs=2e-3)
    curve = whole.curve()
    assert curve.caught[-1] == 1 and curve.error[0].item() == pytest.approx(whole.error_rate) and (curve.removed.diff() > 0).all()


def test_histograms_with_a_bin_for_each_value_are_exact_about_ties():
    value, wrong = some_errors(300, levels=8)
    assert ErrorHistogram(8).add(value, wrong).auroc() == pytest.approx(error_auroc(value, wrong), abs=1e-12)


def test_ties_are_removed_in_random_order():
    "A measure that says 0 for most pixels gets no credit for the order in which they happen to lie."
    value, wrong = some_errors(600, levels=2)
    found, generator, areas = ErrorHistogram(2).add(value, wrong), torch.Generator().manual_seed(0), []
    for _ in range(200):
        order = torch.randperm(600, generator=generator)
        areas.append(ause(value[order], wrong[order]))
    assert found.ause() == pytest.approx(sum(areas) / len(areas), abs=0.01)
    assert found.curve().error[150].item() == pytest.approx(wrong[value == 0].double().mean().item(), abs=0.02)


@pytest.mark.parametrize("function", [lambda v, w: ErrorHistogram().add(v, w), lambda v, w: reliability(v, w)])
@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_counts_refuse_what_is_no_share(function, value):
    with pytest.raises(ConfigError, match="expected numbers from 0 to 1"):
        function(torch.tensor([0.5, value]), torch.tensor([True, False]))


def test_counts_refuse_impossible_bins_and_other_bins():
    for make in (ErrorHistogram, Calibration):
        for bins in (0, 2.5, True):
            with pytest.raises(ConfigError, match="bins: found"):
                make(bins)
    with pytest.raises(ConfigError, match="found 5 bins, expected 7"):
        ErrorHistogram(7).merge(ErrorHistogram(5))
    with pytest.raises(ConfigError, match="share: found 1.5"):
        ErrorHistogram().caught(1.5)


def test_reliability_agrees_with_bins_by_hand():
    confidence, wrong = some_errors(700)
    keep = torch.arange(700) % 3 > 0
    found, gap = reliability(confidence, wrong, 7, keep), 0.0
    pairs = [(c, w) for c, w, k in zip(confidence.double().tolist(), wrong.tolist(), keep.tolist()) if k]
    for b in range(7):
        inside = [(c, w) for c, w in pairs if b / 7 < c <= (b + 1) / 7 or (b == 0 and c == 0)]
        mean, right = sum(c for c, _ in inside) / len(inside), sum(not w for _, w in inside) / len(inside)
        assert found.pixels[b] == len(inside) and found.confidence[b].item() == pytest.approx(mean)
        assert found.right[b].item() == pytest.approx(right)
        gap += len(inside) / len(pairs) * abs(right - mean)
    assert found.ece == pytest.approx(gap)
    streamed = Calibration(7).add(confidence[:99], wrong[:99], keep[:99]).add(confidence[99:], wrong[99:], keep[99:]).compute()
    assert streamed.ece == pytest.approx(gap) and reliability(torch.full((4,), 0.5), torch.tensor([True, False] * 2)).ece == 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_class_balanced_scores_agree_with_loops(weighted, masked):
    generator = torch.Generator().manual_seed(5)
    pixel_map, predicted = torch.rand(3, 6, 8, generator=generator), torch.randint(0, 4, (3, 6, 8), generator=generator)
    valid = torch.rand(3, 6, 8, generator=generator) > 0.5 if masked else None
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 9.0]) if weighted else None
    found = image_score(pixel_map, "class_balanced", valid=valid, predicted=predicted, class_weights=weights)
    for b in range(3):
        total = share = 0.0
        for c in range(4):
            here = predicted[b] == c if valid is None else (predicted[b] == c) & valid[b]
            weight = 1.0 if weights is None else weights[c].item()
            total, share = total + weight * pixel_map[b][here].double().mean().item(), share + weight
        assert found[b].item() == pytest.approx(total / share, abs=1e-6)
    nobody = torch.zeros(3, 6, 8, dtype=torch.bool)
    assert image_score(pixel_map, "class_balanced", valid=nobody, predicted=predicted, class_weights=weights).isnan().all()
    with pytest.raises(ConfigError, match="predicted: found None"):
        image_score(pixel_map, "class_balanced")
