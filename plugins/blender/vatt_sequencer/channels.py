"""Where a new sound goes: the first channel beside the strip that is free for its whole length. Pure: no bpy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

NAME = "VATT"
LOWEST, HIGHEST = 1, 128


class NoFreeChannel(Exception):
    """All channels are taken in that range."""


@dataclass(frozen=True)
class Occupied:
    """A strip's place: timeline frames [first, last) of a channel."""

    channel: int
    first: int
    last: int


def free_channel(
    taken: Iterable[Occupied],
    *,
    first: int,
    last: int,
    beside: int,
    below: bool,
    blocked: Collection[int] = (),
    named: Collection[int] = (),
) -> int:
    """The channel for [first, last) beside channel `beside`.

    A channel of our own name that is free comes first, nearest first; then the nearest one below (or above), then the
    nearest on the other side. `blocked`: locked or muted channels. Raises NoFreeChannel.
    """
    full = {strip.channel for strip in taken if strip.first < last and first < strip.last} | set(blocked)
    free = [channel for channel in range(LOWEST, HIGHEST + 1) if channel not in full]
    if not free:
        raise NoFreeChannel(f"No channel is free from frame {first} to {last}. Free one, then place the sound again.")

    def order(channel: int) -> tuple[bool, bool, int]:
        wrong_side = (channel >= beside) if below else (channel <= beside)
        return channel not in named, wrong_side, abs(channel - beside)

    return min(free, key=order)
