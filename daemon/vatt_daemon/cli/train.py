"""`vatt train nano`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Train models.")


@app.callback()
def group() -> None:
    """Train models on the procedural world."""


@app.command()
def nano(
    folder: Annotated[Path, typer.Option("--folder", help="Where the work lies; a stopped run goes on there.")] = Path(
        "runs/nano"
    ),
    stages: Annotated[str | None, typer.Option("--stages", help="Only these, with commas between.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train nano from nothing; the same command goes on where a stopped run was."""
    from vatt_core.training.nano import print_progress, train_nano

    wanted = [part.strip() for part in stages.split(",")] if stages else None
    model = train_nano(folder.expanduser().absolute(), stages=wanted, device=device, report=print_progress)
    print(model)
    if wanted is None:
        _show_figures(model, folder / "eval", device)


def _show_figures(model: Path, cache: Path, device: str) -> None:
    """A quick look on validation clips; `vatt eval world` measures on held-out ones, and on more."""
    from rich.console import Console

    from vatt_core.evaluation.report import terminal_table
    from vatt_core.evaluation.world import evaluate_world
    from vatt_core.pipeline import Pipeline

    report = evaluate_world(Pipeline.load(model, device=device), single=48, double=12, cache=cache, split="validation")
    Console().print(terminal_table(report))
