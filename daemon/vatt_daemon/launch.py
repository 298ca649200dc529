"""Start the daemon as a process of its own, and wait until it answers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vatt_client import Client, connection
from vatt_client.errors import ClientError, DaemonNotRunning, DaemonTimeout

from vatt_core.errors import ForbiddenPath, VattError
from vatt_daemon.folders import folders
from vatt_daemon.lock import AlreadyRunning, SingleInstance

START_LIMIT = 30.0
"""Seconds that a daemon may take until it answers; it takes well under one."""

STOP_LIMIT = 15.0
"""Seconds that a daemon may take until its process is gone."""


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


def stop_daemon(*, name: str = "vatt") -> bool:
    """Stop the daemon and wait until its process is gone. False: none was running.

    Raises VattError when it does not go.
    """
    try:
        found = connection.read_connection(connection.own_file())
    except DaemonNotRunning:
        return False
    if not _lock_is_held():
        return False  # the file is stale, and some other program has got the process id since
    try:
        with Client(name=name, connection_file=connection.own_file()) as client:
            client.shutdown()
    except ClientError:
        # It does not answer: ask the system.
        with contextlib.suppress(OSError):
            os.kill(found.pid, signal.SIGTERM)
    end = time.monotonic() + STOP_LIMIT
    while connection.process_exists(found.pid):
        if time.monotonic() > end:
            raise VattError(f"The daemon (process {found.pid}) did not stop within {STOP_LIMIT:g} s: end it by hand.")
        time.sleep(0.02)
    return True


def _lock_is_held() -> bool:
    try:
        SingleInstance(folders().runtime / "daemon.lock").release()
    except AlreadyRunning:
        return True
    return False


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
            return Client(name=name, timeout=5.0, connection_file=connection.own_file())
        except (DaemonNotRunning, DaemonTimeout):
            time.sleep(0.03)
    raise DaemonDidNotStart(f"The daemon did not answer within {timeout:g} s, see {folders().log / 'daemon.log'}.")
