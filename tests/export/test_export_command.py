"""`vatt export` as people type it."""

from __future__ import annotations

import contextlib
import io
import json
from fractions import Fraction
from pathlib import Path

import opentimelineio as otio
import pytest
from vatt_daemon.cli import main

from tests.core.numbered_clips import write_clip
from tests.export.takes import make_take
from vatt_core.media.time_map import TimeMap


@pytest.fixture
def take(tmp_path: Path) -> Path:
    clip = write_clip(tmp_path / "clip.mp4", frames=25, rate=25)
    return make_take(tmp_path, clip, name="rain.vatt", time_map=TimeMap.identity(0, 1), frame_rate="25")


def export(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained), pytest.raises(SystemExit) as end:
        main(["export", *map(str, arguments)])
    return int(end.value.code or 0), said.getvalue(), complained.getvalue()


def test_every_format_is_written_and_named(take: Path, tmp_path: Path) -> None:
    output = tmp_path / "handoff"
    code, said, complained = export(take, "--output", output, "--name", "scene", "--json")
    assert code == 0, complained
    files = [Path(file) for file in json.loads(said)["files"]]
    assert [file.name for file in files] == ["rain.vatt.wav", "scene.otio", "scene.xml", "scene.mlt"]
    assert all(file.parent == output and file.is_file() for file in files)
    code, _, complained = export(take, "--output", output, "--name", "scene")
    assert code != 0 and "--overwrite" in complained
    assert export(take, "--output", output, "--name", "scene", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("said", "rate"),
    [("25", Fraction(25)), ("30000/1001", Fraction(30_000, 1001)), ("29.97", Fraction(30_000, 1001)),
     ("23.976", Fraction(24_000, 1001))],
)  # fmt: skip
def test_rates_are_understood_as_people_write_them(take: Path, tmp_path: Path, said: str, rate: Fraction) -> None:
    code, _, complained = export(take, "--output", tmp_path / "out", "--format", "otio", "--fps", said)
    assert code == 0, complained
    timeline = otio.adapters.read_from_file(str(tmp_path / "out" / "vatt.otio"))
    assert timeline.global_start_time.rate == float(rate)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--fps", "fast"), "--fps"), (("--fps", "0"), "--fps"), (("--fps", "1/0"), "--fps"),
        (("--timecode", "clock"), "--timecode"), (("--name", "a/b"), "--name"), (("--name", ".hidden"), "--name"),
        (("--format", "edl"), "edl"), (("--start", "noon"), "noon"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_one_sentence_and_leave_nothing(
    take: Path, tmp_path: Path, wrong: tuple[str, str], named: str
) -> None:
    code, said, complained = export(take, "--output", tmp_path / "out", *wrong)
    assert code not in (0, 1) and said == ""
    assert named in complained and len(complained.splitlines()) == 1
    assert not (tmp_path / "out").exists()
