"""`vatt doctor --bundle`: what somebody who helps needs to see, in one zip, without what is nobody's business."""

from __future__ import annotations

import getpass
import json
import re
import socket
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vatt_client import Client, errors
from vatt_client.connection import own_file

import vatt_core
from vatt_core.errors import VattError
from vatt_daemon.folders import Folders, folders
from vatt_daemon.logs import BEFORE_DETAIL
from vatt_daemon.settings import given_settings

TAIL = 256 << 10
"""Bytes of each log, from its end."""

_ABOUT = """\
doctor.json     what 'vatt doctor --json' says
settings.json   settings that are not the default
status.json     what the daemon does, if it runs
*.log           the ends of the logs

Left out of the logs: the details of errors. Replaced: folders of VATT by <data>, <log> and so on, all other paths by <path>,
quoted texts in logs by '…', the names of this machine and its user by <host> and <user>. Keys, prompts, the job database and the
connection file are not here.
"""
_PATH = re.compile(r"(?<![\w.~>])(?:[A-Za-z]:)?[\\/][^\s'\",;:()<>|]*[^\s'\",;:()<>|.]")
_QUOTED_PATH = re.compile(r"(?<!\w)(['\"])[^'\"\n]*[\\/][^'\"\n]*\1")
_FAULT = re.compile(r"^((?:job \w+: )?[\w.]+(?:Error|Exception|Media|Full|Request|Interrupt)): .*")
_QUOTED = re.compile(r"(?<!\w)'[^'\n]+'(?!\w)")


def write_bundle(file: Path, report: Mapping[str, Any]) -> None:
    """Write the zip. report: what doctor found. Raises OSError."""
    places = folders()
    hide = redaction(places)
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as bundle:

        def add(name: str, body: Any) -> None:
            bundle.writestr(name, hide(json.dumps(body, ensure_ascii=False, indent=1)))

        bundle.writestr("README.txt", _ABOUT)
        add("doctor.json", report)
        try:
            add(
                "settings.json",
                {key: {"value": value, "from": source} for key, (value, source) in given_settings().items()},
            )
        except VattError as error:
            add("settings.json", {"error": error.message})
        try:
            with Client(name="doctor", timeout=5.0, connection_file=own_file()) as client:
                add("status.json", client.status().to_dict())
        except errors.ClientError as error:
            add("status.json", {"error": error.message})
        for log in sorted(places.log.glob("*.log*")):
            with log.open("rb") as lines:
                lines.seek(max(0, log.stat().st_size - TAIL))
                text = "\n".join(_shortened(line) for line in lines.read().decode("utf-8", "replace").splitlines())
                bundle.writestr(log.name, _QUOTED.sub("'…'", hide(text)))


def _shortened(line: str) -> str:
    """A line of a log without what belongs to the user, and an exception without its message."""
    if line.startswith("{"):
        try:
            body = json.loads(line)
            return json.dumps({name: value for name, value in body.items() if name not in ("detail", "exception")})
        except (ValueError, AttributeError):
            return ""  # cut off by the beginning of the tail
    return _FAULT.sub(r"\1", line.partition(BEFORE_DETAIL)[0])


def redaction(places: Folders) -> Callable[[str], str]:
    """What takes paths and names out of a text."""
    known = {str(getattr(places, name)): f"<{name}>" for name in ("config", "data", "runtime", "log", "cache")}
    known[str(Path(vatt_core.__file__).parent.parent)] = known[sys.prefix] = known[sys.base_prefix] = "<program>"
    names = {socket.gethostname(): "<host>", getpass.getuser(): "<user>"}

    def hide(text: str) -> str:
        # The longest first: one of the folders may lie in another.
        for folder in sorted(known, key=len, reverse=True):
            for written in (folder, folder.replace("\\", "\\\\")):
                text = text.replace(written, known[folder])
        text = _QUOTED_PATH.sub(lambda found: _of_ours(found[0]), text)
        text = _PATH.sub("<path>", text)
        for name, mark in names.items():
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", mark, text) if name else text
        return text

    return hide


def _of_ours(quoted: str) -> str:
    """A quoted path: kept if it is one of VATT's own files, which begins with a mark by now."""
    quote, inner = quoted[0], quoted[1:-1]
    return (
        quoted
        if re.fullmatch(r"[^\\/]*<(config|data|runtime|log|cache|program)>[^<]*", inner)
        else f"{quote}<path>{quote}"
    )
