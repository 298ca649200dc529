"""One way to say what Blender 4.2, 4.5, 5.0, 5.1 and 5.2 name differently."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import bpy

StripType: Any = getattr(bpy.types, "Strip", None) or bpy.types.Sequence
"""The strips' base class; `Sequence` until 4.3."""


def _get(strip: Any, new: str, old: str) -> Any:
    return getattr(strip, new) if hasattr(strip, new) else getattr(strip, old)


def left(strip: Any) -> int:
    """First timeline frame that is seen."""
    return int(_get(strip, "left_handle", "frame_final_start"))


def right(strip: Any) -> int:
    """Timeline frame after the last one that is seen."""
    return int(_get(strip, "right_handle", "frame_final_end"))


def set_handles(strip: Any, first: int, last: int) -> None:
    names = (
        ("left_handle", "right_handle") if hasattr(strip, "left_handle") else ("frame_final_start", "frame_final_end")
    )
    if left(strip) != first:
        setattr(strip, names[0], first)
    if right(strip) != last:
        setattr(strip, names[1], last)


def content_start(strip: Any) -> float:
    return float(_get(strip, "content_start", "frame_start"))


def content_length(strip: Any) -> int:
    """Timeline frames of the untrimmed content. 4.2's own figure ignores the rates, so it is put together."""
    offsets = _get(strip, "left_handle_offset", "frame_offset_start") + _get(
        strip, "right_handle_offset", "frame_offset_end"
    )
    return round(right(strip) - left(strip) + offsets)


def hold_trims(strip: Any) -> tuple[int, int]:
    """Pictures cut off at begin and end of the file."""
    return (
        int(_get(strip, "content_trim_start", "animation_offset_start")),
        int(_get(strip, "content_trim_end", "animation_offset_end")),
    )


def strips_of(holder: Any) -> Any:
    """The strips directly inside a sequence editor or a meta strip."""
    return _get(holder, "strips", "sequences")


def all_strips(scene: Any) -> list[Any]:
    """Every strip of a scene, also inside meta strips."""
    editor = scene.sequence_editor
    return list(_get(editor, "strips_all", "sequences_all")) if editor else []


def holder_of(scene: Any, strip: Any) -> Any:
    """The meta strip that a strip lies in, or the sequence editor."""
    return strip.parent_meta() or scene.sequence_editor


def scenes() -> Iterator[Any]:
    """The user's scenes: not those that a proxy is rendered from."""
    return (scene for scene in bpy.data.scenes if not scene.get(PROXY_SCENE))


PROXY_SCENE = "vatt_proxy"


def edited_scene(context: Any) -> Any:
    """The scene whose strips the sequencer shows, None when there is none. From 5.0 on it need not be the window's."""
    if bpy.app.version >= (5, 0, 0):
        workspace = getattr(context, "workspace", None)
        return getattr(context, "sequencer_scene", None) or getattr(workspace, "sequencer_scene", None)
    return context.scene


def shown_strips(scene: Any) -> list[Any]:
    """The strips that the sequencer shows: those of the meta strip that was entered, or of the scene."""
    editor = scene.sequence_editor if scene else None
    if editor is None:
        return []
    return list(strips_of(editor.meta_stack[-1] if len(editor.meta_stack) else editor))


def selected_strips(scene: Any) -> list[Any]:
    return sorted((strip for strip in shown_strips(scene) if strip.select), key=left)


def active_strip(scene: Any) -> Any:
    editor = scene.sequence_editor if scene else None
    return editor.active_strip if editor else None


def timeline_rate(scene: Any) -> Fraction:
    from .mapping import scene_rate

    return scene_rate(scene.render.fps, scene.render.fps_base)
