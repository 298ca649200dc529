"""What batches need of the job store. A batch is a job of the kind 'batch'; each of its items is a job that names it.

The items are written first, in several transactions, the batch in the last one: items whose batch is missing were never
acknowledged, and are removed at the next start.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from vatt_client import messages
from vatt_client.replies import CANCELLED, DONE, ENDED, FAILED, QUEUED

from vatt_core.errors import BadRequest
from vatt_daemon.store import Store
from vatt_daemon.stored_job import COLUMNS, StoredJob, to_job

KIND = messages.Batch.TYPE
PAGE = 500
EARLIER = 3
"""How many earlier jobs with the same fields are looked at for whole files, newest first."""


@dataclass(frozen=True)
class NewItem:
    """An item about to be stored. request: msgpack of its message. error: msgpack of an error map, if it cannot be used."""

    position: int
    request: bytes
    fingerprint: bytes
    seed: int
    error: bytes | None


class BatchStore(Store):
    """The job store, with batches."""

    def same_batch(self, key: str | None, mark: bytes, *, client: str) -> StoredJob | None:
        """The batch that a message with this idempotency key and fingerprint has made already: by its key, or one under
        way with the same content.

        Raises BadRequest: same key, other content.
        """
        if key is not None:
            row = self._db.execute(
                f"SELECT {COLUMNS}, fingerprint FROM jobs WHERE client = ? AND idempotency_key = ?", (client, key)
            ).fetchone()
            if row is not None:
                job = to_job(row[:-1])
                if row[-1] != mark:
                    raise BadRequest(
                        f"The idempotency key '{key}' was used for another request (job {job.id}): use a new key.",
                        field="idempotency_key",
                        job=job.id,
                    )
                return job
        row = self._db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE fingerprint = ? AND kind = ? AND client = ? AND finished IS NULL",
            (mark, KIND, client),
        ).fetchone()
        return None if row is None else to_job(row)

    def add_items(self, batch: str, items: Sequence[NewItem], *, client: str, priority: str) -> None:
        """Store some of the items of a batch; those with an error have failed already."""
        now = time.time()
        rows, notes = [], []
        for item in items:
            identity = uuid.uuid4().hex
            state = QUEUED if item.error is None else FAILED
            rows.append(
                (identity, client, f"{batch}.{item.position}", item.fingerprint, messages.Generate.TYPE, priority, state,
                 item.seed, item.request, item.error, now, None if item.error is None else now, batch, item.position)
            )  # fmt: skip
            notes.append((identity, now, state, 0, "submitted" if item.error is None else "cannot be used"))
        with self.transaction():
            self._db.executemany(
                "INSERT INTO jobs (id, client, idempotency_key, fingerprint, kind, priority, state, seed, request, "
                "error, created, finished, batch, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._db.executemany("INSERT INTO history (job, at, state, attempt, note) VALUES (?, ?, ?, ?, ?)", notes)

    def add_batch(self, batch: str, message: messages.Batch, mark: bytes, *, client: str, items: int) -> StoredJob:
        """Store the batch itself, after its items. From here on it is there."""
        now = time.time()
        body = dataclasses.replace(message, items=({},), manifest=None).to_wire() | {"items": items}
        with self.transaction():
            self._db.execute(
                "INSERT INTO jobs (id, client, idempotency_key, fingerprint, kind, priority, state, seed, request, "
                "created, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch,
                    client,
                    message.idempotency_key or str(uuid.uuid4()),
                    mark,
                    KIND,
                    message.priority,
                    QUEUED,
                    0,
                    msgpack.packb(body),
                    now,
                    None if message.deadline is None else now + message.deadline,
                ),
            )
            self._note(batch, QUEUED, 0, "submitted", now)
        return self.get(batch)

    def drop_items(self, batch: str) -> None:
        """Remove the items of a batch that did not come about."""
        with self.transaction():
            self._db.execute("DELETE FROM jobs WHERE batch = ?", (batch,))

    def open_batches(self) -> list[StoredJob]:
        """The batches that have not ended, oldest first. What was written of batches that never came about goes."""
        with self.transaction():
            self._db.execute(
                "DELETE FROM jobs WHERE batch IS NOT NULL AND (state = ? OR (state = ? AND started IS NULL)) "
                "AND batch NOT IN (SELECT id FROM jobs WHERE kind = ?)",
                (QUEUED, FAILED, KIND),
            )
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE kind = ? AND finished IS NULL ORDER BY sequence", (KIND,)
        ).fetchall()
        return [to_job(row) for row in rows]

    def open_items(self, batch: str) -> list[str]:
        """The ids of the items that have not ended, in order."""
        rows = self._db.execute(
            "SELECT id FROM jobs WHERE batch = ? AND finished IS NULL ORDER BY position", (batch,)
        ).fetchall()
        return [row[0] for row in rows]

    def items(self, batch: str) -> Iterator[list[StoredJob]]:
        """All items of a batch in order, some at a time."""
        after = -1
        while True:
            rows = self._db.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE batch = ? AND position > ? ORDER BY position LIMIT ?",
                (batch, after, PAGE),
            ).fetchall()
            if not rows:
                return
            page = [to_job(row) for row in rows]
            after = page[-1].position or 0
            yield page

    def item_counts(self, batch: str) -> dict[str, int]:
        """Items by state, and how many of those done were kept from an earlier job."""
        found = dict.fromkeys((DONE, FAILED, CANCELLED, "kept"), 0)
        for state, kept, count in self._db.execute(
            "SELECT state, attempt = 0, COUNT(*) FROM jobs WHERE batch = ? GROUP BY state, attempt = 0", (batch,)
        ):
            if state in ENDED:
                found[state] += count
            if state == DONE and kept:
                found["kept"] += count
        return found

    def earlier(self, job: str) -> list[StoredJob]:
        """The newest jobs of the same client that asked for the same and were done."""
        rows = self._db.execute(
            f"SELECT {', '.join(f'earlier.{name.strip()}' for name in COLUMNS.split(','))} FROM jobs "
            "JOIN jobs AS earlier ON earlier.fingerprint = jobs.fingerprint AND earlier.client = jobs.client "
            "WHERE jobs.id = ? AND earlier.state = ? AND earlier.id != jobs.id ORDER BY earlier.finished DESC LIMIT ?",
            (job, DONE, EARLIER),
        ).fetchall()
        return [to_job(row) for row in rows]

    def keep(self, job: str, earlier: StoredJob) -> StoredJob:
        """End an item with what an earlier job has made."""
        with self.transaction():
            self._db.execute("UPDATE jobs SET seed = ? WHERE id = ?", (earlier.seed, job))
            return self.finish(job, DONE, result=earlier.result)

    def cancel_items(self, jobs: Sequence[str], error: dict[str, Any]) -> None:
        """End items that wait."""
        with self.transaction():
            for job in jobs:
                self.finish(job, CANCELLED, error=error)
