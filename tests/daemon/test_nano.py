"""The whole way with the shipped model: daemon, worker, clip, captions, soundtrack, and its cancellation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from vatt_client import errors, messages

from tests.core.numbered_clips import number_picture, write_clip
from vatt_core.evaluation.onsets import f1, match_onsets
from vatt_core.media.waves import read_wave, write_wave


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vatt_core.world.write import write_world

    file = tmp_path_factory.mktemp("world") / "clip.mp4"
    write_world(file, seed=2_000_021, seconds=3.0, size=96)
    return file


@pytest.fixture
def nano(home: Any) -> Any:
    del home.environment["VATT_WORKER_PIPELINE"], home.environment["VATT_WORKER_SLOTS"]
    home.start()
    return home


def test_captions_takes_errors_and_cancellation_through_the_daemon(nano: Any, clip: Path) -> None:
    with nano.client() as client:
        captions = client.suggest(clip, count=2, seed=1).captions
        assert captions and all(caption.text.strip() for caption in captions)
        stages: list[str] = []
        made = client.generate(clip, output=nano.output, prompt=captions[0].text, takes=2, seed=3, preview=True,
                               on_progress=lambda progress: stages.append(progress.stage))  # fmt: skip
        assert len(made.takes) == 2 and made.takes[0].wav != made.takes[1].wav
        assert len(set(stages)) > 2
        for take in made.takes:
            assert read_wave(take.wav, sample_rate=48_000).shape[-1] == take.samples == 3 * 48_000
            assert json.loads(Path(take.sidecar).read_text())["request"]["prompt"] == captions[0].text
            assert take.preview and Path(take.preview).is_file() and take.muxed and Path(take.muxed).is_file()
        again = client.generate(clip, output=nano.output / "again", prompt=captions[0].text, takes=2, seed=3)
        for first, second in zip(made.takes, again.takes, strict=True):
            assert Path(first.wav).read_bytes() == Path(second.wav).read_bytes()

        with pytest.raises(errors.BadMedia):
            client.suggest(nano.clip)
        with pytest.raises(errors.BadRequest):
            client.suggest(clip, start=100, end=101)

        before = sorted(nano.output.rglob("*"))
        long = messages.Generate(path=str(clip), output=str(nano.output), prompt="rain", takes=16, steps=200)
        job = client.submit(long)
        ended = client.wait(job, on_progress=lambda progress: client.cancel(job))
        assert ended.state == "cancelled"
        assert sorted(nano.output.rglob("*")) == before


def test_what_is_no_clip_is_one_sentence_and_leaves_nothing(nano: Any, clip: Path) -> None:
    folder = nano.root
    Image.fromarray(number_picture(5)).save(folder / "picture.png")
    write_wave(folder / "sound.wav", np.zeros(4_000), sample_rate=8_000)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8_000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8_000, 0
        container.mux([*stream.encode(frame), *stream.encode()])
    with av.open(str(folder / "frameless.mp4"), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    whole = write_clip(folder / "whole.mp4", frames=60).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "words.mp4").write_bytes(b"no video " * 99)
    for arguments, code in (
        (("picture.png",), 4),
        (("sound.wav",), 4),
        (("sound.mp4",), 4),
        (("frameless.mp4",), 4),
        (("cut.mp4",), 4),
        (("words.mp4",), 4),
        ((str(clip), "--in", "100", "--out", "101"), 2),
        ((str(clip), "--model", "nosuch"), 2),
    ):
        for command in (("generate", "--prompt", "rain", "--output", "made"), ("suggest",)):
            ran = nano.vatt(command[0], *arguments, *command[1:])
            assert ran.returncode != 0 and ran.stdout == "", arguments
            assert ran.returncode == code or "nosuch" in arguments, (arguments, ran.stderr)
            said = [line for line in ran.stderr.splitlines() if line.endswith(".")]
            assert len(said) == 1 and "Traceback" not in ran.stderr, (arguments, ran.stderr)
            assert not (folder / "made").exists() or not any((folder / "made").iterdir())


def test_the_demonstration_shows_the_main_job(home: Any) -> None:
    del home.environment["VATT_WORKER_PIPELINE"], home.environment["VATT_WORKER_SLOTS"]
    ran = home.vatt("demo", "--output", "shown")
    assert ran.returncode == 0, ran.stderr
    shown = home.root / "shown"
    found = json.loads((shown / "demo.json").read_text())
    captions = [line.split(maxsplit=2)[1:] for line in ran.stdout.splitlines() if line.startswith("caption ")]
    assert len({text for _, text in captions}) == 3 and all(float(score) > 0 for score, _ in captions)
    assert [take["caption"] for take in found["takes"][:2]] == [captions[0][1]] * 2
    prompted = found["takes"][2]["caption"]
    assert prompted != captions[0][1] and ("wooden" in prompted) != ("metal" in prompted)
    for take in found["takes"]:
        assert all(
            Path(take[name]).parent == shown and Path(take[name]).is_file()
            for name in ("wav", "sidecar", "preview", "muxed")
        )
        assert read_wave(take["wav"], sample_rate=48_000).shape[-1] == take["samples"] == 10 * 48_000
        assert Path(take["wav"]).name in ran.stdout
        # The shipped weights follow what happens in the clip; chance is 0.25.
        assert f1([match_onsets(take["onsets"], found["events"])]) > 0.6
    assert all(seconds for seconds in found["seconds"].values())
    again = home.vatt("demo", "--output", "shown", "--kind", "rain")
    assert again.returncode == 2 and len(again.stderr.splitlines()) == 1
    assert (shown / "demo.json").is_file()
