"""The judge: a small classifier of world sound. It says which kinds are heard in a wave, and of what material.

It learns from the true sound of the training split alone (:mod:`vatt_core.evaluation.judge_training`) and never hears
what a codec or a model made before it judges it. Its weights ship with the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt_core.errors import BadModel, BadRequest
from vatt_core.training.spectra import MelSpectrum
from vatt_core.world.kinds import KINDS, LOOK_ALIKES, MATERIALS

KIND_NAMES = tuple(KINDS)
WEIGHTS_FILE = "judge.safetensors"
SHORTEST_SECONDS = 0.5


@dataclass(frozen=True)
class Heard:
    """What is heard in one wave. kinds: probability of each kind's presence. metal: for each look-alike kind the
    probability that it is of metal (and not wooden), of meaning only where that kind is present."""

    kinds: dict[str, float]
    metal: dict[str, float]

    def likeliest(self, count: int = 1) -> tuple[str, ...]:
        """The `count` likeliest kinds, likeliest first."""
        return tuple(sorted(self.kinds, key=lambda kind: -self.kinds[kind])[:count])

    def material(self, kind: str) -> str:
        """ "metal" or "wooden", for one of the look-alike kinds."""
        return MATERIALS[1] if self.metal[kind] > 0.5 else MATERIALS[0]


class Judge(nn.Module):
    """Log-mel picture, four convolutions, mean and maximum over time. About 0.1 M parameters.

    sample_rate: of the waves that it hears; other rates are refused.
    """

    sample_rate = 16_000
    floor = 3e-4

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrum(sample_rate=self.sample_rate, window=512, hop=256, mels=64)
        channels = (24, 40, 56, 64)
        strides = ((2, 2), (2, 2), (2, 1), (2, 2))
        layers: list[nn.Module] = []
        before = 1
        for index, (width, stride) in enumerate(zip(channels, strides, strict=True)):
            kernel = 5 if index == 0 else 3
            layers += [
                nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.convolutions = nn.Sequential(*layers)
        # 64 mels are 4 after the strides; where in the spectrum something lies must stay known.
        self.per_instant = nn.Sequential(nn.Conv1d(4 * channels[-1], 96, 1), nn.ReLU())
        self.say = nn.Linear(2 * 96, len(KIND_NAMES) + len(LOOK_ALIKES))

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """wave [B, samples] -> logits of presence [B, kinds] and of metal [B, look-alike kinds]."""
        picture = (self.mel(wave).add(self.floor).log() + 5) / 3  # [B, 64, frames]
        seen = self.convolutions(picture[:, None])  # [B, C, 4, frames / 8]
        instants = self.per_instant(seen.flatten(1, 2))  # [B, 96, frames / 8]
        said = self.say(torch.cat([instants.mean(-1), instants.amax(-1)], -1))
        return said[:, : len(KIND_NAMES)], said[:, len(KIND_NAMES) :]

    @torch.inference_mode()
    def listen(self, waves: NDArray[np.float32] | Tensor) -> list[Heard]:
        """Judge waves of one length, [B, samples] or [samples] in [-1, 1]; one answer per wave.

        To judge one shot of a clip, give the samples of that shot. Raises BadRequest for waves under half a second.
        """
        batch = torch.as_tensor(waves, dtype=torch.float32)
        batch = batch[None] if batch.ndim == 1 else batch
        if batch.ndim != 2 or batch.shape[1] < SHORTEST_SECONDS * self.sample_rate:
            raise BadRequest(f"the judge needs waves [B, samples] of half a second or more, got {list(batch.shape)}")
        device = self.say.weight.device
        kinds, metal = (logits.sigmoid().cpu().tolist() for logits in self.eval()(batch.to(device)))
        return [
            Heard(dict(zip(KIND_NAMES, present, strict=True)), dict(zip(LOOK_ALIKES, hard, strict=True)))
            for present, hard in zip(kinds, metal, strict=True)
        ]


def save_judge(judge: Judge, path: Path) -> None:
    """Write the weights in half precision."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in judge.state_dict().items()
    }
    save_file(state, str(path))


def read_judge(path: Path) -> Judge:
    """A judge with the weights of a file, ready to listen. Raises BadModel when they do not fit."""
    judge = Judge()
    try:
        judge.load_state_dict(load_file(str(path)))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BadModel(f"{path} holds no weights of the judge ({error}); reinstall vatt") from error
    return judge.eval()


@lru_cache(maxsize=1)
def load_judge() -> Judge:
    """The judge that ships with the package. Raises BadModel when its weights are missing or damaged."""
    with as_file(files("vatt_core.evaluation") / WEIGHTS_FILE) as path:
        return read_judge(path)
