from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.core.numbered_clips import write_clip
from tests.core.small_files import small_files
from vatt_core.errors import BadMedia, BadRequest, DiskFull, ForbiddenPath, InputNotVisible, LimitsExceeded
from vatt_core.media.atomic import write_bytes
from vatt_core.media.opening import MediaLimits
from vatt_core.media.waves import fit_length, read_wave, resample, write_wave


def noise(samples: int = 12_345, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, samples).astype(np.float32)


@pytest.mark.parametrize(("bits", "subtype"), [(16, "PCM_16"), (24, "PCM_24"), (32, "FLOAT")])
@pytest.mark.parametrize("samples", [1, 7, 48_000, 65_536 * 2 + 1])
def test_the_file_has_exactly_the_samples(tmp_path: Path, bits: int, subtype: str, samples: int) -> None:
    wave = noise(samples)
    path = write_wave(tmp_path / "sound.wav", wave, sample_rate=48_000, bits=bits)
    info = soundfile.info(path)
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (samples, 48_000, 1, subtype)
    again = read_wave(path, sample_rate=48_000)
    assert again.dtype == np.float32
    assert again.shape == wave.shape
    assert np.abs(again - wave).max() <= {16: 2**-16, 24: 2**-24, 32: 0}[bits] + 1e-7
    assert os.listdir(tmp_path) == ["sound.wav"]


def test_channels_and_clipping(tmp_path: Path) -> None:
    wave = np.stack([np.linspace(-2, 2, 100), np.zeros(100), np.ones(100)]).astype(np.float32)
    for bits in (16, 24):
        data, _ = soundfile.read(
            write_wave(tmp_path / "sound.wav", wave, sample_rate=44_100, bits=bits), always_2d=True
        )
        assert data.shape == (100, 3)
        assert np.allclose(data.T, np.clip(wave, -1, 1), atol=2**-14)
    data, _ = soundfile.read(write_wave(tmp_path / "sound.wav", wave, sample_rate=44_100, bits=32))
    assert np.array_equal(data.T.astype(np.float32), wave)


def test_the_timecode_is_in_the_broadcast_chunk(tmp_path: Path) -> None:
    reference = 3600 * 48_000 * 10 + 12_345
    path = write_wave(
        tmp_path / "sound.wav", noise(), sample_rate=48_000, time_reference=reference, description="a thud"
    )
    data = path.read_bytes()
    at = data.index(b"bext") + 8
    assert data[at : at + 6] == b"a thud"
    assert int.from_bytes(data[at + 338 : at + 346], "little") == reference
    assert b"bext" not in write_wave(path, noise(), sample_rate=48_000).read_bytes()


def test_the_same_wave_makes_the_same_file(tmp_path: Path) -> None:
    files = [
        write_wave(tmp_path / f"{n}.wav", noise(), sample_rate=48_000, time_reference=5).read_bytes() for n in (0, 1)
    ]
    assert files[0] == files[1]


def test_dither_keeps_what_is_smaller_than_a_step(tmp_path: Path) -> None:
    quiet = (0.4 * 2**-15 * np.sin(np.arange(48_000) / 10)).astype(np.float32)
    plain = read_wave(write_wave(tmp_path / "plain.wav", quiet, sample_rate=48_000, bits=16), sample_rate=48_000)
    dithered = read_wave(
        write_wave(tmp_path / "d.wav", quiet, sample_rate=48_000, bits=16, dither=np.random.default_rng(1)),
        sample_rate=48_000,
    )
    assert not plain.any()
    assert np.corrcoef(dithered, quiet)[0, 1] > 0.2
    assert np.abs(dithered - quiet).max() <= 1.51 * 2**-15


@pytest.mark.parametrize(("source", "target"), [(16_000, 48_000), (44_100, 48_000), (48_000, 16_000), (8_000, 8_000)])
def test_resampling_keeps_time_and_length(source: int, target: int) -> None:
    samples = source + 13
    tone = np.sin(2 * np.pi * 440 * np.arange(samples) / source).astype(np.float32)
    wave = resample(tone, source, target)
    assert wave.shape == (round(samples * target / source),)
    true = np.sin(2 * np.pi * 440 * np.arange(len(wave)) / target)
    assert np.abs(wave - true)[500:-500].max() < 1e-3
    assert resample(np.stack([tone, tone]), source, target).shape == (2, len(wave))
    assert resample(tone[:0], source, target).shape == (0,)


def test_fit_length() -> None:
    wave = noise(10)
    assert np.array_equal(fit_length(wave, 4), wave[:4])
    assert np.array_equal(fit_length(wave, 12), np.append(wave, [0, 0]).astype(np.float32))
    assert fit_length(np.stack([wave, wave]), 11).shape == (2, 11)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts"])
def test_sound_is_read_out_of_videos(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    path = write_clip(tmp_path / f"clip{suffix}", frames=25, codec=codec, sound=True)
    wave = read_wave(path, sample_rate=48_000)
    assert abs(len(wave) - 48_000) <= 2_048
    tone = np.sin(np.arange(48_000) / 20) / 4
    if suffix == ".ts":  # states no encoder delay
        assert abs(wave[4_000:40_000].std() - tone.std()) < 0.01
    else:
        assert np.abs(wave[4_000:40_000] - tone[4_000:40_000]).max() < 0.05
    assert abs(len(read_wave(path, sample_rate=16_000)) * 3 - len(wave)) <= 3


def test_what_holds_no_sound_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5)
    text = tmp_path / "text.wav"
    text.write_text("no sound at all " * 50)
    long = write_wave(tmp_path / "long.wav", noise(30_000), sample_rate=8_000)
    with pytest.raises(BadMedia):
        read_wave(clip, sample_rate=16_000)
    with pytest.raises(BadMedia):
        read_wave(text, sample_rate=16_000)
    with pytest.raises(InputNotVisible):
        read_wave(tmp_path / "none.wav", sample_rate=16_000)
    with pytest.raises(LimitsExceeded):
        read_wave(long, sample_rate=16_000, limits=MediaLimits(sound_seconds=3))


def test_waves_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    write_wave(path, noise(), sample_rate=48_000)
    before = path.read_bytes()
    for wave in (np.array([0, np.nan]), np.array([np.inf]), np.zeros(0), np.zeros((2, 2, 2)), np.zeros(4, np.int16)):
        with pytest.raises(BadRequest):
            write_wave(path, wave, sample_rate=48_000)
    for options in (
        {"sample_rate": 0},
        {"sample_rate": 48_000, "bits": 20},
        {"sample_rate": 48_000, "time_reference": -1},
    ):
        with pytest.raises(BadRequest):
            write_wave(path, noise(), **options)
    with pytest.raises(BadRequest):
        write_wave(tmp_path / "nowhere" / "sound.wav", noise(), sample_rate=48_000)
    with pytest.raises(BadRequest):
        write_wave(tmp_path, noise(), sample_rate=48_000)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["sound.wav"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_wave(tmp_path / "sound.wav", noise(100), sample_rate=48_000)
    before = path.read_bytes()
    with pytest.raises(DiskFull), small_files(10_000):
        write_wave(path, noise(100_000), sample_rate=48_000)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["sound.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_closed_folder_is_told_apart(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(ForbiddenPath):
            write_wave(tmp_path / "sound.wav", noise(), sample_rate=48_000)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_permission_errors_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ForbiddenPath):
        write_bytes(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())


def test_names_of_every_kind(tmp_path: Path) -> None:
    for name in ("ton ü 音 🎬.wav", 'it\'s "quoted" & 100 %d.wav', "-.wav", "a" * 200 + ".wav"):
        path = write_wave(tmp_path / name, noise(), sample_rate=48_000)
        assert len(read_wave(path, sample_rate=48_000)) == 12_345
