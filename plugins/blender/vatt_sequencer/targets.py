"""Which strip a job belongs to, found again after the user worked on. Pure: no bpy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The strip as it was: its own id (an ID property), and what finds it when an undo took that away."""

    uid: str
    scene: str
    name: str
    source: str
    """Path of its file, or its type where it has none."""
    document: str = ""
    """The file that was open: another one may well have a strip of the same name and source."""


@dataclass(frozen=True)
class Candidate:
    uid: str
    scene: str
    name: str
    source: str
    document: str = ""


def find(target: Target, candidates: Iterable[Candidate]) -> int | None:
    """Index of the strip that the target means, None when it is gone.

    A duplicated strip carries the same id: the one of the old name is the old one.
    """
    found = list(candidates)
    same = [index for index, item in enumerate(found) if item.uid == target.uid]
    if same:
        same.sort(key=lambda index: (found[index].scene != target.scene, found[index].name != target.name))
        return same[0]
    wanted = (target.document, target.scene, target.name, target.source)
    for index, item in enumerate(found):
        if not item.uid and (item.document, item.scene, item.name, item.source) == wanted:
            return index
    return None


@dataclass(frozen=True)
class Place:
    """Timeline frames of a new sound: where its content starts, and the part [first, last) that is heard."""

    content_start: int
    first: int
    last: int


def whole_frame(position: float) -> int:
    """The timeline frame that a position between two frames counts as. Halves always go up (Python's `round` takes them to the
    even side), so that a strip that is moved by whole frames takes its sounds along by as many."""
    return math.floor(position + 0.5)


def place(*, offset: int, length: int, content_start: int, left: int, right: int) -> Place:
    """Where a sound of `length` frames goes that was made for the pictures `offset` frames after the content's begin.

    The strip may have been moved (content_start) or trimmed (left, right) since: the sound stays with its pictures and is
    cut where they are cut; where none of its pictures is left it is laid down whole.
    """
    begin = content_start + offset
    first, last = max(begin, left), min(begin + length, right)
    if last <= first:
        first, last = begin, begin + length
    return Place(begin, first, last)
