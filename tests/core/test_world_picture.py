"""The pictures of the world show when, how hard, and what, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from vatt_core.errors import BadRequest
from vatt_core.world.kinds import KINDS
from vatt_core.world.picture import DRAWINGS, render
from vatt_core.world.scene import BACKGROUNDS, Camera, Event, Scene, describe

PINNED = {
    0: "9e1e5b009457ce37",
    1_000_001: "951000de0886dfef",
    2_000_003: "5fe833364365c55a",
    2_000_017: "77d710d26245cc74",
}
STILL = Camera(pan_x=0, pan_y=0, period=8, phase=0, zoom_start=1, zoom_end=1, shake=0)


def staged(
    kind: str,
    *,
    events: tuple[Event, ...] | None = None,
    level: tuple[tuple[float, float], ...] | None = None,
    colour: str = "red",
    value: str | None = None,
) -> Scene:
    """A scene of one thing in the middle, before a plain grey ground, without a moving camera."""
    scene = describe(11, kind=kind, layout="single", seconds=4.0)
    shot = scene.shots[0]
    attribute = KINDS[kind].attribute
    source = shot.sources[0]
    source = dataclasses.replace(
        source,
        x=0.0,
        y=0.0,
        scale=1.0,
        attributes={**source.attributes, "colour": colour, **({attribute: value} if value else {})},
        events=source.events if events is None else events,
        level=source.level if level is None else level,
    )
    shot = dataclasses.replace(
        shot,
        sources=(source,),
        camera=STILL,
        background="plain",
        background_colours=((0.0, 0.0, 0.3), (0.0, 0.0, 0.3)),
        brightness=1.0,
        tint=(1.0, 1.0, 1.0),
    )
    return dataclasses.replace(scene, shots=(shot,))


def coloured(pictures: np.ndarray) -> np.ndarray:
    """Where a picture is clearly red: bool [N, H, W]."""
    values = pictures.astype(int)
    return (values[..., 0] > 130) & (values[..., 0] > 2 * values[..., 1]) & (values[..., 0] > 2 * values[..., 2])


def change(pictures: np.ndarray) -> np.ndarray:
    """Mean change from each picture to the next: [N - 1]."""
    return np.abs(np.diff(pictures.astype(int), axis=0)).mean(axis=(1, 2, 3))


def test_every_kind_has_a_drawing() -> None:
    assert set(DRAWINGS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_same_description_same_bytes(kind: str) -> None:
    times = [0.0, 0.7, 1.3]
    first = render(describe(5, kind=kind), times)
    assert first.shape == (3, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, render(describe(5, kind=kind), times))
    # A picture depends on its instant alone, not on those asked before it.
    assert np.array_equal(first[2], render(describe(5, kind=kind), [1.3])[0])


@pytest.mark.parametrize("seed", PINNED)
def test_pictures_stay_what_they_were(seed: int) -> None:
    """The same on every machine: weights were trained on them."""
    pictures = render(describe(seed), [0.5, 3.25, 9.0], size=64)
    assert hashlib.sha256(pictures.tobytes()).hexdigest()[:16] == PINNED[seed]


def middle(picture: np.ndarray) -> tuple[float, float, float]:
    """Mean row and column of what is clearly red, and its area."""
    rows, columns = np.nonzero(coloured(picture[None])[0])
    return float(rows.mean()), float(columns.mean()), float(len(rows))


def test_the_camera_pans_zooms_and_shakes() -> None:
    still = staged("bell", events=())
    row, column, area = middle(render(still, [1.0], size=128)[0])

    def seen(time: float, **camera: float) -> tuple[float, float, float]:
        shot = still.shots[0]
        moved = dataclasses.replace(shot, camera=dataclasses.replace(STILL, **camera))
        return middle(render(dataclasses.replace(still, shots=(moved,)), [time], size=128)[0])

    assert seen(1.0, pan_x=0.2, period=4.0)[1] == pytest.approx(column - 0.2 * 64, abs=1.5)
    assert seen(1.0, pan_y=0.2, period=4.0)[0] == pytest.approx(row - 0.2 * 64, abs=1.5)
    assert seen(2.0, zoom_start=1.0, zoom_end=1.5)[2] == pytest.approx(area * 1.25**2, rel=0.06)
    shaken = [seen(time, shake=0.1)[:2] for time in (0.1, 0.25, 0.4)]
    assert len({(round(one), round(other)) for one, other in shaken}) == 3


def test_the_light_is_that_of_the_shot() -> None:
    scene = staged("bell")
    plain = render(scene, [1.0])[0].astype(float)
    shot = dataclasses.replace(scene.shots[0], brightness=0.8, tint=(0.94, 1.0, 1.06))
    lit = render(dataclasses.replace(scene, shots=(shot,)), [1.0])[0].astype(float)
    assert np.abs(lit - plain * 0.8 * np.array(shot.tint)).max() <= 1


@pytest.mark.parametrize("layout", ["single", "two_kinds", "two_scenes"])
def test_material_is_never_visible(layout: str) -> None:
    times = np.arange(0, 4, 0.31).tolist()
    for kind in ("ball", "hammer", "drum"):
        for seed in (1, 2):
            scene = describe(seed, kind=kind, layout=layout, seconds=4.0)  # type: ignore[arg-type]
            wooden, metal = scene.with_material("wooden"), scene.with_material("metal")
            assert wooden != metal
            assert np.array_equal(render(wooden, times), render(metal, times))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scene_at_any_size(kind: str) -> None:
    scene = describe(9, kind=kind, layout="single")
    times = [2.0, 4.5]
    small = render(scene, times, size=64).astype(float)
    large = render(scene, times, size=256).reshape(2, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - large).mean() < 6


def test_wide_pictures() -> None:
    wide = render(describe(3, kind="waves"), [1.0], size=(128, 64))
    assert wide.shape == (1, 64, 128, 3)


def test_ball_is_lowest_at_the_event() -> None:
    for time in (1.013, 1.5, 1.737):
        scene = staged("ball", events=(Event(0.4, 0.8, 0), Event(time, 0.7, 0), Event(time + 0.8, 0.6, 1)))
        frames = np.arange(0.65, time + 0.35, 0.05)
        rows = [np.nonzero(mask)[0].mean() for mask in coloured(render(scene, frames.tolist()))]
        assert abs(frames[int(np.argmax(rows))] - time) <= 0.05


def test_higher_peak_before_a_stronger_impact() -> None:
    tops = []
    for strength in (0.3, 0.6, 1.0):
        scene = staged("ball", events=(Event(1.0, 0.5, 0), Event(2.0, strength, 0)))
        tops.append(np.nonzero(coloured(render(scene, [1.5])))[1].min())
    assert tops[0] - tops[1] >= 6 and tops[1] - tops[2] >= 6


@pytest.mark.parametrize("kind", ["hammer", "drum", "bell", "clock", "alarm", "fireworks", "bird"])
def test_the_picture_jumps_at_the_contact(kind: str) -> None:
    time = 2.013
    scene = staged(kind, events=(Event(0.8, 0.8, 1), Event(time, 0.9, 1), Event(3.226, 0.8, 1)))
    frames = np.arange(1.25, 2.9, 0.05)
    jump = int(np.argmax(change(render(scene, frames.tolist()))))
    assert abs(frames[jump + 1] - time) <= 0.1


@pytest.mark.parametrize("kind", ["hammer", "drum", "bell", "fireworks", "bird", "alarm"])
def test_stronger_events_move_more(kind: str) -> None:
    moved = []
    for strength in (0.3, 0.65, 1.0):
        scene = staged(kind, events=(Event(2.0, strength, 0),))
        moved.append(change(render(scene, np.arange(1.4, 2.4, 0.05).tolist())).sum())
    assert moved[0] * 1.15 < moved[1] and moved[1] * 1.1 < moved[2]


def test_burst_area_grows_with_strength_and_size() -> None:
    areas = {}
    for value in ("small", "large"):
        for strength in (0.3, 0.65, 1.0):
            scene = staged("fireworks", events=(Event(2.0, strength, 0),), value=value)
            before, after = render(scene, [1.0, 2.2])
            areas[value, strength] = int((np.abs(after.astype(int) - before).max(axis=-1) > 20).sum())
    for value in ("small", "large"):
        assert areas[value, 0.3] * 1.3 < areas[value, 0.65] and areas[value, 0.65] * 1.3 < areas[value, 1.0]
    assert areas["small", 1.0] * 1.5 < areas["large", 0.3]


@pytest.mark.parametrize("kind", ["drum", "bell", "bird"])
def test_large_things_are_larger(kind: str) -> None:
    small, large = (coloured(render(staged(kind, value=value, events=()), [1.0])).sum() for value in ("small", "large"))
    assert large > 2.5 * small


@pytest.mark.parametrize("kind", ["rain", "fire", "engine", "waves"])
def test_level_is_visible(kind: str) -> None:
    times = np.arange(0, 2, 0.05).tolist()
    quiet, loud = (
        change(render(staged(kind, level=((0.0, level), (4.0, level))), times)).mean() for level in (0.35, 1.0)
    )
    assert loud > 1.15 * quiet


def test_colours_differ_and_fill() -> None:
    for kind in KINDS:
        scene = staged(kind, colour="red")
        assert coloured(render(scene, [0.9])).sum() >= (40 if kind == "fireworks" else 150), kind
        others = [render(staged(kind, colour=name), [0.9])[0].astype(int) for name in ("blue", "green", "white")]
        assert all(np.abs(render(scene, [0.9])[0] - other).mean() > 0.5 for other in others), kind


def test_a_hard_cut_between_two_scenes() -> None:
    scene = describe(21, layout="two_scenes", seconds=4.0)
    cut = scene.shots[0].end
    before, last, first, after = render(scene, [cut - 0.04, cut - 0.001, cut, cut + 0.04]).astype(int)
    at_cut = np.abs(first - last).mean()
    assert at_cut > 3 * max(np.abs(last - before).mean(), np.abs(after - first).mean())


def test_backgrounds_are_pale_and_all_drawn() -> None:
    seen = {}
    for seed in range(60):
        shot = describe(seed, layout="single").shots[0]
        seen.setdefault(shot.background, seed)
    assert set(seen) == set(BACKGROUNDS)
    for seed in seen.values():
        corner = render(describe(seed, layout="single", kind="clock"), [0.0])[0, :6, :6].astype(int)
        assert (corner.max(axis=-1) - corner.min(axis=-1)).max() < 70


def test_bad_sizes_and_times() -> None:
    scene = describe(0)
    with pytest.raises(BadRequest):
        render(scene, [0.0], size=8)
    with pytest.raises(BadRequest):
        render(scene, [float("nan")])
