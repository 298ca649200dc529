"""A clip that was worked on before costs neither decoding nor the picture's nor the language's model, and never lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from vatt_daemon.shared import GenerateRequest, SharedPipeline, SuggestRequest

from vatt_core import pipeline as core
from vatt_core import seeing
from vatt_core.cache import Cache
from vatt_core.model.converter import Converter
from vatt_core.model.folder import LoadedModel
from vatt_core.world.write import write_world


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    files = [folder / f"{number}.mp4" for number in range(2)]
    for number, file in enumerate(files):
        write_world(file, seed=2_000_021 + number, seconds=1.0, size=64)
    # An empty box at the end makes both of the same size.
    size = max(file.stat().st_size for file in files) + 8
    for file in files:
        room = size - file.stat().st_size
        file.write_bytes(file.read_bytes() + room.to_bytes(4, "big") + b"free" + bytes(room - 8))
    return folder


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return SharedPipeline.load("nano", device="cpu").model


def fresh(model: LoadedModel, folder: Path) -> SharedPipeline:
    """A pipeline as in a worker that has just started."""
    made = SharedPipeline(model, "nano")
    made.remember(Cache(folder, limit=64 << 20))
    return made


class Worked(Exception):
    """Something was computed that need not be."""


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on decoding, looking, captions and states raise Worked."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise Worked

    monkeypatch.setattr(seeing, "read_frames", refuse)
    monkeypatch.setattr(seeing, "watch", refuse)
    monkeypatch.setattr(core.Pipeline, "look", refuse)
    monkeypatch.setattr(Converter, "generate_captions", refuse)
    monkeypatch.setattr(Converter, "encode_all_states", refuse)


def test_a_second_take_of_a_clip_is_the_same_and_computes_only_the_sound(
    clips: Path, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy2(clips / "0.mp4", clip)
    first = fresh(model, tmp_path / "cache")
    told = first.suggest(SuggestRequest(path=clip, seed=1, count=1))
    ask = {"path": clip, "seed": 1, "steps": 1, "rank": False}
    made = first.generate(GenerateRequest(output=tmp_path / "a", **ask))
    second = fresh(model, tmp_path / "cache")
    forbid_work(monkeypatch)
    assert second.suggest(SuggestRequest(path=clip, seed=1, count=1)).captions == told.captions
    again = second.generate(GenerateRequest(output=tmp_path / "b", **ask))
    for one, other in zip(made.takes, again.takes, strict=True):
        assert Path(one.wav).read_bytes() == Path(other.wav).read_bytes()

    # Another clip under the same name, its size and times made equal, in a worker that knows and in one that does not.
    times = clip.stat()
    clip.write_bytes((clips / "1.mp4").read_bytes())
    assert clip.stat().st_size == times.st_size
    os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
    for worker in (second, fresh(model, tmp_path / "cache")):
        with pytest.raises(Worked):
            worker.suggest(SuggestRequest(path=clip, seed=1, count=1))
    shutil.copy2(clips / "0.mp4", clip)  # and back: what was kept counts again
    assert second.suggest(SuggestRequest(path=clip, seed=1, count=1)).captions == told.captions
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(Worked):
        fresh(model, tmp_path / "cache").suggest(SuggestRequest(path=clip, seed=1, count=1))


def test_what_comes_from_the_cache_lies_in_memory_like_what_was_just_computed(
    model: LoadedModel, tmp_path: Path
) -> None:
    """Matrix products round by where their operands begin: one bit of difference would make another take now and then."""
    worker, cache = fresh(model, tmp_path / "cache"), Cache(tmp_path / "cache", limit=64 << 20)
    for rows in range(1, 60):
        values = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
        cache.put(f"{rows:064x}", save({"features": values}))
        found = worker._tensors(f"{rows:064x}")
        assert found is not None and torch.equal(found["features"], values)
        assert found["features"].data_ptr() % 64 == 0
