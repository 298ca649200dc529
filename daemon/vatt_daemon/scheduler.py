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
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt_client.errors import Busy
from vatt_client.replies import CANCELLED, DONE, FAILED, QUEUED

from vatt_core.errors import DiskFull
from vatt_daemon.executor import CapacityChanged, Event, Executor, Failed, Finished, Progressed, Task
from vatt_daemon.logs import about
from vatt_daemon.outputs import Outputs
from vatt_daemon.places import Places
from vatt_daemon.settings import JobSettings
from vatt_daemon.store import Store, StoredJob

log = logging.getLogger(__name__)

DISK_RETRY = 2.0
"""Seconds until something that found a disk full is tried again."""
UPKEEP = 300.0
"""Seconds between two looks at what is kept for too long."""

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
        """receipts: the folder that workers publish through, see outputs.py. places: where files without a path lie."""
        self._store = store
        self._executor = executor
        self._settings = settings
        self._publish = publish
        self._receipts = receipts
        self._places = places
        self._interactive: deque[str] = deque()
        self._batch: deque[str] = deque()
        self._waiting: set[str] = set()
        self._running: dict[str, _Run] = {}
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

    def _next(self) -> deque[str] | None:
        """The queue whose first job is next, None when nothing can begin.

        A waiting batch job gets a turn after `fair_share` interactive ones in a row.
        """
        for queue in (self._interactive, self._batch):
            while queue and queue[0] not in self._waiting:
                queue.popleft()
        if not self._suspects.isdisjoint(self._running):
            return None
        batch = bool(self._batch) and self._executor.capacity("batch") > 0
        interactive = bool(self._interactive) and self._executor.capacity("interactive") > 0
        if batch and (not interactive or self._in_a_row >= self._settings.fair_share):
            queue = self._batch
        elif interactive:
            queue = self._interactive
        else:
            return None
        if self._running and queue[0] in self._suspects:
            return None
        return queue

    def begin(self) -> StoredJob | None:
        """Count an attempt of the job whose turn it is, as part of the transaction that is open, if one is. None:
        nothing can begin.

        `hand_over` the job when that is committed, in the same turn of the loop; nothing is to be undone when it is not.
        """
        queue = None if self._stopping else self._next()
        return None if queue is None else self._store.start(queue[0])

    def hand_over(self, job: StoredJob) -> None:
        """Give the executor the job that `begin` has returned."""
        queue = self._queue(job)
        queue.popleft()
        self._in_a_row = self._in_a_row + 1 if queue is self._interactive and self._batch else 0
        self._waiting.discard(job.id)
        self._running[job.id] = _Run(job.id)
        log.info("job %s: attempt %d", job.id, job.attempt, extra=about(job.id))
        self._announce(job)
        self._executor.submit(Task(job=job.id, kind=job.kind, request=job.request | {"seed": job.seed}))

    def dispatch(self) -> None:
        """Hand waiting jobs to the executor, as many as it takes."""
        while self._waiting:
            try:
                job = self.begin()
            except (DiskFull, sqlite3.Error) as error:
                log.error("no job can begin: %s", error)
                asyncio.get_running_loop().call_later(DISK_RETRY, self.dispatch)
                return
            if job is None:
                return
            self.hand_over(job)

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
        house = asyncio.create_task(self._keep_house())
        try:
            async for event in self._executor.events():
                try:
                    self._handle(event)
                except Exception:
                    log.exception("an event of the executor could not be handled", extra=about(detail=repr(event)))
                self.dispatch()
        finally:
            house.cancel()

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
                self._requeue(event.job, note="the daemon stopped", uncount=True)
            elif event.error.get("code") == DiskFull.code and self._waits_for_disk(event.job):
                self._requeue(event.job, note=str(event.error["message"]), uncount=True, after=DISK_RETRY)
            else:
                self._end(event.job, FAILED, error=event.error)
        else:
            log.warning("job %s: %s", event.job, event.reason, extra=about(event.job))
            self._in_background(self._lost(run, event.reason))

    def _waits_for_disk(self, job: str) -> bool:
        """Batch work waits for space; an editor's user is told at once."""
        if self._store.get(job).priority != "batch":
            return False
        since = self._full_since.setdefault(job, time.monotonic())
        return time.monotonic() - since < self._settings.disk_wait

    async def _lost(self, run: _Run, reason: str) -> None:
        """A worker died under the job: try again, alone, or give up and leave nothing of it behind."""
        job = run.job
        self._suspects.add(job)
        stored = self._store.get(job)
        if run.cancelling is None and (stored.attempt < self._settings.attempts or self._stopping):
            self._requeue(job, note=reason, uncount=self._stopping)
        else:
            await asyncio.to_thread(self._discard, stored)
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
        try:
            stored = self._store.finish(job, state, result=result, error=error)
        except (DiskFull, sqlite3.Error) as full:
            log.error("the end of job %s cannot be stored: %s", job, full, extra=about(job))
            asyncio.get_running_loop().call_later(DISK_RETRY, lambda: self._end(job, state, result=result, error=error))
            return
        began = self._running.pop(job, None) is not None or stored.started is not None
        self._waiting.discard(job)
        self._suspects.discard(job)
        self._full_since.pop(job, None)
        timer = self._deadlines.pop(job, None)
        if timer is not None:
            timer.cancel()
        if began and self._outputs(stored) is not None:
            self._in_background(asyncio.to_thread(self._settle if stored.state == DONE else self._discard, stored))
        if error is None:
            log.info("job %s: %s", job, state, extra=about(job))
        else:
            log.info("job %s: %s (%s)", job, state, error["code"], extra=about(job, error["message"]))
        self._announce(stored)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _outputs(self, job: StoredJob) -> Outputs | None:
        output = job.request.get("output")
        if not isinstance(output, str):
            return None
        return Outputs(self._places.folder(output, job.id), job.id, receipts=self._receipts)

    def _settle(self, job: StoredJob) -> None:
        outputs = self._outputs(job)
        if outputs is not None:
            outputs.settle()

    def _discard(self, job: StoredJob) -> None:
        """Remove what a dead worker has left of a job that gets no further try."""
        outputs = self._outputs(job)
        if outputs is not None:
            try:
                outputs.discard()
            except OSError as error:
                log.warning("files of job %s are left", job.id, extra=about(job.id, f"{outputs.staging}: {error}"))

    async def _keep_house(self) -> None:
        """Settle what an earlier daemon had no time to, then forget old jobs from time to time."""
        try:
            for receipt in await asyncio.to_thread(lambda: list(self._receipts.iterdir())):
                job = self._store.find(receipt.stem)
                if job is None:  # or a part that a killed worker has left
                    receipt.unlink(missing_ok=True)
                elif job.ended:
                    await asyncio.to_thread(self._settle if job.state == DONE else self._discard, job)
        except OSError as error:
            log.warning("receipts cannot be read: %s", error)
        while True:
            try:
                while self._prune():
                    await asyncio.sleep(0.1)
            except (DiskFull, sqlite3.Error) as error:
                log.error("old jobs cannot be forgotten: %s", error)
            await asyncio.sleep(UPKEEP)

    def _prune(self) -> bool:
        """Forget some of what is kept for too long; whether there was any."""
        gone = self._store.prune(
            older_than=self._settings.keep_days * 86_400, jobs=self._settings.keep_jobs, size=self._settings.keep_bytes
        )
        if gone:
            log.info("%d old jobs were forgotten", len(gone))
        return bool(gone)

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
                self._requeue(job, note="the daemon stopped", uncount=True)
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
