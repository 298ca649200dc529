"""Codes of any length → wave, piece by piece, so that memory does not grow with the clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vatt_core.timing import Timing

PIECE_SECONDS = 4
"""Decoded at once, beside what lies around. Longer ones would make memory a matter of the clip's length."""

BEFORE_SECONDS, AFTER_SECONDS = 3, 1
"""What each piece is decoded with on either side: the codec's decoder remembers what was, and looks a little ahead."""

LOOP_FADE_SECONDS = 0.01
"""Over which the end of a loop is moved to meet its begin."""

Decode = Callable[[Tensor], Tensor]


def rendered(
    decode: Decode,
    codes: Tensor,
    timing: Timing,
    *,
    samples: int,
    skipped: int = 0,
    piece_seconds: int = PIECE_SECONDS,
) -> Iterator[NDArray[np.float32]]:
    """The wave of codes [K, T] in pieces: `samples` after the first `skipped` ones. decode: [1, K, n] -> [1, n * hop]."""
    piece, before, after = (int(s * timing.code_rate) for s in (piece_seconds, BEFORE_SECONDS, AFTER_SECONDS))
    hop = timing.hop_length
    left = samples
    for start in range(0, codes.shape[1], piece):
        first = max(0, start - before)
        wave = decode(codes[None, :, first : start + piece + after])[0]
        wave = wave[(start - first) * hop :][: piece * hop]
        begin = max(0, skipped - start * hop)
        wave = wave[begin:][:left]
        left -= len(wave)
        yield wave.float().cpu().numpy()
    if left > 0:
        yield np.zeros(left, np.float32)


def looped(
    decode: Decode, codes: Tensor, timing: Timing, *, samples: int, skipped: int = 0
) -> Iterator[NDArray[np.float32]]:
    """The wave of a loop: decoded as a ring, so that its end goes on into its begin.

    A code frame is rarely used up by the clip's end; the last hundredth of a second is moved by the rest.
    """
    around = min(codes.shape[1], int(BEFORE_SECONDS * timing.code_rate))
    ring = torch.cat([codes[:, -around:], codes, codes[:, :around]], dim=1)
    whole = codes.shape[1] * timing.hop_length
    extra = around * timing.hop_length
    parts = rendered(decode, ring, timing, samples=whole, skipped=extra + skipped)
    wave = np.concatenate(list(parts))
    rest = max(0, whole - samples)
    made = wave[:samples].copy()
    fade = min(samples, round(LOOP_FADE_SECONDS * timing.sample_rate))
    if rest and fade:
        share = (np.arange(fade, dtype=np.float32) + 1) / fade
        place = np.arange(samples - fade, samples)
        made[place] = made[place] * (1 - share) + wave[(place + rest) % whole] * share
    yield made
