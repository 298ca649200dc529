"""From a description to its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from vatt_core.errors import BadRequest
from vatt_core.world import draw_flowing, draw_struck
from vatt_core.world.backdrop import MARGIN, backdrop
from vatt_core.world.motion import Look, look_of
from vatt_core.world.pen import Pen
from vatt_core.world.scene import Camera, Scene, Shot

DRAWINGS: dict[str, Callable[[Pen, Look, float], None]] = {
    "ball": draw_struck.ball,
    "hammer": draw_struck.hammer,
    "drum": draw_struck.drum,
    "bell": draw_struck.bell,
    "clock": draw_struck.clock,
    "alarm": draw_struck.alarm,
    "fireworks": draw_struck.fireworks,
    "bird": draw_struck.bird,
    "rain": draw_flowing.rain,
    "fire": draw_flowing.fire,
    "engine": draw_flowing.engine,
    "waves": draw_flowing.waves,
}


def render(scene: Scene, times: Sequence[float], *, size: int | tuple[int, int] = 64) -> np.ndarray:
    """The pictures of a scene at the given instants (seconds; held at the ends of the clip).

    size: pixels of a square, or (width, height). Returns uint8 [N, height, width, 3]. The same description gives the
    same bytes on every machine. Raises BadRequest for a size below 16 or above 4096 and for times that are no numbers.
    """
    width, height = (size, size) if isinstance(size, int) else size
    pictures = np.empty((len(times), height, width, 3), np.uint8)
    for index, picture in enumerate(iterate(scene, times, size=size)):
        pictures[index] = picture
    return pictures


def iterate(scene: Scene, times: Sequence[float], *, size: int | tuple[int, int] = 64) -> Iterator[np.ndarray]:
    """As `render`, one picture (uint8 [height, width, 3]) after the other: for clips too long to hold."""
    width, height = (size, size) if isinstance(size, int) else size
    if not (16 <= width <= 4096 and 16 <= height <= 4096):
        raise BadRequest(
            f"A picture of {width} x {height} is not possible: choose 16 to 4096.", width=width, height=height
        )
    if not all(math.isfinite(time) for time in times):
        raise BadRequest("An instant of the picture is no number: give finite seconds.")
    stages: dict[int, _Stage] = {}
    for time in times:
        index = _shot_at(scene, time)
        if index not in stages:
            stages[index] = _Stage(scene, scene.shots[index], width, height)
        yield stages[index].picture(time)


def _shot_at(scene: Scene, time: float) -> int:
    for index, shot in enumerate(scene.shots):
        if time < shot.end:
            return index
    return len(scene.shots) - 1


class _Stage:
    """One shot, prepared: backdrop, looks and light stay the same from frame to frame."""

    def __init__(self, scene: Scene, shot: Shot, width: int, height: int) -> None:
        self._finer = 3 if height < 256 else 2
        self._size = (width * self._finer, height * self._finer)
        self._unit = height * self._finer / 2
        self._aspect = width / height
        self._seconds = scene.seconds
        self._shot = shot
        self._looks = [look_of(source, shot) for source in shot.sources]
        self._backdrop = backdrop(shot, aspect=self._aspect, unit=self._unit)
        steps = np.arange(256)
        self._light = [
            np.minimum(255, np.floor(steps * shot.brightness * tint + 0.5)).astype(np.uint8) for tint in shot.tint
        ]

    def picture(self, time: float) -> np.ndarray:
        view_x, view_y, zoom = _view(self._shot.camera, time, self._seconds)
        centre = (view_x + self._aspect + MARGIN, view_y + 1 + MARGIN)
        box = (
            (centre[0] - self._aspect / zoom) * self._unit,
            (centre[1] - 1 / zoom) * self._unit,
            (centre[0] + self._aspect / zoom) * self._unit,
            (centre[1] + 1 / zoom) * self._unit,
        )
        inside = (
            max(0.0, round(box[0], 3)),
            max(0.0, round(box[1], 3)),
            min(float(self._backdrop.width), round(box[2], 3)),
            min(float(self._backdrop.height), round(box[3], 3)),
        )
        picture = self._backdrop.resize(self._size, Image.Resampling.NEAREST, box=inside)
        for source, look in zip(self._shot.sources, self._looks, strict=True):
            place = (
                self._size[0] / 2 + (source.x - view_x) * zoom * self._unit,
                self._size[1] / 2 + (source.y - view_y) * zoom * self._unit,
            )
            DRAWINGS[source.kind](Pen(picture, place, self._unit * zoom * source.scale), look, time)
        unlit = np.asarray(picture.reduce(self._finer))
        lit = np.empty_like(unlit)
        for channel, table in enumerate(self._light):
            lit[..., channel] = table[unlit[..., channel]]
        return lit


def _view(camera: Camera, time: float, seconds: float) -> tuple[float, float, float]:
    """Centre of the view (half heights) and zoom at `time`."""
    turn = 2 * math.pi * time
    along = math.sin(turn / camera.period + camera.phase)
    # Two slow beats per axis that never meet: a hand that holds the camera.
    shake_x = camera.shake * (math.sin(turn * 2.3 + camera.phase) + math.sin(turn * 3.7)) / 2
    shake_y = camera.shake * (math.sin(turn * 2.9) + math.sin(turn * 4.1 + camera.phase)) / 2
    share = min(1.0, max(0.0, time / seconds))
    zoom = camera.zoom_start + (camera.zoom_end - camera.zoom_start) * share
    return camera.pan_x * along + shake_x, camera.pan_y * along + shake_y, zoom
