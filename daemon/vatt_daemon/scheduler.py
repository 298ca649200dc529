"""Which job runs next, and what becomes of it. Interactive work goes before batch work; the queue is bounded.

The store is the truth: every change is committed there before anybody hears of it. What is kept in memory (the order
of waiting jobs, progress, deadlines) can be made again from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt_client.errors import Busy
from vatt_client.replies import CANCELLED, DONE, FAILED, QUEUED

from vatt_core.errors import DiskFull
from vatt_daemon.executor import CapacityChanged, Event, Executor, Failed, Finished, Progressed, Task
from vatt_daemon.logs import about
from vatt_daemon.places import Places
from vatt_daemon.runs import Run
from vatt_daemon.settings import JobSettings
from vatt_daemon.store import Store
from vatt_daemon.stored_job import StoredJob
from vatt_daemon.upkeep import Upkeep

log = logging.getLogger(__name__)

DISK_RETRY = 2.0
"""Seconds until something that found a disk full is tried again."""

Publish = Callable[[str, dict[str, Any]], None]
"""Called with a job's id and an event's map; must not wait."""


@dataclass(frozen=True)
class _End:
    """What a job's end is to be: its state with its result or its error."""

    job: str
    state: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class Scheduler:
    """Feeds the executor from the store."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        settings: JobSettings,
        publish: Publish,
        *,
        receipts: Path,
        places: Places,
    ) -> None:
        """receipts, places: see upkeep.py."""
        self._store = store
        self._executor = executor
        self._settings = settings
        self._publish = publish
        self._upkeep = Upkeep(store, settings, receipts=receipts, places=places)
        self._interactive: deque[str] = deque()
        self._batch: deque[str] = deque()
        self._waiting: set[str] = set()
        self._running: dict[str, Run] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        # Jobs whose worker died: each of them runs alone from then on, so that one cannot take others along again.
        self._suspects: set[str] = set()
        # Batch jobs that found the disk of their output full, and when they first did.
        self._full_since: dict[str, float] = {}
        self._background: set[asyncio.Task[None]] = set()
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
        """Queue a stored job; `dispatch` begins it, or `begin` if the transaction that stores it is still open."""
        self._waiting.add(job.id)
        self._queue(job).append(job.id)
        if job.expires is not None:
            loop = asyncio.get_running_loop()
            self._deadlines[job.id] = loop.call_later(max(0.0, job.expires - time.time()), self._expire, job.id)

    def withdraw(self, job: StoredJob) -> None:
        """Forget a job that was added and then could not be stored."""
        self._waiting.discard(job.id)
        timer = self._deadlines.pop(job.id, None)
        if timer is not None:
            timer.cancel()

    def _queue(self, job: StoredJob) -> deque[str]:
        return self._interactive if job.priority == "interactive" else self._batch

    def _turns(self) -> list[str]:
        """The jobs that can begin now, in order: interactive ones first, but a waiting batch job after `fair_share` of them
        in a row."""
        if self._stopping or not self._suspects.isdisjoint(self._running):
            return []
        queues = {"interactive": self._in_order(self._interactive), "batch": self._in_order(self._batch)}
        first = {priority: next(queue, None) for priority, queue in queues.items()}
        # Each that begins may take room which the other kind was counted with: rather too few now, and the rest next time.
        room = {priority: self._executor.capacity(priority) if first[priority] else 0 for priority in queues}
        chosen: list[str] = []
        in_a_row = self._in_a_row
        while True:
            able = {priority: first[priority] is not None and room[priority] > len(chosen) for priority in queues}
            due = first["batch"] is not None and room["batch"] > 0 and in_a_row >= self._settings.fair_share
            priority = "interactive" if able["interactive"] and not due else "batch"
            job = first[priority]
            if job is None or not able[priority]:
                return chosen
            if job in self._suspects:
                return chosen if chosen or self._running else [job]
            in_a_row = in_a_row + 1 if priority == "interactive" and first["batch"] is not None else 0
            first[priority] = next(queues[priority], None)
            chosen.append(job)

    def _in_order(self, queue: deque[str]) -> Iterator[str]:
        """The jobs of a queue that still wait."""
        while queue and queue[0] not in self._waiting:
            queue.popleft()
        return (job for job in queue if job in self._waiting)

    def begin(self) -> list[StoredJob]:
        """Count an attempt of each job whose turn it is, in one transaction: the open one, if one is.

        `hand_over` them when that is committed, in the same turn of the loop; nothing is to be undone when it is not.
        """
        turns = self._turns()
        if not turns:
            return []
        with self._store.transaction():
            return [self._store.start(job) for job in turns]

    def hand_over(self, jobs: Sequence[StoredJob]) -> None:
        """Give the executor the jobs that `begin` has returned."""
        for job in jobs:
            queue = self._queue(job)
            while queue.popleft() != job.id:
                pass  # cancelled while it waited
            self._in_a_row = self._in_a_row + 1 if queue is self._interactive and self._batch else 0
            self._waiting.discard(job.id)
            self._running[job.id] = Run(job.id)
            self._executor.submit(Task(job=job.id, kind=job.kind, request=job.request | {"seed": job.seed}))
        for job in jobs:  # what works already need not wait for this
            self._announce(job)
            log.info("job %s: attempt %d", job.id, job.attempt, extra=about(job.id))

    def dispatch(self) -> None:
        """Hand waiting jobs to the executor, as many as it takes."""
        while self._waiting:
            try:
                jobs = self.begin()
            except (DiskFull, sqlite3.Error) as error:
                log.error("no job can begin: %s", error)
                asyncio.get_running_loop().call_later(DISK_RETRY, self.dispatch)
                return
            if not jobs:
                return
            self.hand_over(jobs)

    def unload(self, model: str | None) -> list[str]:
        """Take a model (None: all) out of memory where it is idle; the names of those that go."""
        return self._executor.unload(model)

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
        house = asyncio.create_task(self._upkeep.run())
        try:
            async for events in self._executor.events():
                self._take_in(events)
                # Whoever ends jobs quickly would hold everybody else up otherwise.
                await asyncio.sleep(0)
        finally:
            house.cancel()

    def _take_in(self, events: Sequence[Event]) -> None:
        """Ends that come together share one commit, with the begins of the jobs that they make room for."""
        ends: list[_End] = []
        for event in events:
            try:
                end = self._handle(event)
            except Exception:
                log.exception("an event of the executor could not be handled", extra=about(detail=repr(event)))
            else:
                ends += [] if end is None else [end]
        try:
            if ends:
                self._end_together(ends)
        except Exception:
            log.exception("jobs could not be ended together")
            for end in ends:
                with contextlib.suppress(Exception):  # the one that is to blame has been logged
                    self._end(end.job, end.state, result=end.result, error=end.error)
        self.dispatch()

    def _handle(self, event: Event) -> _End | None:
        """What a job's end is to be, if the event is one; everything else is done here."""
        if isinstance(event, CapacityChanged):
            return None
        run = self._running.get(event.job)
        if run is None:
            return None
        if isinstance(event, Finished):
            return _End(event.job, DONE, result=event.result)
        if isinstance(event, Failed):
            if run.cancelling is not None:
                return _End(event.job, CANCELLED, error=run.cancelling)
            if event.error.get("code") == "cancelled" and self._stopping:
                self._requeue(event.job, note="the daemon stopped", uncount=True)
            elif event.error.get("code") == DiskFull.code and self._waits_for_disk(event.job):
                self._requeue(event.job, note=str(event.error["message"]), uncount=True, after=DISK_RETRY)
            else:
                return _End(event.job, FAILED, error=event.error)
        elif isinstance(event, Progressed):
            progress = run.report(event)
            if progress is not None:
                self._publish(run.job, {"type": "event", "event": "progress", "progress": progress})
        else:
            log.warning("job %s: %s", event.job, event.reason, extra=about(event.job))
            self._in_background(self._lost(run, event.reason))
        return None

    def _waits_for_disk(self, job: str) -> bool:
        """Batch work waits for space; an editor's user is told at once."""
        if self._store.get(job).priority != "batch":
            return False
        since = self._full_since.setdefault(job, time.monotonic())
        return time.monotonic() - since < self._settings.disk_wait

    async def _lost(self, run: Run, reason: str) -> None:
        """A worker died under the job: try again, alone, or give up and leave nothing of it behind."""
        job = run.job
        self._suspects.add(job)
        stored = self._store.get(job)
        if run.cancelling is None and (stored.attempt < self._settings.attempts or self._stopping):
            self._requeue(job, note=reason, uncount=self._stopping)
        else:
            await asyncio.to_thread(self._upkeep.discard, stored)
            if run.cancelling is not None:
                self._end(job, CANCELLED, error=run.cancelling)
            else:
                self._end(
                    job,
                    FAILED,
                    error={
                        "code": "worker_crash",
                        "retryable": False,
                        "retry_after": None,
                        "details": {"attempts": stored.attempt},
                        "message": f"The model process died {stored.attempt} times on this job, the last time: "
                        f"{reason}.",
                    },
                )
        self.dispatch()

    def _requeue(self, job: str, *, note: str, uncount: bool = False, after: float = 0.0) -> None:
        """Put a running job back to the front of its queue, or there after some seconds."""
        loop = asyncio.get_running_loop()
        try:
            stored = self._store.requeue(job, note=note, uncount=uncount)
        except (DiskFull, sqlite3.Error) as error:
            log.error("job %s cannot be put back: %s", job, error, extra=about(job))
            loop.call_later(DISK_RETRY, lambda: self._requeue(job, note=note, uncount=uncount, after=after))
            return
        self._running.pop(job, None)
        if stored.ended:
            return
        self._waiting.add(job)
        self._announce(stored)
        if after:
            loop.call_later(after, self._back, stored)
        else:
            self._back(stored)

    def _back(self, job: StoredJob) -> None:
        if job.id in self._waiting:
            self._queue(job).appendleft(job.id)
            self.dispatch()

    def _end(
        self, job: str, state: str, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """End a job, in a commit of its own. While the disk is full, that is tried again and again."""
        end = _End(job, state, result, error)
        try:
            stored = self._store.finish(job, state, result=result, error=error)
        except (DiskFull, sqlite3.Error) as full:
            log.error("the end of job %s cannot be stored: %s", job, full, extra=about(job))
            asyncio.get_running_loop().call_later(DISK_RETRY, lambda: self._end(job, state, result=result, error=error))
        else:
            self._ended(end, stored)

    def _end_together(self, ends: Sequence[_End]) -> None:
        """End jobs that ran, and begin what has its turn then, in one commit. Nobody hears of it before."""
        try:
            with self._store.transaction():
                stored = [self._store.finish(end.job, end.state, result=end.result, error=end.error) for end in ends]
                begun = self.begin()
        except (DiskFull, sqlite3.Error) as full:
            log.error("the ends of %d jobs cannot be stored: %s", len(ends), full)
            asyncio.get_running_loop().call_later(DISK_RETRY, self._end_together, ends)
            return
        self.hand_over(begun)
        for end, job in zip(ends, stored, strict=True):
            self._ended(end, job)

    def _ended(self, end: _End, stored: StoredJob) -> None:
        """What follows when the end of a job is on the disk."""
        began = self._running.pop(stored.id, None) is not None or stored.started is not None
        self._waiting.discard(stored.id)
        self._suspects.discard(stored.id)
        self._full_since.pop(stored.id, None)
        timer = self._deadlines.pop(stored.id, None)
        if timer is not None:
            timer.cancel()
        self._announce(stored)
        if end.error is None:
            log.info("job %s: %s", stored.id, end.state, extra=about(stored.id))
        else:
            log.info(
                "job %s: %s (%s)", stored.id, end.state, end.error["code"], extra=about(stored.id, end.error["message"])
            )
        if began and self._upkeep.makes_files(stored):
            self._in_background(asyncio.to_thread(self._upkeep.settle, stored))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _announce(self, job: StoredJob) -> None:
        self._publish(job.id, {"type": "event", "event": "state", "job": job.to_wire()})

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
                self._requeue(job, note="the daemon stopped", uncount=True)
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
