"""The daemon's front: two encrypted sockets, the store, the scheduler. Imports no torch.

The jobs socket takes submissions and watches, in groups that share one commit; the control socket answers ping, status
and cancel and never queues behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import sys
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from vatt_client import connection, messages
from vatt_client.errors import Unauthorised

from vatt_core.errors import DiskFull, ForbiddenPath
from vatt_daemon import __version__, guard, sockets
from vatt_daemon.answering import Answering
from vatt_daemon.batch_store import BatchStore
from vatt_daemon.batches import Batches
from vatt_daemon.channel import Channel, Outbox
from vatt_daemon.clients import Caller, Callers, NamedClients
from vatt_daemon.executor import Executor, LocalExecutor
from vatt_daemon.folders import Folders
from vatt_daemon.keys import Gatekeeper, KeyPair, check_private_folder, load_key_pair
from vatt_daemon.lock import SingleInstance
from vatt_daemon.logs import about
from vatt_daemon.metrics import Metrics
from vatt_daemon.places import Places
from vatt_daemon.scheduler import Scheduler
from vatt_daemon.settings import Settings
from vatt_daemon.stored_job import StoredJob
from vatt_daemon.transfers import Transfers
from vatt_daemon.watching import Watchers
from vatt_daemon.wire_errors import error_body

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Received:
    """A request. message: None when it cannot be answered otherwise than by `refusal`."""

    identity: bytes
    request: bytes
    caller: Caller
    message: messages.Message | None
    refusal: dict[str, Any]


NOBODY = Caller("", remote=True)


class Server:
    """One running daemon. `run` returns after a shutdown message or a stop signal."""

    def __init__(self, settings: Settings, folders: Folders, *, executor: Executor | None = None) -> None:
        self.settings = settings
        self.folders = folders
        self.instance = uuid.uuid4().hex
        self._executor = executor
        self._stop = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve. Raises VattError when the daemon cannot start: port in use, second instance, keys open to others."""
        try:
            self.folders.make()
        except OSError as error:
            raise ForbiddenPath(
                f"The folder {error.filename} cannot be made ({error.strerror}): change its permissions "
                "or set VATT_HOME.",
                path=str(error.filename),
            ) from error
        lock = SingleInstance(self.folders.runtime / "daemon.lock")
        try:
            await self._serve()
        finally:
            lock.release()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            stack.callback(context.destroy, linger=200)
            check_private_folder(self.folders.keys)
            server_keys = load_key_pair(self.folders.keys / "server.secret")
            client_keys = load_key_pair(self.folders.keys / "client.secret")
            named, remote = NamedClients(self.folders.clients), self.settings.remote
            self._callers = Callers(client_keys.public, named, remote=remote.enabled)
            gate = Gatekeeper(context, self._callers.admit)
            gate_channel = Channel(gate.socket, loop)
            stack.callback(gate_channel.close)
            self._endpoints: dict[Channel, str] = {}
            ports = self.settings.server
            self._jobs, self._control = (
                self._listen(context, server_keys, port, remote_port, stack)
                for port, remote_port in ((ports.port, remote.port), (ports.control_port, remote.control_port))
            )

            self._outboxes = {channel: Outbox(channel, loop) for channel in (self._jobs, self._control)}
            for outbox in self._outboxes.values():
                stack.callback(outbox.close)

            self._store = BatchStore(self.folders.database, instance=self.instance)
            stack.callback(self._store.close)
            executor = self._executor or LocalExecutor(self.settings, self.folders)
            self._watchers = Watchers(self._jobs, loop, self._look_up, self._owner)
            stack.callback(self._watchers.close)
            places = Places(self.folders.uploads, self.folders.results)
            self._transfers = Transfers(self._store, self.settings, places)
            self._scheduler = Scheduler(
                self._store, executor, self.settings.jobs, self._publish, receipts=self.folders.receipts, places=places
            )
            self._batches = Batches(self._store, self._scheduler, self._publish, self.settings.paths)
            self._answering = Answering(
                self.instance,
                self.settings,
                self._store,
                self._scheduler,
                self._batches,
                self._watchers,
                remote={"address": remote.address, "port": remote.port, "control_port": remote.control_port}
                if remote.enabled
                else None,
                stop=self._stop.set,
            )
            self._metrics = Metrics(lambda: self._answering.answer(messages.Status(), guard.HERE), version=__version__)
            self._scheduler.recover()
            self._batches.recover()
            self._scheduler.dispatch()
            await self._serve_metrics(stack)

            file = self._publish_connection(server_keys, client_keys)
            stack.callback(self._withdraw_connection, file)
            self._catch_signals(loop)
            tasks = [
                loop.create_task(work)
                for work in (
                    self._guard(gate, gate_channel),
                    self._serve_jobs(),
                    self._serve_control(),
                    self._scheduler.run(),
                    self._transfers.keep_house(),
                )
            ]
            log.info("daemon %s %s: %s", __version__, self.instance, ", ".join(self._endpoints.values()))
            if remote.enabled:
                log.info("remote clients: %s, ports %d and %d", remote.address, remote.port, remote.control_port)
            stopped = loop.create_task(self._stop.wait())
            done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            # The gate and the control socket stay open: whoever asks meanwhile still gets an answer.
            tasks[1].cancel()
            await self._batches.stop()
            await self._scheduler.stop()
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            log.info("daemon stopped")
            for task in done:
                if task is not stopped and not task.cancelled() and task.exception() is not None:
                    raise task.exception()  # type: ignore[misc]

    def _listen(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: KeyPair,
        port: int,
        remote_port: int,
        stack: contextlib.ExitStack,
    ) -> Channel:
        socket, endpoint = sockets.listen(
            context, keys, self.settings, port, remote_port, file=self.folders.config_file
        )
        channel = Channel(socket, asyncio.get_running_loop())
        stack.callback(channel.close)
        self._endpoints[channel] = endpoint
        return channel

    async def _serve_metrics(self, stack: contextlib.ExitStack) -> None:
        port = self.settings.metrics.port
        if not port:
            return
        try:
            stack.callback((await self._metrics.serve(port)).close)
        except OSError as error:
            raise sockets.PortInUse(
                f"The port {port} cannot be listened on ({error.strerror}): set another one ({self.folders.config_file}, "
                "table [metrics]).",
                port=port,
            ) from None
        log.info("metrics: http://%s:%d/metrics", sockets.ADDRESS, port)

    def _publish_connection(self, server_keys: KeyPair, client_keys: KeyPair) -> Path:
        return connection.write_connection(
            connection.Connection(
                instance=self.instance,
                pid=os.getpid(),
                jobs=self._endpoints[self._jobs],
                control=self._endpoints[self._control],
                server_public=server_keys.public.decode(),
                client_public=client_keys.public.decode(),
                client_secret=client_keys.secret.decode(),
                protocol=".".join(map(str, messages.PROTOCOL)),
            ),
            self.folders.runtime / connection.FILE_NAME,
        )

    @staticmethod
    def _withdraw_connection(file: Path) -> None:
        with contextlib.suppress(OSError):
            file.unlink()

    def _catch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._stop.set)
            except (NotImplementedError, RuntimeError):
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop.set))

    async def _guard(self, gate: Gatekeeper, channel: Channel) -> None:
        while True:
            for frames in await channel.receive(1):
                channel.send(gate.answer([frame.bytes for frame in frames]))

    async def _serve_control(self) -> None:
        while True:
            # One at a time: ZeroMQ takes from each peer in turn, so that nobody's ping waits for all that another asks.
            for frames in await self._control.receive(1):
                await self._answer_one(self._control, self._decode(frames, messages.CONTROL))

    async def _serve_jobs(self) -> None:
        while True:
            group = [self._decode(frames, messages.JOBS) for frames in await self._jobs.receive()]
            submissions: list[_Received] = []
            # Whoever asks to watch before submitting hears of the job from its beginning: submissions come last.
            for item in group:
                if isinstance(item.message, messages.Submission):
                    submissions.append(item)
                elif isinstance(item.message, messages.Batch):
                    self._in_background(self._answer_later(item, self._batches.accept(item.message, item.caller.name)))
                elif isinstance(item.message, messages.Transfer):
                    self._transfer(item, item.message)
                else:
                    await self._answer_one(self._jobs, item)
            if submissions:
                await self._take_submissions(submissions)
            await asyncio.sleep(0)

    async def _answer_one(self, channel: Channel, received: _Received) -> None:
        """Answer what makes no job, and let everybody else have a turn: a list may be long."""
        answer = received.refusal
        if received.message is not None:
            try:
                answer = self._answering.answer(
                    received.message, received.caller, identity=received.identity, request=received.request
                )
            except (DiskFull, sqlite3.Error) as error:
                answer = error_body(error)
        self._reply(channel, received, answer)
        await asyncio.sleep(0)

    async def _take_submissions(self, group: list[_Received]) -> None:
        """Store jobs in one commit, and only then acknowledge them."""
        # A file system that hangs holds up submissions, never the control socket.
        problems = await asyncio.to_thread(self._check_named, group)
        answers: list[dict[str, Any]] = []
        accepted: list[StoredJob] = []
        begun: list[StoredJob] = []
        try:
            with self._store.transaction():
                for item in group:
                    assert item.message is not None
                    problem = problems.get(id(item.message))
                    answers.append(
                        self._answering.answer(item.message, item.caller, accepted=accepted)
                        if problem is None
                        else error_body(problem)
                    )
                for job in accepted:
                    self._scheduler.add(job)
                # In the same commit: an editor that asks an idle daemon waits for the disk once less.
                begun = self._scheduler.begin() if accepted else []
        except (DiskFull, sqlite3.Error) as error:
            for job in accepted:
                self._scheduler.withdraw(job)
            begun, answers = [], [error_body(error)] * len(group)
        # The worker is told first: it works while the answers go out.
        self._scheduler.hand_over(begun)
        for item, answer in zip(group, answers, strict=True):
            self._reply(self._jobs, item, answer)
        self._scheduler.dispatch()

    async def _answer_later(self, item: _Received, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """What takes a while is answered when it is done; everybody else is served meanwhile."""
        try:
            answer = {"type": "ok"} | await work
        except Exception as error:
            answer = error_body(error)
        self._reply(self._jobs, item, answer)

    def _transfer(self, item: _Received, message: messages.Transfer) -> None:
        try:
            job = self._answering.get(message.job, item.caller) if isinstance(message, messages.Fetch) else None
            self._transfers.enter(item.identity)
        except Exception as error:
            self._reply(self._jobs, item, error_body(error))
            return
        self._in_background(self._answer_later(item, self._transfers.answer(message, item.caller, item.identity, job)))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _publish(self, job: str, event: dict[str, Any]) -> None:
        """Tell everybody who wants to know that something has happened to a job."""
        self._watchers.publish(job, event)
        self._metrics.heard(event)
        if event["event"] == "state":
            self._batches.heard(event)

    def _look_up(self, job: str) -> dict[str, Any] | None:
        found = self._store.find(job)
        return None if found is None else self._answering.describe(found)

    def _owner(self, job: str) -> str | None:
        found = self._store.find(job)
        return None if found is None else found.client

    def _check_named(self, submissions: list[_Received]) -> dict[int, Exception]:
        problems: dict[int, Exception] = {}
        passed: set[str] = set()
        for item in submissions:
            assert isinstance(item.message, messages.Submission)
            try:
                guard.check_submission(
                    item.message,
                    self.settings.paths,
                    passed=passed,
                    caller=item.caller,
                    uploads=self._transfers.uploads,
                )
            except Exception as error:
                if isinstance(error, ForbiddenPath):
                    log.warning("refused a job of client '%s'", item.caller.name, extra=about(detail=error))
                problems[id(item.message)] = error
        return problems

    def _decode(self, frames: list[zmq.Frame], socket: str) -> _Received:
        """Never raises."""
        parts = [frame.bytes for frame in frames]
        identity, body = parts[0], parts[1:]
        request = body[1] if len(body) > 1 and len(body[1]) <= 64 else b""
        try:
            caller = self._callers.find(str(frames[-1].get("User-Id")).encode())
            if caller is None:
                raise Unauthorised("This client was removed: have it added again on the daemon's machine.")
            message = messages.decode(body, socket=socket)
            self._answering.check_allowed(message, caller)
        except Exception as error:
            return _Received(identity, request, NOBODY, None, error_body(error))
        return _Received(identity, request, caller, message, {})

    def _reply(self, channel: Channel, received: _Received, answer: dict[str, Any]) -> None:
        self._outboxes[channel].send(
            [received.identity, messages.VERSION_FRAME, received.request, messages.pack(answer)]
        )


def serve(settings: Settings, folders: Folders) -> None:
    """Run a daemon in this process until it is told to stop. Raises VattError when it cannot start."""
    if sys.platform == "win32":
        # ZeroMQ's descriptors are sockets, which only the selector loop can watch there.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(Server(settings, folders).run())
    else:
        asyncio.run(Server(settings, folders).run())
