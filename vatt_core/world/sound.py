"""The sound of a description: small physical models, one per kind, added up shot by shot.

Things that are struck are sums of decaying partials and a short noise of contact, things that go on are filtered noise
or a pulse train under a slow level. A strike's loudness follows its force (`event_gain`), and harder strikes are a
little brighter. A source's random numbers come from `source.seed` alone, so everything that is not the other material
stays when the material is changed. Colour, place and scale are never heard.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

from vatt_core.errors import BadRequest
from vatt_core.world.scene import VERSION, Scene, Shot, Source

Wave = NDArray[np.float64]

RASTER = 50.0
"""Partials lie on multiples of this (Hz), so that 20 ms hold whole periods: a codec with 50 code frames per second that
is as small as nano's then has no phase to carry from frame to frame. A deliberate simplification of this world."""

FADE_SECONDS = 0.004
"""A shot's sound fades in and out within this time; nothing of it is heard in the next shot."""

PAIR_GAIN = 0.55
"""Each source of a shot that shows several; two that peak together stay below full scale."""


def synthesise(scene: Scene, *, sample_rate: int = 16000) -> NDArray[np.float32]:
    """The sound of a scene: float32 [round(seconds * sample_rate)], within -1…1.

    Raises BadRequest for a sample rate outside 8000…192000 Hz.
    """
    if not 8000 <= sample_rate <= 192000:
        raise BadRequest(f"A sample rate of {sample_rate} Hz is not possible: choose 8000 to 192000.")
    samples = round(scene.seconds * sample_rate)
    wave = _room_tone(scene, samples, sample_rate)
    for shot in scene.shots:
        first, last = round(shot.start * sample_rate), min(round(shot.end * sample_rate), samples)
        if last > first:
            wave[first:last] += shot_wave(shot, last - first, sample_rate)
    return wave.astype(np.float32)


def shot_wave(shot: Shot, samples: int, sample_rate: int) -> Wave:
    """All sources of a shot, [samples], starting at shot.start, faded at both ends."""
    gain = PAIR_GAIN if len(shot.sources) > 1 else 1.0
    wave = np.zeros(samples)
    for source in shot.sources:
        wave += gain * source_wave(source, shot.start, samples, sample_rate)
    fade = min(round(FADE_SECONDS * sample_rate), samples // 2)
    ramp = np.arange(1, fade + 1) / (fade + 1)
    wave[:fade] *= ramp
    wave[samples - fade :] *= ramp[::-1]
    return wave


def source_wave(source: Source, start: float, samples: int, sample_rate: int) -> Wave:
    """One source alone, [samples], from `start` (seconds in the clip) on."""
    if source.kind in _CONTINUOUS:
        times = start + np.arange(samples) / sample_rate
        return _CONTINUOUS[source.kind](source, times, sample_rate)
    grains = _STRUCK[source.kind](source, sample_rate)
    wave = np.zeros(samples)
    for event in source.events:
        first = round((event.time - start) * sample_rate)
        soft, hard = grains[event.variant % len(grains)]
        length = min(len(soft), samples - first)
        if first < 0 or length <= 0:
            continue
        # `hard` holds what only force brings out; its share is part of the loudness, so force still orders the levels
        wave[first : first + length] += event_gain(event.strength) * (
            soft[:length] + (0.4 + 0.6 * event.strength) * hard[:length]
        )
    return wave


def event_gain(strength: float) -> float:
    """Amplitude of an event of this force (0…1]; 0.3 is about 14 dB below 1."""
    return float(strength**1.3)


# ---- what the models are made of -----------------------------------------------------------------------------------

Grains = list[tuple[Wave, Wave]]
"""For each event variant: the sound of a soft strike and what is added by force, each starting at the contact."""


def _random(seed: int, purpose: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([VERSION, seed, purpose])))


def _partials(
    frequencies: NDArray[np.float64] | list[float],
    amplitudes: NDArray[np.float64] | list[float],
    decays: NDArray[np.float64] | list[float],
    sample_rate: int,
    *,
    attack: float = 0.0005,
) -> Wave:
    """Decaying sines. decays: seconds to 1/e. What lies above the Nyquist frequency is left out."""
    length = int(min(7 * max(decays), 3.0) * sample_rate)
    wave = np.zeros(length)
    for frequency, amplitude, decay in zip(frequencies, amplitudes, decays, strict=True):
        frequency = max(RASTER, RASTER * round(frequency / RASTER))
        if frequency < 0.46 * sample_rate:
            n = np.arange(min(length, int(7 * decay * sample_rate)))
            pole = -1 / (decay * sample_rate) + 2j * np.pi * frequency / sample_rate
            wave[: len(n)] += amplitude * np.exp(pole * n).imag
    rise = max(1, round(attack * sample_rate))
    wave[:rise] *= np.arange(1, rise + 1) / rise
    return wave


@lru_cache(maxsize=64)
def _band(low: float, high: float, sample_rate: int, order: int = 2) -> NDArray[np.float64]:
    high = min(high, 0.47 * sample_rate)
    if low <= 0:
        return butter(order, high, "lowpass", fs=sample_rate, output="sos")
    return butter(order, (low, high), "bandpass", fs=sample_rate, output="sos")


def _noise(rng: np.random.Generator, samples: int, low: float, high: float, sample_rate: int, order: int = 2) -> Wave:
    """Noise of RMS 1 between two frequencies (Hz)."""
    settle = round(0.05 * sample_rate)
    wave = sosfilt(_band(low, high, sample_rate, order), rng.standard_normal(samples + settle))[settle:]
    return wave / (np.sqrt(np.mean(wave**2)) + 1e-12)


def _contact(rng: np.random.Generator, low: float, high: float, decay: float, sample_rate: int) -> Wave:
    """The noise of a contact: a filtered burst of peak 1."""
    n = np.arange(int(7 * decay * sample_rate) + 1)
    wave = _noise(rng, len(n), low, high, sample_rate, 1) * np.exp(-n / (decay * sample_rate))
    return wave / (np.abs(wave).max() + 1e-12)


def _add(*waves: Wave) -> Wave:
    total = np.zeros(max(len(wave) for wave in waves))
    for wave in waves:
        total[: len(wave)] += wave
    return total


def _scaled(pairs: Grains, peak: float) -> Grains:
    """Both parts of each grain scaled so that the hardest strike peaks at `peak`."""
    result = []
    for soft, hard in pairs:
        both = _add(soft, hard)
        gain = peak / (np.abs(both).max() + 1e-12)
        length = len(both)
        result.append((gain * np.pad(soft, (0, length - len(soft))), gain * np.pad(hard, (0, length - len(hard)))))
    return result


# ---- things that are struck ----------------------------------------------------------------------------------------


def _ball(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    pitch = float(rng.uniform(0.9, 1.1))
    noise = _random(source.seed, 1)
    if source.attributes["material"] == "metal":
        # a thin hollow sphere: few, clear partials over a small thud
        body = _partials(np.array([780.0, 1490.0]) * pitch, [1.0, 0.6], [0.24, 0.18], sample_rate, attack=0.001)
        bright = _partials(np.array([2350.0, 3400.0]) * pitch, [0.4, 0.25], [0.14, 0.1], sample_rate)
        click = 0.15 * _contact(noise, 300, 3000, 0.004, sample_rate)
        return _scaled([(body, _add(bright, click))], 0.62)
    body = _partials(
        np.array([210.0, 330.0, 470.0]) * pitch, [1.0, 0.8, 0.35], [0.06, 0.05, 0.04], sample_rate, attack=0.0015
    )
    click = 0.25 * _contact(noise, 200, 1200, 0.008, sample_rate)
    return _scaled([(body, click)], 0.8)


def _hammer(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    pitch = float(rng.uniform(0.92, 1.08))
    noise = _random(source.seed, 1)
    if source.attributes["material"] == "metal":
        # an anvil: dense high inharmonic partials, a loud click
        body = _partials(np.array([1850.0, 2620.0, 3330.0]) * pitch, [0.8, 1.0, 0.7], [0.3, 0.24, 0.2], sample_rate)
        bright = _partials(np.array([4310.0, 5480.0]) * pitch, [0.6, 0.4], [0.14, 0.1], sample_rate)
        click = 0.9 * _contact(noise, 1500, 7000, 0.006, sample_rate)
        return _scaled([(body, _add(bright, click))], 0.72)
    body = _partials(np.array([640.0, 980.0, 1420.0]) * pitch, [1.0, 0.8, 0.5], [0.035, 0.028, 0.02], sample_rate)
    click = 0.8 * _contact(noise, 900, 5000, 0.008, sample_rate)
    return _scaled([(_add(body, 0.4 * click), 0.6 * click)], 0.85)


def _drum(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    pitch = float(rng.uniform(0.92, 1.08)) * (150.0 if source.attributes["size"] == "large" else 290.0)
    metal = source.attributes["material"] == "metal"
    grains = []
    for variant, pad in enumerate((1.0, 1.26, 1.5)):
        noise = _random(source.seed, 1 + variant)
        membrane = np.array([1.0, 1.59, 2.14, 2.65]) * pitch * pad
        if metal:
            skin = _partials(membrane, [0.6, 0.3, 0.15, 0.1], [0.1, 0.08, 0.06, 0.05], sample_rate)
            shell = np.array([5.1, 7.3, 9.7, 12.9]) * (pitch * pad) ** 0.5 * 16.0
            ring = _partials(shell, [0.5, 0.45, 0.35, 0.25], [0.34, 0.32, 0.27, 0.22], sample_rate)
            click = 0.4 * _contact(noise, 1500, 6500, 0.025, sample_rate)
            grains.append((_add(skin, 0.6 * ring), _add(0.4 * ring, click)))
        else:
            skin = _partials(membrane, [1.0, 0.6, 0.35, 0.2], [0.15, 0.11, 0.08, 0.06], sample_rate)
            click = 0.4 * _contact(noise, 900, 4500, 0.012, sample_rate)
            grains.append((skin, click))
    return _scaled(grains, 0.8)


def _bell(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    large = source.attributes["size"] == "large"
    pitch = float(rng.uniform(0.93, 1.07)) * (560.0 if large else 1180.0)
    stretch = 1.0 if large else 0.75
    low = np.array([0.5, 1.0, 1.19, 1.5, 2.0]) * pitch
    body = _partials(low, [0.5, 1.0, 0.6, 0.4, 0.9], np.array([0.5, 0.42, 0.36, 0.3, 0.32]) * stretch, sample_rate)
    high = np.array([2.52, 3.01, 4.17, 5.43]) * pitch
    bright = _partials(high, [0.5, 0.45, 0.35, 0.2], np.array([0.2, 0.17, 0.12, 0.09]) * stretch, sample_rate)
    click = 0.5 * _contact(_random(source.seed, 1), 1500, 6500, 0.004, sample_rate)
    return _scaled([(_add(body, 0.5 * bright), _add(0.5 * bright, click))], 0.66)


def _clock(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    pitch = float(rng.uniform(0.9, 1.1))
    grains = []
    for variant, shade in enumerate((1.0, 1.1, 0.91)):
        frequencies = np.array([1300.0, 2700.0, 3900.0]) * pitch * shade
        tick = _add(
            _partials(frequencies, [0.5, 1.0, 0.6], [0.009, 0.007, 0.006], sample_rate, attack=0.0003),
            0.7 * _contact(_random(source.seed, 1 + variant), 2000, 6500, 0.003, sample_rate),
        )
        # the escapement: the pallet lands, then the wheel
        second = np.concatenate([np.zeros(round(0.016 * sample_rate)), 0.6 * tick])
        grains.append((_add(0.8 * tick, second), 0.2 * tick))
    return _scaled(grains, 0.9)


def _alarm(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    seconds = float(rng.uniform(0.18, 0.24))
    n = np.arange(round(seconds * sample_rate))
    wave = np.sin(2 * np.pi * 1050 * n / sample_rate) + 0.6 * np.sin(2 * np.pi * 3150 * n / sample_rate)
    wave *= np.minimum(1, np.minimum((n + 1) / (0.002 * sample_rate), (len(n) - n) / (0.015 * sample_rate)))
    return _scaled([(wave, np.zeros(1))], 0.42)


def _fireworks(source: Source, sample_rate: int) -> Grains:
    large = source.attributes["size"] == "large"
    top, decay = (380.0, 0.17) if large else (900.0, 0.11)
    grains = []
    for variant in range(3):
        rng = _random(source.seed, variant)
        n = np.arange(round(1.1 * sample_rate)) / sample_rate
        boom = _noise(rng, len(n), 0, top, sample_rate) * np.exp(-n / decay)
        boom *= np.minimum(1, (n + 1 / sample_rate) / 0.001)
        blast = _contact(rng, 300, 5000, 0.03, sample_rate)
        # the sparks: so many that they run together, swelling after the boom, far below it
        sparks = _noise(rng, len(n), 2500, 6500, sample_rate)
        sparks *= np.minimum(1, n / 0.12) * np.exp(-n / 0.28) * 0.05
        sparks[-400:] *= np.linspace(1, 0, 400)
        boom *= 1 / np.abs(boom).max()
        grains.append((_add(0.8 * boom, 0.5 * blast, sparks), 0.5 * blast))
    return _scaled(grains, 0.88)


def _bird(source: Source, sample_rate: int) -> Grains:
    rng = _random(source.seed)
    centre = float(rng.uniform(0.93, 1.07)) * (2350.0 if source.attributes["size"] == "large" else 3700.0)
    grains = []
    for glide, seconds in (((1.25, 0.85), 0.15), ((0.85, 1.2), 0.18), ((0.88, 1.22, 0.88), 0.2)):
        n = np.arange(round(seconds * sample_rate))
        shape = np.interp(n / len(n), np.linspace(0, 1, len(glide)), glide)
        frequency = centre * shape
        phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
        octave = 0.15 * np.clip((0.47 * sample_rate - 2 * frequency) / 800, 0, 1)  # gone before it would fold back
        envelope = np.minimum(1, (n + 1) / (0.003 * sample_rate)) * np.cos(0.5 * np.pi * n / len(n)) ** 0.7
        grains.append((np.sin(phase) * envelope, octave * np.sin(2 * phase) * envelope))
    return _scaled(grains, 0.55)


_STRUCK: dict[str, Callable[[Source, int], Grains]] = {
    "ball": _ball,
    "hammer": _hammer,
    "drum": _drum,
    "bell": _bell,
    "clock": _clock,
    "alarm": _alarm,
    "fireworks": _fireworks,
    "bird": _bird,
}


# ---- things that go on ---------------------------------------------------------------------------------------------


def level_at(source: Source, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The level 0…1 of a continuous source at the given times (seconds in the clip), linear between its knots."""
    knots = np.array(source.level)
    return np.interp(times, knots[:, 0], knots[:, 1])


def _rain(source: Source, times: NDArray[np.float64], sample_rate: int) -> Wave:
    rng = _random(source.seed)
    heavy = source.attributes["intensity"] == "heavy"
    hiss = _noise(rng, len(times), *((700, 7000) if heavy else (2600, 7400)), sample_rate, 1)
    return level_at(source, times) ** 1.3 * (0.17 if heavy else 0.11) * hiss


def _fire(source: Source, times: NDArray[np.float64], sample_rate: int) -> Wave:
    rng = _random(source.seed)
    large = source.attributes["size"] == "large"
    rumble = _noise(rng, len(times), *((40, 140) if large else (90, 320)), sample_rate, 1)
    # crackles: short bursts of noise at random instants, soft enough to be texture and not events
    pulses = np.zeros(len(times))
    where = rng.integers(0, len(times), max(1, round(len(times) / sample_rate * (28 if large else 18))))
    pulses[where] = rng.uniform(0.3, 1.0, len(where))
    decay = np.exp(-1 / (0.006 * sample_rate))
    crackle = _noise(rng, len(times), 1200, 4500, sample_rate, 1) * lfilter([1.0], [1.0, -decay], pulses)
    breath = 1 + 0.25 * np.sin(2 * np.pi * (float(rng.uniform(1.2, 1.8)) * times + float(rng.uniform())))
    hiss = _noise(rng, len(times), 500, 3000, sample_rate, 1)
    return level_at(source, times) ** 1.3 * (0.16 * rumble * breath + 0.018 * hiss + 0.035 * crackle)


def _engine(source: Source, times: NDArray[np.float64], sample_rate: int) -> Wave:
    rng = _random(source.seed)
    level = level_at(source, times)
    quick = source.attributes["speed"] == "quickly"
    rate = (92.0 if quick else 50.0) * (0.75 + 0.5 * level) * float(rng.uniform(0.93, 1.07))
    # one turn of the crank: a pulse per cylinder, uneven as engines are, with the body's resonance
    harmonics = np.arange(1, 25)
    amplitudes = harmonics**-0.6 * np.exp(-((harmonics / 14.0) ** 2)) * rng.uniform(0.5, 1.0, len(harmonics))
    turn = np.arange(1025) / 1024
    table = np.sum(
        amplitudes[:, None] * np.sin(2 * np.pi * (harmonics[:, None] * turn + 0.5 * harmonics[:, None] ** 2 / 24)), 0
    )
    table /= np.sqrt(np.mean(table**2))
    phase = np.cumsum(rate) / sample_rate
    pulse = np.interp(phase % 1.0, turn, table)
    exhaust = _noise(rng, len(times), 200, 1500, sample_rate, 1) * (1 + 0.5 * pulse)
    return level**1.3 * (0.17 * pulse + 0.012 * exhaust)


def _waves(source: Source, times: NDArray[np.float64], sample_rate: int) -> Wave:
    rng = _random(source.seed)
    large = source.attributes["size"] == "large"
    water = _noise(rng, len(times), *((220, 900) if large else (500, 2000)), sample_rate, 1)
    foam = _noise(rng, len(times), 1500, 4500, sample_rate, 1)
    level = level_at(source, times)
    # the crest breaks: foam grows faster than the water's body
    return (0.18 if large else 0.14) * (level**1.6 * water + 0.3 * level**2.6 * foam)


_CONTINUOUS: dict[str, Callable[[Source, NDArray[np.float64], int], Wave]] = {
    "rain": _rain,
    "fire": _fire,
    "engine": _engine,
    "waves": _waves,
}


def _room_tone(scene: Scene, samples: int, sample_rate: int) -> Wave:
    """Quiet noise, darker than white, at the scene's level (dB RMS re full scale)."""
    white = _random(scene.seed, 99).standard_normal(samples)
    pole = np.exp(-2 * np.pi * 200 / sample_rate)
    dark = lfilter([1 - pole], [1, -pole], white) + 0.06 * white
    return dark / (np.sqrt(np.mean(dark**2)) + 1e-12) * 10 ** (scene.room_tone_db / 20)
