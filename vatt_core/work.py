"""Progress, cancellation and the clock of one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vatt_core.errors import Cancelled

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); `done` never falls within a stage."""

Stop = Callable[[], bool]
"""Asked between two steps whether to stop."""


class Work:
    """What one request tells and is told while it runs. seconds: time spent, per stage."""

    def __init__(self, progress: Progress | None = None, cancelled: Stop | None = None) -> None:
        self._progress = progress
        self.cancelled = cancelled
        self.seconds: dict[str, float] = {}

    def check(self) -> None:
        """Raise Cancelled when somebody has asked for it."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("The job was cancelled.")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """Time a stage and report its steps; what is yielded is called after each and sees cancellation."""
        done = 0

        def tell(count: int) -> None:
            if self._progress is not None:
                self._progress(name, count, total)
            self.check()

        def step() -> None:
            nonlocal done
            done = min(done + 1, total)
            tell(done)

        tell(0)
        begun = time.perf_counter()
        try:
            yield step
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begun, 4)
        if done < total:
            tell(total)
