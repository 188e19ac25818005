"""A knob that works with a kernel and without one: live controls, and beside them pictures drawn in advance.

The notebook stores both in one output. JupyterLab shows the live controls; the documentation site shows the stored
pictures under a slider of its own (`nbs/knobs.js`); a code host shows the first of them."""
import base64
import io
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
from IPython.display import display
from matplotlib import pyplot as plt
from PIL import Image

from figures.losses import picture_of, show

FRAMES = "application/vnd.stal-nb.frames+json"


class Stored(NamedTuple):
    "The values of one control that are drawn in advance."
    name: str  # of the argument
    label: str
    values: list  # in the order of the control
    words: list[str]  # each value as it is said
    start: int  # place of the value that is shown first
    kind: str  # "range" or "select"


def knob(
    draw: Callable[..., plt.Figure],  # of one keyword argument a control
    words: Mapping[str, str],  # argument -> how its value is said, such as "γ = {:g}"
    stored: Mapping[str, Sequence] | None = None,  # argument -> values drawn in advance; missing = all of the control
    **controls: Any,  # argument -> widget, or list of choices
) -> None:
    """Show live controls for a figure, and store the figure for the given values.

    Raises `ValueError` where the value that a control begins with is not among those stored."""
    live = ipywidgets.interactive(lambda **values: show(draw(**values)), **controls)
    given = stored or {}
    kept = [stored_values(widget, words[widget._kwarg], given.get(widget._kwarg)) for widget in live.kwargs_widgets]
    png, frames = draw_frames(draw, kept)
    text = f"{draw.__name__}: {len(frames['frames'])} pictures"
    display({**live._repr_mimebundle_(), "image/png": png, FRAMES: frames, "text/plain": text}, raw=True)


def stored_values(
    widget: ipywidgets.ValueWidget,
    words: str,
    values: Sequence | None = None,  # None = all
) -> Stored:
    "What is drawn in advance for a control, its starting value included."
    if values is None:
        values = widget.options if hasattr(widget, "options") else steps_of(widget)
    values, now = list(values), widget.value
    if now not in values:
        raise ValueError(f"{widget._kwarg}: found {now!r} as its first value, expected one of {values}, which are "
                         "stored")
    if "IN_TEST" in os.environ:  # the tests of a notebook draw two
        values = [value for value in values if value in (now, values[-1])]
    kind = "select" if isinstance(now, str) else "range"
    return Stored(widget._kwarg, widget.description, values, [words.format(v) for v in values], values.index(now), kind)


def steps_of(slider: ipywidgets.ValueWidget) -> list:
    "All values of a slider; those of a slider of integers are integers."
    count = round((slider.max - slider.min) / slider.step)
    return [type(slider.value)(round(slider.min + k * slider.step, 6)) for k in range(count + 1)]


def draw_frames(
    draw: Callable[..., plt.Figure],
    kept: Sequence[Stored],
) -> tuple[str, dict]:  # the picture shown first, a PNG in base64; what the page needs
    """Every combination of the stored values, the last control fastest.

    A frame is stored as what it changes of another one, transparent elsewhere: of the frame before it or of the one
    shown first, whichever is more like it. All have one palette, so most pixels are equal."""
    says, pictures = [], []
    for choice in itertools.product(*(range(len(control.values)) for control in kept)):
        figure = draw(**{control.name: control.values[k] for control, k in zip(kept, choice)})
        titles = (axis.get_title() for axis in figure.axes)
        says.append("; ".join([*(c.words[k] for c, k in zip(kept, choice)), *filter(None, titles)]))
        pictures.append(picture_of(figure))
    first = int(np.ravel_multi_index([c.start for c in kept], [len(c.values) for c in kept]))
    pictures = one_palette(pictures)
    below = [first if k in (first, 0) else closer(pictures, k, (first, k - 1)) for k in range(len(pictures))]
    frames = [difference(pictures[k], pictures[below[k]]) if k != first else "" for k in range(len(pictures))]
    controls = [{"label": c.label, "words": c.words, "start": c.start, "kind": c.kind} for c in kept]
    height, width = pictures[first].shape[:2]
    return packed(Image.fromarray(pictures[first]).quantize(256, dither=Image.Dither.NONE), "PNG", optimize=True), {
        "below": below, "controls": controls, "frames": frames, "height": height, "says": says, "width": width}


def one_palette(
    pictures: Sequence[np.ndarray],  # (H,W,3) uint8, all of one size
    colours: int = 64,
) -> list[np.ndarray]:
    "The pictures in colours that all of them share, so that what is equal stays equal."
    some = np.concatenate([picture[::3, ::3] for picture in pictures])
    palette = Image.fromarray(some).quantize(colours)
    return [np.asarray(Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))
            for picture in pictures]


def closer(
    pictures: Sequence[np.ndarray],
    k: int,
    others: Sequence[int],
) -> int:
    "Which of the others a picture shares most pixels with."
    return min(others, key=lambda other: (pictures[k] != pictures[other]).any(2).sum())


def difference(
    picture: np.ndarray,  # (H,W,3) uint8
    below: np.ndarray,  # (H,W,3) uint8
) -> str:
    "What a picture changes of the one below, a WebP in base64 that is transparent elsewhere."
    changed = (picture != below).any(2)
    layer = np.dstack([np.where(changed[..., None], picture, 0), np.where(changed, 255, 0)]).astype(np.uint8)
    return packed(Image.fromarray(layer, "RGBA"), "WEBP", lossless=True, quality=60, method=4)


def packed(image: Image.Image, kind: str, **options: Any) -> str:
    "An image file in base64."
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()
