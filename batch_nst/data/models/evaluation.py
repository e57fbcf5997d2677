"""The section `evaluation` of `model.json`."""

from __future__ import annotations

from typing import TypedDict


class Enlarged(TypedDict, total=False):
    """Scores at twice the size."""

    photos: int
    size: int
    curve: list[float]
    verdict: str
    photo: dict[str, float]
    optimised: dict[str, float]
    model: dict[str, float]


class Evaluation(TypedDict, total=False):
    """Scores of a model on held-out photos."""

    photos: int
    size: int
    objectives: dict[str, float]
    verdict: str
    worth_iterations: int | None
    photo: dict[str, float]
    optimised: dict[str, float]
    model: dict[str, float]
    larger: Enlarged
    units: list[str]
