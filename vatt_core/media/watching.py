"""What the picture tells without any weights, at its full frame rate: where it cuts, when something in it moves abruptly.

Also keeps a few pictures for previews, so that the clip need not be held in memory. Read in pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

from vatt_core.media.frames import read_frames
from vatt_core.media.guarded import guardable
from vatt_core.media.opening import PathLike
from vatt_core.media.time_map import TimeMap

FASTEST = Fraction(60)
"""Pictures per second that are looked at, at most."""

SHORTEST_SHOT = Fraction(1)
"""Seconds. A shot that is shorter belongs to the one before it."""

STRIP = 64
"""Pictures kept for previews."""

CURVE_RATE = 100
"""Values per second of a motion curve."""

_SIDE = 72  # pixels of the shorter side
_BLOCKS = 8  # the picture is looked at in 8 x 8 blocks
_STRONGEST = 8  # of which so many count
_PIECE = Fraction(10)  # seconds read at once
_FLASH = 0.8  # seconds within which the picture before a flash comes back
_ALIKE = 0.9  # correlation of two pictures that count as the same
_SMOOTHED = 0.03  # seconds
_SURROUNDINGS = 0.6  # seconds around a picture whose median is usual
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Watched:
    """rate: pictures per second that were looked at. motion: [N], how abruptly something moves at each of them. cuts:
    seconds of the first picture of each further shot. strip, strip_times: uint8 [M, H, W, 3], pictures and their seconds.
    """

    rate: Fraction
    motion: NDArray[np.float32]
    cuts: tuple[Fraction, ...]
    strip: NDArray[np.uint8]
    strip_times: tuple[Fraction, ...]


@guardable
def watch(
    path: PathLike,
    time_map: TimeMap,
    *,
    rate: Fraction,
    cancelled: Callable[[], bool] | None = None,
) -> Watched:
    """Look at every picture of a range. rate: of the clip; a faster one than 60 per second is looked at in steps.

    Raises what `read_frames` raises.
    """
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    while rate > FASTEST:
        rate /= 2
    count = -int(-time_map.duration * rate // 1)
    piece = max(1, int(_PIECE * rate))
    detector = AdaptiveDetector(min_scene_len=1)
    found: list[int] = []
    kept = sorted({round(k) for k in (np.arange(min(STRIP, count)) + 0.5) * count / min(STRIP, count) - 0.5})
    strip: list[NDArray[np.uint8]] = []
    motion: list[NDArray[np.float32]] = []
    tiny: list[NDArray[np.uint8]] = []
    last = np.zeros((0, 0, 0), np.float32)
    for first in range(0, count, piece):
        stop = min(count, first + piece)
        end = min(Fraction(stop) / rate, time_map.duration)
        part = time_map.slice(Fraction(first) / rate, end)
        frames = read_frames(path, part, rate=rate, shortest_side=_SIDE, cancelled=cancelled)[: stop - first]
        for number, frame in enumerate(frames, first):
            found += [cut.frame_num for cut in detector.process_frame(FrameTimecode(number, float(rate)), frame)]
        strip += [frames[k - first].copy() for k in kept if first <= k < stop]
        grey = frames.astype(np.float32) @ _GREY
        tiny.append(_blocks(grey).astype(np.uint8))
        grey = np.concatenate([last, grey]) if len(last) else np.concatenate([grey[:1], grey])
        motion.append(_abruptness(grey))
        last = grey[-2:]
    found += [cut.frame_num for cut in detector.post_process(FrameTimecode(count, float(rate)))]
    # The change at the last picture is not known: it has no successor.
    whole = np.concatenate([*motion, np.zeros(1, np.float32)])[:count]
    seen = np.concatenate(tiny)
    real = [k for k in sorted(set(found)) if 0 < k < count and not _comes_back(seen, k, round(_FLASH * rate))]
    for cut in real:
        whole[max(0, cut - 1) : cut + 2] = 0
    cuts = _far_apart([k / rate for k in real], time_map.duration)
    return Watched(rate, whole, cuts, np.stack(strip), tuple(k / rate for k in kept))


def _abruptness(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N + 2, H, W] -> [N]: second difference over time, the mean of the blocks where it is strongest."""
    change = np.abs(grey[2:] - 2 * grey[1:-1] + grey[:-2])
    return np.sort(_blocks(change), axis=1)[:, -_STRONGEST:].mean(1).astype(np.float32)


def _blocks(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, H, W] -> the means of the blocks, [N, _BLOCKS ** 2]."""
    height, width = (side // _BLOCKS * _BLOCKS for side in pictures.shape[1:])
    cut = pictures[:, :height, :width]
    blocks = cut.reshape(len(cut), _BLOCKS, height // _BLOCKS, _BLOCKS, width // _BLOCKS)
    return np.asarray(blocks.mean((2, 4)).reshape(len(cut), _BLOCKS**2), np.float32)


def _comes_back(tiny: NDArray[np.uint8], cut: int, pictures: int) -> bool:
    """Whether what was seen before a change is soon seen again: then it was a flash, not a cut."""
    before, after = (_evened(part) for part in (tiny[cut - 1 : cut], tiny[cut + 1 : cut + 1 + pictures]))
    return bool(len(after)) and float((after @ before[0]).max()) > _ALIKE


def _evened(tiny: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Without brightness and contrast, of length 1."""
    values = tiny - tiny.mean(1, keepdims=True, dtype=np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6), np.float64)


def _far_apart(cuts: list[Fraction], duration: Fraction) -> tuple[Fraction, ...]:
    kept: list[Fraction] = []
    for cut in cuts:
        if cut - (kept[-1] if kept else 0) >= SHORTEST_SHOT and duration - cut >= SHORTEST_SHOT:
            kept.append(cut)
    return tuple(kept)


def motion_curve(watched: Watched, duration: float) -> NDArray[np.float64]:
    """How much the picture suggests an onset, CURVE_RATE values per second: [ceil(duration * CURVE_RATE)].

    A change is seen at the first picture after it, half a picture late on the average; that is taken back.
    """
    level = np.log1p(watched.motion.astype(np.float64))
    around = 2 * max(1, round(_SURROUNDINGS / 2 * float(watched.rate))) + 1
    novelty = np.maximum(level - median_filter(level, around, mode="nearest"), 0)
    times = (np.arange(len(novelty)) - 0.5) / float(watched.rate)
    return smooth_curve(times.astype(np.float64), novelty, duration)


def smooth_curve(times: NDArray[np.float64], values: NDArray[np.float64], duration: float) -> NDArray[np.float64]:
    """Values at `times` seconds as a smoothed curve of CURVE_RATE values per second."""
    grid = np.arange(max(1, int(np.ceil(duration * CURVE_RATE)))) / CURVE_RATE
    if not len(values):
        return np.zeros(len(grid))
    return np.asarray(gaussian_filter1d(np.interp(grid, times, values), _SMOOTHED * CURVE_RATE), np.float64)
