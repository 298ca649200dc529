"""That all tensors of a model come to its device and stay there, on a stand-in for a CUDA device (see stand_in_device.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stand_in_device import StandInDevice, TwoPlaces, stand_in
from vatt_core.evaluation.world import evaluate_world
from vatt_core.model.folder import LoadOptions
from vatt_core.pipeline import GenerateRequest, Pipeline, SuggestRequest
from vatt_core.training.nano import STAGES, Recipe, train_nano
from vatt_core.weights.fingerprint import model_files
from vatt_core.world.scene import describe
from vatt_core.world.write import write_clip

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device; see test_gpu.py")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInDevice]:
    with stand_in(monkeypatch) as one:
        yield one


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.nn.functional.linear(there, here),
        lambda there, here: here[(there > 0).nonzero()],
        lambda there, here: there.__setitem__(torch.tensor([0, 1]), here[:2]),
        lambda there, here: np.asarray(there),
        lambda there, here: there.numpy(),
        lambda there, here: torch.rand(3, device=there.device, generator=torch.Generator()),
        lambda there, here: there.multinomial(1, generator=torch.Generator()),
    ],
)
def test_what_a_device_refuses_is_refused(
    device: StandInDevice, mixed: Callable[[torch.Tensor, torch.Tensor], object]
) -> None:
    there, here = torch.rand(4, 4, device="cuda"), torch.rand(4, 4)
    with pytest.raises(TwoPlaces):
        mixed(there, here)


def test_what_a_device_does_is_done(device: StandInDevice) -> None:
    there, here = torch.rand(4, 4).cuda(), torch.rand(4, 4)
    assert there.device.type == (there * 2).device.type == (there * torch.tensor(2.0)).device.type == "cuda"
    assert here.device.type == there.cpu().device.type == there[0].to("cpu").device.type == "cpu"
    assert torch.equal(there[torch.tensor([1])].cpu(), there.cpu()[[1]])
    layer = torch.nn.Linear(4, 4).to(there.device)
    layer(there).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.is_cuda
    torch.optim.AdamW(layer.parameters()).step()
    there.copy_(here)
    there[0] = here[0]


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(memory="swap", precision="bfloat16")])
def test_captions_and_takes_are_made_on_the_device(device: StandInDevice, tmp_path: Path, options: LoadOptions) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(describe(2_000_001, seconds=3.0), clip, fps=Fraction(25), size=64)
    pipeline = Pipeline.load("nano", options=options)
    assert pipeline.device.type == "cuda"
    assert pipeline.suggest(SuggestRequest(path=clip, seed=1)).captions
    request = GenerateRequest(path=clip, output=tmp_path, prompt="a bell", negative_prompt="hiss", takes=2, seed=3)
    result = pipeline.generate(request)
    assert [take.samples for take in result.takes] == [3 * 48_000] * 2
    rows = evaluate_world(pipeline, single=1, double=1, split="validation").rows
    assert {row.group for row in rows} == {"single", "double"}


def test_nano_is_trained_on_the_device(device: StandInDevice, tmp_path: Path) -> None:
    recipe = Recipe(**dict.fromkeys((field.name for field in dataclasses.fields(Recipe)), 2))
    seen: list[str] = []
    model = train_nano(tmp_path, recipe=recipe, report=lambda progress: seen.append(progress.stage))
    assert set(seen) >= set(STAGES) - {"stretches", "sounds", "features", "ship"}
    assert len(model_files(model)) > 5
