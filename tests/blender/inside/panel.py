"""The panel and the menus are drawn into a layout that notes what it is asked for and refuses what this Blender does not know."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import stage

asked = stage.arguments()
session = stage.enable()

from vatt_sequencer import compat, jobs, panel, reading, requests, runtime, takes  # noqa: E402
from vatt_sequencer.daemon_thread import DaemonState  # noqa: E402

FUNCTIONS = bpy.types.UILayout.bl_rna.functions
ICONS = {item.identifier for item in FUNCTIONS["label"].parameters["icon"].enum_items}


class Layout:
    """Stands for bpy.types.UILayout, which only a window has. `calls`: (function, what it shows)."""

    def __init__(self, calls: list[list[str]]) -> None:
        self.__dict__["calls"] = calls

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in bpy.types.UILayout.bl_rna.properties, name

    def __getattr__(self, name: str) -> Any:
        function = FUNCTIONS[name]
        return lambda *positional, **options: self._call(name, function, positional, options)

    def _call(self, name: str, function: Any, positional: tuple[Any, ...], options: dict[str, Any]) -> Any:
        names = [item.identifier for item in function.parameters if not item.is_output]
        given = dict(zip(names, positional, strict=False)) | options
        assert set(given) <= set(names), f"{name} knows no {set(given) - set(names)}"
        assert given.get("icon", "NONE") in ICONS, given["icon"]
        if name in ("row", "column", "box", "separator", "split"):
            return Layout(self.calls)
        if name == "prop":
            assert given["property"] in given["data"].bl_rna.properties, given["property"]
            self.calls.append([name, given["property"]])
            return None
        if name == "operator":
            area, _, operator = given["operator"].partition(".")
            properties = getattr(getattr(bpy.ops, area), operator).get_rna_type().properties
            self.calls.append([name, given["operator"], given.get("text", "")])
            return Properties(properties, self.calls[-1])
        self.calls.append([name, given.get("text", "")])
        return None


class Properties:
    def __init__(self, known: Any, call: list[str]) -> None:
        self.__dict__.update(known=known, call=call)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.known, name
        self.call.append(value)


def drawn(function: Any) -> list[list[str]]:
    calls: list[list[str]] = []
    function(SimpleNamespace(layout=Layout(calls)), bpy.context)
    return calls


draw = panel.VATT_PT_sequencer.draw
answer: dict[str, Any] = {"menus": {}}
for menu in panel.MENUS:
    answer["menus"][menu] = panel._menu in getattr(bpy.types, menu).draw._draw_funcs
answer["menu"] = drawn(panel._menu)

found = stage.scene(24)
answer["nothing"] = drawn(draw)
film = stage.add_movie(found, asked["film"], first=10, channel=3)
stage.select(found, film)
answer["plain"] = drawn(draw)

session.daemon = DaemonState(True, models=("nano",))
caption = "a long caption of many words that does not fit one line of the sidebar"
film.vatt_settings.captions = json.dumps([{"text": caption, "score": 0.5}, {"text": "rain", "score": 0.2}])
job = jobs.Job(jobs.GENERATE, reading.target_of(film, found), 0, 41, {}, state=jobs.State.RUNNING)
job.progress("sound", 3, 12, 7.0)
session.jobs.append(job)
answer["busy"] = drawn(draw)
answer["line"] = job.line()
bpy.ops.vatt.use_caption(text=caption)
answer["prompt"] = film.vatt_settings.prompt

# Two takes as ID properties of two strips; what they are does not matter to the panel.
session.jobs.clear()
for number in range(2):
    strip = stage.add_movie(found, asked["film"], first=10, channel=5 + number)
    strip.name = f"take {number}"
    record = takes.Record(film[reading.UID], "job", number, "rain", 100 + number, "nano", "/rain.wav", 0, 41)
    strip[takes.PROPERTY] = record.to_text()
reading_type = panel.reading.placed_takes
panel.reading.placed_takes = lambda scene, uid: [
    (item, takes.PlacedTake(item.name, takes.Record.from_text(item[takes.PROPERTY]), item.name != "take 1"))
    for item in compat.all_strips(scene) if takes.PROPERTY in item
]  # fmt: skip
answer["takes"] = drawn(draw)
panel.reading.placed_takes = reading_type


def marked() -> Any:
    try:
        return list(requests.marked_range(found))
    except requests.NoRange:
        return None


answer["ranges"] = [marked()]
for frame in (33, 12, 20):
    found.timeline_markers.new(str(frame), frame=frame).select = frame != 20
answer["ranges"].append(marked())
found.use_preview_range, found.frame_preview_start, found.frame_preview_end = True, 15, 19
answer["ranges"].append(marked())

# A folder that cannot be made, as it would lie in a file.
preferences = bpy.context.preferences.addons[stage.ADDON].preferences
preferences.output = str(Path(asked["film"]) / "sounds")
stage.select(found, film)
try:
    bpy.ops.vatt.generate()
except RuntimeError:  # how a reported error reaches a script
    answer["no folder"] = session.problem

# No scene in the sequencer: nothing to do, and nothing fails.
if bpy.app.version >= (5, 0, 0):
    bpy.context.workspace.sequencer_scene = None
    answer["unset"] = [drawn(draw), bpy.ops.vatt.generate.poll()]

runtime.set_session(None, "no fitting libraries")
answer["unfit"] = drawn(draw)
runtime.set_session(session)
stage.disable()
answer["left"] = [name for name in panel.MENUS if panel._menu in getattr(bpy.types, name).draw._draw_funcs]
stage.answer(answer)
