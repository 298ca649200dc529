"""The shipped model on a CUDA device. Run by `make test-gpu`; nothing else needs one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from vatt_core.files import fingerprint
from vatt_core.pipeline import GenerateRequest, Pipeline, SuggestRequest
from vatt_core.world.scene import describe
from vatt_core.world.write import write_clip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(describe(2_000_001, seconds=3.0), path, fps=Fraction(25), size=64)
    return path


def test_the_gpu_is_chosen_and_gives_the_same_samples_twice(clip: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load("nano")
    assert pipeline.device.type == "cuda"
    request = GenerateRequest(path=clip, output=tmp_path, prompt="a bell rings", takes=2, seed=3)
    first, second = pipeline.generate(request), pipeline.generate(request)
    for one, other in zip(first.takes, second.takes, strict=True):
        assert one.samples == 3 * 48_000
        assert fingerprint(Path(one.wav)) == fingerprint(Path(other.wav))


def test_captions_come_from_the_gpu(clip: Path) -> None:
    assert Pipeline.load("nano").suggest(SuggestRequest(path=clip, seed=1)).captions
