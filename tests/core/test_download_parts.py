"""Several parts, and several commands at once, of a registry and a server of this machine."""

from __future__ import annotations

import random
import shutil
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.download_server import FileServer, serving
from vatt_core.errors import BadRequest, DiskFull, ForbiddenPath
from vatt_core.weights.download import WrongFile
from vatt_core.weights.pull import accept, pull_part, pull_parts, throw_away_damaged
from vatt_core.weights.registry import find_entry, find_part

SIZE = 400_000_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("one.bin", "two.bin"):
        (folder / name).write_bytes(random.Random(name).randbytes(300_000))
    with zipfile.ZipFile(folder / "three.pt", "w") as archive:
        archive.writestr("data.pkl", bytes(100_000))
    with serving(folder) as found:
        text = '[models.both]\ntitle = "both"\nfamily = "gemma"\nparts = ["one", "two"]\n'
        for name in ("one", "two", "large-one", "large-two", "three"):
            file = f"{name.removeprefix('large-')}.{'pt' if name == 'three' else 'bin'}"
            text += f'[parts.{name}]\nfile = "{file}"\nsources = ["{found.url(file)}"]\n'
            text += f"size = {SIZE}\n" if name.startswith("large") else ""
        text += '[models.large]\ntitle = "large"\nfamily = "gemma"\nparts = ["large-one", "large-two"]\n'
        (tmp_path / "registry.toml").write_text(text)
        monkeypatch.setenv("VATT_REGISTRY", str(tmp_path / "registry.toml"))
        monkeypatch.setenv("VATT_HOME", str(tmp_path / "home"))
        yield found


def pull(name: str) -> list[Path]:
    return pull_part(find_part(name), report=lambda line: None, show=lambda *seen: None)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_two_commands_do_not_fetch_the_same_part_at_once(server: FileServer) -> None:
    under_way, waits = threading.Event(), threading.Event()
    found: list[list[Path]] = []

    def stop(name: str, done: int, total: int | None) -> None:
        under_way.set()
        waits.wait(20)

    first = threading.Thread(
        target=lambda: found.append(pull_part(find_part("one"), report=lambda line: None, show=stop))
    )
    first.start()
    assert under_way.wait(20)
    found.append(pull_part(find_part("one"), report=lambda line: waits.set(), show=lambda *seen: None))
    first.join()
    assert found[0] == found[1] and found[0][0].read_bytes() == (server.folder / "one.bin").read_bytes()
    assert len(server.requests) == 1


def test_the_receipt_of_another_command_is_kept(server: FileServer) -> None:
    def fetch_another(line: str) -> None:
        if "SHA-256" in line:
            pull("two")

    pull_part(find_part("one"), report=fetch_another, show=lambda *seen: None)
    assert len(server.requests) == 2
    assert pull("one") and pull("two")
    assert len(server.requests) == 2


def test_the_room_for_all_that_is_to_come_is_asked_for_first(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 3 * 10**8, 7 * 10**8))
    with pytest.raises(DiskFull) as caught:
        pull_parts(find_entry("large"))
    assert caught.value.details["needed"] == 2 * SIZE
    assert server.requests == [] and left(tmp_path) == []
    # What has come already is not counted, nor is what is not known.
    half = tmp_path / "home" / "data" / "downloads" / "large-one" / "one.bin.part"
    half.parent.mkdir(parents=True)
    with half.open("wb") as file:
        file.truncate(SIZE // 2)
    with pytest.raises(DiskFull) as caught:
        pull_parts(find_entry("large"))
    assert caught.value.details["needed"] == SIZE + SIZE // 2
    assert len(pull_parts(find_entry("both"))) == 2


def test_weights_that_are_cut_short_are_thrown_away(server: FileServer, tmp_path: Path) -> None:
    whole = (server.folder / "three.pt").read_bytes()
    (server.folder / "three.pt").write_bytes(whole[:-1000])
    with pytest.raises(WrongFile, match=r"three\.pt"):
        pull("three")
    assert left(tmp_path) == []
    (server.folder / "three.pt").write_bytes(whole)
    assert pull("three")[0].read_bytes() == whole


def test_only_what_is_damaged_is_thrown_away(server: FileServer, tmp_path: Path) -> None:
    (path,) = pull("three")
    assert not throw_away_damaged(path) and path.is_file()
    content = bytearray(path.read_bytes())
    content[50_000] ^= 1
    path.write_bytes(content)
    assert throw_away_damaged(path) and not path.exists()
    (server.folder / "three.pt").write_bytes(content)
    assert pull("three") == [path]  # its hash was forgotten, too


def test_a_folder_that_may_not_be_written_is_told(server: FileServer, tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    (data / "downloads").write_text("no folder")
    with pytest.raises((BadRequest, ForbiddenPath)):
        pull("one")
    assert server.requests == []
    shutil.rmtree(data)
    data.write_text("no folder")
    with pytest.raises((BadRequest, ForbiddenPath)):
        accept([])
