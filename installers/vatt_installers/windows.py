"""Windows: tasks that start at log-on. Not run by this project's tests, which pin the rendered files and the commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PureWindowsPath
from xml.sax.saxutils import escape

from vatt_core.media.atomic import write_bytes
from vatt_installers.commands import CommandFailed, insist, run
from vatt_installers.service import Program, ServiceManager, ServiceStatus

_TASK = """\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>{title}</Description>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Enabled>true</Enabled>
      <UserId>{user}</UserId>{delay}
    </LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{user}</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>999</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>{command}</Command>
      <Arguments>{arguments}</Arguments>
    </Exec>
  </Actions>
</Task>
"""


class TaskScheduler(ServiceManager):
    verified = False

    def __init__(self, home: Path, *, user: str | None = None) -> None:
        local = os.environ.get("LOCALAPPDATA")
        self._folder = (Path(local) if local else home / "AppData" / "Local") / "vatt" / "service"
        domain, name = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
        self._user = user or (f"{domain}\\{name}" if domain else name)

    def task(self, program: Program) -> str:
        return f"VATT\\{program.name}"

    def file(self, program: Program) -> Path:
        return self._folder / f"{program.name}.xml"

    def render(self, program: Program) -> str:
        command, arguments = _windowless(program.command[0]), list(program.command[1:])
        if program.environment:
            # A task has no environment of its own.
            settings = "; ".join(f"os.environ[{name!r}] = {value!r}" for name, value in program.environment.items())
            words = ["vatt", *arguments[2:]]
            start = f"import os, sys; {settings}; sys.argv = {words!r}; from vatt_daemon.cli import main; main()"
            arguments = ["-c", start]
        return _TASK.format(
            title=escape(program.title),
            user=escape(self._user),
            delay="" if program.after is None else "\n      <Delay>PT10S</Delay>",
            command=escape(command),
            arguments=escape(subprocess.list2cmdline(arguments)),
        )

    def check(self) -> None:
        run(["schtasks", "/Query"])  # its exit code says only whether there are tasks

    def install(self, programs: list[Program]) -> None:
        for program in programs:
            self.file(program).parent.mkdir(parents=True, exist_ok=True)
            run(["schtasks", "/End", "/TN", self.task(program)])  # one of an earlier version
            write_bytes(self.file(program), self.render(program).encode("utf-16"))
            insist(["schtasks", "/Create", "/F", "/TN", self.task(program), "/XML", str(self.file(program))])
            insist(["schtasks", "/Run", "/TN", self.task(program)])

    def uninstall(self, programs: list[Program]) -> bool:
        installed = [program for program in programs if self.file(program).exists()]
        for program in reversed(installed):
            run(["schtasks", "/End", "/TN", self.task(program)])
            insist(["schtasks", "/Delete", "/F", "/TN", self.task(program)])
            self.file(program).unlink(missing_ok=True)
        return bool(installed)

    def status(self, program: Program) -> ServiceStatus:
        installed = self.file(program).exists()
        try:
            ran = run(["schtasks", "/Query", "/TN", self.task(program), "/FO", "CSV", "/NH"])
        except CommandFailed as error:
            return ServiceStatus(program.name, installed, False, error.message)
        state = ran.said.rsplit(",", 1)[-1].strip().strip('"') if ran.code == 0 else "not registered"
        return ServiceStatus(program.name, installed, state == "Running", state)


def _windowless(interpreter: str) -> str:
    """pythonw.exe beside python.exe, which opens no console."""
    path = PureWindowsPath(interpreter)
    return str(path.with_name("pythonw.exe")) if path.name.lower() == "python.exe" else interpreter
