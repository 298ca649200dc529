"""The files of a take, measured by another meter than the one that set their level. No model takes part."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest
import soundfile

from tests.core.numbered_clips import write_clip
from vatt_core.earlier import EarlierTake
from vatt_core.media.loudness import LoudnessMeter, integrated_loudness
from vatt_core.media.probe import clip_range, probe
from vatt_core.media.spool import Held, Spool
from vatt_core.media.watching import Watched
from vatt_core.regions import Splice
from vatt_core.requests import GenerateRequest, Take
from vatt_core.sidecar import read_sidecar
from vatt_core.takes import Composed, TakeWriter, resampled
from vatt_core.timing import Timing

RATES = ("24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60")
UNSEEN = Watched(Fraction(25), np.zeros(1, np.float32), (), np.zeros((1, 9, 16, 3), np.uint8), (Fraction(0),))
"""Pictures are for previews alone, and none is written here."""
MODEL = {"name": "none", "hash": "0", "device": "cpu"}


def sound(kind: str, seconds: float, rate: int = 16_000) -> np.ndarray:
    generator = np.random.default_rng(3)
    time = np.arange(round(seconds * rate)) / rate
    if kind == "tone":
        return 0.05 * np.sin(2 * np.pi * 440 * time)
    if kind == "noise":
        return 0.3 * generator.standard_normal(len(time))
    wave = np.zeros(len(time))  # hits
    for begin in range(rate // 3, len(time) - rate // 2, rate):
        wave[begin : begin + rate // 2] = generator.standard_normal(rate // 2) * np.exp(-np.arange(rate // 2) / 2_000)
    return wave


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    return write_clip(folder / "clip.mov", rate=25, frames=150, metadata={"timecode": "01:00:00:00"})


def deliver(clip: Path, folder: Path, wave: np.ndarray, **options: Any) -> Take:
    info = probe(clip)
    time_map = clip_range(info, options.pop("start", None), options.pop("end", None))
    request = GenerateRequest(clip, output=folder, prompt="x", **options)
    folder.mkdir(exist_ok=True)
    writer = TakeWriter(info, time_map, request, "x", UNSEEN, MODEL)
    with Spool(16_000, folder) as raw:
        raw.append(wave[: round(time_map.duration * 16_000)])
        return writer.write(Composed(1, raw, np.zeros((4, 9), np.int64), (), {}), [])


def measured(path: str) -> tuple[float, float]:
    """(LUFS, dBTP) by FFmpeg's ebur128 filter."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        graph = av.filter.Graph()
        source = graph.add_abuffer(template=stream)
        meter = graph.add("ebur128", "metadata=1:peak=true:dualmono=false")
        source.link_to(meter)
        meter.link_to(graph.add("abuffersink"))
        graph.configure()
        found: dict[str, str] = {}
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    found |= graph.pull().metadata
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    peaks = [float(value) for name, value in found.items() if name.startswith("lavfi.r128.true_peaks_ch")]
    return float(found["lavfi.r128.I"]), 20 * np.log10(max(peaks))


@pytest.mark.parametrize("kind", ["tone", "noise", "hits"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loudness": -16.0, "true_peak": -2.0, "bits": 16},
        {"container": "flac", "channels": 2},
        {"sample_rate": 44_100, "bits": 32},
    ],
)
def test_another_meter_finds_the_loudness_and_no_peak_above_the_limit(
    clip: Path, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    take = deliver(clip, tmp_path, sound(kind, 6), **options)
    loudness, peak = measured(take.wav)
    assert abs(loudness - options.get("loudness", -23.0)) <= 0.5
    assert peak <= options.get("true_peak", -1.0) + 0.1
    assert take.loudness is not None and abs(take.loudness - loudness) <= 0.2
    assert take.scores["peak"] is not None and abs(take.scores["peak"] - peak) <= 0.2
    info = soundfile.info(take.wav)
    assert (info.frames, info.samplerate) == (6 * take.sample_rate, options.get("sample_rate", 48_000))
    assert info.channels == options.get("channels", 1)
    assert info.format.startswith("FLAC" if options.get("container") == "flac" else "WAV")


def test_a_peak_instead_of_a_loudness_or_nothing_at_all(clip: Path, tmp_path: Path) -> None:
    peaked = deliver(clip, tmp_path, sound("hits", 6), peak=-6.0, loudness=None)
    assert abs(measured(peaked.wav)[1] + 6.0) <= 0.1
    wave = sound("tone", 6)
    as_made = deliver(clip, tmp_path, wave, loudness=None, fade=0.0, sample_rate=16_000, bits=32)
    assert np.array_equal(soundfile.read(as_made.wav, dtype="float32")[0], wave.astype(np.float32))


def test_what_is_set_into_an_earlier_take_keeps_its_gain_and_its_ceiling(clip: Path, tmp_path: Path) -> None:
    assert read_sidecar(Path(deliver(clip, tmp_path / "peak", sound("hits", 6), peak=-6.0).sidecar))["ceiling"] == -6.0
    codes = np.zeros((4, 300), np.int64)
    earlier = EarlierTake(Held(np.zeros(6 * 48_000, np.float32), 48_000), codes, gain=2.0, ceiling=-12.0)
    changed = np.zeros(300, bool)
    changed[100:200] = True
    old = (0, 6 * 48_000)
    splice = Splice.of(changed, timing=Timing(), sample_rate=48_000, border=480, old=old, lag=Fraction(0))
    info = probe(clip)
    request = GenerateRequest(clip, output=tmp_path, prompt="x")
    writer = TakeWriter(info, clip_range(info, None, None), request, "x", UNSEEN, MODEL, earlier)
    with Spool(16_000, tmp_path) as raw:
        raw.append(sound("noise", 6))
        take = writer.write(Composed(1, raw, codes, (), {}, splice=splice), [])
    wave = soundfile.read(take.wav)[0]
    assert not wave[:95_000].any() and np.abs(wave[96_000:192_000]).max() > 0.1
    assert measured(take.wav)[1] <= -11.9
    assert read_sidecar(Path(take.sidecar))["ceiling"] == -12.0  # for what is set into this one


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_both_channels_of_dual_mono_are_the_same_and_edges_fade(clip: Path, tmp_path: Path, bits: int) -> None:
    take = deliver(clip, tmp_path, sound("noise", 6), channels=2, fade=100.0, bits=bits)
    left, right = soundfile.read(take.wav)[0].T
    assert np.array_equal(left, right)
    level = [np.abs(left[at : at + 480]).mean() for at in (0, 2_400, 48_000, len(left) - 480)]
    assert level[0] < 0.05 * level[2] and level[0] < level[1] < level[2] and level[3] < 0.05 * level[2]


def test_sixteen_bits_are_dithered(clip: Path, tmp_path: Path) -> None:
    quiet = np.full(96_000, 0.4 / 2**15)
    take = deliver(clip, tmp_path, quiet, bits=16, loudness=None)
    found = soundfile.read(take.wav, dtype="int16")[0]
    assert found.std() > 0.5 and abs(found[4_800:-4_800].mean() - 0.4) < 0.05


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_gives_the_exact_length(tmp_path: Path, rate: str) -> None:
    path = write_clip(tmp_path / "clip.mov", rate=Fraction(rate), frames=47)
    offered = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
    first = RATES.index(rate)
    for sample_rate in {48_000, *(offered[(first * 3 + n) % len(offered)] for n in range(3))}:
        container = "flac" if sample_rate == 44_100 else "wav"
        take = deliver(path, tmp_path / "out", sound("noise", 3), sample_rate=sample_rate, container=container)
        expected = round(47 / Fraction(rate) * sample_rate)
        assert soundfile.info(take.wav).frames == take.samples == expected


@pytest.mark.parametrize(("timecode", "hours"), [("10:00:00:00", 1_000_000), ("10:00:00;00", None)])
def test_drop_and_non_drop_timecode(tmp_path: Path, timecode: str, hours: int | None) -> None:
    rate = Fraction(30_000, 1001)
    path = write_clip(tmp_path / "clip.mov", rate=rate, frames=30, metadata={"timecode": timecode})
    take = deliver(path, tmp_path / "out", sound("noise", 1))
    data = Path(take.wav).read_bytes()
    at = data.index(b"bext") + 8
    frames = 36_000 * 30 - (0 if hours else 2 * 9 * 60)
    assert int.from_bytes(data[at + 338 : at + 346], "little") == round(frames / rate * 48_000)


def test_a_muxed_copy_without_a_preview(clip: Path, tmp_path: Path) -> None:
    take = deliver(clip, tmp_path, sound("noise", 6), mux=True)
    assert take.muxed is not None and take.preview is None
    with av.open(take.muxed) as container:
        assert container.streams.audio and container.streams.video[0].frames == 150
    assert {path.suffix for path in tmp_path.iterdir()} == {".wav", ".json", ".mov"}
    assert read_sidecar(Path(take.sidecar))["wav_sha256"]


def test_loudness_does_not_depend_on_the_pieces() -> None:
    wave = sound("hits", 20, 48_000)
    meter = LoudnessMeter(48_000)
    for first in range(0, len(wave), 7_001):
        meter.feed(wave[first : first + 7_001])
    assert abs(meter.integrated() - integrated_loudness(wave, 48_000)) < 1e-6


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_sound_resampled_in_pieces_has_no_seams_and_a_loop_none_at_its_ends(rate: int) -> None:
    time = np.arange(16_000 * 40) / 16_000
    wave = np.sin(2 * np.pi * 250 * time)  # a whole number of periods
    samples = 40 * rate
    for around in (False, True):
        made = np.concatenate(list(resampled(Held(wave, 16_000), rate, samples, around=around)))
        true = np.sin(2 * np.pi * 250 * np.arange(samples) / rate)
        edge = 0 if around else 400
        assert len(made) == samples
        assert np.abs(made - true)[edge : samples - edge].max() < 2e-3
