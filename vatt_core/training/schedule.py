"""The learning rate over a training run."""

from __future__ import annotations

import math


def cosine_factor(step: int, *, warm_up_steps: int, total_steps: int, lowest: float = 0.02) -> float:
    """Factor on the base learning rate at optimiser step `step`, counted from 0: linear warm-up, then a half cosine."""
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    progress = (step - warm_up_steps) / max(1, total_steps - warm_up_steps)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def official_factor(
    step: int,
    *,
    warm_up_steps: int,
    total_steps: int,
    start: float = 1e-6,
    highest: float = 1.0,
    lowest: float = 0.0,
) -> float:
    """VATT's factor on the base learning rate at optimiser step `step`, counted from 0 (reference 5.2).

    Linear from `start` to `highest` over the warm-up, then on the line that goes from `highest` at step 0 to `lowest`
    at `total_steps` (the official jump at the end of the warm-up is kept). Past the end it stays at `lowest`.
    """
    if step < warm_up_steps:
        return start + (highest - start) * step / warm_up_steps
    left = max(total_steps - step, 0) / total_steps
    return lowest + (highest - lowest) * left
