"""A job under way, as the scheduler sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from vatt_daemon.executor import Progressed


@dataclass
class Run:
    """progress: the last one, as clients get it. cancelling: the error that it shall end with, once it is cancelled."""

    job: str
    progress: dict[str, Any] | None = None
    cancelling: dict[str, Any] | None = None
    _stage: str = ""
    _since: float = 0.0
    _samples: int = 0

    def report(self, event: Progressed) -> dict[str, Any] | None:
        """The progress map after a step, None for one that would go backwards. The time that is left is told from the second
        step of a stage on, in seconds."""
        now = time.monotonic()
        if event.stage != self._stage:
            self._stage, self._since, self._samples = event.stage, now, 0
        elif self.progress is not None and event.done < self.progress["done"]:
            return None
        self._samples += 1
        elapsed = now - self._since
        known = self._samples >= 2 and event.done > 0
        self.progress = {
            "job": self.job,
            "stage": event.stage,
            "done": event.done,
            "total": event.total,
            "unit": "steps",
            "elapsed": round(elapsed, 3),
            "eta": round(elapsed / event.done * (event.total - event.done), 3) if known else None,
        }
        return self.progress
