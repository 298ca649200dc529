"""What menus and panel do. No operator waits: each only hands something to the session."""

from __future__ import annotations

from typing import Any

import bpy
from bpy.props import StringProperty

from . import compat, jobs, proxy, reading, requests, runtime, takes
from .session import redraw

# Not REGISTER: its 'adjust last operation' panel would run a request again at every change.
UNDOABLE = {"UNDO"}


def preferences() -> Any:
    return bpy.context.preferences.addons[__package__].preferences


def meant_strips(context: Any) -> list[tuple[Any, Any]]:
    """(scene, strip) of the selected strips; for our own sounds the strip that they belong to. Each once."""
    scene = compat.edited_scene(context)
    found: dict[str, Any] = {}
    for strip in compat.selected_strips(scene) if scene else []:
        picture = reading.picture_strip(scene, strip)
        if picture is not None:
            found[picture.name] = picture
    return [(scene, strip) for strip in found.values()]


class Submitting:
    """One job for each selected strip."""

    kind = jobs.GENERATE
    bl_options = UNDOABLE

    @classmethod
    def poll(cls, context: Any) -> bool:
        if runtime.session() is None:
            cls.poll_message_set(runtime.problem() or "The extension is off")  # type: ignore[attr-defined]
            return False
        if not meant_strips(context):
            cls.poll_message_set("Select a strip with a picture")  # type: ignore[attr-defined]
            return False
        return True

    def order(self, scene: Any, strip: Any) -> requests.Order:
        return requests.generation(scene, strip)

    def execute(self, context: Any) -> set[str]:
        session = runtime.session()
        assert session is not None  # poll
        sent, problems = 0, []
        for scene, strip in meant_strips(context):
            try:
                order = self.order(scene, strip)
                requests.submit(session, scene, strip, self.kind, order, folder=preferences().output)
                sent += 1
            except (reading.CannotRead, proxy.ProxyFailed, requests.NoRange, requests.NoFolder, OSError) as error:
                problems.append(str(error))
        if problems:
            session.problem = problems[0]
            self.report({"ERROR" if not sent else "WARNING"}, problems[0])  # type: ignore[attr-defined]
        redraw()
        return {"FINISHED"} if sent else {"CANCELLED"}


class VATT_OT_generate(Submitting, bpy.types.Operator):
    """Make a soundtrack for each selected strip, as long as it and in step with what is seen"""

    bl_idname = "vatt.generate"
    bl_label = "Generate Soundtrack"


class VATT_OT_suggest(Submitting, bpy.types.Operator):
    """Ask for captions of each selected strip; choose one in the sidebar"""

    bl_idname = "vatt.suggest"
    bl_label = "Suggest Captions"
    kind = jobs.SUGGEST

    def order(self, scene: Any, strip: Any) -> requests.Order:
        return requests.suggestion(scene, strip)


class VATT_OT_another_take(Submitting, bpy.types.Operator):
    """One more soundtrack like the one that is heard, with another seed"""

    bl_idname = "vatt.another_take"
    bl_label = "Another Take"

    def order(self, scene: Any, strip: Any) -> requests.Order:
        return requests.another(scene, strip)


class VATT_OT_regenerate_range(Submitting, bpy.types.Operator):
    """Make the part between the preview range's or the selected markers' ends anew"""

    bl_idname = "vatt.regenerate_range"
    bl_label = "Regenerate Range"

    def order(self, scene: Any, strip: Any) -> requests.Order:
        return requests.regeneration(scene, strip)


class VATT_OT_cancel(bpy.types.Operator):
    """Cancel what is under way for the selected strips, or one job"""

    bl_idname = "vatt.cancel"
    bl_label = "Cancel"

    key: StringProperty(options={"SKIP_SAVE", "HIDDEN"})  # type: ignore[valid-type]

    @classmethod
    def poll(cls, _context: Any) -> bool:
        session = runtime.session()
        return session is not None and bool(session.open_jobs())

    def execute(self, context: Any) -> set[str]:
        session = runtime.session()
        assert session is not None  # poll
        uids = {str(strip.get(reading.UID, "")) for _, strip in meant_strips(context)} - {""}
        for job in session.open_jobs():
            if job.key == self.key if self.key else job.target.uid in uids:
                session.cancel(job)
        redraw()
        return {"FINISHED"}


class VATT_OT_start_daemon(bpy.types.Operator):
    """Start the daemon of this machine"""

    bl_idname = "vatt.start_daemon"
    bl_label = "Start Daemon"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        session = runtime.session()
        return session is not None and not session.daemon.running

    def execute(self, _context: Any) -> set[str]:
        session = runtime.session()
        assert session is not None  # poll
        session.start_daemon()
        redraw()
        return {"FINISHED"}


class VATT_OT_use_caption(bpy.types.Operator):
    """Take this caption as the prompt"""

    bl_idname = "vatt.use_caption"
    bl_label = "Use Caption"
    bl_options = UNDOABLE

    text: StringProperty(options={"HIDDEN"})  # type: ignore[valid-type]

    @classmethod
    def description(cls, _context: Any, properties: Any) -> str:
        return f"Take this caption as the prompt: {properties.text}"

    @classmethod
    def poll(cls, context: Any) -> bool:
        scene = compat.edited_scene(context)
        return reading.picture_strip(scene, compat.active_strip(scene)) is not None

    def execute(self, context: Any) -> set[str]:
        scene = compat.edited_scene(context)
        reading.picture_strip(scene, compat.active_strip(scene)).vatt_settings.prompt = self.text
        redraw()
        return {"FINISHED"}


class OnTake:
    """Works on one take, named by its sound strip."""

    bl_options = UNDOABLE

    def takes(self, context: Any) -> list[tuple[Any, takes.PlacedTake]]:
        """All takes of the strip whose take is named; empty when it is gone."""
        scene = compat.edited_scene(context)
        sound = next((strip for strip in compat.all_strips(scene) if strip.name == self.strip), None)  # type: ignore[attr-defined]
        record = takes.Record.from_text(sound.get(takes.PROPERTY)) if sound is not None else None
        return reading.placed_takes(scene, record.of) if record else []


class VATT_OT_pick_take(OnTake, bpy.types.Operator):
    """Hear this take, and mute the others of the same pictures"""

    bl_idname = "vatt.pick_take"
    bl_label = "Pick Take"

    strip: StringProperty(options={"HIDDEN"})  # type: ignore[valid-type]

    def execute(self, context: Any) -> set[str]:
        found = self.takes(context)
        if not found:
            return {"CANCELLED"}
        mutes = takes.only([take for _, take in found], self.strip)
        for sound, _ in found:
            sound.mute = mutes.get(sound.name, sound.mute)
        redraw()
        return {"FINISHED"}


class VATT_OT_mute_take(OnTake, bpy.types.Operator):
    """Mute this take, or hear it with the others"""

    bl_idname = "vatt.mute_take"
    bl_label = "Mute Take"

    strip: StringProperty(options={"HIDDEN"})  # type: ignore[valid-type]

    def execute(self, context: Any) -> set[str]:
        for sound, _ in self.takes(context):
            if sound.name == self.strip:
                sound.mute = not sound.mute
                redraw()
                return {"FINISHED"}
        return {"CANCELLED"}


class VATT_OT_delete_other_takes(OnTake, bpy.types.Operator):
    """Keep this take on the timeline and remove the others of the same pictures; their files stay"""

    bl_idname = "vatt.delete_other_takes"
    bl_label = "Delete Other Takes"

    strip: StringProperty(options={"HIDDEN"})  # type: ignore[valid-type]

    def execute(self, context: Any) -> set[str]:
        scene, found = compat.edited_scene(context), self.takes(context)
        if not found:
            return {"CANCELLED"}
        sounds = {sound.name: sound for sound, _ in found}
        for name, other in takes.only([take for _, take in found], self.strip).items():
            if other:
                compat.strips_of(compat.holder_of(scene, sounds[name])).remove(sounds[name])
            else:
                sounds[name].mute = False
        redraw()
        return {"FINISHED"}


class VATT_OT_remember_take(OnTake, bpy.types.Operator):
    """Take over how this take was made: prompt, model, seed, loudness"""

    bl_idname = "vatt.remember_take"
    bl_label = "Use This Take's Settings"

    strip: StringProperty(options={"HIDDEN"})  # type: ignore[valid-type]

    def execute(self, context: Any) -> set[str]:
        scene = compat.edited_scene(context)
        found = [take for _, take in self.takes(context) if take.name == self.strip]
        if not found:
            return {"CANCELLED"}
        record = found[0].record
        strip = next((other for other in compat.all_strips(scene) if other.get(reading.UID) == record.of), None)
        if strip is not None:
            strip.vatt_settings.prompt = record.request.get("prompt", "") or record.caption
            strip.vatt_settings.negative_prompt = record.request.get("negative_prompt", "")
        settings, loudness = scene.vatt_settings, record.request.get("loudness")
        settings.model = record.model or settings.model
        settings.seed, settings.lock_seed, settings.takes = record.seed % 2**31, record.seed < 2**31, 1
        settings.normalise = loudness is not None
        if loudness is not None:
            settings.loudness = loudness
        redraw()
        return {"FINISHED"}


CLASSES = (
    VATT_OT_generate,
    VATT_OT_suggest,
    VATT_OT_another_take,
    VATT_OT_regenerate_range,
    VATT_OT_cancel,
    VATT_OT_start_daemon,
    VATT_OT_use_caption,
    VATT_OT_pick_take,
    VATT_OT_mute_take,
    VATT_OT_delete_other_takes,
    VATT_OT_remember_take,
)


def register() -> None:
    for kind in CLASSES:
        bpy.utils.register_class(kind)


def unregister() -> None:
    for kind in reversed(CLASSES):
        bpy.utils.unregister_class(kind)
