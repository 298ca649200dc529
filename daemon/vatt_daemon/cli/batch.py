"""`vatt batch`: soundtracks for the clips of a manifest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from vatt_client import BatchItem
from vatt_client.session import batch_message

from vatt_daemon.cli.jobs import carry_out, connect
from vatt_daemon.cli.output import print_json

app = typer.Typer(pretty_exceptions_enable=False)

INCOMPLETE = 1
"""Exit code when the batch has ended and some of its items are not done, or its report could not be written."""


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
    job = carry_out(message, quiet=as_json)
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
    if problem or not found.complete:
        raise typer.Exit(INCOMPLETE)


def _print_item(item: BatchItem) -> None:
    for take in item.takes:
        print(take.wav)
    if item.error is not None:
        print(f"item {item.position + 1}, {item.path or 'no path'}: {item.error['message']}", file=sys.stderr)
