"""Linux: units of the user's own systemd."""

from __future__ import annotations

import os
from pathlib import Path

from vatt_core.media.atomic import write_bytes
from vatt_installers.commands import CommandFailed, insist, run
from vatt_installers.service import Program, ServiceManager, ServiceStatus

_UNIT = """\
[Unit]
Description={title}
{order}StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{environment}Restart=on-failure
RestartSec=1
# Wrong settings and a daemon that was started by hand: another try would find the same.
RestartPreventExitStatus=2 8
# The model process is ended by the daemon; only what is left after it is killed.
KillMode=mixed
TimeoutStopSec=30
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


class Systemd(ServiceManager):
    def __init__(self, home: Path) -> None:
        configured = os.environ.get("XDG_CONFIG_HOME")
        self._folder = (Path(configured) if configured else home / ".config") / "systemd" / "user"

    def unit(self, program: Program) -> str:
        return "vatt.service" if program.name == "daemon" else f"vatt-{program.name}.service"

    def file(self, program: Program) -> Path:
        return self._folder / self.unit(program)

    def render(self, program: Program) -> str:
        order = ""
        if program.after is not None:
            first = "vatt.service" if program.after == "daemon" else f"vatt-{program.after}.service"
            order = f"After={first}\nWants={first}\n"
        return _UNIT.format(
            title=program.title,
            order=order,
            command=" ".join(_quoted(word, command=True) for word in program.command),
            environment="".join(
                f"Environment={_quoted(f'{name}={value}')}\n" for name, value in program.environment.items()
            ),
        )

    def check(self) -> None:
        _reach("show-environment")

    def install(self, programs: list[Program]) -> None:
        new = [self.file(program) for program in programs if not self.file(program).exists()]
        for program in programs:
            self.file(program).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.file(program), self.render(program).encode())
        units = [self.unit(program) for program in programs]
        try:
            _reach("daemon-reload")
        except CommandFailed:
            # No systemd has taken these units up, so none could remove them.
            for file in new:
                file.unlink()
            raise
        run(_systemctl("reset-failed", *units))
        insist(_systemctl("enable", *units))
        insist(_systemctl("restart", *units))

    def uninstall(self, programs: list[Program]) -> bool:
        installed = [program for program in programs if self.file(program).exists()]
        if not installed:
            return False
        insist(_systemctl("disable", "--now", *[self.unit(program) for program in reversed(installed)]))
        for program in installed:
            self.file(program).unlink(missing_ok=True)
        insist(_systemctl("daemon-reload"))
        run(_systemctl("reset-failed", *[self.unit(program) for program in installed]))
        return True

    def status(self, program: Program) -> ServiceStatus:
        installed = self.file(program).exists()
        try:
            state = run(_systemctl("is-active", self.unit(program))).said.splitlines()
        except CommandFailed as error:
            return ServiceStatus(program.name, installed, False, error.message)
        detail = state[-1] if state else ""
        return ServiceStatus(program.name, installed, detail == "active", detail)


def _reach(verb: str) -> None:
    """Ask systemd for something that fails only where none runs for this user."""
    try:
        insist(_systemctl(verb))
    except CommandFailed as error:
        raise CommandFailed(
            f"{error.message} Where no systemd runs for this user, start 'vatt daemon run' and 'vatt watch run' at "
            "log-in by your own means."
        ) from None


def _systemctl(*arguments: str) -> list[str]:
    return ["systemctl", "--user", *arguments]


def _quoted(text: str, *, command: bool = False) -> str:
    """A word for systemd (systemd.syntax): percent signs are specifiers, dollar signs variables in commands."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        text = text.replace("$", "$$")
    return f'"{text}"'
