"""Sound on disk and in memory: exact lengths, Broadcast WAV, resampling.

A wave is float32 in [-1, 1], [samples] or [channels, samples].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal, cast

import av
import av.container
import av.error
import numpy as np
import soxr
from numpy.typing import NDArray

from vatt_core.errors import BadMedia, BadRequest, LimitsExceeded
from vatt_core.media.atomic import replacing
from vatt_core.media.guarded import guardable
from vatt_core.media.opening import DECODING_ERRORS, MediaLimits, PathLike, damaged, open_decoder, open_input

Wave = NDArray[np.float32]
Bits = Literal[16, 24, 32]
Container = Literal["wav", "flac"]

_BLOCK = 1 << 16  # samples handed to the encoder at once
_ENCODERS = {16: ("pcm_s16le", "s16"), 24: ("pcm_s24le", "s32"), 32: ("pcm_f32le", "flt")}
_MOST_CHANNELS = 8


def write_wave(
    path: PathLike,
    wave: NDArray[np.floating],
    *,
    sample_rate: int,
    bits: Bits = 24,
    container: Container = "wav",
    time_reference: int | None = None,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dither: np.random.Generator | None = None,
) -> Path:
    """Write a sound file of exactly the wave's samples, complete or not at all.

    wave: [samples] or [channels, samples]; what lies outside [-1, 1] is clipped for 16 and 24 bits.
    bits: 16, 24, or 32 for float. container: "wav", or "flac", which has no 32 bits. time_reference: samples from midnight
    to the first sample; makes a WAV a Broadcast WAV (EBU Tech 3285) whose `bext` chunk carries it. description: the
    chunk's 256 characters of text. metadata: further bext or INFO fields by FFmpeg's names (originator, title, …).
    dither: adds triangular noise of one step before 16-bit rounding, drawn from this generator.

    Returns the absolute path. Raises BadRequest (not finite, no samples, rate), DiskFull, ForbiddenPath.
    """
    rows = _checked(wave, sample_rate)
    return write_pieces(
        path,
        (rows[:, begin : begin + _BLOCK] for begin in range(0, rows.shape[1], _BLOCK)),
        channels=len(rows),
        sample_rate=sample_rate,
        bits=bits,
        container=container,
        time_reference=time_reference,
        description=description,
        metadata=metadata,
        dither=dither,
    )


def write_pieces(
    path: PathLike,
    pieces: Iterable[NDArray[np.floating]],
    *,
    channels: int,
    sample_rate: int,
    bits: Bits = 24,
    container: Container = "wav",
    time_reference: int | None = None,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dither: np.random.Generator | None = None,
) -> Path:
    """`write_wave` of a sound that comes in pieces [samples] or [channels, samples]; memory does not grow with it."""
    if container not in ("wav", "flac"):
        raise BadRequest(f"A sound cannot be written as {container}. Choose wav or flac.")
    if bits not in _ENCODERS or (container == "flac" and bits == 32):
        raise BadRequest(f"A {container.upper()} of {bits} bits cannot be written. Choose 16, 24 or (WAV) 32, float.")
    if time_reference is not None and not 0 <= time_reference < 1 << 63:
        raise BadRequest(f"A time reference of {time_reference} samples cannot be written. Count from midnight.")
    fields = dict(metadata or {})
    if description is not None:
        fields["description"] = description
    options = {"fflags": "+bitexact"}
    if container == "wav":
        options |= {"rf64": "auto", "write_bext": "0" if time_reference is None else "1"}
    if time_reference is not None:
        fields["time_reference"] = str(time_reference)
    codec, sample_format = _ENCODERS[bits]
    if container == "flac":
        codec, sample_format = "flac", {16: "s16", 24: "s32"}[bits]
    layout = "mono" if channels == 1 else "stereo" if channels == 2 else f"{channels} channels"
    written = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        target = _Target(file)
        with av.open(target, "w", format=container, options=options) as output:
            output.metadata.update(fields)
            stream = cast(av.AudioStream, output.add_stream(codec, rate=sample_rate, layout=layout))
            for piece in pieces:
                rows = _checked(piece, sample_rate)
                samples = _quantised(rows, bits, dither)
                packed = np.ascontiguousarray(samples.T).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = sample_rate, written, Fraction(1, sample_rate)
                written += rows.shape[1]
                output.mux(stream.encode(frame))
                target.check()
            output.mux(stream.encode())
        target.check()
        if not written:
            raise BadRequest("A sound without samples cannot be written.")
    return Path(path).expanduser().absolute()


class _Target:
    """The file that a container writes to. The library may pass over a failed write; here none is forgotten."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = self._error or error
            return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        if self._error is None:
            try:
                self._file.flush()
            except OSError as error:
                self._error = error
        if self._error is not None:
            raise self._error


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
        # The same in all channels, or dual mono would no longer be the same twice.
        steps = steps + dither.random(wave.shape[-1]) - dither.random(wave.shape[-1])
    whole = np.clip(np.rint(steps), -top, top - 1).astype(np.int32)
    return whole.astype(np.int16) if bits == 16 else whole << 8  # the 24-bit encoders read the upper three bytes


def read_wave(path: PathLike, *, sample_rate: int, limits: MediaLimits | None = None) -> Wave:
    """Read the first sound stream of any media file, mixed to one channel, at `sample_rate`.

    Begins at the stream's first sample. Returns float32 [samples]. Raises BadMedia (no sound, damaged),
    LimitsExceeded (longer than limits.sound_seconds), and what open_input raises.
    """
    rate, wave = read_sound(path, limits=limits)
    return resample(wave, rate, sample_rate)


@guardable
def read_sound(path: PathLike, *, limits: MediaLimits | None = None) -> tuple[int, Wave]:
    """`read_wave` at the sound's own rate: (rate, float32 [samples]). 16 and 24 bits come back exactly."""
    limits = limits or MediaLimits()
    with open_input(path, limits) as container:
        if not container.streams.audio:
            raise BadMedia(f"{path} holds no sound.")
        stream = container.streams.audio[0]
        open_decoder(stream, path, limits)
        rate = stream.codec_context.sample_rate
        if not rate:
            raise BadMedia(f"{path} does not say its sample rate. Export the sound again.")
        return rate, np.concatenate(list(_blocks(container, stream, path, rate, limits)))


def _blocks(
    container: av.container.InputContainer, stream: av.AudioStream, path: PathLike, rate: int, limits: MediaLimits
) -> Iterator[Wave]:
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
                    rows = converted.to_ndarray()
                    block = rows[0] if len(rows) == 1 else rows.mean(axis=0, dtype=np.float32)
                    count += len(block)
                    if count > limits.sound_seconds * rate:
                        raise LimitsExceeded(
                            f"{path} lasts longer than the {limits.sound_seconds} s that are read. Cut it first."
                        )
                    yield block
    except DECODING_ERRORS as error:
        raise damaged(path, error) from None
    if not count:
        raise BadMedia(f"No sound of {path} can be decoded. Copy or export it again.")


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
