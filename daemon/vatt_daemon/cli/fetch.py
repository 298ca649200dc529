"""`vatt fetch`: the takes of a job of a daemon on another machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vatt_daemon.cli.jobs import AsJson, Connection, connect, print_takes, use_connection
from vatt_daemon.cli.output import print_json, progress_display

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def fetch(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Its id.")],
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where the files go.")] = Path(),
    connection_file: Connection = None,
    as_json: AsJson = False,
) -> None:
    """Bring the files that a job has made, when the connection broke off before all were here. Nothing is overwritten."""
    use_connection(connection_file)
    with connect() as client, progress_display(quiet=as_json and not sys.stderr.isatty()) as show:
        found = client.fetch(job, output, on_progress=show)
    if as_json:
        print_json({"job": found.id, "seed": found.seed, **(found.result or {})})
    else:
        print_takes(found)
