"""One encrypted ZeroMQ connection to one socket of the daemon: requests out, answers and events in, never a hang.

A `Link` never waits by itself. How its user waits (blocking, or on an asyncio loop) is the business of a `Waiter`.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import zmq

from vatt_client import errors, messages
from vatt_client.connection import Connection, process_exists

T = TypeVar("T")

HEARTBEAT = 2000
HEARTBEAT_LIMIT = 6000
"""Milliseconds of ZeroMQ's own heartbeats on an idle connection."""
CERTAINLY = 3
"""Failed handshakes in a row that are no accident: the daemon holds another key than the one expected."""

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)


class Link:
    """A DEALER with its monitor. `begin` a request, `send` its frames, `receive` until `take` has its answer."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], connection: Connection, address: str) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_bytes(6)
        self._answers: dict[bytes, dict[str, Any] | None] = {}
        self._events: dict[bytes, deque[dict[str, Any]]] = {}
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        # Without it, a message to a daemon that is not there would wait in the socket and look as if sent.
        self.socket.immediate = True
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_LIMIT)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        self.socket.curve_serverkey = connection.server_public.encode()
        self.socket.curve_publickey = connection.client_public.encode()
        self.socket.curve_secretkey = connection.client_secret.encode()
        wanted = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        for event in _HANDSHAKE_FAILED:
            wanted |= event
        self.monitor = self.socket.get_monitor_socket(wanted)
        self._ready = False
        self.connected = 0
        """How often the connection came about: the daemon forgets the watches of one that broke off."""
        self._refused = 0
        self._broke = False
        self.socket.connect(address)

    def begin(self, *, events: bool = False) -> bytes:
        """A new request id, whose answer is kept until it is taken; with `events`, also what comes with it later."""
        identity = self._prefix + next(self._numbers).to_bytes(6, "big")
        self._answers[identity] = None
        if events:
            self._events[identity] = deque()
        return identity

    def send(self, frames: Sequence[bytes]) -> bool:
        """Hand over a message. False: it cannot be taken yet, the handshake is not done or too much is under way."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def take(self, identity: bytes) -> dict[str, Any] | None:
        """The answer to a request, None while there is none. Raises the typed error of an error answer."""
        answer = self._answers.get(identity)
        if answer is None:
            return None
        del self._answers[identity]
        if answer.get("type") == "error":
            raise errors.from_wire(answer.get("error") or {})
        return answer

    def next_event(self, identity: bytes) -> dict[str, Any] | None:
        """The oldest event of a watch that has not been taken yet."""
        waiting = self._events.get(identity)
        return waiting.popleft() if waiting else None

    def forget(self, identity: bytes, *, events: bool = True) -> None:
        """Nobody waits for the answer any more, nor for events of that request."""
        self._answers.pop(identity, None)
        if events:
            self._events.pop(identity, None)

    def receive(self) -> bool:
        """Take in everything that has come, without waiting. Returns whether anything had."""
        known = self._ready, self._refused
        while int(self.monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            # Read by hand: zmq.utils.monitor imports asyncio, which takes longer than all the rest of the client.
            self._monitored(struct.unpack("=Hi", self.monitor.recv_multipart()[0])[0])
        something = known != (self._ready, self._refused)
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return something
            something = True
            if len(frames) >= 3:
                with contextlib.suppress(errors.BadRequest):
                    self._sort(frames[1], messages.unpack(frames[2], largest_map=100_000, largest_list=1_000_000))

    def _sort(self, identity: bytes, body: dict[str, Any]) -> None:
        if body.get("type") != "event":
            if identity in self._answers:
                self._answers[identity] = body
        elif identity in self._events:
            self._events[identity].append(body)

    def _monitored(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._ready, self._refused = True, 0
            self.connected += 1
        elif event == zmq.EVENT_DISCONNECTED:
            self._broke = self._broke or self._ready
            self._ready = False
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refused = CERTAINLY
        elif event in _HANDSHAKE_FAILED:
            self._refused += 1

    def check_connection(self) -> None:
        """Raise WrongKey when the daemon refuses this client's key, DaemonLost when the connection to another machine is
        gone."""
        remote = self._connection.remote
        if self._refused >= CERTAINLY and not self._ready:
            raise errors.WrongKey(
                "The daemon refuses this client's key: it was removed there, or the connection file is not for this daemon. "
                "Have it added again on the daemon's machine with 'vatt clients add'."
                if remote
                else "The daemon refuses this client's key: the connection file does not belong to it. Restart the daemon "
                "with 'vatt daemon stop' and 'vatt daemon start'."
            )
        if remote and self._broke:
            # What was under way on it gets no answer any more, and no process here could tell.
            raise errors.DaemonLost(
                f"The connection to the daemon ({self._connection.control}) broke off. Jobs that it had accepted go on, and what "
                "was sent of a file is kept."
            )

    def check_alive(self) -> None:
        """As `check_connection`, and raise DaemonLost when the process of the daemon on this machine is gone, which the system
        is asked about."""
        self.check_connection()
        if not self._connection.remote and not process_exists(self._connection.pid):
            raise errors.DaemonLost(
                "The daemon has ended. Jobs that it had accepted are kept; they go on after 'vatt daemon start'.",
                pid=self._connection.pid,
            )

    def close(self) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)


class Waiter(Protocol):
    """How a session waits for its links. All of a session's waiting goes through here."""

    def attach(self, link: Link) -> None:
        """A link was made; called before anything is awaited on it."""

    def detach(self, link: Link) -> None:
        """A link is about to be closed."""

    async def wait(self, link: Link, seconds: float) -> bool:
        """Return when something has come on the link (it is received by then), or after so many seconds. Whether something
        had come."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""

    async def call(self, work: Callable[[], T]) -> T:
        """Do something that takes a while and waits for no link, such as reading a large file."""
