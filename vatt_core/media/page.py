"""One HTML file that plays a clip with each of its takes: to be opened from the disk, with nothing beside it.

Pictures become a small VP8 video and takes Opus sound, which every current browser plays; both are inside the page. All
takes run together and all but one are muted, so that switching is instant and in step.
"""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from vatt_core.errors import LimitsExceeded
from vatt_core.media.atomic import write_bytes
from vatt_core.media.frames import read_frames
from vatt_core.media.opening import PathLike
from vatt_core.media.preview import PLOT_LEFT, PLOT_RIGHT
from vatt_core.media.time_map import TimeMap
from vatt_core.media.waves import read_wave

LONGEST = 20 * 60
"""Seconds: of a longer clip the page would be too large for a browser."""

_SIDE = 270  # pixels of the picture's shorter side
_FASTEST = Fraction(30)  # pictures per second
_PIECE = Fraction(10)  # seconds read at once
_SOUND_RATE = 48_000
_VIDEO_BITS, _SOUND_BITS = 900_000, 128_000


@dataclass(frozen=True)
class PageTake:
    """One take. sound: its file. picture: the PNG of `write_preview`, None for none. facts: what to tell of it."""

    name: str
    caption: str
    sound: Path
    picture: Path | None
    facts: Mapping[str, Any]


def write_page(
    path: PathLike, clip: PathLike, time_map: TimeMap, takes: Sequence[PageTake], *, rate: Fraction, title: str
) -> Path:
    """Write the page, complete or not at all. rate: pictures per second of the clip.

    Returns its absolute path. Raises LimitsExceeded for a clip longer than 20 minutes, and what reading it raises.
    """
    if time_map.duration > LONGEST:
        raise LimitsExceeded(
            f"A page holds at most {LONGEST // 60} minutes, these takes last {float(time_map.duration) / 60:.0f}. "
            "Preview takes of a shorter range."
        )
    data = {
        "duration": float(time_map.duration),
        "plot": [PLOT_LEFT, PLOT_RIGHT],
        "video": _embedded("video/webm", _video(clip, time_map, rate)),
        "takes": [
            {
                "name": take.name,
                "caption": take.caption,
                "facts": {name: _said(value) for name, value in take.facts.items() if value is not None},
                "sound": _embedded("audio/webm", _sound(take.sound)),
                "picture": _embedded("image/png", take.picture.read_bytes()) if take.picture else None,
            }
            for take in takes
        ],
    }
    template = files("vatt_core.media").joinpath("page.html").read_text(encoding="utf-8")
    # In a script, only a tag's begin could end the data.
    body = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    page = template.replace("{{title}}", html.escape(title)).replace("{{data}}", body)
    return write_bytes(path, page.encode())


def _said(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _embedded(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _video(clip: PathLike, time_map: TimeMap, rate: Fraction) -> bytes:
    """The range as the timeline shows it, as WebM."""
    while rate > _FASTEST:
        rate /= 2
    with tempfile.TemporaryDirectory(prefix="vatt-page-") as folder:
        file = Path(folder) / "video.webm"
        with av.open(str(file), "w", format="webm") as container:
            stream: av.VideoStream | None = None
            shown, begin = 0, Fraction(0)
            whole = int(_PIECE * rate) / rate  # a whole number of pictures
            while begin < time_map.duration:
                end = min(time_map.duration, begin + whole)
                frames = read_frames(clip, time_map.slice(begin, end), rate=rate, shortest_side=_SIDE)
                height, width = (side // 2 * 2 for side in frames.shape[1:3])
                if stream is None:
                    options = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
                    stream = cast(av.VideoStream, container.add_stream("libvpx", rate=rate, options=options))
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    stream.codec_context.bit_rate = _VIDEO_BITS
                    stream.codec_context.gop_size = max(1, round(rate))  # every second can be jumped to
                for frame in frames:
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                    picture.pts, picture.time_base = shown, 1 / rate
                    shown += 1
                    container.mux(stream.encode(picture))
                begin = end
            assert stream is not None  # a time map is never empty
            container.mux(stream.encode())
        return file.read_bytes()


def _sound(path: Path) -> bytes:
    """A sound file as Opus in WebM, mono."""
    wave = read_wave(path, sample_rate=_SOUND_RATE)
    with tempfile.TemporaryDirectory(prefix="vatt-page-") as folder:
        file = Path(folder) / "sound.webm"
        with av.open(str(file), "w", format="webm") as container:
            stream = cast(av.AudioStream, container.add_stream("libopus", rate=_SOUND_RATE, layout="mono"))
            stream.codec_context.bit_rate = _SOUND_BITS
            for begin in range(0, len(wave), _SOUND_RATE):
                piece = np.ascontiguousarray(wave[begin : begin + _SOUND_RATE])[None]
                frame = av.AudioFrame.from_ndarray(piece, format="flt", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = _SOUND_RATE, begin, Fraction(1, _SOUND_RATE)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return file.read_bytes()
