from typing import NamedTuple
import torch
from stal_nb.labels import IGNORE
class Metrics(NamedTuple):
    miou: float; iou: dict; confusion: object
class SegmentationMetrics:
    def __init__(self, label_space): self.s = label_space; self.c = None
    def update(self, logits_or_ids, labels):
        C = self.s.num_classes; ids = logits_or_ids.argmax(1) if logits_or_ids.ndim == 4 else logits_or_ids
        i = torch.where(labels == IGNORE, C * C, labels * C + ids)
        n = torch.bincount(i.flatten(), minlength=C * C + 1)[:C * C].view(C, C)
        self.c = n if self.c is None else self.c + n
    def compute(self):
        c = self.c.double(); tp = c.diag(); u = c.sum(0) + c.sum(1) - tp
        iou = torch.where(c.sum(1) > 0, tp / u, torch.nan) * 100
        return Metrics(float(iou.nanmean()), dict(zip(self.s.classes, iou.tolist())), self.c)
