"""The thread between Blender and the daemon, over real sockets; the daemon's pipeline is scripted."""

from __future__ import annotations

import queue
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vatt_sequencer import daemon_thread
from vatt_sequencer.daemon_thread import Accepted, DaemonState, DaemonThread, Ended, find_command


@pytest.fixture
def thread(home: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonThread]:
    monkeypatch.setenv("VATT_HOME", home.environment["VATT_HOME"])
    monkeypatch.setattr(daemon_thread, "IDLE_POLL", 0.3)
    monkeypatch.setattr(daemon_thread, "ANSWER_LIMIT", 60.0)
    found = DaemonThread()
    found.start()
    yield found
    found.stop(10)


def heard(thread: DaemonThread, kind: type, key: str = "") -> Any:
    """The next event of that kind, about that request."""
    for _ in range(2000):
        try:
            event = thread.events.get(timeout=90)
        except queue.Empty:
            break
        if isinstance(event, kind) and getattr(event, "key", "") == key:
            return event
    raise AssertionError(f"no {kind.__name__} about {key!r}")


def fields(home: Any, prompt: str, **more: Any) -> dict[str, Any]:
    return {"path": str(home.clip), "output": str(home.output), "prompt": prompt, **more}


def test_request_waits_for_a_daemon_and_is_done(thread: DaemonThread, home: Any) -> None:
    assert not heard(thread, DaemonState).running
    thread.submit("one", "generate", fields(home, "rain"))
    home.start()
    assert heard(thread, DaemonState).models
    ended = heard(thread, Ended, "one")
    assert ended.state == "done" and ended.result["takes"]


def test_refusal_is_told(thread: DaemonThread, home: Any) -> None:
    home.start()
    thread.submit("one", "generate", fields(home, "rain", model="no-such-model"))
    ended = heard(thread, Ended, "one")
    assert ended.state == "failed" and ended.message
    thread.submit("two", "generate", fields(home, "rain", takes=99))
    assert heard(thread, Ended, "two").state == "failed"


def test_cancel_before_and_after_the_daemon_has_it(thread: DaemonThread, home: Any) -> None:
    heard(thread, DaemonState)
    thread.submit("unsent", "generate", fields(home, "rain"))
    thread.cancel("unsent")
    assert heard(thread, Ended, "unsent").state == "cancelled"
    home.start()
    thread.submit("sent", "generate", fields(home, "slow 2000"))
    heard(thread, Accepted, "sent")
    thread.cancel("sent")
    assert heard(thread, Ended, "sent").state == "cancelled"


def test_killed_daemon_takes_no_job_with_it(thread: DaemonThread, home: Any) -> None:
    home.start()
    thread.submit("one", "generate", fields(home, "slow-once a"))
    heard(thread, Accepted, "one")
    home.until(home.runs)
    home.kill()
    while heard(thread, DaemonState).running:
        pass
    home.start()
    assert heard(thread, Ended, "one").state == "done"


def test_daemon_that_hangs_blocks_nobody(thread: DaemonThread, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_thread, "ANSWER_LIMIT", 2.0)
    process = home.start()
    while not heard(thread, DaemonState).running:
        pass
    process.send_signal(signal.SIGSTOP)
    try:
        thread.submit("one", "generate", fields(home, "rain"))  # returns, or the test's own limit ends it
        while heard(thread, DaemonState).running:
            pass
    finally:
        process.send_signal(signal.SIGCONT)
    assert heard(thread, Ended, "one").state == "done"


def test_daemon_is_started_by_the_command(thread: DaemonThread, home: Any) -> None:
    thread.start_daemon(str(Path(sys.executable).with_name("vatt")))
    while not heard(thread, DaemonState).running:
        pass


# As the README's lines for Linux and macOS say it; a Blender started from a desktop has neither on its PATH.
@pytest.mark.parametrize("place", ["~/.local/share/vatt-env/bin/vatt", "~/Library/vatt-env/bin/vatt"])
def test_command_is_found_where_the_readme_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    assert f"{place} service install" in (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command("") is None
    command = Path(place).expanduser()
    command.parent.mkdir(parents=True)
    command.touch()
    assert find_command("") == command


def test_command_is_found_where_the_readme_puts_it_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "$env:LOCALAPPDATA\\vatt-env\\Scripts\\vatt"
    assert f"{place} service install" in (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setattr(daemon_thread.sys, "platform", "win32")
    monkeypatch.setattr(daemon_thread.shutil, "which", lambda name: None)
    command = tmp_path / "vatt-env" / "Scripts" / "vatt.exe"
    command.parent.mkdir(parents=True)
    command.touch()
    assert find_command("") == command


def test_command_that_is_not_there(thread: DaemonThread, tmp_path: Path) -> None:
    assert find_command(str(tmp_path / "vatt")) is None
    thread.start_daemon(str(tmp_path / "vatt"))
    heard(thread, DaemonState)
    assert "vatt" in heard(thread, DaemonState).text
