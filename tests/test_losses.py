"""The loss functions: equal to slow plain versions, finite and zero where nothing counts, clear about bad input."""
import math
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stal_nb import losses as losses_module
from stal_nb.labels import IGNORE
from stal_nb.losses import (
    PseudoLabels,
    anchor_mask,
    class_prototypes,
    contrastive_loss,
    hard_pixels,
    negative_mask,
    normalised_entropy,
    ohem_cross_entropy,
    pixel_cross_entropy,
    pseudo_label_weights,
    pseudo_labels,
    supervised_loss,
    unsupervised_loss,
)
from stal_nb.runtime.errors import ConfigError
from stal_nb.runtime.ops import among_top, first_images, gather_pixels, masked_percentile, sample_pixels

B, C, H, W = 3, 7, 6, 9


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def logits(rng):
    return 2 * torch.randn(B, C, H, W, generator=rng)


@pytest.fixture
def labels(rng):
    labels = torch.randint(0, C, (B, H, W), generator=rng)
    labels[torch.rand(B, H, W, generator=rng) < 0.2] = IGNORE
    return labels


# -- slow and plain: one pixel, one class at a time, in Python's own float64 ------------------------------------------------------


def pixels(shape=(B, H, W)):
    return [(b, y, x) for b in range(shape[0]) for y in range(shape[1]) for x in range(shape[2])]


def plain_softmax(scores):
    top = max(scores)
    exps = [math.exp(s - top) for s in scores]
    return [e / sum(exps) for e in exps]


def plain_probs(logits):
    return {(b, y, x): plain_softmax(logits[b, :, y, x].tolist()) for b, y, x in pixels((len(logits), *logits.shape[2:]))}


def plain_entropy(p):
    return -sum(q * math.log(q) for q in p if q > 0) / math.log(len(p))


def plain_ohem(logits, labels, threshold, min_kept):
    p = {i: q[labels[i]] for i, q in plain_probs(logits).items() if labels[i] != IGNORE}
    floor = sorted(p.values())[min(min_kept, len(p)) - 1] if p and min_kept else -1
    kept = [q for q in p.values() if q < threshold or q <= floor]
    return sum(-math.log(q) for q in kept) / max(1, len(kept))


def plain_percentile(values, percent, upper=False):
    ordered, place = sorted(values), (len(values) - 1) * percent / 100
    return ordered[math.ceil(place - 1e-9) if upper else math.floor(place + 1e-9)]


def plain_unsupervised(logits, pseudo, gamma):
    p = plain_probs(logits)
    kept = [i for i in p if pseudo.labels[i] != IGNORE]
    weight = {i: float(pseudo.confidence[i]) ** gamma for i in kept}
    return sum(-weight[i] * math.log(p[i][pseudo.labels[i]]) for i in kept) / sum(weight.values())


def plain_cosine(a, b):
    dot, aa, bb = (sum(x * y for x, y in zip(u, v)) for u, v in ((a, b), (a, a), (b, b)))
    return dot / math.sqrt(aa * bb)


def plain_contrastive(anchors, positives, negatives, w, valid):
    terms = []
    for c in [c for c in range(len(anchors)) if valid[c]]:
        for a, others in zip(anchors[c].tolist(), negatives[c].tolist()):
            up = math.exp(plain_cosine(a, positives[c].tolist()) / w)
            terms.append(-math.log(up / (up + sum(math.exp(plain_cosine(a, n) / w) for n in others))))
    return sum(terms) / len(terms) if terms else 0.0


def plain_roles(logits, labels, labelled, valid, threshold, low, high, reliable, unreliable):
    "The words of the paper, one pixel and class at a time: (anchors, negatives) as sets of (pixel, class)."
    p = plain_probs(logits)
    entropy = {i: plain_entropy(q) for i, q in p.items()}
    pool = [entropy[i] for i in p if not labelled[i[0]] and valid[i]]
    sure, unsure = (plain_percentile(pool, reliable), plain_percentile(pool, unreliable, upper=True)) if pool else (-1, 2)
    anchors, negatives = set(), set()
    for i, q in p.items():
        for c in range(C):
            rank, label = sum(other > q[c] for other in q), labels[i]
            if labelled[i[0]]:
                is_anchor, is_negative = label == c, label not in (c, IGNORE) and rank < low
            else:
                is_anchor = label == c and valid[i] and entropy[i] <= sure + 1e-9
                is_negative = valid[i] and entropy[i] >= unsure - 1e-9 and low <= rank < high
            anchors |= {(*i, c)} if is_anchor and q[c] > threshold else set()
            negatives |= {(*i, c)} if is_negative else set()
    return anchors, negatives


def as_set(mask):
    return {(b, y, x, c) for b, c, y, x in mask.nonzero().tolist()}


# -- parity -----------------------------------------------------------------------------------------------------------------------


def test_entropy_is_that_of_the_plain_version(logits):
    plain = plain_probs(logits)
    found = normalised_entropy(logits.softmax(1))
    assert all(abs(found[i] - plain_entropy(p)) < 1e-6 for i, p in plain.items())


def test_entropy_is_zero_when_sure_one_when_not_and_has_a_finite_gradient_at_both():
    sure = torch.eye(4).T.reshape(1, 4, 2, 2).requires_grad_()
    normalised_entropy(sure).sum().backward()
    assert normalised_entropy(sure.detach()).eq(0).all() and sure.grad.isfinite().all()
    assert normalised_entropy(torch.full((1, 4, 1, 1), 0.25)).item() == pytest.approx(1)
    extreme = torch.tensor([1e4, -1e4, 0.0, 0.0]).view(1, 4, 1, 1).requires_grad_()
    normalised_entropy(extreme.softmax(1)).sum().backward()
    assert extreme.grad.isfinite().all()
    assert normalised_entropy(torch.ones(1, 1, 2, 2)).eq(0).all()  # a single class leaves no doubt


@pytest.mark.parametrize("threshold, min_kept", [(0.7, 0), (0.7, 10), (0.05, 10), (0.0, 1), (0.0, 40), (1.0, 1), (0.2, 100_000)])
def test_ohem_is_the_plain_version(logits, labels, threshold, min_kept):
    found = ohem_cross_entropy(logits, labels, threshold, min_kept).item()
    assert found == pytest.approx(plain_ohem(logits, labels, threshold, min_kept), abs=1e-5)


def test_ohem_keeps_exactly_the_hardest_and_never_an_ignored_pixel(logits, labels):
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    for count in (1, 5, 33):
        kept = hard_pixels(loss, labels, threshold=0.0, min_kept=count)
        assert kept.sum() == count and not kept[labels == IGNORE].any()
        assert loss[kept].min() > loss[~kept & (labels != IGNORE)].max()
    assert torch.equal(hard_pixels(loss, labels, 0.0, 10**9), labels != IGNORE)  # fewer valid pixels than asked for: all of them


def test_supervised_loss_without_ohem_is_the_mean_and_the_auxiliary_head_adds_its_share(logits, labels, rng):
    aux = torch.randn(logits.shape, generator=rng)
    mean, aux_mean = (F.cross_entropy(x, labels, ignore_index=IGNORE) for x in (logits, aux))
    torch.testing.assert_close(supervised_loss(logits, labels, ohem=False), mean)
    torch.testing.assert_close(supervised_loss(logits, labels, aux, aux_weight=0.4, ohem=False), mean + 0.4 * aux_mean)
    hard = supervised_loss(logits, labels, aux, aux_weight=0.4, min_kept=9)
    torch.testing.assert_close(hard, ohem_cross_entropy(logits, labels, 0.7, 9) + 0.4 * ohem_cross_entropy(aux, labels, 0.7, 9))


@pytest.mark.parametrize("percent", [0, 0.1, 12.5, 20, 33.3, 50, 80, 99.9, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 11, 101])
def test_percentile_selects_what_numpy_selects_and_looks_at_valid_values_only(percent, count):
    values = torch.rand(3, 67, generator=torch.Generator().manual_seed(count))
    valid = torch.zeros(3, 67, dtype=torch.bool)
    valid.view(-1)[torch.randperm(201, generator=torch.Generator().manual_seed(count))[:count]] = True
    pool = values[valid].numpy()
    low, high = masked_percentile(values, valid, percent), masked_percentile(values, valid, percent, upper=True)
    assert low in values[valid] and high in values[valid]
    assert low.item() == plain_percentile(pool.tolist(), percent) and high.item() == plain_percentile(pool.tolist(), percent, upper=True)
    exact = np.percentile(pool.astype(np.float64), percent)
    assert (pool <= low.item()).sum() == (pool <= exact + 1e-12).sum() and (pool >= high.item()).sum() == (pool >= exact - 1e-12).sum()


def test_percentile_by_sorting_as_on_a_gpu_is_the_same(monkeypatch):
    values, valid = torch.rand(500), torch.rand(500) < 0.7
    selected = [masked_percentile(values, valid, q) for q in range(0, 101, 7)]
    from stal_nb.runtime import ops
    monkeypatch.setattr(ops, "kth_smallest", lambda flat, k: flat.sort().values[k])
    assert selected == [masked_percentile(values, valid, q) for q in range(0, 101, 7)]


def test_percentile_of_nothing_is_infinite():
    assert masked_percentile(torch.rand(5), torch.zeros(5, dtype=torch.bool), 30) == math.inf
    assert masked_percentile(torch.rand(0), None, 30) == math.inf


@pytest.mark.parametrize("drop", [0, 1, 20, 50, 99, 100])
def test_pseudo_labels_drop_the_asked_share_of_the_valid_pixels(logits, drop, rng):
    valid = torch.rand(B, H, W, generator=rng) < 0.8
    for keep in ("sure", "unsure"):
        pseudo = pseudo_labels(logits, drop, keep, valid)
        kept = pseudo.labels != IGNORE
        assert not kept[~valid].any()
        assert abs(kept.sum().item() - (1 - drop / 100) * valid.sum().item()) <= 1
        assert torch.equal(pseudo.labels[kept], logits.argmax(1)[kept])
        dropped = pseudo.entropy[valid & ~kept]
        if len(dropped):
            outside = dropped.min() - pseudo.entropy[kept].max() if keep == "sure" else pseudo.entropy[kept].min() - dropped.max()
            assert outside > 0
    everything = pseudo_labels(logits, drop)
    torch.testing.assert_close(everything.confidence, logits.softmax(1).amax(1))
    torch.testing.assert_close(everything.entropy, normalised_entropy(logits.softmax(1)))


def test_pseudo_labels_know_the_guess_and_the_entropy_of_every_pixel(rng):
    for scale in (0.0, 1.0, 30.0):  # all equal, usual, very sure
        x = scale * torch.randn(2, 19, 5, 7, generator=rng)
        pseudo = pseudo_labels(x, 40)
        torch.testing.assert_close(pseudo.entropy.double(), normalised_entropy(x.double().softmax(1)), rtol=1e-5, atol=1e-6)
        assert torch.equal(pseudo.prediction, x.softmax(1).max(1).indices) and pseudo.entropy.min() >= 0
        kept = pseudo.labels != IGNORE
        assert torch.equal(pseudo.labels[kept], pseudo.prediction[kept])
    broken = pseudo_labels(torch.full((1, 4, 2, 2), math.nan), 0)
    assert broken.prediction.max() < 4  # a NaN is no class, but no index out of range either


@pytest.mark.parametrize("gamma", [0, 1, 2, 7.5])
def test_unsupervised_loss_is_the_plain_version(logits, gamma, rng):
    pseudo = pseudo_labels(torch.randn(B, C, H, W, generator=rng), 30)
    assert unsupervised_loss(logits, pseudo, gamma).item() == pytest.approx(plain_unsupervised(logits, pseudo, gamma), abs=1e-5)


def test_class_rate_keeps_its_share_of_every_class(rng):
    labels = torch.arange(4).repeat_interleave(40_000).view(1, 400, 400)
    pseudo = PseudoLabels(labels, torch.full(labels.shape, 0.9), torch.zeros(labels.shape), torch.tensor(1.0))
    rate = torch.tensor([0.0, 0.1, 0.6, 1.0])
    part = pseudo_label_weights(pseudo, class_rate=rate, generator=rng) > 0
    share = torch.stack([part[labels == c].float().mean() for c in range(4)])
    assert (share - rate).abs().max() < 0.01 and share[0] == 0 and share[3] == 1
    again = pseudo_label_weights(pseudo, class_rate=rate, generator=torch.Generator().manual_seed(0)) > 0
    assert torch.equal(part, again)  # the generator alone decides


def test_class_rate_of_one_changes_nothing(logits, rng):
    pseudo = pseudo_labels(logits, 20)
    everyone = unsupervised_loss(logits, pseudo, class_rate=torch.ones(C), generator=rng)
    torch.testing.assert_close(everyone, unsupervised_loss(logits, pseudo))


@pytest.mark.parametrize("w", [0.05, 0.5, 3.0])
def test_contrastive_loss_is_the_plain_version(w, rng):
    anchors, positives, negatives = (torch.randn(*s, generator=rng) for s in ((5, 4, 8), (5, 8), (5, 4, 6, 8)))
    for valid in (torch.ones(5, dtype=torch.bool), torch.tensor([True, False, True, False, False])):
        found = contrastive_loss(anchors, positives, negatives, w, valid)
        assert found.item() == pytest.approx(plain_contrastive(anchors, positives, negatives, w, valid), abs=1e-5)
    shared = negatives[:, 0]
    torch.testing.assert_close(contrastive_loss(anchors, positives, shared, w),
                               contrastive_loss(anchors, positives, shared[:, None].expand(5, 4, 6, 8), w))


def test_contrastive_gradient_is_that_of_the_equation_and_goes_to_anchors_alone(rng):
    a, p, n = (torch.randn(*s, generator=rng, dtype=torch.float64, requires_grad=True) for s in ((3, 4, 8), (3, 8), (3, 4, 6, 8)))
    contrastive_loss(a, p, n, 0.2).backward()
    assert p.grad is None and n.grad is None
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, p.detach(), n.detach(), 0.2), (a.detach().requires_grad_(),))
    assert (a.grad * a.detach()).sum(-1).abs().max() < 1e-12  # a cosine does not care for length: the gradient is a rotation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("buffer", [1, 100, 2**20])
def test_negatives_read_in_place_give_the_same_loss_and_gradient(buffer, dtype, rng, monkeypatch):
    monkeypatch.setitem(losses_module._BUFFER, "cpu", buffer)  # one anchor at a time, a few, all
    a, p, table = (torch.randn(*s, generator=rng).to(dtype) for s in ((5, 7, 8), (5, 8), (40, 8)))
    a.requires_grad_()
    rows, valid = torch.randint(0, 40, (5, 7, 6), generator=rng), torch.tensor([True, False, True, True, False])
    pairs = [(contrastive_loss(a, p, table, 0.3, valid, rows=rows), contrastive_loss(a, p, table[rows], 0.3, valid))]
    unit = F.normalize(table.double(), dim=-1).to(dtype)
    pairs.append((contrastive_loss(a, p, unit, 0.3, rows=rows, unit=True), contrastive_loss(a, p, unit[rows], 0.3)))
    tolerance = dict(rtol=0.02, atol=0.02) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-6)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, **tolerance)
        torch.testing.assert_close(torch.autograd.grad(found, a)[0], torch.autograd.grad(expected, a)[0], **tolerance)


def test_the_gradient_taken_on_the_way_is_that_of_finite_differences(rng):
    a, p, table = (torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((3, 4, 8), (3, 8), (20, 8)))
    rows = torch.randint(0, 20, (3, 4, 6), generator=rng)
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, p, table, 0.2, rows=rows), (a.requires_grad_(),))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_gathered_from_either_layout_with_their_gradient(layout, rng):
    maps = torch.randn(2, 5, 3, 4, generator=rng).contiguous(memory_format=layout).requires_grad_()
    index = torch.tensor([[0, 23, 7], [7, 7, 12]])
    found, flat = gather_pixels(maps, index), maps.movedim(1, -1).reshape(-1, 5)[index]
    assert torch.equal(found, flat)
    weight = torch.randn(found.shape, generator=rng)
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), maps)[0], torch.autograd.grad((flat * weight).sum(), maps)[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pixel_cross_entropy_is_pytorch_s_in_either_layout(layout, dtype, logits, labels, rng):
    theirs = logits.to(dtype).contiguous(memory_format=layout).requires_grad_()
    ours = theirs.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    found, expected = pixel_cross_entropy(ours, labels), F.cross_entropy(theirs.float() if dtype == torch.bfloat16 else theirs, labels,
                                                                         ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=rng).to(found.dtype)
    seen = []
    ours.register_hook(lambda grad: seen.append(grad.is_contiguous(memory_format=layout)))
    for x, loss in ((ours, found), (theirs, expected)):
        (loss * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert seen == [True]
    if dtype == torch.float64:
        torch.autograd.gradcheck(lambda x: pixel_cross_entropy(x, labels[:1, :2, :2]), ours.detach()[:1, :, :2, :2].requires_grad_())


def test_an_ignored_pixel_has_no_loss_and_no_slope_even_where_its_scores_overflowed(logits, labels):
    logits[0, :, 0, 0], labels[0, 0, 0] = -math.inf, IGNORE
    assert pixel_cross_entropy(logits, labels)[0, 0, 0] == 0 and supervised_loss(logits, labels).isfinite()


def test_a_cross_entropy_that_is_at_hand_is_not_taken_again(logits, labels):
    for ohem in (True, False):
        settings = dict(aux_logits=logits.flip(0), ohem=ohem, min_kept=10)
        assert supervised_loss(logits, labels, pixel_loss=pixel_cross_entropy(logits, labels), **settings) == supervised_loss(logits, labels, **settings)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_first_images_hand_back_a_gradient_in_the_layout_that_came_in(layout, rng):
    x = torch.randn(4, 5, 6, 7, generator=rng).contiguous(memory_format=layout).requires_grad_()
    seen = []
    x.register_hook(lambda grad: seen.append(grad.is_contiguous(memory_format=layout)))
    first_images(x, 3).square().sum().backward()
    assert seen == [True] and torch.equal(x.grad[:3], 2 * x.detach()[:3]) and x.grad[3:].eq(0).all()


@pytest.mark.parametrize("piece", [1, 50, 200, 10**6])
def test_a_teacher_is_read_the_same_in_pieces(piece, logits, monkeypatch):
    expected = pseudo_labels(logits, 20)
    monkeypatch.setattr(losses_module, "_PIECE", piece)
    for given in (logits, logits.contiguous(memory_format=torch.channels_last)):
        found = pseudo_labels(given, 20)
        assert torch.equal(found.prediction, expected.prediction)
        for a, b in zip(found[1:4], expected[1:4]):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)  # the last bit of e^x depends on where a vector instruction begins


def test_the_teacher_s_word_is_softmax_arg_max_and_entropy(logits):
    logits[0, :, 0, 0], logits[0, 2:4, 0, 1] = 0.0, 9.0  # several classes equally likely: the first
    found, probs = pseudo_labels(logits, 0), logits.softmax(1)
    assert torch.equal(found.prediction, torch.from_numpy(logits.numpy().argmax(1))) and found.prediction[0, 0, :2].tolist() == [0, 2]
    torch.testing.assert_close(found.confidence, probs.amax(1))
    torch.testing.assert_close(found.entropy, normalised_entropy(probs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("labelled", [(True, False, False), (True, True, True), (False, False, False)])
@pytest.mark.parametrize("with_padding", [False, True])
def test_anchors_and_negatives_are_those_of_the_paper(logits, labels, labelled, with_padding, rng):
    labelled = torch.tensor(labelled)
    valid = torch.rand(B, H, W, generator=rng) < 0.7 if with_padding else torch.ones(B, H, W, dtype=torch.bool)
    probs = logits.double().softmax(1)
    entropy = normalised_entropy(probs)
    anchors, negatives = plain_roles(logits.double(), labels, labelled, valid, 0.3, 2, 5, 40, 60)
    given = valid if with_padding else None
    assert as_set(anchor_mask(probs, labels, entropy, labelled, 0.3, 40, valid=given)) == anchors
    assert as_set(negative_mask(probs, labels, entropy, labelled, 2, 5, 60, valid=given)) == negatives


def test_no_pixel_is_anchor_and_negative_of_one_class(logits, labels):
    probs = logits.softmax(1)
    roles = probs, labels, normalised_entropy(probs), torch.tensor([True, True, False])
    assert not (anchor_mask(*roles, threshold=0) & negative_mask(*roles, low_rank=2, high_rank=6)).any()


def test_the_released_conditions_are_met_by_no_pixel(logits, labels):
    probs = logits.softmax(1)
    roles = probs, labels, normalised_entropy(probs), torch.tensor([True, False, False])
    assert negative_mask(*roles, low_rank=2).any() and not negative_mask(*roles, low_rank=2, released=True).any()


def test_among_top_counts_likelier_classes(logits):
    likelier = (logits[:, None] > logits[:, :, None]).sum(2)
    for rank in (1, 3, C, 20):
        assert torch.equal(among_top(logits, rank), likelier < rank)
    assert among_top(torch.full((1, 4, 1, 1), 0.25), 2).all()  # equally likely classes are treated alike


def test_prototypes_are_means(rng):
    embeddings, mask = torch.randn(2, 5, 3, 4, generator=rng), torch.rand(2, 4, 3, 4, generator=rng) < 0.5
    mask[:, 2] = False
    centres, found = class_prototypes(embeddings, mask)
    assert found.tolist() == [True, True, False, True] and centres[2].eq(0).all()
    for c in (0, 1, 3):
        torch.testing.assert_close(centres[c], embeddings.movedim(1, -1)[mask[:, c]].mean(0))


def test_sampled_pixels_lie_in_the_mask_evenly(rng):
    mask = torch.rand(2, 5, 4, 6, generator=rng) < 0.3
    mask[:, 1] = False
    mask[:, 4] = False
    mask[1, 4, 3, 5] = True  # a single pixel, the last
    index, found = sample_pixels(mask, 5000, rng)
    assert index.shape == (5, 5000) and found.tolist() == [True, False, True, True, True]
    flat = mask.movedim(1, 0).flatten(1)
    for c in (0, 2, 3, 4):
        drawn = torch.bincount(index[c], minlength=48)
        assert torch.equal(drawn > 0, flat[c]) and drawn[flat[c]].max() < 1.5 * 5000 / flat[c].sum()
    assert index.min() >= 0 and index.max() < 48  # also in rows without a pixel


# -- nothing counts: zero, with a zero and finite gradient ---------------------------------------------------------------------------


def zero_with_zero_gradient(loss, *inputs):
    loss.backward()
    return loss.item() == 0 and all(x.grad is not None and x.grad.eq(0).all() for x in inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_all_ignored_is_zero(dtype):
    nothing = torch.full((2, 4, 4), IGNORE)
    for loss in (ohem_cross_entropy, supervised_loss, lambda x, y: supervised_loss(x, y, ohem=False), lambda x, y: supervised_loss(x, y, x),
                 lambda x, y: unsupervised_loss(x, PseudoLabels(y, torch.rand(2, 4, 4), torch.rand(2, 4, 4), torch.tensor(0.5)))):
        x = torch.randn(2, 5, 4, 4, dtype=dtype, requires_grad=True)
        assert zero_with_zero_gradient(loss(x, nothing), x)


def test_an_empty_batch_is_zero():
    x, y = torch.randn(0, 5, 4, 4, requires_grad=True), torch.zeros(0, 4, 4, dtype=torch.int64)
    assert supervised_loss(x, y) == 0 and supervised_loss(x, y, ohem=False) == 0 and unsupervised_loss(x, pseudo_labels(x, 20)) == 0


def test_one_class_is_zero():
    x, y = torch.randn(2, 1, 4, 4, requires_grad=True), torch.zeros(2, 4, 4, dtype=torch.int64)
    assert zero_with_zero_gradient(supervised_loss(x, y), x)
    x.grad = None
    assert zero_with_zero_gradient(unsupervised_loss(x, pseudo_labels(x, 20)), x)
    probs = x.detach().softmax(1)
    assert not negative_mask(probs, y, normalised_entropy(probs), torch.tensor([True, False])).any()  # there is nothing else to be


def test_a_class_rate_of_zero_is_zero(logits):
    x = logits.requires_grad_()
    assert zero_with_zero_gradient(unsupervised_loss(x, pseudo_labels(x, 0), class_rate=torch.zeros(C)), x)


def test_no_negatives_or_no_valid_class_is_zero():
    a, p = torch.randn(3, 4, 8, requires_grad=True), torch.randn(3, 8)
    assert zero_with_zero_gradient(contrastive_loss(a, p, torch.zeros(3, 4, 0, 8)), a)
    a.grad = None
    assert zero_with_zero_gradient(contrastive_loss(a, p, torch.randn(3, 4, 5, 8), valid=torch.zeros(3, dtype=torch.bool)), a)


@pytest.mark.parametrize("junk", [math.nan, math.inf, 0.0])
def test_what_stands_in_invalid_classes_does_not_matter(junk):
    a, p, n = torch.randn(3, 4, 8), torch.randn(3, 8), torch.randn(3, 4, 5, 8)
    alone = contrastive_loss(a[:1], p[:1], n[:1])
    a[1:], p[1:], n[1:] = junk, junk, junk
    a.requires_grad_()
    loss = contrastive_loss(a, p, n, valid=torch.tensor([True, False, False]))
    loss.backward()
    torch.testing.assert_close(loss, alone)
    assert a.grad.isfinite().all() and a.grad[1:].eq(0).all() and a.grad[0].ne(0).any()


# -- limits and invariances ----------------------------------------------------------------------------------------------------------


def test_a_hot_contrast_sees_no_difference_and_a_cold_one_only_the_nearest():
    a, p, n = torch.randn(3, 4, 8), torch.randn(3, 8), torch.randn(3, 4, 5, 8)
    assert contrastive_loss(a, p, n, 1e6).item() == pytest.approx(math.log(1 + 5), abs=1e-4)
    cosine = lambda x, y: F.cosine_similarity(x, y, dim=-1)  # noqa: E731
    gap = cosine(a[:, :, None], n).amax(-1) - cosine(a, p[:, None])
    assert contrastive_loss(a, p, n, 1e-4).item() == pytest.approx(gap.clamp(min=0).mean().item() / 1e-4, rel=1e-3)
    assert contrastive_loss(a, p, n, 1e-30).isfinite()


def test_a_large_gamma_leaves_the_most_confident_pixel_alone(logits):
    pseudo = pseudo_labels(logits, 0)
    best = pseudo.confidence.flatten().argmax()
    weight = pseudo_label_weights(pseudo, gamma=1e5).flatten()
    assert weight.argmax() == best and weight[best] > 0.99 and weight.sum().item() == pytest.approx(1)


def test_order_does_not_matter(logits, labels):
    pseudo = pseudo_labels(logits.flip(0), 25)
    places, classes = torch.randperm(H * W), torch.randperm(C)
    move = lambda t: t.flatten(-2)[..., places].view(t.shape)  # noqa: E731
    new_name = torch.full((256,), IGNORE)
    new_name[classes] = torch.arange(C)
    moved = PseudoLabels(move(pseudo.labels), move(pseudo.confidence), move(pseudo.entropy), pseudo.threshold)
    torch.testing.assert_close(ohem_cross_entropy(move(logits), move(labels), 0.5, 20), ohem_cross_entropy(logits, labels, 0.5, 20))
    torch.testing.assert_close(unsupervised_loss(move(logits), moved), unsupervised_loss(logits, pseudo))
    renamed = ohem_cross_entropy(logits[:, classes], new_name[labels], 0.5, 20)
    torch.testing.assert_close(renamed, ohem_cross_entropy(logits, labels, 0.5, 20))
    probs, entropy, labelled = logits.softmax(1), normalised_entropy(logits.softmax(1)), torch.tensor([True, False, False])
    for mask in (anchor_mask, negative_mask):
        renamed = mask(probs[:, classes], new_name[labels], entropy, labelled)
        assert torch.equal(renamed, mask(probs, labels, entropy, labelled)[:, classes])
    a, p, n, order = torch.randn(3, 4, 8), torch.randn(3, 8), torch.randn(3, 4, 5, 8), torch.randperm(3)
    torch.testing.assert_close(contrastive_loss(a[order], p[order], n[order].flip(2)), contrastive_loss(a, p, n))
    torch.testing.assert_close(contrastive_loss(7 * a, p / 9, 3 * n), contrastive_loss(a, p, n))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_other_precisions_agree_and_stay_finite(logits, labels, dtype, tolerance):
    other = lambda t: t.to(dtype)  # noqa: E731
    a, p, n = torch.randn(3, 4, 8), torch.randn(3, 8), torch.randn(3, 4, 5, 8)
    results = [(supervised_loss(other(logits), labels, other(logits), min_kept=5), supervised_loss(logits, labels, logits, min_kept=5)),
               (unsupervised_loss(other(logits), pseudo_labels(other(logits), 0)), unsupervised_loss(logits, pseudo_labels(logits, 0))),
               (contrastive_loss(other(a), other(p), other(n)), contrastive_loss(a, p, n))]
    for found, expected in results:
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found.item() == pytest.approx(expected.item(), rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_half_precision_input_stays_finite(dtype):
    big = torch.full((1, 3, 2, 2), 3e4, dtype=dtype)
    big[:, 0] *= -1
    x = big.clone().requires_grad_()
    loss = supervised_loss(x, torch.zeros(1, 2, 2, dtype=torch.int64)) + unsupervised_loss(x, pseudo_labels(-big, 0), gamma=8)
    a = torch.full((2, 3, 64), 3e4, dtype=dtype, requires_grad=True)
    loss = loss + contrastive_loss(a, -a[:, 0], 0.02 * torch.ones(2, 3, 7, 64, dtype=dtype), 0.01)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all() and a.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision_of_the_contrast(rng):
    a, p, n = (torch.randn(*s, generator=rng) for s in ((3, 4, 8), (3, 8), (3, 4, 5, 8)))
    embeddings, mask = torch.randn(2, 5, 3, 4, generator=rng), torch.rand(2, 4, 3, 4, generator=rng) < 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = contrastive_loss(a, p, n), class_prototypes(embeddings, mask)[0]
    assert inside[0].dtype == torch.float32 and torch.equal(inside[0], contrastive_loss(a, p, n))
    assert torch.equal(inside[1], class_prototypes(embeddings, mask)[0])


# -- nothing waits for the device, nothing big is copied ------------------------------------------------------------------------------


def test_no_function_reads_a_value_on_the_way():
    "On the meta device there are no values: whatever needs one to go on (a count, a size, a branch) fails there."
    meta = dict(device="meta")
    x, y = torch.randn(2, C, 8, 8, **meta), torch.zeros(2, 8, 8, dtype=torch.int64, **meta)
    probs, valid, labelled = x.softmax(1), torch.ones(2, 8, 8, dtype=torch.bool, **meta), torch.ones(2, dtype=torch.bool, **meta)
    entropy = normalised_entropy(probs)
    pseudo = pseudo_labels(x, 20, valid=valid)
    shapes = [supervised_loss(x, y, x, min_kept=7).shape, unsupervised_loss(x, pseudo, class_rate=torch.ones(C, **meta)).shape]
    negatives = negative_mask(probs, y, entropy, labelled, valid=valid)
    anchors = anchor_mask(probs, y, entropy, labelled, valid=valid)
    centres, found = class_prototypes(torch.randn(2, 5, 8, 8, **meta), anchors)
    index, _ = sample_pixels(negatives, 6)
    shapes.append(contrastive_loss(torch.randn(C, 4, 5, **meta), centres, torch.randn(C, 4, 6, 5, **meta), valid=found).shape)
    rows = torch.zeros(C, 4, 6, dtype=torch.int64, **meta)
    anchors = gather_pixels(torch.randn(2, 5, 8, 8, **meta), sample_pixels(anchors, 4)[0])
    shapes.append(contrastive_loss(anchors, centres, torch.randn(30, 5, **meta), valid=found, rows=rows).shape)
    assert shapes == [()] * 4 and index.shape == (C, 6)


def test_the_contrast_does_not_copy_its_negatives():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        "Remembers the largest tensor that any operation makes in memory of its own."
        size, known = 0, set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if torch.is_tensor(t) and t.untyped_storage().data_ptr() not in self.known:
                    self.size = max(self.size, t.numel())
            return result

    a, p, n = torch.randn(3, 4, 32, requires_grad=True), torch.randn(3, 32), torch.randn(3, 4, 50, 32)
    with Largest() as largest:
        largest.known = {t.untyped_storage().data_ptr() for t in (a, p, n)}
        contrastive_loss(a, p, n).backward()
    assert largest.size <= 3 * 4 * 50
    rows = torch.randint(0, 100, (3, 400, 50))
    table, a = torch.randn(100, 32), torch.randn(3, 400, 32, requires_grad=True)
    with Largest() as largest:
        largest.known = {t.untyped_storage().data_ptr() for t in (a, p, table, rows)}
        contrastive_loss(a, p, table, rows=rows).backward()
    assert largest.size <= losses_module._BUFFER["cpu"] < rows.numel() * 32


# -- bad input -------------------------------------------------------------------------------------------------------------------------


def wrong(message, function, *args, **kwargs):
    with pytest.raises(ConfigError, match=message):
        function(*args, **kwargs)


def test_bad_shapes_and_settings_are_named(logits, labels):
    probs, entropy, labelled = logits.softmax(1), torch.rand(B, H, W), torch.ones(B, dtype=torch.bool)
    pseudo = pseudo_labels(logits, 20)
    wrong(r"labels: found shape \(3, 6, 8\), expected \(B=3, H=6, W=9\)", supervised_loss, logits, labels[..., 1:])
    wrong(r"labels: found torch.int32, expected torch.int64", supervised_loss, logits, labels.int())
    wrong(r"logits: found shape \(7, 6, 9\), expected \(B, C, H, W\)", ohem_cross_entropy, logits[0], labels)
    wrong(r"aux_logits: found shape \(7, 6, 9\)", supervised_loss, logits, labels, logits[0])
    wrong(r"labels: found shape \(3, 6, 9\), expected \(B=3, H=6, W=8\)", supervised_loss, logits, labels, logits[..., 1:])
    wrong("aux_weight: found -1, expected at least 0", supervised_loss, logits, labels, logits, aux_weight=-1)
    wrong("threshold: found 1.5, expected a number from 0 to 1", supervised_loss, logits, labels, threshold=1.5)
    wrong("min_kept: found -1", ohem_cross_entropy, logits, labels, min_kept=-1)
    wrong("drop_percent: found 120", pseudo_labels, logits, 120)
    wrong("keep: found 'best', expected 'sure' or 'unsure'", pseudo_labels, logits, 20, keep="best")
    wrong(r"valid: found shape \(3, 6, 8\)", pseudo_labels, logits, 20, valid=torch.ones(B, H, W - 1, dtype=torch.bool))
    wrong("gamma: found -1", unsupervised_loss, logits, pseudo, gamma=-1)
    wrong(r"class_rate: found shape \(6,\), expected \(C=7\)", unsupervised_loss, logits, pseudo, class_rate=torch.ones(C - 1))
    wrong(r"confidence: found shape", unsupervised_loss, logits, pseudo._replace(confidence=torch.rand(2)))
    wrong(r"entropy: found shape", anchor_mask, probs, labels, entropy[0], labelled)
    wrong(r"labelled: found shape \(2,\), expected \(B=3\)", negative_mask, probs, labels, entropy, labelled[:2])
    wrong("low_rank, high_rank: found 5, 3", negative_mask, probs, labels, entropy, labelled, 5, 3)
    wrong("percent: found 101", negative_mask, probs, labels, entropy, labelled, entropy_percentile=101)
    wrong(r"mask: found shape \(3, 7, 6, 9\), expected \(B=3, C, h=3, w=9\)", class_prototypes, torch.rand(B, 4, 3, W), probs > 0.5)
    wrong("per_class: found -1", sample_pixels, probs > 0.5, -1)


def test_bad_contrasts_are_named():
    a, p, n = torch.randn(3, 4, 8), torch.randn(3, 8), torch.randn(3, 4, 5, 8)
    wrong(r"positives: found shape \(2, 8\), expected \(C=3, D=8\)", contrastive_loss, a, p[:2], n)
    wrong(r"negatives: found shape \(3, 3, 5, 8\), expected \(C=3, M=4, N, D=8\)", contrastive_loss, a, p, n[:, 1:])
    wrong(r"negatives: found shape \(8,\), expected \(C=3, M=4, N, D=8\)", contrastive_loss, a, p, n[0, 0, 0])
    wrong(r"valid: found shape \(3, 1\), expected \(C=3\)", contrastive_loss, a, p, n, valid=torch.ones(3, 1, dtype=torch.bool))
    wrong("temperature, anchors: found 0", contrastive_loss, a, p, n, temperature=0)
    wrong("expected more than 0 of both", contrastive_loss, a[:, :0], p, n[:, :0])
    wrong(r"negatives: found shape \(5, 7\), expected \(R, D=8\)", contrastive_loss, a, p, torch.randn(5, 7), rows=torch.zeros(3, 4, 2).long())
    wrong(r"rows: found shape \(3, 2, 4\), expected \(C=3, M=4, N\)", contrastive_loss, a, p, n[0, 0], rows=torch.zeros(3, 2, 4).long())


def test_random_shapes_agree_with_the_plain_versions():
    "A few dozen random small problems, among them single pixels, single classes and everything ignored."
    dice = random.Random(0)
    for trial in range(40):
        torch.manual_seed(trial)
        shape = dice.randint(1, 2), dice.randint(1, 4), dice.randint(1, 4)
        classes = dice.randint(1, 5)
        x, y = 3 * torch.randn(shape[0], classes, *shape[1:]), torch.randint(0, classes, shape)
        y[torch.rand(shape) < dice.choice((0, 0.5, 1))] = IGNORE
        threshold, kept = dice.random(), dice.randint(0, 20)
        assert ohem_cross_entropy(x, y, threshold, kept).item() == pytest.approx(plain_ohem(x, y, threshold, kept), abs=1e-5)
        pseudo = pseudo_labels(torch.randn(x.shape), dice.choice((0, 20, 60)))
        assert unsupervised_loss(x, pseudo, 2.0).item() == pytest.approx(plain_unsupervised(x, pseudo, 2.0), abs=1e-5)
