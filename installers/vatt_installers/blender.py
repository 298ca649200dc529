"""The Blender extension: put into the extensions of every Blender of this user, by Blender itself where it can be run."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vatt_core.errors import BadRequest, InputNotVisible, NotFound
from vatt_installers.commands import CommandFailed, insist

OLDEST = (4, 2)
"""The first Blender with extensions."""

REPOSITORY = "user_default"
MANIFEST = "blender_manifest.toml"


@dataclass(frozen=True)
class Extension:
    """A built extension. identity: its id. platforms: for which it is, empty for all."""

    file: Path
    identity: str
    version: str
    platforms: tuple[str, ...]


def configuration_folder(platform: str = sys.platform, home: Path | None = None) -> Path:
    """The folder that holds one folder for each version of Blender."""
    home = home or Path.home()
    if platform == "darwin":
        return home / "Library" / "Application Support" / "Blender"
    if platform == "win32":
        data = os.environ.get("APPDATA")
        return (Path(data) if data else home / "AppData" / "Roaming") / "Blender Foundation" / "Blender"
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else home / ".config") / "blender"


def extension_folders(configuration: Path) -> list[Path]:
    """The folders of extensions of every Blender from 4.2 on that this user has started."""
    found = []
    for folder in sorted(configuration.iterdir()) if configuration.is_dir() else []:
        version = re.fullmatch(r"(\d+)\.(\d+)", folder.name)
        if version and (int(version[1]), int(version[2])) >= OLDEST:
            found.append(folder / "extensions" / REPOSITORY)
    return found


def read_extension(file: Path) -> Extension:
    """Look into a built extension. Raises InputNotVisible, BadRequest."""
    if not file.is_file():
        raise InputNotVisible(f"There is no file {file}: build the extension with 'make plugins', or name its zip.")
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            manifest = tomllib.loads(archive.read(MANIFEST).decode())
        identity, version = str(manifest["id"]), str(manifest["version"])
        # An archive for one platform says so in what the build has added.
        generated = manifest.get("build", {}).get("generated", {})
        platforms = tuple(generated.get("platforms", manifest.get("platforms", ())))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise BadRequest(f"{file} is no Blender extension ({error}).") from None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", identity) or any(_escapes(name) for name in names):
        raise BadRequest(f"{file} is no well-made Blender extension: it names files outside of itself.")
    return Extension(file, identity, version, platforms)


def _escapes(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name


def this_platform(platform: str = sys.platform, machine: str | None = None) -> str:
    """The platform as Blender names it, such as linux-x64."""
    import platform as about

    machine = (machine or about.machine()).lower()
    system = {"darwin": "macos", "win32": "windows"}.get(platform, "linux")
    return f"{system}-{'arm64' if machine in ('arm64', 'aarch64') else 'x64'}"


def choose(files: list[Path]) -> Extension:
    """Of several built extensions the newest that fits this platform. Raises NotFound."""
    here = this_platform()
    fitting = [one for one in map(read_extension, files) if not one.platforms or here in one.platforms]
    if not fitting:
        raise NotFound(
            f"No built extension for {here} was found: build it with 'make plugins', or name its zip with --from."
        )
    return max(fitting, key=lambda one: tuple(int(number) for number in re.findall(r"\d+", one.version)))


def install_with(program: str, extension: Extension) -> None:
    """Have a Blender install and enable the extension. Raises CommandFailed."""
    command = [program, "--command", "extension", "install-file", "--repo", REPOSITORY, "--enable", str(extension.file)]
    try:
        insist(command)
    except CommandFailed as error:
        raise CommandFailed(
            f"{error.message} Name another Blender with --program, or its folder of extensions with --path."
        ) from None


def install_into(folder: Path, extension: Extension) -> Path:
    """Unpack the extension into a folder of extensions, in place of an older one. Returns its folder.

    Blender unpacks its wheels at its next start; it has to be enabled in the preferences once.
    """
    target = folder / extension.identity
    part = folder / f".{extension.identity}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with zipfile.ZipFile(extension.file) as archive:
        archive.extractall(part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def remove_from(folder: Path, identity: str) -> bool:
    """Remove the extension from a folder of extensions. False: it was not there."""
    target = folder / identity
    if not target.is_dir():
        return False
    shutil.rmtree(target)
    return True
