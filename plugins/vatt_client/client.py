"""The synchronous client. One `Client` belongs to one thread; it never hangs when the daemon goes away."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq

from vatt_client import messages, replies
from vatt_client.link import Link
from vatt_client.replies import BatchReport, Job
from vatt_client.session import Items, OnProgress, Session, absolute

__all__ = ["Client", "OnProgress", "absolute"]

T = TypeVar("T")
S = TypeVar("S", bound=messages.Submission)


class Blocking:
    """Waits by blocking the thread, so that a coroutine over it never suspends."""

    def __init__(self) -> None:
        self._pollers: dict[Link, zmq.Poller] = {}

    def attach(self, link: Link) -> None:
        poller = self._pollers[link] = zmq.Poller()
        poller.register(link.socket, zmq.POLLIN)
        poller.register(link.monitor, zmq.POLLIN)

    def detach(self, link: Link) -> None:
        self._pollers.pop(link, None)

    async def wait(self, link: Link, seconds: float) -> bool:
        if link.receive():
            return True
        self._pollers[link].poll(int(max(0.0, seconds) * 1000))
        return link.receive()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def call(self, work: Callable[[], T]) -> T:
        return work()


def finish(step: Awaitable[T]) -> T:
    """Run a coroutine that never suspends, and return what it returns."""
    try:
        step.__await__().send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a coroutine of the blocking client was suspended")


def each(steps: AsyncGenerator[T, None]) -> Iterator[T]:
    """The values of an asynchronous generator that never suspends."""
    try:
        while True:
            try:
                value = finish(steps.__anext__())
            except StopAsyncIteration:
                return
            yield value
    finally:
        finish(steps.aclose())


class Client:
    """A connection to the daemon of this user on this machine, or to one on another machine.

    timeout: seconds for an answer (jobs themselves may take as long as they take). reconnect: seconds to wait for a
    daemon to come back when it goes away while a job is waited for; 0: raise DaemonLost at once. connection_file: where
    the daemon's addresses are; none: $VATT_CONNECTION, or the user's runtime folder, or $VATT_HOME/runtime.

    A daemon on another machine sees no files of this one: they are sent to it before a job is submitted, and what a job has
    made is fetched into the folder that it names, all by itself.

    Raises DaemonNotRunning, WrongKey, DaemonTimeout or UnsupportedVersion when no connection comes about.
    """

    def __init__(
        self,
        *,
        timeout: float = 10.0,
        reconnect: float = 0.0,
        connection_file: Path | None = None,
        name: str = "vatt_client",
    ) -> None:
        self.session = Session(
            Blocking(), timeout=timeout, reconnect=reconnect, connection_file=connection_file, name=name
        )
        try:
            finish(self.session.open())
        except BaseException:
            self.close()
            raise

    @property
    def welcome(self) -> replies.Welcome:
        """What the daemon said to `hello`."""
        return self.session.welcome

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- questions -------------------------------------------------------------------------------------------------

    def hello(self) -> replies.Welcome:
        """Who the daemon is and what it can do."""
        return finish(self.session.hello())

    def ping(self, *, timeout: float | None = None) -> replies.Pong:
        return finish(self.session.ping(timeout=timeout))

    def status(self) -> replies.DaemonStatus:
        """What runs, what waits, how the worker is."""
        return finish(self.session.status())

    def models(self) -> list[dict[str, Any]]:
        """The models that can be named, each with name, title, licence, embedded, installed."""
        return finish(self.session.models())

    def unload(self, model: str | None = None) -> list[str]:
        """Take a model, or all, out of memory. Returns the names of those that are; one at work stays."""
        return finish(self.session.unload(model))

    def get(self, job: str, *, history: bool = False) -> Job:
        """A job as it is now. Raises NotFound. One that this client has handed in on another machine brings its takes."""
        return finish(self.session.get(job, history=history))

    def list(
        self, *, states: Sequence[str] = (), limit: int = 100, batch: str | None = None, results: bool = False
    ) -> list[Job]:
        """The newest jobs, at most `limit`, fetched page by page. batch: the items of that batch instead. results: also
        the request and the result of each."""
        return finish(self.session.list(states=states, limit=limit, batch=batch, results=results))

    def cancel(self, job: str) -> str:
        """Cancel a job. Returns its state: 'running' if it will stop at its next step. Raises NotFound."""
        return finish(self.session.cancel(job))

    def shutdown(self) -> None:
        """Stop the daemon; what runs goes on after its next start."""
        finish(self.session.shutdown())

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def submit(self, message: messages.Submission | messages.Batch, *, on_progress: OnProgress | None = None) -> str:
        """Hand in a job. Returns its id once the daemon has it on disk. Raises the error of a refusal.

        A message without an idempotency key gets one, so that asking again after a lost answer makes no second job. A
        daemon on another machine is sent the files first, which `on_progress` tells of (the stage `send`, in bytes).
        """
        return finish(self.session.submit(message, on_progress=on_progress))

    def send_files(self, message: S, *, on_progress: OnProgress | None = None) -> S:
        """The message with uploads in the place of the paths that a daemon on another machine does not see, sent now. On the
        same machine, the message as it is."""
        return finish(self.session.send_files(message, on_progress=on_progress))

    def upload(self, path: str | Path, *, on_progress: OnProgress | None = None) -> str:
        """Send a file. Returns `upload:` and its id, which stand for its path in messages. What the daemon has already is not
        sent again, so that an upload which broke off goes on."""
        return finish(self.session.upload(path, on_progress=on_progress))

    def fetch(self, job: str, folder: str | Path, *, on_progress: OnProgress | None = None) -> Job:
        """Bring the files of a job with the output `download:` into a folder, overwriting nothing. Returns the job with
        their paths in its result. Raises the error of a job that has none, NotFound when they are not kept any more."""
        return finish(self.session.fetch(job, folder, on_progress=on_progress))

    def wait(self, job: str, *, on_progress: OnProgress | None = None, timeout: float | None = None) -> Job:
        """Wait for the end of a job and return it, whatever its state; `on_progress` is called as it goes.

        Raises DaemonLost when the daemon goes away and does not come back within `reconnect` seconds, DaemonTimeout
        after `timeout` seconds (the job goes on), NotFound.
        """
        return finish(self.session.wait(job, on_progress=on_progress, timeout=timeout))

    def watch(
        self, jobs: Sequence[str], *, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> Iterator[Job]:
        """Yield each job at every change of its state until all have ended. `on_progress` is called in between.

        States may be skipped when the connection is slow or was lost meanwhile, ends never are.
        """
        return each(self.session.watch(jobs, on_progress=on_progress, timeout=timeout))

    def watch_all(self, *, on_progress: OnProgress | None = None) -> Iterator[Job]:
        """Yield every job of the daemon at every change of its state, from now on and without end."""
        return each(self.session.watch_all(on_progress=on_progress))

    def run(
        self,
        message: messages.Submission | messages.Batch,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Submit and wait. When the wait is interrupted (Ctrl-C, an error of the callback), the job is cancelled."""
        return finish(self.session.run(message, on_progress=on_progress, timeout=timeout))

    def suggest(
        self, path: str | Path, *, on_progress: OnProgress | None = None, timeout: float | None = None, **options: Any
    ) -> replies.Suggestions:
        """Captions of a clip. `options` are the fields of `messages.Suggest` (count, start, end, seed, …).

        Ctrl-C cancels the job in the daemon. Raises the job's typed error.
        """
        return finish(self.session.suggest(path, on_progress=on_progress, timeout=timeout, **options))

    def generate(
        self,
        path: str | Path,
        *,
        output: str | Path,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> replies.Takes:
        """Soundtracks of a clip, written to the folder `output`. `options` are the fields of `messages.Generate`.

        Ctrl-C cancels the job in the daemon. Raises the job's typed error.
        """
        return finish(self.session.generate(path, output=output, on_progress=on_progress, timeout=timeout, **options))

    # ---- batches ---------------------------------------------------------------------------------------------------

    def batch(
        self, items: Items, *, on_progress: OnProgress | None = None, timeout: float | None = None, **options: Any
    ) -> BatchReport:
        """Soundtracks of many clips; returns what became of each when all have ended. An item that fails fails alone.

        items: a manifest file (JSON Lines, CSV), or a map of the fields of `messages.Generate` for each clip. options:
        `output`, the folder of all items that name none; `defaults`, other fields for all; `report`, a file for the
        report; the fields of `messages.Batch` (resume, priority, …). Ctrl-C cancels what is not done yet; the same
        batch again goes on from there.
        """
        return finish(self.session.batch(items, on_progress=on_progress, timeout=timeout, **options))

    def submit_batch(self, items: Items, **options: Any) -> str:
        """Hand in a batch and return its id at once; see `batch` for the arguments. `wait` and `report` take the id."""
        return finish(self.session.submit_batch(items, **options))

    def report(self, batch: str) -> BatchReport:
        """What became of each item of a batch so far."""
        return finish(self.session.report(batch))
