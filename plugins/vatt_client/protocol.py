"""What every message of the protocol has: its version, the limits of its frames, and how a request is made and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from vatt_client import fields

PROTOCOL = (1, 1)
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
