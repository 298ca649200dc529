"""What stays on a sound strip: how it was made, and which of several takes is heard. Pure: no bpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

PROPERTY = "vatt"
"""ID property of a sound strip that holds a Record, as JSON."""
VERSION = 1


@dataclass(frozen=True)
class Record:
    """A placed take. `of`: id of the strip that it belongs to. offset, length: frames from that strip's content start.

    request: the fields that were sent, without paths and keys, so that the take can be made again. seed: the take's own.
    """

    of: str
    job: str
    take: int
    caption: str
    seed: int
    model: str
    wav: str
    offset: int
    length: int
    sidecar: str = ""
    model_hash: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def to_text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_text(cls, text: object) -> Record | None:
        """None for anything that is no record of this version."""
        if not isinstance(text, str):
            return None
        try:
            values = json.loads(text)
            known = {item.name for item in fields(cls)}
            record = cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, TypeError, AttributeError):
            return None
        return record if record.version == VERSION else None


@dataclass(frozen=True)
class PlacedTake:
    """A take as it lies on the timeline. `name`: of its sound strip."""

    name: str
    record: Record
    muted: bool


def picked(takes: Sequence[PlacedTake]) -> PlacedTake | None:
    """The take that is heard; where several or none are, the newest of them."""
    heard = [take for take in takes if not take.muted]
    return (heard or list(takes) or [None])[-1]  # type: ignore[list-item]


def overlapping(takes: Sequence[PlacedTake], name: str) -> list[PlacedTake]:
    """The takes of the same pictures as the one named, itself included."""
    this = next(take for take in takes if take.name == name).record
    return [
        take
        for take in takes
        if take.record.offset < this.offset + this.length and this.offset < take.record.offset + take.record.length
    ]


def only(takes: Sequence[PlacedTake], name: str) -> dict[str, bool]:
    """Strip name → muted, so that of the takes of the same pictures only the named one is heard."""
    return {take.name: take.name != name for take in overlapping(takes, name)}


def strip_name(caption: str, take: int) -> str:
    """A strip's name after its caption. Blender keeps 63 bytes; a cut falls between characters."""
    suffix = f" {take + 1}" if take else ""
    room = 60 - len(suffix.encode())
    text = " ".join(caption.split()) or "VATT"
    while len(text.encode()) > room:
        text = text[:-1]
    return text.rstrip() + suffix
