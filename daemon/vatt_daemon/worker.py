"""The model worker: a process that loads models and carries out one task at a time. The only part that imports torch.

Started by the executor with pipes on standard input and output (see pipe.py). It ends when its input closes, which is
also how it notices that the daemon is gone. Models are loaded when a task names them; the last one stays loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

from vatt_client import fields as message_fields
from vatt_client import messages

from vatt_core.errors import BadModel, BadRequest, Cancelled, VattError
from vatt_daemon import pipe

LEAVE_GRACE = 3.0
"""Seconds from the end of the input until the process ends, finished with cleaning up or not."""

_NOT_FOR_THE_PIPELINE = ("model", "priority", "deadline", "idempotency_key")
_NONE_IS_A_CHOICE = ("loudness",)
"""Fields whose absence says something; for all others it leaves the choice to the pipeline."""


class Worker:
    """Carries out tasks with the pipeline class named 'module:Class'."""

    def __init__(self, answers: BinaryIO, *, pipeline: str, device: str, threads: int) -> None:
        self._answers = answers
        self._sending = threading.Lock()
        self._pipeline = pipeline
        self._device = device
        self._threads = threads
        self._tasks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._leaving = threading.Event()
        self._loaded: tuple[str, Any] | None = None

    def listen(self, requests: BinaryIO) -> None:
        """In a thread: take orders until the input ends, then see to it that the process does too."""
        with contextlib.suppress(OSError, ValueError):
            while (order := pipe.read(requests)) is not None:
                if order["do"] == "run":
                    self._tasks.put(order)
                elif order["do"] == "cancel":
                    self._cancelled.add(order["job"])
        self._leaving.set()
        self._tasks.put(None)
        threading.Event().wait(LEAVE_GRACE)
        os._exit(0)

    def work(self) -> None:
        self._say({"event": "ready"})
        while (task := self._tasks.get()) is not None and not self._leaving.is_set():
            job = task["job"]
            try:
                self._say({"event": "done", "job": job, "result": self._run(task)})
            except Exception as error:
                if not isinstance(error, VattError):
                    traceback.print_exc()
                self._say({"event": "failed", "job": job, "error": describe(error)})
                if "CUDA error" in str(error):
                    # After a CUDA error nothing in this process can be trusted any more.
                    os._exit(70)
            finally:
                self._cancelled.discard(job)

    def _run(self, task: dict[str, Any]) -> dict[str, Any]:
        job = task["job"]

        def cancelled() -> bool:
            return job in self._cancelled or self._leaving.is_set()

        def progress(stage: str, done: int, total: int) -> None:
            self._say({"event": "progress", "job": job, "stage": stage, "done": done, "total": total})

        if cancelled():
            raise Cancelled("The job was cancelled before it began.")
        body = dict(task["request"])
        message = messages.REQUESTS[body.pop("type")].from_wire(body)
        assert isinstance(message, messages.Submission)
        pipeline = self._load(message.model, progress)
        request = build_request(message, sys.modules[type(pipeline).__module__])
        action = pipeline.suggest if isinstance(message, messages.Suggest) else pipeline.generate
        result = action(request, progress=progress, cancelled=cancelled)
        return dict(result.to_dict())

    def _load(self, model: str, progress: Callable[[str, int, int], None]) -> Any:
        if self._loaded is not None and self._loaded[0] == model:
            return self._loaded[1]
        progress("load", 0, 1)
        self._loaded = None
        module, _, name = self._pipeline.partition(":")
        if self._threads:
            os.environ.setdefault("OMP_NUM_THREADS", str(self._threads))
        kind = getattr(importlib.import_module(module), name)
        self._loaded = (model, kind.load(model, device=self._device))
        progress("load", 1, 1)
        return self._loaded[1]

    def _say(self, body: dict[str, Any]) -> None:
        try:
            with self._sending:
                pipe.write(self._answers, body)
        except OSError:
            self._leaving.set()


def build_request(message: messages.Submission, module: Any) -> Any:
    """The pipeline's own request from a message. What the client left open keeps the pipeline's default."""
    kind = module.SuggestRequest if isinstance(message, messages.Suggest) else module.GenerateRequest
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {}
    for name in message_fields.rules(type(message)):
        value = getattr(message, name)
        if name in _NOT_FOR_THE_PIPELINE or (value is None and name not in _NONE_IS_A_CHOICE):
            continue
        if name not in known:
            raise BadRequest(f"The model '{message.model}' knows no '{name}'.", field=name)
        if name == "time_map":
            from vatt_core.media.time_map import TimeMap

            value = TimeMap.from_list(value)
        values[name] = Path(value) if name in ("path", "output") else value
    return kind(**values)


def describe(error: Exception) -> dict[str, Any]:
    """The error map of the protocol for anything that a pipeline raised."""
    if isinstance(error, VattError):
        return _error(error.code, error.message, error.retryable, error.details)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _error(
            "out_of_memory",
            "There is not enough memory for this job: use a shorter range, fewer takes or a smaller model.",
            False,
            {},
        )
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _error("disk_full", f"There is no space left on the disk{where}: free some and try again.", True, {})
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _error(
                "forbidden_path",
                f"The path may not be used{where}: {error.strerror}. Choose another folder or change its permissions.",
                False,
                {},
            )
        if error.errno == errno.ENOENT:
            return _error("input_not_visible", f"There is no such file{where}.", False, {})
    if isinstance(error, ImportError):
        return _error(
            BadModel.code, f"A library that the model needs cannot be imported: {error}. See 'vatt doctor'.", False, {}
        )
    return _error(
        "internal",
        f"The job failed by a fault of the program ({type(error).__name__}: {error}). The log of the worker says more.",
        False,
        {},
    )


def _error(code: str, message: str, retryable: bool, details: dict[str, Any]) -> dict[str, Any]:
    plain = {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in details.items()
    }
    return {"code": code, "message": message, "retryable": retryable, "retry_after": None, "details": plain}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="vatt-worker")
    parser.add_argument("--pipeline", default="vatt_core.pipeline:Pipeline")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    # Ctrl-C in a terminal reaches the whole group; the daemon decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print: keep the pipes to ourselves, and give them the log instead.
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    worker = Worker(answers, pipeline=options.pipeline, device=options.device, threads=options.threads)
    threading.Thread(target=worker.listen, args=(requests,), daemon=True, name="orders").start()
    worker.work()
    os._exit(0)


if __name__ == "__main__":
    main()
