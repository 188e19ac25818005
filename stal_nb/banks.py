import torch
from torch import nn
from stal_nb.labels import IGNORE
class ClassMemoryBank(nn.Module):
    def __init__(self, num_classes, dim, capacity):
        super().__init__()
        self.C, self.cap = num_classes, capacity
        self.register_buffer("entries", torch.zeros(num_classes * capacity + 1, dim)); self.register_buffer("pushed", torch.zeros(num_classes, dtype=torch.long))
    @property
    def counts(self): return self.pushed.clamp(max=self.cap)
    def push(self, embeddings, classes, valid=None):
        C = self.C
        cls = classes if valid is None else torch.where(valid, classes, torch.full_like(classes, C))
        order = cls.argsort(stable=True); sc = cls[order]
        n = torch.zeros(C + 1, dtype=torch.long, device=cls.device).scatter_add_(0, cls, torch.ones_like(cls))
        start = n.cumsum(0) - n
        pos = torch.arange(len(cls), device=cls.device) - start[sc]
        keep = (sc < C) & (pos >= n[sc] - self.cap)
        slot = (torch.cat([self.pushed, self.pushed.new_zeros(1)])[sc] + pos) % self.cap
        dest = torch.where(keep, sc * self.cap + slot, torch.full_like(sc, C * self.cap))
        self.entries[dest] = embeddings[order].to(self.entries.dtype)
        self.pushed += n[:C]
    def sample(self, per_class, generator=None):
        n = self.counts
        r = (torch.rand(self.C, per_class, generator=generator, device=n.device) * n[:, None]).long()
        idx = r + torch.arange(self.C, device=n.device)[:, None] * self.cap
        return self.entries[idx], n > 0
class ConfidenceBank(nn.Module):
    def __init__(self, num_classes, momentum=0.999):
        super().__init__(); self.momentum = momentum; self.register_buffer("confidence", torch.zeros(num_classes))
    def update(self, probs, labels):
        C = probs.shape[1]; ok = labels != IGNORE; l = labels.clamp(max=C - 1)
        p = probs.gather(1, l[:, None])[:, 0] * ok
        s = torch.zeros(C, device=p.device).scatter_add_(0, l.flatten(), p.flatten().float()); n = torch.zeros(C, device=p.device).scatter_add_(0, l.flatten(), ok.flatten().float())
        self.confidence.copy_(torch.where(n > 0, self.momentum * self.confidence + (1 - self.momentum) * s / n.clamp(min=1), self.confidence))
    def sampling_probs(self): return (1 - self.confidence).softmax(0)
    def class_rate(self): r = 1 - self.confidence; return r / r.max()
