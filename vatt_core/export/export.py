"""Takes → one folder that an editor opens: the sounds with timecode, and the projects that place them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from vatt_core.errors import BadRequest, ForbiddenPath
from vatt_core.export.broadcast import stamp
from vatt_core.export.fcp7 import fcp7_text
from vatt_core.export.mlt import mlt_text
from vatt_core.export.otio import otio_text
from vatt_core.export.results import ClipUse, TakeFile
from vatt_core.export.timeline import Placement, Sound, Timeline, build_event, place, start_of, timecode_text
from vatt_core.files import all_or_nothing, content_hash
from vatt_core.media.atomic import write_bytes
from vatt_core.media.timecode import time_reference

Timecode = Literal["timeline", "source"]

PROJECTS: dict[str, tuple[str, Callable[[Timeline], str]]] = {
    "otio": (".otio", otio_text),
    "fcp7": (".xml", fcp7_text),
    "mlt": (".mlt", mlt_text),
}
FORMATS = ("bwf", *PROJECTS)


@dataclass(frozen=True)
class ExportOptions:
    """name: of the timeline and its files. timecode: which one the Broadcast WAVs carry. start: timecode at which the
    timeline begins. rate: its frames per second, None: those of the first clip."""

    name: str = "vatt"
    formats: tuple[str, ...] = FORMATS
    timecode: Timecode = "timeline"
    start: str = "00:00:00:00"
    rate: Fraction | None = None
    overwrite: bool = False


def write_export(uses: Sequence[ClipUse], folder: Path, options: ExportOptions) -> list[Path]:
    """Write what was asked for into `folder`, all of it or nothing. Returns the files: sounds, then projects.

    Raises BadRequest (nothing to export, rate, timecode), ForbiddenPath (a file is there already), BadMedia, DiskFull,
    InputNotVisible (a clip is gone).
    """
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        raise BadRequest(f"There is no format '{', '.join(unknown)}'. There are: {', '.join(FORMATS)}.")
    if not any(use.takes for use in uses):
        raise BadRequest("There is nothing to export: name takes.")
    rate = options.rate or uses[0].frame_rate
    if not 1 <= rate <= 1000:
        raise BadRequest(
            f"A timeline of {float(rate):g} frames per second cannot be written: name its rate with --fps."
        )
    start, drop_frame = start_of(options.start, rate)
    placed = place(uses, rate)
    folder = folder.expanduser().absolute()
    projects = [name for name in options.formats if name in PROJECTS]
    with all_or_nothing(folder) as written:
        begin = _Beginner(written, overwrite=options.overwrite)
        sounds: dict[Path, Sound] = {}
        for placement in placed:
            for take in placement.use.takes:
                if "bwf" in options.formats:
                    sounds[take.wav] = _stamp(take, placement, folder, begin, options, rate, start, drop_frame)
                else:
                    sounds[take.wav] = Sound(take, take.wav)
        if projects:
            events = [build_event(one, [sounds[take.wav] for take in one.use.takes], rate) for one in placed]
            timeline = Timeline(options.name, rate, start, drop_frame, tuple(events))
            for name in projects:
                suffix, text = PROJECTS[name]
                write_bytes(begin(folder / f"{options.name}{suffix}"), text(timeline).encode())
        return [path for path in written if path.suffix != ".json"]


class _Beginner:
    """Notes each file before it is begun, and refuses those that are there already."""

    def __init__(self, written: list[Path], *, overwrite: bool) -> None:
        self._written = written
        self._overwrite = overwrite

    def __call__(self, path: Path) -> Path:
        if path.exists() and not self._overwrite:
            raise ForbiddenPath(f"{path} is there already: choose another --output or --name, or add --overwrite.")
        self._written.append(path)
        return path

    def free(self, folder: Path, name: str) -> Path:
        """`name.wav`, or `name-2.wav`, … where two takes of one export have the same name."""
        number = 1
        while True:
            path = folder / f"{name}{'' if number == 1 else f'-{number}'}.wav"
            if path not in self._written:
                return self(path)
            number += 1


def _stamp(
    take: TakeFile, placement: Placement, folder: Path, begin: _Beginner, options: ExportOptions, rate: Fraction,
    start: int, drop_frame: bool,
) -> Sound:  # fmt: skip
    use = placement.use
    samples = take.facts.sample_rate
    if options.timecode == "timeline":
        frame = start + placement.start
        reference = round(frame / rate * samples)
        about: dict[str, Any] = {"start": timecode_text(frame, rate, drop_frame=drop_frame), "frame_rate": str(rate)}
    elif use.timecode is not None:
        reference = time_reference(use.timecode, frame_rate=use.frame_rate, sample_rate=samples, after=use.source_start)
        about = {"start": use.timecode, "after_seconds": str(use.source_start), "frame_rate": str(use.frame_rate)}
    else:
        # A clip without a timecode counts from its first picture.
        reference = round(use.source_start * samples)
        about = {"start": "00:00:00:00", "after_seconds": str(use.source_start), "frame_rate": str(use.frame_rate)}
    # A day of samples is where the count begins anew.
    reference %= 86_400 * samples
    path = begin.free(folder, take.wav.stem)
    identity = str(take.sidecar.get("wav_sha256", ""))[:32]
    stamp(take.wav, path, time_reference=reference, description=take.prompt, reference=identity)
    sidecar = take.sidecar | {
        "wav": path.name,
        "wav_sha256": content_hash(path),
        "timecode": options.timecode,
        "time_reference": {"samples": reference, **about},
    }
    write_bytes(begin(path.with_suffix(".json")), (json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n").encode())
    return Sound(take, path, reference)
