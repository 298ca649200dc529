from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.core.numbered_clips import number_picture, write_clip
from vatt_core.errors import BadMedia, BadRequest, ForbiddenPath, InputNotVisible, LimitsExceeded, VattError
from vatt_core.media.frames import read_frames
from vatt_core.media.opening import MediaLimits
from vatt_core.media.probe import clip_range, probe
from vatt_core.media.time_map import TimeMap
from vatt_core.media.waves import write_wave

RATES = [Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov", ".avi"])
def test_a_clip_is_described_exactly(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    info = probe(write_clip(tmp_path / f"clip{suffix}", frames=45, rate=rate))
    assert info.duration == 45 / rate
    assert info.frame_rate == rate
    assert info.frames in (None, 45)
    assert (info.width, info.height, info.rotation, info.shown_size) == (64, 48, 0, (64, 48))
    assert (info.codec, info.pixel_format, info.has_audio, info.partial) == ("h264", "yuv420p", False, False)
    assert info.path == tmp_path / f"clip{suffix}"


def test_sound_rotation_aspect_and_timecode(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "clip.mov",
        size=(96, 48),
        rotation=90,
        pixel_aspect=Fraction(4, 3),
        sound=True,
        metadata={"timecode": "01:02:03:04"},
    )
    info = probe(path)
    assert (info.has_audio, info.rotation, info.timecode) == (True, 270, "01:02:03:04")
    assert (info.width, info.height, info.shown_size) == (96, 48, (48, 128))
    assert info.frames == 50
    assert info.duration == 2


def test_the_start_of_the_stream(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "clip.ts", container_options={"output_ts_offset": "100"}))
    assert info.duration == 2
    assert info.start >= 100


def test_variable_rate(tmp_path: Path) -> None:
    pts = [0, 40, 90, 300, 310, 500, 1000, 1500]
    info = probe(write_clip(tmp_path / "clip.mp4", frames=8, pts=pts, time_base=Fraction(1, 1000)))
    assert Fraction(3, 2) < info.duration < Fraction(21, 10)
    assert info.frames == 8


def test_ten_bits_and_interlaced(tmp_path: Path) -> None:
    assert probe(write_clip(tmp_path / "clip.mp4", frames=5, pixel_format="yuv420p10le")).pixel_format == "yuv420p10le"
    options = {"flags": "+ildct+ilme"}
    assert probe(write_clip(tmp_path / "clip.mkv", frames=5, codec="mpeg2video", options=options)).interlaced


def test_a_long_sound_does_not_lengthen_the_picture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", frames=10, sound=True)
    with av.open(str(path)) as source, av.open(str(tmp_path / "long.mkv"), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("pcm_s16le", rate=8_000, layout="mono")
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = video
                target.mux(packet)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 40_000), np.int16), "s16", "mono")
        block.sample_rate, block.pts = 8_000, 0
        target.mux(audio.encode(block))
        target.mux(audio.encode())
    assert probe(tmp_path / "long.mkv").duration == Fraction(2, 5)


def test_what_is_no_clip_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputNotVisible):
        probe(tmp_path / "none.mp4")
    with pytest.raises(InputNotVisible):
        probe(tmp_path)
    with pytest.raises(InputNotVisible):
        probe("/dev/null")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputNotVisible):
        probe(tmp_path / "pipe.mp4")
    for nothing in ("", "a\0b", None):
        with pytest.raises(VattError):
            probe(nothing)  # type: ignore[arg-type]
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video " * 99), ("noise.mov", os.urandom(9_000))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadMedia):
            probe(tmp_path / name)


@pytest.mark.parametrize("kind", ["png", "jpg", "jpeg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("extension", [None, ".mp4"])
def test_still_pictures_are_refused(tmp_path: Path, kind: str, extension: str | None) -> None:
    path = tmp_path / f"picture{extension or '.' + kind}"
    Image.fromarray(number_picture(5)).save(path, format="jpeg" if kind == "jpg" else kind)
    with pytest.raises(BadMedia, match="still picture"):
        probe(path)
    with pytest.raises(BadMedia):
        read_frames(path, TimeMap.identity(0, 1), rate=5) if kind != "gif" else probe(path)


def test_sound_only(tmp_path: Path) -> None:
    wave = write_wave(tmp_path / "sound.wav", np.zeros(4_000), sample_rate=8_000)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8_000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for path in (wave, tmp_path / "sound.mp4"):
        with pytest.raises(BadMedia):
            probe(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_no_frames(tmp_path: Path, suffix: str) -> None:
    with av.open(str(tmp_path / f"clip{suffix}"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(BadMedia):
        probe(tmp_path / f"clip{suffix}")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".mp4", {}),
        (".mp4", {"movflags": "faststart"}),
        (".mp4", {"movflags": "frag_keyframe+empty_moov"}),
        (".mov", {}),
        (".mkv", {}),
        (".webm", {}),
        (".avi", {}),
        (".ts", {}),
    ],
)
def test_truncated_files_never_pass_silently(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    whole = write_clip(
        tmp_path / f"whole{suffix}", frames=60, codec=codec, container_options=options, sound=suffix != ".avi", group=10
    )
    assert not probe(whole).partial
    data = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    for part in (0.02, 0.2, 0.5, 0.8, 0.99, 0.999):
        length = int(len(data) * part)
        path.write_bytes(data[: length + (length % 188 == 0)])
        with pytest.raises(BadMedia):
            probe(path)
    path.write_bytes(data[:-1])
    with pytest.raises(BadMedia):
        probe(path)


def test_what_a_truncated_file_still_holds(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "whole.mkv", frames=100, size=(160, 120)).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) * 6 // 10])
    info = probe(path, allow_partial=True)
    assert info.partial
    assert Fraction(1) < info.duration < Fraction(4)


def test_lists_of_other_files_open_nothing(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", frames=25)
    shutil.copy(clip, tmp_path / "clip0.ts")
    lists = {
        "concat.mp4": f"ffconcat version 1.0\nfile '{clip.name}'\n",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip.name}\n#EXT-X-ENDLIST\n",
        "hls.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(BadMedia):
            probe(tmp_path / name)
    for name in (f"concat:{clip}", f"file:{clip}", f"subfile,,start,0,end,0,,:{clip}", "http://127.0.0.1:9/clip.mp4"):
        with pytest.raises(InputNotVisible):
            probe(name)


def test_limits(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5)
    for limits in (MediaLimits(file_bytes=50), MediaLimits(pixels=1_000)):
        with pytest.raises(LimitsExceeded):
            probe(clip, limits=limits)


def test_names_of_every_kind(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5)
    for name in ("ton ü 音 🎬.mp4", 'it\'s "quoted" & 100 %d.mp4', "-i.mp4", "a:b.mp4", "clip", "clip.png"):
        shutil.copy(clip, tmp_path / name)
        assert probe(tmp_path / name).duration == Fraction(1, 5)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5)
    clip.chmod(0)
    with pytest.raises(ForbiddenPath):
        probe(clip)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ForbiddenPath):
        probe(clip)


def test_ranges(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "clip.mp4", frames=50))
    assert clip_range(info) == TimeMap.identity(0, 2)
    assert clip_range(info, 0.1, "1.5") == TimeMap.identity(Fraction(1, 10), Fraction(3, 2))
    assert clip_range(info, "1/25") == TimeMap.identity(Fraction(1, 25), 2)
    assert clip_range(info, 1, 2.01).duration == 1  # rounded by an editor
    for start, end in [
        (float("nan"), 1), (0, float("nan")), (0, float("inf")), (-1, 1), (0, -1), (1, 1), (1.5, 1), (2, 3), (0, 3),
        (0, 0), (5, 6), ("x", 1), (None, "1e5"), (True, 2), ([], 1), (2, None), (0, 10**30),
    ]:  # fmt: skip
        with pytest.raises(BadRequest):
            clip_range(info, start, end)  # type: ignore[arg-type]


def test_a_range_that_cannot_be_says_which_of_its_ends_is_wrong(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "clip.mp4", frames=50))
    for start, end, field in [(-1, 1, "start"), (100, None, "start"), (2, 9, "start"), (0, 3, "end"), (0, -1, "end"),
                              (1, 1, "end")]:  # fmt: skip
        with pytest.raises(BadRequest) as caught:
            clip_range(info, start, end)
        assert caught.value.details["field"] == field, (start, end)
    with pytest.raises(BadRequest) as caught:
        clip_range(info, 100)
    assert "100 s to" not in caught.value.message and "2.000 s" in caught.value.message
