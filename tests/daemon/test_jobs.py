"""Jobs over real sockets: submitted, followed, cancelled, refused, and each done once."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from vatt_client import Client, errors, messages


def test_captions_and_takes_come_back_with_their_values(shared: Any, guest: Client) -> None:
    captions = guest.suggest(shared.clip, count=2).captions
    assert [caption.text for caption in captions] == ["caption 0", "caption 1"]
    assert captions[0].score > captions[1].score
    seen = []
    with shared.held():
        takes = guest.generate(
            shared.clip, output=shared.output, prompt="slow 20", takes=2, seed=5, on_progress=seen.append
        )
    assert [take.seed for take in takes.takes] == [5, 5]
    # Whoever heard nothing for long asks anew, and may miss some; those that come are in order, to the last.
    steps = [progress.done for progress in seen if progress.stage == "codes"]
    assert steps and steps == list(range(20))[-len(steps) :]
    assert {progress.total for progress in seen if progress.stage == "codes"} == {20}


def test_a_job_can_be_looked_up_after_its_end_and_listed(shared: Any, guest: Client) -> None:
    jobs = [guest.run(shared.generate(f"number {n}")).id for n in range(3)]
    found = guest.get(jobs[0], history=True)
    assert found.state == "done" and found.result is not None and found.attempt == 1
    assert [step["state"] for step in found.history or []] == ["queued", "running", "done"]
    assert [job.id for job in guest.list(limit=2)] == [jobs[2], jobs[1]]
    assert [job.id for job in guest.list(states=["done"], limit=3)] == jobs[::-1]
    assert not set(jobs) & {job.id for job in guest.list(states=["failed", "cancelled"])}


def test_the_daemon_draws_a_seed_and_tells_it(shared: Any, guest: Client) -> None:
    job = guest.run(shared.generate("plain"))
    assert job.seed is not None
    assert job.takes().takes[0].seed == job.seed


def test_an_unknown_job_is_not_found_in_any_message(guest: Client) -> None:
    for ask in (guest.get, guest.cancel, guest.wait):
        with pytest.raises(errors.NotFound):
            ask("f" * 32)
    with pytest.raises(errors.NotFound):
        guest.list(batch="f" * 32)


def test_a_job_that_is_no_batch_has_no_items(shared: Any, guest: Client) -> None:
    with pytest.raises(errors.NotFound):
        guest.list(batch=guest.submit(shared.generate("plain")))


def test_errors_of_the_pipeline_arrive_typed(shared: Any, guest: Client) -> None:
    for name, kind in [("BadMedia", errors.BadMedia), ("DiskFull", errors.DiskFull), ("NotFound", errors.NotFound)]:
        with pytest.raises(kind) as caught:
            guest.generate(shared.clip, output=shared.output, prompt=f"error {name}")
        assert caught.value.retryable == (name == "DiskFull")
    with pytest.raises(errors.Internal):
        guest.generate(shared.clip, output=shared.output, prompt="bug")


def test_a_running_job_is_cancelled_between_two_steps(shared: Any, guest: Client) -> None:
    started = threading.Event()
    job = guest.submit(shared.generate("slow 1000"))
    worker = None

    def progress(step: Any) -> None:
        if not started.is_set():
            started.set()
            guest.cancel(job)

    ended = guest.wait(job, on_progress=progress)
    assert ended.state == "cancelled"
    with pytest.raises(errors.Cancelled):
        ended.takes()
    worker = guest.status().worker
    assert guest.run(shared.generate("next")).state == "done"
    assert guest.status().worker["pid"] == worker["pid"]


def test_a_waiting_job_is_cancelled_and_never_begins(shared: Any, guest: Client) -> None:
    first = guest.submit(shared.generate("slow 1000"))
    second = guest.submit(shared.generate("second"))
    assert guest.cancel(second) == "cancelled"
    assert guest.get(first).state in ("queued", "running")
    guest.cancel(first)
    assert guest.wait(first).state == "cancelled"
    guest.run(shared.generate("third"))
    assert "second" not in shared.runs()
    assert guest.cancel(second) == "cancelled"


def test_a_job_that_ignores_its_cancellation_is_killed_with_the_worker(home: Any) -> None:
    home.start("worker.cancel_grace=0.5")
    with home.client() as client:
        job = client.submit(home.generate("hang"))
        home.until(lambda: home.runs() == ["hang"])
        client.cancel(job)
        assert client.wait(job).state == "cancelled"
        assert client.run(home.generate("next")).state == "done"
        assert home.runs() == ["hang", "next"]


def test_a_deadline_ends_a_job(shared: Any, guest: Client) -> None:
    job = guest.wait(guest.submit(shared.generate("slow 1000", deadline=0.3)))
    assert job.state == "cancelled"
    assert job.error is not None and job.error["details"]["reason"] == "deadline"


@pytest.mark.parametrize(("clients", "count"), [(4, 3), pytest.param(8, 50, marks=pytest.mark.soak)])
def test_one_key_is_one_execution(shared: Any, guest: Client, clients: int, count: int) -> None:
    keys = [str(uuid.uuid4()) for _ in range(count)]
    jobs: list[str] = []

    def submit_all() -> None:
        with shared.client() as own:
            jobs.extend(own.submit(shared.generate(f"key {number}", idempotency_key=key))
                        for number, key in enumerate(keys))  # fmt: skip

    threads = [threading.Thread(target=submit_all) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == clients * count and len(set(jobs)) == count
    assert all(guest.wait(job).state == "done" for job in set(jobs))
    assert sorted(shared.runs()) == sorted(f"key {number}" for number in range(count))
    with pytest.raises(errors.BadRequest) as caught:
        guest.submit(shared.generate("something else", idempotency_key=keys[0]))
    assert caught.value.details["field"] == "idempotency_key"


def test_interactive_goes_before_batch(shared: Any, guest: Client) -> None:
    blocker = guest.submit(shared.generate("slow 1000"))
    shared.until(shared.runs)
    batch = [guest.submit(shared.generate(f"batch {n}", priority="batch")) for n in range(2)]
    urgent = guest.submit(shared.generate("urgent"))
    guest.cancel(blocker)
    for job in [*batch, urgent]:
        guest.wait(job)
    assert shared.runs()[1:] == ["urgent", "batch 0", "batch 1"]


def test_a_full_queue_says_busy_and_when_to_come_back(home: Any) -> None:
    home.start("jobs.queue=2")
    with home.client() as client:
        first = client.submit(home.generate("slow 1000"))
        home.until(lambda: client.get(first).state == "running")
        waiting = [client.submit(home.generate(f"waits {n}")) for n in range(2)]
        with pytest.raises(errors.Busy) as caught:
            client.submit(home.generate("too much"))
        assert caught.value.retryable and caught.value.retry_after
        client.cancel(waiting[0])
        client.submit(home.generate("now there is room"))


def test_paths_are_checked_before_a_job_is_accepted(shared: Any, guest: Client) -> None:
    before = guest.list()
    for path, kind in [(shared.root / "missing.mp4", errors.InputNotVisible), (shared.root, errors.InputNotVisible),
                       ("/dev/null", errors.ForbiddenPath)]:  # fmt: skip
        with pytest.raises(kind):
            guest.suggest(path)
    for model in ("unheard-of", "vatt-llama"):
        with pytest.raises(errors.NotFound):
            guest.suggest(shared.clip, model=model)
    with pytest.raises(errors.BadRequest):
        guest.submit(messages.Suggest(path="clip.mp4"))
    with pytest.raises(errors.ForbiddenPath):
        guest.generate(shared.clip, output=shared.clip / "below-a-file", prompt="x")
    assert guest.list() == before


def test_roots_are_compared_after_links_and_dots_are_resolved(home: Any) -> None:
    allowed, secret = home.root / "allowed", home.root / "secret.mp4"
    allowed.mkdir()
    secret.write_bytes(b"x")
    (allowed / "link.mp4").symlink_to(secret)
    (allowed / "clip.mp4").write_bytes(b"x")
    home.environment["VATT_PATHS_INPUT_ROOTS"] = str(allowed)
    home.environment["VATT_PATHS_OUTPUT_ROOTS"] = str(allowed)
    home.start()
    with home.client() as client:
        for path in (secret, allowed / "link.mp4", allowed / ".." / "secret.mp4"):
            with pytest.raises(errors.ForbiddenPath):
                client.submit(messages.Suggest(path=str(path)))
        with pytest.raises(errors.ForbiddenPath):
            client.generate(allowed / "clip.mp4", output=allowed / ".." / "out", prompt="x")
        assert client.suggest(allowed / "clip.mp4").captions
        assert client.generate(allowed / "clip.mp4", output=allowed / "new" / "out", prompt="x").takes
