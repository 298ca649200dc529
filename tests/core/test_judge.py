from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vatt_core.errors import BadModel, BadRequest
from vatt_core.evaluation.clips import evaluation_scenes
from vatt_core.evaluation.judge import KIND_NAMES, Judge, load_judge, read_judge, save_judge
from vatt_core.evaluation.judge_training import JudgeStage, disturb, stretch_targets
from vatt_core.evaluation.sound import both_materials_heard, kinds_heard, listen, materials_heard
from vatt_core.training.data import to_int16
from vatt_core.training.loop import StageOptions, run_stage
from vatt_core.world.kinds import KINDS, LOOK_ALIKES
from vatt_core.world.scene import Scene, describe, split_seed
from vatt_core.world.sound import synthesise


@pytest.fixture(scope="module")
def single() -> list[Scene]:
    return evaluation_scenes(24, 0)["single"]


def test_the_shipped_judge_hears_true_sound(single: list[Scene]) -> None:
    waves = [synthesise(scene) for scene in single]
    heard = listen(load_judge(), single, waves)
    assert kinds_heard(single, heard).value > 0.95
    assert materials_heard(single, heard).value > 0.95


def test_the_judge_tells_the_materials_of_one_picture(single: list[Scene]) -> None:
    chosen = [scene for scene in single if scene.sources[0].kind in LOOK_ALIKES]
    wooden, metal = ([synthesise(scene.with_material(name)) for scene in chosen] for name in ("wooden", "metal"))
    assert both_materials_heard(load_judge(), chosen, wooden, metal).value > 0.8
    assert both_materials_heard(load_judge(), chosen, metal, wooden).value < 0.2
    assert both_materials_heard(load_judge(), chosen, wooden, wooden).value == 0.0


def test_the_judge_hears_kind_and_not_level(single: list[Scene]) -> None:
    loud = np.stack([synthesise(scene) for scene in single[:12]])
    judge = load_judge()
    for gain in (0.5, 1.9):
        names = [heard.likeliest()[0] for heard in judge.listen(gain * loud)]
        assert sum(name == scene.sources[0].kind for name, scene in zip(names, single, strict=False)) >= 11


def test_each_shot_and_each_of_two_things_is_heard() -> None:
    scenes = evaluation_scenes(0, 8)["double"]
    heard = listen(load_judge(), scenes, [synthesise(scene) for scene in scenes])
    assert [len(shots) for shots in heard] == [len(scene.shots) for scene in scenes]
    assert kinds_heard(scenes, heard).value > 0.8


def test_a_batch_hears_what_each_wave_alone_does(single: list[Scene]) -> None:
    waves = np.stack([synthesise(scene)[:48000] for scene in single[:3]])
    judge = load_judge()
    for together, wave in zip(judge.listen(waves), waves, strict=True):
        alone = judge.listen(wave)[0]
        assert together.likeliest() == alone.likeliest()
        np.testing.assert_allclose(list(together.kinds.values()), list(alone.kinds.values()), atol=1e-4)


@pytest.mark.parametrize("shape", [(100,), (0,), (1, 2, 16000)])
def test_what_cannot_be_judged_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest):
        load_judge().listen(np.zeros(shape, np.float32))


def test_weights_are_small_and_come_back(tmp_path: Path) -> None:
    judge = Judge().eval()
    assert sum(parameter.numel() for parameter in judge.parameters()) < 150_000
    save_judge(judge, tmp_path / "judge.safetensors")
    assert (tmp_path / "judge.safetensors").stat().st_size < 400_000
    wave = torch.rand(1, 16000, generator=torch.Generator().manual_seed(0)) - 0.5
    again = read_judge(tmp_path / "judge.safetensors")
    for mine, theirs in zip(judge(wave), again(wave), strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=0)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    with pytest.raises(BadModel):
        read_judge(path)
    path.write_bytes(b"not weights")
    with pytest.raises(BadModel):
        read_judge(path)


def test_the_judge_learns_only_from_the_training_split() -> None:
    scene = describe(split_seed("held_out", 0))
    with pytest.raises(BadRequest):
        JudgeStage(np.zeros((1, 160000), np.int16), [scene], StageOptions(steps=1, learning_rate=1e-3))


def test_targets_say_what_sounds_in_the_stretch() -> None:
    scene = describe(7, kind="drum", layout="single", material="metal")
    shot = scene.shots[0]
    first = shot.sources[0].events[0].time
    targets = stretch_targets([(shot, 0.0, 10.0), (shot, 0.0, first - 0.01)])
    column, look_alike = KIND_NAMES.index("drum"), LOOK_ALIKES.index("drum")
    assert targets.presence[:, column].tolist() == [1, 1]
    assert targets.presence_weight[:, column].tolist() == [1, 0]
    assert targets.metal[0, look_alike] == 1
    assert targets.metal_weight[:, look_alike].tolist() == [1, 0]
    assert targets.metal_weight.sum() == 1


def test_disturbing_changes_level_and_floor_but_is_repeatable() -> None:
    waves = torch.zeros(4, 16000)
    first, again = (disturb(waves, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    levels = 10 * first.square().mean(1).log10()
    assert ((levels > -82) & (levels < -37)).all()


def test_a_few_steps_of_training_lower_the_loss(tmp_path: Path) -> None:
    scenes = [describe(index, kind=kind, layout="single") for index, kind in enumerate(KINDS)]
    sounds = np.stack([to_int16(synthesise(scene)) for scene in scenes])
    stage = JudgeStage(sounds, scenes, StageOptions(steps=12, learning_rate=3e-3, warm_up_steps=2), batch=6)
    losses = []
    run_stage(stage, tmp_path, report=lambda seen: losses.append(seen.figures["loss"]), report_seconds=0)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
