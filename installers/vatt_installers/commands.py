"""Other programs, run to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from vatt_core.errors import VattError


class CommandFailed(VattError):
    """A program of the system, such as systemctl, refused what was asked."""

    exit_code = 9


@dataclass(frozen=True)
class Ran:
    """code: exit status. said: standard output and error together."""

    code: int
    said: str


def run(command: Sequence[str], *, timeout: float = 60.0) -> Ran:
    """Run a program. Raises CommandFailed when it cannot be run, or does not end."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except OSError as error:
        raise CommandFailed(f"The program '{command[0]}' cannot be run here ({error.strerror}).") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"'{' '.join(command)}' did not end within {timeout:g} s.") from None
    return Ran(done.returncode, (done.stdout + done.stderr).strip())


def insist(command: Sequence[str]) -> str:
    """Run a program and return what it said. Raises CommandFailed with its words when it fails."""
    ran = run(command)
    if ran.code != 0:
        said = ran.said.splitlines()
        raise CommandFailed(f"'{' '.join(command)}' failed: {said[-1] if said else f'exit code {ran.code}'}.")
    return ran.said
