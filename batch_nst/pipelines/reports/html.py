"""Parts of every page: templates, pictures as data URIs, and numbers for people.

Nothing that is shown is trusted: names and reasons come from other people's buckets, and templates escape
them all.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from numbers import Integral, Real
from typing import Final

import yaml
from jinja2 import ChainableUndefined, Environment, PackageLoader
from PIL import Image

from batch_nst.data.images.contact_sheet import picture
from batch_nst.figures import as_json


def data_uri(data: bytes, side: int) -> str:
    """A picture as a data URI (WebP), scaled down to at most `side` pixels per side."""
    image = picture(data)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"


_UNITS: Final = {3: "k", 6: "M", 9: "G", 12: "T"}


def number(value: object) -> str:
    """Three digits and a unit, such as 1.23 M; – if it is not finite."""
    if not isinstance(value, Real) or not math.isfinite(value):
        return "–"
    mantissa, exponent = f"{float(value):.2e}".split("e")  # rounded before the unit is chosen
    power = int(exponent) // 3 * 3
    if power not in _UNITS:
        return f"{float(value):.3g}"
    return f"{float(mantissa) * 10 ** (int(exponent) - power):.3g}\u202f{_UNITS[power]}"


def count(value: object) -> str:
    """A whole number with all digits, in groups of three."""
    return f"{int(value):,}".replace(",", "\u202f") if isinstance(value, Integral) else number(value)


def exact(value: float) -> str:
    """A number with four digits, or all digits before the point, so that close values stay distinct."""
    return count(round(value)) if math.isfinite(value) and abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: object) -> str:
    """Seconds as 0.05 s, 7.1 s, 12 min 5 s or 3 h 2 min."""
    if not isinstance(seconds, Real) or not math.isfinite(seconds) or seconds < 60:
        return f"{number(seconds)}\u202fs"
    minutes, rest = divmod(round(float(seconds)), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{count(minutes // 60)}\u202fh {minutes % 60}\u202fmin"


def plain(value: object, key: str = "") -> str:
    """Any value of a run's summary in one line; seconds if `key` ends in `seconds`."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {plain(each, str(name))}" for name, each in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(plain(each, key) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, Real):
        return duration(value) if value is not None and key.endswith("seconds") else count(value)
    return str(value)


def digest(script: str) -> str:
    """What a page's policy names a script of its own by."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def settings(values: object) -> str:
    """Settings as YAML; `values` is anything that `as_json` takes."""
    return yaml.safe_dump(as_json(values), sort_keys=False, allow_unicode=True)


ENVIRONMENT: Final = Environment(
    loader=PackageLoader("batch_nst", "pipelines/reports/templates"),
    autoescape=True,
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "number": number,
    "count": count,
    "exact": exact,
    "duration": duration,
    "plain": plain,
    "digest": digest,
    "settings": settings,
}
