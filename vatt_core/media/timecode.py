"""SMPTE timecode of a clip → the sample count that a Broadcast WAV carries."""

from __future__ import annotations

import re
from fractions import Fraction

from vatt_core.errors import BadRequest

_TIMECODE = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})([:;.,])(\d{2,3})")


def timecode_frames(timecode: str, frame_rate: Fraction) -> int:
    """Frames from midnight to a timecode "hh:mm:ss:ff" (SMPTE ST 12-1).

    A semicolon, point or comma before the frames marks drop-frame counting, in which 29.97 fps leaves out the first
    two numbers (59.94: four) of every minute but each tenth. Raises BadRequest for what is no timecode at this rate.
    """
    match = _TIMECODE.fullmatch(timecode.strip())
    counted = round(frame_rate)
    if match is None or counted < 1:
        raise BadRequest(f"{timecode!r} is no timecode. Write it as hh:mm:ss:ff.")
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    if hours > 23 or minutes > 59 or seconds > 59 or frames >= counted:
        raise BadRequest(f"The timecode {timecode} does not exist at {float(frame_rate):g} frames per second.")
    total = ((hours * 60 + minutes) * 60 + seconds) * counted + frames
    if match[4] == ":":
        return total
    if counted % 30 or frame_rate.denominator != 1001:
        raise BadRequest(f"The timecode {timecode} drops frames, which {float(frame_rate):g} frames per second do not.")
    left_out = counted // 15
    if frames < left_out and seconds == 0 and minutes % 10:
        raise BadRequest(f"The timecode {timecode} does not exist: drop-frame counting leaves it out.")
    past = hours * 60 + minutes
    return total - left_out * (past - past // 10)


def time_reference(timecode: str, *, frame_rate: Fraction, sample_rate: int, after: Fraction | int = 0) -> int:
    """Samples from midnight to the instant `after` seconds past `timecode`, as write_wave takes it.

    Real time, as the field counts it: frames / frame_rate. Raises BadRequest.
    """
    seconds = timecode_frames(timecode, frame_rate) / frame_rate + after
    return round(seconds * sample_rate)
