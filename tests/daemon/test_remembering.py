"""A clip that was worked on before costs neither decoding nor the picture's nor the language's model, and never lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from vatt_daemon.shared import GenerateRequest, SharedPipeline, SuggestRequest

from vatt_core import pipeline as core
from vatt_core.cache import Cache
from vatt_core.model.converter import Converter
from vatt_core.world.write import write_world


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(2):
        write_world(folder / f"{number}.mp4", seed=2_000_021 + number, seconds=1.0, size=64)
    return folder


def fresh(folder: Path) -> SharedPipeline:
    """A pipeline as in a worker that has just started."""
    made = SharedPipeline.load("nano", device="cpu")
    made.remember(Cache(folder, limit=64 << 20))
    return made


class Worked(Exception):
    """Something was computed that need not be."""


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def refuse(*_: Any, **__: Any) -> Any:
        raise Worked

    monkeypatch.setattr(core, "read_frames", refuse)
    monkeypatch.setattr(core, "watch", refuse)
    monkeypatch.setattr(core.Pipeline, "look", refuse)
    monkeypatch.setattr(Converter, "generate_captions", refuse)
    monkeypatch.setattr(Converter, "encode_all_states", refuse)
    return monkeypatch


def test_a_second_take_of_a_clip_is_the_same_and_computes_only_the_sound(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy2(clips / "0.mp4", clip)
    first = fresh(tmp_path / "cache")
    told = first.suggest(SuggestRequest(path=clip, seed=1, count=1))
    ask = {"path": clip, "seed": 1, "steps": 1, "rank": False}
    made = first.generate(GenerateRequest(output=tmp_path / "a", **ask))
    second = fresh(tmp_path / "cache")
    with monkeypatch.context():
        request.getfixturevalue("forbidden")
        assert second.suggest(SuggestRequest(path=clip, seed=1, count=1)).captions == told.captions
        again = second.generate(GenerateRequest(output=tmp_path / "b", **ask))
        for one, other in zip(made.takes, again.takes, strict=True):
            assert Path(one.wav).read_bytes() == Path(other.wav).read_bytes()
        # Another clip under the same name, its size and times made equal, in a worker that knows and in one that does not.
        times, size = clip.stat(), clip.stat().st_size
        other = (clips / "1.mp4").read_bytes()
        clip.write_bytes((other + bytes(max(0, size - len(other))))[: max(size, len(other))])
        os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
        for worker in (second, fresh(tmp_path / "cache")):
            with pytest.raises(Worked):
                worker.suggest(SuggestRequest(path=clip, seed=1, count=1))
        shutil.copy2(clips / "0.mp4", clip)  # and back: what was kept counts again
        assert second.suggest(SuggestRequest(path=clip, seed=1, count=1)).captions == told.captions
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(Worked):
            fresh(tmp_path / "cache").suggest(SuggestRequest(path=clip, seed=1, count=1))
