"""Pictures for 10 Selection."""

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from IPython.display import Image as DisplayedImage
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor

from figures.scenes import photograph
from figures.sheets import CHOSEN, bare, below, city_legend, contact_sheet, jpeg
from figures.strategies import MARKS
from figures.students import decoder_features, pixels_of, sim_heads
from figures.uncertainty import predict_images, predicted_scenes
from stal_nb.app.demo import demo_model
from stal_nb.app.drawing import magma, pale, still
from stal_nb.app.selection_explorer import (
    SHORT,
    ScoredPool,
    city_colours,
    class_shares_of,
    principal_plane,
    ranks_of,
    title_of,
)
from stal_nb.banks import ConfidenceBank
from stal_nb.labels import CITYSCAPES
from stal_nb.selection import (
    Region,
    StrategyInput,
    group_quotas,
    k_center,
    region_mask,
    ripu_map,
    select,
    select_regions,
    top_k,
)
from stal_nb.uncertainty import MEASURES, bald, dropout_passes, entropy, image_score


def scored_pool(length: int = 48, seed: int = 5) -> ScoredPool:
    """Draw scenes of the domain `real`, predict and score them with the demo model, its dropout masks, and four heads
    on its decoder."""
    scenes = predicted_scenes("real", length, seed)
    maps = {name: measure(scenes.probs) for name, measure in MEASURES.items()}
    scores = {name: image_score(value) for name, value in maps.items()}
    scores["bald"] = dropout_scores(scenes.images)
    scores["ensemble"] = head_scores(scenes.images)
    return ScoredPool(scenes, scenes.ids, scenes.groups, maps["entropy"], scores, scenes.features,
                      scenes.probs.mean((2, 3)), class_rates())


@torch.inference_mode()
def dropout_scores(images: Tensor, passes: int = 6) -> Tensor:
    "(N,) mean disagreement of dropout masks of the demo model, looked at in every fourth row and column."
    generator = torch.Generator().manual_seed(0)

    def predict(model, x):
        return model(x, with_embeddings=False).logits[..., 2::4, 2::4].softmax(1)

    return torch.cat([image_score(bald(dropout_passes(demo_model(), part, passes, generator, predict=predict)))
                      for part in images.split(8)])


def head_scores(images: Tensor) -> Tensor:
    "(N,) mean disagreement of four last layers, each learnt from another half of the pixels of `sim`."
    x, _ = decoder_features(images)
    heads = sim_heads()
    probs = [(x @ w.T + b).softmax(-1).movedim(-1, 1)[:, :, None] for w, b in heads]  # (N, C, 1, P)
    return image_score(bald(probs))


@lru_cache(maxsize=1)
def class_rates() -> Tensor:
    "(19,) the class rate of a confidence bank that has seen the demo model on labelled scenes of `sim`."
    sim, layer, bank = pixels_of("sim", 32, 11), demo_model().classifier, ConfidenceBank(19, momentum=0.5)
    # (N, C, 1, P)
    probs = (sim.x @ layer.weight.flatten(1).T + layer.bias).softmax(-1).detach().movedim(-1, 1)[:, :, None]
    for few in range(0, len(probs), 4):
        bank.update(probs[few:few + 4], sim.labels[few:few + 4, None])
    return bank.class_rate()


def ranked_gallery(pool: ScoredPool, k: int, columns: int = 8, measure: str = "entropy") -> DisplayedImage:
    "The whole pool with its maps, most uncertain first; the first k are framed."
    order, colours = top_k(pool.scores[measure], len(pool.ids), ids=pool.ids), city_colours(pool.groups)
    cells = []
    for rank, i in enumerate(order):
        pictures = [still(pool.scenes.images[i]), magma(pool.maps[i])]
        cells.append((pictures, f"{rank + 1}:  {pool.scores[measure][i]:.2f}", colours[pool.groups[i]], rank < k))
    sheet = contact_sheet([cells[r:r + columns] for r in range(0, len(cells), columns)], (128, 64))
    return jpeg(below(city_legend(pool.groups, sheet.width), sheet), 50)


def group_figure(pool: ScoredPool, k: int) -> plt.Figure:
    "How many images each city sends, by entropy alone and with quotas; the black line is its share of the pool."
    cities, colours = sorted(set(pool.groups)), city_colours(pool.groups)
    quotas = group_quotas(pool.groups, k)
    plain = [pool.groups[i] for i in top_k(pool.scores["entropy"], k, ids=pool.ids)]
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 2.6), dpi=80, layout="constrained", sharey=True)
    counts = {"entropy": [plain.count(c) for c in cities], "entropy with group quotas": [quotas[c] for c in cities]}
    for axis, (title, count) in zip(axes, counts.items()):
        axis.bar(cities, count, color=[np.array(colours[c]) / 255 for c in cities], width=0.65)
        for x, (city, n) in enumerate(zip(cities, count)):
            due = k * pool.groups.count(city) / len(pool.groups)
            axis.plot([x - 0.42, x + 0.42], [due, due], color="black", linewidth=2)
            axis.text(x, n + 0.08, str(n), ha="center", fontsize=9)
        axis.set_title(f"{title}: {k} images", fontsize=10)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="queried images", ylim=(0, axes[0].get_ylim()[1] + 0.5))
    axes[0].plot([], [], color="black", linewidth=2, label="share of the pool")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def _rank_text(pool: ScoredPool, name: str, query: Sequence[str], i: int) -> str:
    "Where image i stands under a strategy's own order, or in the order of its query."
    ranks = ranks_of(pool, name)
    if name == "entropy_group_quota":
        same = [j for j in range(len(pool.ids)) if pool.groups[j] == pool.groups[i]]
        return f"{sorted(ranks[j] for j in same).index(ranks[i]) + 1} of {len(same)}\nin its city"
    if ranks:
        return str(ranks[i])
    if name in ("core_set", "uncertainty_diversity") and pool.ids[i] in query:
        return f"pick {list(query).index(pool.ids[i]) + 1}"
    return ""


def choice_matrix(pool: ScoredPool, queries: dict[str, list[str]], images: int = 10) -> plt.Figure:
    "The same images under all strategies, an image in each row: a filled cell is queried, a number the rank."
    order = top_k(pool.scores["entropy"], len(pool.ids), ids=pool.ids)
    shown = [order[round(x)] for x in np.linspace(0, 0.5 * len(order), images)]
    figure, axes = plt.subplots(images, 1 + len(queries), figsize=(13, 1.05 * images + 0.5), dpi=80,
                                width_ratios=[2.1] + [1] * len(queries),
                                gridspec_kw=dict(wspace=0.06, hspace=0.24, left=0.005, right=0.995, top=0.955,
                                                 bottom=0.005))
    for row, i in zip(axes, shown):
        bare(row[0], still(pool.scenes.images[i]))
        row[0].set_title(f"{pool.groups[i]}  {pool.scores['entropy'][i]:.2f}", fontsize=8, pad=2)
        for axis, (name, query) in zip(row[1:], queries.items()):
            acquired = pool.ids[i] in query
            axis.set(xticks=[], yticks=[], facecolor=np.array(CHOSEN) / 255 if acquired else "#eeeeee")
            axis.text(0.5, 0.48, _rank_text(pool, name, query, i), ha="center", va="center", fontsize=8,
                      color="white" if acquired else "#555555",
                      transform=axis.transAxes)
            for side in axis.spines.values():
                side.set_visible(False)
    for axis, name in zip(axes[0, 1:], queries):
        axis.set_title(SHORT.get(name, name), fontsize=7.5, pad=4)
    return figure


def shared_by(queries: dict[str, Sequence[str]]) -> np.ndarray:
    "(S, S) how many images each two queries share."
    return np.array([[len(set(a) & set(b)) for b in queries.values()] for a in queries.values()])


def overlap_matrix(queries: dict[str, list[str]], axis: plt.Axes | None = None) -> plt.Figure:
    "How many images each two queries share."
    names, shared = list(queries), shared_by(queries)
    if axis is None:
        side = 1.6 + 0.47 * len(names)
        figure, axis = plt.subplots(figsize=(side + 1.2, side), dpi=80, layout="constrained")
    else:
        figure = axis.figure
    axis.imshow(shared, cmap="Blues", vmin=0, vmax=1.3 * max(1, shared.max()))
    for (y, x), n in np.ndenumerate(shared):
        axis.text(x, y, n, ha="center", va="center", fontsize=10,
                  color="white" if n > 0.75 * shared.max() else "#222222")
    labels = [title_of(n) for n in names]
    axis.set_xticks(range(len(names)), labels, fontsize=8, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set_title("images in common", fontsize=10)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


def class_figure(
    pool: ScoredPool,
    queries: dict[str, list[str]],  # strategy -> ids
    shown: Sequence[str] = ("random", "entropy", "entropy_group_quota"),
) -> plt.Figure:
    "Each class's share of the acquired pixels relative to its share of the pool's, on a logarithmic scale."
    base = class_shares_of(pool.scenes.labels)
    order = base.argsort(descending=True).tolist()
    figure, axis = plt.subplots(figsize=(10.6, 4.6), dpi=80, layout="constrained")
    axis.axvline(1, color="#999999", linewidth=1)
    for name in shown:
        ratio = class_shares_of(pool.scenes.labels[pool.at(queries[name])]) / base
        marker, colour = MARKS[name]
        axis.scatter(ratio[order].clamp(0.2, 5), range(len(order)), marker=marker, color=colour, s=32, alpha=0.85,
                     label=SHORT.get(name, name).replace("\n", " "), zorder=3)
    axis.set_xscale("log", base=2)
    axis.set(xlim=(0.165, 5.4), ylim=(len(order) - 0.4, -0.6))
    axis.set_xticks([0.2, 0.5, 1, 2, 5], ["⅕ or less", "½", "as in the pool", "2 ×", "5 × or more"])
    axis.minorticks_off()
    axis.set_yticks(range(len(order)), [f"{CITYSCAPES.classes[c]}  {base[c]:.1%}" for c in order], fontsize=8)
    for y, c in enumerate(order):
        axis.axhline(y, color="#e8e8e8", linewidth=0.8, zorder=0)
        axis.scatter([0.168], [y], marker="s", s=42, color=np.array(CITYSCAPES.palette[c]) / 255, clip_on=False)
    axis.set_title("share of the acquired pixels, relative to the pool (share of the pool beside the name)",
                   fontsize=10)
    figure.legend(fontsize=8, frameon=False, loc="outside right center")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return figure


def rare_figure(pool: ScoredPool, k: int) -> plt.Figure:
    "The weight of each class, and how much of it a query for rare classes and one for entropy contain, by the truth."
    weights, labels = pool.class_weights, pool.scenes.labels
    order = weights.argsort(descending=True).tolist()
    base = class_shares_of(labels)
    figure, axes = plt.subplots(1, 2, figsize=(12.4, 3.4), dpi=80, layout="constrained", sharey=True)
    axes[0].barh(range(19), weights[order], color=[np.array(CITYSCAPES.palette[c]) / 255 for c in order],
                 edgecolor="#777777", linewidth=0.5)
    axes[0].set_yticks(range(19), [CITYSCAPES.classes[c] for c in order], fontsize=8)
    axes[0].set(xlim=(0, 1.02), ylim=(18.6, -0.6))
    axes[0].set_title("$r_c$: how badly a class is known, by the confidence bank", fontsize=9)
    for name in ("entropy", "rare_class"):
        ratio = class_shares_of(labels[pool.at(select(name, pool.input(k)))]) / base
        marker, colour = MARKS[name]
        axes[1].scatter(ratio[order].clamp(0.2, 5), range(19), marker=marker, color=colour, s=30, label=title_of(name),
                        zorder=3)
    axes[1].axvline(1, color="#999999", linewidth=1)
    axes[1].set_xscale("log", base=2)
    axes[1].set(xlim=(0.17, 6))
    axes[1].set_xticks([0.2, 0.5, 1, 2, 5], ["≤ ⅕", "½", "as in the pool", "2 ×", "≥ 5 ×"])
    axes[1].minorticks_off()
    axes[1].set_title(f"share of the pixels of {k} images, relative to the pool (truth)", fontsize=9)
    axes[1].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#eeeeee")
        axis.set_axisbelow(True)
    return figure


def region_query_figure(pool: ScoredPool, count: int = 3, radius: int = 8, regions: int = 8) -> DisplayedImage:
    "The same pixels acquired as regions and one by one: where they are, and what they would teach."
    shown = top_k(pool.scores["entropy"], len(pool.ids), ids=pool.ids)[5:5 + 7 * count:7]
    figure, axes = plt.subplots(count, 4, figsize=(12.4, 1.72 * count), dpi=80, layout="constrained")
    for row, i in zip(np.atleast_2d(axes), shown):
        probs = pool.scenes.probs[i:i + 1]
        score = ripu_map(probs, radius, torch.Generator())[0]
        chosen = select_regions(score, regions, radius).tolist()
        mask = region_mask([Region(pool.ids[i], y, x, radius) for y, x in chosen], score.shape)
        single = region_mask([Region(pool.ids[i], y, x)
                              for y, x in select_regions(score, int(mask.sum()), 0, suppress=1).tolist()], score.shape)
        bare(row[0], still(pool.scenes.images[i]),
             f"{pool.groups[i]}: {pool.scenes.wrong[i].float().mean():.0%} of all pixels are wrong")
        bare(row[1], score, "impurity × uncertainty", cmap="magma", vmin=0, vmax=score.max().item())
        for axis, acquired, name in ((row[2], mask, "regions"), (row[3], single, "pixels")):
            picture = pale(pool.scenes.images[i])
            picture[acquired.numpy()] = CITYSCAPES.colorize(pool.scenes.labels[i])[acquired.numpy()]
            bare(
                axis,
                picture,
                f"{int(acquired.sum()):,} pixels as {name}: {pool.scenes.wrong[i][acquired].float().mean():.0%} wrong",
            )
        for y, x in chosen:
            for axis in row[1:3]:
                axis.add_patch(plt.Rectangle((x - radius - 0.5, y - radius - 0.5), 2 * radius + 1, 2 * radius + 1,
                                             fill=False,
                                             edgecolor="white" if axis is row[1] else np.array(CHOSEN) / 255,
                                             linewidth=1))
    return jpeg(figure, 85)


def embedding_figure(pool: ScoredPool, queries: dict[str, list[str]]):
    "The pool in the plane, one panel a strategy; diamonds are queried."
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    plane, explained = principal_plane(pool.features)
    colours = city_colours(pool.groups)
    titles = [SHORT.get(name, name).replace("\n", " ") for name in queries]
    figure = make_subplots(1, len(queries), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for column, query in enumerate(queries.values(), 1):
        for city, colour in colours.items():
            here = [i for i, g in enumerate(pool.groups) if g == city]
            asked = [pool.ids[i] in query for i in here]
            x, y = ([round(v, 3) for v in plane[here, axis].tolist()] for axis in (0, 1))
            marker = dict(color=f"rgb{colour}", size=[13 if a else 8 for a in asked],
                          symbol=["diamond" if a else "circle" for a in asked],
                          opacity=[1.0 if a else 0.45 for a in asked],
                          line=dict(color="black", width=[1.5 if a else 0 for a in asked]))
            figure.add_trace(go.Scatter(
                x=x, y=y, mode="markers", marker=marker, name=city, legendgroup=city, showlegend=column == 1,
                text=[f"{pool.ids[i]}<br>{city}<br>entropy {pool.scores['entropy'][i]:.2f}" for i in here],
                hovertemplate="%{text}<extra></extra>"), 1, column)
        figure.update_xaxes(title_text=f"first direction, {explained[0]:.0%} of the variance", row=1, col=column)
    figure.update_yaxes(title_text=f"second, {explained[1]:.0%}", row=1, col=1)
    figure.update_layout(height=390, width=980, margin=dict(l=60, r=10, t=30, b=50), template="plotly_white",
                         legend=dict(itemsizing="constant"))
    return figure


# Sure and unsure


def tenths(pool: ScoredPool) -> pd.DataFrame:
    "All pixels of the pool in ten equal parts by entropy: mean entropy and error rate of each."
    order = pool.maps.flatten().argsort(stable=True)
    value, wrong = pool.maps.flatten()[order].double(), pool.scenes.wrong.flatten()[order].double()
    parts = [(v.mean().item(), w.mean().item()) for v, w in zip(value.tensor_split(10), wrong.tensor_split(10))]
    return pd.DataFrame(parts, columns=["entropy", "error"], index=pd.RangeIndex(1, 11, name="tenth"))


def division_figure(pool: ScoredPool, i: int | None = None, share: float = 0.3) -> plt.Figure:
    """Error rate by tenths of entropy; one image's surest pixels with their pseudo-labels, and what a label would
    change in the least sure."""
    parts = tenths(pool)
    i = top_k(pool.scores["entropy"], len(pool.ids), ids=pool.ids)[2 * len(pool.ids) // 3] if i is None else i
    low, high = torch.quantile(pool.maps.flatten()[::7], torch.tensor([share, 1 - share])).tolist()
    sure, unsure, predicted = pool.maps[i] <= low, pool.maps[i] >= high, pool.scenes.probs[i].argmax(0)
    figure, axes = plt.subplot_mosaic([["bars", "image", "trust"], ["bars", "map", "ask"]], figsize=(12.4, 3.6), dpi=80,
                                      layout="constrained", width_ratios=(1.25, 1, 1))
    axes["bars"].bar(parts.index, parts.error, color=plt.cm.magma(parts.entropy), edgecolor="#777777", linewidth=0.5)
    axes["bars"].set(xlabel="tenth of the pixels, surest first (colour: mean entropy)", ylabel="wrong pixels",
                     xticks=parts.index,
                     ylim=(0, 1))
    axes["bars"].yaxis.set_major_formatter("{x:.0%}")
    for x, align, words in ((0.5, "left", "self-training\ntrusts these most"),
                            (10.5, "right", "active learning\nasks because of these")):
        edge = 10 * share if align == "left" else 10 * (1 - share)
        axes["bars"].axvspan(x, edge + 0.5, color="#f2f2f2", zorder=0)
        axes["bars"].text(x, 0.97, words, ha=align, va="top", fontsize=9)
    axes["bars"].spines[["top", "right"]].set_visible(False)
    bare(axes["image"], still(pool.scenes.images[i]), "image")
    bare(axes["map"], pool.maps[i], "entropy", cmap="magma", vmin=0, vmax=1)
    trusted = CITYSCAPES.colorize(predicted)
    trusted[~sure.numpy()] = 170
    right = 1 - (pool.scenes.wrong[i] & sure).sum().item() / max(1, sure.sum().item())
    bare(axes["trust"], trusted, f"pseudo-labels of the surest: {right:.0%} right")
    corrected, changed = np.full_like(trusted, 225), pool.scenes.wrong[i] & unsure
    corrected[unsure.numpy()] = 255
    corrected[changed.numpy()] = CITYSCAPES.colorize(pool.scenes.labels[i])[changed.numpy()]
    bare(axes["ask"], corrected,
         f"what a label changes in the least sure: {changed.sum() / unsure.sum().clamp(min=1):.0%} of them")
    return figure


def corrections_figure(
    pool: ScoredPool,
    queries: dict[str, list[str]],  # strategy -> ids
    shown: Sequence[str] = ("random", "entropy", "core_set"),
) -> plt.Figure:
    "Pixels that an image's label would correct against the image's score, and the mean of each query."
    wrong = pool.scenes.wrong.flatten(1).sum(1).double() / 1000
    figure, axes = plt.subplots(1, len(shown), figsize=(12.4, 3.1), dpi=80, layout="constrained", sharey=True)
    for axis, name in zip(axes, shown):
        asked = torch.tensor([i in queries[name] for i in pool.ids])
        axis.scatter(pool.scores["entropy"][~asked], wrong[~asked], s=22, color="#bbbbbb")
        axis.scatter(pool.scores["entropy"][asked], wrong[asked], s=40, color=np.array(CHOSEN) / 255, marker="D",
                     edgecolor="black",
                     linewidth=0.6)
        axis.axhline(wrong.mean(), color="#999999", linestyle="--", linewidth=1)
        axis.axhline(wrong[asked].mean(), color=np.array(CHOSEN) / 255, linewidth=1.2)
        axis.set_title(
            f"{SHORT.get(name, name)}: {wrong[asked].mean():.1f} thousand a label (pool: {wrong.mean():.1f})",
            fontsize=9,
        )
        axis.set(xlabel="mean entropy of the image", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("thousand pixels corrected")
    return figure


# Traps


def weather_figure(streets: Sequence[int] = (0, 1, 4, 6, 11)) -> tuple[DisplayedImage, pd.DataFrame]:
    """The same streets in three kinds of weather, with three pictures of nothing in the last column; and the means by
    weather."""
    noise = torch.rand(3, 128, 256, generator=torch.Generator().manual_seed(0))
    nothing = [("lens cap", torch.zeros(3, 128, 256)), ("broken sensor", noise),
               ("white-out", torch.full((3, 128, 256), 0.75))]
    rows, means = [], []
    for (kind, options), (name, picture) in zip({"dull": {}, "dusk": {"dusk": True}, "fog": {"fog": True}}.items(),
                                                nothing):
        photographs = [photograph(i, **options) for i in streets]
        images = torch.stack([torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
                              for image, _ in photographs] + [picture])
        probs, _ = predict_images(images.float())
        score = image_score(entropy(probs))
        wrong = [(probs[k].argmax(0).numpy() != labels).mean() for k, (_, labels) in enumerate(photographs)]
        cells = [([still(images[k])], f"{kind}: {score[k]:.2f}, {wrong[k]:.0%} wrong", None, False)
                 for k in range(len(streets))]
        rows.append([*cells, ([still(picture)], f"{name}: {score[-1]:.2f}", None, False)])
        means.append({"weather": kind, "mean entropy": score[:-1].mean().item(), "wrong pixels": np.mean(wrong),
                      "picture of nothing": name, "its entropy": score[-1].item()})
    return jpeg(contact_sheet(rows, (160, 80), gap=8)), pd.DataFrame(means).set_index("weather")


def void_figure(pool: ScoredPool, count: int = 4, height: int = 26) -> tuple[DisplayedImage, pd.DataFrame]:
    """Streets of the lower half of the ranking as they are, with a smooth bonnet, and with lines of a damaged readout,
    both of which are void; and means."""
    order = top_k(pool.scores["entropy"], len(pool.ids), ids=pool.ids)
    shown = order[len(order) // 2::max(1, len(order) // 2 // count)][:count]
    x = torch.linspace(-1, 1, pool.scenes.images.shape[3])
    # dark, with two reflections
    bonnet = 0.22 + 0.5 * torch.exp(-((x * 4 - 1.5) ** 2)) + 0.35 * torch.exp(-((x * 9 + 4) ** 2))
    strips = {"street": None, "bonnet": bonnet, "damaged readout": (torch.arange(len(x)) // 3 % 2).float()}
    rows, means, ranked = [], [], pool.scores["entropy"]
    for name, strip in strips.items():
        images = pool.scenes.images[shown].clone()
        if strip is not None:
            images[:, :, -height:] = strip
        maps = entropy(predict_images(images)[0])
        valid = torch.ones_like(maps, dtype=torch.bool)
        valid[:, -height:] = strip is None
        score, masked = image_score(maps), image_score(maps, valid=valid)
        rank = [int((ranked > s).sum()) + 1 for s in score]
        rows.append([([still(image), magma(m)], f"{name}: {s:.2f}, rank {r}", None, False)
                     for image, m, s, r in zip(images, maps, score, rank)])
        means.append({"": name, "entropy of the void": maps[~valid].mean().item() if strip is not None else np.nan,
                      "entropy of the rest": maps[valid].mean().item(), "score": score.mean().item(),
                      "rank in the pool": np.mean(rank), "score with mask": masked.mean().item()})
    return jpeg(contact_sheet(rows, (168, 84), gap=8), 75), pd.DataFrame(means).set_index("")


def twins_of(image: Tensor, count: int, generator: torch.Generator) -> Tensor:
    "(count, 3, H, W): the image shifted by a few pixels with fresh noise, as neighbouring frames of a video are."
    shifts = torch.randint(-6, 7, (count,), generator=generator).tolist()
    moved = torch.stack([image.roll(s, 2) for s in shifts])
    return (moved + 0.02 * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


def twins_figure(pool: ScoredPool, k: int, count: int = 6) -> DisplayedImage:
    "The pool with twins of its most uncertain image: what top-K and core-set ask for. Twins have a frame."
    first = top_k(pool.scores["entropy"], 1, ids=pool.ids)[0]
    twins = twins_of(pool.scenes.images[first], count, torch.Generator().manual_seed(0))
    probs, features = predict_images(twins)
    images, both = torch.cat([pool.scenes.images, twins]), torch.cat([pool.features, features])
    score = torch.cat([pool.scores["entropy"], image_score(entropy(probs))])
    ids = [*pool.ids, *(f"{pool.ids[first]}-twin-{n}" for n in range(count))]
    groups = [*pool.groups, *[pool.groups[first]] * count]
    ranked = select("entropy", StrategyInput(ids, groups, {"entropy": score}, k))
    spread = k_center(both, [], k)
    same = {first, *range(len(pool.ids), len(ids))}
    rows = [[([still(images[i])], f"{name}: {score[i]:.2f}{', twin' if i in same else ''}", None, i in same)
             for i in chosen]
            for name, chosen in (("top-K", [ids.index(i) for i in ranked]), ("core-set", spread))]
    return jpeg(contact_sheet(rows, (122, 61), gap=8))


def class_entropy_figure(pool: ScoredPool) -> plt.Figure:
    "Mean entropy and error rate of each true class, and its share of the pixels."
    labels = pool.scenes.labels.flatten()
    count = torch.bincount(labels, minlength=256)[:19].double()
    unsure = torch.bincount(labels, pool.maps.flatten().double(), 256)[:19] / count.clamp(min=1)
    wrong = torch.bincount(labels, pool.scenes.wrong.flatten().double(), 256)[:19] / count.clamp(min=1)
    order = unsure.argsort(descending=True).tolist()
    figure, axis = plt.subplots(figsize=(11.5, 2.9), dpi=80, layout="constrained")
    colours = [np.array(CITYSCAPES.palette[c]) / 255 for c in order]
    axis.bar(range(19), unsure[order], color=colours, width=0.7, edgecolor="#666666", linewidth=0.5)
    axis.plot(range(19), wrong[order], "x", color="black", label="error rate")
    names = [f"{CITYSCAPES.classes[c]}\n{count[c] / count.sum():.1%}" for c in order]
    axis.set_xticks(range(19), names, fontsize=7.5, rotation=45, ha="right", rotation_mode="anchor")
    axis.axhline(pool.maps.mean().item(), color="#999999", linestyle=":")
    axis.text(18.6, pool.maps.mean().item() + 0.01, "all pixels", fontsize=8, color="#777777", ha="right")
    axis.set(ylabel="mean entropy", ylim=(0, 1.02), xlim=(-0.6, 18.7))
    axis.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9))
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def explorer_still(
    pool: ScoredPool,
    name: str,  # a strategy for images
    k: int,  # budget
    names: Sequence[str],  # the strategies that are compared
    shown: int = 24,  # pictures in the gallery
) -> DisplayedImage:
    "The explorer as a picture: gallery in the strategy's order, map of the pool, classes acquired, overlaps."
    queries = {n: select(n, pool.input(k)) for n in names}
    ranks, colours = ranks_of(pool, name), city_colours(pool.groups)
    order = sorted(range(len(pool.ids)),
                   key=lambda i: (ranks[i] if ranks else 0, pool.ids[i] not in queries[name], i))[:shown]
    cells = [([still(pool.scenes.images[i]), magma(pool.maps[i])], f"{pool.scores['entropy'][i]:.2f}",
              colours[pool.groups[i]], pool.ids[i] in queries[name])
             for i in order]
    sheet = contact_sheet([cells[r:r + 8] for r in range(0, len(cells), 8)], (128, 64))
    figure, axes = plt.subplots(1, 3, figsize=(sheet.width / 80, 4.1), dpi=80, layout="constrained",
                                width_ratios=(1.1, 0.9, 1.25))
    plane, explained = principal_plane(pool.features)
    asked = torch.tensor([id in queries[name] for id in pool.ids])
    paint = np.array([np.array(colours[g]) / 255 for g in pool.groups])
    axes[0].scatter(*plane[~asked].T, c=paint[~asked], s=26, alpha=0.5, edgecolor="none")
    axes[0].scatter(*plane[asked].T, c=paint[asked], s=70, marker="D", edgecolor="black")
    axes[0].set(xlabel=f"first direction ({explained[0]:.0%} of the variance)", ylabel=f"second ({explained[1]:.0%})")
    axes[0].set_title(f"the pool; diamonds: {title_of(name)}, {k} images", fontsize=9)
    base = class_shares_of(pool.scenes.labels, pool.label_space.num_classes)
    ratio = class_shares_of(pool.scenes.labels[pool.at(queries[name])],
                            pool.label_space.num_classes) / base.clamp(min=1e-12)
    order = [c for c in base.argsort(descending=True).tolist() if base[c] > 0]
    log = ratio[order].clamp(0.2, 5).log2()
    axes[1].barh(range(len(order)), log, color=[np.array(pool.label_space.palette[c]) / 255 for c in order],
                 edgecolor="#777777", linewidth=0.5)
    axes[1].set_yticks(range(len(order)), [pool.label_space.classes[c] for c in order], fontsize=7.5)
    axes[1].set_xticks([np.log2(0.2), -1, 0, 1, np.log2(5)], ["⅕", "½", "1", "2 ×", "5 ×"])
    axes[1].set(ylim=(len(order) - 0.4, -0.6), xlim=(-2.5, 2.5))
    axes[1].set_title("share acquired, relative to the pool", fontsize=9)
    overlap_matrix(queries, axes[2])
    for axis in axes[:2]:
        axis.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return jpeg(below(city_legend(pool.groups, sheet.width), sheet, Image.open(file).convert("RGB")), 60)
