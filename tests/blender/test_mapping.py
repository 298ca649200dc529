"""The map from timeline to file, without Blender: what it says is what the daemon reads, and what it cannot say it refuses."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from vatt_sequencer.mapping import (
    NeedsProxy,
    StripTiming,
    Traits,
    known_rate,
    picture_at,
    playback_rate,
    scene_rate,
    time_map,
)

from vatt_core.media.time_map import TimeMap

RATES = [Fraction(24), Fraction(25), Fraction(30), Fraction(60), Fraction(30000, 1001), Fraction(24000, 1001)]


def strip(
    pictures: int, source: Fraction, timeline: Fraction, *, adjusted: bool, begin: int = 1, **trims: int
) -> StripTiming:
    left = pictures - sum(trims.values())
    length = math.floor(left * timeline / source) if adjusted else left
    return StripTiming(Fraction(begin), length, pictures, source, timeline, **trims)


@settings(max_examples=40, deadline=None)
@given(
    pictures=some.integers(20, 600),
    source=some.sampled_from(RATES),
    timeline=some.sampled_from(RATES),
    adjusted=some.booleans(),
    begin=some.integers(-500, 500),
    trim=some.integers(0, 15),
    cut=some.integers(-20, 20),
)
def test_map_reads_the_picture_of_every_frame(
    pictures: int, source: Fraction, timeline: Fraction, adjusted: bool, begin: int, trim: int, cut: int
) -> None:
    timing = strip(pictures, source, timeline, adjusted=adjusted, begin=begin, trim_start=trim)
    first, last = begin + cut, begin + timing.content_length + 5
    if last <= first:
        return
    try:
        rate = playback_rate(timing)
    except NeedsProxy:
        assert abs(source / timeline - 1) < Fraction(1, 10)  # only nearly equal rates can be mistaken
        return
    found = TimeMap(time_map(timing, first, last))
    assert found.duration == (last - first) / timeline
    for frame in range(first, last):
        exact = found.source_at((frame - first) / timeline) * source
        assert math.floor(exact) == picture_at(timing, frame, rate)


def test_trim_starts_at_the_picture_that_is_seen() -> None:
    timing = strip(100, Fraction(25), Fraction(25), adjusted=False, begin=10)
    (_, source), *_ = time_map(timing, 15, 40)
    assert math.floor(source * 25) == 5


def test_rate_is_told_by_the_length() -> None:
    assert playback_rate(strip(100, Fraction(60), Fraction(24), adjusted=False)) == 1
    assert playback_rate(strip(100, Fraction(60), Fraction(24), adjusted=True)) == Fraction(5, 2)


def test_length_that_fits_both_rates_needs_a_proxy_only_where_it_matters() -> None:
    near = Fraction(24000, 1001)
    assert playback_rate(strip(300, near, Fraction(24), adjusted=False)) == 1
    with pytest.raises(NeedsProxy):
        playback_rate(strip(800, near, Fraction(24), adjusted=False))


def test_length_that_fits_nothing_needs_a_proxy() -> None:
    with pytest.raises(NeedsProxy):
        playback_rate(StripTiming(Fraction(1), 77, 100, Fraction(25), Fraction(25)))


def test_strip_between_two_frames_needs_a_proxy() -> None:
    with pytest.raises(NeedsProxy):
        time_map(StripTiming(Fraction(3, 2), 100, 100, Fraction(25), Fraction(25)), 2, 50)


@pytest.mark.parametrize(
    "traits",
    [
        Traits(kind="COLOR"),
        Traits(kind="SCENE"),
        Traits(reversed=True),
        Traits(strobe=2.0),
        Traits(retimed=True),
        Traits(modifiers=True),
        Traits(cropped=True),
    ],
)
def test_what_no_range_of_a_file_can_say_needs_a_proxy(traits: Traits) -> None:
    with pytest.raises(NeedsProxy):
        traits.check()


def test_plain_movie_needs_none() -> None:
    Traits().check()


@pytest.mark.parametrize("rate", [*RATES, Fraction(60000, 1001), Fraction(120000, 1001), Fraction(25, 2)])
def test_rates_are_known_from_single_precision(rate: Fraction) -> None:
    import numpy

    assert known_rate(float(numpy.float32(float(rate)))) == rate


def test_scene_rate() -> None:
    import numpy

    assert scene_rate(30, float(numpy.float32(1.001))) == Fraction(30000, 1001)
    assert scene_rate(24, 1.0) == 24
