"""What the pixels of a photo should be, by plain arithmetic in double precision, and PNG files of any kind.

Nothing here is taken from the code under test: light, primaries and transparency are worked out by hand.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from tests.support.photos import SRGB_COLUMNS, png_chunk

D65 = (0.3127, 0.3290)
BT709 = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
ADOBE = (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)
P3 = (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)
BT2020 = (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)
PROPHOTO_COLUMNS = (0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.00009), (0.03134, 0.00009, 0.82521)


def light_of_srgb(values):
    """Linear light of sRGB values, both 0..1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_of_light(light):
    """sRGB values of linear light, both 0..1; what lies outside is clipped."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light_of_bt709(values):
    """Linear light of the values of a camera for television."""
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def power(gamma):
    return lambda values: values**gamma


def columns(primaries, white=D65):
    """XYZ (D65) of red, green and blue from their chromaticities, one a row."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries])
    x, y = white
    return np.linalg.solve(xyz.T, [x / y, 1, (1 - x - y) / y])[:, None] * xyz


class Space(NamedTuple):
    """A meaning of red, green and blue: the curve, and the matrix from its light to that of sRGB."""

    curve: object = light_of_srgb
    matrix: object = None

    def srgb(self, values):
        """Values of this space (H, W, 1 or 3) in sRGB; 0..1."""
        light = self.curve(values)
        return srgb_of_light(light if self.matrix is None or values.shape[2] == 1 else light @ self.matrix)


def by_primaries(primaries, curve=light_of_srgb):
    """A space that names chromaticities, whose white is that of sRGB."""
    return Space(curve, columns(primaries) @ np.linalg.inv(columns(BT709)))


def by_columns(of, gamma):
    """The space of a profile: XYZ (D50) of its primaries, and the power that its 8.8 bits can hold."""
    return Space(power(round(gamma * 256) / 256), np.array(of) @ np.linalg.inv(np.array(SRGB_COLUMNS)))


def over_white(colour, alpha=None, space=None):
    """The picture in grey levels: colour (H, W, 1 or 3) in sRGB, then over white; 0..255, (H, W, 3)."""
    if space is not None:
        colour = space.srgb(colour)
    if alpha is not None:
        colour = colour * alpha + 1 - alpha
    return np.rint(np.broadcast_to(colour, (*colour.shape[:2], 3)) * 255)


def _packed(values, bits):
    """The rows of a picture, each after its filter byte."""
    height = len(values)
    if bits == 16:
        rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    elif bits == 8:
        rows = values.astype(np.uint8).reshape(height, -1)
    else:
        lit = (values.reshape(height, -1)[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(lit.reshape(height, -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


_ADAM7 = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)


def any_png(values, bits, colour, *chunks, interlaced=False):
    """A PNG of values (H, W, channels), with these chunks, each a name and a body, before its pixels."""
    height, width = values.shape[:2]
    parts = [values[top::down, left::right] for top, left, down, right in _ADAM7] if interlaced else [values]
    data = zlib.compress(b"".join(_packed(part, bits) for part in parts if part.size))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    found = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in found)


def profile_chunk(profile):
    return b"iCCP", b"profile\0\0" + zlib.compress(profile)


def gamma_chunk(value):
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def primaries_chunk(primaries, white=D65):
    return b"cHRM", struct.pack(">8I", *(round(v * 100_000) for xy in (white, *primaries) for v in xy))
