"""The synchronous client. One `Client` belongs to one thread; it never hangs when the daemon goes away."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from vatt_client import connection, errors, messages, replies
from vatt_client.link import Link
from vatt_client.replies import Job, Progress

OnProgress = Callable[[Progress], None]
RECONCILE = 5.0
"""Seconds without any word of a watched job after which `get` is asked, and the watch is made again."""
HEARTBEAT = 2.0
"""Seconds between pings while a job is waited for."""
HEARTBEAT_LIMIT = 6.0
"""A daemon that leaves a ping unanswered for so many seconds is lost."""


class Client:
    """A connection to the daemon of this user on this machine.

    timeout: seconds for an answer (jobs themselves may take as long as they take). reconnect: seconds to wait for a
    daemon to come back when it goes away while a job is waited for; 0: raise DaemonLost at once. connection_file: where
    the daemon's addresses are; none: the user's runtime folder, or $VATT_HOME/runtime.

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
        self._timeout = timeout
        self._reconnect = reconnect
        self._file = connection_file
        self._name = name
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links: list[Link] = []
        self._last_ping = 0.0
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._connection = connection.read_connection(self._file)
        # pyzmq keeps a context per client, so that closing one never waits for another.
        self._jobs = Link(self._context, self._connection, self._connection.jobs)
        self._links = [self._jobs]
        self._control = Link(self._context, self._connection, self._connection.control)
        self._links.append(self._control)
        try:
            self.welcome = self.hello()
        except (errors.DaemonTimeout, errors.DaemonLost) as error:
            raise errors.DaemonNotRunning(
                "The connection file names a daemon that does not answer. If it still runs, 'vatt daemon stop' it, "
                "then 'vatt daemon start'.",
                instance=self._connection.instance,
            ) from error
        self._last_ping = time.monotonic()

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links = []
        self._context.destroy(linger=0)

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

    def _ask(self, message: messages.Message, *, timeout: float | None = None) -> dict[str, Any]:
        link = self._control if messages.CONTROL in message.SOCKETS else self._jobs
        return link.request(message, timeout=self._timeout if timeout is None else timeout)[1]

    def hello(self) -> replies.Welcome:
        """Who the daemon is and what it can do."""
        return replies.Welcome.from_wire(self._ask(messages.Hello(client=self._name)))

    def ping(self, *, timeout: float | None = None) -> replies.Pong:
        return replies.Pong.from_wire(self._ask(messages.Ping(), timeout=timeout))

    def status(self) -> replies.DaemonStatus:
        """What runs, what waits, how the worker is."""
        return replies.DaemonStatus.from_wire(self._ask(messages.Status()))

    def models(self) -> list[dict[str, Any]]:
        """The models that can be named, each with name, title, licence, embedded, installed."""
        return list(self._ask(messages.Models())["models"])

    def get(self, job: str, *, history: bool = False) -> Job:
        """A job as it is now. Raises NotFound."""
        return Job.from_wire(self._ask(messages.Get(job=job, history=history))["job"])

    def list(self, *, states: Sequence[str] = (), limit: int = 100) -> list[Job]:
        """The newest jobs, at most `limit`, fetched page by page."""
        found: list[Job] = []
        before: int | None = None
        while len(found) < limit:
            page = self._ask(messages.List(states=tuple(states), limit=min(1000, limit - len(found)), before=before))
            found.extend(Job.from_wire(item) for item in page["jobs"])
            before = page["next"]
            if before is None:
                break
        return found

    def cancel(self, job: str) -> str:
        """Cancel a job. Returns its state: 'running' if it will stop at its next step. Raises NotFound."""
        return str(self._ask(messages.Cancel(job=job))["state"])

    def shutdown(self) -> None:
        """Stop the daemon; what runs goes on after its next start."""
        with contextlib.suppress(errors.DaemonLost):
            self._ask(messages.Shutdown())

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def submit(self, message: messages.Submission) -> str:
        """Hand in a job. Returns its id once the daemon has it on disk. Raises the error of a refusal.

        A message without an idempotency key gets one, so that asking again after a lost answer makes no second job.
        """
        if message.idempotency_key is None:
            message = dataclasses.replace(message, idempotency_key=str(uuid.uuid4()))
        while True:
            try:
                return str(self._ask(message)["job"])
            except errors.DaemonLost as lost:
                self._come_back(lost)

    def wait(self, job: str, *, on_progress: OnProgress | None = None, timeout: float | None = None) -> Job:
        """Wait for the end of a job and return it, whatever its state; `on_progress` is called as it goes.

        Raises DaemonLost when the daemon goes away and does not come back within `reconnect` seconds, DaemonTimeout
        after `timeout` seconds (the job goes on), NotFound.
        """
        for found in self.watch([job], on_progress=on_progress, timeout=timeout):
            if found.ended:
                return found
        raise errors.DaemonLost(f"The watch of job {job} ended without a result.", job=job)

    def watch(
        self,
        jobs: Sequence[str],
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> Iterator[Job]:
        """Yield each job at every change of its state until all have ended. `on_progress` is called in between.

        States may be skipped when the connection is slow or was lost meanwhile, ends never are.
        """
        end = None if timeout is None else time.monotonic() + timeout
        last: dict[str, tuple[str, int]] = {}
        waiting = set(jobs)
        while waiting:
            try:
                for found in self._watch_once(waiting, on_progress, end):
                    if last.get(found.id) != (found.state, found.attempt):
                        last[found.id] = (found.state, found.attempt)
                        if found.ended:
                            waiting.discard(found.id)
                        yield found
                    elif found.ended:
                        waiting.discard(found.id)
            except errors.DaemonLost as lost:
                self._come_back(lost)

    def _watch_once(self, waiting: set[str], on_progress: OnProgress | None, end: float | None) -> Iterator[Job]:
        """One watch: yields jobs until nothing was heard for RECONCILE seconds, or all have ended."""
        order = messages.Watch(jobs=tuple(sorted(waiting)), progress=on_progress is not None)
        identity, answer = self._jobs.request(order, timeout=self._timeout)
        for body in answer["jobs"]:
            yield Job.from_wire(body)
        heard = time.monotonic()
        try:
            while waiting:
                now = time.monotonic()
                if end is not None and now >= end:
                    raise errors.DaemonTimeout(
                        f"{len(waiting)} job(s) did not end in time; they go on in the daemon.", jobs=sorted(waiting)
                    )
                if now - heard > RECONCILE:
                    return
                self._jobs.pump(0.1 if end is None else min(0.1, end - now))
                self._heartbeat()
                events, self._jobs.events = self._jobs.events, []
                for request, event in events:
                    if request != identity:
                        continue
                    heard = time.monotonic()
                    if event["event"] == "state":
                        yield Job.from_wire(event["job"])
                    elif on_progress is not None:
                        on_progress(Progress.from_wire(event["progress"]))
        finally:
            if waiting:
                with contextlib.suppress(errors.ClientError, zmq.ZMQError):
                    self._jobs.request(messages.Unwatch(watch=identity.hex()), timeout=1.0)

    def _heartbeat(self) -> None:
        """Ping now and then; raise DaemonLost when the daemon is gone or stays silent."""
        self._jobs.check_alive()
        if time.monotonic() - self._last_ping < HEARTBEAT:
            return
        try:
            self.ping(timeout=HEARTBEAT_LIMIT)
        except errors.DaemonTimeout as error:
            raise errors.DaemonLost(
                "The daemon does not answer any more. Jobs that it had accepted are kept; see 'vatt daemon status'."
            ) from error
        self._last_ping = time.monotonic()

    def _come_back(self, lost: errors.DaemonLost) -> None:
        """Wait for a daemon to take the lost one's place and connect to it; raises `lost` when none comes."""
        end = time.monotonic() + self._reconnect
        while time.monotonic() < end:
            time.sleep(0.1)
            for link in self._links:
                link.close()
            self._links = []
            with contextlib.suppress(errors.DaemonNotRunning, errors.WrongKey):
                self._open()
                return
        raise lost

    # ---- the two main jobs -----------------------------------------------------------------------------------------

    def suggest(
        self, path: str | Path, *, on_progress: OnProgress | None = None, timeout: float | None = None, **options: Any
    ) -> replies.Suggestions:
        """Captions of a clip. `options` are the fields of `messages.Suggest` (count, start, end, seed, …).

        Ctrl-C cancels the job in the daemon. Raises the job's typed error.
        """
        message = messages.Suggest(path=absolute(path), **options)
        return self.run(message, on_progress=on_progress, timeout=timeout).suggestions()

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
        message = messages.Generate(path=absolute(path), output=absolute(output), **options)
        return self.run(message, on_progress=on_progress, timeout=timeout).takes()

    def run(
        self, message: messages.Submission, *, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> Job:
        """Submit and wait. When the wait is interrupted (Ctrl-C, an error of the callback), the job is cancelled."""
        job = self.submit(message)
        try:
            return self.wait(job, on_progress=on_progress, timeout=timeout)
        except errors.ConnectionProblem:
            raise
        except BaseException:
            with contextlib.suppress(errors.ClientError, zmq.ZMQError):
                self.cancel(job)
            raise


def absolute(path: str | Path) -> str:
    """A path as the daemon needs it: absolute, since the daemon's working directory is another one."""
    return str(Path(path).expanduser().absolute())
