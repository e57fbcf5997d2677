"""Which pairs training passes over, by rule: their rows stay as they are, the snapshot names them."""

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
"""Why a pair is left out; the first that applies counts."""

FEWEST = 20
"""Pairs below which there is no distribution that a loss could stand out from."""

LEAST_DEVIATION = 0.1
"""Of the logarithm of the loss: photos that are all alike must not make a small difference a large one."""

_MAD = 1.4826
"""Standard deviations of a normal distribution in a median absolute deviation."""


class QualityFigures(TypedDict, total=False):
    """Rules of a recipe and what they came down to; empty in snapshots of version 0.1.0."""

    max_deviation: float | None
    min_change: float | None
    losses: dict[str, float]
    """See `quantiles`."""
    deviation: float | None
    """Robust standard deviation of the logarithm of the loss."""
    max_loss: float | None
    """The loss above which a pair is left out; None where the rule is off or has too few losses."""


class QualityReport(QualityFigures, total=False):
    """What a snapshot says of its filter."""

    pairs: int
    """Pairs whose loss is known."""
    left_out: dict[Rule, list[str]]
    """Ids (hex) by rule."""


class QualityCounts(QualityFigures, total=False):
    """`QualityReport` with counts in place of ids."""

    pairs: int
    left_out: dict[Rule, int]


Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def change(content: Pixels, stylized: Pixels) -> float:
    """How far a picture is from its photo: mean absolute difference, in grey levels."""
    return float(np.abs(content.astype(np.int16) - stylized).mean())


def judge(loss: Floats, changed: Floats, rules: Quality) -> tuple[dict[Rule, Mask], QualityFigures]:
    """Which of the pairs to leave out, for each of `RULES`, and the figures that decided it.

    The logarithm of the loss is compared with its median, in deviations: 1.4826 times the median absolute
    deviation, which a few wild pairs cannot stretch, and `LEAST_DEVIATION` at least. Only a loss that is too
    high counts: a photo that is easy to paint has a low one. What is not known (NaN) breaks no rule.

    Args:
        loss: final total loss of each pair.
        changed: of each pair, see `change`.
        rules: of the recipe; None switches a rule off.

    Returns:
        A mask over the pairs for each rule, no pair in two of them; and figures: `max_deviation` and
        `min_change` as given, `losses` (see `quantiles`), `deviation` (of the logarithm) and the `max_loss`
        that follows, None where the rule is off or there are fewer than `FEWEST` losses.
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
    """`min`, `p5`, `median`, `p95`, `max` of what is known, with 4 digits; {} where nothing is."""
    values = values[np.isfinite(values)]
    if not values.size:
        return {}
    found = np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).tolist()
    names = ("min", "p5", "median", "p95", "max")
    return {name: float(f"{value:.4g}") for name, value in zip(names, found, strict=True)}


def figures_of(quality: QualityReport) -> QualityCounts:
    """What a snapshot says of its rules, with counts in place of ids; {} where it says nothing (0.1.0)."""
    counts = {rule: len(ids) for rule, ids in quality.get("left_out", {}).items()}
    return cast(QualityCounts, {**quality, "left_out": counts}) if quality else {}


def told_of(quality: QualityReport) -> str:
    """What a snapshot leaves out by its rules, in one line for people."""
    counts = figures_of(quality)["left_out"]
    why: dict[Rule, str] = {
        "barely_changed": f"changed by less than {quality['min_change']} grey levels (quality.min_change)",
        "blew_up": f"have a loss above {quality['max_loss'] or 0:,.0f} (quality.max_deviation)",
    }
    told = ", ".join(f"{count} {why[rule]}" for rule, count in counts.items() if count)
    return f"{sum(counts.values())} pairs are left out of training: {told}"
