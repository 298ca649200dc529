"""What stands behind the things: five sorts of low saturation, drawn once per shot."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vatt_core.world.pen import Colour, colour_of
from vatt_core.world.scene import Shot

MARGIN = 0.4
"""How much larger than the picture the backdrop is on each side, in half heights: room for the camera."""


def backdrop(shot: Shot, *, aspect: float, unit: float) -> Image.Image:
    """RGB picture of x ± (aspect + MARGIN), y ± (1 + MARGIN) half heights at `unit` pixels per half height.

    Raises KeyError for a sort of backdrop that does not exist. Behind fireworks it is evening.
    """
    evening = 0.45 if any(source.kind == "fireworks" for source in shot.sources) else 1.0
    first, second = (colour_of(hue, saturation, value * evening) for hue, saturation, value in shot.background_colours)
    half_width, half_height = aspect + MARGIN, 1 + MARGIN
    width, height = round(2 * half_width * unit), round(2 * half_height * unit)
    x = (np.arange(width) + 0.5)[None, :] / unit - half_width
    y = (np.arange(height) + 0.5)[:, None] / unit - half_height
    share = _SORTS[shot.background](x, y, shot)
    return _blend(first, second, np.broadcast_to(share, (height, width)))


def _blend(first: Colour, second: Colour, share: np.ndarray) -> Image.Image:
    low, high = np.asarray(first, np.int64), np.asarray(second, np.int64)
    # Whole numbers, so that every machine rounds alike.
    weight = np.round(share * 256).astype(np.int64)[..., None]
    return Image.fromarray(((low * (256 - weight) + high * weight + 128) >> 8).astype(np.uint8), "RGB")


def _plain(x: np.ndarray, y: np.ndarray, shot: Shot) -> np.ndarray:
    return np.where(y > 0.78, 1.0, 0.0)


def _gradient(x: np.ndarray, y: np.ndarray, shot: Shot) -> np.ndarray:
    return np.clip((y + 1.4) / 2.8, 0, 1)


def _checker(x: np.ndarray, y: np.ndarray, shot: Shot) -> np.ndarray:
    return ((np.floor(x / 0.5) + np.floor(y / 0.5)) % 2) * 0.7


def _stripes(x: np.ndarray, y: np.ndarray, shot: Shot) -> np.ndarray:
    return np.where((x + 0.5 * y) % 0.6 < 0.3, 0.0, 0.7)


def _clouds(x: np.ndarray, y: np.ndarray, shot: Shot) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(shot.sources[0].seed ^ 0x5F5F))
    coarse = rng.integers(0, 256, (7, 7), dtype=np.uint8)
    # Pillow's resampling works in whole numbers: the same on every machine.
    smooth = Image.fromarray(coarse, "L").resize((x.shape[1], y.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float64) / 255


_SORTS = {"plain": _plain, "gradient": _gradient, "checker": _checker, "stripes": _stripes, "clouds": _clouds}
