"""A daemon that does what a clip says, and a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.watch.conftest import Watched


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    found.start()
    yield found
    found.close()


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """The user's screen, else one of Xvfb's. One for all tests: Tk ends a process whose screen has gone."""
    given = os.environ.get("DISPLAY")
    if given:
        yield given
        return
    if shutil.which("Xvfb") is None:
        pytest.skip("needs a screen, or Xvfb (apt install xvfb)")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1024x768x24", "-nolisten", "tcp"],
        pass_fds=[writing], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as told:
        number = told.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait(60)


@pytest.fixture
def screen(display: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen for this test."""
    monkeypatch.setenv("DISPLAY", display)
