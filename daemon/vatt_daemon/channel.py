"""A ZeroMQ socket on asyncio, drained in groups.

pyzmq's own futures resolve at once while data is waiting, so a loop of `await recv` starves every other task. Here a
reader takes up to `limit` messages per turn, and the caller yields between turns. Works on selector event loops.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque

import zmq

log = logging.getLogger(__name__)

RETRY = 0.05
"""Seconds until a peer that could take no more is tried again."""
AT_ONCE = 64
"""Messages sent in one turn of the loop of what is owed to slow peers: everybody else has a turn in between."""
LARGEST_OWED = 16 << 20
"""Bytes of answers that are kept for one peer which does not read them."""


class Delivery(enum.Enum):
    """What became of a message. TAKEN: it is on its way. FULL: the peer reads too slowly. GONE: there is no such peer."""

    TAKEN = enum.auto()
    FULL = enum.auto()
    GONE = enum.auto()


class Channel:
    """One socket. `receive` waits for messages; `send` never waits and says what became of the message."""

    def __init__(self, socket: zmq.Socket[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.socket = socket
        self._loop = loop
        self._changed = asyncio.Event()
        self._changed.set()
        loop.add_reader(socket.fileno(), self._changed.set)

    async def receive(self, limit: int = 64) -> list[list[zmq.Frame]]:
        """At least one and at most `limit` messages, each a list of frames."""
        while True:
            # The descriptor signals edges only, and any use of the socket may swallow one: clear first, then look.
            self._changed.clear()
            messages: list[list[zmq.Frame]] = []
            while len(messages) < limit and (messages or self._holds_something()):
                try:
                    messages.append(self.socket.recv_multipart(zmq.DONTWAIT, copy=False))
                except zmq.Again:
                    break
            if messages:
                self._changed.set()
                return messages
            await self._changed.wait()

    def _holds_something(self) -> bool:
        """Asked before the first is read: cheaper than the exception that an empty socket raises."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, frames: list[bytes]) -> Delivery:
        """Hand over a message without waiting."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=True)
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN:
                return Delivery.FULL
            if error.errno != zmq.EHOSTUNREACH:
                log.warning("a message could not be sent: %s", error)
            return Delivery.GONE
        finally:
            self._changed.set()
        return Delivery.TAKEN

    def close(self) -> None:
        self._loop.remove_reader(self.socket.fileno())
        self.socket.close()


class Outbox:
    """Answers on a ROUTER. Those that a peer is too slow for are kept in order until it reads, and nobody waits for it."""

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._owed: dict[bytes, deque[list[bytes]]] = {}
        self._sizes: dict[bytes, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def send(self, frames: list[bytes]) -> None:
        """Send an answer, now or when its peer has read what came before. frames: the routing identity first."""
        identity = frames[0]
        owed = self._owed.get(identity)
        if owed is None:
            if self._channel.send(frames) is not Delivery.FULL:
                return
            owed = self._owed[identity] = deque()
        size = self._sizes.get(identity, 0) + sum(map(len, frames))
        if size > LARGEST_OWED:
            log.warning("a client reads none of its answers: %d are dropped", len(owed) + 1)
            self._drop(identity)
            return
        owed.append(frames)
        self._sizes[identity] = size
        self._later()

    def _later(self, delay: float = RETRY) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay, self._retry)

    def _retry(self) -> None:
        self._timer = None
        at_once = False
        for identity in list(self._owed):
            at_once = self._catch_up(identity) or at_once
        if self._owed:
            self._later(0.0 if at_once else RETRY)

    def _catch_up(self, identity: bytes) -> bool:
        """Send some of what one peer is owed; whether it could take more."""
        owed = self._owed[identity]
        for _ in range(AT_ONCE):
            if not owed:
                break
            delivery = self._channel.send(owed[0])
            if delivery is Delivery.FULL:
                return False
            self._sizes[identity] -= sum(map(len, owed.popleft()))
            if delivery is Delivery.GONE:
                owed.clear()
        if owed:
            return True
        self._drop(identity)
        return False

    def _drop(self, identity: bytes) -> None:
        self._owed.pop(identity, None)
        self._sizes.pop(identity, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
