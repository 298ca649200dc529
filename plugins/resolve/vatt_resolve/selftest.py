"""The whole path in a scratch project of the user's own Resolve: what differs from what these scripts expect.

No one has run these scripts inside Resolve for this project; this is how a user can.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vatt_resolve.api import ResolveProblem, ask, need, version_of
from vatt_resolve.placement import last_made, place
from vatt_resolve.rendering import render
from vatt_resolve.selection import open_session, own_source, targets


@dataclass(frozen=True)
class Finding:
    """One comparison; they are the same when all is well."""

    name: str
    expected: Any
    found: Any

    @property
    def same(self) -> bool:
        return bool(self.expected == self.found)


def run(
    resolve: Any, clip: str, wav: str, folder: str, *, frames: int, sleep: Callable[[float], None] = time.sleep
) -> list[Finding]:
    """Work in a project of its own, which is deleted afterwards; the user's project is opened again.

    clip: a video of `frames` frames. wav: a sound of its length. folder: for proxies. Raises ResolveProblem where Resolve
    refuses what everything else needs.
    """
    manager = need(resolve, "GetProjectManager", problem="Resolve gives no project manager.")
    before = ask(ask(manager, "GetCurrentProject"), "GetName")
    if before is not None:
        ask(manager, "SaveProject")
    name = f"VATT self-test {int(time.time())}"
    project = need(manager, "CreateProject", name, problem="Resolve does not make a scratch project.")
    try:
        return [
            Finding("version", True, version_of(resolve) != (0, 0)),
            *_checks(resolve, project, clip, wav, folder, frames, sleep),
        ]
    finally:
        ask(manager, "CloseProject", project)
        if before is not None:
            ask(manager, "LoadProject", before)
        ask(manager, "DeleteProject", name)


def _checks(
    resolve: Any, project: Any, clip: str, wav: str, folder: str, frames: int, sleep: Callable[[float], None]
) -> list[Finding]:
    pool = need(project, "GetMediaPool", problem="Resolve gives no media pool.")
    media = need(pool, "ImportMedia", [clip], problem=f"Resolve does not import {clip}.")
    need(pool, "CreateTimelineFromClips", "VATT self-test", media, problem="Resolve does not make a timeline.")
    session = open_session(resolve)
    found: list[Finding] = []
    items = ask(session.timeline, "GetItemListInTrack", "video", 1) or []
    found.append(Finding("clips on the first video track", 1, len(items)))
    chosen = targets(session)
    target = chosen[0]
    found.append(Finding("frames of the clip under the playhead", frames, target.end - target.start))
    found.append(Finding("its first frame", session.first, target.start))
    source, why = own_source(session, target)
    found.append(Finding("why it would be rendered", None, why))
    if source is not None:
        found.append(Finding("its file", os.path.abspath(clip), os.path.abspath(source.path)))
        found.append(Finding("its begin in the file", "0", str(source.start)))
    about = {"job": "selftest", "caption": "a test", "seed": 1}
    for number, track in enumerate(("VATT", "VATT 2"), 1):
        try:
            placed = place(session, target, wav, about=about)
            got: Any = (placed.track, placed.start, placed.frames)
        except ResolveProblem as problem:
            got = str(problem)
        found.append(Finding(f"sound {number}", (track, target.start, target.end - target.start), got))
    found.append(Finding("the marker's data", "selftest", (last_made(session, target) or {}).get("job")))
    set_before = _as_set(resolve, project)
    try:
        proxy = render(session, target, folder, why="a test", sleep=sleep)
        found.append(Finding("the rendered proxy is a file", True, os.path.getsize(proxy.path) > 0))
        os.unlink(proxy.path)
    except (ResolveProblem, OSError) as problem:
        found.append(Finding("the rendered proxy", "a file", str(problem)))
    found.append(Finding("page, marks and Deliver page after rendering", set_before, _as_set(resolve, project)))
    kept = ask(project, "SaveAsNewRenderPreset", "VATT self-test")
    found.append(Finding("a render preset is kept and removed", (True, True),
                         (kept, ask(project, "DeleteRenderPreset", "VATT self-test"))))  # fmt: skip
    return found


def _as_set(resolve: Any, project: Any) -> Any:
    return (
        ask(resolve, "GetCurrentPage"),
        ask(ask(project, "GetCurrentTimeline"), "GetMarkInOut"),
        ask(project, "GetCurrentRenderFormatAndCodec"),
        ask(project, "GetCurrentRenderMode"),
    )


def report(findings: list[Finding]) -> str:
    """One line for each comparison, then the sum."""
    lines = [
        f"ok         {one.name}"
        if one.same
        else f"DIFFERENT  {one.name}: expected {one.expected!r}, found {one.found!r}"
        for one in findings
    ]
    different = sum(not one.same for one in findings)
    lines.append(
        "All as expected." if not different else f"{different} of {len(findings)} differ: please report these lines."
    )
    return "\n".join(lines)
