"""Which jobs begin when, and what is on the disk before anybody hears of it: a real store, hands that do what they are told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from vatt_client import messages
from vatt_daemon import scheduler as schedulers
from vatt_daemon.executor import Event, Failed, Finished, Lost, Task
from vatt_daemon.places import Places
from vatt_daemon.scheduler import Scheduler
from vatt_daemon.settings import JobSettings
from vatt_daemon.store import Store

from vatt_core.errors import DiskFull


class Hands:
    """An executor whose jobs end when the test says so."""

    def __init__(self, slots: int, batch_slots: int) -> None:
        self.slots, self.batch_slots = slots, batch_slots
        self.tasks: dict[str, str] = {}
        self.order: list[str] = []
        self.groups: asyncio.Queue[Sequence[Event]] = asyncio.Queue()

    def capacity(self, priority: str) -> int:
        room = self.slots - len(self.tasks)
        batch = self.batch_slots - sum(name == "batch" for name in self.tasks.values())
        return min(room, batch) if priority == "batch" else room

    def submit(self, task: Task) -> None:
        priority = task.request.get("priority", "interactive")
        assert self.capacity(priority) > 0
        self.tasks[task.job] = priority
        self.order.append(task.job)

    def cancel(self, job: str) -> None:
        pass

    async def events(self) -> AsyncIterator[Sequence[Event]]:
        while True:
            yield await self.groups.get()

    def say(self, *events: Event) -> None:
        for event in events:
            self.tasks.pop(event.job, None)  # type: ignore[union-attr]
        self.groups.put_nowait(events)

    def unload(self, model: str | None) -> list[str]:
        return []

    def health(self) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        pass


class Desk:
    """A scheduler with its store. `told`: what watchers hear, each checked to be on the disk by then."""

    def __init__(self, folder: Path, *, slots: int, batch_slots: int = 1, **settings: Any) -> None:
        self.file = folder / "jobs.sqlite"
        self.store = Store(self.file, instance="x")
        self.hands = Hands(slots, batch_slots)
        self.told: list[tuple[str, str]] = []
        self.commits = 0
        self.store._db.set_trace_callback(self._trace)
        (folder / "receipts").mkdir()
        self.scheduler = Scheduler(
            self.store, self.hands, JobSettings(**settings), self._hear,
            receipts=folder / "receipts", places=Places(folder / "uploads", folder / "results"),
        )  # fmt: skip

    def _trace(self, statement: str) -> None:
        self.commits += statement == "COMMIT"

    def _hear(self, job: str, event: dict[str, Any]) -> None:
        if event["event"] != "state":
            return
        others = sqlite3.connect(self.file)
        assert others.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone() == (event["job"]["state"],)
        others.close()
        self.told.append((job, event["job"]["state"]))

    def add(self, count: int, priority: str = "interactive") -> list[str]:
        jobs = [
            self.store.submit(messages.Suggest(path="/clip.mp4", priority=priority), client="local", seed=1)[0]
            for _ in range(count)
        ]
        for job in jobs:
            self.scheduler.add(job)
        return [job.id for job in jobs]

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.005)


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 250))


def test_ends_that_come_together_and_the_begins_after_them_are_one_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, slots=4)
        jobs = desk.add(10)
        desk.commits = 0
        desk.scheduler.dispatch()
        assert desk.hands.order == jobs[:4] and desk.commits == 1
        running = asyncio.create_task(desk.scheduler.run())
        desk.hands.say(*(Finished(job, {"captions": []}) for job in jobs[:3]), Failed(jobs[3], {"code": "bad_media",
                       "message": "It is none.", "retryable": False, "retry_after": None, "details": {}}))  # fmt: skip
        await desk.until(lambda: len(desk.told) == 12)
        assert desk.commits == 2
        assert desk.hands.order == jobs[:8]
        assert set(desk.told[4:]) == {(jobs[n], "running") for n in range(4, 8)} | {
            *((job, "done") for job in jobs[:3]), (jobs[3], "failed")
        }  # fmt: skip
        running.cancel()
        desk.store.close()

    play(scenario)


def test_quick_ends_leave_the_loop_to_others_in_between(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, slots=20)
        jobs = desk.add(20)
        desk.scheduler.dispatch()
        running = asyncio.create_task(desk.scheduler.run())
        for job in jobs:
            desk.hands.say(Finished(job, {"captions": []}))
        seen = set()
        while len(desk.told) < 40:
            seen.add(len(desk.told))
            await asyncio.sleep(0)
        assert len(seen) >= 20  # somebody else had a turn after each
        running.cancel()
        desk.store.close()

    play(scenario)


def test_a_result_that_cannot_be_stored_holds_up_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, slots=3)
        jobs = desk.add(4)
        desk.scheduler.dispatch()
        running = asyncio.create_task(desk.scheduler.run())
        results: list[dict[str, Any]] = [{"captions": []}, {"captions": 2**80}, {"captions": []}]
        desk.hands.say(*(Finished(job, result) for job, result in zip(jobs, results, strict=False)))
        await desk.until(lambda: {(jobs[0], "done"), (jobs[2], "done"), (jobs[3], "running")} <= set(desk.told))
        desk.hands.say(Finished(jobs[3], {"captions": []}))
        await desk.until(lambda: (jobs[3], "done") in desk.told)
        assert (jobs[1], "done") not in desk.told and not running.done()
        running.cancel()
        desk.store.close()

    play(scenario)


def test_while_the_disk_is_full_no_end_is_told_and_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulers, "DISK_RETRY", 0.02)

    async def scenario() -> None:
        desk = Desk(tmp_path, slots=2)
        jobs = desk.add(4)
        desk.scheduler.dispatch()
        running = asyncio.create_task(desk.scheduler.run())
        finish, tried = desk.store.finish, []

        def full(job: str, *values: Any, **more: Any) -> Any:
            tried.append(job)
            if len(tried) <= 6:
                raise DiskFull("full")
            return finish(job, *values, **more)

        desk.store.finish = full  # type: ignore[method-assign]
        start = desk.store.start
        desk.store.start = lambda job: start(job) if len(tried) > 6 else full(job)  # type: ignore[method-assign]
        desk.hands.say(*(Finished(job, {"captions": []}) for job in jobs[:2]))
        await desk.until(lambda: tried)
        assert desk.told == [(job, "running") for job in jobs[:2]]
        await desk.until(lambda: len(desk.told) == 6)
        assert sorted(desk.told[2:]) == sorted(
            [*((job, "done") for job in jobs[:2]), *((job, "running") for job in jobs[2:])]
        )
        assert desk.hands.order == jobs
        assert [desk.store.get(job).attempt for job in jobs] == [1] * 4
        running.cancel()
        desk.store.close()

    play(scenario)


def test_batch_work_has_its_share_and_its_own_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, slots=8, batch_slots=2, fair_share=2)
        interactive, batch = desk.add(6), desk.add(4, "batch")
        assert desk.scheduler.cancel(interactive[1]).state == "cancelled"
        desk.scheduler.dispatch()
        assert desk.hands.order[:3] == [interactive[0], interactive[2], batch[0]]
        assert set(desk.hands.order) == {*interactive, *batch[:2]} - {interactive[1]}
        assert interactive[1] not in desk.hands.order and desk.scheduler.waiting == 2
        desk.store.close()

    play(scenario)


def test_jobs_under_which_a_worker_died_run_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        desk = Desk(tmp_path, slots=4, attempts=5)
        jobs = desk.add(3)
        desk.scheduler.dispatch()
        running = asyncio.create_task(desk.scheduler.run())
        desk.hands.order.clear()
        desk.hands.say(*(Lost(job, "it died") for job in jobs))
        await desk.until(lambda: len(desk.hands.tasks) == 1)
        later = desk.add(2)
        desk.scheduler.dispatch()
        for _ in range(3):
            await desk.until(lambda: desk.hands.tasks)
            (alone,) = desk.hands.tasks
            assert alone in jobs
            desk.hands.say(Finished(alone, {"captions": []}))
            await desk.until(lambda alone=alone: (alone, "done") in desk.told)
        await desk.until(lambda: set(desk.hands.tasks) == set(later))
        running.cancel()
        desk.store.close()

    play(scenario)
