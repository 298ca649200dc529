"""Earlier takes as ground of new ones: regions, variations, extensions, loops."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.core.small_files import small_files
from vatt_core.earlier import EarlierTake, ground, load_earlier, pack_codes, unpack_codes
from vatt_core.errors import BadMedia, BadRequest, DiskFull, InputNotVisible
from vatt_core.media.probe import clip_range, probe
from vatt_core.media.spool import Held
from vatt_core.pipeline import GenerateRequest, Pipeline
from vatt_core.regions import Splice, border_samples, region_frames, varied
from vatt_core.requests import Take
from vatt_core.sidecar import read_sidecar
from vatt_core.timing import Timing
from vatt_core.world.scene import describe
from vatt_core.world.write import write_clip

OFFICIAL = Timing()
QUICK: dict[str, Any] = {"steps": 1, "guidance_scale": 1.0, "loudness": -20.0}
SECONDS = Fraction(4)


# ---- masks ---------------------------------------------------------------------------------------------------------


def test_a_region_covers_every_code_frame_that_it_touches() -> None:
    assert region_frames((Fraction(1), Fraction(2)), Fraction(10), OFFICIAL) == (50, 100)
    assert region_frames((Fraction(101, 100), Fraction(102, 100)), Fraction(10), OFFICIAL) == (50, 51)
    assert region_frames((Fraction(0), Fraction(10)), Fraction(10), OFFICIAL) == (0, 500)
    for bad in ((Fraction(5), Fraction(11)), (Fraction(3), Fraction(3)), (Fraction(-1), Fraction(2))):
        with pytest.raises(BadRequest):
            region_frames(bad, Fraction(10), OFFICIAL)


@pytest.mark.parametrize("by", ["time", "coarse"])
def test_a_variation_makes_its_share_anew_and_a_larger_one_contains_a_smaller(by: str) -> None:
    for share in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        assert abs(varied(4, 500, share, by).mean() - share) < 0.005
    coarse = varied(4, 500, 0.5, "coarse")
    assert coarse[2:].all() and not coarse[:2].any()
    time = varied(4, 500, 0.5, "time")
    assert (time == time[:1]).all() and not (time[0, 1:] & time[0, :-1]).any()


def test_spliced_samples_outside_are_the_old_ones_and_the_border_is_as_wide_as_said() -> None:
    changed = np.zeros(500, bool)
    changed[100:150] = changed[155:160] = True
    border = border_samples(OFFICIAL, 10, 48_000)
    assert border == (10 * 320 + 64) * 3
    splice = Splice.of(changed, timing=OFFICIAL, sample_rate=48_000, border=border, old=(0, 480_000), lag=Fraction(0))
    share = splice.weights(0, 480_000)
    begin, end = 100 * 960, 160 * 960
    assert not share[: begin - border].any() and not share[end + border :].any()
    assert (share[begin : 150 * 960 + 1] == 1).all() and (share[155 * 960 : end] == 1).all()
    assert splice.keeps_something
    parts = [splice.weights(at, min(480_000, at + 7_777)) for at in range(0, 480_000, 7_777)]
    assert np.array_equal(np.concatenate(parts), share)


def test_what_lies_beyond_the_old_sound_is_new() -> None:
    changed = np.zeros(100, bool)
    changed[:50] = True
    splice = Splice.of(changed, timing=OFFICIAL, sample_rate=16_000, border=10, old=(16_000, 32_000), lag=Fraction(0))
    assert (splice.weights(0, 16_000) == 1).all() and not splice.weights(16_010, 32_000).any()
    everything = Splice.of(
        np.ones(100, bool), timing=OFFICIAL, sample_rate=16_000, border=10, old=(0, 32_000), lag=Fraction(0)
    )
    assert not everything.keeps_something


# ---- codes in side-cars --------------------------------------------------------------------------------------------


def test_codes_survive_the_sidecar_and_nothing_else_is_taken_for_codes() -> None:
    codes = np.random.default_rng(0).integers(0, 2048, (4, 333))
    packed = json.loads(json.dumps(pack_codes(codes)))
    found = unpack_codes(packed, OFFICIAL)
    assert found is not None and np.array_equal(found, codes)
    assert len(packed["data"]) < 4 * 333 * 3
    small = Timing(codebook_size=64)
    for bad, timing in (
        (packed, small), (packed, Timing(codebooks=3)), (None, OFFICIAL), ({"shape": [4, 9]}, OFFICIAL),
        (packed | {"data": "!"}, OFFICIAL), (packed | {"shape": [4, 10**9]}, OFFICIAL),
        (packed | {"data": packed["data"][:40]}, OFFICIAL),
    ):  # fmt: skip
        assert unpack_codes(bad, timing) is None


def test_an_extended_take_lies_on_the_new_grid_sample_exactly() -> None:
    rate = 48_000
    codes = np.random.default_rng(0).integers(0, 2048, (4, 100))
    for starts in (Fraction(1), Fraction(1001, 1000), Fraction(17, 30), Fraction(-1, 3)):
        take = EarlierTake(Held(np.zeros(2 * rate), rate), codes, starts=starts, faded=Fraction(5, 1000))
        laid = ground(take, codes, Fraction(5), OFFICIAL)
        assert 0 <= laid.lag < Fraction(1, 50)
        assert laid.codes.shape[1] == OFFICIAL.code_frames_in(5 + laid.lag)
        known = np.flatnonzero((laid.codes != OFFICIAL.mask).all(0))
        # Code frame k of the clip begins at k / 50 - lag: the same instant as that of the take.
        for k in (known[0], known[-1]):
            own = (Fraction(int(k), 50) - laid.lag - starts) * 50
            assert own.denominator == 1 and np.array_equal(laid.codes[:, k], codes[:, int(own)])
        # The take's faded ends inside the clip are given up.
        assert laid.old[1] == round((starts + 2 - take.faded) * rate)
        assert laid.old[0] == (round((starts + take.faded) * rate) if starts > 0 else 0)


# ---- on nano -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("nano", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    scene = describe(2_000_031, kind="hammer", layout="single", seconds=float(SECONDS))
    write_clip(scene, path, fps=Fraction(24), size=64)
    return path


@pytest.fixture(scope="module")
def first(pipeline: Pipeline, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Take:
    folder = tmp_path_factory.mktemp("first")
    return pipeline.generate(GenerateRequest(clip, output=folder, prompt="a hammer", seed=5, **QUICK)).takes[0]


def wave(path: str | Path) -> np.ndarray:
    return np.asarray(soundfile.read(path, dtype="int32")[0])


def border(pipeline: Pipeline) -> int:
    return border_samples(pipeline.timing, pipeline.model.codec.context_frames, 48_000)


def test_no_code_reaches_farther_than_the_border(pipeline: Pipeline) -> None:
    timing, context = pipeline.timing, pipeline.model.codec.context_frames
    codes = torch.randint(timing.codebook_size, (1, timing.codebooks, 120), generator=torch.Generator().manual_seed(0))
    other = codes.clone()
    other[:, :, 60] = (other[:, :, 60] + 1) % timing.codebook_size
    change = (pipeline.sound(codes) - pipeline.sound(other)).abs()[0]
    assert not change[: (60 - context) * timing.hop_length].any()
    # Afterwards only the memory of the decoder's LSTM is left, which the fade at the border takes away.
    left = change[(61 + context) * timing.hop_length :].max()
    assert left < 0.05 * change.max()


@pytest.mark.parametrize("options", [{}, {"prompt": "rain falls"}, {"takes": 2}, {"vary": 0.5}])
def test_a_region_changes_and_the_rest_stays_bit_by_bit(
    pipeline: Pipeline, clip: Path, first: Take, tmp_path: Path, options: dict[str, Any]
) -> None:
    region = (Fraction(3, 2), Fraction(9, 4))
    before = Path(first.wav).read_bytes()
    request = GenerateRequest(
        clip, output=tmp_path, base=Path(first.sidecar), region=region, seed=9, **(QUICK | options)
    )
    old = wave(first.wav)
    for take in pipeline.generate(request).takes:
        new = wave(take.wav)
        begin, end = (round(time * 48_000) for time in region)
        assert len(new) == len(old)
        assert np.array_equal(new[: begin - border(pipeline)], old[: begin - border(pipeline)])
        assert np.array_equal(new[end + 960 + border(pipeline) :], old[end + 960 + border(pipeline) :])
        assert not np.array_equal(new[begin:end], old[begin:end])
        said = read_sidecar(Path(take.sidecar))["request"]
        assert said["prompt"] == options.get("prompt", "a hammer") and said["base"] == first.sidecar
    assert Path(first.wav).read_bytes() == before


def test_nothing_varied_is_the_same_file_and_everything_varied_another(
    pipeline: Pipeline, clip: Path, first: Take, tmp_path: Path
) -> None:
    changes, made = [], []
    for vary, by, seed in ((0.0, "time", 2), (0.25, "coarse", 2), (0.25, "coarse", 3), (1.0, "time", 2)):
        request = GenerateRequest(
            clip, output=tmp_path, base=Path(first.sidecar), vary=vary, vary_by=by, seed=seed, **QUICK
        )
        take = pipeline.generate(request).takes[0]
        codes = unpack_codes(read_sidecar(Path(take.sidecar))["codes"], pipeline.timing)
        earlier = unpack_codes(read_sidecar(Path(first.sidecar))["codes"], pipeline.timing)
        assert codes is not None and earlier is not None
        changes.append(float((codes != earlier).mean()))
        made.append(codes)
        if by == "coarse":
            assert np.array_equal(codes[:3], earlier[:3])
        if not vary:
            assert np.array_equal(wave(take.wav), wave(first.wav))
    assert changes[0] == 0 and 0 < changes[1] <= 0.25 and changes[3] > 0.5
    # Another seed is another variation, also where it changes nothing but the finest codebook.
    assert not np.array_equal(made[1], made[2])


def test_a_take_is_extended_on_both_sides(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    inner = GenerateRequest(
        clip, Fraction(25, 24), Fraction(70, 24), output=tmp_path, prompt="a hammer", seed=1, bits=16, **QUICK
    )
    base = pipeline.generate(inner).takes[0]
    request = GenerateRequest(
        clip, Fraction(1, 3), Fraction(4), output=tmp_path, base=Path(base.sidecar), seed=2, bits=16, **QUICK
    )
    take = pipeline.generate(request).takes[0]
    old, new = wave(base.wav), wave(take.wav)
    assert len(new) == round(Fraction(11, 3) * 48_000)
    at, edge = round((Fraction(25, 24) - Fraction(1, 3)) * 48_000), border(pipeline) + 2 * 960
    assert np.array_equal(new[at + edge : at + len(old) - edge], old[edge : len(old) - edge])
    assert new[: at - edge].any() and new[at + len(old) + edge :].any()


@pytest.mark.parametrize(
    "options", [{"fade": 300.0, "true_peak": -6.0}, {"loop": True, "loudness": None, "peak": -9.0}]
)
def test_an_earlier_take_brings_its_words_its_fades_and_its_ceiling(
    pipeline: Pipeline, clip: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    inner = GenerateRequest(clip, Fraction(1), Fraction(3), output=tmp_path, prompt="rain", negative_prompt="wind", seed=1,
                            **QUICK | options)  # fmt: skip
    base = Path(pipeline.generate(inner).takes[0].sidecar)
    for begin, end in ((Fraction(1), Fraction(3)), (Fraction(1), Fraction(4)), (Fraction(0), Fraction(4))):
        earlier = load_earlier(
            GenerateRequest(clip, output=tmp_path, base=base), clip_range(probe(clip), begin, end), pipeline.timing,
            clip=clip, model_hash=pipeline.model_hash,
        )  # fmt: skip
        assert earlier.codes is not None and earlier.starts == 1 - begin
        assert earlier.said["prompt"] == "rain" and earlier.said["negative_prompt"] == "wind"
        assert ("cuts" in earlier.said) == (end - begin == 2)  # beyond the take there may be others
        assert earlier.faded == Fraction(0 if "loop" in options else 3, 10)
        assert earlier.ceiling == options.get("peak", options.get("true_peak"))


@pytest.mark.parametrize("beside", [None, {}, {"version": 1, "clip": {}, "model": {}, "request": {}}])
def test_a_sound_of_somebody_else_can_be_the_ground(
    pipeline: Pipeline, clip: Path, tmp_path: Path, beside: dict[str, Any] | None
) -> None:
    if beside is not None:  # a file of that name that is no side-car, or what is left of one
        (tmp_path / "own.json").write_text(json.dumps(beside))
    tone = 0.2 * np.sin(np.arange(4 * 48_000) / 20)
    soundfile.write(tmp_path / "own.wav", tone, 48_000, subtype="PCM_24")
    region = (Fraction(2), Fraction(3))
    request = GenerateRequest(
        clip, output=tmp_path, base=tmp_path / "own.wav", region=region, prompt="a hammer", seed=2, **QUICK
    )
    new, old = wave(pipeline.generate(request).takes[0].wav), wave(tmp_path / "own.wav")
    assert np.array_equal(new[: 96_000 - border(pipeline)], old[: 96_000 - border(pipeline)])
    assert not np.array_equal(new[96_000:144_000], old[96_000:144_000])


def test_the_end_of_a_loop_goes_on_into_its_begin(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    for end in (Fraction(4), Fraction(85, 24)):  # the second one ends inside a code frame
        request = GenerateRequest(clip, end=end, output=tmp_path, prompt="rain", seed=1, loop=True, **QUICK)
        sound = wave(pipeline.generate(request).takes[0].wav).astype(np.float64)
        assert len(sound) == round(end * 48_000)
        steps = np.abs(np.diff(sound))
        twice = np.concatenate([sound, sound])
        joint = np.abs(np.diff(twice[len(sound) - 3 : len(sound) + 3])).max()
        assert joint <= steps.max()
        assert np.abs(sound[:240]).max() > 0 and np.abs(sound[-240:]).max() > 0  # no fades


def test_what_does_not_fit_is_refused_and_the_earlier_take_stays(
    pipeline: Pipeline, clip: Path, first: Take, tmp_path: Path
) -> None:
    base, region = Path(first.sidecar), (Fraction(1), Fraction(2))
    before = Path(first.wav).read_bytes()
    lonely = tmp_path / "lonely.json"
    lonely.write_bytes(base.read_bytes())
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes())
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(48_000), 48_000)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(96_000), 48_000)
    broken, empty = tmp_path / "broken.wav", tmp_path / "empty.wav"
    broken.write_bytes(b"RIFF and then nothing that is a sound" * 50)
    soundfile.write(empty, np.zeros(0), 48_000)
    ordinary: dict[str, Any] = {"path": clip, "output": tmp_path / "out", "base": base, "region": region} | QUICK
    for kind, options in (
        (BadRequest, {"region": (Fraction(3), Fraction(5))}),
        (BadRequest, {"sample_rate": 44_100}),
        (BadRequest, {"bits": 16}),
        (BadRequest, {"region": None, "loop": True, "cuts": (Fraction(2),)}),
        (BadRequest, {"end": Fraction(3)}),
        (BadRequest, {"region": None}),
        (BadRequest, {"path": other}),
        (BadRequest, {"base": short}),
        (InputNotVisible, {"base": lonely}),
        (InputNotVisible, {"base": tmp_path / "none.json"}),
        (BadRequest, {"base": None, "region": None, "reference": silent}),
        (BadMedia, {"base": None, "region": None, "reference": broken}),
        (BadMedia, {"base": None, "region": None, "reference": empty}),
        (InputNotVisible, {"base": None, "region": None, "reference": tmp_path / "none.wav"}),
        (BadMedia, {"base": broken}),
        (BadRequest, {"base": None, "region": None, "prompts": ("one", "two")}),
        (BadRequest, {"base": None, "region": None, "prompt": "x", "cuts": (Fraction(5),)}),
    ):
        with pytest.raises(kind):
            pipeline.generate(GenerateRequest(**(ordinary | options)))
    for options in (
        {"region": (Fraction(2), Fraction(1))}, {"base": None}, {"nudge": True}, {"vary": 1.5}, {"vary_by": "luck"},
        {"reference": silent}, {"container": "flac", "bits": 32}, {"cuts": (Fraction(2), Fraction(1))},
    ):  # fmt: skip
        with pytest.raises(BadRequest):
            GenerateRequest(**(ordinary | options))
    with pytest.raises(DiskFull), small_files(100_000):
        pipeline.generate(GenerateRequest(**ordinary))
    assert Path(first.wav).read_bytes() == before
    assert not (tmp_path / "out").exists()
