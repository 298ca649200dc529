"""`vatt demo`: the main job on a clip that the model has never seen, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from vatt_core.errors import BadModel, BadRequest, ForbiddenPath
from vatt_core.evaluation.onsets import f1, match_onsets
from vatt_core.media.atomic import writing_error
from vatt_core.world.kinds import LOOK_ALIKES, MATERIALS
from vatt_core.world.scene import split_seed
from vatt_core.world.write import write_world
from vatt_daemon import launch

app = typer.Typer(pretty_exceptions_enable=False)

CLIP = 4
"""Which held-out clip is shown."""

MARK = ".vatt-demo"
"""Written into the folder, so that only a folder made by the demonstration is ever emptied."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where everything goes.")] = Path("demo"),
    clip: Annotated[int, typer.Option("--clip", help="Number of the held-out clip.")] = CLIP,
    kind: Annotated[str, typer.Option("--kind", help="What is to be seen; one with two materials.")] = "hammer",
    model: Annotated[str, typer.Option("--model")] = "nano",
) -> None:
    """Write a clip, ask for captions, generate soundtracks for it, and show how well they fit."""
    began = time.monotonic()
    if kind not in LOOK_ALIKES:
        raise BadRequest(f"'{kind}' is not shown here; choose one of {', '.join(LOOK_ALIKES)}.", field="kind")
    os.environ["VATT_HOME"] = str(output.absolute() / "home")
    folder = _empty(output)
    path = folder / "clip.mp4"
    scene = write_world(path, seed=split_seed("held_out", clip), kind=kind, layout="single", fps=Fraction(24), size=320)
    print(f"clip      {path}\n          {scene['caption']} (this is what the clip was made from)", flush=True)

    try:
        with launch.start_daemon() as client:
            suggestions = client.suggest(path, count=3, seed=1, model=model)
            for caption in suggestions.captions:
                print(f"caption   {caption.score:6.2f}  {caption.text}", flush=True)
            if not suggestions.captions:
                raise BadModel(f"The model '{model}' has nothing to say about this clip: choose another with --clip.")
            best = suggestions.captions[0].text
            rows = []
            for prompt, takes in ((best, 2), (other_material(best), 1)):
                job = client.generate(
                    path, output=folder, prompt=prompt, takes=takes, seed=1, preview=True, model=model
                )
                rows += [(take, job.seconds) for take in job.takes]
    finally:
        launch.stop_daemon()
    _show(rows, suggestions.seconds, scene["event_times"], folder)
    print(f"{time.monotonic() - began:.1f} s in all")


def other_material(caption: str) -> str:
    """The caption with its material exchanged; one that names none gets the second."""
    for one, other in (MATERIALS, MATERIALS[::-1]):
        if one in caption.split():
            return caption.replace(one, other)
    return f"{MATERIALS[1]} {caption}"


def _empty(output: Path) -> Path:
    folder = output.absolute()
    try:
        if folder.is_dir() and any(folder.iterdir()):
            if not (folder / MARK).exists():
                raise ForbiddenPath(f"{folder} holds other files: choose an empty folder with --output.")
            launch.stop_daemon()  # of a demonstration that was killed
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
    except FileExistsError:
        raise ForbiddenPath(f"{folder} is a file: choose an empty folder with --output.") from None
    except OSError as error:
        raise writing_error(folder, error) from error
    return folder


def _show(
    rows: list[tuple[Any, dict[str, float]]], seeing: dict[str, float], events: list[float], folder: Path
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Soundtracks in {folder}", title_justify="left")
    for column in ("take", "made from", "seed", "LUFS", f"onsets that fit the {len(events)} events", "F1"):
        table.add_column(column, overflow="fold")
    for take, _ in rows:
        counts = match_onsets(take.onsets, events)
        table.add_row(
            Path(take.wav).name,
            take.caption,
            str(take.seed),
            "silent" if take.loudness is None else f"{take.loudness:.1f}",
            f"{counts[0]} of {len(take.onsets)}",
            f"{f1([counts]):.2f}",
        )
    stages = Table(title="Seconds per stage", title_justify="left")
    stages.add_column("job")
    names = list(dict.fromkeys([*seeing, *(name for _, seconds in rows for name in seconds)]))
    for name in names:
        stages.add_column(name)
    jobs = [("captions", seeing), ("two takes", rows[0][1]), ("another material", rows[-1][1])]
    for job, seconds in jobs:
        stages.add_row(job, *(f"{seconds[name]:.2f}" if name in seconds else "" for name in names))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(stages)
    summary = {"events": events, "takes": [take.to_dict() for take, _ in rows], "seconds": dict(jobs)}
    (folder / "demo.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
