"""`vatt resolve panel|selftest|material`: the other end of the scripts in DaVinci Resolve."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from vatt_client import Client, connection, errors

from vatt_core.errors import BadRequest, VattError
from vatt_daemon import launch
from vatt_daemon.folders import folders

if TYPE_CHECKING:
    from vatt_resolve.desk import Desk
    from vatt_resolve.panel import Conversation

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="The other end of the scripts in DaVinci Resolve."
)

SELFTEST_FRAMES = 48
DIFFERENT = 1
STARTED_BY_SCRIPTS = (
    "'vatt resolve panel' is started by the scripts in DaVinci Resolve, which tell it what is selected: choose one in "
    "Workspace > Scripts > VATT."
)


def _connect() -> Client:
    try:
        return Client(name="vatt resolve")
    except errors.DaemonNotRunning:
        if connection.chosen_file() is not None:
            raise
    try:
        return launch.start_daemon(name="vatt resolve")
    except VattError as error:
        raise errors.DaemonNotRunning(error.message) from error


@app.command()
def panel(
    window: Annotated[bool, typer.Option(" /--no-window", help="Carry the order out without asking.")] = True,
    in_browser: Annotated[
        bool, typer.Option("--in-browser", help="A page in the browser, also where a window could be shown.")
    ] = False,
) -> None:
    """Started by the scripts in Resolve: reads what is selected from standard input, answers on standard output.

    It shows a window (Tk), a page in the browser where Python has no Tk, and nothing where there is no screen.
    """
    from vatt_resolve.desk import Desk
    from vatt_resolve.panel import Conversation, PanelSettings, Work, run_without_window

    if sys.stdin.isatty():
        raise BadRequest(STARTED_BY_SCRIPTS)
    talk = Conversation(sys.stdin, _own_output())
    file = folders().config / "resolve.json"
    try:
        opening = _opening(talk)
        work = Work(_connect, PanelSettings.load(file), str(opening.get("project") or "project"))
        desk = Desk(opening, talk, work, file)
        if window and _show(desk, in_browser=in_browser):
            desk.close()
            return
        if window:
            talk.say(type="say", message="There is neither a screen for a window nor a browser: going on without.")
        run_without_window(opening, talk, work)
    except (EOFError, BrokenPipeError):
        return  # the script has ended


def _opening(talk: Conversation) -> dict[str, Any]:
    """What the script begins with. Raises BadRequest for what no script of ours says."""
    from vatt_resolve.panel import clips_of

    try:
        opening = talk.read()
        clips, action = clips_of(opening), opening["action"]
    except (EOFError, ValueError, TypeError, KeyError):
        raise BadRequest(STARTED_BY_SCRIPTS) from None
    if not isinstance(action, str) or (action == "another" and not clips):
        raise BadRequest(STARTED_BY_SCRIPTS)
    return opening


def _own_output() -> TextIO:
    """Standard output, for the script alone: what libraries and browsers print goes to standard error."""
    sys.stdout.flush()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _show(desk: Desk, *, in_browser: bool) -> bool:
    """Show a desk until the user closes it. False: nothing here can show it."""
    from vatt_resolve import page

    if not in_browser:
        try:
            import tkinter

            from vatt_resolve import window
        except ImportError:
            return page.show(desk)
        try:
            window.show(desk)
            return True
        except tkinter.TclError:
            pass  # no screen; a browser may still have one, on macOS for instance
    return page.show(desk)


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
