"""How good a take is, told without ears: does it sound when something moves, is it likely, is it loud, is it silent?

Scores of a take: `agreement`, correlation (-1…1) of what begins to sound with what moves abruptly in the picture;
`likelihood`, the model's mean log-likelihood per code; `silence`, the share of the time that is quieter than -60 dBFS
before the level is set; `peak`, the true peak in dBTP; `caption`, agreement with the words (-1…1) where a CLAP model is
installed; `nudge`, seconds by which the take was shifted. None: not known. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vatt_core.evaluation.onsets import HOP_SECONDS, OnsetOptions, detect_onsets, onset_strength
from vatt_core.media.spool import Sound, pieces
from vatt_core.media.watching import CURVE_RATE, smooth_curve

Curve = NDArray[np.float64]
Scores = dict[str, float | None]

FURTHEST_NUDGE = 0.5
"""Seconds by which a take is shifted at most."""

_PIECE_SECONDS = 10
_AROUND_SECONDS = 1
_SILENT = 10 ** (-60 / 20)
_SILENCE_BLOCK = 0.05  # seconds
_WEIGHTS = {"agreement": 1.0, "caption": 0.5, "likelihood": 0.05, "silence": -0.5}


def heard_onsets(sound: Sound) -> tuple[float, ...]:
    """Seconds at which something begins to sound; a long sound is heard in pieces."""
    rate = sound.sample_rate
    found: list[float] = []
    for start, stop in pieces(sound.samples, _PIECE_SECONDS * rate):
        first, last = max(0, start - _AROUND_SECONDS * rate), min(sound.samples, stop + _AROUND_SECONDS * rate)
        times = detect_onsets(sound.read(first, last), rate) + first / rate
        found += times[(times >= start / rate) & (times < stop / rate)].tolist()
    return tuple(found)


def sound_curve(sound: Sound) -> Curve:
    """How much begins to sound, on the grid of `motion_curve`."""
    rate = sound.sample_rate
    strengths: list[NDArray[np.float64]] = []
    for start, stop in pieces(sound.samples, _PIECE_SECONDS * rate):
        first, last = max(0, start - _AROUND_SECONDS * rate), min(sound.samples, stop + _AROUND_SECONDS * rate)
        strength = onset_strength(sound.read(first, last), rate, OnsetOptions())
        begin = round((start - first) / rate / HOP_SECONDS)
        strengths.append(strength[begin : begin + round((stop - start) / rate / HOP_SECONDS)])
    whole = np.concatenate([np.zeros(0), *strengths])
    return smooth_curve(np.arange(len(whole), dtype=np.float64) * HOP_SECONDS, whole, sound.samples / rate)


def agreement(sound: Curve, motion: Curve) -> float | None:
    """Correlation of two curves; None where one of them has nothing to tell."""
    length = min(len(sound), len(motion))
    first, second = (curve[:length] - curve[:length].mean() for curve in (sound, motion))
    power = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / power if power > 1e-9 else None


def best_shift(sound: Curve, motion: Curve, *, furthest: float = FURTHEST_NUDGE) -> float:
    """Seconds by which the sound should come later to agree best with the motion; 0 where nothing can be told.

    Both are padded, so that what leaves at one end does not come back at the other.
    """
    length = min(len(sound), len(motion))
    most = min(round(furthest * CURVE_RATE), length // 2)
    if most < 1 or agreement(sound, motion) is None:
        return 0.0
    first, second = sound[:length] - sound[:length].mean(), motion[:length] - motion[:length].mean()
    padded = np.pad(first, most)
    # Entry k: the sound later by most - k values.
    values = np.array([padded[k : k + length] @ second for k in range(2 * most + 1)])
    return float(most - int(values.argmax())) / CURVE_RATE


def silent_share(sound: Sound) -> float:
    """The share of the time that is quieter than -60 dBFS (RMS of 50 ms)."""
    block = max(1, round(_SILENCE_BLOCK * sound.sample_rate))
    silent = total = 0
    for start, stop in pieces(sound.samples, block * round(_PIECE_SECONDS / _SILENCE_BLOCK)):
        wave = sound.read(start, stop).astype(np.float64)
        blocks = [wave[i : i + block] for i in range(0, len(wave), block)]
        total += len(blocks)
        silent += sum(float((part**2).mean()) < _SILENT**2 for part in blocks)
    return silent / max(1, total)


def ranking(scores: Sequence[Scores]) -> list[int]:
    """The takes' numbers, best first. What is unknown of one take counts for none."""

    def whole(take: Scores) -> float:
        total = 0.0
        for name, weight in _WEIGHTS.items():
            values = [other.get(name) for other in scores]
            if all(value is not None for value in values):
                total += weight * float(take[name] or 0.0)
        return total

    return sorted(range(len(scores)), key=lambda number: -whole(scores[number]))
