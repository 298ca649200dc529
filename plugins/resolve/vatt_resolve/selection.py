"""What is selected on the timeline, and which part of which file each clip shows."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vatt_resolve.api import ResolveProblem, ask, exact_rate, need, version_of, whole

_PLAIN = ("Video", "Video + Audio")


@dataclass(frozen=True)
class Session:
    """The open project and timeline. rate: frames per second. first: the frame number at which the timeline begins."""

    resolve: Any
    project: Any
    timeline: Any
    rate: Fraction
    first: int

    @property
    def version(self) -> tuple[int, int]:
        return version_of(self.resolve)


@dataclass(frozen=True)
class Target:
    """A stretch of the timeline that gets a sound, in absolute frames. item: the clip, None for a marked range."""

    name: str
    start: int
    end: int
    item: Any = None


@dataclass(frozen=True)
class Source:
    """Where the pictures of a target are: a file and a range in seconds. why_rendered: None for the clip's own file."""

    path: str
    start: Fraction
    end: Fraction
    why_rendered: str | None = None


def open_session(resolve: Any) -> Session:
    """The timeline in front of the user. Raises ResolveProblem."""
    project = ask(ask(resolve, "GetProjectManager"), "GetCurrentProject")
    if project is None:
        raise ResolveProblem("No project is open.")
    timeline = ask(project, "GetCurrentTimeline")
    if timeline is None:
        raise ResolveProblem("No timeline is open: open one on the Edit page.")
    rate = exact_rate(
        ask(timeline, "GetSetting", "timelineFrameRate") or ask(project, "GetSetting", "timelineFrameRate")
    )
    first = whole(need(timeline, "GetStartFrame", problem="Resolve does not say where the timeline begins."))
    return Session(resolve, project, timeline, rate, first)


def targets(session: Session) -> list[Target]:
    """The selected video clips; else the clip under the playhead; else the marked range. Raises ResolveProblem."""
    timeline = session.timeline
    items = [item for item in ask(timeline, "GetSelectedClips") or [] if _on_video_track(item)]
    if not items:
        under = ask(timeline, "GetCurrentVideoItem")
        items = [under] if under is not None else []
    found = {}
    for item in items:
        # One clip may be listed once for each of its linked parts.
        identity = ask(item, "GetUniqueId") or (ask(item, "GetName"), ask(item, "GetStart"))
        start, end = whole(ask(item, "GetStart")), whole(ask(item, "GetEnd"))
        if end > start:
            found[identity] = Target(str(ask(item, "GetName") or "clip"), start, end, item)
    if found:
        return sorted(found.values(), key=lambda target: target.start)
    marked = (ask(timeline, "GetMarkInOut") or {}).get("video") or {}
    if "in" in marked and "out" in marked:
        start, last = whole(marked["in"]), whole(marked["out"])
        if start < session.first:  # counted from the timeline's begin
            start, last = start + session.first, last + session.first
        if last >= start:
            return [Target("marked range", start, last + 1)]
    raise ResolveProblem("Nothing is selected: select clips, put the playhead over one, or mark in and out.")


def _on_video_track(item: Any) -> bool:
    kind = ask(item, "GetTrackTypeAndIndex")
    return not kind or kind[0] == "video"


def own_source(session: Session, target: Target) -> tuple[Source | None, str | None]:
    """(Source, None) where the clip's own file shows exactly what is seen, else (None, why it has to be rendered)."""
    item = target.item
    if item is None:
        return None, "a marked range"
    media = ask(item, "GetMediaPoolItem")
    if media is None:
        return None, "a title, generator or effect"
    path = ask(media, "GetClipProperty", "File Path")
    if ask(media, "GetClipProperty", "Type") not in _PLAIN or not path:
        return None, "a compound, still or nested clip"
    if (ask(item, "GetFusionCompCount") or 0) > 0:
        return None, "a clip with a Fusion composition"
    try:
        rate = exact_rate(ask(media, "GetClipProperty", "FPS"))
    except ResolveProblem:
        return None, "a clip without a frame rate"
    if rate != session.rate:
        return None, "a clip of another frame rate than the timeline's"
    first, last = ask(item, "GetSourceStartFrame"), ask(item, "GetSourceEndFrame")
    frames = target.end - target.start
    # Both ends may be off by one in some versions; more than that is a change of speed.
    if first is None or last is None or abs((last - first) - frames) > 1:
        return None, "a retimed clip"
    offset = ask(item, "GetLeftOffset")
    if offset is None or abs(float(offset) - round(float(offset))) > 0.01:
        return None, "a clip that begins between two frames"
    begin = round(float(offset))
    return Source(str(path), begin / rate, (begin + frames) / rate), None
