"""Runs inside the window: a strip, the VATT tab, and every half second what a user would see, as JSON."""

import importlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import addon_utils
import bpy

SHARED = Path(os.environ["VATT_TEST_SHARED"])
MODULE = "bl_ext.user_default.vatt"


def prepare() -> None:
    window = bpy.context.window_manager.windows[0]
    scene = window.scene
    if hasattr(window.workspace, "sequencer_scene"):
        scene = window.workspace.sequencer_scene = window.workspace.sequencer_scene or scene
    scene.render.fps, scene.frame_end = 24, 150
    editor = scene.sequence_editor or scene.sequence_editor_create()
    strips = editor.strips if hasattr(editor, "strips") else editor.sequences
    strip = strips.new_movie("film", str(SHARED / "film.mp4"), 4, 1)
    editor.active_strip = strip
    addon_utils.enable(MODULE, default_set=True)
    bpy.context.preferences.addons[MODULE].preferences.output = str(SHARED / "sounds")
    area = next(
        area for area in window.screen.areas
        if area.type == "SEQUENCE_EDITOR" and area.spaces.active.view_type == "SEQUENCER"
    )  # fmt: skip
    area.spaces.active.show_region_ui = True
    overlay = getattr(area.spaces.active, "timeline_overlay", None)
    if hasattr(overlay, "show_strip_source"):
        overlay.show_strip_source = False  # where the test's files lie is of no interest in a picture
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.sequencer.view_all()

    name, turn, copied = scene.name, 0, (0, "")

    def tell() -> float:
        nonlocal turn, copied
        turn += 1
        scene = bpy.data.scenes[name]  # a step back makes it anew
        manager = bpy.context.window_manager
        if manager.clipboard.startswith("bpy.ops."):
            copied = (copied[0] + 1, manager.clipboard)
            manager.clipboard = "-"  # so that the next one is known as such
        side = next(region for region in area.regions if region.type == "UI")
        side.active_panel_category = "VATT"
        x, y = region.view2d.view_to_region(40, 4.5, clip=False)
        found = scene.sequence_editor
        panel = importlib.import_module(f"{MODULE}.panel")
        room = panel._room(SimpleNamespace(region=side, preferences=bpy.context.preferences))
        captions = [item["text"] for item in json.loads(strip_settings(scene).captions or "[]")]
        state = {
            "turn": turn,
            "copied": copied,
            "strip": [region.x + x, window.height - region.y - y],
            "tab": [side.x, window.height - side.y - side.height],
            "strips": sorted(item.name for item in (found.strips if hasattr(found, "strips") else found.sequences)),
            "captions": [len(panel.wrapped(caption, room)) for caption in captions],
            "prompt": strip_settings(scene).prompt,
            "channels": [channel.name for channel in found.channels],
        }
        part = SHARED / "state.part"
        part.write_text(json.dumps(state))
        part.replace(SHARED / "state.json")
        area.tag_redraw()
        return 0.5

    bpy.app.timers.register(tell, first_interval=2, persistent=True)


def strip_settings(scene: object) -> object:
    editor = scene.sequence_editor
    found = editor.strips if hasattr(editor, "strips") else editor.sequences
    return next(item for item in found if item.name == "film").vatt_settings


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(prepare, first_interval=2)
