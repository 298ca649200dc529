"""The parts of watching that need no daemon: what counts as a clip, whose settings win, which names are free."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from vatt_client import Client
from vatt_client.errors import BadRequest, ClientError
from vatt_watch import Pace, Runner, WatchState, check_options, runner, state
from vatt_watch.delivery import choose_base, describe
from vatt_watch.options import read_options
from vatt_watch.scan import content_mark, is_clip_name, look, scan
from vatt_watch.state import DONE, Clip


def write(root: Path, name: str, text: str = "x") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_clip_is_known_by_its_name() -> None:
    for name in ("a.mp4", "A.MOV", "a.b.c.mkv", "vatt.mp4", "a.vatt", "日本.webm", "a.vattx.mp4"):
        assert is_clip_name(name) == (name != "a.vatt"), name
    for name in (".a.mp4", "~$a.mp4", "a.mp4.part", "a.mp4.crdownload", "a.wav", "a", "a.vatt.mp4", "a.VATT.2.mkv"):
        assert not is_clip_name(name), name


def test_a_scan_and_a_look_see_the_same(tmp_path: Path) -> None:
    write(tmp_path, "a.mp4")
    write(tmp_path, "a.mp4.toml", "takes = 2")
    write(tmp_path, "sub/b.mp4")
    write(tmp_path, "sub/b.mp4.json", "{}")
    write(tmp_path, "results/c.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    found = scan(tmp_path, recursive=True, leave_out=tmp_path / "results")
    assert set(found.clips) == {"a.mp4", "sub/b.mp4", "link.mp4"}
    assert set(scan(tmp_path, recursive=False).clips) == {"a.mp4", "link.mp4"}
    for clip, seen in found.clips.items():
        assert look(tmp_path, clip) == seen
    write(tmp_path, "a.mp4.toml", "takes = 12")
    assert look(tmp_path, "a.mp4") != found.clips["a.mp4"] and look(tmp_path, "gone.mp4") is None
    with pytest.raises(OSError):
        scan(tmp_path / "missing", recursive=True)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="needs a folder that may not be read")
def test_a_folder_that_cannot_be_read_says_nothing_about_its_clips(tmp_path: Path) -> None:
    write(tmp_path, "closed/a.mp4")
    (tmp_path / "closed").chmod(0)
    try:
        found = scan(tmp_path, recursive=True)
        assert not found.could_see("closed/a.mp4") and found.could_see("b.mp4")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_long_files_are_told_apart_by_samples(tmp_path: Path) -> None:
    size = (64 << 20) + 1000
    marks = set()
    for place in (0, size - 1, None):
        path = tmp_path / "long.mp4"
        with path.open("wb") as file:
            file.truncate(size)
            if place is not None:
                file.seek(place)
                file.write(b"x")
        marks.add(content_mark(path))
    assert len(marks) == 3


def test_nearer_settings_win(tmp_path: Path) -> None:
    write(tmp_path, "vatt.toml", 'prompt = "far"\ntakes = 2\nseed = 1')
    write(tmp_path, "sub/vatt.json", '{"prompt": "near", "captions": 0}')
    write(tmp_path, "sub/clip.mp4.toml", 'takes = 3\nstart = "1/2"\nmux = true')
    options = read_options(tmp_path, "sub/clip.mp4", {"prompt": "given", "loudness": None})
    assert (options.captions, options.mux, options.skip) == (0, True, False)
    assert options.sound == {"prompt": "near", "takes": 3, "seed": 1, "start": "1/2", "loudness": None}
    other = read_options(tmp_path, "clip.mp4", {})
    assert other.sound["prompt"] == "far" and other.captions == 3
    assert options.recipe("a") != other.recipe("a") and options.recipe("a") != options.recipe("b")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("takes = 0", "takes"), ("tkes = 1", "tkes"), ("mux = 1", "mux"), ("captions = 99", "captions"),
        ("captions = true", "captions"), ("start = 5\nend = 4", "end"), ("prompt = 1979-05-27", "prompt"), ("prompt", "clip.mp4"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_by_file_and_name(tmp_path: Path, text: str, named: str) -> None:
    file = write(tmp_path, "clip.mp4.toml", text)
    with pytest.raises(BadRequest) as caught:
        read_options(tmp_path, "clip.mp4", {})
    assert named in caught.value.message and str(file) in caught.value.message
    with pytest.raises(BadRequest):
        check_options({"output": "/elsewhere"}, "the command line")


def test_names_of_results_avoid_what_lies_there(tmp_path: Path) -> None:
    def choose(name: str = "a.mp4", own: Any = (), taken: Any = lambda base: False, takes: int = 1) -> str:
        return choose_base(tmp_path / name, tmp_path, takes=takes, taken=taken, own=own)

    assert choose() == "a"
    assert choose(taken=lambda base: base == "a") == "a.mp4"
    second = write(tmp_path, "a.vatt.2.wav")
    assert choose() == "a" and choose(takes=2) == "a.mp4"
    assert choose(takes=2, own=[describe(second)]) == "a"
    own = [describe(second)]
    second.write_text("edited by somebody")
    assert choose(takes=2, own=own) == "a.mp4"
    write(tmp_path, "a.mp4.vatt.json")
    assert choose(takes=2) == "a.mp4-2"


def test_what_is_watched_can_be_read_while_another_program_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PATIENCE", 0.1)
    file = tmp_path / "watch.sqlite"
    writing = WatchState(file)
    with writing.transaction():
        writing.add_folder(tmp_path, output=None, recursive=False, polling=False, options={})
        reading = WatchState(file)
        assert reading.folders() == []
        with pytest.raises(ClientError):
            reading.set_paused(1, True)
    assert [folder.path for folder in reading.folders()] == [tmp_path]
    reading.set_paused(reading.folders()[0].id, True)
    assert writing.folders()[0].paused
    reading.close()
    writing.close()


def test_old_hidden_results_are_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    folder, home = tmp_path / "watched", tmp_path / "home"
    old = write(folder, f".vatt-{'a' * 32}/take.wav").parent
    part = write(folder, f".vatt-{'b' * 32}.part")
    fresh = write(folder, f".vatt-{'c' * 32}/take.wav").parent
    others = [write(folder, ".vatt-demo"), write(folder, ".vatt-notes/mine.txt").parent]
    for path in (old, part, *others):
        os.utime(path, (1, 1))
    known = WatchState(home / "watch.sqlite")
    known.add_folder(folder, output=None, recursive=False, polling=True, options={})

    def no_daemon() -> Client:
        raise AssertionError("there is nothing to hand in")

    assert Runner(known, no_daemon, Pace(settle=0.0)).run(once=True) == 0
    known.close()
    assert not old.exists() and not part.exists()
    assert fresh.exists() and all(path.exists() for path in others)


def test_copies_for_many_clips_of_one_content_leave_room_for_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step ends when its time is over, so that jobs, commands and a stop are looked after between two copies."""
    monkeypatch.setattr(runner, "SLICE", 0.0)
    folder = tmp_path / "watched"
    first = write(folder, "first.mp4", "the same")
    results = [write(folder, "first.vatt.wav", "sound"), write(folder, "first.vatt.json", '{"wav": "first.vatt.wav"}')]
    known = WatchState(tmp_path / "watch.sqlite")
    known.add_folder(folder, output=None, recursive=False, polling=True, options={"captions": 0})
    seen, content = look(folder, "first.mp4"), content_mark(first)
    assert seen is not None
    known.save(
        Clip(
            known.folders()[0].id, "first.mp4", seen, content, state=DONE, base="first",
            recipe=check_options({"captions": 0}, "").recipe(content), outputs=[describe(path) for path in results],
        )
    )  # fmt: skip
    for number in range(5):
        write(folder, f"copy {number}.mp4", "the same")

    def no_daemon() -> Client:
        raise AssertionError("there is nothing to hand in")

    watching = Runner(known, no_daemon, Pace(settle=0.0))
    copies = [0]
    for _ in range(20):
        watching.step()
        copies.append(len(list(folder.glob("copy *.vatt.wav"))))
        if watching.idle:
            break
    known.close()
    assert watching.idle and copies[-1] == 5
    assert max(after - before for before, after in itertools.pairwise(copies)) == 1
