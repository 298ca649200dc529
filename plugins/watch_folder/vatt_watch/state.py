"""What is watched, and how far each clip is: one SQLite file. Whatever is in it survives a kill at any time."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt_client.errors import ClientError

from vatt_watch.scan import Seen

VERSION = 1

PATIENCE = 30.0
"""Seconds to wait while another program writes."""

WAITING, CAPTIONING, SOUNDING = "waiting", "captioning", "sounding"
DONE, FAILED, SKIPPED = "done", "failed", "skipped"
UNDER_WAY = (CAPTIONING, SOUNDING)

_SCHEMA = """
CREATE TABLE folders (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    output TEXT,
    recursive INTEGER NOT NULL,
    polling INTEGER NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0,
    watched INTEGER NOT NULL DEFAULT 1,
    options TEXT NOT NULL,
    added REAL NOT NULL
);
CREATE TABLE clips (
    id INTEGER PRIMARY KEY,
    folder INTEGER NOT NULL REFERENCES folders (id),
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    note TEXT NOT NULL,
    content TEXT NOT NULL,
    note_content TEXT NOT NULL,
    state TEXT NOT NULL,
    key TEXT NOT NULL,
    base TEXT NOT NULL,
    recipe TEXT NOT NULL,
    work TEXT NOT NULL,
    outputs TEXT NOT NULL,
    error TEXT NOT NULL,
    error_file TEXT NOT NULL,
    updated REAL NOT NULL,
    UNIQUE (folder, path)
);
CREATE INDEX clips_by_state ON clips (state);
"""


@dataclass(frozen=True)
class WatchedFolder:
    """A folder that is watched. output: where results go, None: beside the clips. options: see vatt_watch.options."""

    id: int
    path: Path
    output: Path | None
    recursive: bool
    polling: bool
    paused: bool
    options: dict[str, Any]

    def destination(self, clip: str) -> Path:
        """The folder that receives the results of a clip."""
        return ((self.output or self.path) / clip).parent


@dataclass
class Clip:
    """One clip and its present content. content, note_content: what tells it and the settings beside it. key: of this
    content's jobs. base: begin of the names of its results. work: options and captions, once it was begun. outputs:
    files delivered, as [path, size, mtime_ns]."""

    folder: int
    path: str
    seen: Seen
    content: str
    note_content: str = ""
    state: str = WAITING
    key: str = ""
    base: str = ""
    recipe: str = ""
    work: dict[str, Any] = field(default_factory=dict)
    outputs: list[list[Any]] = field(default_factory=list)
    error: str = ""
    error_file: str = ""
    id: int = 0


class WatchState:
    """The file. One object belongs to one thread; several programs may have it open."""

    def __init__(self, file: Path) -> None:
        """Open or create. Raises ClientError when the file is damaged or of a newer version."""
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(file, isolation_level=None, timeout=PATIENCE)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate()
        except (sqlite3.DatabaseError, OSError) as error:
            raise ClientError(
                f"The list of watched folders {file} cannot be opened ({error}): move it away to begin with an empty one."
            ) from error
        self._seen_version = -1

    def _migrate(self) -> None:
        if self._version() == VERSION:
            return  # who only reads does not wait for who writes
        with self.transaction():
            version = self._version()
            if version > VERSION:
                raise ClientError(
                    f"The list of watched folders {self.file} is of version {version}, this program knows {VERSION}: "
                    "update VATT."
                )
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together; nested uses join the outer one. Raises ClientError when another
        program does not let go."""
        if self._db.in_transaction:
            yield
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise ClientError(f"The list of watched folders {self.file} is in use ({error}): try again.") from error
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def changed_by_others(self) -> bool:
        """Whether another program has written since the last question; true at the first."""
        version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        changed, self._seen_version = version != self._seen_version, version
        return changed

    # ---- folders ---------------------------------------------------------------------------------------------------

    def folders(self) -> list[WatchedFolder]:
        rows = self._db.execute(
            "SELECT id, path, output, recursive, polling, paused, options FROM folders WHERE watched ORDER BY id"
        ).fetchall()
        return [
            WatchedFolder(
                id=row[0],
                path=Path(row[1]),
                output=Path(row[2]) if row[2] else None,
                recursive=bool(row[3]),
                polling=bool(row[4]),
                paused=bool(row[5]),
                options=json.loads(row[6]),
            )
            for row in rows
        ]

    def add_folder(
        self, path: Path, *, output: Path | None, recursive: bool, polling: bool, options: dict[str, Any]
    ) -> None:
        """Watch a folder; one that is watched already gets these settings."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO folders (path, output, recursive, polling, options, added) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET output = excluded.output, recursive = excluded.recursive, "
                "polling = excluded.polling, options = excluded.options, watched = 1, paused = 0",
                (str(path), str(output) if output else None, recursive, polling, json.dumps(options), time.time()),
            )

    def set_paused(self, folder: int, paused: bool) -> None:
        with self.transaction():
            self._db.execute("UPDATE folders SET paused = ? WHERE id = ?", (paused, folder))

    def remove_folder(self, folder: int) -> None:
        """Stop watching. What was done is remembered, so that watching it again repeats nothing."""
        with self.transaction():
            self._db.execute("UPDATE folders SET watched = 0 WHERE id = ?", (folder,))
            self._db.execute(
                "UPDATE clips SET state = ?, key = '', recipe = '', work = '{}' WHERE folder = ? AND state IN (?, ?)",
                (WAITING, folder, *UNDER_WAY),
            )
            # What lies there of an earlier content has to be known when the folder is watched again.
            self._db.execute(
                "DELETE FROM clips WHERE folder = ? AND state = ? AND outputs = '[]' AND error_file = ''",
                (folder, WAITING),
            )

    def retry(self, folder: int) -> int:
        """Have the failed clips of a folder tried again. Returns how many."""
        with self.transaction():
            return self._db.execute(
                "UPDATE clips SET state = ?, key = '', error = '' WHERE folder = ? AND state = ?",
                (WAITING, folder, FAILED),
            ).rowcount

    def counts(self, folder: int) -> dict[str, int]:
        """Clips of a folder by state."""
        rows = self._db.execute("SELECT state, COUNT(*) FROM clips WHERE folder = ? GROUP BY state", (folder,))
        return dict(rows.fetchall())

    def last_error(self, folder: int) -> str:
        row = self._db.execute(
            "SELECT path, error FROM clips WHERE folder = ? AND state = ? ORDER BY updated DESC LIMIT 1",
            (folder, FAILED),
        ).fetchone()
        return f"{row[0]}: {row[1]}" if row else ""

    # ---- clips -----------------------------------------------------------------------------------------------------

    def clips(self) -> list[Clip]:
        """Every clip that is known, the oldest first."""
        rows = self._db.execute(
            "SELECT id, folder, path, size, mtime_ns, note, content, note_content, state, key, base, recipe, work, "
            "outputs, error, error_file FROM clips ORDER BY id"
        )
        return [
            Clip(
                id=row[0], folder=row[1], path=row[2], seen=Seen(*row[3:6]), content=row[6], note_content=row[7],
                state=row[8], key=row[9], base=row[10], recipe=row[11], work=json.loads(row[12]),
                outputs=json.loads(row[13]), error=row[14], error_file=row[15],
            )
            for row in rows
        ]  # fmt: skip

    def save(self, clip: Clip) -> None:
        """Store a clip as it is now. A new one gets its id."""
        values = (
            clip.folder, clip.path, clip.seen.size, clip.seen.mtime_ns, clip.seen.note, clip.content, clip.note_content,
            clip.state, clip.key, clip.base, clip.recipe, json.dumps(clip.work), json.dumps(clip.outputs), clip.error,
            clip.error_file, time.time(),
        )  # fmt: skip
        with self.transaction():
            row = self._db.execute(
                "INSERT INTO clips (folder, path, size, mtime_ns, note, content, note_content, state, key, base, "
                "recipe, work, outputs, error, error_file, updated) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
                "ON CONFLICT (folder, path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, "
                "note = excluded.note, content = excluded.content, note_content = excluded.note_content, "
                "state = excluded.state, key = excluded.key, base = excluded.base, recipe = excluded.recipe, "
                "work = excluded.work, outputs = excluded.outputs, error = excluded.error, "
                "error_file = excluded.error_file, updated = excluded.updated RETURNING id",
                values,
            ).fetchone()
        clip.id = row[0]

    def forget(self, clip: Clip) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM clips WHERE folder = ? AND path = ?", (clip.folder, clip.path))
