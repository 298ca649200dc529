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

from vatt_core.errors import DiskFull, ForbiddenPath, VattError
from vatt_daemon import __version__, guard
from vatt_daemon.answering import Answering
from vatt_daemon.batch_store import BatchStore
from vatt_daemon.batches import Batches
from vatt_daemon.channel import Channel, Outbox
from vatt_daemon.clients import Caller, Callers, NamedClients
from vatt_daemon.executor import Executor, LocalExecutor
from vatt_daemon.keys import DOMAIN, Gatekeeper, KeyPair, load_key_pair
from vatt_daemon.lock import SingleInstance
from vatt_daemon.logs import about
from vatt_daemon.metrics import Metrics
from vatt_daemon.places import Places
from vatt_daemon.scheduler import Scheduler
from vatt_daemon.settings import Folders, RemoteSettings, Settings
from vatt_daemon.store import StoredJob
from vatt_daemon.transfers import Transfers
from vatt_daemon.watching import Watchers
from vatt_daemon.wire_errors import error_body

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"


class PortInUse(VattError):
    """Another program holds a port that was asked for by number."""

    code = "busy"
    exit_code = 9


@dataclass(frozen=True)
class _Received:
    """A request. message: None when it cannot be answered otherwise than by `refusal`."""

    identity: bytes
    request: bytes
    caller: Caller
    message: messages.Message | None
    refusal: dict[str, Any]


SLOW = (messages.Batch, messages.Transfer)
"""Answered later than the others."""
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
            server_keys = load_key_pair(self.folders.keys / "server.secret")
            client_keys = load_key_pair(self.folders.keys / "client.secret")
            named, remote = NamedClients(self.folders.clients), self.settings.remote
            self._callers = Callers(client_keys.public, named, remote=remote.enabled)
            gate = Gatekeeper(context, self._callers.admit)
            gate_channel = Channel(gate.socket, loop)
            stack.callback(gate_channel.close)
            self._endpoints: dict[Channel, str] = {}
            self._jobs = self._open(context, self.settings.server.port, server_keys, remote.port, stack)
            self._control = self._open(
                context, self.settings.server.control_port, server_keys, remote.control_port, stack
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

    def _open(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        port: int,
        keys: KeyPair,
        remote_port: int,
        stack: contextlib.ExitStack,
    ) -> Channel:
        """A socket that listens on this machine, and for other machines where that is switched on."""
        socket = context.socket(zmq.ROUTER)
        socket.linger = 200
        socket.router_mandatory = True
        socket.curve_server = True
        socket.curve_secretkey = keys.secret
        socket.zap_domain = DOMAIN
        socket.maxmsgsize = self.settings.server.largest_message
        socket.handshake_ivl = int(self.settings.server.handshake_timeout * 1000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        remote = self.settings.remote
        try:
            self._bind(socket, f"tcp://{ADDRESS}:{port or '*'}", port, "server")
            endpoint = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]
            if remote.enabled:
                self._bind(socket, remote_endpoint(remote, remote_port), remote_port, "remote")
        except BaseException:
            socket.close()
            raise
        channel = Channel(socket, asyncio.get_running_loop())
        stack.callback(channel.close)
        self._endpoints[channel] = endpoint
        return channel

    def _bind(self, socket: zmq.Socket[bytes], endpoint: str, port: int, table: str) -> None:
        socket.ipv6 = "[" in endpoint
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise PortInUse(
                    f"The port {port} is used by another program: set another one"
                    f"{', or 0 to have a free one chosen' if table == 'server' else ''} ({self.folders.config_file}, "
                    f"table [{table}]).",
                    port=port,
                ) from None
            raise PortInUse(
                f"{endpoint} cannot be listened on ({error}): set another address or port ({self.folders.config_file}, "
                f"table [{table}]).",
                port=port,
            ) from None

    async def _serve_metrics(self, stack: contextlib.ExitStack) -> None:
        port = self.settings.metrics.port
        if not port:
            return
        try:
            stack.callback((await self._metrics.serve(port)).close)
        except OSError as error:
            raise PortInUse(
                f"The port {port} cannot be listened on ({error.strerror}): set another one ({self.folders.config_file}, "
                "table [metrics]).",
                port=port,
            ) from None
        log.info("metrics: http://%s:%d/metrics", ADDRESS, port)

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
            for frames in await self._control.receive():
                received = self._decode(frames, messages.CONTROL)
                answer = received.refusal
                if received.message is not None:
                    try:
                        answer = self._answering.answer(received.message, received.caller)
                    except (DiskFull, sqlite3.Error) as error:
                        answer = error_body(error)
                self._reply(self._control, received, answer)
            await asyncio.sleep(0)

    async def _serve_jobs(self) -> None:
        while True:
            group = [self._decode(frames, messages.JOBS) for frames in await self._jobs.receive()]
            submissions = [item for item in group if isinstance(item.message, messages.Submission)]
            # A file system that hangs holds up submissions, never the control socket.
            problems = await asyncio.to_thread(self._check_named, submissions) if submissions else {}
            answers: list[dict[str, Any]] = []
            accepted: list[StoredJob] = []
            begun: StoredJob | None = None
            try:
                with self._store.transaction():
                    for item in group:
                        answer = item.refusal
                        if item.message is not None and not isinstance(item.message, SLOW):
                            problem = problems.get(id(item.message))
                            answer = (
                                error_body(problem)
                                if problem is not None
                                else self._answering.answer(
                                    item.message,
                                    item.caller,
                                    identity=item.identity,
                                    request=item.request,
                                    accepted=accepted,
                                )
                            )
                        answers.append(answer)
                    for job in accepted:
                        self._scheduler.add(job)
                    # In the same commit: an editor that asks an idle daemon waits for the disk once less.
                    begun = self._scheduler.begin() if accepted else None
            except (DiskFull, sqlite3.Error) as error:
                for job in accepted:
                    self._scheduler.withdraw(job)
                begun = None
                answers = [error_body(error) if item.message is not None else item.refusal for item in group]
            for item, answer in zip(group, answers, strict=True):
                if isinstance(item.message, messages.Batch):
                    self._in_background(self._answer_later(item, self._batches.accept(item.message, item.caller.name)))
                elif isinstance(item.message, messages.Transfer):
                    self._transfer(item, item.message)
                else:
                    self._reply(self._jobs, item, answer)
            if begun is not None:
                self._scheduler.hand_over(begun)
            self._scheduler.dispatch()
            await asyncio.sleep(0)

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


def remote_endpoint(remote: RemoteSettings, port: int) -> str:
    """Where other machines are listened to."""
    address = "0.0.0.0" if remote.address == "*" else remote.address
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def serve(settings: Settings, folders: Folders) -> None:
    """Run a daemon in this process until it is told to stop. Raises VattError when it cannot start."""
    if sys.platform == "win32":
        # ZeroMQ's descriptors are sockets, which only the selector loop can watch there.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(Server(settings, folders).run())
    else:
        asyncio.run(Server(settings, folders).run())
