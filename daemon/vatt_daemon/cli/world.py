"""`vatt world write`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vatt_daemon.cli.output import print_json

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Write clips of the procedural world.")

Layout = Literal["single", "two_kinds", "two_scenes"]


@app.callback()
def group() -> None:
    """Clips of the procedural world that nano is trained on."""


@app.command()
def write(
    output: Annotated[str, typer.Option("--output", metavar="CLIP.mp4", help="The file; .mov holds the sound as PCM.")],
    seed: Annotated[int, typer.Option("--seed", help="Which clip. From 2000000 on: held out from training.")] = 0,
    kind: Annotated[
        str | None, typer.Option("--kind", help="What sounds in it; left out, drawn from the seed.")
    ] = None,
    layout: Annotated[Layout | None, typer.Option("--layout", help="single, two_kinds or two_scenes.")] = None,
    material: Annotated[
        str | None, typer.Option("--material", help="wooden or metal, for kinds that have one.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Length.")] = 10.0,
    fps: Annotated[str, typer.Option("--fps", help="Frame rate, e.g. 24 or 30000/1001.")] = "24",
    size: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 320,
    with_sound: Annotated[bool, typer.Option("--with-sound", help="Include the true sound.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the description as JSON.")] = False,
) -> None:
    """Write the clip of a seed, and its description beside it as JSON."""
    from vatt_core.world.write import parse_rate, write_world

    description = write_world(
        output, seed=seed, kind=kind, layout=layout, material=material, seconds=seconds, fps=parse_rate(fps), size=size,
        with_sound=with_sound,
    )  # fmt: skip
    if as_json:
        print_json(description)
    else:
        print(output)
