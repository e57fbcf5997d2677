"""What a listing skips, counted by suffix or by reason, so that nothing is lost without a word."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Final

from batch_nst.console import log

HIDDEN, SYSTEM, CIRCLE = "hidden", "of a system", "links in a circle"
LINKS, TWICE, NO_SUFFIX, OTHERS = "no files in tars", "named twice", "no suffix", "others"

_OF_SYSTEMS: Final = {
    *("__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "$recycle.bin", "recycler"),
    *("lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("_temporary", "_delta_log", "_spark_metadata"),
}
"""Names of files and folders that systems keep: thumbnails, bins, what writers use while they write."""
_MOST = 40
"""Maximum number of suffixes that are counted one by one."""


class Passed(Counter[str]):
    """How many files were skipped, by suffix (`.csv`) or reason (`hidden`).

    A hidden folder on a disk, or one of a system, is not looked into and counts once.

    passed = Passed()
    list(list_files("photos", passed))
    print(passed.most_common())  # [(".jp2", 30), (".csv", 1)]
    """

    def by_name(self, key: str) -> bool:
        """Whether a name rules a file or folder out; it is counted then."""
        reason = reason_of(key)
        if reason:
            self[reason] += 1
        return reason is not None

    def by_suffix(self, key: str) -> None:
        """Count a file that is neither a photo nor holds any."""
        suffix = PurePosixPath(key).suffix.lower() or NO_SUFFIX
        known = suffix == NO_SUFFIX or re.fullmatch(r"\.[a-z0-9_+~-]{1,12}", suffix)
        self[suffix if known and (suffix in self or len(self) < _MOST) else OTHERS] += 1

    def log(self) -> None:
        """Log the counts, unless nothing was skipped."""
        if self:
            log(str(self))

    def __str__(self) -> str:
        """For people, the most frequent first."""
        counts = sorted(self.items(), key=lambda pair: (-pair[1], pair[0]))
        return "passed over: " + ", ".join(f"{count:,} {what}" for what, count in counts)


def reason_of(key: str) -> str | None:
    """Why a name rules a file out: it, or a folder in it, is hidden or of a system. None: it does not.

    `.` and `..`, as in tars, do not hide.
    """
    parts = key.split("/")
    if any(part.startswith(".") and part.strip(".") for part in parts):
        return HIDDEN
    return SYSTEM if any(part.lower() in _OF_SYSTEMS for part in parts) else None
