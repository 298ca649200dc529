"""What the drawings need to know of a source: its look, and where an instant lies among its events."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np

from vatt_core.world.kinds import COLOURS
from vatt_core.world.pen import INK, PAPER, Colour, colour_of, mix
from vatt_core.world.scene import Event, Shot, Source

FALL = 0.16
"""Seconds from the highest point of a strike down to the contact: three frames at 20 fps."""


class Beats:
    """Events in order of time, asked by instant (seconds in the clip)."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self.events = events
        self._times = [event.time for event in events]

    def count(self, time: float) -> int:
        """Events at or before `time`."""
        return bisect.bisect_right(self._times, time)

    def before(self, time: float) -> Event | None:
        """The last event at or before `time`."""
        index = self.count(time)
        return self.events[index - 1] if index else None

    def after(self, time: float) -> Event | None:
        """The first event later than `time`."""
        index = self.count(time)
        return self.events[index] if index < len(self.events) else None

    def since(self, time: float) -> float:
        """Seconds since the last event, infinite when there was none."""
        event = self.before(time)
        return math.inf if event is None else time - event.time

    def lift(self, time: float, *, rest: float = 0.14) -> float:
        """How far a striking tool is raised at `time`: 0 at each contact, before it up to the strength of the hit.

        Raised slowly, brought down ever faster within FALL; after the hit it stays for two hundredths, then springs
        back to `rest`.
        """
        last, following = self.before(time), self.after(time)
        if following is not None:
            until = following.time - time
            top = 0.12 + 0.88 * following.strength
            pause = following.time - last.time if last is not None else math.inf
            rise = min(0.5, max(0.08, pause - FALL - 0.12))
            if until <= FALL:
                return top * (1 - ((FALL - until) / FALL) ** 2)
            if until <= FALL + rise:
                return rest + (top - rest) * smooth(1 - (until - FALL) / rise)
        if last is not None:
            return rest * smooth((time - last.time - 0.02) / 0.1)
        return rest

    def travel(self, time: float) -> tuple[Event | None, Event | None, float]:
        """Last event, next event, and how far (0…1) a hand has moved from the one's place to the other's."""
        last, following = self.before(time), self.after(time)
        if last is None or following is None:
            return last, following, 0.0
        return last, following, smooth((time - last.time) / max(0.05, following.time - last.time - FALL))


@dataclass(frozen=True)
class Look:
    """A source as the drawings see it: nothing of it depends on the material.

    left, right: how far the surroundings may reach sideways, in units of the thing. dice: random numbers 0…1 of the
    source's seed.
    """

    attribute: str
    base: Colour
    dark: Colour
    light: Colour
    beats: Beats
    hands: tuple[Beats, Beats]
    start: float
    end: float
    left: float
    right: float
    dice: tuple[float, ...]
    knot_times: tuple[float, ...]
    knot_levels: tuple[float, ...]
    knot_sums: tuple[float, ...]

    def level(self, time: float) -> float:
        """Loudness that can be seen, 0…1, linear between the knots."""
        return float(np.interp(time, self.knot_times, self.knot_levels)) if self.knot_times else 0.7

    def level_sum(self, time: float) -> float:
        """Integral of the level from the first knot to `time`, seconds."""
        if not self.knot_times:
            return 0.7 * time
        times = self.knot_times
        index = min(len(times) - 1, max(0, bisect.bisect_right(times, time) - 1))
        return self.knot_sums[index] + (time - times[index]) * (self.knot_levels[index] + self.level(time)) / 2


def look_of(source: Source, shot: Shot) -> Look:
    """Everything about a source that stays the same from frame to frame."""
    rng = np.random.Generator(np.random.PCG64(source.seed))
    hue, saturation, value = COLOURS[source.attributes["colour"]]
    base = colour_of(hue + float(rng.uniform(-0.02, 0.02)), saturation, value)
    pair = len(shot.sources) > 1
    edge = 3.0 / source.scale
    visible = source.visible
    times = tuple(time for time, _ in source.level)
    levels = tuple(level for _, level in source.level)
    sums = [0.0]
    for index in range(1, len(times)):
        sums.append(sums[-1] + (times[index] - times[index - 1]) * (levels[index] + levels[index - 1]) / 2)
    return Look(
        attribute=next((visible[name] for name in ("speed", "size", "intensity") if name in visible), ""),
        base=base,
        dark=mix(base, INK, 0.55),
        light=mix(base, PAPER, 0.5),
        beats=Beats(source.events),
        hands=(
            Beats(tuple(event for event in source.events if event.variant == 0)),
            Beats(tuple(event for event in source.events if event.variant != 0)),
        ),
        start=shot.start,
        end=shot.end,
        left=-source.x / source.scale if pair and source.x > 0 else -edge,
        right=-source.x / source.scale if pair and source.x < 0 else edge,
        dice=tuple(float(number) for number in rng.uniform(0, 1, 400)),
        knot_times=times,
        knot_levels=levels,
        knot_sums=tuple(sums),
    )


def smooth(share: float) -> float:
    """0 below 0, 1 above 1, an S between."""
    share = min(1.0, max(0.0, share))
    return share * share * (3 - 2 * share)


def flicker(look: Look, index: int, time: float, rate: float) -> float:
    """A restless but smooth curve between -1 and 1, another for each index."""
    first, second = look.dice[(2 * index) % 400], look.dice[(2 * index + 1) % 400]
    return 0.6 * math.sin(2 * math.pi * (rate * (0.8 + 0.4 * first) * time + second)) + 0.4 * math.sin(
        2 * math.pi * (rate * (1.7 + 0.6 * second) * time + first)
    )
