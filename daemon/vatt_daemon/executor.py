"""Where jobs are carried out. The scheduler knows the protocol; `LocalExecutor` is worker processes on this machine.

An executor on other machines implements the same methods and nothing else of the daemon changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from vatt_client import fields, messages

from vatt_daemon.folders import Folders
from vatt_daemon.process import WorkerProcess
from vatt_daemon.settings import Settings

log = logging.getLogger(__name__)

TOGETHER = 64
"""Events that are handled in one turn of the loop."""


@dataclass(frozen=True)
class Task:
    """One attempt of one job: `request` is the message's map as it was submitted, with the seed filled in."""

    job: str
    kind: str
    request: dict[str, Any]


@dataclass(frozen=True)
class Progressed:
    job: str
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    job: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job ended with an error of its own; `error` has code, message, retryable, details."""

    job: str
    error: dict[str, Any]


@dataclass(frozen=True)
class Lost:
    """Whoever carried the job out died; the job may be tried again."""

    job: str
    reason: str


@dataclass(frozen=True)
class CapacityChanged:
    """There may be room for another task."""


Event = Progressed | Finished | Failed | Lost | CapacityChanged


class Executor(Protocol):
    """Carries out tasks somewhere else. All methods are called on the daemon's loop and return at once."""

    def capacity(self, priority: str) -> int:
        """How many more tasks of that priority may be submitted now. The scheduler asks before each submit."""

    def submit(self, task: Task) -> None:
        """Begin a task. Exactly one Finished, Failed or Lost follows for it."""

    def cancel(self, job: str) -> None:
        """Ask a task to stop between two steps; its end is still reported. Unknown jobs are ignored."""

    def events(self) -> AsyncIterator[Sequence[Event]]:
        """What happens, in order, for as long as the executor lives: at each step some of what has happened since the last.
        The scheduler is the only reader, and ends jobs of one step in one commit."""

    def unload(self, model: str | None) -> list[str]:
        """Take a model (None: all) out of memory where it is idle; the names of those that go."""

    def health(self) -> dict[str, Any]:
        """Plain values for `vatt daemon status`."""

    async def stop(self) -> None:
        """End everything that runs, gently first. Called once."""


class LocalExecutor:
    """Worker processes on this machine: one for each GPU, or one on the CPU, each started when the first task comes.

    A worker ends when its standard input closes, so it cannot outlive the daemon. One that dies is replaced at the next
    task, at most `restarts` times within `restart_window` seconds.
    """

    def __init__(self, settings: Settings, folders: Folders) -> None:
        self._settings = settings.worker
        self._log_file = folders.log / "worker.log"
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._priorities: dict[str, str] = {}
        self._stopping = False
        self._workers: list[WorkerProcess] = []
        for device in devices(self._settings.device):
            own = replace(self._settings, device=device)
            orders = {
                "worker": asdict(own),
                "media": asdict(settings.media),
                "cache": asdict(settings.cache),
                "receipts": str(folders.receipts),
                "uploads": str(folders.uploads),
                "results": str(folders.results),
                "cache_folder": str(folders.cache),
                "private": settings.log.private,
            }
            self._workers.append(
                WorkerProcess(
                    own, orders, log_file=self._log_file, heard=self._heard, lost=self._lost, changed=self._changed
                )
            )

    def capacity(self, priority: str) -> int:
        return 0 if self._stopping else sum(self._room(worker, priority) for worker in self._workers)

    def _room(self, worker: WorkerProcess, priority: str) -> int:
        if worker.breaker() > 0:
            return 0
        # One job shows whether a process can be started at all.
        room = self._settings.slots - len(worker.tasks) if worker.runs else 1
        if priority == "batch":
            batch = sum(self._priorities.get(job) == "batch" for job in worker.tasks)
            room = min(room, self._settings.batch_slots - batch)
        return max(0, room)

    def submit(self, task: Task) -> None:
        # Fields with their default value are not in the message's map.
        request = {name: fields.rules(messages.Submission)[name][1] for name in ("priority", "model")} | task.request
        priority, model = request["priority"], request["model"]
        # Where the model is in memory already; else where least is going on.
        worker = max(
            (worker for worker in self._workers if self._room(worker, priority)),
            key=lambda worker: (model in worker.models, -len(worker.tasks)),
        )
        self._priorities[task.job] = priority
        try:
            worker.submit(task.job, {"kind": task.kind, "request": request})
        except OSError as error:
            log.error("no worker can be started: %s", error)
            message = f"The model process cannot be started ({error}). See 'vatt doctor'."
            refusal = {"code": "worker_crash", "message": message, "retryable": True, "retry_after": None}
            self._end(Failed(task.job, refusal | {"details": {}}))

    def cancel(self, job: str) -> None:
        for worker in self._workers:
            worker.cancel(job)

    def unload(self, model: str | None) -> list[str]:
        return sorted({name for worker in self._workers for name in worker.unload(model)})

    async def events(self) -> AsyncIterator[Sequence[Event]]:
        while True:
            group = [await self._events.get()]
            while len(group) < TOGETHER and not self._events.empty():
                group.append(self._events.get_nowait())
            yield group

    def health(self) -> dict[str, Any]:
        workers = [worker.health() for worker in self._workers]
        jobs = [job for worker in workers for job in worker["jobs"]]
        return {
            "kind": "local",
            "pid": next((worker["pid"] for worker in workers if worker["pid"]), None),
            "ready": any(worker["ready"] for worker in workers),
            "job": jobs[0] if jobs else None,
            "models": sorted({model for worker in workers for model in worker["models"]}),
            "starts": sum(worker["starts"] for worker in workers),
            "deaths": sum(worker["deaths"] for worker in workers),
            "waits_before_restart": max(worker["waits_before_restart"] for worker in workers),
            "log": str(self._log_file),
            "workers": workers,
        }

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    def _heard(self, job: str, body: dict[str, Any]) -> None:
        event = body["event"]
        if event == "progress":
            self._events.put_nowait(Progressed(job, str(body["stage"]), int(body["done"]), int(body["total"])))
        elif event == "done":
            self._end(Finished(job, body["result"]))
        elif event == "failed":
            self._end(Failed(job, body["error"]))

    def _lost(self, jobs: list[str], reason: str) -> None:
        for job in jobs:
            self._end(Lost(job, reason))

    def _end(self, event: Finished | Failed | Lost) -> None:
        self._priorities.pop(event.job, None)
        self._events.put_nowait(event)

    def _changed(self) -> None:
        self._events.put_nowait(CapacityChanged())


def devices(setting: str) -> list[str]:
    """The devices that get a worker each. "auto": every CUDA GPU that this system shows, or one worker that chooses."""
    if setting != "auto":
        return [part.strip() for part in setting.split(",") if part.strip()] or ["auto"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    else:
        folder = Path("/proc/driver/nvidia/gpus")
        count = len(list(folder.iterdir())) if folder.is_dir() else 0
    return [f"cuda:{number}" for number in range(count)] if count > 1 else ["auto"]
