"""`vatt resolve panel|selftest|material`: the other end of the scripts in DaVinci Resolve."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from vatt_client import Client, errors

from vatt_core.errors import VattError
from vatt_daemon import launch
from vatt_daemon.settings import folders

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="The other end of the scripts in DaVinci Resolve."
)

SELFTEST_FRAMES = 48
DIFFERENT = 1


def _connect() -> Client:
    try:
        return Client(name="vatt resolve")
    except errors.DaemonNotRunning:
        pass
    try:
        return launch.start_daemon(name="vatt resolve")
    except VattError as error:
        raise errors.DaemonNotRunning(error.message) from error


@app.command()
def panel(
    window: Annotated[bool, typer.Option(" /--no-window", help="Carry the order out without asking.")] = True,
) -> None:
    """Started by the scripts in Resolve: reads what is selected from standard input, answers on standard output."""
    from vatt_resolve.panel import Conversation, PanelSettings, Work, run_without_window

    # Libraries print: what goes to the script is ours alone.
    talk = Conversation(sys.stdin, sys.stdout)
    sys.stdout = sys.stderr
    file = folders().config / "resolve.json"
    try:
        opening = talk.read()
        work = Work(_connect, PanelSettings.load(file), str(opening.get("project") or "project"))
        if window:
            try:
                from vatt_resolve.window import show
            except ImportError:
                talk.say(type="say", message="This Python has no Tk: going on without a window.")
            else:
                import tkinter

                try:
                    show(opening, talk, work, file)
                    return
                except tkinter.TclError as error:
                    talk.say(type="say", message=f"No window can be shown ({error}): going on without.")
        run_without_window(opening, talk, work)
    except (EOFError, BrokenPipeError):
        return  # the script has ended


@app.command()
def material(folder: Annotated[Path, typer.Argument(help="Where the files go.")]) -> None:
    """Write the clip and the sound that the self-test works with."""
    for path in _material(folder):
        print(path)


def _material(folder: Path) -> tuple[Path, Path]:
    from fractions import Fraction

    import numpy as np

    from vatt_core.media.waves import write_wave
    from vatt_core.world.write import write_world

    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "selftest.mp4"
    write_world(clip, seed=1, seconds=SELFTEST_FRAMES / 24, fps=Fraction(24), size=320)
    sound = np.zeros(48_000 * SELFTEST_FRAMES // 24, np.float32)
    return clip, write_wave(folder / "selftest.wav", sound, sample_rate=48_000)


@app.command()
def selftest() -> None:
    """Run the whole path in a scratch project of the running Resolve Studio, and print what differs from expected.

    The free version runs it from Workspace > Scripts > VATT > Self-Test. The exit code is 1 when something differs.
    """
    from vatt_resolve.api import ResolveProblem, find_resolve
    from vatt_resolve.selftest import report, run

    try:
        resolve = find_resolve()
        with tempfile.TemporaryDirectory() as folder:
            clip, wav = _material(Path(folder))
            findings = run(resolve, str(clip), str(wav), folder, frames=SELFTEST_FRAMES)
    except ResolveProblem as problem:
        raise VattError(str(problem)) from None
    print(report(findings))
    if not all(one.same for one in findings):
        raise typer.Exit(DIFFERENT)
