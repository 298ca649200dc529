"""A session's connection: opening it, asking over it, and finding its way back when the daemon was lost.

Everything that waits is a coroutine over a `Waiter`. `Client` runs these coroutines with a waiter that blocks, so that
they never suspend; `AsyncClient` runs them on an asyncio loop.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import zmq

from vatt_client import connection, errors, messages, replies
from vatt_client.link import Link, Waiter

TICK = 0.1
"""Seconds between two looks at whether the daemon's process is still there."""
UNDER_WAY = 4
"""Requests of `ask_in_turn` that wait for their answers at once."""


class Asking:
    """A connection to a daemon; see `Client` for the arguments."""

    def __init__(
        self, waiter: Waiter, *, timeout: float, reconnect: float, connection_file: Path | None, name: str
    ) -> None:
        self._waiter = waiter
        self._timeout = timeout
        self._reconnect = reconnect
        self._file = connection_file
        self._name = name
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._links: dict[str, Link] = {}
        self._opened = 0
        self._opening = False
        self._last_ping = 0.0
        self.remote = False
        self.welcome = replies.Welcome(instance="")

    # ---- the connection --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and say hello. Raises DaemonNotRunning, WrongKey, DaemonTimeout or UnsupportedVersion."""
        found = connection.read_connection(self._file)
        self.remote = found.remote
        if self._context is None:
            # pyzmq keeps a context per client, so that closing one never waits for another.
            self._context = zmq.Context()
        for socket, address in ((messages.JOBS, found.jobs), (messages.CONTROL, found.control)):
            link = self._links[socket] = Link(self._context, found, address)
            self._waiter.attach(link)
        try:
            self.welcome = replies.Welcome.from_wire(await self.ask(messages.Hello(client=self._name)))
        except (errors.DaemonTimeout, errors.DaemonLost) as error:
            if found.remote:
                raise errors.DaemonNotRunning(
                    f"The daemon at {found.control} does not answer. Is it running there, with remote.enabled, and can this "
                    "machine reach its ports?"
                ) from error
            raise errors.DaemonNotRunning(
                "The connection file names a daemon that does not answer. If it still runs, 'vatt daemon stop' it, "
                "then 'vatt daemon start'.",
                instance=found.instance,
            ) from error
        self._last_ping = time.monotonic()
        self._opened += 1

    def _disconnect(self) -> None:
        for link in self._links.values():
            self._waiter.detach(link)
            link.close()
        self._links = {}

    def close(self) -> None:
        self._disconnect()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def _come_back(self, lost: errors.DaemonLost, opened: int) -> None:
        """Wait for a daemon to take the lost one's place and connect to it; raises `lost` when none comes."""
        end = time.monotonic() + self._reconnect
        while time.monotonic() < end:
            await self._waiter.sleep(0.1)
            if self._opened != opened:
                return
            if self._opening:
                continue
            self._opening = True
            try:
                self._disconnect()
                with contextlib.suppress(errors.DaemonNotRunning, errors.WrongKey):
                    await self.open()
                    return
            finally:
                self._opening = False
        raise lost

    # ---- questions -------------------------------------------------------------------------------------------------

    def link(self, socket: str) -> Link:
        """The connection to that socket of the daemon. Raises DaemonLost when there is none."""
        try:
            return self._links[socket]
        except KeyError:
            raise errors.DaemonLost("This client is not connected.") from None

    async def ask(self, message: messages.Message, *, timeout: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer's map. Raises the typed error of an error answer, and WrongKey,
        DaemonLost or DaemonTimeout when none comes."""
        link = self.link(messages.CONTROL if messages.CONTROL in message.SOCKETS else messages.JOBS)
        identity = link.begin()
        try:
            return await self._answer(link, identity, message, timeout)
        finally:
            link.forget(identity)

    async def _answer(
        self, link: Link, identity: bytes, message: messages.Message, timeout: float | None
    ) -> dict[str, Any]:
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        await self._hand_over(link, identity, message, end)
        return await self._taken(link, identity, message.TYPE, end)

    async def _hand_over(self, link: Link, identity: bytes, message: messages.Message, end: float) -> None:
        frames = messages.encode(message, identity, largest=self.welcome.largest_message)
        while not link.send(frames):
            await self._pause(link, end, message.TYPE)

    async def _taken(self, link: Link, identity: bytes, name: str, end: float) -> dict[str, Any]:
        while (answer := link.take(identity)) is None:
            await self._pause(link, end, name)
        return answer

    async def ask_in_turn(
        self, questions: Iterable[messages.Message], *, timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The answers of many requests to the jobs socket in order, of which a few are under way at once: a distant daemon
        is not waited for each time. timeout: seconds for each answer. Raises as `ask`, for the first that fails."""
        link = self.link(messages.JOBS)
        waiting: deque[tuple[bytes, str]] = deque()

        async def first() -> dict[str, Any]:
            answer = await self._taken(link, *waiting[0], time.monotonic() + timeout)
            waiting.popleft()
            return answer

        try:
            for question in questions:
                if len(waiting) >= UNDER_WAY:
                    yield await first()
                identity = link.begin()
                waiting.append((identity, question.TYPE))
                await self._hand_over(link, identity, question, time.monotonic() + timeout)
            while waiting:
                yield await first()
        finally:
            for identity, _ in waiting:
                link.forget(identity)

    async def _pause(self, link: Link, end: float, name: str) -> None:
        left = end - time.monotonic()
        if left > 0 and await self._waiter.wait(link, min(left, TICK)):
            link.check_connection()
            return
        link.check_alive()
        if left <= 0:
            raise errors.DaemonTimeout(f"The daemon did not answer '{name}' in time. See 'vatt daemon status'.")
