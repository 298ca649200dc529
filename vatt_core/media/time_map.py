"""The piecewise linear map from an editor's timeline to the source file, in exact seconds.

A trim is one rising line, a speed change a steeper or flatter one, a freeze a level one and a reverse a
falling one, so no caller ever has to know which of them an editor applied.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from vatt_core.errors import BadRequest

Seconds = Fraction | int | float | str | Decimal

# Values come from other programs. Bounded digits keep a number such as 1e999999999 from filling the memory.
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:/\d{1,18}|\.\d{1,30})?")
_LONGEST = 10**8  # seconds, about three years
_MOST_POINTS = 100_000


def exact_seconds(value: Seconds, name: str = "time") -> Fraction:
    """Read a number of seconds exactly: 0.1 is 1/10, "1001/30000" is a frame of 29.97 fps.

    name: what the message calls the value. Raises BadRequest for anything that is no finite plain number.
    """
    if isinstance(value, bool):
        raise BadRequest(f"The {name} {value!r} is no number of seconds. Give a number such as 2.5.", name=name)
    if isinstance(value, Fraction | int):
        exact = Fraction(value)
    elif isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise BadRequest(
                f"The {name} is {value}, no finite number of seconds. Give a number such as 2.5.", name=name
            )
        if abs(float(value)) > _LONGEST:
            raise BadRequest(f"The {name} {value} s is longer than any clip. Check the unit: seconds.", name=name)
        # The shortest decimal that names the float is what the user typed; the float itself is not.
        exact = Fraction(repr(float(value)))
    elif isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            raise BadRequest(f"The {name} {text[:40]!r} is no number of seconds. Give a number such as 2.5.", name=name)
        try:
            exact = Fraction(text)
        except ZeroDivisionError:
            raise BadRequest(f"The {name} {text!r} divides by zero. Give a number such as 5/2.", name=name) from None
    else:
        raise BadRequest(f"The {name} is a {type(value).__name__}, no number. Give a number such as 2.5.", name=name)
    if abs(exact) > _LONGEST:
        raise BadRequest(f"The {name} {value} s is longer than any clip. Check the unit: seconds.", name=name)
    return exact


@dataclass(frozen=True)
class TimeMap:
    """Timeline seconds → source seconds, linear between the points.

    points: ((t, s), …), at least two; t rises strictly from 0, s is relative to the clip's first picture and may
    rise, stay (freeze) or fall (reverse), but is never negative. Raises BadRequest for anything else.
    """

    points: tuple[tuple[Fraction, Fraction], ...]

    def __post_init__(self) -> None:
        points = tuple((Fraction(t), Fraction(s)) for t, s in self.points)
        object.__setattr__(self, "points", points)
        if len(points) < 2:
            raise BadRequest(
                f"The time map has {len(points)} point(s). Give at least two: where the clip starts and where it ends."
            )
        if len(points) > _MOST_POINTS:
            raise BadRequest(
                f"The time map has {len(points)} points, at most {_MOST_POINTS} are read. "
                "Render the clip to a proxy instead."
            )
        if points[0][0] != 0:
            raise BadRequest(f"The time map starts at {float(points[0][0]):g} s of the timeline. It has to start at 0.")
        for (before, _), (after, _) in pairwise(points):
            if after <= before:
                raise BadRequest(
                    f"The time map's timeline goes from {float(before):g} s to {float(after):g} s. "
                    "Its times have to rise: the range is empty or the points are out of order."
                )
        lowest = min(s for _, s in points)
        if lowest < 0:
            raise BadRequest(
                f"The time map reads the source at {float(lowest):g} s. A clip begins at 0: move the range."
            )

    @classmethod
    def identity(cls, start: Fraction | int, end: Fraction | int) -> TimeMap:
        """The range [start, end) of the source at its own speed. Raises BadRequest where it is empty."""
        start, end = Fraction(start), Fraction(end)
        if end <= start:
            raise BadRequest(
                f"The range from {float(start):g} s to {float(end):g} s is empty. The end has to come after the start."
            )
        return cls(((Fraction(0), start), (end - start, end)))

    @property
    def duration(self) -> Fraction:
        """Length on the timeline, in seconds."""
        return self.points[-1][0]

    @property
    def source_range(self) -> tuple[Fraction, Fraction]:
        """The earliest and the latest source second that the map reads."""
        return min(s for _, s in self.points), max(s for _, s in self.points)

    @property
    def at_own_speed(self) -> bool:
        """Whether the range is played forwards at the clip's own speed: only then sound and source stay in step."""
        return all(t1 - t0 == s1 - s0 for (t0, s0), (t1, s1) in pairwise(self.points))

    def source_at(self, time: Fraction | int) -> Fraction:
        """Source seconds at timeline second `time`. Outside [0, duration] the ends are held."""
        time = Fraction(time)
        if time <= 0:
            return self.points[0][1]
        if time >= self.duration:
            return self.points[-1][1]
        after = bisect_right(self.points, time, key=lambda point: point[0])
        (t0, s0), (t1, s1) = self.points[after - 1], self.points[after]
        return s0 + (s1 - s0) * (time - t0) / (t1 - t0)

    def slice(self, start: Fraction | int, end: Fraction | int) -> TimeMap:
        """The part [start, end) of the timeline as a map of its own, which starts at 0 again.

        Raises BadRequest where the part is empty or reaches outside [0, duration].
        """
        start, end = Fraction(start), Fraction(end)
        if not 0 <= start < end <= self.duration:
            raise BadRequest(
                f"The part from {float(start):g} s to {float(end):g} s is empty or outside the clip's "
                f"{float(self.duration):g} s."
            )
        inside = [(t - start, s) for t, s in self.points if start < t < end]
        return TimeMap(((Fraction(0), self.source_at(start)), *inside, (end - start, self.source_at(end))))

    def to_list(self) -> list[list[str]]:
        """[["t", "s"], …] with exact numbers as "n" or "n/d", ready for JSON or msgpack."""
        return [[str(t), str(s)] for t, s in self.points]

    @classmethod
    def from_list(cls, values: Sequence[Sequence[Seconds]]) -> TimeMap:
        """Read what to_list wrote; plain numbers are taken as well. Raises BadRequest for anything else."""
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise BadRequest("The time map is no list of [timeline seconds, source seconds] pairs.")
        if len(values) > _MOST_POINTS:
            raise BadRequest(f"The time map has {len(values)} points, at most {_MOST_POINTS} are read.")
        points = []
        for index, pair in enumerate(values):
            if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise BadRequest(f"Point {index} of the time map is no [timeline seconds, source seconds] pair.")
            points.append((exact_seconds(pair[0], "timeline time"), exact_seconds(pair[1], "source time")))
        return cls(tuple(points))
