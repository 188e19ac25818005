"""Reading files: how fast a frame is decoded by which decoder, whether loading keeps up with training, and what a large pool costs in memory."""
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.timing import entry
from stal_nb.config import Config
from stal_nb.data import Resized, read_labels, write_sample
from stal_nb.inspection import check_dataset
from stal_nb.labels import CITYSCAPES, SYNTHIA
from stal_nb.readers import GTA5, Cityscapes, synthia_id_table, write_cityscapes, write_gta5, write_synthia
from stal_nb.runtime.images import read_image
from stal_nb.scenes import SceneDataset
from stal_nb.step import TrainingState
from stal_nb.trainer import Trainer

FRAME, CROP = (1024, 2048), (128, 256)  # (height, width) of a frame of Cityscapes, and of the demo's views


def grainy(domain: str, number: int, size: tuple[int, int]) -> list:
    "Scenes with a camera's noise on them, so that their PNGs are as large as those of photographs: about 1.5 bytes a pixel."
    g = torch.Generator().manual_seed(0)
    scenes = SceneDataset(domain, number, size=size)
    return [s._replace(image=(s.image + 2 / 255 * torch.randn(s.image.shape, generator=g)).clamp(0, 1)) for s in scenes]


def processor_ms(functions: dict[str, Callable[[], object]], repeats: int = 9) -> dict[str, float]:
    "Median milliseconds of processor time of each function on one thread, as in a loading process; their runs alternate."
    threads, times = torch.get_num_threads(), {name: [] for name in functions}
    torch.set_num_threads(1)
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1e3 * (time.process_time() - start))
    torch.set_num_threads(threads)
    return {name: sorted(values)[repeats // 2] for name, values in times.items()}


def decoder_entries(folder: Path) -> list[dict]:
    from torchvision.io import ImageReadMode, decode_image

    from stal_nb.runtime.images import _chunks, _is_whole

    frame = grainy("real", 1, FRAME)[0]._replace(id="frame")
    write_sample(frame, folder, folder / "labels")
    write_sample(frame, folder, suffix=".jpg")
    write_synthia(grainy("sim", 1, (760, 1280)), folder / "synthia")
    png, jpeg, label = folder / "frame.png", folder / "frame.jpg", folder / "labels/frame.png"
    deep = folder / "synthia/GT/LABELS/0000000.png"
    data = {file: file.read_bytes() for file in (png, jpeg)}

    def by_pillow(file: Path):
        return lambda: np.array(Image.open(io.BytesIO(data[file])))

    def by_torchvision(file: Path):
        return lambda: decode_image(torch.frombuffer(bytearray(data[file]), dtype=torch.uint8), ImageReadMode.RGB)

    for file in data:
        assert np.array_equal(by_pillow(file)(), by_torchvision(file)().movedim(0, -1).numpy())
    ms = processor_ms({
        "png, Pillow": by_pillow(png), "png, torchvision": by_torchvision(png), "jpeg, Pillow": by_pillow(jpeg), "jpeg, torchvision": by_torchvision(jpeg),
        "looked through": lambda: _is_whole(b"".join(body for kind, body in _chunks(data[png]) if kind == b"IDAT"), FRAME[0], 1 + 3 * FRAME[1]),
        "image": lambda: read_image(png), "jpeg image": lambda: read_image(jpeg), "label": lambda: read_labels(label, CITYSCAPES),
        "deep": lambda: read_labels(deep, SYNTHIA, synthia_id_table(), channel=0)})
    size = f"2048 x 1024, PNG of {len(data[png]) / 1e6:.1f} MB, JPEG of {len(data[jpeg]) / 1e6:.1f} MB, processor time of one thread"
    return [entry("read_image, PNG", ms["image"], "ms", None, f"file to float tensor; {size}; Pillow, {1e3 / ms['image']:.0f} images/s a core"),
            entry("PNG: torchvision / Pillow", ms["png, torchvision"] / ms["png, Pillow"], "x", None,
                  f"decoding alone, the same bytes; torchvision {ms['png, torchvision']:.1f} ms, Pillow {ms['png, Pillow']:.1f} ms"),
            entry("PNG: (torchvision + looking through) / Pillow", (ms["png, torchvision"] + ms["looked through"]) / ms["png, Pillow"], "x", None,
                  "what it takes to keep torchvision from ending the process at broken pixels: not used"),
            entry("read_image, JPEG", ms["jpeg image"], "ms", None, f"file to float tensor; torchvision, {1e3 / ms['jpeg image']:.0f} images/s a core"),
            entry("JPEG: torchvision / Pillow", ms["jpeg, torchvision"] / ms["jpeg, Pillow"], "x", 1.0, "decoding alone, the same bytes: used"),
            entry("read_labels, PNG of ids", ms["label"], "ms", None, "2048 x 1024, to int64 through the table of ids"),
            entry("read_labels, SYNTHIA", ms["deep"], "ms", None, "1280 x 760, three channels of 16 bits, looked through and decoded by torchvision")]


def check_entries(folder: Path) -> list[dict]:
    "The check of frames as large as GTA5's, resized as training does it, by one process and by two."
    write_gta5(grainy("sim", 8, (1052, 1914)), folder / "large")
    data, found = Resized(GTA5(folder / "large"), FRAME), []
    for workers in (0, 2):
        check = min((check_dataset(data, workers=workers, bar=False) for _ in range(2)), key=lambda c: c.seconds)
        found.append(entry(f"check of GTA5 frames, {max(1, workers)} process{'es' * (workers > 1)}: a frame", 1e3 / check.images_per_second, "ms", None,
                           f"1914 x 1052 resized to 2048 x 1024, image and label; {check.images_per_second:.1f} images/s, "
                           f"{check.megabytes / check.seconds:.0f} MB/s, starting the processes included"))
    return found


def trees(folder: Path, target: int) -> tuple[GTA5, Cityscapes]:
    "A source of 40 and a target of so many images, of 128 x 256; target files above the first ten are further names of those."
    if not (folder / "gta5").exists():
        write_gta5(grainy("sim", 40, CROP), folder / "gta5")
    root = folder / f"target{target}"
    write_cityscapes(grainy("real", 10, CROP), root, "train")
    files = Cityscapes(root, "train")
    for k in range(10, target):
        image, label = files.files(k % 10)
        for file in (image, label):
            city, _, rest = file.name.split("_", 2)
            os.link(file, file.with_name(f"{city}_{k:06d}_{rest}"))
    return GTA5(folder / "gta5"), Cityscapes(root, "train")


def trainer_of(source: GTA5, target: Cityscapes, workers: int) -> Trainer:
    config = replace(Config.preset("demo"), weights=None, device="cpu", workers=workers)
    torch.manual_seed(0)
    state = TrainingState(config, CITYSCAPES.num_classes, len(source), len(target))
    trainer = Trainer(config, CITYSCAPES, state, source, target, labelled=range(4), unlabelled=range(4, len(target)), num_steps=10_000)
    trainer.plan_state = trainer.snapshot()
    return trainer


def throughput_entries(folder: Path, workers: int = 1, steps: int = 8) -> list[dict]:
    "Seconds a batch of the loader by itself, beside seconds a step that finds its batch ready."
    source, target = trees(folder, 10)
    trainer = trainer_of(source, target, workers)
    ready = list(trainer.batches(0, 4))

    def load() -> float:
        start = None
        for batch in trainer.batches(0, 8 * steps):
            start = start or time.perf_counter()  # the first one waits for the process to start
        return (time.perf_counter() - start) / (8 * steps - 1)

    def train() -> float:
        start = time.perf_counter()
        for k in range(steps):
            trainer.one_step(ready[k % len(ready)])
        return (time.perf_counter() - start) / steps

    train()
    loads, trains = zip(*((load(), train()) for _ in range(2)))
    a_load, a_step = min(loads), min(trains)
    images = trainer.config.source_batch + trainer.config.target_batch + 2 * trainer.config.unlabelled_batch
    return [entry("loading a batch / training on it, 128 x 256", a_load / a_step, "x", 0.5,
                  f"demo preset from PNG files, batch {images} and images to paste; {workers} of {os.cpu_count()} cores loads: a batch {1e3 * a_load:.0f} ms "
                  f"({images / a_load:.0f} images/s); {torch.get_num_threads()} threads train: a step {1e3 * a_step:.0f} ms")]


def peak_of_a_run(folder: Path, target: int, steps: int = 12) -> float:
    "MiB at most held by a process that loads and trains for some steps, a fresh one."
    code = ("import sys; from pathlib import Path; from bench.bench_data import *; from bench.timing import peak_held\n"
            "source, target = GTA5(Path(sys.argv[1]) / 'gta5'), Cityscapes(Path(sys.argv[1]) / f'target{sys.argv[2]}', 'train')\n"
            "trainer = trainer_of(source, target, 0)\n"
            "for batch in trainer.batches(0, int(sys.argv[3])): trainer.one_step(batch)\n"
            "print(peak_held())")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(folder), str(target), str(steps)], check=True, capture_output=True,
                          encoding="utf-8")
    return float(done.stdout.split()[-1])


def memory_entries(folder: Path) -> list[dict]:
    for target in (10, 1000):
        trees(folder, target)
    small, large = (peak_of_a_run(folder, target) for target in (10, 1000))
    return [entry("memory of a run: 1,000 target images / 10", large / small, "x", 1.05,
                  f"peak of a process that trains the demo preset for 12 steps from files: {large:.0f} and {small:.0f} MiB")]


def measure() -> list[dict]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*decoder_entries(folder), *check_entries(folder), *throughput_entries(folder), *memory_entries(folder)]
