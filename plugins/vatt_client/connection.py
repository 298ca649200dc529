"""The connection file: where a client finds the daemon's addresses and keys.

The daemon writes one for this user's programs (0600, in a folder of the user alone) after its sockets are bound, and removes
it when it stops; a file that a killed daemon left behind is recognised by its process id. For a client on another machine
`vatt clients add` writes one, which is copied there and named by $VATT_CONNECTION.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from vatt_client.errors import DaemonNotRunning, ForbiddenPath

FILE_NAME = "connection.json"
VARIABLE = "VATT_CONNECTION"
"""Environment variable that names another connection file than the one of this user's own daemon."""


@dataclass(frozen=True)
class Connection:
    """Where the daemon is. Addresses are ZeroMQ endpoints, keys are Z85 texts of 40 characters.

    `client_public` and `client_secret` are the key pair by which programs of this user are let in, or a named client on
    another machine: then the daemon is `remote`, its process is none of this machine, and it sees no files here.
    """

    instance: str
    pid: int
    jobs: str
    control: str
    server_public: str
    client_public: str
    client_secret: str
    protocol: str = "1.0"
    remote: bool = False


def runtime_folder() -> Path:
    """The folder of the connection file and the lock: $VATT_HOME/runtime, or the user's runtime folder."""
    home = os.environ.get("VATT_HOME")
    if home:
        return Path(home).expanduser().absolute() / "runtime"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "vatt" / "runtime"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "vatt" / "runtime"
    # A shell without XDG_RUNTIME_DIR (cron, ssh) must look where the desktop's programs look.
    candidate = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    with contextlib.suppress(OSError):
        if candidate.is_dir() and candidate.stat().st_uid == os.getuid() and os.access(candidate, os.W_OK):
            return candidate / "vatt"
    return Path.home() / ".cache" / "vatt" / "runtime"


def chosen_file() -> Path | None:
    """The connection file that $VATT_CONNECTION names, if it is set."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None


def own_file() -> Path:
    """The connection file of this user's own daemon."""
    return runtime_folder() / FILE_NAME


def connection_file() -> Path:
    return chosen_file() or own_file()


def process_exists(pid: int) -> bool:
    """Whether a process of that id is alive on this machine."""
    if pid <= 0:
        return False
    if sys.platform == "win32":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed daemon whose parent has not looked yet is a zombie: gone for every purpose.
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def read_connection(path: Path | None = None) -> Connection:
    """Read and check the connection file.

    path: none for $VATT_CONNECTION, or that of this user's own daemon. Raises DaemonNotRunning when there is none or its
    daemon is gone, ForbiddenPath when others could have written it.
    """
    path = connection_file() if path is None else path
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            data = file.read(65_536)
    except FileNotFoundError:
        if path == chosen_file():
            raise DaemonNotRunning(
                f"There is no connection file {path}, which {VARIABLE} or --connection names.", path=str(path)
            ) from None
        raise DaemonNotRunning("No VATT daemon is running. Start one: vatt daemon start", path=str(path)) from None
    except OSError as error:
        raise ForbiddenPath(
            f"The connection file {path} cannot be read ({error.strerror}): check who owns it.", path=str(path)
        ) from error
    if sys.platform != "win32":
        _check_owner(path, about)
    try:
        values = json.loads(data)
        known = {name: values[name] for name in Connection.__dataclass_fields__ if name in values}
        connection = Connection(**known)
        pid = int(connection.pid)
    except (ValueError, TypeError, KeyError) as error:
        raise DaemonNotRunning(
            f"The connection file {path} is damaged. Start the daemon again: vatt daemon start", path=str(path)
        ) from error
    if not connection.remote and not process_exists(pid):
        raise DaemonNotRunning(
            f"The daemon that wrote {path} (process {pid}) is gone. Start one: vatt daemon start", path=str(path)
        )
    return connection


def _check_owner(path: Path, about: os.stat_result) -> None:
    # Whoever can write this file can make clients talk to a daemon of theirs.
    if about.st_uid != os.getuid():
        raise ForbiddenPath(
            f"The connection file {path} belongs to another user (uid {about.st_uid}), and so does the daemon: start one "
            "of your own with 'vatt daemon start', with VATT_HOME set to a folder of yours if it is set.",
            path=str(path),
        )
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise ForbiddenPath(
            f"The connection file {path} is open to others (mode {stat.S_IMODE(about.st_mode):o}): remove it and "
            "restart the daemon; or, if you have copied it from another machine, run 'chmod 600' on it.",
            path=str(path),
        )


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user can read, in one step, through a name that no one else can have made."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_connection(connection: Connection, path: Path | None = None) -> Path:
    """Write the connection file (the daemon does, once its sockets are bound)."""
    path = connection_file() if path is None else path
    write_private(path, json.dumps(asdict(connection), indent=1).encode())
    return path
