"""From side-cars on disk to what they are about: which part of which clip, and the takes made for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_core.errors import BadRequest, InputNotVisible, VattError
from vatt_core.export.broadcast import WaveFacts, wave_facts
from vatt_core.media.time_map import TimeMap
from vatt_core.sidecar import read_sidecar


@dataclass(frozen=True)
class Caption:
    """A text about a clip. score: higher is better, None where it was given by the user."""

    text: str
    score: float | None = None


@dataclass(frozen=True)
class TakeFile:
    """A finished take. wav: its file. sidecar: what the JSON beside it holds. suggested: captions that it names."""

    wav: Path
    sidecar: dict[str, Any]
    facts: WaveFacts
    suggested: tuple[Caption, ...] = ()

    @property
    def prompt(self) -> str:
        """What it was made from; the caption of all shots where each had words of its own."""
        return str(self.sidecar["request"]["prompt"] or self.sidecar["caption"])


@dataclass
class ClipUse:
    """A part of a clip and its takes. frame_rate and timecode ("hh:mm:ss:ff" of the first picture, or None): the clip's."""

    clip: Path
    time_map: TimeMap
    frame_rate: Fraction
    timecode: str | None
    takes: list[TakeFile] = field(default_factory=list)

    @property
    def source_start(self) -> Fraction:
        """Second of the clip at which the sound begins."""
        return self.time_map.source_at(0)

    @property
    def duration(self) -> Fraction:
        """Seconds on the timeline."""
        return self.time_map.duration

    @property
    def at_own_speed(self) -> bool:
        points = self.time_map.points
        return all(t1 - t0 == s1 - s0 for (t0, s0), (t1, s1) in itertools.pairwise(points))

    @property
    def captions(self) -> list[Caption]:
        """The prompts of the takes, then other captions that were suggested, each once."""
        found = {take.prompt: Caption(take.prompt) for take in self.takes}
        for take in self.takes:
            for caption in take.suggested:
                if caption.text not in found or found[caption.text].score is None:
                    found[caption.text] = caption
        return list(found.values())


def collect_takes(paths: Sequence[Path]) -> list[ClipUse]:
    """Clip uses, in the order in which they are named: WAVs of takes, their side-cars, or folders of them.

    Raises InputNotVisible where something is not there or a folder holds no take, BadRequest and BadMedia for files
    that are none.
    """
    uses: dict[tuple[str, tuple[Any, ...]], ClipUse] = {}
    for path in paths:
        for sidecar_file in _sidecar_files(path.expanduser().absolute()):
            take, use = _read(sidecar_file)
            key = (str(use.clip), use.time_map.points)
            known = uses.setdefault(key, use)
            if all(other.wav != take.wav for other in known.takes):
                known.takes.append(take)
    return list(uses.values())


def _sidecar_files(path: Path) -> list[Path]:
    if path.is_dir():
        found = []
        for file in sorted(path.glob("*.json")):
            try:
                read_sidecar(file)
            except VattError:
                continue  # some other JSON file
            found.append(file)
        if not found:
            raise InputNotVisible(f"The folder {path} holds no takes (no side-cars). Name WAVs or their folder.")
        return found
    if path.suffix.lower() == ".json":
        return [path]
    if not path.exists():
        raise InputNotVisible(f"There is no file {path}. Name the WAV of a take, its side-car, or a folder of them.")
    sidecar = path.with_suffix(".json")
    if not sidecar.exists():
        raise InputNotVisible(f"{path} has no side-car beside it ({sidecar.name}), so its clip is not known.")
    return [sidecar]


def _read(file: Path) -> tuple[TakeFile, ClipUse]:
    sidecar = read_sidecar(file)
    try:
        clip, request = sidecar["clip"], sidecar["request"]
        wav = file.with_name(str(sidecar["wav"]))
        use = ClipUse(
            clip=Path(clip["path"]),
            time_map=TimeMap.from_list(clip["time_map"]),
            frame_rate=Fraction(clip["frame_rate"]),
            timecode=clip["timecode"],
        )
        suggested = tuple(Caption(str(one["text"]), float(one["score"])) for one in sidecar.get("captions", ()))
        texts = (request["prompt"] or sidecar["caption"], use.timecode or "")
        if not all(isinstance(text, str) for text in texts) or "seed" not in request:
            raise ValueError("prompt, seed or timecode")
        take = TakeFile(wav, sidecar, wave_facts(wav), suggested)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadRequest(f"The side-car {file} is damaged ({type(error).__name__}: {error}).") from error
    return take, use
