"""Broadcast WAV (EBU Tech 3285): the samples of a take as they are, under a `bext` chunk with a time reference."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vatt_core.errors import BadMedia, ForbiddenPath, InputNotVisible
from vatt_core.media.atomic import replacing

_BEXT = struct.Struct("<256s32s32s10s8sQH64s190s")
"""Description, originator, its reference, date, time, time reference, version, UMID, loudness and reserved: 602 bytes."""

_FORMAT = struct.Struct("<HHIIHH")
"""Format, channels, samples and bytes per second, bytes of all channels' samples, bits: what every `fmt ` chunk begins with."""

_LARGEST = (1 << 32) - 1
_DROPPED = (b"bext", b"JUNK", b"PAD ")


@dataclass(frozen=True)
class WaveFacts:
    """samples: per channel, at `sample_rate` Hz."""

    samples: int
    sample_rate: int
    channels: int
    bits: int


def wave_facts(path: Path) -> WaveFacts:
    """Length and format of a WAV. Raises InputNotVisible, ForbiddenPath, BadMedia."""
    with _open(path) as file:
        chunks = {name: (at, size) for name, at, size in _chunks(file, path)}
        if b"data" not in chunks or chunks.get(b"fmt ", (0, 0))[1] < _FORMAT.size:
            raise BadMedia(f"{path} is no complete WAV. Make the take again.")
        file.seek(chunks[b"fmt "][0])
        _, channels, rate, _, block, bits = _FORMAT.unpack(file.read(_FORMAT.size))
    if not block or not rate or not channels:
        raise BadMedia(f"{path} does not say its format. Make the take again.")
    return WaveFacts(chunks[b"data"][1] // block, rate, channels, bits)


def stamp(source: Path, target: Path, *, time_reference: int, description: str, reference: str) -> Path:
    """Copy a WAV with a time reference (samples from midnight to its first sample); the samples stay bit for bit.

    description: up to 256 characters of ASCII, others are replaced. reference: tells this file from others, 32
    characters. Raises InputNotVisible, ForbiddenPath, BadMedia, DiskFull, BadRequest.
    """
    made = time.gmtime(source.stat().st_mtime)
    bext = _BEXT.pack(
        description.encode("ascii", "replace")[:256], b"VATT", reference.encode("ascii", "replace")[:32],
        time.strftime("%Y-%m-%d", made).encode(), time.strftime("%H:%M:%S", made).encode(),
        time_reference, 1, b"", b"",
    )  # fmt: skip
    with _open(source) as file, replacing(target) as temporary:
        kept = [chunk for chunk in _chunks(file, source) if chunk[0] not in _DROPPED]
        size = 4 + 8 + len(bext) + sum(8 + length + length % 2 for _, _, length in kept)
        if size > _LARGEST:
            raise BadMedia(
                f"{source} is larger than a Broadcast WAV of this kind may be (4 GiB). Export a shorter range."
            )
        with temporary.open("wb") as out:
            out.write(b"RIFF" + struct.pack("<I", size) + b"WAVE")
            out.write(b"bext" + struct.pack("<I", len(bext)) + bext)
            for name, at, length in kept:
                out.write(name + struct.pack("<I", length))
                file.seek(at)
                _copy(file, out, length)
                out.write(b"\0" * (length % 2))
    return target


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    block = 1 << 20
    while length > 0:
        data = source.read(min(block, length))
        if not data:
            raise BadMedia("The WAV ends before it says it does. Make the take again.")
        target.write(data)
        length -= len(data)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError:
        raise ForbiddenPath(f"{path} may not be read. Give yourself the right to read it.") from None
    except OSError as error:
        raise InputNotVisible(f"{path} cannot be read ({error.strerror}).") from None


def _chunks(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of the content, its bytes) of each chunk. RF64's data chunk is as long as its ds64 chunk says."""
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise BadMedia(f"{path} is no WAV file, and only those can be exported. Make the take as one ('--format wav').")
    whole = file.seek(0, 2)
    at, long_data = 12, None
    while at + 8 <= whole:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"ds64" and size >= 16:
            _, long_data = struct.unpack("<QQ", file.read(16))
        if name == b"data" and size == _LARGEST and long_data is not None:
            size = long_data
        if at + 8 + size > whole:
            raise BadMedia(f"{path} is cut off: it ends before it says it does. Make the take again.")
        if name != b"ds64":
            yield name, at + 8, size
        at += 8 + size + size % 2
