"""How far a pixel sees: pictures for 04 Models and runtime/backbones."""

from collections.abc import Callable, Sequence

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F

from figures.models import image_of
from stal_nb.backbones import TimmEncoder, set_dilation_
from stal_nb.labels import Sample

# How far a pixel sees


def influence(
    network: Callable[[Tensor], Tensor],  # (1,3,H,W) -> (1,c,h,w)
    image: Tensor,  # (3,H,W) in [0,1]
    mixtures: int = 4,  # random mixtures of the channels to average over
    seed: int = 0,
) -> Tensor:  # (H,W), largest value 1
    """How much each image pixel moves the centre pixel of the last map: size of the gradient, averaged over 9 × 9
    pixels."""
    leaf = image[None].clone().requires_grad_()
    features = network(leaf)
    centre = features[0, :, features.shape[2] // 2, features.shape[3] // 2]
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(image.shape[1:])
    for _ in range(mixtures):
        mixture = torch.randn(len(centre), generator=generator)
        total += torch.autograd.grad(centre @ mixture, leaf, retain_graph=True)[0][0].abs().sum(0)
    # the gradient of a network is speckled
    smooth = F.avg_pool2d(total[None], 9, stride=1, padding=4, count_include_pad=False)[0]
    return smooth / smooth.max()


def stack_influence(
    dilations: Sequence[int],  # of one 3×3 convolution each
    size: int = 65,  # side of the picture, pixels
) -> Tensor:  # (size,size), largest value 1
    "In how many ways an input pixel reaches the centre through a stack of 3×3 convolutions whose weights are all 1."
    leaf = torch.zeros(1, 1, size, size, requires_grad=True)
    x = leaf
    for dilation in dilations:
        x = F.conv2d(x, torch.ones(1, 1, 3, 3), padding=dilation, dilation=dilation)
    reached = torch.autograd.grad(x[0, 0, size // 2, size // 2], leaf)[0][0, 0]
    return reached / reached.max()


def stack_figure(stacks: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2), (1, 2, 4), (4, 4, 4),
                                                    (1, 3, 9))) -> plt.Figure:
    "The pixels that one output pixel sees through three 3×3 convolutions."
    figure, axes = plt.subplots(1, len(stacks), figsize=(2.5 * len(stacks), 2.9), dpi=80)
    for axis, dilations in zip(axes, stacks):
        reached = stack_influence(dilations, 33)
        seen = (reached > 0)
        side = 1 + 2 * sum(dilations)
        axis.imshow(reached.sqrt(), cmap="viridis", vmin=0)
        axis.set_title(
            f"dilations {', '.join(map(str, dilations))}\nfield {side} × {side}, {int(seen.sum())} pixels seen",
            fontsize=8.5,
        )
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def grid_figure(
    # title, output stride, dilations of the last stage's 3×3 convolutions
    cases: Sequence[tuple[str, int, Sequence[int]]] = (
        ("stride 16", 16, (1, 2, 2)), ("stride 16, multi-grid 2, 2, 4", 16, (2, 4, 8)),
        ("stride 8", 8, (2, 4, 4)), ("stride 8, multi-grid 2, 2, 4", 8, (4, 8, 16))),
    crop: int = 769,  # side of the image, pixels
) -> plt.Figure:
    """From which cells of its input map the last stage of a ResNet-101 collects for the centre of a crop; drawn at the
    scale of the image."""
    figure, axes = plt.subplots(1, len(cases), figsize=(3.1 * len(cases), 3.6), dpi=80)
    for axis, (title, stride, dilations) in zip(axes, cases):
        side = -(-crop // stride)
        reached = stack_influence(dilations, side)
        seen = torch.nonzero(reached)
        reach = int((seen - side // 2).abs().max())
        axis.imshow(reached.sqrt(), cmap="viridis", vmin=0, extent=(0, crop, crop, 0), interpolation="nearest")
        axis.set_title(f"{title}\ndilations {', '.join(map(str, dilations))}: {len(seen)} cells of {side} × {side},\n"
                       f"{stride * reach} pixels to each side", fontsize=8.5)
        axis.set(xticks=(0, crop), yticks=(0, crop))
    figure.tight_layout(pad=0.5)
    return figure


def lite0_encoder(output_stride: int, dilated: bool = True) -> nn.Module:
    """The backbone of the demo model with ImageNet weights; `dilated=False` takes the strides away and forgets to
    dilate."""
    encoder = TimmEncoder("tf_efficientnet_lite0", output_stride=output_stride,
                          pretrained=True).eval().requires_grad_(False)
    if not dilated:
        for convolution in (m for m in encoder.modules() if isinstance(m, nn.Conv2d)):
            if convolution.dilation[0] > 1:
                set_dilation_(convolution, 1)
    return encoder


def spread(seen: Tensor) -> float:
    """Root of the mean squared distance from the centre, in pixels, weighted by influence: a size of the field that is
    felt."""
    y, x = torch.meshgrid(*(torch.arange(n) - n // 2 for n in seen.shape), indexing="ij")
    return float(((x**2 + y**2) * seen).sum().div(seen.sum()).sqrt())


def field_figure(sample: Sample) -> plt.Figure:
    """How far the centre pixel of the last map sees: as trained, with strides taken away, and with dilation in their
    place."""
    cases = [("stride 32, as trained", 32, True), ("stride 8, strides only taken away", 8, False),
             ("stride 8, dilated instead", 8, True)]
    figure, axes = plt.subplots(1, 4, figsize=(12.5, 2.1), dpi=80)
    axes[0].imshow(image_of(sample))
    axes[0].set_title("image, and its centre", fontsize=9)
    for axis, (title, stride, dilated) in zip(axes[1:], cases):
        encoder = lite0_encoder(stride, dilated)
        seen = influence(lambda x, encoder=encoder: encoder((x - 0.5) / 0.5).high, sample.image)
        axis.imshow(seen, cmap="viridis", vmin=0)
        axis.add_patch(plt.Circle(centre_of(seen), spread(seen), fill=False, color="white", linewidth=1.2))
        axis.set_title(f"{title}:\nfelt within {spread(seen):.0f} pixels (circle)", fontsize=9)
    for axis in axes:
        axis.plot(*centre_of(sample.image[0]), marker="+", color="red", markersize=9)
        axis.set(xlim=(0, sample.image.shape[2]), ylim=(sample.image.shape[1], 0))
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def centre_of(picture: Tensor) -> tuple[int, int]:
    "x and y of the middle pixel."
    return picture.shape[1] // 2, picture.shape[0] // 2


# The pyramid


def taps_inside(
    size: tuple[int, int],  # (height, width) of the feature map
    dilation: int,
) -> float:  # in [1/9, 1]
    """Share of the nine taps of a dilated 3×3 convolution that fall on the map and not on its padding, on average over
    the map."""
    inside = [1 + 2 * max(0, n - dilation) / n for n in size]
    return inside[0] * inside[1] / 9


def reach_figure(
    sample: Sample,
    dilation: int = 6,  # of the convolution on the last map
    output_stride: int = 16,
    encoder: nn.Module | None = None,  # made for that stride, to be quick in a widget
) -> plt.Figure:
    "What a pixel of a dilated branch looks at: the taps, and the image pixels that move it."
    encoder = encoder or lite0_encoder(output_stride)

    def branch(x: Tensor) -> Tensor:  # every weight 1, so that the picture shows the reach and not one channel's taste
        high = encoder((x - 0.5) / 0.5).high
        return F.conv2d(high, torch.ones(high.shape[1], 1, 3, 3), padding=dilation, dilation=dilation,
                        groups=high.shape[1])

    seen = influence(branch, sample.image, mixtures=2)
    height, width = sample.image.shape[1:]
    rows, columns = -(-height // output_stride), -(-width // output_stride)
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4), dpi=65)
    axes[0].imshow(image_of(sample))
    for row in (rows // 2 - dilation, rows // 2, rows // 2 + dilation):
        for column in (columns // 2 - dilation, columns // 2, columns // 2 + dilation):
            inside = 0 <= row < rows and 0 <= column < columns
            corner = column * output_stride, row * output_stride
            axes[0].add_patch(plt.Rectangle(corner, output_stride, output_stride, linewidth=1.6, clip_on=True,
                                            edgecolor="white" if inside else "crimson",
                                            facecolor="none" if inside else "#f7c6cf"))
    axes[0].set(xlim=(-width / 2, 1.5 * width), ylim=(2 * height, -height), facecolor="#eeeeee", xticks=[], yticks=[])
    useful = taps_inside((rows, columns), dilation)
    axes[0].set_title(f"dilation {dilation} on a {rows} × {columns} map: {useful:.0%} of all taps fall on the map",
                      fontsize=9)
    axes[1].imshow(seen, cmap="viridis", vmin=0)
    axes[1].set_title(f"image pixels that move the centre pixel: felt within {spread(seen):.0f} pixels", fontsize=9)
    axes[1].axis("off")
    figure.tight_layout(pad=0.4)
    return figure


def taps_figure(maps: Sequence[tuple[str, tuple[int, int]]]) -> plt.Figure:
    "Useful taps by dilation, for feature maps of several sizes."
    figure, axis = plt.subplots(figsize=(6.4, 2.8), dpi=80)
    dilations = list(range(1, 37))
    for name, size in maps:
        axis.plot(dilations, [100 * taps_inside(size, d) for d in dilations], label=f"{name}: {size[0]} × {size[1]}")
    axis.axhline(100 / 9, color="black", linestyle=":", linewidth=1)
    axis.text(36, 12.5, "the centre tap alone", fontsize=7, ha="right")
    axis.set(xlabel="dilation", ylabel="taps on the map (%)", ylim=(0, 101))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.tight_layout()
    return figure
