"""What a network costs: tables for 04 Models."""

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from stal_nb.models import ARCHITECTURES, DeepLabV3Plus, SegmentationNetwork

# What it costs


def part_costs(
    model: SegmentationNetwork,
    size: tuple[int, int] = (128, 256),  # (height, width) of one image
) -> dict[str, dict[str, float]]:  # part -> {"parameters", "multiply-adds"}
    "Parameters and multiply-adds of each part for one image, counted while the image goes through."
    parts = {"backbone": ["backbone"], "pyramid": ["aspp"], "decoder": ["decoder"],
             "heads": ["classifier", "representation"]}
    # v2 has two of them
    parts = {name: members for name, members in parts.items() if all(hasattr(model, part) for part in members)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, *size, device=model.mean.device))
    counts = counter.get_flop_counts()
    def count(part):  # two operations, one multiply-add
        return sum(counts.get(f"{type(model).__name__}.{part}", {}).values()) / 2

    return {name: {"parameters": sum(p.numel() for part in members for p in getattr(model, part).parameters()),
                   "multiply-adds": sum(map(count, members))} for name, members in parts.items()}


def cost_table(
    rows: Sequence[tuple[str, int]],  # (backbone, output stride)
    size: tuple[int, int] = (128, 256),  # (height, width) of one image
    channels: int = 256,  # of pyramid, decoder and embeddings
    repeats: int = 3,  # the fastest counts
) -> pd.DataFrame:
    "Parameters (millions), multiply-adds (billions) and time of one image, by part."
    table = {}
    image = torch.zeros(1, 3, *size)
    for backbone, stride in rows:
        model = DeepLabV3Plus(backbone, 19, weights=None, output_stride=stride, aspp_channels=channels,
                              embedding_dim=channels).eval()
        costs = part_costs(model, size)
        times = []
        with torch.no_grad():
            for _ in range(repeats):
                start = time.perf_counter()
                model(image)
                times.append(time.perf_counter() - start)
        row = {("parameters (M)", part): costs[part]["parameters"] / 1e6 for part in costs}
        row |= {("multiply-adds (G)", part): costs[part]["multiply-adds"] / 1e9 for part in costs}
        table[backbone, stride] = row | {("forward", "ms"): 1e3 * min(times)}
    frame = pd.DataFrame(table).T
    frame.index.names = ["backbone", "stride"]
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return frame

# name -> architecture, and its arguments beside the number of classes
PAPER_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeepLab v2": ("deeplabv2", dict(backbone="resnet101")),
    "DeepLab v3+, stride 16": ("deeplabv3plus", dict(backbone="resnet101", output_stride=16)),
    "DeepLab v3+, stride 8": ("deeplabv3plus", dict(backbone="resnet101", output_stride=8)),
    "DeepLab v3+, the method's settings": ("deeplabv3plus",
                                           dict(backbone="resnet101", output_stride=8, multi_grid=(2, 2, 4),
                                                                 aspp_dilations=(12, 24, 36), separable=False)),
}


def paper_table(
    networks: dict[str, tuple[str, dict[str, Any]]] = PAPER_NETWORKS,
    # (height, width) of a training crop and of a whole image
    sizes: Sequence[tuple[int, int]] = ((769, 769), (1024, 2048)),
    num_classes: int = 19,
) -> pd.DataFrame:
    """Parameters (millions) and multiply-adds (billions) of the papers' networks, counted on the `meta` device: no
    number is computed."""
    table = {}
    for name, (architecture, options) in networks.items():
        with torch.device("meta"):
            model = ARCHITECTURES[architecture](num_classes=num_classes, weights=None, **options).eval()
            seen = []  # (height, width) of the embeddings, once for each size
            model.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.embeddings.shape[-2:]))
            costs = {size: part_costs(model, size) for size in sizes}
            cells = tuple(seen[0])
        total = sum(p.numel() for p in model.parameters())
        own = costs[sizes[0]]["backbone"]["parameters"]
        auxiliary = sum(p.numel() for p in model.auxiliary.parameters())
        row = {("parameters (M)", "backbone"): own / 1e6,
               ("parameters (M)", "the rest"): (total - own - auxiliary) / 1e6,
               ("parameters (M)", "auxiliary"): auxiliary / 1e6}
        row |= {("multiply-adds (G)",
                 f"{size[0]} × {size[1]}"): sum(part["multiply-adds"] for part in costs[size].values()) / 1e9
                for size in sizes}
        row |= {
            ("multiply-adds (G)", "backbone's share"): costs[sizes[0]]["backbone"]["multiply-adds"]
            / 1e9
            / row["multiply-adds (G)", f"{sizes[0][0]} × {sizes[0][1]}"]
        }
        table[name] = row | {("embeddings", f"of {sizes[0][0]} × {sizes[0][1]}"): f"{cells[0]} × {cells[1]}"}
    frame = pd.DataFrame(table).T
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return frame
