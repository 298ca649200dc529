"""One decoding step of the audio transformer at the size of the release, random weights: seconds, floor, ratio, memory.

    python -m benchmarks.full_size [--device cpu] [--runs N] [--takes N] [--json]

The floor is the work of the matrix products divided by the rate at which this machine multiplies matrices of the same shapes.
It asserts nothing. On a machine that does something else at the same time the figures say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine_facts
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.timing import Timing

SLOTS = 40
"""Condition slots of a usual prompt; with 500 code frames 540 positions."""

GUIDED_ROWS = 2
BARS = {"float32": 2.4, "bfloat16": 0.8}
"""Seconds on two idle CPU cores that the project wants."""


@dataclass(frozen=True)
class Step:
    """seconds: median of the runs. rate: of matrix products alone, in 10^12 operations per second. floor: seconds that
    they would take at that rate. peak: MiB of the process, or of the GPU."""

    precision: str
    seconds: float
    fastest: float
    rate: float
    floor: float
    peak: float
    bar: float | None

    @property
    def ratio(self) -> float:
        return self.seconds / self.floor


def products(config: AudioTransformerConfig, timing: Timing, rows: int) -> list[tuple[int, int, int, float]]:
    """(tokens, width in, width out, times) of the matrix products of a step: attention's own are counted with their size."""
    slots, frames = SLOTS, timing.code_frames
    length, dim = slots + frames, config.dim
    inner_encoder, inner_decoder = config.encoder_heads * config.dim_head, config.decoder_heads * config.dim_head
    tokens, audio = rows * length, rows * frames
    found: list[tuple[int, int, int, float]] = []
    for layers, inner in ((config.encoder_layers, inner_encoder), (config.decoder_layers, inner_decoder)):
        found += [(tokens, dim, 3 * inner, layers), (tokens, inner, dim, layers)]
        found += [(tokens, dim, 4 * dim, layers), (tokens, 4 * dim, dim, layers)]
        found.append((tokens, inner, length, 2 * layers))  # scores and their sums of values
    found += [(audio, dim, timing.codebooks * timing.codebook_size, 1), (rows * slots, config.condition_dim, dim, 1)]
    # The last layer of the decoder asks for the audio slots only.
    left_out = rows * slots
    found += [(-left_out, inner_decoder, dim, 1), (-left_out, dim, 4 * dim, 1), (-left_out, 4 * dim, dim, 1)]
    return found


def operations(config: AudioTransformerConfig, timing: Timing, rows: int) -> float:
    return sum(2.0 * tokens * wide * out * times for tokens, wide, out, times in products(config, timing, rows))


def matrix_rate(dtype: torch.dtype, device: torch.device, runs: int) -> float:
    """Operations per second of the products that a step is mostly made of, [1080, 1024] x [1024, 4096]."""
    left = torch.randn(GUIDED_ROWS * (SLOTS + 500), 1024, device=device, dtype=dtype)
    weight = torch.randn(4096, 1024, device=device, dtype=dtype)
    count = 20

    def multiply() -> None:
        for _ in range(count):
            torch.nn.functional.linear(left, weight)

    return count * 2.0 * left.numel() * len(weight) / min(timed(multiply, device, runs))


def timed(action: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
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


@torch.inference_mode()
def measure(precision: str, *, device: torch.device, runs: int, takes: int = 1) -> Step:
    dtype: torch.dtype = getattr(torch, precision)
    config, timing = AudioTransformerConfig(condition_dim=2048), Timing()
    torch.manual_seed(0)
    model = AudioTransformer(config, timing).eval().to(device, dtype)
    rows = GUIDED_ROWS * takes
    codes = torch.randint(0, timing.codebook_size + 1, (rows, timing.codebooks, timing.code_frames), device=device)
    states = torch.randn(rows, SLOTS, config.condition_dim, device=device, dtype=dtype)
    keep = torch.ones(rows, SLOTS)
    drop = torch.arange(rows, device=device) >= takes
    seconds = timed(lambda: model(codes, states, keep, drop_condition=drop), device, runs)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak = psutil.Process().memory_info().rss / 2**20
    rate = matrix_rate(dtype, device, runs)
    bar = BARS.get(precision) if device.type == "cpu" and takes == 1 else None
    floor = operations(config, timing, rows) / rate
    return Step(precision, statistics.median(seconds), min(seconds), rate / 1e12, floor, peak, bar)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description="The full-size step.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--precision", action="append", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    steps = [
        measure(precision, device=device, runs=options.runs, takes=options.takes)
        for precision in options.precision or ["float32", "bfloat16"]
    ]
    facts = machine_facts() | {"device": str(device), "threads": torch.get_num_threads(), "runs": options.runs}
    if options.json:
        print(json.dumps({"steps": [asdict(step) for step in steps], "machine": facts}, indent=1))
        return
    table = Table(
        title=f"Audio transformer, {SLOTS + 500} positions, {GUIDED_ROWS * options.takes} rows", title_justify="left"
    )
    for column in ("precision", "bar", "median s", "fastest s", "matrix rate 10^12/s", "floor s", "ratio", "peak MiB"):
        table.add_column(column, justify="left" if column == "precision" else "right")
    for step in steps:
        table.add_row(
            step.precision, "" if step.bar is None else f"{step.bar:g}", f"{step.seconds:.3f}", f"{step.fastest:.3f}",
            f"{step.rate:.2f}", f"{step.floor:.3f}", f"{step.ratio:.2f}", f"{step.peak:.0f}",
        )  # fmt: skip
    console = Console(width=130)
    console.print(table)
    console.print("   ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


if __name__ == "__main__":
    main()
