"""What somebody may have meant who mistyped a word."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_ALIKE = 0.7
"""Of 0 to 1. Below it are pairs such as `gpu` and `cpu`, where the one is not meant by the other."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """The question, if an allowed word is much like the given one; else "".

    did_you_mean("generat", ["generate", "train"])  # "; did you mean generate?"
    """
    near = get_close_matches(given.lower(), list(allowed), 1, _ALIKE)
    return f"; did you mean {near[0]}?" if near else ""
