"""What the numbers of a picture mean: curves, primaries, and their way into sRGB.

A `Space` is made from what a file says: an ICC profile of curves and primaries, the chunks gAMA, cHRM and
cICP of a PNG, or a camera's word that it is Adobe RGB. It is needed where Pillow's `ImageCms` is of no use:
for 16 bits, and for what is no profile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from batch_nst.data.images.reasons import BadImage

_Array: TypeAlias = npt.NDArray[np.float64]
_Curve: TypeAlias = Callable[[_Array], _Array]

_STEPS: Final = np.linspace(0, 1, 65536)


@dataclass(frozen=True)
class Space:
    """The meaning of grey or of red, green and blue."""

    light: tuple[npt.NDArray[np.float32], ...]
    """Linear light, 0..1, of each 16-bit value: one curve for each channel."""
    matrix: npt.NDArray[np.float32] | None = None
    """From a row of linear light to linear sRGB; None for grey and where primaries are those of sRGB."""

    def to_srgb(self, deep: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        """Grey levels of sRGB, 0..255, not rounded, of values (..., channels) of 16 bits.

        Grey in a space of colours is grey there: its channels are taken as equal.
        """
        channels = deep.shape[-1]
        if channels == 1 and len(self.light) == 3 and self.matrix is not None:
            deep = np.repeat(deep, 3, axis=-1)
        light = np.stack([self.light[i][deep[..., i]] for i in range(deep.shape[-1])], axis=-1)
        if self.matrix is not None:
            light = light @ self.matrix
        return _levels()[np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)]

    @property
    def is_srgb(self) -> bool:
        """Whether colours are those of sRGB, to a quarter of a grey level."""
        colours = probe(len(self.light))
        return bool((np.abs(self.to_srgb(colours * np.uint16(257)) - colours) <= 0.25).all())


@cache
def probe(channels: int) -> npt.NDArray[np.uint8]:
    """Colours to try a conversion with, (n, channels): all greys, and for more channels from everywhere."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
    scattered = np.arange(1024)[:, None] * np.sqrt((2, 3, 5, 7))[:channels] % 1 * 256
    return greys if channels == 1 else np.concatenate([greys, scattered.astype(np.uint8)])


def _srgb_light(values: _Array) -> _Array:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _bt709_light(values: _Array) -> _Array:
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


@cache
def _levels() -> npt.NDArray[np.float32]:
    """Grey level of sRGB of each 65535th of linear light: at its steepest 0.05 apart."""
    levels = np.where(_STEPS <= 0.0031308, 12.92 * _STEPS, 1.055 * _STEPS ** (1 / 2.4) - 0.055)
    return (255 * levels).astype(np.float32)


def _space(curves: tuple[_Curve, ...], matrix: _Array | None) -> Space | None:
    """The space; None where it is sRGB, so that its pixels stay what they are."""
    tables = {curve: curve(_STEPS).astype(np.float32) for curve in set(curves)}
    light = tuple(tables[curve] for curve in curves)
    space = Space(light, None if matrix is None else matrix.astype(np.float32))
    return None if space.is_srgb else space


# What a PNG says -----------------------------------------------------------------------------------------

_XY: TypeAlias = tuple[float, ...]
_BT709: Final = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""x and y of white, red, green and blue."""
_PRIMARIES: Final[dict[int, _XY]] = {
    1: _BT709,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_TRANSFERS: Final[dict[int, _Curve]] = {
    **dict.fromkeys((1, 6, 14, 15), _bt709_light),
    4: lambda values: values**2.2,
    5: lambda values: values**2.8,
    8: lambda values: values,
    13: _srgb_light,
}
"""Curves of H.273; those of high dynamic range have no place in sRGB."""
_UNKNOWN: Final = 2
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def described(info: Mapping[Any, object], cicp: bytes | None) -> Space | None:
    """The space that the chunks of a PNG name; None for sRGB, which is what a file without them has.

    Args:
        info: what Pillow has read: `srgb`, `gamma` and `chromaticity`. A profile comes before these.
        cicp: the body of the chunk cICP, which comes before all others.

    Raises:
        BadImage: colours that sRGB cannot hold.
    """
    if cicp is not None and len(cicp) >= 4 and _UNKNOWN not in cicp[:2]:
        primaries, transfer, planes, full = cicp[:4]
        if primaries not in _PRIMARIES or transfer not in _TRANSFERS or planes or full != 1:
            raise BadImage("unsupported_colours", f"PNG of cICP {primaries}/{transfer}/{planes}/{full}")
        return _space((_TRANSFERS[transfer],) * 3, _from_chromaticities(_PRIMARIES[primaries]))
    if "srgb" in info:
        return None
    gamma, chromaticities = info.get("gamma"), info.get("chromaticity")
    matrix = _from_chromaticities(chromaticities) if isinstance(chromaticities, tuple) else None
    curve: _Curve = _srgb_light
    if isinstance(gamma, float) and gamma > 0:
        # 1/2.2 is how files say sRGB that can say no more, to 5 % as libpng has it. With other primaries it
        # is what it says.
        own = matrix is not None and not np.allclose(matrix, np.eye(3), atol=0.01)
        if own or not 0.95 < gamma * 2.2 < 1.05:
            curve = _power(1 / gamma)
    return None if curve is _srgb_light and matrix is None else _space((curve,) * 3, matrix)


def of_camera(exif: Image.Exif) -> Space | None:
    """Adobe RGB where a camera says so, which embeds no profile (Exif 2.32, DCF 2.0); else None, for sRGB."""
    space, kind = (exif.get_ifd(ifd).get(tag) for ifd, tag in ((0x8769, 0xA001), (0xA005, 1)))
    return _adobe_rgb() if space == 2 or (space == 0xFFFF and kind == "R03") else None


@cache
def _adobe_rgb() -> Space | None:
    """Adobe RGB (1998), version 2005-05, sections 4.3.1 and 4.3.4."""
    corners = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    return _space((_power(563 / 256),) * 3, _from_chromaticities(corners))


def _power(exponent: float) -> _Curve:
    return lambda values: values**exponent


def _from_chromaticities(xy: _XY) -> _Array | None:
    """From a row of linear light to linear sRGB, its white to ours; None where the numbers mean nothing."""
    try:
        theirs, ours = _adapted(xy), _adapted(_BT709)
        matrix = theirs @ np.linalg.inv(ours)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        return None
    return matrix if np.isfinite(matrix).all() and np.abs(matrix).max() < 100 else None


def _adapted(xy: _XY) -> _Array:
    """XYZ of red, green and blue, one a row, as they are seen beside a white of equal cones (Bradford)."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in zip(xy[::2], xy[1::2], strict=True)])
    white, primaries = xyz[0], xyz[1:]
    rows = np.linalg.solve(primaries.T, white)[:, None] * primaries
    adapted: _Array = rows @ _BRADFORD.T / (_BRADFORD @ white)
    return adapted


# What a profile says -------------------------------------------------------------------------------------

# XYZ (D50) of the primaries of sRGB, as in lcms.
_SRGB_D50: Final = np.array(
    [[0.43604, 0.22248, 0.01392], [0.38511, 0.71691, 0.09707], [0.14305, 0.06061, 0.71391]]
)


def of_profile(profile: bytes) -> Space | None:
    """The space of an ICC profile of curves and primaries, or of a curve for grey; None for sRGB.

    Raises:
        BadImage: it cannot be applied to 16 bits here.
        ValueError, struct.error: it is broken.
    """
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = dict[bytes, bytes]()
    for at in range(132, 132 + 12 * min(count, 100), 12):
        name, start, length = struct.unpack_from(">4sII", profile, at)
        tags[name] = profile[start : start + length]
    grey = profile[16:20] == b"GRAY"
    names = (b"kTRC",) if grey else (b"rTRC", b"gTRC", b"bTRC", b"rXYZ", b"gXYZ", b"bXYZ")
    if b"A2B0" in tags or profile[20:24] != b"XYZ " or not set(names) <= set(tags):
        raise BadImage("unsupported_colours", "16 bits and a profile of tables")
    curves = tuple(_curve(tags[name]) for name in names[:3])
    if max(curve(_STEPS[:1])[0] for curve in curves) > 0.0001:  # lcms makes it black, by what it sees fit
        raise BadImage("unsupported_colours", "16 bits and a profile whose black is not black")
    if grey:
        return _space(curves, None)
    columns = np.array([struct.unpack_from(">3i", tags[name], 8) for name in names[3:]]) / 65536
    return _space(curves, columns @ np.linalg.inv(_SRGB_D50))


_PARAMETERS: Final = (1, 3, 4, 5, 7)
"""How many parameters each kind of parametric curve has."""


def _curve(tag: bytes) -> _Curve:
    """A curve of a profile: a power, a table or parameters."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return lambda values: values
        table = np.frombuffer(tag, ">u2", count, 12).astype(float)
        if count == 1:
            return _power(table[0] / 256)
        return lambda values: np.interp(values, np.linspace(0, 1, count), table / 65535)
    (kind,) = struct.unpack_from(">H", tag, 8)
    if tag[:4] != b"para" or kind >= len(_PARAMETERS):
        raise ValueError("an unknown curve")
    given = [value / 65536 for value in struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)]
    given += [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0][len(given) :]
    g, a, b, c, d, e, f = given
    if kind in (1, 2):  # the lower part is the constant c; it ends where the upper part is 0
        e, f, c, d = (c, c, 0.0, -b / a) if kind == 2 else (0.0, 0.0, 0.0, -b / a)

    def evaluate(values: _Array) -> _Array:
        curved = np.maximum(a * values + b, 0) ** g + e
        light: _Array = np.clip(np.where(values >= d, curved, c * values + f), 0, 1)
        return light

    return evaluate
