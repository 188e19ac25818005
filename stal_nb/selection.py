from dataclasses import dataclass, field
import torch
@dataclass
class StrategyInput:
    ids: list; groups: list; scores: dict; k: int; generator: object = None; features: object = None; labelled: object = None
def top_k(scores, k, groups=None, ids=None):
    order = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), ids[i] if ids else i)); return order[:k]
STRATEGIES = {"random": lambda s: [sorted(s.ids)[i] for i in torch.randperm(len(s.ids), generator=s.generator)[:s.k].tolist()],
 "entropy": lambda s: [s.ids[i] for i in top_k(s.scores["entropy"], s.k, ids=s.ids)]}
STRATEGIES["margin"] = STRATEGIES["entropy"]
def select(name, s): return STRATEGIES[name](s)
