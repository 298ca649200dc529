"""How a clip that is longer than the model's window is cut into overlapping windows, in two passes.

Windows 0, 2, 4 … know nothing of each other and go through together; windows 1, 3, 5 … lie between two neighbours, are
given what these decided, and fill what lies between. So a seam is generated, not cross-faded, and however long the clip
is there are two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil

from vatt_core.timing import Timing

SHARED = Fraction(8, 5)
"""Seconds that neighbouring windows share at least, and that a window between two others fills at least."""

EDGE = Fraction(3, 5)
"""Seconds at the inner ends of the windows of the first pass that are left to those between them. A model begins a window as
clips begin, without the last of what was heard before: kept, that would be a step at the seam. What else they share the
windows between them see."""

AROUND = Fraction(2)
"""Seconds that are looked at on both sides of what is filled in a take."""


@dataclass(frozen=True)
class Window:
    """One window, on the grids of the clip. first_frame, first_code: where it begins. keep_from, keep_to: the code frames
    of the clip that are taken from it; those of all windows follow each other without a gap."""

    index: int
    first_frame: int
    first_code: int
    keep_from: int
    keep_to: int


def plan_windows(duration: Fraction, timing: Timing, *, lead_tokens: int = 0) -> list[Window]:
    """The windows that cover `duration` seconds, in order. All begin on a video token, so frames and codes agree.

    lead_tokens: video tokens of each window that are taken by something else. Raises ValueError when hardly any is left.
    """
    length = timing.video_tokens - lead_tokens
    shared, edge = (ceil(seconds * timing.video_token_rate) for seconds in (SHARED, EDGE))
    if length < 2 * shared:
        raise ValueError(f"{length} video tokens are too few for windows that share {shared} of them")
    tokens = ceil(duration * timing.video_token_rate)
    beyond = max(0, tokens - length)
    steps = -(-beyond // (length - shared))
    starts = [round(Fraction(beyond * index, max(1, steps))) for index in range(steps + 1)]
    # Window `index` begins to be kept at borders[index].
    borders = [0]
    for index in range(1, steps + 1, 2):
        left = starts[index - 1] + length - edge
        if index == steps:
            borders.append(left)
            break
        right = starts[index + 1] + edge
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


def plan_span(first: int, last: int, codes: int, timing: Timing, *, lead_tokens: int = 0) -> list[Window]:
    """The windows that fill the code frames [first, last) of a shot of `codes` code frames.

    Around what is filled they show what is there already: one window as far as it goes to both sides where that is enough,
    else windows in two passes that begin and end `AROUND` outside of it. Empty where there is nothing to fill.
    """
    if first >= last:
        return []
    per_token = timing.codes_per_video_token
    tokens, length = -(-codes // per_token), timing.video_tokens - lead_tokens
    around = ceil(AROUND * timing.video_token_rate)
    begin, end = max(0, first // per_token - around), min(tokens, -(-last // per_token) + around)
    if end - begin <= length:
        start = max(0, min((begin + end - length) // 2, tokens - length))
        windows = [_window(0, start, 0, length * per_token, timing)]
    else:
        planned = plan_windows(Fraction(end - begin) / timing.video_token_rate, timing, lead_tokens=lead_tokens)
        windows = [
            _window(
                w.index, begin + w.first_code // per_token, w.keep_from - w.first_code, w.keep_to - w.first_code, timing
            )
            for w in planned
        ]
    kept = [replace(w, keep_from=max(first, w.keep_from), keep_to=min(last, w.keep_to)) for w in windows]
    return [window for window in kept if window.keep_from < window.keep_to]


def _window(index: int, token: int, keep_from: int, keep_to: int, timing: Timing) -> Window:
    """A window that begins at a video token and keeps these of its own code frames."""
    code = token * timing.codes_per_video_token
    return Window(index, token * timing.frames_per_video_token, code, code + keep_from, code + keep_to)


def shot_borders(cuts: Sequence[Fraction], codes: int, timing: Timing) -> list[tuple[int, int]]:
    """Code frames [first, last) of each shot of a clip of `codes` code frames: a shot begins with the first one that
    begins at or after its cut."""
    starts = [0, *(-int(-cut * timing.code_rate // 1) for cut in cuts), codes]
    return [(first, last) for first, last in pairwise(starts) if first < last]
