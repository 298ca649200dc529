"""Windows over clips of any length: what is kept of them tiles the clip, and no seam lies between two strangers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from vatt_core.timing import Timing
from vatt_core.windows import EDGE, SHARED, plan_windows

NANO = Timing(frame_rate=Fraction(20), video_token_rate=Fraction(5), codebook_size=512)
OFFICIAL = Timing()


def durations(timing: Timing) -> list[Fraction]:
    token = 1 / timing.video_token_rate
    return [Fraction(1, 100), *(token * count - Fraction(1, 1000) for count in range(1, 5 * timing.video_tokens + 3))]


@pytest.mark.parametrize("timing", [NANO, OFFICIAL], ids=["nano", "official"])
def test_what_is_kept_tiles_the_clip_and_lies_inside_its_window(timing: Timing) -> None:
    for duration in durations(timing):
        windows = plan_windows(duration, timing)
        assert windows[0].keep_from == windows[0].first_code == 0
        assert windows[-1].keep_to == windows[-1].first_code + timing.code_frames
        assert windows[-1].keep_to >= timing.code_frames_in(duration)
        for before, after in pairwise(windows):
            assert before.keep_to == after.keep_from
            assert 0 < after.first_code - before.first_code <= (timing.window - SHARED) * timing.code_rate
        for index, window in enumerate(windows):
            assert window.index == index
            assert window.first_code <= window.keep_from < window.keep_to <= window.first_code + timing.code_frames
            assert Fraction(window.first_frame) / timing.frame_rate == Fraction(window.first_code) / timing.code_rate


@pytest.mark.parametrize("timing", [NANO, OFFICIAL], ids=["nano", "official"])
def test_windows_between_two_others_fill_a_gap_with_both_sides_known(timing: Timing) -> None:
    least = SHARED * timing.code_rate
    for duration in durations(timing):
        windows = plan_windows(duration, timing)
        # Two windows that know nothing of each other never touch.
        for window, other in zip(windows[0::2], windows[2::2], strict=False):
            assert other.keep_from - window.keep_to >= least
        for before, window, after in zip(windows[0::2], windows[1::2], windows[2::2], strict=False):
            assert window.keep_from - window.first_code > 0
            assert window.first_code + timing.code_frames - window.keep_to > 0
            # All that it sees outside its gap has been decided by its neighbours.
            assert before.keep_from <= window.first_code
            assert window.first_code + timing.code_frames <= after.keep_to


@pytest.mark.parametrize("timing", [NANO, OFFICIAL], ids=["nano", "official"])
def test_no_window_keeps_what_it_decided_at_its_inner_ends(timing: Timing) -> None:
    edge = EDGE * timing.code_rate
    for duration in durations(timing):
        windows = plan_windows(duration, timing)
        assert all(window.first_code + timing.code_frames - window.keep_to >= edge for window in windows[:-1])
        assert all(window.keep_from - window.first_code >= edge for window in windows[1:])


def test_a_clip_within_one_window_has_one() -> None:
    for timing in (NANO, OFFICIAL):
        assert len(plan_windows(timing.window, timing)) == 1
        assert len(plan_windows(timing.window + Fraction(1, 1000), timing)) == 2
    # A minute takes hardly more windows than six clips of ten seconds.
    assert len(plan_windows(6 * NANO.window, NANO)) == 7
    assert len(plan_windows(6 * OFFICIAL.window, OFFICIAL)) == 8
