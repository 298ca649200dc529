"""The whole way with the shipped model: daemon, worker, clip, captions, soundtrack, and its cancellation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vatt_client import errors, messages

from vatt_core.media.waves import read_wave


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
