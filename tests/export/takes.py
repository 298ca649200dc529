"""Takes as the pipeline writes them, whose sound is a click: for the tests that hand them over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vatt_core.files import content_hash
from vatt_core.media.time_map import TimeMap
from vatt_core.media.waves import write_wave

RATE = 48_000


def click(samples: int, at: float) -> np.ndarray:
    """Silence with a click of 20 ms from second `at` on."""
    wave = np.zeros(samples, np.float32)
    begin = round(at * RATE)
    wave[begin : begin + RATE // 50] = 0.7
    return wave


def make_take(
    folder: Path, clip: Path, *, name: str, time_map: TimeMap, frame_rate: str, at: float = 0.5,
    timecode: str | None = None, prompt: str = "rain on a roof", captions: Sequence[dict[str, Any]] = (),
) -> Path:  # fmt: skip
    """A WAV and a side-car as the pipeline writes them."""
    wav = write_wave(folder / f"{name}.wav", click(round(time_map.duration * RATE), at), sample_rate=RATE)
    sidecar = {
        "version": 1, "wav": wav.name, "wav_sha256": content_hash(wav), "timecode": None,
        "clip": {"path": str(clip), "fingerprint": "", "source_range": [str(s) for s in time_map.source_range],
                 "time_map": time_map.to_list(), "frame_rate": frame_rate, "timecode": timecode},
        "model": {"name": "nano", "hash": "0", "device": "cpu"}, "request": {"prompt": prompt, "seed": 1},
        "captions": list(captions),
    }  # fmt: skip
    wav.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    return wav
