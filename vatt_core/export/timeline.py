"""The timeline that is handed over: clip uses one after the other, their takes as tracks below, all in whole frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vatt_core.errors import BadRequest
from vatt_core.export.results import Caption, ClipUse, TakeFile
from vatt_core.media.probe import ClipInfo, probe
from vatt_core.media.timecode import timecode_frames


@dataclass(frozen=True)
class Sound:
    """A take on the timeline. path: its file. time_reference: samples from midnight that the file itself carries, 0
    where it carries none."""

    take: TakeFile
    path: Path
    time_reference: int = 0


@dataclass(frozen=True)
class Event:
    """A clip use on the timeline. start, frames: in the timeline's frames, from its begin. source_start: in the
    timeline's frames, from the clip's first picture, whose timecode is `timecode` (None: it has none). sounds: one for
    each take."""

    name: str
    clip: ClipInfo
    start: int
    frames: int
    source_start: int
    timecode: str | None
    sounds: tuple[Sound, ...]
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Timeline:
    """rate: frames per second. start_frame: the frame count at its begin (from midnight). drop_frame: how its timecode
    is counted."""

    name: str
    rate: Fraction
    start_frame: int
    drop_frame: bool
    events: tuple[Event, ...]

    @property
    def frames(self) -> int:
        return max((event.start + event.frames for event in self.events), default=0)

    @property
    def tracks(self) -> int:
        """How many tracks the takes need."""
        return max((len(event.sounds) for event in self.events), default=0)


@dataclass(frozen=True)
class Placement:
    """Where a clip use begins on the timeline, before its sounds are written. Frames from the timeline's begin."""

    use: ClipUse
    start: int
    frames: int


def place(uses: Sequence[ClipUse], rate: Fraction) -> list[Placement]:
    """One after the other, each on a frame. A use that is no whole number of frames long is followed by a short gap."""
    placed, at = [], 0
    for use in uses:
        frames = max(1, math.ceil(use.duration * rate))
        placed.append(Placement(use, at, frames))
        at += frames
    return placed


def start_of(timecode: str, rate: Fraction) -> tuple[int, bool]:
    """(frames from midnight, drop-frame?) of the timecode at which a timeline begins. Raises BadRequest."""
    return timecode_frames(timecode, rate), timecode.strip()[-3] in ";.,"


def build_event(placement: Placement, sounds: Sequence[Sound], rate: Fraction) -> Event:
    """The event of a placed clip use. Probes the clip.

    Raises BadRequest for a retimed one, and what `probe` raises.
    """
    use = placement.use
    if not use.at_own_speed:
        raise BadRequest(
            f"The sound for {use.clip.name} was made for a retimed clip, which a timeline of this kind cannot show: "
            "export it with '--format bwf' alone."
        )
    return Event(
        name=use.clip.name,
        clip=probe(use.clip),
        start=placement.start,
        frames=placement.frames,
        source_start=round(use.source_start * rate),
        timecode=use.timecode,
        sounds=tuple(sounds),
        captions=tuple(use.captions),
    )


def timecode_text(frames: int, rate: Fraction, *, drop_frame: bool) -> str:
    """Frames from midnight as "hh:mm:ss:ff", or "hh:mm:ss;ff" in drop-frame counting. After 24 h it begins anew."""
    counted = round(rate)
    if drop_frame:
        left_out = counted // 15
        tens, rest = divmod(frames, 600 * counted - 9 * left_out)
        frames += 9 * left_out * tens
        if rest >= 60 * counted:
            frames += left_out * ((rest - 60 * counted) // (60 * counted - left_out) + 1)
    seconds, frame = divmod(frames, counted)
    separator = ";" if drop_frame else ":"
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{frame:02}"
