"""Slow readers: they miss progress, never an end or an answer, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import zmq
from vatt_client import messages
from vatt_daemon.channel import AT_ONCE, Channel, Delivery, Outbox
from vatt_daemon.watching import Watchers

SMALL = 4096
MANY = 3000
PADDING = "x" * 500


@dataclass
class Pair:
    """The daemon's side of a socket, and two clients of it."""

    router: zmq.Socket[bytes]
    slow: zmq.Socket[bytes]
    quick: zmq.Socket[bytes]

    def names(self) -> tuple[bytes, bytes]:
        """The routing identities of the slow and the quick reader."""
        found = []
        for client in (self.slow, self.quick):
            client.send(b"here")
            found.append(self.router.recv_multipart()[0])
        return found[0], found[1]


@pytest.fixture
def pair() -> Iterator[Pair]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.router_mandatory = True
    router.sndhwm = 100
    router.setsockopt(zmq.SNDBUF, SMALL)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    clients = []
    for _ in range(2):
        client = context.socket(zmq.DEALER)
        client.rcvhwm = 1
        client.setsockopt(zmq.RCVBUF, SMALL)
        client.connect(f"tcp://127.0.0.1:{port}")
        clients.append(client)
    yield Pair(router, *clients)
    context.destroy(linger=0)


async def read(client: zmq.Socket[bytes], count: int) -> list[dict[str, Any]]:
    """So many messages, without holding up the loop."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        try:
            found.append(messages.unpack(client.recv_multipart(zmq.DONTWAIT)[-1]))
        except zmq.Again:
            await asyncio.sleep(0.001)
    return found


def progress(job: str, done: int) -> dict[str, Any]:
    return {"type": "event", "event": "progress", "progress": {"job": job, "done": done, "padding": PADDING}}


def state(job: str, name: str = "done") -> dict[str, Any]:
    return {"type": "event", "event": "state", "job": {"id": job, "state": name, "padding": PADDING}}


def test_a_slow_reader_misses_progress_but_no_end_and_the_quick_one_gets_all(pair: Pair) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        slow, quick = pair.names()
        channel = Channel(pair.router, loop)
        watchers = Watchers(channel, loop, lambda job: state(job)["job"])
        for name in (slow, quick):
            watchers.add(name, b"w", jobs={"a"}, progress=True)
        for number in range(MANY):
            watchers.publish("a", progress("a", number))
            heard = await read(pair.quick, 1)
            assert heard[0]["progress"]["done"] == number
        watchers.publish("a", state("a"))
        assert (await read(pair.quick, 1))[0]["job"]["state"] == "done"
        events = await read(pair.slow, 1)
        while events[-1]["event"] != "state":
            events += await read(pair.slow, 1)
        reported = [event["progress"]["done"] for event in events[:-1]]
        assert reported == sorted(reported) and len(reported) < MANY
        assert events[-1]["job"] == state("a")["job"]
        await asyncio.sleep(0.2)
        assert len(watchers) == 0
        watchers.close()
        channel.close()

    asyncio.run(asyncio.wait_for(scenario(), 250))


def test_every_end_that_a_slow_reader_is_owed_comes_when_it_reads(pair: Pair) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        slow, _ = pair.names()
        channel = Channel(pair.router, loop)
        watchers = Watchers(channel, loop, lambda job: state(job)["job"])
        jobs = [f"job-{number}" for number in range(1000)]
        watchers.add(slow, b"all", jobs=None, progress=True)
        watchers.add(slow, b"named", jobs=set(jobs), progress=False)
        for job in jobs:
            watchers.publish(job, state(job, "running"))
            watchers.publish(job, state(job))
        ended: list[str] = []
        while len(ended) < 2 * len(jobs):
            ended += [event["job"]["id"] for event in await read(pair.slow, 1) if event["job"]["state"] == "done"]
        assert set(ended) == set(jobs)
        assert len(watchers) == 1  # the one of all jobs stands
        watchers.close()
        channel.close()

    asyncio.run(asyncio.wait_for(scenario(), 250))


def test_no_answer_is_lost_on_a_client_that_asks_more_than_it_reads(pair: Pair) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        slow, quick = pair.names()
        channel = Channel(pair.router, loop)
        outbox = Outbox(channel, loop)
        for number in range(MANY):
            outbox.send([slow, b"id", messages.pack({"number": number, "padding": PADDING})])
        outbox.send([quick, b"id", messages.pack({"number": -1})])
        assert (await read(pair.quick, 1))[0]["number"] == -1
        assert [answer["number"] for answer in await read(pair.slow, MANY)] == list(range(MANY))
        outbox.close()
        channel.close()

    asyncio.run(asyncio.wait_for(scenario(), 250))


class Peers:
    """Stands in for a channel whose peers take nothing until they are let."""

    def __init__(self) -> None:
        self.deaf = True
        self.sent: list[list[bytes]] = []
        self.refused = 0

    def send(self, frames: list[bytes]) -> Delivery:
        if self.deaf:
            self.refused += 1
            return Delivery.FULL
        self.sent.append(frames)
        return Delivery.TAKEN


async def most_in_a_turn(peers: Peers, count: int) -> int:
    """Wait until so much was sent; the largest number of messages within one turn of the loop."""
    most = 0
    while len(peers.sent) < count:
        before = len(peers.sent)
        await asyncio.sleep(0)
        most = max(most, len(peers.sent) - before)
    return most


def test_what_is_owed_goes_out_bit_by_bit_with_turns_of_others_in_between() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        peers: Any = Peers()
        watchers = Watchers(peers, loop, lambda job: state(job)["job"])
        for name in (b"slow", b"also slow"):
            watchers.add(name, b"w", jobs=None, progress=True)
        jobs = [f"job-{number}" for number in range(1000)]
        for job in jobs:
            watchers.publish(job, state(job))
        peers.deaf = False
        assert await most_in_a_turn(peers, 2000) <= AT_ONCE
        told = [(frames[0], messages.unpack(frames[-1])["job"]["id"]) for frames in peers.sent]
        for name in (b"slow", b"also slow"):
            assert [job for peer, job in told if peer == name] == jobs
        watchers.close()

        peers.deaf, peers.sent = True, []
        outbox = Outbox(peers, loop)
        for number in range(1000):
            outbox.send([b"slow", b"id", b"%d" % number])
        peers.deaf = False
        assert await most_in_a_turn(peers, 1000) <= AT_ONCE
        assert [frames[-1] for frames in peers.sent] == [b"%d" % number for number in range(1000)]
        outbox.close()

    asyncio.run(asyncio.wait_for(scenario(), 250))


def test_a_deaf_peer_is_tried_once_for_all_of_its_watches() -> None:
    async def scenario() -> None:
        peers: Any = Peers()
        looked: list[str] = []
        watchers = Watchers(peers, asyncio.get_running_loop(), lambda job: looked.append(job) or state(job)["job"])  # type: ignore[func-returns-value]
        for number in range(500):
            watchers.add(b"deaf", b"%d" % number, jobs={"a", "b"}, progress=True)
        watchers.publish("a", state("a"))
        assert peers.refused == 500 and not looked
        while not looked:
            await asyncio.sleep(0)  # the first turn after it, before the next try
        assert looked == ["a"] and peers.refused == 501
        watchers.close()

    asyncio.run(asyncio.wait_for(scenario(), 250))


def test_watches_of_a_client_that_is_gone_end(pair: Pair) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        slow, quick = pair.names()
        channel = Channel(pair.router, loop)
        watchers = Watchers(channel, loop, lambda job: None)
        for name in (slow, quick):
            watchers.add(name, b"w", jobs=None, progress=True)
        assert watchers.remove(quick, b"w") and not watchers.remove(quick, b"w")
        pair.slow.close(linger=0)
        while len(watchers):
            watchers.publish("a", state("a", "running"))
            await asyncio.sleep(0.01)
        watchers.close()
        channel.close()

    asyncio.run(asyncio.wait_for(scenario(), 250))
