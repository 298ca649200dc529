"""A daemon as it is seen from other machines. A loopback address stands for the other machine; the connection file says that
the daemon is remote."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vatt_client import Client, connection, errors, messages
from vatt_daemon.clients import NamedClients, connection_for
from vatt_daemon.keys import load_key_pair
from vatt_daemon.settings import RemoteSettings


def free_ports() -> tuple[int, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return sockets[0].getsockname()[1], sockets[1].getsockname()[1]


class Afar:
    """A daemon that listens for other machines, and the connection files of its named clients."""

    def __init__(self, home: Any, **settings: object) -> None:
        self.home = home
        self.ports = free_ports()
        values = {
            "remote.enabled": "true",
            "remote.address": "127.0.0.1",
            "remote.port": self.ports[0],
            "remote.control_port": self.ports[1],
            **settings,
        }
        home.environment |= {f"VATT_{key.replace('.', '_').upper()}": str(value) for key, value in values.items()}
        self.uploads = home.root / "home" / "data" / "uploads"
        self.results = home.root / "home" / "data" / "results"

    def add(self, name: str) -> Path:
        """As `vatt clients add`."""
        data = Path(self.home.environment["VATT_HOME"]) / "data"
        (data / "keys").mkdir(parents=True, exist_ok=True, mode=0o700)
        server = load_key_pair(data / "keys" / "server.secret")
        remote = RemoteSettings(True, "127.0.0.1", *self.ports)
        keys = NamedClients(data / "keys" / "clients").add(name)
        return connection.write_connection(
            connection_for(keys, server.public, remote), Path(self.home.root) / f"{name}.json"
        )

    def restart(self) -> None:
        with self.home.client() as client:
            client.shutdown()
        self.home.processes[-1].wait(60)
        self.home.start()


def video(folder: Path, size: int, name: str = "clip.mp4") -> Path:
    """A file of its own content; the scripted pipeline does not look inside."""
    file = folder / name
    file.write_bytes(secrets.token_bytes(size))
    return file


def announced(file: Path) -> messages.Upload:
    data = file.read_bytes()
    return messages.Upload(name=file.name, size=len(data), sha256=hashlib.sha256(data).digest())


def ask(client: Client, message: messages.Message) -> dict[str, Any]:
    from vatt_client.client import finish

    return finish(client.session.ask(message, timeout=60))


def refusal(kind: type[errors.ClientError], call: Callable[[], object]) -> errors.ClientError:
    with pytest.raises(kind) as caught:
        call()
    return caught.value
