from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.core.numbered_clips import number_picture, read_number, read_numbers, write_clip
from vatt_core.errors import BadMedia, BadRequest, Cancelled, LimitsExceeded, VattError
from vatt_core.media.frames import read_frames
from vatt_core.media.opening import MediaLimits
from vatt_core.media.orientation import Orientation
from vatt_core.media.time_map import TimeMap

NTSC = Fraction(30000, 1001)
FILM = Fraction(24000, 1001)


def expected(time_map: TimeMap, rate: Fraction, times: list[Fraction]) -> list[int]:
    """By the formula: the last frame with pts <= source_at(k / rate), the first one before the first."""
    picked = []
    for k in range(math.ceil(time_map.duration * rate)):
        source = time_map.source_at(k / rate)
        picked.append(max((n for n, time in enumerate(times) if time <= source), default=0))
    return picked


def maps(duration: Fraction, frame: Fraction) -> list[TimeMap]:
    """A whole clip, a trim on frame borders, one inside, speed, freeze and reverse, far jumps, beyond the end."""
    return [
        TimeMap.identity(0, duration),
        TimeMap.identity(7 * frame, 31 * frame),
        TimeMap.identity(Fraction(7, 13), Fraction(17, 13)),
        TimeMap(((Fraction(0), Fraction(0)), (duration / 2, duration))),
        TimeMap(
            (
                (Fraction(0), Fraction(1)),
                (Fraction(1, 2), Fraction(1)),
                (Fraction(3, 2), 3 * frame),
                (Fraction(2), duration + 1),
            )
        ),
        TimeMap(((Fraction(0), duration), (duration, Fraction(0)))),
    ]


@pytest.mark.parametrize(
    ("suffix", "rate"),
    [
        *((".mp4", rate) for rate in (Fraction(24), Fraction(25), Fraction(30), NTSC, FILM, Fraction(60))),
        *((suffix, rate) for suffix in (".mkv", ".ts") for rate in (Fraction(24), NTSC)),
        (".mov", Fraction(25)),
        (".avi", FILM),
    ],
)
def test_the_frames_are_exactly_those_of_the_formula(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    count = 64
    path = write_clip(tmp_path / f"clip{suffix}", frames=count, rate=rate)
    times = [n / rate for n in range(count)]
    for time_map in maps(count / rate, 1 / rate):
        for wanted in (Fraction(5), Fraction(20), rate):
            frames = read_frames(path, time_map, rate=wanted)
            assert read_numbers(frames) == expected(time_map, wanted, times)


def test_a_long_clip_is_read_exactly_after_seeking(tmp_path: Path) -> None:
    count, rate = 1500, Fraction(25)
    times = [n / rate for n in range(count)]
    far = TimeMap(
        (
            (Fraction(0), Fraction(50)),
            (Fraction(1), Fraction(51)),
            (Fraction(2), Fraction(3)),
            (Fraction(3), Fraction(2)),
        )
    )
    late = TimeMap.identity(Fraction(4311, 100), Fraction(4411, 100))
    for suffix in (".mp4", ".mkv", ".ts"):
        path = write_clip(
            tmp_path / f"clip{suffix}", frames=count, rate=rate, group=60, options={"bf": "3", "preset": "ultrafast"}
        )
        for time_map in (far, late):
            assert read_numbers(read_frames(path, time_map, rate=10)) == expected(time_map, Fraction(10), times)


def test_open_groups_of_pictures_and_late_keyframes(tmp_path: Path) -> None:
    options = {"x264-params": "open-gop=1:bframes=5:b-adapt=0:keyint=20:min-keyint=20:scenecut=0"}
    times = [Fraction(n, 25) for n in range(200)]
    for suffix in (".mp4", ".ts", ".mkv"):
        path = write_clip(tmp_path / f"clip{suffix}", frames=200, options=options)
        for start in (Fraction(2), Fraction(79, 25), Fraction(16, 5), Fraction(81, 25), Fraction(399, 100)):
            time_map = TimeMap.identity(start, start + Fraction(1, 5))
            assert read_numbers(read_frames(path, time_map, rate=25)) == expected(time_map, Fraction(25), times)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(5)
    pts = np.concatenate([[0], np.cumsum(generator.integers(5, 400, 59))]).tolist()
    path = write_clip(tmp_path / f"clip{suffix}", frames=60, pts=pts, time_base=Fraction(1, 1000), group=9)
    times = [Fraction(value, 1000) for value in pts]
    for time_map in (
        TimeMap.identity(0, times[-1] + 1),
        TimeMap.identity(2, 3),
        TimeMap(((Fraction(0), times[-1]), (Fraction(4), Fraction(0)))),
    ):
        for rate in (Fraction(5), Fraction(20), NTSC):
            assert read_numbers(read_frames(path, time_map, rate=rate)) == expected(time_map, rate, times)


def test_time_counts_from_the_first_picture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "late.mp4", frames=40, pts=[100 + n for n in range(40)], time_base=Fraction(1, 25))
    stream = write_clip(tmp_path / "late.ts", frames=40, container_options={"output_ts_offset": "1000.5"})
    for clip in (path, stream):
        assert read_numbers(read_frames(clip, TimeMap.identity(0, 1), rate=25)) == list(range(25))
        assert read_numbers(read_frames(clip, TimeMap.identity(1, Fraction(8, 5)), rate=25)) == list(range(25, 40))


def test_frames_before_an_edit_list_are_not_shown(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", frames=40, group=40)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.pts -= 7 * 512
                packet.dts -= 7 * 512
                packet.stream = stream
                target.mux(packet)
    assert read_numbers(read_frames(cut, TimeMap.identity(0, 1), rate=25)) == list(range(7, 32))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, degrees: int) -> None:
    # What is shown is the upright number, so the stored picture is turned the other way.
    upright = [number_picture(n, 64, 48) for n in range(6)]
    stored = [np.ascontiguousarray(np.rot90(picture, -degrees // 90)) for picture in upright]
    size = (stored[0].shape[1], stored[0].shape[0])
    path = write_clip(tmp_path / "turned.mp4", frames=6, size=size, rotation=degrees, pictures=stored)
    frames = read_frames(path, TimeMap.identity(0, Fraction(6, 25)), rate=25)
    assert frames.shape == (6, 48, 64, 3)
    assert read_numbers(frames) == list(range(6))
    assert read_frames(path, TimeMap.identity(0, Fraction(1, 25)), rate=25, size=(40, 24)).shape == (1, 24, 40, 3)


def test_every_orientation_puts_each_corner_where_its_matrix_says() -> None:
    picture = np.arange(6).reshape(2, 3)
    one = 1 << 16
    for matrix in [(one, 0, 0, one), (-one, 0, 0, one), (one, 0, 0, -one), (-one, 0, 0, -one),
                   (0, one, one, 0), (0, one, -one, 0), (0, -one, one, 0), (0, -one, -one, 0)]:  # fmt: skip
        a, b, c, d = (value // one for value in matrix)
        shown = Orientation.from_matrix((matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 30)).apply(
            picture
        )
        points = {(a * x + c * y, b * x + d * y): picture[y, x] for y in range(2) for x in range(3)}
        left, top = min(x for x, _ in points), min(y for _, y in points)
        assert all(shown[y - top, x - left] == value for (x, y), value in points.items())


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "size"),
    [
        (".mp4", "libx264", "yuv420p10le", (64, 48)),
        (".mp4", "libx265", "yuv420p10le", (64, 48)),
        (".mp4", "libx264", "yuv444p", (65, 33)),
        (".mkv", "ffv1", "gray", (65, 33)),
        (".mkv", "ffv1", "gray16le", (63, 47)),
        (".mkv", "ffv1", "gbrp12le", (64, 48)),
        (".mkv", "ffv1", "yuva420p", (64, 48)),
        (".mov", "prores_ks", "yuva444p10le", (64, 48)),
        (".mov", "prores_ks", "yuv422p10le", (64, 48)),
        (".webm", "libvpx-vp9", "yuv420p", (64, 48)),
        (".mkv", "mjpeg", "yuvj420p", (64, 48)),
        (".mpg", "mpeg2video", "yuv420p", (64, 48)),
        (".gif", "gif", "rgb8", (64, 48)),
    ],
)
def test_pixel_formats(tmp_path: Path, suffix: str, codec: str, pixel_format: str, size: tuple[int, int]) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_clip(
        tmp_path / f"clip{suffix}", frames=30, codec=codec, pixel_format=pixel_format, size=size, options=options
    )
    frames = read_frames(path, TimeMap.identity(0, 1), rate=25)
    assert frames.shape == (25, size[1], size[0], 3)
    assert read_numbers(frames) == list(range(25))


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    picture = np.full((32, 64, 4), 255, np.uint8)
    picture[:, 32:, 3] = 0
    picture[16:, :, 3] //= 2
    path = write_clip(
        tmp_path / "clip.mkv",
        frames=2,
        size=(64, 32),
        codec="ffv1",
        pixel_format="bgra",
        pictures=[picture] * 2,
        picture_format="rgba",
    )
    frame = read_frames(path, TimeMap.identity(0, Fraction(1, 25)), rate=25)[0]
    assert frame[:16, :32].min() >= 254
    assert frame[:, 32:].max() == 0
    assert abs(int(frame[24, 8, 0]) - 127) <= 2


@pytest.mark.parametrize(("size", "space"), [((64, 48), "smpte170m"), ((64, 48), "bt709"), ((1280, 720), None)])
def test_colours_come_back(tmp_path: Path, size: tuple[int, int], space: str | None) -> None:
    colour = np.array([200, 60, 20], np.uint8)
    picture = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (size[1], size[0], 3)).copy(), format="rgb24")
    matrix = "ITU601" if space == "smpte170m" else "ITU709"
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"colorspace": space} if space else {})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(3):
            frame = picture.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = read_frames(path, TimeMap.identity(0, Fraction(1, 25)), rate=25)[0, size[1] // 2, size[0] // 2]
    assert np.abs(read.astype(int) - colour).max() <= 6


def test_interlaced_pictures_lose_their_comb(tmp_path: Path) -> None:
    pictures = []
    for number in range(30):
        picture = np.zeros((64, 128, 3), np.uint8)
        picture[0::2, 4 * number : 4 * number + 4] = 255  # the upper field: a bar on its way
        picture[1::2, 4 * number + 2 : 4 * number + 6] = 255  # the lower field: half a frame later
        pictures.append(picture)
    path = write_clip(
        tmp_path / "clip.mkv",
        frames=30,
        size=(128, 64),
        codec="mpeg2video",
        pictures=pictures,
        options={"flags": "+ildct+ilme", "qmin": "1", "b": "20M"},
    )
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert decoded[0].interlaced_frame
    frames = read_frames(path, TimeMap.identity(0, 1), rate=25)
    assert len(frames) == 25

    def comb(shown: np.ndarray) -> float:
        return float(np.abs(shown[5:20, 0::2].astype(int) - shown[5:20, 1::2]).mean())

    assert comb(frames) < 0.5 * comb(np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]))
    centres = [
        float((frame[:, :, 0].mean(0) * np.arange(128)).sum() / frame[:, :, 0].mean(0).sum()) for frame in frames[3:20]
    ]
    assert np.allclose(np.diff(centres), 4, atol=1)  # each picture at its own place, none shifted by the filter's delay


def test_sizes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=10, size=(96, 48), pixel_aspect=Fraction(2))
    time_map = TimeMap.identity(0, Fraction(1, 5))
    assert read_frames(path, time_map, rate=25).shape == (5, 48, 96, 3)
    squashed = read_frames(path, time_map, rate=25, size=(33, 77))
    assert squashed.shape == (5, 77, 33, 3)
    shaped = read_frames(path, time_map, rate=25, shortest_side=24)
    assert shaped.shape == (5, 24, 96, 3)
    assert read_numbers(squashed) == read_numbers(shaped) == list(range(5))
    for wrong in ({"size": (0, 4)}, {"shortest_side": 0}, {"size": (4, 4), "shortest_side": 4}, {"size": (1.5, 2)}):
        with pytest.raises(BadRequest):
            read_frames(path, time_map, rate=25, **wrong)
    for rate in (0, -1, 10**6):
        with pytest.raises(BadRequest):
            read_frames(path, time_map, rate=rate)


def test_limits_and_cancellation(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=50)
    time_map = TimeMap.identity(0, 2)
    for limits in (
        MediaLimits(pixels=64 * 48 - 1),
        MediaLimits(file_bytes=100),
        MediaLimits(decoded_frames=20),
        MediaLimits(output_bytes=64 * 48 * 3 * 49),
        MediaLimits(source_seconds=1),
    ):
        with pytest.raises(LimitsExceeded):
            read_frames(path, time_map, rate=25, limits=limits)
    asked: list[bool] = []
    with pytest.raises(Cancelled):
        read_frames(path, time_map, rate=25, cancelled=lambda: bool(asked.append(True)) or len(asked) > 3)
    assert len(asked) == 4


def test_a_damaged_middle_is_passed_over_and_rubbish_is_refused(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.ts", frames=100, size=(160, 120)).read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 300] = bytes(300)
    path = tmp_path / "damaged.ts"
    path.write_bytes(damaged)
    numbers = read_numbers(read_frames(path, TimeMap.identity(0, 4), rate=25))
    assert numbers[:20] == list(range(20))
    assert numbers[-1] >= 95
    path.write_bytes(np.random.default_rng(0).bytes(20_000))
    with pytest.raises(BadMedia):
        read_frames(path, TimeMap.identity(0, 1), rate=25)
    with pytest.raises(VattError):
        read_frames(tmp_path / "nowhere.mp4", TimeMap.identity(0, 1), rate=25)


def test_a_single_frame_is_held(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "one.mp4", frames=1)
    frames = read_frames(path, TimeMap.identity(0, 10), rate=5)
    assert len(frames) == 50
    assert {read_number(frame) for frame in frames} == {0}
