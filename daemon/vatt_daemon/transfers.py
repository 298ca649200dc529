"""Uploads and downloads beside everything else: each is done in a thread, in order, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Collection
from typing import Any

from vatt_client.errors import Busy
from vatt_client.messages import Chunk, Fetch, Finish, Transfer, Upload
from vatt_client.transfers import DOWNLOAD

from vatt_core.errors import NotFound
from vatt_daemon.clients import Caller
from vatt_daemon.places import Places, files_of
from vatt_daemon.settings import Settings
from vatt_daemon.store import Store
from vatt_daemon.stored_job import StoredJob
from vatt_daemon.upkeep import UPKEEP
from vatt_daemon.uploads import Uploads, identify

log = logging.getLogger(__name__)

LARGEST_WAITING = 64
"""Transfers that may be under way, each with up to 1 MiB in memory; those of one connection at most a quarter of it."""


class Transfers:
    """All transfers of the daemon. Belongs to its loop."""

    def __init__(self, store: Store, settings: Settings, places: Places) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self.uploads = Uploads(places, settings.transfers, self._open_work, file_bytes=settings.media.file_bytes)
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[bytes] = Counter()

    def enter(self, identity: bytes) -> None:
        """Count a transfer of a connection, until it is answered. Raises Busy when there are too many."""
        if self._waiting.total() >= LARGEST_WAITING or self._waiting[identity] >= LARGEST_WAITING // 4:
            raise Busy("Too much is being transferred at the moment: wait for answers first.", retry_after=1.0)
        self._waiting[identity] += 1

    async def answer(self, message: Transfer, caller: Caller, identity: bytes, job: StoredJob | None) -> dict[str, Any]:
        """The fields of the answer to one that was entered. job: that of a `fetch`. They take effect in the order in which
        they came."""
        try:
            async with self._lock(_subject(message, caller)):
                return await self._answer(message, caller, job)
        finally:
            self._waiting[identity] -= 1
            if not self._waiting[identity]:
                del self._waiting[identity]

    async def _answer(self, message: Transfer, caller: Caller, job: StoredJob | None) -> dict[str, Any]:
        if isinstance(message, Upload):
            # It may make room, which two must not do at the same time.
            async with self._lock("room"):
                upload, offset, complete = await asyncio.to_thread(self.uploads.begin, message, caller.name)
            return {"upload": upload, "offset": offset, "complete": complete}
        if isinstance(message, Chunk):
            offset = await asyncio.to_thread(self.uploads.add, message, caller.name)
            return {"upload": message.upload, "offset": offset}
        if isinstance(message, Finish):
            await asyncio.to_thread(self.uploads.finish, message.upload, caller.name)
            log.info("upload %s of '%s' is complete", message.upload, caller.name)
            return {"upload": message.upload, "complete": True}
        assert isinstance(message, Fetch) and job is not None
        if job.request.get("output") != DOWNLOAD or message.name not in files_of(job.result):
            raise NotFound(
                f"Job {job.id} has no file '{message.name}' to fetch: its result names those that there are.",
                job=job.id,
            )
        size, data = await asyncio.to_thread(self.uploads.fetch, job.id, message.name, message.offset, message.length)
        return {"name": message.name, "size": size, "offset": message.offset, "data": data}

    def _lock(self, name: str) -> asyncio.Lock:
        if len(self._locks) > 1000:
            self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(name, asyncio.Lock())

    def _open_work(self) -> Collection[str]:
        """Uploads and jobs whose files are needed. Called in threads, while the store belongs to the loop."""

        async def look() -> set[str]:
            return self._store.open_transfers()

        return asyncio.run_coroutine_threadsafe(look(), self._loop).result(30)

    async def keep_house(self) -> None:
        """Remove what is kept for too long, from time to time."""
        while True:
            async with self._lock("room"):
                with contextlib.suppress(OSError, sqlite3.Error):
                    gone = await asyncio.to_thread(self.uploads.prune)
                    if gone:
                        log.info("%d uploads and results were removed", len(gone))
            await asyncio.sleep(UPKEEP)


def _subject(message: Transfer, caller: Caller) -> str:
    """What must not be touched by two transfers at the same time."""
    if isinstance(message, Upload):
        return identify(message, caller.name)
    return message.job if isinstance(message, Fetch) else str(getattr(message, "upload", ""))
