"""The sidebar tab and the menu entries of the sequencer."""

from __future__ import annotations

import textwrap
from typing import Any

import bpy

from . import compat, properties, reading, runtime, takes
from .jobs import Job, State


class VATT_PT_sequencer(bpy.types.Panel):
    bl_idname = "VATT_PT_sequencer"
    bl_label = "VATT"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "VATT"

    @classmethod
    def poll(cls, context: Any) -> bool:
        return context.space_data.view_type in {"SEQUENCER", "SEQUENCER_PREVIEW"}

    def draw(self, context: Any) -> None:
        layout = self.layout
        session = runtime.session()
        if session is None:
            _lines(layout, runtime.problem(), _room(context), icon="ERROR")
            return
        room = _room(context)
        _daemon(layout, session, room)
        if session.problem:
            _lines(layout, session.problem, room, icon="ERROR")
        scene = compat.edited_scene(context)
        strip = reading.picture_strip(scene, compat.active_strip(scene)) if scene else None
        if strip is None:
            layout.label(text="Select a strip", icon="RESTRICT_SELECT_OFF")
            for job in session.open_jobs():
                _job(layout, job, named=True)
            return
        layout.label(text=strip.name, icon="SEQUENCE")
        _prompt(layout, strip, room)
        _settings(layout, scene)
        row = layout.row(align=True)
        row.scale_y = 1.3
        row.operator("vatt.generate", icon="SOUND")
        row = layout.row(align=True)
        row.operator("vatt.another_take")
        row.operator("vatt.regenerate_range")
        uid = str(strip.get(reading.UID, ""))
        _jobs(layout, session, uid, room)
        _takes(layout, scene, uid)


def _daemon(layout: Any, session: Any, room: int) -> None:
    row = layout.row()
    if session.daemon.running:
        row.label(text="Daemon runs", icon="CHECKMARK")
        return
    _lines(layout, session.daemon.text, room, icon="UNLINKED")
    layout.operator("vatt.start_daemon", icon="PLAY")


def _prompt(layout: Any, strip: Any, room: int) -> None:
    settings = strip.vatt_settings
    column = layout.column(align=True)
    column.operator("vatt.suggest", icon="OUTLINER_DATA_SPEAKER")
    for text in properties.captions_of(strip):
        _caption(column.box().column(align=True), text, room, chosen=text == settings.prompt)
    column = layout.column(align=True)
    column.prop(settings, "prompt", text="", icon="GREASEPENCIL", placeholder="Prompt: empty for the best caption")
    column.prop(settings, "negative_prompt", text="", icon="X", placeholder="Not to be heard")


def _caption(layout: Any, text: str, room: int, *, chosen: bool) -> None:
    """The whole caption, in as many lines as it needs; a click on any of them takes it."""
    icon = "RADIOBUT_ON" if chosen else "RADIOBUT_OFF"
    for line in wrapped(text, room):
        row = layout.row()
        row.alignment = "LEFT"
        row.operator("vatt.use_caption", text=line, icon=icon, emboss=False).text = text
        icon = "BLANK1"


def _settings(layout: Any, scene: Any) -> None:
    settings = scene.vatt_settings
    layout.prop(settings, "model")
    row = layout.row(align=True)
    row.prop(settings, "takes")
    part = row.row(align=True)
    part.active = settings.lock_seed
    part.prop(settings, "seed")
    row.prop(settings, "lock_seed", text="", icon="LOCKED" if settings.lock_seed else "UNLOCKED")
    row = layout.row(align=True)
    row.prop(settings, "normalise")
    part = row.row(align=True)
    part.active = settings.normalise
    part.prop(settings, "loudness")


def _jobs(layout: Any, session: Any, uid: str, room: int) -> None:
    for job in session.open_jobs():
        _job(layout, job, named=job.target.uid != uid)
    last = session.last_job(uid) if uid else None
    if last is not None and last.state is State.FAILED:
        _lines(layout, last.line(), room, icon="ERROR")


def _job(layout: Any, job: Job, *, named: bool) -> None:
    row = layout.row(align=True)
    text = "Cancelling …" if job.cancel_wanted else job.line()
    row.progress(factor=job.fraction, text=f"{job.target.name}: {text}" if named else text)
    row.operator("vatt.cancel", text="", icon="X").key = job.key


def _takes(layout: Any, scene: Any, uid: str) -> None:
    found = reading.placed_takes(scene, uid)
    if not found:
        return
    box = layout.box()
    box.label(text="Takes", icon="SOUND")
    for _, take in found:
        row = box.row(align=True)
        icon = "RADIOBUT_OFF" if take.muted else "RADIOBUT_ON"
        row.operator("vatt.pick_take", text=f"{take.name}  ·  {take.record.seed}", icon=icon).strip = take.name
        row.operator("vatt.mute_take", text="", icon="MUTE_IPO_ON" if take.muted else "MUTE_IPO_OFF").strip = take.name
        row.operator("vatt.remember_take", text="", icon="LOOP_BACK").strip = take.name
    heard = takes.picked([take for _, take in found])
    if heard is not None and len(found) > 1:
        box.operator("vatt.delete_other_takes", icon="TRASH").strip = heard.name


def _room(context: Any) -> int:
    """Characters that fit a line of the sidebar."""
    width = context.region.width / context.preferences.system.ui_scale if context.region else 0
    return max(24, int(width / 6.5) - 8)


def wrapped(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room) or [""]


def _lines(layout: Any, text: str, room: int, *, icon: str) -> None:
    """A sentence, broken into lines that fit the sidebar."""
    column = layout.column(align=True)
    for line in wrapped(text, room):
        column.label(text=line, icon=icon)
        icon = "BLANK1"


def _menu(self: Any, _context: Any) -> None:
    layout = self.layout
    layout.separator()
    layout.operator_context = "EXEC_DEFAULT"
    layout.operator("vatt.generate", icon="SOUND")
    layout.operator("vatt.suggest")
    layout.operator("vatt.another_take")
    layout.operator("vatt.regenerate_range")
    layout.operator("vatt.cancel", text="Cancel Generation")


MENUS = ("SEQUENCER_MT_context_menu", "SEQUENCER_MT_strip")


def register() -> None:
    bpy.utils.register_class(VATT_PT_sequencer)
    for name in MENUS:
        getattr(bpy.types, name).append(_menu)


def unregister() -> None:
    for name in MENUS:
        getattr(bpy.types, name).remove(_menu)
    bpy.utils.unregister_class(VATT_PT_sequencer)
