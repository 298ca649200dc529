"""Movie strips of many rates in scenes of many rates: the pictures that Blender shows, and the map that would be sent."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import stage

asked = stage.arguments()
stage.enable()

from vatt_sequencer import compat, mapping, reading  # noqa: E402

found = stage.scene(size=(128, 96))
results = []
for scene_rate, (fps, base) in asked["scenes"].items():
    found.render.fps, found.render.fps_base = fps, base
    for clip_rate, path in asked["clips"].items():
        for adjust in (False, True):
            for trim in asked["trims"]:
                strip = stage.add_movie(found, path, first=10, adjust=adjust)
                if trim["hold"]:
                    names = ("content_trim_start", "animation_offset_start")
                    setattr(strip, names[0] if hasattr(strip, names[0]) else names[1], trim["hold"])
                compat.set_handles(strip, compat.left(strip) + trim["left"], compat.right(strip) - trim["right"])
                first, last = compat.left(strip), compat.right(strip)
                folder = Path(asked["pictures"]) / str(len(results))
                stage.render_pictures(found, str(folder), list(range(first, last)))
                timing = reading.timing(strip, found)
                entry = dict(
                    scene=scene_rate, clip=clip_rate, path=path, adjust=adjust, trim=trim, first=first, last=last,
                    folder=str(folder), map=None, proxy="",
                )  # fmt: skip
                try:
                    reading.traits(strip).check()
                    entry["map"] = [[str(a), str(b)] for a, b in mapping.time_map(timing, first, last)]
                    entry["offset"] = first - round(compat.content_start(strip))
                except mapping.NeedsProxy as why:
                    entry["proxy"] = why.reason
                results.append(entry)
                stage.strips(found).remove(strip)
stage.answer(results)
