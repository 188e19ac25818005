"""Explorers that work with a kernel and without one: what Python would send, computed in advance.

The notebook stores it beside the live widget; the documentation site gives it to the very script that the widget runs
(`stal_nb/app/static`), with a model that answers from it (`stored.js` there, and `nbs/explorers.js`)."""
import base64
import gzip
import json
import os
from collections.abc import Sequence

import numpy as np
from IPython.display import display
from PIL import Image

from figures.knobs import packed
from stal_nb.app.selection_explorer import SelectionExplorer
from stal_nb.app.uncertainty_explorer import UncertaintyExplorer

EXPLORER = "application/vnd.stal-nb.explorer+json"
LEVELS = 200  # a map is stored in so many steps up to its largest value


def show_selection(
    explorer: SelectionExplorer,
    size: tuple[int, int] = (80, 40),  # (width, height) of each stored picture
    quality: int = 60,  # of their JPEG
) -> None:
    "The widget, and what it knows for every strategy and budget."
    _show(explorer, "selection", explorer.facts(size, quality))


def show_uncertainty(
    explorer: UncertaintyExplorer,
    measures: Sequence[str],  # those stored; of one pass of the network
    radii: Sequence[int],  # of the region measures
) -> None:
    "The widget, and what it shows of its image for some measures and radii at every threshold."
    _show(explorer, "uncertainty", uncertainty_facts(explorer, measures, radii))


def _show(widget, name: str, facts: dict) -> None:
    packed = base64.b64encode(gzip.compress(json.dumps(facts).encode(), mtime=0)).decode()
    text = f"{type(widget).__name__}, also without a kernel"
    display({**widget._repr_mimebundle_()[0], EXPLORER: {"name": name, "facts": packed}, "text/plain": text}, raw=True)


def uncertainty_facts(
    explorer: UncertaintyExplorer,
    measures: Sequence[str],
    radii: Sequence[int],
) -> dict:
    "What Python would send of the explorer's image, as pictures in base64; the explorer is left as it was."
    catalogue = [entry for entry in explorer.catalogue if entry["name"] in measures]
    before = {name: getattr(explorer, name) for name in ("measure", "radius")}
    if "IN_TEST" in os.environ:  # the tests of a notebook store one
        radii = [explorer.radius]
    maps, sent = {}, []
    explorer.send = lambda content, buffers=None: sent.append((content, buffers))
    try:
        explorer.receive({"type": "hello"})
        first = dict(zip(sent[-1][0]["parts"], sent[-1][1], strict=True))
        for entry in catalogue:
            explorer.measure = entry["name"]
            for radius in radii if entry["parameter"] == "radius" else [explorer.radius]:
                explorer.radius = radius
                explorer.show()
                content, buffers = sent[-1]
                parts = dict(zip(content["parts"], buffers, strict=True))
                place = str(radius) if entry["parameter"] == "radius" else ""
                maps.setdefault(entry["name"], {})[place] = _map_facts(content, parts["values"])
    finally:
        del explorer.send
        for name, value in before.items():
            setattr(explorer, name, value)
    shape = (content["image"]["height"], content["image"]["width"])
    shares = np.round(np.frombuffer(first["shares"], np.uint16) / 655.35)  # percent
    planes = [np.frombuffer(first[name], np.uint8) for name in ("truth", "classes")] + [shares.astype(np.uint8)]
    names = ("networks", "classes", "palette", "ramp", "network", "inference", "passes", "rate", "of_class", "percent",
             "colours")
    state = {name: getattr(explorer, name) for name in names} | before | {
        "catalogue": catalogue, "ids": [explorer.ids[explorer.image]], "image": 0, "inference": "single",
        "kinds": ["single"], "networks": [explorer.network]}
    return {"image": content["image"], "maps": maps, "picture": base64.b64encode(first["picture"]).decode(),
            "planes": _grey(np.concatenate(planes), shape), "radii": list(radii), "state": state}


def _map_facts(content: dict, values: bytes) -> dict:
    "What the page is told of a map, with its values in steps."
    values = np.frombuffer(values, np.float32)
    top = float(values.max()) or 1.0
    shape = (content["image"]["height"], content["image"]["width"])
    return {"levels": _grey(np.round(values / top * LEVELS).astype(np.uint8), shape), "map": content["map"],
            "step": top / LEVELS}


def _grey(
    values: np.ndarray,  # uint8, planes row by row
    shape: tuple[int, int],  # (height, width) of one plane
) -> str:
    "Planes below each other as one grey picture that loses nothing, in base64."
    planes = Image.fromarray(values.reshape(-1, shape[1])).convert("RGB")
    return packed(planes, "WEBP", lossless=True, quality=80, method=4)
