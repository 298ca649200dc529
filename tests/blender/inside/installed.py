"""The built zip is installed as a user would, in a Python that has nothing but Blender and what Blender asks for."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

asked = json.loads(os.environ["VATT_TEST"])
sys.path.append(asked["site"])

import bpy  # noqa: E402

LIBRARIES = ("zmq", "msgpack", "vatt_client")
answer = {"before": [name for name in LIBRARIES if importlib.util.find_spec(name)]}
bpy.ops.preferences.addon_enable(module="bl_pkg")
bpy.ops.extensions.package_install_files(repo="user_default", filepath=asked["zip"], enable_on_install=True)
answer["from"] = {name: str(importlib.import_module(name).__file__) for name in LIBRARIES}
runtime = importlib.import_module("bl_ext.user_default.vatt.runtime")
answer["problem"], answer["session"] = runtime.problem(), runtime.session() is not None
answer["operators"] = bpy.ops.vatt.generate.get_rna_type().identifier
bpy.ops.preferences.addon_disable(module="bl_ext.user_default.vatt")
Path(asked["answer"]).write_text(json.dumps(answer))
os._exit(0)  # Blender as a module may wait for ever in its own clean-up
