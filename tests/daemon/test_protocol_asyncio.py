"""The asyncio client: many tasks on one connection, cancellation, and a daemon that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Coroutine
from typing import Any

import pytest
import zmq
from vatt_client import AsyncClient, Client, Progress, connection, errors


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 250))


def test_tasks_share_one_client(shared: Any, guest: Client) -> None:
    seen: dict[str, list[Progress]] = {"a": [], "b": []}

    async def scenario() -> None:
        async with AsyncClient(connection_file=shared.file) as client:
            assert client.welcome.instance == (await client.ping()).instance
            captions, first, second, report = await asyncio.gather(
                client.suggest(shared.clip, count=2),
                client.generate(shared.clip, output=shared.output, prompt="slow 20", on_progress=seen["a"].append),
                client.generate(shared.clip, output=shared.output, prompt="slow 21", on_progress=seen["b"].append),
                client.batch(
                    [{"path": str(shared.clip), "prompt": f"item {n}"} for n in range(3)], output=shared.output
                ),
            )
            assert len(captions.captions) == 2 and report.complete and len(report.items) == 3
            assert [take.caption for take in (*first.takes, *second.takes)] == ["slow 20", "slow 21"]

    with shared.held(watches=4):
        run(scenario())
    for name, steps in (("a", 20), ("b", 21)):
        # Whoever heard nothing for long asks anew, and may miss some; those that come are in order, to the last.
        done = [step.done for step in seen[name] if step.stage == "codes"]
        assert done and done == list(range(steps))[-len(done) :]
        assert len({step.job for step in seen[name]}) == 1


def test_a_cancelled_task_cancels_its_job_and_the_client_goes_on(shared: Any, guest: Client) -> None:
    async def scenario() -> None:
        async with AsyncClient(connection_file=shared.file) as client:
            moving = asyncio.Event()
            task = asyncio.create_task(
                client.generate(
                    shared.clip, output=shared.output, prompt="slow 1000", on_progress=lambda _: moving.set()
                )
            )
            await moving.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            job = (await client.list(limit=1))[0]
            assert (await client.wait(job.id)).state == "cancelled"
            with pytest.raises(errors.NotFound):
                await client.get("f" * 32)

    run(scenario())


def test_jobs_of_others_can_be_watched(shared: Any, guest: Client) -> None:
    async def scenario() -> None:
        async with (
            AsyncClient(connection_file=shared.file) as client,
            contextlib.aclosing(client.watch_all()) as all_jobs,
        ):
            # By the end of a job the connection stands, and what is sent before the next one comes before it.
            await client.run(shared.generate("plain"))
            first = asyncio.ensure_future(anext(all_jobs))
            await client.ping()
            job = await client.submit(shared.generate("slow 2"))
            seen = [await first]
            while not seen[-1].ended:
                seen.append(await anext(all_jobs))
            assert [(found.id, found.state) for found in seen] == [(job, "running"), (job, "done")]

    run(scenario())


class Relay:
    """Passes on what goes to a port of this machine and back, until it is cut."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.streams: list[asyncio.StreamWriter] = []
        self.opened = 0

    async def __aenter__(self) -> Relay:
        self.server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.cut()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.target)
        self.streams += [writer, outer]
        self.opened += 1
        await asyncio.gather(self._pass(reader, outer), self._pass(inner, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        for stream in self.streams:
            stream.transport.abort()
        self.streams.clear()


def test_jobs_are_watched_on_after_a_connection_that_broke_off(shared: Any, guest: Client) -> None:
    async def scenario() -> None:
        there = connection.read_connection(shared.file)
        head, _, port = there.jobs.rpartition(":")
        async with Relay(int(port)) as relay:
            file = connection.write_connection(
                dataclasses.replace(there, jobs=f"{head}:{relay.port}"), shared.root / "relayed.json"
            )
            async with (
                AsyncClient(connection_file=file) as client,
                contextlib.aclosing(client.watch_all()) as all_jobs,
            ):
                before = guest.status().watchers
                heard = asyncio.ensure_future(anext(all_jobs))
                while guest.status().watchers <= before:
                    await asyncio.sleep(0.05)
                relay.cut()
                jobs = set()
                while not heard.done():
                    jobs.add(guest.submit(shared.generate("plain")))
                    await asyncio.wait({heard}, timeout=1)
                assert (await heard).id in jobs and relay.opened == 2

    run(scenario())


def test_all_tasks_follow_their_jobs_into_the_next_daemon(home: Any) -> None:
    home.start()

    async def scenario() -> None:
        async with AsyncClient(connection_file=home.file, reconnect=120.0) as client:
            jobs = [await client.submit(home.generate(prompt)) for prompt in ("slow-once a", "slow 2", "slow 3")]
            waits = [asyncio.create_task(client.wait(job)) for job in jobs]
            while not home.runs():
                await asyncio.sleep(0.05)
            home.kill()
            await asyncio.to_thread(home.start)
            assert [(await wait).state for wait in waits] == ["done"] * 3

    run(scenario())


def test_a_closed_client_ends_what_still_waits(shared: Any, guest: Client) -> None:
    async def scenario() -> None:
        moving = asyncio.Event()
        async with AsyncClient(connection_file=shared.file) as client:
            job = await client.submit(shared.generate("slow 1000"))
            task = asyncio.create_task(client.wait(job, on_progress=lambda _: moving.set()))
            await moving.wait()
        with pytest.raises(errors.DaemonLost):
            await task

    run(scenario())


def test_what_keeps_a_client_from_connecting_is_said(shared: Any, guest: Client) -> None:
    async def scenario() -> None:
        with pytest.raises(errors.DaemonNotRunning):
            async with AsyncClient(connection_file=shared.root / "none.json"):
                pass
        public, secret = zmq.curve_keypair()
        found = connection.read_connection(shared.file)
        values = found.__dict__ | {"client_public": public.decode(), "client_secret": secret.decode()}
        file = connection.write_connection(connection.Connection(**values), shared.root / "stranger.json")
        with pytest.raises(errors.WrongKey):
            async with AsyncClient(connection_file=file):
                pass
        client = AsyncClient(connection_file=shared.file)
        with pytest.raises(errors.DaemonLost):
            await client.ping()

    run(scenario())
