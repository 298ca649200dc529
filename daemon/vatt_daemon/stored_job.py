"""A job as the store knows it: its row, how it is told to clients, and what makes two submissions the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from vatt_client import messages
from vatt_client.replies import ENDED


@dataclass(frozen=True)
class StoredJob:
    """A row of the store. Times are seconds since 1970; `expires` is when its deadline ends. An item of a batch names
    the batch, which is a job too, and its own position in it."""

    id: str
    client: str
    kind: str
    priority: str
    state: str
    attempt: int
    seed: int
    request: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    sequence: int
    batch: str | None = None
    position: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to_wire(self, *, short: bool = False) -> dict[str, Any]:
        """The map that `get` answers; `short` leaves out the request and the result, as `list` does."""
        body: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "priority": self.priority,
            "attempt": self.attempt,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "seed": self.seed,
            "error": self.error,
            "batch": self.batch,
            "position": self.position,
            "client": self.client,
        }
        if not short:
            body |= {"request": self.request, "result": self.result}
        return body


COLUMNS = (
    "id, client, kind, priority, state, attempt, seed, request, result, error, created, started, finished, "
    "expires, sequence, batch, position"
)


def to_job(row: Sequence[Any]) -> StoredJob:
    """A row with the COLUMNS."""
    values = list(row)
    for place in (7, 8, 9):
        values[place] = None if values[place] is None else msgpack.unpackb(values[place])
    return StoredJob(*values)


def fingerprint(message: messages.Submission | messages.Batch) -> bytes:
    """What must be equal for two submissions to be the same: everything except the key and the time left."""
    body = message.to_wire()
    body.pop("idempotency_key", None)
    body.pop("deadline", None)
    return hashlib.sha256(msgpack.packb(sorted(body.items()))).digest()
