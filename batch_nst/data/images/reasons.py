"""Why a photo is rejected: the reason codes, and the error that carries one."""

from __future__ import annotations

from typing import Final

REASONS: Final[dict[str, str]] = {
    "outside_stores": "a table or list names it where generate.stores does not reach",
    "holds_credentials": "a table or list names it by a URI with a password or a signature",
    "empty": "the file has no bytes",
    "too_many_bytes": "the file is larger than generate.max_bytes",
    "not_an_image": "the first bytes are those of no picture format",
    "unsupported_format": "a picture, but not a JPEG, PNG, WebP, GIF, TIFF or BMP photo",
    "truncated": "the file ends before the picture does",
    "corrupt": "damaged, or a variant of its format that cannot be read",
    "unsupported_colours": "its colours cannot be worked out exactly: high dynamic range, rare kinds of TIFF",
    "too_many_pixels": "larger than generate.max_pixels",
    "too_small": "the short side is below generate.min_side",
    "needs_memory": "decoding it takes more memory than a picture of generate.max_pixels may need, twice",
    "decoder_timeout": "decoding it takes longer than generate.max_seconds, twice",
    "decoder_died": "the process that decoded it died, twice",
}
"""Every reason why a photo is rejected, and its explanation. The codes never change.

The first two come from `allowlist`, the last three from `sandbox.Decoder`.
"""


class BadImage(ValueError):  # noqa: N818 - it says what the photo is; nothing went wrong
    """A photo cannot be used because of a permanent property of its bytes.

    Attributes:
        reason: one of `REASONS`.
        detail: what was found, for people; one line, equal for equal bytes.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """`reason` must be one of `REASONS`; line breaks in `detail` become spaces."""
        self.reason = reason
        self.detail = " ".join(detail.split())[:200]
        REASONS[reason]  # an unknown code is a bug
        super().__init__(reason, self.detail)

    def __str__(self) -> str:
        """Reason and detail."""
        return f"{self.reason}: {self.detail}"
