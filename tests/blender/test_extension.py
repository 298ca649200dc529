"""What the extension is made of, without Blender."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).parents[2] / "plugins" / "blender"
PURE = ["mapping", "channels", "takes", "jobs", "targets", "avi", "dependencies", "daemon_thread"]


@pytest.fixture(scope="module")
def build() -> Any:
    spec = importlib.util.spec_from_file_location("build_extension", PLUGIN / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pure_modules_need_neither_blender_nor_libraries() -> None:
    code = f"import sys; sys.path.insert(0, {str(PLUGIN)!r})\n"
    code += "".join(f"import vatt_sequencer.{name}\n" for name in PURE)
    code += "assert not {'bpy', 'zmq', 'msgpack', 'vatt_client'} & set(sys.modules)"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_python_without_fitting_libraries_is_told() -> None:
    code = f"import sys; sys.path.insert(0, {str(PLUGIN)!r})\n"
    code += "from vatt_sequencer.dependencies import problem; print(problem())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in done.stdout


def test_manifest_keeps_blenders_rules(build: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(b"")
    build.stage(tmp_path / "vatt", [wheel], ["linux-x64"])
    manifest = tomllib.loads((tmp_path / "vatt" / "blender_manifest.toml").read_text())
    assert manifest["version"] == build.version() and manifest["platforms"] == ["linux-x64"]
    assert manifest["blender_version_min"] == "4.2.0"
    for text in (*manifest["permissions"].values(), manifest["tagline"]):
        assert len(text) <= 64 and text[-1].isalnum()
    for name in manifest["wheels"]:
        assert (tmp_path / "vatt" / name).is_file()
    assert len(manifest["wheels"]) == 2 and (tmp_path / "vatt" / "__init__.py").is_file()


def test_client_goes_along_as_a_sound_wheel(build: Any, tmp_path: Path) -> None:
    wheel = build.client_wheel(tmp_path)
    assert build.client_wheel(tmp_path).read_bytes() == wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        listed = archive.read(next(name for name in archive.namelist() if name.endswith("RECORD"))).decode()
        for name, digest, size in csv.reader(listed.splitlines()):
            if digest:
                data = archive.read(name)
                found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={found}", len(data))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import vatt_client; print(vatt_client.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path))
