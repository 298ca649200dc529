"""The life of one request, from the click to the sound on the timeline. Pure: no bpy, no sockets."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .targets import Target

SUGGEST, GENERATE = "suggest", "generate"


class State(Enum):
    RENDERING = "Rendering what is seen"
    SENDING = "Sending"
    QUEUED = "Waiting its turn"
    RUNNING = "Working"
    PLACING = "Placing"
    HOMELESS = "Its strip is gone"
    DONE = "Done"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED})
AT_DAEMON = frozenset({State.SENDING, State.QUEUED, State.RUNNING})

_NEXT: dict[State, frozenset[State]] = {
    State.RENDERING: frozenset({State.SENDING, State.FAILED, State.CANCELLED}),
    State.SENDING: frozenset({State.QUEUED, State.RUNNING, State.PLACING, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.QUEUED, State.RUNNING, State.PLACING, State.FAILED, State.CANCELLED}),
    # A job that runs goes back to the queue when the daemon restarts.
    State.RUNNING: frozenset({State.RUNNING, State.QUEUED, State.PLACING, State.FAILED, State.CANCELLED}),
    State.PLACING: frozenset({State.DONE, State.HOMELESS, State.FAILED}),
    # An undo brings a deleted strip back.
    State.HOMELESS: frozenset({State.PLACING, State.DONE, State.FAILED, State.CANCELLED}),
}


class WrongTurn(Exception):
    """A state that cannot follow."""


@dataclass
class Job:
    """kind: SUGGEST or GENERATE. fields: of the message to the daemon, without what `key` makes of it. offset, length:
    timeline frames that are meant, from the strip's content start."""

    kind: str
    target: Target
    offset: int
    length: int
    fields: dict[str, Any]
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: State = State.SENDING
    id: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    eta: float | None = None
    message: str = ""
    result: dict[str, Any] | None = None
    cancel_wanted: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def fraction(self) -> float:
        """Progress of the present stage, 0 to 1."""
        if self.ended:
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0

    def turn(self, state: State, message: str = "") -> None:
        """Go on to another state. Raises WrongTurn, so that a late word from the daemon cannot revive what ended."""
        if state not in _NEXT.get(self.state, frozenset()):
            raise WrongTurn(f"{self.kind} cannot go from {self.state.name} to {state.name}")
        self.state, self.message = state, message
        if state is not State.RUNNING:
            self.stage, self.done, self.total, self.eta = "", 0, 0, None

    def progress(self, stage: str, done: int, total: int, eta: float | None) -> None:
        """A word of progress; it is not heard once the job has ended or waits to be placed."""
        if self.state in AT_DAEMON:
            self.state = State.RUNNING
        if self.state in (State.RUNNING, State.RENDERING):
            self.stage, self.done, self.total, self.eta = stage, done, total, eta

    def line(self) -> str:
        """The job in a few words, for the panel."""
        if self.ended or self.state is State.HOMELESS:
            return self.message or self.state.value
        text = self.stage.capitalize() if self.stage else self.state.value
        if self.total:
            text += f" {self.done}/{self.total}"
        return text + (f", {self.eta:.0f} s left" if self.eta is not None else "")
