"""Names, fingerprints, and outputs that appear together or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from vatt_core.media.atomic import writing_error

WHOLE = 256 << 20
"""Bytes up to which a clip is hashed as a whole; of a longer one, which may be hundreds of gigabytes, samples."""

LONGEST_STEM = 224
"""Bytes of what files are named after. The number, the suffix and the mark of an unfinished file still fit into the 255
that usual file systems allow."""

_SAMPLES = 16
_SAMPLE = 1 << 20


def content_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """What tells a clip from others: "sha256:…" of all of it; from 256 MiB on "samples:…" of its length and 16 MiB,
    evenly taken. Remembered as long as it is the same file, of the same size, not written to since."""
    status = path.stat()
    # The time of the last write can be set to anything (copying tools do); that of the last change cannot.
    return _fingerprint(path, status.st_size, (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev))


@lru_cache(maxsize=64)
def _fingerprint(path: Path, size: int, state: tuple[int, ...]) -> str:
    if size <= WHOLE:
        return f"sha256:{content_hash(path)}"
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return f"samples:{digest.hexdigest()}"


def short_stem(stem: str) -> str:
    """The stem itself; of one that leaves no room for what is added to it, the beginning, and a part of its hash, by which
    clips whose names begin alike are told apart."""
    name = os.fsencode(stem)
    if len(name) <= LONGEST_STEM:
        return stem
    mark = f"~{hashlib.sha256(name).hexdigest()[:8]}"
    return name[: LONGEST_STEM - len(mark)].decode("utf-8", "ignore") + mark


def free_names(folder: Path, stem: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Paths `STEM-take-N` + each suffix, with the first N for which none of them exists. A long stem is cut.

    Raises ForbiddenPath when the folder may not be looked into.
    """
    stem, number = short_stem(stem), 1
    while True:
        names = {suffix: folder / f"{stem}-take-{number}{suffix}" for suffix in suffixes}
        try:
            if not any(path.exists() for path in names.values()):
                return names
        except OSError as error:
            raise writing_error(folder, error) from error
        number += 1


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[list[Path]]:
    """Make `folder` and yield a list for the paths about to be written. When the block fails, those and the folders that
    were made go again. Raises ForbiddenPath, DiskFull or BadRequest when the folder cannot be made."""
    made: list[Path] = []
    written: list[Path] = []
    try:
        try:
            for path in (*reversed(folder.parents), folder):
                if not path.is_dir():
                    path.mkdir(exist_ok=True)
                    made.append(path)
        except OSError as error:
            raise writing_error(folder, error) from error
        yield written
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()  # unless somebody else has put something there
        raise
