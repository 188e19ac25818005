"""Slow, plain versions of what the library does fast: what one writes first. The benchmarks divide by them; the tests of the library have their own."""
import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255


class GrowingQueues:
    "A memory bank as a list of tensors, one a class, that grow by concatenation and are cut at the front."

    def __init__(self, num_classes: int, dim: int, capacity: int):
        self.queues, self.capacity = [torch.zeros(0, dim) for _ in range(num_classes)], capacity

    def push(self, index: int, rows: Tensor) -> None:
        self.queues[index] = torch.cat([self.queues[index], rows.cpu()])[-self.capacity:]


def contrast(queues: GrowingQueues, embeddings: Tensor, teacher: Tensor, probs: Tensor, labels: Tensor, labelled: Tensor, anchors: int, negatives: int,
             pushed: int, temperature: float, threshold: float, ranks: tuple[int, int], percentiles: tuple[float, float]) -> Tensor:
    "L_c with its bank, class by class, with masks whose size only the values tell."
    classes = probs.shape[1]
    flat, flat_teacher = embeddings.movedim(1, -1).reshape(-1, embeddings.shape[1]), teacher.movedim(1, -1).reshape(-1, teacher.shape[1])
    flat_probs, flat_labels = probs.movedim(1, -1).reshape(-1, classes), labels.flatten()
    entropy = -(flat_probs * (flat_probs + 1e-10).log()).sum(1)
    has_label = labelled[:, None, None].expand_as(labels).flatten() & (flat_labels != IGNORE)
    unlabelled = ~labelled[:, None, None].expand_as(labels).flatten()
    low, high = (torch.quantile(entropy[unlabelled], q / 100) for q in percentiles)
    rank = flat_probs.argsort(1, descending=True).argsort(1)
    losses = []
    for c in range(classes):
        sure = (flat_labels == c) & (flat_probs[:, c] > threshold) & (has_label | (unlabelled & (entropy <= low)))
        doubtful = (has_label & (flat_labels != c) & (rank[:, c] < ranks[0])) | (
            unlabelled & (entropy >= high) & (rank[:, c] >= ranks[0]) & (rank[:, c] < ranks[1]))
        rows = flat_teacher[doubtful]
        queues.push(c, rows[torch.randperm(len(rows))[:pushed]])
        if not sure.any() or not len(queues.queues[c]):
            continue
        centre, mine = flat_teacher[sure].mean(0), flat[sure]
        a = mine[torch.randint(len(mine), (anchors,))]
        b = queues.queues[c][torch.randint(len(queues.queues[c]), (anchors * negatives,))].view(anchors, negatives, -1)
        candidates = torch.cat([centre.expand(anchors, 1, -1), b], 1)
        similarity = F.cosine_similarity(a[:, None], candidates, dim=-1) / temperature
        losses.append(F.cross_entropy(similarity, torch.zeros(anchors, dtype=torch.int64)))
    return sum(losses) / max(1, len(losses))


def ohem_by_sorting(logits: Tensor, labels: Tensor, threshold: float, min_kept: int) -> Tensor:
    "Hard pixels by sorting them all."
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").flatten()
    p = torch.exp(-loss)[labels.flatten() != IGNORE]
    cut = max(threshold, float(p.sort().values[min(min_kept, len(p)) - 1]))
    kept = (torch.exp(-loss) <= cut) & (labels.flatten() != IGNORE)
    return loss[kept].mean()
