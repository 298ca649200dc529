"""Strips whose pictures are not simply those of a file: their proxies, and what Blender itself shows of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import stage

asked = stage.arguments()
stage.enable()

from vatt_sequencer import compat, mapping, proxy, reading  # noqa: E402

SIZE = (320, 240)


def movie(holder: Any, *, channel: int = 2, first: int = 5) -> Any:
    strip = compat.strips_of(holder).new_movie("film", asked["film"], channel, first)
    strip.transform.scale_x = strip.transform.scale_y = 2.5  # fills the picture
    return strip


def effect(scene: Any, kind: str, *, channel: int, first: int, last: int, inputs: tuple[Any, ...] = ()) -> Any:
    """An effect on timeline frames [first, last); the versions name and count its arguments differently."""
    names = ("seq1", "seq2") if bpy.app.version < (4, 4, 0) else ("input1", "input2")
    options: dict[str, Any] = dict(zip(names, inputs, strict=False))
    options |= {"length": last - first} if bpy.app.version >= (5, 0, 0) else {"frame_end": last}
    return stage.strips(scene).new_effect(kind.lower(), kind, channel, frame_start=first, **options)


# Each puts strips into an empty scene and returns the one that is meant.


def reversed_(scene: Any) -> Any:
    strip = movie(scene.sequence_editor)
    strip.use_reverse_frames = True
    return strip


def strobed(scene: Any) -> Any:
    strip = movie(scene.sequence_editor)
    strip.strobe = 3
    return strip


def modified(scene: Any) -> Any:
    strip = movie(scene.sequence_editor)
    strip.modifiers.new("bright", "BRIGHT_CONTRAST").bright = 10
    return strip


def cropped(scene: Any) -> Any:
    strip = movie(scene.sequence_editor)
    strip.crop.min_x = 20
    return strip


def retimed(scene: Any) -> Any:
    """Twice as fast to its middle; before 5.1 the data API cannot do it."""
    strip = movie(scene.sequence_editor)
    strip.retiming_keys.add(timeline_frame=compat.left(strip) + 20)
    for key, frame in zip(list(strip.retiming_keys)[1:], (15, 35), strict=False):
        key.timeline_frame = 5 + frame
    return strip


def sped(scene: Any) -> Any:
    strip = movie(scene.sequence_editor)
    found = effect(scene, "SPEED", channel=3, first=5, last=46, inputs=(strip,))
    found.speed_control, found.speed_factor = "MULTIPLY", 1.5
    return found


def crossed(scene: Any) -> Any:
    one, two = movie(scene.sequence_editor), movie(scene.sequence_editor, channel=3, first=20)
    return effect(scene, "CROSS", channel=4, first=20, last=46, inputs=(one, two))


def adjusted(scene: Any) -> Any:
    """What lies under it, brighter: it shows nothing of its own."""
    movie(scene.sequence_editor)
    hidden = movie(scene.sequence_editor, channel=3, first=9)
    hidden.mute = True
    found = effect(scene, "ADJUSTMENT", channel=4, first=5, last=46)
    found.modifiers.new("bright", "BRIGHT_CONTRAST").bright = 10
    return found


def multicam(scene: Any) -> Any:
    """One of two cameras."""
    movie(scene.sequence_editor, channel=1)
    movie(scene.sequence_editor, channel=2, first=1)
    found = effect(scene, "MULTICAM", channel=4, first=5, last=40)
    found.multicam_source = 1
    return found


def meta(scene: Any) -> Any:
    found = stage.strips(scene).new_meta("meta", 2, 5)
    inside = movie(found, first=5)
    movie(found, channel=3, first=25).use_reverse_frames = True
    compat.set_handles(found, compat.left(inside), 60)
    return found


def inside_meta(scene: Any) -> Any:
    found = meta(scene)
    return next(strip for strip in compat.strips_of(found) if strip.use_reverse_frames)


def other_scene(scene: Any) -> Any:
    inner = fresh("Inner")
    movie(inner.sequence_editor, first=1)
    inner.frame_start, inner.frame_end = 1, 41
    found = stage.strips(scene).new_scene("inner", inner, 2, 5)
    found.scene_input = "SEQUENCER"
    return found


def images(scene: Any) -> Any:
    first, *others = sorted(Path(asked["images"]).iterdir())
    found = stage.strips(scene).new_image("images", str(first), 2, 5)
    for path in others:
        found.elements.append(path.name)
    found.transform.scale_x = found.transform.scale_y = 2.5
    compat.set_handles(found, 5, 5 + len(found.elements))
    return found


def composed(scene: Any) -> Any:
    """Passed through a node group; 5.2 brought it."""
    nodes = bpy.data.node_groups.new("through", "CompositorNodeTree")
    for direction in ("INPUT", "OUTPUT"):
        nodes.interface.new_socket("Image", in_out=direction, socket_type="NodeSocketColor")
    begin, end = nodes.nodes.new("NodeGroupInput"), nodes.nodes.new("NodeGroupOutput")
    nodes.links.new(begin.outputs[0], end.inputs[0])
    strip = movie(scene.sequence_editor)
    found = effect(scene, "COMPOSITOR", channel=3, first=5, last=46, inputs=(strip,))
    found.node_group = nodes
    return found


def colour(scene: Any) -> Any:
    found = effect(scene, "COLOR", channel=2, first=5, last=46)
    for frame, value in ((5, 0.0), (46, 1.0)):
        found.color = (value, value / 2, 0.3)
        found.keyframe_insert("color", frame=frame)
    return found


KINDS = {
    "reversed": reversed_, "strobed": strobed, "modified": modified, "cropped": cropped, "sped": sped, "crossed": crossed,
    "adjusted": adjusted, "multicam": multicam, "meta": meta, "inside a meta": inside_meta, "scene": other_scene,
    "images": images, "colour": colour,
}  # fmt: skip
if bpy.app.version >= (5, 1, 0):
    KINDS["retimed"] = retimed
if bpy.app.version >= (5, 2, 0):
    KINDS["composed"] = composed


def fresh(name: str) -> Any:
    scene = bpy.data.scenes.new(name)
    scene.render.fps, scene.render.resolution_x, scene.render.resolution_y = 24, *SIZE
    scene.view_settings.view_transform = "Standard"
    scene.sequence_editor_create()
    return scene


results = {}
for name, build in KINDS.items():
    found = fresh(name)
    stage.show(found)
    strip = build(found)
    first, last = compat.left(strip) + 2, compat.right(strip) - 1
    reason = ""
    try:
        reading.traits(strip).check()
        mapping.time_map(reading.timing(strip, found), first, last)
    except mapping.NeedsProxy as why:
        reason = why.reason
    # Another strip covers it: the proxy shows the strip alone.
    cover = effect(found, "COLOR", channel=9, first=1, last=100)
    before = {item.name: item.mute for item in compat.all_strips(found)}
    scenes = len(bpy.data.scenes)
    render = proxy.ProxyRender(found, strip, first=first, last=last, path=Path(asked["pictures"]) / f"{name}.avi")
    turns = 1
    while not render.step():
        turns += 1
    render.close()
    untouched = before == {item.name: item.mute for item in compat.all_strips(found)}
    stage.strips(found).remove(cover)
    holder = compat.holder_of(found, strip)
    for other in [item for item in compat.strips_of(holder) if strip.type == "MOVIE" and item.name != strip.name]:
        compat.strips_of(holder).remove(other)
    folder = Path(asked["pictures"]) / name
    stage.render_pictures(found, str(folder), list(range(first, last)))
    results[name] = dict(
        film=str(render.path), folder=str(folder), first=first, last=last, reason=reason, turns=turns,
        scenes=len(bpy.data.scenes) - scenes, untouched=untouched,
    )  # fmt: skip
stage.answer(results)
