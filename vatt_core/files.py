"""Names and fingerprints of files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from vatt_core.media.atomic import writing_error


def content_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits. Remembered as long as size and time of change stay the same."""
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_names(folder: Path, stem: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Paths `STEM-take-N` + each suffix, with the first N for which none of them exists. Makes the folder where needed.

    Raises ForbiddenPath or DiskFull when the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    number = 1
    while True:
        names = {suffix: folder / f"{stem}-take-{number}{suffix}" for suffix in suffixes}
        if not any(path.exists() for path in names.values()):
            return names
        number += 1
