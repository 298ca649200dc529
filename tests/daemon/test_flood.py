"""Many clients, vanishing clients, hostile bytes: the daemon stays, small and quick, and does the next job right.

Quick variants run with every test; those marked `soak` are the same code with the numbers of a bad day.
"""

from __future__ import annotations

import random
import secrets
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import zmq
from vatt_client import connection, messages

MIB = 1 << 20


@contextmanager
def door(home: Any, name: str = "jobs", *, hwm: int = 1000) -> Iterator[zmq.Socket[bytes]]:
    """A plain socket with the keys of the connection file, to say anything through."""
    found = connection.read_connection(home.file)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.linger, peer.rcvhwm = 0, hwm
    peer.curve_serverkey = found.server_public.encode()
    peer.curve_publickey, peer.curve_secretkey = found.client_public.encode(), found.client_secret.encode()
    peer.connect(getattr(found, name))
    try:
        yield peer
    finally:
        peer.close()
        context.term()


def ask(peer: zmq.Socket[bytes], body: dict[str, Any]) -> dict[str, Any]:
    number = secrets.token_bytes(8)
    peer.send_multipart([messages.VERSION_FRAME, number, messages.pack(body)])
    while peer.poll(60_000):
        _, answered, data = peer.recv_multipart()
        if answered == number:
            return messages.unpack(data)
    raise AssertionError("no answer")


def daemon(home: Any) -> psutil.Process:
    return psutil.Process(home.processes[-1].pid)


def address(home: Any, name: str) -> tuple[str, int]:
    found = urlsplit(getattr(connection.read_connection(home.file), name))
    return str(found.hostname), int(found.port or 0)


def back_to(baseline: int, home: Any, *, seconds: float = 120.0) -> None:
    home.until(lambda: daemon(home).num_fds() <= baseline, seconds=seconds)


@contextmanager
def pinged(home: Any) -> Iterator[list[float]]:
    """Seconds of the pings that another client sends all the while."""
    taken: list[float] = []
    stop = threading.Event()

    def ping() -> None:
        with home.client() as client:
            while not stop.wait(0.02):
                begun = time.monotonic()
                client.ping()
                taken.append(time.monotonic() - begun)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def told(what: str, taken: list[float]) -> None:
    ordered = sorted(taken)
    print(f"\n{what}: {len(ordered)} pings, median {statistics.median(ordered) * 1000:.1f} ms, "
          f"p99 {ordered[int(len(ordered) * 0.99)] * 1000:.1f} ms, slowest {ordered[-1] * 1000:.1f} ms")  # fmt: skip


@pytest.mark.parametrize(("clients", "connects"), [(30, 100), pytest.param(300, 1000, marks=pytest.mark.soak)])
def test_vanished_clients_leave_no_descriptor_and_their_jobs_are_done(home: Any, clients: int, connects: int) -> None:
    home.start()
    with home.client() as client:
        client.run(home.generate("warm up"))
        baseline = daemon(home).num_fds()
        keys = [f"key-{number}" for number in range(clients)]
        for key in keys:
            with door(home) as peer:
                answer = ask(peer, home.generate("plain", idempotency_key=key).to_wire())
                assert answer["type"] == "ok"
                # And gone, while a watch of its own is asked for.
                peer.send_multipart([messages.VERSION_FRAME, b"w", messages.pack(messages.Watch().to_wire())])
        for _ in range(connects):
            socket.create_connection(address(home, "control")).close()
        home.until(lambda: client.status().counts["done"] == clients + 1, seconds=120)
        back_to(baseline, home)
        assert home.runs().count("plain") == clients


@pytest.mark.parametrize("connections", [60, pytest.param(500, marks=pytest.mark.soak)])
def test_connections_that_say_nothing_are_closed_and_keep_nobody_out(home: Any, connections: int) -> None:
    home.start("server.handshake_timeout=4")
    baseline = daemon(home).num_fds()
    silent = [socket.create_connection(address(home, ("jobs", "control")[n % 2])) for n in range(connections)]
    with home.client() as client:
        assert client.run(home.generate("plain")).state == "done"
    home.until(lambda: daemon(home).num_fds() < baseline + connections // 2)
    worker = len(psutil.Process(home.processes[-1].pid).children())
    back_to(baseline + 4 * worker, home)  # the worker's pipes have come
    for one in silent:
        one.close()


@pytest.mark.parametrize("connections", [100, pytest.param(1500, marks=pytest.mark.soak)])
def test_raw_garbage_on_the_ports_changes_nothing(home: Any, connections: int) -> None:
    home.start()
    chance = random.Random(1)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15) + b"\x00" + bytes(31)
    with home.client() as client:
        client.run(home.generate("warm up"))
        baseline, size = daemon(home).num_fds(), daemon(home).memory_info().rss
        for number in range(connections):
            with socket.create_connection(address(home, ("jobs", "control")[number % 2])) as raw:
                say = chance.randbytes(chance.choice([1, 64, 5000]))
                if number % 3 == 0:
                    say = greeting + say  # past the greeting, into the handshake
                if number % 3 == 1:
                    say = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + say
                raw.sendall(say)
        assert client.ping()
        assert client.run(home.generate("next")).state == "done"
        back_to(baseline, home)
        assert daemon(home).memory_info().rss - size < 50 * MIB


HEADS = (b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\x91" * 900, b"\xcb\x7f\xf0" + bytes(6),
         b"\xcf" + b"\xff" * 8, b"\xc9\x00\x00\x10\x00\x05")  # fmt: skip
"""How huge, nested and infinite things begin in msgpack."""


def mutated(frames: list[bytes], chance: random.Random) -> list[bytes]:
    """Frames of a real request with bits flipped, cut off, spliced, repeated, or of a wrong number."""
    changed = [bytearray(frame) for frame in frames]
    for _ in range(chance.choice([1, 1, 2, 8])):
        frame = changed[-1] if chance.random() < 0.8 else chance.choice(changed)
        if not frame:
            continue
        place = chance.randrange(len(frame))
        kind = chance.randrange(6)
        if kind == 0:
            frame[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del frame[place:]
        elif kind == 2:
            frame[place:place] = chance.randbytes(chance.choice([1, 4, 40]))
        elif kind == 3:
            frame[place : place + 4] = frame[: chance.randrange(1, 9)]
        elif kind == 4:
            frame[place:place] = chance.choice(HEADS)
        else:
            frame += bytes(frame)
    if chance.random() < 0.05:
        changed.append(bytearray(chance.randbytes(20)))
    if chance.random() < 0.05:
        changed.pop(chance.randrange(len(changed)))
    return [bytes(frame) for frame in changed]


@pytest.mark.parametrize("count", [800, pytest.param(20_000, marks=pytest.mark.soak)])
def test_mutated_messages_are_answered_and_do_nothing_else(home: Any, count: int) -> None:
    # What still makes sense after a mutation may name any path: keep it inside.
    home.environment["VATT_PATHS_INPUT_ROOTS"] = home.environment["VATT_PATHS_OUTPUT_ROOTS"] = str(home.root)
    home.start()
    chance = random.Random(2)
    real: dict[str, list[dict[str, Any]]] = {
        "jobs": [
            home.generate("plain", priority="batch", seed=2**40).to_wire(),
            messages.Suggest(path=str(home.clip), deadline=3600.0).to_wire(),
            messages.Get(job="f" * 32).to_wire(),
            messages.Watch(jobs=("f" * 32,)).to_wire(),
        ],
        "control": [messages.List(states=("done",)).to_wire(), messages.Status().to_wire(),
                    messages.Cancel(job="f" * 32).to_wire(), messages.Hello(client="fuzz").to_wire()],
    }  # fmt: skip
    with home.client() as client, door(home) as jobs, door(home, "control") as control:
        client.run(home.generate("warm up"))
        for _ in range(200):
            ask(jobs, {"type": "get", "job": "f" * 32})
        size = daemon(home).memory_info().rss
        answered = 0
        for number in range(count):
            peer, name = ((jobs, "jobs"), (control, "control"))[number % 2]
            body = messages.pack(chance.choice(real[name]))
            peer.send_multipart(mutated([messages.VERSION_FRAME, secrets.token_bytes(8), body], chance))
            while peer.poll(0):
                peer.recv_multipart()
                answered += 1
            if number % 50 == 49:  # both sides keep step
                ask(peer, {"type": "ping"})
        assert client.run(home.generate("next")).state == "done"
        for job in client.list(states=["queued", "running"], limit=1000):
            client.cancel(job.id)
        grown = daemon(home).memory_info().rss - size
        print(f"\n{count} mutated messages: {grown / MIB:.1f} MiB more, {answered} answers read")
        assert grown < 50 * MIB


@pytest.mark.parametrize("jobs", [60, pytest.param(3000, marks=pytest.mark.soak)])
def test_a_watcher_that_never_reads_slows_nobody_and_results_are_kept(home: Any, jobs: int) -> None:
    home.start()
    with door(home, hwm=1) as deaf, home.client() as client:
        deaf.send_multipart([messages.VERSION_FRAME, b"w", messages.pack(messages.Watch().to_wire())])
        with pinged(home) as taken:
            made = [client.submit(home.generate("slow 1" if n % 5 else "plain")) for n in range(jobs)]
            home.until(lambda: client.status().counts["done"] == jobs, seconds=600)
        assert {client.get(job).state for job in (made[0], made[-1])} == {"done"}
    told("beside a watcher that never reads", taken)


@pytest.mark.parametrize("jobs", [400, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_long_queue_is_acknowledged_kept_and_small(home: Any, jobs: int) -> None:
    home.start()
    body: Callable[[int], dict[str, Any]] = lambda n: home.generate(f"{n}", priority="batch").to_wire()  # noqa: E731
    with home.client() as client, door(home, hwm=20_000) as peer:
        blocker = client.submit(home.generate("slow 100000", priority="batch"))
        home.until(home.runs)
        known: set[str] = set()
        with pinged(home) as taken:
            begun, sent = time.monotonic(), 0
            while len(known) < jobs:
                while sent < jobs and sent - len(known) < 256:
                    peer.send_multipart([messages.VERSION_FRAME, b"%d" % sent, messages.pack(body(sent))])
                    sent += 1
                assert peer.poll(60_000)
                answer = messages.unpack(peer.recv_multipart()[2])
                assert answer["type"] == "ok"
                known.add(answer["job"])
            rate = jobs / (time.monotonic() - begun)
        size = daemon(home).memory_info().rss
        print(f"\n{jobs} jobs acknowledged at {rate:.0f}/s, front {size / MIB:.0f} MiB")
        told("while they were submitted", taken)
        assert len(known) == jobs and client.status().queued == jobs
        assert size < 200 * MIB
        home.kill()
        home.start()
    with home.client() as client:
        status = client.status()
        assert status.queued + len(status.running) == jobs + 1
        assert client.get(blocker).state in ("queued", "running")


@pytest.mark.parametrize("jobs", [40, pytest.param(2000, marks=pytest.mark.soak)])
def test_an_editor_behind_many_batch_jobs_waits_for_the_one_that_runs_and_no_other(home: Any, jobs: int) -> None:
    home.start()
    with home.client() as client:
        blocker = client.submit(home.generate("slow 100000", priority="batch"))
        home.until(home.runs)
        for _ in range(jobs):
            client.submit(home.generate("slow 4", priority="batch"))
        client.cancel(blocker)
        urgent = [client.run(home.generate(f"urgent {number}")) for number in range(10)]
        assert {job.state for job in urgent} == {"done"} and client.status().queued > 0
        batch = [job for job in client.list(limit=jobs + 100) if job.priority == "batch" and job.started]
    # By the daemon's own clock: none begins while somebody waits.
    for job in urgent:
        assert not [other for other in batch if job.created < other.started < job.started]
    waits = [job.started - job.created for job in urgent]
    print(f"\nbehind {jobs} batch jobs of 200 ms: longest wait {max(waits) * 1000:.0f} ms")


def test_names_of_any_script_and_quotes_in_them_are_names(home: Any) -> None:
    home.start()
    clip = home.root / "Ünï 音 🎬 'quoted' \"twice\" ; $(touch x) .mp4"
    clip.write_bytes(b"x")
    with home.client() as client:
        output = home.root / "音 🎬 'out' $(x)"
        takes = client.generate(clip, output=output, prompt="plain").takes
        assert Path(takes[0].wav).parent == output and Path(takes[0].wav).is_file()
