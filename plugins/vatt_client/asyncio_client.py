"""The asyncio client: the methods of `Client` as coroutines. Tasks of one loop may share one `AsyncClient`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import zmq

from vatt_client import errors
from vatt_client.link import Link
from vatt_client.session import Session

T = TypeVar("T")

POLLING = 0.005
"""Seconds between two looks on loops that cannot watch ZeroMQ's descriptors (the proactor loop of Windows)."""


class Looping:
    """Waits on the running asyncio loop."""

    def __init__(self) -> None:
        self._waiting: dict[Link, set[asyncio.Future[None]]] = {}
        self._polls = False

    def attach(self, link: Link) -> None:
        self._waiting[link] = set()
        loop = asyncio.get_running_loop()
        try:
            for descriptor in _descriptors(link):
                loop.add_reader(descriptor, self._look, link)
        except NotImplementedError:
            self._polls = True

    def detach(self, link: Link) -> None:
        for future in self._waiting.pop(link, ()):
            if not future.done():
                future.set_result(None)
        if not self._polls:
            with contextlib.suppress(RuntimeError):  # the loop has been closed already
                for descriptor in _descriptors(link):
                    asyncio.get_running_loop().remove_reader(descriptor)

    def _look(self, link: Link) -> bool:
        """Receive what has come, and wake everybody who waits for something of it."""
        if not link.receive():
            return False
        for future in self._waiting.get(link, ()):
            if not future.done():
                future.set_result(None)
        return True

    async def wait(self, link: Link, seconds: float) -> bool:
        if link not in self._waiting:
            # Another task has found the daemon lost, and closed what led to it.
            raise errors.DaemonLost("The connection was closed.")
        # The descriptors signal edges, which a send may swallow: look before waiting.
        if self._look(link):
            await asyncio.sleep(0)
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting[link].add(future)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(future, min(seconds, POLLING) if self._polls else seconds)
        finally:
            self._waiting.get(link, set()).discard(future)
        return future.done() and not future.cancelled()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


def _descriptors(link: Link) -> tuple[int, int]:
    return int(link.socket.getsockopt(zmq.FD)), int(link.monitor.getsockopt(zmq.FD))


class AsyncClient(Session):
    """A connection to the daemon of this user, or to one on another machine: `async with AsyncClient() as client: …`.

    Arguments, methods and errors are those of `Client`; `watch` and `watch_all` are asynchronous iterators. A cancelled
    task cancels the job that it waits for.
    """

    def __init__(
        self,
        *,
        timeout: float = 10.0,
        reconnect: float = 0.0,
        connection_file: Path | None = None,
        name: str = "vatt_client",
    ) -> None:
        super().__init__(Looping(), timeout=timeout, reconnect=reconnect, connection_file=connection_file, name=name)

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
