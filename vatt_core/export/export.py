"""Takes → one folder that an editor opens: the sounds with timecode, and the projects that place them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from vatt_core.media.atomic import write_bytes, writing_error
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

    Raises BadRequest (nothing to export, rate, timecode), ForbiddenPath (a file is there already, or is one of the takes),
    BadMedia, DiskFull, InputNotVisible (a clip is gone).
    """
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        raise BadRequest(f"There is no format '{', '.join(unknown)}'. There are: {', '.join(FORMATS)}.")
    takes = [take for use in uses for take in use.takes]
    if not takes:
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
    with all_or_nothing(folder), _out_of_sight(folder) as hidden:
        new = _NewFiles(folder, hidden, takes, overwrite=options.overwrite)
        sounds: dict[Path, Sound] = {}
        for placement in placed:
            for take in placement.use.takes:
                if "bwf" in options.formats:
                    sounds[take.wav] = _stamp(take, placement, new, options, rate, start, drop_frame)
                else:
                    sounds[take.wav] = Sound(take, take.wav)
        if projects:
            events = [build_event(one, [sounds[take.wav] for take in one.use.takes], rate) for one in placed]
            timeline = Timeline(options.name, rate, start, drop_frame, tuple(events))
            for name in projects:
                suffix, text = PROJECTS[name]
                write_bytes(new.begin(f"{options.name}{suffix}"), text(timeline).encode())
        return [path for path in new.appear() if path.suffix != ".json"]


@contextmanager
def _out_of_sight(folder: Path) -> Iterator[Path]:
    """A hidden folder on the same disk, which goes again with all that is still in it."""
    try:
        hidden = Path(tempfile.mkdtemp(prefix=".vatt-export-", dir=folder))
    except OSError as error:
        raise writing_error(folder, error) from error
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


class _NewFiles:
    """Files that are written in `hidden` and appear in `folder` together. Never in the place of one of the takes, nor,
    without `overwrite`, of any other file."""

    def __init__(self, folder: Path, hidden: Path, takes: Sequence[TakeFile], *, overwrite: bool) -> None:
        self._folder, self._hidden, self._overwrite = folder, hidden, overwrite
        self._takes = {path.resolve() for take in takes for path in (take.wav, take.wav.with_suffix(".json"))}
        self._names: list[str] = []

    def begin(self, name: str) -> Path:
        """Where to write the file `name`. Raises ForbiddenPath, BadRequest."""
        path = self._folder / name
        try:
            there = path.exists()
        except OSError as error:
            raise writing_error(path, error) from error
        if there and path.resolve() in self._takes:
            raise ForbiddenPath(f"{path} is one of the takes that are exported: choose another --output.")
        if there and not (self._overwrite and path.is_file()):
            raise ForbiddenPath(f"{path} is there already: choose another --output or --name, or add --overwrite.")
        self._names.append(name)
        return self._hidden / name

    def free(self, stem: str) -> str:
        """`stem.wav`, or `stem-2.wav`, … where two takes of one export have the same name."""
        number = 1
        while True:
            name = f"{stem}{'' if number == 1 else f'-{number}'}.wav"
            if name not in self._names:
                return name
            number += 1

    def place_of(self, written: Path) -> Path:
        """Where a file that was begun will lie."""
        return self._folder / written.name

    def appear(self) -> list[Path]:
        """Give all files their places, in the order in which they were begun."""
        for name in self._names:
            try:
                os.replace(self._hidden / name, self._folder / name)
            except OSError as error:
                raise writing_error(self._folder / name, error) from error
        return [self._folder / name for name in self._names]


def _stamp(
    take: TakeFile, placement: Placement, new: _NewFiles, options: ExportOptions, rate: Fraction, start: int,
    drop_frame: bool,
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
    name = new.free(take.wav.stem)
    written = new.begin(name)
    identity = str(take.sidecar.get("wav_sha256", ""))[:32]
    stamp(take.wav, written, time_reference=reference, description=take.prompt, reference=identity)
    sidecar = take.sidecar | {
        "wav": name,
        "wav_sha256": content_hash(written),
        "timecode": options.timecode,
        "time_reference": {"samples": reference, **about},
    }
    beside = new.begin(f"{name.removesuffix('.wav')}.json")
    write_bytes(beside, (json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n").encode())
    return Sound(take, new.place_of(written), reference)
