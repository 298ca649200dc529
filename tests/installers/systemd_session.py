"""Run in namespaces of its own (see test_service.py): a systemd of the user's, in which the service lives a whole life.

Prints one JSON object of what was seen. Arguments: an empty folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            if found := condition():
                return found
        time.sleep(0.1)
    return None


def prepare(root: Path) -> subprocess.Popen[bytes]:
    """Mount an own /run, which says that systemd has booted, and start the user's manager in it."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    runtime = Path(f"/run/user/{os.getuid()}")
    Path("/run/systemd/system").mkdir(parents=True)
    runtime.mkdir(parents=True)
    runtime.chmod(0o700)
    home = root / "user's home"
    home.mkdir()
    os.environ |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "VATT_HOME": str(root / "100% VATT $HOME")}
    os.environ.pop("XDG_CONFIG_HOME", None)
    os.environ.pop("DBUS_SESSION_BUS_ADDRESS", None)
    program = next(path for path in SYSTEMD if Path(path).exists())
    manager = subprocess.Popen([program, "--user"], stdout=(root / "systemd.log").open("wb"), stderr=subprocess.STDOUT)
    if not until(lambda: (runtime / "systemd" / "private").exists(), 60):
        print(json.dumps({"unusable": (root / "systemd.log").read_text(errors="replace")[-2000:]}))
        sys.exit(0)
    return manager


def vatt(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vatt_daemon.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def running() -> bool:
    return all(part["running"] for part in json.loads(vatt("service", "status", "--json").stdout))


def pid() -> int:
    return int(json.loads(vatt("daemon", "status", "--json").stdout)["pid"])


def main() -> None:
    root = Path(sys.argv[1])
    prepare(root)
    seen: dict[str, Any] = {}
    seen["status before"] = vatt("service", "status").returncode
    seen["started by hand"] = vatt("daemon", "start").returncode
    by_hand = pid()
    installed = vatt("service", "install")
    seen["install"] = [installed.returncode, installed.stderr]
    seen["runs"] = bool(until(running))
    first = until(pid)
    seen["took over"] = first is not None and first != by_hand
    verified = subprocess.run(
        ["systemd-analyze", "--user", "verify", *installed.stdout.split("\n")[:-1]], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    seen["verify"] = [verified.returncode, verified.stderr]
    units = subprocess.run(["systemctl", "--user", "is-enabled", "vatt.service", "vatt-watch.service"],
                           capture_output=True, text=True, check=False)  # fmt: skip
    seen["enabled"] = units.stdout.split()

    os.kill(first, signal.SIGKILL)
    second = until(lambda: (now := pid()) != first and now)
    seen["restarted after a kill"] = bool(second) and bool(until(running))

    upgraded = vatt("service", "install")
    third = until(lambda: (now := pid()) != second and now)
    seen["upgrade"] = [upgraded.returncode, bool(third) and bool(until(running))]

    folder = root / "watched"
    folder.mkdir()
    (folder / "clip.mp4").write_text("no film")
    seen["watch"] = vatt("watch", "add", str(folder)).returncode
    seen["watched"] = bool(until(lambda: (folder / "failed" / "clip.mp4.error.txt").exists(), 120))

    stopped = vatt("daemon", "stop")
    seen["stop stays stopped"] = [stopped.returncode, until(lambda: not running(), 60) is True]
    removed = vatt("service", "uninstall")
    seen["uninstall"] = [removed.returncode, removed.stderr]
    left = [*(Path(os.environ["HOME"]) / ".config" / "systemd" / "user").rglob("*vatt*")]
    seen["left"] = [str(path) for path in left]
    seen["daemon after"] = vatt("daemon", "status").returncode
    seen["again"] = vatt("service", "uninstall").returncode
    print(json.dumps(seen))


main()
