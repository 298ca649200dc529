"""The daemon's front: how fast it starts, takes jobs and answers, and how much memory that takes. No model is loaded."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import zmq
from vatt_client import Client, Suggest, connection, messages

from benchmarks.measure import MIB, has_loaded, machine_facts, own_daemon, peak_memory
from benchmarks.noop import LEAST

JOBS = 10_000
UNDER_WAY = 256
"""Submissions whose answer the client has not read yet."""
BESIDE = 2_000
"""Jobs whose events a watcher does not read."""
BEHIND = 2_000
BATCH_JOB = 0.05
"""Seconds that each of the batch jobs takes which an interactive one waits behind."""


@dataclass(frozen=True)
class Figure:
    """One number with what the project wants. better: whether it shall be "above" or "below" the bar."""

    name: str
    value: float
    unit: str
    bar: float
    better: str
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value > self.bar if self.better == "above" else self.value < self.bar


@dataclass(frozen=True)
class Front:
    figures: list[Figure]
    machine: dict[str, Any] = field(default_factory=dict)


def run(folder: Path, *, runs: int, told: Callable[[str], None] = lambda line: None) -> Front:
    """All measurements, each with a daemon of its own below `folder`."""
    clip = folder / "clip.mp4"
    clip.write_bytes(b"not looked at")
    figures: list[Figure] = []

    told("vatt --help")
    help_times = [_help_time() for _ in range(2 * runs + 1)]
    figures.append(Figure("vatt --help", statistics.median(help_times), "s", 0.3, "below", _spread(help_times)))

    told("starting daemons")
    starts, idle, torch = [], 0.0, None
    for number in range(runs):
        began = time.perf_counter()
        with _front(folder / f"start-{number}") as client:
            starts.append(time.perf_counter() - began)
            front = psutil.Process(client.welcome.pid)
            time.sleep(1.0)
            idle = max(idle, front.memory_info().rss / MIB)
            torch = torch or has_loaded(front.pid, "torch")
    figures.append(Figure("start to first answer", statistics.median(starts), "s", 1.5, "below", _spread(starts)))
    figures.append(
        Figure("idle front", idle, "MiB", 80, "below", {True: "torch loaded", False: "no torch"}.get(torch, ""))
    )  # type: ignore[arg-type]

    told("jobs that do nothing, one after the other")
    with _front(folder / "overhead") as client:
        for _ in range(20):
            client.suggest(clip)
        walls = [_timed(lambda: client.suggest(clip)) * 1000 for _ in range(100 * runs)]
    figures.append(
        Figure("a job that does nothing, submit to result", statistics.median(walls), "ms", 5, "below", _spread(walls))
    )

    told(f"{JOBS} jobs at once")
    with _front(folder / "many") as client:
        _hold(client, clip)
        with _pinger() as lag:
            rate = _submit(client, clip, JOBS)
        memory = peak_memory(client.welcome.pid)
    note = f"p99 {statistics.quantiles(lag, n=100)[98]:.0f} ms of {len(lag)} pings" if len(lag) > 1 else ""
    figures.append(Figure(f"{JOBS} jobs acknowledged", rate, "per s", 2000, "above"))
    figures.append(Figure("longest ping meanwhile (loop lag)", max(lag, default=0.0), "ms", 250, "below", note))
    figures.append(Figure(f"front's memory with {JOBS} jobs waiting", memory, "MiB", 200, "below"))

    told("a watcher that never reads")
    with _front(folder / "deaf") as client, _deaf_watcher():
        client.suggest(clip)
        with _pinger() as lag:
            for number in range(BESIDE):
                client.submit(Suggest(path=str(clip), seed=number))
            while client.status().queued:
                time.sleep(0.05)
    p99 = statistics.quantiles(lag, n=100)[98] if len(lag) > 1 else 0.0
    figures.append(
        Figure("pings of others beside a watcher that never reads, p99", p99, "ms", 50, "below", _spread(lag or [0.0]))
    )

    told(f"an interactive job behind {BEHIND} batch jobs")
    waits = []
    with _front(folder / "behind", **{"worker.slots": 1}) as client:
        client.suggest(clip)
        for number in range(BEHIND):
            client.submit(Suggest(path=str(clip), priority="batch", seed=number, temperature=LEAST + BATCH_JOB))
        for _ in range(10 * runs):
            waits.append(_timed(lambda: client.suggest(clip)) * 1000)
    bar = BATCH_JOB * 1000 + 100
    figures.append(Figure("longest wait behind batch jobs of 50 ms", max(waits), "ms", bar, "below", _spread(waits)))
    return Front(figures, machine_facts() | {"runs": runs})


@contextmanager
def _front(home: Path, **flags: Any) -> Iterator[Client]:
    with own_daemon(home, {"worker.pipeline": "benchmarks.noop:Pipeline", **flags}) as client:
        yield client


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g} in {len(values)} runs"


def _help_time() -> float:
    command = [sys.executable, "-m", "vatt_daemon.cli", "--help"]
    return _timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))


def _hold(client: Client, clip: Path) -> None:
    """Keep the worker busy, so that what is measured is the front alone."""
    for _ in range(8):
        client.submit(Suggest(path=str(clip), temperature=5.0, deadline=3600))


def _submit(client: Client, clip: Path, count: int) -> float:
    """Submissions acknowledged per second, by a client that does not wait for one answer before the next question."""
    link = client.session.link(messages.JOBS)
    waiting: set[bytes] = set()
    sent = done = 0
    began = time.perf_counter()
    while done < count:
        while sent < count and len(waiting) < UNDER_WAY:
            identity = link.begin()
            message = Suggest(path=str(clip), seed=sent, priority="batch", idempotency_key=f"job-{sent}")
            if not link.send(messages.encode(message, identity)):
                link.forget(identity)
                break
            waiting.add(identity)
            sent += 1
        if not link.receive():
            link.socket.poll(10)
        for identity in [one for one in waiting if link.take(one) is not None]:
            waiting.discard(identity)
            done += 1
    return count / (time.perf_counter() - began)


@contextmanager
def _deaf_watcher() -> Iterator[None]:
    """A client that watches everything and reads nothing."""
    found = connection.read_connection()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.rcvhwm = 0, 1
    socket.curve_serverkey = found.server_public.encode()
    socket.curve_publickey, socket.curve_secretkey = found.client_public.encode(), found.client_secret.encode()
    socket.connect(found.jobs)
    socket.send_multipart(messages.encode(messages.Watch(), b"deaf"))
    try:
        yield
    finally:
        socket.close()
        context.term()


_PINGER = """
import sys, threading, time
from vatt_client import Client
with Client() as client:
    client.ping()
    print("ready", flush=True)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    found = []
    while not stop.is_set():
        began = time.perf_counter()
        client.ping(timeout=60)
        found.append((time.perf_counter() - began) * 1000)
        time.sleep(0.005)
print(*found)
"""


@contextmanager
def _pinger() -> Iterator[list[float]]:
    """Milliseconds of one ping after the other, by a process of its own, filled in at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PINGER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ), text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    found: list[float] = []
    try:
        yield found
    finally:
        process.stdin.close()
        found.extend(map(float, process.stdout.read().split()))
        process.stdout.close()
        process.wait(60)
