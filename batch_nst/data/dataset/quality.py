"""Rules for pairs that training skips. Their rows stay unchanged; the snapshot lists their ids."""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from batch_nst.data.images.codec import Pixels
from batch_nst.recipe import Quality

Rule = Literal["barely_changed", "blew_up"]

RULES: tuple[Rule, ...] = ("barely_changed", "blew_up")
"""Why a pair is left out; the first rule that applies counts."""

FEWEST = 20
"""Minimum number of pairs for judging a loss by the distribution of all."""

LEAST_DEVIATION = 0.1
"""Minimum deviation of the logarithm of the loss, so that a small difference among similar photos stays
small."""

_MAD = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""


class QualityFigures(TypedDict, total=False):
    """The rules of a recipe and the limits that follow; empty in snapshots of version 0.1.0."""

    max_deviation: float | None
    min_change: float | None
    losses: dict[str, float]
    """See `quantiles`."""
    deviation: float | None
    """Robust standard deviation of the logarithm of the loss."""
    max_loss: float | None
    """The loss above which a pair is left out; None where the rule is off or has too few losses."""


class QualityReport(QualityFigures, total=False):
    """The quality filter of a snapshot."""

    pairs: int
    """Number of pairs whose loss is known."""
    left_out: dict[Rule, list[str]]
    """Ids (hex) that each rule leaves out."""


class QualityCounts(QualityFigures, total=False):
    """`QualityReport` with counts in place of ids."""

    pairs: int
    left_out: dict[Rule, int]


Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def change(content: Pixels, stylized: Pixels) -> float:
    """Mean absolute difference between a photo and its optimised image, in grey levels."""
    return float(np.abs(content.astype(np.int16) - stylized).mean())


def judge(loss: Floats, changed: Floats, rules: Quality) -> tuple[dict[Rule, Mask], QualityFigures]:
    """Which of the pairs to leave out by each of `RULES`, and the figures that decided it.

    The logarithm of the loss is compared with its median in robust standard deviations: 1.4826 times the
    median absolute deviation, but at least `LEAST_DEVIATION`. Outliers hardly change that deviation. Only a
    loss that is too high counts, since easy photos have a low one. Unknown values (NaN) break no rule.

    Args:
        loss: final total loss of each pair.
        changed: `change` of each pair.
        rules: those of the recipe; None switches a rule off.

    Returns:
        A mask over the pairs for each rule, and the figures. No pair is in two masks. `max_loss` has
        a value only where the rule is on and `FEWEST` losses are known.
    """
    figures: QualityFigures = {
        "max_deviation": rules.max_deviation,
        "min_change": rules.min_change,
        "losses": quantiles(loss),
        "deviation": None,
        "max_loss": None,
    }
    unchanged = np.zeros(len(loss), bool)
    if rules.min_change is not None:
        unchanged = changed < rules.min_change
    logarithms = np.log(loss[loss > 0].astype(np.float64))
    blew_up = np.zeros(len(loss), bool)
    if rules.max_deviation is not None and len(logarithms) >= FEWEST:
        middle = math.log(np.median(loss[loss > 0]))
        deviation = max(LEAST_DEVIATION, _MAD * float(np.median(np.abs(logarithms - middle))))
        most = math.exp(middle + rules.max_deviation * deviation)
        figures["deviation"], figures["max_loss"] = deviation, most
        blew_up = loss > most
    return {"barely_changed": unchanged, "blew_up": blew_up & ~unchanged}, figures


def quantiles(values: Floats) -> dict[str, float]:
    """`min`, `p5`, `median`, `p95` and `max` of the known values, with 4 digits; {} where none is known."""
    values = values[np.isfinite(values)]
    if not values.size:
        return {}
    found = np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).tolist()
    names = ("min", "p5", "median", "p95", "max")
    return {name: float(f"{value:.4g}") for name, value in zip(names, found, strict=True)}


def filter_counts(quality: QualityReport) -> QualityCounts:
    """The quality filter of a snapshot with counts in place of ids; {} for snapshots of version 0.1.0."""
    counts = {rule: len(ids) for rule, ids in quality.get("left_out", {}).items()}
    return cast(QualityCounts, {**quality, "left_out": counts}) if quality else {}


def describe_filter(quality: QualityReport) -> str:
    """How many pairs a snapshot leaves out by which rule, as one line for people."""
    counts = filter_counts(quality)["left_out"]
    why: dict[Rule, str] = {
        "barely_changed": f"changed by less than {quality['min_change']} grey levels (quality.min_change)",
        "blew_up": f"have a loss above {quality['max_loss'] or 0:,.0f} (quality.max_deviation)",
    }
    parts = ", ".join(f"{count} {why[rule]}" for rule, count in counts.items() if count)
    return f"{sum(counts.values())} pairs are left out of training: {parts}"
