"""The command `zoo`: the models that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass

from batch_nst.console import log
from batch_nst.data.models.files import IN_ZOO, ZOO, read_model, zoo_names


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
        log(f"{model.name:<{width}}  R {model.ratio:.2f}, content {model.content:.2f}; {model.license}")
    return ZooFigures(models)


def _model(name: str) -> ZooModel:
    files = read_model(f"{IN_ZOO}{name}")
    ratios = files.card["evaluation"]["ratios"]
    license = files.card["licenses"]["style"]
    return ZooModel(name, ratios["total"], ratios["content"], license, len(files.weights), str(ZOO / name))
