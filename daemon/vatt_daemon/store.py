"""The job store: SQLite with a write-ahead log, one writer. What it has acknowledged survives a kill at any time.

States: queued → running (attempt, instance) → done | failed | cancelled. A submission is committed before it is
acknowledged, an attempt before it is dispatched, an end before anybody hears of it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
from vatt_client import messages
from vatt_client.replies import CANCELLED, DONE, ENDED, FAILED, QUEUED, RUNNING
from vatt_client.transfers import UPLOAD

from vatt_core.errors import BadRequest
from vatt_daemon.schema import committed, open_database
from vatt_daemon.stored_job import COLUMNS, StoredJob, fingerprint, to_job

LARGEST_RECOVERIES = 10
"""A job under way at that many deaths of the daemon itself is not tried again: it may be what kills it."""


class Store:
    """The jobs on disk. Not thread-safe: it belongs to the daemon's loop."""

    def __init__(self, file: Path, *, instance: str) -> None:
        """Open, or create where there is none.

        Raises VattError when the file is damaged, is no database of ours, or was written by a newer version; it is
        left as it is then. Raises DiskFull, ForbiddenPath when it cannot be created.
        """
        self.file = file
        self.instance = instance
        self._depth = 0
        self._db = open_database(file)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together; nested uses join the outer one. Raises DiskFull."""
        if self._depth:
            yield
            return
        with committed(self._db, self.file):
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def submit(self, message: messages.Submission, *, client: str, seed: int) -> tuple[StoredJob, bool]:
        """Store a job; returns it and whether it was there already. Raises BadRequest: same key, other content."""
        key = message.idempotency_key or str(uuid.uuid4())
        mark = fingerprint(message)
        known = self._db.execute(
            f"SELECT {COLUMNS}, fingerprint FROM jobs WHERE client = ? AND idempotency_key = ?", (client, key)
        ).fetchone()
        if known is not None:
            job = to_job(known[:-1])
            if known[-1] != mark:
                raise BadRequest(
                    f"The idempotency key '{key}' was used for another request (job {job.id}): use a new key.",
                    field="idempotency_key",
                    job=job.id,
                )
            return job, True
        now = time.time()
        identity = uuid.uuid4().hex
        request = message.to_wire()
        expires = None if message.deadline is None else now + message.deadline
        with self.transaction():
            sequence = self._db.execute(
                "INSERT INTO jobs (id, client, idempotency_key, fingerprint, kind, priority, state, seed, request, "
                "created, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    identity,
                    client,
                    key,
                    mark,
                    message.TYPE,
                    message.priority,
                    QUEUED,
                    seed,
                    msgpack.packb(request),
                    now,
                    expires,
                ),
            ).lastrowid
            self._note(identity, QUEUED, 0, "submitted", now)
        job = StoredJob(
            id=identity,
            client=client,
            kind=message.TYPE,
            priority=message.priority,
            state=QUEUED,
            attempt=0,
            seed=seed,
            request=request,
            result=None,
            error=None,
            created=now,
            started=None,
            finished=None,
            expires=expires,
            sequence=sequence or 0,
        )
        return job, False

    def find(self, job: str) -> StoredJob | None:
        row = self._db.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchone()
        return None if row is None else to_job(row)

    def get(self, job: str) -> StoredJob:
        found = self.find(job)
        if found is None:
            raise KeyError(job)
        return found

    def start(self, job: str) -> StoredJob:
        """Count an attempt and mark the job as running, before it is dispatched."""
        now = time.time()
        with self.transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, attempt = attempt + 1, instance = ?, started = ? "
                "WHERE id = ? AND state = ?",
                (RUNNING, self.instance, now, job, QUEUED),
            )
            found = self.get(job)
            self._note(job, RUNNING, found.attempt, "", now)
        return found

    def requeue(self, job: str, *, note: str, uncount: bool = False) -> StoredJob:
        """Put a running job back; `uncount` when the interruption was not the job's doing."""
        with self.transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, instance = NULL, attempt = MAX(0, attempt - ?) WHERE id = ? AND state = ?",
                (QUEUED, int(uncount), job, RUNNING),
            )
            found = self.get(job)
            self._note(job, found.state, found.attempt, note, time.time())
        return found

    def finish(
        self, job: str, state: str, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> StoredJob:
        """Store the end of a job. A job that has ended stays as it is."""
        if state not in ENDED:
            raise ValueError(f"{state} is no end")
        now = time.time()
        with self.transaction():
            changed = self._db.execute(
                "UPDATE jobs SET state = ?, result = ?, error = ?, finished = ? WHERE id = ? AND state IN (?, ?)",
                (
                    state,
                    None if result is None else msgpack.packb(result),
                    None if error is None else msgpack.packb(error),
                    now,
                    job,
                    QUEUED,
                    RUNNING,
                ),
            ).rowcount
            found = self.get(job)
            if changed:
                self._note(job, state, found.attempt, "" if error is None else str(error.get("message", "")), now)
        return found

    def recover(self) -> list[StoredJob]:
        """What an earlier daemon left: running jobs go back to the queue. Returns all queued jobs, oldest first.

        Batches and their items are left to `Batches`, which hands them out bit by bit.
        """
        with self.transaction():
            left = self._db.execute(
                "SELECT id, recoveries FROM jobs WHERE state = ? AND kind != 'batch'", (RUNNING,)
            ).fetchall()
            for job, recoveries in left:
                if recoveries >= LARGEST_RECOVERIES:
                    self.finish(
                        job,
                        FAILED,
                        error={
                            "code": "worker_crash",
                            "retryable": False,
                            "retry_after": None,
                            "details": {},
                            "message": f"The daemon died {recoveries + 1} times while this job ran: no further try.",
                        },
                    )
                    continue
                self._db.execute("UPDATE jobs SET recoveries = recoveries + 1 WHERE id = ?", (job,))
                self.requeue(job, note="the daemon was gone while it ran", uncount=True)
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE state = ? AND kind != 'batch' AND batch IS NULL ORDER BY sequence",
            (QUEUED,),
        ).fetchall()
        return [to_job(row) for row in rows]

    def page(
        self,
        *,
        states: Sequence[str] = (),
        limit: int = 100,
        before: int | None = None,
        batch: str | None = None,
        client: str | None = None,
    ) -> tuple[list[StoredJob], int | None]:
        """Jobs, newest first, and the cursor of the next page (None: that was the last). Items of a batch are listed
        only when the batch is named, and then nothing else. client: only those of that client."""
        conditions: list[str] = ["batch IS ?"]
        values: list[Any] = [batch]
        if client is not None:
            conditions.append("client = ?")
            values.append(client)
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values.extend(states)
        if before is not None:
            conditions.append("sequence < ?")
            values.append(before)
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE {' AND '.join(conditions)} ORDER BY sequence DESC LIMIT ?",
            [*values, limit + 1],
        ).fetchall()
        jobs = [to_job(row) for row in rows[:limit]]
        return jobs, jobs[-1].sequence if len(rows) > limit else None

    def history(self, job: str) -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT at, state, attempt, note FROM history WHERE job = ? ORDER BY sequence", (job,))
        return [{"at": at, "state": state, "attempt": attempt, "note": note} for at, state, attempt, note in rows]

    def open_transfers(self) -> set[str]:
        """The ids of jobs that have not ended and whose files go through transfers, and those of the uploads they need."""
        rows = self._db.execute(
            "SELECT id, request FROM jobs WHERE state IN (?, ?) AND instr(request, CAST('load:' AS BLOB))",
            (QUEUED, RUNNING),
        )
        found: set[str] = set()
        for job, request in rows:
            values = [value for value in msgpack.unpackb(request).values() if isinstance(value, str)]
            found |= {job, *(value.removeprefix(UPLOAD) for value in values if value.startswith(UPLOAD))}
        return found

    def counts(self, *, client: str | None = None) -> dict[str, int]:
        own = "" if client is None else "WHERE client = ?"
        rows = self._db.execute(
            f"SELECT state, COUNT(*) FROM jobs {own} GROUP BY state", () if client is None else (client,)
        )
        found = dict(rows.fetchall())
        return {state: found.get(state, 0) for state in (QUEUED, RUNNING, DONE, FAILED, CANCELLED)}

    def prune(self, *, older_than: float, jobs: int, size: int, at_most: int = 1000) -> list[str]:
        """Forget jobs that have ended, oldest end first, until what is kept fits: ended at most `older_than` seconds
        ago, at most `jobs` of them, `size` bytes of requests and results in all. At most `at_most` in one go, so that
        nobody waits for it. Returns the ids; the files of takes belong to the user and stay.
        """
        count, weight = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(LENGTH(request) + COALESCE(LENGTH(result), 0)), 0) FROM jobs "
            "WHERE finished IS NOT NULL"
        ).fetchone()
        oldest = self._db.execute(
            "SELECT id, finished, LENGTH(request) + COALESCE(LENGTH(result), 0) FROM jobs WHERE finished IS NOT NULL "
            # The report of a batch that is under way needs all of its items.
            "AND (batch IS NULL OR batch NOT IN (SELECT id FROM jobs WHERE kind = 'batch' AND finished IS NULL)) "
            "ORDER BY finished, sequence LIMIT ?",
            (at_most,),
        ).fetchall()
        limit = time.time() - older_than
        gone: list[str] = []
        for job, finished, own in oldest:
            if finished >= limit and count <= jobs and weight <= size:
                break
            gone.append(job)
            count -= 1
            weight -= own
        if gone:
            with self.transaction():
                self._db.executemany("DELETE FROM jobs WHERE id = ?", [(job,) for job in gone])
        return gone

    def _note(self, job: str, state: str, attempt: int, note: str, at: float) -> None:
        self._db.execute(
            "INSERT INTO history (job, at, state, attempt, note) VALUES (?, ?, ?, ?, ?)",
            (job, at, state, attempt, note),
        )

    def close(self) -> None:
        self._db.close()
