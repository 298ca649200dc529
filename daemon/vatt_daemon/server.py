"""The daemon's front: two encrypted sockets, the store, the scheduler. Imports no torch.

The jobs socket takes submissions and watches, in groups that share one commit; the control socket answers ping, status
and cancel and never queues behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sqlite3
import sys
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import zmq
from vatt_client import connection, messages
from vatt_client.errors import ClientError

from vatt_core.errors import DiskFull, ForbiddenPath, NotFound, VattError
from vatt_core.weights import list_models
from vatt_daemon import __version__, guard
from vatt_daemon.batch_store import BatchStore
from vatt_daemon.batches import Batches
from vatt_daemon.channel import Channel, Outbox
from vatt_daemon.executor import Executor, LocalExecutor
from vatt_daemon.keys import DOMAIN, Gatekeeper, KeyPair, load_key_pair
from vatt_daemon.lock import SingleInstance
from vatt_daemon.scheduler import Scheduler
from vatt_daemon.settings import Folders, Settings
from vatt_daemon.store import StoredJob
from vatt_daemon.watching import Watchers
from vatt_daemon.wire_errors import error_body

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
CAPABILITIES = ("suggest", "generate", "batch", "watch", "unload", "paths")
LOCAL_CLIENT = "local"


class PortInUse(VattError):
    """Another program holds a port that was asked for by number."""

    code = "busy"
    exit_code = 9


class Server:
    """One running daemon. `run` returns after a shutdown message or a stop signal."""

    def __init__(self, settings: Settings, folders: Folders, *, executor: Executor | None = None) -> None:
        self.settings = settings
        self.folders = folders
        self.instance = uuid.uuid4().hex
        self._executor = executor
        self._began = time.monotonic()
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
            gate = Gatekeeper(context, {client_keys.public: LOCAL_CLIENT})
            gate_channel = Channel(gate.socket, loop)
            stack.callback(gate_channel.close)
            self._jobs = Channel(self._bind(context, self.settings.server.port, server_keys), loop)
            stack.callback(self._jobs.close)
            self._control = Channel(self._bind(context, self.settings.server.control_port, server_keys), loop)
            stack.callback(self._control.close)

            self._outboxes = {channel: Outbox(channel, loop) for channel in (self._jobs, self._control)}
            for outbox in self._outboxes.values():
                stack.callback(outbox.close)

            self._store = BatchStore(self.folders.database, instance=self.instance)
            stack.callback(self._store.close)
            executor = self._executor or LocalExecutor(self.settings, self.folders)
            self._watchers = Watchers(self._jobs, loop, self._look_up)
            stack.callback(self._watchers.close)
            self._scheduler = Scheduler(
                self._store, executor, self.settings.jobs, self._publish, receipts=self.folders.receipts
            )
            self._batches = Batches(self._store, self._scheduler, self._publish, self.settings.paths)
            self._scheduler.recover()
            self._batches.recover()
            self._scheduler.dispatch()

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
                )
            ]
            log.info(
                "daemon %s %s: jobs %s, control %s",
                __version__,
                self.instance,
                self._endpoint(self._jobs),
                self._endpoint(self._control),
            )
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

    def _bind(self, context: zmq.Context[zmq.Socket[bytes]], port: int, keys: KeyPair) -> zmq.Socket[bytes]:
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
        try:
            socket.bind(f"tcp://{ADDRESS}:{port or '*'}")
        except zmq.ZMQError as error:
            socket.close()
            if error.errno == zmq.EADDRINUSE:
                raise PortInUse(
                    f"The port {port} is used by another program: set another one, or 0 to have a free one "
                    f"chosen ({self.folders.config_file}, table [server]).",
                    port=port,
                ) from None
            raise PortInUse(f"The port {port} cannot be used ({error}): set another one.", port=port) from None
        return socket

    @staticmethod
    def _endpoint(channel: Channel) -> str:
        return channel.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]

    def _publish_connection(self, server_keys: KeyPair, client_keys: KeyPair) -> Path:
        return connection.write_connection(
            connection.Connection(
                instance=self.instance,
                pid=os.getpid(),
                jobs=self._endpoint(self._jobs),
                control=self._endpoint(self._control),
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
                identity, request, message, answer = self._decode(frames, messages.CONTROL)
                if message is not None:
                    try:
                        answer = self._answer(message)
                    except (DiskFull, sqlite3.Error) as error:
                        answer = error_body(error)
                self._reply(self._control, identity, request, answer)
            await asyncio.sleep(0)

    async def _serve_jobs(self) -> None:
        while True:
            group = [self._decode(frames, messages.JOBS) for frames in await self._jobs.receive()]
            submissions = [item[2] for item in group if isinstance(item[2], messages.Submission)]
            # A file system that hangs holds up submissions, never the control socket.
            problems = await asyncio.to_thread(self._check_named, submissions) if submissions else {}
            answers: list[dict[str, Any]] = []
            accepted: list[StoredJob] = []
            begun: StoredJob | None = None
            try:
                with self._store.transaction():
                    for identity, request, message, answer in group:
                        if message is not None and not isinstance(message, messages.Batch):
                            problem = problems.get(id(message))
                            answer = (
                                error_body(problem)
                                if problem is not None
                                else self._answer(
                                    message, identity=identity, request=request, client=LOCAL_CLIENT, accepted=accepted
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
                answers = [error_body(error) if item[2] is not None else item[3] for item in group]
            for (identity, request, message, _), answer in zip(group, answers, strict=True):
                if isinstance(message, messages.Batch):
                    self._in_background(self._accept_batch(identity, request, message))
                else:
                    self._reply(self._jobs, identity, request, answer)
            if begun is not None:
                self._scheduler.hand_over(begun)
            self._scheduler.dispatch()
            await asyncio.sleep(0)

    async def _accept_batch(self, identity: bytes, request: bytes, message: messages.Batch) -> None:
        """A batch takes a while to be stored; everybody else is served meanwhile."""
        try:
            answer = {"type": "ok"} | await self._batches.accept(message, client=LOCAL_CLIENT)
        except Exception as error:
            answer = error_body(error)
        self._reply(self._jobs, identity, request, answer)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _publish(self, job: str, event: dict[str, Any]) -> None:
        """Tell everybody who wants to know that something has happened to a job."""
        self._watchers.publish(job, event)
        if event["event"] == "state":
            self._batches.heard(event)

    def _look_up(self, job: str) -> dict[str, Any] | None:
        found = self._store.find(job)
        return None if found is None else self._describe(found)

    def _check_named(self, submissions: list[messages.Submission]) -> dict[int, Exception]:
        problems: dict[int, Exception] = {}
        passed: set[str] = set()
        for message in submissions:
            try:
                guard.check_submission(message, self.settings.paths, passed=passed)
            except Exception as error:
                problems[id(message)] = error
        return problems

    def _decode(
        self, frames: list[zmq.Frame], socket: str
    ) -> tuple[bytes, bytes, messages.Message | None, dict[str, Any]]:
        """(identity, request id, message or None, the error answer if None). Never raises."""
        parts = [frame.bytes for frame in frames]
        identity, body = parts[0], parts[1:]
        request = body[1] if len(body) > 1 and len(body[1]) <= 64 else b""
        try:
            return identity, request, messages.decode(body, socket=socket), {}
        except Exception as error:
            return identity, request, None, error_body(error)

    def _reply(self, channel: Channel, identity: bytes, request: bytes, answer: dict[str, Any]) -> None:
        self._outboxes[channel].send([identity, messages.VERSION_FRAME, request, messages.pack(answer)])

    def _answer(
        self,
        message: messages.Message,
        *,
        identity: bytes = b"",
        request: bytes = b"",
        client: str = LOCAL_CLIENT,
        accepted: list[StoredJob] | None = None,
    ) -> dict[str, Any]:
        """The answer to one request. What it stores is committed by the caller, whom errors of the disk are for."""
        try:
            if isinstance(message, messages.Submission):
                assert accepted is not None
                result = self._submit(message, client, accepted)
            elif isinstance(message, messages.Watch):
                result = self._watch(message, identity, request)
            elif isinstance(message, messages.Unwatch):
                result = {"watch": self._watchers.remove(identity, bytes.fromhex(message.watch))}
            else:
                result = self._inform(message)
        except (DiskFull, sqlite3.Error):
            # The whole group's transaction is lost, not only this message.
            raise
        except Exception as error:
            return error_body(error)
        return {"type": "ok"} | result

    def _submit(self, message: messages.Submission, client: str, accepted: list[StoredJob]) -> dict[str, Any]:
        self._scheduler.check_room(len(accepted) + 1)
        # Drawn once and stored, so that another attempt makes the same.
        seed = message.seed if message.seed is not None else secrets.randbelow(2**31)
        job, duplicate = self._store.submit(message, client=client, seed=seed)
        if not duplicate:
            accepted.append(job)
        return {"job": job.id, "state": job.state, "seed": job.seed, "duplicate": duplicate}

    def _watch(self, message: messages.Watch, identity: bytes, request: bytes) -> dict[str, Any]:
        jobs = [self._get(job) for job in message.jobs]
        open_jobs = {job.id for job in jobs if not job.ended}
        if open_jobs or not message.jobs:
            self._watchers.add(identity, request, jobs=open_jobs if message.jobs else None, progress=message.progress)
        return {"jobs": [self._describe(job) for job in jobs]}

    def _get(self, job: str) -> StoredJob:
        found = self._store.find(job)
        if found is None:
            raise NotFound(f"There is no job '{job}': 'list' shows those that are known.", job=job)
        return found

    def _describe(self, job: StoredJob) -> dict[str, Any]:
        return job.to_wire() | {"progress": self._scheduler.progress(job.id) or self._batches.progress(job.id)}

    def _inform(self, message: messages.Message) -> dict[str, Any]:
        """The answers of everything that only looks, and of cancel and shutdown."""
        uptime = round(time.monotonic() - self._began, 3)
        if isinstance(message, messages.Ping):
            return {"instance": self.instance, "uptime": uptime}
        if isinstance(message, messages.Hello):
            return {
                "instance": self.instance,
                "daemon": __version__,
                "protocol_minimum": [messages.PROTOCOL[0], 0],
                "protocol_maximum": list(messages.PROTOCOL),
                "capabilities": list(CAPABILITIES),
                "largest_message": self.settings.server.largest_message,
                "pid": os.getpid(),
            }
        if isinstance(message, messages.Get):
            job = self._get(message.job)
            history = {"history": self._store.history(job.id)} if message.history else {}
            return {"job": self._describe(job) | history}
        if isinstance(message, messages.List):
            jobs, following = self._store.page(
                states=message.states, limit=message.limit, before=message.before, batch=message.batch
            )
            return {"jobs": [job.to_wire(short=not message.results) for job in jobs], "next": following}
        if isinstance(message, messages.Cancel):
            job = self._get(message.job)
            job = self._batches.cancel(job) if job.kind == messages.Batch.TYPE else self._scheduler.cancel(job.id)
            return {"job": job.id, "state": job.state}
        if isinstance(message, messages.Unload):
            return {"models": self._scheduler.unload(message.model)}
        if isinstance(message, messages.Models):
            return {
                "models": [
                    {
                        "name": model.name,
                        "title": model.title,
                        "licence": model.licence,
                        "embedded": model.embedded,
                        "installed": model.installed,
                    }
                    for model in list_models()
                ]
            }
        if isinstance(message, messages.Status):
            return {
                "instance": self.instance,
                "pid": os.getpid(),
                "uptime": uptime,
                "running": self._scheduler.running,
                "queued": self._scheduler.waiting,
                "counts": self._store.counts(),
                "worker": self._scheduler.health(),
                "watchers": len(self._watchers),
            }
        if isinstance(message, messages.Shutdown):
            asyncio.get_running_loop().call_later(0.05, self._stop.set)
            return {"instance": self.instance}
        raise ClientError(f"The message '{message.TYPE}' has no answer.")


def serve(settings: Settings, folders: Folders) -> None:
    """Run a daemon in this process until it is told to stop. Raises VattError when it cannot start."""
    if sys.platform == "win32":
        # ZeroMQ's descriptors are sockets, which only the selector loop can watch there.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(Server(settings, folders).run())
    else:
        asyncio.run(Server(settings, folders).run())
