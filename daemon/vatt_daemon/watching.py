"""Who wants to hear of which jobs. Nobody is waited for: a slow reader misses progress, and gets states when it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vatt_client import messages
from vatt_client.replies import ENDED

from vatt_daemon.channel import AT_ONCE, RETRY, Channel, Delivery

LARGEST_WATCHES = 10_000
LARGEST_OWED = 10_000
"""Jobs whose state is owed to one reader. Whoever reads nothing for longer loses its watch, and asks `get`."""

_Key = tuple[bytes, bytes]


@dataclass
class _Watch:
    """One `watch` request: where its events go. jobs: None for all, or all of `client`. owed: jobs whose state has not been
    taken yet."""

    identity: bytes
    request: bytes
    jobs: set[str] | None
    progress: bool
    client: str | None = None
    owed: dict[str, None] = field(default_factory=dict)


class Watchers:
    """The watches of all connections of the jobs socket."""

    def __init__(
        self,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        look_up: Callable[[str], dict[str, Any] | None],
        owner: Callable[[str], str | None] = lambda job: None,
    ) -> None:
        """look_up: the map of a job as it is now, None if it is not known any more. owner: the client that it is of."""
        self._channel = channel
        self._loop = loop
        self._look_up = look_up
        self._owner = owner
        self._watches: dict[_Key, _Watch] = {}
        self._by_job: dict[str, set[_Key]] = {}
        self._of_all: set[_Key] = set()
        self._behind: dict[_Key, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._watches)

    def add(
        self, identity: bytes, request: bytes, *, jobs: set[str] | None, progress: bool, client: str | None = None
    ) -> None:
        """jobs: ids of jobs that have not ended; None: all jobs, or all of `client`."""
        self.remove(identity, request)
        while len(self._watches) >= LARGEST_WATCHES:
            self.remove(*next(iter(self._watches)))
        key = (identity, request)
        self._watches[key] = _Watch(identity, request, jobs, progress, client)
        if jobs is None:
            self._of_all.add(key)
        for job in jobs or ():
            self._by_job.setdefault(job, set()).add(key)

    def remove(self, identity: bytes, request: bytes) -> bool:
        key = (identity, request)
        watch = self._watches.pop(key, None)
        if watch is None:
            return False
        self._of_all.discard(key)
        self._behind.pop(key, None)
        for job in watch.jobs or ():
            self._forget(job, key)
        return True

    def _forget(self, job: str, key: _Key) -> None:
        keys = self._by_job.get(job)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._by_job[job]

    def publish(self, job: str, event: dict[str, Any]) -> None:
        """Send an event to everybody who watches the job. A watch ends with the end of its last job."""
        keys = [*self._by_job.get(job, ()), *self._all_that_may_hear(job)]
        if not keys:
            return
        data = messages.pack(event)
        if event["event"] == "progress":
            for key in keys:
                self._report(key, data)
            return
        ended = event["job"]["state"] in ENDED
        for key in keys:
            self._tell(key, job, data)
            watch = self._watches.get(key)
            if ended and watch is not None and watch.jobs is not None:
                watch.jobs.discard(job)
                self._forget(job, key)
                self._end_if_done(key, watch)

    def _all_that_may_hear(self, job: str) -> Iterator[_Key]:
        owner: str | None = None
        for key in self._of_all:
            client = self._watches[key].client
            if client is not None and owner is None:
                owner = self._owner(job)
            if client is None or client == owner:
                yield key

    def _report(self, key: _Key, data: bytes) -> None:
        watch = self._watches[key]
        # Progress may be lost, and must not overtake a state that is owed.
        if watch.progress and not watch.owed and self._send(watch, data) is Delivery.GONE:
            self.remove(*key)

    def _tell(self, key: _Key, job: str, data: bytes) -> None:
        watch = self._watches[key]
        delivery = Delivery.FULL if watch.owed else self._send(watch, data)
        if delivery is Delivery.FULL:
            watch.owed[job] = None
            self._behind[key] = None
            self._later()
        if delivery is Delivery.GONE or len(watch.owed) > LARGEST_OWED:
            self.remove(*key)

    def _send(self, watch: _Watch, data: bytes) -> Delivery:
        return self._channel.send([watch.identity, messages.VERSION_FRAME, watch.request, data])

    def _end_if_done(self, key: _Key, watch: _Watch) -> None:
        if watch.jobs is not None and not watch.jobs and not watch.owed:
            self.remove(*key)

    def _later(self, delay: float = RETRY) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay, self._retry)

    def _retry(self) -> None:
        """Send some of what is owed, each job as it is by now. Who was tried goes to the end of the line."""
        self._timer = None
        left = AT_ONCE
        deaf: set[bytes] = set()
        for key in list(self._behind):
            if not left:
                break
            if key[0] not in deaf:
                del self._behind[key]
                self._behind[key] = None
                left = self._catch_up(key, left, deaf)
        if self._behind:
            self._later(RETRY if left else 0.0)

    def _catch_up(self, key: _Key, left: int, deaf: set[bytes]) -> int:
        """Send one watch what it is owed, at most `left` states; how many others may still get. Peers that take nothing are
        added to `deaf`."""
        watch = self._watches[key]
        while watch.owed and left:
            job = next(iter(watch.owed))
            body = self._look_up(job)
            if body is not None:
                delivery = self._send(watch, messages.pack({"type": "event", "event": "state", "job": body}))
                if delivery is Delivery.FULL:
                    deaf.add(watch.identity)
                    return left
                if delivery is Delivery.GONE:
                    self.remove(*key)
                    return left
            left -= 1
            del watch.owed[job]
        if not watch.owed:
            self._behind.pop(key, None)
            self._end_if_done(key, watch)
        return left

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
