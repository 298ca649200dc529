"""The film that a proxy is written to is read by the daemon's decoder picture by picture, at the exact rate."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import pytest
from numbered_clips import number_picture, read_numbers
from PIL import Image
from vatt_sequencer.avi import AviWriter

from vatt_core.media.frames import read_frames
from vatt_core.media.probe import probe
from vatt_core.media.time_map import TimeMap


def jpeg(number: int, size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(number_picture(number, *size)).save(data, "JPEG", quality=85)
    return data.getvalue()


@pytest.mark.parametrize("rate", ["24", "25", "30", "60", "30000/1001", "24000/1001", "25/2"])
def test_every_picture_at_its_time(tmp_path: Path, rate: str) -> None:
    exact = Fraction(rate)
    writer = AviWriter(tmp_path / "film.avi", size=(160, 90), rate=exact)
    for number in range(37):
        writer.add(jpeg(number, (160, 90)))
    assert not (tmp_path / "film.avi").exists()
    film = writer.close()
    info = probe(film)
    assert (info.frame_rate, info.duration, info.shown_size) == (exact, 37 / exact, (160, 90))
    assert read_numbers(read_frames(film, TimeMap.identity(0, 37 / exact), rate=exact)) == list(range(37))
    half = TimeMap.identity(20 / exact, 30 / exact)
    assert read_numbers(read_frames(film, half, rate=exact)) == list(range(20, 30))


def test_discarded_film_leaves_nothing(tmp_path: Path) -> None:
    writer = AviWriter(tmp_path / "film.avi", size=(160, 90), rate=Fraction(24))
    writer.add(jpeg(1, (160, 90)))
    writer.discard()
    assert list(tmp_path.iterdir()) == []
