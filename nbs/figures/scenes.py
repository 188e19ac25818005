"""Pictures for 01 Scenes."""

import numpy as np
import torch
from matplotlib import pyplot as plt

from figures.labels import add_class_legend
from stal_nb.labels import CITYSCAPES
from stal_nb.scenes import CITIES, SceneDataset, develop, light, texture, weather

# percent of pixels
CITYSCAPES_SHARES = (36.9, 6.1, 22.8, 0.66, 0.88, 1.23, 0.21, 0.55, 15.9, 1.16, 4.0, 1.22, 0.14, 7.0, 0.27, 0.24, 0.23,
                     0.10, 0.41)


def contact_sheet(
    domains: tuple[str, ...] = ("sim", "real"),
    columns: int = 4,  # scenes a domain
    start: int = 0,  # first scene
) -> plt.Figure:
    "Scenes with their labels, two rows a domain; riders, who are nearly as red as persons, with a white outline."
    figure, axes = plt.subplots(2 * len(domains), columns, figsize=(3.3 * columns, 3.4 * len(domains) + 0.5), dpi=75,
                                squeeze=False, layout="constrained")
    rider = CITYSCAPES.classes.index("rider")
    for d, domain in enumerate(domains):
        scenes = SceneDataset(domain, start + columns)
        for k in range(columns):
            sample = scenes[start + k]
            axes[2 * d, k].imshow(sample.image.permute(1, 2, 0).numpy())
            axes[2 * d, k].set_title(domain if domain == "sim" else f"real, {sample.group}", fontsize=9)
            axes[2 * d + 1, k].imshow(CITYSCAPES.colorize(sample.labels))
            if (sample.labels == rider).any():
                axes[2 * d + 1, k].contour(sample.labels == rider, levels=[0.5], colors="white", linewidths=1.2)
    for axis in axes.flat:
        axis.axis("off")
    add_class_legend(figure, CITYSCAPES, {"rider": " (white outline)"})
    return figure


def anatomy(index: int = 0, seed: int = 0) -> plt.Figure:
    "One real street at each step of its making."
    scenes = SceneDataset("real", index + 1, seed=seed)
    canvas, rng, style = scenes.canvas(index)
    steps = [("the street", canvas.image.copy())]
    texture(canvas, 1.0)
    steps.append(("texture", canvas.image.copy()))
    light(canvas, rng, sun=True, dusk=False)
    steps.append(("sun and shadow", canvas.image.copy()))
    weather(canvas, rng, fog=True, rain=False)
    steps.append(("fog", canvas.image.copy()))
    image, labels = develop(canvas, rng, style.tint)
    steps += [("lens, exposure, noise", image.transpose(1, 2, 0)), ("labels", CITYSCAPES.colorize(labels)), ]
    figure, axes = plt.subplots(2, 3, figsize=(12, 4.4), dpi=85)
    for axis, (title, picture) in zip(axes.flat, steps):
        axis.imshow(picture if picture.dtype == np.uint8 else np.clip(picture, 0, 1))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def cities_sheet(columns: int = 4) -> plt.Figure:
    "Some scenes of each city."
    scenes = SceneDataset("real", 200)
    figure, axes = plt.subplots(len(CITIES), columns, figsize=(3.1 * columns, 1.72 * len(CITIES)), dpi=66)
    for row, city in zip(axes, CITIES):
        found = [i for i, group in enumerate(scenes.groups) if group == city.name][:columns]
        for axis, index in zip(row, found):
            axis.imshow(scenes[index].image.permute(1, 2, 0).numpy())
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(city.name, fontsize=9)
    figure.tight_layout(pad=0.4)
    return figure


def class_shares(scenes: SceneDataset) -> torch.Tensor:
    "(C,) share of the labelled pixels of each class."
    counts = sum(torch.bincount(scenes[i].labels.flatten(), minlength=256)[:19] for i in range(len(scenes)))
    return counts / counts.sum()


def shares_figure(shares: dict[str, torch.Tensor]) -> plt.Figure:
    "Class shares of the domains on a logarithmic scale, Cityscapes' beside them."
    order = np.argsort(CITYSCAPES_SHARES)[::-1]
    figure, axis = plt.subplots(figsize=(11, 3.2), dpi=85)
    for k, ((domain, share), colour) in enumerate(zip(shares.items(), ("#9ecae1", "#3182bd"))):
        axis.bar(np.arange(19) + 0.38 * k - 0.19, 100 * share.numpy()[order], 0.36, label=domain, color=colour)
    axis.scatter(np.arange(19), np.array(CITYSCAPES_SHARES)[order], marker="_", s=260, color="#d62728",
                 label="Cityscapes", zorder=3)
    axis.set_yscale("log")
    axis.set_ylabel("share of pixels (%)")
    axis.set_xticks(range(19), [CITYSCAPES.classes[i] for i in order], rotation=45, ha="right")
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def statistics_figure(count: int = 120) -> plt.Figure:
    "Mean and spread of the brightness of images of both domains, the cities apart."
    figure, axis = plt.subplots(figsize=(6.5, 3.6), dpi=85)
    for domain in ("sim", "real"):
        scenes = SceneDataset(domain, count)
        images = (scenes[i].image for i in range(count))  # each drawn once
        points = np.array([(image.mean(), image.std()) for image in images])
        for group in sorted(set(scenes.groups)):
            mine = np.array([g == group for g in scenes.groups])
            axis.scatter(*points[mine].T, s=14, label=group, marker="s" if domain == "sim" else "o",
                         color="black" if domain == "sim" else None)
    axis.set(xlabel="mean brightness", ylabel="standard deviation")
    axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    return figure


def photograph(index: int = 0, grain: float = 0.8, sun: bool = False, dusk: bool = False, fog: bool = False,
               rain: bool = False) -> tuple[np.ndarray, np.ndarray]:
    "(H, W, 3) image and (H, W) labels of one real street under chosen circumstances."
    canvas, rng, style = SceneDataset("real", index + 1).canvas(index)
    texture(canvas, grain)
    light(canvas, rng, sun, dusk)
    weather(canvas, rng, fog, rain)
    image, labels = develop(canvas, np.random.default_rng(index), style.tint)
    return np.clip(image, 0, 1).transpose(1, 2, 0), labels
