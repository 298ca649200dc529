"""The model worker: a process that loads models and carries out tasks. The only part that imports torch.

Started by the executor with pipes on standard input and output (see pipe.py). It ends when its input closes, which is
also how it notices that the daemon is gone. Every task has a thread of its own; one of them computes at a time, in the
order of gate.py, while others wait for a clip to be read or for their turn.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, cast

from vatt_client import fields as message_fields
from vatt_client import messages

from vatt_core.errors import BadModel, BadRequest, Cancelled, VattError
from vatt_daemon import pipe
from vatt_daemon.gate import BATCH, CAPTIONS, SOUND, Gate, Turn, current
from vatt_daemon.logs import fault
from vatt_daemon.outputs import Outputs
from vatt_daemon.places import Places, in_words
from vatt_daemon.settings import CacheSettings, MediaSettings, WorkerSettings
from vatt_daemon.shelf import Shelf

LEAVE_GRACE = 3.0
"""Seconds from the end of the input until the process ends, finished with cleaning up or not."""

EXPIRY = 1.0
"""Seconds between two looks for models that have been idle for long."""
DEVICE_FAULT = 70
"""Exit code after an error of the GPU, after which nothing that the process computes can be trusted."""

_NOT_FOR_THE_PIPELINE = ("model", "priority", "deadline", "idempotency_key", "keep_alive")
_NONE_IS_A_CHOICE = ("loudness",)
"""Fields whose absence says something; for all others it leaves the choice to the pipeline."""


@dataclass(frozen=True)
class Orders:
    """What a worker is told at its start. receipts: see outputs.py. uploads, results: see places.py. cache: folder of what it
    remembers. private: see logs.py."""

    worker: WorkerSettings = field(default_factory=WorkerSettings)
    media: MediaSettings = field(default_factory=MediaSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    receipts: str = ""
    uploads: str = ""
    results: str = ""
    cache_folder: str = ""
    private: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Orders:
        parts = {"worker": WorkerSettings, "media": MediaSettings, "cache": CacheSettings}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in body.items()})


class Worker:
    """Carries out tasks with the pipeline class that the orders name as 'module:Class'."""

    def __init__(self, answers: BinaryIO, orders: Orders) -> None:
        self._answers = answers
        self._orders = orders
        self._places = Places(Path(orders.uploads), Path(orders.results))
        self._sending = threading.Lock()
        self._cancelled: set[str] = set()
        self._leaving = threading.Event()
        self._gate = Gate()
        self._threads: dict[str, threading.Thread] = {}
        self._composing: Counter[str] = Counter()
        self._loader = Loader(orders, self._gate, lambda model: self._composing[model])
        self._shelf = Shelf(
            self._loader.load,
            most=orders.worker.models,
            keep_alive=orders.worker.keep_alive,
            free=self._loader.free,
            changed=lambda models: self._say({"event": "models", "models": models}),
        )

    def work(self, requests: BinaryIO) -> None:
        """Take orders until the input ends; then leave, whether the tasks have found their end or not."""
        self._say({"event": "ready"})
        threading.Thread(target=self._expire, daemon=True, name="expiry").start()
        with contextlib.suppress(OSError, ValueError):
            while not self._leaving.is_set() and (order := pipe.read(requests)) is not None:
                if order["do"] == "run":
                    job = order["job"]
                    thread = threading.Thread(target=self._carry_out, args=(order,), daemon=True, name=f"job-{job}")
                    self._threads[job] = thread
                    thread.start()
                elif order["do"] == "cancel":
                    self._cancelled.add(order["job"])
                elif order["do"] == "unload":
                    self._shelf.unload(order["model"])
        self._leaving.set()
        end = time.monotonic() + LEAVE_GRACE
        for thread in list(self._threads.values()):
            thread.join(max(0.0, end - time.monotonic()))

    def _expire(self) -> None:
        while not self._leaving.wait(EXPIRY):
            self._shelf.expire()

    def _carry_out(self, task: dict[str, Any]) -> None:
        job = task["job"]
        try:
            self._say({"event": "done", "job": job, "result": self._run(task)})
        except Exception as error:
            if not isinstance(error, VattError):
                print(f"job {job}: {fault(error, private=self._orders.private)}", file=sys.stderr, flush=True)
            if self._loader.is_fault(error):
                # The executor tries again with another process, and says so when that one dies as well.
                sys.stderr.flush()
                os._exit(DEVICE_FAULT)
            self._say({"event": "failed", "job": job, "error": describe(error)})
        finally:
            self._cancelled.discard(job)
            self._threads.pop(job, None)

    def _run(self, task: dict[str, Any]) -> dict[str, Any]:
        job = task["job"]

        def stopped() -> bool:
            return job in self._cancelled or self._leaving.is_set()

        def cancelled() -> bool:
            # Asked between two steps, perhaps by the thread of a job that computes for several.
            turn = current()
            if turn is not None:
                turn.offer()
            return stopped()

        def progress(stage: str, done: int, total: int) -> None:
            self._say({"event": "progress", "job": job, "stage": stage, "done": done, "total": total})

        if stopped():
            raise Cancelled("The job was cancelled before it began.")
        body = dict(task["request"])
        message = messages.REQUESTS[body.pop("type")].from_wire(body)
        assert isinstance(message, messages.Submission)
        asked = message
        message, words = self._places.locate(message, job)
        turn = Turn(self._gate, _rank(message), stopped)

        def carry_out(output: Path | None) -> dict[str, Any]:
            with (
                self._loader.guarded(),
                turn.taken(),
                self._shelf.borrowed(
                    message.model,
                    keep_alive=message.keep_alive,
                    loading=lambda done: progress("load", done, 1),
                    is_full=self._loader.is_full,
                ) as pipeline,
            ):
                request = build_request(message, sys.modules[type(pipeline).__module__], output=output)
                if isinstance(message, messages.Suggest):
                    return dict(pipeline.suggest(request, progress=progress, cancelled=cancelled).to_dict())
                self._composing[message.model] += 1
                try:
                    return dict(pipeline.generate(request, progress=progress, cancelled=cancelled).to_dict())
                finally:
                    self._composing[message.model] -= 1

        with in_words(words):
            return self._with_files(asked, message, job, words, carry_out)

    def _with_files(
        self,
        asked: messages.Submission,
        message: messages.Submission,
        job: str,
        words: dict[str, str],
        carry_out: Callable[[Path | None], dict[str, Any]],
    ) -> dict[str, Any]:
        """Carry out a job whose files, if it makes any, appear all together. asked: the message before `locate`."""
        if not isinstance(message, messages.Generate):
            return carry_out(None)
        places = self._places
        outputs = Outputs(Path(message.output), job, receipts=Path(self._orders.receipts))
        found = outputs.finished()
        if found is not None:
            return places.told(asked, job, found)
        try:
            with outputs.unmentioned():
                made = carry_out(outputs.begin())
            return places.told(asked, job, outputs.publish(made, words=words))
        except BaseException:
            with contextlib.suppress(OSError):
                outputs.discard()
            raise

    def _say(self, body: dict[str, Any]) -> None:
        try:
            with self._sending:
                pipe.write(self._answers, body)
        except OSError:
            self._leaving.set()


class Loader:
    """Makes pipelines, and knows what their errors mean. Imports torch with the first of them."""

    def __init__(self, orders: Orders, gate: Gate, composing: Callable[[str], int]) -> None:
        self._orders = orders
        self._gate = gate
        self._composing = composing
        self._module: Any = None
        self._guard: Any = None
        self._making = threading.Lock()

    def guarded(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, this thread's clips are read in a process of its own, while others may compute."""
        with self._making:
            if self._guard is None:
                self._guard = self._make_guard()
        return cast(contextlib.AbstractContextManager[Any], self._guard.installed())

    def _make_guard(self) -> Any:
        from vatt_core.media.guarded import Guard, GuardLimits
        from vatt_core.media.opening import MediaLimits

        own = self._orders.media
        media = MediaLimits(
            file_bytes=own.file_bytes,
            pixels=own.pixels,
            source_seconds=own.source_seconds,
            decoded_frames=own.decoded_frames,
            sound_seconds=own.source_seconds,
        )
        return Guard(GuardLimits(own.memory, own.cpu_seconds, own.wall_seconds, media), waiting=_away)

    def load(self, model: str) -> Any:
        settings = self._orders.worker
        module, _, name = settings.pipeline.partition(":")
        if settings.threads:
            os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
        kind = getattr(importlib.import_module(module), name)
        self._module = sys.modules.get("vatt_daemon.shared")
        if self._guard is not None and hasattr(kind, "share"):
            self._guard.prepare()
        pipeline = kind.load(model, device=settings.device, **_chosen(settings))
        if hasattr(pipeline, "remember") and self._orders.cache.bytes:
            from vatt_core.cache import Cache

            pipeline.remember(Cache(Path(self._orders.cache_folder) / "clips", limit=self._orders.cache.bytes))
        if hasattr(pipeline, "share"):
            pipeline.share(
                self._gate,
                rows=settings.rows,
                delay=settings.queue_delay,
                on_their_way=lambda: self._composing(model),
            )
        return pipeline

    def free(self) -> None:
        """Give memory back after a model was taken out."""
        if self._module is not None:
            self._module.free_memory()

    def is_full(self, error: Exception) -> bool:
        return self._module is not None and bool(self._module.is_out_of_memory(error))

    def is_fault(self, error: Exception) -> bool:
        return "CUDA error" in str(error) if self._module is None else bool(self._module.is_device_fault(error))


def _chosen(settings: WorkerSettings) -> dict[str, Any]:
    """What the settings say about holding models; nothing where they leave it open, for pipelines that know no options."""
    names = ("precision", "llm_bits", "memory", "codec")
    given = {name: getattr(settings, name) for name in names}
    if given == {name: getattr(WorkerSettings(), name) for name in names}:
        return {}
    from vatt_core.model.plan import LoadOptions

    return {"options": LoadOptions(**given)}


def _away() -> contextlib.AbstractContextManager[Any]:
    turn = current()
    return contextlib.nullcontext() if turn is None else turn.away()


def _rank(message: messages.Submission) -> int:
    if message.priority == "batch":
        return BATCH
    return CAPTIONS if isinstance(message, messages.Suggest) else SOUND


def build_request(message: messages.Submission, module: Any, *, output: Path | None = None) -> Any:
    """The pipeline's own request from a message. What the client left open keeps the pipeline's default.

    module: where the classes of its requests are. output: the folder that it writes to, instead of the message's.
    """
    kind = module.SuggestRequest if isinstance(message, messages.Suggest) else module.GenerateRequest
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {}
    for name, (_, default) in message_fields.rules(type(message)).items():
        value = getattr(message, name)
        if name in _NOT_FOR_THE_PIPELINE or (value is None and name not in _NONE_IS_A_CHOICE):
            continue
        if name not in known and value == default:
            continue
        if name not in known:
            raise BadRequest(f"The model '{message.model}' knows no '{name}'.", field=name)
        if name == "time_map":
            from vatt_core.media.time_map import TimeMap

            value = TimeMap.from_list(value)
        values[name] = Path(value) if name in ("path", "output", "base", "reference") else value
    if output is not None:
        values["output"] = output
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


def main() -> None:
    # Ctrl-C in a terminal reaches the whole group; the daemon decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print: keep the pipes to ourselves, and give them the log instead.
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    orders = pipe.read(requests)
    if orders is not None:
        Worker(answers, Orders.from_dict(orders)).work(requests)
    os._exit(0)


if __name__ == "__main__":
    main()
