"""The exact time of a stored picture, from the ticks that its container wrote.

Containers round. Matroska writes milliseconds, so the second frame of a 24 fps clip says 0.042 s; an editor that cuts
there asks for 1/24 s and would get the frame before. Where a stream has a constant rate and a picture lies within the
rounding of its place on that grid, the place is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import av.container

# Formats without presentation times: pictures come in order, one per frame period.
_COUNTED = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "vc1", "vvc", "obu", "dirac"})
_FALLBACK_RATE = Fraction(25)
_FASTEST = 1_000  # frames per second above which a stated rate is a clock and no rate


@dataclass(frozen=True)
class Clock:
    """Ticks → exact seconds from the first picture.

    start: the first picture on the container's clock, in seconds. tick: seconds per tick. rate: frames per second.
    counted: the pictures carry no times, the n-th of them is shown at n / rate.
    """

    start: Fraction
    tick: Fraction
    rate: Fraction
    counted: bool = False

    @classmethod
    def of(cls, container: av.container.InputContainer, stream: av.VideoStream, first: av.VideoFrame) -> Clock:
        """The clock of a stream whose first picture is `first`."""
        tick = Fraction(stream.time_base or first.time_base or Fraction(1, 90_000))
        rate = _usual(next((r for r in (stream.average_rate, stream.guessed_rate, stream.base_rate) if _sane(r)), None))
        counted = container.format.name in _COUNTED or first.pts is None
        start = Fraction(0) if counted or first.pts is None else first.pts * tick
        return cls(start, tick, rate, counted)

    @property
    def frame_duration(self) -> Fraction:
        return 1 / self.rate

    def seconds(self, pts: int) -> Fraction:
        """Exact seconds from the first picture at the tick `pts`."""
        time = pts * self.tick - self.start
        on_grid = round(time * self.rate) / self.rate
        # start and pts were rounded, each by half a tick at most. A tick of a whole frame period says nothing.
        if self.tick * 4 <= self.frame_duration and abs(on_grid - time) <= self.tick:
            return on_grid
        return time

    def time_of(self, frame: av.VideoFrame, index: int) -> Fraction:
        """Exact seconds of a decoded picture; `index` counts the pictures from the first one."""
        if self.counted or frame.pts is None:
            return index / self.rate
        return self.seconds(frame.pts)

    def end_of(self, pts: int, duration: int | None) -> Fraction:
        """Exact seconds at which the picture at the tick `pts` makes way."""
        length = (duration or 0) * self.tick
        if not length or abs(length - self.frame_duration) <= self.tick < self.frame_duration / 4:
            length = self.frame_duration
        return self.seconds(pts) + length

    def ticks(self, time: Fraction) -> int:
        """The tick at or before `time` seconds from the first picture."""
        return (time + self.start) // self.tick


def _sane(rate: Fraction | None) -> bool:
    return rate is not None and 0 < rate <= _FASTEST


def _usual(rate: Fraction | None) -> Fraction:
    """The broadcast rate that a container meant when it rounded, else the rate as it is."""
    if rate is None:
        return _FALLBACK_RATE
    for whole in (24, 30, 48, 60, 120):
        film = Fraction(whole * 1000, 1001)
        if rate != whole and abs(rate - film) < film / 100_000:
            return film
    nearest = Fraction(round(rate))
    return nearest if nearest and abs(rate - nearest) < nearest / 100_000 else rate
