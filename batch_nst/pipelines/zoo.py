"""The models that ship with the package: the command `zoo`, and their page, by `export --zoo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batch_nst.console import log
from batch_nst.data.models.files import IN_ZOO, ZOO, read_model, zoo_names
from batch_nst.errors import RecipeError

if TYPE_CHECKING:
    from batch_nst.pipelines.reports.painter import PageModel

_PAINTINGS = Path(__file__).parents[1] / "samples" / "styles"


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo."""

    name: str
    ratio: float
    """R: its objective on held-out photos divided by that of the optimisation."""
    content: float
    """Its content loss divided by that of the optimised images."""
    license: str
    """Licence of the painting."""
    weights_license: str
    """Licence of the weights, as far as the photos that they learned from allow one: see README.md beside."""
    bytes: int
    """Size of its weights."""
    folder: str
    """Where it lies, with its card and a preview."""


@dataclass(frozen=True)
class ZooFigures:
    """Figures of `batch-nst zoo`."""

    models: list[ZooModel]


def list_zoo() -> ZooFigures:
    """All models of the zoo, by name.

    Raises:
        WeightsError: the package is damaged.
    """
    models = [_model(name) for name in zoo_names()]
    width = max(map(len, [model.name for model in models]), default=0)
    for model in models:
        licenses = f"weights {model.weights_license}, painting {model.license}"
        log(f"{model.name:<{width}}  R {model.ratio:.2f}, content {model.content:.2f}; {licenses}")
    log(f"terms of the photos that they learned from: {ZOO / 'README.md'}")
    return ZooFigures(models)


def _model(name: str) -> ZooModel:
    files = read_model(f"{IN_ZOO}{name}")
    ratios = files.card["evaluation"]["ratios"]
    licenses = files.card["licenses"]
    return ZooModel(
        name=name,
        ratio=ratios["total"],
        content=ratios["content"],
        license=licenses["style"],
        weights_license=licenses["weights"],
        bytes=len(files.weights),
        folder=str(ZOO / name),
    )


@dataclass(frozen=True)
class ZooPageFigures:
    """Figures of `batch-nst export --zoo`."""

    page: str
    """Path of the page's `index.html`."""
    models: list[str]


def export_zoo(page: str | None, runtime: str | None) -> ZooPageFigures:
    """Write a page that paints with any model of the zoo. Needs no recipe and no lease.

    Args:
        page: a folder on this machine that is missing, empty, or has such a page.
        runtime: the folder of the npm package onnxruntime-web.

    Raises:
        RecipeError: one of them is missing or cannot be used.
        WeightsError: the package is damaged.
    """
    from batch_nst.pipelines.reports.painter import page_place, write_page

    place = page_place(page, runtime)
    if place is None:
        raise RecipeError("--zoo: writes a page of all models of the zoo; allowed: with --page DIR")
    names = zoo_names()
    return ZooPageFigures(str(write_page(place, [_page_model(name) for name in names])), names)


def _page_model(name: str) -> PageModel:
    from batch_nst.engine.fast_model.network import read_architecture
    from batch_nst.engine.fast_model.onnx_graph import onnx_bytes
    from batch_nst.pipelines.apply.painters import checked_weights
    from batch_nst.pipelines.reports.painter import PageModel, title_of

    files = read_model(f"{IN_ZOO}{name}")
    graph = onnx_bytes(checked_weights(files), read_architecture(files.card)["name"])
    painting = (_PAINTINGS / f"{name}.jpg").read_bytes()
    return PageModel(title_of(name), files.card, graph, f"models/{name}.onnx", painting)
