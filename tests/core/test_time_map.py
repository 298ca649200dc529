from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt_core.errors import BadRequest
from vatt_core.media.time_map import TimeMap, exact_seconds

# Whole frames of the usual rates, and ticks of the usual clocks.
units = st.sampled_from(
    [Fraction(1, 24), Fraction(1, 25), Fraction(1001, 30000), Fraction(1, 1000), Fraction(1, 90000)]
)
seconds = st.builds(Fraction.__mul__, units, st.integers(0, 5_000))
steps = st.builds(Fraction.__mul__, units, st.integers(1, 2_000))


@st.composite
def maps(draw: st.DrawFn) -> TimeMap:
    time = Fraction(0)
    points = [(time, draw(seconds))]
    for step in draw(st.lists(steps, min_size=1, max_size=6)):
        time += step
        points.append((time, draw(seconds)))
    return TimeMap(tuple(points))


@settings(max_examples=50, deadline=None)
@given(maps())
def test_the_points_lie_on_the_map(time_map: TimeMap) -> None:
    assert all(time_map.source_at(t) == s for t, s in time_map.points)
    assert time_map.duration == time_map.points[-1][0]


@settings(max_examples=50, deadline=None)
@given(maps(), seconds)
def test_every_source_time_is_inside_the_range_and_exact(time_map: TimeMap, time: Fraction) -> None:
    low, high = time_map.source_range
    source = time_map.source_at(time - 5)
    assert isinstance(source, Fraction)
    assert low <= source <= high


@settings(max_examples=50, deadline=None)
@given(maps())
def test_it_survives_json(time_map: TimeMap) -> None:
    assert TimeMap.from_list(json.loads(json.dumps(time_map.to_list()))) == time_map


@settings(max_examples=50, deadline=None)
@given(maps(), st.data())
def test_a_slice_reads_the_same_source(time_map: TimeMap, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 996))
    last = data.draw(st.integers(first + 1, 997))
    start, end = time_map.duration * first / 997, time_map.duration * last / 997
    part = time_map.slice(start, end)
    assert part.duration == end - start
    for step in range(8):
        time = part.duration * step / 7
        assert part.source_at(time) == time_map.source_at(start + time)


def test_speed_freeze_and_reverse() -> None:
    time_map = TimeMap.from_list([[0, 4], [1, 6], [2, 6], ["5/2", 5]])
    assert time_map.source_at(Fraction(1, 2)) == 5  # twice the speed
    assert time_map.source_at(Fraction(3, 2)) == 6  # frozen
    assert time_map.source_at(Fraction(9, 4)) == Fraction(11, 2)  # backwards at twice the speed
    assert time_map.source_range == (4, 6)


def test_a_range_at_its_own_speed() -> None:
    frame = Fraction(1001, 30000)
    time_map = TimeMap.identity(10 * frame, 70 * frame)
    assert time_map.duration == 60 * frame
    assert time_map.source_at(59 * frame) == 69 * frame


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[0, 0]],
        [[1, 0], [2, 1]],
        [[0, 0], [0, 1]],
        [[0, 0], [2, 1], [1, 2]],
        [[0, -1], [1, 1]],
        [[0, 0], [1]],
        [[0, 0], "11"],
        "00",
        None,
        [[0, 0], [float("nan"), 1]],
        [[0, 0], [float("inf"), 1]],
        [[0, 0], ["1e9", 1]],
        [[0, 0], ["1/0", 1]],
        [[0, 0], ["9" * 40, 1]],
        [[0, 0], [True, 1]],
        [[0, 0], [None, 1]],
        [[0, 0], [1e300, 1]],
        [[0, 0], [Decimal("1E+999999"), 1]],
    ],
)
def test_what_is_no_map_is_refused(points: object) -> None:
    with pytest.raises(BadRequest):
        TimeMap.from_list(points)  # type: ignore[arg-type]


def test_an_empty_range_is_refused() -> None:
    for start, end in ((2, 2), (3, 2)):
        with pytest.raises(BadRequest):
            TimeMap.identity(start, end)
        with pytest.raises(BadRequest):
            TimeMap.identity(0, 5).slice(start, end)
    with pytest.raises(BadRequest):
        TimeMap.identity(0, 5).slice(0, 6)


def test_decimal_text_is_exact() -> None:
    assert exact_seconds(0.1) == exact_seconds("0.1") == exact_seconds(Decimal("0.1")) == Fraction(1, 10)
    assert exact_seconds("1001/30000") == Fraction(1001, 30000)
