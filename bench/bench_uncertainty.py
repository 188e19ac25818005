"""Costs of the uncertainty maps at the size of Cityscapes, against references written for this file.

    python -m bench uncertainty

`measure()` returns rows {name, value, unit, limit, detail}; `limit` is the most that `value` may be, or None. Times are the smallest of
several repetitions.
"""
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from stal_nb.models import DeepLabV3Plus
from stal_nb.uncertainty import Ensemble, class_probs, dropout_passes, entropy, evaluating, ripu


def best_of(function, times: int) -> float:
    "Seconds of the fastest run."
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def slow_ripu(probs: Tensor, radius: int) -> Tensor:
    "RIPU as it is often written: window sums by a convolution with a k × k kernel of ones, one channel after the other."
    k, c = 2 * radius + 1, probs.shape[1]
    one_hot = F.one_hot(probs.argmax(1), c).movedim(3, 1).to(probs.dtype)
    sums = F.conv2d(one_hot, torch.ones(c, 1, k, k, dtype=probs.dtype), padding=radius, groups=c)
    pixels = F.conv2d(torch.ones_like(probs[:, :1]), torch.ones(1, 1, k, k, dtype=probs.dtype), padding=radius)
    mean = F.conv2d(entropy(probs)[:, None], torch.ones(1, 1, k, k, dtype=probs.dtype), padding=radius) / pixels
    return entropy(sums / pixels) * mean[:, 0]


def bench_ripu() -> list[dict]:
    size = (1024, 2048)
    probs = (3 * torch.randn(1, 19, *size, generator=torch.Generator().manual_seed(0))).softmax(1)
    ripu(probs, 1)  # the first call allocates and does not count
    seconds = dict.fromkeys((1, 16, 32), float("inf"))
    for _ in range(3):  # in turns: a busy moment of the machine then hits none of them alone
        seconds = {radius: min(old, best_of(lambda r=radius: ripu(probs, r), 1)) for radius, old in seconds.items()}
    small = probs[..., :64, :128].contiguous()
    assert (slow_ripu(small, 16) - ripu(small, 16)).abs().max() < 1e-4
    one, ones = probs[:, :1].contiguous(), torch.ones(1, 1, 33, 33)  # k = 2 · 16 + 1; all 19 classes and the entropy cost the same
    slow = 20 * best_of(lambda: F.conv2d(one, ones, padding=16), 1)
    shape = f"19 × {size[0]} × {size[1]}"
    return [
        dict(name="RIPU, radius 16", value=seconds[16], unit="s", limit=3.0, detail=shape),
        dict(name="RIPU, radius 32 ÷ radius 1", value=seconds[32] / seconds[1], unit="×", limit=1.1,
             detail=f"{seconds[32]:.2f} s and {seconds[1]:.2f} s"),
        dict(name="RIPU by k × k convolution, radius 16", value=slow, unit="s", limit=None,
             detail=f"window sums alone: one map of {size[0]} × {size[1]} measured, times 20"),
        dict(name="convolution ÷ running sums, radius 16", value=slow / seconds[16], unit="×", limit=None, detail=shape)]


def bench_dropout() -> list[dict]:
    "Passes that remember what comes before dropout, against passes that compute everything; memory of sums against all opinions."
    size, passes = (512, 1024), 8
    model = DeepLabV3Plus("tf_efficientnet_lite0", 19, embedding_dim=64, aspp_channels=64, weights=None).eval()
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))

    def bare() -> None:
        with evaluating(model):
            class_probs(model, images)

    def stream() -> Ensemble:
        return Ensemble(dropout_passes(model, images, passes))

    once, all_passes = best_of(bare, 2), best_of(stream, 2)
    ensemble = stream()
    kept = sum(t.numel() * t.element_size() for t in vars(ensemble).values() if isinstance(t, Tensor))
    detail = f"{passes} passes at {size[0]} × {size[1]}, sums included"
    return [
        dict(name="MC dropout ÷ as many bare forward passes", value=all_passes / (passes * once), unit="×", limit=None, detail=detail),
        dict(name="sums of T members ÷ one prediction, memory", value=kept / (ensemble.mean.numel() * ensemble.mean.element_size()), unit="×",
             limit=3.2, detail="for every T")]


def measure() -> list[dict]:
    "All rows."
    with torch.no_grad():
        return [*bench_ripu(), *bench_dropout()]
