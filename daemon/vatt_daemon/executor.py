"""Where jobs are carried out. The scheduler knows the protocol; `LocalExecutor` is one worker process on this machine.

An executor on other machines implements the same five methods and nothing else of the daemon changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from vatt_daemon import pipe
from vatt_daemon.settings import WorkerSettings

log = logging.getLogger(__name__)

STOP_GRACE = 4.0
"""Seconds that a worker has to leave the running job cleanly when the daemon stops."""
LARGEST_LOG = 5 << 20


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

    def capacity(self) -> int:
        """How many more tasks may be submitted now. The scheduler asks before each submit."""

    def submit(self, task: Task) -> None:
        """Begin a task. Exactly one Finished, Failed or Lost follows for it."""

    def cancel(self, job: str) -> None:
        """Ask a task to stop between two steps; its end is still reported. Unknown jobs are ignored."""

    def events(self) -> AsyncIterator[Event]:
        """What happens, in order, for as long as the executor lives. The scheduler is the only reader."""

    def health(self) -> dict[str, Any]:
        """Plain values for `vatt daemon status`."""

    async def stop(self) -> None:
        """End everything that runs, gently first. Called once."""


class LocalExecutor:
    """One spawned worker process, started when the first task comes, one task at a time.

    The worker ends when its standard input closes, so it cannot outlive the daemon. A worker that dies is replaced at
    the next task, at most `restarts` times within `restart_window` seconds.
    """

    def __init__(self, settings: WorkerSettings, *, log_file: Path) -> None:
        self._settings = settings
        self._log_file = log_file
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._job: str | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._starts: deque[float] = deque(maxlen=settings.restarts)
        self._started = 0
        self._ready = False
        self._stopping = False

    def capacity(self) -> int:
        if self._stopping or self._job is not None:
            return 0
        return 0 if self._process is None and self._breaker() > 0 else 1

    def _breaker(self) -> float:
        """Seconds until another worker may be started; 0: now."""
        if len(self._starts) < self._settings.restarts:
            return 0.0
        return max(0.0, self._starts[0] + self._settings.restart_window - time.monotonic())

    def submit(self, task: Task) -> None:
        if self._process is None:
            try:
                self._spawn()
            except OSError as error:
                log.error("no worker can be started: %s", error)
                message = f"The model process cannot be started ({error}). See 'vatt doctor'."
                refusal = {"code": "worker_crash", "message": message, "retryable": True, "retry_after": None}
                self._events.put_nowait(Failed(task.job, refusal | {"details": {}}))
                return
        self._job = task.job
        self._send({"do": "run", "job": task.job, "kind": task.kind, "request": task.request})

    def cancel(self, job: str) -> None:
        if job != self._job:
            return
        self._send({"do": "cancel", "job": job})
        if self._grace is None:
            self._grace = self._loop.call_later(self._settings.cancel_grace, self._kill, job)

    async def events(self) -> AsyncIterator[Event]:
        while True:
            yield await self._events.get()

    def health(self) -> dict[str, Any]:
        process = self._process
        return {
            "kind": "local",
            "pid": None if process is None else process.pid,
            "ready": self._ready,
            "job": self._job,
            "starts": self._started,
            "waits_before_restart": round(self._breaker(), 1) if process is None else 0.0,
            "log": str(self._log_file),
        }

    async def stop(self) -> None:
        self._stopping = True
        process = self._process
        if process is None:
            return
        # The end of its input tells the worker to leave the job between two steps and go.
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        for _ in range(int(STOP_GRACE / 0.02)):
            if process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        else:
            process.kill()
            process.wait()
        # What it said last must still reach the scheduler.
        if self._reader is not None:
            await asyncio.to_thread(self._reader.join, 1.0)
        for _ in range(5):
            await asyncio.sleep(0)

    def _spawn(self) -> None:
        with contextlib.suppress(OSError):
            if self._log_file.stat().st_size > LARGEST_LOG:
                self._log_file.replace(self._log_file.with_suffix(".old.log"))
        command = [
            sys.executable,
            "-m",
            "vatt_daemon.worker",
            "--pipeline",
            self._settings.pipeline,
            "--device",
            self._settings.device,
            "--threads",
            str(self._settings.threads),
        ]
        with self._log_file.open("ab") as errors:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        self._process = process
        self._ready = False
        self._started += 1
        self._starts.append(time.monotonic())
        log.info("worker %d started", process.pid)
        assert process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(process, process.stdout), daemon=True, name=f"worker-{process.pid}"
        )
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes], stream: BinaryIO) -> None:
        """In a thread: forward what the worker says to the loop, until it is gone."""
        with contextlib.suppress(OSError, ValueError):
            while (body := pipe.read(stream)) is not None:
                self._loop.call_soon_threadsafe(self._heard, process, body)
        process.kill()
        code = process.wait()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._gone, process, code)

    def _heard(self, process: subprocess.Popen[bytes], body: dict[str, Any]) -> None:
        if process is not self._process:
            return
        event = body.get("event")
        if event == "ready":
            self._ready = True
            return
        job = body.get("job")
        if job is None or job != self._job:
            return
        if event == "progress":
            self._events.put_nowait(Progressed(job, str(body["stage"]), int(body["done"]), int(body["total"])))
            return
        self._free()
        if event == "done":
            self._events.put_nowait(Finished(job, body["result"]))
        elif event == "failed":
            self._events.put_nowait(Failed(job, body["error"]))

    def _gone(self, process: subprocess.Popen[bytes], code: int) -> None:
        if process is not self._process:
            return
        log.log(logging.INFO if self._stopping else logging.WARNING, "worker %d ended with code %d", process.pid, code)
        self._process = None
        self._ready = False
        job = self._job
        self._free()
        if self._stopping:
            return
        if job is not None:
            self._events.put_nowait(Lost(job, f"the worker process ended with code {code}, see {self._log_file}"))
        wait = self._breaker()
        if wait > 0:
            log.error(
                "%d workers died within %g s: waiting %.0f s", len(self._starts), self._settings.restart_window, wait
            )
            self._loop.call_later(wait + 0.01, self._events.put_nowait, CapacityChanged())

    def _free(self) -> None:
        self._job = None
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _kill(self, job: str) -> None:
        self._grace = None
        if job == self._job and self._process is not None:
            log.warning("worker %d ignored the cancellation of %s: killed", self._process.pid, job)
            self._process.kill()

    def _send(self, body: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        # A dead worker is noticed by its reader; the task is reported as lost from there.
        with contextlib.suppress(OSError, ValueError):
            pipe.write(cast(BinaryIO, process.stdin), body)
