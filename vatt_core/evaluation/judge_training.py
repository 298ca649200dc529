"""Training of the judge, on true sound of the training split alone.

    python -m vatt_core.evaluation.judge_training FOLDER [--clips N] [--steps N]

writes the weights that ship with the package and prints what the judge hears of held-out true sound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vatt_core.errors import BadRequest
from vatt_core.evaluation.clips import evaluation_scenes
from vatt_core.evaluation.judge import KIND_NAMES, WEIGHTS_FILE, Judge, read_judge, save_judge
from vatt_core.evaluation.sound import kinds_heard, listen, materials_heard
from vatt_core.timing import Timing
from vatt_core.training.data import WorldClips
from vatt_core.training.loop import StageOptions, StageProgress, TrainingStage, run_stage
from vatt_core.world.kinds import LOOK_ALIKES, MATERIALS
from vatt_core.world.scene import Scene, Shot
from vatt_core.world.sound import synthesise

SHORTEST = 2.5
"""Shortest stretch to learn from, seconds: longer than the pauses between most events."""


@dataclass(frozen=True)
class Targets:
    """presence [B, kinds], its weight (0 where a thing is on the screen but does nothing in the stretch), and metal
    [B, look-alikes] with its weight."""

    presence: Tensor
    presence_weight: Tensor
    metal: Tensor
    metal_weight: Tensor


def stretch_targets(stretches: Sequence[tuple[Shot, float, float]]) -> Targets:
    """What the judge must say of stretches (shot, start, end in seconds) that each lie inside their shot."""
    presence = torch.zeros(len(stretches), len(KIND_NAMES))
    weight = torch.ones_like(presence)
    metal = torch.zeros(len(stretches), len(LOOK_ALIKES))
    metal_weight = torch.zeros_like(metal)
    for row, (shot, start, end) in enumerate(stretches):
        for source in shot.sources:
            column = KIND_NAMES.index(source.kind)
            sounds = bool(source.level) or any(start <= event.time <= end - 0.1 for event in source.events)
            presence[row, column] = 1
            weight[row, column] = float(sounds)
            if source.kind in LOOK_ALIKES:
                which = LOOK_ALIKES.index(source.kind)
                metal[row, which] = float(source.attributes["material"] == MATERIALS[1])
                metal_weight[row, which] = float(sounds)
    return Targets(presence, weight, metal, metal_weight)


class JudgeStage(TrainingStage):
    """Learn kinds and materials from stretches of clips. sounds: int16 [clips, samples], scenes: their descriptions.

    Raises BadRequest for scenes of another split than training.
    """

    name = "judge"

    def __init__(
        self, sounds: NDArray[np.int16], scenes: Sequence[Scene], options: StageOptions, *, batch: int = 24
    ) -> None:
        if any(scene.split != "training" for scene in scenes):
            raise BadRequest("the judge learns from the training split alone; give it only clips of that split")
        self.sounds, self.options, self.batch = sounds, options, batch
        self.shots = [(clip, shot) for clip, scene in enumerate(scenes) for shot in scene.shots]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.judge = Judge()

    def modules(self) -> dict[str, nn.Module]:
        return {"judge": self.judge}

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        seconds = SHORTEST + 5.0 * float(torch.rand((), generator=generator))
        waves, targets = self._draw(seconds, generator)
        kinds, metal = self.judge(disturb(waves, generator))
        presence = functional.binary_cross_entropy_with_logits(kinds, targets.presence, targets.presence_weight)
        material = functional.binary_cross_entropy_with_logits(metal, targets.metal, reduction="none")
        material = (material * targets.metal_weight).sum() / targets.metal_weight.sum().clamp(min=1)
        with torch.no_grad():
            right = (((kinds > 0) == (targets.presence > 0)) | (targets.presence_weight == 0)).all(1).float().mean()
            known = targets.metal_weight > 0
            followed = ((metal > 0) == (targets.metal > 0))[known].float()
        return {
            "loss": 4 * presence + 0.5 * material,
            "kinds": right,
            "material": followed.mean() if len(followed) else torch.ones(()),
        }

    def _draw(self, seconds: float, generator: torch.Generator) -> tuple[Tensor, Targets]:
        rate = self.judge.sample_rate
        samples = round(seconds * rate)
        waves: list[NDArray[np.float32]] = []
        stretches: list[tuple[Shot, float, float]] = []
        while len(waves) < self.batch:
            clip, shot = self.shots[int(torch.randint(len(self.shots), (), generator=generator))]
            room = shot.end - shot.start - seconds
            if room < 0:
                continue
            first = round((shot.start + room * float(torch.rand((), generator=generator))) * rate)
            first = min(first, self.sounds.shape[1] - samples)
            waves.append(self.sounds[clip, first : first + samples].astype(np.float32) / np.float32(32767))
            stretches.append((shot, first / rate, first / rate + seconds))
        return torch.from_numpy(np.stack(waves)), stretch_targets(stretches)


def disturb(waves: Tensor, generator: torch.Generator) -> Tensor:
    """Waves [B, samples] with a gain of ± 6 dB and a floor of noise at -80…-40 dB, so that neither the level nor the
    silence between events tells the kind."""
    count = len(waves)
    gain = 10 ** ((torch.rand(count, 1, generator=generator) * 12 - 6) / 20)
    floor = 10 ** ((torch.rand(count, 1, generator=generator) * 40 - 80) / 20)
    noise = torch.randn(waves.shape, generator=generator)
    # Half of the floors are dull, as room tone is.
    dull = functional.avg_pool1d(noise[:, None], 9, 1, 4)[:, 0] * 3
    choose = torch.rand(count, 1, generator=generator) < 0.5
    return waves * gain + floor * torch.where(choose, dull, noise)


def held_out_accuracy(judge: Judge, *, single: int = 240, double: int = 60) -> dict[str, float]:
    """What the judge hears of true sound of the held-out split, as shares."""
    figures: dict[str, float] = {}
    for group, scenes in evaluation_scenes(single, double).items():
        waves = [synthesise(scene, sample_rate=judge.sample_rate) for scene in scenes]
        heard = listen(judge, scenes, waves)
        figures[f"{group}: kinds"] = kinds_heard(scenes, heard).value
        figures[f"{group}: material"] = materials_heard(scenes, heard).value
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the judge of the evaluation on true world sound.")
    parser.add_argument("folder", type=Path, help="where sounds and checkpoints are kept")
    parser.add_argument("--clips", type=int, default=2600)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / WEIGHTS_FILE)
    chosen = parser.parse_args(arguments)

    clips = WorldClips(chosen.folder, "training", chosen.clips, Timing())
    clips.write_sounds()
    options = StageOptions(steps=chosen.steps, learning_rate=3e-3, ema_decay=0.99, weight_decay=1e-3)
    stage = JudgeStage(clips.sounds, clips.scenes, options)

    def show(progress: StageProgress) -> None:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in progress.figures.items())
        print(f"{progress.step}/{progress.steps}  {figures}  {progress.eta:.0f} s left", file=sys.stderr, flush=True)

    run_stage(stage, chosen.folder, report=show, report_seconds=15)
    save_judge(stage.judge, chosen.output)
    for name, value in held_out_accuracy(read_judge(chosen.output)).items():
        print(f"{name}: {100 * value:.1f} %")


if __name__ == "__main__":
    main()
