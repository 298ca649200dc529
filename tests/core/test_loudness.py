from __future__ import annotations

import numpy as np
import pytest

from vatt_core.errors import BadRequest
from vatt_core.media.loudness import LoudnessSettings, edge_fades, integrated_loudness, normalise, true_peak

RATE = 48_000


def tone(level_dbfs: float, frequency: float = 997, seconds: float = 3, rate: int = RATE) -> np.ndarray:
    return (10 ** (level_dbfs / 20) * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def hits(generator: np.random.Generator, length: int = 400, level: float = 1.0) -> np.ndarray:
    wave = np.zeros(5 * RATE)
    for second in range(5):
        samples = min(length * 8, RATE - 700)
        burst = generator.standard_normal(samples) * np.exp(-np.arange(samples) / length)
        wave[second * RATE + 700 :][:samples] += burst * level
    return wave


def test_the_reference_tone_of_the_standard() -> None:
    # ITU-R BS.1770: a 997 Hz sine at 0 dBFS in one channel measures -3.01 LKFS.
    assert abs(integrated_loudness(tone(-20), RATE) + 23.01) < 0.1


def test_the_true_peak_lies_between_the_samples() -> None:
    # A quarter of the sample rate, 45 degrees off: every sample at -3 dB, the curve itself at 0.
    wave = np.sin(np.pi / 2 * np.arange(RATE) + np.pi / 4)[2_000:-2_000] * np.hanning(RATE - 4_000) ** 0.01
    assert abs(20 * np.log10(np.abs(wave).max()) + 3.01) < 0.1
    assert abs(true_peak(wave, RATE)) < 0.3


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("level", [-50, -30, -1])
def test_steady_sounds_meet_the_target(rate: int, level: float) -> None:
    for target in (-23.0, -16.0):
        wave = normalise(tone(level, rate=rate), rate, target_lufs=target)
        assert abs(integrated_loudness(wave, rate) - target) < 0.1
        assert true_peak(wave, rate) <= -1.0 + 0.05


@pytest.mark.parametrize("length", [400, 2_000, 6_000])
def test_hits_meet_the_target_or_the_ceiling(length: int) -> None:
    wave = hits(np.random.default_rng(3), length)
    result = normalise(wave, RATE)
    loudness, peak = integrated_loudness(result, RATE), true_peak(result, RATE)
    assert peak <= -1.0 + 0.05
    if length >= 2_000:
        assert abs(loudness + 23) < 0.5
    else:  # too short to be that loud without being pressed flat: only louder than the ceiling alone would make it
        alone = integrated_loudness(wave * 10 ** ((-1 - true_peak(wave, RATE)) / 20), RATE)
        assert alone < loudness < -22.5


def test_loud_and_quiet_events_keep_their_order() -> None:
    generator = np.random.default_rng(4)
    wave = np.concatenate([hits(generator, 2_000, level)[:RATE] for level in (0.1, 0.4, 0.8)])
    result = normalise(wave, RATE).reshape(3, RATE)
    powers = (result**2).mean(axis=1)
    assert powers[0] < powers[1] < powers[2]


def test_a_ceiling_is_kept_when_the_target_asks_for_more() -> None:
    wave = normalise(
        hits(np.random.default_rng(5)), RATE, settings=LoudnessSettings(target_lufs=-6.0, true_peak_dbtp=-3.0)
    )
    assert true_peak(wave, RATE) <= -3.0 + 0.05


def test_silence_and_a_noise_floor() -> None:
    for wave in (np.zeros(0), np.zeros(1), np.zeros(RATE), 1e-6 * np.random.default_rng(0).standard_normal(RATE)):
        assert np.array_equal(normalise(wave, RATE), wave.astype(np.float32))
    floor = tone(-69)
    assert true_peak(normalise(floor, RATE), RATE) <= -69 + 40.1


@pytest.mark.parametrize("samples", [1, 30, 4_000, 19_199, 19_200, 19_201])
def test_short_sounds(samples: int) -> None:
    wave = normalise(tone(-30)[100 : 100 + samples], RATE)
    assert wave.shape == (samples,)
    assert np.isfinite(wave).all()
    assert true_peak(wave, RATE) <= -1.0 + 0.05
    if samples >= 4_000:
        assert abs(integrated_loudness(wave, RATE) + 23) < 0.5


def test_what_is_no_sound_is_refused() -> None:
    for wave in (np.array([np.nan]), np.array([np.inf, 0]), np.zeros((2, 100))):
        with pytest.raises(BadRequest):
            normalise(wave, RATE)


def test_fades_touch_only_the_edges() -> None:
    wave = np.ones(RATE, np.float32)
    faded = edge_fades(wave, RATE, milliseconds=10)
    assert faded[0] == faded[-1] == 0
    assert np.array_equal(faded[480:-480], wave[480:-480])
    assert (np.diff(faded[:480]) >= 0).all()
    assert np.array_equal(faded, faded[::-1])
    assert wave.min() == 1
    for samples in (0, 1, 2, 5):
        assert edge_fades(np.ones(samples), RATE).shape == (samples,)
    assert edge_fades(np.ones((2, 4, RATE)), RATE).shape == (2, 4, RATE)
