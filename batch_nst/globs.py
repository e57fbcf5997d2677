"""Globs over paths and keys: `*`, `?`, `[ab]`, `**` for any folders, `{a,b}`, and ranges as `{000..120}`."""

from __future__ import annotations

import math
import re
from itertools import product

_PAIR = r"\{[^{}/]*(?:,|\.\.)[^{}/]*\}"
_BRACES = re.compile(_PAIR)
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_CHARACTERS = re.compile(r".-.|.", re.DOTALL)
_TOKENS = re.compile(rf"(\*+|\?|\[!?\]?[^\]/]*\]|{_PAIR})")

MAGIC = re.compile(rf"[*?\[]|{_PAIR}")
"""What makes a path a glob."""

MOST = 1_000_000
"""Maximum number of names that ranges may stand for."""


class Glob:
    """A compiled glob, which notes the names of its ranges that it has met.

    Glob("**/*.{jpg,jpe}").fits("2026/a.jpe")  # True
    """

    def __init__(self, text: str) -> None:
        """Compile `text`; ValueError where its ranges stand for more than `MOST` names."""
        self.text = text
        ends = [(int(first), int(last)) for first, last in _RANGE.findall(text)]
        count = math.prod(abs(last - first) + 1 for first, last in ends)
        if count > MOST:
            raise ValueError(f"ranges of {count:,} names; allowed: {MOST:,}")
        self._names = [_names(*found) for found in _RANGE.findall(text)]
        self._sets = [frozenset(names) for names in self._names]
        self._seen: set[tuple[str, ...]] = set()
        self._regex = re.compile(_regex(text))

    @property
    def wide(self) -> str:
        """A glob without braces, and with `**` as a whole part alone, that fits whatever this one fits."""
        parts = _BRACES.sub("*", self.text).split("/")
        return "/".join(part if part == "**" else re.sub(r"\*+", "*", part) for part in parts)

    def fits(self, path: str) -> bool:
        """Whether a path is one that the glob means."""
        found = self._regex.fullmatch(path)
        names = found.groups() if found else ()
        if found is None or any(name not in allowed for name, allowed in zip(names, self._sets, strict=True)):
            return False
        self._seen.add(names)
        return True

    def reaches_into(self, folder: str) -> bool:
        """Whether a path below this folder may fit."""
        parts, names = self.text.split("/"), folder.split("/")
        for part, name in zip(parts, names, strict=False):
            if part == "**":
                return True
            if name != part and not re.fullmatch(_segment(part), name):
                return False
        return len(parts) > len(names)

    def unseen(self) -> str | None:
        """The first name that ranges stand for and no path has had; None where each has had one."""
        missing = (names for names in product(*self._names) if names not in self._seen)
        names = next(missing, ()) if self._names else ()
        left = iter(names)
        return _RANGE.sub(lambda _: next(left), self.text) if names else None


def fixed_part(pattern: str) -> str:
    """The folder that holds everything a glob can fit."""
    return MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _names(first: str, last: str) -> list[str]:
    """The names of a range, as a shell expands it: one zero in front fills all of them up."""
    padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]


def _regex(text: str) -> str:
    """A regular expression with a group for each range; no wildcard but a whole part `**` fits a slash."""
    *folders, last = text.split("/")
    found = ["(?:[^/]+/)*" if part == "**" else f"{_segment(part)}/" for part in folders]
    return "".join([*found, "(?s:.+)" if last == "**" else _segment(last)])


def _segment(part: str) -> str:
    return "".join(_token(token) for token in _TOKENS.split(part))


def _token(token: str) -> str:
    if _RANGE.fullmatch(token):
        return r"(\d+)"
    if _BRACES.fullmatch(token) and "," in token:
        return f"(?:{'|'.join(map(re.escape, token[1:-1].split(',')))})"
    if token.startswith("*"):
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if token.startswith("[") and token.endswith("]"):
        negated = token.startswith("[!")
        inside = _CHARACTERS.sub(_characters, token[2 if negated else 1 : -1])
        return f"(?!/)[{'^' if negated else ''}{inside}]" if inside else re.escape(token)
    return re.escape(token)


def _characters(found: re.Match[str]) -> str:
    """A range or a character of a class; a range that goes backwards is its characters."""
    first, last = found[0][0], found[0][-1]
    if len(found[0]) < 3:
        return re.escape(found[0])
    return f"{re.escape(first)}-{re.escape(last)}" if first <= last else re.escape(found[0])
