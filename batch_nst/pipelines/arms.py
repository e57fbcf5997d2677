"""The ways to train that the ablation compares: each is the `train` section of a recipe, and its photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from batch_nst.recipe import Quality, Schedule, Train

_FILTERED, _UNFILTERED = Quality(), Quality(max_deviation=None, min_change=None)


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    title: str
    train: Train
    """How; `steps` count for nothing: an arm has so much time, and its schedules are parts of that."""
    photos: int | None = 100
    """How many are trained on, at the most; None: all."""
    quality: Quality = _FILTERED
    """Which pairs are passed over."""
    peers: bool = False
    """Whether it is the usual programs' loop, in place of ours."""

    @property
    def pairs(self) -> bool:
        """Whether it looks at optimised images."""
        return any(map(_counts, (self.train.feature_weight, self.train.pixel_weight)))


def _counts(schedule: Schedule) -> bool:
    """Whether a weight is ever above 0."""
    return any(point[1] for point in schedule) if isinstance(schedule, list) else schedule > 0


def _ours(**settings: Any) -> Train:
    """A recipe's defaults, but for crops, as photos are few, and batches for few cores.

    The checkerboard counts in one arm alone, which shows what that costs.
    """
    return Train(**({"batch_size": 2, "crop_size": 80, "checkerboard_weight": 0.0} | settings))


_TOGETHER = _ours()

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "peers": Arm(
            "the peers' way: perceptual loss",
            Train(
                batch_size=4,
                precision="fp32",
                learning_rate=1e-3,
                feature_weight=0.0,
                checkerboard_weight=0.0,
                average=0.0,
            ),
            photos=None,
            peers=True,
        ),
        "perceptual": Arm("perceptual loss", _ours(feature_weight=0.0), photos=None),
        "pixels": Arm("pairs, in pixels", _ours(pixel_weight=1.0, feature_weight=0.0, perceptual_weight=0.0)),
        "features": Arm("pairs, in VGG features", _ours(feature_weight=5.0, perceptual_weight=0.0)),
        "then": Arm(
            "pairs, then perceptual loss",
            _ours(
                feature_weight=[[0.0, 5.0], [0.5, 5.0], [0.5, 0.0]],
                perceptual_weight=[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]],
            ),
        ),
        "together": Arm("both together", _TOGETHER),
        "even": Arm(
            "both, no checkerboard",
            _ours(checkerboard_weight=Train.model_fields["checkerboard_weight"].default),
        ),
        "unfiltered": Arm("both, no quality filter", _TOGETHER, quality=_UNFILTERED),
        "together-25": Arm("both, 25 photos", _TOGETHER, photos=25),
        "together-300": Arm("both, 300 photos", _TOGETHER, photos=300),
        "whole": Arm("both, whole pictures", _ours(batch_size=4, crop_size=None, feature_weight=5.0)),
        "small": Arm("both, small network", _ours(network="small")),
    }
)
"""By name, in the order in which they run."""
