"""The messages of the protocol: every request with its fields, and the frames that carry them.

This is the only definition. The client sends these classes, the daemon decodes into them, and docs/protocol.md
prints its tables from them. Frames after the routing identity: protocol version (2 bytes: major, minor), request id
(1 to 64 bytes, chosen by the client, echoed), one msgpack map, then raw buffers if the message says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from vatt_client import fields
from vatt_client.errors import BadRequest, UnsupportedVersion
from vatt_client.protocol import (
    CONTROL,
    JOBS,
    LARGEST_BATCH,
    LARGEST_BUFFERS,
    LARGEST_CURSOR,
    LARGEST_MESSAGE,
    LARGEST_SEED,
    PROTOCOL,
    VERSION_FRAME,
    Message,
)
from vatt_client.replies import STATES
from vatt_client.submissions import ITEM_ALIASES, Batch, Generate, Submission, Suggest, named
from vatt_client.transfers import Chunk, Fetch, Finish, Transfer, Upload

__all__ = [
    "CONTROL",
    "ITEM_ALIASES",
    "JOBS",
    "LARGEST_BATCH",
    "LARGEST_BUFFERS",
    "LARGEST_CURSOR",
    "LARGEST_MESSAGE",
    "LARGEST_SEED",
    "PROTOCOL",
    "REQUESTS",
    "VERSION_FRAME",
    "Batch",
    "Cancel",
    "Chunk",
    "Fetch",
    "Finish",
    "Generate",
    "Get",
    "Hello",
    "List",
    "Message",
    "Models",
    "Ping",
    "Shutdown",
    "Status",
    "Submission",
    "Suggest",
    "Transfer",
    "Unload",
    "Unwatch",
    "Upload",
    "Watch",
    "decode",
    "encode",
    "named",
    "pack",
    "unpack",
]


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """The first message: who is there, and which versions can both speak."""

    TYPE = "hello"
    SOCKETS = (JOBS, CONTROL)
    ANSWER = "instance, daemon, protocol_minimum, protocol_maximum, capabilities, largest_message, pid"

    client: str = fields.text("name and version of the program that connects, for the log", default="", longest=200)


@dataclass(frozen=True, kw_only=True)
class Ping(Message):
    """Answered at once, also while jobs run: the heartbeat."""

    TYPE = "ping"
    SOCKETS = (JOBS, CONTROL)
    ANSWER = "instance, uptime"


@dataclass(frozen=True, kw_only=True)
class Models(Message):
    """Which models can be named, which are installed."""

    TYPE = "models"
    ANSWER = "models (list of maps: name, title, licence, embedded, installed)"


@dataclass(frozen=True, kw_only=True)
class Status(Message):
    """What runs, the queue, the worker's health."""

    TYPE = "status"
    ANSWER = "instance, uptime, pid, running, queued, counts, worker, watchers, remote"


@dataclass(frozen=True, kw_only=True)
class Unload(Message):
    """Take models out of memory now instead of when they have been idle for long. One that is at work stays."""

    TYPE = "unload"
    ANSWER = "models (names of those that are out of memory now)"

    model: str | None = fields.identifier("name of the model; none: all", default=None)


@dataclass(frozen=True, kw_only=True)
class Shutdown(Message):
    """Stop the daemon. The running job goes back to the queue and is done after the next start."""

    TYPE = "shutdown"
    ANSWER = "instance"


@dataclass(frozen=True, kw_only=True)
class Get(Message):
    """One job as it is now, with its result or error when it has ended."""

    TYPE = "get"
    SOCKETS = (JOBS, CONTROL)
    ANSWER = "job (a map, see Jobs)"

    job: str = fields.identifier("id of the job")
    history: bool = fields.flag("also the list of its state changes", default=False)


@dataclass(frozen=True, kw_only=True)
class List(Message):
    """Jobs, newest first, page by page. The items of a batch are listed only when the batch is named."""

    TYPE = "list"
    SOCKETS = (JOBS, CONTROL)
    ANSWER = "jobs (list of maps), next (cursor of the next page or none)"

    states: tuple[str, ...] = fields.some_of("only these states; empty: all", *STATES, default=(), longest=8)
    limit: int = fields.integer("length of a page", minimum=1, maximum=1000, default=100)
    before: int | None = fields.integer(
        "cursor: 'next' of the page before", minimum=0, maximum=LARGEST_CURSOR, default=None
    )
    batch: str | None = fields.identifier("id of a batch: its items, and nothing else", default=None)
    results: bool = fields.flag("also the request and the result of each job", default=False)


@dataclass(frozen=True, kw_only=True)
class Cancel(Message):
    """Cancel a job that waits or runs. A job that has ended already stays as it is."""

    TYPE = "cancel"
    ANSWER = "job, state"

    job: str = fields.identifier("id of the job")


@dataclass(frozen=True, kw_only=True)
class Watch(Message):
    """Have progress and ends of jobs sent. They come as events with this request's id.

    A reader that is too slow misses progress; states wait for it.
    """

    TYPE = "watch"
    SOCKETS = (JOBS,)
    ANSWER = "jobs (each as it is now), then events: progress, state"

    jobs: tuple[str, ...] = fields.identifiers("ids; empty: all jobs from now on", default=())
    progress: bool = fields.flag("also progress; otherwise only changes of state", default=True)


@dataclass(frozen=True, kw_only=True)
class Unwatch(Message):
    """End a watch of this connection."""

    TYPE = "unwatch"
    SOCKETS = (JOBS,)
    ANSWER = "watch"

    watch: str = fields.hexadecimal("request id of the watch", shortest=2, longest=128)


REQUESTS: dict[str, type[Message]] = {
    kind.TYPE: kind
    for kind in (
        Hello,
        Ping,
        Models,
        Status,
        Suggest,
        Generate,
        Batch,
        Upload,
        Chunk,
        Finish,
        Fetch,
        Get,
        List,
        Cancel,
        Watch,
        Unwatch,
        Unload,
        Shutdown,
    )
}


def pack(body: Mapping[str, Any]) -> bytes:
    """msgpack of a map. Raises BadRequest for a value that the wire cannot carry."""
    try:
        return bytes(msgpack.packb(body, use_bin_type=True))
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise BadRequest(f"This message cannot be sent: {error}.") from error


def unpack(data: bytes, *, largest_map: int = fields.LARGEST_MAP, largest_list: int = 16_384) -> dict[str, Any]:
    """The msgpack map of a frame. Raises BadRequest for anything else, also for what is nested or counted absurdly."""
    body = _unpack(data, largest_map, largest_list)
    if not isinstance(body, dict):
        raise BadRequest("The message is no msgpack map.")
    return body


def _unpack(data: bytes, largest_map: int, largest_list: int) -> Any:
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=True, max_map_len=largest_map, max_array_len=largest_list, max_ext_len=0
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        # Some of msgpack's errors say nothing but what they are.
        reason = str(error).rstrip(".") or type(error).__name__
        raise BadRequest(f"The message is no valid msgpack of the allowed size: {reason}.") from error


def encode(message: Message, identity: bytes, *, largest: int = LARGEST_MESSAGE) -> list[bytes]:
    """The frames of a request. A list too long for one frame of `largest` bytes goes on in raw buffers.

    Raises BadRequest for what does not fit.
    """
    body = message.to_wire()
    data = pack(body)
    if len(data) <= largest:
        return [VERSION_FRAME, identity, data]
    if not message.BUFFERS:
        raise BadRequest(f"The '{message.TYPE}' message is larger than the daemon accepts ({largest} bytes).")
    buffers = list(_pieces(body.pop(message.BUFFERS), largest))
    if len(buffers) > LARGEST_BUFFERS:
        raise BadRequest(
            f"The field '{message.BUFFERS}' is longer than {LARGEST_BUFFERS} buffers of {largest} bytes.",
            field=message.BUFFERS,
        )
    return [VERSION_FRAME, identity, pack(body), *buffers]


def _pieces(items: Sequence[Any], largest: int) -> Iterator[bytes]:
    """msgpack lists of at most so many bytes that hold the items in order."""
    head = msgpack.Packer()
    piece: list[bytes] = []
    size = 0
    for item in items:
        data = pack(item)
        if piece and size + len(data) + 5 > largest:
            yield head.pack_array_header(len(piece)) + b"".join(piece)
            piece, size = [], 0
        piece.append(data)
        size += len(data)
    yield head.pack_array_header(len(piece)) + b"".join(piece)


def decode(frames: Sequence[bytes], *, socket: str) -> Message:
    """A request from its frames (without the routing identity) as received on the socket of that name.

    Raises UnsupportedVersion and BadRequest.
    """
    if len(frames) < 3 or not 1 <= len(frames[1]) <= 64:
        raise BadRequest("A request has the frames: version, request id of 1 to 64 bytes, msgpack map.")
    if len(frames[0]) != 2 or frames[0][0] != PROTOCOL[0]:
        spoken = ".".join(str(byte) for byte in frames[0][:2])
        raise UnsupportedVersion(
            f"The client speaks protocol {spoken}, this daemon {PROTOCOL[0]}.{PROTOCOL[1]}: update the older of them.",
            minimum=[PROTOCOL[0], 0],
            maximum=list(PROTOCOL),
        )
    body = unpack(frames[2])
    name = body.pop("type", None)
    kind = REQUESTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise BadRequest(f"There is no message '{str(name)[:64]}'. There are: {', '.join(REQUESTS)}.", field="type")
    if socket not in kind.SOCKETS:
        raise BadRequest(f"'{name}' must be sent to the {' or '.join(kind.SOCKETS)} socket.", field="type")
    if len(frames) > 3:
        _join(kind, body, frames[3:])
    return kind.from_wire(body)


def _join(kind: type[Message], body: dict[str, Any], buffers: Sequence[bytes]) -> None:
    """Append the lists in the buffers to the field that they go on with."""
    if not kind.BUFFERS:
        raise BadRequest(f"'{kind.TYPE}' takes no raw buffers.")
    if len(buffers) > LARGEST_BUFFERS:
        raise BadRequest(f"A request has at most {LARGEST_BUFFERS} raw buffers.", field=kind.BUFFERS)
    joined = body.get(kind.BUFFERS, [])
    for data in buffers:
        more = _unpack(data, fields.LARGEST_MAP, 16_384)
        if not isinstance(more, list) or not isinstance(joined, list):
            raise BadRequest("A raw buffer must be a msgpack list.", field=kind.BUFFERS)
        joined = joined + more
    body[kind.BUFFERS] = joined
