"""The job store alone: versions, damage, what is kept, and a model of everything that can happen to a job."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from vatt_client import messages
from vatt_daemon import schema
from vatt_daemon.store import Store

from vatt_core.errors import VattError


def submission(number: int = 0, **options: Any) -> messages.Generate:
    return messages.Generate(path="/clip.mp4", output="/out", prompt=f"number {number}", **options)


def test_a_database_of_an_older_version_is_brought_up_and_kept_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    old = sqlite3.connect(file)
    old.executescript(schema.MIGRATIONS[0])
    old.execute("INSERT INTO jobs (id, client, idempotency_key, fingerprint, kind, priority, state, seed, request, created)"
                " VALUES ('a', 'local', 'k', x'00', 'generate', 'batch', 'queued', 1, x'80', 1.0)")  # fmt: skip
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    store = Store(file, instance="x")
    assert store.get("a").priority == "batch"
    assert [job.id for job in store.recover()] == ["a"]
    store.close()
    kept = sqlite3.connect(tmp_path / "jobs.sqlite.version-1")
    assert kept.execute("PRAGMA user_version").fetchone() == (1,)
    assert kept.execute("SELECT id FROM jobs").fetchall() == [("a",)]
    kept.close()
    Store(file, instance="y").close()


def foreign(file: Path) -> None:
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE somebody_elses (x)")
    database.commit()
    database.close()


def newer(file: Path) -> None:
    Store(file, instance="x").close()
    database = sqlite3.connect(file)
    database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.close()


def damaged_page(file: Path) -> None:
    store = Store(file, instance="x")
    for number in range(200):
        store.submit(submission(number), client="local", seed=1)
    store.close()
    data = bytearray(file.read_bytes())
    page = len(data) // 4096 // 2 * 4096
    data[page : page + 4096] = b"\xff" * 4096
    file.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        foreign,
        newer,
        damaged_page,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"this is no database" * 1000),
        lambda file: file.with_name("jobs.sqlite-wal").write_bytes(b"a log without its database"),
        lambda file: file.mkdir(),
    ],
)
def test_what_cannot_be_used_is_refused_and_left_as_it_is(tmp_path: Path, spoil: Any) -> None:
    file = tmp_path / "jobs.sqlite"
    spoil(file)
    before = file.read_bytes() if file.is_file() else None
    for _ in range(2):
        with pytest.raises(VattError) as refused:
            Store(file, instance="x")
        assert str(file) in refused.value.message and len(refused.value.message.splitlines()) == 1
    assert (file.read_bytes() if file.is_file() else None) == before


def test_results_are_kept_by_age_count_and_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite", instance="x")
    jobs = [store.submit(submission(number), client="local", seed=1)[0].id for number in range(12)]
    for job in jobs[:10]:
        store.finish(job, "done", result={"takes": ["x" * 1000]})
    everything = {"older_than": 3600.0, "jobs": 100, "size": 1 << 20}
    assert store.prune(**everything) == []
    assert store.prune(**everything | {"jobs": 7}) == jobs[:3]
    assert store.prune(**everything | {"size": 5000}) == jobs[3:6]
    time.sleep(0.01)
    assert store.prune(**everything | {"older_than": 0.0}, at_most=2) == jobs[6:8]
    assert store.prune(**everything | {"older_than": 0.0}) == jobs[8:10]
    assert store.find(jobs[0]) is None and store.history(jobs[0]) == []
    assert {store.get(job).state for job in jobs[10:]} == {"queued"}
    store.close()


def test_a_full_disk_is_typed_and_nothing_is_half_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite", instance="x")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    before = store.counts()
    with pytest.raises(VattError) as full, store.transaction():
        for number in range(1000):
            store.submit(submission(number), client="local", seed=1)
    assert full.value.code == "disk_full" and full.value.retryable
    assert store.counts() == before
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.submit(submission(), client="local", seed=1)[0].state == "queued"
    store.close()


class StoreModel(RuleBasedStateMachine):
    """Submissions, attempts, ends and kills in any order, against a dictionary of what must be there.

    A kill is a second connection that opens the same files while the first is dropped without being closed, in the
    middle of a transaction or between two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.keys: dict[str, str] = {}

    @initialize(folder=st.uuids())
    def open(self, folder: Any) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix=str(folder)[:8])
        self.file = Path(self.folder.name) / "jobs.sqlite"
        self.store = Store(self.file, instance="first")

    def some(self, data: Any, *states: str) -> str:
        # In the order of their submission: ids are drawn anew in every run, and what is drawn must not depend on them.
        return data.draw(st.sampled_from([job for job, state in self.states.items() if state in states]))

    def has(self, *states: str) -> bool:
        return any(state in states for state in self.states.values())

    @rule(key=st.sampled_from("abcdef"), at_once=st.booleans())
    def submit(self, key: str, at_once: bool) -> None:
        """`at_once`: begun in the same commit, as a daemon does that has nothing else to do."""
        with self.store.transaction():
            job, known = self.store.submit(submission(0, idempotency_key=key, priority="batch"), client="local", seed=1)
            if at_once and not known:
                self.store.start(job.id)
        assert known == (key in self.keys)
        assert self.keys.setdefault(key, job.id) == job.id
        if not known:
            self.states[job.id] = "running" if at_once else "queued"
            self.attempts[job.id] = int(at_once)

    @precondition(lambda self: self.has("queued"))
    @rule(data=st.data())
    def start(self, data: Any) -> None:
        job = self.some(data, "queued")
        self.store.start(job)
        self.states[job] = "running"
        self.attempts[job] += 1

    @precondition(lambda self: self.has("running"))
    @rule(data=st.data(), uncount=st.booleans())
    def requeue(self, data: Any, uncount: bool) -> None:
        job = self.some(data, "running")
        self.store.requeue(job, note="the worker died", uncount=uncount)
        self.states[job] = "queued"
        self.attempts[job] -= uncount

    @precondition(lambda self: self.states)
    @rule(data=st.data(), state=st.sampled_from(["done", "failed", "cancelled"]))
    def finish(self, data: Any, state: str) -> None:
        job = self.some(data, "queued", "running", "done", "failed", "cancelled")
        stored = self.store.finish(job, state, result={"takes": []}, error={"message": "x"})
        if self.states[job] in ("queued", "running"):
            self.states[job] = state
        assert stored.state == self.states[job]

    @rule(unfinished=st.booleans())
    def kill(self, unfinished: bool) -> None:
        if unfinished:
            self.store._db.execute("BEGIN IMMEDIATE")
            self.store._db.execute("UPDATE jobs SET state = 'failed', attempt = 99")
            self.store._db.execute("DELETE FROM history")
        # Copied as the files lie at this moment: what a kill leaves.
        import shutil

        killed = Path(self.folder.name) / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        killed.mkdir()
        for file in self.file.parent.glob(f"{self.file.name}*"):
            shutil.copy(file, killed / file.name)
        self.store._db.rollback()
        self.store.close()
        for file in self.file.parent.glob(f"{self.file.name}*"):
            file.unlink()
        for file in killed.iterdir():
            file.replace(self.file.parent / file.name)
        self.store = Store(self.file, instance="next")
        waiting = {job.id for job in self.store.recover()}
        for job, state in self.states.items():
            if state == "running":
                self.states[job] = self.store.get(job).state  # queued again, or failed after many deaths
                self.attempts[job] -= self.states[job] == "queued"
        assert waiting == {job for job, state in self.states.items() if state == "queued"}

    @invariant()
    def agrees(self) -> None:
        for job, state in self.states.items():
            found = self.store.get(job)
            assert (found.state, found.attempt) == (state, self.attempts[job])
            history = self.store.history(job)
            assert history[0]["state"] == "queued" and history[-1]["state"] == state
            assert sum(step["state"] in ("done", "failed", "cancelled") for step in history) <= 1

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert self.store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            self.store.close()
            self.folder.cleanup()


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.soak
class TestStoreModelAtLength(StoreModel.TestCase):
    settings = settings(
        max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
    )
