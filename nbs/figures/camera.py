"""A fire camera that does not exist, for 24 Your own camera: renderings and photograph-like views of hills."""

import io
import os
import shlex
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from PIL import Image, ImageFilter

from stal_nb.app.annotator import Annotator
from stal_nb.app.transfer import pack_labels
from stal_nb.canvas import bumps_of
from stal_nb.cli import main
from stal_nb.prediction import trained_network
from stal_nb.run import Run
from stal_nb.runtime.images import read_image
from stal_nb.uncertainty import entropy

from .sheets import MAGMA, bare, colourbar

SIZE = (96, 144)  # (height, width) of a view, pixels
CLASSES = ("background", "smoke", "fire")
DRAWN = {1: (200, 200, 210), 2: (255, 80, 0)}  # colours in the label files; the background is drawn by nobody


class View(NamedTuple):
    "What the camera sees, and what the drawing knows of it."

    image: np.ndarray  # (H, W, 3) uint8
    labels: np.ndarray  # (H, W) uint8, positions in CLASSES
    veil: np.ndarray  # (H, W) float32 in [0, 1): how much of what is behind it the smoke hides
    behind: np.ndarray  # (H, W, 3) float32 in [0, 1], the view without smoke and fire


def _smooth(height: int, width: int, cell: int, rng: np.random.Generator) -> np.ndarray:
    "(H, W) float32 in [0, 1], waves about `cell` pixels wide."
    coarse = rng.random((height // cell + 3, width // cell + 3)).astype(np.float32)
    wide = Image.fromarray(coarse).resize((width + 2 * cell, height + 2 * cell), Image.Resampling.BICUBIC)
    return np.asarray(wide)[cell:cell + height, cell:cell + width].clip(0, 1)


def _ridge(width: int, level: float, rough: float, rng: np.random.Generator) -> np.ndarray:
    "(W,) height of a line of hills above the lower edge, as shares of the image's height."
    x, line = np.linspace(0, 1, width), np.full(width, level)
    for waves in (1, 2, 5, 11):
        line += rough / waves * np.sin(2 * np.pi * (waves * x * rng.uniform(0.6, 1.2) + rng.random()))
    return line


def _hills(rng: np.random.Generator, photograph: bool, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    "The land and the sky (H, W, 3), and which of three ridges a pixel belongs to (H, W), 0 = sky."
    height, width = size
    up = np.linspace(1, 0, height, dtype=np.float32)[:, None]  # 1 at the upper edge
    top, low = ((0.35, 0.6, 0.95), (0.75, 0.88, 1.0)) if not photograph else ((0.44, 0.56, 0.72), (0.72, 0.75, 0.76))
    picture = np.array(low, np.float32) + up[..., None] * (np.array(top, np.float32) - low)
    picture = np.broadcast_to(picture, (height, width, 3)).copy()
    if photograph:  # clouds, which a rendering does not have
        clouds = (_smooth(height, width, 28, rng) * 0.7 + 0.3 * _smooth(height, width, 9, rng) - 0.45).clip(0, 1)
        picture += (0.9 - picture) * (0.9 * clouds)[..., None].clip(0, 1)
    ridge = np.zeros(size, np.uint8)
    greens = ((0.45, 0.62, 0.5), (0.25, 0.52, 0.24), (0.15, 0.4, 0.12))
    for k, (level, colour) in enumerate(zip((0.6, 0.42, 0.22), greens), 1):
        inside = up < _ridge(width, level + rng.uniform(-0.04, 0.04), 0.045, rng)
        colour = np.array(colour, np.float32) * rng.uniform(0.85, 1.1)
        if photograph:  # a season, woods and fields
            colour = colour * (0.75, 0.68, 0.8) + (0.07, 0.05, 0.03) + 0.05 * rng.random(3)
        picture[inside], ridge[inside] = colour, k
    return picture, ridge


def _texture(picture: np.ndarray, ridge: np.ndarray, rng: np.random.Generator) -> None:
    "What photographs have and renderings have not: woods, fields, haze in the valleys, red roofs, the sun's glare."
    height, width = ridge.shape
    woods = bumps_of(height, width, 1, rng) + bumps_of(height, width, 3, rng)
    picture += (ridge > 0)[..., None] * 0.12 * woods[..., None]
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    for _ in range(rng.integers(0, 3)):  # mist lies flat where smoke rises
        bank = np.exp(-((rows - rng.uniform(0.42, 0.7)) / 0.03) ** 2) * _smooth(height, width, 30, rng)
        picture += (np.array((0.84, 0.85, 0.86), np.float32) - picture) * (0.6 * bank)[..., None]
    for _ in range(rng.integers(0, 4)):
        y, x = int(rng.uniform(0.65, 0.95) * height), int(rng.uniform(0, 0.97) * width)
        picture[y:y + 2, x:x + int(rng.integers(2, 5))] = (0.6, 0.25, 0.17)


def _plume(size: tuple[int, int], foot: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    "(H, W) in [0, 1): smoke rises from its foot, leans with the wind, widens and thins."
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    tall, wind = rng.uniform(0.3, 0.6) * height, rng.uniform(-0.7, 0.7)
    risen = ((foot[0] - y) / tall).clip(-1, 2)
    middle = foot[1] + wind * tall * risen.clip(0) ** 1.4 + 2 * np.sin(7 * risen + rng.uniform(0, 6))
    spread = 1.5 + (0.05 + 0.12 * risen.clip(0)) * height * rng.uniform(0.7, 1.1)
    body = np.exp(-((x - middle) / spread) ** 2) * (risen > 0) * (1 - risen.clip(0, 1) ** 2)
    return rng.uniform(0.7, 0.9) * body * (0.6 + 0.4 * _smooth(height, width, 7, rng))


def draw_view(
    seed: int,
    photograph: bool = False,  # else a rendering
    burning: bool | None = None,  # None: three views of four
    size: tuple[int, int] = SIZE,  # (height, width)
) -> View:
    "One view; the same seed draws the same one."
    rng = np.random.default_rng([seed, photograph])
    picture, ridge = _hills(rng, photograph, size)
    if photograph:
        _texture(picture, ridge, rng)
    behind, veil, labels = picture.clip(0, 1).copy(), np.zeros(size, np.float32), np.zeros(size, np.uint8)
    if rng.random() < 0.75 if burning is None else burning:
        columns = rng.uniform(0.15, 0.85) * size[1]
        rows = np.flatnonzero(ridge[:, int(columns)] > 0)
        foot = int(rng.choice(rows[len(rows) // 6: max(1, int(0.7 * len(rows)))])), int(columns)
        veil = _plume(size, foot, rng)
        grey = rng.uniform(0.72, 0.9) if not photograph else rng.uniform(0.8, 0.95)
        picture += (np.array((grey, grey, grey + 0.03), np.float32) - picture) * veil[..., None]
        labels[veil > 0.12] = 1
        y, x = np.mgrid[:size[0], :size[1]]
        flame = ((y - foot[0]) / rng.uniform(2.0, 3.5)) ** 2 + ((x - foot[1]) / rng.uniform(2.0, 4.5)) ** 2 < 1
        heat = rng.random(int(flame.sum()))[:, None]
        picture[flame] = np.array((1.0, 0.4, 0.05)) + heat * (0.0, 0.35, 0.1)
        labels[flame] = 2
    return View(_developed(picture, photograph, rng), labels, veil, behind)


def _developed(picture: np.ndarray, photograph: bool, rng: np.random.Generator) -> np.ndarray:
    "(H, W, 3) uint8: a photograph has passed a lens, a tinted light and a sensor."
    if photograph:
        picture = picture * rng.uniform(0.85, 1.1) * (1 + 0.05 * rng.standard_normal(3))
    image = Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8))
    if not photograph:
        return np.asarray(image)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.5)), np.float32)
    return (blurred + 5 * rng.standard_normal(picture.shape)).clip(0, 255).astype(np.uint8)


def label_picture(
    labels: np.ndarray,  # (H, W) positions in CLASSES
) -> Image.Image:
    "A label as a renderer writes it: colours where something was drawn, transparent where nobody drew."
    pixels = np.zeros((*labels.shape, 4), np.uint8)
    for position, colour in DRAWN.items():
        pixels[labels == position] = (*colour, 255)
    return Image.fromarray(pixels)


def write_camera(
    folder: Path,
    renderings: int = 32,
    photographs: int = 24,
    validation: int = 8,
    size: tuple[int, int] = SIZE,  # (height, width)
) -> dict[str, View]:  # the photographs without labels, by id, with what the drawing knows of them
    "`renderings/` with labels, `photographs/train/` without, `photographs/val/` with labels: `stal_nb new` finds them."
    parts = {"renderings": (renderings, False, "png"), "photographs/train": (photographs, True, "jpg"),
             "photographs/val": (validation, True, "jpg")}
    truth = {}
    for number, (name, (count, photograph, ending)) in enumerate(parts.items()):
        place = folder / name
        for part in ("images", *(["labels"] if name != "photographs/train" else [])):
            (place / part).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            view, id = draw_view(1000 * number + k, photograph, size=size), f"view-{k:03d}"
            Image.fromarray(view.image).save(place / "images" / f"{id}.{ending}", quality=92)
            if name == "photographs/train":
                truth[id] = view
            else:
                label_picture(view.labels).save(place / "labels" / f"{id}.png")
    return truth


def shell(
    line: str,  # as it is typed after `stal_nb`
) -> int:  # exit status
    "A command of `stal_nb`; what it says is printed without the folder that we work in, which is another each time."
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            return main([*shlex.split(line), "--no-bar"])
    finally:
        print(said.getvalue().replace(os.getcwd() + os.sep, "").rstrip())


# Somebody who labels


def answer(
    widget: Annotator,
    truth: Mapping[str, View],
    seconds: float = 60.0,  # of a person's time for each, so to say
) -> None:
    "Say what the page says when a person has finished an image: here with the truth that the drawing knows."
    for id in widget.waiting:
        content = {"type": "save", "id": id, "base": 0, "box": None, "seconds": seconds, "done": True}
        widget.receive(content, [pack_labels(torch.from_numpy(truth[id].labels).long())])


def write_answers(folder: Path, truth: Mapping[str, View]) -> None:
    "The truth as label files, as another program of a colleague would save it."
    folder.mkdir(parents=True, exist_ok=True)
    for id, view in truth.items():
        label_picture(view.labels).save(folder / f"{id}.png")


# Pictures


def _over(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    "Fire and smoke as colours over a faded image."
    over = 0.45 * image + 0.55 * 255
    for position, colour in {1: (40, 110, 200), 2: (215, 40, 20)}.items():
        over[labels == position] = 0.35 * image[labels == position] + 0.65 * np.array(colour)
    return over.astype(np.uint8)


def domains_figure(columns: int = 4) -> plt.Figure:
    "Renderings above, with what is drawn in them; photographs below, with what nobody has drawn yet."
    figure, axes = plt.subplots(4, columns, figsize=(2.6 * columns, 7.2), dpi=80, layout="constrained")
    for row, photograph in ((0, False), (2, True)):
        for k, (upper, lower) in enumerate(zip(axes[row], axes[row + 1])):
            view = draw_view(1000 * photograph + k, photograph)
            bare(upper, view.image, ("rendering", "photograph")[photograph] if k == 0 else "")
            bare(lower, _over(view.image, view.labels), "what is there: smoke blue, fire red" if k == 0 else "")
    return figure


def scores(run: Run) -> pd.DataFrame:
    "IoU of each class on the validation photographs, in percent, after each stage."
    rows = {}
    for stage in run.layout.trained:
        found = run.layout.metrics(stage)
        rows["renderings alone" if stage == "source" else f"{stage}"] = {**found["iou"], "mIoU": found["miou"]}
    return pd.DataFrame(rows).T.round(1)


@torch.inference_mode()
def _probs(run: Run, stage: str | None, image: torch.Tensor) -> torch.Tensor:
    "(C, H, W) of one image (3, H, W)."
    return trained_network(run, stage).model(image[None].to(run.device)).logits.softmax(1)[0].cpu()


def classes_figure(
    run: Run,
    photographs: Path,  # with images/ and labels/
) -> plt.Figure:
    "For each class the validation photograph that shows most of it: predictions before and after, and uncertainty."
    codes = {position: np.array((*colour, 255)) for position, colour in DRAWN.items()}
    images = sorted((photographs / "images").iterdir())
    labels = {f: np.asarray(Image.open(photographs / "labels" / f"{f.stem}.png")) for f in images}
    positions = {f: sum(k * (pixels == code).all(-1) for k, code in codes.items()) for f, pixels in labels.items()}
    figure, axes = plt.subplots(3, 5, figsize=(11.5, 5), dpi=80, layout="constrained")
    titles = "photograph", "truth", "after renderings alone", "after the last round", "uncertainty"
    for row, k in zip(axes, (1, 2, 0)):
        file = max(images, key=lambda f: (positions[f] == k).sum())
        image = read_image(file)
        before, after = _probs(run, "source", image), _probs(run, None, image)
        picture = (255 * image.permute(1, 2, 0)).numpy()
        shown = [picture.astype(np.uint8), *(_over(picture, m) for m in (positions[file], before.argmax(0).numpy(),
                                                                         after.argmax(0).numpy()))]
        for axis, view, title in zip(row, shown, titles):
            bare(axis, view, title if k == 1 else "")
        bare(row[4], entropy(after[None])[0], titles[4] if k == 1 else "", **MAGMA)
        row[0].set_ylabel(CLASSES[k], fontsize=10)
    colourbar(figure, axes[:, 4])
    return figure
