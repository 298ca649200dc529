"""A proxy shows what Blender shows of the strip, alone, picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_clips import read_number, read_numbers
from PIL import Image

from vatt_core.media.frames import read_frames
from vatt_core.media.probe import probe
from vatt_core.media.time_map import TimeMap

pytestmark = [pytest.mark.editors, pytest.mark.timeout(1600)]


def test_proxies_show_the_strip(blender: Any, numbered: Callable[[str], Path], tmp_path: Path) -> None:
    results = blender.run("proxies.py", tmp_path, film=str(numbered("24")), pictures=str(tmp_path))
    assert set(results) == {"reversed", "strobed", "modified"}
    for name, entry in results.items():
        frames = range(entry["first"], entry["last"])
        files = [Path(entry["folder"]) / f"f{frame:04d}.png" for frame in frames]
        shown = [read_number(np.asarray(Image.open(file).convert("RGB"))) for file in files]
        duration = Fraction(len(frames), 24)
        assert entry["reason"] and entry["turns"] == len(frames), name
        assert probe(entry["film"]).duration == duration
        assert read_numbers(read_frames(entry["film"], TimeMap.identity(0, duration), rate=24)) == shown, name
        assert len(set(shown)) > 5, name
        assert (entry["scenes"], entry["muted"]) == (0, []), "the user's scene is as it was"
    assert results["reversed"]["reason"] != results["strobed"]["reason"]
