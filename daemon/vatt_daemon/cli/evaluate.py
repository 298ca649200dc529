"""`vatt eval world`. Runs in this process: no daemon is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vatt_daemon.cli.output import print_json

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Measure models.")


@app.callback()
def group() -> None:
    """Measure models on clips that they were not trained on."""


@app.command()
def world(
    model: Annotated[str, typer.Option("--model", help="Name or folder of the model.")] = "nano",
    clips: Annotated[
        int, typer.Option("--clips", min=1, help="Clips with one thing; a quarter as many with two kinds or scenes.")
    ] = 240,
    parts: Annotated[
        str, typer.Option("--parts", help="What to measure, with commas between.")
    ] = "captions,codec,generation",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Clips that are generated together.")] = 8,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FOLDER", help="Keeps the rendered pictures for the next run.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.md", help="Write the tables as Markdown too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """The table of a model on held-out clips of the world: captions, codec, generated sound, steering."""
    from vatt_core.evaluation.report import terminal_table, write_report
    from vatt_core.evaluation.world import evaluate_world
    from vatt_core.pipeline import Pipeline

    pipeline = Pipeline.load(model, device=device)
    with _progress() as progress:
        report = evaluate_world(
            pipeline,
            single=clips,
            double=clips // 4,
            parts=[part.strip() for part in parts.split(",") if part.strip()],
            batch=batch,
            cache=cache.expanduser().absolute() if cache else None,
            progress=progress,
        )
    if output is not None:
        write_report(report, output.expanduser().absolute())
    if as_json:
        print_json(report.to_dict())
        return
    from rich.console import Console

    # Tables in a file or a pipe are not cut at 80 columns.
    Console(width=None if sys.stdout.isatty() else 200).print(terminal_table(report))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal; elsewhere one line when a part begins. Both on standard error."""
    if not sys.stderr.isatty():
        begun: set[str] = set()

        def say(part: str, done: int, total: int) -> None:
            if part not in begun:
                begun.add(part)
                print(f"{part}: {total}", file=sys.stderr, flush=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total)
            bars.update(tasks[part], completed=done)

        yield show
