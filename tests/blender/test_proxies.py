"""A proxy shows what Blender shows: both are rendered for real, and compared picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_clips import number_picture
from PIL import Image

from vatt_core.media.frames import read_frames
from vatt_core.media.probe import probe
from vatt_core.media.time_map import TimeMap

pytestmark = [pytest.mark.editors, pytest.mark.timeout(1600)]

JPEG = 2.0
"""Mean difference of a picture and its copy as JPEG, of 255."""


def pictures(entry: dict[str, Any]) -> np.ndarray:
    """float32 [frames, 60, 80, 3]: what Blender rendered, small enough to compare each with each."""
    files = [Path(entry["folder"]) / f"f{frame:04d}.png" for frame in range(entry["first"], entry["last"])]
    return small(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))


def small(frames: np.ndarray) -> np.ndarray:
    """float32 [frames, 60, 80, 3], averaged over blocks of four by four pixels."""
    count, height, width, _ = frames.shape
    return frames.reshape(count, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4), dtype=np.float32)


def test_proxies_show_the_strip(blender: Any, numbered: Callable[[str], Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(30):
        Image.fromarray(number_picture(number + 1, 128, 96)).save(images / f"picture {number:03d}.png")
    results = blender.run(
        "proxies.py", tmp_path, film=str(numbered("24")), images=str(images), pictures=str(tmp_path / "pictures")
    )
    assert ("retimed" in results) == (blender.version >= (5, 1))
    assert ("composed" in results) == (blender.version >= (5, 2))
    wrong = {}
    for name, entry in results.items():
        shown = pictures(entry)
        duration = Fraction(len(shown), 24)
        assert entry["reason"] and entry["turns"] == len(shown), name
        assert entry["scenes"] == 0 and entry["untouched"], "the user's scenes are as they were"
        assert probe(entry["film"]).duration == duration
        seen = small(read_frames(entry["film"], TimeMap.identity(0, duration), rate=24))
        assert len(seen) == len(shown), name
        # [proxy's picture, Blender's picture]: none is nearer than the one of the same frame
        apart = np.abs(seen[:, None] - shown[None]).mean(axis=(2, 3, 4))
        assert len({picture.tobytes() for picture in shown}) > 8, name
        own = np.diagonal(apart)
        bad = np.flatnonzero((own > JPEG) | (own > apart.min(axis=1) + 0.2))
        if bad.size:
            wrong[name] = [(int(k), float(own[k]), int(apart[k].argmin())) for k in bad[:4]]
    assert not wrong, wrong
    reasons = [results[name]["reason"] for name in ("reversed", "strobed", "cropped", "modified")]
    assert len(set(reasons)) == len(reasons)
