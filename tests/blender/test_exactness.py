"""The daemon sees the pictures that Blender shows: both are rendered and decoded for real, and compared by number."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_clips import read_number, read_numbers
from PIL import Image

from vatt_core.media.frames import read_frames
from vatt_core.media.time_map import TimeMap

pytestmark = [pytest.mark.editors, pytest.mark.timeout(1600)]

RATES = ("24", "25", "30", "60", "30000/1001", "24000/1001")
SCENES = {rate: (round(Fraction(rate)), 1.0 if "/" not in rate else 1.001) for rate in RATES}
TRIMS = [
    {"left": 5, "right": 3, "hold": 0},
    {"left": -3, "right": -4, "hold": 7},  # handles pulled out: the first and the last picture stand
]


def shown(entry: dict[str, Any]) -> list[int]:
    """Numbers of the pictures that Blender rendered."""
    files = [Path(entry["folder"]) / f"f{frame:04d}.png" for frame in range(entry["first"], entry["last"])]
    return [read_number(np.asarray(Image.open(file).convert("RGB"))) for file in files]


def once_per_source_frame(numbers: list[int], entry: dict[str, Any]) -> list[int]:
    """From 5.0 on Blender keeps one picture for each whole source position, the first that it showed there.

    It matters only where a slower file's pictures are repeated: 0.8 shows picture 0 again although 1 is nearer.
    """
    kept: dict[int, int] = {}
    rate = Fraction(entry["clip"]) / Fraction(entry["scene"]) if entry["adjust"] else Fraction(1)
    return [kept.setdefault(math.floor(max(0, entry["offset"] + k) * rate), number) for k, number in enumerate(numbers)]


@pytest.mark.parametrize("trim", TRIMS, ids=["trimmed", "pulled out"])
def test_daemon_sees_what_blender_shows(
    blender: Any, numbered: Callable[[str], Path], tmp_path: Path, trim: dict[str, int]
) -> None:
    entries = blender.run(
        "exactness.py",
        tmp_path,
        pictures=str(tmp_path),
        scenes=SCENES,
        clips={rate: str(numbered(rate)) for rate in RATES},
        trims=[trim],
    )
    assert len(entries) == 2 * len(RATES) ** 2
    wrong = []
    for entry in entries:
        assert entry["map"], entry["proxy"]
        scene_rate = Fraction(entry["scene"])
        time_map = TimeMap.from_list(entry["map"])
        assert time_map.duration == (entry["last"] - entry["first"]) / scene_rate
        seen = read_numbers(read_frames(entry["path"], time_map, rate=scene_rate))
        if blender.version >= (5, 0):
            seen = once_per_source_frame(seen, entry)
        if seen != shown(entry):
            pairs = [(k, a, b) for k, (a, b) in enumerate(zip(shown(entry), seen, strict=True)) if a != b]
            wrong.append((entry["scene"], entry["clip"], entry["adjust"], pairs[:5]))
    assert not wrong, wrong
