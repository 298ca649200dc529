"""What is saved with the file: a strip's prompts and captions, a scene's choices. And the add-on's preferences."""

from __future__ import annotations

import json
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from . import compat, runtime


class VattStripSettings(bpy.types.PropertyGroup):
    """On every strip, as `vatt_settings`."""

    prompt: StringProperty(  # type: ignore[valid-type]
        name="Prompt", description="What shall be heard. Empty: the model's best caption", maxlen=1000
    )
    negative_prompt: StringProperty(  # type: ignore[valid-type]
        name="Not", description="What shall not be heard", maxlen=1000
    )
    captions: StringProperty(options={"HIDDEN"})  # type: ignore[valid-type]


def _models(_self: Any, _context: Any, _text: str) -> list[str]:
    session = runtime.session()
    return list(session.daemon.models) if session else []


class VattSceneSettings(bpy.types.PropertyGroup):
    """On every scene, as `vatt_settings`."""

    model: StringProperty(name="Model", default="nano", search=_models)  # type: ignore[valid-type]
    lock_seed: BoolProperty(  # type: ignore[valid-type]
        name="Lock Seed", description="The same seed each time: the same request gives the same sound"
    )
    seed: IntProperty(name="Seed", min=0, max=2**31 - 1)  # type: ignore[valid-type]
    takes: IntProperty(name="Takes", default=1, min=1, max=16)  # type: ignore[valid-type]
    captions: IntProperty(name="Captions", default=3, min=1, max=16)  # type: ignore[valid-type]
    normalise: BoolProperty(  # type: ignore[valid-type]
        name="Loudness", default=True, description="Bring the sound to this loudness; off: leave it as made"
    )
    loudness: FloatProperty(name="LUFS", default=-23.0, min=-70.0, max=0.0, precision=1)  # type: ignore[valid-type]


class VattPreferences(bpy.types.AddonPreferences):
    bl_idname = __package__

    side: EnumProperty(  # type: ignore[valid-type]
        name="Place Sounds",
        items=[("BELOW", "Below the strip", ""), ("ABOVE", "Above the strip", "")],
        default="BELOW",
        description="Where the first free channel is looked for; the other side follows",
    )
    output: StringProperty(  # type: ignore[valid-type]
        name="Folder",
        subtype="DIR_PATH",
        description="Where sounds are written. Empty: 'vatt' beside the saved file",
    )
    command: StringProperty(  # type: ignore[valid-type]
        name="vatt Command", subtype="FILE_PATH", description="Empty: look for it in the usual places"
    )
    autostart: BoolProperty(  # type: ignore[valid-type]
        name="Start the Daemon When Needed", default=True
    )

    @property
    def below(self) -> bool:
        return bool(self.side == "BELOW")

    def draw(self, _context: Any) -> None:
        layout = self.layout
        layout.use_property_split = True
        for name in ("side", "output", "command", "autostart"):
            layout.prop(self, name)


def captions_of(strip: Any) -> list[str]:
    """The captions that were suggested for a strip, best first."""
    try:
        return [str(item["text"]) for item in json.loads(strip.vatt_settings.captions or "[]")]
    except (ValueError, TypeError, KeyError):
        return []


CLASSES = (VattStripSettings, VattSceneSettings, VattPreferences)


def register() -> None:
    for kind in CLASSES:
        bpy.utils.register_class(kind)
    compat.StripType.vatt_settings = PointerProperty(type=VattStripSettings)
    bpy.types.Scene.vatt_settings = PointerProperty(type=VattSceneSettings)


def unregister() -> None:
    del bpy.types.Scene.vatt_settings
    del compat.StripType.vatt_settings
    for kind in reversed(CLASSES):
        bpy.utils.unregister_class(kind)
