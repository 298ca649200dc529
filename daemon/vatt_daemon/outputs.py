"""The files of a job appear once, all together, whatever dies meanwhile.

A worker lets the pipeline write into a hidden folder in the output folder, `.vatt-JOB.part`. When everything is there,
a receipt (final names, what tells the files from others, the result) is written among the daemon's data: from then
on the job is done, and another attempt only finishes the moving. Before that, another attempt starts with an empty
folder. The daemon removes the receipt once the end of the job is committed. Standard library only, but for the errors.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt_core.errors import VattError

_TAKE = re.compile(r"(?P<stem>.*-)(?P<number>\d+)(?P<suffix>\.[^.]+)", re.DOTALL)
_END = 1 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True)
class _Move:
    """A file of the hidden folder and the name that it gets in the output folder."""

    staged: str
    final: str
    size: int
    modified: int
    ends: str


class Outputs:
    """The output folder of one job, as every attempt of it sees it. Raises OSError where the disk refuses."""

    def __init__(self, folder: Path, job: str, *, receipts: Path) -> None:
        self.folder = folder
        self.staging = folder / f".vatt-{job}.part"
        self._receipt = receipts / f"{job}.json"

    def finished(self) -> dict[str, Any] | None:
        """The result of an earlier attempt that had made everything; what it left unmoved is moved now."""
        found = self._read_receipt()
        if found is None:
            return None
        moves, result = found
        try:
            for move in moves:
                self._move(move)
        except (FileNotFoundError, FileExistsError):
            self.discard()
            return None
        self._leave()
        return result

    def begin(self) -> Path:
        """An empty hidden folder's name, which the pipeline makes; what earlier attempts left is gone."""
        self.discard()
        return self.staging

    @contextlib.contextmanager
    def unmentioned(self) -> Iterator[None]:
        """Errors inside speak of the output folder, not of the hidden one in it."""
        try:
            yield
        except VattError as error:
            error.message = error.message.replace(str(self.staging), str(self.folder))
            raise

    def publish(self, result: dict[str, Any], *, words: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Give the files of the hidden folder their names, overwriting nothing; the result with those names.

        words: what side-cars say in the place of these paths.
        """
        sidecars = _sidecars(self.staging)
        while True:
            names = self._free_names()
            for name, body in sidecars.items():  # they say which file they belong to
                _write(
                    self.staging / name,
                    (
                        json.dumps(_renamed(body, names | dict(words or {})), indent=1, ensure_ascii=False) + "\n"
                    ).encode(),
                )
            # A side-car last: where it lies, its take is complete.
            ordered = sorted(names, key=lambda name: (name.endswith(".json"), name))
            moves = [_Move(name, names[name], *_mark(self.staging / name)) for name in ordered]
            told = _renamed(result, {str(self.staging / old): str(self.folder / new) for old, new in names.items()})
            _write(self._receipt, json.dumps({"moves": [vars(move) for move in moves], "result": told}).encode())
            try:
                for move in moves:
                    self._move(move)
            except FileExistsError:
                # Somebody else took a name meanwhile: take back what has moved and choose again.
                self._take_back(moves)
                continue
            self._leave()
            return dict(told)

    def settle(self) -> None:
        """The end of the job is committed as done: the receipt has served."""
        for path in (self._receipt, _part(self._receipt)):
            path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove everything that attempts of this job have left, and nothing else."""
        found = self._read_receipt()
        if found is not None:
            for move in found[0]:
                final = self.folder / move.final
                with contextlib.suppress(OSError):
                    if _is(final, move):
                        final.unlink()
        if self.staging.exists():
            shutil.rmtree(self.staging)
        self.settle()

    def _read_receipt(self) -> tuple[list[_Move], dict[str, Any]] | None:
        try:
            body = json.loads(self._receipt.read_bytes())
            return [_Move(**move) for move in body["moves"]], body["result"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # it is written in one step, so somebody else has damaged it: do the job again

    def _free_names(self) -> dict[str, str]:
        """Final names: what ends in -N gets the first N, for all files of that take, that nothing has yet."""
        takes: dict[tuple[str, int], list[str]] = defaultdict(list)
        names: dict[str, str] = {}
        for path in sorted(self.staging.iterdir()):
            found = _TAKE.fullmatch(path.name)
            if found is None:
                takes[(path.name, 0)].append(path.name)
            else:
                takes[(found["stem"], int(found["number"]))].append(path.name)
        last: dict[str, int] = defaultdict(int)
        for (stem, number), members in sorted(takes.items()):
            if number == 0 and members == [stem]:
                names[stem] = self._free_name(stem)
                continue
            suffixes = {name: name.rpartition(".")[2] for name in members}
            for chosen in itertools.count(last[stem] + 1):
                final = {name: f"{stem}{chosen}.{suffix}" for name, suffix in suffixes.items()}
                if not any((self.folder / name).exists() for name in final.values()):
                    break
            last[stem] = chosen
            names |= final
        return names

    def _free_name(self, name: str) -> str:
        path = Path(name)
        for number in itertools.count(1):
            chosen = name if number == 1 else f"{path.stem}-{number}{path.suffix}"
            if not (self.folder / chosen).exists():
                return chosen
        raise AssertionError

    def _move(self, move: _Move) -> None:
        """Raises FileExistsError when the name belongs to something else, FileNotFoundError when the file is gone."""
        staged, final = self.staging / move.staged, self.folder / move.final
        if not staged.exists():
            if not _is(final, move):
                raise FileNotFoundError(errno.ENOENT, "the file of a take is gone", str(final))
            return
        try:
            os.link(staged, final)
        except FileExistsError:
            if not _is(final, move):
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if final.exists():
                raise FileExistsError(errno.EEXIST, "the name is taken", str(final)) from None
            os.rename(staged, final)
            return
        staged.unlink()

    def _take_back(self, moves: list[_Move]) -> None:
        for move in moves:
            staged, final = self.staging / move.staged, self.folder / move.final
            if not staged.exists() and _is(final, move):
                os.rename(final, staged)

    def _leave(self) -> None:
        _sync_folder(self.folder)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.staging)


def _sidecars(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(ValueError):
            found[path.name] = json.loads(path.read_bytes())
    return found


def _is(path: Path, move: _Move) -> bool:
    try:
        return _mark(path) == (move.size, move.modified, move.ends)
    except FileNotFoundError:
        return False


def _mark(path: Path) -> tuple[int, int, str]:
    """Size, time of change (ns) and a hash of both ends: a copy of a long video is not read as a whole."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, status.st_size - _END))
        digest.update(file.read(_END))
    return status.st_size, status.st_mtime_ns, digest.hexdigest()


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The same plain value with every text that is one of the names replaced."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return value


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write(path: Path, data: bytes) -> None:
    part = _part(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Not every system lets a folder be opened.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
