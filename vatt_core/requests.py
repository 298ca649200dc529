"""What a pipeline is asked and what it answers, as plain data. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
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
    """Ask for `takes` soundtracks in `output`. What is None is the model's own choice.

    What shall be heard. prompt: None for the best caption of each shot. prompts, negative_prompts: one per shot instead,
    an empty negative one says nothing. cuts: seconds at which shots change (None: found in the picture, (): none).
    reference: a sound like which it shall be.

    How. preset: of `PRESETS`; what is given beside it wins. guidance_schedule: see decoding. nudge: shift each take to
    where it fits the motion best.

    An earlier take. base: its side-car, or any sound file of the clip's length. region: only these seconds are made
    anew. vary: the share of the codes that is; vary_by "time": evenly over the time, "coarse": the finest codebooks
    first. loop: the end goes on into the beginning (also without a base).

    The files. sample_rate: Hz. bits: 16, 24, or 32 (float). container: "wav" or "flac". channels: 2 is the same sound
    twice. loudness: integrated loudness in LUFS (EBU R128) with true peaks held under true_peak (dBTP); peak: the highest
    true peak instead of the default loudness; both None: as the model made it. fade: milliseconds at both ends. rank: best
    take first. mux: also a copy of the video with the sound. preview: that, and a picture of what was made.
    """

    output: Path = Path()
    prompt: str | None = None
    negative_prompt: str | None = None
    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    cuts: tuple[Fraction, ...] | None = None
    reference: Path | None = None
    takes: int = 1
    seed: int | None = None
    preset: str | None = None
    guidance_scale: float | None = None
    guidance_schedule: str | None = None
    steps: int | None = None
    temperature: float | None = None
    mask_temperature: float | None = None
    top_k: int | None = None
    nudge: bool = False
    base: Path | None = None
    region: tuple[Fraction, Fraction] | None = None
    vary: float | None = None
    vary_by: str = "time"
    loop: bool = False
    sample_rate: int = 48_000
    bits: int = 24
    container: str = "wav"
    channels: int = 1
    loudness: float | None = DEFAULT_LOUDNESS
    peak: float | None = None
    true_peak: float = -1.0
    fade: float = 5.0
    rank: bool = True
    mux: bool = False
    preview: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (least, most) in _RANGES.items():
            _check(name, getattr(self, name), least, most)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (*choices, None):
                raise BadRequest(
                    f"{name} is {getattr(self, name)!r}: choose {' or '.join(map(str, choices))}.", field=name
                )
        if self.bits == 32 and self.container == "flac":
            raise BadRequest("A FLAC holds no 32 bits: choose 16 or 24, or a WAV.", field="bits")
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if text is not None and not text.strip():
                raise BadRequest(f"The {name.replace('_', ' ')} is empty: say what, or leave it out.", field=name)
        for name in ("base", "reference"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.peak is not None and self.loudness not in (None, DEFAULT_LOUDNESS):
            raise BadRequest("A peak sets the level in the place of a loudness: give one of them.", field="peak")
        if self.prompt is not None and self.prompts:
            raise BadRequest("Give one prompt, or one per shot, not both.", field="prompts")
        if any(not text.strip() for text in self.prompts):
            raise BadRequest("The prompt of a shot is empty: say what shall be heard in each.", field="prompts")
        self._check_base()

    @property
    def ceiling(self) -> float | None:
        """dBTP that no peak exceeds; None where the level is left as the model made it."""
        if self.peak is not None:
            return self.peak
        return None if self.loudness is None else self.true_peak

    def _check_base(self) -> None:
        if self.region is not None:
            start, end = self.region
            if not 0 <= start < end:
                raise BadRequest(
                    f"The region from {float(start):g} s to {float(end):g} s is empty: its end has to come after its start.",
                    field="region",
                )
        for name in ("region", "vary"):
            if getattr(self, name) is not None and self.base is None:
                raise BadRequest(f"'{name}' changes an earlier take: name its side-car as 'base'.", field="base")
        if self.base is not None and (self.reference is not None or self.nudge):
            name = "nudge" if self.nudge else "reference"
            raise BadRequest(f"'{name}' is for new takes: leave it out, or the earlier take.", field=name)
        if self.cuts is not None and any(later <= earlier for earlier, later in pairwise((Fraction(0), *self.cuts))):
            raise BadRequest("The cuts have to rise, and to come after the clip's begin.", field="cuts")


@dataclass(frozen=True)
class Suggestion:
    """A caption. score: how much it agrees with all that the model said of the clip (0 to 1), plus
    0.04 for each word that matters; higher is better."""

    text: str
    score: float


@dataclass(frozen=True)
class SuggestResult:
    """captions: best first. seconds: per stage. duration: of the clip, cuts: in it, seconds."""

    captions: tuple[Suggestion, ...]
    model: str
    seed: int
    duration: float
    cuts: tuple[float, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Take:
    """One soundtrack. onsets: seconds in the clip at which sounds begin. loudness: LUFS, None for silence. scores: see
    `vatt_core.scores`."""

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
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerateResult:
    """takes: best first, where they were ranked. caption: what they were made from. seconds: per stage. duration: of the clip,
    cuts: in it, seconds."""

    takes: tuple[Take, ...]
    caption: str
    model: str
    model_hash: str
    duration: float
    cuts: tuple[float, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


PRESETS: dict[str, dict[str, Any]] = {"draft": {"steps_share": 0.35}, "final": {}}
"""Settings by name. draft: a third of the steps, to find out what a prompt does. final: all that the model was tuned for.
steps_share: of the model's own number of steps."""

_RANGES: dict[str, tuple[float, float]] = {
    "takes": (1, 16),
    "seed": (0, MAX_SEED),
    "sample_rate": (8_000, 192_000),
    "guidance_scale": (0.0, 50.0),
    "steps": (1, 200),
    "temperature": (0.01, 20.0),
    "mask_temperature": (0.0, 100.0),
    "top_k": (1, 65_536),
    "vary": (0.0, 1.0),
    "loudness": (-70.0, 0.0),
    "peak": (-60.0, 0.0),
    "true_peak": (-20.0, 0.0),
    "fade": (0.0, 1_000.0),
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "bits": (16, 24, 32),
    "container": ("wav", "flac"),
    "channels": (1, 2),
    "vary_by": ("time", "coarse"),
    "guidance_schedule": ("constant", "rising", "falling"),
    "preset": tuple(PRESETS),
}
_WHOLE = ("count", "takes", "seed", "sample_rate", "steps", "top_k")


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is None:
        return
    kind, called = (int, "a whole number") if name in _WHOLE else (int | float, "a number")
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or not least <= value <= most:
        raise BadRequest(f"{name} is {value}: give {called} from {least:g} to {most:g}.", field=name)
