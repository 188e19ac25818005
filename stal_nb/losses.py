from typing import NamedTuple
import torch
from torch import Tensor
from torch.nn import functional as F
from stal_nb.labels import IGNORE
class PseudoLabels(NamedTuple):
    labels: Tensor; confidence: Tensor; entropy: Tensor; threshold: Tensor
def normalised_entropy(probs):
    return -(probs * probs.clamp_min(1e-12).log()).sum(1) / torch.log(torch.tensor(float(probs.shape[1]), device=probs.device))
def _valid_percentile(values, valid, percent):
    "percentile over valid entries, no sync: invalid go to +inf, rank from count on device"
    flat = torch.where(valid, values, torch.full_like(values, float("inf"))).flatten()
    s = flat.sort().values
    n = valid.sum()
    k = ((n - 1).clamp(min=0).float() * percent / 100).round().long()
    return s[k]
def pseudo_labels(teacher_logits, drop_percent, keep="sure", valid=None):
    probs = teacher_logits.softmax(1); conf, lab = probs.max(1); ent = normalised_entropy(probs)
    v = torch.ones_like(lab, dtype=torch.bool) if valid is None else valid
    t = _valid_percentile(ent, v, 100 - drop_percent if keep == "sure" else drop_percent)
    ok = v & ((ent <= t) if keep == "sure" else (ent >= t))
    return PseudoLabels(lab.masked_fill(~ok, IGNORE), conf, ent, t)
def ohem_cross_entropy(logits, labels, threshold=0.7, min_kept=100_000):
    ce = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    valid = labels != IGNORE
    p = torch.exp(-ce.detach())
    k = min(min_kept, p.numel())
    pv = torch.where(valid, p, torch.full_like(p, 2.0)).flatten()
    kth = pv.kthvalue(k).values
    t = torch.maximum(kth, torch.tensor(threshold, device=p.device, dtype=p.dtype))
    keep = valid & (p <= t)
    return (ce * keep).sum() / keep.sum().clamp(min=1)
def supervised_loss(logits, labels, aux_logits=None, aux_weight=0.4, ohem=True, threshold=0.7, min_kept=100_000):
    f = (lambda x: ohem_cross_entropy(x, labels, threshold, min_kept)) if ohem else (lambda x: F.cross_entropy(x, labels, ignore_index=IGNORE, reduction="sum") / (labels != IGNORE).sum().clamp(min=1))
    loss = f(logits)
    return loss if aux_logits is None else loss + aux_weight * f(aux_logits)
def unsupervised_loss(logits, pseudo, gamma=2.0, class_rate=None, generator=None):
    labels, conf = pseudo[0], pseudo[1]
    valid = labels != IGNORE
    if class_rate is not None:
        keep = torch.rand(labels.shape, generator=generator, device=labels.device) < torch.cat([class_rate, class_rate.new_zeros(256 - len(class_rate))])[labels]
        valid = valid & keep
    ce = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    w = conf ** gamma * valid
    return (ce * w).sum() / w.sum().clamp(min=1e-6)
def contrastive_loss(anchors, positives, negatives, temperature=0.5, valid=None):
    a, p, n = F.normalize(anchors, dim=-1), F.normalize(positives, dim=-1), F.normalize(negatives, dim=-1)
    pos = (a * p[:, None]).sum(-1, keepdim=True) / temperature
    neg = torch.einsum("cmd,cmnd->cmn", a, n) / temperature
    loss = -F.log_softmax(torch.cat([pos, neg], -1), -1)[..., 0].mean(1)
    if valid is None: return loss.mean()
    return torch.where(valid, loss, torch.zeros_like(loss)).sum() / valid.sum().clamp(min=1)
def _rank_le(probs, r):
    return torch.zeros_like(probs, dtype=torch.bool).scatter_(1, probs.topk(min(r, probs.shape[1]), 1).indices, True)
def anchor_mask(probs, labels, entropy, labelled, threshold=0.3, entropy_percentile=20):
    C = probs.shape[1]; lab = labelled[:, None, None]
    t = _valid_percentile(entropy, (~lab) & (labels != IGNORE), entropy_percentile)
    ok = (labels != IGNORE) & (lab | (entropy <= t))
    one = F.one_hot(labels.clamp(max=C - 1), C).movedim(-1, 1).bool()
    return one & ok[:, None] & (probs > threshold)
def negative_mask(probs, labels, entropy, labelled, low_rank=3, high_rank=20, entropy_percentile=80, released=False):
    C = probs.shape[1]; lab = labelled[:, None, None]
    one = F.one_hot(labels.clamp(max=C - 1), C).movedim(-1, 1).bool() & (labels != IGNORE)[:, None]
    low, high = _rank_le(probs, low_rank), _rank_le(probs, high_rank)
    t = _valid_percentile(entropy, ~lab.expand_as(entropy), entropy_percentile)
    unl = (~lab) & (entropy >= t)
    if released:
        arg = F.one_hot(probs.argmax(1), C).movedim(-1, 1).bool()
        return (one & low & ~one & lab[:, None]) | (arg & (high & ~low) & unl[:, None])
    return ((labels != IGNORE)[:, None] & ~one & low & lab[:, None]) | (high & ~low & unl[:, None])
def class_prototypes(embeddings, mask):
    m = mask.to(embeddings.dtype)
    n = m.sum((0, 2, 3))
    return torch.einsum("bdhw,bchw->cd", embeddings, m) / n.clamp(min=1)[:, None], n > 0
def sample_pixels(mask, per_class, generator):
    C = mask.shape[1]
    flat = mask.movedim(1, 0).reshape(C, -1)
    cum = flat.int().cumsum(1)
    n = cum[:, -1]
    r = (torch.rand(C, per_class, generator=generator, device=mask.device) * n[:, None]).long().clamp(max=flat.shape[1] - 1) + 1
    idx = torch.searchsorted(cum, r.int().clamp(max=torch.iinfo(torch.int32).max)).clamp(max=flat.shape[1] - 1)
    return idx, n > 0
