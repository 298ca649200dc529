"""Takes on their way back from a daemon on another machine, and the whole way with both clients and the command."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from vatt_client import AsyncClient, Client, errors, messages
from vatt_client.asking import UNDER_WAY
from vatt_client.carrying import PIECE

from tests.daemon.afar import Afar, refusal, video


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
