"""The models that a worker has in memory: loaded when a job names them, kept for a while, taken out only when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

FOR_EVER = -1.0


@dataclass
class _Loaded:
    pipeline: Any
    keep_alive: float
    users: int = 0
    used: float = 0.0

    def expired(self, now: float) -> bool:
        return self.users == 0 and self.keep_alive != FOR_EVER and now - self.used >= self.keep_alive


class Shelf:
    """load: makes a pipeline from a model's name. most: how many stay in memory at once, those at work aside.
    keep_alive: seconds, see WorkerSettings. free: called after one was taken out. changed: told the names each time."""

    def __init__(
        self,
        load: Callable[[str], Any],
        *,
        most: int,
        keep_alive: float,
        free: Callable[[], None],
        changed: Callable[[list[str]], None],
    ) -> None:
        self._load = load
        self._most = most
        self._keep_alive = keep_alive
        self._free = free
        self._changed = changed
        self._models: dict[str, _Loaded] = {}
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(
        self,
        model: str,
        *,
        keep_alive: float | None,
        loading: Callable[[int], None],
        is_full: Callable[[Exception], bool],
    ) -> Iterator[Any]:
        """The pipeline of a model, which stays in memory inside. Called by one thread at a time, the one whose turn it is.

        loading: told 0 before and 1 after a model is read. is_full: whether an error says that memory ran out; then
        what is idle goes, and loading is tried once more.
        """
        entry = self._models.get(model)
        if entry is None:
            loading(0)
            self._evict(lambda name, entry: len(self._models) >= self._most)
            entry = _Loaded(self._read(model, is_full), self._keep_alive)
            with self._lock:
                self._models[model] = entry
            loading(1)
            self._changed(list(self._models))
        with self._lock:
            entry.users += 1
            entry.keep_alive = self._keep_alive if keep_alive is None else keep_alive
        try:
            yield entry.pipeline
        finally:
            with self._lock:
                entry.users -= 1
                entry.used = time.monotonic()
            self.expire()

    def _read(self, model: str, is_full: Callable[[Exception], bool]) -> Any:
        try:
            return self._load(model)
        except Exception as error:
            if not is_full(error) or not self._models:
                raise
        self._evict(lambda name, entry: True)
        return self._load(model)

    def expire(self) -> None:
        """Take out what has been idle for long enough."""
        now = time.monotonic()
        self._evict(lambda name, entry: entry.expired(now))

    def unload(self, model: str | None) -> None:
        """Take a model out, or all of them; one at work goes as soon as it is idle."""
        with self._lock:
            for name, entry in self._models.items():
                if model in (None, name) and entry.users:
                    entry.keep_alive = 0.0
        self._evict(lambda name, entry: model in (None, name))

    def _evict(self, wanted: Callable[[str, _Loaded], bool]) -> None:
        gone = False
        with self._lock:
            for name, entry in sorted(self._models.items(), key=lambda item: item[1].used):
                if entry.users == 0 and wanted(name, entry):
                    del self._models[name]
                    gone = True
        if gone:
            self._free()
            self._changed(list(self._models))
