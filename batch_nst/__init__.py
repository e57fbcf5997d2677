"""batch_nst: a style image and a bucket of photos in, a published fast style-transfer model out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["FastModel", "Loss", "Pair", "Recipe", "load_model", "read_pairs", "stylize"]

if TYPE_CHECKING:
    from batch_nst.data.dataset.pairs import Pair, read_pairs
    from batch_nst.pipelines.inference import FastModel, load_model, stylize
    from batch_nst.recipe import Loss, Recipe

_HOMES = {
    "FastModel": "pipelines.inference",
    "Loss": "recipe",
    "Pair": "data.dataset.pairs",
    "Recipe": "recipe",
    "load_model": "pipelines.inference",
    "read_pairs": "data.dataset.pairs",
    "stylize": "pipelines.inference",
}


def __getattr__(name: str) -> Any:
    # torch and others are imported on first use, so that `import batch_nst` costs nothing.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
