"""A daemon used from other machines: who gets in, what a client from afar may see and name, uploads, takes on their way back.

A loopback address stands for the other machine; the connection file says that the daemon is remote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from vatt_client import Client, connection, errors, messages
from vatt_client.carrying import PIECE


def free_ports() -> tuple[int, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return sockets[0].getsockname()[1], sockets[1].getsockname()[1]


class Afar:
    """A daemon that listens for other machines, and the connection files of its named clients."""

    def __init__(self, home: Any, **settings: object) -> None:
        self.home = home
        self.ports = free_ports()
        values = {
            "remote.enabled": "true",
            "remote.address": "127.0.0.1",
            "remote.port": self.ports[0],
            "remote.control_port": self.ports[1],
            **settings,
        }
        home.environment |= {f"VATT_{key.replace('.', '_').upper()}": str(value) for key, value in values.items()}
        self.uploads = home.root / "home" / "data" / "uploads"
        self.results = home.root / "home" / "data" / "results"

    def add(self, name: str) -> Path:
        file = self.home.root / f"{name}.json"
        ran = self.home.vatt("clients", "add", name, "--output", str(file))
        assert ran.returncode == 0, ran.stderr
        return Path(file)

    def restart(self) -> None:
        with self.home.client() as client:
            client.shutdown()
        self.home.processes[-1].wait(20)
        self.home.start()


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


def video(folder: Path, size: int, name: str = "clip.mp4") -> Path:
    """A file of its own content; the scripted pipeline does not look inside."""
    file = folder / name
    file.write_bytes(secrets.token_bytes(size))
    return file


def announced(file: Path) -> messages.Upload:
    data = file.read_bytes()
    return messages.Upload(name=file.name, size=len(data), sha256=hashlib.sha256(data).digest())


def ask(client: Client, message: messages.Message) -> dict[str, Any]:
    from vatt_client.client import finish

    return finish(client.session.ask(message, timeout=60))


def refusal(kind: type[errors.ClientError], call: Callable[[], object]) -> errors.ClientError:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


# ---- who gets in ---------------------------------------------------------------------------------------------------


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
    refusal(errors.WrongKey, lambda: Client(connection_file=file, timeout=5.0))
    with home.client() as client:
        assert client.status().remote is None


@pytest.mark.parametrize("missing", ["address", "port", "control_port"])
def test_switching_it_on_needs_an_address_and_ports(home: Any, missing: str) -> None:
    Afar(home)
    home.environment.pop(f"VATT_REMOTE_{missing.upper()}")
    refused = home.spawn()
    assert refused.wait(20) == 2
    assert f"remote.{missing}".encode() in refused.stderr.read()


def test_a_removed_client_is_refused_and_the_other_stays(running: Afar, editor: Path) -> None:
    second = running.add("second")
    listed = json.loads(running.home.vatt("clients", "list", "--json").stdout)
    assert {client["name"] for client in listed} >= {"editor", "second"}
    assert running.home.vatt("clients", "add", "second").returncode == 2
    with Client(connection_file=editor) as first, Client(connection_file=second) as open_still:
        assert open_still.ping() and open_still.session.remote
        assert running.home.vatt("clients", "remove", "second").returncode == 0
        # What was let in before has no say any more either.
        refusal(errors.Unauthorised, open_still.ping)
        refusal(errors.WrongKey, lambda: Client(connection_file=second, timeout=5.0))
        assert first.ping()
    assert running.home.vatt("clients", "remove", "second").returncode == 3
    # The same name again is another key.
    again = running.home.root / "second-again.json"
    assert running.home.vatt("clients", "add", "second", "--output", str(again)).returncode == 0
    refusal(errors.WrongKey, lambda: Client(connection_file=second, timeout=5.0))
    with Client(connection_file=again) as client:
        assert client.ping()


def test_the_key_of_a_stranger_is_refused(running: Afar, editor: Path, tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    values = json.loads(editor.read_bytes()) | {"client_public": public.decode(), "client_secret": secret.decode()}
    file = tmp_path / "stranger.json"
    connection.write_private(file, json.dumps(values).encode())
    refusal(errors.WrongKey, lambda: Client(connection_file=file, timeout=5.0))
    with running.home.client() as own:
        assert own.ping()


def test_keys_are_private_and_a_client_whose_file_is_open_to_others_stays_out(running: Afar) -> None:
    file = running.add("careless")
    kept = running.home.root / "home" / "data" / "keys" / "clients" / "careless.json"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, kept)} == {0o600}
    secret = json.loads(file.read_bytes())["client_secret"]
    assert secret not in kept.read_text()
    kept.chmod(0o666)
    refusal(errors.WrongKey, lambda: Client(connection_file=file, timeout=5.0))
    kept.chmod(0o600)
    with Client(connection_file=file) as client:
        assert client.ping()
    file.chmod(0o644)
    refusal(errors.ForbiddenPath, lambda: Client(connection_file=file))


@pytest.mark.parametrize("name", ["../editor", "local", "", "a b", ".hidden", "x" * 65])
def test_names_of_clients_are_plain(running: Afar, name: str, tmp_path: Path) -> None:
    ran = running.home.vatt("clients", "add", name, "--output", str(tmp_path / "x.json"))
    assert ran.returncode == 2 and not (tmp_path / "x.json").exists()


# ---- what a client from afar may name and see ----------------------------------------------------------------------


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
    assert far.list() == []


def test_what_concerns_everybody_is_for_the_own_machine(running: Afar, far: Client) -> None:
    for message in (messages.Shutdown(), messages.Unload(), messages.Batch(items=({},))):
        refusal(errors.Unauthorised, lambda message=message: ask(far, message))  # type: ignore[misc]
    assert far.ping()


def test_a_client_from_afar_knows_of_its_own_jobs_only(running: Afar, far: Client, tmp_path: Path) -> None:
    with running.home.client() as own, contextlib.ExitStack() as stack:
        job = own.submit(running.home.generate("slow 1000"))
        stack.callback(own.cancel, job)
        assert own.get(job).client == "local"
        for call in (far.get, far.cancel, far.wait, lambda job: far.fetch(job, tmp_path)):
            refusal(errors.NotFound, lambda call=call: call(job))  # type: ignore[misc]
        watch = far.watch_all()
        status = far.status()
        assert status.running == [] and "log" not in status.worker
        upload = far.upload(video(tmp_path, 10))
        told = far.submit(messages.Suggest(path=upload))
        own.cancel(job)
        ended = next(found for found in watch if found.ended)
        assert ended.id == told and ended.client == "editor"
        assert [found.id for found in far.list()] == [told]
        assert {told, job} <= {found.id for found in own.list()}


# ---- uploads -------------------------------------------------------------------------------------------------------


def test_a_clip_goes_over_and_the_takes_come_back_the_same(running: Afar, far: Client, tmp_path: Path) -> None:
    clip, seen = video(tmp_path, 3 * PIECE + 17, "rain – été.mp4"), []
    reference = video(tmp_path, 40, "like this.wav")
    takes = far.generate(
        clip, output=tmp_path / "out", prompt="weigh 5000000", takes=2, seed=7, on_progress=seen.append
    ).takes
    assert [Path(take.wav).parent for take in takes] == [tmp_path / "out"] * 2
    (made,) = running.results.iterdir()
    for take in takes:
        assert Path(take.wav).read_bytes() == (made / Path(take.wav).name).read_bytes()
        assert Path(take.wav).name.startswith("rain – été")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {Path(take.wav).name for take in takes}
    sent = [step.done for step in seen if step.stage == "send"]
    assert sent == sorted(sent) and sent[-1] == clip.stat().st_size
    (kept,) = [path for path in running.uploads.glob("*/*") if path.name == clip.name]
    assert kept.read_bytes() == clip.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    # What is there is not sent again, and nothing is overwritten.
    seen.clear()
    again = far.generate(clip, output=tmp_path / "out", prompt="weigh 5000000", seed=7, on_progress=seen.append).takes
    assert [step for step in seen if step.stage == "send"] == []
    assert not {take.wav for take in again} & {take.wav for take in takes}
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert far.upload(reference).startswith("upload:")
