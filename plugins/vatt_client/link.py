"""One encrypted ZeroMQ connection to one socket of the daemon: requests out, answers and events in, never a hang."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import struct
import time
from collections.abc import Callable
from typing import Any

import zmq

from vatt_client import errors, messages
from vatt_client.connection import Connection, process_exists

TICK = 0.1
"""Seconds between two looks at whether the daemon's process is still there."""
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
    """A DEALER with its monitor. Events (answers that carry a watch's request id) are kept until asked for."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], connection: Connection, address: str) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_bytes(6)
        self._answers: dict[bytes, dict[str, Any]] = {}
        self._awaited: set[bytes] = set()
        self.events: list[tuple[bytes, dict[str, Any]]] = []
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
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        for event in _HANDSHAKE_FAILED:
            events |= event
        self._monitor = self.socket.get_monitor_socket(events)
        self._ready = False
        self._refused = 0
        self.socket.connect(address)

    def request(self, message: messages.Message, *, timeout: float) -> tuple[bytes, dict[str, Any]]:
        """Send a request and wait for its answer: (request id, the answer's map).

        Raises the typed error of an error answer; WrongKey, DaemonLost or DaemonTimeout when none comes.
        """
        identity = self._prefix + next(self._numbers).to_bytes(6, "big")
        end = time.monotonic() + timeout
        frames = [messages.VERSION_FRAME, identity, messages.pack(message.to_wire())]
        self._wait(lambda: self._send(frames), end, message.TYPE)
        self._awaited.add(identity)
        try:
            self._wait(lambda: identity in self._answers, end, message.TYPE)
        finally:
            self._awaited.discard(identity)
        answer = self._answers.pop(identity)
        if answer.get("type") == "error":
            raise errors.from_wire(answer.get("error") or {})
        return identity, answer

    def pump(self, seconds: float) -> None:
        """Take in what comes within so many seconds; returns after the first messages, or when the time is up."""
        self._read_monitor()
        if self.socket.poll(int(max(0.0, seconds) * 1000)):
            self._read()

    def check_alive(self) -> None:
        """Raise DaemonLost when the daemon's process is gone, WrongKey when it refuses this client's key."""
        self._read_monitor()
        if not process_exists(self._connection.pid):
            raise errors.DaemonLost(
                "The daemon has ended. Jobs that it had accepted are kept; they go on after 'vatt daemon start'.",
                pid=self._connection.pid,
            )
        if self._refused >= CERTAINLY and not self._ready:
            raise errors.WrongKey(
                "The daemon refuses this client's key: the connection file does not belong to it. Restart the daemon "
                "with 'vatt daemon stop' and 'vatt daemon start'."
            )

    def _send(self, frames: list[bytes]) -> bool:
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _wait(self, done: Callable[[], bool], end: float, name: str) -> None:
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                self.check_alive()
                raise errors.DaemonTimeout(f"The daemon did not answer '{name}' in time. See 'vatt daemon status'.")
            if self._ready:
                self.pump(min(left, TICK))
            else:
                # Nothing can be sent before the handshake; the monitor tells when it is done, or why not.
                self._monitor.poll(int(min(left, TICK) * 1000))
                self._read()
            self.check_alive()

    def _read(self) -> None:
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if len(frames) < 3:
                continue
            with contextlib.suppress(errors.BadRequest):
                body = messages.unpack(frames[2], largest_map=100_000, largest_list=1_000_000)
                if body.get("type") == "event":
                    self.events.append((frames[1], body))
                elif frames[1] in self._awaited:
                    self._answers[frames[1]] = body

    def _read_monitor(self) -> None:
        while self._monitor.poll(0):
            # Read by hand: zmq.utils.monitor imports asyncio, which takes longer than all the rest of the client.
            event, _value = struct.unpack("=Hi", self._monitor.recv_multipart()[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._ready, self._refused = True, 0
            elif event == zmq.EVENT_DISCONNECTED:
                self._ready = False
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._refused = CERTAINLY
            elif event in _HANDSHAKE_FAILED:
                self._refused += 1

    def close(self) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close(linger=0)
