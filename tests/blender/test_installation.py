"""The zip that `make plugins` builds, installed by a real Blender whose Python has none of the libraries it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ZIPS = Path(__file__).parents[2] / "dist" / "blender"
CARRIED = ("zmq", "pyzmq", "msgpack", "vatt")

pytestmark = [pytest.mark.editors, pytest.mark.timeout(1600)]


def test_zip_brings_all_it_needs(blender: Any, tmp_path: Path) -> None:
    extension = next(ZIPS.glob("vatt-*-linux_x64.zip"), None)
    assert extension is not None, "make plugins"
    site = tmp_path / "site"
    site.mkdir()
    packages = next((blender.python.parents[1] / "lib").glob("python3.*/site-packages"))
    for package in packages.iterdir():
        if not package.name.startswith(CARRIED):
            (site / package.name).symlink_to(package)
    answer = blender.run("installed.py", tmp_path, options=("-I", "-S"), site=str(site), zip=str(extension))
    assert answer["before"] == []
    for name, place in answer["from"].items():
        assert Path(place).is_relative_to(tmp_path / "blender"), name
    assert answer["problem"] == "" and answer["session"]
    assert answer["operators"] == "VATT_OT_generate"
