"""macOS: LaunchAgents. Not run by this project's tests, which pin the rendered files and the commands."""

from __future__ import annotations

import os
import plistlib
import time
from pathlib import Path
from typing import Any

from vatt_core.media.atomic import write_bytes
from vatt_installers.commands import CommandFailed, insist, run
from vatt_installers.service import Program, ServiceManager, ServiceStatus

EXIT_TIMEOUT = 30
"""Seconds that a program may take to end before launchd kills it."""


class Launchd(ServiceManager):
    verified = False

    def __init__(self, home: Path) -> None:
        self._folder = home / "Library" / "LaunchAgents"

    def label(self, program: Program) -> str:
        return f"org.vatt.{program.name}"

    def file(self, program: Program) -> Path:
        return self._folder / f"{self.label(program)}.plist"

    def render(self, program: Program) -> str:
        agent: dict[str, Any] = {
            "Label": self.label(program),
            "ProgramArguments": list(program.command),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 5,
            "ExitTimeOut": EXIT_TIMEOUT,
            "ProcessType": "Interactive",
            "StandardErrorPath": str(program.log),
        }
        if program.environment:
            agent["EnvironmentVariables"] = dict(program.environment)
        return plistlib.dumps(agent).decode()

    def check(self) -> None:
        insist(["launchctl", "print", _domain()])

    def install(self, programs: list[Program]) -> None:
        for program in programs:
            self.file(program).parent.mkdir(parents=True, exist_ok=True)
            program.log.parent.mkdir(parents=True, exist_ok=True)
            if run(["launchctl", "bootout", self._target(program)]).code == 0:  # one of an earlier version
                self._wait_until_gone(program)
            write_bytes(self.file(program), self.render(program).encode())
            insist(["launchctl", "bootstrap", _domain(), str(self.file(program))])

    def uninstall(self, programs: list[Program]) -> bool:
        installed = [program for program in programs if self.file(program).exists()]
        for program in reversed(installed):
            run(["launchctl", "bootout", self._target(program)])
            self.file(program).unlink(missing_ok=True)
        return bool(installed)

    def status(self, program: Program) -> ServiceStatus:
        installed = self.file(program).exists()
        try:
            ran = run(["launchctl", "print", self._target(program)])
        except CommandFailed as error:
            return ServiceStatus(program.name, installed, False, error.message)
        lines = [line.strip() for line in ran.said.splitlines()]
        state = next((line.removeprefix("state = ") for line in lines if line.startswith("state = ")), "not loaded")
        return ServiceStatus(program.name, installed, ran.code == 0 and state == "running", state)

    def _wait_until_gone(self, program: Program) -> None:
        """`bootout` may return before its program has ended, and launchd refuses a new agent of that label until then."""
        for _ in range(2 * EXIT_TIMEOUT):
            if run(["launchctl", "print", self._target(program)]).code != 0:
                return
            time.sleep(0.5)

    def _target(self, program: Program) -> str:
        return f"{_domain()}/{self.label(program)}"


def _domain() -> str:
    return f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui"
