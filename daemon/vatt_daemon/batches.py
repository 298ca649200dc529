"""Batches: thousands of clips handed in at once, fed to the scheduler some at a time, with a report at the end.

Everything that counts is in the store. After a restart `recover` finds the batches that have not ended and goes on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import secrets
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from vatt_client import manifest, messages
from vatt_client.errors import Busy, ClientError
from vatt_client.replies import CANCELLED, DONE, ENDED, FAILED, BatchReport, Job

from vatt_core.errors import DiskFull, ForbiddenPath, VattError
from vatt_core.files import content_hash, fingerprint
from vatt_core.media.atomic import write_bytes, writing_error
from vatt_daemon import guard
from vatt_daemon.batch_store import BatchStore, NewItem
from vatt_daemon.logs import about
from vatt_daemon.scheduler import Publish, Scheduler
from vatt_daemon.settings import PathSettings
from vatt_daemon.stored_job import StoredJob
from vatt_daemon.stored_job import fingerprint as request_fingerprint
from vatt_daemon.wire_errors import error_map

log = logging.getLogger(__name__)

AHEAD = 64
"""Items of one batch that wait in the scheduler's queue; the others wait in the store, and fill nobody's queue."""
GROUP = 32
"""Items that are examined together, and share a commit."""
STORED_TOGETHER = 256
LARGEST_OPEN = 100
"""Batches that may be under way."""
PROGRESS_INTERVAL = 0.1
"""Seconds between two reports of a batch's progress."""
DISK_RETRY = 2.0
"""Seconds until something that found the database's disk full is tried again."""
LARGEST_SIDECAR = 16 << 20


@dataclass
class _Run:
    """A batch under way. left: items that have not been handed to the scheduler. open: those that have not ended."""

    batch: str
    total: int
    settings: dict[str, Any]
    left: deque[str]
    open: set[str]
    began: float
    ahead: set[str] = field(default_factory=set)
    made: int = 0
    cancelling: dict[str, Any] | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    progress: dict[str, Any] | None = None
    told: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Batches:
    """All batches of the daemon. Belongs to its loop."""

    def __init__(self, store: BatchStore, scheduler: Scheduler, publish: Publish, paths: PathSettings) -> None:
        self._store = store
        self._scheduler = scheduler
        self._publish = publish
        self._paths = paths
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # One at a time: preparing ten thousand items takes memory and a good part of a second.
        self._accepting = asyncio.Lock()

    def progress(self, batch: str) -> dict[str, Any] | None:
        run = self._runs.get(batch)
        return None if run is None else run.progress

    async def accept(self, message: messages.Batch, client: str) -> dict[str, Any]:
        """Store a batch and begin it: the fields of the answer, once all of it is on the disk.

        Raises BadRequest, ForbiddenPath, InputNotVisible, Busy, DiskFull.
        """
        async with self._accepting:
            mark, items = await asyncio.to_thread(prepare, message, self._paths)
            known = self._store.same_batch(message.idempotency_key, mark, client=client)
            if known is not None:
                return self._answer(known, duplicate=True)
            if len(self._runs) >= LARGEST_OPEN:
                raise Busy(f"{len(self._runs)} batches are under way already: try again later.", retry_after=60.0)
            batch = uuid.uuid4().hex
            try:
                for first in range(0, len(items), STORED_TOGETHER):
                    part = items[first : first + STORED_TOGETHER]
                    self._store.add_items(batch, part, client=client, priority=message.priority)
                    await asyncio.sleep(0)
                stored = self._store.add_batch(batch, message, mark, client=client, items=len(items))
            except BaseException:
                self._store.drop_items(batch)
                raise
            log.info("batch %s: %d items", batch, len(items), extra=about(batch))
            self._begin(stored)
            return self._answer(stored, duplicate=False)

    @staticmethod
    def _answer(batch: StoredJob, *, duplicate: bool) -> dict[str, Any]:
        return {"job": batch.id, "state": batch.state, "items": batch.request["items"], "duplicate": duplicate}

    def recover(self) -> None:
        """Go on with what an earlier daemon left."""
        for batch in self._store.open_batches():
            self._begin(batch)

    def _begin(self, batch: StoredJob) -> None:
        waiting = self._store.open_items(batch.id)
        run = _Run(batch.id, batch.request["items"], batch.request, deque(waiting), set(waiting), time.monotonic())
        self._runs[batch.id] = run
        if batch.expires is not None:
            delay = max(0.0, batch.expires - time.time())
            run.timer = asyncio.get_running_loop().call_later(delay, self._expire, batch.id)
        self._start(self._carry_out(run))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- one batch -------------------------------------------------------------------------------------------------

    async def _carry_out(self, run: _Run) -> None:
        try:
            await self._work_through(run)
        except Exception as error:
            body = error_map(error)
            await self._persist(lambda: self._finish(run, FAILED, {}, body))

    async def _work_through(self, run: _Run) -> None:
        await self._persist(lambda: self._announce(self._store.start(run.batch)))
        while run.open:
            run.moved.clear()
            if run.cancelling is not None:
                await self._cancel_some(run)
            elif run.left and len(run.ahead) <= AHEAD - GROUP:
                await self._feed(run)
            else:
                await run.moved.wait()
                continue
            await asyncio.sleep(0)
        await self._end(run)

    async def _persist(self, change: Callable[[], None]) -> None:
        """Make a change of the store; while its disk is full, again and again."""
        while True:
            try:
                return change()
            except (DiskFull, sqlite3.Error) as error:
                log.error("%s", error)
                await asyncio.sleep(DISK_RETRY)

    async def _feed(self, run: _Run) -> None:
        """Examine the next items: some end at once, the others go to the scheduler."""
        jobs = [self._store.get(run.left.popleft()) for _ in range(min(GROUP, len(run.left)))]
        jobs = [job for job in jobs if not job.ended]
        resume = run.settings.get("resume", True)
        earlier = {job.id: self._store.earlier(job.id) if resume else [] for job in jobs}
        found = await asyncio.to_thread(examine, jobs, earlier, self._paths)
        if run.cancelling is not None:
            run.left.extendleft(reversed([job.id for job in jobs]))
            return
        ended: list[StoredJob] = []

        def store() -> None:
            ended.clear()
            with self._store.transaction():
                for job in jobs:
                    outcome = found[job.id]
                    if isinstance(outcome, StoredJob):
                        ended.append(self._store.keep(job.id, outcome))
                    elif outcome is not None:
                        ended.append(self._store.finish(job.id, FAILED, error=error_map(outcome)))

        await self._persist(store)
        for job in jobs:
            if found[job.id] is None and job.id in run.open:
                run.ahead.add(job.id)
                self._scheduler.add(job)
        for job in ended:
            self._announce(job)
        self._scheduler.dispatch()

    async def _cancel_some(self, run: _Run) -> None:
        """End some of the items that wait, or ask those that the scheduler has to stop."""
        assert run.cancelling is not None
        error = run.cancelling
        if run.left:
            some = [run.left.popleft() for _ in range(min(STORED_TOGETHER, len(run.left)))]
            await self._persist(lambda: self._store.cancel_items(some, error))
            for job in some:
                self._announce(self._store.get(job))
        else:
            for job in list(run.ahead):
                self._scheduler.cancel(job, message=error["message"], **error["details"])
            if run.open:
                run.moved.clear()
                await run.moved.wait()

    def heard(self, event: dict[str, Any]) -> None:
        """Called with every change of a job's state, by whoever makes it."""
        job = event["job"]
        run = self._runs.get(job["batch"] or "")
        if run is None or job["state"] not in ENDED:
            return
        if job["id"] in run.ahead:
            run.made += 1
        run.ahead.discard(job["id"])
        run.open.discard(job["id"])
        run.moved.set()
        now = time.monotonic()
        done, elapsed = run.total - len(run.open), now - run.began
        run.progress = {
            "job": run.batch,
            "stage": "clips",
            "done": done,
            "total": run.total,
            "unit": "clips",
            "elapsed": round(elapsed, 3),
            "eta": round(elapsed / run.made * len(run.open), 3) if run.made >= 2 else None,
        }
        if now - run.told >= PROGRESS_INTERVAL or not run.open:
            run.told = now
            self._publish(run.batch, {"type": "event", "event": "progress", "progress": run.progress})

    def cancel(self, batch: StoredJob, *, message: str = "The batch was cancelled.", **details: Any) -> StoredJob:
        """Cancel what has not been done of a batch; what has been stays."""
        run = self._runs.get(batch.id)
        if run is not None and run.cancelling is None:
            run.cancelling = {
                "code": "cancelled", "message": message, "retryable": False, "retry_after": None, "details": details,
            }  # fmt: skip
            run.moved.set()
        return self._store.get(batch.id)

    def _expire(self, batch: str) -> None:
        self.cancel(
            self._store.get(batch), message="The batch's deadline passed before it was done.", reason="deadline"
        )

    async def _end(self, run: _Run) -> None:
        counts = self._store.item_counts(run.batch)
        state = DONE if run.cancelling is None else CANCELLED
        result = {"items": run.total, "counts": counts, "report": None, "report_error": None}
        result["seconds"] = round(time.time() - self._store.get(run.batch).created, 3)
        file = run.settings.get("report")
        if file is not None:
            try:
                await self._write_report(run.batch, state, Path(file))
                result["report"] = file
            except Exception as error:
                result["report_error"] = error_map(error)
        await self._persist(lambda: self._finish(run, state, result, run.cancelling))

    async def _write_report(self, batch: str, state: str, file: Path) -> None:
        items: list[Job] = []
        for page in self._store.items(batch):
            items.extend(Job.from_wire(job.to_wire()) for job in page)
            await asyncio.sleep(0)
        job = Job.from_wire(self._store.get(batch).to_wire() | {"state": state, "finished": time.time()})

        def write() -> None:
            guard.check_output(str(file.parent), self._paths.output_roots)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise writing_error(file.parent, error) from error
            text = json.dumps(BatchReport.from_jobs(job, items).to_dict(), ensure_ascii=False, indent=1)
            write_bytes(file, text.encode() + b"\n")

        await asyncio.to_thread(write)

    def _finish(self, run: _Run, state: str, result: dict[str, Any], error: dict[str, Any] | None) -> None:
        stored = self._store.finish(run.batch, state, result=result, error=error)
        if run.timer is not None:
            run.timer.cancel()
        del self._runs[run.batch]
        log.info("batch %s: %s %s", run.batch, state, result.get("counts", ""), extra=about(run.batch))
        self._announce(stored)

    def _announce(self, job: StoredJob) -> None:
        self._publish(job.id, {"type": "event", "event": "state", "job": job.to_wire()})

    async def stop(self) -> None:
        """Leave everything as it is; the next daemon goes on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def prepare(message: messages.Batch, paths: PathSettings) -> tuple[bytes, list[NewItem]]:
    """The fingerprint of a batch and its items, read from its manifest if it names one; what one says wrongly stays
    with that item.

    Raises BadRequest, ForbiddenPath, InputNotVisible for the manifest and the report's folder.
    """
    if message.manifest is not None:
        guard.check_manifest(message.manifest, paths.input_roots)
        found = manifest.read_manifest(Path(message.manifest))
        # The same batch is one with the same clips, whatever the file is called and says later.
        message = dataclasses.replace(message, items=tuple(found), manifest=None)
    if message.report is not None:
        guard.check_report(message.report, paths.output_roots)
    items = [_prepare_item(message, position, body) for position, body in enumerate(message.items)]
    return request_fingerprint(message), items


def _prepare_item(batch: messages.Batch, position: int, body: Mapping[str, Any]) -> NewItem:
    try:
        request = batch.item(body)
    except Exception as error:
        return NewItem(position, msgpack.packb(dict(body)), b"", 0, msgpack.packb(error_map(error)))
    # Drawn once and stored, so that another attempt makes the same.
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
    return NewItem(position, msgpack.packb(request.to_wire()), request_fingerprint(request), seed, None)


Outcome = StoredJob | Exception | None
"""The earlier job whose takes are kept, why the item cannot be done, or None: it is to be made."""


def examine(jobs: list[StoredJob], earlier: dict[str, list[StoredJob]], paths: PathSettings) -> dict[str, Outcome]:
    """What becomes of some items. Touches the file system, reads the takes of earlier jobs."""
    found: dict[str, Outcome] = {}
    passed: set[str] = set()
    for job in jobs:
        try:
            body = dict(job.request)
            del body["type"]
            request = messages.Generate.from_wire(body)
            guard.check_submission(request, paths, passed=passed)
            found[job.id] = next((before for before in earlier[job.id] if is_whole(before, request)), None)
        except (ClientError, VattError, OSError) as error:
            if isinstance(error, ForbiddenPath):
                log.warning("refused job %s of client '%s'", job.id, job.client, extra=about(job.id, error))
            found[job.id] = error
    return found


def is_whole(job: StoredJob, request: messages.Generate) -> bool:
    """Whether everything that a job has made is still there as it was made, of the clip as it is now."""
    takes = (job.result or {}).get("takes")
    if not isinstance(takes, list) or len(takes) != request.takes:
        return False
    if request.base is not None or request.reference is not None:
        return False  # nothing says what these files held then
    try:
        clip = fingerprint(Path(request.path))
        return all(_take_is_whole(take, clip) for take in takes)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _take_is_whole(take: dict[str, Any], clip: str) -> bool:
    sidecar, wav = Path(take["sidecar"]), Path(take["wav"])
    files = [wav, *(Path(take[name]) for name in ("preview", "muxed") if take.get(name))]
    if not all(file.is_file() for file in files) or sidecar.stat().st_size > LARGEST_SIDECAR:
        return False
    made = json.loads(sidecar.read_bytes())
    return bool(made["clip"]["fingerprint"] == clip and made["wav_sha256"] == content_hash(wav))
