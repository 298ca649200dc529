"""Clearing up after jobs: receipts that have served, what dead workers have left, jobs that are kept for too long."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

from vatt_client.replies import DONE

from vatt_core.errors import DiskFull
from vatt_daemon.logs import about
from vatt_daemon.outputs import Outputs
from vatt_daemon.places import Places
from vatt_daemon.settings import JobSettings
from vatt_daemon.store import Store
from vatt_daemon.stored_job import StoredJob

log = logging.getLogger(__name__)

UPKEEP = 300.0
"""Seconds between two looks at what is kept for too long."""


class Upkeep:
    """receipts: the folder that workers publish through, see outputs.py. places: where files without a path lie."""

    def __init__(self, store: Store, settings: JobSettings, *, receipts: Path, places: Places) -> None:
        self._store = store
        self._settings = settings
        self._receipts = receipts
        self._places = places

    def makes_files(self, job: StoredJob) -> bool:
        return self._outputs(job) is not None

    def settle(self, job: StoredJob) -> None:
        """The end of a job is committed: its receipt has served, or nothing of it is to be left. Touches the file system."""
        outputs = self._outputs(job)
        if outputs is not None and job.state == DONE:
            outputs.settle()
        elif outputs is not None:
            self.discard(job)

    def discard(self, job: StoredJob) -> None:
        """Remove what a dead worker has left of a job that gets no further try. Touches the file system."""
        outputs = self._outputs(job)
        if outputs is not None:
            try:
                outputs.discard()
            except OSError as error:
                log.warning("files of job %s are left", job.id, extra=about(job.id, f"{outputs.staging}: {error}"))

    def _outputs(self, job: StoredJob) -> Outputs | None:
        output = job.request.get("output")
        if not isinstance(output, str):
            return None
        return Outputs(self._places.folder(output, job.id), job.id, receipts=self._receipts)

    async def run(self) -> None:
        """Settle what an earlier daemon had no time to, then forget old jobs from time to time, for ever."""
        try:
            for receipt in await asyncio.to_thread(lambda: list(self._receipts.iterdir())):
                job = self._store.find(receipt.stem)
                if job is None:  # or a part that a killed worker has left
                    receipt.unlink(missing_ok=True)
                elif job.ended:
                    await asyncio.to_thread(self.settle, job)
        except OSError as error:
            log.warning("receipts cannot be read: %s", error)
        while True:
            try:
                while self._prune():
                    await asyncio.sleep(0.1)
            except (DiskFull, sqlite3.Error) as error:
                log.error("old jobs cannot be forgotten: %s", error)
            await asyncio.sleep(UPKEEP)

    def _prune(self) -> bool:
        """Forget some of what is kept for too long; whether there was any."""
        gone = self._store.prune(
            older_than=self._settings.keep_days * 86_400, jobs=self._settings.keep_jobs, size=self._settings.keep_bytes
        )
        if gone:
            log.info("%d old jobs were forgotten", len(gone))
        return bool(gone)
