"""Files that clients send in chunks, because the daemon cannot see them; and takes that they fetch the same way.

An upload is known by its owner, name, length and hash, so that the same file is the same upload: what has come of it stays when
a connection or the daemon breaks off. `ID.json` says whose it is, `ID.part` holds what has come, and `ID/NAME` is there once
the hash was right. Nothing here is asynchronous: it is called in threads, one at a time for each upload (see transfers.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vatt_client.connection import write_private
from vatt_client.errors import BadRequest, Busy
from vatt_client.transfers import UPLOAD, Chunk, Upload

from vatt_core.errors import DiskFull, InputNotVisible, LimitsExceeded, NotFound
from vatt_core.media.atomic import writing_error
from vatt_daemon.places import Places
from vatt_daemon.settings import TransferSettings

SPARE = 256 << 20
"""Bytes of the disk that uploads leave free, for the database and for what jobs write."""
RECENT = 60.0
"""Seconds for which something that was just used is not removed to make room: its job is about to be submitted."""


@dataclass(frozen=True)
class _About:
    """Whose an upload is, and what it will be. beside: the upload in whose folder it lies, if not in its own. used: when it
    was last asked for, seconds since 1970."""

    identity: str
    client: str
    name: str
    size: int
    sha256: str
    beside: str | None
    used: float


@dataclass(frozen=True)
class _Kept:
    """Something that takes space: an upload or the files of a job. needed_as: the id by which a job would need it."""

    needed_as: str
    identity: str
    size: int
    used: float
    remove: Callable[[], None]


class Uploads:
    """The uploads and results on disk. `open_work`: references and ids that jobs which have not ended need."""

    def __init__(
        self, places: Places, settings: TransferSettings, open_work: Callable[[], Collection[str]], *, file_bytes: int
    ) -> None:
        """file_bytes: the largest clip that is read at all."""
        self.places = places
        self._folder = places.uploads
        self._settings = settings
        self._open_work = open_work
        self._largest = min(settings.file_bytes, file_bytes)

    # ---- coming in -------------------------------------------------------------------------------------------------

    def begin(self, message: Upload, client: str) -> tuple[str, int, bool]:
        """(id, bytes that are there, whether it is complete). Raises LimitsExceeded, Busy, DiskFull."""
        identity = identify(message, client)
        known = self._read(identity)
        if known is not None and self._is_complete(known):
            os.utime(self._about_file(identity))
            return identity, message.size, True
        if message.size > self._largest:
            raise LimitsExceeded(
                f"The file has {message.size} bytes; the daemon takes {self._largest} at most (transfers.file_bytes, "
                "media.file_bytes).",
                size=message.size,
                largest=self._largest,
            )
        if known is None:
            self._make_room(message.size)
            if message.beside is not None:
                self._own(message.beside, client)
            body: dict[str, Any] = {"client": client, "name": message.name, "size": message.size}
            body |= {"sha256": message.sha256.hex(), "beside": message.beside}
            with _writing(self._folder):
                write_private(self._about_file(identity), json.dumps(body).encode())
        else:
            os.utime(self._about_file(identity))
        return identity, self._present(identity), False

    def add(self, message: Chunk, client: str) -> int:
        """Write the next bytes; how many are there now. Raises NotFound, BadRequest with the right offset, DiskFull."""
        about = self._own(message.upload, client)
        present = about.size if self._is_complete(about) else self._present(message.upload)
        if message.offset != present:
            raise BadRequest(
                f"The upload has {present} bytes: go on from there, not from {message.offset}.",
                field="offset",
                offset=present,
            )
        if present + len(message.data) > about.size:
            raise BadRequest(f"The upload was announced with {about.size} bytes: these are more.", field="data")
        with _writing(self._folder):
            descriptor = os.open(self._part(message.upload), os.O_WRONLY | os.O_CREAT | _BINARY, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                file.seek(present)
                left = memoryview(message.data)
                while left:
                    left = left[file.write(left) :]
            os.utime(self._about_file(message.upload))
        return present + len(message.data)

    def finish(self, upload: str, client: str) -> None:
        """Compare the hash and give the file its name. Raises BadRequest when bytes are missing, or are not those that were
        announced; then the upload is removed."""
        about = self._own(upload, client)
        if self._is_complete(about):
            return
        present = self._present(upload)
        if present != about.size:
            raise BadRequest(
                f"The upload has {present} of {about.size} bytes: send the others first.",
                field="upload",
                offset=present,
            )
        os.utime(self._about_file(upload))
        with self._part(upload).open("rb") as part:
            found = hashlib.file_digest(part, "sha256").hexdigest()
            os.fsync(part.fileno())
        if found != about.sha256:
            self.remove(upload)
            raise BadRequest(
                "The bytes that came have another hash than the upload was announced with, so it was removed: send the file "
                "again, and leave it alone meanwhile.",
                field="sha256",
                found=found,
            )
        file = self._file(about)
        if about.beside is not None and not file.parent.is_dir():
            raise BadRequest(f"The upload {about.beside} is not complete: finish it first.", field="upload")
        with _writing(self._folder):
            file.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(self._part(upload), file)
        os.utime(self._about_file(upload))

    def check(self, reference: str, client: str) -> None:
        """Raise InputNotVisible unless the client has sent that file, as a whole."""
        identity = reference.removeprefix(UPLOAD)
        about = self._read(identity)
        if about is None or about.client != client:
            raise InputNotVisible(f"There is no upload '{identity[:64]}': send the file first.", path=reference)
        self.places.upload(reference)
        os.utime(self._about_file(identity))

    # ---- going out -------------------------------------------------------------------------------------------------

    def fetch(self, job: str, name: str, offset: int, length: int) -> tuple[int, bytes]:
        """(bytes of the whole file, those asked for) of a file that a job has made. The caller has looked the name up in the
        job's result. Raises NotFound, BadRequest for an offset behind the end."""
        folder = self.places.results / job
        file = folder / name
        try:
            if file.parent != folder or file.is_symlink():
                raise FileNotFoundError(name)
            with file.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                if offset > size:
                    raise BadRequest(
                        f"The file has {size} bytes: there is no byte {offset}.", field="offset", size=size
                    )
                opened.seek(offset)
                data = opened.read(length)
            if offset == 0:
                os.utime(folder)
        except OSError as error:
            raise NotFound(f"The file '{name}' of job {job} is not kept any more: make it again.", job=job) from error
        return size, data

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def prune(self) -> list[str]:
        """Remove what was not used for long, and the oldest of what is too much; what open jobs need stays."""
        limit = time.time() - self._settings.keep_days * 86_400
        kept = self._kept()
        total = sum(item.size for item in kept)
        gone: list[str] = []
        needed: Collection[str] | None = None
        for item in kept:
            if item.used >= limit and total <= self._settings.keep_bytes:
                break
            needed = self._open_work() if needed is None else needed
            if item.needed_as not in needed and item.used < time.time() - RECENT:
                item.remove()
                total -= item.size
                gone.append(item.identity)
        return gone

    def _make_room(self, size: int) -> None:
        """Remove the oldest until so many bytes more may be kept. Raises LimitsExceeded, Busy, DiskFull."""
        if size > self._settings.keep_bytes:
            raise LimitsExceeded(
                f"The file has {size} bytes; the daemon keeps {self._settings.keep_bytes} at most "
                "(transfers.keep_bytes).",
                size=size,
                largest=self._settings.keep_bytes,
            )
        kept = self._kept()
        total = sum(item.size for item in kept) + size
        if total > self._settings.keep_bytes:
            needed = self._open_work()
            for item in kept:
                if total > self._settings.keep_bytes and item.needed_as not in needed:
                    if item.used > time.time() - RECENT:
                        break
                    item.remove()
                    total -= item.size
        if total > self._settings.keep_bytes:
            raise Busy(
                "The daemon has no room for this file until others are done with theirs (transfers.keep_bytes): try again "
                "in a while.",
                retry_after=30.0,
            )
        free = shutil.disk_usage(self._folder).free - self._still_to_come()
        if size + SPARE > free:
            raise DiskFull(
                f"There is no space for this file on the disk of the daemon: it has {size} bytes, {max(0, free - SPARE)} "
                "are free.",
                size=size,
            )

    def _kept(self) -> list[_Kept]:
        """Everything that takes space, what was not used for longest first. An upload counts as long as it will be."""
        found = [
            _Kept(
                about.beside or about.identity,
                about.identity,
                about.size,
                about.used,
                partial(self.remove, about.identity),
            )
            for about in self._all()
        ]
        for folder in _listed(self.places.results):
            try:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                used = folder.stat().st_mtime
            except OSError:
                continue
            found.append(_Kept(folder.name, folder.name, size, used, partial(_remove_folder, folder)))
        return sorted(found, key=lambda item: item.used)

    def _still_to_come(self) -> int:
        return sum(about.size - self._present(about.identity) for about in self._all() if not self._is_complete(about))

    def remove(self, identity: str) -> None:
        """Remove an upload, or what has come of it."""
        about = self._read(identity)
        if about is not None and about.beside is not None:
            self._file(about).unlink(missing_ok=True)
        self._part(identity).unlink(missing_ok=True)
        _remove_folder(self._folder / identity)
        self._about_file(identity).unlink(missing_ok=True)

    # ---- files -----------------------------------------------------------------------------------------------------

    def _about_file(self, identity: str) -> Path:
        return self._folder / f"{identity}.json"

    def _part(self, identity: str) -> Path:
        return self._folder / f"{identity}.part"

    def _present(self, identity: str) -> int:
        try:
            return self._part(identity).stat().st_size
        except FileNotFoundError:
            return 0

    def _file(self, about: _About) -> Path:
        return self._folder / (about.beside or about.identity) / about.name

    def _is_complete(self, about: _About) -> bool:
        return self._file(about).is_file()

    def _read(self, identity: str) -> _About | None:
        body = self.places.about(identity)
        try:
            return None if body is None else _About(identity, **body, used=self._about_file(identity).stat().st_mtime)
        except (OSError, TypeError):
            return None

    def _own(self, identity: str, client: str) -> _About:
        about = self._read(identity)
        if about is None or about.client != client:
            raise NotFound(f"There is no upload '{identity}': announce it with 'upload' first.", upload=identity)
        return about

    def _all(self) -> Iterator[_About]:
        for file in _listed(self._folder):
            about = self._read(file.stem) if file.suffix == ".json" else None
            if about is not None:
                yield about


_BINARY = getattr(os, "O_BINARY", 0)


def identify(message: Upload, client: str) -> str:
    """The id of an upload: the same for the same file of the same client."""
    parts = (client, message.name, str(message.size), message.sha256.hex(), message.beside or "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise writing_error(folder, error) from error
