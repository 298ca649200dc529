"""What the worker process does with several jobs, with models, with crashes; over real sockets and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from vatt_client import AsyncClient, Client, errors, messages
from vatt_daemon.executor import devices


@pytest.fixture
def many(home: Any) -> Any:
    """A daemon whose worker takes several jobs at once, as it does by itself."""
    del home.environment["VATT_WORKER_SLOTS"]
    return home


def settled(client: Client, home: Any) -> None:
    """Wait until nothing runs."""
    home.until(lambda: not client.status().running)


def test_captions_come_while_somebody_elses_sound_is_made(many: Any) -> None:
    many.start()
    with many.client() as maker, many.client() as asker:
        sound = maker.submit(many.generate("slow 1000"))
        many.until(lambda: many.runs() == ["slow 1000"])
        assert asker.suggest(many.clip).captions
        assert maker.get(sound).state == "running"
        maker.cancel(sound)


def test_interactive_work_comes_between_two_steps_of_batch_work(many: Any) -> None:
    many.start()
    with many.client() as client:
        batch = client.submit(many.generate("slow 1000", priority="batch"))
        many.until(lambda: many.runs() == ["slow 1000"])
        later = client.submit(many.generate("later", priority="batch"))
        assert client.run(many.generate("urgent")).state == "done"
        assert client.get(batch).state == "running" and client.get(later).state == "queued"
        client.cancel(batch)
        assert client.wait(later).state == "done"
        assert many.runs() == ["slow 1000", "urgent", "later"]


def test_an_idle_model_leaves_the_memory_and_its_process_with_it(many: Any) -> None:
    many.start("worker.keep_alive=1.5")
    with many.client() as client:
        job = client.submit(many.generate("slow 100000"))
        many.until(lambda: client.status().worker["models"] == ["nano"])
        worker = psutil.Process(client.status().worker["pid"])
        client.cancel(job)
        assert client.wait(job).state == "cancelled"
        many.until(lambda: client.status().worker["pid"] is None)
        many.until(lambda: not worker.is_running())
        assert client.run(many.generate("two")).state == "done"
        assert client.status().worker["deaths"] == 0


def test_models_are_unloaded_when_asked_and_a_request_may_say_how_long_they_stay(many: Any) -> None:
    many.start()
    with many.client() as client:
        running = client.submit(many.generate("slow 1000"))
        many.until(lambda: client.status().worker["models"] == ["nano"])
        assert client.unload() == []  # at work
        client.cancel(running)
        client.wait(running)
        many.until(lambda: client.status().worker["pid"] is None)  # asked for meanwhile
        client.run(many.generate("stays"))
        assert client.unload("another") == [] and client.unload("nano") == ["nano"]
        many.until(lambda: client.status().worker["pid"] is None)
        client.run(many.generate("goes at once", keep_alive=0.0))
        many.until(lambda: client.status().worker["pid"] is None)
        assert client.run(many.generate("next")).state == "done"


def test_a_pause_after_many_deaths_is_seen_by_doctor(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vatt_daemon.cli import doctor

    many.start("worker.restarts=1", "worker.restart_window=600")
    with many.client() as client:
        job = client.submit(many.generate("crash"))
        many.until(lambda: client.status().worker["waits_before_restart"] > 0)
        monkeypatch.setenv("VATT_HOME", many.environment["VATT_HOME"])
        found = {check.name: check for check in doctor._daemon()}
        assert found["daemon"].state == "ok"
        assert found["worker"].state == "problem" and found["worker"].cure
        assert [check.state for check in doctor._database()] == ["ok"]
        assert client.ping()
        many.until(lambda: client.get(job).state == "queued")


def test_a_job_that_kills_its_process_takes_no_other_along_twice(many: Any) -> None:
    many.start("worker.restarts=100")
    with many.client() as client:
        poison = client.submit(many.generate("crash"))
        others = [client.submit(many.generate(f"slow {20 + n}")) for n in range(4)]
        ended = client.wait(poison)
        assert ended.state == "failed" and ended.attempt == 3 and many.runs().count("crash") == 3
        for job in others:
            found = client.wait(job)
            assert found.state == "done" and found.attempt <= 2


def test_a_fault_of_the_gpu_ends_the_process_and_not_the_job(many: Any) -> None:
    many.start()
    with many.client() as client:
        ended = client.run(many.generate("fault-once x"))
        assert ended.state == "done" and ended.attempt == 2
        assert client.status().worker["deaths"] == 1


def test_a_process_that_makes_no_step_is_killed_and_the_others_get_their_turn(many: Any) -> None:
    many.start("worker.stuck=4", "jobs.attempts=3")
    with many.client() as client:
        stuck = client.submit(many.generate("hang"))
        assert client.run(many.generate("next")).state == "done"
        ended = client.wait(stuck)
        assert ended.state == "failed" and ended.error["code"] == "worker_crash"


def test_a_worker_that_dies_between_two_takes_leaves_each_take_once_and_no_part(many: Any) -> None:
    many.start()
    with many.client() as client:
        ended = client.run(many.generate("crash-between x", takes=3, seed=5))
        assert ended.state == "done" and ended.attempt == 2
        takes = ended.takes().takes
    assert sorted(path.name for path in many.output.iterdir()) == sorted(Path(take.wav).name for take in takes)
    assert len({take.wav for take in takes}) == 3


def test_what_a_given_up_job_has_left_is_removed(many: Any) -> None:
    many.start("jobs.attempts=1")
    with many.client() as client:
        ended = client.run(many.generate("crash-between x", takes=3, seed=5))
        assert ended.state == "failed"
        many.until(lambda: not list(many.output.iterdir()))


@pytest.mark.parametrize(
    ("setting", "visible", "expected"),
    [("auto", "0,1", ["cuda:0", "cuda:1"]), ("auto", "0", ["auto"]), ("auto", "", ["auto"]), ("auto", "-1", ["auto"]),
     ("cpu", "0,1", ["cpu"]), ("cuda:1, cuda:3", "", ["cuda:1", "cuda:3"])],
)  # fmt: skip
def test_every_gpu_that_is_shown_gets_a_worker(
    setting: str, visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices(setting) == expected


def test_two_devices_work_at_once_each_in_a_process_of_its_own(home: Any) -> None:
    home.start("worker.device=cpu,cpu")
    with home.client() as client:
        jobs = [client.submit(home.generate(f"slow {1000 + n}")) for n in range(2)]
        home.until(lambda: len(client.status().worker["workers"][1]["jobs"]) == 1 and len(home.runs()) == 2)
        workers = client.status().worker["workers"]
        assert [worker["jobs"] for worker in workers] == [[jobs[0]], [jobs[1]]]
        assert len({worker["pid"] for worker in workers}) == 2
        os.kill(workers[0]["pid"], signal.SIGKILL)
        home.until(lambda: client.get(jobs[0]).state == "queued")
        assert client.get(jobs[1]).state == "running" and client.get(jobs[1]).attempt == 1  # the other goes on
        client.cancel(jobs[1])  # it runs alone from now on
        home.until(lambda: client.get(jobs[0]).attempt == 2)
        assert client.status().worker["workers"][1]["deaths"] == 0
        for job in jobs:
            client.cancel(job)


def killed_at_random(home: Any, *, jobs: int, kills: int, kill_daemon: bool, pause: float) -> None:
    """Submit jobs, kill again and again, and look at what came of it."""
    home.start("worker.restarts=1000", "jobs.attempts=20")
    work = [home.generate(f"slow {3 + n % 4}", takes=2, seed=n, priority="batch", idempotency_key=f"key-{n}")
            for n in range(jobs)]  # fmt: skip
    family: list[psutil.Process] = []
    with home.client(reconnect=120.0) as client:
        submitted = [client.submit(message) for message in work]
        for _ in range(kills):
            time.sleep(pause)
            if kill_daemon:
                family += psutil.Process(home.processes[-1].pid).children(recursive=True)
                home.kill()
                home.start("worker.restarts=1000", "jobs.attempts=20")
            else:
                pid = client.status().worker["pid"]
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
        ended = [client.wait(job) for job in submitted]
        assert {job.state for job in ended} == {"done"}
        assert [client.submit(message) for message in work] == submitted
        files = [take.wav for job in ended for take in job.takes().takes]
        assert len(set(files)) == 2 * jobs
        for job in ended:
            for take in job.takes().takes:
                assert Path(take.wav).read_bytes() == b"RIFF " + job.request["prompt"].encode()
        home.until(lambda: not list((home.root / "home" / "data" / "receipts").iterdir()))
        daemon = client.welcome.pid
    assert sorted(str(path) for path in home.output.rglob("*")) == sorted(files)
    reruns = len(home.runs()) - jobs
    print(f"\n{jobs} jobs, {kills} kills of the {'daemon' if kill_daemon else 'worker'}: {reruns} runs more than jobs")
    assert reruns <= kills
    family += psutil.Process(daemon).children(recursive=True)
    home.processes[-1].terminate()
    home.processes[-1].wait(60)
    psutil.wait_procs(family, timeout=60)
    assert not [process for process in family if process.is_running()]
    import sqlite3

    database = sqlite3.connect(home.root / "home" / "data" / "jobs.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


@pytest.mark.parametrize("kill_daemon", [False, True])
def test_kills_at_random_moments_lose_nothing_and_double_nothing(many: Any, kill_daemon: bool) -> None:
    killed_at_random(many, jobs=8, kills=3, kill_daemon=kill_daemon, pause=0.6)


@pytest.mark.soak
@pytest.mark.parametrize("kill_daemon", [False, True])
def test_many_kills_at_random_moments_lose_nothing_and_double_nothing(many: Any, kill_daemon: bool) -> None:
    killed_at_random(many, jobs=60, kills=20, kill_daemon=kill_daemon, pause=0.7)


# ---- full disks, real ones: a small file system that only the daemon sees -------------------------------------------------


class SmallDisk:
    """A tmpfs of a few MiB at `folder`, mounted in a name space of the daemon's own."""

    def __init__(self, home: Any, folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._home, self._folder = home, folder
        self._mount = f"mount -t tmpfs -o size={size} tmpfs '{folder}'"

    def start(self, *flags: str) -> None:
        command = f'{self._mount} && exec "$0" -m vatt_daemon ' + " ".join(f"--set {flag}" for flag in flags)
        process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command, sys.executable],
            env=self._home.environment,
            stderr=subprocess.PIPE,
        )
        self._home.processes.append(process)

        def answers() -> bool:
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            try:
                return self._home.client().ping() is not None
            except errors.ClientError:
                return False

        self._home.until(answers)
        self.inside = Path(f"/proc/{process.pid}/root{self._folder}")

    def fill(self) -> Path:
        ballast = self.inside / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        return ballast


@pytest.fixture
def small_disks() -> None:
    probe = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small file system")


def pings(client: Client) -> float:
    begun = time.monotonic()
    assert client.ping()
    return time.monotonic() - begun


def test_batch_work_waits_for_a_full_output_disk_and_an_editor_is_told(home: Any, small_disks: None) -> None:
    disk = SmallDisk(home, home.output, "1m")
    disk.start()
    with home.client() as client:
        ballast = disk.fill()
        work = [client.submit(home.generate("weigh 200000", seed=n, priority="batch")) for n in range(3)]
        with pytest.raises(errors.DiskFull) as told:
            client.run(home.generate("weigh 200000")).takes()
        assert told.value.retryable
        home.until(lambda: any("space" in step["note"].lower() for job in work
                               for step in client.get(job, history=True).history))  # fmt: skip
        slowest = max(pings(client) for _ in range(10))
        assert {client.get(job).state for job in work} <= {"queued", "running"}
        ballast.unlink()
        for job in work:
            ended = client.wait(job, timeout=200)
            assert ended.state == "done" and ended.attempt == 1
        assert not [path for path in disk.inside.iterdir() if path.name.startswith(".")]
    print(f"\nslowest ping while the output disk was full: {slowest * 1000:.0f} ms")


@pytest.mark.parametrize("busy", [True, False])
def test_a_full_database_disk_is_told_and_heals(home: Any, small_disks: None, busy: bool) -> None:
    disk = SmallDisk(home, home.root / "home" / "data", "1m")
    disk.start()
    with home.client() as client:
        acknowledged = [client.submit(home.generate("slow 20" if busy else "warm up"))]
        home.until(home.runs if busy else lambda: not client.status().running)
        ballast = disk.fill()
        refused = 0
        for number in range(60):
            try:
                acknowledged.append(client.submit(home.generate(f"{number} " + "x" * 900)))
            except errors.DiskFull as full:
                assert full.retryable
                refused += 1
                if refused > 3:
                    break
        assert refused
        slowest = max(pings(client) for _ in range(20))
        ballast.unlink()
        for job in acknowledged:
            assert client.wait(job, timeout=200).state == "done"
        assert client.run(home.generate("healed")).state == "done"
        status = client.status()
        assert (status.queued, status.running) == (0, [])
        assert status.counts["done"] == sum(status.counts.values()) == len(acknowledged) + 1
    print(f"\n{refused} submissions refused, slowest ping meanwhile: {slowest * 1000:.0f} ms")


# ---- several clients ---------------------------------------------------------------------------------------------------


def at_once(home: Any, clip: Path, *, requests: int) -> list[float]:
    """Seconds from submission to result of as many interactive requests, which two clients have under way at once."""

    async def ask(client: AsyncClient, number: int) -> float:
        message: messages.Submission
        if number % 4 == 0:
            message = messages.Suggest(path=str(clip), count=1, seed=number)
        else:
            message = messages.Generate(path=str(clip), output=str(home.output / str(number)), prompt="a knock",
                                        seed=number, steps=4)  # fmt: skip
        begun = time.monotonic()
        ended = await client.run(message, timeout=1200)
        assert ended.state == "done", ended.error
        return time.monotonic() - begun

    async def scenario() -> list[float]:
        async with AsyncClient(connection_file=home.file) as first, AsyncClient(connection_file=home.file) as second:
            # The first job reads the model, which a daemon in use has done.
            await first.run(messages.Suggest(path=str(clip), count=1, seed=0))
            return await asyncio.gather(*(ask((first, second)[n % 2], n) for n in range(requests)))

    taken = sorted(asyncio.run(scenario()))
    assert len(taken) == requests
    print(f"\n{requests} interactive requests of two clients at once: p50 {statistics.median(taken):.2f} s, "
          f"p99 {taken[min(requests - 1, int(requests * 0.99))]:.2f} s, slowest {taken[-1]:.2f} s")  # fmt: skip
    return taken


@pytest.fixture(scope="module")
def world_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vatt_core.world.write import write_world

    file = tmp_path_factory.mktemp("world") / "clip.mp4"
    write_world(file, seed=2_000_021, seconds=2.0, size=96)
    return file


@pytest.mark.parametrize("requests", [4, pytest.param(40, marks=pytest.mark.soak)])
def test_none_of_many_interactive_requests_is_lost(many: Any, world_clip: Path, requests: int) -> None:
    del many.environment["VATT_WORKER_PIPELINE"]
    many.start()
    at_once(many, world_clip, requests=requests)
    found = sorted(path.name for path in many.output.rglob("*") if path.is_file())
    assert len([name for name in found if name.endswith(".wav")]) == requests - -(-requests // 4)
    assert not [name for name in found if name.endswith(".part")]
