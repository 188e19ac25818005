"""Related work: each function against a slow or a foreign version, each setting in the loop, and what is refused."""
import inspect
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import SIZE, SMALL, load, new_state, one

from stal_nb import related, step
from stal_nb.augmentation import PADDING_COLOUR
from stal_nb.config import Config, TrainingConfig
from stal_nb.experiments import Experiment
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.losses import pixel_cross_entropy, pseudo_labels, unsupervised_loss
from stal_nb.planning import step_share
from stal_nb.related import (
    FAMILIES,
    DomainDiscriminator,
    colour_transfer,
    domain_accuracy,
    domain_loss,
    entropy_loss,
    fourier_swap,
    from_lab,
    gradient_reversal,
    is_padding,
    low_frequencies,
    mean_teacher_cost,
    only_confident,
    reversal_strength,
    to_lab,
    translate,
)
from stal_nb.run import Run
from stal_nb.runtime.errors import ConfigError
from stal_nb.runtime.signals import StopRequested
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState, Update, training_step
from stal_nb.trainer import StepRunner, Trainer
from tiny import tiny

ALL = dict(two_strong_views=True, confidence_threshold=0.06, lambda_entropy=0.1, lambda_adversarial=0.1, translation="colour")


@pytest.fixture(scope="module")
def pools():
    return SceneDataset("sim", 6, size=SIZE), SceneDataset("real", 6, size=SIZE)


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- functions -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_a_reversed_gradient_is_the_opposite_of_the_one_by_finite_differences(strength):
    x = rand(5).requires_grad_()
    f = lambda v: (v.sin() * torch.arange(5)).sum()  # noqa: E731
    f(gradient_reversal(x, strength)).backward()
    with torch.no_grad():
        slopes = [(f(x + h) - f(x - h)) / 2e-6 for h in 1e-6 * torch.eye(5, dtype=x.dtype)]
        assert torch.equal(gradient_reversal(x, strength), x)
    torch.testing.assert_close(x.grad, -strength * torch.stack(slopes), rtol=1e-6, atol=1e-8)


def test_the_discriminator_learns_and_what_is_before_it_unlearns():
    "The gradients of L_adv: the discriminator's as without reversal, that of the probabilities turned round and scaled."
    torch.manual_seed(0)
    judge = DomainDiscriminator(4).double()
    probs = rand(5, 4, 16, 20).softmax(1)
    found = []
    for strength in (-1.0, 0.5):  # -1: as if there were no reversal
        x = probs.clone().requires_grad_()
        judge.zero_grad()
        domain_loss(judge, x, 2, strength).backward()
        found.append((x.grad, [p.grad.clone() for p in judge.parameters()]))
    torch.testing.assert_close(found[1][0], -0.5 * found[0][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1]))
    verdict = judge(probs)
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    by_hand = (plain(verdict[:2], torch.zeros_like(verdict[:2])) + plain(verdict[2:], torch.ones_like(verdict[2:]))) / 2
    assert domain_loss(judge, probs, 2).item() == pytest.approx(by_hand.item(), rel=1e-6)
    share = ((verdict[:2] < 0).double().mean() + (verdict[2:] > 0).double().mean()) / 2
    assert domain_accuracy(judge, probs, 2).item() == pytest.approx(share.item())
    for sources in (0, 5):
        with pytest.raises(ConfigError, match=f"sources: found {sources} of 5 images, expected some of both domains"):
            domain_loss(judge, probs, sources)
    assert reversal_strength(0.0) == 0 and 0.99 < reversal_strength(0.6) < reversal_strength(1.0) < 1


@pytest.mark.parametrize("size", [(12, 16), (13, 17), (20, 9)])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5])
def test_the_fourier_swap_is_that_of_the_authors_code(size, beta):
    "Their window in the shifted spectrum of NumPy: b = floor(min(h, w) beta), rows and columns c - b ... c + b."
    x, y = rand(2, 3, *size), rand(2, 3, *size, seed=1)
    a, other = (np.fft.fft2(v.numpy(), axes=(-2, -1)) for v in (x, y))
    own, styled = np.fft.fftshift(np.abs(a), axes=(-2, -1)), np.fft.fftshift(np.abs(other), axes=(-2, -1))
    b, (h, w) = int(np.floor(min(size) * beta)), (size[0] // 2, size[1] // 2)
    rows, columns = slice(max(0, h - b), h + b + 1), slice(max(0, w - b), w + b + 1)
    own[..., rows, columns] = styled[..., rows, columns]
    expected = np.fft.ifft2(np.fft.ifftshift(own, axes=(-2, -1)) * np.exp(1j * np.angle(a)), axes=(-2, -1)).real
    found = fourier_swap(x, y, beta)
    if beta < 0.5 or size[0] % 2 and size[1] % 2:  # their window has no mirror image of the highest frequency
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    torch.testing.assert_close(fourier_swap(x, x, beta), x)
    torch.testing.assert_close(found.mean((2, 3)), y.mean((2, 3)))
    assert low_frequencies(*size, 0.0).sum() == 1
    for wrong in (-0.1, 0.6):
        with pytest.raises(ConfigError, match=f"beta: found {wrong}, expected a number from 0 to 0.5"):
            fourier_swap(x, y, wrong)
    with pytest.raises(ConfigError, match="styles: found shape"):
        fourier_swap(x, y[..., :-1])


def test_lab_is_that_of_scikit_image_and_comes_back():
    from skimage.color import rgb2lab

    x = torch.cat([rand(2, 3, 9, 7), torch.zeros(1, 3, 9, 7, dtype=torch.float64), torch.ones(1, 3, 9, 7, dtype=torch.float64)])
    np.testing.assert_allclose(to_lab(x).movedim(1, -1).numpy(), rgb2lab(x.movedim(1, -1).numpy()), atol=2e-3)
    torch.testing.assert_close(from_lab(to_lab(x)), x, atol=1e-5, rtol=0)


def test_colours_get_the_mean_and_deviation_of_the_style_within_the_mask():
    x, y = 0.3 + 0.4 * rand(2, 3, 8, 8), 0.2 + 0.3 * rand(2, 3, 10, 6, seed=1)
    inside = rand(2, 1, 8, 8, seed=2) > 0.3
    found, wanted = to_lab(colour_transfer(x, y, inside)), to_lab(y)
    for k in range(2):
        pixels = found[k][:, inside[k, 0]]
        torch.testing.assert_close(pixels.mean(1), wanted[k].flatten(1).mean(1), atol=1e-3, rtol=0)
        torch.testing.assert_close(pixels.std(1, correction=0), wanted[k].flatten(1).std(1, correction=0), atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="styles: found shape"):
        colour_transfer(x, y[:1])


@pytest.mark.parametrize("kind", ["fourier", "colour"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_padding_counts_for_nothing_and_stays(kind, dtype):
    "A view with padding gets the look that its image alone would get, as far as colours go; the padding keeps its colour."
    x, y = rand(2, 3, 24, 32, dtype=dtype), rand(3, 3, 24, 32, seed=1, dtype=dtype)
    for channel, colour in enumerate(PADDING_COLOUR):
        x[0, channel, :, 20:] = colour
        y[:, channel, 12:] = colour
    outside = is_padding(x)
    assert outside[0].sum() == 24 * 12 and not outside[1].any()
    found = translate(x, y, kind, 0.1)
    assert found.dtype == dtype and torch.equal(found[0, :, :, 20:], x[0, :, :, 20:])
    assert found.min() >= 0 and found.max() <= 1 and not torch.equal(found[1], x[1])
    if kind == "colour":
        alone = translate(x[:1, :, :, :20], y[:1, :, :12], kind)
        torch.testing.assert_close(found[:1, :, :, :20], alone, atol=2e-3, rtol=0)
    assert translate(x, y, "none") is x and translate(x[:0], y, kind).shape == (0, 3, 24, 32)
    with pytest.raises(ConfigError, match="kind: found 'gan', expected one of none, fourier, colour"):
        translate(x, y, "gan")


def test_styles_are_shared_out_over_the_images_in_their_order():
    "Image k takes style k U // S, so that two processes choose as one with all images would."
    x, y = rand(4, 3, 8, 8), torch.stack([torch.full((3, 8, 8), v, dtype=torch.float64) for v in (0.2, 0.7)])
    means = translate(x, y, "fourier", 0.0).mean((1, 2, 3))
    assert means[:2].mean() < 0.4 and means[2:].mean() > 0.55
    parts = torch.cat([translate(x[:2], y[:1], "fourier", 0.0), translate(x[2:], y[1:], "fourier", 0.0)])
    assert torch.equal(parts, translate(x, y, "fourier", 0.0))


def test_entropy_is_a_mean_over_the_pixels_inside():
    logits, inside = 3 * rand(2, 5, 6, 7), rand(2, 6, 7, seed=1) > 0.4
    p = logits.softmax(1)
    plain = -(p * p.log()).sum(1) / math.log(5)
    assert entropy_loss(logits, inside).item() == pytest.approx(plain[inside].mean().item(), rel=1e-9)
    assert entropy_loss(logits).item() == pytest.approx(plain.mean().item(), rel=1e-9)
    assert entropy_loss(logits, torch.zeros_like(inside)).item() == 0
    certain = torch.zeros(1, 3, 2, 2)
    certain[:, 1] = 1e4
    x = certain.requires_grad_()
    entropy_loss(x).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 0.99])
def test_with_gamma_0_the_loss_is_fixmatchs_mean_over_all_pixels(threshold, pools):
    teacher, logits = 4 * rand(2, 5, 8, 8, dtype=torch.float32), rand(2, 5, 8, 8, seed=1, dtype=torch.float32)
    pseudo = pseudo_labels(teacher, 0.0)
    confidence, target = teacher.softmax(1).max(1)
    plain = (pixel_cross_entropy(logits, target) * (confidence >= threshold)).sum() / target.numel()
    kept, share = only_confident(pseudo, threshold)
    assert (share * unsupervised_loss(logits, kept, gamma=0.0)).item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-7)
    assert share.item() == pytest.approx((kept.labels != IGNORE).float().mean().item())


def test_the_mean_teachers_cost_teaches_the_student_alone():
    student, teacher = rand(1, 3, 2, 2).requires_grad_(), rand(1, 3, 2, 2, seed=1).requires_grad_()
    cost = mean_teacher_cost(student, teacher)
    cost.backward()
    difference = (student.softmax(1) - teacher.softmax(1)).detach()
    assert cost.item() == pytest.approx(difference.square().mean().item()) and teacher.grad is None and student.grad.abs().sum() > 0
    assert mean_teacher_cost(student, student).item() == 0


# -- settings --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, wrong", [
    (dict(lambda_entropy=-1), "lambda_entropy: found -1"), (dict(lambda_adversarial=-0.1), "lambda_adversarial: found -0.1"),
    (dict(translation="gan"), "translation: found 'gan', expected 'none', 'fourier' or 'colour'"),
    (dict(fourier_beta=0.6), "fourier_beta: found 0.6, expected a number from 0 to 0.5"),
    (dict(confidence_threshold=1.0), "confidence_threshold: found 1.0, expected a number from 0 to below 1"),
    (dict(two_strong_views=1), "two_strong_views: found 1, expected true or false"),
    (dict(two_strong_views=True, strong_views=False, cutmix_probability=0.0), "two_strong_views: found true, with strong_views false")])
def test_a_wrong_setting_is_refused_by_name(change, wrong):
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        replace(SMALL, **change)


@pytest.mark.parametrize("change", [dict(translation="fourier"), dict(lambda_adversarial=0.1)])
def test_what_needs_source_images_is_refused_without_them(change):
    (name,) = change
    with pytest.raises(ConfigError, match=f"{name}: found .* with source 'none', expected"):
        tiny(**change, source="none")


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_a_training(name, pools):
    loss, terms = one(replace(SMALL, **FAMILIES[name]), pools)
    loss.backward()
    assert loss.isfinite() and "L_s" in terms
    assert {"L_ent" in terms, "L_adv" in terms} <= {name == "entropy minimisation", name == "adversarial alignment", False}
    assert ("L_u" in terms) == (FAMILIES[name].get("lambda_u", 1) > 0)


@pytest.mark.parametrize("device", ["meta"] + (["cuda"] if torch.cuda.is_available() else []))
@pytest.mark.parametrize("translation", ["fourier", "colour"])
def test_a_step_with_all_of_it_waits_for_no_device(device, translation, pools):
    config = replace(SMALL, **{**ALL, "translation": translation})
    state, batch = new_state(config).to(device), {k: v.to(device) for k, v in load(config, pools).items()}
    generator = torch.Generator(device).manual_seed(0) if device == "cuda" else None
    if device == "cuda":
        training_step(state, batch, config, 0.5, generator)
        torch.cuda.set_sync_debug_mode("error")
    try:
        _, terms = training_step(state, batch, config, 0.5, generator, Update(torch.optim.SGD(state.student.parameters(), lr=0.1)))
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert {"L_s", "L_u", "L_c", "L_ent", "L_adv", "kept", "loss"} == set(terms)


def test_the_code_asks_the_device_for_nothing():
    asks = re.compile(r"\.(item|cpu|tolist|numpy|nonzero|unique|masked_select)\(|bool\(|torch\.tensor\(")
    for function in [getattr(related, n) for n in related.__all__ if inspect.isfunction(getattr(related, n))] + [step.mixed_view]:
        assert not asks.search(inspect.getsource(inspect.unwrap(function))), function.__name__


def test_two_views_of_one_image_have_colours_of_their_own_and_pseudo_labels_of_one_weak_view(pools, monkeypatch):
    config, seen, views = replace(SMALL, two_strong_views=True, cutmix_probability=0.0), [], []
    state = new_state(config)
    forward = state.student.forward
    monkeypatch.setattr(state.student, "forward", lambda x, *a, **k: seen.append(x) or forward(x, *a, **k))
    monkeypatch.setitem(step.TERMS, "look", step.Term(lambda view: views.append(view), weight="lambda_s", title="", colour=""))
    one(config, pools, state)
    (x,), (view,) = seen, views
    assert len(x) == 2 + 2 * 2 and not torch.equal(x[2:4], x[4:6]) and len(view.pseudo) == len(view.unlabelled_loss) == 2
    assert torch.equal(view.pseudo[0].labels, view.pseudo[1].labels) and view.mixing[1].shape == (4, 4)
    weight = [1 / (p.labels != IGNORE).sum() for p in view.pseudo]
    plain = replace(config, gamma=0.0, class_rate=False)
    by_hand = sum((loss * w).sum() for loss, w in zip(view.unlabelled_loss, weight)) / 2
    assert step.unsupervised_term(view._replace(config=plain)).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_teacher_is_mixed_as_each_of_the_two_views(one_thread):
    generator = torch.Generator().manual_seed(0)
    logits, vectors = torch.randn(1 + 4, 5, 16, 16, generator=generator), torch.randn(1 + 4, 3, 4, 4, generator=generator)
    labels, prediction = torch.zeros(1, 16, 16, dtype=torch.int64), logits[1:].argmax(1)
    boxes = [torch.tensor([[0, 0, 8, 8], [4, 4, 16, 16]]), torch.tensor([[8, 0, 12, 16], [0, 0, 0, 0]])]
    both = step.teacher_view(logits, vectors.clone(), labels, (prediction, torch.cat(boxes)))
    alone = [step.teacher_view(logits, vectors.clone(), labels, (prediction, part)) for part in boxes]
    for field in ("probs", "embeddings", "labels"):
        expected = torch.cat([getattr(alone[0], field), getattr(alone[1], field)[1:]])
        assert torch.equal(getattr(both, field), expected)
    assert both.labelled.tolist() == [True] + 4 * [False]


def test_source_images_alone_change_their_look_and_labels_do_not(pools, monkeypatch):
    config, seen = replace(SMALL, translation="colour", copy_paste_probability=0.0), []
    state = new_state(config)
    forward = state.student.forward
    monkeypatch.setattr(state.student, "forward", lambda x, *a, **k: seen.append(x) or forward(x, *a, **k))
    batch = load(config, pools)
    training_step(state, batch, config, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0][1:2], batch["image"][1:2]) and not torch.equal(seen[0][:1], batch["image"][:1])
    assert torch.equal(seen[0][:1], translate(batch["image"][:1], batch["unlabelled"][:2], "colour"))


# -- the discriminator in the trainer --------------------------------------------------------------------------------------------------


def trainer(pools, folder=None, steps=6, **changes):
    config = replace(SMALL, **{**ALL, "checkpoint_every": 3, "plan_every": 2, **changes})
    source, target = pools
    return Trainer(config, CITYSCAPES, new_state(config), source, target, range(2), range(2, 6), num_steps=steps, folder=folder, log_every=1)


@pytest.mark.parametrize("changes", [{}, dict(mixed_precision="bf16"), dict(accumulate=2), dict(bad_loss="skip")], ids=str)
def test_a_training_that_was_stopped_goes_on_with_its_discriminator(changes, pools, tmp_path):
    whole = trainer(pools, **changes)
    whole.fit(bar=False)
    stopped = trainer(pools, tmp_path, **changes)
    stopped.on_step = lambda step, of: stopped.request_stop() if step == 3 else None
    with pytest.raises(StopRequested):
        stopped.fit(bar=False)
    assert any("discriminator" in name for name in load_file(stopped.checkpoint))
    goes_on = trainer(pools, tmp_path, **changes)
    goes_on.state.discriminator.layers[0].weight.data.zero_()  # what is loaded must come from the file
    assert goes_on.resume()
    goes_on.fit(bar=False)
    one, other = whole.state.state_dict(), goes_on.state.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    first = new_state(whole.config).state_dict()
    assert not torch.equal(one["discriminator.layers.0.weight"], first["discriminator.layers.0.weight"])


def test_the_discriminator_learns_at_the_rate_of_the_heads_whatever_the_weight(pools):
    "The weight of L_adv says how strongly the student is pushed, and not how fast the discriminator learns."
    found = []
    for weight in (1e-6, 1e-2):
        runner = trainer(pools, steps=1, lambda_adversarial=weight)
        before = [p.detach().clone() for p in runner.state.discriminator.parameters()]
        runner.fit(bar=False)
        found.append(torch.cat([(p.detach() - b).flatten() for p, b in zip(runner.state.discriminator.parameters(), before)]))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-7)


def test_a_bad_step_leaves_the_discriminator_alone(pools, monkeypatch):
    runner = trainer(pools, steps=1, bad_loss="skip")
    monkeypatch.setitem(step.TERMS, "bad", step.Term(lambda view: view.logits.sum() * float("nan"), weight="lambda_s", title="", colour=""))
    before = {k: v.clone() for k, v in runner.state.state_dict().items()}
    runner.fit(bar=False)
    after = runner.state.state_dict()
    assert runner.skipped == 1 and all(torch.equal(before[name], after[name]) for name in before)


def test_without_the_term_nothing_is_there(pools):
    state = new_state()
    assert state.discriminator is None and not [name for name in state.state_dict() if "discriminator" in name]
    torch.manual_seed(0)
    with_it = new_state(replace(SMALL, lambda_adversarial=0.1)).state_dict()
    assert all(torch.equal(value, with_it[name]) for name, value in state.state_dict().items()), "its weights draw nothing from others"


def test_a_run_hands_no_discriminator_on_and_forks_may_have_one(tmp_path):
    short = dict(val_images=0, source_steps=2, round_steps=(2,), budgets=(0.1,))
    plain = Run.create(tiny(**short), tmp_path / "plain")
    plain.bar = False
    plain.advance()
    fork = plain.fork(tmp_path / "fork", "source", lambda_adversarial=0.1, translation="fourier", two_strong_views=True)
    fork.bar = False
    fork.finish()
    stored = load_file(fork.layout.checkpoint("round 0"))
    assert not [name for name in stored if "discriminator" in name]
    assert "L_adv" in (fork.layout.folder("round 0") / "training.csv").read_text(encoding="utf-8").splitlines()[0]
    assert fork.state_after("round 0").discriminator is None


def test_a_step_sees_two_views_in_its_figures(pools):
    one_view, two = (StepRunner(replace(SMALL, two_strong_views=two), CITYSCAPES, new_state(), *pools, range(2), range(2, 6)) for two in (False, True))
    assert (one_view.images_per_step, two.images_per_step) == (4, 6)


def test_the_defaults_are_the_method():
    config = TrainingConfig()
    assert (config.lambda_entropy, config.lambda_adversarial, config.confidence_threshold, config.translation, config.views) == (0, 0, 0, "none", 1)
    assert FAMILIES["STAL"] == {} and all(Config.preset("demo", **settings) for settings in FAMILIES.values())


def test_the_experiment_has_an_arm_for_each_family():
    experiment = Experiment.read(Path(__file__).parent.parent / "experiments" / "related_scenes.toml")
    arms = {arm.name: arm for arm in experiment.arms}
    assert {name: dict(arms[name].changes) for name in FAMILIES} == FAMILIES
    assert {sum(c.round_steps) + c.source_steps for c in (task.config for task in experiment.tasks() if task.arm)} == {260}


def test_a_plan_counts_the_second_view():
    assert [step_share(replace(SMALL, two_strong_views=two)) for two in (False, True)] == [4, 6]


def test_the_state_can_be_moved_and_copied():
    from copy import deepcopy

    state = TrainingState(replace(SMALL, lambda_adversarial=0.1), 19, 6, 6)
    assert deepcopy(state).discriminator.layers[0].weight.shape == (32, 19, 4, 4)


@pytest.mark.parametrize("classes", [2, 19, 150])
def test_a_discriminator_learns_steadily_where_the_network_is_sure(classes):
    "At the rate of a run's heads, with momentum, on maps of probability 0 and 1: the worst that its inputs can be."
    torch.manual_seed(0)
    discriminator = DomainDiscriminator(classes)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1, momentum=0.9)
    dice, losses = torch.Generator().manual_seed(0), []
    for _ in range(120):
        maps = torch.randint(classes, (4, 4, 8), generator=dice)
        maps[2:, :2] = 0  # the upper half of the target is of one class
        probs = torch.nn.functional.one_hot(maps, classes).permute(0, 3, 1, 2).float()
        probs = torch.nn.functional.interpolate(probs, scale_factor=8)
        loss = domain_loss(discriminator, probs, sources=2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 5 and sum(losses[-20:]) / 20 < 0.5
