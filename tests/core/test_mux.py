from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.core.numbered_clips import read_number, read_numbers, write_clip
from tests.core.small_files import small_files
from vatt_core.errors import BadMedia, BadRequest, DiskFull
from vatt_core.media.frames import read_frames
from vatt_core.media.mux import mux_sound, muxed_suffix
from vatt_core.media.probe import probe
from vatt_core.media.time_map import TimeMap
from vatt_core.media.waves import Bits, read_wave, write_wave

RATE = 48_000


def clicks(path: Path, seconds: Fraction, frame: Fraction) -> Path:
    """A wave with one short click at the time of every tenth frame."""
    wave = np.zeros(round(seconds * RATE), np.float32)
    for number in range(0, int(seconds / frame), 10):
        wave[round(number * frame * RATE) :][:48] = 0.8 * np.sin(
            np.arange(len(wave[round(number * frame * RATE) :][:48]))
        )
    return write_wave(path, wave, sample_rate=RATE)


def heard(path: Path) -> list[Fraction]:
    """Times of the clicks on the container's clock."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        first = next(container.decode(stream))
        begin = first.pts * first.time_base
    wave = np.abs(read_wave(path, sample_rate=RATE))
    loud = np.flatnonzero(wave > 0.3)
    onsets = loud[np.insert(np.diff(loud) > 2_000, 0, True)]
    return [begin + Fraction(int(onset), RATE) for onset in onsets]


def seen(path: Path) -> list[tuple[Fraction, int]]:
    """(time on the container's clock, number) of every shown picture."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, read_number(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]


def coded(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    ("source", "target", "codec", "rate"),
    [
        (".mp4", ".mp4", "libx264", Fraction(30000, 1001)),
        (".mov", ".mov", "prores_ks", Fraction(24)),
        (".mkv", ".mkv", "libx264", Fraction(24)),
        (".mkv", ".mp4", "libx264", Fraction(25)),
        (".ts", ".mp4", "libx264", Fraction(25)),
        (".ts", ".mkv", "libx264", Fraction(25)),
        (".webm", ".webm", "libvpx-vp9", Fraction(25)),
        (".avi", ".mp4", "mpeg4", Fraction(25)),
        (".avi", ".mkv", "libx264", Fraction(25)),
        (".mkv", ".mkv", "ffv1", Fraction(25)),
    ],
)
def test_the_picture_is_copied_and_the_sound_is_in_sync(
    tmp_path: Path, source: str, target: str, codec: str, rate: Fraction
) -> None:
    pixel_format = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    clip = write_clip(tmp_path / f"clip{source}", frames=60, rate=rate, codec=codec, pixel_format=pixel_format)
    wave = clicks(tmp_path / "sound.wav", 60 / rate, 1 / rate)
    output = mux_sound(clip, wave, tmp_path / f"muxed{target}")
    pictures, sounds = seen(output), heard(output)
    assert [number for _, number in pictures] == list(range(60))
    assert len(sounds) == 6
    for index, time in enumerate(sounds):
        assert abs(time - pictures[10 * index][0]) < Fraction(2, 1000)
    if source == target and codec != "libvpx-vp9":
        assert coded(output) == coded(clip)
    length = len(read_wave(output, sample_rate=RATE))
    assert length == round(60 / rate * RATE) if target in (".mov", ".mkv") else abs(length - 60 / rate * RATE) < 1_100
    assert not probe(output).partial
    assert sorted(os.listdir(tmp_path)) == sorted([clip.name, "sound.wav", output.name])


@pytest.mark.parametrize("start", [0, 1, 17, 20, 23, 41])
@pytest.mark.parametrize(
    ("source", "target"), [(".mp4", ".mp4"), (".ts", ".mp4"), (".mkv", ".mov"), (".mp4", ".mkv"), (".ts", ".mkv")]
)
def test_a_range_keeps_sync(tmp_path: Path, source: str, target: str, start: int) -> None:
    rate, frames = Fraction(24), 30
    clip = write_clip(tmp_path / f"clip{source}", frames=90, rate=rate, group=20)
    wave = clicks(tmp_path / "sound.wav", frames / rate, 1 / rate)
    output = mux_sound(clip, wave, tmp_path / f"muxed{target}", start=start / rate, end=(start + frames) / rate)
    pictures, sounds = dict((number, time) for time, number in seen(output)), heard(output)
    assert len(sounds) == 3
    for index, time in enumerate(sounds):
        assert abs(time - pictures[start + 10 * index]) < Fraction(2, 1000)
    if target == ".mkv":  # begins at the keyframe before
        assert start - 20 < min(pictures) <= start
    else:  # begins exactly there
        assert min(pictures) == start
        numbers = read_numbers(read_frames(output, TimeMap.identity(0, frames / rate), rate=rate))
        assert numbers == list(range(start, start + frames))
    assert start + frames - 1 <= max(pictures) < start + frames + 6


def test_rotation_and_pixel_aspect_survive(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=10, rotation=90, pixel_aspect=Fraction(4, 3), sound=True)
    wave = clicks(tmp_path / "sound.wav", Fraction(2, 5), Fraction(1, 25))
    for suffix in (".mp4", ".mov", ".mkv"):
        before, after = probe(clip), probe(mux_sound(clip, wave, tmp_path / f"muxed{suffix}"))
        assert (after.rotation, after.pixel_aspect, after.shown_size) == (
            before.rotation,
            before.pixel_aspect,
            before.shown_size,
        )
        assert after.duration == before.duration
        assert after.has_audio


def test_odd_sounds_are_taken(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=25)
    for rate, channels in ((16_000, 1), (44_100, 2), (96_000, 1), (11_000, 1)):
        wave = np.random.default_rng(0).uniform(-0.1, 0.1, (channels, rate)).astype(np.float32)
        sound = write_wave(tmp_path / "sound.wav", wave, sample_rate=rate)
        for suffix in (".mp4", ".mov"):
            output = mux_sound(clip, sound, tmp_path / f"muxed{suffix}")
            assert abs(len(read_wave(output, sample_rate=RATE)) - RATE) < 3_200


def test_the_suffix_that_can_hold_the_picture() -> None:
    assert muxed_suffix("a.MOV", "prores") == ".mov"
    assert muxed_suffix("a.mp4", "h264") == ".mp4"
    assert muxed_suffix("a.ts", "h264") == ".mp4"
    assert muxed_suffix("a.avi", "ffv1") == ".mkv"
    assert muxed_suffix("a.webm", "vp9") == ".webm"


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames=10, codec="ffv1")
    wave = clicks(tmp_path / "sound.wav", Fraction(2, 5), Fraction(1, 25))
    before = sorted(os.listdir(tmp_path))
    for output, options in (
        ("o.mp4", {}),
        ("o.xyz", {}),
        ("clip.mkv", {}),
        ("nowhere/o.mkv", {}),
        ("o.mkv", {"start": 1, "end": 1}),
        ("o.mkv", {"start": float("nan")}),
        ("o.mkv", {"start": -1}),
    ):
        with pytest.raises(BadRequest):
            mux_sound(clip, wave, tmp_path / output, **options)
    for video, sound in ((clip, clip), (wave, wave)):
        with pytest.raises(BadMedia):
            mux_sound(video, sound, tmp_path / "o.mkv")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_full_disk(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=50)
    wave = write_wave(tmp_path / "sound.wav", np.random.default_rng(0).uniform(-1, 1, 2 * RATE), sample_rate=RATE)
    with pytest.raises(DiskFull), small_files(20_000):
        mux_sound(clip, wave, tmp_path / f"muxed{suffix}")
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "sound.wav"]


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mov", "libx264"), (".webm", "libvpx-vp9")])
def test_waves_of_every_depth_and_of_two_channels(tmp_path: Path, bits: Bits, suffix: str, codec: str) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}", frames=10, codec=codec)
    for channels in (1, 2):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, RATE * 2 // 5))
        wave = write_wave(tmp_path / "sound.wav", noise, sample_rate=RATE, bits=bits)
        with av.open(str(mux_sound(clip, wave, tmp_path / f"muxed{suffix}"))) as muxed:
            assert muxed.streams.audio[0].codec_context.layout.nb_channels == channels
            assert len(list(muxed.decode(video=0))) == 10
