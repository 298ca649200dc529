"""Real clips whose every frame carries its own number, in blocks that survive lossy coding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

COLUMNS, ROWS = 4, 3  # twelve bits


def number_picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 [height, width, 3]: the binary digits of `number` as dark and bright blocks, row by row."""
    bits = np.array([number >> bit & 1 for bit in range(COLUMNS * ROWS)]).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grey = np.where(bits[rows][:, columns], 220, 30).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def read_number(picture: np.ndarray) -> int:
    """The number in an upright picture of any size."""
    height, width = picture.shape[:2]
    grey = picture.mean(axis=2)
    number = 0
    for bit in range(COLUMNS * ROWS):
        row, column = divmod(bit, COLUMNS)
        y, x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
        number |= int(grey[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean() > 125) << bit
    return number


def read_numbers(pictures: np.ndarray) -> list[int]:
    return [read_number(picture) for picture in pictures]


def write_clip(
    path: Path,
    *,
    frames: int = 50,
    rate: Fraction | int = 25,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    group: int = 12,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int | None = None,
    pixel_aspect: Fraction | None = None,
    sound: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    picture_format: str = "rgb24",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a clip; frame n shows the number n, at n / rate or at pts[n] * time_base."""
    rate = Fraction(rate)
    settings: dict[str, Any] = {"options": options or {}}
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, **settings)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.gop_size = group
        if pts is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        if pixel_aspect is not None:
            stream.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sound_codec = "libopus" if path.suffix == ".webm" else "aac"
        audio = container.add_stream(sound_codec, rate=48_000, layout="mono") if sound else None
        for number in range(frames):
            picture = pictures[number] if pictures is not None else number_picture(number, *size)
            frame = av.VideoFrame.from_ndarray(picture, format=picture_format)
            frame.pts = number if pts is None else pts[number]
            frame.time_base = 1 / rate if pts is None else time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            tone = np.sin(np.arange(round(frames / rate * 48_000)) / 20)[None].astype(np.float32) / 4
            for begin in range(0, tone.shape[1], 960):
                block = av.AudioFrame.from_ndarray(np.repeat(tone[:, begin : begin + 960], 1, 0), "fltp", "mono")
                block.sample_rate, block.pts = 48_000, begin
                container.mux(audio.encode(block))
            container.mux(audio.encode())
    return path
