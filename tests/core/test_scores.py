"""What tells a good take from a bad one without ears, on clips of the world with their true sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vatt_core import scores
from vatt_core.evaluation.onsets import detect_onsets
from vatt_core.media.probe import clip_range, probe
from vatt_core.media.spool import Held, Spool
from vatt_core.media.time_map import TimeMap
from vatt_core.media.watching import Watched, motion_curve, watch
from vatt_core.wording import avoiding, different
from vatt_core.world.scene import Scene, describe
from vatt_core.world.sound import synthesise
from vatt_core.world.write import write_clip

KINDS = ("hammer", "bell", "ball", "drum")


def seen(scene: Scene, folder: Path, *, fps: Fraction = Fraction(24)) -> Watched:
    path = folder / f"{scene.seed}.mp4"
    write_clip(scene, path, fps=fps, size=64)
    info = probe(path)
    return watch(path, clip_range(info), rate=info.frame_rate)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scene, Watched, np.ndarray]]:
    folder = tmp_path_factory.mktemp("clips")
    scenes = [describe(2_000_400 + n, kind=kind, layout="single", seconds=5.0) for n, kind in enumerate(KINDS)]
    return [(scene, seen(scene, folder), synthesise(scene, sample_rate=16_000)) for scene in scenes]


def test_true_sound_agrees_better_than_sound_of_other_times(clips: list[tuple[Scene, Watched, np.ndarray]]) -> None:
    for _, watched, wave in clips:
        motion = motion_curve(watched, 5.0)
        own = scores.agreement(scores.sound_curve(Held(wave, 16_000)), motion)
        moved = [
            scores.agreement(scores.sound_curve(Held(np.roll(wave, shift), 16_000)), motion)
            for shift in (4_000, 9_000, -6_000)
        ]
        assert own is not None and all(other is not None and other < own for other in moved)


def test_a_shift_is_found_within_40_ms(clips: list[tuple[Scene, Watched, np.ndarray]]) -> None:
    for _, watched, wave in clips:
        motion = motion_curve(watched, 5.0)
        for late in (-0.3, 0.0, 0.24):
            shifted = np.roll(wave, round(late * 16_000))
            found = scores.best_shift(scores.sound_curve(Held(shifted, 16_000)), motion)
            assert abs(found + late) <= 0.04 + 1e-9


def test_nothing_can_be_told_of_silence_or_a_still_picture() -> None:
    flat, curve = np.zeros(300), np.random.default_rng(0).random(300)
    assert scores.agreement(flat, curve) is None and scores.agreement(curve, flat) is None
    assert scores.best_shift(flat, curve) == 0.0 and scores.best_shift(curve[:1], flat[:1]) == 0.0


def test_cuts_are_found_to_the_picture_and_flashes_are_none(tmp_path: Path) -> None:
    scene = describe(2_000_500, layout="two_scenes", seconds=4.0)
    (cut,) = seen(scene, tmp_path).cuts
    assert 0 <= cut - Fraction(scene.shots[1].start).limit_denominator(1000) < Fraction(1, 24)
    for kind in ("alarm", "fireworks"):
        assert seen(describe(2_000_510, kind=kind, layout="single", seconds=4.0), tmp_path).cuts == ()


def test_watching_follows_the_time_map_and_memory_holds_few_pictures(tmp_path: Path) -> None:
    scene = describe(2_000_501, layout="two_scenes", seconds=3.0)
    path = tmp_path / "clip.mp4"
    write_clip(scene, path, fps=Fraction(25), size=64)
    forward = watch(path, TimeMap.identity(0, 3), rate=Fraction(25))
    backward = watch(path, TimeMap(((Fraction(0), Fraction(3)), (Fraction(3), Fraction(0)))), rate=Fraction(25))
    assert len(forward.motion) == len(backward.motion) == 75
    assert len(forward.cuts) == len(backward.cuts) == 1
    assert abs(float(forward.cuts[0] + backward.cuts[0]) - 3.0) <= 0.05
    assert len(forward.strip) == len(forward.strip_times) == 64
    assert watch(path, TimeMap.identity(0, Fraction(1, 25)), rate=Fraction(25)).motion.shape == (1,)
    assert watch(path, TimeMap.identity(0, 1), rate=Fraction(120)).rate == 60


def test_onsets_of_a_long_sound_are_those_of_the_whole(clips: list[tuple[Scene, Watched, np.ndarray]]) -> None:
    wave = np.concatenate([clips[0][2]] * 14)  # 70 s, heard in three pieces
    with Spool(16_000) as spool:
        spool.append(wave)
        found = np.array(scores.heard_onsets(spool))
    whole = detect_onsets(wave, 16_000)
    assert len(found) == len(whole) and np.abs(found - whole).max() < 0.011


def test_ranking_and_silence() -> None:
    good: scores.Scores = {"agreement": 0.6, "likelihood": -3.0, "silence": 0.0}
    bad: scores.Scores = {"agreement": 0.1, "likelihood": -2.9, "silence": 0.0}
    silent: scores.Scores = {"agreement": None, "likelihood": -1.0, "silence": 1.0}
    assert scores.ranking([bad, good]) == [1, 0]
    assert scores.ranking([silent, bad])[0] == 1
    half = np.concatenate([np.zeros(16_000), 0.1 * np.ones(16_000)])
    assert abs(scores.silent_share(Held(half, 16_000)) - 0.5) < 0.03


def test_a_spool_is_read_like_an_array_also_beyond_its_ends() -> None:
    wave = np.random.default_rng(0).random(3_000_000).astype(np.float32)  # more than stays in memory
    with Spool(48_000) as spool:
        for first in range(0, len(wave), 500_001):
            spool.append(wave[first : first + 500_001])
        for start, stop in ((0, 10), (-5, 5), (2_999_990, 3_000_010), (-20, -10), (3_000_005, 3_000_010), (7, 7)):
            assert np.array_equal(spool.read(start, stop), Held(wave, 48_000).read(start, stop))
            assert len(spool.read(start, stop)) == stop - start
        assert np.array_equal(spool.read(123_456, 2_345_678), wave[123_456:2_345_678])


def test_captions_that_say_the_same_count_once() -> None:
    ranked = [
        "a metal hammer hits a nail", "the metal hammer is hitting nails", "rain falls", "a wooden hammer hits a nail",
    ]  # fmt: skip
    assert different(ranked) == [ranked[0], ranked[2], ranked[3]]


def test_what_shall_be_avoided_joins_the_negative_prompt() -> None:
    assert avoiding(None, []) is None and avoiding("wind", [""]) == "wind" and avoiding("", []) == ""
    both = avoiding("wind", ["speech", "a dog"])
    assert both is not None and both.startswith("wind, ") and "speaking" in both and "a dog" in both
