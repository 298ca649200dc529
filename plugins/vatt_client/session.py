"""What both clients do, written once: submitting, watching, and surviving the loss of the daemon.

Everything that waits is a coroutine over a `Waiter`, see asking.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from vatt_client import errors, manifest, messages, replies
from vatt_client.asking import TICK
from vatt_client.carrying import Carrying, OnProgress, detached
from vatt_client.link import Link
from vatt_client.replies import BatchReport, Job, Progress
from vatt_client.transfers import DOWNLOAD, UPLOAD

Items = str | Path | Iterable[Mapping[str, Any]]
"""The clips of a batch: a manifest file, or a map of the fields of `generate` for each."""

RECONCILE = 5.0
"""Seconds without any word of a watched job after which `get` is asked, and the watch is made again."""
HEARTBEAT = 2.0
"""Seconds between pings while a job is waited for."""
HEARTBEAT_LIMIT = 6.0
"""A daemon that leaves a ping unanswered for so many seconds is lost."""
BATCH_TIMEOUT = 120.0
"""Seconds for the answer to a batch, of which thousands of items are written to the disk first."""
PAGE = 500
"""Jobs fetched at a time with their results."""


class Session(Carrying):
    """What can be asked of a daemon; see `Client` for the arguments."""

    async def hello(self) -> replies.Welcome:
        return replies.Welcome.from_wire(await self.ask(messages.Hello(client=self._name)))

    async def ping(self, *, timeout: float | None = None) -> replies.Pong:
        return replies.Pong.from_wire(await self.ask(messages.Ping(), timeout=timeout))

    async def status(self) -> replies.DaemonStatus:
        return replies.DaemonStatus.from_wire(await self.ask(messages.Status()))

    async def models(self) -> list[dict[str, Any]]:
        return list((await self.ask(messages.Models()))["models"])

    async def unload(self, model: str | None = None) -> list[str]:
        return [str(name) for name in (await self.ask(messages.Unload(model=model)))["models"]]

    async def get(self, job: str, *, history: bool = False) -> Job:
        return await self.bring(Job.from_wire((await self.ask(messages.Get(job=job, history=history)))["job"]))

    async def list(
        self, *, states: Sequence[str] = (), limit: int = 100, batch: str | None = None, results: bool = False
    ) -> list[Job]:
        found: list[Job] = []
        before: int | None = None
        page = PAGE if results else 1000
        while len(found) < limit:
            answer = await self.ask(
                messages.List(
                    states=tuple(states),
                    limit=min(page, limit - len(found)),
                    before=before,
                    batch=batch,
                    results=results,
                )
            )
            found.extend(Job.from_wire(item) for item in answer["jobs"])
            before = answer["next"]
            if before is None:
                break
        return found

    async def cancel(self, job: str) -> str:
        return str((await self.ask(messages.Cancel(job=job)))["state"])

    async def shutdown(self) -> None:
        with contextlib.suppress(errors.DaemonLost):
            await self.ask(messages.Shutdown())

    # ---- jobs ------------------------------------------------------------------------------------------------------

    async def submit(
        self, message: messages.Submission | messages.Batch, *, on_progress: OnProgress | None = None
    ) -> str:
        timeout = BATCH_TIMEOUT if isinstance(message, messages.Batch) else None
        if message.idempotency_key is None:
            message = dataclasses.replace(message, idempotency_key=str(uuid.uuid4()))
        folder = None
        if self.remote and isinstance(message, messages.Submission):
            message, folder = detached(await self.send_files(message, on_progress=on_progress))
        while True:
            opened = self._opened
            try:
                job = str((await self.ask(message, timeout=timeout))["job"])
            except errors.DaemonLost as lost:
                await self._come_back(lost, opened)
                continue
            if folder is not None:
                self.errands[job] = folder
            return job

    async def wait(self, job: str, *, on_progress: OnProgress | None = None, timeout: float | None = None) -> Job:
        async with contextlib.aclosing(self.watch([job], on_progress=on_progress, timeout=timeout)) as steps:
            async for found in steps:
                if found.ended:
                    return found
        raise errors.DaemonLost(f"The watch of job {job} ended without a result.", job=job)

    async def watch(
        self, jobs: Sequence[str], *, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> AsyncGenerator[Job, None]:
        end = None if timeout is None else time.monotonic() + timeout
        last: dict[str, tuple[str, int]] = {}
        waiting = set(jobs)
        while waiting:
            opened = self._opened
            try:
                async with contextlib.aclosing(self._watch_once(waiting, on_progress, end)) as steps:
                    async for found in steps:
                        if found.ended:
                            found = await self.bring(found, on_progress=on_progress)
                            waiting.discard(found.id)
                        if last.get(found.id) != (found.state, found.attempt):
                            last[found.id] = (found.state, found.attempt)
                            yield found
            except errors.DaemonLost as lost:
                await self._come_back(lost, opened)

    async def watch_all(self, *, on_progress: OnProgress | None = None) -> AsyncGenerator[Job, None]:
        while True:
            opened = self._opened
            try:
                async with contextlib.aclosing(self._watch_once(None, on_progress, None)) as steps:
                    async for found in steps:
                        yield found
            except errors.DaemonLost as lost:
                await self._come_back(lost, opened)

    async def _watch_once(
        self, waiting: set[str] | None, on_progress: OnProgress | None, end: float | None
    ) -> AsyncGenerator[Job, None]:
        """One watch, of all jobs if `waiting` is None: yields jobs until all have ended, the connection was made anew, or
        nothing was heard of jobs for RECONCILE seconds."""
        order = messages.Watch(jobs=tuple(sorted(waiting or ())), progress=on_progress is not None)
        link = self.link(messages.JOBS)
        identity = link.begin(events=True)
        try:
            answer = await self._answer(link, identity, order, None)
            connected = link.connected
            for body in answer["jobs"]:
                yield (found := Job.from_wire(body))
                if on_progress is not None and found.progress is not None and not found.ended:
                    on_progress(Progress.from_wire(found.progress))
            heard = time.monotonic()
            while waiting is None or waiting:
                event = link.next_event(identity)
                if event is not None:
                    heard = time.monotonic()
                    if event["event"] == "state":
                        yield Job.from_wire(event["job"])
                    elif on_progress is not None:
                        on_progress(Progress.from_wire(event["progress"]))
                    continue
                now = time.monotonic()
                if end is not None and now >= end:
                    raise errors.DaemonTimeout(
                        f"{len(waiting or ())} job(s) did not end in time; they go on in the daemon.",
                        jobs=sorted(waiting or ()),
                    )
                if link.connected != connected or (now - heard > RECONCILE and waiting is not None):
                    return
                came = await self._waiter.wait(link, TICK if end is None else min(TICK, end - now))
                await self._heartbeat(link, heard=came)
        finally:
            link.forget(identity)
            if (waiting is None or waiting) and link in self._links.values():
                with contextlib.suppress(errors.ClientError, zmq.ZMQError):
                    await self.ask(messages.Unwatch(watch=identity.hex()), timeout=1.0)

    async def _heartbeat(self, link: Link, *, heard: bool) -> None:
        """Ping now and then; raise DaemonLost when the daemon is gone or stays silent. heard: something has just come."""
        if heard:
            link.check_connection()
        else:
            link.check_alive()
        now = time.monotonic()
        if now - self._last_ping < HEARTBEAT:
            return
        self._last_ping = now
        try:
            await self.ping(timeout=HEARTBEAT_LIMIT)
        except errors.DaemonTimeout as error:
            raise errors.DaemonLost(
                "The daemon does not answer any more. Jobs that it had accepted are kept; see 'vatt daemon status'."
            ) from error

    async def run(
        self,
        message: messages.Submission | messages.Batch,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> Job:
        job = await self.submit(message, on_progress=on_progress)
        try:
            return await self.wait(job, on_progress=on_progress, timeout=timeout)
        except errors.ConnectionProblem:
            raise
        except BaseException:
            with contextlib.suppress(errors.ClientError, zmq.ZMQError):
                await self.cancel(job)
            raise

    async def suggest(
        self, path: str | Path, *, on_progress: OnProgress | None = None, timeout: float | None = None, **options: Any
    ) -> replies.Suggestions:
        message = messages.Suggest(path=absolute(path), **options)
        return (await self.run(message, on_progress=on_progress, timeout=timeout)).suggestions()

    async def generate(
        self,
        path: str | Path,
        *,
        output: str | Path,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> replies.Takes:
        message = messages.Generate(path=absolute(path), output=absolute(output), **options)
        return (await self.run(message, on_progress=on_progress, timeout=timeout)).takes()

    # ---- batches ---------------------------------------------------------------------------------------------------

    async def submit_batch(self, items: Items, **options: Any) -> str:
        return await self.submit(batch_message(items, **options))

    async def batch(
        self, items: Items, *, on_progress: OnProgress | None = None, timeout: float | None = None, **options: Any
    ) -> BatchReport:
        job = await self.run(batch_message(items, **options), on_progress=on_progress, timeout=timeout)
        return await self.report(job.id)

    async def report(self, batch: str) -> BatchReport:
        job = await self.get(batch)
        items = await self.list(batch=batch, results=True, limit=messages.LARGEST_BATCH)
        return BatchReport.from_jobs(job, items)


def batch_message(
    items: Items,
    *,
    output: str | Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    report: str | Path | None = None,
    **options: Any,
) -> messages.Batch:
    """The message of a batch. `items` is a manifest file or the items; paths in it are made absolute. `output` is the
    folder of all items that name none. Raises BadRequest, ForbiddenPath and InputNotVisible."""
    if isinstance(items, str | Path):
        found = manifest.read_manifest(Path(items).expanduser())
    else:
        found = [manifest.located(item, Path.cwd()) for item in items]
    shared = dict(defaults or {}) | ({} if output is None else {"output": output})
    return messages.Batch(
        items=tuple(found),
        defaults=manifest.located(shared, Path.cwd()),
        report=None if report is None else absolute(report),
        **options,
    )


def absolute(path: str | Path) -> str:
    """A path as the daemon needs it: absolute, since the daemon's working directory is another one. The words that stand for
    uploads and downloads stay. Raises BadRequest for an empty text, which would name the working directory."""
    if path == "":
        raise errors.BadRequest("A file or folder has an empty name: write its path, or leave it out.")
    if isinstance(path, str) and path.startswith((UPLOAD, DOWNLOAD)):
        return path
    return str(Path(path).expanduser().absolute())
