"""Clips of the world on disk: exact rates, whole files, and typed refusals."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.core.small_files import small_files
from vatt_core.errors import BadRequest, DiskFull
from vatt_core.world import write
from vatt_core.world.picture import render
from vatt_core.world.scene import describe


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001), Fraction(25, 2)])
def test_exact_frames_and_rate(tmp_path: Path, fps: Fraction) -> None:
    scene = describe(4, kind="ball", layout="single", seconds=2.0)
    told = write.write_clip(scene, tmp_path / "clip.mp4", fps=fps, size=64)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert stream.average_rate == fps
        assert (stream.width, stream.height, stream.codec_context.pix_fmt) == (64, 64, "yuv420p")
    assert len(frames) == told["frames"] == round(2 * fps)
    assert [frame.pts * frame.time_base for frame in frames] == [index / fps for index in range(len(frames))]
    true = render(scene, [float(index / fps) for index in range(len(frames))], size=64).astype(int)
    read = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)
    assert np.abs(true - read).mean() < 8
    assert not list(tmp_path.glob(".*"))


def test_the_same_bytes_again(tmp_path: Path) -> None:
    scene = describe(6, kind="fire", layout="single", seconds=1.0)
    written = set()
    for _ in range(3):
        write.write_clip(scene, tmp_path / "clip.mp4", size=96)
        written.add((tmp_path / "clip.mp4").read_bytes())
    assert len(written) == 1


def test_description_beside_the_clip(tmp_path: Path) -> None:
    scene = describe(8, kind="drum", seconds=1.0)
    told = write.write_clip(scene, tmp_path / "clip.mp4", fps=Fraction(30000, 1001), size=64)
    read = json.loads((tmp_path / "clip.json").read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(told))
    assert read["caption"] == scene.caption and read["event_times"] == list(scene.event_times)
    assert (Fraction(read["fps"]), read["size"], read["frames"]) == (Fraction(30000, 1001), 64, 30)


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "aac"), ("clip.mov", "pcm_s16le")])
def test_true_sound(tmp_path: Path, name: str, codec: str) -> None:
    scene = describe(4, kind="hammer", layout="single", seconds=2.0)
    write.write_clip(scene, tmp_path / name, size=64, with_sound=True)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.audio[0].codec_context.name.startswith(codec)
        parts = [frame.to_ndarray().astype(float).ravel() for frame in container.decode(audio=0)]
    wave = np.concatenate(parts)
    assert len(wave) == pytest.approx(2 * write.SOUND_RATE, abs=3000)
    if codec == "pcm_s16le":
        assert len(wave) == 2 * write.SOUND_RATE
    assert np.abs(wave).max() > 0


def test_what_training_sees() -> None:
    scene = describe(12, kind="engine", layout="single", seconds=2.0)
    seen = write.compressed_frames(scene)
    assert seen.shape == (40, 64, 64, 3) and seen.dtype == np.uint8
    assert all(np.array_equal(seen, write.compressed_frames(scene)) for _ in range(6))
    clean = render(scene, [index / 20 for index in range(40)])
    difference = np.abs(seen.astype(int) - clean).mean(axis=(1, 2, 3))
    assert (difference > 0).all() and difference.max() < 20
    # Each picture is that of its own instant, not of a neighbour's.
    shifted = np.abs(seen[1:].astype(int) - clean[:-1]).mean()
    assert shifted > difference[1:].mean()


def test_rates_as_people_write_them() -> None:
    assert write.parse_rate("24") == 24
    assert write.parse_rate("29.97") == Fraction(30000, 1001)
    assert write.parse_rate("23.976") == Fraction(24000, 1001)
    assert write.parse_rate("30000/1001") == Fraction(30000, 1001)
    assert write.parse_rate("12.5") == Fraction(25, 2)
    for bad in ("", "fast", "0", "-5", "1/0", "nan", "1000"):
        with pytest.raises(BadRequest):
            write.parse_rate(bad)


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    scene = describe(0, seconds=0.5)
    (tmp_path / "folder.mp4").mkdir()
    for path, options in (
        (tmp_path / "clip.avi", {}),
        (tmp_path / "no" / "clip.mp4", {}),
        (tmp_path / "folder.mp4", {}),
        (tmp_path / "clip.mp4", {"size": 65}),
        (tmp_path / "clip.mp4", {"fps": Fraction(0)}),
    ):
        with pytest.raises(BadRequest):
            write.write_clip(scene, path, **options)  # type: ignore[arg-type]

    for most in (1_000, 5_000):  # the description is full, or the clip
        with pytest.raises(DiskFull), small_files(most):
            write.write_clip(scene, tmp_path / "clip.mp4", size=320)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]
