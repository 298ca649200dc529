"""A Motion-JPEG AVI written picture by picture, so that a proxy can be rendered a frame at a time. Pure: no bpy.

Layout after the AVI RIFF file reference of Microsoft (hdrl with avih, strh and strf; movi; idx1).
"""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

LARGEST = 2**31 - 2**24
"""Bytes; players read plain AVI up to 2 GiB."""
KEY_FRAME = 0x10
HAS_INDEX = 0x10


class TooLarge(Exception):
    """The file would outgrow the format."""


class AviWriter:
    """Pictures of one size at an exact rate. The file has its name only once it is whole."""

    def __init__(self, path: Path, *, size: tuple[int, int], rate: Fraction) -> None:
        self._path, self._size, self._rate = path, size, rate
        self._part = path.with_name(path.name + ".part")
        self._offsets: list[tuple[int, int]] = []
        self._file = self._part.open("wb")
        self._file.write(self._header(0, 0))
        self._movie = self._file.tell() - 4  # offsets of the index count from the word 'movi'

    @property
    def frames(self) -> int:
        return len(self._offsets)

    def add(self, jpeg: bytes) -> None:
        """Append a picture. Raises TooLarge, OSError."""
        offset = self._file.tell()
        if offset + len(jpeg) > LARGEST:
            raise TooLarge("The strip is too long for a proxy: cut it, or generate a range of it.")
        self._offsets.append((offset - self._movie, len(jpeg)))
        self._file.write(_chunk(b"00dc", jpeg))

    def close(self) -> Path:
        """Write the index and give the file its name."""
        end = self._file.tell()
        entries = b"".join(struct.pack("<4sIII", b"00dc", KEY_FRAME, *entry) for entry in self._offsets)
        self._file.write(_chunk(b"idx1", entries))
        total = self._file.tell()
        self._file.seek(0)
        self._file.write(self._header(total, end))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)
        return self._path

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _header(self, total: int, end_of_movie: int) -> bytes:
        width, height = self._size
        count = len(self._offsets)
        largest = max((length for _, length in self._offsets), default=0)
        rate, scale = self._rate.numerator, self._rate.denominator
        main = struct.pack(
            "<14I", round(1_000_000 / self._rate), 0, 0, HAS_INDEX, count, 0, 1, largest, width, height, 0, 0, 0, 0
        )
        stream = struct.pack(
            "<4s4sIHHIIIIIIII4H",
            b"vids", b"MJPG", 0, 0, 0, 0, scale, rate, 0, count, largest, 0xFFFFFFFF, 0, 0, 0, width, height,
        )  # fmt: skip
        bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
        streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", bitmap))
        head = _list(b"hdrl", _chunk(b"avih", main) + streams)
        movie_size = max(4, end_of_movie - (12 + len(head) + 8))
        movie = struct.pack("<4sI4s", b"LIST", movie_size, b"movi")
        return struct.pack("<4sI4s", b"RIFF", max(0, total - 8), b"AVI ") + head + movie


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI4s", b"LIST", len(data) + 4, name) + data
