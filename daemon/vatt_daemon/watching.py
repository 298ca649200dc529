"""Who wants to hear of which jobs. Nobody is waited for: a reader that cannot take more is dropped and asks `get`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vatt_client import messages
from vatt_client.replies import ENDED

from vatt_daemon.channel import Channel

LARGEST_WATCHES = 10_000


@dataclass
class _Watch:
    """One `watch` request: where its events go. `jobs` None: all jobs."""

    identity: bytes
    request: bytes
    jobs: set[str] | None
    progress: bool


class Watchers:
    """The watches of all connections of the jobs socket."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._watches: dict[tuple[bytes, bytes], _Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, identity: bytes, request: bytes, *, jobs: set[str] | None, progress: bool) -> None:
        while len(self._watches) >= LARGEST_WATCHES:
            self._watches.pop(next(iter(self._watches)))
        self._watches[(identity, request)] = _Watch(identity, request, jobs, progress)

    def remove(self, identity: bytes, request: bytes) -> bool:
        return self._watches.pop((identity, request), None) is not None

    def publish(self, job: str, event: dict[str, Any]) -> None:
        """Send an event to everybody who watches the job. A watch ends with the end of its last job."""
        data: bytes | None = None
        ended = event["event"] == "state" and event["job"]["state"] in ENDED
        for key, watch in list(self._watches.items()):
            if watch.jobs is not None and job not in watch.jobs:
                continue
            if event["event"] == "progress" and not watch.progress:
                continue
            if data is None:
                data = messages.pack(event)
            taken = self._channel.send([watch.identity, messages.VERSION_FRAME, watch.request, data])
            if ended and watch.jobs is not None:
                watch.jobs.discard(job)
            if not taken or (watch.jobs is not None and not watch.jobs):
                self._watches.pop(key, None)
