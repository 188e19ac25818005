"""The training step: nothing waits for the device, every part can be turned off, every departure does what it says, looking changes nothing."""
import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from stal_nb import banks, losses, mixing, step
from stal_nb.augmentation import interpolate_ids
from stal_nb.config import DEPARTURES, TrainingConfig
from stal_nb.evaluation import centre_crop, evaluate
from stal_nb.labels import CITYSCAPES, IGNORE
from stal_nb.probe import Probe
from stal_nb.runtime import devices, ops
from stal_nb.runtime.batchnorm import separate_domains
from stal_nb.runtime.errors import ConfigError
from stal_nb.sampling import PlanState, StepLoader, WithoutLabels, plan_step
from stal_nb.scenes import SceneDataset
from stal_nb.step import TERMS, TrainingState, Update, training_step
from stal_nb.trainer import Trainer

SIZE = (32, 64)
SMALL = TrainingConfig(backbone="mobilenet_v3_small", weights=None, aspp_channels=16, embedding_dim=8, crop_size=SIZE, source_batch=1, target_batch=1,
                       unlabelled_batch=2, bank_capacity=40, bank_push=8, num_anchors=5, num_negatives=6, copy_paste_probability=1.0, device="cpu")


@pytest.fixture(scope="module")
def pools():
    return SceneDataset("sim", 6, size=SIZE), SceneDataset("real", 6, size=SIZE)


def load(config, pools):
    source, target = pools
    start = PlanState(np.full(19, 1 / 19), np.zeros((6, 19), bool), np.zeros((6, 19), bool), np.arange(2), np.arange(2, 6))
    return StepLoader(config, 19, source, target, WithoutLabels(target))[plan_step(config, 1, 0, start)]


def new_state(config=SMALL):
    torch.manual_seed(0)
    return TrainingState(config, 19, 6, 6)


def one(config, pools, state=None, progress=0.5):
    state = state or new_state(config)
    state.student.train()
    torch.manual_seed(0)
    return training_step(state, load(config, pools), config, progress, torch.Generator().manual_seed(0))


# -- no waiting -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta"] + (["cuda"] if torch.cuda.is_available() else []))
def test_a_step_needs_no_value_of_a_tensor_to_go_on(device, pools):
    "Meta tensors have no values; and where there is a GPU, its driver is asked to raise an error at any wait."
    config = replace(SMALL, consistency_on_labelled=True)
    state, batch = new_state(config).to(device), {k: v.to(device) for k, v in load(config, pools).items()}
    generator = torch.Generator(device).manual_seed(0) if device == "cuda" else None
    if device == "cuda":
        training_step(state, batch, config, 0.5, generator)  # warmed: libraries choose their kernels
        torch.cuda.set_sync_debug_mode("error")
    try:
        loss, terms = training_step(state, batch, config, 0.5, generator, Update(torch.optim.SGD(state.student.parameters(), lr=0.1)))
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert loss.shape == () and {"L_s", "L_u", "L_u_labelled", "L_c", "kept", "loss"} == set(terms)


def test_the_code_of_a_step_asks_the_device_for_nothing():
    "`check_probs` is for public maps, not for a step, and reads values on a CPU only (`test_elsewhere_than_on_a_cpu_nobody_waits_for_the_check`)."
    functions = [getattr(m, n) for m in (losses, ops) for n in m.__all__ if n not in ("PseudoLabels", "check_probs", "what_is_wrong")] + [
        step.training_step, *(term.loss for term in TERMS.values()), step.contrast_step, step.teacher_view, step.Update.step,
        mixing.copy_paste, mixing.class_boxes, mixing.connected_regions, mixing.cutmix,
        mixing.CutMixTable.update, banks.ClassMemoryBank.push, banks.ClassMemoryBank.draw, banks.ConfidenceBank.update, losses._LogPush.forward]
    asks = re.compile(r"\.(item|cpu|tolist|numpy|nonzero|unique|masked_select)\(|bool\(|float\(\w+\[")
    for function in functions:
        for line in inspect.getsource(inspect.unwrap(function)).splitlines():
            assert not asks.search(line.split("#")[0]), f"{function.__name__}: {line.strip()}"


# -- every part can be turned off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off, gone", [(dict(lambda_s=0), {"L_s"}), (dict(lambda_u=0), {"L_u", "kept"}), (dict(lambda_c=0), {"L_c"}),
                                       (dict(unlabelled_batch=0), {"L_u", "kept"}), (dict(target_batch=0), set()), (dict(source_batch=0), set())])
def test_a_term_that_is_off_is_gone_and_the_rest_adds_up(off, gone, pools):
    config = replace(SMALL, **off)
    loss, terms = one(config, pools)
    assert set(terms) == {"L_s", "L_u", "L_c", "kept", "loss"} - gone
    weights = dict(L_s=config.lambda_s, L_u=config.lambda_u, L_c=config.lambda_c)
    assert loss.item() == pytest.approx(sum(w * terms[k].item() for k, w in weights.items() if k in terms), rel=1e-5)
    loss.backward()


def test_a_term_of_ones_own_is_a_function_and_a_row(pools, monkeypatch):
    "It has a weight of the configuration, is added to the loss, and is pulled by its gradient alone."
    row = step.Term(lambda view: view.logits.square().mean(), weight="gamma", title="small logits", colour="#000000")
    plain, _ = one(SMALL, pools)
    monkeypatch.setitem(step.TERMS, "small", row)
    loss, terms = one(SMALL, pools)
    assert loss.item() == pytest.approx(plain.item() + SMALL.gamma * terms["small"].item(), rel=1e-5)
    assert "small" not in one(replace(SMALL, gamma=0.0), pools)[1]


@pytest.mark.parametrize("sources", [1, 2])
def test_statistics_of_two_domains_are_kept_apart(sources, pools):
    "What BatchNorm remembers is the target's: other source images leave it as it is. The gradient comes from both."
    config = replace(SMALL, source_batch=sources, target_batch=2, domain_batchnorm=True, lambda_c=0.0, copy_paste_probability=0.0)

    def remembered(brightness):
        state, batch = new_state(config), load(config, pools)
        separate_domains(state.student.train())
        batch["image"][:sources] = brightness * batch["image"][:sources]
        torch.manual_seed(0)
        loss, terms = training_step(state, batch, config, 0.5, torch.Generator().manual_seed(0))
        loss.backward()
        gradient = state.student.classifier.weight.grad if hasattr(state.student.classifier, "weight") else next(state.student.parameters()).grad
        return {name: buffer for name, buffer in state.student.named_buffers() if "running" in name}, gradient, terms

    (dark, first, terms), (bright, second, _) = remembered(0.3), remembered(1.0)
    assert terms["L_u"] > 0 and len(dark) > 20 and all(torch.equal(dark[name], bright[name]) for name in dark)
    assert not torch.equal(first, second)
    together = replace(config, domain_batchnorm=False)
    mixed = [{name: buffer for name, buffer in state.student.named_buffers() if "running" in name} for state in (new_state(together), new_state(together))
             if one(together, pools, state)]
    assert any(not torch.equal(mixed[0][name], dark[name]) for name in dark)


def test_a_trainer_converts_the_student_and_leaves_its_names(pools):
    source, target = pools
    config = replace(SMALL, source_batch=2, domain_batchnorm=True)
    state = TrainingState(config, 19, len(source), len(target))
    names = list(state.student.state_dict())
    Trainer(config, CITYSCAPES, state, source, target, labelled=range(2), unlabelled=range(2, 6), num_steps=2).fit(bar=False)
    layers = [layer for layer in state.student.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert layers and all(type(layer).__name__.endswith("ByDomain") and layer.sources == 2 for layer in layers)
    assert list(state.student.state_dict()) == names and not any(type(m).__name__.endswith("ByDomain") for m in state.teacher.modules())


def test_with_an_update_the_student_learns_and_the_teacher_follows(pools):
    state = new_state()
    update = Update(torch.optim.SGD(state.student.parameters(), lr=0.1))
    before = [p.clone() for p in state.student.parameters()]
    state.student.train()
    for number in range(2):
        training_step(state, load(SMALL, pools), SMALL, 0.5, torch.Generator().manual_seed(0), update)
        assert update.number == number + 1 and all(p.grad is None for p in state.student.parameters())
        same = all(torch.equal(a, b) for a, b in zip(state.teacher.model.parameters(), state.student.parameters()))
        assert same == (number == 0), "at the first update the teacher becomes the student, then it lags"
    assert not all(torch.equal(a, b) for a, b in zip(before, state.student.parameters()))


@pytest.mark.parametrize("off", [dict(ohem=False), dict(aux_weight=0.0), dict(gamma=0.0), dict(class_rate=False), dict(copy_paste_probability=0.0),
                                 dict(strong_views=False), dict(drop_percent=0.0)])
def test_each_switch_changes_the_loss(off, pools):
    state = new_state()
    state.confidence.confidence.copy_(torch.linspace(0, 0.9, 19))  # else the class rate is 1 for all
    before = {k: v.clone() for k, v in state.state_dict().items()}
    config = replace(SMALL, ohem_threshold=0.0)  # an untrained network finds every pixel hard
    base = one(config, pools, state)[0].item()
    state.load_state_dict(before)
    assert one(replace(config, **off), pools, state)[0].item() != base


def test_cutmix_moves_a_box_and_is_off_without_a_class(pools, monkeypatch):
    config, seen = replace(SMALL, strong_views=False), []
    state = new_state(config)
    forward = state.student.forward
    monkeypatch.setattr(state.student, "forward", lambda x, *a, **k: seen.append(x) or forward(x, *a, **k))
    batch = load(config, pools)
    prediction = state.teacher(torch.cat([batch["image"], batch["unlabelled"]])).logits.argmax(1)[-2:]
    for wanted in (prediction.flatten(1).mode().values, torch.full((2,), -1)):
        training_step(state, {**batch, "partner_class": wanted}, config, 0.5, torch.Generator().manual_seed(0))
    plain = batch["unlabelled"][:2]
    assert not torch.equal(seen[0][2:], plain) and torch.equal(seen[1][2:], plain)


def test_without_strong_views_and_mixing_the_student_sees_what_the_teacher_sees(pools, monkeypatch):
    seen = []
    config = replace(SMALL, strong_views=False, cutmix_probability=0.0)
    state = new_state(config)
    forward = state.student.forward
    monkeypatch.setattr(state.student, "forward", lambda x, *a, **k: seen.append(x) or forward(x, *a, **k))
    one(config, pools, state)
    assert torch.equal(seen[0][2:], load(config, pools)["unlabelled"][:2])


# -- departures ------------------------------------------------------------------------------------------------------------------------


def test_interpolated_ids_invent_classes_on_the_source_alone(pools):
    assert set(interpolate_ids(torch.tensor([[0, 13]]), (1, 8)).unique().tolist()) - {0, 13}
    assert set(interpolate_ids(torch.tensor([[IGNORE, 3]]), (1, 16)).unique().tolist()) == {IGNORE, 0, 1, 2, 3}  # void is 0 in SYNTHIA's files
    config = replace(SMALL, source_scale=(1.7, 1.8), target_scale=(1.7, 1.8), copy_paste_probability=0.0)
    plain, departed = load(config, pools), load(replace(config, **DEPARTURES["labels"]), pools)
    assert torch.equal(plain["image"], departed["image"]) and torch.equal(plain["labels"][1], departed["labels"][1])
    assert (plain["labels"][0] != departed["labels"][0]).any()
    assert not set(plain["labels"][0].unique().tolist()) - set(pools[0][int(plain["source_index"][0])].labels.unique().tolist())


def test_the_released_negatives_leave_the_bank_empty_and_l_c_zero(pools):
    state = new_state()
    one(SMALL, pools, state)
    assert state.memory.counts.sum() > 0
    state = new_state()
    _, terms = one(replace(SMALL, **DEPARTURES["negatives"]), pools, state)
    assert state.memory.counts.sum() == 0 and terms["L_c"] == 0


def test_the_released_filter_keeps_the_other_pixels(pools):
    config = replace(SMALL, drop_percent=80.0)
    shares = [one(c, pools, progress=0.0)[1]["kept"].item() for c in (config, replace(config, **DEPARTURES["filter"]))]
    assert shares == pytest.approx([0.2, 0.2], abs=0.02)


def test_every_departure_runs_and_is_a_setting():
    for change in DEPARTURES.values():
        assert replace(SMALL, **change) != SMALL


# -- looking, settings, measuring --------------------------------------------------------------------------------------------------------


def test_a_probe_changes_nothing_and_finds_what_it_should(pools):
    def train(probe):
        torch.manual_seed(1)
        trainer = Trainer(SMALL, CITYSCAPES, TrainingState(SMALL, 19, 6, 6), *pools, labelled=range(2), unlabelled=range(2, 6), num_steps=3,
                          log_every=1, probe=probe)
        trainer.fit(bar=False)
        return trainer

    plain, watched = train(None), train(Probe(SceneDataset("real", 3, size=SIZE, seed=9)))
    assert all(torch.equal(a, b) for a, b in zip(plain.state.state_dict().values(), watched.state.state_dict().values()))
    for row in watched.log:
        assert {"pull/L_s", "pull/L_u", "pull/L_c", "right/kept", "right/dropped", "right/student", "gap"} <= set(row)
        assert all(0 <= row[k] <= 1 for k in ("right/kept", "right/dropped", "right/student", "gap")) and row["pull/L_s"] > 0
    assert set(plain.log[0]) <= set(watched.log[0])


def test_the_pull_of_a_term_is_the_gradient_it_would_give_alone(pools):
    state = new_state()
    before = {k: v.clone() for k, v in state.state_dict().items()}
    config = replace(SMALL, lambda_c=0.0, lambda_u=0.3)
    _, terms = one(config, pools, state)
    pulls = Probe.pulls(state, terms, config)
    for name, other in (("L_s", dict(lambda_u=0.0)), ("L_u", dict(lambda_s=0.0))):
        state.load_state_dict(before)
        state.student.zero_grad()
        one(replace(config, **other), pools, state)[0].backward()
        alone = torch.stack([p.grad.norm() for p in state.student.parameters() if p.grad is not None]).norm()
        assert pulls[f"pull/{name}"].item() == pytest.approx(alone.item(), rel=1e-3)


def test_a_probe_refuses_images_of_different_sizes():
    class Mixed:
        def __len__(self):
            return 2

        def __getitem__(self, k):
            return SceneDataset("real", 1, size=(32, 64) if k else (16, 32))[0]

    with pytest.raises(ConfigError, match="expected one size"):
        Probe(Mixed())


def test_a_bank_may_have_a_capacity_for_each_class():
    capacity = (50,) + (30,) * 18
    state = new_state(replace(SMALL, bank_capacity=capacity))
    assert state.memory.capacity.tolist() == list(capacity)
    assert replace(SMALL, bank_capacity=[3] * 19).bank_capacity == (3,) * 19
    with pytest.raises(ConfigError, match="bank_capacity: found"):
        replace(SMALL, bank_capacity=(3, 0))


@pytest.mark.parametrize("name", ["lambda_s", "lambda_u", "lambda_c", "gamma"])
def test_a_negative_weight_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: found -1"):
        replace(SMALL, **{name: -1})


def test_validation_on_a_centre_crop_sees_the_centre_alone(pools):
    maps = torch.arange(5 * 7).view(1, 5, 7)
    assert centre_crop(maps, (3, 3)).tolist() == [[[9, 10, 11], [16, 17, 18], [23, 24, 25]]]
    with pytest.raises(ConfigError, match=r"crop: found \(6, 3\), expected a height and width up to \(5, 7\)"):
        centre_crop(maps, (6, 3))
    state = new_state()
    cropped = evaluate(state.teacher, pools[1], CITYSCAPES, bar=False, crop=(16, 16))
    assert cropped.confusion.sum() <= 6 * 16 * 16 < evaluate(state.teacher, pools[1], CITYSCAPES, bar=False).confusion.sum()


def denormals_count():
    return float(torch.tensor(1e-39) * torch.tensor(1.0)) != 0


def test_denormals_are_flushed_inside_and_as_before_after_it():
    "Arithmetic with them made CPU trainings three times as long. Nested blocks, errors and a caller who flushes anyway."
    assert denormals_count()
    with pytest.raises(KeyError), devices.flush_denormals():
        with devices.flush_denormals():
            assert not denormals_count()
        assert not denormals_count(), "the inner block leaves the outer one alone"
        raise KeyError
    assert denormals_count()
    torch.set_flush_denormal(True)
    try:
        with devices.flush_denormals():
            pass
        assert not denormals_count()
    finally:
        torch.set_flush_denormal(False)


def test_training_and_measuring_flush_denormals(pools, monkeypatch):
    "The student's passes of a fit, and the passes of an evaluation."
    source, target = pools
    state, seen = new_state(), []
    state.student.register_forward_hook(lambda *_: seen.append(denormals_count()))
    Trainer(SMALL, CITYSCAPES, state, source, target, labelled=range(2), unlabelled=range(2, 6), num_steps=2).fit(bar=False)
    steps = len(seen)
    evaluate(state.student, target, CITYSCAPES, bar=False)
    assert steps >= 2 and len(seen) > steps and not any(seen) and denormals_count()
