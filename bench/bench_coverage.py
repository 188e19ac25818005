"""Measure what notebook 09b promises: k-centre, visual words and herding of 100,000 images in under a minute and 2 GB.

    python -m bench coverage

Each method runs in a process of its own, so that its peak of memory is its own. Times are seconds of the processor on all threads: other
work on the machine does not count.
"""
import multiprocessing
import time

import torch

from bench.timing import peak_held
from stal_nb.coverage import herding, k_center, word_coverage

IMAGES, PICKS, CHANNELS, WORDS = 100_000, 1_000, 432, 384  # channels: EfficientNet-Lite0's maps at strides 16 and 32


def pool(name: str) -> torch.Tensor:
    "Features or bags of words in 300 clusters of unequal size, as of sequences of a film."
    generator = torch.Generator().manual_seed(0)
    of = (300 * torch.rand(IMAGES, generator=generator).square()).long()
    if name == "words":  # 48 cells an image and three codebooks of 128 words, of which a sequence shows some often and some never
        books = torch.randn(3, 300, WORDS // 3, generator=generator).mul(2).softmax(2)
        cells = torch.cat([128 * b + torch.multinomial(book[of], 48, True, generator=generator) for b, book in enumerate(books)], 1)
        return torch.zeros(IMAGES, WORDS).scatter_add_(1, cells, torch.full((IMAGES, 144), 1 / 48))
    rows = torch.randn(300, CHANNELS, generator=generator)[of]
    rows.add_(torch.randn(IMAGES, CHANNELS, generator=generator), alpha=0.7)
    return torch.nn.functional.normalize(rows, dim=1)


def _run(name: str, answer) -> None:
    torch.set_num_threads(1)
    rows, known = pool(name), range(0, 100)
    started = time.process_time()
    if name == "words":
        word_coverage(rows, known, PICKS)
    elif name == "k-centre":
        k_center(rows, known, PICKS, torch.float32)
    else:
        herding(rows, known, PICKS, torch.rand(IMAGES, generator=torch.Generator().manual_seed(1)))
    answer.put((time.process_time() - started, peak_held()))


def measure() -> list[dict]:
    "One entry a promise: name, value, unit, limit, detail."
    results, context = [], multiprocessing.get_context("spawn")
    for name in ("words", "herding", "k-centre"):
        answer = context.Queue()
        process = context.Process(target=_run, args=(name, answer))
        process.start()
        seconds, peak = answer.get()
        process.join()
        detail = f"{IMAGES:,} images, {PICKS:,} picks, 100 labelled; {WORDS if name == 'words' else CHANNELS} numbers an image, one thread"
        results.append({"name": f"{name}, processor time", "value": round(seconds, 3), "unit": "s", "limit": 60, "detail": detail})
        results.append({"name": f"{name}, peak memory", "value": round(peak / 2**10, 3), "unit": "GiB", "limit": 2, "detail": "of the whole process"})
    return results
