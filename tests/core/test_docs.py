"""What the pages point at is there, and the listening examples of docs/sound.md can be heard and are all named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from vatt_core.media.waves import read_sound

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
SOUND = ROOT / "docs" / "sound"


def links(page: Path) -> set[str]:
    """The relative targets of a page's links and pictures, without anchors."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return {target.partition("#")[0] for target in found if not re.match(r"\w+:|#", target)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_at_is_there(page: Path) -> None:
    assert [target for target in sorted(links(page)) if not (page.parent / target).exists()] == []


def test_every_example_is_named_and_can_be_heard() -> None:
    """`python docs/sound/make.py` writes them."""
    named = {Path(target).name for target in links(ROOT / "docs" / "sound.md") if target.startswith("sound/")}
    there = {path.name for path in SOUND.iterdir() if path.suffix in (".mp4", ".flac", ".png")}
    assert there == named
    heard = [SOUND / name for name in sorted(named) if not name.endswith(".png")]
    assert len(heard) >= 3
    for path in heard:
        rate, wave = read_sound(path)
        assert len(wave) > rate and np.abs(wave).max() > 0.01, path.name
