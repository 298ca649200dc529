"""`python -m benchmarks [jobs|front] [--json] [--runs N]`: see README.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import front, measure
from benchmarks.measure import Bench

PARTS = ("jobs", "front")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times and memory of the main job, and of the daemon."
    )
    parser.add_argument("part", nargs="?", choices=PARTS, help="only this part; left out, everything")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--runs", type=int, default=3, help="repetitions, of which the median counts")
    parser.add_argument("--model", default="nano")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")

    def told(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    found: dict[str, Bench | front.Front] = {}
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as name:
        for part in [options.part] if options.part else PARTS:
            folder = Path(name) / part
            folder.mkdir()
            if part == "jobs":
                found[part] = measure.run(folder, runs=options.runs, model=options.model, told=told)
            else:
                found[part] = front.run(folder, runs=options.runs, told=told)
    if options.json:
        print(json.dumps({part: dataclasses.asdict(figures) for part, figures in found.items()}, indent=1))
        return
    for figures in found.values():
        if isinstance(figures, Bench):
            show(figures)
        else:
            show_front(figures)


def show_front(figures: front.Front) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(title="The daemon without a model", title_justify="left")
    for column in ("figure", "bar", "measured", "", "spread"):
        table.add_column(column, justify="left" if column in ("figure", "", "spread") else "right")
    for figure in figures.figures:
        sign = ">" if figure.better == "above" else "<"
        measured = f"{figure.value:.3g}" if figure.value < 1000 else f"{figure.value:.0f}"
        table.add_row(
            figure.name,
            f"{sign} {figure.bar:g}",
            f"{measured} {figure.unit}",
            "ok" if figure.met else "missed",
            figure.note,
        )
    console.print(table)
    console.print("   ".join(f"{name} {value}" for name, value in figures.machine.items()), highlight=False)


def show(bench: Bench) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    stages = list(dict.fromkeys(stage for job in bench.jobs for stage in job.stages))
    table = Table(title=f"A clip of 10 s, warm daemon, {bench.machine['model']}: seconds", title_justify="left")
    table.add_column("job")
    for column in ("bar", "wall", "fastest", "slowest", *stages):
        table.add_column(column, justify="right")
    for job in bench.jobs:
        table.add_row(
            job.name,
            "" if job.bar is None else f"{job.bar:g}",
            f"{job.wall:.2f}",
            f"{min(job.walls):.2f}",
            f"{max(job.walls):.2f}",
            *(f"{job.stages[stage]:.2f}" if stage in job.stages else "" for stage in stages),
        )
    console.print(table)

    memory = bench.memory
    torch = {True: "yes", False: "no", None: "unknown"}[memory.torch_in_front]
    table = Table(title="Memory", title_justify="left")
    for column in ("process", "bar", "peak", "has loaded torch"):
        table.add_column(column, justify="left" if column == "process" else "right")
    table.add_row("worker", f"{memory.worker_bar:.0f} MiB", f"{memory.worker:.0f} MiB", "yes")
    table.add_row("daemon's front", "", f"{memory.front:.0f} MiB", torch)
    console.print(table)
    console.print(f"first job after the start, with loading of the model: {bench.first_job:.1f} s")
    console.print("   ".join(f"{name} {value}" for name, value in bench.machine.items()), highlight=False)


if __name__ == "__main__":
    main()
