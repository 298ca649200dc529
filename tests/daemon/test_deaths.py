"""Kills: of the daemon, of the worker, of jobs that kill their worker. What was acknowledged is done."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from typing import Any

import psutil
import pytest
from vatt_client import Client, errors


def test_what_was_acknowledged_survives_a_kill_of_the_daemon(home: Any) -> None:
    home.start()
    with home.client() as client:
        running = client.submit(home.generate("slow-once a"))
        waiting = [client.submit(home.generate(f"number {n}")) for n in range(5)]
        home.until(lambda: home.runs() == ["slow-once a"])
        home.kill()
    home.start()
    with home.client() as client:
        for job in [running, *waiting]:
            assert client.wait(job).state == "done"
        assert client.get(running).attempt == 1
        assert [prompt for prompt in home.runs() if prompt != "slow-once a"] == [f"number {n}" for n in range(5)]
    database = sqlite3.connect(home.root / "home" / "data" / "jobs.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_no_process_outlives_a_killed_daemon(home: Any, client: Client) -> None:
    for prompt in ("slow 1000", "hang"):
        job = client.submit(home.generate(prompt))
        home.until(lambda prompt=prompt: prompt in home.runs())
        worker = psutil.Process(client.status().worker["pid"])
        if prompt == "slow 1000":
            client.cancel(job)
            client.wait(job)
    home.kill()
    home.until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_the_client_raises_when_the_daemon_is_killed_under_a_job(home: Any, client: Client) -> None:
    killer = threading.Timer(0.5, home.kill)
    killer.start()
    with pytest.raises(errors.DaemonLost):
        client.generate(home.clip, output=home.output, prompt="slow 1000")
    killer.join()


def test_the_client_raises_when_the_daemon_stops_answering(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vatt_client.session.HEARTBEAT_LIMIT", 2.0)
    home.start()
    client = home.client()
    job = client.submit(home.generate("slow 1000"))
    try:
        with pytest.raises(errors.DaemonLost):
            client.wait(job, on_progress=lambda _: home.processes[-1].send_signal(signal.SIGSTOP))
    finally:
        home.processes[-1].send_signal(signal.SIGCONT)
        client.close()


def test_the_client_follows_its_job_into_the_next_daemon(home: Any) -> None:
    home.start()
    with home.client(reconnect=120.0) as client:

        def replace() -> None:
            home.kill()
            home.start()

        job = client.submit(home.generate("slow-once a"))
        home.until(lambda: home.runs() == ["slow-once a"])
        thread = threading.Thread(target=replace)
        thread.start()
        assert client.wait(job).state == "done"
        thread.join()
        assert client.ping().instance == client.welcome.instance


def test_a_killed_worker_is_replaced_and_its_job_done(home: Any, client: Client) -> None:
    job = client.submit(home.generate("slow-once a"))
    home.until(lambda: home.runs() == ["slow-once a"])
    os.kill(client.status().worker["pid"], signal.SIGKILL)
    ended = client.wait(job)
    assert ended.state == "done" and ended.attempt == 2


def test_a_job_that_kills_its_worker_fails_after_three_tries(home: Any, client: Client) -> None:
    poison = client.submit(home.generate("crash"))
    healthy = client.submit(home.generate("healthy"))
    ended = client.wait(poison)
    assert ended.state == "failed" and ended.attempt == 3
    with pytest.raises(errors.WorkerCrash):
        ended.takes()
    assert client.wait(healthy).state == "done"
    assert home.runs().count("crash") == 3
    again = client.run(home.generate("crash-once x"))
    assert again.state == "done" and again.attempt == 2


def test_too_many_dead_workers_make_a_pause_that_status_shows(home: Any) -> None:
    home.start("worker.restarts=2", "worker.restart_window=600")
    with home.client() as client:
        job = client.submit(home.generate("crash"))
        home.until(lambda: client.status().worker["waits_before_restart"] > 0)
        home.until(lambda: client.get(job).state == "queued")
        assert client.ping()
        assert client.cancel(job) == "cancelled"


def test_a_worker_that_cannot_be_started_fails_its_job_and_not_the_daemon(home: Any, client: Client) -> None:
    log = home.root / "home" / "log"
    log.rename(log.with_name("away"))  # where the worker's output goes
    with pytest.raises(errors.WorkerCrash):
        client.run(home.generate("one")).takes()
    log.with_name("away").rename(log)
    assert client.run(home.generate("two")).state == "done"


def test_stopping_puts_the_running_job_back_for_the_next_daemon(home: Any) -> None:
    home.start()
    with home.client() as client:
        job = client.submit(home.generate("slow-once a"))
        home.until(lambda: home.runs() == ["slow-once a"])
        worker = psutil.Process(client.status().worker["pid"])
        client.shutdown()
    assert home.processes[-1].wait(60) == 0
    assert not worker.is_running()
    assert not home.file.exists()
    home.start()
    with home.client() as client:
        ended = client.wait(job)
        assert ended.state == "done" and ended.attempt == 1


def test_a_database_of_a_newer_version_or_none_at_all_is_refused(home: Any) -> None:
    home.start()
    with home.client() as client:
        client.run(home.generate("kept"))
        client.shutdown()
    home.processes[-1].wait(60)
    file = home.root / "home" / "data" / "jobs.sqlite"
    database = sqlite3.connect(file)
    database.execute("PRAGMA user_version = 99")
    database.close()
    before = file.read_bytes()
    assert home.spawn().wait(60) != 0
    assert file.read_bytes() == before
    file.write_bytes(b"this is no database" * 1000)
    refused = home.spawn()
    assert refused.wait(60) != 0
    assert b"Traceback" not in refused.stderr.read()
    assert file.read_bytes() == b"this is no database" * 1000


def test_a_watcher_of_everything_hears_of_the_jobs_of_others(home: Any, client: Client) -> None:
    heard: list[tuple[str, str]] = []
    watching, ended = threading.Event(), threading.Event()

    def listen() -> None:
        with home.client() as other:
            for job in other.watch_all(on_progress=lambda _: watching.set()):
                heard.append((job.id, job.state))
                if job.state == "done":
                    break
        ended.set()

    thread = threading.Thread(target=listen)
    thread.start()
    first = client.submit(home.generate("slow 100000"))
    assert watching.wait(60)  # its progress was heard, so the watch stands
    client.cancel(first)
    client.wait(first)
    plain = client.run(home.generate("plain")).id
    assert ended.wait(60)
    thread.join()
    assert [state for job, state in heard if job == plain] == ["running", "done"]
