"""One daemon per user: an exclusive lock on a file, which the system releases however the daemon ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vatt_core.errors import ForbiddenPath, VattError


class AlreadyRunning(VattError):
    """Another daemon holds the lock."""

    code = "busy"
    exit_code = 8


class SingleInstance:
    """Hold the lock for as long as this object is open. Raises AlreadyRunning."""

    def __init__(self, file: Path) -> None:
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ForbiddenPath(
                f"The lock file {file} cannot be opened ({error.strerror}): change its permissions, or set VATT_HOME.",
                path=str(file),
            ) from error
        try:
            _lock(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            raise AlreadyRunning(
                "A VATT daemon is running already. See 'vatt daemon status'; stop it with 'vatt daemon stop'."
            ) from None

    def release(self) -> None:
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
