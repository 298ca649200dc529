"""Reading media in a process with limits: the same results, and nothing that a file does goes further than that."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.core.spoilt_clips import remuxed, spoilt
from vatt_core.errors import BadMedia, Cancelled, InputNotVisible, LimitsExceeded, VattError
from vatt_core.media.frames import read_frames
from vatt_core.media.guarded import Guard, GuardLimits
from vatt_core.media.probe import clip_range, probe
from vatt_core.world.write import write_world


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("guarded") / "clip.mp4"
    write_world(file, seed=2_000_021, seconds=1.0, size=64)
    return file


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    found = Guard()
    yield found
    found.close()


def huge(path: Path) -> Path:
    """A small file whose single picture has 64 million pixels."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("ffv1", rate=1)
        stream.width = stream.height = 8000
        stream.pix_fmt = "gray"
        target.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((8000, 8000), np.uint8), format="gray")))
        target.mux(stream.encode(None))
    return path


def test_results_and_errors_are_those_of_reading_without_a_guard(clip: Path, guard: Guard, tmp_path: Path) -> None:
    info = probe(clip)
    frames = read_frames(clip, clip_range(info, Fraction(1, 3)), rate=Fraction(25, 2), shortest_side=32)
    text = tmp_path / "text.mp4"
    text.write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    with guard.installed():
        assert probe(clip) == info
        again = read_frames(clip, clip_range(info, Fraction(1, 3)), rate=Fraction(25, 2), shortest_side=32)
        assert again.dtype == frames.dtype and np.array_equal(again, frames)
        with pytest.raises(InputNotVisible):
            probe(clip.with_name("missing.mp4"))
        with pytest.raises(BadMedia):
            probe(text)
        assert probe(clip) == info


def test_limits_on_memory_processor_and_time_end_in_words(clip: Path, tmp_path: Path) -> None:
    time_map = clip_range(probe(clip))
    large = huge(tmp_path / "huge.mkv")
    assert large.stat().st_size < 1 << 20

    def refused(limits: GuardLimits, call: object) -> None:
        own = Guard(limits)
        with own.installed():
            with pytest.raises(LimitsExceeded):
                call()  # type: ignore[operator]
            assert own._idle == []  # the next clip is read by a new process
            assert probe(clip).duration == time_map.duration
        own.close()

    refused(GuardLimits(memory=100 << 20), lambda: probe(large))
    refused(GuardLimits(memory=300 << 20), lambda: read_frames(clip, time_map, rate=24, size=(4000, 4000)))
    refused(GuardLimits(cpu_seconds=1), lambda: read_frames(clip, time_map, rate=24, size=(5000, 3000)))
    own = Guard()
    own.prepare()
    reader = own._idle[0]
    with own.installed():
        probe(clip)
        reader._limits = GuardLimits(wall_seconds=2.0)  # now that it has started, which may take longer
        psutil.Process(reader._process.pid).suspend()
        with pytest.raises(LimitsExceeded):
            probe(clip)
        assert probe(clip).duration == time_map.duration
    own.close()


def test_a_reader_that_dies_or_is_cancelled_is_replaced(clip: Path, guard: Guard) -> None:
    time_map = clip_range(probe(clip))
    with guard.installed():
        probe(clip)
        process = guard._idle[0]._process
        with pytest.raises(VattError):
            # Asked while the call is under way.
            read_frames(clip, time_map, rate=24, size=(5000, 3000), cancelled=lambda: bool(process.kill()))
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(Cancelled):
            read_frames(clip, time_map, rate=24, size=(5000, 3000), cancelled=stop.is_set)
        assert probe(clip).duration == time_map.duration


def test_nothing_but_reading_media_can_be_asked_for(guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(BadMedia):
        guard.call("os:mkdir", (str(tmp_path / "made"),), {})
    assert not (tmp_path / "made").exists()


def test_a_reader_ends_with_whoever_started_it() -> None:
    code = ("import time; from vatt_core.media.guarded import Guard; guard = Guard(); guard.prepare(); "
            "print(guard._idle[0]._process.pid, flush=True); time.sleep(100)")  # fmt: skip
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    reader = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([reader], timeout=60)
    assert not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE


def test_spoilt_files_give_pictures_or_a_typed_error_and_leave_the_reader_able(
    clip: Path, guard: Guard, tmp_path: Path
) -> None:
    info, chance = probe(clip), random.Random(1)
    sources = [(suffix, remuxed(clip, suffix)) for suffix in (".mkv", ".mov", ".ts", ".mp4")]
    refused = 0
    with guard.installed():
        for number in range(40):
            suffix, data = sources[number % len(sources)]
            file = tmp_path / f"{number}{suffix}"
            file.write_bytes(spoilt(data, chance))
            begun = time.monotonic()
            try:
                found = probe(file)
                frames = read_frames(file, clip_range(found, 0, min(found.duration, 2)), rate=4, shortest_side=16)
                assert frames.ndim == 4 and frames.dtype == np.uint8 and len(frames)
            except VattError:
                refused += 1
            assert time.monotonic() - begun < 60
        assert probe(clip) == info
    assert 0 < refused < 40
