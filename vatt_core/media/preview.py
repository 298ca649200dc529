"""Does a soundtrack fit its clip? Filmstrip, waveform, spectrogram and onsets in one picture, on one time axis."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from vatt_core.errors import BadRequest
from vatt_core.media.atomic import write_bytes
from vatt_core.media.opening import PathLike
from vatt_core.media.spool import Sound, pieces

_WIDTH, _HEIGHT, _DPI = 12.0, 6.4, 110  # inches, dots per inch
_INK, _PAPER, _GRID, _WAVE = "#e8e6e1", "#17181c", "#3a3c44", "#7fb7e8"
_ONSET, _CUT = "#ffb454", "#ff6b81"
PLOT_LEFT, PLOT_RIGHT = 0.065, 0.985
"""Where the time axis begins and ends, as shares of the picture's width."""
_STRIP_HEIGHT = 120  # pixels of one picture in the filmstrip
_COLUMNS = 1200  # of waveform and spectrogram: no more than the figure has pixels
_SPECTRUM_RATE = 16_000
_SPECTRUM_PIECE = 1 << 18  # samples whose spectra are computed at once
_WINDOW = 1024  # samples of one spectrum, 64 ms
_LOWEST, _HIGHEST = 60.0, 8_000.0  # Hz
_RANGE_DB = 70.0


def write_preview(
    path: PathLike,
    frames: NDArray[np.uint8],
    frame_times: Sequence[float | Fraction] | NDArray[np.floating],
    sound: Sound,
    *,
    onsets: Sequence[float] = (),
    cuts: Sequence[float | Fraction] = (),
    title: str = "",
) -> Path:
    """Write a PNG of about 1320 x 700 pixels, complete or not at all. The time axis lies between PLOT_LEFT and PLOT_RIGHT.

    frames: uint8 [N, H, W, 3]; frame_times: seconds at which each is shown, rising. sound: in [-1, 1], read in pieces.
    onsets: seconds of what was detected in the sound, cuts: of what was in the picture, drawn through all rows. title: the
    caption.

    Returns the absolute path. Raises BadRequest (shapes), DiskFull, ForbiddenPath.
    """
    times = np.array([float(time) for time in frame_times])
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames) or len(frames) != len(times):
        raise BadRequest(f"A preview needs frames [N, H, W, 3] and N times, not {frames.shape} and {len(times)}.")
    if not sound.samples:
        raise BadRequest("A preview needs a sound that has samples.")
    duration = max(sound.samples / sound.sample_rate, 1e-3)

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=_PAPER)
    canvas = FigureCanvasAgg(figure)
    strip, waveform, spectrum = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [1.0, 1.0, 1.7], "hspace": 0.09}
    )
    figure.subplots_adjust(left=PLOT_LEFT, right=PLOT_RIGHT, top=0.9, bottom=0.085)
    _draw_strip(strip, frames, times, duration)
    _draw_wave(waveform, sound, duration)
    _draw_spectrum(spectrum, sound, duration)
    for axes in (strip, waveform, spectrum):
        _dress(axes, onsets, [float(cut) for cut in cuts], duration)
    strip.set_xlim(0, duration)
    figure.align_ylabels([strip, waveform, spectrum])
    spectrum.set_xlabel("seconds", color=_INK, fontsize=9)
    figure.text(PLOT_LEFT, 0.94, _shortened(title), color=_INK, fontsize=13, va="center")
    heard = f"{len(onsets)} onset{'' if len(onsets) == 1 else 's'} heard  ·  {duration:.2f} s"
    figure.text(PLOT_RIGHT, 0.94, heard, color=_ONSET if len(onsets) else _INK, fontsize=10, va="center", ha="right")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
        canvas.print_png(buffer)
    return write_bytes(path, buffer.getbuffer())


def _shortened(title: str) -> str:
    words = " ".join(title.split())
    # A dollar sign would start a formula.
    return (words if len(words) <= 100 else words[:99] + "…").replace("$", r"\$")


def _dress(axes: Axes, onsets: Sequence[float], cuts: Sequence[float], duration: float) -> None:
    axes.set_facecolor(_PAPER)
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    for times, colour, style in ((onsets, _ONSET, "solid"), (cuts, _CUT, "dashed")):
        inside = [float(time) for time in times if 0 <= time <= duration]
        place = axes.get_xaxis_transform()
        axes.vlines(inside, 0, 1, transform=place, color=colour, linewidth=1.1, alpha=0.85, linestyle=style)


def _draw_strip(axes: Axes, frames: NDArray[np.uint8], times: NDArray[np.float64], duration: float) -> None:
    """As many pictures side by side as fit undistorted; each the one shown at the middle of its place."""
    height, width = frames.shape[1:3]
    box = axes.get_window_extent()
    places = int(np.clip(round(box.width / box.height * height / width), 1, 48))
    centres = (np.arange(places) + 0.5) * duration / places
    shown = np.clip(np.searchsorted(times, centres, side="right") - 1, 0, len(frames) - 1)
    step = max(1, height // _STRIP_HEIGHT)
    gap = max(1, width // step // 50)
    pictures = [np.pad(frames[n][::step, ::step], ((0, 0), (gap, gap), (0, 0)), constant_values=23) for n in shown]
    axes.imshow(
        np.concatenate(pictures, axis=1),
        extent=(0, duration, 0, 1),
        aspect="auto",
        interpolation="bilinear",
        origin="upper",
    )
    axes.set_yticks([])
    axes.set_ylabel("picture", color=_INK, fontsize=9)


def _draw_wave(axes: Axes, sound: Sound, duration: float) -> None:
    columns = min(_COLUMNS, sound.samples)
    edges = [sound.samples * column // columns for column in range(columns + 1)]
    low, high = np.zeros(columns), np.zeros(columns)
    for column, (start, stop) in enumerate(pairwise(edges)):
        part = [sound.read(begin, end) for begin, end in _cut(start, stop)]
        low[column], high[column] = min(float(p.min()) for p in part), max(float(p.max()) for p in part)
    seconds = np.array(edges[:-1]) / sound.samples * duration
    top = max(0.05, float(np.maximum(-low, high).max()) * 1.08)
    axes.fill_between(seconds, low, high, color=_WAVE, linewidth=0.4)
    axes.axhline(0, color=_GRID, linewidth=0.6)
    axes.set_ylim(-top, top)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylabel("wave", color=_INK, fontsize=9)


def _cut(start: int, stop: int) -> list[tuple[int, int]]:
    return [(start + begin, start + end) for begin, end in pieces(stop - start)]


def _spectra(sound: Sound) -> tuple[NDArray[np.float64], float]:
    """Levels in dB, [_WINDOW / 2 + 1, columns], and the seconds from one column to the next.

    Each column is the loudest of the spectra around its instant; of a long sound no more are kept than can be seen.
    """
    rate = sound.sample_rate
    samples = round(sound.samples * _SPECTRUM_RATE / rate)
    hop = int(np.clip(samples // _COLUMNS, 64, _WINDOW // 2))
    together = max(1, samples // hop // _COLUMNS)  # spectra of one column
    columns: list[NDArray[np.float64]] = []
    step = hop * together * max(1, _SPECTRUM_PIECE // (hop * together))
    for start in range(0, max(1, samples), step):
        # Columns are centred on the instants 0, hop, 2 hop, …
        first, last = start - _WINDOW // 2, min(samples, start + step) + _WINDOW // 2 + hop
        own = sound.read(first * rate // _SPECTRUM_RATE, -(-last * rate // _SPECTRUM_RATE))
        if rate != _SPECTRUM_RATE:
            own = np.asarray(soxr.resample(own, rate, _SPECTRUM_RATE, quality="HQ"), np.float32)
        own = np.pad(own, (0, max(0, last - first - len(own))))[: last - first]
        blocks = np.lib.stride_tricks.sliding_window_view(own, _WINDOW)[::hop]
        blocks = blocks[: -(-min(step, samples - start) // hop)] if samples else blocks[:1]
        magnitude = np.abs(np.fft.rfft(blocks * np.hanning(_WINDOW), axis=1))
        loudest = np.maximum.reduceat(magnitude, np.arange(0, len(magnitude), together))
        columns += list(20 * np.log10(loudest / _WINDOW + 1e-7))
    return np.array(columns).T, hop * together / _SPECTRUM_RATE


def _draw_spectrum(axes: Axes, sound: Sound, duration: float) -> None:
    level, step = _spectra(sound)
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / _SPECTRUM_RATE)
    # Rows at equal steps of pitch, as one hears them.
    rows = np.geomspace(_LOWEST, _HIGHEST, 220)
    place = np.interp(rows, frequencies, np.arange(len(frequencies)))
    below = np.minimum(place.astype(int), len(frequencies) - 2)
    part = (place - below)[:, None]
    level = level[below] * (1 - part) + level[below + 1] * part
    loudest = max(float(level.max()), -60.0)
    half = step / 2
    axes.imshow(
        level,
        extent=(-half, 2 * half * level.shape[1] - half, np.log10(_LOWEST), np.log10(_HIGHEST)),
        aspect="auto",
        origin="lower",
        cmap="magma",
        vmin=loudest - _RANGE_DB,
        vmax=loudest,
        interpolation="bilinear",
    )
    ticks = [100, 300, 1_000, 3_000, 8_000]
    axes.yaxis.set_major_locator(FixedLocator(np.log10(ticks).tolist()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_hertz))
    axes.set_ylabel("Hz", color=_INK, fontsize=9)


def _hertz(position: float, _: object) -> str:
    frequency = round(10**position)
    return f"{frequency // 1000}k" if frequency >= 1000 else str(frequency)
