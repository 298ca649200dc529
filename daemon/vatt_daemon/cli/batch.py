"""`vatt batch`: soundtracks for the clips of a manifest."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from vatt_client import BatchItem, Progress
from vatt_client.session import batch_message

from vatt_daemon.cli.jobs import carry_out, connect
from vatt_daemon.cli.output import print_json

app = typer.Typer(pretty_exceptions_enable=False)

INCOMPLETE = 1
"""Exit code when the batch has ended and some of its items are not done."""
LINE_INTERVAL = 10.0
"""Seconds between two lines of progress where there is no terminal."""


@app.command()
def batch(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="JSON Lines or CSV: path, in, out, prompt, seed, takes, output.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Folder for the items that name none.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model of the items that name none.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report to this file, as JSON.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Make also what is made already and still whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Soundtracks for many clips. An item that fails fails alone; the exit code is 1 then.

    The same command again goes on where the last one was interrupted: what is made and still whole is kept.
    """
    message = batch_message(
        manifest, output=output, report=report, resume=not again, defaults={} if model is None else {"model": model}
    )
    job = carry_out(message, quiet=as_json, display=_progress)
    with connect() as client:
        found = client.report(job.id)
    if as_json:
        print_json(found.to_dict())
    else:
        for item in found.items:
            _print_item(item)
        counts = found.counts
        kept = f" ({counts['kept']} of them before)" if counts["kept"] else ""
        print(f"{counts['done']} of {len(found.items)} clips done{kept}, {counts['failed']} failed, "
              f"{counts['cancelled']} cancelled (batch {found.job})", file=sys.stderr)  # fmt: skip
        problem = (job.result or {}).get("report_error")
        if problem:
            print(f"The report was not written: {problem['message']}", file=sys.stderr)
    if not found.complete:
        raise typer.Exit(INCOMPLETE)


def _print_item(item: BatchItem) -> None:
    for take in item.takes:
        print(take.wav)
    if item.error is not None:
        print(f"item {item.position + 1}, {item.path or 'no path'}: {item.error['message']}", file=sys.stderr)


@contextmanager
def _progress(*, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Shows how many clips are done, and how long the rest will take."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines().show


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("clips", total=None, left="")

        def show(progress: Progress) -> None:
            bars.update(task, completed=progress.done, total=progress.total, left=_left(progress))

        yield show


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._last = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_INTERVAL or progress.done == progress.total:
            self._last = now
            print(f"{progress.done} of {progress.total} clips {_left(progress)}".rstrip(), file=sys.stderr, flush=True)


def _left(progress: Progress) -> str:
    if not progress.eta:
        return ""
    minutes, seconds = divmod(round(progress.eta), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"
