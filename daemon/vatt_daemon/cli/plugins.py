"""`vatt plugins install|uninstall blender|resolve`."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from vatt_installers import blender, resolve

from vatt_core.errors import BadRequest, ForbiddenPath, NotFound
from vatt_daemon.folders import folders

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Put the plugins where editors look for them."
)

EXTENSION = "vatt"
"""The id of the Blender extension."""


class Plugin(StrEnum):
    blender = "blender"
    resolve = "resolve"


Name = Annotated[Plugin, typer.Argument(help="blender or resolve")]
Where = Annotated[
    Path | None,
    typer.Option(
        "--path", metavar="FOLDER", help="The editor's folder of extensions or scripts; left out, the usual ones."
    ),
]


@app.command()
def install(
    plugin: Name,
    path: Where = None,
    archive: Annotated[
        Path | None,
        typer.Option("--from", metavar="ZIP", help="The built Blender extension; left out, that of the checkout."),
    ] = None,
    program: Annotated[
        str | None, typer.Option("--program", help="The Blender that shall install it; left out, the one on the path.")
    ] = None,
) -> None:
    """Install a plugin for this user, in place of an older one."""
    for option, value in (("--from", archive), ("--program", program)):
        if plugin is Plugin.resolve and value is not None:
            raise BadRequest(f"{option} belongs to the Blender extension: leave it out for 'resolve'.")
    try:
        if plugin is Plugin.resolve:
            scripts = path.expanduser().absolute() if path else resolve.scripts_folder()
            for entry in resolve.install(scripts, _library(), home=os.environ.get("VATT_HOME")):
                print(entry)
        else:
            _install_blender(path, archive, program)
    except OSError as error:
        raise ForbiddenPath(
            f"{error.filename} cannot be written ({error.strerror}): change its permissions, or name another folder with --path."
        ) from error


def _install_blender(path: Path | None, archive: Path | None, program: str | None) -> None:
    extension = (
        blender.read_extension(archive.absolute()) if archive else blender.choose(_built(_checkout(), Path.cwd()))
    )
    if path is not None:
        print(blender.install_into(path.expanduser().absolute(), extension))
        return
    found = program or shutil.which("blender")
    if found:
        blender.install_with(found, extension)
        print(f"Installed and enabled by {found}.")
        return
    targets = blender.extension_folders(blender.configuration_folder())
    if not targets:
        raise NotFound("No Blender 4.2 or newer was found: start it once, or name its folder with --path.")
    for folder in targets:
        print(blender.install_into(folder, extension))
    print("Enable 'VATT' once in Blender's Preferences ▸ Add-ons.")


def _checkout() -> Path:
    """The checkout that this command runs from, where it was installed to be edited."""
    return Path(__file__).resolve().parents[3]


def _built(*checkouts: Path) -> list[Path]:
    """What `make plugins` has left in the first of these checkouts that has anything."""
    return next(filter(None, (sorted((root / "dist" / "blender").glob("*.zip")) for root in checkouts)), [])


def _library() -> Path:
    return folders().data / "resolve"


@app.command()
def uninstall(plugin: Name, path: Where = None) -> None:
    """Remove a plugin."""
    if plugin is Plugin.resolve:
        scripts = path.expanduser().absolute() if path else resolve.scripts_folder()
        gone = resolve.uninstall(scripts, _library())
    else:
        targets = [path.expanduser().absolute()] if path else blender.extension_folders(blender.configuration_folder())
        gone = any([blender.remove_from(folder, EXTENSION) for folder in targets])
    print("It is removed." if gone else "It was not installed.")
