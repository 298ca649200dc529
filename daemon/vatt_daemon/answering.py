"""The answers to requests, apart from those that take a while (batches and transfers). No socket is touched here."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from vatt_client import messages
from vatt_client.errors import ClientError, Unauthorised

from vatt_core.errors import DiskFull, NotFound
from vatt_core.weights import list_models
from vatt_daemon import __version__
from vatt_daemon.batch_store import BatchStore
from vatt_daemon.batches import Batches
from vatt_daemon.clients import Caller
from vatt_daemon.scheduler import Scheduler
from vatt_daemon.settings import Settings
from vatt_daemon.stored_job import StoredJob
from vatt_daemon.watching import Watchers
from vatt_daemon.wire_errors import error_body

CAPABILITIES = ("suggest", "generate", "batch", "watch", "unload", "paths", "uploads")
NOT_FROM_AFAR = (messages.Shutdown, messages.Unload, messages.Batch)
"""What only the user on the daemon's own machine may ask for."""


class Answering:
    """Answers one request after the other, each for its caller. A remote caller knows of its own jobs only."""

    def __init__(
        self,
        instance: str,
        settings: Settings,
        store: BatchStore,
        scheduler: Scheduler,
        batches: Batches,
        watchers: Watchers,
        *,
        remote: dict[str, Any] | None,
        stop: Callable[[], None],
    ) -> None:
        """remote: where other machines are listened to, for `status`."""
        self._instance = instance
        self._settings = settings
        self._store = store
        self._scheduler = scheduler
        self._batches = batches
        self._watchers = watchers
        self._remote = remote
        self._stop = stop
        self._began = time.monotonic()

    def answer(
        self,
        message: messages.Message,
        caller: Caller,
        *,
        identity: bytes = b"",
        request: bytes = b"",
        accepted: list[StoredJob] | None = None,
    ) -> dict[str, Any]:
        """The answer to one request. What it stores is committed by the server, whom errors of the disk are for."""
        try:
            if isinstance(message, messages.Submission):
                assert accepted is not None
                result = self._submit(message, caller, accepted)
            elif isinstance(message, messages.Watch):
                result = self._watch(message, caller, identity, request)
            elif isinstance(message, messages.Unwatch):
                result = {"watch": self._watchers.remove(identity, bytes.fromhex(message.watch))}
            else:
                result = self._inform(message, caller)
        except (DiskFull, sqlite3.Error):
            # The whole group's transaction is lost, not only this message.
            raise
        except Exception as error:
            return error_body(error)
        return {"type": "ok"} | result

    @staticmethod
    def check_allowed(message: messages.Message, caller: Caller) -> None:
        """Raise Unauthorised for what a remote caller may not ask for."""
        if caller.remote and isinstance(message, NOT_FROM_AFAR):
            raise Unauthorised(
                f"'{message.TYPE}' can be asked for on the daemon's own machine only; from another one there are "
                "'suggest' and 'generate', clip by clip.",
                client=caller.name,
            )

    def _submit(self, message: messages.Submission, caller: Caller, accepted: list[StoredJob]) -> dict[str, Any]:
        self._scheduler.check_room(len(accepted) + 1)
        # Drawn once and stored, so that another attempt makes the same.
        seed = message.seed if message.seed is not None else secrets.randbelow(2**31)
        job, duplicate = self._store.submit(message, client=caller.name, seed=seed)
        if not duplicate:
            accepted.append(job)
        return {"job": job.id, "state": job.state, "seed": job.seed, "duplicate": duplicate}

    def _watch(self, message: messages.Watch, caller: Caller, identity: bytes, request: bytes) -> dict[str, Any]:
        jobs = [self.get(job, caller) for job in message.jobs]
        open_jobs = {job.id for job in jobs if not job.ended}
        if open_jobs or not message.jobs:
            self._watchers.add(
                identity,
                request,
                jobs=open_jobs if message.jobs else None,
                progress=message.progress,
                client=caller.name if caller.remote else None,
            )
        return {"jobs": [self.describe(job) for job in jobs]}

    def get(self, job: str, caller: Caller) -> StoredJob:
        """A job that the caller may know of. Raises NotFound."""
        found = self._store.find(job)
        if found is None or (caller.remote and found.client != caller.name):
            raise NotFound(f"There is no job '{job}': 'list' shows those that are known.", job=job)
        return found

    def describe(self, job: StoredJob) -> dict[str, Any]:
        return job.to_wire() | {"progress": self._scheduler.progress(job.id) or self._batches.progress(job.id)}

    def _inform(self, message: messages.Message, caller: Caller) -> dict[str, Any]:
        """The answers of everything that only looks, and of cancel and shutdown."""
        uptime = round(time.monotonic() - self._began, 3)
        if isinstance(message, messages.Ping):
            return {"instance": self._instance, "uptime": uptime}
        if isinstance(message, messages.Hello):
            return {
                "instance": self._instance,
                "daemon": __version__,
                "protocol_minimum": [messages.PROTOCOL[0], 0],
                "protocol_maximum": list(messages.PROTOCOL),
                "capabilities": list(CAPABILITIES),
                "largest_message": self._settings.server.largest_message,
                "pid": os.getpid(),
            }
        if isinstance(message, messages.Get):
            job = self.get(message.job, caller)
            history = {"history": self._store.history(job.id)} if message.history else {}
            return {"job": self.describe(job) | history}
        if isinstance(message, messages.List):
            if message.batch is not None and self.get(message.batch, caller).kind != messages.Batch.TYPE:
                raise NotFound(f"Job '{message.batch}' is no batch: it has no items.", job=message.batch)
            jobs, following = self._store.page(
                states=message.states,
                limit=message.limit,
                before=message.before,
                batch=message.batch,
                client=caller.name if caller.remote else None,
            )
            return {"jobs": [job.to_wire(short=not message.results) for job in jobs], "next": following}
        if isinstance(message, messages.Cancel):
            job = self.get(message.job, caller)
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
            return self._status(caller) | {"uptime": uptime}
        if isinstance(message, messages.Shutdown):
            asyncio.get_running_loop().call_later(0.05, self._stop)
            return {"instance": self._instance}
        raise ClientError(f"The message '{message.TYPE}' has no answer.")

    def _status(self, caller: Caller) -> dict[str, Any]:
        running, worker = self._scheduler.running, self._scheduler.health()
        if caller.remote:
            # How busy the daemon is, but nothing of other people's jobs, nor where its files lie.
            running = [job for job in running if (found := self._store.find(job)) and found.client == caller.name]
            worker = {name: worker[name] for name in ("ready", "models", "waits_before_restart") if name in worker}
        return {
            "instance": self._instance,
            "pid": os.getpid(),
            "running": running,
            "queued": self._scheduler.waiting,
            "counts": self._store.counts(client=caller.name if caller.remote else None),
            "worker": worker,
            "watchers": len(self._watchers),
            "remote": self._remote,
        }
