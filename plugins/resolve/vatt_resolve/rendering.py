"""A stretch of the timeline rendered to a small file, for clips whose own file does not show what is seen."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from vatt_resolve.api import ResolveProblem, ask, need
from vatt_resolve.selection import Session, Source, Target

LIMIT = 600.0
"""Seconds that one rendering may take."""


def render(
    session: Session, target: Target, folder: str, *, why: str | None, sleep: Callable[[float], None] = time.sleep
) -> Source:
    """Render [start, end) of the timeline into `folder` and return it as a Source. Page and marks are put back.

    Raises ResolveProblem.
    """
    project, resolve = session.project, session.resolve
    os.makedirs(folder, exist_ok=True)
    page = ask(resolve, "GetCurrentPage")
    marks = ask(session.timeline, "GetMarkInOut")
    before = ask(project, "GetCurrentRenderFormatAndCodec")
    name = "vatt-" + uuid.uuid4().hex[:12]
    job = None
    try:
        ask(project, "SetCurrentRenderFormatAndCodec", "mp4", "H264")
        settings = {
            "SelectAllFrames": False,
            "MarkIn": target.start,
            "MarkOut": target.end - 1,
            "TargetDir": folder,
            "CustomName": name,
            "ExportVideo": True,
            "ExportAudio": False,
        }
        need(project, "SetRenderSettings", settings, problem="Resolve refuses the settings of the proxy.")
        job = need(project, "AddRenderJob", problem="Resolve refuses to render the proxy: is the Deliver page usable?")
        need(project, "StartRendering", [job], False, problem="Resolve does not begin to render the proxy.")
        _wait(project, job, sleep)
    finally:
        if job is not None:
            ask(project, "DeleteRenderJob", job)
        if before and before.get("format"):
            ask(project, "SetCurrentRenderFormatAndCodec", before["format"], before.get("codec", ""))
        _restore_marks(session.timeline, marks)
        if page:
            ask(resolve, "OpenPage", page)
    made = [file for file in os.listdir(folder) if file.startswith(name)]
    if not made:
        raise ResolveProblem(f"Resolve says that the proxy is rendered, but there is no file in {folder}.")
    return Source(
        os.path.join(folder, made[0]), Fraction(0), Fraction(target.end - target.start) / session.rate, why_rendered=why
    )


def _wait(project: Any, job: str, sleep: Callable[[float], None]) -> None:
    waited = 0.0
    while True:
        status = ask(project, "GetRenderJobStatus", job) or {}
        state = str(status.get("JobStatus", ""))
        if state == "Complete":
            return
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
