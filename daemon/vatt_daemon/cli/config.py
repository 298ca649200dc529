"""`vatt config show|path|edit|validate`."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vatt_core.errors import BadRequest, NotFound
from vatt_daemon.cli.output import print_json
from vatt_daemon.folders import folders
from vatt_daemon.settings import Settings, given_settings, load_settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Settings: show, path, edit, validate.")

_HEAD = """\
# Settings of VATT. Every key is explained in docs/operations.md; what stands behind '#' is the default.
# A running daemon reads them at its next start.
"""


@app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, with where each stands.")] = False,
) -> None:
    """Every setting as it counts now: those of the file, the environment and the defaults together. Valid TOML."""
    settings, given = load_settings(), given_settings()
    if as_json:
        print_json(
            {
                f"{table}.{name}": {"value": value, "from": given[key][1] if key in given else "default"}
                for table, name, value in _values(settings)
                for key in [f"{table}.{name}"]
            }
        )
        return
    print(_text(settings, lambda key: f"  # {given[key][1]}" if key in given else ""), end="")


@app.command()
def path() -> None:
    """Where the settings file is, or would be."""
    print(folders().config_file)


@app.command()
def edit() -> None:
    """Open the settings file in $VISUAL or $EDITOR, and check it afterwards. A new one holds every default behind '#'."""
    file = folders().config_file
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = _text(Settings(), lambda key: "").splitlines(keepends=True)
        text = "".join(line if line.startswith("[") or line == "\n" else f"# {line}" for line in lines)
        file.write_text(_HEAD + "\n" + text, encoding="utf-8")
    editor = _editor()
    try:
        subprocess.run([*editor, str(file)], check=False)
    except OSError as error:
        raise BadRequest(
            f"The editor '{editor[0]}' cannot be started ({error.strerror}): set EDITOR, or edit {file}."
        ) from error
    _validate(file)


@app.command()
def validate(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Left out, your settings file.")] = None,
) -> None:
    """Check a settings file: unknown keys, types, ranges. The exit code is 2 when something is wrong."""
    if file is not None and not file.is_file():
        raise NotFound(
            f"There is no file {file}: check the name, or leave it out for your own settings.", path=str(file)
        )
    _validate(folders().config_file if file is None else file)


def _validate(file: Path) -> None:
    load_settings(file=file, environment={})
    load_settings(file=file)  # and what the environment adds
    print(f"{file} is valid." if file.exists() else f"There is no {file}: the defaults are used.", file=sys.stderr)


def _editor() -> list[str]:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        return shlex.split(named, posix=os.name != "nt")
    for name in ("notepad",) if os.name == "nt" else ("sensible-editor", "nano", "vi"):
        if shutil.which(name):
            return [name]
    raise BadRequest("No editor is known: set EDITOR, or edit the file that 'vatt config path' names.")


def _values(settings: Settings) -> list[tuple[str, str, Any]]:
    return [
        (table.name, item.name, getattr(getattr(settings, table.name), item.name))
        for table in dataclasses.fields(settings)
        for item in dataclasses.fields(getattr(settings, table.name))
    ]


def _text(settings: Settings, remark: Any) -> str:
    """The settings as TOML; `remark` gives what stands behind a key."""
    lines: list[str] = []
    last = ""
    for table, name, value in _values(settings):
        if table != last:
            lines += ["", f"[{table}]"] if last else [f"[{table}]"]
            last = table
        # JSON's texts, lists, numbers and truth values are TOML's.
        lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}{remark(f'{table}.{name}')}")
    return "\n".join(lines) + "\n"
