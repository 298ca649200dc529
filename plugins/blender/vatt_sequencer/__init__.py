"""VATT in Blender's video sequencer: captions and soundtracks for the selected strips, made by the daemon of this machine.

mapping, channels, takes, jobs, targets, avi and connection import no bpy. What touches Blender is imported on register().
"""


def register() -> None:
    from . import registration

    registration.register()


def unregister() -> None:
    from . import registration

    registration.unregister()
