from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vatt_core.errors import BadRequest
from vatt_core.evaluation.onsets import detect_onsets, event_levels, f1, match_onsets
from vatt_core.world.kinds import KINDS
from vatt_core.world.scene import describe
from vatt_core.world.sound import synthesise

STRUCK = [name for name, kind in KINDS.items() if kind.rhythm != "continuous"]
CONTINUOUS = [name for name, kind in KINDS.items() if kind.rhythm == "continuous"]


@pytest.mark.parametrize("kind", STRUCK)
def test_events_of_every_kind_are_found(kind: str) -> None:
    counts = []
    for seed in range(100, 103):
        scene = describe(seed, kind=kind, layout="single")
        counts.append(match_onsets(detect_onsets(synthesise(scene), 16000), scene.event_times, 0.05))
    assert f1(counts) > 0.95


def test_what_goes_on_has_no_onsets() -> None:
    found = [
        len(detect_onsets(synthesise(describe(seed, kind=kind, layout="single")), 16000))
        for kind in CONTINUOUS
        for seed in range(100, 103)
    ]
    assert sum(found) <= 2


def test_softer_takes_and_other_rates_keep_their_onsets() -> None:
    scene = describe(101, kind="hammer", layout="single", seconds=5.0)
    for rate, gain in ((16000, 0.1), (48000, 1.0)):
        found = detect_onsets(gain * synthesise(scene, sample_rate=rate), rate)
        assert f1([match_onsets(found, scene.event_times, 0.05)]) > 0.95


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros(1), np.zeros(16000), np.ones(300), np.full(16000, 0.5)])
def test_nothing_is_found_in_nothing(wave: np.ndarray) -> None:
    assert len(detect_onsets(wave, 16000)) == 0


def test_bad_waves_are_refused() -> None:
    with pytest.raises(BadRequest):
        detect_onsets(np.zeros((2, 16000)), 16000)
    with pytest.raises(BadRequest):
        detect_onsets(np.full(16000, np.nan), 16000)


def test_matching_is_one_to_one() -> None:
    assert match_onsets([1.0, 1.01, 1.02], [1.0]) == (1, 3, 1)
    assert match_onsets([], [1.0, 2.0]) == (0, 0, 2)
    assert match_onsets([0.95, 1.05], [1.04, 1.13], 0.1) == (2, 2, 2)
    assert match_onsets([2.0], [2.1], 0.1) == (1, 1, 1)
    assert match_onsets([2.0], [2.101], 0.1) == (0, 1, 1)


def test_matching_is_as_large_as_possible() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    for _ in range(100):
        found = rng.uniform(0, 2, int(rng.integers(1, 12)))
        true = rng.uniform(0, 2, int(rng.integers(1, 12)))
        near = (np.abs(found[:, None] - true[None]) <= 0.1).astype(float)
        rows, columns = linear_sum_assignment(near, maximize=True)
        assert match_onsets(found, true)[0] == int(near[rows, columns].sum())


def test_f1_is_over_the_whole_set() -> None:
    assert f1([(1, 1, 1), (0, 2, 1)]) == pytest.approx(2 * 1 / 5)
    assert f1([]) == 1.0
    assert f1([(0, 3, 0)]) == 0.0


def test_event_levels_follow_force() -> None:
    scene = describe(102, kind="hammer", layout="single")
    levels = event_levels(synthesise(scene), scene.event_times, 16000)
    forces = [event.strength for event in scene.sources[0].events]
    assert levels.shape == (len(forces),)
    assert np.corrcoef(forces, levels)[0, 1] > 0.9
    assert len(event_levels(np.zeros(10), [5.0], 16000)) == 1
