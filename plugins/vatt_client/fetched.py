"""The files of a job that a daemon on another machine has made, as they arrive in a folder of this one.

They come into a hidden folder, `.vatt-JOB.part`, and get their names when all of them are there; nothing is overwritten. What
has come stays when the connection breaks off.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vatt_client.errors import DiskFull, ForbiddenPath, InputNotVisible, Internal
from vatt_client.replies import Job

FILES = ("wav", "sidecar", "preview", "muxed")
"""The keys of a take that name files."""
_NUMBERED = re.compile(r"(?P<stem>.*-)(?P<number>\d+)(?P<suffix>\.[^.]+)", re.DOTALL)


def names_in(job: Job) -> list[str]:
    """The names of a job's files. Raises Internal for one that is no plain name: it could lead out of the folder."""
    found = []
    for take in job.takes().takes:
        for name in (getattr(take, key) for key in FILES):
            if not name:
                continue
            if re.search(r"[/\\:\0]", name) or name in (".", ".."):
                raise Internal(f"The daemon names a file '{name}', which is no plain name.", job=job.id)
            found.append(str(name))
    return list(dict.fromkeys(found))


def check_folder(folder: Path) -> None:
    """Raise ForbiddenPath for a folder that cannot be written to, before much is sent and made for it."""
    with contextlib.suppress(OSError, StopIteration):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ForbiddenPath(
                f"The output folder {folder} cannot be written to: choose another one.", path=str(folder)
            )


def take_of(path: Path) -> tuple[Path, Path | None]:
    """The sound and the side-car of an earlier take, named by either of them; None where a sound has no side-car."""
    sidecar = path if path.suffix.lower() == ".json" else path.with_suffix(".json")
    if path != sidecar:
        return path, sidecar if sidecar.is_file() else None
    try:
        name = Path(str(json.loads(sidecar.read_bytes())["wav"])).name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputNotVisible(f"{sidecar} is no side-car of a take: name a sound.", path=str(sidecar)) from None
    return sidecar.with_name(name), sidecar


class Parts:
    """The hidden folder of one job."""

    def __init__(self, folder: Path, job: str) -> None:
        self._folder = folder
        self._parts = folder / f".vatt-{job}.part"

    @contextlib.contextmanager
    def opened(self, name: str, size: int) -> Iterator[BinaryIO]:
        """A file to be written from where it ends. size: bytes of the whole. Raises ForbiddenPath, DiskFull."""
        with _writing(self._folder):
            self._parts.mkdir(parents=True, exist_ok=True)
            with (self._parts / name).open("ab") as file:
                if file.tell() > size:
                    file.truncate(0)
                    file.seek(0)
                yield file
                file.flush()
                os.fsync(file.fileno())

    def place(self, names: Sequence[str], *, words: Mapping[str, str]) -> dict[str, str]:
        """Give the files the first free names; returns the path of each. words: what side-cars shall say instead of the
        words that stand in them, such as the path of the clip instead of its upload."""
        with _writing(self._folder):
            if not names:
                return {}
            while True:
                chosen = free_names(names, self._folder)
                placed: list[Path] = []
                try:
                    # A side-car last: where it lies, its take is complete.
                    for name in sorted(names, key=lambda name: (name.endswith(".json"), name)):
                        part = self._parts / name
                        if name.endswith(".json"):
                            part = _reworded(part, {**words, **chosen})
                        _link(part, self._folder / chosen[name])
                        placed.append(self._folder / chosen[name])
                except FileExistsError:
                    # Somebody else took a name meanwhile.
                    for path in placed:
                        path.unlink()
                    continue
                self.discard()
                return {name: str(self._folder / chosen[name]) for name in names}

    def discard(self) -> None:
        """Remove what has come."""
        shutil.rmtree(self._parts, ignore_errors=True)


def free_names(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Names that nothing has in the folder: NAME-take-1.wav becomes NAME-take-2.wav where that is the first free one, and so do
    all the files of that take."""
    takes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        found = _NUMBERED.fullmatch(name)
        takes[(found["stem"], found["number"]) if found else (name, "")].append(name)
    chosen: dict[str, str] = {}
    last: dict[str, int] = defaultdict(int)
    for (stem, number), members in sorted(takes.items(), key=lambda item: (item[0][0], int(item[0][1] or 0))):
        for free in itertools.count(last[stem] + 1):
            if number:
                final = {name: f"{stem}{free}.{name.rpartition('.')[2]}" for name in members}
            else:
                path = Path(stem)
                final = {stem: stem if free == 1 else f"{path.stem}-{free}{path.suffix}"}
            if not any((folder / name).exists() for name in final.values()):
                break
        last[stem] = free
        chosen |= final
    return chosen


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same plain value with every text that is one of the names replaced."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    return [renamed(item, names) for item in value] if isinstance(value, list) else value


def _reworded(sidecar: Path, words: Mapping[str, str]) -> Path:
    """A side-car with other words, beside what was fetched."""
    try:
        body = json.loads(sidecar.read_bytes())
        said = renamed(body, words)
    except (ValueError, RecursionError):
        return sidecar
    if said == body:
        return sidecar
    told = sidecar.with_name(f"{sidecar.name}.told")
    told.write_bytes((json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())
    return told


def _link(part: Path, final: Path) -> None:
    """Give a file its name, whatever file system it lies on; FileExistsError when something has it already."""
    try:
        os.link(part, final)
    except FileExistsError:
        raise
    except OSError:
        with final.open("xb") as target, part.open("rb") as source:
            shutil.copyfileobj(source, target)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ForbiddenPath(
            f"The folder {folder} cannot be written to: choose another one.", path=str(folder)
        ) from error
    except OSError as error:
        if getattr(error, "errno", None) is None:
            raise
        raise DiskFull(f"The files cannot be written to {folder} ({error.strerror}).", path=str(folder)) from error
