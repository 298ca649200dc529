"""Switch the extension on and off: classes, menus, timer, handlers, the thread to the daemon."""

from __future__ import annotations

from typing import Any

import bpy
from bpy.app.handlers import persistent

from . import dependencies, operators, panel, properties, runtime
from .session import Session


def register() -> None:
    properties.register()
    operators.register()
    panel.register()
    problem = dependencies.problem()
    runtime.set_session(None if problem else Session(operators.preferences), problem)
    if problem:
        print(f"VATT: {problem}")
        return
    # While Blender starts no file can be looked at: the first tick starts the thread.
    bpy.app.timers.register(_first_tick, first_interval=0.1, persistent=True)
    for handlers, function in _handlers():
        handlers.append(function)


def unregister() -> None:
    session = runtime.session()
    for timer in (_first_tick, _tick):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    for handlers, function in _handlers():
        if function in handlers:
            handlers.remove(function)
    if session is not None:
        session.stop()
    runtime.set_session(None)
    panel.unregister()
    operators.unregister()
    properties.unregister()


def _handlers() -> list[tuple[list[Any], Any]]:
    handlers = bpy.app.handlers
    return [(handlers.load_post, _loaded), (handlers.undo_post, _history), (handlers.redo_post, _history)]


def _first_tick() -> None:
    session = runtime.session()
    if session is not None:
        session.start()
        bpy.app.timers.register(_tick, first_interval=0.1, persistent=True)


def _tick() -> float | None:
    session = runtime.session()
    return session.tick() if session is not None else None


@persistent
def _loaded(*_arguments: Any) -> None:
    session = runtime.session()
    if session is not None:
        session.file_loaded()


@persistent
def _history(*_arguments: Any) -> None:
    session = runtime.session()
    if session is not None:
        session.history_changed()
