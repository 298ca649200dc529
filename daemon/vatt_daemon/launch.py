"""Start the daemon as a process of its own, and wait until it answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vatt_client import Client
from vatt_client.errors import DaemonNotRunning, DaemonTimeout

from vatt_core.errors import ForbiddenPath, VattError
from vatt_daemon.lock import AlreadyRunning
from vatt_daemon.settings import folders

START_LIMIT = 30.0
"""Seconds that a daemon may take until it answers; it takes well under one."""


class DaemonDidNotStart(VattError):
    exit_code = 7


def start_daemon(flags: dict[str, Any] | None = None, *, timeout: float = START_LIMIT, name: str = "vatt") -> Client:
    """Start a daemon that outlives this process and return a client of it; one that runs already will do.

    Raises the reason when it cannot start (port in use, folders, settings).
    """
    places = folders()
    try:
        places.make()
        report = places.log / f"start-{os.getpid()}.txt"
        with report.open("wb") as errors:
            process = _spawn(flags or {}, errors)
    except OSError as error:
        raise ForbiddenPath(
            f"The folder {error.filename} cannot be used ({error.strerror}): change its permissions or set VATT_HOME."
        ) from error
    try:
        return _wait(process, report, timeout=timeout, name=name)
    finally:
        report.unlink(missing_ok=True)


def _spawn(flags: dict[str, Any], errors: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vatt_daemon"]
    for key, value in flags.items():
        command += ["--set", f"{key}={value}"]
    environment = dict(os.environ)
    if environment.get("VATT_HOME"):
        environment["VATT_HOME"] = str(Path(environment["VATT_HOME"]).expanduser().absolute())
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    # A working folder of the daemon's own, so that it holds nobody's disk busy.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        cwd=folders().data,
        env=environment,
        **detached,
    )


def _wait(process: subprocess.Popen[bytes], report: Path, *, timeout: float, name: str) -> Client:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        code = process.poll()
        # Somebody else's daemon may have been quicker: that one will do.
        if code is not None and code != AlreadyRunning.exit_code:
            reason = report.read_text("utf-8", "replace").strip().splitlines()
            raise DaemonDidNotStart(
                reason[-1] if reason else f"The daemon ended at once with code {code}, see {folders().log}."
            )
        try:
            return Client(name=name, timeout=5.0)
        except (DaemonNotRunning, DaemonTimeout):
            time.sleep(0.03)
    raise DaemonDidNotStart(f"The daemon did not answer within {timeout:g} s, see {folders().log / 'daemon.log'}.")
