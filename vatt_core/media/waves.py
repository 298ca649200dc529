"""Sound on disk and in memory: exact lengths, Broadcast WAV, resampling.

A wave is float32 in [-1, 1], [samples] or [channels, samples].
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import av.error
import numpy as np
import soxr
from numpy.typing import NDArray

from vatt_core.errors import BadMedia, BadRequest, LimitsExceeded
from vatt_core.media.atomic import write_bytes
from vatt_core.media.opening import DECODING_ERRORS, MediaLimits, PathLike, damaged, open_decoder, open_input

Wave = NDArray[np.float32]
Bits = Literal[16, 24, 32]

_BLOCK = 1 << 16  # samples handed to the encoder at once
_ENCODERS = {16: ("pcm_s16le", "s16"), 24: ("pcm_s24le", "s32"), 32: ("pcm_f32le", "flt")}
_MOST_CHANNELS = 8


def write_wave(
    path: PathLike,
    wave: NDArray[np.floating],
    *,
    sample_rate: int,
    bits: Bits = 24,
    time_reference: int | None = None,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dither: np.random.Generator | None = None,
) -> Path:
    """Write a WAV of exactly the wave's samples, complete or not at all.

    wave: [samples] or [channels, samples]; what lies outside [-1, 1] is clipped for 16 and 24 bits.
    bits: 16, 24, or 32 for float. time_reference: samples from midnight to the first sample; makes the file a
    Broadcast WAV (EBU Tech 3285) whose `bext` chunk carries it. description: the chunk's 256 characters of text.
    metadata: further bext or INFO fields by FFmpeg's names (originator, title, comment, …).
    dither: adds triangular noise of one step before 16-bit rounding, drawn from this generator.

    Returns the absolute path. Raises BadRequest (not finite, no samples, rate), DiskFull, ForbiddenPath.
    """
    wave = _checked(wave, sample_rate)
    if bits not in _ENCODERS:
        raise BadRequest(f"A WAV of {bits} bits cannot be written. Choose 16, 24 or 32 (float).")
    if time_reference is not None and not 0 <= time_reference < 1 << 63:
        raise BadRequest(f"A time reference of {time_reference} samples cannot be written. Count from midnight.")
    fields = dict(metadata or {})
    if description is not None:
        fields["description"] = description
    if time_reference is not None:
        fields["time_reference"] = str(time_reference)
    data = _encoded(_quantised(wave, bits, dither), sample_rate, bits, fields, broadcast=time_reference is not None)
    return write_bytes(path, data)


def _checked(wave: NDArray[np.floating], sample_rate: int) -> NDArray[np.float64]:
    wave = np.asarray(wave)
    if wave.ndim not in (1, 2) or wave.dtype.kind != "f":
        raise BadRequest(
            f"A wave of shape {wave.shape} and type {wave.dtype} cannot be written. Give floats [samples]."
        )
    rows: NDArray[np.float64] = np.atleast_2d(wave).astype(np.float64)
    if not rows.shape[1] or not 1 <= rows.shape[0] <= _MOST_CHANNELS:
        raise BadRequest(f"A wave of {rows.shape[0]} channels and {rows.shape[1]} samples cannot be written.")
    if not np.isfinite(rows).all():
        raise BadRequest("The wave holds values that are no finite numbers. Make it again.")
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or not 1_000 <= sample_rate <= 384_000:
        raise BadRequest(f"A sample rate of {sample_rate} cannot be written. Give whole samples per second, as 48000.")
    return rows


def _quantised(wave: NDArray[np.float64], bits: Bits, dither: np.random.Generator | None) -> NDArray[np.generic]:
    if bits == 32:
        return wave.astype(np.float32)
    top = 1 << (bits - 1)
    steps = wave * top
    if dither is not None and bits == 16:
        steps = steps + dither.random(wave.shape) - dither.random(wave.shape)
    whole = np.clip(np.rint(steps), -top, top - 1).astype(np.int32)
    return whole.astype(np.int16) if bits == 16 else whole << 8  # the 24-bit encoder reads the upper three bytes


def _encoded(
    samples: NDArray[np.generic], sample_rate: int, bits: Bits, fields: dict[str, str], *, broadcast: bool
) -> memoryview:
    codec, sample_format = _ENCODERS[bits]
    layout = "mono" if len(samples) == 1 else "stereo" if len(samples) == 2 else f"{len(samples)} channels"
    buffer = io.BytesIO()
    options = {"rf64": "auto", "write_bext": "1" if broadcast else "0", "fflags": "+bitexact"}
    with av.open(buffer, "w", format="wav", options=options) as container:
        container.metadata.update(fields)
        stream = cast(av.AudioStream, container.add_stream(codec, rate=sample_rate, layout=layout))
        for begin in range(0, samples.shape[1], _BLOCK):
            block = samples[:, begin : begin + _BLOCK]
            packed = np.ascontiguousarray(block.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, begin, Fraction(1, sample_rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getbuffer()


def read_wave(path: PathLike, *, sample_rate: int, limits: MediaLimits | None = None) -> Wave:
    """Read the first sound stream of any media file, mixed to one channel, at `sample_rate`.

    Begins at the stream's first sample. Returns float32 [samples]. Raises BadMedia (no sound, damaged),
    LimitsExceeded (longer than limits.sound_seconds), and what open_input raises.
    """
    limits = limits or MediaLimits()
    blocks: list[Wave] = []
    with open_input(path, limits) as container:
        if not container.streams.audio:
            raise BadMedia(f"{path} holds no sound.")
        stream = container.streams.audio[0]
        open_decoder(stream, path, limits)
        rate = stream.codec_context.sample_rate
        if not rate:
            raise BadMedia(f"{path} does not say its sample rate. Export the sound again.")
        to_float = av.AudioResampler(format="fltp", rate=rate)
        count = 0
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    frame.pts = None
                    for converted in to_float.resample(frame):
                        block = converted.to_ndarray().mean(axis=0, dtype=np.float32)
                        count += len(block)
                        if count > limits.sound_seconds * rate:
                            raise LimitsExceeded(
                                f"{path} lasts longer than the {limits.sound_seconds} s that are read. Cut it first."
                            )
                        blocks.append(block)
        except DECODING_ERRORS as error:
            raise damaged(path, error) from None
    if not blocks:
        raise BadMedia(f"No sound of {path} can be decoded. Copy or export it again.")
    return resample(np.concatenate(blocks), rate, sample_rate)


def resample(wave: NDArray[np.floating], from_rate: int, to_rate: int) -> Wave:
    """Change the sample rate (soxr, high quality, no delay): round(samples * to_rate / from_rate) samples."""
    wave = np.asarray(wave, np.float32)
    samples = round(Fraction(wave.shape[-1] * to_rate, from_rate))
    if from_rate == to_rate or not wave.shape[-1]:
        return fit_length(wave, samples)
    return fit_length(np.asarray(soxr.resample(wave.T, from_rate, to_rate, quality="HQ"), np.float32).T, samples)


def fit_length(wave: NDArray[np.floating], samples: int) -> Wave:
    """Cut or extend with silence at the end to exactly `samples` (last axis)."""
    wave = np.asarray(wave, np.float32)
    missing = samples - wave.shape[-1]
    if missing <= 0:
        return wave[..., :samples]
    return np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, missing)])
