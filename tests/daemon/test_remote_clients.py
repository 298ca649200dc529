"""Who gets in from other machines, and what a client from afar may name and see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import zmq
from vatt_client import AsyncClient, Client, connection, errors, messages
from vatt_daemon.clients import NamedClients

from tests.daemon.afar import Afar, ask, refusal, video
from vatt_core.errors import BadRequest


def test_nobody_is_listened_to_and_no_client_let_in_until_it_is_switched_on(home: Any) -> None:
    afar = Afar(home)
    file = afar.add("early")  # a client may be added first
    home.environment["VATT_REMOTE_ENABLED"] = "false"
    home.start()
    for port in afar.ports:
        with socket.socket() as stranger:
            assert stranger.connect_ex(("127.0.0.1", port)) != 0
    refusal(errors.DaemonNotRunning, lambda: Client(connection_file=file, timeout=1.0))
    own = connection.read_connection(home.file)
    assert not own.remote
    # Nor on the addresses of the user's own programs.
    found = json.loads(file.read_bytes()) | {"jobs": own.jobs, "control": own.control}
    connection.write_private(file, json.dumps(found).encode())
    refusal(errors.WrongKey, lambda: Client(connection_file=file))
    with home.client() as client:
        assert client.status().remote is None


@pytest.mark.parametrize("missing", ["address", "port", "control_port"])
def test_switching_it_on_needs_an_address_and_ports(home: Any, missing: str) -> None:
    Afar(home)
    home.environment.pop(f"VATT_REMOTE_{missing.upper()}")
    refused = home.spawn()
    assert refused.wait(60) == 2
    assert f"remote.{missing}".encode() in refused.stderr.read()


def test_a_removed_client_is_refused_and_the_other_stays(running: Afar, editor: Path) -> None:
    second = running.home.root / "second.json"
    ran = running.home.vatt("clients", "add", "second", "--output", str(second))
    assert ran.returncode == 0 and ran.stdout.strip() == str(second), ran.stderr
    listed = json.loads(running.home.vatt("clients", "list", "--json").stdout)
    assert {client["name"] for client in listed} >= {"editor", "second"}
    assert running.home.vatt("clients", "add", "second").returncode == 2
    with Client(connection_file=editor) as first, Client(connection_file=second) as open_still:
        assert open_still.ping() and open_still.session.remote
        assert running.home.vatt("clients", "remove", "second").returncode == 0
        # What was let in before has no say any more either.
        refusal(errors.Unauthorised, open_still.ping)
        refusal(errors.WrongKey, lambda: Client(connection_file=second))
        assert first.ping()
    assert running.home.vatt("clients", "remove", "second").returncode == 3
    # The same name again is another key.
    again = running.home.root / "second-again.json"
    assert running.home.vatt("clients", "add", "second", "--output", str(again)).returncode == 0
    refusal(errors.WrongKey, lambda: Client(connection_file=second))
    with Client(connection_file=again) as client:
        assert client.ping()


def test_the_key_of_a_stranger_is_refused(running: Afar, editor: Path, tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    values = json.loads(editor.read_bytes()) | {"client_public": public.decode(), "client_secret": secret.decode()}
    file = tmp_path / "stranger.json"
    connection.write_private(file, json.dumps(values).encode())
    refusal(errors.WrongKey, lambda: Client(connection_file=file))
    with running.home.client() as own:
        assert own.ping()


def test_keys_are_private_and_a_client_whose_file_is_open_to_others_stays_out(running: Afar) -> None:
    file = running.add("careless")
    kept = running.home.root / "home" / "data" / "keys" / "clients" / "careless.json"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, kept)} == {0o600}
    secret = json.loads(file.read_bytes())["client_secret"]
    assert secret not in kept.read_text()
    kept.chmod(0o666)
    refusal(errors.WrongKey, lambda: Client(connection_file=file))
    kept.chmod(0o600)
    with Client(connection_file=file) as client:
        assert client.ping()
    file.chmod(0o644)
    refusal(errors.ForbiddenPath, lambda: Client(connection_file=file))


@pytest.mark.parametrize("name", ["../editor", "local", "", "a b", ".hidden", "x" * 65, "a/b", "a\n"])
def test_names_of_clients_are_plain(name: str, tmp_path: Path) -> None:
    named = NamedClients(tmp_path / "clients")
    with pytest.raises(BadRequest):
        named.add(name)
    assert named.all() == [] and not (tmp_path / "editor.json").exists()


def test_doctor_says_who_is_listened_to(running: Afar, editor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vatt_daemon.cli import doctor

    for key, value in running.home.environment.items():
        if key.startswith("VATT_"):
            monkeypatch.setenv(key, value)
    assert [check.state for check in doctor._remote()] == ["ok"]
    monkeypatch.setenv("VATT_REMOTE_PORT", "1")  # as if the settings had changed since the daemon's start
    assert [check.state for check in doctor._remote()] == ["problem"]
    monkeypatch.setenv("VATT_REMOTE_ENABLED", "false")
    assert [check.state for check in doctor._remote()] == ["problem"]
    monkeypatch.setenv("VATT_REMOTE_ENABLED", "true")
    monkeypatch.setenv("VATT_REMOTE_PORT", str(running.ports[0]))
    kept = running.home.root / "home" / "data" / "keys" / "clients" / "editor.json"
    kept.chmod(0o644)
    assert [check.state for check in doctor._remote()] == ["problem", "ok"]
    kept.chmod(0o600)
    assert [check.state for check in doctor._remote()] == ["ok"]


def test_a_client_from_afar_names_no_paths_of_the_daemon(running: Afar, far: Client, tmp_path: Path) -> None:
    clip, out = str(running.home.clip), str(running.home.output)
    upload = far.upload(video(tmp_path, 100))
    for message in (
        messages.Suggest(path=clip),
        messages.Generate(path=clip, output="download:"),
        messages.Generate(path=upload, output=out),
        messages.Generate(path=upload, output="download:", base=clip),
        messages.Generate(path=upload, output="download:", reference=clip),
    ):
        refusal(errors.ForbiddenPath, lambda message=message: ask(far, message))  # type: ignore[misc]
    # Also in one group with the user's own, to whom the path belongs.
    with running.home.client() as own:
        assert own.run(messages.Suggest(path=clip)).state == "done"
    refusal(errors.ForbiddenPath, lambda: ask(far, messages.Suggest(path=clip)))
    assert not any(found.kind == "generate" for found in far.list())


def test_what_concerns_everybody_is_for_the_own_machine(running: Afar, far: Client) -> None:
    for message in (messages.Shutdown(), messages.Unload(), messages.Batch(items=({},))):
        refusal(errors.Unauthorised, lambda message=message: ask(far, message))  # type: ignore[misc]
    assert far.ping()


def test_a_client_from_afar_knows_of_its_own_jobs_only(
    running: Afar, editor: Path, far: Client, tmp_path: Path
) -> None:
    clip = video(tmp_path, 10)

    async def scenario(own: Client, job: str) -> None:
        async with (
            AsyncClient(connection_file=editor) as client,
            contextlib.aclosing(client.watch_all()) as watch,
        ):
            heard = asyncio.ensure_future(anext(watch))
            await client.ping()
            told = await client.submit(messages.Suggest(path=str(clip)))
            own.cancel(job)  # an event that is none of its business
            states = [await heard]
            while not states[-1].ended:
                states.append(await anext(watch))
            assert {(found.id, found.client) for found in states} == {(told, "editor")}
            assert [found.id for found in await client.list(limit=1)] == [told]
            assert {found.client for found in await client.list()} == {"editor"}
            assert {told, job} <= {found.id for found in own.list()}

    with running.home.client() as own:
        job = own.submit(running.home.generate("slow 1000"))
        assert own.get(job).client == "local"
        running.home.until(lambda: own.get(job).state == "running")
        for call in (far.get, far.cancel, far.wait, lambda job: far.fetch(job, tmp_path)):
            refusal(errors.NotFound, lambda call=call: call(job))  # type: ignore[misc]
        status = far.status()
        assert status.running == [] and "log" not in status.worker and own.status().running == [job]
        asyncio.run(asyncio.wait_for(scenario(own, job), 120))
