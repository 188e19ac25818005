"""The loop around the step: what checkpoints cost, and what the trainer adds to the step itself."""
import hashlib
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from bench.timing import entry, medians, peak_extra
from stal_nb.config import Config, TrainingConfig
from stal_nb.labels import CITYSCAPES
from stal_nb.optimisation import poly_lr
from stal_nb.runtime.checkpoints import check_checkpoint, checkpoint_tensors, load_checkpoint, save_checkpoint
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState, training_step
from stal_nb.trainer import Trainer

C = CITYSCAPES.num_classes


def demo_trainer(folder: Path | None = None, **changes) -> Trainer:
    "The demo's network and batch at 128 x 256, random weights."
    config = replace(Config.preset("demo"), weights=None, crop_size=(128, 256), image_size=(128, 256), device="cpu", **changes)
    torch.manual_seed(0)
    state = TrainingState(config, C, 16, 16)
    source, target = (SceneDataset(domain, 16, size=(128, 256), cache=16) for domain in ("sim", "real"))
    trainer = Trainer(config, CITYSCAPES, state, source, target, labelled=range(4), unlabelled=range(4, 16), num_steps=10_000, folder=folder)
    trainer.plan_state = trainer.snapshot()
    return trainer


def step_entries(repeats: int = 11) -> list[dict]:
    "A step of the trainer beside the same step written out, on one batch that is loaded already."
    trainers = {"stop": demo_trainer(), "skip": demo_trainer(bad_loss="skip")}
    plain = demo_trainer()
    batch, config, state = next(plain.batches(0, 1)), plain.config, plain.state
    optimizer = torch.optim.SGD(state.student.parameter_groups(config.lr, config.head_multiplier), momentum=config.momentum,
                                weight_decay=config.weight_decay, fused=True)
    state.student.train()

    def written_out():
        for group in optimizer.param_groups:
            group["lr"] = poly_lr(config.lr, 0, 10_000)
        torch.manual_seed(0)
        loss, _ = training_step(state, batch, config, 0.0, plain.generator.manual_seed(0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.teacher.update(state.student, 1)

    times = medians({"plain": written_out, **{name: lambda t=t: t.one_step(batch) for name, t in trainers.items()}}, repeats=repeats)
    detail = f"demo, 128x256, batch loaded; training_step, backward, SGD and EMA written out: {times['plain'] * 1e3:.0f} ms"
    return [entry("step of the trainer / step written out", times["stop"] / times["plain"], "x", 1.05, detail),
            entry("the same with bad_loss='skip'", times["skip"] / times["plain"], "x", 1.15, "teacher, statistics and banks can be put back after each step")]


def checkpoint_entries(repeats: int = 5) -> list[dict]:
    "Checkpoints of the demo, beside the steps between two of them."
    with tempfile.TemporaryDirectory() as folder:
        trainer = demo_trainer(Path(folder))
        batches = list(trainer.batches(0, 4))
        trainer.one_step(batches[0])
        steps = [0]

        def step():
            trainer.one_step(batches[steps[0] % 4])
            steps[0] += 1

        handed, finished = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            trainer.save(wait=False)
            handed.append(time.perf_counter() - start)
            trainer.saved.finish()
            finished.append(time.perf_counter() - start)
        one = medians({"step": step}, repeats=repeats)["step"]
        size, every = trainer.checkpoint.stat().st_size / 2**20, trainer.config.checkpoint_every
        whole, held = (sorted(times)[repeats // 2] for times in (finished, handed))
    detail = f"{size:.0f} MiB, every {every} steps of {one * 1e3:.0f} ms; scoring and evaluation, which a round has too, not counted"
    return [entry("a checkpoint / the steps between two", 100 * whole / (every * one), "%", 3, f"as if nothing ran beside the writing. {detail}"),
            entry("the same, what training waits for", 100 * held / (every * one), "%", None, f"{held * 1e3:.0f} of {whole * 1e3:.0f} ms")]


def large_entries() -> list[dict]:
    "The paper's network: ResNet-101, embeddings of 256, 30,000 bank entries a class."
    config = TrainingConfig(weights=None, device="cpu")
    torch.manual_seed(0)
    state = TrainingState(config, C, 2000, 2975)
    optimizer = torch.optim.SGD(state.student.parameters(), lr=0.01, momentum=0.9)
    for parameter in state.student.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.safetensors"
        save_checkpoint(file, state, optimizer)
        size, data = file.stat().st_size, memoryview(state.memory.entries.reshape(-1).view(torch.uint8).numpy())
        times = medians({"save": lambda: save_checkpoint(file, state, optimizer), "copy": lambda: checkpoint_tensors(state, optimizer, copy=True),
                         "check": lambda: check_checkpoint(file), "load": lambda: load_checkpoint(file, state, optimizer),
                         "crc32": lambda: zlib.crc32(data), "sha256": lambda: hashlib.sha256(data).digest(),
                         "blake2b": lambda: hashlib.blake2b(data).digest()}, repeats=3, warm=0)
        extra = peak_extra(lambda: save_checkpoint(file, state, optimizer), every=0.002)
    gib = size / 2**30
    found.append(entry("checkpoint of the paper's network: written and flushed", times["save"], "s", None, f"{gib:.2f} GiB, {gib / times['save']:.2f} GiB/s"))
    found.append(entry("checkpoint of the paper's network: what training waits for", times["copy"], "s", None, "a copy in memory; written beside training"))
    found.append(entry("checkpoint of the paper's network: extra memory / file", extra / size, "x", 0.5, "while it is written from a CPU's own tensors"))
    found.append(entry("checkpoint of the paper's network: loaded", times["load"], "s", None, f"of which {times['check']:.2f} s read it all for its digest"))
    for name in ("crc32", "sha256", "blake2b"):
        found.append(entry(f"checksum {name}", len(data) / 2**30 / times[name], "GiB/s", None, f"over {len(data) / 2**20:.0f} MiB; sha256 is used"))
    return found


def measure() -> list[dict]:
    return [*step_entries(), *checkpoint_entries(), *large_entries()]
