"""Who may talk to the daemon: programs of its own user, and clients on other machines that were added by name.

The daemon keeps the public key of each named client in a file of its own, `keys/clients/NAME.json`; the secret one leaves
this machine with the connection file that `vatt clients add` writes, and is kept nowhere here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import zmq
from vatt_client import connection, messages
from vatt_client.fields import is_identifier

from vatt_core.errors import BadRequest, ForbiddenPath, NotFound
from vatt_daemon.keys import KeyPair, check_private
from vatt_daemon.settings import RemoteSettings

log = logging.getLogger(__name__)

LOCAL = "local"


@dataclass(frozen=True)
class Caller:
    """Whom a request is from. A remote one names no paths of this machine, sees its own jobs only and stops nothing."""

    name: str
    remote: bool


@dataclass(frozen=True)
class NamedClient:
    """A client that was added by name. public: Z85. created: seconds since 1970."""

    name: str
    public: bytes
    created: float


class NamedClients:
    """The folder of the named clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def add(self, name: str) -> KeyPair:
        """Make the key pair of a new client, of which the public half is kept here. Raises BadRequest when the name will not
        do or is taken."""
        if not is_identifier(name) or name == LOCAL:
            raise BadRequest(
                f"'{name}' cannot be the name of a client: take 1 to 64 letters, digits, '.', '_' or '-', the first a "
                f"letter or digit, and not '{LOCAL}'.",
                name=name,
            )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(known.name.lower() == f"{name}.json".lower() for known in self.folder.iterdir()):
            raise BadRequest(f"There is a client '{name}' already: 'vatt clients remove {name}' first.", name=name)
        public, secret = zmq.curve_keypair()
        body = {"public": public.decode(), "created": time.time()}
        connection.write_private(self.file(name), json.dumps(body, indent=1).encode())
        return KeyPair(public=public, secret=secret)

    def remove(self, name: str) -> None:
        """Forget a client: it is refused from now on, and what it was about to send as well. Raises NotFound."""
        try:
            if not is_identifier(name):
                raise FileNotFoundError(name)
            self.file(name).unlink()
        except FileNotFoundError:
            known = ", ".join(client.name for client in self.all()) or "none"
            raise NotFound(f"There is no client '{name}'. There are: {known}.", name=name) from None

    def read(self, name: str) -> NamedClient:
        """Raises NotFound, ForbiddenPath when others could have written the file, BadRequest when it is damaged."""
        file = self.file(name)
        try:
            check_private(file)
            body = json.loads(file.read_bytes())
            public = body["public"].encode()
            if len(public) != 40:
                raise ValueError("no key")
            return NamedClient(name, public, float(body["created"]))
        except FileNotFoundError:
            raise NotFound(f"There is no client '{name}'.", name=name) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(
                f"The file {file} of the client '{name}' is damaged: remove and add it again.", name=name
            ) from error

    def all(self) -> list[NamedClient]:
        """Those whose files can be trusted, by name; the log tells of the others."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(self.folder.iterdir()):
                if file.suffix != ".json" or not is_identifier(file.stem):
                    continue
                try:
                    found.append(self.read(file.stem))
                except (BadRequest, ForbiddenPath, NotFound, OSError) as error:
                    log.warning("the client '%s' is not let in: %s", file.stem, error)
        return found


class Callers:
    """Knows a caller by its public key, as the files are at that moment: adding and removing need no restart."""

    def __init__(self, local: bytes, named: NamedClients, *, remote: bool) -> None:
        """local: the public key of the user's own programs. remote: whether named clients are let in at all."""
        self._local = local
        self._named = named
        self._remote = remote
        self._known: dict[bytes, tuple[str, tuple[int, ...]]] = {}

    def admit(self, key: bytes, address: str) -> bool:
        """Whether a connection with that key from that address is let in."""
        if key == self._local:
            # This key never leaves the machine; on another one it would be a stolen one.
            return is_loopback(address)
        return self._remote and self._look_up(key) is not None

    def find(self, key: bytes) -> Caller | None:
        """Whom a message that came with that key is from; None when it is not let in any more."""
        if key == self._local:
            return Caller(LOCAL, remote=False)
        name, mark = self._known.get(key, ("", ()))
        if mark and _mark(self._named.file(name)) == mark:
            return Caller(name, remote=True)
        found = self._look_up(key)
        return None if found is None else Caller(found, remote=True)

    def _look_up(self, key: bytes) -> str | None:
        # The marks are taken first: a file that changes while it is read is read again for the next message.
        marks = {name: _mark(self._named.file(name)) for name in names(self._named.folder)}
        self._known = {client.public: (client.name, marks.get(client.name, ())) for client in self._named.all()}
        name, _ = self._known.get(key, ("", ()))
        return name or None


def names(folder: Path) -> list[str]:
    try:
        return [file.stem for file in folder.iterdir() if file.suffix == ".json"]
    except OSError:
        return []


def _mark(file: Path) -> tuple[int, ...]:
    try:
        about = os.stat(file)
    except OSError:
        return ()
    return about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")


def connection_for(
    keys: KeyPair, server_public: bytes, remote: RemoteSettings, *, host: str = ""
) -> connection.Connection:
    """What a named client needs to know, for its connection file. Raises BadRequest when it cannot be told under which
    address this machine is reached."""
    host = host or remote.host or remote.address
    if not host or host in ("*", "0.0.0.0", "::"):
        raise BadRequest(
            "Say under which name or address other machines reach this one: with --host, or remote.host in the settings."
        )
    if not remote.port or not remote.control_port:
        raise BadRequest("Set fixed ports for other machines first: remote.port and remote.control_port.")
    if ":" in host:
        host = f"[{host}]"
    return connection.Connection(
        instance="",
        pid=0,
        jobs=f"tcp://{host}:{remote.port}",
        control=f"tcp://{host}:{remote.control_port}",
        server_public=server_public.decode(),
        client_public=keys.public.decode(),
        client_secret=keys.secret.decode(),
        protocol=".".join(map(str, messages.PROTOCOL)),
        remote=True,
    )
