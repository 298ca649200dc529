"""A stretch of the timeline rendered to a small file, for clips whose own file does not show what is seen.

Resolve cannot be asked for its render settings, only to keep them as a preset: that is how they are put back afterwards.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from vatt_resolve.api import ResolveProblem, ask, need
from vatt_resolve.selection import Session, Source, Target

LIMIT = 600.0
"""Seconds that one rendering may take."""

SHORTEST_SIDE = 360
"""Pixels of a proxy's shorter side; the model sees fewer."""

CLEAN_PRESET = "H.264 Master"
"""One of Resolve's own. A rendering of sound alone leaves 'Export Video' off, and the setting of that name does not switch
it on again (measured in 21.1): a preset does."""

SINGLE_CLIP = 1
"""The render mode that makes one file of a range; the other one makes a file of each clip in it."""


def render(
    session: Session, target: Target, folder: str, *, why: str | None, sleep: Callable[[float], None] = time.sleep
) -> Source:
    """Render [start, end) of the timeline into `folder` and return it as a Source. Page, marks, the render queue and
    what is set on the Deliver page are put back.

    Raises ResolveProblem.
    """
    project = session.project
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ResolveProblem(f"The folder for proxies {folder} cannot be made ({error.strerror}).") from None
    name = "vatt-" + uuid.uuid4().hex[:12]
    settings = {
        "SelectAllFrames": False,
        "MarkIn": target.start,
        "MarkOut": target.end - 1,
        "TargetDir": folder,
        "CustomName": name,
        "ExportVideo": True,
    }
    with _page_and_marks(session), _render_settings(project, name) as kept:
        if kept:
            settings.update(_small(session))
        need(project, "SetRenderSettings", settings, problem="Resolve refuses the settings of the proxy.")
        job = need(project, "AddRenderJob", problem="Resolve refuses to render the proxy: is the Deliver page usable?")
        try:
            need(project, "StartRendering", [job], False, problem="Resolve does not begin to render the proxy.")
            _wait(project, job, sleep)
        finally:
            ask(project, "DeleteRenderJob", job)
    made = [file for file in os.listdir(folder) if file.startswith(name)]
    if not made:
        raise ResolveProblem(f"Resolve says that the proxy is rendered, but there is no file in {folder}.")
    return Source(
        os.path.join(folder, made[0]), Fraction(0), Fraction(target.end - target.start) / session.rate, why_rendered=why
    )


@contextlib.contextmanager
def _page_and_marks(session: Session) -> Iterator[None]:
    page = ask(session.resolve, "GetCurrentPage")
    marks = ask(session.timeline, "GetMarkInOut")
    try:
        yield
    finally:
        _restore_marks(session.timeline, marks)
        if page:
            ask(session.resolve, "OpenPage", page)


@contextlib.contextmanager
def _render_settings(project: Any, name: str) -> Iterator[bool]:
    """H.264, one file, and afterwards what was set before. Yields whether all of that could be kept."""
    before = ask(project, "GetCurrentRenderFormatAndCodec")
    mode = ask(project, "GetCurrentRenderMode")
    kept = bool(ask(project, "SaveAsNewRenderPreset", name))
    try:
        if kept:
            ask(project, "LoadRenderPreset", CLEAN_PRESET)
        ask(project, "SetCurrentRenderFormatAndCodec", "mp4", "H264")
        ask(project, "SetCurrentRenderMode", SINGLE_CLIP)
        yield kept
    finally:
        if kept:
            ask(project, "LoadRenderPreset", name)
            ask(project, "DeleteRenderPreset", name)
        if before and before.get("format"):
            ask(project, "SetCurrentRenderFormatAndCodec", before["format"], before.get("codec", ""))
        if mode is not None:
            ask(project, "SetCurrentRenderMode", mode)


def _small(session: Session) -> dict[str, int]:
    """The size of a proxy, in the timeline's proportions; nothing where Resolve does not say them."""
    try:
        width, height = (
            int(ask(session.timeline, "GetSetting", f"timelineResolution{side}")) for side in ("Width", "Height")
        )
    except (TypeError, ValueError):
        return {}
    shorter = min(width, height)
    if shorter <= SHORTEST_SIDE:
        return {}
    width, height = (round(side * SHORTEST_SIDE / shorter / 2) * 2 for side in (width, height))
    return {"FormatWidth": width, "FormatHeight": height}


def _wait(project: Any, job: str, sleep: Callable[[float], None]) -> None:
    waited = 0.0
    while True:
        status = ask(project, "GetRenderJobStatus", job) or {}
        state = str(status.get("JobStatus", ""))
        if state == "Complete":
            return
        if waited > LIMIT:
            ask(project, "StopRendering")  # a job that is rendered cannot be taken out of the queue
        if state in ("Failed", "Cancelled") or waited > LIMIT:
            raise ResolveProblem("The proxy could not be rendered: %s." % (status.get("Error") or state or "no answer"))
        sleep(0.1)
        waited += 0.1


def _restore_marks(timeline: Any, marks: Any) -> None:
    video = (marks or {}).get("video") or {}
    if "in" in video and "out" in video:
        ask(timeline, "SetMarkInOut", video["in"], video["out"], "all")
    else:
        ask(timeline, "ClearMarkInOut", "all")
