"""Timelines of the contract double, and the menu entries' settings: set-up that several tests share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.resolve.double import STUDIO_21_1, MediaPoolItem, Profile, Project, Resolve, Timeline, TimelineItem


def build(
    profile: Profile = STUDIO_21_1, *, rate: str = "24", first: int = 86_400, name: str = "A film"
) -> tuple[Resolve, Project, Timeline]:
    """An open project with an empty timeline."""
    project = Project(profile, name=name, rate=rate, first=first)
    project._timeline = timeline = Timeline(profile, rate=rate, first=first)
    return Resolve(profile, project), project, timeline


def film(home: Any, profile: Profile = STUDIO_21_1) -> tuple[Resolve, Project, Timeline]:
    """A plain clip, used twice, and a title above which nothing else lies; all selected, the playhead over the first."""
    resolve, project, timeline = build(profile, name="A/film: 1")
    media = MediaPoolItem(str(home.write("clip.mp4", "a clip")))
    plain = timeline._add(TimelineItem(media, 86_400, 86_448))
    again = timeline._add(TimelineItem(media, 86_500, 86_524, left=12))
    title = timeline._add(TimelineItem(None, 86_600, 86_624, name="Title"))
    timeline._selected, timeline._current = [plain, again, title], plain
    project._write = lambda path, settings: path.write_text("rendered") and None
    return resolve, project, timeline


def installed(home: Any, folder: Path, **more: Any) -> dict[str, Any]:
    """What the installer leaves for the scripts, and choices of the user's own. Takes go to `folder`/takes."""
    file = Path(home.environment["VATT_HOME"]) / "config" / "resolve.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"output": str(folder / "takes"), "takes": 2, "model": "nano"} | more))
    names = ("VATT_HOME", "PYTHONPATH", "VATT_WORKER_PIPELINE", "VATT_TEST_RUNS")
    return {
        "command": [sys.executable, "-m", "vatt_daemon.cli"],
        "environment": {name: home.environment[name] for name in names},
        "proxies": str(folder / "proxies"),
    }


def sounds_of(timeline: Timeline) -> dict[str, list[tuple[int, int]]]:
    """Each audio track's name, with (begin, end) of what lies on it."""
    return {track["name"]: [(item._start, item._end) for item in track["items"]] for track in timeline._tracks["audio"]}
