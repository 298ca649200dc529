"""What a device can do at best: matrix products of the shapes of a step, and reading memory; and what a processor knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def timed(action: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
    """Seconds of each run, after one that does not count."""
    action()
    seconds = []
    for _ in range(runs):
        wait(device)
        begun = time.perf_counter()
        action()
        wait(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(dtype: torch.dtype, device: torch.device, runs: int) -> float:
    """Operations per second of the products that a step is mostly made of, [1080, 1024] x [1024, 4096]."""
    left = torch.randn(1080, 1024, device=device, dtype=dtype)
    weight = torch.randn(4096, 1024, device=device, dtype=dtype)
    count = 20

    def multiply() -> None:
        for _ in range(count):
            torch.nn.functional.linear(left, weight)

    return count * 2.0 * left.numel() * len(weight) / min(timed(multiply, device, runs))


def bandwidth(device: torch.device, runs: int) -> float:
    """Bytes per second that are read from memory too large for a cache."""
    numbers = torch.ones(1 << 28, device=device)  # 1 GiB
    return numbers.numel() * numbers.element_size() / min(timed(numbers.sum, device, runs))


_SETS = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16", "neon", "sve", "bf16")


def instruction_sets() -> list[str]:
    """The instruction sets of the processor that decide how fast it multiplies matrices, as far as torch says."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return [one for one in _SETS if known.get(one)] or [torch.backends.cpu.get_cpu_capability().lower()]
