"""The `vatt` command for a user whose folders are the test's own."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from vatt_daemon.cli import main

Call = Callable[..., tuple[int, str, str]]
"""Arguments → exit code, standard output, standard error."""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The `vatt` command for a user whose folders are below tmp_path."""
    monkeypatch.setenv("VATT_HOME", str(tmp_path / "vatt home"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        said, complained = io.StringIO(), io.StringIO()
        with redirect_stdout(said), redirect_stderr(complained), pytest.raises(SystemExit) as end:
            main(list(arguments))
        return int(end.value.code or 0), said.getvalue(), complained.getvalue()

    return run
