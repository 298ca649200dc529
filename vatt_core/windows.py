"""How a clip that is longer than the model's window is cut into overlapping windows, in two passes.

Windows 0, 2, 4 … know nothing of each other and go through together; windows 1, 3, 5 … lie between two neighbours, are
given what these decided, and fill what lies between. So a seam is generated, not cross-faded, and however long the clip
is there are two passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vatt_core.timing import Timing

OVERLAP = Fraction(2)
"""Seconds that neighbouring windows share at least, and that a window between two others fills at least."""


@dataclass(frozen=True)
class Window:
    """One window, on the grids of the clip. first_frame, first_code: where it begins. keep_from, keep_to: the code frames
    of the clip that are taken from it; those of all windows follow each other without a gap."""

    index: int
    first_frame: int
    first_code: int
    keep_from: int
    keep_to: int


def plan_windows(duration: Fraction, timing: Timing, *, overlap: Fraction = OVERLAP) -> list[Window]:
    """The windows that cover `duration` seconds, in order. All begin on a video token, so frames and codes agree."""
    length, shared = timing.video_tokens, int(overlap * timing.video_token_rate)
    tokens = -int(-duration * timing.video_token_rate // 1)  # rounded up
    beyond = max(0, tokens - length)
    steps = -(-beyond // (length - shared))
    starts = [round(Fraction(beyond * index, max(1, steps))) for index in range(steps + 1)]
    # Window `index` begins to be kept at borders[index].
    borders = [0]
    for index in range(1, steps + 1, 2):
        left = starts[index - 1] + length
        if index == steps:
            borders.append(left)
            break
        right = starts[index + 1]
        if right - left < shared:
            # The neighbours touch or overlap: what they decided there is dropped, or there would be a hard seam.
            left = (left + right - shared) // 2
            right = left + shared
        borders += [left, right]
    borders.append(starts[-1] + length)
    codes = timing.codes_per_video_token
    return [
        Window(
            index=index,
            first_frame=start * timing.frames_per_video_token,
            first_code=start * codes,
            keep_from=borders[index] * codes,
            keep_to=borders[index + 1] * codes,
        )
        for index, start in enumerate(starts)
    ]
