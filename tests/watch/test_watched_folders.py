"""Watched folders with the real file system, the real daemon and the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from vatt_daemon.cli import doctor


def sidecar(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def test_clips_of_every_name_get_captions_and_soundtracks_beside_them(home: Any) -> None:
    names = ["rain.mp4", "sub/deep/Zug — 電車 🚆.MOV", 'sub/it\'s "quoted" & more.mkv', "zwölf/ümläut.webm"]
    originals = {name: home.write(name, f"clip {name}") for name in names}
    for name in ("notes.txt", ".hidden.mp4", "~$lock.mp4", "half.mp4.part", "sub/.git/x.mp4", "failed/old.mp4"):
        home.write(name, "no clip")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in home.folder.rglob("*") if path.is_file()}
    home.add("--recursive", "--mux", "--captions", "2")
    ran = home.once()
    assert ran.returncode == 0, ran.stderr
    expected = []
    for name in names:
        begin = os.path.splitext(name)[0]
        expected += [f"{begin}.vatt{suffix}" for suffix in (".json", ".mp4", ".wav")]
    assert home.results() == sorted(expected)
    for name, path in originals.items():
        about = sidecar(path.with_name(f"{path.stem}.vatt.json"))
        assert about["clip"]["path"] == str(path) and about["wav"] == f"{path.stem}.vatt.wav"
        assert [caption["text"] for caption in about["captions"]] == [f"{f'clip {name}'[:20]} {n}" for n in range(2)]
        assert about["request"]["prompt"] == about["captions"][0]["text"]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before

    assert home.once().returncode == 0
    assert sorted(home.executions("sound")) == sorted(f"watched/{name}" for name in names)


def test_results_go_to_another_folder_with_the_settings_of_folder_and_clip(home: Any) -> None:
    output = home.root / "results"
    home.write("a.mp4", "one")
    home.write("sub/b.mp4", "two")
    home.write("sub/c.mp4", "three")
    home.write("sub/d.mp4", "four")
    home.write("sub/vatt.toml", 'prompt = "wind"\ntakes = 2\n')
    home.write("sub/c.mp4.toml", 'prompt = "waves"\n')
    home.write("sub/d.mp4.json", '{"skip": true}')
    home.add("--recursive", "--output", str(output), "--prompt", "rain", "--captions", "0")
    assert home.once().returncode == 0
    assert home.results() == []
    assert home.results(output) == [
        "a.vatt.json", "a.vatt.wav",
        "sub/b.vatt.2.json", "sub/b.vatt.2.wav", "sub/b.vatt.json", "sub/b.vatt.wav",
        "sub/c.vatt.2.json", "sub/c.vatt.2.wav", "sub/c.vatt.json", "sub/c.vatt.wav",
    ]  # fmt: skip
    prompts = {name: sidecar(output / f"{name}.vatt.json")["request"]["prompt"] for name in ("a", "sub/b", "sub/c")}
    assert prompts == {"a": "rain", "sub/b": "wind", "sub/c": "waves"}
    assert home.executions("captions") == []

    # New settings beside a clip are an order to do that clip again.
    home.write("sub/c.mp4.toml", 'prompt = "a bell"\ntakes = 1\n')
    assert home.once().returncode == 0
    assert sidecar(output / "sub/c.vatt.json")["request"]["prompt"] == "a bell"
    assert "sub/c.vatt.2.wav" not in home.results(output) and "sub/b.vatt.2.wav" in home.results(output)
    assert len(home.executions("sound")) == 4


def test_failures_leave_their_cause_and_are_tried_again_when_it_is_removed(home: Any) -> None:
    home.write("good.mp4", "good")
    bad = home.write("bad.mp4", "broken film")
    home.write("odd.mp4", "odd")
    note = home.write("odd.mp4.toml", "takes = 'many'")
    home.add()
    ran = home.once()
    assert ran.returncode == 1
    text = (home.folder / "failed" / "bad.mp4.error.txt").read_text("utf-8")
    assert "bad_media" in text and str(bad) in text
    assert "takes" in (home.folder / "failed" / "odd.mp4.error.txt").read_text("utf-8")
    assert home.results() == [
        "failed/bad.mp4.error.txt", "failed/odd.mp4.error.txt", "good.vatt.json", "good.vatt.wav",
    ]  # fmt: skip
    # It got its second chance, as it may have been a slow copy, and no third one.
    assert home.executions("captions").count("watched/bad.mp4") == 2
    assert home.once().returncode == 1
    assert home.executions("captions").count("watched/bad.mp4") == 2

    (home.folder / "failed" / "bad.mp4.error.txt").unlink()
    note.write_text("takes = 1")
    assert home.once().returncode == 1
    assert home.executions("captions").count("watched/bad.mp4") > 2
    assert home.results() == [
        "failed/bad.mp4.error.txt", "good.vatt.json", "good.vatt.wav", "odd.vatt.json", "odd.vatt.wav",
    ]  # fmt: skip
    # What was begun anew and never done is still known as failed when the folder is watched again.
    for command in ("retry", "remove"):
        assert home.call("watch", command, str(home.folder))[0] == 0
    home.add()
    bad.write_text("healed")
    assert home.once().returncode == 0
    assert not (home.folder / "failed").exists()


def test_the_same_content_twice_is_made_once_and_delivered_twice(home: Any) -> None:
    home.write("one.mp4", "the same")
    home.write("other/two.mov", "the same")
    home.write("one.mov", "the same")
    home.add("--recursive", "--takes", "2")
    assert home.once().returncode == 0
    assert len(home.executions("sound")) == 1
    assert len(home.results()) == 12
    waves = {path.read_bytes() for path in home.folder.rglob("*.vatt.wav")}
    assert len(waves) == 1
    for path in home.folder.rglob("*.vatt*.json"):
        about = sidecar(path)
        assert (path.parent / about["wav"]).is_file()
        assert Path(about["clip"]["path"]).parent == path.parent
    # Two clips of one stem in one folder: neither gets the other's names.
    beside = {Path(sidecar(path)["clip"]["path"]).name for path in home.folder.glob("*.vatt.json")}
    assert beside == {"one.mp4", "one.mov"}


def test_a_file_replaced_by_another_of_the_same_name_gets_a_new_soundtrack(home: Any) -> None:
    clip = home.write("clip.mp4", "first")
    home.add("--captions", "0", "--prompt", "rain")
    home.watch()
    wav = home.folder / "clip.vatt.wav"
    home.until(wav.exists)
    assert b"first" in wav.read_bytes()
    second = home.root / "second.mp4"
    second.write_text("second")
    os.replace(second, clip)
    home.until(lambda: b"second" in wav.read_bytes())
    # A touched file, and one that is copied over itself, are the same.
    os.utime(clip)
    clip.write_text("second")
    home.until(lambda: home.counts() == {"done": 1})
    time.sleep(1.0)
    assert len(home.executions("sound")) == 2
    assert home.results() == ["clip.vatt.json", "clip.vatt.wav"]


def test_a_clip_replaced_while_it_is_worked_on_is_begun_anew(home: Any) -> None:
    clip = home.write("clip.mp4", "slow first")
    home.add("--captions", "0")
    home.watch()
    home.until(lambda: home.executions("sound"))
    clip.write_text("second")
    wav = home.folder / "clip.vatt.wav"
    home.until(wav.exists)
    assert b"second" in wav.read_bytes()
    home.until(lambda: home.counts() == {"done": 1})
    assert home.results() == ["clip.vatt.json", "clip.vatt.wav"]


def test_foreign_and_edited_files_are_never_overwritten(home: Any) -> None:
    mine = home.write("a.vatt.wav", "my own recording")
    clip = home.write("a.mp4", "one")
    home.add("--captions", "0")
    assert home.once().returncode == 0
    assert mine.read_text() == "my own recording"
    assert home.results() == ["a.mp4.vatt.json", "a.mp4.vatt.wav", "a.vatt.wav"]
    edited = home.folder / "a.mp4.vatt.wav"
    edited.write_text("edited by hand")
    clip.write_text("two, longer")
    assert home.once().returncode == 0
    assert edited.read_text() == "edited by hand" and mine.read_text() == "my own recording"
    assert b"two" in (home.folder / "a.mp4-2.vatt.wav").read_bytes()


@pytest.mark.parametrize("polling", [False, True])
def test_files_are_noticed_as_they_come_and_waited_for_while_they_grow(home: Any, polling: bool) -> None:
    home.add("--recursive", "--captions", "0", *(["--polling"] if polling else []))
    home.environment["VATT_WATCH_SETTLE"] = "3"  # longer than this test may be held up between two parts
    if not polling:
        home.environment["VATT_WATCH_RESCAN"] = "600"  # so that only an event can tell
    home.start()
    home.watch()
    home.until(lambda: home.listed()["running"])
    time.sleep(1.0)
    growing = home.folder / "growing.mp4"
    for part in range(8):
        with growing.open("a") as file:
            file.write(f"part {part} ")
        assert not home.executions("sound")
        time.sleep(0.1)
    home.until((home.folder / "growing.vatt.wav").exists)
    assert b"part 7" in (home.folder / "growing.vatt.wav").read_bytes()
    # Moved in under a temporary name and renamed; a whole folder moved in.
    part = home.write("late.mp4.part", "late")
    part.rename(home.folder / "late.mp4")
    elsewhere = home.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "inside.mp4").write_text("inside")
    elsewhere.rename(home.folder / "moved")
    home.until((home.folder / "late.vatt.wav").exists)
    home.until((home.folder / "moved" / "inside.vatt.wav").exists)
    assert len(home.executions("sound")) == 3


# A user's own namespace, in which the system hands out no queue of file events: as on a share that others write to.
WITHOUT_EVENTS = ("unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"', "sh")


@pytest.mark.parametrize("polling", [False, True])
def test_folders_of_which_no_event_comes_are_looked_through(home: Any, polling: bool) -> None:
    if shutil.which("unshare") is None or subprocess.run([*WITHOUT_EVENTS, "true"], check=False).returncode:
        pytest.skip("needs the right to make user namespaces")
    home.add("--recursive", "--captions", "0", *(["--polling"] if polling else []))
    # A polled folder is not left to the slower look that all others get.
    home.environment["VATT_WATCH_RESCAN"] = "600" if polling else "1"
    home.start()
    watching = home.watch(within=WITHOUT_EVENTS)
    home.until(lambda: home.listed()["running"])
    home.write("one.mp4", "one")
    home.until((home.folder / "one.vatt.wav").exists)
    home.write("new/two.mp4", "two")
    home.until((home.folder / "new" / "two.vatt.wav").exists)
    assert watching.poll() is None


def test_a_copy_that_pauses_is_waited_for(home: Any) -> None:
    home.environment["VATT_WATCH_PATIENCE"] = "600"
    clip = home.write("clip.mp4", "broken half")
    home.add("--captions", "0")
    home.watch()
    home.until(lambda: home.executions("sound"))
    with clip.open("w") as file:
        file.write("whole")
    home.until((home.folder / "clip.vatt.wav").exists)
    home.until(lambda: home.counts() == {"done": 1})
    assert b"whole" in (home.folder / "clip.vatt.wav").read_bytes()
    assert home.results() == ["clip.vatt.json", "clip.vatt.wav"]


def test_a_clip_replaced_while_its_second_chance_is_due_later_is_done_at_once(home: Any) -> None:
    home.environment["VATT_WATCH_PATIENCE"] = "600"
    clip = home.write("clip.mp4", "broken half")
    home.add("--captions", "0")
    home.watch()
    home.until(lambda: home.executions("sound"))
    home.until(lambda: home.counts() == {"waiting": 1})
    clip.write_text("whole")
    home.until(lambda: home.counts() == {"done": 1})
    assert b"whole" in (home.folder / "clip.vatt.wav").read_bytes()


def test_a_clip_that_goes_while_it_is_worked_on_leaves_nothing(home: Any) -> None:
    clip = home.write("sub/clip.mp4", "slow one")
    home.add("--recursive", "--captions", "0")
    home.watch()
    home.until(lambda: home.executions("sound"))
    elsewhere = clip.rename(home.root / "kept.mp4")
    home.until(lambda: home.counts() == {})
    with home.client() as client:
        home.until(lambda: [job.state for job in client.list()] == ["cancelled"])
    home.until(lambda: list(clip.parent.iterdir()) == [])
    elsewhere.rename(clip)
    home.until(lambda: home.counts() == {"done": 1})
    assert home.results() == ["sub/clip.vatt.json", "sub/clip.vatt.wav"] and clip.read_text() == "slow one"


def test_one_watcher_serves_several_folders_each_with_its_settings(home: Any) -> None:
    second = home.root / "second"
    second.mkdir()
    home.add("--captions", "0", "--prompt", "rain")
    home.add("--captions", "0", "--prompt", "rain", "--takes", "2", folder=second)
    home.start()
    home.watch()
    home.until(lambda: home.listed()["running"])
    home.write("a.mp4", "one")
    (second / "b.mp4").write_text("two")
    home.until((home.folder / "a.vatt.wav").exists)
    home.until((second / "b.vatt.2.json").exists)
    # The same content and settings as in the other folder: copied. A folder added while the watcher runs: served.
    third = home.root / "third"
    third.mkdir()
    (third / "c.mp4").write_text("one")
    home.add("--captions", "0", "--prompt", "rain", folder=third)
    home.until((third / "c.vatt.json").exists)
    assert sorted(home.executions("sound")) == ["second/b.mp4", "watched/a.mp4"]
    assert (third / "c.vatt.wav").read_bytes() == (home.folder / "a.vatt.wav").read_bytes()


def test_a_root_that_is_removed_and_made_again_is_picked_up(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write("one.mp4", "one")
    home.add("--captions", "0")
    home.start()
    watching = home.watch()

    def rests(name: str) -> bool:
        """Whether all is there and nothing more is written."""
        return (home.folder / f"{name}.vatt.json").exists() and not list(home.folder.glob(".vatt-*"))

    home.until(lambda: rests("one"))
    for number in range(2):
        shutil.rmtree(home.folder)
        home.until(lambda: home.listed()["folders"][0]["there"] is False)
        with monkeypatch.context() as there:
            there.setenv("VATT_HOME", home.environment["VATT_HOME"])
            assert [(check.state, bool(check.cure)) for check in doctor._watched_folders()] == [("note", True)]
        time.sleep(0.5)
        home.folder.mkdir()
        home.write(f"again-{number}.mp4", f"again {number}")
        home.until(lambda: rests(f"again-{number}"))  # noqa: B023
    assert watching.poll() is None


def test_kills_at_any_time_lose_and_repeat_nothing(home: Any) -> None:
    count = 24
    for number in range(count):
        home.write(f"{number:02}.mp4", f"clip {number}")
    home.add("--takes", "2")
    home.start()
    for kill in range(5):
        process = home.watch()
        home.until(lambda: len(home.executions("sound")) >= (kill + 1) * 4)  # noqa: B023
        home.kill_process(process)
        if kill in (1, 3):
            home.kill()
            home.start()
    ran = home.once()
    assert ran.returncode == 0, ran.stderr
    names = [f"{number:02}.vatt{take}{suffix}" for number in range(count) for take in ("", ".2")
             for suffix in (".json", ".wav")]  # fmt: skip
    assert home.results() == sorted(names)
    for kind in ("captions", "sound"):
        # The daemon itself does again what its own death interrupted, and nothing else is repeated.
        assert count <= len(home.executions(kind)) <= count + 2
    assert [path for path in home.folder.iterdir() if path.name.startswith(".vatt-")] == []


def test_the_daemon_may_come_and_go_and_a_full_disk_is_waited_for(home: Any) -> None:
    space = home.root / "space"
    home.write("a.mp4", f"full {space}")
    home.add("--captions", "0")
    watching = home.watch("--no-start")
    time.sleep(1.5)
    assert home.results() == [] and watching.poll() is None
    home.start()
    home.until(lambda: home.executions("sound"))
    home.kill()
    home.start()
    space.touch()
    home.until((home.folder / "a.vatt.wav").exists)
    assert not (home.folder / "failed").exists()


def test_folders_are_listed_paused_resumed_removed_and_known_again(home: Any) -> None:
    home.write("a.mp4", "one")
    home.add("--captions", "0")
    assert home.call("watch", "pause", str(home.folder))[0] == 0
    assert home.once().returncode == 0
    assert home.results() == []
    found = home.listed()["folders"][0]
    assert found["paused"] and found["path"] == str(home.folder)
    assert home.call("watch", "resume", str(home.folder))[0] == 0
    assert home.once().returncode == 0
    assert home.counts() == {"done": 1}
    assert home.call("watch", "remove", str(home.folder))[0] == 0
    assert home.listed()["folders"] == []
    home.write("b.mp4", "two")
    assert home.once().returncode == 0
    assert home.results() == ["a.vatt.json", "a.vatt.wav"]
    home.add("--captions", "0")
    assert home.once().returncode == 0
    assert home.results() == ["a.vatt.json", "a.vatt.wav", "b.vatt.json", "b.vatt.wav"]
    assert len(home.executions("sound")) == 2


def test_wrong_calls_are_refused_in_one_sentence(home: Any) -> None:
    (home.folder / "sub").mkdir()
    home.add("--recursive")
    for arguments, word in [
        (("add", str(home.root / "missing")), "missing"),
        (("add", str(home.folder), "--takes", "99"), "takes"),
        (("add", str(home.folder), "--captions", "99"), "captions"),
        (("add", str(home.folder / "sub")), f"'vatt watch remove {home.folder}'"),
        (("add", str(home.root), "--recursive"), f"leave --recursive out, or 'vatt watch remove {home.folder}'"),
        (("remove", str(home.root)), "not watched"),
        (("pause", str(home.root / "missing")), "not watched"),
    ]:
        code, _, said = home.call("watch", *arguments)
        assert code not in (0, 1) and word in said and len(said.splitlines()) == 1, said
    home.start()
    first = home.watch()
    home.until(lambda: home.listed()["running"])
    second = home.vatt("watch", "run")
    assert second.returncode == 8 and len(second.stderr.splitlines()) == 1
    first.terminate()
    assert first.wait(60) == 0


@pytest.mark.skipif(os.name == "nt", reason="file names there are always Unicode")
def test_a_name_that_is_no_unicode_is_told(home: Any) -> None:
    path = os.fsencode(home.folder) + b"/caf\xe9.mp4"
    with open(path, "w") as file:
        file.write("clip")
    home.write("good.mp4", "good")
    home.add("--captions", "0")
    assert home.once().returncode == 0
    assert "rename" in (home.folder / "failed" / "caf\\udce9.mp4.error.txt").read_text("utf-8")
    assert (home.folder / "good.vatt.wav").exists()


def test_a_name_too_long_for_its_results_is_told(home: Any) -> None:
    # 254 bytes: neither settings beside it nor an error text of its whole name could exist.
    names = ["長" * 83 + "a.mp4", "長" * 83 + "b.mp4"]
    for name in names:
        home.write(name, name)
    longest = "長" * 79 + ".mp4"
    home.write(longest, "fits")
    home.add("--captions", "0")
    assert home.once().returncode == 1
    texts = [file.read_text("utf-8") for file in (home.folder / "failed").iterdir()]
    assert len(texts) == 2 and all("rename" in text for text in texts)
    assert all(sum(name in text for text in texts) == 1 for name in names)
    assert (home.folder / ("長" * 79 + ".vatt.wav")).exists()
