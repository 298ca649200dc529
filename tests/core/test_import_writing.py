"""How an import writes: whole or not at all, over an old model only when asked, and never past the room that there is."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.core.imports import refused, run
from tests.core.official_files import pack_release
from tests.core.small_files import small_files
from vatt_core.errors import BadModel, BadRequest, DiskFull
from vatt_core.weights.importing import build, import_model
from vatt_core.weights.importing.placing import clear_up
from vatt_core.weights.verify import verify_model


def test_an_installed_model_is_replaced_only_when_asked(release: Path) -> None:
    folder = run(release).folder
    with pytest.raises(BadRequest, match="--replace"):
        run(release)
    (release / "vicuna" / "config.json").unlink()
    with pytest.raises(BadModel):
        run(release, replace=True)
    assert verify_model(folder)  # a failed import leaves the old one
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def ended_process() -> int:
    """The number of a process that is no more."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_what_killed_imports_left_goes_and_the_model_they_had_put_aside_comes_back(tmp_path: Path) -> None:
    ended = ended_process()
    model = tmp_path / "own"
    for work, name in (
        (f".own.{ended}.1a", "old"),
        (f".own.{os.getpid()}.2b", "model"),
        (f".own2.{ended}.3c", "model"),
        (f".own.7.{ended}.4d", "old"),
    ):
        (tmp_path / work / name).mkdir(parents=True)
        (tmp_path / work / name / "config.json").write_text(work)
    clear_up(model)
    assert (model / "config.json").read_text() == f".own.{ended}.1a"
    left = {f".own.{os.getpid()}.2b", f".own2.{ended}.3c", f".own.7.{ended}.4d"}
    assert {path.name for path in tmp_path.iterdir()} == {"own", *left}


def test_a_model_that_was_put_aside_stays_there_where_it_cannot_come_back(tmp_path: Path) -> None:
    aside = tmp_path / f".own.{ended_process()}.1a" / "old"
    aside.mkdir(parents=True)
    (tmp_path / "own").symlink_to(tmp_path / "a disk that is not there")
    with pytest.raises(BadRequest, match="own"):
        clear_up(tmp_path / "own")
    assert aside.is_dir()


def test_no_more_room_is_taken_than_was_asked_for(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(build, "need_space", lambda folder, size, what: asked.append(size))
    for store in ("source", "bfloat16"):
        folder = run(release, folder=release.parent / store, store=store).folder
        written = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        assert asked[-1] == pytest.approx(written, rel=0.2)  # the names of tensors come on top


def test_the_disk_is_asked_before_anything_is_written(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    refused(release, kind=DiskFull)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("most", [1000, 100_000])
def test_a_disk_that_fills_leaves_nothing(whole_release: Path, tmp_path: Path, packed: bool, most: int) -> None:
    given = (pack_release if packed else shutil.copytree)(whole_release, tmp_path / "given")
    with small_files(most):
        error = refused(Path(given), kind=DiskFull)
    assert str(tmp_path / "models") in error.message
    run(Path(given))


@pytest.mark.parametrize(
    ("owner", "writes", "last"), [(Path, "write_text", "config.json"), (os, "replace", "import.json")]
)
def test_a_disk_that_fills_at_the_last_files_leaves_nothing(
    release: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, writes: str, last: str
) -> None:
    write = getattr(owner, writes)

    def full(*given: Any, **options: Any) -> Any:
        if any(getattr(one, "name", "") == last for one in given):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*given, **options)

    monkeypatch.setattr(owner, writes, full)
    assert str(release.parent / "models") in refused(release, kind=DiskFull).message


def test_a_models_folder_that_is_none(release: Path) -> None:
    (release.parent / "models").write_text("a file")
    with pytest.raises(BadRequest, match="models"):
        run(release)


def test_the_disk_is_asked_before_an_archive_is_unpacked(
    whole_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_release(whole_release, tmp_path / "packed")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    lines: list[str] = []
    with pytest.raises(DiskFull, match=r"\.zip"):
        import_model("vatt-llama-t", [packed], folder=tmp_path / "models" / "vatt-llama-t", family="llama",
                     text_steered=True, report=lines.append)  # fmt: skip
    assert lines == [] and list((tmp_path / "models").iterdir()) == []
