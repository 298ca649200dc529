"""One worker process, as the daemon's loop sees it: started when a task comes, watched, killed when it must be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from vatt_daemon import pipe
from vatt_daemon.settings import WorkerSettings

log = logging.getLogger(__name__)

STOP_GRACE = 4.0
"""Seconds that a worker has to leave its tasks cleanly when the daemon stops."""
START_LIMIT = 60.0
"""Seconds that a new worker has, at least, until it takes orders."""
LARGEST_LOG = 5 << 20

Heard = Callable[[str, dict[str, Any]], None]
"""Called with a job and what the worker says of it."""
Lost = Callable[[list[str], str], None]
"""Called with the jobs of a worker that is gone, and why."""


class WorkerProcess:
    """At most one process at a time, whose input ends with the daemon. All methods are called on the daemon's loop.

    orders: its first message. heard, lost: see there. changed: called when there may be room for another task.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        orders: dict[str, Any],
        *,
        log_file: Path,
        heard: Heard,
        lost: Lost,
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._log_file = log_file
        self._heard_of = heard
        self._lost = lost
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._last_heard = 0.0
        self._deaths: deque[float] = deque(maxlen=settings.restarts)
        self._died = 0
        self._started = 0
        self._ready = False
        self._emptied = False
        self._stopping = False
        self.tasks: dict[str, dict[str, Any]] = {}
        self.models: list[str] = []

    @property
    def runs(self) -> bool:
        return self._process is not None

    def breaker(self) -> float:
        """Seconds until another process may be started, after many have died in a row; 0: now."""
        if self._process is not None or len(self._deaths) < self._settings.restarts:
            return 0.0
        return max(0.0, self._deaths[0] + self._settings.restart_window - time.monotonic())

    def submit(self, job: str, order: dict[str, Any]) -> None:
        """Begin a task. Raises OSError when no process can be started."""
        if self._process is None:
            try:
                self._spawn()
            except OSError:
                # Counted like a death, or a whole queue would be failed within a moment.
                self._count_death()
                raise
        self.tasks[job] = order
        if len(self.tasks) == 1:
            self._last_heard = time.monotonic()
            self._look_after()
        self._send({"do": "run", "job": job, **order})

    def cancel(self, job: str) -> None:
        if job not in self.tasks:
            return
        self._send({"do": "cancel", "job": job})
        if job not in self._graces:
            self._graces[job] = self._loop.call_later(self._settings.cancel_grace, self._too_slow, job)

    def unload(self, model: str | None) -> list[str]:
        """Take models out of memory; returns the idle ones, which go at once."""
        self._send({"do": "unload", "model": model})
        busy = {order["request"]["model"] for order in self.tasks.values()}
        return [name for name in self.models if model in (None, name) and name not in busy]

    def health(self) -> dict[str, Any]:
        process = self._process
        return {
            "device": self._settings.device,
            "pid": None if process is None else process.pid,
            "ready": self._ready,
            "jobs": list(self.tasks),
            "models": list(self.models),
            "starts": self._started,
            "deaths": self._died,
            "waits_before_restart": round(self.breaker(), 1),
        }

    async def stop(self) -> None:
        """End the process: gently, then not."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        # The end of its input tells the worker to leave its jobs between two steps and go.
        self._close_input(process)
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
        with self._log_file.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "vatt_daemon.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._process = process
        self._ready = self._emptied = False
        self._started += 1
        log.info("worker %d started", process.pid)
        assert process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(process, process.stdout), daemon=True, name=f"worker-{process.pid}"
        )
        self._reader.start()
        self._send(self._orders)

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
        self._last_heard = time.monotonic()
        event = body.get("event")
        if event == "ready":
            self._ready = True
            self._look_after()  # by the limit that holds from now on
        elif event == "models":
            self._emptied = bool(self.models) and not body["models"]
            self.models = list(body["models"])
            self._retire_if_empty()
        elif (job := body.get("job")) in self.tasks:
            if event in ("done", "failed"):
                self._free(job)
            self._heard_of(job, body)
            self._retire_if_empty()

    def _retire_if_empty(self) -> None:
        """A worker that has nothing in memory any more gives back the rest, which is not little, by ending."""
        if not self._emptied or self.tasks or self._process is None:
            return
        log.info("worker %d has been idle and ends", self._process.pid)
        self._close_input(self._process)
        self._process = None
        self._ready = False

    @staticmethod
    def _close_input(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()

    def _gone(self, process: subprocess.Popen[bytes], code: int) -> None:
        if process is not self._process:
            return
        log.log(logging.INFO if self._stopping else logging.WARNING, "worker %d ended with code %d", process.pid, code)
        self._process = None
        self._ready = False
        self.models = []
        jobs = list(self.tasks)
        for job in jobs:
            self._free(job)
        if self._stopping:
            return
        self._count_death()
        if jobs:
            self._lost(jobs, f"the worker process ended with code {code}, see {self._log_file}")

    def _count_death(self) -> None:
        self._died += 1
        self._deaths.append(time.monotonic())
        wait = self.breaker()
        if wait > 0:
            log.error("%d workers died within %g s: waiting %.0f s", len(self._deaths), self._settings.restart_window,
                      wait)  # fmt: skip
        self._loop.call_later(wait + 0.01 if wait else 0, self._changed)

    def _free(self, job: str) -> None:
        self.tasks.pop(job, None)
        grace = self._graces.pop(job, None)
        if grace is not None:
            grace.cancel()
        if not self.tasks and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look_after(self) -> None:
        """Kill the process when none of its tasks has made a step for too long."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self.tasks:
            return
        limit = self._settings.stuck if self._ready else max(self._settings.stuck, START_LIMIT)
        left = self._last_heard + limit - time.monotonic()
        if left > 0:
            self._watch = self._loop.call_later(left + 0.01, self._look_after)
        else:
            self._kill(f"made no step for {self._settings.stuck:g} s")

    def _too_slow(self, job: str) -> None:
        self._graces.pop(job, None)
        if job in self.tasks:
            self._kill(f"ignored the cancellation of {job}")

    def _kill(self, why: str) -> None:
        if self._process is not None:
            log.warning("worker %d %s: killed", self._process.pid, why)
            self._process.kill()

    def _send(self, body: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        # A dead worker is noticed by its reader; its tasks are reported as lost from there.
        with contextlib.suppress(OSError, ValueError):
            pipe.write(cast(BinaryIO, process.stdin), body)
