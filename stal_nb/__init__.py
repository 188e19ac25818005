"""Learn, explore and use STAL: self-training plus active learning for domain-adaptive semantic segmentation.

The names people come for, imported when they are first asked for: `from stal_nb import contrastive_loss`."""

__version__ = "0.1.0"

_HOMES = {
    "contrastive_loss": "losses", "PixelContrast": "contrast", "ClassMemoryBank": "banks", "entropy": "uncertainty", "ripu": "uncertainty",
    "select": "selection", "Config": "config", "Run": "run", "Annotator": "app.annotator", "LabelSpace": "labels",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
