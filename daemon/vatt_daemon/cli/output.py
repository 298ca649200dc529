"""What the commands print: a progress bar on a terminal, plain lines elsewhere, JSON for scripts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vatt_client.replies import Progress

STAGES = {
    "send": "sending the files",
    "load": "loading the model",
    "read": "reading the clip",
    "look": "seeing",
    "caption": "captioning",
    "compose": "composing",
    "join": "joining the ends",
    "nudge": "fitting the motion",
    "sound": "making sound",
    "write": "writing files",
    "fetch": "fetching the files",
}

LINE_INTERVAL = 10.0
"""Seconds between two lines about the same stage where there is no terminal."""


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns on a terminal; lines with tabs, without a header, elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress_display(*, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Yields the callback that shows the progress of a job or a batch on standard error."""
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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[left]}"))  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                label = STAGES.get(progress.stage, progress.stage)
                tasks[progress.stage] = bars.add_task(label, total=progress.total, left="")
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, left=_left(progress))

        yield show


class _Lines:
    """A line when a stage begins, and now and then while it lasts, with the time since the first."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._told = self._began
        self._stage = ""

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        label = STAGES.get(progress.stage, progress.stage)
        if progress.stage == self._stage:
            if now - self._told < LINE_INTERVAL:
                return
            label = f"{label} {progress.done} of {progress.total} {_left(progress)}".rstrip()
        self._stage, self._told = progress.stage, now
        print(f"{now - self._began:6.1f} s  {label}", file=sys.stderr, flush=True)


def _left(progress: Progress) -> str:
    if not progress.eta:
        return ""
    minutes, seconds = divmod(round(progress.eta), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"
