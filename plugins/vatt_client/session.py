"""What both clients do, written once: asking, submitting, watching, and surviving the loss of the daemon.

Everything that waits is a coroutine over a `Waiter`. `Client` runs these coroutines with a waiter that blocks, so that
they never suspend; `AsyncClient` runs them on an asyncio loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from vatt_client import connection, errors, manifest, messages, replies
from vatt_client.link import Link, Waiter
from vatt_client.replies import BatchReport, Job, Progress

OnProgress = Callable[[Progress], None]
Items = str | Path | Iterable[Mapping[str, Any]]
"""The clips of a batch: a manifest file, or a map of the fields of `generate` for each."""

TICK = 0.1
"""Seconds between two looks at whether the daemon's process is still there."""
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


class Session:
    """A connection to the daemon of this user on this machine; see `Client` for the arguments."""

    def __init__(
        self, waiter: Waiter, *, timeout: float, reconnect: float, connection_file: Path | None, name: str
    ) -> None:
        self._waiter = waiter
        self._timeout = timeout
        self._reconnect = reconnect
        self._file = connection_file
        self._name = name
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._links: dict[str, Link] = {}
        self._opened = 0
        self._opening = False
        self._last_ping = 0.0
        self.welcome = replies.Welcome(instance="")

    # ---- the connection --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and say hello. Raises DaemonNotRunning, WrongKey, DaemonTimeout or UnsupportedVersion."""
        found = connection.read_connection(self._file)
        if self._context is None:
            # pyzmq keeps a context per client, so that closing one never waits for another.
            self._context = zmq.Context()
        for socket, address in ((messages.JOBS, found.jobs), (messages.CONTROL, found.control)):
            link = self._links[socket] = Link(self._context, found, address)
            self._waiter.attach(link)
        try:
            self.welcome = await self.hello()
        except (errors.DaemonTimeout, errors.DaemonLost) as error:
            raise errors.DaemonNotRunning(
                "The connection file names a daemon that does not answer. If it still runs, 'vatt daemon stop' it, "
                "then 'vatt daemon start'.",
                instance=found.instance,
            ) from error
        self._last_ping = time.monotonic()
        self._opened += 1

    def _disconnect(self) -> None:
        for link in self._links.values():
            self._waiter.detach(link)
            link.close()
        self._links = {}

    def close(self) -> None:
        self._disconnect()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def _come_back(self, lost: errors.DaemonLost, opened: int) -> None:
        """Wait for a daemon to take the lost one's place and connect to it; raises `lost` when none comes."""
        end = time.monotonic() + self._reconnect
        while time.monotonic() < end:
            await self._waiter.sleep(0.1)
            if self._opened != opened:
                return
            if self._opening:
                continue
            self._opening = True
            try:
                self._disconnect()
                with contextlib.suppress(errors.DaemonNotRunning, errors.WrongKey):
                    await self.open()
                    return
            finally:
                self._opening = False
        raise lost

    # ---- questions -------------------------------------------------------------------------------------------------

    def link(self, socket: str) -> Link:
        """The connection to that socket of the daemon. Raises DaemonLost when there is none."""
        try:
            return self._links[socket]
        except KeyError:
            raise errors.DaemonLost("This client is not connected.") from None

    async def ask(self, message: messages.Message, *, timeout: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer's map. Raises the typed error of an error answer, and WrongKey,
        DaemonLost or DaemonTimeout when none comes."""
        link = self.link(messages.CONTROL if messages.CONTROL in message.SOCKETS else messages.JOBS)
        identity = link.begin()
        try:
            return await self._answer(link, identity, message, timeout)
        finally:
            link.forget(identity)

    async def _answer(
        self, link: Link, identity: bytes, message: messages.Message, timeout: float | None
    ) -> dict[str, Any]:
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        frames = messages.encode(message, identity, largest=self.welcome.largest_message)
        while not link.send(frames):
            await self._pause(link, end, message.TYPE)
        while (answer := link.take(identity)) is None:
            await self._pause(link, end, message.TYPE)
        return answer

    async def _pause(self, link: Link, end: float, name: str) -> None:
        left = end - time.monotonic()
        if left > 0:
            await self._waiter.wait(link, min(left, TICK))
        link.check_alive()
        if left <= 0:
            raise errors.DaemonTimeout(f"The daemon did not answer '{name}' in time. See 'vatt daemon status'.")

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
        return Job.from_wire((await self.ask(messages.Get(job=job, history=history)))["job"])

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

    async def submit(self, message: messages.Submission | messages.Batch) -> str:
        timeout = BATCH_TIMEOUT if isinstance(message, messages.Batch) else None
        if message.idempotency_key is None:
            message = dataclasses.replace(message, idempotency_key=str(uuid.uuid4()))
        while True:
            opened = self._opened
            try:
                return str((await self.ask(message, timeout=timeout))["job"])
            except errors.DaemonLost as lost:
                await self._come_back(lost, opened)

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
        """One watch, of all jobs if `waiting` is None: yields jobs until all have ended, or nothing was heard for
        RECONCILE seconds."""
        order = messages.Watch(jobs=tuple(sorted(waiting or ())), progress=on_progress is not None)
        link = self.link(messages.JOBS)
        identity = link.begin(events=True)
        try:
            for body in (await self._answer(link, identity, order, None))["jobs"]:
                yield Job.from_wire(body)
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
                if now - heard > RECONCILE and waiting is not None:
                    return
                await self._waiter.wait(link, TICK if end is None else min(TICK, end - now))
                await self._heartbeat(link)
        finally:
            link.forget(identity)
            if (waiting is None or waiting) and link in self._links.values():
                with contextlib.suppress(errors.ClientError, zmq.ZMQError):
                    await self.ask(messages.Unwatch(watch=identity.hex()), timeout=1.0)

    async def _heartbeat(self, link: Link) -> None:
        """Ping now and then; raise DaemonLost when the daemon is gone or stays silent."""
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
        job = await self.submit(message)
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
    """A path as the daemon needs it: absolute, since the daemon's working directory is another one."""
    return str(Path(path).expanduser().absolute())
