"""A blind test: pairs of the optimised and the stylized image in random order; who looks says which is which.

One HTML file without JavaScript: a browser counts the answers by its style sheet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from batch_nst.pipelines.reports.html import ENVIRONMENT, data_uri
from batch_nst.pipelines.reports.night import Triple

MOST: Final = 24
"""Maximum number of pairs, so that a page is answered at one go."""
_SIDE: Final = 512
_TEMPLATE: Final = ENVIRONMENT.get_template("blind.html.j2")


class _Question(NamedTuple):
    left: str
    """Data URI, as the next field."""
    right: str
    optimised: str
    """`left` or `right`: where the optimised image is."""


def blind_page(triples: Sequence[Triple], version: str) -> str:
    """The HTML of the test; empty without pictures. The same input gives the same order.

    Args:
        triples: held-out photos; their optimised images and those of the model are shown.
        version: the model's.
    """
    questions = [_question(triple, version) for triple in triples[:MOST] if triple.optimised and triple.model]
    if not questions:
        return ""
    return _TEMPLATE.render(version=version, questions=questions, told_apart=told_apart(len(questions)))


def told_apart(pairs: int) -> int | None:
    """The fewest right answers that chance gives in one of twenty tests at most; None: even all are too few.

    told_apart(16)  # 12
    """
    likely = 0.0
    for right in range(pairs, -1, -1):
        likely += math.comb(pairs, right) / 2**pairs
        if likely > 0.05:
            return right + 1 if right < pairs else None
    return None


def _question(triple: Triple, version: str) -> _Question:
    optimised, model = (data_uri(picture, _SIDE) for picture in (triple.optimised, triple.model))
    drawn = hashlib.blake2b(
        f"{version} {triple.id} {triple.name}".encode(), person=b"batch_nst blind"
    ).digest()
    if drawn[0] % 2:
        return _Question(optimised, model, "left")
    return _Question(model, optimised, "right")
