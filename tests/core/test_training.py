"""Training: the loop's resumption, the codec's quantiser and distances, the texts."""

from __future__ import annotations

import dataclasses
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.core.small_files import small_files
from vatt_core.errors import BadModel, DiskFull
from vatt_core.timing import Timing
from vatt_core.training import data
from vatt_core.training.data import Rows, WorldClips, event_targets, frames_of, stretch, stretch_frames
from vatt_core.training.loop import StageOptions, StageProgress, TrainingStage, run_stage
from vatt_core.training.quantizer import ResidualQuantizer
from vatt_core.training.schedule import cosine_factor
from vatt_core.training.spectra import MelSpectrum, MultiScaleMel, mel_filters
from vatt_core.training.texts import WORDS, caption, prompt, words_of
from vatt_core.training.vision import scene_targets, stretch_targets
from vatt_core.world.kinds import KINDS, MATERIALS, read_caption
from vatt_core.world.scene import Scene, describe, split_seed
from vatt_core.world.sound import synthesise

# ---- the loop ------------------------------------------------------------------------------------------------------


class LineStage(TrainingStage):
    """Fits a line; stops with Ctrl-C before `stop_at`; its loss is no number from `broken_at` on."""

    name = "line"

    def __init__(
        self, *, width: int = 4, ema_decay: float | None = 0.9, stop_at: int = -1, broken_at: int = 99
    ) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(width, 1)
        self.options = StageOptions(steps=12, learning_rate=0.05, warm_up_steps=3, ema_decay=ema_decay, seed=5)
        self.stop_at, self.broken_at, self.ran = stop_at, broken_at, 0

    def modules(self) -> dict[str, nn.Module]:
        return {"layer": self.layer}

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.ran += 1
        points = torch.randn(16, self.layer.in_features, generator=generator)
        loss = (self.layer(points)[:, 0] - points.sum(1)).square().mean()
        return {"loss": loss * (math.nan if step >= self.broken_at else 1.0), "figure": loss.detach()}


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(tmp_path: Path, ema_decay: float | None) -> None:
    whole = LineStage(ema_decay=ema_decay)
    run_stage(whole, tmp_path / "whole")
    for stop_at in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            run_stage(LineStage(ema_decay=ema_decay, stop_at=stop_at), tmp_path / "parts", checkpoint_seconds=0)
    resumed = LineStage(ema_decay=ema_decay)
    reports: list[StageProgress] = []
    run_stage(resumed, tmp_path / "parts", report=reports.append, report_seconds=0)
    assert resumed.ran == 3
    for mine, theirs in zip(resumed.layer.parameters(), whole.layer.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [report.step for report in reports] == [10, 11, 12]
    assert all({"loss", "figure"} <= report.figures.keys() for report in reports)

    done = LineStage(ema_decay=ema_decay)
    run_stage(done, tmp_path / "parts")
    assert done.ran == 0 and torch.equal(done.layer.weight, whole.layer.weight)
    assert not done.layer.training


def test_a_finished_stage_that_is_given_more_steps_goes_on_from_its_average(tmp_path: Path) -> None:
    finished = LineStage()
    run_stage(finished, tmp_path)
    longer = LineStage()
    longer.options = dataclasses.replace(longer.options, steps=13, learning_rate=0.0)
    run_stage(longer, tmp_path)
    assert longer.ran == 1
    assert torch.equal(longer.layer.weight, finished.layer.weight)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run_stage(LineStage(), tmp_path)
    with pytest.raises(BadModel):
        run_stage(LineStage(width=5), tmp_path)


def test_the_options_decide_schedule_and_clipping(tmp_path: Path) -> None:
    found = []
    for number, changes in enumerate(({}, {"schedule": "linear"}, {"clip_norm": 0.01}, {"clip_norm": None})):
        stage = LineStage(ema_decay=None)
        stage.options = dataclasses.replace(stage.options, **changes)
        run_stage(stage, tmp_path / str(number))
        found.append(stage.layer.weight.detach().clone())
    for number, weight in enumerate(found):
        assert not any(torch.equal(weight, other) for other in found[:number])


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path) -> None:
    with pytest.raises(BadModel):
        run_stage(LineStage(broken_at=6), tmp_path, report_seconds=0)


def test_the_learning_rate_warms_up_and_falls() -> None:
    factors = [cosine_factor(step, warm_up_steps=10, total_steps=100, lowest=0.02) for step in range(101)]
    assert factors[:10] == sorted(factors[:10]) and max(factors) <= 1.0 + 1e-6
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.02)


# ---- codec ---------------------------------------------------------------------------------------------------------


def clusters(count: int, *, generator: torch.Generator, centres: int = 16, dim: int = 8) -> Tensor:
    """Points close to `centres` fixed places, [count, dim]."""
    places = torch.randn(centres, dim, generator=torch.Generator().manual_seed(1)) * 3
    chosen = torch.randint(centres, (count,), generator=generator)
    return places[chosen] + 0.05 * torch.randn(count, dim, generator=generator)


def rebuilt(quantizer: ResidualQuantizer, vectors: Tensor, levels: int) -> Tensor:
    codes = quantizer.codes(vectors)
    return sum((quantizer.embed[level][codes[:, level]] for level in range(levels)), torch.zeros_like(vectors))


def test_the_quantizer_learns_clustered_data_and_every_level_adds() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = ResidualQuantizer(3, 32, 8)
    vectors = clusters(1000, generator=generator)
    quantizer.start(vectors, generator)
    assert bool(quantizer.ready)
    errors = [float((rebuilt(quantizer, vectors, levels) - vectors).square().mean()) for levels in (0, 1, 2, 3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.2 * errors[0] and errors[3] < 0.02 * errors[0]


def test_the_quantizer_follows_its_data_and_revives_dead_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = ResidualQuantizer(1, 16, 8, decay=0.8).train()
    quantizer.start(clusters(500, generator=generator), generator)
    moved = clusters(400, generator=generator) + 20
    before = float((rebuilt(quantizer, moved, 1) - moved).square().mean())
    for _ in range(40):
        quantizer(clusters(400, generator=generator) + 20, levels=1, generator=generator)
    after = float((rebuilt(quantizer, moved, 1) - moved).square().mean())
    assert after < 0.05 * before
    assert len(quantizer.codes(moved).unique()) > 8


def test_the_gradient_passes_straight_through() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = ResidualQuantizer(2, 16, 8)
    quantizer.start(clusters(500, generator=generator), generator)
    quantizer.eval()
    held = quantizer.embed.clone()
    vectors = clusters(20, generator=generator).requires_grad_()
    quantised, commitment = quantizer(vectors, levels=2, generator=generator)
    quantised.sum().backward()
    assert torch.equal(vectors.grad, torch.ones_like(vectors))
    assert torch.allclose(quantised, rebuilt(quantizer, vectors, 2), atol=1e-5)
    assert float(commitment.detach()) >= 0 and torch.equal(quantizer.embed, held)


def noise(samples: int = 16_000, seed: int = 0) -> Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_spectral_distances_are_zero_for_equal_waves_and_grow_with_the_error() -> None:
    distance = MultiScaleMel(sample_rate=16_000)
    wave, other = noise(), noise(seed=1)
    assert all(float(value) < 1e-5 for value in distance(wave, wave).values())
    found = [distance(wave + share * other, wave) for share in (0.01, 0.1, 1.0)]
    for name in ("log", "linear", "energy"):
        values = [float(one[name]) for one in found]
        assert values == sorted(values) and values[0] < 0.5 * values[-1]


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_an_error_of_level_is_seen(gain: float) -> None:
    said = MultiScaleMel(sample_rate=16_000)(gain * noise(), noise())
    assert float(said["log"]) == pytest.approx(math.log(2), rel=0.05)
    assert float(said["energy"]) == pytest.approx(math.log(2), rel=0.05)
    assert float(said["linear"]) == pytest.approx(abs(gain - 1), rel=0.05)


def test_mel_bands_hold_a_tone_at_its_place_with_its_amplitude() -> None:
    filters = mel_filters(16_000, 1024, 80)
    assert torch.allclose(filters.sum(1), torch.ones(80)) and bool((filters >= 0).all())
    spectrum = MelSpectrum(sample_rate=16_000, window=1024, hop=320, mels=80)
    low, high = (
        spectrum(torch.sin(torch.arange(16_000) * 2 * torch.pi * hertz / 16_000)[None]) for hertz in (300, 3000)
    )
    assert low.shape == (1, 80, 50)
    assert int(low.mean(2).argmax()) < int(high.mean(2).argmax())
    assert 0.3 < float(low.max()) < 1.1


# ---- texts and data ------------------------------------------------------------------------------------------------


def scenes() -> list[Scene]:
    layouts = ("single", "two_kinds", "two_scenes")
    return [describe(split_seed("training", index), layout=layouts[index % 3]) for index in range(36)]


def true_words(scene: Scene, *, materials: bool) -> set[str]:
    """All of WORDS that may be said of a scene."""
    said = {word for source in scene.sources for word in re.findall(r"[a-z]+", source.caption)}
    # An alarm has a light, which is no light rain.
    return {word for word in WORDS if word in said} | (set(MATERIALS) if materials else set())


def words_in(text: str) -> set[str]:
    return {word for word, found in zip(WORDS, words_of([text])[0].tolist(), strict=True) if found}


def test_prompts_are_true_of_the_scene_and_captions_of_what_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    complete = whole_captions = 0
    for scene in scenes():
        kinds = [source.kind for source in scene.sources]
        said = caption(scene, generator)
        claims = read_caption(said)
        shown = [
            source
            for shot in scene.shots
            for source in sorted(shot.sources, key=lambda one: list(KINDS).index(one.kind))
        ]
        assert [claim["kind"] for claim in claims] == [source.kind for source in shown]
        for claim, source in zip(claims, shown, strict=True):
            assert {
                name: value for name, value in claim.items() if name in source.visible
            }.items() <= source.visible.items()
        whole_captions += true_words(scene, materials=False) - set(MATERIALS) <= words_in(said)
        assert words_in(said) <= true_words(scene, materials=True)

        asked = prompt(scene, generator)
        assert [claim["kind"] for claim in read_caption(asked)] == kinds
        for claim, source in zip(read_caption(asked), scene.sources, strict=True):
            assert claim.items() <= {"kind": source.kind, **source.attributes}.items()
        assert words_in(asked) <= true_words(scene, materials=False)
        complete += words_in(asked) == true_words(scene, materials=False)
        assert "  " not in asked and asked == asked.strip()
        assert not re.search(r"\ba [aeiou]", said + asked)
    assert 0.3 * len(scenes()) < complete < len(scenes())
    assert 0.2 * len(scenes()) < whole_captions < len(scenes())


def test_events_fall_on_their_frames() -> None:
    timing = Timing(frame_rate=Fraction(20), video_token_rate=Fraction(5))
    for scene in scenes()[:6]:
        present, strength = event_targets([scene], timing)
        assert present.shape == strength.shape == (1, timing.frames)
        assert ((strength > 0) == (present > 0)).all()
        for event in (event for source in scene.sources for event in source.events if event.time < 10):
            assert present[0, int(event.time * 20)] == 1


def test_a_stretch_shows_and_tells_its_part_of_the_clip() -> None:
    timing = Timing(frame_rate=Fraction(20), video_token_rate=Fraction(5))
    seen_events = 0
    for number in range(20):
        one = stretch(number, timing, tokens=6)
        assert one == stretch(number, timing, tokens=6) and 0 <= one.first <= timing.video_tokens - 6
        told, whole = stretch_targets([one], timing), scene_targets([one.scene], timing)
        tokens, frames = slice(one.first, one.first + 6), slice(4 * one.first, 4 * one.first + 24)
        for name, part in (
            ("kinds", tokens),
            ("colours", tokens),
            ("values", tokens),
            ("events", frames),
            ("strengths", frames),
        ):
            assert torch.equal(getattr(told, name)[0], getattr(whole, name)[0, part])
        seen_events += bool(told.events.any())
        if number < 4:
            shown = stretch_frames(timing, 64, one).astype(int)
            clip = frames_of(timing, 64, one.scene).astype(int)
            errors = [abs(shown - clip[start : start + 24]).mean() for start in range(len(clip) - 23)]
            assert len(shown) == 24 and errors[4 * one.first] < 12 and errors[4 * one.first] <= 1.2 * min(errors)
    assert seen_events >= 10
    assert {stretch(number, timing, tokens=6).scene.layout for number in range(5)} == {"two_kinds", "single"}


def test_an_interrupted_filling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SAVE_SECONDS", 0.0)
    made: list[int] = []

    def make(item: int) -> np.ndarray:
        made.append(item)
        return np.full(2, item, np.int64)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    rows = Rows(tmp_path / "rows.npy", (40, 2), np.int64)
    with pytest.raises(BadModel):
        rows.read()
    with pytest.raises(KeyboardInterrupt):
        rows.fill(range(40), make, workers=0, progress=stop)
    assert 0 < rows.done() < 40 and len(made) == rows.done()
    rows.fill(range(40), make, workers=0)
    assert made == list(range(40)) and rows.read().tolist() == [[item, item] for item in range(40)]
    with pytest.raises(BadModel):
        Rows(tmp_path / "rows.npy", (40, 3), np.int64).read()


def test_sounds_of_clips_are_made_in_other_processes(tmp_path: Path) -> None:
    timing = Timing(window=Fraction(1), frame_rate=Fraction(20), video_token_rate=Fraction(5))
    clips = WorldClips(tmp_path, "training", 18, timing)
    with pytest.raises(BadModel):
        _ = clips.sounds
    clips.write_sounds()
    assert clips.sounds.shape == (18, timing.samples)
    for row in (0, 17):
        wave = synthesise(clips.scenes[row], sample_rate=timing.sample_rate)[: timing.samples]
        assert abs(clips.sounds[row] / 32767 - wave).max() < 1e-3
    with pytest.raises(BadModel):
        _ = WorldClips(tmp_path, "training", 19, timing).sounds


def test_a_full_disk_is_told_as_it_fills_and_leaves_what_was(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.npy", (1000, 100), np.int64)
    with pytest.raises(DiskFull), small_files(100_000):
        rows.fill(range(1000), lambda item: np.full(100, item), workers=0)
    run_stage(LineStage(), tmp_path / "stages")
    longer = LineStage()
    longer.options = dataclasses.replace(longer.options, steps=13)
    kept = (tmp_path / "stages" / "line.pt").read_bytes()
    with pytest.raises(DiskFull), small_files(1000):
        run_stage(longer, tmp_path / "stages")
    assert (tmp_path / "stages" / "line.pt").read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} == {"stages"}
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["line.pt"]
