"""Pictures for 04 Models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from stal_nb.app.demo import DEMO_RECIPE
from stal_nb.backbones import Features, TimmEncoder
from stal_nb.labels import CITYSCAPES, IGNORE, LabelSpace, Sample
from stal_nb.metrics import SegmentationMetrics
from stal_nb.models import DeepLabV2, DeepLabV3Plus, predict_probs, resize
from stal_nb.runtime.devices import flush_denormals
from stal_nb.scenes import SceneDataset

# Colours for features
#
# A feature map has tens or hundreds of channels and a screen has three. The three directions in which the features of
# a map vary most become red, green and blue: pixels with alike features get alike colours. Colours of two maps cannot
# be compared with each other.


def pca_colours(
    features: Tensor,  # (C,h,w)
) -> np.ndarray:  # (h,w,3) in [0,1]
    "The three main directions of a feature map as red, green and blue."
    flat = features.detach().float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    directions = torch.linalg.eigh(flat @ flat.T).eigenvectors[:, -3:].flip(1)
    strongest = directions.abs().argmax(0, keepdim=True)
    directions = directions * directions.gather(0, strongest).sign()  # eigenvectors have no sign of their own
    colours = directions.T @ flat
    low, high = colours.quantile(0.02, dim=1, keepdim=True), colours.quantile(0.98, dim=1, keepdim=True)
    return ((colours - low) / (high - low + 1e-12)).clamp(0, 1).T.view(*features.shape[1:], 3).numpy()


@torch.no_grad()
def look_inside(
    model: DeepLabV3Plus,
    images: Tensor,  # (B,3,H,W) in [0,1]
) -> dict[str, Tensor]:  # (B,channels,height,width) each
    "What each part of the network returns for these images."
    found: dict[str, Tensor] = {}
    parts = {"pyramid": model.aspp, "pool": model.aspp.pool, "decoder": model.decoder}
    parts |= {f"branch {k}": branch for k, branch in enumerate(model.aspp.branches)}
    hooks = [part.register_forward_hook(lambda _m, _i, output, name=name: found.__setitem__(name, output))
             for name, part in parts.items()]
    hooks.append(model.backbone.register_forward_hook(lambda _m, _i,
                                                      output: found.update(zip(("low", "mid", "high"), output))))
    try:
        output = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found | {"embeddings": output.embeddings, "logits": output.logits}


def size_text(features: Tensor) -> str:
    "`channels × height × width`."
    return " × ".join(map(str, features.shape[-3:]))


def show_panels(
    panels: Sequence[tuple[str, np.ndarray]],  # title, (h,w,3) picture
    columns: int = 4,
    width: float = 12.5,  # inches
    dpi: int = 80,
) -> plt.Figure:
    "Pictures in a grid, all drawn as wide as a scene."
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width, rows * (width / columns / 2 + 0.28)), dpi=dpi,
                                squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, panels):
        axis.imshow(np.asarray(picture), extent=(0, 2, 0, 1), interpolation="nearest")
        axis.set_title(title, fontsize=8.5, pad=3)
    figure.tight_layout(pad=0.3)
    return figure


def image_of(sample: Sample) -> np.ndarray:
    "(H,W,3)"
    return sample.image.permute(1, 2, 0).numpy()


def network_figure(model: DeepLabV3Plus, sample: Sample, label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "One image on its way through the network."
    inside = {name: value[0] for name, value in look_inside(model, sample.image[None]).items()}
    parts = [("low", "early features, stride 4"), ("high", "last features, stride 16"), ("pyramid", "pyramid (ASPP)"),
             ("decoder", "decoder, stride 4"), ("embeddings", "embeddings")]
    panels = [(f"image: {size_text(sample.image)}", image_of(sample))]
    panels += [(f"{title}: {size_text(inside[name])}", pca_colours(inside[name])) for name, title in parts]
    panels += [(f"prediction, from logits {size_text(inside['logits'])}",
                label_space.colorize(inside["logits"].argmax(0))),
               ("truth", label_space.colorize(sample.labels))]
    return show_panels(panels)


# Why a classifier is too coarse


@torch.no_grad()
def stages_figure(sample: Sample) -> plt.Figure:
    "The features of an image classifier (EfficientNet-Lite0, ImageNet weights), stage by stage."
    encoder = TimmEncoder("tf_efficientnet_lite0", output_stride=32, pretrained=True).eval()
    maps = encoder.net((sample.image[None] - 0.5) / 0.5)
    panels = [(f"image: {size_text(sample.image)}", image_of(sample))]
    panels += [(f"stride {2 ** (k + 1)}: {size_text(m)}", pca_colours(m[0])) for k, m in enumerate(maps)]
    return show_panels(panels, columns=3, width=10)


def coarse_labels(
    labels: Tensor,  # (B,H,W) int64, 255 = ignore
    stride: int,  # pixels of a cell's side
    num_classes: int = 19,
) -> Tensor:  # (B,H,W)
    "Every cell gets the class that most of its pixels have: the best that one prediction a cell can do."
    votes = F.one_hot(labels.where(labels != IGNORE, num_classes),
                      num_classes + 1)[..., :num_classes].movedim(-1, 1).float()
    winners = F.avg_pool2d(votes, stride, ceil_mode=True).argmax(1)
    return winners.repeat_interleave(stride, 1).repeat_interleave(stride, 2)[:, : labels.shape[1], : labels.shape[2]]


def ceiling_figure(samples: Sequence[Sample], strides: Sequence[int] = (4, 8, 16, 32),
                   label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "The truth, told in cells; and the IoU that a perfect classifier of cells would reach."
    labels = torch.stack([s.labels for s in samples])
    names = ("road", "building", "car", "person", "traffic sign", "pole")
    figure = plt.figure(figsize=(12.5, 4.7), dpi=75, layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.85))
    table = {}
    for k, stride in enumerate(strides):
        coarse = coarse_labels(labels, stride, label_space.num_classes)
        metrics = SegmentationMetrics(label_space)
        metrics.update(coarse, labels)
        table[stride] = metrics.compute()
        axis = figure.add_subplot(grid[k // 2, k % 2])
        axis.imshow(label_space.colorize(coarse[0]))
        axis.set_title(f"one prediction for {stride} × {stride} pixels: at best {table[stride].miou:.0f} % mIoU",
                       fontsize=8.5, pad=3)
        axis.axis("off")
    axis = figure.add_subplot(grid[:, 2])
    for name in names:
        scores = [table[s].iou[name] for s in strides]
        axis.plot(strides, scores, marker="o", markersize=3,
                  color=np.array(label_space.palette[label_space.index(name)]) / 255, label=name)
    axis.set(xscale="log", xticks=strides, xticklabels=strides, xlabel="cell size (pixels)", ylabel="best IoU (%)",
             ylim=(0, 101))
    axis.minorticks_off()
    axis.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    axis.grid(alpha=0.3)
    return figure


@torch.no_grad()
def pyramid_figure(model: DeepLabV3Plus, samples: Sequence[Sample], label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "What each branch finds in the first scene, and how many pixels of all scenes change class without it."
    images = torch.stack([s.image for s in samples])
    inside = look_inside(model, images)
    predicted = inside["logits"].argmax(1)
    features = Features(*(inside[name] for name in Features._fields))  # the backbone is before all that is silenced

    def title(name: str, part: nn.Module) -> str:
        with silenced(part):
            changed = (resize(model.decode(features)[0], images.shape[-2:]).argmax(1) != predicted).float().mean()
        return f"{name}: silenced, {changed:.1%} of pixels change"

    names = ["1 × 1"] + [f"dilation {branch[0].dilation[0]}" for branch in model.aspp.branches[1:]]
    panels = [("image", image_of(samples[0]))]
    for k, (name, branch) in enumerate(zip(names, model.aspp.branches)):
        panels.append((title(name, branch), pca_colours(inside[f"branch {k}"][0])))
    panels += [(title("whole image", model.aspp.pool), np.full((1, 1, 3), 0.5)),
               (title("all five", model.aspp), pca_colours(inside["pyramid"][0])),
               ("prediction", label_space.colorize(predicted[0]))]
    return show_panels(panels)


class silenced:
    "Inside this context a module returns its mean over the batch and all pixels: it knows nothing of where or what."

    def __init__(self, module: nn.Module):
        self.module = module

    def __enter__(self):
        self.hook = self.module.register_forward_hook(lambda _m, _i,
                                                      output: output.mean((0, 2, 3), keepdim=True).expand_as(output))

    def __exit__(self, *_):
        self.hook.remove()


def miou(logits: Tensor, labels: Tensor, label_space: LabelSpace = CITYSCAPES) -> float:
    "In percent."
    metrics = SegmentationMetrics(label_space)
    metrics.update(logits, labels)
    return float(metrics.compute().miou)


# The decoder


@torch.no_grad()
def with_and_without_early_features(
    model: DeepLabV3Plus,
    images: Tensor,  # (B,3,H,W)
) -> dict[str, Tensor]:  # (B,C,H,W) each
    """Three predictions: of the auxiliary head, which sees stride 16 only; of the decoder without early features; of
    the
    whole network."""
    features = model.backbone((images - model.mean) / model.std)
    result = {"stride 16 alone (auxiliary head)": resize(model.auxiliary(features.mid), images.shape[-2:])}
    with silenced(model.decoder.low):
        result["decoder, early features silenced"] = resize(model.decode(features)[0], images.shape[-2:])
    result["whole network"] = resize(model.decode(features)[0], images.shape[-2:])
    return result


def accuracy_by_distance(
    logits: Tensor,  # (B,C,H,W)
    labels: Tensor,  # (B,H,W)
    edges: Sequence[float] = (0, 1.5, 2.5, 4.5, 8.5, 16.5, 1e9),  # pixels
) -> np.ndarray:  # (len(edges) - 1,) in [0,1]
    "Share of right pixels by distance from the nearest boundary between classes."
    right, known = (logits.argmax(1) == labels).numpy(), (labels != IGNORE).numpy()
    truth = labels.numpy()
    inner = np.ones_like(known)  # False beside a boundary
    for axis in (1, 2):
        change = np.diff(truth, axis=axis) != 0
        before, after = [[slice(None)] * 3 for _ in range(2)]
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        inner[tuple(before)] &= ~change
        inner[tuple(after)] &= ~change
    distance = np.stack([distance_transform_edt(scene) for scene in inner])
    which = np.digitize(distance + 1, edges) - 1
    return np.array([right[known & (which == k)].mean() for k in range(len(edges) - 1)])


def decoder_figure(model: DeepLabV3Plus, samples: Sequence[Sample], label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "What the early features are good for."
    labels = torch.stack([s.labels for s in samples])
    outputs = with_and_without_early_features(model, torch.stack([s.image for s in samples]))
    figure = plt.figure(figsize=(12.5, 4.7), dpi=75, layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.85))
    panels = [("image", image_of(samples[0])),
              *((name, label_space.colorize(logits[0].argmax(0))) for name, logits in outputs.items())]
    for k, (name, picture) in enumerate(panels):
        axis = figure.add_subplot(grid[k // 2, k % 2])
        axis.imshow(picture)
        axis.set_title(name, fontsize=8.5, pad=3)
        axis.axis("off")
    axis = figure.add_subplot(grid[:, 2])
    for (name, logits), colour in zip(outputs.items(), ("#888888", "#d98c2b", "#2f6db3")):
        axis.plot(100 * accuracy_by_distance(logits, labels), marker="o", markersize=3, color=colour,
                  label=f"{name}: mIoU {miou(logits, labels):.0f} %")
    axis.set(xticks=range(6), xticklabels=("1", "2", "3–4", "5–8", "9–16", "> 16"),
             xlabel="distance from a boundary (pixels)",
             ylabel="right pixels (%)")
    axis.set(ylim=(0, 101))
    axis.legend(fontsize=7, loc="lower right")
    axis.grid(alpha=0.3)
    return figure


# Embeddings


def embeddings_figure(
    model: DeepLabV3Plus,
    sample: Sample,
    classes: Sequence[str] = ("road", "vegetation", "car"),  # a pixel of each is compared with all others
    label_space: LabelSpace = CITYSCAPES,
) -> plt.Figure:
    "Embeddings in colours, and the cosine similarity of all pixels to one."
    with torch.no_grad():
        output = model(sample.image[None])
    embeddings = F.normalize(output.embeddings[0], dim=0)
    small = coarse_labels(sample.labels[None], 4, label_space.num_classes)[0, ::4, ::4]
    panels = [("image", image_of(sample), None), ("prediction", label_space.colorize(output.logits[0].argmax(0)), None),
              ("embeddings", pca_colours(embeddings), None)]
    for name in classes:
        ys, xs = torch.nonzero(small == label_space.index(name), as_tuple=True)
        k = int(((ys - ys.float().median()) ** 2 + (xs - xs.float().median()) ** 2).argmin())
        similarity = torch.einsum("d,dhw->hw", embeddings[:, ys[k], xs[k]], embeddings)
        panels.append((f"similar to the marked pixel ({name})", similarity, (int(xs[k]), int(ys[k]))))
    figure, axes = plt.subplots(2, 3, figsize=(12.5, 4.5), dpi=80, layout="constrained")
    for axis, (title, picture, mark) in zip(axes.flat, panels):
        drawn = axis.imshow(picture, cmap="cividis", vmin=-0.2, vmax=1, extent=(0, 64, 32, 0), interpolation="nearest")
        if mark:
            axis.plot(mark[0] + 0.5, mark[1] + 0.5, marker="o", markersize=7, markerfacecolor="none",
                      markeredgecolor="red",
                      markeredgewidth=1.8)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.colorbar(drawn, ax=axes[1], fraction=0.02, pad=0.01, label="cosine similarity")
    return figure


# DeepLab v2


@flush_denormals()
def demo_v2(
    model: DeepLabV3Plus,  # the demo model, whose backbone is taken as it is
    dilations: Sequence[int] = (1, 3, 5, 7),  # of the classifiers, on a map of stride 8
    scenes: int = 24,
    steps: int = 80,
    batch: int = 8,
    seed: int = 0,
) -> DeepLabV2:  # in evaluation mode
    """A DeepLab v2 on the backbone of the demo model at stride 8: its classifiers are trained for some seconds, the
    backbone stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        v2 = DeepLabV2(DEMO_RECIPE["backbone"], CITYSCAPES.num_classes, embedding_dim=8, weights=None, aspp_channels=8,
                       aspp_dilations=dilations)
    v2.backbone.load_state_dict(model.backbone.state_dict())
    v2.eval()
    samples = [sample for sample in SceneDataset("sim", scenes, size=DEMO_RECIPE["size"], seed=seed + 1)]
    with torch.no_grad():
        features = torch.cat([v2.backbone((s.image[None] - v2.mean) / v2.std).high for s in samples])
    labels = coarse_labels(torch.stack([s.labels for s in samples]), 8)[:, ::8, ::8]
    optimizer = torch.optim.AdamW(v2.classifier.parameters(), lr=3e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(0, len(features), (batch,), generator=generator)
        F.cross_entropy(v2.classifier(features[chosen]), labels[chosen], ignore_index=IGNORE).backward()
        optimizer.step()
        optimizer.zero_grad()
    return v2


@torch.no_grad()
def parallel_figure(v2: DeepLabV2, v3: DeepLabV3Plus, samples: Sequence[Sample],
                    label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    """What each classifier of a v2 network predicts alone, their sum, and the prediction of v3+; mIoU over all scenes,
    pictures of
    the first."""
    images, labels = torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])
    high = v2.backbone((images - v2.mean) / v2.std).high
    outputs = {f"dilation {branch.dilation[0]} alone": resize(branch(high), images.shape[-2:])
                for branch in v2.classifier.branches}
    outputs |= {"v2, the sum": resize(v2.classifier(high), images.shape[-2:]),
                 "v3+": v3(images, with_embeddings=False).logits}
    panels = [("image", image_of(samples[0]))]
    panels += [(f"{name}: mIoU {miou(logits, labels, label_space):.0f} %", label_space.colorize(logits[0].argmax(0)))
               for name, logits in outputs.items()]
    return show_panels([*panels, ("truth", label_space.colorize(samples[0].labels))])


# Views of one image

COMPARED_VIEWS: dict[str, dict[str, Any]] = {  # name -> arguments of `predict_probs`
    "one view": {},
    "+ mirror image": dict(flip=True),
    "0.75, 1, 1.25 + mirror": dict(scales=(0.75, 1.0, 1.25), flip=True),
    "0.5 to 1.75 in six steps + mirror": dict(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True),
}


def change_picture(
    sample: Sample,
    before: Tensor,  # (H,W) ids
    after: Tensor,  # (H,W) ids
) -> np.ndarray:  # (H,W,3) in [0,1]
    "The image in grey; blue where a mistake is gone, red where there is a new one."
    picture = (0.35 + 0.6 * sample.image.mean(0, keepdim=True)).expand(3, -1, -1).clone()
    known = sample.labels != IGNORE
    for where, colour in (((before != sample.labels) & (after == sample.labels) & known, (0.12, 0.35, 0.8)),
                          ((before == sample.labels) & (after != sample.labels) & known, (0.85, 0.1, 0.1))):
        picture[:, where] = torch.tensor(colour)[:, None]
    return picture.permute(1, 2, 0).numpy()


def views_figure(model: nn.Module, sample: Sample, scales: Sequence[float] = (0.5, 1.0, 1.5),
                 label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "What the network predicts for several views of one image, where they disagree, and what the average changes."
    image = sample.image[None]
    views = {f"scale {scale:g}": predict_probs(model, image, scales=(scale,))[0].argmax(0) for scale in scales}
    views["mirror image, scale 1"] = predict_probs(model, image.flip(-1))[0].flip(-1).argmax(0)
    average = predict_probs(model, image, scales=scales, flip=True)[0].argmax(0)
    disagreement = torch.stack([ids != average for ids in views.values()]).float().mean(0)
    panels = [("image", image_of(sample)), *((name, label_space.colorize(ids)) for name, ids in views.items())]
    panels += [("share of these views that differ from the average",
                plt.get_cmap("magma")(disagreement.numpy())[..., :3]),
               (f"average of {len(scales)} scales and their mirror images", label_space.colorize(average)),
               ("what it changes: blue = right now, red = wrong now",
                change_picture(sample, views["scale 1"], average))]
    return show_panels(panels)


def views_table(
    model: nn.Module,
    samples: Sequence[Sample],  # of one size
    compared: dict[str, dict[str, Any]] = COMPARED_VIEWS,
    label_space: LabelSpace = CITYSCAPES,
) -> pd.DataFrame:
    "What an average over views gives, and its price: pixels that the network has to look at, as multiples of one view."
    images, labels = torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples])
    views = {name: [(scale, mirrored) for scale in options.get("scales", (1.0,))
                    for mirrored in (False, True)[:1 + options.get("flip", False)]]
             for name, options in compared.items()}
    metrics = {name: SegmentationMetrics(label_space) for name in compared}
    for k in range(0, len(images), 4):
        seen = {}  # every view is predicted once; `predict_probs` with these options averages the same ones
        for scale, mirrored in dict.fromkeys(view for several in views.values() for view in several):
            turned = (lambda t: t.flip(-1)) if mirrored else (lambda t: t)
            seen[scale, mirrored] = turned(predict_probs(model, turned(images[k:k + 4]), scales=(scale,)))
        for name, several in views.items():
            metrics[name].update(sum(seen[view] for view in several), labels[k:k + 4])
    table = {}
    for name, several in views.items():
        found = metrics[name].compute()
        table[name] = {"price": sum(scale**2 for scale, _ in several), "mIoU (%)": found.miou,
                       "pixel accuracy (%)": found.pixel_accuracy}
    return pd.DataFrame(table).T


def seams_figure(model: nn.Module, sample: Sample, window: tuple[int, int] = (64, 64),
                 label_space: LabelSpace = CITYSCAPES) -> plt.Figure:
    "A sliding window against the whole image at once: what changes, and where."
    image = sample.image[None]
    whole = predict_probs(model, image)[0]
    above, below = [("image", image_of(sample))], [("the whole image at once", label_space.colorize(whole.argmax(0)))]
    for overlap in (0.0, 0.5):
        slid = predict_probs(model, image, window=window, overlap=overlap)[0]
        moved = 0.5 * (slid - whole).abs().sum(0)  # total variation
        above.append((f"windows of {window[0]} × {window[1]}, overlap {overlap:g}",
                      label_space.colorize(slid.argmax(0))))
        below.append((f"probability that moved to other classes: mean {moved.mean():.2f}",
                      plt.get_cmap("magma")(moved.numpy())[..., :3]))
    return show_panels(above + below, columns=3, width=11)


# What ImageNet gave


@torch.no_grad()
def stage_features(
    encoder: TimmEncoder,
    images: Tensor,  # (B,3,H,W) in [0,1]
    settle: bool = False,  # let BatchNorm take its statistics from these images first; a random network needs it
) -> list[Tensor]:  # (B,c,h,w) for each stage
    "Features of every stage."
    normalised = (images - 0.5) / 0.5
    if settle:
        for norm in (m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None  # the plain average
        encoder.train()(normalised)
    return encoder.eval().net(normalised)


def linear_probe(
    train: tuple[Tensor, Tensor],  # features (N,c), classes (N,)
    test: tuple[Tensor, Tensor],
    num_classes: int = 19,
    ridge: float = 1e-2,
) -> float:  # in [0,1]: recall, averaged over the classes of the test pixels
    """How well a linear map tells classes apart: ridge regression onto class indicators, every class with the same
    total weight."""
    mean, scale = train[0].mean(0), train[0].std(0) + 1e-6
    x, z = (torch.cat([(f - mean) / scale, torch.ones(len(f), 1)], 1).double() for f in (train[0], test[0]))
    weight = 1 / train[1].bincount(minlength=num_classes).clamp(min=1).double()[train[1]]
    target = F.one_hot(train[1], num_classes).double()
    weighted = x * weight[:, None]
    solution = torch.linalg.solve(x.T @ weighted + ridge * torch.eye(x.shape[1], dtype=torch.float64),
                                  weighted.T @ target)
    right = (z @ solution).argmax(1) == test[1]
    recalls = [right[test[1] == c].double().mean() for c in test[1].unique()]
    return float(torch.stack(recalls).mean())


def probe_figure(train: Sequence[Sample], test: Sequence[Sample], num_classes: int = 19, seeds: int = 2) -> plt.Figure:
    "Linear separability of the classes at each stage: ImageNet weights against random ones."
    strides = (2, 4, 8, 16)  # at 32 a scene has too few cells to fit a map from them

    def scores(pretrained: bool) -> list[float]:
        encoder = TimmEncoder("tf_efficientnet_lite0", output_stride=32, pretrained=pretrained)
        stages = [stage_features(encoder, torch.stack([s.image for s in split]),
                                 settle=not pretrained and split is train)
                  for split in (train, test)]
        found = []
        for k, stride in enumerate(strides):
            pixels = []
            for split, features in zip((train, test), stages):
                small = torch.stack([coarse_labels(s.labels[None], stride, num_classes)[0, ::stride, ::stride]
                                     for s in split])
                flat, classes = features[k].movedim(1, -1).flatten(0, 2), small.flatten()
                every = max(1, len(flat) // 8000)
                pixels.append((flat[::every], classes[::every]))
            found.append(linear_probe(*pixels, num_classes))
        return found

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = np.array([scores(False) for _ in range(seeds)]) * 100
    imagenet = np.array(scores(True)) * 100
    figure, axis = plt.subplots(figsize=(6.4, 2.9), dpi=80)
    axis.plot(imagenet, marker="o", color="#2f6db3", label="ImageNet weights")
    axis.plot(random.mean(0), marker="o", color="#888888", label=f"random weights ({seeds} draws)")
    axis.fill_between(range(4), random.min(0), random.max(0), color="#888888", alpha=0.3, linewidth=0)
    axis.set(xticks=range(4), xticklabels=[f"stride {s}" for s in strides], ylabel="mean recall (%)", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
