"""From a strip in Blender to what the pure modules need."""

from __future__ import annotations

import os
import uuid
from fractions import Fraction
from functools import lru_cache
from typing import Any

import bpy

from . import compat, runtime, takes
from .mapping import StripTiming, Traits, known_rate
from .targets import Candidate, Target

UID = "vatt_uid"
PENDING = "vatt_pending"
"""ID property of a strip: what the daemon still works on for it, as JSON, so that a reopened file gets its sound."""


class CannotRead(Exception):
    """The strip cannot be used; the text says why."""


def is_picture(strip: Any) -> bool:
    return strip.type != "SOUND" and not (strip.type == "TEXT" and not strip.text)


def file_of(strip: Any, scene: Any) -> str:
    """Absolute path of a movie's or sound's file, empty for strips without one."""
    path = getattr(strip, "filepath", "") or getattr(getattr(strip, "sound", None), "filepath", "")
    return os.path.normpath(bpy.path.abspath(path, library=scene.library)) if path else ""


def source_of(strip: Any, scene: Any) -> str:
    return file_of(strip, scene) or strip.type


def traits(strip: Any) -> Traits:
    crop = getattr(strip, "crop", None)
    cropped = crop is not None and any((crop.min_x, crop.max_x, crop.min_y, crop.max_y))
    return Traits(
        kind=strip.type if getattr(strip, "stream_index", 0) == 0 else "SECOND STREAM",
        reversed=bool(getattr(strip, "use_reverse_frames", False)),
        strobe=float(getattr(strip, "strobe", 1.0)),
        retimed=len(getattr(strip, "retiming_keys", ())) > 0,
        modifiers=any(not modifier.mute for modifier in strip.modifiers),
        cropped=cropped,
    )


def timing(strip: Any, scene: Any) -> StripTiming:
    """The timing of a movie strip. Raises CannotRead when its file is gone."""
    path = file_of(strip, scene)
    try:
        about = os.stat(path)
    except OSError:
        raise CannotRead(f"The file of '{strip.name}' is not there: {path}") from None
    start, end = compat.hold_trims(strip)
    return StripTiming(
        content_start=Fraction(compat.content_start(strip)),
        content_length=compat.content_length(strip),
        source_frames=_count_pictures(path, about.st_mtime_ns, about.st_size),
        source_rate=known_rate(strip.fps),
        timeline_rate=compat.timeline_rate(scene),
        trim_start=start,
        trim_end=end,
    )


@lru_cache(maxsize=256)
def _count_pictures(path: str, _modified: int, _size: int) -> int:
    """Pictures in a file as Blender counts them; a strip itself only tells its length on the timeline."""
    clip = bpy.data.movieclips.load(path)
    try:
        return int(clip.frame_duration)
    finally:
        bpy.data.movieclips.remove(clip)


def uid_of(strip: Any, scene: Any) -> str:
    """The strip's own id, given now if it has none or is the duplicate of another."""
    uid = str(strip.get(UID, ""))
    taken = any(
        other.get(UID) == uid and (owner, other.name) != (scene, strip.name)
        for owner in compat.scenes()
        for other in compat.all_strips(owner)
    )
    if not uid or taken:
        uid = strip[UID] = uuid.uuid4().hex
    return uid


def target_of(strip: Any, scene: Any) -> Target:
    return Target(uid_of(strip, scene), scene.name, strip.name, source_of(strip, scene), runtime.document())


def all_targets() -> list[tuple[Any, Any, Candidate]]:
    """(scene, strip, what it is found by) of every strip of the file."""
    document = runtime.document()
    return [
        (scene, strip, Candidate(str(strip.get(UID, "")), scene.name, strip.name, source_of(strip, scene), document))
        for scene in compat.scenes()
        for strip in compat.all_strips(scene)
    ]


def placed_takes(scene: Any, uid: str) -> list[tuple[Any, takes.PlacedTake]]:
    """The sound strips that were made for the strip of that id, in the order in which they were made."""
    found = []
    for strip in compat.all_strips(scene) if uid else []:
        record = takes.Record.from_text(strip.get(takes.PROPERTY)) if strip.type == "SOUND" else None
        if record is not None and record.of == uid:
            found.append((strip, takes.PlacedTake(strip.name, record, bool(strip.mute))))
    return found


def picture_strip(scene: Any, strip: Any) -> Any:
    """The strip itself, or for one of our sounds the strip that it was made for; None for any other sound."""
    if strip is None or is_picture(strip):
        return strip
    record = takes.Record.from_text(strip.get(takes.PROPERTY))
    if record is None:
        return None
    return next((other for other in compat.all_strips(scene) if other.get(UID) == record.of), None)
