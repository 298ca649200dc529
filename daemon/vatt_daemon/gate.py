"""Whose turn it is on the device. Jobs run in threads of one worker process; one of them computes at a time.

Captions go before sound, interactive work before batch work. Whoever computes asks between two steps whether somebody
more urgent waits, so a batch job never keeps an editor waiting for longer than one step. Batch work that has waited
for AGEING seconds counts as interactive from then on.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vatt_core.errors import Cancelled

CAPTIONS, SOUND, BATCH = 0, 1, 2
AGEING = 30.0
"""Seconds after which waiting batch work counts as interactive."""
POLL = 0.05
"""Seconds between two looks at whether a waiting job was cancelled."""

_here = threading.local()


class Gate:
    """The device of one worker. Turns are taken in the order of rank, then of arrival."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._holder: Turn | None = None
        self._waiting: list[Turn] = []

    def _enter(self, turn: Turn, given_up: Callable[[], bool]) -> bool:
        with self.changed:
            turn.since = time.monotonic()
            self._waiting.append(turn)
            try:
                while self._holder is not None or min(self._waiting, key=Turn.urgency) is not turn:
                    self.changed.wait(POLL)
                    if given_up():
                        return False
                self._holder = turn
                return True
            finally:
                self._waiting.remove(turn)
                self.changed.notify_all()

    def _leave(self, turn: Turn) -> None:
        with self.changed:
            if self._holder is turn:
                self._holder = None
                self.changed.notify_all()

    def _preempts(self, turn: Turn) -> bool:
        with self.changed:
            return any(other.rank_now() < turn.rank for other in self._waiting)


class Turn:
    """One job's claim on the device, used by the job's own thread alone."""

    _numbers = itertools.count()

    def __init__(self, gate: Gate, rank: int, cancelled: Callable[[], bool]) -> None:
        self._gate = gate
        self.rank = rank
        self.cancelled = cancelled
        self.since = 0.0
        self._number = next(Turn._numbers)
        self.held = False

    def rank_now(self) -> int:
        if self.rank == BATCH and time.monotonic() - self.since > AGEING:
            self.rank = SOUND
        return self.rank

    def urgency(self) -> tuple[int, int]:
        return self.rank_now(), self._number

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the device. `current()` is this turn inside. Raises Cancelled while waiting for it."""
        _here.turn = self
        try:
            self.take()
            yield
        finally:
            self.leave()
            _here.turn = None

    def take(self, *, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the device; False when `unless` came true first. Raises Cancelled."""
        self.held = self._gate._enter(self, lambda: unless() or self.cancelled())
        if not self.held and self.cancelled():
            raise Cancelled("The job was cancelled while it waited for the model.")
        return self.held

    def leave(self) -> None:
        if self.held:
            self.held = False
            self._gate._leave(self)

    def offer(self) -> None:
        """Between two steps: let somebody more urgent go first. Raises Cancelled."""
        if self.held and self._gate._preempts(self):
            self.leave()
            self.take()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Leave the device to others while this job waits for something else, such as a clip being read."""
        if not self.held:
            yield
            return
        self.leave()
        try:
            yield
        finally:
            # Whatever happened: what follows computes, or is an error on its way out, which needs no turn.
            self.take()


def current() -> Turn | None:
    """The turn of the job that this thread carries out."""
    return getattr(_here, "turn", None)
