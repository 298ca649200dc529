"""Who gets in and how: keys, versions, malformed messages, one instance, ports, the connection file."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from vatt_client import Client, connection, errors, messages


def altered(home: Any, **values: str) -> Path:
    found = dataclasses.replace(connection.read_connection(home.file), **values)
    return connection.write_connection(found, home.root / "altered.json")


def test_a_client_with_an_unknown_key_is_refused_in_words(shared: Any, guest: Client) -> None:
    public, secret = zmq.curve_keypair()
    file = altered(shared, client_public=public.decode(), client_secret=secret.decode())
    with pytest.raises(errors.Unauthorised):
        Client(connection_file=file)
    assert guest.ping()


def test_a_client_that_expects_another_daemon_never_hangs(shared: Any, guest: Client) -> None:
    file = altered(shared, server_public=zmq.curve_keypair()[0].decode())
    with pytest.raises((errors.Unauthorised, errors.DaemonNotRunning)):
        Client(connection_file=file, timeout=3.0)
    assert guest.ping()


def test_a_connection_without_encryption_gets_no_answer(shared: Any, guest: Client) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.DEALER) as plain:
        plain.linger = 0
        plain.connect(connection.read_connection(shared.file).control)
        plain.send_multipart([messages.VERSION_FRAME, b"1", msgpack.packb({"type": "ping"})])
        assert not plain.poll(500)
    context.term()
    assert guest.ping()


def test_keys_and_connection_file_are_private(shared: Any, guest: Client) -> None:
    private = [shared.file, *(shared.root / "home" / "data" / "keys").iterdir()]
    assert len(private) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}


def test_a_key_that_others_can_read_is_refused(home: Any) -> None:
    home.start()
    with home.client() as client:
        client.shutdown()
    home.processes[-1].wait(60)
    key = home.root / "home" / "data" / "keys" / "server.secret"
    key.chmod(0o644)
    refused = home.spawn()
    assert refused.wait(60) == 3
    assert str(key).encode() in refused.stderr.read()


def test_a_second_daemon_is_refused_and_the_first_stays(shared: Any, guest: Client) -> None:
    second = shared.spawn()
    assert second.wait(60) != 0
    assert b"Traceback" not in second.stderr.read()
    assert guest.ping().instance == connection.read_connection(shared.file).instance


def test_a_port_in_use_is_named(home: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = home.spawn(f"server.port={port}")
        assert refused.wait(60) != 0
        said = refused.stderr.read()
    assert str(port).encode() in said and b"Traceback" not in said
    assert not home.file.exists()


def test_a_fixed_port_is_used(home: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home.start(f"server.control_port={port}")
    assert connection.read_connection(home.file).control.endswith(f":{port}")


def test_a_stale_connection_file_is_recognised_and_replaced(home: Any) -> None:
    home.start()
    home.kill()
    with pytest.raises(errors.DaemonNotRunning):
        home.client()
    # The same file, but its process id belongs to somebody else by now.
    values = json.loads(home.file.read_bytes())
    stale = home.root / "stale.json"
    connection.write_connection(connection.Connection(**{**values, "pid": os.getpid()}), stale)
    with pytest.raises(errors.DaemonNotRunning):
        Client(connection_file=stale, timeout=1.0)
    home.start()
    with home.client() as client:
        assert client.ping()


def test_unknown_fields_and_values_out_of_range_are_refused_by_name(shared: Any, guest: Client) -> None:
    before = guest.list()
    good = shared.generate("x").to_wire()
    wrong = [("prompd", "x"), ("takes", 0), ("takes", 2.5), ("takes", True), ("guidance_scale", float("nan")),
             ("loudness", 1e308), ("start", -1), ("start", float("inf")), ("start", "1/0"), ("model", "../etc"),
             ("bits", 20), ("seed", 2**63), ("preview", 1), ("prompt", ""), ("path", "a\0b"), ("priority", "now"),
             ("time_map", [[0, 0], [0, 1]]), ("idempotency_key", "x" * 65), ("prompt", None)]  # fmt: skip
    for name, value in wrong:
        body = {**good, name: value}
        if (name, value) == ("prompt", None):
            del body["output"]
            name = "output"
        answer = raw(guest, messages.pack(body))
        assert answer["type"] == "error" and answer["error"]["code"] == "bad_request", (name, value)
        assert str(answer["error"]["details"]["field"]).startswith(name.split("[")[0]), (name, value, answer)
    assert guest.list() == before


def raw(client: Client, body: bytes, *, version: bytes = messages.VERSION_FRAME) -> dict[str, Any]:
    """Send any bytes on the jobs socket of a client and return the answer."""
    link = client.session.link("jobs")
    number = secrets.token_bytes(8)
    link.socket.send_multipart([version, number, body])
    while link.socket.poll(60_000):
        frames = link.socket.recv_multipart()
        if frames[1] == number:
            return messages.unpack(frames[2])
    raise AssertionError("no answer")


def test_another_major_version_is_told_which_ones_are_spoken(guest: Client) -> None:
    answer = raw(guest, messages.pack({"type": "ping"}), version=b"\x02\x00")
    assert answer["error"]["code"] == "unsupported_version"
    assert answer["error"]["details"]["maximum"] == list(messages.PROTOCOL)
    assert raw(guest, messages.pack({"type": "ping"}), version=bytes([messages.PROTOCOL[0], 77]))["type"] == "ok"


def test_garbage_is_answered_and_the_next_message_served(guest: Client) -> None:
    bomb = b"\x91" * 5000
    for body in (b"", b"\xc1", b"\x93\x01\x02\x03", bomb, b"\xdf\xff\xff\xff\xff", b"\x81\xa4type\xa3\xff\xfe\xfd",
                 messages.pack({"type": "nonsense"}), messages.pack({"type": 5}),
                 b"\xdd\x00\x0f\x00\x00" + b"\x80" * 983040,
                 messages.pack({"type": "shutdown"})):  # fmt: skip
        assert raw(guest, body)["error"]["code"] == "bad_request"
    guest.session.link("jobs").socket.send_multipart([b"x"])
    guest.session.link("jobs").socket.send_multipart([messages.VERSION_FRAME, b"y" * 1000, b""])
    assert guest.ping()
    assert raw(guest, messages.pack({"type": "ping"}))["type"] == "ok"


def test_a_message_above_the_limit_ends_that_connection_only(shared: Any, guest: Client) -> None:
    with shared.client() as rude:
        rude.session.link("jobs").socket.send_multipart([messages.VERSION_FRAME, b"1", b"x" * (2 << 20)])
        assert guest.ping()
    assert guest.run(shared.generate("next")).state == "done"


def test_the_front_of_the_daemon_and_the_command_import_no_torch() -> None:
    parts = (
        "__main__",
        "server",
        "launch",
        "cli.app",
        "cli.jobs",
        "cli.models",
        "cli.doctor",
        "cli.daemon",
        "cli.world",
    )
    code = f"import sys, {', '.join(f'vatt_daemon.{part}' for part in parts)}; print(*sys.modules)"
    found = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "torchvision", "transformers", "numpy", "av"} & set(found)


def test_the_client_imports_only_the_standard_library_zmq_and_msgpack() -> None:
    code = ("import sys; before = set(sys.modules); import vatt_client; "
            "new = {name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names; "
            "print(*(name for name in new if getattr(sys.modules[name], '__file__', None)))")  # fmt: skip
    found = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert {name for name in found if not name.startswith("_")} <= {"vatt_client", "zmq", "msgpack"}
