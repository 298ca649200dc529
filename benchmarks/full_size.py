"""The audio transformer at the size of the release, random weights: one guided step, and on a GPU the whole way of a clip.

    python -m benchmarks.full_size [--device cpu] [--runs N] [--takes N] [--precision P] [--clip] [--json]

The floor is what the matrix products take at the rate at which this machine multiplies matrices of the same shapes, or what
it takes to read the weights once, whichever is longer. It asserts nothing. On a machine that does something else at the same
time the figures say little. Where a processor has no fast products in bfloat16, they are computed in float32, as in the worker.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.full_size_clip import BARS_OF_CLIP, Part, measure_clip
from benchmarks.full_size_rates import bandwidth, instruction_sets, matrix_rate, timed
from benchmarks.measure import machine_facts, peak_memory
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.dry_run import filled, official_config
from vatt_core.model.folder import build_part
from vatt_core.model.products import is_slow, products_of
from vatt_core.timing import Timing

SLOTS = 40
"""Condition slots of a usual prompt; with 500 code frames 540 positions."""

GUIDED_ROWS = 2
BARS = {"float32": 2.4, "bfloat16": 0.8}
"""Seconds on two idle CPU cores with AMX that the project wants."""

AMX = "amx_bf16"


@dataclass(frozen=True)
class Step:
    """widened: its products were computed in float32. seconds: median of the runs. rate: of matrix products alone, as they
    are computed, in 10^12 operations per second. bandwidth: 10^9 bytes per second. by_operations, by_bytes: seconds that
    the products, and reading the weights, take at these. peak: MiB of the process, or of the GPU."""

    precision: str
    widened: bool
    seconds: float
    fastest: float
    rate: float
    bandwidth: float
    by_operations: float
    by_bytes: float
    peak: float
    bar: float | None

    @property
    def floor(self) -> float:
        return max(self.by_operations, self.by_bytes)

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


@torch.inference_mode()
def measure(precision: str, device: torch.device, runs: int, takes: int = 1) -> Step:
    dtype: torch.dtype = getattr(torch, precision)
    torch.manual_seed(0)
    whole = official_config("vatt-gemma", "gemma")
    config, timing = whole.audio, whole.timing
    model = filled(build_part(whole, "audio_transformer", empty=True), dtype, device)
    rows = GUIDED_ROWS * takes
    codes = torch.randint(0, timing.codebook_size + 1, (rows, timing.codebooks, timing.code_frames), device=device)
    states = torch.randn(rows, SLOTS, config.condition_dim, device=device, dtype=dtype)
    keep = torch.ones(rows, SLOTS)
    drop = torch.arange(rows, device=device) >= takes
    with products_of(model):
        seconds = timed(lambda: model(codes, states, keep, drop_condition=drop), device, runs)
        widened = is_slow(dtype, device)
        rate = matrix_rate(torch.float32 if widened else dtype, device, runs)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory(os.getpid())
    reading = bandwidth(device, runs)
    bar = BARS.get(precision) if device.type == "cpu" and takes == 1 else None
    return Step(
        precision=precision,
        widened=widened,
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        rate=rate / 1e12,
        bandwidth=reading / 1e9,
        by_operations=operations(config, timing, rows) / rate,
        by_bytes=sum(value.numel() * value.element_size() for value in model.parameters()) / reading,
        peak=peak,
        bar=bar,
    )


def alone(action: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, so that the peak of its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description="The full-size step.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--precision", action="append", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--clip", action="store_true", help="the whole way of a clip too; always done on a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    steps: list[Step] = [
        alone(measure, precision, device, options.runs, options.takes)
        for precision in options.precision or ["float32", "bfloat16"]
    ]
    clip: list[Part] = []
    if options.clip or device.type == "cuda":
        clip = alone(measure_clip, "gemma", device, "bfloat16", options.runs)
    facts = machine_facts() | {"device": device_name(device), "threads": torch.get_num_threads(), "runs": options.runs}
    if device.type == "cpu":
        facts["instructions"] = " ".join(instruction_sets())
    if options.json:
        found = {"steps": [asdict(step) for step in steps], "clip": [asdict(part) for part in clip], "machine": facts}
        print(json.dumps(found, indent=1))
        return
    console = Console(width=150)
    console.print(step_table(steps, options.takes))
    if clip:
        console.print(clip_table(clip, bars=BARS_OF_CLIP if device.type == "cuda" else {}))
    console.print("   ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    if device.type == "cpu" and AMX not in instruction_sets():
        console.print(f"The bars were set on processors with {AMX}, which this one lacks: they say little here.")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def step_table(steps: list[Step], takes: int) -> Table:
    table = Table(title=f"One step, {SLOTS + 500} positions, {GUIDED_ROWS * takes} rows", title_justify="left")
    columns = (
        "precision", "bar", "median s", "fastest s", "10^12 op/s", "10^9 byte/s", "by op s", "by bytes s", "ratio", "peak MiB",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "precision" else "right")
    for step in steps:
        table.add_row(
            step.precision + ", widened" * step.widened, "" if step.bar is None else f"{step.bar:g}",
            f"{step.seconds:.3f}", f"{step.fastest:.3f}", f"{step.rate:.3f}", f"{step.bandwidth:.1f}",
            f"{step.by_operations:.3f}", f"{step.by_bytes:.3f}", f"{step.ratio:.2f}", f"{step.peak:.0f}",
        )  # fmt: skip
    return table


def clip_table(parts: list[Part], bars: dict[str, float]) -> Table:
    table = Table(title="VATT-Gemma at real size, a clip of 10 s, warm", title_justify="left")
    for column in ("stage", "bar", "median s", "floor s", "ratio", "peak MiB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for part in parts:
        bar = bars.get(part.name)
        table.add_row(
            part.name, "" if bar is None else f"{bar:g}", f"{part.seconds:.3f}", f"{part.floor:.3f}",
            f"{part.seconds / part.floor:.2f}", f"{part.peak:.0f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
