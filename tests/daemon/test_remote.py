"""A daemon used from other machines: who gets in, what a client from afar may see and name, uploads, takes on their way back.

A loopback address stands for the other machine; the connection file says that the daemon is remote.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from vatt_client import AsyncClient, Client, connection, errors, messages
from vatt_client.asking import UNDER_WAY
from vatt_client.carrying import PIECE
from vatt_daemon.clients import NamedClients, connection_for
from vatt_daemon.keys import load_key_pair
from vatt_daemon.settings import RemoteSettings

from vatt_core.errors import BadRequest


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
        """As `vatt clients add`."""
        data = Path(self.home.environment["VATT_HOME"]) / "data"
        (data / "keys").mkdir(parents=True, exist_ok=True, mode=0o700)
        server = load_key_pair(data / "keys" / "server.secret")
        remote = RemoteSettings(True, "127.0.0.1", *self.ports)
        keys = NamedClients(data / "keys" / "clients").add(name)
        return connection.write_connection(
            connection_for(keys, server.public, remote), Path(self.home.root) / f"{name}.json"
        )

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


def test_an_upload_that_broke_off_goes_on_where_it_was(home: Any, tmp_path: Path) -> None:
    afar = Afar(home)
    home.start()
    file = afar.add("editor")
    clip = video(tmp_path, 6 * PIECE + 100)
    data, announcement = clip.read_bytes(), announced(clip)
    with Client(connection_file=file) as client:
        upload = ask(client, announcement)["upload"]
        ask(client, messages.Chunk(upload=upload, offset=0, data=data[: 2 * PIECE]))
        wrong = refusal(
            errors.BadRequest, lambda: ask(client, messages.Chunk(upload=upload, offset=3 * PIECE, data=b"later"))
        )
        assert wrong.details["offset"] == 2 * PIECE
        # What is not there as a whole cannot be named yet.
        refusal(errors.BadRequest, lambda: ask(client, messages.Finish(upload=upload)))
        refusal(errors.InputNotVisible, lambda: ask(client, messages.Suggest(path=f"upload:{upload}")))
    home.kill()
    home.start()
    seen: list[int] = []
    with Client(connection_file=file) as client:
        assert ask(client, announcement) == {
            "type": "ok", "upload": upload, "offset": 2 * PIECE, "complete": False,
        }  # fmt: skip
        reference = client.upload(clip, on_progress=lambda step: seen.append(step.done))
        assert reference == f"upload:{upload}"
        assert seen == [*range(3 * PIECE, len(data), PIECE), len(data)]
        assert client.run(messages.Suggest(path=reference)).state == "done"
    assert (afar.uploads / upload / clip.name).read_bytes() == data


def test_a_client_that_was_cut_off_finds_its_way_back_and_sends_the_rest(home: Any, tmp_path: Path) -> None:
    afar = Afar(home)
    home.start()
    file = afar.add("editor")
    clip = video(tmp_path, 40 * PIECE)
    cut: list[int] = []

    def cut_off(step: Any) -> None:
        if step.stage == "send" and not cut and step.done >= 10 * PIECE:
            cut.append(step.done)
            home.kill()
            home.start()

    with Client(connection_file=file, reconnect=60) as client:
        takes = client.generate(clip, output=tmp_path / "out", prompt=f"large {3 * PIECE}", on_progress=cut_off).takes
    (kept,) = afar.uploads.glob("*/clip.mp4")
    assert cut and kept.read_bytes() == clip.read_bytes()
    (made,) = afar.results.glob("*/*.wav")
    assert Path(takes[0].wav).read_bytes() == made.read_bytes() and made.stat().st_size > 3 * PIECE


def test_bytes_with_another_hash_are_no_upload(running: Afar, far: Client, tmp_path: Path) -> None:
    clip = video(tmp_path, 1000)
    announcement = announced(clip)
    upload = ask(far, announcement)["upload"]
    ask(far, messages.Chunk(upload=upload, offset=0, data=bytes(1000)))
    wrong = refusal(errors.BadRequest, lambda: ask(far, messages.Finish(upload=upload)))
    assert wrong.details["field"] == "sha256"
    assert not list(running.uploads.glob(f"{upload}*"))
    refusal(errors.NotFound, lambda: ask(far, messages.Finish(upload=upload)))
    assert far.upload(clip) == f"upload:{upload}"


def test_names_lead_nowhere_else(running: Afar, far: Client, tmp_path: Path) -> None:
    digest = bytes(32)
    for name in ("../clip.mp4", "/etc/passwd", "a/b", "a\\b", "..", ".", "C:x", "x\n", "é" * 150, ".part", "a\u202eb"):
        refusal(errors.BadRequest, lambda name=name: messages.Upload(name=name, size=1, sha256=digest))  # type: ignore[misc]
        body = {"type": "upload", "name": name, "size": 1, "sha256": digest}
        link = far.session.link("jobs")
        identity = link.begin()
        link.send([messages.VERSION_FRAME, identity, messages.pack(body)])
        with pytest.raises(errors.BadRequest):
            while link.take(identity) is None:
                link.receive()
    for reference in ("upload:../../keys", "upload:" + "0" * 32, "upload:", "upload:" + "../" * 10 + "x" * 2):
        refusal(errors.InputNotVisible, lambda path=reference: ask(far, messages.Suggest(path=path)))  # type: ignore[misc]
    upload = far.upload(video(tmp_path, 10))
    job = far.run(messages.Generate(path=upload, output="download:", prompt="large 1000"))
    name = job.takes().takes[0].wav
    assert "/" not in name
    secret = running.home.root / "home" / "data" / "keys" / "server.secret"
    for wrong in (str(secret), "../../keys/server.secret", f"../{job.id}/{name}", f"./{name}", "..", "nothing.wav"):
        refusal(errors.NotFound, lambda wrong=wrong: ask(far, messages.Fetch(job=job.id, name=wrong)))  # type: ignore[misc]
    # A link in the place of a file is no file of the job.
    file = running.results / job.id / name
    file.unlink()
    file.symlink_to(secret)
    refusal(errors.NotFound, lambda: ask(far, messages.Fetch(job=job.id, name=name)))


def test_of_others_a_client_gets_neither_uploads_nor_takes(running: Afar, far: Client, tmp_path: Path) -> None:
    clip = video(tmp_path, 1000)
    upload = far.upload(clip)
    job = far.run(messages.Generate(path=upload, output="download:", prompt="private"))
    other = running.home.root / "other.json"
    with Client(connection_file=other if other.exists() else running.add("other")) as second:
        identity = upload.removeprefix("upload:")
        refusal(errors.InputNotVisible, lambda: ask(second, messages.Suggest(path=upload)))
        refusal(errors.NotFound, lambda: ask(second, messages.Finish(upload=identity)))
        refusal(errors.NotFound, lambda: ask(second, messages.Chunk(upload=identity, offset=0, data=b"x")))
        refusal(errors.NotFound, lambda: second.fetch(job.id, tmp_path))
        assert second.upload(clip) != upload


def test_limits_of_uploads_are_those_of_the_settings(home: Any, tmp_path: Path) -> None:
    afar = Afar(home, **{"transfers.file_bytes": 1000, "transfers.keep_bytes": 2500})
    home.start()
    with Client(connection_file=afar.add("editor")) as client:
        first = client.upload(video(tmp_path, 900, "first.mp4"))
        refusal(errors.LimitsExceeded, lambda: client.upload(video(tmp_path, 1001)))
        upload = ask(client, announced(video(tmp_path, 900, "second.mp4")))["upload"]
        refusal(errors.BadRequest, lambda: ask(client, messages.Chunk(upload=upload, offset=0, data=bytes(901))))
        # All that is announced counts, and what was just used stays.
        refusal(errors.Busy, lambda: client.upload(video(tmp_path, 900, "third.mp4")))
        # Later the oldest makes room, but not while a job needs it.
        job = client.submit(messages.Suggest(path=first, idempotency_key="one"))
        client.wait(job)
        slow = client.submit(messages.Generate(path=first, output="download:", prompt="slow 1000"))
        age(afar.uploads, 3600)
        third = client.upload(video(tmp_path, 900, "third.mp4"))
        assert not list(afar.uploads.glob(f"{upload}*"))
        assert {path.stem for path in afar.uploads.glob("*.json")} == {
            reference.removeprefix("upload:") for reference in (first, third)
        }
        client.cancel(slow)
        client.wait(slow)


def age(folder: Path, seconds: float) -> None:
    """Make everything in a folder look as if it was used so long ago."""
    for path in folder.iterdir():
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_what_was_not_used_for_long_is_removed(home: Any, tmp_path: Path) -> None:
    afar = Afar(home)
    home.start()
    clip = video(tmp_path, 100)
    with Client(connection_file=afar.add("editor")) as client:
        old = client.upload(video(tmp_path, 100, "old.mp4"))
        job = client.run(messages.Generate(path=old, output="download:", prompt="old"))
        new = client.upload(clip)
        age(afar.results, 8 * 86_400)
        about = afar.uploads / f"{old.removeprefix('upload:')}.json"
        os.utime(about, (about.stat().st_mtime - 8 * 86_400,) * 2)
        afar.restart()
        home.until(lambda: not about.exists() and not list(afar.results.iterdir()))
    with Client(connection_file=home.root / "editor.json") as client:
        refusal(errors.InputNotVisible, lambda: ask(client, messages.Suggest(path=old)))
        refusal(errors.NotFound, lambda: client.fetch(job.id, tmp_path))
        assert client.run(messages.Suggest(path=new)).state == "done"


def test_an_earlier_take_goes_over_with_its_side_car(running: Afar, far: Client, tmp_path: Path) -> None:
    clip, sound = video(tmp_path, 10), video(tmp_path, 500, "clip-take-1.wav")
    sidecar = sound.with_suffix(".json")
    sidecar.write_text(json.dumps({"wav": sound.name}))
    named = []
    for base in (sound, sidecar):
        message = messages.Generate(path=str(clip), output=str(tmp_path / "out"), base=str(base))
        named.append(far.send_files(message).base)
    assert named[0] == named[1] and named[0] is not None
    folder = running.uploads / named[0].removeprefix("upload:")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        sound.name: sound.read_bytes(), sidecar.name: sidecar.read_bytes()
    }  # fmt: skip
    # It lies beside what was sent before, and nowhere else.
    refusal(errors.NotFound, lambda: ask(far, dataclasses.replace(announced(sidecar), beside="0" * 32)))
    sidecar.write_text(json.dumps({"wav": "../../gone.wav"}))
    refusal(errors.InputNotVisible, lambda: far.send_files(message))


# ---- takes on their way back ---------------------------------------------------------------------------------------


def test_takes_that_have_not_all_come_are_brought_later(running: Afar, far: Client, tmp_path: Path) -> None:
    job = far.run(
        messages.Generate(path=far.upload(video(tmp_path, 10)), output="download:", prompt=f"large {9 * PIECE}")
    )
    name = job.takes().takes[0].wav
    whole = (running.results / job.id / name).read_bytes()
    out = tmp_path / "out"
    part = out / f".vatt-{job.id}.part"
    part.mkdir(parents=True)
    (part / name).write_bytes(whole[: 4 * PIECE])
    (out / name).write_bytes(b"somebody else's")
    seen: list[int] = []
    brought = far.fetch(job.id, out, on_progress=lambda step: seen.append(step.done)).takes().takes[0]
    assert Path(brought.wav).read_bytes() == whole and Path(brought.wav).name != name
    assert seen[0] == 5 * PIECE and seen[-1] == len(whole)
    assert (out / name).read_bytes() == b"somebody else's" and not part.exists()


def test_who_is_interrupted_while_takes_come_is_left_with_none(far: Client, tmp_path: Path) -> None:
    def interrupt(step: Any) -> None:
        if step.stage == "fetch":
            raise KeyboardInterrupt

    clip, out = video(tmp_path, 10), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        far.generate(clip, output=out, prompt=f"large {9 * PIECE}", on_progress=interrupt)
    assert list(out.iterdir()) == []
    # They are not brought behind its back either, but can be fetched.
    job = far.list(limit=1)[0].id
    assert far.wait(job).state == "done" and list(out.iterdir()) == []
    assert Path(far.fetch(job, out).takes().takes[0].wav).exists()


def test_errors_speak_of_a_clip_by_its_own_name(running: Afar, far: Client, tmp_path: Path) -> None:
    job = far.run(messages.Generate(path=str(video(tmp_path, 1000, "no video.mp4")), output="download:", prompt="read"))
    found = refusal(errors.BadMedia, job.takes)
    assert "no video.mp4" in found.message and str(running.home.root) not in str(found.to_wire())


def test_a_folder_that_cannot_be_written_to_is_known_before_anything_is_sent(far: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = far.list()
    refusal(errors.ForbiddenPath, lambda: far.generate(video(tmp_path, 10), output=tmp_path / "file" / "out"))
    refusal(errors.InputNotVisible, lambda: far.generate(tmp_path / "none.mp4", output=tmp_path))
    assert far.list() == before


def test_the_asyncio_client_does_the_same_with_many_tasks(running: Afar, editor: Path, tmp_path: Path) -> None:
    clips = [video(tmp_path, (UNDER_WAY + number) * PIECE, f"clip-{number}.mp4") for number in range(3)]

    async def scenario() -> None:
        async with AsyncClient(connection_file=editor) as client:
            made = await asyncio.gather(
                *(
                    client.generate(clip, output=tmp_path / "out", prompt=f"large {2 * PIECE + number}", seed=number)
                    for number, clip in enumerate(clips)
                ),
                client.suggest(clips[0], count=2),
            )
            for number, found in enumerate(made[:3]):
                (take,) = found.takes  # type: ignore[union-attr]
                assert Path(take.wav).parent == tmp_path / "out" and f"clip-{number}" in take.wav
                assert len(Path(take.wav).read_bytes()) > 2 * PIECE
            async with AsyncClient(connection_file=editor) as other:
                same = video(tmp_path, 8 * PIECE, "same.mp4")
                first, second, third = await asyncio.gather(
                    client.upload(same), client.upload(same), other.upload(same)
                )
                assert first == second == third
            job = await client.submit(
                messages.Generate(path=str(clips[0]), output=str(tmp_path / "more"), prompt="waited for twice")
            )
            both = await asyncio.gather(client.wait(job), client.get(job), client.wait(job))
            assert both[0].result == both[2].result == (await client.get(job)).result
            assert len(list((tmp_path / "more").iterdir())) == 1

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_the_command_works_from_afar_as_at_home(running: Afar, editor: Path, tmp_path: Path) -> None:
    clip = video(tmp_path, 2000)
    vatt = running.home.vatt
    ran = vatt("suggest", str(clip), "--connection", str(editor), "--json")
    assert ran.returncode == 0 and len(json.loads(ran.stdout)["captions"]) == 3, ran.stderr
    ran = vatt(
        "generate", str(clip), "--prompt", "x", "--output", str(tmp_path / "out"), "--json", VATT_CONNECTION=str(editor)
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert Path(told["takes"][0]["wav"]).read_bytes().startswith(b"RIFF")
    again = vatt("fetch", told["job"], "--connection", str(editor), "--output", str(tmp_path / "again"))
    assert again.returncode == 0 and Path(again.stdout.strip()).exists(), again.stderr
    status = vatt("daemon", "status", "--json", "--connection", str(editor))
    assert json.loads(status.stdout)["remote"]["port"] == running.ports[0]
    # No daemon of one's own is started in the place of one that is not there.
    lost = vatt("suggest", str(clip), "--connection", str(tmp_path / "none.json"))
    assert lost.returncode == 7 and "starting" not in lost.stderr


# ---- with the shipped model ----------------------------------------------------------------------------------------


def test_from_afar_the_model_makes_the_same_samples_as_at_home(home: Any, tmp_path: Path) -> None:
    from vatt_core.world.write import write_world

    del home.environment["VATT_WORKER_PIPELINE"], home.environment["VATT_WORKER_SLOTS"]
    clip = tmp_path / "hammer.mp4"
    write_world(clip, seed=2_000_021, seconds=2.0, size=96)
    afar = Afar(home)
    home.start()
    values: dict[str, Any] = {"prompt": "a hammer hits wood", "takes": 2, "seed": 3, "steps": 4}
    with home.client() as own, Client(connection_file=afar.add("editor")) as client:
        here = own.generate(clip, output=tmp_path / "here", **values).takes
        there = client.generate(clip, output=tmp_path / "there", preview=True, mux=True, **values).takes
        assert client.suggest(clip, count=2, seed=1).captions == own.suggest(clip, count=2, seed=1).captions
        for first, second in zip(here, there, strict=True):
            assert Path(first.wav).read_bytes() == Path(second.wav).read_bytes()
            said, told = (json.loads(Path(take.sidecar).read_bytes()) for take in (first, second))
            assert told["clip"] == said["clip"] and told["wav"] == Path(second.wav).name
            assert told["wav_sha256"] == hashlib.sha256(Path(second.wav).read_bytes()).hexdigest()
            for more in (second.preview, second.muxed):
                assert more and Path(more).parent == tmp_path / "there" and Path(more).stat().st_size
