"""A pipeline that does what the clip says, and notes each execution: for thousands of clips, and for clips that fail.

A clip is a text file whose first word decides: 'broken' is no video, 'slow' takes minutes for its first sound and no time
for the next, 'full' finds the disk full until the file named after it exists; everything else is a good clip.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from scripted_pipeline import GenerateRequest, Result, SuggestRequest

from vatt_core import errors

__all__ = ["GenerateRequest", "Pipeline", "SuggestRequest"]

RUNS = Path(os.environ["VATT_TEST_RUNS"])


def note(kind: str, path: Path) -> None:
    with RUNS.open("a", encoding="utf-8") as log:
        log.write(json.dumps([kind, str(path)]) + "\n")


def act(path: Path, cancelled: Any, *, sound: bool) -> str:
    text = path.read_text("utf-8")
    what, _, argument = text.partition(" ")
    if what == "broken":
        raise errors.BadMedia(f"{path} holds no picture that can be decoded.")
    if what == "full" and not Path(argument.strip()).exists():
        raise errors.DiskFull("There is no space left.")
    if what == "slow" and sound and not (mark := RUNS.with_name(f"slowed-{argument.strip()}")).exists():
        mark.touch()
        for _ in range(10_000):
            if cancelled():
                raise errors.Cancelled("Stopped.")
            time.sleep(0.05)
    return text


class Pipeline:
    @classmethod
    def load(cls, model: str = "nano", *, device: str = "auto") -> Pipeline:
        return cls()

    def suggest(self, request: SuggestRequest, *, progress: Any, cancelled: Any) -> Result:
        note("captions", request.path)
        text = act(request.path, cancelled, sound=False)
        captions = [{"text": f"{text[:20]} {n}", "score": -float(n)} for n in range(request.count)]
        return Result({"captions": captions, "seed": request.seed})

    def generate(self, request: GenerateRequest, *, progress: Any, cancelled: Any) -> Result:
        note("sound", request.path)
        text = act(request.path, cancelled, sound=True)
        request.output.mkdir(parents=True, exist_ok=True)
        takes = []
        for number in range(request.takes):
            begin = request.output / f"{request.path.stem}-take-{number + 1}"
            data = f"RIFF {text} {request.prompt} {number}".encode()
            wav, sidecar, copy = (begin.with_name(begin.name + suffix) for suffix in (".wav", ".json", ".mp4"))
            wav.write_bytes(data)
            if request.preview:
                copy.write_bytes(b"muxed " + data)
                begin.with_name(begin.name + ".png").write_bytes(b"png")
            about = {"version": 1, "wav": wav.name, "wav_sha256": hashlib.sha256(data).hexdigest(),
                     "clip": {"path": str(request.path)}, "model": {}, "request": {"prompt": request.prompt}}  # fmt: skip
            sidecar.write_text(json.dumps(about))
            takes.append({"wav": str(wav), "sidecar": str(sidecar), "caption": request.prompt, "seed": request.seed or 0,
                          "muxed": str(copy) if request.preview else None})  # fmt: skip
        return Result({"takes": takes, "caption": request.prompt, "model": "nano", "model_hash": "", "duration": 1.0})
