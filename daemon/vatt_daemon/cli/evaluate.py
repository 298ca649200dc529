"""`vatt eval world`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from vatt_daemon.cli.output import print_json

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Measure models.")
Split = Literal["held_out", "validation"]


@app.callback()
def group() -> None:
    """Measure models on held-out clips of the procedural world."""


@app.command()
def world(
    model: Annotated[str, typer.Option("--model", help="Name or folder of the model.")] = "nano",
    single: Annotated[int, typer.Option("--single", help="Clips with one thing in one scene.")] = 240,
    double: Annotated[int, typer.Option("--double", help="Clips with two kinds or two scenes.")] = 60,
    parts: Annotated[str | None, typer.Option("--parts", help="Only these, with commas between.")] = None,
    split: Annotated[Split, typer.Option("--split", help="Settings are chosen on validation clips.")] = "held_out",
    cache: Annotated[Path | None, typer.Option("--cache", help="A folder that keeps the rendered pictures.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE.md", help="Write the tables there.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Everything that nano must do, as one table: captions, codec, generation, each with its ceiling and controls."""
    from rich.console import Console

    from vatt_core.evaluation.report import check_target, terminal_table, write_report

    if output is not None:
        check_target(output)
    from vatt_core.evaluation.world import DEFAULT_PARTS, evaluate_world
    from vatt_core.pipeline import Pipeline

    wanted = tuple(part.strip() for part in parts.split(",")) if parts else DEFAULT_PARTS
    report = evaluate_world(
        Pipeline.load(model, device=device),
        single=single,
        double=double,
        parts=wanted,
        cache=cache,
        split=split,
        progress=_Steps().show,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        Console().print(terminal_table(report))
    if output is not None:
        write_report(report, output)


class _Steps:
    """A line on standard error at most every ten seconds, and when a part is done."""

    def __init__(self) -> None:
        self._last = 0.0

    def show(self, part: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last >= 10.0:
            self._last = now
            print(f"{part} {done}/{total}", file=sys.stderr, flush=True)
