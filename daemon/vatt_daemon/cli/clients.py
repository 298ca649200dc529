"""`vatt clients`: which other machines may use this daemon."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from vatt_client import connection

from vatt_core.errors import BadRequest, ForbiddenPath
from vatt_daemon.cli.output import print_json, print_table
from vatt_daemon.clients import NamedClients, connection_for
from vatt_daemon.folders import folders
from vatt_daemon.keys import load_key_pair
from vatt_daemon.settings import load_settings

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Which other machines may use this daemon."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The client's name, such as that of its machine.")]


@app.command()
def add(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="The connection file; left out, vatt-NAME.json.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="What the client's machine calls this one; left out, as set.")
    ] = "",
) -> None:
    """Let a client in, with a key of its own, and write its connection file. Whoever has that file is let in."""
    places, settings = folders(), load_settings()
    file = (output or Path(f"vatt-{name}.json")).expanduser().absolute()
    if file.exists():
        raise BadRequest(f"{file} is there already: choose another name with --output.", path=str(file))
    try:
        places.make()
    except OSError as error:
        raise ForbiddenPath(f"The folder {error.filename} cannot be made ({error.strerror}): set VATT_HOME.") from error
    named = NamedClients(places.clients)
    server = load_key_pair(places.keys / "server.secret")
    keys = named.add(name)
    try:
        connection.write_connection(connection_for(keys, server.public, settings.remote, host=host), file)
    except BaseException:
        named.remove(name)
        raise
    print(file)
    print(
        f"Copy it to the other machine, name it there with {connection.VARIABLE} or --connection, and delete it here.",
        file=sys.stderr,
    )
    if not settings.remote.enabled:
        print(f"Remote use is off: set remote.enabled in {places.config_file} and restart the daemon.", file=sys.stderr)


@app.command("list")
def list_clients(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """The clients that are let in."""
    found = NamedClients(folders().clients).all()
    if as_json:
        print_json([{"name": one.name, "public": one.public.decode(), "created": one.created} for one in found])
        return
    print_table(
        ("client", "added", "public key"),
        [
            (one.name, time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created)), one.public.decode())
            for one in found
        ],
    )


@app.command()
def remove(name: Name) -> None:
    """Let a client in no more. What it has submitted goes on."""
    NamedClients(folders().clients).remove(name)
    print(f"'{name}' is not let in any more.")
