"""Files on their way to a daemon on another machine, and takes on their way back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vatt_client import errors, fetched, messages
from vatt_client.asking import Asking
from vatt_client.replies import DONE, Job, Progress
from vatt_client.transfers import DOWNLOAD, UPLOAD, Chunk, Fetch, Finish, Upload, plain_name

OnProgress = Callable[[Progress], None]

PIECE = 256 << 10
"""Bytes of one chunk: small enough that heartbeats find their way between them on a slow line."""
PATIENCE = 60.0
"""Seconds for the answer to one chunk."""
REMEMBERED = 1000
"""Jobs whose takes were brought and which are asked for again."""
HASHED = 20_000_000
"""Bytes that a daemon hashes in a second at the least, when it compares an upload."""
INPUTS = ("path", "base", "reference")

S = TypeVar("S", bound=messages.Submission)


class Carrying(Asking):
    """Uploads, and fetches what a job has made."""

    errands: dict[str, Path]
    """Jobs whose takes are to be brought into these folders."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.errands = {}
        self._brought: dict[str, dict[str, Any] | None] = {}
        self._bringing: set[str] = set()
        self._sent: dict[str, str] = {}
        self._sending: set[Upload] = set()
        self._hashes: dict[tuple[Any, ...], tuple[int, bytes]] = {}

    # ---- out -------------------------------------------------------------------------------------------------------

    async def send_files(self, message: S, *, on_progress: OnProgress | None = None) -> S:
        if not self.remote:
            return message
        if getattr(message, "output", DOWNLOAD) != DOWNLOAD:
            fetched.check_folder(Path(message.output))  # type: ignore[attr-defined]
        sent: dict[str, Any] = {}
        for field in INPUTS:
            value = getattr(message, field, None)
            if value is None or value.startswith(UPLOAD):
                continue
            sound, sidecar = fetched.take_of(Path(value)) if field == "base" else (Path(value), None)
            sent[field] = await self.upload(sound, on_progress=on_progress)
            if sidecar is not None:
                name = f"{Path(plain_name(sound.name)).stem}.json"
                await self._carry(sidecar, name, sent[field].removeprefix(UPLOAD), on_progress)
        return dataclasses.replace(message, **sent) if sent else message

    async def upload(self, path: str | Path, *, on_progress: OnProgress | None = None) -> str:
        file = Path(path).expanduser().absolute()
        return await self._carry(file, plain_name(file.name), None, on_progress)

    async def _carry(self, file: Path, name: str, beside: str | None, on_progress: OnProgress | None) -> str:
        with _readable(file):
            size, digest = await self._waiter.call(lambda: self._hashed(file))
        if not size:
            raise errors.BadMedia(f"The file {file} is empty.", path=str(file))
        announced = Upload(name=name, size=size, sha256=digest, beside=beside)
        while announced in self._sending:  # by another task, and once is enough
            await self._waiter.sleep(0.05)
        self._sending.add(announced)
        try:
            reference = await self._send_all(file, announced, on_progress)
        finally:
            self._sending.discard(announced)
        self._sent[reference] = str(file)
        return reference

    async def _send_all(self, file: Path, announced: Upload, on_progress: OnProgress | None) -> str:
        """Send, and go on after the connection broke off, or when another program sends the same file."""
        before = -1
        while True:
            opened = self._opened
            try:
                return await self._send(file, announced, on_progress)
            except errors.DaemonLost as lost:
                await self._come_back(lost, opened)
            except errors.BadRequest as error:
                there = error.details.get("offset")
                if there is None or there <= before:
                    raise
                before = there

    def _hashed(self, file: Path) -> tuple[int, bytes]:
        """Length and SHA-256 of a file, remembered as long as it is not written to."""
        about = file.stat()
        key = (file, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        if key not in self._hashes:
            with file.open("rb") as opened:
                self._hashes[key] = (about.st_size, hashlib.file_digest(opened, "sha256").digest())
        return self._hashes[key]

    async def _send(self, file: Path, announced: Upload, on_progress: OnProgress | None) -> str:
        answer = await self.ask(announced, timeout=PATIENCE)
        upload = str(answer["upload"])
        if not answer["complete"]:
            with _readable(file), file.open("rb") as opened:
                pieces = _pieces(opened, upload, int(answer["offset"]), announced.size)
                async with contextlib.aclosing(self.ask_in_turn(pieces, timeout=PATIENCE)) as answers:
                    async for step in answers:
                        _tell(on_progress, "send", int(step["offset"]), announced.size)
            await self.ask(Finish(upload=upload), timeout=PATIENCE + announced.size / HASHED)
        return UPLOAD + upload

    # ---- back ------------------------------------------------------------------------------------------------------

    async def bring(self, job: Job, *, on_progress: OnProgress | None = None) -> Job:
        """The job; if it is done and its takes are to lie in a folder here, they do, and its result says where."""
        while job.id in self._bringing:
            await self._waiter.sleep(0.05)
        folder = self.errands.pop(job.id, None) if job.ended else None
        if folder is not None and job.state == DONE:
            self._bringing.add(job.id)
            try:
                job = await self.fetch(job.id, folder, on_progress=on_progress)
            except errors.ConnectionProblem as error:
                self.errands[job.id] = folder
                error.message += f" The takes of job {job.id} are kept there: 'vatt fetch {job.id}' brings them."
                raise
            finally:
                self._bringing.discard(job.id)
            self._brought[job.id] = job.result
            if len(self._brought) > REMEMBERED:
                del self._brought[next(iter(self._brought))]
        elif job.id in self._brought:
            job = dataclasses.replace(job, result=self._brought[job.id])
        return job

    async def fetch(self, job: str, folder: str | Path, *, on_progress: OnProgress | None = None) -> Job:
        target = Path(folder).expanduser().absolute()
        while True:
            opened = self._opened
            try:
                found = Job.from_wire((await self.ask(messages.Get(job=job)))["job"])
                found.raise_for_state()
                names = fetched.names_in(found)
                parts = fetched.Parts(target, found.id)
                try:
                    await self._receive(found.id, parts, names, on_progress)
                    placed = parts.place(names, words=self._sent)
                except errors.ConnectionProblem:
                    raise  # what has come stays, and the next try goes on from there
                except BaseException:
                    parts.discard()
                    raise
                return dataclasses.replace(found, result=fetched.renamed(found.result, placed))
            except errors.DaemonLost as lost:
                await self._come_back(lost, opened)

    async def _receive(self, job: str, parts: fetched.Parts, names: list[str], on_progress: OnProgress | None) -> None:
        sizes: dict[str, int] = {}
        ask_sizes = (Fetch(job=job, name=name, length=1) for name in names)
        async with contextlib.aclosing(self.ask_in_turn(ask_sizes, timeout=PATIENCE)) as answers:
            async for answer in answers:
                sizes[answer["name"]] = int(answer["size"])
        done, total = 0, sum(sizes.values())
        for name in names:
            with parts.opened(name, sizes[name]) as file:
                done += file.tell()
                wanted = (
                    Fetch(job=job, name=name, offset=offset, length=PIECE)
                    for offset in range(file.tell(), sizes[name], PIECE)
                )
                async with contextlib.aclosing(self.ask_in_turn(wanted, timeout=PATIENCE)) as answers:
                    async for answer in answers:
                        file.write(answer["data"])
                        done += len(answer["data"])
                        _tell(on_progress, "fetch", done, total, job)


def detached(message: S) -> tuple[S, Path | None]:
    """The message without a folder of this machine, and that folder."""
    output = getattr(message, "output", DOWNLOAD)
    if output == DOWNLOAD:
        return message, None
    return dataclasses.replace(message, output=DOWNLOAD), Path(output)  # type: ignore[call-arg]


def _pieces(file: BinaryIO, upload: str, offset: int, size: int) -> Iterator[Chunk]:
    file.seek(offset)
    while offset < size and (data := file.read(min(PIECE, size - offset))):
        yield Chunk(upload=upload, offset=offset, data=data)
        offset += len(data)


def _tell(on_progress: OnProgress | None, stage: str, done: int, total: int, job: str = "") -> None:
    if on_progress is not None:
        on_progress(Progress(job=job, stage=stage, done=done, total=total, unit="bytes"))


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns the errors of a file of this machine into typed ones."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise errors.InputNotVisible(f"There is no file {file}: check the name.", path=str(file)) from None
    except PermissionError:
        raise errors.ForbiddenPath(
            f"The file {file} may not be read: change its permissions.", path=str(file)
        ) from None
    except OSError as error:
        raise errors.InputNotVisible(f"The file {file} cannot be read ({os.strerror(error.errno or 0)}).") from error
