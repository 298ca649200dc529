"""Messages between the daemon's front and a worker: four bytes of length (big endian), then one msgpack map.

Front → worker: {do: "run", job, kind, request} and {do: "cancel", job}. Worker → front: {event: "ready"},
{event: "progress", job, stage, done, total}, {event: "done", job, result}, {event: "failed", job, error}.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import msgpack

LARGEST = 64 << 20


def write(stream: BinaryIO, body: dict[str, Any]) -> None:
    data = msgpack.packb(body)
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None when the other side is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    size = struct.unpack(">I", head)[0]
    if size > LARGEST:
        raise ValueError(f"a message of {size} bytes between daemon and worker: one of them is broken")
    data = stream.read(size)
    return None if len(data) < size else dict(msgpack.unpackb(data))
