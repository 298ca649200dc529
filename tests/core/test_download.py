"""Fetching over real HTTP, from a server of this machine that misbehaves as servers do."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.download_server import FileServer, serving
from vatt_core.errors import DiskFull
from vatt_core.weights.download import ATTEMPTS, DownloadFailed, Fetched, WrongFile, confirmation, direct, fetch

CONTENT = random.Random(1).randbytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "weights.zip").write_bytes(CONTENT)
    with serving(folder) as found:
        yield found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "weights.zip"


def get(server: FileServer, target: Path, **options: object) -> Fetched:
    return fetch(server.url("weights.zip"), target, pause=lambda seconds: None, **options)  # type: ignore[arg-type]


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.glob("*"))


def test_a_file_comes_whole_with_progress(server: FileServer, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = get(
        server, target, progress=lambda done, total: seen.append((done, total)), sha256=DIGEST, size=len(CONTENT)
    )
    assert target.read_bytes() == CONTENT
    assert (fetched.size, fetched.sha256) == (len(CONTENT), DIGEST)
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert left(target) == ["weights.zip"]


def test_a_cut_connection_goes_on_where_it_broke(server: FileServer, target: Path) -> None:
    server.cut["weights.zip"] = [1_000_000, 500_000]
    get(server, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_broken_download_is_resumed_by_the_next_command(server: FileServer, target: Path) -> None:
    server.cut["weights.zip"] = [1_500_000] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed):
        get(server, target)
    assert not target.exists()
    server.cut.clear()
    get(server, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1500000-"
    assert left(target) == ["weights.zip"]


def test_a_file_that_changed_meanwhile_is_begun_anew(server: FileServer, target: Path) -> None:
    server.cut["weights.zip"] = [1_500_000] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed):
        get(server, target)
    server.cut.clear()
    server.changed.add("weights.zip")
    get(server, target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_whole_part_that_was_not_checked_is_not_fetched_again(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(hashlib, "file_digest", killed)
        get(server, target)
    assert get(server, target).sha256 == DIGEST
    assert len(server.requests) == 1 and left(target) == ["weights.zip"]


@pytest.mark.parametrize(("stamp", "extra"), [(None, {}), ("W/", {}), ("", {"Accept-Ranges": "none"})])
def test_going_on_is_promised_only_where_the_server_can(
    server: FileServer, target: Path, stamp: str | None, extra: dict[str, str]
) -> None:
    server.cut["weights.zip"] = [1_500_000] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed, match="are kept"):
        get(server, target)
    target.with_name("weights.zip.part").unlink()
    server.stamp, server.extra = stamp, extra
    server.cut["weights.zip"] = [1_500_000] * ATTEMPTS * 2
    with pytest.raises(DownloadFailed, match="thrown away"):
        get(server, target)
    assert left(target) == []


def test_a_part_that_another_wrote_into_is_no_file(server: FileServer, target: Path) -> None:
    def write_too(done: int, total: int | None) -> None:
        if done == total:
            with target.with_name("weights.zip.part").open("ab") as file:
                file.write(b"x" * 1_000_000)

    with pytest.raises(WrongFile, match=r"3\.0 MB|3 MB"):
        get(server, target, progress=write_too)
    assert left(target) == []


def test_a_server_that_leads_in_a_circle_is_a_failed_download(server: FileServer, target: Path) -> None:
    server.refuse["weights.zip"] = 302
    server.extra = {"Location": server.url("weights.zip")}
    with pytest.raises(DownloadFailed):
        get(server, target)
    assert left(target) == []


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 3_000_001}])
def test_another_file_is_thrown_away(server: FileServer, target: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(WrongFile):
        get(server, target, **wrong)
    assert left(target) == []


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_a_refusal_leaves_nothing(server: FileServer, target: Path, status: int) -> None:
    server.refuse["weights.zip"] = status
    with pytest.raises(DownloadFailed) as caught:
        get(server, target)
    assert str(status) in caught.value.message
    assert left(target) == []


@pytest.mark.parametrize(
    "page", ["<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>", "<html></html>"]
)
def test_a_web_page_is_no_file(server: FileServer, target: Path, page: str) -> None:
    server.page["weights.zip"] = page
    with pytest.raises(WrongFile):
        get(server, target)
    assert left(target) == []


def test_a_web_page_that_claims_to_be_a_file_is_no_file(server: FileServer, target: Path) -> None:
    (server.folder / "weights.zip").write_text("<!doctype html><title>Log in</title>")
    with pytest.raises(WrongFile):
        get(server, target)
    assert left(target) == []


def test_the_page_before_large_files_is_confirmed(server: FileServer, target: Path) -> None:
    server.drive.add("weights.zip")
    get(server, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT
    assert "confirm=t" in server.requests[-1][0] and "uuid=5e" in server.requests[-1][0]


def test_the_page_is_confirmed_again_when_going_on(server: FileServer, target: Path) -> None:
    server.drive.add("weights.zip")
    server.cut["weights.zip"] = [1_000_000]
    get(server, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_the_disk_is_asked_before_anything_is_written(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DiskFull) as caught:
        get(server, target)
    assert caught.value.details["needed"] == len(CONTENT)
    assert left(target) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_fills_up_while_writing_leaves_nothing(server: FileServer, target: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "from pathlib import Path; from vatt_core.errors import DiskFull; from vatt_core.weights.download import fetch\n"
        "try: fetch(sys.argv[1], Path(sys.argv[2]))\n"
        "except DiskFull: sys.exit(55)"
    )
    ran = subprocess.run([sys.executable, "-c", code, server.url("weights.zip"), str(target)], check=False)
    assert ran.returncode == 55
    assert left(target) == []


def test_nobody_answers(tmp_path: Path, server: FileServer, target: Path) -> None:
    server.server_close()
    with pytest.raises(DownloadFailed):
        fetch("http://127.0.0.1:9/weights.zip", target, pause=lambda seconds: None)


def test_proxies_of_the_environment_are_used(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    fetch("http://weights.example/weights.zip", target, pause=lambda seconds: None)
    assert server.requests[0][0].startswith("http://weights.example/")
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("https://drive.google.com/file/d/1rjg-_DKz", "https://drive.google.com/uc?export=download&id=1rjg-_DKz"),
        (
            "https://drive.google.com/file/d/1rjg-_DKz/view?usp=sharing",
            "https://drive.google.com/uc?export=download&id=1rjg-_DKz",
        ),
        ("https://drive.google.com/uc?id=1rjg-_DKz", "https://drive.google.com/uc?export=download&id=1rjg-_DKz"),
        (
            "https://www.dropbox.com/scl/fi/o1/m.zip?rlkey=y&st=w&dl=0",
            "https://www.dropbox.com/scl/fi/o1/m.zip?rlkey=y&st=w&dl=1",
        ),
        ("https://example.org/m.zip?dl=0", "https://example.org/m.zip?dl=0"),
    ],
)
def test_pages_of_known_hosts_lead_to_their_files(page: str, file: str) -> None:
    assert direct(page) == file


def test_only_a_page_that_asks_for_confirmation_is_followed() -> None:
    assert confirmation('<form action="/login"><input name="user"></form>', "https://x.example/") is None
    old = '<a id="uc-download-link" href="/uc?export=download&amp;confirm=abcd&amp;id=1">Download anyway</a>'
    assert confirmation(old, "https://drive.google.com/uc?id=1") == (
        "https://drive.google.com/uc?export=download&confirm=abcd&id=1"
    )
