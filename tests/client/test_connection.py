"""The connection file: private, whole, and recognised when its daemon is gone."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from vatt_client import Client, connection, errors

HERE = connection.Connection(instance="a", pid=os.getpid(), jobs="tcp://127.0.0.1:1", control="tcp://127.0.0.1:2",
                             server_public="s" * 40, client_public="p" * 40, client_secret="x" * 40)  # fmt: skip


def test_it_is_private_and_comes_back_as_written(tmp_path: Path) -> None:
    file = connection.write_connection(HERE, tmp_path / "connection.json")
    assert connection.read_connection(file) == HERE
    assert list(tmp_path.iterdir()) == [file]
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o644)
        with pytest.raises(errors.ForbiddenPath):
            connection.read_connection(file)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps other users out of the folder")
def test_that_of_another_user_is_refused_also_by_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vatt_daemon.keys import load_key_pair

    from vatt_core.errors import ForbiddenPath

    file = connection.write_connection(HERE, tmp_path / "connection.json")
    key = tmp_path / "server.secret"
    load_key_pair(key)
    somebody_else = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody_else)
    with pytest.raises(errors.ForbiddenPath):
        connection.read_connection(file)
    with pytest.raises(ForbiddenPath):
        load_key_pair(key)


def test_none_damaged_or_of_a_dead_process_means_that_no_daemon_runs(tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    with pytest.raises(errors.DaemonNotRunning):
        Client(connection_file=file)
    for data in (b"", b"{", b"[]", b'{"pid": 1}', b"\xff"):
        connection.write_private(file, data)
        with pytest.raises(errors.DaemonNotRunning):
            connection.read_connection(file)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    connection.write_connection(dataclasses.replace(HERE, pid=ended.pid), file)
    with pytest.raises(errors.DaemonNotRunning):
        connection.read_connection(file)


def test_the_runtime_folder_follows_vatt_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VATT_HOME", str(tmp_path))
    assert connection.connection_file().parent == tmp_path / "runtime"
    monkeypatch.delenv("VATT_HOME")
    assert connection.connection_file().is_absolute()
