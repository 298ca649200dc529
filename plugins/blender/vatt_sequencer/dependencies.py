"""Whether the wheels that the extension carries work on this Python. Pure: no bpy."""

from __future__ import annotations

import sys


def problem() -> str | None:
    """None when the client can be imported, else one sentence for the user."""
    try:
        import msgpack  # noqa: F401
        import vatt_client  # noqa: F401
        import zmq  # noqa: F401
    except ImportError as error:
        version = ".".join(str(part) for part in sys.version_info[:2])
        return (
            f"This Blender runs Python {version} on {sys.platform}, for which the extension brings no fitting libraries "
            f"({error}). Install the extension's zip for this platform, on a Blender from blender.org."
        )
    return None
