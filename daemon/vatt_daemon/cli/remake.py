"""`vatt remake`: a take again, from the side-car that lies beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from vatt_client import fields, messages

from vatt_core.sidecar import read_sidecar, request_from_sidecar
from vatt_daemon.cli.jobs import carry_out, check_here
from vatt_daemon.cli.output import print_json

app = typer.Typer(pretty_exceptions_enable=False)

DIFFERENT = 1
"""Exit code when the take was made but its samples are others."""


@app.command()
def remake(
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR", help="The JSON file beside a take.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Where the files go; left out, beside the first.")
    ] = None,
    clip: Annotated[Path | None, typer.Option("--clip", help="Where the clip lies now, if it was moved.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Also a PNG, and a copy of the video with sound.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a take again and compare it with the first. The exit code is 1 when the samples are not the same."""
    first = read_sidecar(sidecar)
    folder = (output or sidecar.parent).expanduser().absolute()
    message = message_from_sidecar(first, folder, clip=clip and clip.expanduser().absolute(), preview=preview)
    check_here(message)
    job = carry_out(message, quiet=as_json)
    take = job.takes().takes[0]
    again = read_sidecar(Path(take.sidecar))
    same = again["wav_sha256"] == first.get("wav_sha256")
    why = [] if same else differences(first, again)
    if as_json:
        print_json({"job": job.id, "same": same, "differences": why, **take.to_dict()})
    else:
        print(take.wav)
        told = "The same samples." if same else f"Not the same samples: {'; '.join(why) or 'the first was changed'}."
        print(told, file=sys.stderr)
    if not same:
        raise typer.Exit(DIFFERENT)


def message_from_sidecar(
    sidecar: dict[str, Any], output: Path, *, clip: Path | None = None, preview: bool = False
) -> messages.Generate:
    """The message that makes the take of a side-car again. Raises BadRequest for what a message cannot carry."""
    request = request_from_sidecar(sidecar, output, clip=clip)
    values = {name: getattr(request, name) for name in fields.rules(messages.Generate) if hasattr(request, name)}
    values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    values |= {
        "path": str(request.path),
        "output": str(output),
        "time_map": None if request.time_map is None else request.time_map.points,
        "model": str(sidecar["model"].get("name")) if isinstance(sidecar["model"], dict) else "",
        "preview": preview,
    }
    return messages.Generate(**values)


def differences(first: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """What has changed between two takes of one request, in words."""
    found = []
    for part, name, words in (
        ("clip", "fingerprint", "the clip has changed"),
        ("model", "hash", "the model has other weights"),
        ("model", "device", "it ran on another kind of processor"),
    ):
        if first[part].get(name) != again[part].get(name):
            found.append(words)
    return found
