"""`python -m vatt_core.media.reading_process MEMORY CPU_SECONDS`: the process of `guarded`. It answers calls on its
standard input, and ends with it, also in the middle of one."""

from __future__ import annotations

import errno
import importlib
import os
import queue
import sys
import threading
import traceback
from typing import Any, BinaryIO

from vatt_core.errors import BadMedia, LimitsExceeded, VattError
from vatt_core.media.guarded import receive, send

FUNCTIONS = (
    "vatt_core.media.probe:probe",
    "vatt_core.media.frames:read_frames",
    "vatt_core.media.watching:watch",
    "vatt_core.media.waves:read_sound",
    "vatt_core.media.mux:mux_sound",
)
"""All that can be called."""


def serve(memory: int, cpu_seconds: int, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer calls until the input ends. memory: bytes beyond what is taken when everything is loaded."""
    _find(FUNCTIONS[0]), _find(FUNCTIONS[1])  # what nearly every call needs counts as idle
    _limit_memory(memory)
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    while True:
        request = waiting.get()
        _allow_processor_time(cpu_seconds)
        send(answers, _answer(request))


def _find(name: str) -> Any:
    if name not in FUNCTIONS:
        raise ValueError(f"{name} cannot be called here")
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _listen(requests: BinaryIO, waiting: queue.SimpleQueue[dict[str, Any]]) -> None:
    try:
        while (request := receive(requests)) is not None:
            waiting.put(request)
    finally:
        os._exit(0)  # whoever asked is gone


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": _find(request["call"])(*request["arguments"], **request["options"])}
    except Exception as error:
        if _is_out_of_memory(error):
            refused: VattError = LimitsExceeded(
                "Reading this clip takes more memory than is allowed (media.memory in the settings). Export it smaller.",
                setting="media.memory",
            )
        elif isinstance(error, VattError):
            refused = error
        else:
            traceback.print_exc()
            refused = BadMedia(f"The clip cannot be read ({type(error).__name__}: {error}). Copy or export it again.")
    details = {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in refused.details.items()
    }
    return {"error": {"type": type(refused).__name__, "message": refused.message, "details": details}}


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Also where a library's refusal of memory was taken for damage of the file."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit_memory(memory: int) -> None:
    """Bound the address space, where the system can (Linux)."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            idle = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (idle + memory, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):
        return


def _allow_processor_time(seconds: int) -> None:
    """So much for the next call; the system ends the process beyond that."""
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        now = int(used.ru_utime + used.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (now + seconds, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Serve requests from standard input on standard output; the arguments are the limits on memory and processor."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what libraries print goes to the log
    serve(int(sys.argv[1]), int(sys.argv[2]), requests, answers)


if __name__ == "__main__":
    main()
