"""A pipeline that does what the prompt says: it crashes, hangs, fails or takes its time on demand.

It stands in for vatt_core.pipeline in the worker process of the tests about deaths and cancellations, which no real
model can be asked for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_core import errors

RUNS = Path(os.environ.get("SCRIPTED_RUNS", os.devnull))
"""Where every execution is noted."""


def note(what: str) -> None:
    with RUNS.open("a") as log:
        log.write(f"{os.getpid()} {what}\n")


@dataclass(frozen=True)
class SuggestRequest:
    path: Path
    start: Fraction | None = None
    end: Fraction | None = None
    count: int = 3
    seed: int | None = None


@dataclass(frozen=True)
class GenerateRequest:
    path: Path
    output: Path
    start: Fraction | None = None
    end: Fraction | None = None
    prompt: str = ""
    negative_prompt: str = ""
    takes: int = 1
    seed: int | None = None
    sample_rate: int = 48_000
    bits: int = 24
    loudness: float | None = None
    preview: bool = False


@dataclass(frozen=True)
class Result:
    values: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return self.values


def read(clip: Path) -> str:
    """Read a clip as a real pipeline does, under the guard that the worker has installed."""
    from vatt_core.media.frames import read_frames
    from vatt_core.media.probe import clip_range, probe

    info = probe(clip)
    frames = read_frames(clip, clip_range(info, 0, min(info.duration, Fraction(2))), rate=8, shortest_side=16)
    return "x".join(map(str, frames.shape))


class Pipeline:
    @classmethod
    def load(cls, model: str = "nano", **options: Any) -> Pipeline:
        return cls()

    def suggest(self, request: SuggestRequest, *, progress: Any, cancelled: Any) -> Result:
        progress("captions", 1, 1)
        return Result({"captions": [{"text": f"caption {n}", "score": -float(n)} for n in range(request.count)]})

    def generate(self, request: GenerateRequest, *, progress: Any, cancelled: Any) -> Result:
        request.output.mkdir(parents=True, exist_ok=True)
        what, _, argument = request.prompt.partition(" ")
        if what == "slow-once":  # until it is killed or cancelled, at its first execution; quick at every other
            mark = RUNS.with_name(f"slowed-{argument}")
            what, argument = "slow", "2" if mark.exists() else "100000"
            mark.touch()
        note(request.prompt)
        if what == "crash":
            os._exit(9)
        if what == "crash-once" and not (mark := RUNS.with_name(f"crashed-{argument}")).exists():
            mark.touch()
            os._exit(9)
        if what == "hang":
            time.sleep(3600)
        if what == "fault-once" and not (mark := RUNS.with_name(f"faulted-{argument}")).exists():
            mark.touch()
            raise RuntimeError("CUDA error: device-side assert triggered")
        if what == "error":
            raise getattr(errors, argument)("The clip is not what it says.")
        if what == "bug":
            raise ZeroDivisionError("one by nothing")
        if what == "read":
            return Result({"takes": [], "pid": os.getpid(), "caption": read(request.path)})
        if what == "slow":
            for step in range(int(argument)):
                if cancelled():
                    raise errors.Cancelled("Stopped between two steps.")
                progress("codes", step, int(argument))
                time.sleep(0.05)
        takes = []
        for number in range(request.takes):
            if what == "crash-between" and number and not (mark := RUNS.with_name(f"between-{argument}")).exists():
                mark.touch()
                (request.output / ".vatt-unfinished.part").write_bytes(b"RI")
                os._exit(9)
            if what == "weigh":
                (request.output / f"weight-{request.seed}.bin").write_bytes(bytes(int(argument)))
            wav = request.output / f"{request.path.stem}-{request.seed}-{number}.wav"
            more = os.urandom(int(argument)) if what == "large" else b""
            wav.write_bytes(b"RIFF " + request.prompt.encode() + more)
            takes.append({"wav": str(wav), "sidecar": "", "caption": request.prompt, "seed": request.seed})
        return Result({"takes": takes, "pid": os.getpid()})
