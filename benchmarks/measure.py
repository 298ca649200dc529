"""Drives a daemon of its own, in a folder of its own, as an editor's plugin would, and takes times and memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
from vatt_client import Client

MIB = 1 << 20


@dataclass(frozen=True)
class Measured:
    """One job, the median of its runs. wall: seconds until the client has the answer, every run in `walls`. stages:
    seconds that the worker spent per stage. bar: seconds that the project allows on two CPU cores; None: no bar."""

    name: str
    wall: float
    walls: list[float]
    stages: dict[str, float]
    bar: float | None = None


@dataclass(frozen=True)
class Memory:
    """Peak resident memory in MiB. torch_in_front: whether the daemon's own process has loaded it (None: not to be
    seen on this system)."""

    worker: float
    front: float
    torch_in_front: bool | None
    worker_bar: float = 1.5 * 1024


@dataclass(frozen=True)
class Bench:
    jobs: list[Measured]
    memory: Memory
    first_job: float
    machine: dict[str, Any] = field(default_factory=dict)


@contextmanager
def own_daemon(home: Path, flags: dict[str, Any] | None = None) -> Iterator[Client]:
    """A daemon whose every file lies under `home`; it is stopped at the end. flags: settings, 'table.name' to value."""
    os.environ["VATT_HOME"] = str(home)
    from vatt_daemon import launch

    with launch.start_daemon(flags, name="benchmark") as client:
        try:
            yield client
        finally:
            daemon = client.welcome.pid
            client.shutdown()
            with contextlib.suppress(psutil.Error):
                psutil.Process(daemon).wait(20)


def run(folder: Path, *, runs: int, model: str = "nano", told: Callable[[str], None] = lambda line: None) -> Bench:
    """All measurements. `told` is called with a line before each part."""
    from vatt_core.world.scene import split_seed
    from vatt_core.world.write import write_world

    def film(name: str, index: int, seconds: float) -> Path:
        """A clip of its own: what the daemon knows on its disk, it knows by the content."""
        path = folder / f"{name}.mp4"
        write_world(
            path, seed=split_seed("held_out", index), layout="single", seconds=seconds, fps=Fraction(24), size=320
        )
        return path

    told(f"writing {2 * runs} clips of 10 s")
    other = film("warm-up", 0, 2.0)
    cold = {
        what: [film(f"{what}-{run}", 1 + 2 * run + offset, 10.0) for run in range(runs)]
        for offset, what in enumerate(("captions", "take"))
    }

    with own_daemon(folder / "home") as client:
        told("starting the worker, loading the model, a first job")
        begun = time.perf_counter()
        client.generate(other, output=folder / "out", seed=1, model=model)
        first_job = time.perf_counter() - begun

        found: dict[str, list[tuple[float, dict[str, float]]]] = {}

        def timed(name: str, job: Callable[[], Any]) -> Any:
            begun = time.perf_counter()
            result = job()
            found.setdefault(name, []).append((time.perf_counter() - begun, result.seconds))
            return result

        sidecar = ""
        for number in range(runs):
            told(f"run {number + 1} of {runs}")
            path = cold["captions"][number]
            timed("captions", lambda path=path: client.suggest(path, count=3, seed=1, model=model))
            path = cold["take"][number]

            def generate(path: Path = path, number: int = number, **options: Any) -> Any:
                return client.generate(path, output=folder / "out", seed=100 * number, model=model, **options)

            first = timed("take", generate)
            timed("another", lambda generate=generate, first=first: generate(prompt=first.caption, takes=1))
            timed("eight", lambda generate=generate, first=first: generate(prompt=first.caption, takes=8))
            sidecar = first.takes[0].sidecar
        worker = int(client.status().worker["pid"])
        memory = Memory(peak_memory(worker), peak_memory(client.welcome.pid), has_loaded(client.welcome.pid, "torch"))
    device = json.loads(Path(sidecar).read_text(encoding="utf-8"))["model"]["device"]
    jobs = [
        _summed("three captions, clip not seen before", found["captions"], bar=1.5),
        _summed("one take, clip not seen before, captioned first", found["take"], bar=4.0),
        _summed("another take of the same clip", found["another"], bar=2.5),
        _summed("eight takes of the same clip", found["eight"]),
    ]
    return Bench(jobs, memory, first_job, machine_facts() | {"model": model, "device": device, "runs": runs})


def _summed(name: str, runs: list[tuple[float, dict[str, float]]], *, bar: float | None = None) -> Measured:
    walls = [round(wall, 3) for wall, _ in runs]
    names = dict.fromkeys(stage for _, stages in runs for stage in stages)
    stages = {stage: round(statistics.median(one.get(stage, 0.0) for _, one in runs), 3) for stage in names}
    return Measured(name, round(statistics.median(walls), 3), walls, stages, bar)


def peak_memory(pid: int) -> float:
    """MiB of resident memory that a process has had at most; where the system does not tell, what it has now."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    memory = psutil.Process(pid).memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / MIB


def has_loaded(pid: int, package: str) -> bool | None:
    """Whether a process has a library of the package in its memory; None where the system does not tell."""
    try:
        return any(package in Path(region.path).parts for region in psutil.Process(pid).memory_maps())
    except (psutil.Error, AttributeError):
        return None


def machine_facts() -> dict[str, Any]:
    processor = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": processor or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }
