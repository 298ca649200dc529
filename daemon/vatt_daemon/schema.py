"""The database of the job store: its tables in every version, how it is made, opened, checked and brought up to date.

A file that cannot be used is refused and left as it is; an empty one never takes its place.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from vatt_core.errors import DiskFull, ForbiddenPath, VattError

CHECKED_AT_START = 256 << 20
"""Bytes up to which the database's pages are checked when it is opened; larger ones take seconds (`vatt doctor` does)."""

MIGRATIONS = (
    """
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    kind TEXT NOT NULL,
    priority TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    recoveries INTEGER NOT NULL DEFAULT 0,
    instance TEXT,
    seed INTEGER NOT NULL,
    request BLOB NOT NULL,
    result BLOB,
    error BLOB,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    expires REAL,
    UNIQUE (client, idempotency_key)
);
CREATE INDEX jobs_by_state ON jobs (state, sequence);
CREATE TABLE history (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    note TEXT NOT NULL DEFAULT ''
);
CREATE INDEX history_by_job ON history (job, sequence);
""",
    """
CREATE INDEX jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL;
""",
    """
ALTER TABLE jobs ADD COLUMN batch TEXT;
ALTER TABLE jobs ADD COLUMN position INTEGER;
CREATE INDEX jobs_by_batch ON jobs (batch, position) WHERE batch IS NOT NULL;
CREATE INDEX jobs_by_fingerprint ON jobs (fingerprint);
""",
)
"""Step N brings a database of version N to N + 1. Steps are only ever added: databases of every version are out there."""

VERSION = len(MIGRATIONS)


def open_database(file: Path) -> sqlite3.Connection:
    """Open, or create where there is none.

    Raises VattError when the file is damaged, is no database of ours, or was written by a newer version; it is left as it
    is then. Raises DiskFull, ForbiddenPath when it cannot be created or brought up to date.
    """
    if not file.exists():
        _create(file)
    elif file.stat().st_size == 0:
        raise unusable(file, "it is empty")  # a new one appears complete or not at all
    try:
        database = sqlite3.connect(file, isolation_level=None, timeout=5.0)
    except sqlite3.DatabaseError as error:
        raise unusable(file, str(error)) from error
    try:
        version = _version(database, file)  # before anything is changed in a file that may be somebody else's
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        _migrate(database, file, version)
        if file.stat().st_size <= CHECKED_AT_START:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise unusable(file, str(found))
    except BaseException as error:
        database.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise unusable(file, str(error)) from error
        raise
    return database


@contextlib.contextmanager
def committed(database: sqlite3.Connection, file: Path) -> Iterator[None]:
    """Everything inside is one transaction. Raises DiskFull."""
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        if is_full(error):
            raise DiskFull(f"There is no space left for the job database {file}: free some.", path=str(file)) from error
        raise


def _version(database: sqlite3.Connection, file: Path) -> int:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise VattError(
            f"The job database {file} is of version {version}, this program knows {VERSION}: update VATT.",
            path=str(file),
        )
    if version < 1:
        raise unusable(file, "it belongs to another program")
    return version


def _migrate(database: sqlite3.Connection, file: Path, version: int) -> None:
    if version < VERSION:
        _back_up(database, file.with_name(f"{file.name}.version-{version}"))
    for step in range(version, VERSION):
        with committed(database, file):
            _apply(database, step)


def _apply(database: sqlite3.Connection, step: int) -> None:
    for statement in MIGRATIONS[step].split(";\n"):
        if statement.strip():
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {step + 1}")


def _create(file: Path) -> None:
    """A new database, complete before it has its name: an empty file there is always damage, never a beginning."""
    if file.with_name(f"{file.name}-wal").exists():
        raise unusable(file, "only its log is left, the database itself is gone")
    part = file.with_name(f".{file.name}.part")  # the lock of the single instance keeps it ours
    for rest in (part, part.with_name(f"{part.name}-journal")):
        rest.unlink(missing_ok=True)
    try:
        database = sqlite3.connect(part, isolation_level=None)
        try:
            database.execute("BEGIN")
            for step in range(VERSION):
                _apply(database, step)
            database.execute("COMMIT")
        finally:
            database.close()
        os.chmod(part, 0o600)
        os.replace(part, file)
    except sqlite3.OperationalError as error:
        if is_full(error):
            raise DiskFull(f"There is no space for the job database {file}: free some.", path=str(file)) from error
        raise ForbiddenPath(
            f"The job database {file} cannot be created ({error}): change the rights of its folder, or set VATT_HOME.",
            path=str(file),
        ) from error
    finally:
        for rest in (part, part.with_name(f"{part.name}-journal")):
            rest.unlink(missing_ok=True)


def _back_up(database: sqlite3.Connection, copy: Path) -> None:
    """Keep the database as it was before a migration, beside it."""
    part = copy.with_name(f".{copy.name}.part")
    part.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(part)) as target:
        database.backup(target)
    os.chmod(part, 0o600)
    os.replace(part, copy)


def unusable(file: Path, reason: str) -> VattError:
    # On one line, though SQLite's findings take several: whoever started the daemon is shown the last one.
    reason = " ".join(reason.split())
    return VattError(
        f"The job database {file} cannot be used ({reason}). Restore it from a backup, or move it away (with its -wal "
        "and -shm files) to begin with an empty one.",
        path=str(file),
    )


def is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
