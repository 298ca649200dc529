"""The service: what each system is given, and on Linux its whole life under a real systemd."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from vatt_daemon.folders import folders
from vatt_installers import commands
from vatt_installers.commands import CommandFailed, Ran
from vatt_installers.launchd import Launchd
from vatt_installers.service import Program, ServiceManager, manager_for, programs
from vatt_installers.systemd import Systemd
from vatt_installers.windows import TaskScheduler

from tests.installers.conftest import Call
from vatt_core.errors import BadRequest

HERE = Path(__file__).parent
PYTHON = "/opt/my tools/bin/python3"


@pytest.fixture
def parts(tmp_path: Path) -> list[Program]:
    return programs(log=tmp_path / "log", home=str(tmp_path / "home & co"), python=PYTHON)


@pytest.mark.parametrize("name", ["vatt.service", "vatt-watch.service"])
def test_the_units_are_these(name: str) -> None:
    found = programs(log=Path("/log"), home='/data/100% "mine" $HOME', python=PYTHON)
    rendered = {f"{Systemd(Path('/home/u')).unit(part)}": Systemd(Path("/home/u")).render(part) for part in found}
    assert rendered[name] == (HERE / "expected" / name).read_text()


@pytest.mark.parametrize("name", ["org.vatt.daemon.plist", "org.vatt.watch.plist"])
def test_the_launch_agents_are_these(name: str) -> None:
    manager = Launchd(Path("/Users/u"))
    found = programs(log=Path("/log"), home="/data/a & b", python=PYTHON)
    rendered = {manager.file(part).name: manager.render(part) for part in found}
    assert rendered[name] == (HERE / "expected" / name).read_text()
    agent = plistlib.loads(rendered[name].encode())
    assert agent["ProgramArguments"][:3] == [PYTHON, "-m", "vatt_daemon.cli"]
    assert agent["EnvironmentVariables"] == {"VATT_HOME": "/data/a & b"}
    assert agent["RunAtLoad"] is True


@pytest.mark.parametrize("name", ["daemon.xml", "watch.xml"])
def test_the_windows_tasks_are_these(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    manager = TaskScheduler(Path("/u"), user="PC\\Ü & Co")
    found = programs(log=Path("/log"), home=None, python="C:\\Program Files\\Python\\python.exe")
    rendered = {manager.file(part).name: manager.render(part) for part in found}
    assert rendered[name] == (HERE / "expected" / name).read_text()
    root = ElementTree.fromstring(rendered[name].encode("utf-16"))
    names = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    assert root.findtext(".//t:Exec/t:Command", namespaces=names) == "C:\\Program Files\\Python\\pythonw.exe"
    assert root.findtext(".//t:Principal/t:UserId", namespaces=names) == "PC\\Ü & Co"


@pytest.mark.parametrize(("platform", "manager"), [("linux", Systemd), ("darwin", Launchd), ("win32", TaskScheduler)])
def test_the_files_are_printed_and_those_that_were_never_run_are_marked(
    call: Call, platform: str, manager: type[ServiceManager]
) -> None:
    code, said, complained = call("service", "print", "--platform", platform)
    assert code == 0 and bool(complained) == (manager is not Systemd)
    found = manager_for(platform)
    assert isinstance(found, manager)
    for part in programs(log=folders().log, home=os.environ["VATT_HOME"]):
        assert f"# {found.file(part)}\n{found.render(part)}\n" in said


def test_a_windows_task_carries_its_home_as_code_that_runs(tmp_path: Path) -> None:
    home = tmp_path / "o'clock & 100%"
    part = programs(log=Path("/log"), home=str(home), python=sys.executable)[0]
    root = ElementTree.fromstring(TaskScheduler(Path("/u"), user="u").render(part).encode("utf-16"))
    names = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    arguments = root.findtext(".//t:Exec/t:Arguments", namespaces=names) or ""
    code = arguments.removeprefix('-c "').removesuffix('"').replace('\\"', '"').replace("; main()", "")
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; print(os.environ['VATT_HOME'], sys.argv)"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.stdout.split() == [*str(home).split(), "['vatt',", "'daemon',", "'run']"], ran.stderr


class Recorded:
    """Stands where the system's own programs are, which exist on their system alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Ran] | None = None) -> None:
        self.calls: list[list[str]] = []
        self.answers = answers or {}
        for module in ("vatt_installers.launchd", "vatt_installers.windows"):
            monkeypatch.setattr(f"{module}.run", self.run)
        monkeypatch.setattr(commands, "run", self.run)

    def run(self, command: list[str], *, timeout: float = 60.0) -> Ran:
        self.calls.append(command)
        return self.answers.get(command[1], Ran(0, ""))


def test_a_launch_agent_is_replaced_and_removed(
    tmp_path: Path, parts: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Recorded(monkeypatch, {"bootout": Ran(3, "Boot-out failed: 3: No such process")})
    manager = Launchd(tmp_path)
    manager.install(parts)
    domain = f"gui/{os.getuid()}"
    assert system.calls == [
        ["launchctl", "bootout", f"{domain}/org.vatt.daemon"],
        ["launchctl", "bootstrap", domain, str(manager.file(parts[0]))],
        ["launchctl", "bootout", f"{domain}/org.vatt.watch"],
        ["launchctl", "bootstrap", domain, str(manager.file(parts[1]))],
    ]
    assert manager.file(parts[0]).exists()
    system.answers["print"] = Ran(0, "org.vatt.daemon = {\n\tstate = running\n}")
    assert manager.status(parts[0]).running and manager.status(parts[0]).installed
    assert manager.uninstall(parts) and not manager.file(parts[0]).exists()
    assert not manager.uninstall(parts)
    system.answers["print"] = Ran(113, "Could not find service")
    assert not manager.status(parts[0]).running
    system.answers["bootstrap"] = Ran(5, "Bootstrap failed: 5: Input/output error")
    with pytest.raises(CommandFailed, match="Input/output"):
        manager.install(parts)


def test_a_launch_agent_that_takes_its_time_to_end_is_waited_for(
    tmp_path: Path, parts: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Recorded(monkeypatch, {"print": Ran(0, "state = running")})
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            system.answers["print"] = Ran(113, "Could not find service")

    monkeypatch.setattr("vatt_installers.launchd.time.sleep", sleep)
    Launchd(tmp_path).install(parts[:1])
    assert [call[1] for call in system.calls] == ["bootout", "print", "print", "print", "bootstrap"]


def test_a_windows_task_is_registered_run_and_deleted(
    tmp_path: Path, parts: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    system = Recorded(monkeypatch)
    manager = TaskScheduler(tmp_path, user="u")
    manager.install(parts[:1])
    file = manager.file(parts[0])
    assert system.calls == [
        ["schtasks", "/End", "/TN", "VATT\\daemon"],
        ["schtasks", "/Create", "/F", "/TN", "VATT\\daemon", "/XML", str(file)],
        ["schtasks", "/Run", "/TN", "VATT\\daemon"],
    ]
    assert file.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
    system.answers["/Query"] = Ran(0, '"\\VATT\\daemon","N/A","Running"')
    assert manager.status(parts[0]).running
    system.answers["/Query"] = Ran(1, "ERROR: The system cannot find the file specified.")
    assert not manager.status(parts[0]).running
    assert manager.uninstall(parts) and not file.exists()
    assert system.calls[-1] == ["schtasks", "/Delete", "/F", "/TN", "VATT\\daemon"]


def test_an_unknown_system_is_told() -> None:
    with pytest.raises(BadRequest):
        manager_for("plan9")


@pytest.mark.parametrize("there", [True, False])
def test_where_no_systemd_runs_nothing_is_left_behind(
    call: Call, tmp_path: Path, parts: list[Program], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    if there:
        (path / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
        (path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(sys, "platform", "linux")
    code, said, complained = call("service", "install")
    assert code == 9 and said == "" and len(complained.splitlines()) == 1
    assert "vatt daemon run" in complained and ("bus" in complained) == there
    assert call("service", "status")[0] == 7 and "yes" not in call("service", "status")[1]
    assert call("service", "uninstall")[0] == 0
    # Units that were there before stay as they are: an upgrade that fails removes nothing.
    manager = Systemd(tmp_path / "user")
    files = [manager.file(part) for part in parts]
    assert not files[0].parent.exists()
    with pytest.raises(CommandFailed):
        manager.install(parts)
    assert not any(file.exists() for file in files)
    for file in files:
        file.write_text("[Unit]\n")
    with pytest.raises(CommandFailed):
        manager.install(parts)
    assert call("service", "install")[0] == 9
    assert all(file.exists() for file in files)


def test_a_daemon_is_not_stopped_for_a_service_that_cannot_be(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr("vatt_daemon.launch.stop_daemon", lambda: stopped.append("daemon"))
    monkeypatch.setenv("PATH", "")
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr("vatt_daemon.cli.service.sys.platform", platform)
        assert call("service", "install")[0] == 9
    assert not stopped


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    home = str(tmp_path / 'a home with 100% $HOME "quotes"')
    for part in programs(log=tmp_path, home=home):
        file = tmp_path / Systemd(tmp_path).unit(part)
        file.write_text(Systemd(tmp_path).render(part))
    for name in ("vatt.service", "vatt-watch.service"):
        ran = subprocess.run(["systemd-analyze", "--user", "verify", str(tmp_path / name)], capture_output=True,
                             text=True, check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})  # fmt: skip
        assert ran.returncode == 0 and name not in ran.stderr, ran.stderr


def namespaces() -> list[str]:
    """The command that gives a program mounts and processes of its own, or nothing where that is not allowed."""
    for command in (["unshare", "-mpf", "--mount-proc", "--kill-child"],
                    ["unshare", "-Urmpf", "--mount-proc", "--kill-child"]):  # fmt: skip
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return []


@pytest.mark.service
@pytest.mark.skipif(not Path("/lib/systemd/systemd").exists(), reason="needs systemd")
def test_the_service_lives_its_whole_life_under_systemd(tmp_path: Path) -> None:
    command = namespaces()
    if not command:
        pytest.skip("needs the right to make namespaces")
    ran = subprocess.run([*command, sys.executable, str(HERE / "systemd_session.py"), str(tmp_path)],
                         capture_output=True, text=True, timeout=280, check=False)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    if "unusable" in seen:
        pytest.skip(f"systemd does not run here as a user's: {seen['unusable'][-200:]}")
    assert seen == {
        "status before": 7, "started by hand": 0, "install": [0, ""], "runs": True, "took over": True, "verify": [0, ""],
        "enabled": ["enabled", "enabled"], "restarted after a kill": True, "upgrade": [0, True], "watch": 0,
        "watched": True, "stop stays stopped": [0, True], "uninstall": [0, ""], "left": [], "daemon after": 7,
        "again": 0,
    }  # fmt: skip
