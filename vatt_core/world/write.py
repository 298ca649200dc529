"""Clips of the world as files, and as the trained models see them: through H.264."""

from __future__ import annotations

import io
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vatt_core.errors import BadRequest
from vatt_core.media.atomic import replacing
from vatt_core.world.picture import iterate, render
from vatt_core.world.scene import Layout, Scene, describe

SOUND_RATE = 48_000
"""Samples per second of the true sound in a written clip."""


def frame_count(scene: Scene, fps: Fraction) -> int:
    """Pictures of a clip: its length to the nearest picture, at least one."""
    return max(1, round(Fraction(scene.seconds).limit_denominator(1_000_000) * fps))


def parse_rate(text: str) -> Fraction:
    """A frame rate as written by people: "24", "30000/1001", and the television rates 23.976, 29.97 and 59.94.

    Raises BadRequest for anything that is no rate from 1 to 240.
    """
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise BadRequest(f"{text!r} is no frame rate: write it as 24, 29.97 or 30000/1001.", fps=text) from None
    for whole in (24, 30, 60, 120):
        if rate.denominator > 1 and abs(rate - Fraction(whole * 1000, 1001)) < Fraction(1, 100):
            rate = Fraction(whole * 1000, 1001)
    _check_rate(rate)
    return rate


def compressed_frames(
    scene: Scene, *, fps: int | Fraction = 20, size: int = 64, first: int = 0, count: int | None = None
) -> np.ndarray:
    """Pictures of a scene, encoded to H.264 at the scene's quality in memory and read back.

    This is what training sees: `count` pictures from number `first` on (None: to its end); picture i is that of instant
    i / fps. Returns uint8 [N, size, size, 3]. Raises BadRequest for an odd size or one outside 16…4096.
    """
    rate = Fraction(fps)
    _check_rate(rate)
    _check_size(size)
    end = frame_count(scene, rate) if count is None else first + count
    pictures = render(scene, [float(index / rate) for index in range(first, end)], size=size)
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = _video_stream(container, rate, size, scene.crf)
        for index, planes in enumerate(_planes(pictures)):
            container.mux(stream.encode(_video_frame(planes, index, rate)))
        container.mux(stream.encode(None))
    memory.seek(0)
    # One for all pictures: to set one up takes longer than a picture.
    reformatter = VideoReformatter()
    with av.open(memory, "r") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            pictures[index] = reformatter.reformat(frame, format="rgb24").to_ndarray()
    return pictures


def write_clip(
    scene: Scene,
    path: str | os.PathLike[str],
    *,
    fps: Fraction = Fraction(24),
    size: int = 320,
    with_sound: bool = False,
) -> dict[str, Any]:
    """Write a scene as an H.264 clip, and its description beside it (same name, `.json`).

    Picture i shows the instant i / fps. A name that ends in .mov holds the sound as PCM, .mp4 as AAC. Both files appear
    whole or not at all. Returns what the description file holds: `Scene.to_dict()` with fps, size, frames, sound.
    Raises BadRequest (name, rate, size), ForbiddenPath, DiskFull.
    """
    target = Path(path)
    rate = Fraction(fps)
    _check_rate(rate)
    _check_size(size)
    if target.suffix.lower() not in (".mp4", ".mov"):
        raise BadRequest(f"{target.name} is no name for a clip: let it end in .mp4 or .mov.", path=str(target))
    frames = frame_count(scene, rate)
    description = {
        **scene.to_dict(),
        "fps": str(rate),
        "size": size,
        "frames": frames,
        "duration": str(frames / rate),
        "sound": with_sound,
    }
    kind = "mov" if target.suffix.lower() == ".mov" else "mp4"
    with replacing(target) as clip, replacing(target.with_suffix(".json")) as text:
        _encode(scene, clip, kind, rate=rate, size=size, frames=frames, with_sound=with_sound)
        text.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return description


def write_world(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    kind: str | None = None,
    layout: Layout | None = None,
    material: str | None = None,
    seconds: float = 10.0,
    fps: Fraction = Fraction(24),
    size: int = 320,
    with_sound: bool = False,
) -> dict[str, Any]:
    """Describe the clip of a seed (see `describe`) and write it (see `write_clip`)."""
    scene = describe(seed, kind=kind, layout=layout, seconds=seconds, material=material)
    return write_clip(scene, path, fps=fps, size=size, with_sound=with_sound)


def _check_rate(rate: Fraction) -> None:
    if not 1 <= rate <= 240:
        raise BadRequest(f"{rate} pictures per second are not possible: choose 1 to 240.", fps=str(rate))


def _check_size(size: int) -> None:
    if size % 2 or not 16 <= size <= 4096:
        raise BadRequest(f"A picture of {size} pixels is not possible: choose an even number, 16 to 4096.", size=size)


def _video_stream(container: Any, rate: Fraction, size: int, crf: int) -> Any:
    options = {
        "crf": str(crf),
        "preset": "veryfast" if size <= 128 else "faster",
        # The same packets on every processor and in every run; the macroblock tree is neither.
        "x264-params": "cpu-independent=1:mbtree=0",
    }
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width = stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = 1 / rate
    # x264's packets depend on the number of its threads.
    stream.codec_context.thread_count = 1
    return stream


def _planes(pictures: np.ndarray) -> np.ndarray:
    """RGB uint8 [N, H, W, 3] to the planes of yuv420p, uint8 [N, 3 H / 2, W], BT.601 in the television range.

    Done here in whole numbers because FFmpeg's conversion differs between processors.
    """
    count, height, width, _ = pictures.shape
    red, green, blue = (pictures[..., channel].astype(np.int32) for channel in range(3))
    flat = np.empty((count, height * width * 3 // 2), np.uint8)
    luma = ((66 * red + 129 * green + 25 * blue + 128) >> 8) + 16
    flat[:, : height * width] = luma.reshape(count, -1)
    quarters = [
        part[:, ::2, ::2] + part[:, 1::2, ::2] + part[:, ::2, 1::2] + part[:, 1::2, 1::2] for part in (red, green, blue)
    ]
    start = height * width
    for weights in ((-38, -74, 112), (112, -94, -18)):
        total = weights[0] * quarters[0] + weights[1] * quarters[1] + weights[2] * quarters[2]
        flat[:, start : start + height * width // 4] = (((total + 512) >> 10) + 128).reshape(count, -1)
        start += height * width // 4
    return flat.reshape(count, height * 3 // 2, width)


def _video_frame(planes: np.ndarray, index: int, rate: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.pts = index
    frame.time_base = 1 / rate
    return frame


def _encode(scene: Scene, path: Path, kind: str, *, rate: Fraction, size: int, frames: int, with_sound: bool) -> None:
    times = [float(index / rate) for index in range(frames)]
    with av.open(str(path), "w", format=kind) as container:
        video = _video_stream(container, rate, size, scene.crf)
        # Both streams must be known before the first packet is written.
        sound = container.add_stream("pcm_s16le" if kind == "mov" else "aac", rate=SOUND_RATE) if with_sound else None
        if sound is not None:
            sound.codec_context.layout = "mono"
            if kind == "mp4":
                sound.codec_context.bit_rate = 160_000
        for index, picture in enumerate(iterate(scene, times, size=size)):
            container.mux(video.encode(_video_frame(_planes(picture[None])[0], index, rate)))
        container.mux(video.encode(None))
        if sound is not None:
            _encode_sound(scene, container, sound, samples=round(Fraction(frames) / rate * SOUND_RATE))


def _encode_sound(scene: Scene, container: Any, stream: Any, *, samples: int) -> None:
    # SciPy is needed for the sound only.
    from vatt_core.world.sound import synthesise

    wave = synthesise(scene, sample_rate=SOUND_RATE)[:samples]
    wave = np.pad(wave, (0, samples - len(wave)))
    block = stream.codec_context.frame_size or 1024
    floating = stream.codec_context.name == "aac"
    for start in range(0, samples, block):
        part = wave[None, start : start + block]
        if not floating:
            part = np.round(np.clip(part, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(part), format="fltp" if floating else "s16", layout="mono"
        )
        frame.sample_rate = SOUND_RATE
        frame.pts = start
        frame.time_base = Fraction(1, SOUND_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
