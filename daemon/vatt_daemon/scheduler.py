"""Which job runs next, and what becomes of it. Interactive work goes before batch work; the queue is bounded.

The store is the truth: every change is committed there before anybody hears of it. What is kept in memory (the order
of waiting jobs, progress, deadlines) can be made again from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vatt_client.errors import Busy
from vatt_client.replies import CANCELLED, DONE, FAILED, QUEUED

from vatt_core.errors import DiskFull
from vatt_daemon.executor import CapacityChanged, Event, Executor, Failed, Finished, Lost, Progressed, Task
from vatt_daemon.settings import JobSettings
from vatt_daemon.store import Store, StoredJob

log = logging.getLogger(__name__)

DISK_RETRY = 2.0
"""Seconds until something that found the database's disk full is tried again."""

Publish = Callable[[str, dict[str, Any]], None]
"""Called with a job's id and an event's map; must not wait."""


@dataclass
class _Run:
    """A job under way: its last progress, and since when its present stage runs."""

    job: str
    stage: str = ""
    since: float = 0.0
    samples: int = 0
    progress: dict[str, Any] | None = None
    cancelling: dict[str, Any] | None = None


class Scheduler:
    """Feeds the executor from the store."""

    def __init__(self, store: Store, executor: Executor, settings: JobSettings, publish: Publish) -> None:
        self._store = store
        self._executor = executor
        self._settings = settings
        self._publish = publish
        self._interactive: deque[str] = deque()
        self._batch: deque[str] = deque()
        self._waiting: set[str] = set()
        self._running: dict[str, _Run] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._in_a_row = 0
        self._stopping = False

    @property
    def running(self) -> list[str]:
        return list(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def progress(self, job: str) -> dict[str, Any] | None:
        """The last progress of a running job."""
        run = self._running.get(job)
        return None if run is None else run.progress

    def health(self) -> dict[str, Any]:
        """How the executor is, in plain values."""
        return self._executor.health()

    def recover(self) -> None:
        """Take over what an earlier daemon left in the store."""
        jobs = self._store.recover()
        if jobs:
            log.info("%d jobs wait from before", len(jobs))
        for job in jobs:
            self.add(job)

    def check_room(self, jobs: int = 1) -> None:
        """Raise Busy when so many more jobs would not fit into the queue."""
        if len(self._waiting) + jobs > self._settings.queue:
            raise Busy(
                f"{len(self._waiting)} jobs are waiting already, the queue is full: try again in a while.",
                retry_after=5.0,
                queued=len(self._waiting),
            )

    def add(self, job: StoredJob) -> None:
        """Queue a stored job; `dispatch` begins it."""
        self._waiting.add(job.id)
        self._queue(job).append(job.id)
        if job.expires is not None:
            loop = asyncio.get_running_loop()
            self._deadlines[job.id] = loop.call_later(max(0.0, job.expires - time.time()), self._expire, job.id)

    def _queue(self, job: StoredJob) -> deque[str]:
        return self._interactive if job.priority == "interactive" else self._batch

    def _next(self) -> deque[str] | None:
        """The queue whose first job is next, None when nothing waits.

        A waiting batch job gets a turn after `fair_share` interactive ones in a row.
        """
        for queue in (self._interactive, self._batch):
            while queue and queue[0] not in self._waiting:
                queue.popleft()
        fair = self._in_a_row >= self._settings.fair_share
        if self._batch and (fair or not self._interactive):
            self._in_a_row = 0
            return self._batch
        if self._interactive:
            self._in_a_row = self._in_a_row + 1 if self._batch else 0
            return self._interactive
        return None

    def dispatch(self) -> None:
        """Hand waiting jobs to the executor, as many as it takes."""
        while not self._stopping and self._waiting and self._executor.capacity() > 0:
            queue = self._next()
            if queue is None:
                return
            job = queue.popleft()
            try:
                stored = self._store.start(job)
            except DiskFull as error:
                log.error("%s", error)
                queue.appendleft(job)
                asyncio.get_running_loop().call_later(DISK_RETRY, self.dispatch)
                return
            self._waiting.discard(job)
            self._running[job] = _Run(job)
            log.info("job %s: attempt %d", job, stored.attempt)
            self._announce(stored)
            self._executor.submit(Task(job=job, kind=stored.kind, request=stored.request | {"seed": stored.seed}))

    def cancel(self, job: str, *, message: str = "The job was cancelled.", **details: Any) -> StoredJob:
        """Cancel a waiting job at once, a running one at its next step. Raises KeyError for an unknown one."""
        stored = self._store.get(job)
        if stored.ended:
            return stored
        error = {"code": "cancelled", "message": message, "retryable": False, "retry_after": None, "details": details}
        run = self._running.get(job)
        if run is None:
            self._end(job, CANCELLED, error=error)
            return self._store.get(job)
        run.cancelling = error
        self._executor.cancel(job)
        return stored

    def _expire(self, job: str) -> None:
        with contextlib.suppress(KeyError):
            self.cancel(job, message="The job's deadline passed before it was done.", reason="deadline")

    async def run(self) -> None:
        """Follow the executor for ever."""
        async for event in self._executor.events():
            try:
                self._handle(event)
            except Exception:
                log.exception("an event of the executor could not be handled: %r", event)
            self.dispatch()

    def _handle(self, event: Event) -> None:
        if isinstance(event, CapacityChanged):
            return
        run = self._running.get(event.job)
        if run is None:
            return
        if isinstance(event, Progressed):
            self._report(run, event)
        elif isinstance(event, Finished):
            self._end(event.job, DONE, result=event.result)
        elif isinstance(event, Failed):
            if run.cancelling is not None:
                self._end(event.job, CANCELLED, error=run.cancelling)
            elif event.error.get("code") == "cancelled" and self._stopping:
                self._requeue(event.job, note="the daemon stopped")
            else:
                self._end(event.job, FAILED, error=event.error)
        else:
            self._lost(run, event)

    def _lost(self, run: _Run, event: Lost) -> None:
        log.warning("job %s: %s", event.job, event.reason)
        if run.cancelling is not None:
            self._end(event.job, CANCELLED, error=run.cancelling)
            return
        attempt = self._store.get(event.job).attempt
        if attempt < self._settings.attempts:
            self._requeue(event.job, note=event.reason)
            return
        self._end(
            event.job,
            FAILED,
            error={
                "code": "worker_crash",
                "retryable": False,
                "retry_after": None,
                "details": {"attempts": attempt},
                "message": f"The model process died {attempt} times on this job, the last time: {event.reason}.",
            },
        )

    def _requeue(self, job: str, *, note: str) -> None:
        stored = self._store.requeue(job, note=note, uncount=self._stopping)
        self._running.pop(job, None)
        self._waiting.add(job)
        self._queue(stored).appendleft(job)
        self._announce(stored)

    def _end(
        self, job: str, state: str, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> None:
        try:
            stored = self._store.finish(job, state, result=result, error=error)
        except DiskFull as full:
            log.error("%s", full)
            asyncio.get_running_loop().call_later(DISK_RETRY, lambda: self._end(job, state, result=result, error=error))
            return
        self._running.pop(job, None)
        self._waiting.discard(job)
        timer = self._deadlines.pop(job, None)
        if timer is not None:
            timer.cancel()
        log.info("job %s: %s%s", job, state, "" if error is None else f" ({error['code']}: {error['message']})")
        self._announce(stored)

    def _announce(self, job: StoredJob) -> None:
        self._publish(job.id, {"type": "event", "event": "state", "job": job.to_wire()})

    def _report(self, run: _Run, event: Progressed) -> None:
        now = time.monotonic()
        if event.stage != run.stage:
            run.stage, run.since, run.samples = event.stage, now, 0
        elif run.progress is not None and event.done < run.progress["done"]:
            return
        run.samples += 1
        elapsed = now - run.since
        known = run.samples >= 2 and event.done > 0
        run.progress = {
            "job": run.job,
            "stage": event.stage,
            "done": event.done,
            "total": event.total,
            "unit": "steps",
            "elapsed": round(elapsed, 3),
            "eta": round(elapsed / event.done * (event.total - event.done), 3) if known else None,
        }
        self._publish(run.job, {"type": "event", "event": "progress", "progress": run.progress})

    async def stop(self) -> None:
        """End the executor; what ran goes back to the queue without counting as an attempt."""
        self._stopping = True
        for timer in self._deadlines.values():
            timer.cancel()
        await self._executor.stop()
        for job in list(self._running):
            if self._running[job].cancelling is not None:
                self._end(job, CANCELLED, error=self._running[job].cancelling)
            elif self._store.get(job).state != QUEUED:
                self._requeue(job, note="the daemon stopped")
