"""Which part of an earlier take is made anew, and how the new part is set into the old file. Imports no torch.

Outside of what is made anew the samples stay what they are, bit by bit, but for `border_samples` on either side: so far
a code reaches in the codec's decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from vatt_core.errors import BadRequest
from vatt_core.timing import Timing

RESAMPLER_REACH = 64
"""Samples at the model's rate that the resampler looks to either side."""


def region_frames(region: tuple[Fraction, Fraction], duration: Fraction, timing: Timing) -> tuple[int, int]:
    """Code frames [first, last) that a region [start, end) of seconds touches. Raises BadRequest outside the clip."""
    start, end = region
    if not 0 <= start < end <= duration:
        raise BadRequest(
            f"The region from {float(start):g} s to {float(end):g} s lies outside the clip, which lasts "
            f"{float(duration):.3f} s.",
            field="region",
        )
    return int(start * timing.code_rate // 1), -int(-end * timing.code_rate // 1)


def varied(codebooks: int, frames: int, share: float, by: str) -> NDArray[np.bool_]:
    """Which codes [codebooks, frames] are made anew when `share` (0…1) of them is.

    by "time": whole code frames, evenly spread. by "coarse": the finest codebooks first, the last one touched only in
    evenly spread frames, so that a small share changes texture and a large one the events.
    """

    def spread(part: float) -> NDArray[np.bool_]:
        steps = np.floor(np.arange(frames + 1) * part + 1e-9)
        return np.diff(steps) > 0

    if by == "time":
        return np.broadcast_to(spread(share), (codebooks, frames)).copy()
    chosen = np.zeros((codebooks, frames), bool)
    left = share * codebooks
    for book in reversed(range(codebooks)):
        chosen[book] = spread(min(1.0, left))
        left = max(0.0, left - 1.0)
    return chosen


def border_samples(timing: Timing, context_frames: int, sample_rate: int) -> int:
    """Samples at `sample_rate` on either side of what is made anew that may change as well. context_frames: code frames
    that the codec's decoder reaches (`Codec.context_frames`)."""
    reach = context_frames * timing.hop_length + RESAMPLER_REACH
    return -int(-Fraction(reach * sample_rate, timing.sample_rate) // 1)


@dataclass(frozen=True)
class Splice:
    """Where new sound stands in an old one. spans: samples (begin of the fade in, begin of the new, end of the new, end of
    the fade out), in order, apart from each other. old: samples [first, last) that the old sound has, in the new count.
    """

    spans: tuple[tuple[int, int, int, int], ...]
    old: tuple[int, int]

    @classmethod
    def of(
        cls,
        changed: NDArray[np.bool_],
        *,
        timing: Timing,
        sample_rate: int,
        border: int,
        old: tuple[int, int],
        lag: Fraction,
    ) -> Splice:
        """changed: [T], which code frames are others. lag: seconds from the clip's begin to that of code frame 0, at most 0."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], changed, [False]]).astype(np.int8)))
        found: list[list[int]] = []
        for first, last in zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True):
            begin, end = (
                int((Fraction(k) / timing.code_rate + lag) * sample_rate // 1) + more
                for k, more in ((first, 0), (last, 1))
            )
            if found and begin - border < found[-1][1] + border:
                found[-1][1] = end
            else:
                found.append([begin, end])
        return cls(tuple((begin - border, begin, end, end + border) for begin, end in found), old)

    def weights(self, start: int, stop: int) -> NDArray[np.float64]:
        """The share of the new sound at samples [start, stop): 0 where the old one is kept as it is."""
        place = np.arange(start, stop)
        share = np.where((place < self.old[0]) | (place >= self.old[1]), 1.0, 0.0)
        for rise, begin, end, fall in self.spans:
            if fall <= start or rise >= stop:
                continue
            into = np.clip((place - rise) / max(1, begin - rise), 0, 1)
            out = np.clip((fall - 1 - place) / max(1, fall - end), 0, 1)
            np.maximum(share, (1 - np.cos(np.pi * np.minimum(into, out))) / 2, out=share)
        return share

    @property
    def keeps_something(self) -> bool:
        """Whether any sample of the old sound is left."""
        at = self.old[0]
        for rise, _, _, fall in self.spans:
            if rise > at:
                return True
            at = max(at, fall)
        return at < self.old[1]
