"""Figures of waves: distance, level, onsets, force. All waves are mono [samples]."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from vatt_core.errors import BadRequest
from vatt_core.evaluation.onsets import event_levels, f1, match_onsets
from vatt_core.training.spectra import MultiScaleMel
from vatt_core.world.kinds import KINDS
from vatt_core.world.scene import Scene

Wave = NDArray[np.float32]

TOLERANCE = 0.1
"""How far a found onset may lie from the true event, seconds."""

FORCE_EVENTS = 4
"""A rank correlation of fewer events says nothing."""


@dataclass(frozen=True)
class Score:
    """A figure over a set. count: clips or things that it is over; value is NaN when that is 0. parts: the same figure
    of parts of the set (kinds, attributes, directions)."""

    value: float
    count: int
    parts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def mean(cls, values: Iterable[tuple[str, float]]) -> Score:
        """The mean of (part, value) pairs."""
        by_part: dict[str, list[float]] = {}
        for part, value in values:
            by_part.setdefault(part, []).append(float(value))
        everything = [value for part in by_part.values() for value in part]
        if not everything:
            return cls(float("nan"), 0)
        parts = {part: float(np.mean(some)) for part, some in sorted(by_part.items())}
        return cls(float(np.mean(everything)), len(everything), parts)


@lru_cache(maxsize=4)
def _distance(sample_rate: int) -> MultiScaleMel:
    return MultiScaleMel(sample_rate=sample_rate)


@torch.inference_mode()
def log_mel_distance(wave: ArrayLike, target: ArrayLike, sample_rate: int) -> float:
    """Multi-scale log-mel distance: the mean over windows of 64, 128 … 2048 samples (hop: a quarter) of the mean
    |ln mel - ln mel of the target|, mel magnitudes (1 is a full-scale sine) clamped at 1e-5.

    Raises BadRequest for waves of different lengths.
    """
    mine, theirs = np.asarray(wave, np.float32), np.asarray(target, np.float32)
    if mine.shape != theirs.shape or mine.ndim != 1:
        raise BadRequest(f"waves of one length are compared; got {mine.shape} and {theirs.shape}")
    distance = _distance(sample_rate)
    return float(distance(torch.from_numpy(mine)[None], torch.from_numpy(theirs)[None])["log"])


def level_db(wave: ArrayLike) -> float:
    """RMS over the wave in dB re full scale; -120 for silence."""
    signal = np.asarray(wave, np.float64)
    return float(10 * np.log10(max(np.mean(signal**2) if signal.size else 0.0, 1e-12)))


def mean_level_error(waves: Sequence[Wave], targets: Sequence[Wave]) -> tuple[float, float]:
    """Mean absolute and mean signed difference of level in dB; NaN of no waves."""
    if not waves:
        return float("nan"), float("nan")
    differences = [level_db(wave) - level_db(target) for wave, target in zip(waves, targets, strict=True)]
    return float(np.mean(np.abs(differences))), float(np.mean(differences))


def onset_score(
    scenes: Sequence[Scene], found: Sequence[NDArray[np.float64]], heard_in: Sequence[int | None] | None = None
) -> Score:
    """F1 of onsets (±100 ms) against the true event times, all clips added up; parts: the F1 of each kind.

    heard_in: clip i's events are looked for in the onsets of clip heard_in[i] (None: the clip is left out); without it
    every clip is compared with its own.
    """
    chosen = range(len(scenes)) if heard_in is None else heard_in
    counts: dict[str, list[tuple[int, int, int]]] = {}
    for scene, other in zip(scenes, chosen, strict=True):
        if other is not None:
            kinds = "+".join(source.kind for source in scene.sources)
            counts.setdefault(kinds, []).append(match_onsets(found[other], scene.event_times, TOLERANCE))
    everything = [count for part in counts.values() for count in part]
    if not everything:
        return Score(float("nan"), 0)
    # Kinds without events have no F1 of their own; what is found in them counts against the whole.
    parts = {kind: f1(some) for kind, some in sorted(counts.items()) if sum(true for _, _, true in some)}
    return Score(f1(everything), len(everything), parts)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation; 0 where one of the two is constant and so follows nothing."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(spearmanr(one, two).statistic)


def force_score(
    scenes: Sequence[Scene],
    waves: Sequence[Wave],
    sample_rate: int,
    heard_in: Sequence[int | None] | None = None,
) -> Score:
    """Rank correlation of the visible force of events and the level that follows them, per thing, then averaged over
    the things that show force and have four events or more. heard_in as in :func:`onset_score`."""
    chosen = range(len(scenes)) if heard_in is None else heard_in
    values: list[tuple[str, float]] = []
    for scene, other in zip(scenes, chosen, strict=True):
        for source in scene.sources:
            if other is None or not KINDS[source.kind].has_force or len(source.events) < FORCE_EVENTS:
                continue
            levels = event_levels(waves[other], [event.time for event in source.events], sample_rate)
            values.append((source.kind, rank_correlation([event.strength for event in source.events], levels)))
    return Score.mean(values)
