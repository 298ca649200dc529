"""The one session of this Blender, between register and unregister."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bpy

if TYPE_CHECKING:
    from .session import Session

_running: dict[str, Any] = {}


def session() -> Session | None:
    """None while the extension is off, or where its libraries do not fit this Python."""
    found: Session | None = _running.get("session")
    return found


def problem() -> str:
    """Why there is no session."""
    return str(_running.get("problem", ""))


def set_session(session: Session | None, problem: str | None = None) -> None:
    _running.clear()
    if session is not None:
        _running["session"] = session
    if problem:
        _running["problem"] = problem


def document() -> str:
    """What tells the open file from others: its path, or how many were opened before a new one that was never saved."""
    return bpy.data.filepath or f"unsaved {_running.get('loads', 0)}"


def count_load() -> None:
    _running["loads"] = _running.get("loads", 0) + 1
