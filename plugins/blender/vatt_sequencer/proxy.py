"""A small film of what a strip shows, for strips whose pictures are not simply those of a file.

It is rendered a frame at a time from a copy of the scene in which everything else is muted, so that the interface lives on.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import bpy

from . import compat
from .avi import AviWriter

WIDTH = 320
"""Pixels; the model sees less."""
QUALITY = 85


class ProxyFailed(Exception):
    """What is shown could not be rendered; the text says why."""


class ProxyRender:
    """Timeline frames [first, last) of a strip, written to `path`. Raises ProxyFailed where nothing can be shown."""

    def __init__(self, scene: Any, strip: Any, *, first: int, last: int, path: Path) -> None:
        self.first, self.last, self.path = first, last, path
        self._next = first
        self._writer: AviWriter | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="vatt-")
        self._rate = compat.timeline_rate(scene)
        copy = scene.copy()
        self._scene = copy.name
        copy[compat.PROXY_SCENE] = True
        try:
            _show_only(copy, strip.name)
            self._size = _small_jpegs(copy, Path(self._folder.name) / "frame")
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> int:
        return self._next - self.first

    @property
    def total(self) -> int:
        return self.last - self.first

    def step(self) -> bool:
        """Render the next frame. True when the film is whole and lies at `path`. Raises ProxyFailed."""
        scene = bpy.data.scenes.get(self._scene)
        if scene is None or not scene.get(compat.PROXY_SCENE):
            raise ProxyFailed("The file was changed while a proxy was rendered: start again.")
        # A still of another scene than the window's would be taken at the window's frame.
        scene.frame_start = scene.frame_end = self._next
        try:
            bpy.ops.render.render(animation=True, scene=scene.name)
            picture = next(Path(self._folder.name).iterdir())
            if self._writer is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = AviWriter(self.path, size=self._size, rate=self._rate)
            self._writer.add(picture.read_bytes())
            picture.unlink()
            self._next += 1
            if self._next < self.last:
                return False
            self._writer.close()
            self._writer = None
        except Exception as error:  # Blender raises RuntimeError for whatever a render runs into
            raise ProxyFailed(f"What '{self._scene}' shows could not be rendered ({error}).") from error
        return True

    def close(self) -> None:
        """Take the copied scene away; a film that is not whole goes with it."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        scene = bpy.data.scenes.get(self._scene)
        if scene is not None and scene.get(compat.PROXY_SCENE):
            bpy.data.scenes.remove(scene)
        self._folder.cleanup()


def sweep(keep: set[str]) -> None:
    """Remove copied scenes that an undo or a file brought back."""
    for scene in [scene for scene in bpy.data.scenes if scene.get(compat.PROXY_SCENE) and scene.name not in keep]:
        with contextlib.suppress(RuntimeError):  # the only scene left cannot be removed
            bpy.data.scenes.remove(scene)


def scene_name(render: ProxyRender) -> str:
    return render._scene


def _shown_through(strip: Any, beside: list[Any]) -> set[str]:
    """Names of the strips that a strip shows: an effect's inputs and what these show; under an adjustment, what lies lower
    down; for a multicam selector, its channel. `beside`: the strips of the same meta strip or editor, itself included."""
    others = [getattr(strip, name, None) for name in ("input_1", "input_2", "input_3")]
    if strip.type == "ADJUSTMENT":
        others += [other for other in beside if other.channel < strip.channel]
    elif strip.type == "MULTICAM":
        others += [other for other in beside if other.channel == strip.multicam_source]
    found: set[str] = set()
    for other in others:
        if other is not None:
            found |= {other.name} | _shown_through(other, beside)
    return found


def _show_only(scene: Any, name: str) -> None:
    """Mute all but the strip, the strips that it shows and the meta strips around it."""
    strip = next((item for item in compat.all_strips(scene) if item.name == name), None)
    if strip is None:
        raise ProxyFailed(f"'{name}' is not in the copy of its scene.")
    while strip is not None:
        holder = compat.holder_of(scene, strip)
        beside = list(compat.strips_of(holder))
        through = _shown_through(strip, beside)
        for other in beside:
            if other.name == strip.name:
                other.mute = False
            elif other.name not in through:
                other.mute = True
        holder.channels[strip.channel].mute = False
        strip = strip.parent_meta()


def _small_jpegs(scene: Any, path: Path) -> tuple[int, int]:
    """Set the scene to render small JPEGs of the sequencer. Returns width and height in pixels."""
    render = scene.render
    percent = max(1, min(100, round(100 * WIDTH / render.resolution_x)))
    # Strips are placed in pixels of the full picture, so it is the percentage that makes it small.
    render.resolution_percentage = percent
    render.use_sequencer, render.use_compositing, render.use_border = True, False, False
    render.use_multiview, render.use_stamp, render.use_overwrite = False, False, True
    render.use_file_extension = False
    settings = render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.quality = "JPEG", "RGB", QUALITY
    render.filepath = str(path)
    return render.resolution_x * percent // 100, render.resolution_y * percent // 100
