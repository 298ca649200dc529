"""From a job's files to the results beside the clip: names, moving into place, error texts. Safe to repeat after a kill.

A job writes into a hidden folder beside its destination. Its files are moved under their final names, the side-car
last: where a side-car lies, the take is complete. Nothing that was not written here is ever replaced or removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vatt_client.errors import BadRequest, ClientError
from vatt_client.replies import Take

from vatt_watch.scan import FAILED, STAGING

MARK = ".vatt"
LONGEST_NAME = 255
"""Bytes of a file's name, on every usual file system."""


class LostResult(Exception):
    """The files of a job that was done are gone: it has to be done again."""


def staging_folder(destination: Path, key: str) -> Path:
    """Where the job with that key writes: on the disk of its destination, and out of sight."""
    return destination / f"{STAGING}{key}"


def result_name(base: str, number: int, suffix: str) -> str:
    """`clip.vatt.wav`, `clip.vatt.2.wav`, … for take 0, 1, …"""
    return f"{base}{MARK}{'' if number == 0 else f'.{number + 1}'}{suffix}"


def check_name(clip: Path, takes: int) -> None:
    """Raises BadRequest where a clip's name leaves no room for those of its takes, finished or under way."""
    if len(f".{clip.stem}-take-{takes}.json.part".encode()) > LONGEST_NAME:
        raise BadRequest("The name of this clip is so long that its results cannot be named after it: rename it.")


def candidates(clip: Path) -> Iterable[str]:
    """Begins of the names of a clip's results, the plainest first: `clip`, `clip.mp4`, `clip.mp4-2`, …"""
    yield clip.stem
    yield clip.name
    number = 2
    while True:
        yield f"{clip.name}-{number}"
        number += 1


def choose_base(
    clip: Path, destination: Path, *, takes: int, taken: Callable[[str], bool], own: Sequence[Sequence[Any]]
) -> str:
    """The first begin of names under which no other clip's results (`taken`) and nobody else's file lie.

    own: the outputs of the clip's former content, which may be replaced as long as nobody has changed them.
    """
    mine = {output[0] for output in own if unchanged(output)}
    suffixes = dict.fromkeys((".wav", ".json", clip.suffix.lower(), ".mp4", ".mkv"))
    for base in candidates(clip):
        paths = [str(destination / result_name(base, number, suffix)) for number in range(takes) for suffix in suffixes]
        if not taken(base) and not any(os.path.lexists(path) and path not in mine for path in paths):
            return base
    raise AssertionError("there is always another name")


def unchanged(output: Sequence[Any]) -> bool:
    """Whether a delivered file [path, size, mtime_ns] lies there as it was delivered."""
    try:
        status = os.stat(output[0])
    except OSError:
        return False
    return [status.st_size, status.st_mtime_ns] == list(output[1:])


def describe(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def deliver(
    takes: Sequence[Take], destination: Path, base: str, *, clip: Path, captions: Sequence[Any], before: list[list[Any]]
) -> list[list[Any]]:
    """Move the takes of a finished job into place and return what was delivered.

    before: outputs of the clip's former content; those that are not replaced and not changed since are removed.
    Raises LostResult, and OSError when the disk refuses.
    """
    delivered: list[list[Any]] = []
    for number, take in enumerate(takes):
        staged = Path(take.sidecar)
        final = destination / result_name(base, number, ".json")
        wav = destination / result_name(base, number, ".wav")
        sidecar = _read(staged) or _read(final)
        if sidecar is None:
            raise LostResult(f"{staged} is gone")
        _move(Path(take.wav), wav, sidecar.get("wav_sha256"))
        paths = [wav]
        if take.muxed:
            copy = destination / result_name(base, number, Path(take.muxed).suffix)
            _move(Path(take.muxed), copy, None)
            paths.append(copy)
        sidecar["wav"] = wav.name
        sidecar["captions"] = list(captions)
        sidecar.setdefault("clip", {})["path"] = str(clip)
        write_text(final, json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n")
        delivered += [describe(path) for path in (*paths, final)]
    _remove_stale(before, delivered)
    for folder in {Path(take.wav).parent for take in takes}:
        if folder.name.startswith(STAGING):
            shutil.rmtree(folder, ignore_errors=True)
    return delivered


def copy_results(
    outputs: Sequence[Sequence[Any]], twin: str, destination: Path, base: str, *, clip: Path, before: list[list[Any]]
) -> list[list[Any]]:
    """Give a clip copies of the results of another one of the same content and settings, whose names begin with `twin`.

    Raises OSError.
    """
    delivered = []
    sidecars = []
    for path, _, _ in outputs:
        source = Path(path)
        target = destination / (base + source.name.removeprefix(twin))
        if source.suffix == ".json":
            sidecars.append((source, target))
            continue
        part = _part(target)
        try:
            shutil.copyfile(source, part)
            _sync(part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        delivered.append(describe(target))
    for source, target in sidecars:
        sidecar = _read(source) or {}
        sidecar["wav"] = target.with_suffix(".wav").name
        sidecar.setdefault("clip", {})["path"] = str(clip)
        write_text(target, json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n")
        delivered.append(describe(target))
    _remove_stale(before, delivered)
    return delivered


def _remove_stale(before: list[list[Any]], delivered: list[list[Any]]) -> None:
    kept = {output[0] for output in delivered}
    for output in before:
        if output[0] not in kept and unchanged(output):
            with suppress(OSError):
                os.unlink(output[0])


def _move(staged: Path, final: Path, sha256: str | None) -> None:
    if staged.exists():
        os.replace(staged, final)
        return
    # An earlier attempt, cut short by a kill, may have moved it already.
    if not final.exists():
        raise LostResult(f"{staged} is gone")
    if sha256 is not None:
        with final.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise LostResult(f"{staged} is gone, and {final} is another take")


def _read(sidecar: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(sidecar.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _part(path: Path) -> Path:
    """The temporary file of a result. Always the same: what a kill has left is overwritten by the next attempt."""
    return path.with_name(
        f"{STAGING}{hashlib.sha256(path.name.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.part"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and have it on the disk. Raises OSError."""
    part = _part(path)
    try:
        part.write_text(text, encoding="utf-8")
        _sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    with suppress(OSError):  # not every system lets a folder be opened
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def error_file(destination: Path, clip: Path) -> Path:
    """Where the cause of a clip's failure is left. A name that is no Unicode is written with escapes, one that is too long is
    cut and told from others by a part of its hash."""
    name, suffix = clip.name.encode("utf-8", "backslashreplace"), ".error.txt"
    if len(name) + len(suffix) > LONGEST_NAME:
        suffix = f"~{hashlib.sha256(name).hexdigest()[:8]}{suffix}"
        name = name[: LONGEST_NAME - len(suffix)]
    return destination / FAILED / (name.decode("utf-8", "ignore") + suffix)


def write_error(destination: Path, clip: Path, error: ClientError, job: str | None) -> str:
    """Leave `failed/CLIP.error.txt` with the cause. Returns its path, or "" where nothing can be written."""
    file = error_file(destination, clip)
    lines = [
        error.message,
        "",
        f"clip: {str(clip).encode('utf-8', 'backslashreplace').decode()}",
        f"code: {error.code}",
        *([f"job: {job}"] if job else []),
        f"time: {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        "",
        "The clip is tried again when it is replaced, when its settings change, or when this text is removed.",
    ]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, "\n".join(lines) + "\n")
    except OSError:
        return ""
    return str(file)


def remove_error(file: str) -> None:
    """Remove an error text that is no longer true, and its folder when that is empty."""
    if file:
        with suppress(OSError):
            os.unlink(file)
        with suppress(OSError):
            os.rmdir(Path(file).parent)
