"""Pictures of a clip in the order in which they are shown, from any instant on."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import cast

import av
import av.container
import av.error
import av.filter

from vatt_core.errors import BadMedia
from vatt_core.media.clock import Clock
from vatt_core.media.opening import DECODING_ERRORS, MediaLimits, PathLike, damaged, open_decoder, open_input
from vatt_core.media.stream import picture_stream

Picture = tuple[Fraction, av.VideoFrame]

_FROM_THE_START = 1  # seconds into the clip up to which seeking is not worth it
_FIRST_FRAME_PACKETS = 2_000  # packets without any picture after which a stream counts as undecodable


def first_frame(container: av.container.InputContainer, stream: av.VideoStream, path: PathLike) -> av.VideoFrame:
    """The first picture that can be decoded. Raises BadMedia where there is none."""
    failure: Exception | None = None
    try:
        for count, packet in enumerate(container.demux(stream)):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                failure, frames = error, []
            if frames:
                return frames[0]
            if count > _FIRST_FRAME_PACKETS:
                break
    except DECODING_ERRORS as error:
        failure = error
    if failure is not None:
        raise damaged(path, failure)
    raise BadMedia(f"{path} holds a video stream without a single frame. Export it again.")


def pictures(path: PathLike, clock: Clock, at: Fraction, limits: MediaLimits) -> Generator[Picture]:
    """(exact seconds, picture) in order, beginning with one at or before `at`, or with the clip's first.

    Seeks to the keyframe before. Damaged packets are passed over, as players do. Raises BadMedia, and what
    open_input raises.
    """
    back = Fraction(0)
    while True:
        origin = None if clock.counted or at - back <= _FROM_THE_START else at - back
        began = False
        for time, frame in _from(path, clock, origin, limits):
            if not began and origin is not None and time > at:
                break  # the seek went too far: keyframes are indexed by decoding time in some containers
            began = True
            yield time, frame
        if began or origin is None:
            return
        back = max(Fraction(1), back * 2)


def _from(path: PathLike, clock: Clock, origin: Fraction | None, limits: MediaLimits) -> Iterator[Picture]:
    """Decode from the keyframe at or before `origin`, from the start of the file where it is None."""
    with open_input(path, limits) as container:
        stream = picture_stream(container, path)
        open_decoder(stream, path, limits)
        earliest: Fraction | None = None
        if origin is not None:
            try:
                container.seek(clock.ticks(origin), stream=stream)
            except av.error.FFmpegError:
                return
        index = 0
        try:
            for packet in container.demux(stream):
                if origin is not None and earliest is None and packet.size:
                    if not packet.is_keyframe or packet.pts is None:
                        continue
                    # Pictures before the keyframe refer to others that were not decoded (open groups of pictures).
                    earliest = clock.seconds(packet.pts)
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    time = clock.time_of(frame, index)
                    index += 1
                    if earliest is None or time >= earliest:
                        yield time, frame
        except DECODING_ERRORS as error:
            raise damaged(path, error) from None


def coded_pictures(path: PathLike, clock: Clock, at: Fraction, limits: MediaLimits) -> Iterator[av.Packet]:
    """Coded pictures in the order of the file, with times, from a keyframe shown at or before `at` on.

    Not necessarily the last such keyframe. Raises BadMedia, and what open_input raises.
    """
    if clock.counted:
        yield from _counted_packets(path, clock, limits)
        return
    back = Fraction(0)
    while True:
        origin = None if at - back <= _FROM_THE_START else at - back
        found = False
        with open_input(path, limits, complete_times=True) as container:
            stream = picture_stream(container, path)
            if origin is not None:
                container.seek(clock.ticks(origin), stream=stream)
            for packet in container.demux(stream):
                if not packet.size or packet.pts is None:
                    continue
                if not found and not packet.is_keyframe:
                    continue
                if not found and origin is not None and clock.seconds(packet.pts) > at:
                    break
                found = True
                yield packet
        if found or origin is None:
            return
        back = max(Fraction(1), back * 2)


def _counted_packets(path: PathLike, clock: Clock, limits: MediaLimits) -> Iterator[av.Packet]:
    """Give times to the packets of a format that stores none: the decoder tells which picture each becomes."""
    shown: dict[int, int] = {}
    with open_input(path, limits) as container:
        stream = picture_stream(container, path)
        open_decoder(stream, path, limits)
        stream.codec_context.copy_opaque = True
        for number, packet in enumerate(container.demux(stream)):
            packet.opaque = number
            for frame in packet.decode():
                shown.setdefault(cast(int, frame.opaque), len(shown))
    delay = max((number - place for number, place in shown.items()), default=0)
    with open_input(path, limits) as container:
        stream = picture_stream(container, path)
        for number, packet in enumerate(container.demux(stream)):
            if number in shown:
                packet.pts = round(shown[number] * clock.frame_duration / clock.tick)
                packet.dts = round((number - delay) * clock.frame_duration / clock.tick)
                yield packet


def deinterlaced(source: Generator[Picture]) -> Generator[Picture]:
    """The same pictures at the same times; from the first interlaced one on, through the bwdif filter."""
    graph: av.filter.Graph | None = None
    shape: tuple[int, int, str] | None = None
    times: deque[Fraction] = deque()
    try:
        for time, frame in source:
            now = (frame.width, frame.height, frame.format.name)
            if graph is not None and now != shape:
                yield from _drain(graph, times)
                graph = None
            if graph is None:
                if not frame.interlaced_frame:
                    yield time, frame
                    continue
                graph, shape = _bwdif(frame), now
            times.append(time)
            graph.vpush(frame)
            yield from _pull(graph, times)
        if graph is not None:
            yield from _drain(graph, times)
    finally:
        source.close()


def _bwdif(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    entry = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
    )
    # One picture out for each one in; pictures that are not interlaced pass untouched.
    filtered = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    entry.link_to(filtered)
    filtered.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _pull(graph: av.filter.Graph, times: deque[Fraction]) -> Iterator[Picture]:
    while times:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield times.popleft(), frame


def _drain(graph: av.filter.Graph, times: deque[Fraction]) -> Iterator[Picture]:
    graph.vpush(None)
    yield from _pull(graph, times)
    times.clear()
