"""Loudness after EBU R 128 (ITU-R BS.1770) with a true-peak ceiling, and click-free edges."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyloudnorm
import soxr
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from vatt_core.errors import BadRequest
from vatt_core.media.waves import Wave

_OVERSAMPLING = 4  # BS.1770-5, annex 2
_BLOCK_SECONDS = 0.4  # the measure's shortest block
_SILENCE_LUFS = -70.0  # the measure's absolute gate
_TOLERANCE_LU = 0.1
_ROUNDS = 6


@dataclass(frozen=True)
class LoudnessSettings:
    """target_lufs: integrated loudness. true_peak_dbtp: highest peak between the samples.

    most_gain_db: a quieter sound is lifted by no more than this, so that a noise floor stays one.
    most_limiting_db: how far single peaks are pressed down to reach the target; beyond it the sound stays quieter.
    look_ahead: seconds over which the limiter fades in and out around a peak.
    """

    target_lufs: float = -23.0
    true_peak_dbtp: float = -1.0
    most_gain_db: float = 40.0
    most_limiting_db: float = 12.0
    look_ahead: float = 0.004


def integrated_loudness(wave: NDArray[np.floating], sample_rate: int) -> float:
    """Gated loudness of [samples] in LUFS; -inf for silence. Sounds under 0.4 s are measured as if they repeated."""
    wave = np.asarray(wave, np.float64)
    if not wave.size or not np.any(wave):
        return -np.inf
    block = int(np.ceil(_BLOCK_SECONDS * sample_rate)) + 1
    if wave.size < block:
        wave = np.tile(wave, -(-block // wave.size))
    # Decaying into exact silence, the filters would run on denormal numbers, ten times slower. This is at -240 dB.
    wave = wave + np.where(np.arange(wave.size) % 2, 1e-12, -1e-12)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        loudness = float(pyloudnorm.Meter(sample_rate).integrated_loudness(wave))
    return loudness if np.isfinite(loudness) and loudness > _SILENCE_LUFS else -np.inf


def _oversampled_peaks(wave: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """The largest magnitude in and just after each sample's period, [samples]."""
    dense = np.abs(soxr.resample(wave, sample_rate, sample_rate * _OVERSAMPLING, quality="HQ"))
    dense = np.pad(dense, (0, max(0, _OVERSAMPLING * wave.size - dense.size)))[: _OVERSAMPLING * wave.size]
    peaks = np.abs(wave)
    for phase in range(_OVERSAMPLING):
        np.maximum(peaks, dense[phase::_OVERSAMPLING], out=peaks)
    return peaks


def true_peak(wave: NDArray[np.floating], sample_rate: int) -> float:
    """The highest peak of [samples] in dBTP, four times oversampled; -inf for silence."""
    highest = _oversampled_peaks(wave.astype(np.float64), sample_rate).max() if wave.size else 0.0
    return float(20 * np.log10(highest)) if highest > 0 else -np.inf


def normalise(
    wave: NDArray[np.floating],
    sample_rate: int,
    *,
    target_lufs: float = -23.0,
    true_peak_dbtp: float = -1.0,
    settings: LoudnessSettings | None = None,
) -> Wave:
    """Bring a sound to a loudness, peaks held under a true-peak ceiling by a look-ahead limiter.

    wave: [samples]. The target is met within 0.5 LU where most_gain_db and most_limiting_db allow; silence (under the
    gate of -70 LUFS) comes back unchanged. Returns float32 [samples]. Raises BadRequest for values that are not finite.
    """
    settings = settings or LoudnessSettings(target_lufs=target_lufs, true_peak_dbtp=true_peak_dbtp)
    original = np.asarray(wave, np.float64)
    if original.ndim != 1 or not np.isfinite(original).all():
        raise BadRequest("The wave is not one row of finite numbers. Make it again.")
    loudness = integrated_loudness(original, sample_rate)
    if not np.isfinite(loudness):
        return cast(Wave, np.asarray(wave, np.float32).copy())
    peaks = _oversampled_peaks(original, sample_rate)
    headroom = settings.true_peak_dbtp - 20 * np.log10(peaks.max())
    most = min(settings.most_gain_db, headroom + settings.most_limiting_db)
    gain = min(settings.target_lufs - loudness, most)
    result = original * 10 ** (gain / 20)
    if gain > headroom:
        slope = 1.0  # LU won per dB of gain; less, the more of the loudness sits in the pressed peaks
        before: tuple[float, float] | None = None
        for _ in range(_ROUNDS):
            result = _limited(original, peaks, 10 ** (gain / 20), sample_rate, settings)
            reached = integrated_loudness(result, sample_rate)
            missing = settings.target_lufs - reached
            if abs(missing) <= _TOLERANCE_LU or (missing > 0 and gain >= most):
                break
            if before is not None and gain != before[0]:
                slope = float(np.clip((reached - before[1]) / (gain - before[0]), 0.1, 1.0))
            before = gain, reached
            gain = min(gain + missing / slope, most)
    return result.astype(np.float32)


def _limited(
    wave: NDArray[np.float64],
    peaks: NDArray[np.float64],
    gain: float,
    sample_rate: int,
    settings: LoudnessSettings,
) -> NDArray[np.float64]:
    """The wave times `gain`, with a moving gain below it around every peak above the ceiling."""
    ceiling = 10 ** (settings.true_peak_dbtp / 20)
    allowed = np.minimum(gain, ceiling / np.maximum(peaks, 1e-12))
    half = max(1, round(settings.look_ahead * sample_rate))
    # The lowest gain around each sample, smoothed (two running means) no wider than that, exceeds no sample's own.
    gains = minimum_filter1d(allowed, 2 * half + 1, mode="nearest")
    for _ in range(2):
        gains = uniform_filter1d(gains, half + 1 - half % 2, mode="nearest")
    result = wave * gains
    # A moving gain bends the curve between the samples a little.
    return result * min(1.0, ceiling / max(_oversampled_peaks(result, sample_rate).max(), 1e-12))


def edge_fades(wave: NDArray[np.floating], sample_rate: int, *, milliseconds: float = 5.0) -> Wave:
    """Fade the first and last `milliseconds` in and out (raised cosine), so that a cut does not click.

    wave: [..., samples]. In a sound shorter than both fades each takes half of it.
    """
    faded = np.array(wave, np.float32)
    length = min(round(milliseconds / 1000 * sample_rate), faded.shape[-1] // 2)
    if length > 0:
        curve = ((1 - np.cos(np.pi * np.arange(length) / length)) / 2).astype(np.float32)
        faded[..., :length] *= curve
        faded[..., faded.shape[-1] - length :] *= curve[::-1]
    return faded
