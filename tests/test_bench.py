"""The benchmarks compare like with like, and say what was asked and what was found."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.__main__ import table
from bench.reference import GrowingQueues, contrast, ohem_by_sorting
from bench.timing import entry, medians, peak_extra
from stal_nb.banks import ClassMemoryBank
from stal_nb.config import TrainingConfig
from stal_nb.losses import ohem_cross_entropy
from stal_nb.step import TeacherView, contrast_step

ROOT = Path(__file__).resolve().parent.parent


def test_the_plain_contrast_is_the_same_loss():
    "With constant embeddings no draw matters, and what remains are the roles, the bank and the equation."
    g = torch.Generator().manual_seed(0)
    C, D, size = 5, 8, 12
    probs = (3 * torch.randn(4, C, size, size, generator=g)).softmax(1)
    labels, labelled = probs.argmax(1), torch.tensor([True, True, False, False])
    student, teacher = (torch.randn(D, generator=g) for _ in range(2))
    maps = [v[None, :, None, None].expand(4, D, size, size) for v in (student, teacher)]
    config = TrainingConfig(num_anchors=6, num_negatives=7, bank_capacity=30, bank_push=10)
    bank, queues = ClassMemoryBank(C, D, 30), GrowingQueues(C, D, 30)
    for queue in (0, 1):  # classes 0 and 1 are full already, the others get what the step adds
        bank.push(torch.nn.functional.normalize(teacher, dim=0).expand(30, D), torch.full((30,), queue))
        queues.push(queue, teacher.expand(30, D))
    ours = contrast_step(bank, maps[0], TeacherView(probs, maps[1], labels, labelled), config, g)
    plain = contrast(queues, *maps, probs, labels, labelled, 6, 7, config.bank_push, config.temperature, config.anchor_threshold,
                     (config.low_rank, config.high_rank), (config.reliable_percentile, config.unreliable_percentile))
    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)


def test_sorting_and_selecting_find_the_same_pixels():
    g = torch.Generator().manual_seed(0)
    logits, labels = 2 * torch.randn(2, 5, 20, 30, generator=g), torch.randint(0, 5, (2, 20, 30), generator=g)
    labels[0, :3] = 255
    for kept in (10, 300, 1100):
        assert ohem_by_sorting(logits, labels, 0.5, kept).item() == pytest.approx(ohem_cross_entropy(logits, labels, 0.5, kept).item(), rel=1e-5)


@pytest.mark.slow
def test_medians_and_memory_are_measured():
    times = medians({"short": lambda: sum(range(100)), "long": lambda: sum(range(1_000_000))}, repeats=3, warm=1)
    assert 0 < times["short"] < times["long"]
    assert 60e6 < peak_extra(lambda: torch.ones(20_000_000).sum()) < 200e6


def test_the_table_says_what_is_over_its_limit():
    lines = table([entry("a", 1.0, "x", 2.0, "first"), entry("b", 3.0, "x", 2.0, "second"), entry("c", 3.0, "ms", None, "third")])
    assert "  ok" in lines and "  OVER" in lines and lines.count("OVER") == 1 and "second" in lines


@pytest.mark.slow
def test_an_unknown_benchmark_is_named():
    done = subprocess.run([sys.executable, "-m", "bench", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "found nothing, expected some of" in done.stderr


def test_the_stored_results_are_complete():
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    names = {p.stem.removeprefix("bench_") for p in (ROOT / "bench").glob("bench_*.py")}
    assert set(results) == names
    for module in results.values():
        assert {"date", "cores", "threads", "torch", "entries"} <= set(module) and all(e["value"] > 0 and e["detail"] for e in module["entries"])
