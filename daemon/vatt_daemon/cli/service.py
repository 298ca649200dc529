"""`vatt service install|uninstall|status|print`: the daemon and the watched folders, started at log-in."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from vatt_installers.service import Program, ServiceManager, manager_for, programs

from vatt_core.errors import ForbiddenPath
from vatt_daemon import launch
from vatt_daemon.cli.output import print_json, print_table
from vatt_daemon.folders import folders
from vatt_daemon.settings import load_settings

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Start the daemon and the watched folders at log-in."
)

NOT_RUNNING = 7


def _service() -> tuple[ServiceManager, list[Program]]:
    return manager_for(sys.platform), programs(log=folders().log, home=os.environ.get("VATT_HOME"))


@app.command()
def install() -> None:
    """Install and start the service; one that is installed is replaced and restarted."""
    load_settings()  # wrong ones would only show in its log
    manager, parts = _service()
    _mark(manager)
    manager.check()
    try:
        folders().make()
        # One that was started by hand would keep the service from starting. What it does is done by the next.
        launch.stop_daemon()
        manager.install(parts)
    except OSError as error:
        raise ForbiddenPath(f"{error.filename} cannot be written ({error.strerror}).") from error
    for part in parts:
        print(manager.file(part))


def _mark(manager: ServiceManager) -> None:
    if not manager.verified:
        print(
            "This project has not run the service on that system, only compared its files: 'vatt service status' says "
            "whether it works.",
            file=sys.stderr,
        )


@app.command()
def uninstall() -> None:
    """Stop the service and remove it. Jobs, settings and models stay."""
    manager, parts = _service()
    print("The service is removed." if manager.uninstall(parts) else "No service is installed.")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Whether the service is installed and runs. The exit code is 7 when it does not run."""
    manager, parts = _service()
    found = [manager.status(part) for part in parts]
    if as_json:
        print_json([
            {"name": one.name, "installed": one.installed, "running": one.running, "detail": one.detail}
            for one in found
        ])  # fmt: skip
    else:
        print_table(
            ("program", "installed", "running", "detail"),
            [(one.name, "yes" if one.installed else "no", "yes" if one.running else "no", one.detail) for one in found],
        )
    if not all(one.running for one in found):
        raise typer.Exit(NOT_RUNNING)


@app.command("print")
def show(
    platform: Annotated[
        str, typer.Option("--platform", help="linux, darwin or win32; left out, this system.")
    ] = sys.platform,
) -> None:
    """Print the files that 'install' would write, and where."""
    manager = manager_for(platform)
    _mark(manager)
    for part in programs(log=folders().log, home=os.environ.get("VATT_HOME")):
        print(f"# {manager.file(part)}")
        print(manager.render(part))
