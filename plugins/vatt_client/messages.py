"""The messages of the protocol: every request with its fields, and the frames that carry them.

This is the only definition. The client sends these classes, the daemon decodes into them, and docs/protocol.md
prints its tables from them. Frames after the routing identity: protocol version (2 bytes: major, minor), request id
(1 to 64 bytes, chosen by the client, echoed), one msgpack map, then raw buffers if the message says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import msgpack

from vatt_client import fields
from vatt_client.errors import BadRequest, UnsupportedVersion

PROTOCOL = (1, 0)
"""Major and minor version. Additions raise the minor, anything else the major."""

VERSION_FRAME = bytes(PROTOCOL)
LARGEST_SEED = 2**53 - 1
"""Every language's numbers hold it exactly."""
LARGEST_CURSOR = 2**63 - 1
LARGEST_MESSAGE = 1 << 20
"""Bytes of one frame that the daemon accepts (it may be configured lower; `hello` tells)."""
LARGEST_BATCH = 10_000
LARGEST_BUFFERS = 64
"""Raw buffers after the map of one request."""

JOBS = "jobs"
CONTROL = "control"


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all requests. `TYPE` is the word on the wire, `SOCKETS` where it may be sent.

    Making one checks every field, so that a typing error surfaces where it is made. Raises BadRequest.
    """

    TYPE: ClassVar[str] = ""
    SOCKETS: ClassVar[tuple[str, ...]] = (CONTROL,)
    ANSWER: ClassVar[str] = ""
    BUFFERS: ClassVar[str] = ""
    """The field whose list may go on in raw buffers, each a msgpack list."""

    def __post_init__(self) -> None:
        for name, (rule, _) in fields.rules(type(self)).items():
            object.__setattr__(self, name, rule.check(name, getattr(self, name)))
        self.check_together()

    def check_together(self) -> None:
        """Rules that concern more than one field."""

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Self:
        """Decode the map of a request, without its `type`. Raises BadRequest with the field's name."""
        fields.check_fields(cls.TYPE, fields.rules(cls), body)
        return cls(**body)

    def to_wire(self) -> dict[str, Any]:
        """The map that is sent: `type` and every field that differs from its default."""
        body: dict[str, Any] = {"type": self.TYPE}
        for name, (_, default) in fields.rules(type(self)).items():
            value = getattr(self, name)
            if default is ... or value != default:
                body[name] = fields.to_wire(value)
        return body


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
    ANSWER = "instance, uptime, pid, running, queued, counts, worker, watchers"


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
class Submission(Message):
    """What every job has. A submission counts when its answer has come: it is on the disk by then."""

    SOCKETS = (JOBS,)
    ANSWER = "job (its id), state, seed, duplicate"

    path: str = fields.text("absolute path of the clip, as the daemon's machine sees it", shortest=1)
    start: Fraction | None = fields.seconds("begin of the range in the source; none: the clip's begin", default=None)  # noqa: RUF009
    end: Fraction | None = fields.seconds("end of the range in the source; none: the clip's end", default=None)  # noqa: RUF009
    time_map: tuple[tuple[Fraction, Fraction], ...] | None = fields.time_map(
        "piecewise linear map as [timeline, source] pairs in seconds, instead of start and end", default=None
    )
    model: str = fields.identifier("name of an installed model", default="nano")
    seed: int | None = fields.integer(
        "same request and seed: same result; none: the daemon draws one and tells it",
        minimum=0,
        maximum=LARGEST_SEED,
        default=None,
    )
    priority: str = fields.choice(
        "interactive work goes before batch work", "interactive", "batch", default="interactive"
    )
    deadline: float | None = fields.number(
        "time left until the answer is of no use any more", minimum=0.001, maximum=31_536_000, default=None, unit="s"
    )
    keep_alive: float | None = fields.number(
        "how long the model stays in memory after this job, -1 for ever; none: as the daemon is set",
        minimum=-1,
        maximum=31_536_000,
        default=None,
        unit="s",
    )
    idempotency_key: str | None = fields.identifier(
        "chosen by the client, best a UUID: a second submission with this key is the same job", default=None
    )

    def check_together(self) -> None:
        if self.time_map is not None and (self.start is not None or self.end is not None):
            raise BadRequest("Give either 'time_map' or 'start' and 'end', not both.", field="time_map")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise BadRequest(
                f"The range from {float(self.start):g} s to {float(self.end):g} s is empty: "
                "'end' must come after 'start'.",
                field="end",
            )


@dataclass(frozen=True, kw_only=True)
class Suggest(Submission):
    """Ask for captions of a clip."""

    TYPE = "suggest"

    count: int = fields.integer("how many different captions", minimum=1, maximum=16, default=3)
    temperature: float | None = fields.number(
        "boldness of the wording; none: the model's own", minimum=0.01, maximum=5.0, default=None
    )


@dataclass(frozen=True, kw_only=True)
class Generate(Submission):
    """Ask for soundtracks of a clip."""

    TYPE = "generate"

    output: str = fields.text("absolute path of the folder that receives the files", shortest=1)
    prompt: str | None = fields.text(
        "what shall be heard; none: the model's best caption", default=None, shortest=1, longest=1000
    )
    negative_prompt: str | None = fields.text("what shall not be heard", default=None, shortest=1, longest=1000)
    takes: int = fields.integer("how many different takes", minimum=1, maximum=16, default=1)
    sample_rate: int = fields.integer(
        "sample rate of the WAV", minimum=8000, maximum=192_000, default=48_000, unit="Hz"
    )
    bits: int = fields.choice("bits of a sample; 32 is floating point", 16, 24, 32, default=24)
    guidance_scale: float | None = fields.number(
        "strength of prompt and picture; none: the model's own", minimum=0.0, maximum=50.0, default=None
    )
    steps: int | None = fields.integer("decoding steps; none: the model's own", minimum=1, maximum=200, default=None)
    temperature: float | None = fields.number(
        "boldness of the sound; none: the model's own", minimum=0.01, maximum=20.0, default=None
    )
    mask_temperature: float | None = fields.number(
        "randomness of the order in which codes are decided; none: the model's own",
        minimum=0.0, maximum=100.0, default=None,
    )  # fmt: skip
    top_k: int | None = fields.integer(
        "how many of the likeliest codes are drawn from; none: the model's own", minimum=1, maximum=65_536, default=None
    )
    loudness: float | None = fields.number(
        "target loudness, true peaks limited; nil: left as made",
        minimum=-70.0,
        maximum=0.0,
        default=-23.0,
        unit="LUFS",
        optional=True,
    )
    preview: bool = fields.flag("also write a PNG and a copy of the video with the sound", default=False)
    prompts: tuple[str, ...] = fields.texts("one prompt per shot, instead of 'prompt'", default=())
    negative_prompts: tuple[str, ...] = fields.texts(
        "one per shot, instead of 'negative_prompt'; an empty one says nothing", default=()
    )
    cuts: tuple[Fraction, ...] | None = fields.times(
        "where shots change, seconds in the range; none: found in the picture; empty: nowhere", default=None
    )
    reference: str | None = fields.text(
        "absolute path of a sound that the takes shall continue", default=None, shortest=1
    )
    preset: str | None = fields.identifier(
        "draft (a third of the steps) or final; what is given beside it wins", default=None
    )
    guidance_schedule: str | None = fields.identifier(
        "constant, rising or falling over the steps; none: the model's own", default=None
    )
    nudge: bool = fields.flag("shift each take by up to 0.5 s to where it fits the motion best", default=False)
    rank: bool = fields.flag("best take first; otherwise in the order of their seeds", default=True)
    base: str | None = fields.text(
        "absolute path of an earlier take's side-car, or of a sound as long as the clip, to build on",
        default=None,
        shortest=1,
    )
    region: tuple[Fraction, ...] | None = fields.times(
        "begin and end, seconds in the range: only that part of 'base' is made anew",
        default=None,
        shortest=2,
        longest=2,
    )
    vary: float | None = fields.number(
        "share of the codes of 'base' that is made anew", minimum=0.0, maximum=1.0, default=None
    )
    vary_by: str = fields.choice(
        "which codes: evenly over the time, or the finest codebooks first", "time", "coarse", default="time"
    )
    loop: bool = fields.flag("the end goes on into the beginning", default=False)
    container: str = fields.choice("kind of sound file; flac has no 32 bits", "wav", "flac", default="wav")
    channels: int = fields.choice("2: the same sound in two channels", 1, 2, default=1)
    peak: float | None = fields.number(
        "true peak, instead of a loudness", minimum=-60.0, maximum=0.0, default=None, unit="dBTP"
    )
    true_peak: float = fields.number(
        "ceiling of true peaks, with a loudness", minimum=-20.0, maximum=0.0, default=-1.0, unit="dBTP"
    )
    fade: float = fields.number("fade at both ends", minimum=0.0, maximum=1000.0, default=5.0, unit="ms")
    mux: bool = fields.flag("also write a copy of the video with the sound, its pictures untouched", default=False)


ITEM_ALIASES = {"in": "start", "out": "end"}
_NOT_OF_AN_ITEM = ("priority", "deadline", "idempotency_key")


@dataclass(frozen=True, kw_only=True)
class Batch(Message):
    """Ask for soundtracks of many clips in one request. The batch is a job, and each of its items is one.

    An item is a map with the fields of `generate` except `priority`, `deadline` and `idempotency_key`; `in` and `out` may
    stand for `start` and `end`. An item that cannot be used fails alone. `items` too long for the frame go on in the raw
    buffers, each a msgpack list of items. Give either `items` or `manifest`.
    """

    TYPE = "batch"
    SOCKETS = (JOBS,)
    ANSWER = "job (the batch's id), state, items (how many), duplicate"
    BUFFERS = "items"

    items: tuple[Mapping[str, Any], ...] = fields.maps("the clips", default=(), longest=LARGEST_BATCH)
    manifest: str | None = fields.text(
        "absolute path of a JSON Lines or CSV file with the items, as the daemon's machine sees it",
        default=None,
        shortest=1,
    )
    defaults: Mapping[str, Any] = fields.mapping("fields of every item that does not say otherwise", default={})
    resume: bool = fields.flag(
        "keep what an earlier job with the same fields has made, if its files are still whole", default=True
    )
    report: str | None = fields.text(
        "absolute path of a JSON file that is written at the end, see Batches", default=None, shortest=1
    )
    priority: str = fields.choice("interactive work goes before batch work", "interactive", "batch", default="batch")
    deadline: float | None = fields.number(
        "time left until the rest is of no use any more", minimum=0.001, maximum=31_536_000, default=None, unit="s"
    )
    idempotency_key: str | None = fields.identifier(
        "chosen by the client, best a UUID: a second batch with this key is the same batch", default=None
    )

    def check_together(self) -> None:
        if bool(self.items) == (self.manifest is not None):
            raise BadRequest("Give either 'items', at least one, or 'manifest'.", field="items")

    def item(self, body: Mapping[str, Any]) -> Generate:
        """The request of one item. Raises BadRequest with the field's name."""
        given = {**named(self.defaults), **named(body)}
        for name in _NOT_OF_AN_ITEM:
            if name in given:
                raise BadRequest(f"'{name}' belongs to the batch, not to an item.", field=name)
        return Generate.from_wire(given | {"priority": self.priority})


def named(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with the names of the fields of `generate`. Raises BadRequest when a field is given under two names."""
    for alias, name in ITEM_ALIASES.items():
        if alias in item and name in item:
            raise BadRequest(f"'{alias}' and '{name}' are the same field: give one of them.", field=alias)
    return {ITEM_ALIASES.get(key, key): value for key, value in item.items()}


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

    states: tuple[str, ...] = fields.identifiers("only these states; empty: all", default=(), longest=8)
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

    watch: str = fields.text("request id of the watch, in hexadecimal digits", shortest=2, longest=128)


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
        raise BadRequest(f"The message is no valid msgpack of the allowed size: {error}.") from error


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
