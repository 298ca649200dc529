"""`vatt takes list` and `vatt takes pick`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from vatt_core.errors import BadRequest
from vatt_core.files import short_stem
from vatt_daemon.cli.output import print_json, print_table
from vatt_daemon.cli.preview import sidecars, sound_of

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The takes that lie in a folder.")

_SCORES = ("agreement", "likelihood", "caption", "silence", "nudge")


@app.command("list")
def list_takes(
    places: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders or side-cars.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Takes with their scores, the best first."""
    from vatt_core.scores import ranking

    found = sidecars(places or [Path()])
    order = ranking([sidecar.get("scores") or {} for _, sidecar in found])
    rows = [describe(*found[number]) for number in order]
    if as_json:
        print_json(rows)
        return
    header = ("take", "seed", "LUFS", *_SCORES, "made from")
    print_table(
        header,
        [
            (row["take"], str(row["seed"]), _told(row["loudness"]), *(_told(row["scores"].get(name)) for name in _SCORES),
             row["caption"])
            for row in rows
        ],
    )  # fmt: skip


@app.command()
def pick(
    take: Annotated[Path, typer.Argument(metavar="TAKE", help="The take's side-car or sound.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Its copy; in a folder, named like the clip.")
    ] = None,
) -> None:
    """Copy a take to a name of its own, with its side-car. Nothing is overwritten and every take stays."""
    from vatt_core.media.atomic import replacing, write_bytes

    if take.is_dir():
        raise BadRequest(f"{take} is a folder: name one of the takes in it.", path=str(take))
    ((path, sidecar),) = sidecars([take])
    sound = sound_of(path, sidecar)
    target = (output or path.parent).expanduser().absolute()
    if target.is_dir():
        target /= short_stem(Path(sidecar["clip"]["path"]).stem)
    if target.suffix.lower() != sound.suffix:
        target = target.with_name(target.name + sound.suffix)
    for name in (target, target.with_suffix(".json")):
        if name.exists():
            raise BadRequest(f"{name} is there already: choose another name with --output.", path=str(name))
    with replacing(target) as temporary:
        shutil.copyfile(sound, temporary)
    copy = sidecar | {"wav": target.name}
    write_bytes(target.with_suffix(".json"), (json.dumps(copy, indent=1, ensure_ascii=False) + "\n").encode())
    print(target)


def describe(path: Path, sidecar: dict[str, Any]) -> dict[str, Any]:
    return {
        "take": path.stem,
        "sidecar": str(path.absolute()),
        "wav": str(path.with_name(Path(sidecar["wav"]).name).absolute()),
        "seed": sidecar["request"].get("seed"),
        "caption": sidecar.get("caption") or sidecar["request"].get("prompt") or "",
        "loudness": sidecar.get("loudness"),
        "scores": sidecar.get("scores") or {},
    }


def _told(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else ""
