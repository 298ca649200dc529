"""What was computed once and may be needed again, on disk: bounded, safe to delete at any time, never trusted blindly.

An entry's name is a hash of everything that it depends on (content of the clip, range, model), so a clip that changes
under the same name simply has other entries. A damaged entry counts as none. Trouble with the disk is the cache's own:
nothing fails because of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vatt_core.files import fingerprint

log = logging.getLogger(__name__)

_SUFFIX = ".entry"
_FULL = 0.95  # share of the limit from which on there is too much: a twentieth may come until the next look
_LEFT = 0.85  # share that is kept then
_ABANDONED = 3600.0  # seconds after which a part that nobody finished is removed


def cache_key(**parts: Any) -> str:
    """The name of an entry, from plain values that it depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class ClipIdentity:
    """What a file holds at one moment, and whether it still does.

    content: of the whole file; of one of 256 MiB and more the fingerprint of its samples with its times of change.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = _status(path)
        found = fingerprint(path)
        self.content = found if found.startswith("sha256:") else f"{found}:{self._status}"

    def unchanged(self) -> bool:
        """Whether the file has been the same one since: only then may be kept what was made from it meanwhile."""
        try:
            return _status(self._path) == self._status
        except OSError:
            return False


def _status(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


class Cache:
    """Entries of bytes in a folder that several processes may share, `limit` bytes in all, the least recently used ones
    given up first. A limit of 0 keeps nothing."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._added = limit  # look at what is there with the first entry

    def get(self, key: str) -> bytes | None:
        """An entry, or None. What is damaged is removed."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                path.unlink()
                return None
            os.utime(path)
        except OSError:
            return None
        return data[32:]

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry, as far as the disk lets us."""
        size = len(value) + 32
        if size > self._limit:
            return
        path = self._path(key)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(value).digest() + value)
            os.replace(part, path)
        except OSError as error:
            log.warning("the cache %s cannot be written: %s", self._folder, error)
            with suppress(OSError):
                part.unlink()
            return
        with self._lock:
            # Others write here too: everything is counted again whenever our own entries have added a twentieth.
            self._added += size
            if self._added > self._limit // 20:
                self._shrink()
                self._added = 0

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{_SUFFIX}"

    def _shrink(self) -> None:
        """Remove what has been unused for longest where there is nearly too much."""
        entries = sorted(self._entries())
        size = sum(length for _, length, _ in entries)
        if size <= self._limit * _FULL:
            return
        for _, length, path in entries:
            with suppress(OSError):
                path.unlink()
                size -= length
            if size <= self._limit * _LEFT:
                return

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of every entry; removes parts that a killed process has left."""
        with suppress(OSError):
            for folder in list(os.scandir(self._folder)):
                if not folder.is_dir(follow_symlinks=False):
                    continue
                for item in os.scandir(folder.path):
                    with suppress(OSError):
                        found = item.stat(follow_symlinks=False)
                        if item.name.endswith(_SUFFIX):
                            yield found.st_mtime, found.st_size, Path(item.path)
                        elif item.name.endswith(".part") and time.time() - found.st_mtime > _ABANDONED:
                            os.unlink(item.path)
