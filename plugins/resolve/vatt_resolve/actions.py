"""What the menu entries do: read the timeline, hand its clips to VATT's panel, place what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vatt_resolve.api import ResolveProblem, ask, find_resolve
from vatt_resolve.placement import last_made, place
from vatt_resolve.rendering import render
from vatt_resolve.selection import Session, Source, Target, open_session, own_source, targets

CONFIG = "vatt_resolve.json"


def main(action: str, given: Any = None, config: dict[str, Any] | None = None, extra: Sequence[str] = ()) -> bool:
    """Carry out a menu entry. Never raises: what stands in the way is printed to Resolve's console and shown.

    given: the `resolve` of a menu script. config: the installed settings. extra: further arguments of the panel.
    Returns whether everything went well.
    """
    settings = config
    try:
        settings = settings or read_config()
        if action == "settings":
            return _panel(settings, {"type": "open", "action": action, "clips": []}, {}, None, extra)
        session = open_session(find_resolve(given))
        chosen = targets(session)
        clips = {}
        for number, target in enumerate(chosen):
            source, why = own_source(session, target)
            if source is None:
                source = render(session, target, _proxies(settings), why=why)
            clips[number] = (target, source)
        return _panel(settings, _opening(session, action, clips), clips, session, extra)
    except ResolveProblem as problem:
        print(f"VATT: {problem}")
        if settings and action != "settings":
            _show_problem(settings, str(problem), extra)
        return False


def read_config() -> dict[str, Any]:
    """The settings that the installer left beside this package. Raises ResolveProblem."""
    file = Path(__file__).resolve().parent.parent / CONFIG
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResolveProblem(
            f"VATT's scripts are not completely installed ({error}): run 'vatt plugins install resolve' again."
        ) from None


def _proxies(settings: dict[str, Any]) -> str:
    return settings.get("proxies") or os.path.join(tempfile.gettempdir(), "vatt-proxies")


def _opening(session: Session, action: str, clips: dict[int, tuple[Target, Source]]) -> dict[str, Any]:
    described = []
    for number, (target, source) in clips.items():
        made = last_made(session, target) or {}
        described.append(
            {
                "clip": number,
                "name": target.name,
                "path": source.path,
                "start": str(source.start),
                "end": str(source.end),
                "rendered": source.why_rendered,
                "frames": target.end - target.start,
                "made": made,
            }
        )
    return {
        "type": "open",
        "action": action,
        "clips": described,
        "project": str(ask(session.project, "GetName") or "project"),
        "rate": str(session.rate),
        "first": session.first,
    }


def _panel(
    settings: dict[str, Any],
    opening: dict[str, Any],
    clips: dict[int, tuple[Target, Source]],
    session: Session | None,
    extra: Sequence[str],
) -> bool:
    """Run the panel and do what it asks for until it closes. Returns whether everything went well."""
    command = [*settings["command"], "resolve", "panel", *extra]
    hidden: Any = {"creationflags": 0x08000000} if sys.platform == "win32" else {}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            encoding="utf-8",
            env=panel_environment(settings),
            **hidden,
        )
    except OSError as error:
        raise ResolveProblem(f"VATT cannot be started ({error}): run 'vatt plugins install resolve' again.") from None
    good = True
    assert process.stdin is not None and process.stdout is not None
    try:
        _say(process, opening)
        for line in process.stdout:
            order = _understood(line)
            if order["type"] == "place" and session is not None:
                answer = _place(session, clips[order["clip"]][0], order["takes"])
                good = good and not answer["problems"]
                _say(process, answer)
            elif order["type"] == "failed":
                good = False
                print("VATT: {}".format(order["message"]))
            elif order["type"] == "say":
                print("VATT: {}".format(order["message"]))
            elif order["type"] == "close":
                break
    except OSError as error:
        raise ResolveProblem(f"The panel of VATT ended unexpectedly ({error}).") from None
    finally:
        with contextlib.suppress(OSError):  # what was not sent, nobody reads any more
            process.stdin.close()
        code = process.wait()
    if code != 0:
        raise ResolveProblem(f"The panel of VATT ended with code {code}: run 'vatt doctor'.")
    return good


def panel_environment(settings: dict[str, Any]) -> dict[str, str]:
    """Resolve's own environment without what it sets for its own Python, which would lead VATT's astray."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    return dict(inherited, **settings.get("environment", {}))


def _understood(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        raise ResolveProblem(f"The panel of VATT said something that is no order: {line.strip()[:80]}") from None


def _say(process: Any, message: dict[str, Any]) -> None:
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _place(session: Session, target: Target, takes: list[dict[str, Any]]) -> dict[str, Any]:
    placed, problems = [], []
    for take in takes:
        about = {name: take.get(name) for name in ("job", "caption", "seed", "sidecar")}
        try:
            found = place(session, target, take["wav"], about=about)
            placed.append({"wav": take["wav"], "track": found.track, "start": found.start, "marked": found.marked})
            print(f"VATT: {os.path.basename(take['wav'])} on track {found.track} at frame {found.start}")
        except ResolveProblem as problem:
            print(f"VATT: {problem}")
            problems.append(str(problem))
    return {"type": "placed", "placed": placed, "problems": problems}


def _show_problem(settings: dict[str, Any], message: str, extra: Sequence[str]) -> None:
    opening = {"type": "open", "action": "problem", "clips": [], "message": message}
    try:
        _panel(settings, opening, {}, None, extra)
    except ResolveProblem as problem:
        print(f"VATT: {problem}")
