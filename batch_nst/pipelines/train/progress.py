"""How far a training is: its first worker writes it, the driver reads it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from batch_nst.data.models.registry import History


@dataclass
class Progress:
    """How far a training is, as its first worker reports it."""

    starts: int = 0
    """Times that it started or resumed."""
    first: int = 0
    """Step from which the last start continued."""
    workers: int = 0
    step: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    """Losses of `step`."""
    history: History = field(default_factory=list)
    """The curve up to the last picture of the panel."""
    failure: str = ""
    """Why it diverged; empty: it did not."""


class ProgressActor:
    """Holds the progress of a training: its first worker writes it, the driver reads it."""

    def __init__(self) -> None:
        """Nothing is done yet."""
        self._progress = Progress()

    def start(self, step: int, workers: int) -> None:
        """A training starts or resumes at a step."""
        now = self._progress
        now.starts, now.first, now.workers, now.step = now.starts + 1, step, workers, step

    def set_step(self, step: int, parts: dict[str, float]) -> None:
        """A step is done; `parts` are its losses."""
        self._progress.step, self._progress.parts = step, parts

    def set_history(self, history: History) -> None:
        """The panel has new pictures; this is the curve so far."""
        self._progress.history = history

    def fail(self, why: str) -> None:
        """The training has diverged."""
        self._progress.failure = why

    def read(self) -> Progress:
        """What is known."""
        return self._progress
