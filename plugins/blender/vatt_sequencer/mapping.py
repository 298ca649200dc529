"""Which picture of the file is seen at which frame of the timeline. Pure: no bpy.

Blender shows, at timeline frame f of a movie strip that is neither reversed, strobed nor retimed,

    picture(f) = floor((f - content_start) * rate + trim_start + 1/2)

with rate 1, or, where the strip follows the file's own rate ('adjust playback rate'), the quotient of the two rates; Blender
reckons in single precision, which decides exact halves. Before the content and after it the first and the last picture
stand. tests/blender renders clips with numbered pictures and compares, in every supported version.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

Points = tuple[tuple[Fraction, Fraction], ...]
"""[timeline seconds from the range's begin, source seconds] pairs, as the daemon takes them."""

HALF = Fraction(1, 2)
NTSC = Fraction(1000, 1001)
MOST_CORNERS = 1000
"""Frames of a range whose picture may be put right one by one; the daemon takes 4096 points."""


class NeedsProxy(Exception):
    """What is seen cannot be said as a range of one file: render it. `reason` says why, for the user."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Traits:
    """What of a strip decides whether its pictures are those of its file in order."""

    kind: str = "MOVIE"
    reversed: bool = False
    strobe: float = 1.0
    retimed: bool = False
    modifiers: bool = False
    cropped: bool = False

    def check(self) -> None:
        """Raises NeedsProxy."""
        reasons = {
            "it is no movie strip": self.kind != "MOVIE",
            "it plays backwards": self.reversed,
            "it is strobed": self.strobe > 1,
            "it is retimed": self.retimed,
            "it has modifiers": self.modifiers,
            "it is cropped": self.cropped,
        }
        for reason, holds in reasons.items():
            if holds:
                raise NeedsProxy(reason)


@dataclass(frozen=True)
class StripTiming:
    """A movie strip on the timeline.

    content_start: timeline frame of the content's begin, untrimmed. content_length: timeline frames of the content, as
    Blender counts them. source_frames: pictures in the file, of which trim_start and trim_end are cut off for good ('hold'
    trim). Rates in frames per second.
    """

    content_start: Fraction
    content_length: int
    source_frames: int
    source_rate: Fraction
    timeline_rate: Fraction
    trim_start: int = 0
    trim_end: int = 0

    @property
    def pictures(self) -> int:
        return self.source_frames - self.trim_start - self.trim_end


def single(value: float) -> float:
    """The value rounded to single precision, as Blender holds rates."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def playback_rate(timing: StripTiming) -> Fraction:
    """Source pictures per timeline frame. Raises NeedsProxy where the strip's length does not tell.

    Blender does not say whether a strip follows its file's rate, but its length does.
    """
    following = timing.source_rate / timing.timeline_rate
    as_it_is = timing.content_length == timing.pictures
    # Blender cuts the length off in single precision, so that 103.0 may count as 102.
    adjusted = any(
        timing.content_length == math.floor(timing.pictures / float(following) + slip) for slip in (-1e-3, 0.0, 1e-3)
    )
    if as_it_is and adjusted:
        if abs(following - 1) * timing.pictures < HALF:
            return Fraction(1)  # both show the same pictures
        raise NeedsProxy("its length fits both its own rate and the scene's")
    if as_it_is:
        return Fraction(1)
    if adjusted:
        return following
    raise NeedsProxy("its length fits neither its file nor its rate")


def picture_at(timing: StripTiming, frame: int, rate: Fraction) -> int:
    """Number of the file's picture that is seen at a timeline frame, in the arithmetic that Blender uses."""
    position = single(max(0.0, float(frame - timing.content_start)))
    if rate != 1:
        factor = single(single(float(timing.source_rate)) / single(float(timing.timeline_rate)))
        position = single(position * factor)
    return min(math.floor(single(position + 0.5)), timing.pictures - 1) + timing.trim_start


def time_map(timing: StripTiming, first: int, last: int) -> Points:
    """The time map of the timeline frames [first, last). Raises NeedsProxy, ValueError for an empty range.

    Source times lie in the middle of a picture's own time where Blender's rule allows it, so that containers with coarse
    time stamps give the same picture.
    """
    if last <= first:
        raise ValueError(f"the range from frame {first} to {last} is empty")
    if timing.content_start.denominator != 1:
        raise NeedsProxy("it starts between two frames")
    if timing.pictures < 1 or timing.content_length < 1:
        raise NeedsProxy("its file holds no pictures")
    rate = playback_rate(timing)
    begin, latest = timing.content_start, Fraction(timing.pictures) - HALF / 2  # inside the last picture
    held = begin + (latest - HALF) / rate  # from here on the last picture stands

    def position(frame: Fraction) -> Fraction:
        return min(max(frame - begin, Fraction(0)) * rate + HALF, latest) + timing.trim_start

    points = {
        frame: position(frame) for frame in (Fraction(first), begin, held, Fraction(last)) if first <= frame <= last
    }
    # Single precision turns some halves to the other side than exact numbers do.
    corners = 0
    for frame in range(first, last) if rate != 1 else ():
        picture = picture_at(timing, frame, rate)
        if math.floor(position(Fraction(frame))) != picture:
            corners += 1
            for near in (frame - HALF / 2, frame + HALF / 2):
                if first < near < last:
                    points[near] = position(near)
            points[Fraction(frame)] = picture + HALF
    if corners > MOST_CORNERS:
        raise NeedsProxy("its rate needs too many corrections")
    return tuple(
        ((frame - first) / timing.timeline_rate, source / timing.source_rate)
        for frame, source in sorted(points.items())
    )


def known_rate(value: float) -> Fraction:
    """The rate that a float stands for: whole, or whole times 1000/1001, else the float to six digits."""
    for candidate in (Fraction(round(value)), round(value / float(NTSC)) * NTSC):
        if candidate > 0 and abs(float(candidate) - value) < 2e-4 * value / 24:
            return candidate
    return Fraction(value).limit_denominator(1_000_000)


def scene_rate(fps: int, fps_base: float) -> Fraction:
    """Frames per second of a scene. Blender keeps 29.97 as 30 / 1.001 in single precision."""
    return fps / Fraction(repr(round(fps_base, 6)))
