"""`vatt models list|path`. Works without a daemon and without torch."""

from __future__ import annotations

from typing import Annotated

import typer

from vatt_core.weights import find_model, list_models
from vatt_daemon.cli.output import print_json, print_table

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Which models there are, and where.")


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """The models that can be named, and which of them are installed."""
    models = list_models()
    if as_json:
        print_json([
            {"name": model.name, "installed": model.installed, "title": model.title, "licence": model.licence,
             "embedded": model.embedded, "folder": str(model.folder)}
            for model in models
        ])  # fmt: skip
        return
    print_table(
        ("name", "installed", "what it is"),
        [(model.name, "yes" if model.installed else "no", model.title) for model in models],
    )


@app.command()
def path(name: Annotated[str, typer.Argument(help="Name of a model.")] = "nano") -> None:
    """The folder of an installed model."""
    print(find_model(name))
