"""Guidance over the steps, the likelihood of codes, a reference sound, presets and the nudge, on nano."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vatt_core.earlier import unpack_codes
from vatt_core.errors import BadRequest
from vatt_core.media.waves import write_wave
from vatt_core.model.choosing import CodebookSettings, DecodingOptions
from vatt_core.pipeline import GenerateRequest, Pipeline
from vatt_core.sidecar import read_sidecar
from vatt_core.world.scene import describe
from vatt_core.world.sound import synthesise
from vatt_core.world.write import write_clip

QUICK: dict[str, Any] = {"steps": 1, "guidance_scale": 1.0, "prompt": "a bell rings"}


def test_guidance_rises_or_falls_around_the_same_mean() -> None:
    settings = CodebookSettings.of(DecodingOptions(guidance_scale=5.0), torch.zeros(4, 8, 2))
    rising = [float(settings.guidance_at("rising", step, 9)[0]) for step in range(9)]
    assert rising == sorted(rising) and rising[0] == 1.0 and rising[-1] == 9.0
    assert sum(rising) / 9 == 5.0 and rising[::-1] == [
        float(settings.guidance_at("falling", step, 9)[0]) for step in range(9)
    ]
    assert float(settings.guidance_at("constant", 3, 9)[0]) == float(settings.guidance_at("rising", 0, 1)[0]) == 5.0


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("nano", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(describe(2_000_041, kind="bell", layout="single", seconds=2.0), path, fps=Fraction(24), size=64)
    return path


def test_real_sound_is_likelier_than_noise_in_codes(pipeline: Pipeline) -> None:
    scene = describe(2_000_041, kind="bell", layout="single")
    timing = pipeline.timing
    codes = pipeline.encode(synthesise(scene, sample_rate=timing.sample_rate))[:, : timing.code_frames]
    other = codes[:, torch.randperm(codes.shape[1], generator=torch.Generator().manual_seed(0))]
    features = torch.zeros(2, timing.frames, pipeline.config.vision.feature_dim)
    own, mixed = pipeline.likelihood(features, [scene.caption] * 2, torch.stack([codes, other]))
    assert mixed < own < 0
    # What is not decided is not scored.
    half = codes.clone()
    half[:, 250:] = timing.mask
    (part,) = pipeline.likelihood(features[:1], [scene.caption], half[None])
    assert np.isfinite(part) and part != own


def test_a_reference_changes_the_take_and_stays_outside_of_it(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    rain = synthesise(describe(2_000_042, kind="rain", layout="single", seconds=4.0), sample_rate=16_000)
    reference = write_wave(tmp_path / "rain.wav", rain, sample_rate=16_000)
    wavs = []
    for options in ({}, {"reference": reference}):
        request = GenerateRequest(clip, output=tmp_path / "out", seed=1, **QUICK, **options)
        take = pipeline.generate(request).takes[0]
        assert take.samples == 2 * 48_000
        wavs.append(Path(take.wav).read_bytes())
        assert read_sidecar(Path(take.sidecar))["request"]["reference"] == (str(reference) if options else None)
    assert wavs[0] != wavs[1]
    brief = write_wave(tmp_path / "brief.wav", rain[:1_000], sample_rate=16_000)
    with pytest.raises(BadRequest):
        pipeline.generate(GenerateRequest(clip, output=tmp_path / "out", reference=brief, **QUICK))


def test_a_preset_takes_fewer_steps_and_what_is_given_wins(pipeline: Pipeline, clip: Path) -> None:
    def steps(**options: Any) -> int:
        return pipeline._steps(pipeline._options(GenerateRequest(clip, **options)))

    assert 1 <= steps(preset="draft") < steps(preset="final") == steps()
    assert steps(preset="draft", steps=20) == steps(steps=20)
    with pytest.raises(BadRequest):
        GenerateRequest(clip, preset="best")


def test_a_nudge_never_lowers_the_agreement(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        plain, nudged = (
            pipeline.generate(GenerateRequest(clip, output=tmp_path, seed=seed, nudge=nudge, **QUICK)).takes[0]
            for nudge in (False, True)
        )
        before, after, by = plain.scores["agreement"], nudged.scores["agreement"], nudged.scores["nudge"]
        assert before is not None and after is not None and by is not None
        assert after >= before and abs(by) <= 0.5
        if by == 0:
            assert Path(plain.wav).read_bytes() == Path(nudged.wav).read_bytes()


def test_a_nudged_loop_is_turned_as_a_whole(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    request = GenerateRequest(clip, output=tmp_path, seed=1, takes=4, loop=True, rank=False, **QUICK)
    plain, nudged = (pipeline.generate(dataclasses.replace(request, nudge=nudge)).takes for nudge in (False, True))
    moved = 0
    for before, after in zip(plain, nudged, strict=True):
        by = round((after.scores["nudge"] or 0.0) * pipeline.timing.code_rate)
        codes = [unpack_codes(read_sidecar(Path(take.sidecar))["codes"], pipeline.timing) for take in (before, after)]
        assert codes[0] is not None and codes[1] is not None
        assert np.array_equal(codes[1], np.roll(codes[0], by, axis=1))
        assert (after.scores["agreement"] or 0.0) >= (before.scores["agreement"] or 0.0)
        moved += by != 0
    assert moved


def test_each_shot_has_its_own_words(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    write_clip(describe(2_000_043, layout="two_scenes", seconds=4.0), path, fps=Fraction(24), size=64)
    quick = {"steps": 1, "guidance_scale": 1.0, "seed": 1, "output": tmp_path / "out"}
    result = pipeline.generate(GenerateRequest(path, prompts=("rain", "a bell"), **quick))
    assert len(result.cuts) == 1 and result.caption == "rain, then a bell"
    said = read_sidecar(Path(result.takes[0].sidecar))["request"]
    assert said["prompts"] == ["rain", "a bell"] and said["prompt"] is None and len(said["cuts"]) == 1
    # The other shot's words do not reach this one: its codes are the same whatever they are.
    other = pipeline.generate(GenerateRequest(path, prompts=("rain", "fire"), **quick))
    found = [unpack_codes(read_sidecar(Path(r.takes[0].sidecar))["codes"], pipeline.timing) for r in (result, other)]
    assert found[0] is not None and found[1] is not None
    border = -int(-result.cuts[0] * pipeline.timing.code_rate // 1)
    assert np.array_equal(found[0][:, : border - 1], found[1][:, : border - 1])
    assert not np.array_equal(found[0][:, border:], found[1][:, border:])
    assert pipeline.generate(GenerateRequest(path, cuts=(), prompt="rain", **quick)).cuts == ()
    with pytest.raises(BadRequest):
        pipeline.generate(GenerateRequest(path, prompts=("one", "two", "three"), **quick))
