"""The command tree: names and one line each; the modules behind them are imported when they are called."""

from __future__ import annotations

import importlib
from typing import Any

import typer
import typer.core
import typer.main

COMMANDS: dict[str, tuple[str, str]] = {
    "suggest": ("vatt_daemon.cli.jobs:suggest_app", "Captions for a clip."),
    "generate": ("vatt_daemon.cli.jobs:generate_app", "Soundtracks for a clip."),
    "status": ("vatt_daemon.cli.daemon:status_app", "What the daemon does: jobs, queue, models in memory, workers."),
    "jobs": ("vatt_daemon.cli.queue:app", "The daemon's jobs: list, show, cancel, retry, follow."),
    "batch": ("vatt_daemon.cli.batch:app", "Soundtracks for the clips of a manifest."),
    "preview": ("vatt_daemon.cli.preview:app", "A page that plays a clip with its takes."),
    "takes": ("vatt_daemon.cli.takes:app", "The takes that lie in a folder; pick one."),
    "remake": ("vatt_daemon.cli.remake:app", "A take again, from the side-car beside it."),
    "watch": ("vatt_daemon.cli.watch:app", "Folders whose new clips get captions and soundtracks."),
    "export": ("vatt_daemon.cli.export:app", "Finished takes for any editor: Broadcast WAV, OTIO, FCP7 XML, MLT."),
    "fetch": ("vatt_daemon.cli.fetch:app", "The takes of a job that a daemon on another machine has made."),
    "demo": ("vatt_daemon.cli.demo:app", "Show the main job on a clip that the model has never seen."),
    "service": ("vatt_daemon.cli.service:app", "Start the daemon and the watched folders at log-in."),
    "daemon": ("vatt_daemon.cli.daemon:app", "Start, stop and look at the daemon."),
    "clients": ("vatt_daemon.cli.clients:app", "Which other machines may use this daemon."),
    "plugins": ("vatt_daemon.cli.plugins:app", "Put the plugins where editors look for them."),
    "resolve": ("vatt_daemon.cli.resolve:app", "The other end of the scripts in DaVinci Resolve."),
    "models": ("vatt_daemon.cli.models:app", "Which models there are, and where."),
    "config": ("vatt_daemon.cli.config:app", "Settings: show, path, edit, validate."),
    "doctor": ("vatt_daemon.cli.doctor:app", "Check the installation; each problem with its cure."),
    "world": ("vatt_daemon.cli.world:app", "Write clips of the procedural world."),
    "train": ("vatt_daemon.cli.train:app", "Train models."),
    "eval": ("vatt_daemon.cli.evaluate:app", "Measure models."),
}

ALIASES = {"resolve-panel": ("resolve", "panel")}
"""Other names, which the help does not show: the command below a group that each stands for."""


def _plain(command: Any) -> Any:
    """The command with help in plain lines: what draws boxes around it takes longer to import than all the rest."""
    command.rich_markup_mode = None
    for below in getattr(command, "commands", {}).values():
        _plain(below)
    return command


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are imported when they run; its help shows their names and lines without that."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in ALIASES:
            group, below = ALIASES[cmd_name]
            return self.get_command(ctx, group).commands[below]
        if cmd_name not in COMMANDS:
            return None
        target, line = COMMANDS[cmd_name]
        if self._listing:
            return typer.core.TyperCommand(cmd_name, help=line, callback=None)
        module, _, name = target.partition(":")
        command = typer.main.get_command(getattr(importlib.import_module(module), name))
        command.name = cmd_name
        return _plain(command)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Captions and aligned soundtracks for video clips, from a model on your own machine.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from vatt_daemon import __version__

        print(f"vatt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Captions and aligned soundtracks for video clips, from a model on your own machine."""


application = typer.main.get_command(app)
