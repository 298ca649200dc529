"""The whole way from a file to files with the shipped model. Nothing here depends on what the weights have learnt."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.core.numbered_clips import write_clip as write_numbered
from tests.core.small_files import small_files
from vatt_core.errors import BadMedia, BadRequest, Cancelled, DiskFull, ForbiddenPath, InputNotVisible, VattError
from vatt_core.files import all_or_nothing, fingerprint, free_names, short_stem
from vatt_core.media.time_map import TimeMap
from vatt_core.pipeline import GenerateRequest, Pipeline, SuggestRequest, request_from_sidecar
from vatt_core.rendering import rendered
from vatt_core.requests import GenerateResult
from vatt_core.sidecar import read_sidecar
from vatt_core.windows import plan_windows
from vatt_core.world.scene import describe
from vatt_core.world.write import write_clip

RATES = {
    "23.976": Fraction(24000, 1001),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "50": Fraction(50),
    "59.94": Fraction(60000, 1001),
    "60": Fraction(60),
}
SAMPLE_RATES = dict(zip(RATES, (48_000, 44_100, 8_000, 96_000, 22_050, 16_000, 48_000, 32_000), strict=True))
QUICK: dict[str, Any] = {"steps": 1, "guidance_scale": 1.0}
PROMPT = "a metal hammer hits a nail"


@pytest.fixture(scope="module")
def loaded() -> Pipeline:
    return Pipeline.load("nano", device="cpu")


@pytest.fixture
def pipeline(loaded: Pipeline) -> Pipeline:
    """The loaded model, with nothing remembered."""
    return Pipeline(loaded.model, "nano")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    scene = describe(2_000_021, kind="hammer", layout="single", seconds=2.0)
    write_clip(scene, path, fps=Fraction(30000, 1001), size=64, with_sound=True)
    return path


@pytest.fixture(scope="module")
def made(loaded: Pipeline, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerateResult:
    """Two takes with everything, which several tests look at."""
    request = GenerateRequest(
        clip, output=tmp_path_factory.mktemp("made") / "new" / "folder", prompt=PROMPT, takes=2, seed=7, steps=1,
        negative_prompt="rain", mask_temperature=2.0, top_k=100, temperature=0.9, loudness=-20.0, bits=16, preview=True,
    )  # fmt: skip
    return loaded.generate(request)


def samples(path: str | Path) -> tuple[int, int]:
    """(length, rate) of all that can be read from the file."""
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(audio=0)), container.streams.audio[0].rate


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# ---- lengths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RATES)
def test_a_take_is_exactly_as_long_as_the_clip_or_its_range(pipeline: Pipeline, tmp_path: Path, name: str) -> None:
    rate, sample_rate = RATES[name], SAMPLE_RATES[name]
    path = write_numbered(tmp_path / "clip.mp4", frames=23, rate=rate)
    begin, end = (3, 23) if rate < 30 else (7, 16)
    whole = GenerateRequest(path, output=tmp_path, prompt=PROMPT, sample_rate=sample_rate, **QUICK)
    part = GenerateRequest(path, begin / rate, end / rate, output=tmp_path, prompt=PROMPT, **QUICK)
    one = GenerateRequest(path, begin / rate, (begin + 1) / rate, output=tmp_path, prompt=PROMPT, **QUICK)
    for request, frames in ((whole, 23), (part, end - begin), (one, 1)):
        result = pipeline.generate(request)
        take = result.takes[0]
        expected = round(frames / rate * request.sample_rate)
        assert samples(take.wav) == (expected, request.sample_rate)
        assert (take.samples, take.sample_rate) == (expected, request.sample_rate)
        assert result.duration == float(frames / rate)


def test_a_retimed_clip_is_as_long_as_its_timeline_and_has_no_muxed_copy(
    pipeline: Pipeline, clip: Path, tmp_path: Path
) -> None:
    slow, held, back = (Fraction(n, 7) for n in (3, 5, 6))
    time_map = TimeMap(((Fraction(0), Fraction(0)), (slow, slow / 2), (held, slow / 2), (back, Fraction(0))))
    request = GenerateRequest(
        clip, time_map=time_map, output=tmp_path, prompt=PROMPT, seed=1, preview=True, bits=32, **QUICK
    )
    take = pipeline.generate(request).takes[0]
    assert take.samples == round(back * 48_000)
    assert take.muxed is None and Path(str(take.preview)).is_file()
    sidecar = read_sidecar(Path(take.sidecar))
    assert TimeMap.from_list(sidecar["clip"]["time_map"]) == time_map
    again = pipeline.generate(request_from_sidecar(sidecar, tmp_path / "again")).takes[0]
    assert digest(again.wav) == sidecar["wav_sha256"]


# ---- the same again ------------------------------------------------------------------------------------------------


def test_the_sidecar_makes_the_same_samples_and_a_take_of_a_batch_is_the_take_alone(
    pipeline: Pipeline, made: GenerateResult, tmp_path: Path
) -> None:
    assert {take.seed for take in made.takes} == {7, 8}
    for take in made.takes:
        sidecar = read_sidecar(Path(take.sidecar))
        assert sidecar["wav_sha256"] == digest(take.wav)
        assert sidecar["request"]["seed"] == take.seed
        assert sidecar["model"]["hash"] == made.model_hash
        again = pipeline.generate(request_from_sidecar(sidecar, tmp_path)).takes[0]
        assert digest(again.wav) == digest(take.wav)
    assert digest(made.takes[0].wav) != digest(made.takes[1].wav)


def test_prompt_negative_prompt_and_seed_change_the_sound(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    heard = set()
    for options in ({}, {"prompt": "rain falls"}, {"negative_prompt": "a metal hammer"}, {"seed": 4}):
        request = GenerateRequest(clip, output=tmp_path, **{"prompt": PROMPT, "seed": 3, "steps": 1} | options)
        heard.add(digest(pipeline.generate(request).takes[0].wav))
    assert len(heard) == 4


def test_without_a_prompt_the_best_caption_is_taken_and_told(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    asked = SuggestRequest(clip, count=2, seed=5)
    first, second = (pipeline.suggest(asked).captions for _ in range(2))
    assert first == second and 1 <= len(first) <= 2
    assert len({caption.text for caption in first}) == len(first)
    assert [caption.score for caption in first] == sorted((caption.score for caption in first), reverse=True)
    result = pipeline.generate(GenerateRequest(clip, output=tmp_path, seed=5, **QUICK))
    assert result.caption.strip()
    assert read_sidecar(Path(result.takes[0].sidecar))["request"]["prompt"] == result.caption


# ---- files ---------------------------------------------------------------------------------------------------------


def coded(path: str | Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_previews_are_written_and_the_copy_has_the_same_pictures(made: GenerateResult, clip: Path) -> None:
    folder = Path(made.takes[0].wav).parent
    named = {path for take in made.takes for path in (take.wav, take.sidecar, take.preview, take.muxed)}
    assert named == {str(path) for path in folder.iterdir()}
    for take in made.takes:
        assert Path(str(take.preview)).read_bytes().startswith(b"\x89PNG")
        assert coded(str(take.muxed)) == coded(clip)
        assert all(0 <= onset <= made.duration for onset in take.onsets)


def test_takes_never_overwrite(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clip-take-2.json").write_text("somebody's")
    for expected in ("clip-take-1.wav", "clip-take-3.wav"):
        take = pipeline.generate(GenerateRequest(clip, output=tmp_path, prompt=PROMPT, seed=1, **QUICK)).takes[0]
        assert Path(take.wav).name == expected
    assert (tmp_path / "clip-take-2.json").read_text() == "somebody's"
    assert digest(tmp_path / "clip-take-1.wav") == digest(tmp_path / "clip-take-3.wav")
    assert free_names(tmp_path, "other", [".wav"]) == {".wav": tmp_path / "other-take-1.wav"}


def test_a_clip_of_a_very_long_name_gets_takes_of_its_own(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    names = [f"{'長' * 83}{letter}.mp4" for letter in "ab"]
    output = tmp_path / "out"
    for name in names:
        shutil.copy(clip, tmp_path / name)
        assert len(os.fsencode(name)) == 254
        request = GenerateRequest(tmp_path / name, output=output, prompt=PROMPT, seed=1, mux=True, **QUICK)
        take = pipeline.generate(request).takes[0]
        assert Path(take.sidecar).name == Path(take.wav).with_suffix(".json").name
    stems = {path.stem for path in output.iterdir()}
    assert len(stems) == 2 and all(stem.startswith("長" * 60) and stem.endswith("-take-1") for stem in stems)
    short = short_stem("a" * 224)
    assert short == "a" * 224 and len(os.fsencode(short_stem("é" + "ü" * 125))) <= 224


def reference(path: str | Path) -> int | None:
    """The time reference of a Broadcast WAV, in samples."""
    data = Path(path).read_bytes()
    if b"bext" not in data:
        return None
    at = data.index(b"bext") + 8
    return int.from_bytes(data[at + 338 : at + 346], "little")


def test_the_timecode_of_the_clip_is_that_of_the_take(pipeline: Pipeline, made: GenerateResult, tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "clip.mov", rate=25, frames=30, metadata={"timecode": "10:00:00:05"})
    ten_hours = 36_000 * 48_000 + 48_000 // 5
    options: dict[str, Any] = {"output": tmp_path / "out", "prompt": PROMPT, **QUICK}
    backwards = TimeMap(((Fraction(0), Fraction(1)), (Fraction(1), Fraction(0))))
    for request, expected in (
        (GenerateRequest(path, **options), ten_hours),
        (GenerateRequest(path, Fraction(2, 5), Fraction(1), **options), ten_hours + 2 * 48_000 // 5),
        (GenerateRequest(path, time_map=backwards, **options), None),
    ):
        take = pipeline.generate(request).takes[0]
        assert reference(take.wav) == expected
        assert read_sidecar(Path(take.sidecar))["timecode"] == (None if expected is None else "source")
    assert reference(made.takes[0].wav) is None
    assert read_sidecar(Path(made.takes[0].sidecar))["timecode"] is None


# ---- nothing half-done ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["read", "look", "caption", "compose", "sound", "write"])
def test_cancelling_in_any_stage_leaves_nothing(pipeline: Pipeline, clip: Path, tmp_path: Path, stage: str) -> None:
    seen: list[tuple[str, int]] = []
    prompt = None if stage == "caption" else PROMPT
    request = GenerateRequest(clip, output=tmp_path / "a" / "b", prompt=prompt, takes=2, preview=True, **QUICK)
    with pytest.raises(Cancelled):
        pipeline.generate(
            request,
            progress=lambda name, done, total: seen.append((name, done)),
            # In the writing of files: when the first take lies there.
            cancelled=lambda: (stage, 1 if stage == "write" else 0) in seen,
        )
    assert seen[-1][0] == stage
    assert list(tmp_path.iterdir()) == []


def test_progress_rises_within_each_stage_and_stages_follow_each_other(
    pipeline: Pipeline, clip: Path, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    request = GenerateRequest(clip, output=tmp_path, prompt=PROMPT, takes=2, **QUICK)
    result = pipeline.generate(request, progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(name for name, _, _ in told))
    assert stages == ["read", "look", "compose", "sound", "write"] == list(result.seconds)
    assert [name for name, _, _ in told] == sorted((name for name, _, _ in told), key=stages.index)
    for stage in stages:
        counts = [(done, total) for name, done, total in told if name == stage]
        assert counts == sorted(counts) and len({total for _, total in counts}) == 1
        assert counts[0][0] == 0 and counts[-1][0] == counts[-1][1]


def test_a_full_disk_is_told_and_leaves_nothing(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskFull), small_files(100_000):
        pipeline.generate(GenerateRequest(clip, output=tmp_path / "out", prompt=PROMPT, **QUICK))
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_are_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VattError), all_or_nothing(tmp_path / "file" / "folder"):
        pass
    with pytest.raises(KeyError), all_or_nothing(tmp_path / "a" / "b") as written:
        written += [tmp_path / "a" / "b" / "one", tmp_path / "a" / "b" / "two"]
        written[0].touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ForbiddenPath), all_or_nothing(tmp_path / "a"):
        pass


# ---- what is remembered --------------------------------------------------------------------------------------------


def test_features_are_remembered_until_the_file_changes(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    ask = SuggestRequest(path, count=1, seed=1)
    assert "look" in pipeline.suggest(ask).seconds
    before, known = pipeline.suggest(ask), fingerprint(path)
    assert "look" not in before.seconds
    assert "look" in pipeline.suggest(SuggestRequest(path, end=Fraction(1), count=1, seed=1)).seconds
    changed = describe(2_000_022, kind="fire", layout="single", seconds=1.0)
    write_clip(changed, path, fps=Fraction(24), size=64)
    after = pipeline.suggest(ask)
    assert "look" in after.seconds and after.duration == 1.0
    assert fingerprint(path) != known


# ---- longer than the window ----------------------------------------------------------------------------------------


def test_a_long_clip_goes_in_two_passes_and_the_second_keeps_what_the_first_decided(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.mp4"
    scene = describe(2_000_023, kind="ball", layout="single", seconds=12.0)
    write_clip(scene, path, fps=Fraction(12), size=64)
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = pipeline.sound_codes

    def spy(*arguments: Any, known: torch.Tensor, **options: Any) -> torch.Tensor:
        codes = original(*arguments, known=known, **options)
        calls.append((known.clone(), codes.clone()))
        return codes

    monkeypatch.setattr(pipeline, "sound_codes", spy)
    request = GenerateRequest(path, output=tmp_path / "out", prompt=PROMPT, takes=2, seed=3, **QUICK)
    result = pipeline.generate(request)
    assert [samples(take.wav) for take in result.takes] == [(12 * 48_000, 48_000)] * 2

    first, second = plan_windows(Fraction(12), pipeline.timing)
    mask, border = pipeline.timing.mask, second.keep_from - second.first_code
    (nothing, decided), (known, filled) = calls
    assert (nothing == mask).all()
    assert torch.equal(known[:, :, :border], decided[:, :, second.first_code : first.keep_to])
    assert (known[:, :, border:] == mask).all()
    assert torch.equal(filled[:, :, :border], known[:, :, :border])
    assert (filled != mask).all()

    alone = pipeline.generate(GenerateRequest(path, output=tmp_path / "out", prompt=PROMPT, seed=4, **QUICK))
    (second_take,) = (take for take in result.takes if take.seed == 4)
    assert digest(alone.takes[0].wav) == digest(second_take.wav)


def test_a_long_sound_in_pieces_is_the_sound_in_one(loaded: Pipeline) -> None:
    timing = loaded.timing
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(timing.codebook_size, (timing.codebooks, int(9 * timing.code_rate)), generator=generator)
    whole = loaded.sound(codes[None])[0]
    made = rendered(loaded.sound, codes, timing, samples=len(whole) - 321, skipped=321, piece_seconds=4)
    pieces = torch.from_numpy(np.concatenate(list(made)))
    assert pieces.shape == (codes.shape[1] * timing.hop_length - 321,)
    assert float((pieces - whole[321:]).abs().max()) < 0.01 * float(whole.abs().max())


def test_a_short_window_holds_its_last_frame(loaded: Pipeline) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    features = loaded.look(frames)
    assert features.shape[:2] == (1, loaded.timing.frames)
    assert torch.equal(features[:, 3:], features[:, 2:3].expand(-1, loaded.timing.frames - 3, -1))
    with pytest.raises(ValueError):
        loaded.look(np.zeros((loaded.timing.frames + 1, 64, 64, 3), np.uint8))


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_requests_that_cannot_be_met_are_refused_by_type(pipeline: Pipeline, clip: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    beyond = TimeMap.identity(100, 101)
    for kind, request in (
        (InputNotVisible, GenerateRequest(tmp_path / "none.mp4", output=tmp_path, prompt="x")),
        (InputNotVisible, GenerateRequest(tmp_path, output=tmp_path, prompt="x")),
        (BadMedia, GenerateRequest(text, output=tmp_path, prompt="x")),
        (BadRequest, GenerateRequest(clip, Fraction(100), Fraction(101), output=tmp_path, prompt="x")),
        (BadRequest, GenerateRequest(clip, Fraction(1), Fraction(1), output=tmp_path, prompt="x")),
        (BadRequest, GenerateRequest(clip, time_map=beyond, output=tmp_path, prompt="x")),
    ):
        with pytest.raises(kind):
            pipeline.generate(request)
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


@pytest.mark.parametrize(
    "options",
    [
        {"takes": 0}, {"takes": 2.0}, {"seed": -1}, {"seed": 2**53}, {"sample_rate": 44_100.5}, {"bits": 20},
        {"steps": 0}, {"top_k": 0}, {"mask_temperature": float("nan")}, {"guidance_scale": float("inf")},
        {"temperature": True}, {"loudness": 3.0}, {"prompt": "  "}, {"negative_prompt": ""},
        {"start": Fraction(1), "time_map": TimeMap.identity(0, 1)},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        GenerateRequest(Path("clip.mp4"), **options)


def test_a_sidecar_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in (
        b"",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b"[" * 100_000,
        b'{"version": 9, "clip": 1, "model": 1, "request": 1}',
    ):
        path.write_bytes(content)
        with pytest.raises(BadRequest):
            read_sidecar(path)
    whole = {"version": 1, "wav": "x.wav", "clip": {"path": "x.mp4", "time_map": []}, "model": {}, "request": {}}
    path.write_text(json.dumps(whole))
    assert read_sidecar(path) == whole
    for part, value in (("wav", None), ("wav", ""), ("clip", {}), ("clip", []), ("model", "nano"), ("request", None),
                        ("scores", {"agreement": "high"}), ("scores", [1]), ("onsets", "abc"), ("onsets", [None])):  # fmt: skip
        path.write_text(json.dumps(whole | {part: value}))
        with pytest.raises(BadRequest, match=part):
            read_sidecar(path)
    for missing in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputNotVisible):
            read_sidecar(missing)
    for damaged in ({}, {"request": {}, "clip": {}}, {"request": None, "clip": None}):
        with pytest.raises(BadRequest):
            request_from_sidecar(damaged, tmp_path)
