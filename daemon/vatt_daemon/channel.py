"""A ZeroMQ socket on asyncio, drained in groups.

pyzmq's own futures resolve at once while data is waiting, so a loop of `await recv` starves every other task. Here a
reader takes up to `limit` messages per turn, and the caller yields between turns. Works on selector event loops.
"""

from __future__ import annotations

import asyncio
import logging

import zmq

log = logging.getLogger(__name__)


class Channel:
    """One socket. `receive` waits for messages; `send` never waits and says whether the message was taken."""

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
            while len(messages) < limit:
                try:
                    messages.append(self.socket.recv_multipart(zmq.DONTWAIT, copy=False))
                except zmq.Again:
                    break
            if messages:
                self._changed.set()
                return messages
            await self._changed.wait()

    def send(self, frames: list[bytes]) -> bool:
        """Hand over a message without waiting. False: the peer is gone, or reads too slowly to be sent more."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=True)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                log.warning("a message could not be sent: %s", error)
            return False
        finally:
            self._changed.set()
        return True

    def close(self) -> None:
        self._loop.remove_reader(self.socket.fileno())
        self.socket.close()
