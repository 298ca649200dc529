"""Strips whose pictures are not simply those of a file: their proxies, and what Blender itself shows of them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import stage

asked = stage.arguments()
stage.enable()

from vatt_sequencer import compat, mapping, proxy, reading  # noqa: E402

found = stage.scene(24, size=(320, 240))
strips = stage.strips(found)
film = asked["film"]


def reverse(strip: object) -> None:
    strip.use_reverse_frames = True


def strobe(strip: object) -> None:
    strip.strobe = 3


def modify(strip: object) -> None:
    strip.modifiers.new("bright", "BRIGHT_CONTRAST")


results = {}
for name, change in {"reversed": reverse, "strobed": strobe, "modified": modify}.items():
    strip = strips.new_movie("film", film, 2, 5)
    strip.transform.scale_x = strip.transform.scale_y = 2.5
    change(strip)
    # Another strip covers it: the proxy shows the strip alone.
    cover = strips.new_effect(
        "cover", "COLOR", 9, frame_start=1, **({"length": 99} if bpy.app.version >= (5, 0, 0) else {"frame_end": 100})
    )
    first, last = compat.left(strip) + 2, compat.right(strip) - 1
    reason = ""
    try:
        reading.traits(strip).check()
        mapping.time_map(reading.timing(strip, found), first, last)
    except mapping.NeedsProxy as why:
        reason = why.reason
    scenes = len(bpy.data.scenes)
    render = proxy.ProxyRender(found, strip, first=first, last=last, path=Path(asked["pictures"]) / f"{name}.avi")
    turns = 1
    while not render.step():
        turns += 1
    render.close()
    strips.remove(cover)
    folder = Path(asked["pictures"]) / name
    stage.render_pictures(found, str(folder), list(range(first, last)))
    results[name] = dict(
        film=str(render.path), folder=str(folder), first=first, last=last, reason=reason, turns=turns,
        scenes=len(bpy.data.scenes) - scenes, muted=[item.name for item in strips if item.mute],
    )  # fmt: skip
    strips.remove(strip)
stage.answer(results)
