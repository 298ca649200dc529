"""A sound onto the timeline: imported into the bin 'VATT', put on a track of that name, and looked for afterwards.

Resolve drops what overlaps, what lies on a locked track and what it does not like without a word. So a free track is
chosen first, and the track is read back to verify.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vatt_resolve.api import ResolveProblem, ask, need, whole
from vatt_resolve.selection import Session, Target

BIN = "VATT"
TRACK = "VATT"
MARK = "vatt"


@dataclass(frozen=True)
class Placed:
    """Where a sound came to lie. marked: whether the marker with its job could be set."""

    track: str
    start: int
    frames: int
    marked: bool
    item: Any = None


def place(session: Session, target: Target, wav: str, *, about: dict[str, Any]) -> Placed:
    """Put a WAV under a target, of the target's length to the frame.

    about: plain values for the marker (job, caption, seed, sidecar). Raises ResolveProblem with what Resolve refused.
    """
    clip = _import(session, wav)
    frames = target.end - target.start
    track = _free_track(session.timeline, target.start, target.end)
    # The last frame is named until 20, the one after it from 21 on. Where a version counts otherwise, the length
    # that is read back tells by how much.
    end = frames if session.version >= (21, 0) else frames - 1
    item = _append(session, clip, track, target.start, end)
    found = item and whole(ask(item, "GetEnd")) - whole(ask(item, "GetStart"))
    if item and found != frames:
        ask(session.timeline, "DeleteClips", [item])
        item = _append(session, clip, track, target.start, end + frames - found)
        found = item and whole(ask(item, "GetEnd")) - whole(ask(item, "GetStart"))
    name = str(ask(session.timeline, "GetTrackName", "audio", track) or track)
    if not item:
        raise ResolveProblem(
            f"Resolve did not put the sound on the track '{name}', and does not say why. It lies in the bin '{BIN}': "
            f"drag it to frame {target.start} by hand."
        )
    if found != frames:
        raise ResolveProblem(f"Resolve put {found} frames on the track '{name}' instead of {frames}.")
    return Placed(name, target.start, frames, _mark(session, target, about), item)


def _import(session: Session, wav: str) -> Any:
    pool = need(session.project, "GetMediaPool", problem="Resolve gives no media pool.")
    root = need(pool, "GetRootFolder", problem="Resolve gives no root bin.")
    before = ask(pool, "GetCurrentFolder")
    folder = next((one for one in ask(root, "GetSubFolderList") or [] if ask(one, "GetName") == BIN), None)
    if folder is None:
        folder = need(pool, "AddSubFolder", root, BIN, problem=f"Resolve does not make the bin '{BIN}'.")
    # What is imported goes to the current bin.
    ask(pool, "SetCurrentFolder", folder)
    try:
        imported = ask(pool, "ImportMedia", [wav])
    finally:
        if before is not None:
            ask(pool, "SetCurrentFolder", before)
    if imported:
        return imported[0]
    # A file that is in the bin already is not imported again.
    for clip in ask(folder, "GetClipList") or []:
        if ask(clip, "GetClipProperty", "File Path") == wav:
            return clip
    raise ResolveProblem(f"Resolve does not import {wav}.")


def _free_track(timeline: Any, start: int, end: int) -> int:
    """The first track 'VATT', 'VATT 2', … that is not locked and empty there; a new mono one where there is none."""
    count = int(ask(timeline, "GetTrackCount", "audio") or 0)
    names = {str(ask(timeline, "GetTrackName", "audio", index) or ""): index for index in range(1, count + 1)}
    number = 1
    while True:
        name = TRACK if number == 1 else f"{TRACK} {number}"
        if name not in names:
            break
        index = names[name]
        if not ask(timeline, "GetIsTrackLocked", "audio", index) and _is_free(timeline, index, start, end):
            return index
        number += 1
    need(timeline, "AddTrack", "audio", "mono", problem="Resolve does not add an audio track.")
    index = int(ask(timeline, "GetTrackCount", "audio") or 0)
    if index != count + 1:
        raise ResolveProblem(f"Resolve says it added an audio track, but there are {count} as before.")
    ask(timeline, "SetTrackName", "audio", index, name)
    return index


def _is_free(timeline: Any, index: int, start: int, end: int) -> bool:
    items = ask(timeline, "GetItemListInTrack", "audio", index) or []
    return all(ask(item, "GetEnd") <= start or ask(item, "GetStart") >= end for item in items)


def _append(session: Session, clip: Any, track: int, start: int, end: int) -> Any:
    """Put a clip on a track; the item that is found there afterwards, or None."""
    pool = ask(session.project, "GetMediaPool")
    order = {
        "mediaPoolItem": clip,
        "startFrame": 0,
        "endFrame": int(end),
        "mediaType": 2,
        "trackIndex": int(track),
        "recordFrame": int(start),
    }
    before = {ask(item, "GetUniqueId") for item in ask(session.timeline, "GetItemListInTrack", "audio", track) or []}
    ask(pool, "AppendToTimeline", [order])
    # The answer is no proof: look.
    for item in ask(session.timeline, "GetItemListInTrack", "audio", track) or []:
        if ask(item, "GetUniqueId") not in before and ask(item, "GetStart") == start:
            return item
    return None


def _mark(session: Session, target: Target, about: dict[str, Any]) -> bool:
    data = json.dumps(dict(about, **{MARK: 1}), ensure_ascii=False)
    note = str(about.get("caption", ""))
    # One frame holds one marker: take the next free one inside the clip.
    for frame in range(
        target.start - session.first, min(target.end - session.first, target.start - session.first + 10)
    ):
        if ask(session.timeline, "AddMarker", frame, "Cream", "VATT", note, 1, data):
            return True
    return False


def last_made(session: Session, target: Target) -> dict[str, Any] | None:
    """What the newest marker inside a target says about the sound that was made for it."""
    found = None
    for frame, marker in sorted((ask(session.timeline, "GetMarkers") or {}).items()):
        if target.start <= frame + session.first < target.end:
            try:
                about = json.loads(marker.get("customData") or "null")
            except ValueError:
                continue
            if isinstance(about, dict) and MARK in about:
                found = about
    return found
