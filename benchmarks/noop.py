"""A pipeline that does nothing, for as long as a request says: what is left is the daemon."""

from __future__ import annotations

import time
from typing import Any

from vatt_core.requests import GenerateRequest, Suggestion, SuggestRequest, SuggestResult

__all__ = ["GenerateRequest", "Pipeline", "SuggestRequest"]


class Pipeline:
    """`temperature` is the number of seconds that a job takes, less the smallest temperature that there is."""

    @classmethod
    def load(cls, model: str = "nano", **options: Any) -> Pipeline:
        return cls()

    def suggest(self, request: SuggestRequest, *, progress: Any, cancelled: Any) -> SuggestResult:
        end = time.monotonic() + ((request.temperature or LEAST) - LEAST)
        while (left := end - time.monotonic()) > 0 and not cancelled():
            time.sleep(min(left, 0.05))
        return SuggestResult(captions=(Suggestion("nothing", 0.0),), model="nano", seed=0, duration=0.0)


LEAST = 0.01
"""The smallest temperature that a message may name."""
