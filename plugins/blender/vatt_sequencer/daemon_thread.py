"""The thread that talks to the daemon. Blender's main thread only puts orders in and takes events out. No bpy here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import jobs

BUSY_POLL = 0.25
"""Seconds between two looks at jobs under way."""
IDLE_POLL = 3.0
"""Seconds between two looks at whether a daemon is there."""
ANSWER_LIMIT = 6.0
START_LIMIT = 60.0


@dataclass(frozen=True)
class DaemonState:
    """Whether a daemon answers. text: one sentence when it does not. models: names of those installed."""

    running: bool
    text: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accepted:
    key: str
    job: str


@dataclass(frozen=True)
class Progressed:
    key: str
    stage: str
    done: int
    total: int
    eta: float | None


@dataclass(frozen=True)
class Queued:
    key: str


@dataclass(frozen=True)
class Ended:
    """state: 'done', 'failed' or 'cancelled'. message: why, when not done."""

    key: str
    state: str
    result: dict[str, Any] | None = None
    message: str = ""


Event = DaemonState | Accepted | Progressed | Queued | Ended


class DaemonThread:
    """Orders in, events out; neither ever waits. Everything sent survives a daemon that goes away and comes back."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._client: Any = None
        self._unsent: dict[str, tuple[str, dict[str, Any]]] = {}
        self._followed: dict[str, str] = {}
        self._cancelled: set[str] = set()
        self._state: DaemonState | None = None
        self._next_try = 0.0
        self._last_look = 0.0
        self._thread = threading.Thread(target=self._run, name="vatt", daemon=True)

    # ---- called on the main thread ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Jobs that the daemon has go on there."""
        self._stop.set()
        self._orders.put(lambda: None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def submit(self, key: str, kind: str, fields: dict[str, Any]) -> None:
        """Send a request as soon as a daemon is there; `key` keeps a repeated one from becoming two jobs."""
        self._orders.put(lambda: self._unsent.__setitem__(key, (kind, fields)))

    def follow(self, key: str, job: str) -> None:
        """Hear of a job that the daemon already has."""
        self._orders.put(lambda: self._followed.__setitem__(key, job))

    def cancel(self, key: str) -> None:
        self._orders.put(lambda: self._cancelled.add(key))

    def start_daemon(self, command: str) -> None:
        """Run `vatt daemon start`; `command` is where `vatt` is, empty: look for it."""
        self._orders.put(lambda: self._start_daemon(command))

    # ---- on the thread itself --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            busy = bool(self._unsent or self._followed or self._cancelled)
            try:
                order = self._orders.get(timeout=BUSY_POLL if busy else IDLE_POLL)
                order()
                while True:
                    self._orders.get_nowait()()
            except queue.Empty:
                pass
            if not self._stop.is_set():
                self._turn()
        self._disconnect()

    def _turn(self) -> None:
        from vatt_client.errors import ClientError, ConnectionProblem

        self._drop_unsent()
        if self._client is None and time.monotonic() < self._next_try:
            return
        try:
            self._connect()
            self._send()
            self._cancel()
            self._look()
        except ConnectionProblem as error:
            self._lost(error.message)
        except ClientError as error:
            self._lost(error.message)
        except Exception as error:  # a fault here must not end the thread silently
            self._lost(f"The connection to the daemon failed ({type(error).__name__}: {error}).")

    def _drop_unsent(self) -> None:
        """What was never sent is cancelled without the daemon."""
        for key in [key for key in self._cancelled if key in self._unsent]:
            del self._unsent[key]
            self._cancelled.discard(key)
            self.events.put(Ended(key, "cancelled"))

    def _connect(self) -> None:
        from vatt_client import Client

        if self._client is None:
            self._client = Client(timeout=ANSWER_LIMIT, name="Blender")
            models = tuple(str(item["name"]) for item in self._client.models() if item.get("installed"))
            self._tell(DaemonState(True, models=models))
            self._last_look = time.monotonic()

    def _send(self) -> None:
        from vatt_client.errors import Busy, ClientError, ConnectionProblem

        for key, (kind, values) in list(self._unsent.items()):
            try:
                job = self._client.submit(message(kind, key, values))
            except ConnectionProblem:
                raise
            except Busy as error:
                self._next_try = time.monotonic() + (error.retry_after or 1.0)
                return
            except ClientError as error:
                del self._unsent[key]
                self.events.put(Ended(key, "failed", message=error.message))
            else:
                del self._unsent[key]
                self._followed[key] = job
                self.events.put(Accepted(key, job))

    def _cancel(self) -> None:
        from vatt_client.errors import NotFound

        for key in list(self._cancelled):
            job = self._followed.get(key)
            if job is not None:
                with contextlib.suppress(NotFound):
                    self._client.cancel(job)
            self._cancelled.discard(key)

    def _look(self) -> None:
        """Ask how the jobs under way are; one question for all that still wait or run."""
        if not self._followed:
            if time.monotonic() - self._last_look >= IDLE_POLL:
                self._client.ping(timeout=ANSWER_LIMIT)
                self._last_look = time.monotonic()
            return
        open_jobs = {job.id: job for job in self._client.list(states=("queued", "running"), limit=1000)}
        for key, identity in list(self._followed.items()):
            job = open_jobs.get(identity)
            if job is None:
                job = self._ended(key, identity)
            if job is None or job.ended:
                continue
            if job.state == "queued":
                self.events.put(Queued(key))
            elif job.progress:
                step = job.progress
                self.events.put(
                    Progressed(key, str(step["stage"]), int(step["done"]), int(step["total"]), step.get("eta"))
                )

    def _ended(self, key: str, identity: str) -> Any:
        """The job itself; when it has ended its end is told."""
        from vatt_client.errors import NotFound

        try:
            job = self._client.get(identity)
        except NotFound:
            del self._followed[key]
            self.events.put(Ended(key, "failed", message="The daemon does not know this job any more: start it again."))
            return None
        if job.ended:
            del self._followed[key]
            error = str((job.error or {}).get("message", "")) if job.state != "done" else ""
            self.events.put(Ended(key, job.state, job.result, error))
        return job

    def _lost(self, text: str) -> None:
        self._disconnect()
        self._next_try = time.monotonic() + 1.0
        self._tell(DaemonState(False, text))

    def _disconnect(self) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close()
            self._client = None

    def _tell(self, state: DaemonState) -> None:
        if state != self._state:
            self._state = state
            self.events.put(state)

    def _start_daemon(self, command: str) -> None:
        found = find_command(command)
        if found is None:
            self._tell(
                DaemonState(
                    False,
                    "The 'vatt' command was not found: install VATT, or name its place in the extension's preferences.",
                )
            )
            return
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        hidden = {"creationflags": 0x08000000} if sys.platform == "win32" else {}  # CREATE_NO_WINDOW
        try:
            done = subprocess.run(
                [str(found), "daemon", "start"],
                env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_LIMIT,
                check=False, **hidden,
            )  # type: ignore[call-overload]  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            self._tell(DaemonState(False, f"{found} could not start the daemon ({error})."))
            return
        self._next_try = 0.0
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            self._state = None
            self._tell(DaemonState(False, lines[-1] if lines else f"{found} ended with code {done.returncode}."))


def message(kind: str, key: str, values: dict[str, Any]) -> Any:
    """The message for the daemon. Fields that this client does not have are left out. Raises BadRequest."""
    from vatt_client import messages

    cls = {jobs.SUGGEST: messages.Suggest, jobs.GENERATE: messages.Generate}[kind]
    known = {item.name for item in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in known}, idempotency_key=key)


def find_command(preference: str) -> Path | None:
    """Where the `vatt` command is: the preference, the PATH, or where the README's lines for each system put it."""
    if preference:
        path = Path(preference).expanduser()
        return path if path.is_file() else None
    found = shutil.which("vatt")
    if found:
        return Path(found)
    name = "vatt.exe" if sys.platform == "win32" else "vatt"
    home = Path.home()
    folders = [
        home / ".local" / "bin",
        home / ".local" / "share" / "vatt-env" / "bin",
        home / "Library" / "vatt-env" / "bin",
        Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "vatt-env" / "Scripts",
    ]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
