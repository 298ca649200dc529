"""The measures themselves: what is right scores high, what is wrong scores low."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vatt_core.errors import BadRequest
from vatt_core.evaluation.captions import check_caption, measure_captions
from vatt_core.evaluation.clips import ClipStore, evaluation_scenes, partners, strangers
from vatt_core.evaluation.metrics import (
    force_score,
    level_db,
    log_mel_distance,
    mean_level_error,
    onset_score,
    rank_correlation,
)
from vatt_core.evaluation.onsets import detect_onsets
from vatt_core.evaluation.report import (
    MEASURES,
    Row,
    WorldReport,
    check_target,
    markdown_table,
    terminal_table,
    write_report,
)
from vatt_core.timing import Timing
from vatt_core.world.kinds import KINDS
from vatt_core.world.scene import Scene, describe
from vatt_core.world.sound import synthesise

# ---- clips


def test_held_out_clips_are_held_out_and_always_the_same() -> None:
    scenes = evaluation_scenes(24, 8)
    assert scenes == evaluation_scenes(24, 8)
    assert {scene.split for group in scenes.values() for scene in group} == {"held_out"}
    assert len({scene.seed for group in scenes.values() for scene in group}) == 32
    assert [scene.sources[0].kind for scene in scenes["single"]] == 2 * list(KINDS)
    assert {scene.layout for scene in scenes["double"]} == {"two_kinds", "two_scenes"}
    validation = evaluation_scenes(2, 2, split="validation")
    assert {scene.split for group in validation.values() for scene in group} == {"validation"}
    with pytest.raises(BadRequest):
        evaluation_scenes(-1, 0)


def test_fewer_clips_are_the_first_of_more() -> None:
    few, more = evaluation_scenes(3, 4), evaluation_scenes(12, 8)
    assert more["single"][:3] == few["single"]
    assert more["double"][:4] == few["double"]


def test_partners_show_the_same_kinds() -> None:
    for group in evaluation_scenes(36, 12).values():
        for scene, other in zip(group, partners(group), strict=True):
            assert other is not None
            assert group[other] is not scene
            assert group[other].layout == scene.layout
            assert [s.kind for s in group[other].sources] == [s.kind for s in scene.sources]
        assert sorted(index for index in strangers(group) if index is not None) == list(range(len(group)))
        assert all(index != other for index, other in enumerate(strangers(group)))
    assert partners(evaluation_scenes(12, 0)["single"]) == [None] * 12


def test_the_cache_gives_back_the_same_pictures(tmp_path: Path) -> None:
    scene = describe(2_000_000, seconds=1.0)
    store = ClipStore(Timing(), image_size=32, cache=tmp_path / "cache")
    first = store.frames(scene)
    (kept,) = (tmp_path / "cache").iterdir()
    np.testing.assert_array_equal(store.frames(scene), first)
    np.testing.assert_array_equal(ClipStore(Timing(), image_size=32).frames(scene), first)
    assert ClipStore(Timing(), image_size=48, cache=tmp_path / "cache").frames(scene).shape[1] == 48
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(store.frames(scene), first)


# ---- figures of waves


def test_distance_of_a_wave() -> None:
    wave = synthesise(describe(3, kind="rain", layout="single", seconds=2.0))
    other = synthesise(describe(4, kind="bell", layout="single", seconds=2.0))
    assert log_mel_distance(wave, wave, 16000) == 0
    assert log_mel_distance(other, wave, 16000) > 0.5
    # The natural logarithm of magnitudes: half the level is ln 2 away wherever it is above the floor.
    assert log_mel_distance(0.5 * wave, wave, 16000) == pytest.approx(math.log(2), abs=0.02)
    with pytest.raises(BadRequest):
        log_mel_distance(wave[:-1], wave, 16000)


def test_levels() -> None:
    sine = np.sin(np.arange(16000) * 2 * np.pi * 100 / 16000).astype(np.float32)
    assert level_db(sine) == pytest.approx(-3.01, abs=0.01)
    assert level_db(np.zeros(100)) == level_db(np.zeros(0)) == -120
    absolute, signed = mean_level_error([0.5 * sine, 2 * sine], [sine, sine])
    assert absolute == pytest.approx(6.02, abs=0.01)
    assert signed == pytest.approx(0, abs=1e-6)


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 25, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [5, 5, 5, 5]) == 0
    assert rank_correlation([1], [2]) == 0


def test_onsets_and_force_of_true_sound_beat_those_of_others() -> None:
    scenes = [
        describe(seed, kind=kind, layout="single") for seed in range(20, 23) for kind in ("hammer", "drum", "clock")
    ]
    waves = [synthesise(scene) for scene in scenes]
    found = [detect_onsets(wave, 16000) for wave in waves]
    own, alike = onset_score(scenes, found), onset_score(scenes, found, partners(scenes))
    assert own.value > 0.95
    assert set(own.parts) == {"hammer", "drum", "clock"}
    assert alike.value < own.value - 0.2
    force = force_score(scenes, waves, 16000)
    assert force.value > 0.9
    assert set(force.parts) == {"hammer", "drum"}  # a clock shows no force
    assert force_score(scenes, waves, 16000, partners(scenes)).value < 0.6


def test_a_continuous_sound_that_clicks_counts_against_the_onsets() -> None:
    scene = describe(5, kind="rain", layout="single")
    assert onset_score([scene], [np.zeros(0)]).value == 1
    assert onset_score([scene], [np.array([1.0])]).value == 0
    assert onset_score([], []).count == 0


# ---- captions


@pytest.fixture
def ball() -> Scene:
    scene = describe(11, kind="ball", layout="single", material="metal")
    source = dataclasses.replace(scene.sources[0], attributes={"colour": "red", "speed": "slowly", "material": "metal"})
    return dataclasses.replace(scene, shots=(dataclasses.replace(scene.shots[0], sources=(source,)),))


@pytest.mark.parametrize(
    ("caption", "kinds", "attributes", "true"),
    [
        ("a red metal ball bounces slowly", True, [True, True], True),
        ("a red wooden ball bounces slowly", True, [True, True], True),  # hidden: may be either
        ("a red ball", True, [True, False], True),  # says less, but nothing false
        ("a blue metal ball bounces slowly", True, [False, True], False),
        ("a red blue metal ball bounces slowly", True, [False, True], False),
        ("a large red ball bounces slowly", True, [True, True], False),
        ("a red metal ball bounces slowly, then a red bell rings", False, [True, True], False),
        ("a hammer hits a red metal block slowly", False, [False, False], False),
        ("", False, [False, False], False),
    ],
)
def test_captions_of_a_ball(ball: Scene, caption: str, kinds: bool, attributes: list[bool], true: bool) -> None:
    check = check_caption(caption, ball)
    assert (check.kinds, [right for _, right in check.attributes], check.true) == (kinds, attributes, true)


def test_the_worlds_own_captions_are_right() -> None:
    for seed in range(60):
        scene = describe(seed)
        for caption in (scene.caption, scene.with_material("wooden").caption):
            check = check_caption(caption, scene)
            assert check.kinds and check.all_attributes and check.true


def test_suggestions_must_differ_and_all_be_true(ball: Scene) -> None:
    true = ["a red metal ball bounces slowly", "a red wooden ball bounces slowly", "a red ball"]
    figures = measure_captions([ball] * 5, [true, true[:2], [true[0]] * 3, [*true[:2], "a green ball"], []])
    assert figures.suggestions.value == pytest.approx(1 / 5)
    assert figures.suggestions.parts["different"] == pytest.approx(2 / 5)
    assert figures.kinds.value == pytest.approx(4 / 5)
    assert figures.attributes.parts["colour"] == pytest.approx(4 / 5)


# ---- report


def report() -> WorldReport:
    rows = (
        Row("codec_level", "single", 0.7, 240, 0.0),
        Row("codec_log_mel", "single", 0.41, 240, 0.0, {"same kind": 0.9}, {"ball": 0.4}),
        Row("caption_kind", "double", 0.5, 60, controls={"random": 0.1}),
        Row("force", "double", float("nan"), 0),
    )
    return WorldReport(
        "nano", "0" * 64, "held_out", {"single": 240, "double": 60}, rows, {"kind (single)": 0.99}, {"codec": 3.0}
    )


def test_verdicts_know_which_way_is_better() -> None:
    assert [row.verdict for row in report().rows] == ["stretch", "must", "missed", ""]
    for measure in MEASURES.values():
        assert (measure.must is None) == (measure.stretch is None)
        if measure.must is not None and measure.stretch is not None:
            assert (measure.stretch < measure.must) == measure.lower


def test_the_report_is_json_and_holds_no_nan() -> None:
    text = json.dumps(report().to_dict(), allow_nan=False)
    rows = json.loads(text)["rows"]
    assert rows[3]["value"] is None
    assert rows[1]["controls"] == {"same kind": 0.9}
    assert rows[1]["must"] == 0.45


def test_the_tables_hold_every_row() -> None:
    from rich.console import Console

    screen = io.StringIO()
    Console(width=200, file=screen).print(terminal_table(report()))
    for text in (screen.getvalue(), markdown_table(report())):
        for row in report().rows:
            assert row.measure.label in text


def test_a_document_keeps_what_stands_around_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "nano.md"
    write_report(report(), path)
    written = path.read_text(encoding="utf-8")
    path.write_text(f"before\n{written}after\n", encoding="utf-8")
    write_report(report(), path)
    assert path.read_text(encoding="utf-8") == f"before\n{written}after\n"


def test_a_document_that_could_not_take_the_tables_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    letter = tmp_path / "letter.md"
    letter.write_text("dear", encoding="utf-8")
    for path in (letter, tmp_path, tmp_path / "none" / "nano.md", letter / "nano.md"):
        for write in (check_target, partial(write_report, report())):
            with pytest.raises(BadRequest):
                write(path)
    assert letter.read_text(encoding="utf-8") == "dear" and list(tmp_path.iterdir()) == [letter]
