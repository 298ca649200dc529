"""A watched folder, a real daemon and a real `vatt watch run` beside it, each a process of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from vatt_daemon.cli import main

from tests.daemon.conftest import Home, until

HERE = Path(__file__).parent


class Watched(Home):
    """`folder` is watched; `executions` says which jobs really ran."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder = root / "watched"
        self.folder.mkdir()
        self.log = root / "runs.jsonl"
        self.watchers: list[subprocess.Popen[bytes]] = []
        self.environment |= {
            "PYTHONPATH": os.pathsep.join([str(HERE), self.environment["PYTHONPATH"]]),
            "VATT_WORKER_PIPELINE": "watched_pipeline:Pipeline",
            "VATT_TEST_RUNS": str(self.log),
            "VATT_WATCH_SETTLE": "0.2",
            "VATT_WATCH_RESCAN": "1",
            "VATT_WATCH_POLLING": "0.3",
            "VATT_WATCH_PATIENCE": "0.6",
        }

    # Several programs start one after the other here; on a busy machine that takes its time.
    until = staticmethod(functools.partial(until, seconds=240.0))

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """The `vatt` command within this process: exit code, standard output, standard error."""
        said, complained = io.StringIO(), io.StringIO()
        before = os.environ.get("VATT_HOME")
        os.environ["VATT_HOME"] = self.environment["VATT_HOME"]
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
                main(list(arguments))
        except SystemExit as end:
            return int(end.code or 0), said.getvalue(), complained.getvalue()
        finally:
            del os.environ["VATT_HOME"]
            if before is not None:
                os.environ["VATT_HOME"] = before
        raise AssertionError("the command did not exit")

    def add(self, *options: str, folder: Path | None = None) -> None:
        code, _, complained = self.call("watch", "add", str(folder or self.folder), *options)
        assert code == 0, complained

    def watch(self, *options: str, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start `vatt watch run`. within: a command that becomes the one it is given, such as `env`."""
        process = subprocess.Popen(
            [*within, sys.executable, "-m", "vatt_daemon.cli", "watch", "run", *options], env=self.environment,
            cwd=self.root, stderr=(self.root / "watch.err").open("ab"),
        )  # fmt: skip
        self.watchers.append(process)
        return process

    def close(self) -> None:
        for process in self.watchers:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait()
        super().close()

    def once(self) -> subprocess.CompletedProcess[str]:
        """`vatt watch run --once`, to its end."""
        return self.vatt("watch", "run", "--once")

    def executions(self, kind: str) -> list[str]:
        """The clips of all executions, as paths below the root of the test."""
        if not self.log.exists():
            return []
        found = [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]
        return [str(Path(path).relative_to(self.root)) for what, path in found if what == kind]

    def results(self, folder: Path | None = None) -> list[str]:
        """Every file that was made, as paths below the folder; also what should not be there."""
        root = folder or self.folder
        return sorted(
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and (".vatt" in path.name or "error" in path.name or ".vatt-" in str(path))
        )

    def listed(self) -> dict[str, Any]:
        return dict(json.loads(self.call("watch", "list", "--json")[1]))

    def counts(self) -> dict[str, int]:
        return dict(self.listed()["folders"][0]["clips"])

    @staticmethod
    def kill_process(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.close()
