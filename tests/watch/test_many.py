"""Ten thousand clips at once, each with a kill of the watcher and of the daemon on the way; and nano in a watched folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import opentimelineio as otio
import pytest
from wavinfo import WavInfoReader


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_ten_thousand_files_at_once(home: Any) -> None:
    many(home, 10_000, seconds=2 * 3600)


@pytest.mark.timeout(1200)
def test_a_hundred_files_at_once(home: Any) -> None:
    many(home, 100, seconds=500)


def many(home: Any, count: int, *, seconds: float) -> None:
    """Drop so many files at once into a folder that is being watched; kill both programs when half is done.

    The pipeline is scripted: what is asked of the watcher, its state, the daemon and its store is all real.
    """

    def asked(condition: Callable[[], bool]) -> Callable[[], bool]:
        """The condition, asked now and then alone: each question reads what there is of thousands of clips."""

        def ask() -> bool:
            time.sleep(count / 5000)
            return condition()

        return ask

    home.add("--recursive", "--captions", "0")
    home.environment["VATT_WATCH_WINDOW"] = "32"
    home.start()
    watching = home.watch()
    home.until(lambda: home.listed()["running"])
    elsewhere = home.root / "elsewhere"
    for number in range(count):
        path = elsewhere / f"{number % 20:02}" / f"clip {number} — ü.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"clip {number}")
    began = time.monotonic()
    os.rename(elsewhere, home.folder / "dropped")
    home.until(asked(lambda: len(home.executions("sound")) > count // 2), seconds=seconds)
    home.kill_process(watching)
    home.kill()
    home.start()
    home.watch()
    home.until(asked(lambda: home.counts() == {"done": count}), seconds=seconds)
    print(f"{count} clips in {time.monotonic() - began:.0f} s")
    waves = list(home.folder.rglob("*.vatt.wav"))
    assert len(waves) == count
    for wav in waves:
        number = wav.name.split()[1]
        assert f"clip {number} ".encode() in wav.read_bytes()
        assert json.loads(wav.with_suffix(".json").read_text("utf-8"))["wav"] == wav.name
    assert len({(path.name) for path in home.folder.rglob("*")}) == 1 + 20 + 3 * count
    assert count <= len(home.executions("sound")) <= count + 1


@pytest.mark.timeout(900)
def test_the_shipped_model_works_in_a_watched_folder(home: Any) -> None:
    from vatt_core.media.probe import probe
    from vatt_core.media.waves import read_wave
    from vatt_core.world.write import write_world

    del home.environment["VATT_WORKER_PIPELINE"]
    clip = home.folder / "sub" / "Regen.mp4"
    clip.parent.mkdir()
    write_world(clip, seed=2_000_023, seconds=2.0, size=96)
    clip.with_suffix(".json").unlink(missing_ok=True)
    (home.folder / "broken.mp4").write_bytes(clip.read_bytes()[:2000])
    home.add("--recursive", "--mux", "--takes", "2", "--seed", "5")
    assert home.watch("--once").wait(600) == 1
    assert home.results() == [
        "failed/broken.mp4.error.txt",
        *(f"sub/Regen.vatt{take}{suffix}" for take in (".2", "") for suffix in (".json", ".mp4", ".wav")),
    ]
    for take in ("", ".2"):
        about = json.loads((clip.parent / f"Regen.vatt{take}.json").read_text("utf-8"))
        assert len(about["captions"]) == 3 and about["request"]["prompt"] == about["captions"][0]["text"]
        assert len(read_wave(clip.parent / about["wav"], sample_rate=48_000)) == 2 * 48_000
        muxed = probe(clip.parent / f"Regen.vatt{take}.mp4")
        assert muxed.has_audio and muxed.duration == probe(clip).duration
    # The side-car makes the take again.
    again = home.vatt("remake", str(clip.parent / "Regen.vatt.json"), "--output", str(home.root / "again"))
    assert again.returncode == 0, again.stderr
    # Another editor opens both takes, each at its timecode.
    handed = home.vatt("export", *(str(clip.parent / f"Regen.vatt{take}.wav") for take in ("", ".2")),
                       "--output", str(home.root / "edit"), "--start", "01:00:00:00")  # fmt: skip
    assert handed.returncode == 0, handed.stderr
    waves = sorted((home.root / "edit").glob("*.wav"))
    assert [WavInfoReader(wave).bext.time_reference for wave in waves] == [3600 * 48_000] * 2
    timeline = otio.adapters.read_from_file(str(home.root / "edit" / "vatt.otio"))
    assert [track.kind for track in timeline.tracks] == ["Video", "Audio", "Audio"]
    assert timeline.duration().to_seconds() == 2.0
    assert not probe(Path(clip)).has_audio
