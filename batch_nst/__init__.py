"""batch_nst: a painting and a bucket of photos in, a published fast style-transfer model out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["FastModel", "load_model", "stylize"]

if TYPE_CHECKING:
    from batch_nst.pipelines.inference import FastModel, load_model, stylize


def __getattr__(name: str) -> Any:
    # torch is imported on first use, so that `import batch_nst` costs nothing.
    if name in __all__:
        from batch_nst.pipelines import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
