"""Reading untrusted media in a process of its own, which has limits and may be killed.

`with Guard(...).installed():` and every function marked `@guardable` that is called inside, in this thread, runs in a
reading process: probe, read_frames, watch, read_wave, mux_sound. The process takes no more memory, processor time and
time than it is allowed; a crash in a decoder, a file that needs more, or somebody's cancellation ends that process and
nothing else. What is said between both is JSON and raw arrays: no pickle.
"""

from __future__ import annotations

import functools
import inspect
import json
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

from vatt_core import errors
from vatt_core.errors import BadMedia, Cancelled, LimitsExceeded, VattError
from vatt_core.media.opening import MediaLimits

P = ParamSpec("P")
R = TypeVar("R")

CALLS_OF_A_PROCESS = 200
"""Calls after which a reading process is replaced, so that what leaks in a decoder does not add up."""
POLL = 0.05
LARGEST_HEADER = 64 << 20

_installed: ContextVar[Guard | None] = ContextVar("guard", default=None)


def guardable(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that opens files of strangers. With a guard installed it runs in a reading process."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        guard = _installed.get()
        if guard is None:
            return function(*arguments, **options)
        given = dict(options)
        if limited and given.get("limits") is None:
            given["limits"] = guard.limits.media
        return cast(R, guard.call(f"{function.__module__}:{function.__qualname__}", arguments, given))

    limited = "limits" in inspect.signature(function).parameters
    return call


@dataclass(frozen=True)
class GuardLimits:
    """What one call may take. memory: bytes beyond what the reading process has when it is idle. cpu_seconds: processor
    time. wall_seconds: time. media: what is asked of the file, where the call itself says nothing."""

    memory: int = 4 << 30
    cpu_seconds: int = 3600
    wall_seconds: float = 3600.0
    media: MediaLimits = field(default_factory=MediaLimits)


class Guard:
    """Reading processes, started when they are needed, `most` at a time. Safe to use from several threads.

    waiting: what is entered while a call waits for its process.
    """

    def __init__(
        self,
        limits: GuardLimits | None = None,
        *,
        most: int = 2,
        waiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.limits = limits or GuardLimits()
        self._waiting = waiting
        self._places = threading.Semaphore(most)
        self._idle: list[_Reader] = []
        self._lock = threading.Lock()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let this thread's reading of media happen under this guard."""
        token = _installed.set(self)
        try:
            yield
        finally:
            _installed.reset(token)

    def prepare(self) -> None:
        """Start a reading process ahead of its first call."""
        with self._lock:
            if not self._idle:
                self._idle.append(_Reader(self.limits))

    def call(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run a guardable function in a reading process. Raises what it raises, LimitsExceeded, BadMedia, Cancelled."""
        cancelled = options.pop("cancelled", None) or (lambda: False)
        with self._waiting(), self._places:
            with self._lock:
                reader = self._idle.pop() if self._idle else None
            reader = reader or _Reader(self.limits)
            try:
                result = reader.call({"call": name, "arguments": arguments, "options": options}, cancelled)
            except _Refused as refused:
                if isinstance(refused.error, LimitsExceeded):
                    reader.end()  # what it took for this clip it may not give back, and refuse the next for it
                else:
                    self._keep(reader)
                raise refused.error from None
            except BaseException:
                reader.end()
                raise
            self._keep(reader)
        return result

    def _keep(self, reader: _Reader) -> None:
        with self._lock:
            if reader.calls < CALLS_OF_A_PROCESS and not self._idle:
                self._idle.append(reader)
                return
        reader.end()

    def close(self) -> None:
        """End the processes that wait for work."""
        with self._lock:
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.end()


class _Refused(Exception):
    """The function has raised an error of its own: the process is well."""

    def __init__(self, error: VattError) -> None:
        super().__init__(error.message)
        self.error = error


class _Reader:
    """One reading process."""

    def __init__(self, limits: GuardLimits) -> None:
        self.calls = 0
        self._limits = limits
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vatt_core.media.reading_process", str(limits.memory), str(limits.cpu_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def call(self, request: dict[str, Any], cancelled: Callable[[], bool]) -> Any:
        """The result of a call. After anything but _Refused the process must be ended."""
        self.calls += 1
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        thread = threading.Thread(target=_receive, args=(process.stdout, answers), daemon=True, name="media")
        end = time.monotonic() + self._limits.wall_seconds
        with suppress(OSError):
            send(cast(BinaryIO, process.stdin), request)
        thread.start()
        while True:
            try:
                answer = answers.get(timeout=POLL)
                break
            except queue.Empty:
                if cancelled():
                    raise Cancelled("Reading the clip was cancelled.") from None
                if time.monotonic() > end:
                    raise self._too_much(f"{self._limits.wall_seconds:g} s", "media.wall_seconds") from None
        if answer is None:
            raise self._why_it_died()
        if isinstance(answer, Exception):
            raise answer
        if "error" in answer:
            raise _Refused(_error(answer["error"]))
        return answer["result"]

    def _why_it_died(self) -> VattError:
        code = self._process.wait()
        if code == -getattr(signal, "SIGXCPU", 0):
            return self._too_much(f"{self._limits.cpu_seconds} s of processor time", "media.cpu_seconds")
        if code == -getattr(signal, "SIGKILL", 0):
            return self._too_much("memory of the machine", "media.memory")
        return BadMedia(
            f"The program that reads clips crashed on this one (code {code}). Copy or export it again, in another format."
        )

    @staticmethod
    def _too_much(what: str, setting: str) -> LimitsExceeded:
        return LimitsExceeded(
            f"Reading this clip takes more than {what} ({setting} in the settings). Give a shorter range or export it "
            "smaller.",
            setting=setting,
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()


def _receive(stream: BinaryIO, answers: queue.SimpleQueue[Any]) -> None:
    try:
        answers.put(receive(stream))
    except Exception as error:
        answers.put(BadMedia(f"The program that reads clips gave no usable answer on this one ({error})."))


def _error(told: dict[str, Any]) -> VattError:
    kind = getattr(errors, str(told["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, VattError)):
        kind = BadMedia
    return kind(str(told["message"]), **dict(told["details"]))


# ---- what is said between both: a length, JSON, then the arrays of it ------------------------------------------------------


def send(stream: BinaryIO, body: dict[str, Any]) -> None:
    """Write a message of plain values, paths, fractions, time maps, arrays and the dataclasses of the media package."""
    from vatt_core.media.guarded_values import encode

    arrays: list[Any] = []
    head = json.dumps(encode(body, arrays)).encode()
    stream.write(struct.pack(">I", len(head)) + head)
    for array in arrays:
        stream.write(memoryview(array).cast("B"))
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None where the other side is gone. Raises ValueError for nonsense."""
    from vatt_core.media.guarded_values import decode

    head = stream.read(4)
    if len(head) < 4:
        return None
    size = struct.unpack(">I", head)[0]
    if size > LARGEST_HEADER:
        raise ValueError(f"a message of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        return None
    body = decode(json.loads(data), stream)
    return cast(dict[str, Any], body)
