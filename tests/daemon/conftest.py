"""A real daemon in a process and a folder of its own, driven over its real sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from vatt_client import AsyncClient, Client, connection, messages
from vatt_client.errors import DaemonNotRunning, DaemonTimeout

from tests.daemon.afar import Afar

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds that a program or an answer may take. It takes well under one; on a busy machine or a slow disk, several."""


def until(condition: Callable[[], object], *, seconds: float = 2 * PATIENCE) -> None:
    """Wait until the condition holds; fail when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


class Home:
    """One folder with everything of one user's daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clip = root / "clip.mp4"
        self.clip.write_bytes(b"not looked at by the scripted pipeline")
        self.output = root / "out"
        self.file = root / "home" / "runtime" / connection.FILE_NAME
        self.environment = {
            **os.environ,
            "VATT_HOME": str(root / "home"),
            "XDG_DATA_HOME": str(root / "data"),
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "VATT_WORKER_PIPELINE": "scripted_pipeline:Pipeline",
            "VATT_WORKER_CANCEL_GRACE": str(PATIENCE),
            # One job after the other, so that tests can say what waits; those of the worker say otherwise.
            "VATT_WORKER_SLOTS": "1",
            "SCRIPTED_RUNS": str(root / "runs.txt"),
            "OMP_NUM_THREADS": "1",
        }
        self.prefix: list[str] = []
        """Put before every command, e.g. to take rights away from it."""
        self.processes: list[subprocess.Popen[bytes]] = []

    until = staticmethod(until)

    def generate(self, prompt: str, **options: Any) -> messages.Generate:
        return messages.Generate(path=str(self.clip), output=str(self.output), prompt=prompt, **options)

    def spawn(self, *flags: str) -> subprocess.Popen[bytes]:
        command = [*self.prefix, sys.executable, "-m", "vatt_daemon"]
        for flag in flags:
            command += ["--set", flag]
        process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE)
        self.processes.append(process)
        return process

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start a daemon and wait until it answers."""
        process = self.spawn(*flags)

        def answers() -> bool:
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            with contextlib.suppress(DaemonNotRunning, DaemonTimeout):
                if connection.read_connection(self.file).pid == process.pid:
                    return True
            return False

        until(answers)
        return process

    def client(self, **options: float) -> Client:
        return Client(connection_file=self.file, **{"timeout": PATIENCE, **options})  # type: ignore[arg-type]

    @contextlib.contextmanager
    def held(self, *, watches: int = 1) -> Iterator[str]:
        """Another job goes first until so many more watches stand: whoever asks for a job inside hears of its beginning,
        which may be over otherwise before anyone listens. Yields the other job."""
        over = threading.Event()
        with self.client() as own:
            first = own.submit(self.generate("slow 100000"))
            self.until(lambda: own.get(first).state == "running")
            before = own.status().watchers

            def let_go() -> None:
                with self.client() as other:
                    self.until(lambda: over.is_set() or other.status().watchers >= before + watches)
                    other.cancel(first)

            thread = threading.Thread(target=let_go)
            thread.start()
            try:
                yield first
            finally:
                over.set()
                thread.join()

    def kill(self) -> None:
        """kill -9 the daemon."""
        self.processes[-1].send_signal(signal.SIGKILL)
        self.processes[-1].wait()

    def runs(self) -> list[str]:
        """The prompts of all executions since `forget_runs`, in order."""
        file = self.root / "runs.txt"
        return [line.split(" ", 1)[1] for line in file.read_text().splitlines()] if file.exists() else []

    def forget_runs(self) -> None:
        (self.root / "runs.txt").unlink(missing_ok=True)

    def vatt(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the `vatt` command."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "vatt_daemon.cli", *arguments],
            env=self.environment | environment, capture_output=True, text=True, timeout=240, cwd=self.root, check=False,
        )  # fmt: skip

    def close(self) -> None:
        with contextlib.suppress(Exception):
            pid = connection.read_connection(self.file).pid
            if pid not in [process.pid for process in self.processes]:
                psutil.Process(pid).terminate()  # one that a command under test has started
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait for longer than those of a user, who wants to know of a daemon that hangs."""
    for kind in (Client, AsyncClient):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "timeout", PATIENCE)  # type: ignore[misc]
    monkeypatch.setattr("vatt_client.session.HEARTBEAT_LIMIT", PATIENCE)
    monkeypatch.setattr("vatt_client.link.HEARTBEAT_LIMIT", int(PATIENCE * 1000))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A daemon's folder for one test, which starts, stops and kills the daemon itself."""
    found = Home(tmp_path)
    yield found
    found.close()


@pytest.fixture
def client(home: Home) -> Iterator[Client]:
    """A client of a daemon that was started for this test alone."""
    home.start()
    with home.client() as found:
        yield found


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A daemon's folder that the tests of a module share; one of their fixtures starts the daemon."""
    found = Home(tmp_path_factory.mktemp("daemon"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def running_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    found = Home(tmp_path_factory.mktemp("daemon"))
    found.start()
    yield found
    found.close()


@pytest.fixture
def shared(running_home: Home, tmp_path: Path) -> Home:
    """A daemon that the tests of a module share; the output folder is the test's own."""
    running_home.output = tmp_path / "out"
    running_home.forget_runs()
    return running_home


@pytest.fixture
def guest(shared: Home) -> Iterator[Client]:
    """A client of the shared daemon; leaves an empty queue."""
    with shared.client() as found:
        yield found
        open_jobs = [job.id for job in found.list(states=["queued", "running"])]
        for job in reversed(open_jobs):
            found.cancel(job)
        for job in open_jobs:
            found.wait(job)


# ---- seen from another machine -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(module_home: Any) -> Afar:
    afar = Afar(module_home)
    module_home.start()
    return afar


@pytest.fixture(scope="module")
def editor(running: Afar) -> Path:
    """The connection file of a client that is let in."""
    return running.add("editor")


@pytest.fixture
def far(editor: Path) -> Iterator[Client]:
    with Client(connection_file=editor) as client:
        yield client
