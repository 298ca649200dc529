"""Keys: made at the first start, readable by this user alone, checked at every start.

CURVE encrypts every socket and proves the daemon's identity; `Gatekeeper` lets in only clients whose public key is
known: the user's own, which the connection file hands to programs of the same user, and those of named clients.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.utils.z85

from vatt_core.errors import ForbiddenPath

log = logging.getLogger(__name__)

DOMAIN = b"vatt"


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, each part 40 characters of Z85."""

    public: bytes
    secret: bytes


def load_key_pair(file: Path) -> KeyPair:
    """Read the secret key in `file`, making it when it is missing. Raises ForbiddenPath if others could read it, or it
    cannot be made."""
    try:
        with contextlib.suppress(FileExistsError):
            _make(file)
    except OSError as error:
        raise ForbiddenPath(
            f"The key file {file} cannot be made ({error.strerror}): change the permissions of its folder, or set "
            "VATT_HOME.",
            path=str(file),
        ) from error
    check_private(file)
    secret = file.read_bytes().strip()
    try:
        return KeyPair(public=zmq.curve_public(secret), secret=secret)
    except (ValueError, zmq.ZMQError) as error:
        raise ForbiddenPath(
            f"The key file {file} is damaged: remove it and restart the daemon, a new key is made then.", path=str(file)
        ) from error


def _make(file: Path) -> None:
    # zmq.auth.create_certificates leaves the secret readable by everybody; this one is private from its first byte.
    if file.exists():
        raise FileExistsError(file)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(zmq.curve_keypair()[1])
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, file)


def check_private_folder(folder: Path) -> None:
    """Raise ForbiddenPath unless the folder of the keys is this user's and no one else can look or write into it."""
    _check_rights(folder, folder.stat(), f"The folder of the keys {folder}", f"run 'chmod 700 {folder}'")


def check_private(file: Path) -> None:
    """Raise ForbiddenPath unless `file` is a regular file of this user that no one else can read or write."""
    about = file.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise ForbiddenPath(
            f"The key file {file} is no regular file: remove it and restart the daemon.", path=str(file)
        )
    _check_rights(file, about, f"The key file {file}", f"run 'chmod 600 {file}', or remove it to get a new key")


def _check_rights(path: Path, about: os.stat_result, named: str, cure: str) -> None:
    if sys.platform == "win32":
        return
    if about.st_uid != os.getuid():
        raise ForbiddenPath(
            f"{named} belongs to another user (uid {about.st_uid}): run the daemon as that user, or set VATT_HOME to a "
            "folder of your own.",
            path=str(path),
        )
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise ForbiddenPath(
            f"{named} is open to others (mode {stat.S_IMODE(about.st_mode):o}): {cure}.", path=str(path)
        )


class Gatekeeper:
    """Answers ZeroMQ's authentication requests (ZAP 1.0): only known public keys are let in.

    `admit` is asked with a public key (Z85) and the address that it comes from. The key becomes the user id of the
    connection, which every message of it carries.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admit: Callable[[bytes, str], bool]) -> None:
        self._admit = admit
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")

    def answer(self, frames: list[bytes]) -> list[bytes]:
        """The reply to one authentication request: version, request id, status, text, user id, metadata."""
        if len(frames) < 7:
            return [b"1.0", frames[1] if len(frames) > 1 else b"", b"500", b"malformed", b"", b""]
        version, request, _domain, address, _identity, mechanism, *credentials = frames
        source = address.decode("ascii", "replace")
        if version == b"1.0" and mechanism == b"CURVE" and len(credentials[0]) == 32:
            key = zmq.utils.z85.encode(credentials[0])
            if self._admit(key, source):
                return [b"1.0", request, b"200", b"OK", key, b""]
        log.warning("refused a client with an unknown key from %s", source)
        return [b"1.0", request, b"400", b"unknown key", b"", b""]

    def close(self) -> None:
        self.socket.close()
