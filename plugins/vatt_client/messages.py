"""The messages of the protocol: every request with its fields, and the frames that carry them.

This is the only definition. The client sends these classes, the daemon decodes into them, and docs/protocol.md
prints its tables from them. Frames after the routing identity: protocol version (2 bytes: major, minor), request id
(1 to 64 bytes, chosen by the client, echoed), one msgpack map, then raw buffers if the message says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Jobs, newest first, page by page."""

    TYPE = "list"
    SOCKETS = (JOBS, CONTROL)
    ANSWER = "jobs (maps without request and result), next (cursor of the next page or none)"

    states: tuple[str, ...] = fields.identifiers("only these states; empty: all", default=(), longest=8)
    limit: int = fields.integer("length of a page", minimum=1, maximum=1000, default=100)
    before: int | None = fields.integer(
        "cursor: 'next' of the page before", minimum=0, maximum=LARGEST_CURSOR, default=None
    )


@dataclass(frozen=True, kw_only=True)
class Cancel(Message):
    """Cancel a job that waits or runs. A job that has ended already stays as it is."""

    TYPE = "cancel"
    ANSWER = "job, state"

    job: str = fields.identifier("id of the job")


@dataclass(frozen=True, kw_only=True)
class Watch(Message):
    """Have progress and ends of jobs sent. They come as events with this request's id.

    A reader that is too slow is dropped; whoever hears nothing for some seconds asks `get` and watches again.
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
    for kind in (Hello, Ping, Models, Status, Suggest, Generate, Get, List, Cancel, Watch, Unwatch, Shutdown)
}


def pack(body: Mapping[str, Any]) -> bytes:
    """msgpack of a map. Raises BadRequest for a value that the wire cannot carry."""
    try:
        return bytes(msgpack.packb(body, use_bin_type=True))
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise BadRequest(f"This message cannot be sent: {error}.") from error


def unpack(data: bytes, *, largest_map: int = 256, largest_list: int = 16_384) -> dict[str, Any]:
    """The msgpack map of a frame. Raises BadRequest for anything else, also for what is nested or counted absurdly."""
    try:
        body = msgpack.unpackb(
            data, raw=False, strict_map_key=True, max_map_len=largest_map, max_array_len=largest_list, max_ext_len=0
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise BadRequest(f"The message is no valid msgpack map of the allowed size: {error}.") from error
    if not isinstance(body, dict):
        raise BadRequest("The message is no msgpack map.")
    return body


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
        raise BadRequest(f"'{name}' takes no raw buffers.")
    return kind.from_wire(body)
