from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vatt_core.errors import BadRequest
from vatt_core.media.preview import write_preview
from vatt_core.media.spool import Held


def preview(
    path: Path, *, seconds: float = 4, onsets: tuple[float, ...] = (), level: float = 0.5, **options: object
) -> np.ndarray:
    frames = np.full((20, 36, 64, 3), 90, np.uint8)
    frames[10:] = 200
    wave = np.zeros(round(seconds * 16_000), np.float32)
    for onset in onsets:
        wave[round(onset * 16_000) :][:800] = level
    arguments = {
        "frame_times": [Fraction(n, 20) * Fraction(seconds) for n in range(20)],
        "sound": Held(wave, 16_000),
        "onsets": onsets,
        "title": "a ball hits the floor",
    } | options
    write_preview(path, frames, **arguments)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def orange(picture: np.ndarray) -> np.ndarray:
    """Columns that an onset line goes through from top to bottom."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return np.flatnonzero(((red > 180) & (green > 110) & (blue < 150) & (red - blue > 80)).mean(axis=0) > 0.5)


def test_onsets_stand_on_one_axis_at_their_times(tmp_path: Path) -> None:
    columns = orange(preview(tmp_path / "p.png", onsets=(1.0, 2.0, 3.0)))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 3) + 1)
    centres = [group.mean() for group in groups]
    assert len(centres) == 3
    assert np.allclose(np.diff(centres), np.diff(centres)[0], atol=2)
    # The bursts of 50 ms stand where the lines of their onsets do.
    silent = preview(tmp_path / "p.png", onsets=(1.0, 2.0, 3.0), level=0.0)
    loud = preview(tmp_path / "p.png", onsets=(1.0, 2.0, 3.0))
    second = centres[1] - centres[0]
    changed = np.flatnonzero((silent != loud).any(axis=2).mean(axis=0) > 0.05)
    changed = changed[changed > centres[0] - second]  # left of that the numbers of the level's axis
    bursts = np.split(changed, np.flatnonzero(np.diff(changed) > 3) + 1)
    assert len(bursts) == 3
    for centre, burst in zip(centres, bursts, strict=True):
        assert abs(burst.mean() - (centre + 0.025 * second)) < 0.03 * second
    assert not len(orange(preview(tmp_path / "p.png")))
    assert os.listdir(tmp_path) == ["p.png"]


def test_cuts_are_drawn_apart_from_onsets(tmp_path: Path) -> None:
    plain, cut = preview(tmp_path / "a.png"), preview(tmp_path / "b.png", cuts=(2.0,))
    other = np.flatnonzero((plain != cut).any(axis=(0, 2)))
    assert 0 < len(other) < 8 and not len(orange(cut))


def test_the_same_input_makes_the_same_picture(tmp_path: Path) -> None:
    assert np.array_equal(preview(tmp_path / "a.png", onsets=(1.0,)), preview(tmp_path / "b.png", onsets=(1.0,)))


@pytest.mark.parametrize("title", ["", "costs $5 and $x^2", "ein Ball, 音, 🎬 \\frac", "long " * 100, "two\nlines"])
def test_any_title(tmp_path: Path, title: str) -> None:
    assert preview(tmp_path / "p.png", title=title).std() > 5


@pytest.mark.parametrize("seconds", [0.01, 0.3, 60])
def test_any_length(tmp_path: Path, seconds: float) -> None:
    assert preview(tmp_path / "p.png", seconds=seconds, onsets=(0.0, seconds / 2, seconds + 5)).std() > 5


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 500, 40), (2, 30, 900)])
def test_any_picture_shape(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    frames = np.full((*shape, 3), 120, np.uint8)
    wave = np.random.default_rng(0).uniform(-1, 1, 48_000)
    write_preview(tmp_path / "p.png", frames, frame_times=np.arange(shape[0]) / 5, sound=Held(wave, 48_000))
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_no_global_figure_state(tmp_path: Path) -> None:
    preview(tmp_path / "p.png")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_refusals(tmp_path: Path) -> None:
    for options in ({"frame_times": [0.0]}, {"sound": Held(np.zeros(0), 16_000)}):
        with pytest.raises(BadRequest):
            preview(tmp_path / "p.png", **options)
    assert not list(tmp_path.iterdir())
