"""Frames of a clip at the model's rate, chosen by timestamp in exact fractions.

The frame for instant k is the last one whose presentation time is at or before `time_map.source_at(k / rate)`, which
is what a player shows there. Before the first frame it is the first, past the last frame it is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from vatt_core.errors import BadMedia, BadRequest, Cancelled, LimitsExceeded
from vatt_core.media.clock import Clock
from vatt_core.media.decoding import deinterlaced, first_frame, pictures
from vatt_core.media.guarded import guardable
from vatt_core.media.opening import MediaLimits, PathLike, open_decoder, open_input
from vatt_core.media.pixels import PictureConverter
from vatt_core.media.stream import frame_orientation, picture_stream, shown_size
from vatt_core.media.time_map import TimeMap

_WORTH_A_SEEK = 8  # seconds of unneeded pictures that are cheaper to decode than to jump over
_LARGEST_SIDE = 16_384

Wanted = tuple[Fraction, int]


@guardable
def read_frames(
    path: PathLike,
    time_map: TimeMap,
    *,
    rate: Fraction | int,
    size: tuple[int, int] | None = None,
    shortest_side: int | None = None,
    limits: MediaLimits | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> NDArray[np.uint8]:
    """Read the frames that a player shows at the instants k / rate of the timeline.

    time_map: timeline seconds → seconds from the clip's first frame; may hold and run backwards.
    rate: frames per second of the result. size: (width, height) that the whole picture is stretched into, after
    rotation. shortest_side: scale instead so that the shorter side has this many pixels, keeping the shape seen on a
    screen (pixel aspect respected). Neither: the stored size, turned upright.
    cancelled: asked after every decoded picture.

    Returns uint8 RGB [N, H, W, 3], N = ceil(duration * rate), full range, alpha over black, turned upright,
    interlaced pictures deinterlaced (bwdif, one frame per picture). HDR is not tone-mapped.
    Constant-rate timestamps that the container rounded (Matroska: milliseconds) count as their exact place.

    Raises BadRequest (rate, size), BadMedia (no picture, damaged), LimitsExceeded, Cancelled, and what probe raises.
    A truncated file is read as far as it goes; probe is what refuses it.
    """
    limits = limits or MediaLimits()
    rate = Fraction(rate)
    if rate <= 0 or rate > 1000:
        raise BadRequest(f"A rate of {float(rate):g} frames per second cannot be read. Give one between 0 and 1000.")
    _check_size(size, shortest_side)
    count = math.ceil(time_map.duration * rate)
    wanted = sorted((time_map.source_at(k / rate), k) for k in range(_within(count, limits)))
    clock, converter = _look(path, size, shortest_side, limits)
    width, height = converter.size
    if count * width * height * 3 > limits.output_bytes:
        raise LimitsExceeded(
            f"{count} frames of {width} x {height} need {count * width * height * 3} bytes, at most "
            f"{limits.output_bytes} are read at once. Ask for a shorter range or a smaller size."
        )
    out = np.empty((count, height, width, 3), np.uint8)
    budget = limits.decoded_frames
    for run in _runs(wanted):
        budget -= _fill(out, run, path, clock, converter, limits, budget, cancelled)
    return out


def _within(count: int, limits: MediaLimits) -> int:
    if count > limits.decoded_frames:
        raise LimitsExceeded(
            f"{count} frames are asked for, at most {limits.decoded_frames} are read at once. Ask for a shorter range."
        )
    return count


def _check_size(size: tuple[int, int] | None, shortest_side: int | None) -> None:
    if size is not None and shortest_side is not None:
        raise BadRequest("Both a size and a shortest side are given. Give one of them.")
    sides = (shortest_side,) if shortest_side is not None else size or ()
    if any(isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= _LARGEST_SIDE for side in sides):
        raise BadRequest(f"A picture side of {sides} cannot be made. Give whole pixels from 1 to {_LARGEST_SIDE}.")


def _look(
    path: PathLike, size: tuple[int, int] | None, shortest_side: int | None, limits: MediaLimits
) -> tuple[Clock, PictureConverter]:
    """The clip's clock, from its first picture, and what turns its pictures into arrays of the asked size."""
    with open_input(path, limits) as container:
        stream = picture_stream(container, path)
        open_decoder(stream, path, limits)
        first = first_frame(container, stream, path)
        clock = Clock.of(container, stream, first)
        orientation = frame_orientation(first)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
    if size is None and shortest_side is None:
        size = orientation.shown_size((first.width, first.height))
    elif size is None and shortest_side is not None:
        width, height = shown_size(first.width, first.height, aspect, quarter=orientation.transposed)
        scale = Fraction(shortest_side, min(width, height))
        size = max(shortest_side, round(width * scale)), max(shortest_side, round(height * scale))
        if max(size) > _LARGEST_SIDE:
            raise LimitsExceeded(f"{path} would become {size[0]} x {size[1]}. Ask for a smaller shortest side.")
    assert size is not None
    return clock, PictureConverter(size, orientation)


def _runs(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Cut the sorted instants where it is cheaper to seek than to decode what lies between."""
    run: list[Wanted] = []
    for item in wanted:
        if run and item[0] - run[-1][0] > _WORTH_A_SEEK:
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _fill(
    out: NDArray[np.uint8],
    run: list[Wanted],
    path: PathLike,
    clock: Clock,
    converter: PictureConverter,
    limits: MediaLimits,
    budget: int,
    cancelled: Callable[[], bool] | None,
) -> int:
    """Decode once over the instants of `run` and write the frames shown there into `out`. Returns frames decoded."""
    instants = [(time, [k for _, k in group]) for time, group in groupby(run, key=lambda item: item[0])]
    span = instants[-1][0] - instants[0][0]
    if span > limits.source_seconds:
        raise LimitsExceeded(
            f"The range reads {float(span):.0f} s of {path}, at most {limits.source_seconds} s are read at once. "
            "Ask for a shorter range."
        )
    position = decoded = 0
    shown: av.VideoFrame | None = None
    shown_time = Fraction(0)
    source = deinterlaced(pictures(path, clock, instants[0][0], limits))
    for time, frame in source:
        decoded += 1
        if decoded > budget:
            raise LimitsExceeded(f"{path} needs more than {limits.decoded_frames} frames decoded for this range.")
        if cancelled is not None and cancelled():
            source.close()
            raise Cancelled(f"Reading {path} was cancelled.")
        if shown is None:
            shown, shown_time = frame, time
        elif time < shown_time:
            continue  # a broken timestamp; the order of decoding is the order of showing
        begin = position
        while position < len(instants) and instants[position][0] < time:
            position += 1
        _write(out, instants[begin:position], shown, converter)
        if position == len(instants):
            source.close()
            return decoded
        shown, shown_time = frame, time
    if shown is None:
        raise BadMedia(f"No picture of {path} can be decoded. Copy or export it again.")
    _write(out, instants[position:], shown, converter)
    return decoded


def _write(
    out: NDArray[np.uint8],
    instants: list[tuple[Fraction, list[int]]],
    frame: av.VideoFrame,
    converter: PictureConverter,
) -> None:
    if instants:
        out[[k for _, ks in instants for k in ks]] = converter.convert(frame)
