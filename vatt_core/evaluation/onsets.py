"""When something begins to sound: a spectral-flux detector, matching against true times, and its figures.

NumPy and SciPy only. The detector's numbers were chosen on clips of the training split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d

from vatt_core.errors import BadRequest

Times = NDArray[np.float64]

HOP_SECONDS = 0.005
WINDOW_SECONDS = 0.032
BANDS = 48
BLOCK = 512
"""Windows whose spectra are computed at once."""


@dataclass(frozen=True)
class OnsetOptions:
    """What counts as an onset.

    floor_db: what lies this far below the clip's loud parts is not looked at, nor what is below quietest_db (re full
    scale). lag: seconds over which a rise is measured. bands: so many bands with the largest rises count.
    rise_db: their mean rise that makes an onset, above the median of the rises around it. above_spread: the same in
    mean deviations of those. surroundings: seconds to either side that the two look at. apart: shortest time between
    two onsets, seconds. shift: added to every time, seconds.
    """

    floor_db: float = 50.0
    quietest_db: float = -75.0
    lag: float = 0.02
    bands: int = 6
    rise_db: float = 10.0
    above_spread: float = 3.0
    surroundings: float = 0.3
    apart: float = 0.1
    shift: float = -0.003


def detect_onsets(wave: ArrayLike, sample_rate: int, options: OnsetOptions | None = None) -> Times:
    """Onset times of a mono wave [samples], ascending, seconds (float64).

    Nothing is found in the first 40 ms. Raises BadRequest for a wave that is not mono or not finite.
    """
    options = options or OnsetOptions()
    strength = onset_strength(wave, sample_rate, options)
    if len(strength) == 0:
        return np.zeros(0)
    hop = HOP_SECONDS
    around = 2 * round(options.surroundings / hop) + 1
    middle = median_filter(strength, around, mode="nearest")
    spread = uniform_filter1d(np.abs(strength - middle), around, mode="nearest")
    peak = maximum_filter1d(strength, 2 * round(options.apart / 2 / hop) + 1, mode="nearest")
    is_onset = (strength == peak) & (strength > middle + np.maximum(options.rise_db, options.above_spread * spread))
    frames = np.flatnonzero(is_onset)
    kept: list[int] = []
    for frame in frames:
        if kept and (frame - kept[-1]) * hop < options.apart:
            continue
        kept.append(int(frame))
    return np.maximum(np.array(kept, dtype=np.float64) * hop + options.shift, 0.0)


def onset_strength(wave: ArrayLike, sample_rate: int, options: OnsetOptions) -> NDArray[np.float64]:
    """Mean rise of the bands that rise most, in dB, one value per 5 ms [frames]."""
    level = _band_levels(wave, sample_rate)
    if len(level) == 0:
        return np.zeros(0)
    loud = np.percentile(level.max(axis=1), 98)
    level = np.maximum(level, max(loud - options.floor_db, options.quietest_db))
    lag = max(1, round(options.lag / HOP_SECONDS))
    # a rise is what exceeds the earlier level of the same or a neighbouring band, so that glides are no onsets
    before = maximum_filter1d(level, 3, axis=1)
    rise = np.zeros(len(level))
    per_band = np.partition(np.maximum(level[lag:] - before[:-lag], 0), BANDS - options.bands, axis=1)
    rise[lag:] = per_band[:, BANDS - options.bands :].mean(axis=1)
    # where the earlier window still reached before the first sample, a beginning cannot be told from what was there
    rise[: lag + round(WINDOW_SECONDS / 2 / HOP_SECONDS) + 1] = 0
    return rise


def _band_levels(wave: ArrayLike, sample_rate: int) -> NDArray[np.float64]:
    """Mel band levels [frames, bands] in dB re a full-scale sine; frame k is centred on k * 5 ms."""
    signal = np.asarray(wave, dtype=np.float64)
    if signal.ndim != 1:
        raise BadRequest(f"onsets need a mono wave; got an array of shape {signal.shape}")
    if len(signal) == 0:
        return np.zeros((0, BANDS))
    if not np.isfinite(signal).all():
        raise BadRequest("the wave holds NaN or infinite samples")
    size = round(WINDOW_SECONDS * sample_rate)
    padded = np.pad(signal, (size // 2, size), mode="symmetric" if len(signal) > size else "edge")
    starts = np.round(np.arange(0, len(signal) / sample_rate, HOP_SECONDS) * sample_rate).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)
    window = np.hanning(size + 1)[:-1]
    scale, bands = window.sum() / 2, _mel(sample_rate, size).T
    # Block by block, so that the spectra of a long wave are not all held at once.
    power = [
        np.abs(np.fft.rfft(frames[starts[first : first + BLOCK]] * window, axis=1) / scale) ** 2 @ bands
        for first in range(0, len(starts), BLOCK)
    ]
    return 10 * np.log10(np.concatenate(power) + 1e-12)


@lru_cache(maxsize=8)
def _mel(sample_rate: int, size: int) -> NDArray[np.float64]:
    """Triangles [bands, size // 2 + 1], evenly spaced in mel from 60 Hz to 7600 Hz or the Nyquist frequency."""
    top = min(7600.0, sample_rate / 2)
    edges = 700 * (np.exp(np.linspace(np.log1p(60 / 700), np.log1p(top / 700), BANDS + 2)) - 1)
    # no triangle narrower than the resolution of the window
    edges = np.maximum.accumulate(edges)
    frequencies = np.arange(size // 2 + 1) * sample_rate / size
    width = sample_rate / size
    low = np.minimum(edges[:-2], edges[1:-1] - width)[:, None]
    high = np.maximum(edges[2:], edges[1:-1] + width)[:, None]
    middle = edges[1:-1, None]
    up = (frequencies - low) / (middle - low)
    down = (high - frequencies) / (high - middle)
    return np.clip(np.minimum(up, down), 0, 1)


def match_onsets(found: ArrayLike, true: ArrayLike, tolerance: float = 0.1) -> tuple[int, int, int]:
    """How many onsets match one to one within `tolerance` seconds, as (hits, found, true).

    The matching is a largest possible one: with equal tolerances, going through both lists in order finds it.
    """
    ours = np.sort(np.asarray(found, dtype=np.float64))
    theirs = np.sort(np.asarray(true, dtype=np.float64))
    hits = i = j = 0
    while i < len(ours) and j < len(theirs):
        # 1 ns of grace, so that decimal times exactly at the tolerance match on every machine
        if abs(ours[i] - theirs[j]) <= tolerance + 1e-9:
            hits, i, j = hits + 1, i + 1, j + 1
        elif ours[i] < theirs[j]:
            i += 1
        else:
            j += 1
    return hits, len(ours), len(theirs)


def f1(counts: Iterable[tuple[int, int, int]]) -> float:
    """F1 over a whole set: the (hits, found, true) of all its clips added up; 1.0 where nothing was nor was found."""
    hits = found = true = 0
    for clip_hits, clip_found, clip_true in counts:
        hits, found, true = hits + clip_hits, found + clip_found, true + clip_true
    return 1.0 if found + true == 0 else 2 * hits / (found + true)


def event_levels(wave: ArrayLike, times: ArrayLike, sample_rate: int, *, seconds: float = 0.15) -> NDArray[np.float64]:
    """Level (dB re full scale, RMS) of the loudest 20 ms within `seconds` after each time, [times].

    Sound up to 20 ms early still counts, so that a generated strike a little before its time is measured too.
    """
    signal = np.asarray(wave, dtype=np.float64)
    short = max(1, round(0.02 * sample_rate))
    energy = uniform_filter1d(signal**2, short, mode="constant")
    levels = []
    for time in np.asarray(times, dtype=np.float64):
        first = max(0, round((time - 0.02) * sample_rate))
        part = energy[first : max(first + 1, round((time + seconds) * sample_rate))]
        levels.append(10 * np.log10(max(float(part.max()) if len(part) else 0.0, 0.0) + 1e-12))
    return np.array(levels)
