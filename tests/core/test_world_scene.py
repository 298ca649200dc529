from __future__ import annotations

import dataclasses
import hashlib
import json
from itertools import pairwise

import pytest

from vatt_core.errors import BadRequest
from vatt_core.world.kinds import COLOURS, KINDS, read_caption
from vatt_core.world.scene import SPLIT_SIZE, describe, split_seed

PINNED = {
    0: "6338395c8fdc5032",
    7: "2bf83e6e6a8c3858",
    1_000_000: "cbf163e842b8310b",
    2_000_123: "c7a6dae15108449b",
}


def digest(seed: int) -> str:
    return hashlib.sha256(json.dumps(describe(seed).to_dict(), sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("seed", PINNED)
def test_descriptions_stay_what_they_were(seed: int) -> None:
    """Written data and trained weights rely on them; a change must raise scene.VERSION."""
    assert digest(seed) == PINNED[seed]


def test_splits_are_disjoint_and_named_by_the_seed() -> None:
    edges = {}
    for split in ("training", "validation", "held_out"):
        edges[split] = (split_seed(split, 0), split_seed(split, SPLIT_SIZE - 1))
        for seed in edges[split]:
            assert describe(seed).split == split
    ranges = sorted(edges.values())
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    for index in (-1, SPLIT_SIZE):
        with pytest.raises(BadRequest):
            split_seed("training", index)


def test_captions_are_read_back() -> None:
    for seed in range(200):
        scene = describe(seed)
        expected = [{"kind": source.kind, **source.attributes} for source in scene.sources]
        assert read_caption(scene.caption) == expected


def test_captions_without_attributes_claim_none() -> None:
    assert read_caption("something else entirely") == []
    assert read_caption("a bell") == [{"kind": "bell"}]
    assert read_caption("a red alarm light beeps") == [{"kind": "alarm", "colour": "red"}]
    assert read_caption("A hammer, then a red or blue ball.") == [{"kind": "hammer"}, {"kind": "ball"}]


def test_events_and_levels_lie_within_their_shot() -> None:
    for seed in range(150):
        scene = describe(seed)
        assert scene.shots[0].start == 0 and scene.shots[-1].end == scene.seconds
        assert list(scene.event_times) == sorted(scene.event_times)
        for shot in scene.shots:
            for source in shot.sources:
                kind = KINDS[source.kind]
                assert bool(source.level) == (kind.rhythm == "continuous") != bool(source.events)
                assert all(shot.start < event.time < shot.end - 0.1 for event in source.events)
                assert all(0.25 <= event.strength <= 1 for event in source.events)
                if source.level:
                    assert source.level[0][0] == shot.start and source.level[-1][0] >= shot.end - 1e-3
                    assert all(0 <= value <= 1 for _, value in source.level)
                if kind.rhythm == "regular":
                    times = [event.time for event in source.events]
                    pauses = [after - before for before, after in pairwise(times)]
                    assert max(pauses, default=0) - min(pauses, default=0) < 1e-3


def test_material_changes_only_the_look_alikes() -> None:
    for seed in range(60):
        scene = describe(seed)
        wooden, metal = scene.with_material("wooden"), scene.with_material("metal")
        assert metal.with_material("wooden") == wooden
        for before, after in zip(wooden.sources, metal.sources, strict=True):
            assert before.visible == after.visible
            assert (before == after) != KINDS[before.kind].look_alike
            assert dataclasses.replace(before, attributes={}) == dataclasses.replace(after, attributes={})
        assert describe(seed, material="metal") == metal


@pytest.mark.parametrize("layout, shots, sources", [("single", 1, 1), ("two_kinds", 1, 2), ("two_scenes", 2, 2)])
def test_layouts(layout: str, shots: int, sources: int) -> None:
    for seed in range(20):
        scene = describe(seed, layout=layout, kind="bell")  # type: ignore[arg-type]
        assert (len(scene.shots), len(scene.sources)) == (shots, sources)
        assert scene.sources[0].kind == "bell"
        assert len({source.kind for source in scene.sources}) == sources
        assert all(source.attributes["colour"] in COLOURS for source in scene.sources)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 37.25])
def test_lengths(seconds: float) -> None:
    for kind in KINDS:
        scene = describe(3, kind=kind, seconds=seconds)
        assert scene.seconds == seconds
        assert all(0 < time < seconds for time in scene.event_times)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "trumpet"},
        {"layout": "three"},
        {"material": "glass"},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"seconds": -3.0},
        {"seconds": float("inf")},
    ],
)
def test_what_is_impossible_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        describe(0, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 3 * SPLIT_SIZE])
def test_seeds_outside_the_splits_are_refused(seed: int) -> None:
    with pytest.raises(BadRequest):
        describe(seed)
