"""Loudness after EBU R 128 (ITU-R BS.1770) with a true-peak ceiling, and click-free edges.

Sounds are gone through in pieces, so that an hour needs no more memory than ten seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import pyloudnorm
import soxr
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import lfilter

from vatt_core.errors import BadRequest
from vatt_core.media.spool import Held, Sound, Spool, Wave, pieces

_OVERSAMPLING = 4  # BS.1770-5, annex 2
_AROUND = 256  # samples beside a piece, more than the oversampling filter reaches
_HOPS_PER_BLOCK = 4  # blocks of 0.4 s, a new one each 0.1 s
_HOPS_PER_SECOND = 10
_SILENCE_LUFS = -70.0  # the measure's absolute gate
_TOLERANCE_LU = 0.1
_ROUNDS = 6
DUAL_MONO_LU = 10 * float(np.log10(2))
"""The same sound in two channels measures this much louder."""


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


@dataclass(frozen=True)
class Levelling:
    """What is done to the level. gain: a factor. limit: above which true peak (a factor, too) peaks are pressed down,
    None for nowhere. scale: a factor on what comes out of the limiter."""

    gain: float = 1.0
    limit: float | None = None
    scale: float = 1.0
    look_ahead: float = 0.004


class LoudnessMeter:
    """Gated loudness of a mono sound that comes in pieces, with pyloudnorm's filters."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._filters = _k_weighting(sample_rate)
        self._states = [np.zeros(max(len(b), len(a)) - 1) for b, a, _ in self._filters]
        self._rest = np.zeros(0)
        self._begun = 0  # hops that have been measured
        self._hops: list[float] = []

    def feed(self, wave: NDArray[np.floating]) -> None:
        """wave: [samples], what follows the last piece."""
        data = np.asarray(wave, np.float64)
        # Decaying into exact silence, the filters would run on denormal numbers, ten times slower. This is at -240 dB.
        data = data + np.where(np.arange(data.size) % 2, 1e-12, -1e-12)
        for number, (b, a, gain) in enumerate(self._filters):
            data, self._states[number] = lfilter(b, a, data, zi=self._states[number])
            data = data * gain
        power = np.concatenate([self._rest, data**2])
        first = self._bound(self._begun)
        while (last := self._bound(self._begun + 1)) - first <= len(power):
            self._hops.append(float(power[: last - first].sum()))
            power, first = power[last - first :], last
            self._begun += 1
        self._rest = power

    def _bound(self, hop: int) -> int:
        return hop * self._rate // _HOPS_PER_SECOND

    def integrated(self) -> float:
        """LUFS of what has come so far; -inf for silence, and for less than one block of 0.4 s."""
        hops = np.array(self._hops)
        if len(hops) < _HOPS_PER_BLOCK:
            return -np.inf
        sums = np.lib.stride_tricks.sliding_window_view(hops, _HOPS_PER_BLOCK).sum(1)
        power = sums / (_HOPS_PER_BLOCK * self._rate / _HOPS_PER_SECOND)
        loud = power[_lufs(power) >= _SILENCE_LUFS]
        if not len(loud):
            return -np.inf
        loud = loud[_lufs(loud) > _lufs(loud.mean()) - 10]
        return float(_lufs(loud.mean()))


def _lufs(power: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-30))


@lru_cache(maxsize=8)
def _k_weighting(sample_rate: int) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64], float], ...]:
    stages = pyloudnorm.Meter(sample_rate)._filters.values()
    return tuple((np.asarray(stage.b), np.asarray(stage.a), float(stage.passband_gain)) for stage in stages)


def measure_loudness(sound: Sound, *, channels: int = 1) -> float:
    """Integrated loudness in LUFS; -inf for silence. Sounds under 0.4 s are measured as if they repeated.

    channels: in how many channels the sound is heard, each the same.
    """
    block = sound.sample_rate * _HOPS_PER_BLOCK // _HOPS_PER_SECOND + 1
    meter = LoudnessMeter(sound.sample_rate)
    if sound.samples < block:
        wave = sound.read(0, sound.samples)
        if not wave.any():
            return -np.inf
        meter.feed(np.tile(wave, -(-block // wave.size)))
    else:
        for start, stop in pieces(sound.samples):
            meter.feed(sound.read(start, stop))
    return meter.integrated() + (DUAL_MONO_LU if channels == 2 else 0.0)


def integrated_loudness(wave: NDArray[np.floating], sample_rate: int) -> float:
    """`measure_loudness` of [samples] in memory."""
    return measure_loudness(Held(wave, sample_rate))


def _oversampled_peaks(wave: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    """The largest magnitude in and just after each sample's period, [samples]."""
    wave = np.asarray(wave, np.float64)
    dense = np.abs(soxr.resample(wave, sample_rate, sample_rate * _OVERSAMPLING, quality="HQ"))
    dense = np.pad(dense, (0, max(0, _OVERSAMPLING * wave.size - dense.size)))[: _OVERSAMPLING * wave.size]
    peaks = np.abs(wave)
    for phase in range(_OVERSAMPLING):
        np.maximum(peaks, dense[phase::_OVERSAMPLING], out=peaks)
    return peaks


def _peaks(sound: Sound, start: int, stop: int) -> NDArray[np.float64]:
    """Oversampled peaks of [start, stop), from what lies around as well."""
    first, last = max(0, start - _AROUND), min(sound.samples, stop + _AROUND)
    return _oversampled_peaks(sound.read(first, last), sound.sample_rate)[start - first : stop - first]


def measure_true_peak(sound: Sound) -> float:
    """The highest peak in dBTP, four times oversampled; -inf for silence."""
    highest = max((float(_peaks(sound, start, stop).max()) for start, stop in pieces(sound.samples)), default=0.0)
    return float(20 * np.log10(highest)) if highest > 0 else -np.inf


def true_peak(wave: NDArray[np.floating], sample_rate: int) -> float:
    """`measure_true_peak` of [samples] in memory."""
    return measure_true_peak(Held(wave, sample_rate))


def peak_levelling(sound: Sound, true_peak_dbtp: float) -> Levelling:
    """Bring the highest true peak to a level; silence stays."""
    highest = measure_true_peak(sound)
    return Levelling(10 ** ((true_peak_dbtp - highest) / 20)) if np.isfinite(highest) else Levelling()


def loudness_levelling(
    sound: Sound, settings: LoudnessSettings, *, channels: int = 1, folder: Path | None = None
) -> Levelling:
    """How to bring a sound to a loudness, peaks held under a true-peak ceiling by a look-ahead limiter.

    The target is met within 0.5 LU where most_gain_db and most_limiting_db allow; silence (under the gate of -70 LUFS)
    stays. channels: see `measure_loudness`. folder: for what does not fit into memory.
    """
    loudness = measure_loudness(sound, channels=channels)
    if not np.isfinite(loudness):
        return Levelling()
    with Spool(sound.sample_rate, folder) as peaks:
        highest = 0.0
        for start, stop in pieces(sound.samples):
            found = _peaks(sound, start, stop)
            highest = max(highest, float(found.max()))
            peaks.append(found)
        headroom = settings.true_peak_dbtp - 20 * np.log10(highest)
        most = min(settings.most_gain_db, headroom + settings.most_limiting_db)
        gain = min(settings.target_lufs - loudness, most)
        if gain <= headroom:
            return Levelling(float(10 ** (gain / 20)))
        ceiling = 10 ** (settings.true_peak_dbtp / 20)
        slope = 1.0  # LU won per dB of gain; less, the more of the loudness sits in the pressed peaks
        before: tuple[float, float] | None = None
        found_levelling = Levelling()
        for _ in range(_ROUNDS):
            tried = Levelling(float(10 ** (gain / 20)), ceiling, look_ahead=settings.look_ahead)
            reached, over = _tried(sound, peaks, tried, folder)
            found_levelling = Levelling(tried.gain, tried.limit, over, tried.look_ahead)
            reached += DUAL_MONO_LU if channels == 2 else 0.0
            missing = settings.target_lufs - reached
            if abs(missing) <= _TOLERANCE_LU or (missing > 0 and gain >= most):
                break
            if before is not None and gain != before[0]:
                slope = float(np.clip((reached - before[1]) / (gain - before[0]), 0.1, 1.0))
            before = gain, reached
            gain = min(gain + missing / slope, most)
        return found_levelling


def _tried(sound: Sound, peaks: Sound, levelling: Levelling, folder: Path | None) -> tuple[float, float]:
    """LUFS that come out of a limiter, and the factor that keeps them under the ceiling: a moving gain bends the curve
    between the samples a little."""
    assert levelling.limit is not None
    with Spool(sound.sample_rate, folder) as limited:
        for start, stop in pieces(sound.samples):
            limited.append(_limited(sound, peaks, start, stop, levelling))
        highest = 10 ** (measure_true_peak(limited) / 20)
        scale = min(1.0, levelling.limit / max(highest, 1e-12))
        return measure_loudness(limited) + 20 * float(np.log10(scale)), scale


def levelled(sound: Sound, levelling: Levelling) -> Iterator[Wave]:
    """The sound with a levelling applied, in pieces, float32."""
    for start, stop in pieces(sound.samples):
        if levelling.limit is None:
            yield (sound.read(start, stop).astype(np.float64) * levelling.gain).astype(np.float32)
        else:
            limited = _limited(sound, None, start, stop, levelling) * levelling.scale
            yield limited.astype(np.float32)


def _limited(sound: Sound, peaks: Sound | None, start: int, stop: int, levelling: Levelling) -> NDArray[np.float64]:
    """[start, stop) times the gain, with a moving gain below it around every peak above the ceiling."""
    half = max(1, round(levelling.look_ahead * sound.sample_rate))
    first, last = max(0, start - 4 * half), min(sound.samples, stop + 4 * half)
    found = _peaks(sound, first, last) if peaks is None else peaks.read(first, last).astype(np.float64)
    assert levelling.limit is not None
    allowed = np.minimum(levelling.gain, levelling.limit / np.maximum(found, 1e-12))
    # The lowest gain around each sample, smoothed (two running means) no wider than that, exceeds no sample's own.
    gains = minimum_filter1d(allowed, 2 * half + 1, mode="nearest")
    for _ in range(2):
        gains = uniform_filter1d(gains, half + 1 - half % 2, mode="nearest")
    return (sound.read(first, last) * gains)[start - first : stop - first]


def normalise(
    wave: NDArray[np.floating],
    sample_rate: int,
    *,
    target_lufs: float = -23.0,
    true_peak_dbtp: float = -1.0,
    settings: LoudnessSettings | None = None,
) -> Wave:
    """`loudness_levelling` of [samples] in memory, applied: float32 [samples].

    Raises BadRequest for a wave that is not one row of finite numbers.
    """
    settings = settings or LoudnessSettings(target_lufs=target_lufs, true_peak_dbtp=true_peak_dbtp)
    original = np.asarray(wave)
    if original.ndim != 1 or not np.isfinite(original).all():
        raise BadRequest("The wave is not one row of finite numbers. Make it again.")
    held = Held(original, sample_rate)
    made = [*levelled(held, loudness_levelling(held, settings)), np.zeros(0, np.float32)]
    return cast(Wave, np.concatenate(made))


def edge_fades(wave: NDArray[np.floating], sample_rate: int, *, milliseconds: float = 5.0) -> Wave:
    """Fade the first and last `milliseconds` in and out (raised cosine), so that a cut does not click.

    wave: [..., samples]. In a sound shorter than both fades each takes half of it.
    """
    faded = np.array(wave, np.float32)
    curve = fade_curve(faded.shape[-1], sample_rate, milliseconds)
    if len(curve):
        faded[..., : len(curve)] *= curve
        faded[..., faded.shape[-1] - len(curve) :] *= curve[::-1]
    return faded


def fade_curve(samples: int, sample_rate: int, milliseconds: float) -> Wave:
    """The rising half of the fade of a sound with so many samples."""
    length = min(round(milliseconds / 1000 * sample_rate), samples // 2)
    return ((1 - np.cos(np.pi * np.arange(length) / max(1, length))) / 2).astype(np.float32)
