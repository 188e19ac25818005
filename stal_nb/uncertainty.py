import torch
from stal_nb.losses import normalised_entropy
def entropy(probs): return normalised_entropy(probs)
def margin(probs): t = probs.topk(2, 1).values; return 1 - (t[:, 0] - t[:, 1])
def least_confidence(probs): C = probs.shape[1]; return (1 - probs.max(1).values) * C / (C - 1)
def image_score(m): return m.flatten(1).mean(1)
