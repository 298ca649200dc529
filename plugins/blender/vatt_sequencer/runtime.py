"""The one session of this Blender, between register and unregister."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
