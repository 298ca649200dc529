"""`vatt world`: clips whose sound, captions and events are known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vatt_core.errors import VattError
from vatt_core.world.kinds import KINDS, MATERIALS

app = typer.Typer(help="Write procedural clips whose sound, captions and event times are known.", no_args_is_help=True)


@app.callback()
def world() -> None:
    """Write procedural clips whose sound, captions and event times are known."""


@app.command()
def write(
    output: Annotated[Path, typer.Option("--output", "-o", help="The clip to write, .mp4 or .mov.")],
    kind: Annotated[str | None, typer.Option(help=f"One of {', '.join(KINDS)}; drawn from the seed if absent.")] = None,
    seed: Annotated[
        int, typer.Option(help="0 to 999999 training, then a million each of validation and held-out clips.")
    ] = 2_000_000,
    seconds: Annotated[float, typer.Option(help="Length of the clip.")] = 10.0,
    fps: Annotated[str, typer.Option(help="Pictures per second: 24, 29.97, 30000/1001.")] = "24",
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 320,
    layout: Annotated[str | None, typer.Option(help="single, two_kinds or two_scenes.")] = None,
    material: Annotated[
        str | None, typer.Option(help=f"{' or '.join(MATERIALS)}: changes the sound and the caption only.")
    ] = None,
    with_sound: Annotated[bool, typer.Option("--with-sound", help="Add the true sound.")] = False,
) -> None:
    """Write one clip and, beside it, its description as JSON."""
    # PyAV and the drawings are loaded only when a clip is really written.
    from vatt_core.world.write import parse_rate, write_world

    try:
        description = write_world(
            output,
            kind=kind,
            seed=seed,
            seconds=seconds,
            fps=parse_rate(fps),
            size=size,
            layout=layout,  # type: ignore[arg-type]
            material=material,
            with_sound=with_sound,
        )
    except VattError as error:
        Console(stderr=True, soft_wrap=True).print(f"vatt: {error.message}", markup=False, highlight=False)
        raise typer.Exit(error.exit_code) from None
    console = Console(soft_wrap=True)
    console.print(f"{output}: {description['caption']}", markup=False, highlight=False)
