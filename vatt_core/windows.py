"""How a clip that is longer than the model's window is cut into overlapping windows, in two passes.

Windows 0, 2, 4 … know nothing of each other and go through together; windows 1, 3, 5 … lie between two neighbours, are
given what these decided inside the overlaps, and fill the rest. So a seam is generated, not cross-faded, and however long
the clip is there are two passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vatt_core.timing import Timing

OVERLAP = Fraction(2)
"""Seconds that neighbouring windows share."""


@dataclass(frozen=True)
class Window:
    """One window. first_frame: its first frame on the frame grid of the clip. first_code: its first code frame."""

    index: int
    first_frame: int
    first_code: int


def plan_windows(duration: Fraction, timing: Timing, *, overlap: Fraction = OVERLAP) -> list[Window]:
    """The windows that cover `duration` seconds, in order. All begin on a video token, so frames and codes agree."""
    tokens = -(-duration * timing.video_token_rate // 1)  # rounded up
    window = timing.video_tokens
    stride = window - int(overlap * timing.video_token_rate)
    starts = [0]
    while starts[-1] + window < tokens:
        starts.append(min(starts[-1] + stride, int(tokens) - window))
    return [
        Window(
            index=index,
            first_frame=start * timing.frames_per_video_token,
            first_code=start * timing.codes_per_video_token,
        )
        for index, start in enumerate(starts)
    ]
