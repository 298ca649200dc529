"""Clips on their way to a daemon on another machine: whole, private, within limits, and sent once."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from vatt_client import Client, errors, messages
from vatt_client.carrying import PIECE

from tests.daemon.afar import Afar, announced, ask, refusal, video


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
        running.home.until(partial(link.send, [messages.VERSION_FRAME, identity, messages.pack(body)]))
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
