"""The learning rate over a training run (reference 5.2)."""

from __future__ import annotations


def learning_rate_factor(
    step: int,
    *,
    warm_up_steps: int,
    total_steps: int,
    start: float = 1e-6,
    highest: float = 1.0,
    lowest: float = 0.0,
) -> float:
    """Factor on the base learning rate at optimiser step `step`, counted from 0.

    Linear from `start` to `highest` over the warm-up, then on the line that goes from `highest` at step 0 to `lowest`
    at `total_steps` (the official jump at the end of the warm-up is kept). Past the end it stays at `lowest`.
    """
    if step < warm_up_steps:
        return start + (highest - start) * step / warm_up_steps
    left = max(total_steps - step, 0) / total_steps
    return lowest + (highest - lowest) * left
