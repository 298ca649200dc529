"""What a pipeline is asked and what it answers, as plain data. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_core.errors import BadRequest
from vatt_core.media.time_map import TimeMap

MAX_SEED = 2**53 - 1

DEFAULT_LOUDNESS = -23.0
"""LUFS, the programme loudness of EBU R128."""


@dataclass(frozen=True)
class ClipRequest:
    """The clip that is meant. start, end: seconds from its first picture (None: its begin, its end). time_map: timeline
    seconds to source seconds, for clips that an editor has slowed, frozen or reversed; it replaces start and end.
    """

    path: Path
    start: Fraction | None = None
    end: Fraction | None = None
    time_map: TimeMap | None = None

    def __post_init__(self) -> None:
        if self.time_map is not None and (self.start is not None or self.end is not None):
            raise BadRequest("A time map already says the range: leave start and end out.", field="time_map")


@dataclass(frozen=True)
class SuggestRequest(ClipRequest):
    """Ask for `count` different captions. temperature: boldness of the wording (None: the model's own)."""

    count: int = 3
    seed: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("count", self.count, 1, 16)
        _check("seed", self.seed, 0, MAX_SEED)
        _check("temperature", self.temperature, 0.01, 5.0)


@dataclass(frozen=True)
class GenerateRequest(ClipRequest):
    """Ask for `takes` soundtracks in `output`. prompt None: the best caption. What is None is the model's own setting.

    sample_rate: Hz of the files. bits: 16, 24, or 32 (float). loudness: integrated loudness in LUFS (EBU R128), None: as
    the model made it.
    preview: also a picture of what was made and a copy of the video with the sound.
    """

    output: Path = Path()
    prompt: str | None = None
    negative_prompt: str | None = None
    takes: int = 1
    seed: int | None = None
    sample_rate: int = 48_000
    bits: int = 24
    guidance_scale: float | None = None
    steps: int | None = None
    temperature: float | None = None
    mask_temperature: float | None = None
    top_k: int | None = None
    loudness: float | None = DEFAULT_LOUDNESS
    preview: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("takes", self.takes, 1, 16)
        _check("seed", self.seed, 0, MAX_SEED)
        _check("sample_rate", self.sample_rate, 8_000, 192_000)
        _check("guidance_scale", self.guidance_scale, 0.0, 50.0)
        _check("steps", self.steps, 1, 200)
        _check("temperature", self.temperature, 0.01, 20.0)
        _check("mask_temperature", self.mask_temperature, 0.0, 100.0)
        _check("top_k", self.top_k, 1, 65_536)
        _check("loudness", self.loudness, -70.0, 0.0)
        if self.bits not in (16, 24, 32):
            raise BadRequest(f"A WAV of {self.bits} bits cannot be written: choose 16, 24 or 32.", field="bits")
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if text is not None and not text.strip():
                raise BadRequest(f"The {name.replace('_', ' ')} is empty: say what, or leave it out.", field=name)


@dataclass(frozen=True)
class Suggestion:
    """A caption. score: log-likelihood of the whole text under the model; higher is surer."""

    text: str
    score: float


@dataclass(frozen=True)
class SuggestResult:
    """captions: best first. seconds: per stage. duration: of the clip, seconds."""

    captions: tuple[Suggestion, ...]
    model: str
    seed: int
    duration: float
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Take:
    """One soundtrack. onsets: seconds in the clip at which sounds begin. loudness: LUFS, None for silence."""

    wav: str
    sidecar: str
    caption: str
    seed: int
    samples: int
    sample_rate: int
    onsets: tuple[float, ...]
    loudness: float | None
    preview: str | None = None
    muxed: str | None = None


@dataclass(frozen=True)
class GenerateResult:
    takes: tuple[Take, ...]
    caption: str
    model: str
    model_hash: str
    duration: float
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_WHOLE = ("count", "takes", "seed", "sample_rate", "steps", "top_k")


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is None:
        return
    kind, called = (int, "a whole number") if name in _WHOLE else (int | float, "a number")
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or not least <= value <= most:
        raise BadRequest(f"{name} is {value}: give {called} from {least:g} to {most:g}.", field=name)
