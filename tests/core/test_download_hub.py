"""Parts that lie on the Hugging Face hub, by its own library, from a server of this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.download_server import FileServer, serving

CONTENT = random.Random(2).randbytes(400_000)
FILES = "timm/tower/resolve/main"
PULL = """
import json, os, sys
from vatt_core.errors import VattError
from vatt_core.weights import space
from vatt_core.weights.pull import pull_part
from vatt_core.weights.registry import Part
space.MARGIN = int(os.environ.get("SPARE", space.MARGIN))
source = os.environ.get("SOURCE", "hf:timm/tower")
part = Part("eva", "a tower", "tower.bin", (source,), (), beside=("config.json",), sha256=sys.argv[1] or None)
try:
    found = {"paths": [str(path) for path in pull_part(part, report=lambda line: None, show=lambda *seen: None)]}
except VattError as error:
    found = {"code": error.code, "message": error.message}
print(json.dumps(found))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "hub" / FILES
    folder.mkdir(parents=True)
    (folder / "tower.bin").write_bytes(CONTENT)
    (folder / "config.json").write_text("{}")
    with serving(tmp_path / "hub") as server:
        server.extra = {"X-Repo-Commit": "5" * 40}
        yield server


def pull(home: Path, endpoint: str, sha256: str = "", **environment: str) -> dict[str, object]:
    """What a process says that pulls the part with nothing but this in its environment about hubs and proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "HUGGING")) and not name.upper().endswith("_PROXY")
    }
    own = {"VATT_HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": endpoint, **environment}
    ran = subprocess.run(
        [sys.executable, "-c", PULL, sha256], env=kept | own, capture_output=True, text=True, timeout=250, check=True
    )
    return dict(json.loads(ran.stdout))


def asked_for_files(hub: FileServer) -> set[tuple[str, str | None]]:
    """What stood before the paths of files that were asked for, and who asked. The library asks for other things too."""
    asked = zip(hub.requests, hub.asked_by, strict=True)
    return {(path.partition(f"/{FILES}/")[0], who) for (path, _), who in asked if FILES in path}


def test_a_part_comes_with_its_companion_and_the_token_of_the_user(hub: FileServer, tmp_path: Path) -> None:
    hub.cut[f"{FILES}/tower.bin"] = [150_000]
    found = pull(tmp_path, hub.url("").rstrip("/"), HF_TOKEN="hf_mine")
    paths = found["paths"]
    assert isinstance(paths, list) and [Path(path).name for path in paths] == ["tower.bin", "config.json"]
    assert Path(paths[0]).read_bytes() == CONTENT  # the connection that was cut did no harm
    assert asked_for_files(hub) == {("", "Bearer hf_mine")}
    receipts = json.loads((tmp_path / "data" / "downloads.json").read_text())["files"]
    assert receipts["eva/tower.bin"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_the_proxy_of_the_environment_is_used(hub: FileServer, tmp_path: Path) -> None:
    found = pull(tmp_path, "http://hub.example", HTTP_PROXY=hub.url(""))
    assert "paths" in found
    assert asked_for_files(hub) == {("http://hub.example", None)}


@pytest.mark.parametrize("offline", ["", "1"])
def test_a_hub_that_cannot_be_reached_is_told_with_a_cure(tmp_path: Path, offline: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        found = pull(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}", HF_HUB_OFFLINE=offline)
    assert found["code"] == "download_failed" and "vatt models import" in str(found["message"])
    assert ("HF_HUB_OFFLINE" in str(found["message"])) == (offline == "1")


def test_a_server_that_is_no_hub_is_told_with_a_cure(hub: FileServer, tmp_path: Path) -> None:
    hub.extra.clear()
    found = pull(tmp_path, hub.url("").rstrip("/"))
    assert found["code"] == "download_failed" and "HF_ENDPOINT" in str(found["message"])


def test_a_name_that_no_repository_has_is_told_with_a_cure(hub: FileServer, tmp_path: Path) -> None:
    found = pull(tmp_path, hub.url("").rstrip("/"), SOURCE="hf:timm/to--wer")
    assert found["code"] == "download_failed" and "timm/to--wer" in str(found["message"])


def test_another_file_than_the_known_one_is_thrown_away(hub: FileServer, tmp_path: Path) -> None:
    assert pull(tmp_path, hub.url("").rstrip("/"), "0" * 64)["code"] == "wrong_file"
    assert not list(tmp_path.rglob("eva/tower.bin"))


@pytest.mark.parametrize(
    ("status", "headers"), [(403, {"X-Error-Code": "GatedRepo"}), (401, {"X-Error-Code": "RepoNotFound"}), (404, {})]
)
def test_a_refusal_is_told_and_leaves_no_file(
    hub: FileServer, tmp_path: Path, status: int, headers: dict[str, str]
) -> None:
    hub.refuse[f"{FILES}/tower.bin"] = status
    hub.extra |= headers
    found = pull(tmp_path, hub.url("").rstrip("/"))
    assert found["code"] == "download_failed" and "timm/tower" in str(found["message"])
    assert ("accept" in str(found["message"])) == (headers.get("X-Error-Code") == "GatedRepo")
    assert not list(tmp_path.rglob("eva/tower.bin"))


def test_room_is_asked_for_before_anything_is_fetched(hub: FileServer, tmp_path: Path) -> None:
    found = pull(tmp_path, hub.url("").rstrip("/"), SPARE=str(1 << 60))
    assert found["code"] == "disk_full" and str(found["message"]).startswith("tower.bin needs 400 kB"), found
    assert not any(
        path.stat().st_size for path in tmp_path.rglob("tower.bin*") if path.parent != tmp_path / "hub" / FILES
    )
