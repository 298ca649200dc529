"""Which stream of a file is the picture, and how the picture lies in it."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import av
import av.container
import av.stream

from vatt_core.errors import BadMedia
from vatt_core.media.opening import PathLike, still_picture
from vatt_core.media.orientation import Orientation


def shown_size(width: int, height: int, pixel_aspect: Fraction, *, quarter: bool) -> tuple[int, int]:
    """(width, height) with square pixels, the longer way (nothing is thrown away), then turned by a quarter or not."""
    if pixel_aspect > 1:
        width = max(1, round(width * pixel_aspect))
    elif pixel_aspect < 1:
        height = max(1, round(height / pixel_aspect))
    return (height, width) if quarter else (width, height)


def picture_stream(container: av.container.InputContainer, path: PathLike) -> av.VideoStream:
    """The stream with the moving picture. Raises BadMedia for a still picture, sound only, or neither."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if container.format.name.endswith("_pipe"):
        raise still_picture(path)
    if not streams and container.streams.audio:
        raise BadMedia(f"{path} holds sound but no picture. Name the video that the sound is to be made for.")
    if not streams:
        raise BadMedia(f"{path} holds no video. Export the clip as .mp4 or .mov.")
    return next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])


def frame_orientation(frame: av.VideoFrame) -> Orientation:
    """How the picture is to be turned, from its display matrix."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    matrix = bytes(data)[:36] if data is not None else b""
    return Orientation.from_matrix(struct.unpack("=9i", matrix)) if len(matrix) == 36 else Orientation()
