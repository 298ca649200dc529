"""The daemon's sockets: encrypted ROUTERs on this machine and, where that is switched on, on an address for others."""

from __future__ import annotations

from pathlib import Path

import zmq

from vatt_core.errors import VattError
from vatt_daemon.keys import DOMAIN, KeyPair
from vatt_daemon.settings import RemoteSettings, Settings

ADDRESS = "127.0.0.1"


class PortInUse(VattError):
    """Another program holds a port that was asked for by number."""

    code = "busy"
    exit_code = 9


def listen(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: KeyPair,
    settings: Settings,
    port: int,
    remote_port: int,
    *,
    file: Path,
) -> tuple[zmq.Socket[bytes], str]:
    """A socket that listens on this machine, and for other machines where that is switched on; with its endpoint here.

    port: 0 for a free one. file: the settings, for what is said to the user. Raises PortInUse.
    """
    socket = context.socket(zmq.ROUTER)
    socket.linger = 200
    socket.router_mandatory = True
    socket.curve_server = True
    socket.curve_secretkey = keys.secret
    socket.zap_domain = DOMAIN
    socket.maxmsgsize = settings.server.largest_message
    socket.handshake_ivl = int(settings.server.handshake_timeout * 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
    try:
        _bind(socket, f"tcp://{ADDRESS}:{port or '*'}", port, "server", file)
        endpoint = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()  # type: ignore[union-attr]
        if settings.remote.enabled:
            _bind(socket, remote_endpoint(settings.remote, remote_port), remote_port, "remote", file)
    except BaseException:
        socket.close()
        raise
    return socket, endpoint


def _bind(socket: zmq.Socket[bytes], endpoint: str, port: int, table: str, file: Path) -> None:
    socket.ipv6 = "[" in endpoint
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise PortInUse(
                f"The port {port} is used by another program: set another one"
                f"{', or 0 to have a free one chosen' if table == 'server' else ''} ({file}, table [{table}]).",
                port=port,
            ) from None
        raise PortInUse(
            f"{endpoint} cannot be listened on ({error}): set another address or port ({file}, table [{table}]).",
            port=port,
        ) from None


def remote_endpoint(remote: RemoteSettings, port: int) -> str:
    """Where other machines are listened to."""
    address = "0.0.0.0" if remote.address == "*" else remote.address
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
