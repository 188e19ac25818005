"""Losses, bank and training step: how long they take, beside plain versions and beside what no step can avoid."""
import json
import statistics
import subprocess
import sys
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from bench.reference import GrowingQueues, contrast, ohem_by_sorting
from bench.timing import entry, medians, peak_extra
from stal_nb.banks import ClassMemoryBank
from stal_nb.config import Config, TrainingConfig
from stal_nb.labels import CITYSCAPES
from stal_nb.losses import contrastive_loss, ohem_cross_entropy
from stal_nb.scenes import SceneDataset
from stal_nb.step import TeacherView, TrainingState, contrast_step
from stal_nb.trainer import Trainer

C, D, CAPACITY, ANCHORS, NEGATIVES = 19, 256, 30_000, 256, 50


def contrast_inputs(size: int = 97, images: int = 4) -> tuple[torch.Tensor, TeacherView]:
    "Embeddings of the student, and a teacher's view of two labelled and two unlabelled images: patches of classes with noise."
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(0, C, (images, 1, size // 8 + 1, size // 8 + 1), generator=g)
    truth = F.interpolate(truth.float(), (size, size), mode="nearest")[:, 0].long()
    logits = F.one_hot(truth, C).movedim(-1, 1) * 3.0 + torch.randn(images, C, size, size, generator=g) * 1.5
    probs, labelled = logits.softmax(1), torch.arange(images) < images // 2
    labels = torch.where(labelled[:, None, None], truth, probs.argmax(1))
    teacher = torch.randn(images, D, size, size, generator=g)
    return torch.randn(images, D, size, size, generator=g), TeacherView(probs, teacher, labels, labelled)


def contrast_entries() -> list[dict]:
    config = TrainingConfig(num_anchors=ANCHORS, num_negatives=NEGATIVES, bank_capacity=CAPACITY)
    student, view = contrast_inputs()
    generator = torch.Generator().manual_seed(0)
    bank, queues = ClassMemoryBank(C, D, CAPACITY), GrowingQueues(C, D, CAPACITY)
    for c in range(C):
        rows = torch.randn(CAPACITY, D, generator=generator)
        bank.push(rows, torch.full((CAPACITY,), c))
        queues.push(c, rows)

    def ours():
        leaf = student.detach().requires_grad_()
        contrast_step(bank, leaf, view, config, generator).backward()

    def plain():
        leaf = student.detach().requires_grad_()
        contrast(queues, leaf, view.embeddings, view.probs, view.labels, view.labelled, ANCHORS, NEGATIVES, config.bank_push, config.temperature,
                 config.anchor_threshold, (config.low_rank, config.high_rank), (config.reliable_percentile, config.unreliable_percentile)).backward()

    times = medians({"ours": ours, "plain": plain})
    detail = f"4 images of {D}x97x97, {C} classes, {ANCHORS} anchors x {NEGATIVES} negatives, bank {CAPACITY:,} a class, full; with push, draw and backward"
    return [entry("L_c with its bank", times["ours"] * 1e3, "ms", 70, detail),
            entry("L_c, class by class with growing queues", times["plain"] * 1e3, "ms", None, "the same work, plain"),
            entry("L_c: plain / ours", times["plain"] / times["ours"], "x", None, "in one process, alternating"),
            entry("L_c: peak extra memory", peak_extra(ours) / 2**20, "MiB", 150, "beside bank and inputs; 36 MiB of it are the gradient of the embeddings")]


def size_entries() -> list[dict]:
    "`contrastive_loss` alone, doubling one size after the other: time should double."
    g, base, found = torch.Generator().manual_seed(0), dict(C=8, M=128, N=128, D=128), []
    for doubled in (None, "C", "M", "N", "D"):
        s = {k: v * (2 if k == doubled else 1) for k, v in base.items()}
        anchors = torch.randn(s["C"], s["M"], s["D"], generator=g).requires_grad_()
        positives, negatives = torch.randn(s["C"], s["D"], generator=g), torch.randn(s["C"], s["M"], s["N"], s["D"], generator=g)
        rows = torch.arange(s["C"] * s["M"] * s["N"]).view(s["C"], s["M"], s["N"])
        times = medians({"tensor": lambda: contrastive_loss(anchors, positives, negatives).backward(),
                         "memory": lambda: contrastive_loss(anchors, positives, negatives.view(-1, s["D"]), rows=rows).backward()}, repeats=15)
        size = " x ".join(str(v) for v in s.values())
        found.append(entry(f"contrastive_loss, C x M x N x D = {size}", times["tensor"] * 1e3, "ms", None,
                           "the size all others double" if doubled is None else f"{doubled} doubled"))
        found.append(entry(f"contrastive_loss with rows, {size}", times["memory"] * 1e3, "ms", None, "the same numbers, read from a table by row"))
    return found


def ohem_entries() -> list[dict]:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, C, 512, 512, generator=g) * 2, torch.randint(0, C, (4, 512, 512), generator=g)
    kept = int(0.085 * labels.numel())
    times = medians({"ours": lambda: ohem_cross_entropy(logits, labels, 0.7, kept), "sorting": lambda: ohem_by_sorting(logits, labels, 0.7, kept),
                     "entropy": lambda: F.cross_entropy(logits, labels, reduction="none")}, repeats=7)
    return [entry("OHEM by selection", times["ours"] * 1e3, "ms", None, "4 x 512 x 512 pixels, 19 classes, forward"),
            entry("OHEM: by sorting / by selection", times["sorting"] / times["ours"], "x", None, "all of it"),
            entry("OHEM: choosing, by sorting / by selection", (times["sorting"] - times["entropy"]) / (times["ours"] - times["entropy"]), "x", None,
                  "without the cross entropy that both begin with")]


def step_times(backbone: str, size: tuple[int, int], repeats: int, width: int, aux_images: int | None) -> dict[str, float]:
    """Median seconds of a whole step, loading included, and of the passes of the two networks on the same images; alternating.

    The step asks the auxiliary head about the labelled images only, as the passes do with `aux_images=2`; with None they run the networks as they are."""
    config = replace(
        Config.preset("demo"), backbone=backbone, aspp_channels=width, embedding_dim=width, weights=None, crop_size=size, image_size=size,
        source_batch=1, target_batch=1, unlabelled_batch=2, device="cpu")
    source, target = SceneDataset("sim", 16, size=size, cache=16), SceneDataset("real", 16, size=size, cache=16)
    torch.manual_seed(0)
    state = TrainingState(config, C, len(source), len(target))
    trainer = Trainer(config, CITYSCAPES, state, source, target, labelled=range(4), unlabelled=range(4, 16), num_steps=10_000)
    trainer.plan_state = trainer.snapshot()
    for k in range(16):
        source[k], target[k]  # drawn once, then at hand: a reader of files has its own cost
    batch = next(trainer.batches(0, 1))
    weak, strong = torch.cat([batch["image"], batch["unlabelled"]]), torch.cat([batch["image"], batch["unlabelled"][:2]])
    if config.channels_last:
        weak, strong = (t.contiguous(memory_format=torch.channels_last) for t in (weak, strong))

    def endless():
        while True:
            yield from trainer.batches(trainer.step, trainer.step + config.plan_every)

    batches = endless()

    def step():
        trainer.one_step(next(batches))

    def passes():
        state.student.train()
        with torch.no_grad():
            state.teacher(weak)
        output = state.student(strong, aux_images=aux_images)
        ones = [t for t in output if t is not None]
        torch.autograd.backward(ones, [torch.ones_like(t) for t in ones])
        trainer.optimizer.zero_grad()

    return medians({"step": step, "passes": passes}, repeats=repeats)


def step_entries(
    backbone: str, size: tuple[int, int], limit: float | None, repeats: int, width: int = 256, processes: int = 3, aux_images: int | None = None,
) -> list[dict]:
    "Step over passes, each ratio within one process; the median of several processes, since how memory happens to be laid out in one moves it by some percent."
    code = f"import json; from bench.bench_method import step_times; print(json.dumps(step_times({backbone!r}, {size}, {repeats}, {width}, {aux_images})))"
    told = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8").stdout for _ in range(processes)]
    runs = [json.loads(text.splitlines()[-1]) for text in told]
    ratios = sorted(run["step"] / run["passes"] for run in runs)
    step, passes = (statistics.median(run[key] for run in runs) * 1e3 for key in ("step", "passes"))
    name = f"step / passes, {backbone}, decoder of {width}, {size[0]}x{size[1]}"
    if aux_images is not None:
        name += ", auxiliary head of labelled images only"
    detail = (f"batch 2 + 2 (and 2 CutMix partners, teacher only), loading, mixing, losses, bank, optimiser and EMA included; "
              f"median of {processes} processes, {ratios[0]:.3f} to {ratios[-1]:.3f}")
    return [entry(name, statistics.median(ratios), "x", limit, detail), entry(f"{name}: step", step, "ms", None, f"passes alone {passes:.0f} ms")]


def import_entry(repeats: int = 5) -> list[dict]:
    "Importing the losses beside importing torch and torchvision alone."
    def start(code: str):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    nothing, libraries, ours = "pass", "import torch, torchvision", "import torch, torchvision, stal_nb.losses"
    alone = medians({"nothing": start(nothing), "libraries": start(libraries), "ours": start("import stal_nb.losses"), "both": start(ours)}, repeats=repeats)
    base = alone["libraries"] - alone["nothing"]
    return [entry("import stal_nb.losses / import torch, torchvision", (alone["ours"] - alone["nothing"]) / base, "x", 1.1,
                  f"fresh interpreters; torch and torchvision {base:.2f} s")]


def measure() -> list[dict]:
    np.random.seed(0)
    small, large = ("mobilenet_v3_large", (128, 256)), ("resnet50", (256, 512))
    return [*contrast_entries(), *size_entries(), *ohem_entries(), *step_entries(*small, 1.15, 15, processes=9), *step_entries(*small, None, 15, aux_images=2),
            *step_entries(*small, None, 15, width=64), *step_entries(*large, 1.05, 5), *import_entry()]
