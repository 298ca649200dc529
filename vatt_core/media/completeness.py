"""Does a file end before its container says it does?

Decoders read a truncated Matroska or AVI file without a word, only shorter. The containers, though, state how many
bytes they have; these functions read only those few bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_EBML_SEGMENT = 0x18538067


def missing_bytes(path: Path) -> str | None:
    """A clause that says what is missing ("it says …"), or None where the container's sizes add up.

    MP4/MOV (ISO 14496-12 boxes), Matroska/WebM (EBML, RFC 8794), AVI (RIFF), MPEG-TS (whole packets). A transport
    stream that was cut exactly between two packets, or a live recording of unknown length, cannot be told apart from
    a shorter recording.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
            return _boxes(file, size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _ebml(file, size)
        if head[:4] == b"RIFF":
            return _riff(file, size)
        return _transport_stream(file, size)


def _said(declared: int, size: int) -> str:
    return f"it says that it has {declared} bytes, {size} are there"


def _boxes(file: BinaryIO, size: int) -> str | None:
    position, kinds = 0, set()
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1:
            length = struct.unpack(">Q", header[8:16])[0] if len(header) == 16 else 0
        elif length == 0:  # the box reaches to the end of the file
            length = size - position
        if length < 8 or not kind.isascii():
            break  # bytes after the last box; players pass over them
        if position + length > size:
            return _said(position + length, size)
        kinds.add(kind)
        position += length
    if b"moov" not in kinds:
        return "its index (moov) was never written"
    return None


def _ebml_number(data: bytes, position: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """The variable-length number at `position` and the position after it; None for 'unknown'."""
    if position >= len(data) or data[position] == 0:
        raise ValueError("no EBML number")
    length = 9 - data[position].bit_length()
    raw = data[position : position + length]
    if len(raw) < length:
        raise ValueError("cut EBML number")
    value = int.from_bytes(raw, "big")
    if not keep_marker:
        value &= (1 << 7 * length) - 1
        if value == (1 << 7 * length) - 1:
            return None, position + length
    return value, position + length


def _ebml(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    data = file.read(4096)
    position = 0
    try:
        while True:
            kind, position = _ebml_number(data, position, keep_marker=True)
            length, position = _ebml_number(data, position, keep_marker=False)
            if length is None:
                return None
            if kind == _EBML_SEGMENT:
                return _said(position + length, size) if position + length > size else None
            position += length
    except ValueError:
        return "it ends inside its header" if size < 4096 else None


def _riff(file: BinaryIO, size: int) -> str | None:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):
            return None
        if position + 8 + length > size:
            return _said(position + 8 + length, size)
        position += 8 + length + length % 2
    return None


def _transport_stream(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    data = file.read(204 * 5)
    for packet, offset in ((188, 0), (192, 4), (204, 0)):
        syncs = data[offset::packet]
        if len(syncs) >= 4 and set(syncs) == {0x47} and size % packet:
            return f"its last packet has {size % packet} of {packet} bytes"
    return None
