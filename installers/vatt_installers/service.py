"""What runs as a service, and the service manager of this system."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vatt_core.errors import BadRequest


@dataclass(frozen=True)
class Program:
    """One program of the service. name: "daemon" or "watch". command: absolute. environment: added to the user's own.
    after: the name of the program that is started before it."""

    name: str
    title: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    after: str | None = None


@dataclass(frozen=True)
class ServiceStatus:
    """How one program of the service is. detail: in the words of the system."""

    name: str
    installed: bool
    running: bool
    detail: str = ""


class ServiceManager(ABC):
    """Hands programs to the system's own manager of user services, which starts them at log-in and after a crash.

    `vatt service` calls it. Everything belongs to the user: nothing needs an administrator.
    """

    verified = True
    """Whether this project's tests run it for real; elsewhere only the rendered files are pinned."""

    @abstractmethod
    def render(self, program: Program) -> str:
        """The text of the file that describes a program to the system. Pure."""

    @abstractmethod
    def file(self, program: Program) -> Path:
        """Where that file goes."""

    @abstractmethod
    def check(self) -> None:
        """Called before anything is changed for an installation. Raises CommandFailed where the system's manager cannot
        be reached."""

    @abstractmethod
    def install(self, programs: list[Program]) -> None:
        """Write the files and start the programs; those that were there are replaced and restarted (an upgrade).

        Raises CommandFailed, ForbiddenPath, DiskFull.
        """

    @abstractmethod
    def uninstall(self, programs: list[Program]) -> bool:
        """Stop the programs and remove the files. False: none was installed. Raises CommandFailed."""

    @abstractmethod
    def status(self, program: Program) -> ServiceStatus:
        """How a program is now."""


def programs(*, log: Path, home: str | None, python: str | None = None) -> list[Program]:
    """The daemon, and the watcher of folders, which waits for it. home: $VATT_HOME, baked in where it is set.

    python: the interpreter that VATT is installed for; none: this one.
    """
    interpreter = python or sys.executable
    environment = {"VATT_HOME": str(Path(home).expanduser().absolute())} if home else {}
    base = (interpreter, "-m", "vatt_daemon.cli")
    return [
        Program("daemon", "VATT daemon", (*base, "daemon", "run"), log / "service-daemon.log", environment),
        Program(
            "watch", "VATT watched folders", (*base, "watch", "run", "--no-start"), log / "service-watch.log",
            environment, after="daemon",
        ),
    ]  # fmt: skip


def manager_for(platform: str, home: Path | None = None) -> ServiceManager:
    """The service manager of a platform, as `sys.platform` names it. Raises BadRequest where there is none."""
    from vatt_installers.launchd import Launchd
    from vatt_installers.systemd import Systemd
    from vatt_installers.windows import TaskScheduler

    home = home or Path.home()
    if platform.startswith("linux"):
        return Systemd(home)
    if platform == "darwin":
        return Launchd(home)
    if platform == "win32":
        return TaskScheduler(home)
    raise BadRequest(
        f"There is no service manager for '{platform}': run 'vatt daemon run' at log-in by your own means."
    )
