"""What is missing from a folder of recordings fails or skips its tests, but never all of them in silence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.recorded import recordings
from tests.recorded.recordings import BUNDLED, CASES, Recordings

Failed, Skipped = pytest.fail.Exception, pytest.skip.Exception


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another folder of the same form."""
    return Path(shutil.copytree(BUNDLED, tmp_path / "other", copy_function=os.symlink))


def drop(root: Path, *cases: str) -> None:
    for case in cases:
        for path in (root / "golden").glob(f"{case}.*"):
            path.unlink()


def test_the_bundled_recordings_are_whole() -> None:
    assert len(CASES) == len(set(CASES)) == 10
    for case in CASES:
        assert Recordings().read(case)[1]
    assert any(Recordings().checkpoints.rglob("*.ckpt"))


def test_the_folder_itself_may_be_named(other: Path) -> None:
    found = Recordings(other / "golden")
    assert found.folder == other / "golden" and found.checkpoints == other / "mini-official"


def test_a_case_that_another_folder_lacks_is_skipped(other: Path) -> None:
    drop(other, "misc")
    with pytest.raises(Skipped, match="misc"):
        Recordings(other).read("misc")
    assert Recordings(other).read("converter_llama")[0]


def test_a_bundled_case_that_is_lost_fails(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "BUNDLED", other)
    drop(other, "misc")
    with pytest.raises(Failed, match="misc"):
        Recordings(other).read("misc")
    shutil.rmtree(other / "mini-official")
    with pytest.raises(Failed, match="checkpoints"):
        _ = Recordings(other).checkpoints
    shutil.rmtree(other)
    with pytest.raises(Failed):
        Recordings(other).read("misc")


def test_a_folder_without_recordings_fails(other: Path) -> None:
    drop(other, *CASES)
    (other / "golden" / "something.safetensors").touch()
    for case in CASES:
        with pytest.raises(Failed, match="none of the recordings"):
            Recordings(other).read(case)


def test_checkpoints_are_needed_where_something_was_recorded_from_them(other: Path) -> None:
    shutil.rmtree(other / "mini-official")
    with pytest.raises(Failed, match="checkpoints"):
        _ = Recordings(other).checkpoints
    drop(other, *recordings.OF_CHECKPOINTS)
    with pytest.raises(Skipped, match="checkpoints"):
        _ = Recordings(other).checkpoints
