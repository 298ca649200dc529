"""What a clip is, before anybody decodes it: length, rate, size, sound, and everything that may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error

from vatt_core.errors import BadMedia, BadRequest, VattError
from vatt_core.media.clock import Clock
from vatt_core.media.completeness import missing_bytes
from vatt_core.media.decoding import first_frame
from vatt_core.media.guarded import guardable
from vatt_core.media.opening import (
    DECODING_ERRORS,
    MediaLimits,
    PathLike,
    damaged,
    existing_file,
    open_decoder,
    open_input,
    still_picture,
)
from vatt_core.media.stream import frame_orientation, picture_stream, shown_size
from vatt_core.media.time_map import Seconds, TimeMap, exact_seconds

_TAIL = 2  # seconds before the declared end from which packets are looked at
_SLACK = Fraction(1, 2)  # seconds by which a declared length may differ from what is there


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is. Times are exact seconds, relative to the first picture unless said otherwise.

    duration: from the first picture to the end of the last. frame_rate: the average, where the rate varies.
    frames: how many pictures are stored, where the container says so. width, height: of the stored picture, before
    rotation and pixel aspect (see shown_size). rotation: degrees clockwise that turn it upright. start: the first
    picture's time on the container's own clock. timecode: of the first picture, as "hh:mm:ss:ff". partial: the file
    ends before it says it does; duration is then what is there.
    """

    path: Path
    duration: Fraction
    frame_rate: Fraction
    frames: int | None
    width: int
    height: int
    rotation: int
    start: Fraction
    has_audio: bool
    codec: str
    pixel_format: str
    timecode: str | None = None
    container: str = ""
    pixel_aspect: Fraction = Fraction(1)
    interlaced: bool = False
    partial: bool = False

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) on a screen: square pixels, upright."""
        return shown_size(self.width, self.height, self.pixel_aspect, quarter=self.rotation % 180 == 90)


@guardable
def probe(path: PathLike, *, allow_partial: bool = False, limits: MediaLimits | None = None) -> ClipInfo:
    """Look at a clip: opens it, decodes its first picture and reads its last packets.

    allow_partial: describe a truncated file by what is there (`partial`) instead of raising BadMedia. An MPEG
    transport stream states no length: where it was cut between two packets it is taken as a shorter clip.

    Raises InputNotVisible (no such file, a directory), ForbiddenPath (no right to read), BadMedia (no video, still
    picture, no frames, damaged, truncated, a list of other files), LimitsExceeded (see MediaLimits), BadRequest.
    """
    limits = limits or MediaLimits()
    found = existing_file(path, limits)
    missing = missing_bytes(found)
    try:
        info = _probe(found, path, limits, missing)
    except BadMedia as error:
        if missing:
            raise _truncated(path, missing) from error
        raise
    if info.partial and not allow_partial:
        raise _truncated(path, missing or f"its pictures end after {float(info.duration):.2f} s")
    return info


def _truncated(path: PathLike, missing: str) -> BadMedia:
    return BadMedia(f"{path} is truncated: {missing}. Copy or export it again.", path=str(path))


def _probe(found: Path, path: PathLike, limits: MediaLimits, missing: str | None) -> ClipInfo:
    with open_input(path, limits) as container:
        stream = picture_stream(container, path)
        open_decoder(stream, path, limits)
        try:
            first = first_frame(container, stream, path)
            clock = Clock.of(container, stream, first)
            end, everything = _ends(container, stream, clock)
        except VattError:
            raise
        except DECODING_ERRORS as error:
            raise damaged(path, error) from None
        if end is None:
            end = clock.time_of(first, 0) + clock.frame_duration
        declared = Fraction(container.duration, av.time_base) if container.duration else None
        # Transport streams have no declared length; the library derives it from the last packets.
        short = declared is not None and everything is not None and everything + _SLACK < declared
        orientation = frame_orientation(first)
        decoder = stream.codec_context
        info = ClipInfo(
            path=found,
            duration=end,
            frame_rate=clock.rate,
            frames=_frames(stream),
            width=first.width,
            height=first.height,
            rotation=orientation.rotation,
            start=clock.start,
            has_audio=bool(container.streams.audio),
            codec=decoder.codec.canonical_name if decoder.codec else decoder.name,
            pixel_format=first.format.name,
            timecode=_timecode(container, stream),
            container=container.format.name,
            pixel_aspect=Fraction(stream.sample_aspect_ratio or 1),
            interlaced=first.interlaced_frame,
            partial=bool(missing) or short,
        )
    if info.frames == 1 and info.codec in ("png", "mjpeg", "gif", "webp", "apng", "bmp", "tiff"):
        raise still_picture(path)
    return info


def _ends(
    container: av.container.InputContainer, stream: av.VideoStream, clock: Clock
) -> tuple[Fraction | None, Fraction | None]:
    """Seconds at which the pictures end (from the first one), and the whole file (from the container's start)."""
    if clock.counted:
        frames = stream.frames or stream.duration or 0
        return (frames / clock.rate if frames else None), None
    begin = Fraction(container.start_time or 0, av.time_base)
    target = clock.start
    if container.duration:
        target = max(target, begin + Fraction(container.duration, av.time_base) - _TAIL)
    for attempt in (target, clock.start):
        try:
            container.seek(int(attempt / clock.tick), stream=stream)
        except av.error.FFmpegError:
            container.seek(0)
        pictures: Fraction | None = None
        everything: Fraction | None = None
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or packet.time_base is None or not packet.size:
                continue
            own = packet.stream_index == stream.index
            if own and not packet.is_discard:
                pictures = max(pictures or Fraction(0), clock.end_of(stamp, packet.duration))
            end = (stamp + (packet.duration or 0)) * packet.time_base - begin
            everything = end if everything is None else max(everything, end)
        if pictures is not None:
            return pictures, everything
    return None, None


def _frames(stream: av.VideoStream) -> int | None:
    if not stream.frames:
        return None
    entries = stream.index_entries
    if len(entries) == stream.frames:  # an edit list may hide some of them
        return sum(not entry.is_discard for entry in entries)
    return stream.frames


def _timecode(container: av.container.InputContainer, stream: av.VideoStream) -> str | None:
    for holder in (stream, container, *container.streams):
        timecode = holder.metadata.get("timecode")
        if timecode:
            return timecode
    return None


def clip_range(info: ClipInfo, start: Seconds | None = None, end: Seconds | None = None) -> TimeMap:
    """The range of a clip that a user asked for, in seconds from its first picture, as a time map.

    An end that overshoots by less than one frame (rounded numbers of an editor) becomes the clip's end.
    Raises BadRequest for what is no number, negative, empty or outside the clip.
    """
    first = Fraction(0) if start is None else exact_seconds(start, "start of the range")
    last = info.duration if end is None else exact_seconds(end, "end of the range")
    length = f"{info.path.name} lasts {float(info.duration):.3f} s"
    if first < 0 or last < 0:
        raise BadRequest(
            f"The range {float(first):g} s to {float(last):g} s is negative; {length}, from 0.",
            field="start" if first < 0 else "end",
        )
    if info.duration < last < info.duration + 1 / info.frame_rate:
        last = info.duration
    if first >= info.duration:
        raise BadRequest(f"The range begins at {float(first):g} s, but {length}: begin earlier.", field="start")
    if last > info.duration:
        raise BadRequest(
            f"The range {float(first):g} s to {float(last):g} s lies outside the clip: {length}.", field="end"
        )
    if last <= first:
        raise BadRequest(
            f"The range {float(first):g} s to {float(last):g} s is empty: the end has to be after the start.",
            field="end",
        )
    return TimeMap.identity(first, last)
