"""Measure what notebooks 10 and 13 promise: the scoring pass beside the bare network, its memory, k-centre, and the choice of regions.

    python -m bench selection

Ratios are taken from alternating passes and their minima, since other work on the machine only
ever adds time.
"""
import multiprocessing
import tempfile
import time

import torch

from bench.timing import peak_held
from stal_nb.app.demo import demo_model
from stal_nb.labels import Sample
from stal_nb.scoring import Scoring, score_pool
from stal_nb.selection import k_center, select_regions


class Pictures:
    "Images that are in memory: a ratio to the bare network must not measure the disk. `fresh` makes each anew, for the measure of memory."

    def __init__(self, length: int, size: tuple[int, int], fresh: bool = False):
        self.size, self.fresh = size, fresh
        self.ids, self.groups = [f"{k:05d}" for k in range(length)], [""] * length
        self.images = [torch.rand(3, *size, generator=torch.Generator().manual_seed(k)) for k in range(1 if fresh else length)]
        self.labels = torch.zeros(size, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, k: int) -> Sample:
        image = self.images[0].clone() if self.fresh else self.images[k]
        return Sample(image, self.labels, self.ids[k], "")


def _seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def scoring_ratio(size: tuple[int, int], length: int, batch: int, repeats: int = 5) -> tuple[float, float, float]:
    "Scoring pass for entropy ÷ bare forward of the same images, and the seconds of both."
    model, pictures = demo_model(), Pictures(length, size)
    batches = torch.stack(pictures.images).split(batch)

    @torch.inference_mode()
    def bare():
        for images in batches:
            model(images, with_embeddings=False)

    def scored():
        with tempfile.TemporaryDirectory() as folder:
            score_pool(folder, model, pictures, range(length), Scoring(frozenset({"entropy"}), batch_size=batch), bar=False)

    bare(), scored()
    forward, whole = [], []
    for _ in range(repeats):
        forward.append(_seconds(bare))
        whole.append(_seconds(scored))
    return min(whole) / min(forward), min(whole), min(forward)


def _peak(length: int, answer) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        score_pool(
            folder,
            demo_model(),
            Pictures(length, (64, 128), fresh=True),
            range(length),
            Scoring(frozenset({"entropy", "features"})),
            bar=False,
        )
    answer.put(peak_held())


def peak_memory(length: int) -> float:
    "Largest resident memory (MiB) of a process of its own that scores so many images."
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak, args=(length, answer))
    process.start()
    peak = answer.get(timeout=900)
    process.join()
    return peak


def measure() -> list[dict]:
    "One entry a promise: name, value, unit, limit (None if there is none), detail."
    results = []

    def add(name: str, value: float, unit: str, limit: float | None, detail: str) -> None:
        results.append({"name": name, "value": round(value, 3), "unit": unit, "limit": limit, "detail": detail})

    for size, length, batch, limit in (((128, 256), 48, 8, 1.2), ((512, 1024), 8, 1, 1.1)):
        ratio, whole, forward = scoring_ratio(size, length, batch)
        add(
            f"scoring pass ÷ forward, {size[0]}×{size[1]}",
            ratio,
            "×",
            limit,
            f"{length} images in batches of {batch}: {whole:.2f} s and {forward:.2f} s, minima of 5; images in memory, files written",
        )
    few, many = peak_memory(100), peak_memory(2000)
    add(
        "peak memory, 2,000 ÷ 100 images",
        many / few,
        "×",
        1.05,
        f"{many:.0f} and {few:.0f} MiB of a process; entropy and embeddings, 64×128",
    )
    features = torch.randn(100_000, 256, generator=torch.Generator().manual_seed(0))
    add("k-centre, 100,000 × 256, 1,000 picks", _seconds(lambda: k_center(features, [], 1000)), "s", 60, "double precision")
    score = torch.rand(1024, 2048, generator=torch.Generator().manual_seed(0))
    for radius in (1, 16):
        taken = len(select_regions(score, 400, radius))
        seconds = min(_seconds(lambda r=radius: select_regions(score, 400, r)) for _ in range(5))
        add(f"400 regions of 1024×2048, radius {radius}", seconds, "s", 1, f"{taken} regions, minimum of 5")
    return results
