from __future__ import annotations

from fractions import Fraction

import pytest

from vatt_core.errors import BadRequest
from vatt_core.media.timecode import time_reference, timecode_frames

NTSC = Fraction(30000, 1001)


def labels(rate: int, left_out: int, minutes: int) -> list[str]:
    """Every label of drop-frame counting in order, by its definition."""
    return [
        f"00:{minute:02}:{second:02};{frame:02}"
        for minute in range(minutes)
        for second in range(60)
        for frame in range(rate)
        if not (frame < left_out and second == 0 and minute % 10)
    ]


@pytest.mark.parametrize(("rate", "left_out"), [(NTSC, 2), (2 * NTSC, 4)])
def test_drop_frame_labels_count_up_one_by_one(rate: Fraction, left_out: int) -> None:
    names = labels(round(rate), left_out, 21)
    step = 97
    assert [timecode_frames(name, rate) for name in names[::step]] == list(range(0, len(names), step))
    assert timecode_frames(names[-1], rate) == len(names) - 1


def test_samples_since_midnight() -> None:
    assert time_reference("10:00:00:00", frame_rate=Fraction(25), sample_rate=48_000) == 36_000 * 48_000
    assert (
        time_reference("01:00:00:12", frame_rate=Fraction(24), sample_rate=48_000, after=Fraction(1, 4))
        == 3_600.75 * 48_000
    )
    # One hour of drop-frame labels is one hour to within a tenth of a second.
    assert abs(time_reference("01:00:00;00", frame_rate=NTSC, sample_rate=48_000) / 48_000 - 3_600) < 0.1
    assert time_reference("01:00:00:00", frame_rate=NTSC, sample_rate=48_000) == round(108_000 / NTSC * 48_000)


@pytest.mark.parametrize("text", ["", "10:00", "24:00:00:00", "10:60:00:00", "10:00:00:25", "a:b:c:d", "00:00:01;00"])
def test_what_is_no_timecode(text: str) -> None:
    with pytest.raises(BadRequest):
        timecode_frames(text, Fraction(25))
    with pytest.raises(BadRequest):
        timecode_frames("00:01:00;01", NTSC)
