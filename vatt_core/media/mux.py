"""A copy of the video with the sound in it; the picture is not coded again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.container
import av.error

from vatt_core.errors import BadMedia, BadRequest, VattError
from vatt_core.media.atomic import replacing, writing_error
from vatt_core.media.clock import Clock
from vatt_core.media.decoding import coded_pictures, first_frame
from vatt_core.media.guarded import guardable
from vatt_core.media.opening import DECODING_ERRORS, MediaLimits, PathLike, damaged, open_decoder, open_input
from vatt_core.media.stream import picture_stream
from vatt_core.media.time_map import Seconds, exact_seconds

_MP4_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "vvc"})
_MOV_CODECS = frozenset(
    {"prores", "dnxhd", "mjpeg", "h264", "hevc", "mpeg4", "cfhd", "rawvideo", "qtrle", "png", "v210"}
)
_WEBM_CODECS = frozenset({"vp8", "vp9", "av1"})
_ANY = None
_AAC_BITS_PER_CHANNEL = 128_000
_COARSE = Fraction(1, 2_000)  # seconds; a coarser tick moves pictures visibly off their places
_FINEST = 240_000  # ticks per second


@dataclass(frozen=True)
class _Container:
    """name: the muxer. codecs: pictures it may hold (None: any). sound: the encoder; rates: what that takes."""

    name: str
    codecs: frozenset[str] | None
    sound: str
    rates: tuple[int, ...] | None = None


_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_CONTAINERS = {
    ".mp4": _Container("mp4", _MP4_CODECS, "aac", _AAC_RATES),
    ".m4v": _Container("mp4", _MP4_CODECS, "aac", _AAC_RATES),
    ".mov": _Container("mov", _MOV_CODECS, "pcm_s24le"),
    ".mkv": _Container("matroska", _ANY, "pcm_s24le"),
    ".webm": _Container("webm", _WEBM_CODECS, "libopus", (48_000, 24_000, 16_000, 12_000, 8_000)),
}


def muxed_suffix(video: PathLike, codec: str) -> str:
    """The file extension of a muxed copy: that of `video` where it can hold `codec`, else .mp4, else .mkv."""
    for suffix in (Path(video).suffix.lower(), ".mp4"):
        container = _CONTAINERS.get(suffix)
        if container is not None and (container.codecs is None or codec in container.codecs):
            return suffix
    return ".mkv"


@guardable
def mux_sound(
    video: PathLike,
    sound: PathLike,
    output: PathLike,
    *,
    start: Seconds | None = None,
    end: Seconds | None = None,
    limits: MediaLimits | None = None,
) -> Path:
    """Copy the pictures of `video` and put `sound` under them, its first sample at second `start` of the video.

    sound: any sound file. output: .mp4 and .m4v get AAC, .mov and .mkv 24-bit PCM, .webm Opus; other streams of the
    video (its own sound, subtitles) are left out. start, end: a range in seconds from the first picture.

    Pictures can only be copied from a keyframe on. In .mp4 and .mov the copy holds them from the keyframe before
    `start`, and an edit list makes players begin exactly at `start`. In .mkv and .webm, which have none, the copy
    begins at that keyframe and the sound begins as much later, so both stay together. The copy ends with the first
    pictures at or after `end` in coding order, up to a few frames late.

    Returns the absolute path of the output, which appears complete or not at all. Raises BadRequest (range,
    extension), BadMedia, DiskFull, ForbiddenPath, and what open_input raises.
    """
    limits = limits or MediaLimits()
    begin = Fraction(0) if start is None else exact_seconds(start, "start of the range")
    finish = None if end is None else exact_seconds(end, "end of the range")
    if begin < 0 or (finish is not None and finish <= begin):
        raise BadRequest(
            f"The range from {start} s to {end} s is empty or negative. The end has to come after the start."
        )
    target = Path(output)
    kind = _CONTAINERS.get(target.suffix.lower())
    if kind is None:
        raise BadRequest(f"A video cannot be written as {target.name}. End its name in {', '.join(_CONTAINERS)}.")
    if any(target.absolute() == Path(source).absolute() for source in (video, sound)):
        raise BadRequest(f"{output} is the file that is read. Choose another output file.")
    with open_input(video, limits) as pictures, open_input(sound, limits) as sounds, replacing(output) as temporary:
        stream = picture_stream(pictures, video)
        open_decoder(stream, video, limits)
        clock = Clock.of(pictures, stream, first_frame(pictures, stream, video))
        codec = stream.codec_context.codec.canonical_name
        if kind.codecs is not None and codec not in kind.codecs:
            raise BadRequest(
                f"{target.suffix} holds no {codec} pictures. Name the output {target.stem}{muxed_suffix(video, codec)}."
            )
        if not sounds.streams.audio:
            raise BadMedia(f"{sound} holds no sound. Name a file with a sound track.")
        try:
            source = coded_pictures(video, clock, begin, limits)
            packets = _picture_packets(source, clock, begin, finish)
            _write(packets, stream, sounds, temporary, kind, _fine_tick(clock))
        except VattError:
            raise
        except DECODING_ERRORS as error:
            number = getattr(error, "errno", None)
            if isinstance(error, OSError) or number in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
                raise writing_error(output, OSError(number, str(error))) from error
            raise damaged(video, error) from error
    return target.expanduser().absolute()


def _write(
    pictures: Iterator[av.Packet],
    stream: av.VideoStream,
    sounds: av.container.InputContainer,
    temporary: Path,
    kind: _Container,
    tick: Fraction | None,
) -> None:
    """Write both streams, interleaved by time."""
    heard = sounds.streams.audio[0]
    rate = heard.codec_context.sample_rate
    if kind.rates and rate not in kind.rates:
        rate = 48_000
    with av.open(os.fspath(temporary), "w", format=kind.name) as target:
        picture_track = target.add_stream_from_template(stream)
        if tick is not None:
            picture_track.time_base = tick
        layout = heard.codec_context.layout
        # A plain WAV tells how many channels it has, not which: then the usual ones are meant.
        name = f"{layout.nb_channels}c" if layout.name.endswith("channels") else layout.name
        sound_track = cast(av.AudioStream, target.add_stream(kind.sound, rate=rate, layout=name))
        if kind.sound == "aac":
            sound_track.codec_context.bit_rate = _AAC_BITS_PER_CHANNEL * layout.nb_channels
        sound_packets = _sound_packets(sounds, heard, sound_track)
        waiting = next(sound_packets, None)
        for packet in pictures:
            time = packet.dts if packet.dts is not None else packet.pts
            while waiting is not None and (time is None or _seconds(waiting) <= time * packet.time_base):
                target.mux(waiting)
                waiting = next(sound_packets, None)
            packet.stream = picture_track
            target.mux(packet)
        while waiting is not None:
            target.mux(waiting)
            waiting = next(sound_packets, None)


def _seconds(packet: av.Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _sound_packets(
    sounds: av.container.InputContainer, heard: av.AudioStream, track: av.AudioStream
) -> Iterator[av.Packet]:
    position = 0
    for frame in sounds.decode(heard):
        frame.pts, frame.time_base = position, Fraction(1, frame.sample_rate)
        position += frame.samples
        yield from track.encode(frame)
    yield from track.encode(None)


def _picture_packets(
    packets: Iterator[av.Packet], clock: Clock, begin: Fraction, finish: Fraction | None
) -> Iterator[av.Packet]:
    """Packets from the keyframe at or before `begin` to `finish`, with times that make `begin` zero."""
    early: list[av.Packet] = []
    place: _Place | None = None
    for packet in packets:
        coded = clock.seconds(_pts(packet) if packet.dts is None else packet.dts)
        if place is None:
            early.append(packet)
            if coded >= begin:  # no later packet is shown before this one
                place = _Place.of(early, clock, begin)
                yield from map(place.put, _from_keyframe(early, clock, begin))
        elif finish is not None and coded >= finish:
            return
        else:
            yield place.put(packet)
    if place is None:
        if not any(clock.end_of(_pts(packet), packet.duration) > begin for packet in early):
            raise BadRequest(f"The video has no pictures at {float(begin):g} s. Choose an earlier start.")
        yield from map(_Place.of(early, clock, begin).put, _from_keyframe(early, clock, begin))


def _pts(packet: av.Packet) -> int:
    assert packet.pts is not None  # coded_pictures gives none without
    return packet.pts


def _from_keyframe(packets: list[av.Packet], clock: Clock, begin: Fraction) -> list[av.Packet]:
    """From the last keyframe at or before `begin`, without the pictures that are shown before it but coded after."""
    keys = [n for n, packet in enumerate(packets) if packet.is_keyframe and clock.seconds(_pts(packet)) <= begin]
    chosen = packets[keys[-1] if keys else 0 :]
    return [packet for packet in chosen if _pts(packet) >= _pts(chosen[0])]


@dataclass(frozen=True)
class _Place:
    """Where packets go on the output's clock. zero: the source tick that becomes 0; fine: ticks to write, or None."""

    clock: Clock
    begin: Fraction
    zero: int
    fine: Fraction | None

    @classmethod
    def of(cls, packets: list[av.Packet], clock: Clock, begin: Fraction) -> _Place:
        # A picture exactly at `begin` gives the zero: the container's rounding must not push it before the start.
        exact = (_pts(packet) for packet in packets if clock.seconds(_pts(packet)) == begin)
        zero = next(exact, round((begin + clock.start) / clock.tick))
        return cls(clock, begin, zero, _fine_tick(clock))

    def put(self, packet: av.Packet) -> av.Packet:
        if self.fine is None:
            packet.pts = _pts(packet) - self.zero
            packet.dts = None if packet.dts is None else packet.dts - self.zero
        else:
            times = [
                None if ticks is None else round((self.clock.seconds(ticks) - self.begin) / self.fine)
                for ticks in (packet.pts, packet.dts)
            ]
            packet.time_base = self.fine
            packet.pts, packet.dts = times
        return packet


def _fine_tick(clock: Clock) -> Fraction | None:
    """Ticks that hold the exact places of pictures whose container rounded them to milliseconds, else None."""
    numerator = clock.rate.numerator
    if clock.tick < _COARSE or numerator > _FINEST:
        return None
    return Fraction(1, numerator * max(1, _FINEST // 10 // numerator))
