"""Pictures for 09b Coverage."""

import tempfile
from typing import NamedTuple

import torch
from IPython.display import Image as DisplayedImage
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from figures.sheets import below, contact_sheet, jpeg
from stal_nb.app.drawing import still
from stal_nb.coverage import every_nth, herding, k_center, plus_plus, prob_cover, typiclust, word_coverage
from stal_nb.features import FeaturePass, compute_features
from stal_nb.scenes import SceneDataset
from stal_nb.selection import group_quotas

COLOURS = {"drawn": (31, 119, 180), "dusk": (148, 103, 189), "day": (255, 127, 14)}


class Streets(NamedTuple):
    "Streets of three kinds, and what the frozen backbone sees of them."
    images: Tensor  # (n, 3, H, W)
    ids: list[str]
    groups: list[str]
    vectors: Tensor  # (n, D)
    words: Tensor  # (n, W)


class _Pool:
    def __init__(self, images: Tensor, ids: list[str], groups: list[str]):
        self.images, self.ids, self.groups = images, ids, groups

    def __len__(self) -> int:
        return len(self.ids)

    def load_image(self, k: int) -> Tensor:
        return self.images[k]

    def __getitem__(self, k: int):
        from stal_nb.labels import Sample

        return Sample(self.images[k], torch.zeros(0), self.ids[k], self.groups[k])


def streets_of_two_domains(day: int = 30, dusk: int = 6, drawn: int = 8) -> Streets:
    "Thirty streets of the domain `real`, six of them again at dusk, and eight of the domain `sim`."
    real, sim = (SceneDataset(domain, n, size=(96, 192), seed=3) for domain, n in (("real", day), ("sim", drawn)))
    bright = [real[i].image for i in range(day)]
    dark = [0.35 * image * torch.tensor([0.8, 0.85, 1.15]).view(3, 1, 1) for image in bright[:dusk]]
    images = torch.stack([*bright, *dark, *(sim[i].image for i in range(drawn))]).clamp(0, 1)
    groups = ["day"] * day + ["dusk"] * dusk + ["drawn"] * drawn
    ids = [f"{group}{k:02d}" for k, group in enumerate(groups)]
    with tempfile.TemporaryDirectory() as folder:
        found = compute_features(folder, _Pool(images, ids, groups), FeaturePass("tf_efficientnet_lite0"), bar=False)
    return Streets(images, ids, groups, found.vectors, found.words)


def choices(streets: Streets, k: int) -> dict[str, list[int]]:
    "What each method chooses of the streets, without a label to begin with."
    generator, n = torch.Generator(), len(streets.ids)
    quotas, x = group_quotas(streets.groups, k), streets.vectors
    every = every_nth(streets.ids, streets.groups, quotas, generator.manual_seed(0))
    return {
        "chance": torch.randperm(n, generator=generator.manual_seed(0))[:k].tolist(),
        "every n-th of each group": [streets.ids.index(id) for id in every],
        "visual words": word_coverage(streets.words, [], k),
        "visual words with group quotas": word_coverage(streets.words, [], k, streets.groups, quotas),
        "k-centre": k_center(x, [], k),
        "herding (MaxHerding)": herding(x, [], k),
        "balls (ProbCover)": prob_cover(x.double(), [], k, generator.manual_seed(0)),  # or its radius hangs on rounding
        "typical of clusters (TypiClust)": typiclust(x, [], k, generator.manual_seed(0)),
        "k-means++ draw": plus_plus(x, k, generator.manual_seed(0)),
    }


def _heading(text: str, width: int) -> Image.Image:
    line = Image.new("RGB", (width, 21), "white")
    ImageDraw.Draw(line).text((6, 3), text, fill="black", font=ImageFont.load_default(13))
    return line


def choices_sheet(streets: Streets, chosen: dict[str, list[int]]) -> DisplayedImage:
    "A row of pictures a method, in the order in which they were chosen; the bar says the group."
    parts = []
    for name, positions in chosen.items():
        cells = [([still(streets.images[i])], streets.groups[i], COLOURS[streets.groups[i]], False) for i in positions]
        sheet = contact_sheet([cells], (104, 52))
        parts += [_heading(name, sheet.width), sheet]
    return jpeg(below(*parts), 75)


def covering_figure(streets: Streets, budgets: range = range(1, 17)) -> plt.Figure:
    "Words shown and covering radius by budget; chance as the mean of 200 draws, with its middle 90 %."
    words, x, n = streets.words, streets.vectors.double(), len(streets.ids)

    def shown(chosen: list[int]) -> float:
        return 100 * (words[chosen] > 0).any(0)[(words > 0).any(0)].float().mean().item()

    def radius(chosen: list[int]) -> float:
        return torch.cdist(x, x[chosen]).amin(1).max().item()

    most = max(budgets)
    orders = {"visual words": (word_coverage(words, [], most), "#2ca02c"),
              "k-centre": (k_center(x, [], most), "#d62728"),
              "herding": (herding(x.float(), [], most), "#1f77b4")}
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3), dpi=80, layout="constrained")
    for axis, (measure, title) in zip(axes, ((shown, "visual words shown (%)"), (radius, "covering radius"))):
        for name, (order, colour) in orders.items():
            axis.plot(budgets, [measure(order[:k]) for k in budgets], color=colour, label=name)
        draws = [torch.randperm(n, generator=torch.Generator().manual_seed(s)).tolist() for s in range(200)]
        table = torch.tensor([[measure(order[:k]) for k in budgets] for order in draws])
        axis.plot(budgets, table.mean(0), color="#777777", linestyle="--", label="chance")
        axis.fill_between(budgets, *table.quantile(torch.tensor([0.05, 0.95]), 0), color="#777777", alpha=0.2,
                          linewidth=0)
        axis.set(xlabel="images chosen", title=title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def radius_sheet(streets: Streets, weights: Tensor, radii: tuple[float, ...], k: int) -> DisplayedImage:
    "What herding chooses as its radius shrinks; below each picture, its weight and its rank by weight."
    rank = {int(i): r for r, i in enumerate(weights.argsort(descending=True), 1)}
    parts = []
    for radius in radii:
        chosen = herding(streets.vectors, [], k, weights, radius)
        cells = [([still(streets.images[i])], f"{weights[i]:.2f}, rank {rank[i]}", COLOURS[streets.groups[i]], False)
                 for i in chosen]
        sheet = contact_sheet([cells], (104, 52))
        parts += [_heading(f"radius {radius:g}", sheet.width), sheet]
    return jpeg(below(*parts), 75)
