"""What lies in a watched folder: which files are clips, how they look now, what tells their content."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vatt_watch.options import NOTE_SUFFIXES

CLIP_SUFFIXES = frozenset({
    ".3gp", ".avi", ".dv", ".flv", ".gxf", ".ivf", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv",
})  # fmt: skip
UNFINISHED = (".part", ".tmp", ".partial", ".crdownload", ".download", ".filepart", ".opdownload")
FAILED = "failed"
STAGING = ".vatt-"
"""Begin of the name of the folder in which results lie until they are moved into place together."""

STAGED = re.compile(re.escape(STAGING) + r"[0-9a-f]{32}(\.part)?")
"""Such a folder, or the temporary file of one result."""

OWN_OUTPUT = re.compile(r"\.vatt(\.\d+)?\.[^.]+$", re.IGNORECASE)
"""`clip.vatt.wav`, `clip.vatt.2.json`, `clip.vatt.mp4`: what is written here, known by its name alone."""

WHOLE = 64 << 20
"""Bytes up to which a clip is hashed as a whole; of a longer one, samples."""

_SAMPLES = 16
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Seen:
    """How a clip and the settings file beside it looked. note: name, size and time of that file, or ""."""

    size: int
    mtime_ns: int
    note: str = ""


@dataclass
class Scan:
    """clips: by their path below the root, with slashes. blind: folders that could not be looked into.
    unnameable: files whose names are no Unicode. staging: results under way, maybe forgotten ones."""

    clips: dict[str, Seen] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    unnameable: list[Path] = field(default_factory=list)
    staging: list[Path] = field(default_factory=list)

    def could_see(self, clip: str) -> bool:
        """Whether the absence of a clip in this scan means that it is gone."""
        return not any(clip.startswith(f"{folder}/") for folder in self.blind)


def is_clip_name(name: str) -> bool:
    """Whether a file of that name may be a clip: a video by its suffix, not hidden, not half-copied, not our own."""
    lower = name.lower()
    return (
        not name.startswith((".", "~$"))
        and not lower.endswith(UNFINISHED)
        and os.path.splitext(lower)[1] in CLIP_SUFFIXES
        and not OWN_OUTPUT.search(name)
    )


def scan(root: Path, *, recursive: bool, leave_out: Path | None = None) -> Scan:
    """Look through a folder. leave_out: a folder below it that is not looked into (that of the results).

    Links to files are followed, links to folders are not. Raises OSError when the root itself cannot be listed.
    """
    found = Scan()
    for below, folder in _folders(root, found, recursive=recursive, leave_out=leave_out):
        for name, entry in folder.items():
            if not is_clip_name(name):
                continue
            path = f"{below}{name}"
            try:
                path.encode("utf-8")
                if entry.is_file():
                    status = entry.stat()
                    notes = [name + suffix for suffix in NOTE_SUFFIXES if name + suffix in folder]
                    note = "|".join(_describe(folder[other]) for other in notes)
                    found.clips[path] = Seen(status.st_size, status.st_mtime_ns, note)
            except UnicodeEncodeError:
                found.unnameable.append(Path(entry.path))
            except OSError:
                continue  # gone since it was listed
    return found


def _folders(
    root: Path, found: Scan, *, recursive: bool, leave_out: Path | None
) -> Iterator[tuple[str, dict[str, os.DirEntry[str]]]]:
    waiting = [("", str(root))]
    while waiting:
        below, folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = {entry.name: entry for entry in entries}
        except OSError:
            if not below:
                raise
            found.blind.append(below.rstrip("/"))
            continue
        yield below, listed
        for name, entry in listed.items():
            if STAGED.fullmatch(name):
                found.staging.append(Path(entry.path))
            elif not entry.is_dir(follow_symlinks=False):
                continue
            elif recursive and not name.startswith(".") and name != FAILED and Path(entry.path) != leave_out:
                waiting.append((f"{below}{name}/", entry.path))


def _describe(entry: os.DirEntry[str]) -> str:
    status = entry.stat()
    return f"{entry.name}:{status.st_size}:{status.st_mtime_ns}"


def look(root: Path, clip: str) -> Seen | None:
    """One clip as it is now; None when it is gone. The same values as `scan` finds."""
    path = root / clip
    try:
        status = path.stat()
        notes = []
        for suffix in NOTE_SUFFIXES:
            note = path.with_name(path.name + suffix)
            if os.path.exists(note):  # also where the name would be too long for a file
                about = note.stat()
                notes.append(f"{note.name}:{about.st_size}:{about.st_mtime_ns}")
    except OSError:
        return None
    return Seen(status.st_size, status.st_mtime_ns, "|".join(notes))


def content_mark(path: Path) -> str:
    """What tells a clip's content from others: SHA-256 of all of it, or of its length and 16 samples from 64 MiB on.

    Raises OSError when it cannot be read (yet).
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
        return digest.hexdigest()


def note_mark(root: Path, clip: str) -> str:
    """What tells the content of the settings beside a clip; "" where there are none."""
    digest = hashlib.sha256()
    present = False
    for suffix in NOTE_SUFFIXES:
        try:
            digest.update(suffix.encode() + (root / (clip + suffix)).read_bytes())
            present = True
        except OSError:
            continue
    return digest.hexdigest() if present else ""
