"""What every script that runs inside Blender's own Python shares. It knows no pytest: results go out as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import bpy

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "plugins" / "blender"), str(ROOT / "plugins")]

import addon_utils  # noqa: E402

ADDON = "vatt_sequencer"
waits: list[str] = []
"""Calls on the main thread that wait for the daemon, or could."""


def _end(*error: Any) -> None:
    traceback.print_exception(*error)
    sys.stderr.flush()
    os._exit(1)


sys.excepthook = _end


def arguments() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ["VATT_TEST"])
    return found


def answer(value: Any) -> NoReturn:
    """Tell the results and end. Blender as a module may wait for ever in its own clean-up."""
    Path(arguments()["answer"]).write_text(json.dumps(value))
    sys.stdout.flush()
    os._exit(0)


def watch_main_thread() -> None:
    """Note every use of a socket and every start of a program on the main thread."""
    import zmq

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                waits.append(name)
            return function(*arguments, **options)

        return call

    for kind, names in {
        zmq.Socket: ("connect", "send", "recv", "send_multipart", "recv_multipart", "poll"),
        zmq.Poller: ("poll",),
        subprocess.Popen: ("__init__", "wait", "communicate"),
    }.items():
        for name in names:
            setattr(kind, name, watched(f"{kind.__name__}.{name}", getattr(kind, name)))


def enable() -> Any:
    """Switch the extension on from its source. Returns its session, whose timer the script turns itself."""
    if addon_utils.enable(ADDON, default_set=True) is None:
        raise RuntimeError("the extension could not be enabled")
    from vatt_sequencer import runtime

    session = runtime.session()
    if session is None:
        raise RuntimeError(runtime.problem())
    return session


def disable() -> None:
    addon_utils.disable(ADDON, default_set=True)


def scene(fps: int = 24, base: float = 1.0, size: tuple[int, int] = (320, 240)) -> Any:
    """The scene, with an empty sequencer that shows it (5.0 on keeps the two apart)."""
    found = bpy.context.scene
    found.render.fps, found.render.fps_base = fps, base
    found.render.resolution_x, found.render.resolution_y = size
    found.render.resolution_percentage = 100
    found.view_settings.view_transform = "Standard"
    if found.sequence_editor is None:
        found.sequence_editor_create()
    show(found)
    return found


def show(found: Any) -> None:
    """Make the sequencer edit that scene."""
    if bpy.app.version >= (5, 0, 0):
        bpy.context.workspace.sequencer_scene = found
    else:
        bpy.context.window.scene = found


def strips(found: Any) -> Any:
    editor = found.sequence_editor
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def select(found: Any, *chosen: Any) -> None:
    for strip in strips(found):
        strip.select = strip.name in {item.name for item in chosen}
    found.sequence_editor.active_strip = chosen[0] if chosen else None


def add_movie(found: Any, path: str, *, first: int = 1, channel: int = 1, adjust: bool = False) -> Any:
    """A movie strip, as the data API or as the Add menu makes it: only the latter can follow the file's rate."""
    if not adjust:
        return strips(found).new_movie(Path(path).stem, path, channel, first)
    before = {strip.name for strip in strips(found)}
    options: dict[str, Any] = dict(
        filepath=path, frame_start=first, channel=channel, sound=False, adjust_playback_rate=True, use_framerate=False
    )
    if bpy.app.version >= (5, 0, 0):
        options["move_strips"] = False
    window = bpy.context.window
    area = window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.sequencer.movie_strip_add(**options)
    return next(strip for strip in strips(found) if strip.name not in before)


def turn_until(session: Any, condition: Callable[[], object], *, seconds: float = 1200.0) -> None:
    """Turn the session as its timer would, until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            states = [(job.kind, job.state.name, job.line()) for job in session.jobs]
            raise RuntimeError(f"it did not come true: {states}, {session.daemon}, {session.problem}")
        session.tick()
        time.sleep(0.02)


def render_pictures(found: Any, folder: str, frames: list[int]) -> None:
    """The pictures that Blender shows at these frames, as PNG files named by frame."""
    render = found.render
    if hasattr(render.image_settings, "media_type"):
        render.image_settings.media_type = "IMAGE"
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.image_settings.compression = 0
    render.filepath = str(Path(folder) / "f")
    found.frame_start, found.frame_end = min(frames), max(frames)
    bpy.ops.render.render(animation=True, scene=found.name)
