"""What the daemon may not read or write, and what other users may not: answered in words, refused, logged.

Rights do not bind root: where the tests run as root, daemon and command lose that power first, and another user is played
by a process that becomes one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from vatt_client import Client, connection, errors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="rights are those of POSIX")

SOMEBODY_ELSE = 65_534
"""The user id of `nobody`."""


@pytest.fixture
def bound(home: Any) -> Any:
    """A home whose commands are bound by rights, as those of an ordinary user are."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv where the tests run as root")
        home.prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return home


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    """A file or folder with other rights for a while."""
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


def logged(home: Any) -> str:
    return str((home.root / "home" / "log" / "daemon.log").read_text())


def test_what_may_not_be_read_or_written_is_refused_before_a_job_is_made(bound: Any) -> None:
    bound.start()
    locked, hidden = bound.root / "locked", bound.root / "hidden"
    locked.mkdir()
    hidden.mkdir()
    clip = hidden / "clip.mp4"
    clip.write_bytes(b"x")
    with bound.client() as client:
        for path, bits, asked in (
            (bound.clip, 0o000, {}),
            (hidden, 0o000, {"path": str(clip)}),
            (locked, 0o555, {"output": str(locked)}),
            (locked, 0o555, {"output": str(locked / "made" / "for me")}),
            (locked, 0o000, {"output": str(locked / "made")}),
        ):
            message = bound.generate("plain").to_wire() | asked
            del message["type"]
            with mode(path, bits), pytest.raises(errors.ForbiddenPath):
                client.generate(**message)
        assert client.list() == [] and list(locked.iterdir()) == []
        assert client.run(bound.generate("next")).state == "done"
    refused = [line for line in logged(bound).splitlines() if "refused" in line]
    assert len(refused) == 5


@pytest.mark.parametrize(("prompt", "bits"), [("plain", 0o555), ("read", 0o000)])
def test_rights_that_are_gone_when_the_job_begins_fail_it_in_words(bound: Any, prompt: str, bits: int) -> None:
    """The output folder of the one, the clip of the other."""
    bound.start()
    bound.output.mkdir()
    with bound.client() as client:
        blocker = client.submit(bound.generate("slow 1000"))
        bound.until(bound.runs)
        job = client.submit(bound.generate(prompt))
        with mode(bound.output if prompt == "plain" else bound.clip, bits):
            client.cancel(blocker)
            with pytest.raises(errors.ForbiddenPath):
                client.wait(job).takes()
        assert client.run(bound.generate("next")).state == "done"
    assert not [path for path in bound.output.iterdir() if job in path.name]


@pytest.mark.parametrize("folder", ["", "data", "data/keys", "runtime"])
def test_a_home_that_may_not_be_written_to_is_told_at_the_start(bound: Any, folder: str) -> None:
    place = bound.root / "home" / folder
    place.mkdir(parents=True)
    with mode(place, 0o555):
        refused = bound.spawn()
        assert refused.wait(60) not in (0, 1)
        said = refused.stderr.read().decode()
    assert str(place) in said and "Traceback" not in said


@pytest.fixture
def root() -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can play another user")


_INTRUDER = f"""
import os, sys, zmq
from pathlib import Path
from vatt_client import Client, connection, errors, messages
file, keys, endpoint, server = sys.argv[1:]
os.setgroups([]), os.setgid({SOMEBODY_ELSE}), os.setuid({SOMEBODY_ELSE})
try:
    Client(connection_file=Path(file))
except errors.ForbiddenPath as error:
    print("connection", error.code)
for key in ("client.secret", "server.secret"):
    try:
        Path(keys, key).read_bytes()
    except PermissionError:
        print(key, "unreadable")
for curve in (False, True):
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    if curve:  # a key of its own, and the daemon's public one from wherever
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = server.encode()
        refused = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    socket.connect(endpoint)
    socket.send_multipart([messages.VERSION_FRAME, b"1", messages.pack({{"type": "ping"}})])
    if curve:
        refused.poll(60_000)
        socket.disable_monitor()
        refused.close()
    print("curve" if curve else "plain", "answered" if socket.poll(1500) else "silence")
    socket.close()
    context.term()
"""


def test_keys_in_a_folder_that_is_open_to_others_are_refused(home: Any) -> None:
    home.start()
    with home.client() as client:
        client.shutdown()
    home.processes[-1].wait(60)
    keys = home.root / "home" / "data" / "keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    with mode(keys, 0o755):
        refused = home.spawn()
        assert refused.wait(60) == errors.ForbiddenPath.exit_code
        assert f"chmod 700 {keys}".encode() in refused.stderr.read()
        checks = json.loads(home.vatt("doctor", "--json").stdout)["checks"]
        assert [check["state"] for check in checks if str(keys) in check["cure"]] == ["problem"]
    home.start()


def test_another_user_reads_no_key_and_gets_no_answer(home: Any, root: None) -> None:
    home.start()
    # Let them come as far as the file itself, so that its own rights are what holds.
    for folder in (*home.file.parents, home.root / "home" / "data", home.root / "home" / "data" / "keys"):
        if folder.is_relative_to(home.root.parents[1]):
            folder.chmod(folder.stat().st_mode | 0o011)
    found = connection.read_connection(home.file)
    keys = home.root / "home" / "data" / "keys"
    ran = subprocess.run(
        [sys.executable, "-c", _INTRUDER, str(home.file), str(keys), found.control, found.server_public],
        capture_output=True, text=True, timeout=120, check=False, env=home.environment,
    )  # fmt: skip
    assert ran.stdout.splitlines() == [
        "connection forbidden_path", "client.secret unreadable", "server.secret unreadable",
        "plain silence", "curve silence",
    ], ran.stderr  # fmt: skip
    assert "refused a client with an unknown key" in logged(home)
    with home.client() as client:
        assert client.run(home.generate("next")).state == "done"


def test_files_of_another_user_are_not_believed(home: Any, root: None) -> None:
    home.start()
    os.chown(home.file, SOMEBODY_ELSE, SOMEBODY_ELSE)
    with pytest.raises(errors.ForbiddenPath):
        Client(connection_file=home.file)
    os.chown(home.file, 0, 0)
    with home.client() as client:
        client.shutdown()
    home.processes[-1].wait(60)
    key = home.root / "home" / "data" / "keys" / "server.secret"
    os.chown(key, SOMEBODY_ELSE, SOMEBODY_ELSE)
    refused = home.spawn()
    assert refused.wait(60) == errors.ForbiddenPath.exit_code
    assert str(key).encode() in refused.stderr.read()
