"""The scripts for DaVinci Resolve: menu entries where it looks for them, and what they import beside VATT's data.

A menu entry is a few lines that name the folder of `vatt_resolve`; that folder lies outside Resolve's, which would list
every file of it in the menu.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vatt_core.errors import NotFound
from vatt_core.media.atomic import write_bytes

ENTRIES = {
    "Generate Soundtrack": "generate",
    "Suggest Captions": "suggest",
    "Another Take": "another",
    "Settings": "settings",
    "Self-Test": "selftest",
}
"""Names in Workspace ▸ Scripts ▸ VATT, and what they do."""

MENU = "VATT"
CATEGORY = "Utility"
"""Scripts of this category are offered on every page."""

SETTINGS = "vatt_resolve.json"
"""Beside the library: what `configuration` says."""

_MARK = "# A menu entry of VATT, written by 'vatt plugins install resolve'."
_SCRIPT = """\
{mark}
import sys

folder = {folder!r}
if folder not in sys.path:
    sys.path.insert(0, folder)
from vatt_resolve.{module} import main

main({action!r}, globals().get("resolve"))
"""

_IN_RESOLVE = ("__init__", "api", "selection", "rendering", "placement", "actions", "selftest", "selftest_entry")
"""The modules that run in Resolve's Python."""


def scripts_folder(platform: str = sys.platform, home: Path | None = None) -> Path:
    """Where Resolve looks for a user's scripts."""
    home = home or Path.home()
    if platform == "darwin":
        return home / "Library/Application Support/Blackmagic Design/DaVinci Resolve/Fusion/Scripts"
    if platform == "win32":
        data = os.environ.get("APPDATA")
        roaming = Path(data) if data else home / "AppData" / "Roaming"
        return roaming / "Blackmagic Design" / "DaVinci Resolve" / "Support" / "Fusion" / "Scripts"
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else home / ".local" / "share") / "DaVinciResolve" / "Fusion" / "Scripts"


def render(action: str, library: Path) -> str:
    """The text of a menu entry. library: the folder that holds the package `vatt_resolve`. Pure."""
    module = "selftest_entry" if action == "selftest" else "actions"
    return _SCRIPT.format(mark=_MARK, folder=str(library), module=module, action=action)


def configuration(scripts: Path, library: Path, *, home: str | None, python: str) -> dict[str, Any]:
    """What the scripts read: how VATT is started, and where proxies go. And for the next installation, where they are."""
    environment = {"VATT_HOME": str(Path(home).expanduser().absolute())} if home else {}
    return {
        "command": [python, "-m", "vatt_daemon.cli"],
        "environment": environment,
        "proxies": str(library / "proxies"),
        "scripts": str(scripts),
    }


def install(scripts: Path, library: Path, *, home: str | None, python: str | None = None) -> list[Path]:
    """Write the menu entries and the library; what an earlier version left goes. Returns the menu entries.

    Raises ForbiddenPath, DiskFull.
    """
    source = _package()
    target = library / "vatt_resolve"
    for folder in {scripts, *installed_in(library)}:
        remove_stale(folder)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in _IN_RESOLVE:
        write_bytes(target / f"{name}.py", (source / f"{name}.py").read_bytes())
    settings = configuration(scripts, library, home=home, python=python or sys.executable)
    write_bytes(library / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    menu = scripts / CATEGORY / MENU
    menu.mkdir(parents=True, exist_ok=True)
    return [write_bytes(menu / f"{name}.py", render(action, library).encode()) for name, action in ENTRIES.items()]


def _package() -> Path:
    found = importlib.util.find_spec("vatt_resolve")
    if found is None or found.origin is None:
        raise NotFound("The package 'vatt_resolve' is not installed: reinstall VATT.")
    return Path(found.origin).parent


def entries(scripts: Path) -> Iterator[Path]:
    """Every menu entry of ours below a scripts folder, whatever its category or name."""
    if scripts.is_dir():
        for file in sorted(scripts.rglob("*.py")):
            try:
                with file.open("rb") as handle:
                    first = handle.readline(200)
            except OSError:
                continue
            if first.startswith(_MARK.encode()):
                yield file


def remove_stale(scripts: Path) -> list[Path]:
    """Remove every menu entry of ours, and folders that are empty then. Returns what went."""
    gone = list(entries(scripts))
    for file in gone:
        file.unlink()
        for folder in (file.parent / "__pycache__", file.parent):
            shutil.rmtree(folder, ignore_errors=True) if folder.name == "__pycache__" else _remove_empty(folder)
    return gone


def installed_in(library: Path) -> list[Path]:
    """The scripts folder of the last installation, which may have been named by the user."""
    try:
        return [Path(json.loads((library / SETTINGS).read_text("utf-8"))["scripts"])]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _remove_empty(folder: Path) -> None:
    if folder.name == MENU and not any(folder.iterdir()):
        folder.rmdir()


def uninstall(scripts: Path, library: Path) -> bool:
    """Remove everything that `install` wrote, wherever the menu entries went. False: nothing was there."""
    there = library.is_dir()
    gone = [file for folder in {scripts, *installed_in(library)} for file in remove_stale(folder)]
    shutil.rmtree(library, ignore_errors=True)
    return bool(gone) or there


def problems(scripts: Path, library: Path) -> Mapping[str, str]:
    """What is wrong with an installation, as {what was seen: what to do}. Empty where all is well or nothing installed."""
    found = list(entries(scripts))
    if not found:
        return {}
    where = "" if scripts == scripts_folder() else f" --path {shlex.quote(str(scripts))}"
    again = f"run 'vatt plugins install resolve{where}' again"
    wanted = {scripts / CATEGORY / MENU / f"{name}.py": render(action, library) for name, action in ENTRIES.items()}
    wrong: dict[str, str] = {}
    for file in found:
        if file not in wanted:
            wrong[f"{file} is left from an earlier version"] = again
        elif file.read_text("utf-8") != wanted[file]:
            wrong[f"{file} is of another version"] = again
    for file in wanted.keys() - set(found):
        wrong[f"{file} is missing"] = again
    try:
        settings = json.loads((library / SETTINGS).read_text("utf-8"))
        if not Path(settings["command"][0]).exists():
            wrong[f"the scripts start {settings['command'][0]}, which is gone"] = again
    except (OSError, ValueError, KeyError, IndexError):
        wrong[f"{library} is not complete"] = again
    source = _package()
    for name in _IN_RESOLVE:
        copy = library / "vatt_resolve" / f"{name}.py"
        if not copy.is_file() or copy.read_bytes() != (source / f"{name}.py").read_bytes():
            wrong[f"{copy} is of another version"] = again
    return wrong
