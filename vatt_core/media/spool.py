"""A mono sound that need not fit into memory: written as it comes, read in pieces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vatt_core.media.atomic import writing_error

Wave = NDArray[np.float32]

IN_MEMORY = 4 << 20
"""Bytes up to which a spool stays in memory: 22 seconds at 48 kHz."""

PIECE = 1 << 18
"""Samples of one piece, where a whole sound is gone through."""


class Sound(Protocol):
    """What can be read in pieces."""

    sample_rate: int

    @property
    def samples(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> Wave:
        """Samples [start, stop), zeros where that lies outside the sound."""
        ...


class Held:
    """A sound that lies in memory anyway."""

    def __init__(self, wave: NDArray[np.floating], sample_rate: int) -> None:
        self.wave = np.asarray(wave, np.float32)
        self.sample_rate = sample_rate

    @property
    def samples(self) -> int:
        return len(self.wave)

    def read(self, start: int, stop: int) -> Wave:
        first, last = max(0, start), max(0, min(stop, self.samples))
        inside = self.wave[first:last] if first < last else self.wave[:0]
        return padded(inside, start, stop, first)


class Spool:
    """A sound that grows at its end. It lies in memory while it is short, then in a nameless file in `folder` (None: where
    temporary files go), which the system removes however this process ends. Raises DiskFull and what `writing_error` tells."""

    def __init__(self, sample_rate: int, folder: Path | None = None) -> None:
        self.sample_rate = sample_rate
        self._folder = folder or Path(tempfile.gettempdir())
        self._samples = 0
        try:
            self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self._folder))  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise writing_error(self._folder, error) from error

    @property
    def samples(self) -> int:
        return self._samples

    def append(self, wave: NDArray[np.floating]) -> None:
        """Add samples [N] at the end. Raises DiskFull, ForbiddenPath, BadRequest."""
        data = np.ascontiguousarray(wave, np.float32)
        try:
            self._file.seek(0, 2)
            self._file.write(data.tobytes())
        except OSError as error:
            raise writing_error(self._folder, error) from error
        self._samples += len(data)

    def read(self, start: int, stop: int) -> Wave:
        first, last = max(0, start), max(0, min(stop, self._samples))
        inside = np.zeros(0, np.float32)
        if first < last:
            try:
                self._file.seek(first * 4)
                inside = np.frombuffer(self._file.read((last - first) * 4), np.float32)
            except OSError as error:
                raise writing_error(self._folder, error) from error
        return padded(inside, start, stop, first)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def padded(inside: Wave, start: int, stop: int, first: int) -> Wave:
    """Samples that begin at `first`, with zeros before and after to fill [start, stop)."""
    if len(inside) == stop - start:
        return inside
    before = min(stop - start, max(0, first - start)) if len(inside) else 0
    return np.pad(inside, (before, stop - start - before - len(inside)))


def pieces(samples: int, piece: int = PIECE) -> Iterator[tuple[int, int]]:
    """(start, stop) of the pieces of a sound, in order."""
    for start in range(0, samples, piece):
        yield start, min(samples, start + piece)
