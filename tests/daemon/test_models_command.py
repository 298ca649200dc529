"""`vatt models`: official archives over HTTP into a model that the daemon uses by its name, and what is said when it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.download_server import FileServer, serving
from tests.core.official_files import pack_release, write_release

MINI = Path(__file__).parents[1] / "data" / "recorded" / "mini-official"
REGISTRY = """
[models.nano]
title = "nano"
embedded = true
[models.vatt-gemma-t]
title = "Gemma-T"
family = "gemma"
text_steered = true
parts = ["gemma", "delta", "models", "codebooks", "audiogen", "eva"]
[licences.gemma]
title = "Gemma's terms"
url = "https://terms.example/gemma"
must_accept = true
[licences.free]
title = "free"
url = "https://terms.example/free"
must_accept = false
"""
PARTS = {
    "gemma": "gemma_2b.zip",
    "delta": "gemma-finetuned-checkpoint-231000.zip",
    "models": "vatt_models.zip",
    "codebooks": "meta_pretrain_vgg_encodec_embed.pt",
    "audiogen": "audiogen_models.zip",
    "eva": "open_clip_pytorch_model.bin",
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    return pack_release(write_release(MINI, folder / "release"), folder / "packed")


class Release:
    """The official archives on a server of this machine, and the command of a user with a home of its own."""

    def __init__(self, server: FileServer, root: Path) -> None:
        self.server = server
        self.home = root / "home"
        self.registry = root / "registry.toml"
        self.write_registry()

    def write_registry(self, **more: str) -> None:
        text = REGISTRY
        for name, file in PARTS.items():
            text += f'[parts.{name}]\nfile = "{file}"\nsources = ["{self.server.url(file)}"]\n'
            text += f'licences = ["{"gemma" if name == "gemma" else "free"}"]\n'
            text += 'beside = ["open_clip_config.json"]\n' if name == "eva" else ""
            text += more.get(name, "")
        self.registry.write_text(text)

    def vatt(self, *arguments: str, terminal: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run `vatt models`; its standard error goes to `terminal` where one is given."""
        environment = {
            **os.environ,
            "VATT_HOME": str(self.home),
            "VATT_REGISTRY": str(self.registry),
            "OMP_NUM_THREADS": "1",
        }
        ran = subprocess.run(
            [sys.executable, "-m", "vatt_daemon.cli", "models", *arguments],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal or subprocess.PIPE, text=True,
            timeout=280, check=False,
        )  # fmt: skip
        assert "Traceback" not in (ran.stderr or "")
        return ran

    def pull(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.vatt("pull", "vatt-gemma-t", "--accept", "gemma", *more)

    def left(self) -> list[str]:
        """Every file that the command has left, but for locks."""
        data = self.home / "data"
        files = (path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file())
        return sorted(file for file in files if not file.endswith(".lock"))

    def receipts(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "data" / "downloads.json").read_text()))

    def serve_spoilt(self, name: str, spoil: Callable[[bytes], bytes]) -> None:
        """From now on the server has another content for the file `name`."""
        folder = self.home.parent / "spoilt"
        folder.mkdir()
        for path in self.server.folder.iterdir():
            content = path.read_bytes()
            (folder / path.name).write_bytes(spoil(content) if path.name == name else content)
        self.server.folder = folder


@pytest.fixture
def release(archives: Path, tmp_path: Path) -> Iterator[Release]:
    with serving(archives) as server:
        yield Release(server, tmp_path)


def test_pull_verify_use_and_remove(release: Release, home: Any, tmp_path: Path) -> None:
    refused = release.vatt("pull", "vatt-gemma-t")
    assert refused.returncode == 2 and "--accept gemma" in refused.stderr
    assert release.server.requests == []

    release.server.cut["vatt_models.zip"] = [50_000]
    release.server.drive.add("gemma_2b.zip")
    pulled = release.pull()
    assert pulled.returncode == 0, pulled.stderr
    folder = Path(pulled.stdout.strip())
    assert folder == release.home / "data" / "models" / "vatt-gemma-t"
    assert any(wanted == "bytes=50000-" for path, wanted in release.server.requests if path == "/vatt_models.zip")
    receipts = release.receipts()
    assert receipts["accepted"] == ["gemma"] and len(receipts["files"]) == len(PARTS) + 1
    assert all(len(entry["sha256"]) == 64 for entry in receipts["files"].values())

    # The daemon takes it by its name.
    from vatt_core.world.write import write_world

    clip = tmp_path / "world.mp4"
    write_world(clip, seed=2_000_021, seconds=1.0, size=96)
    home.environment |= {"VATT_HOME": str(release.home), "VATT_REGISTRY": str(release.registry)}
    home.file = release.home / "runtime" / home.file.name
    del home.environment["VATT_WORKER_PIPELINE"]
    home.start()
    with home.client() as client:
        made = client.generate(
            clip, output=tmp_path / "out", model="vatt-gemma-t", prompt="Rain falls.", steps=2, seed=1
        )
        assert Path(made.takes[0].wav).is_file()
        assert json.loads(Path(made.takes[0].sidecar).read_text())["model"]["name"] == "vatt-gemma-t"
    home.kill()

    # What was fetched is not fetched again; what comes must be what came at first.
    before = len(release.server.requests)
    again = release.pull("--replace", "--normalise-features", "--lora-alpha", "16", "--store", "bfloat16")
    assert again.returncode == 0 and len(release.server.requests) == before
    options = json.loads((folder / "import.json").read_text())["options"]
    assert (options["normalise_features"], options["lora_alpha"], options["store"]) == (True, 16, "bfloat16")
    (release.home / "data" / "downloads" / "gemma" / "gemma_2b.zip").unlink()
    release.server.changed.add("gemma_2b.zip")
    changed = release.pull("--replace")
    assert changed.returncode == 6 and "gemma_2b.zip" in changed.stderr
    assert release.vatt("verify", "vatt-gemma-t").returncode == 0

    removed = release.vatt("remove", "vatt-gemma-t", "--downloads")
    assert removed.returncode == 0 and not folder.exists()
    assert not (release.home / "data" / "downloads").exists()
    assert release.vatt("verify", "vatt-gemma-t").returncode == 3
    # What was accepted, and what came at first, is known for ever.
    changed = release.vatt("pull", "vatt-gemma-t")
    assert changed.returncode == 6 and "gemma_2b.zip" in changed.stderr


@pytest.mark.parametrize("failure", ["hash", "403", "page", "truncated"])
def test_a_failed_pull_leaves_nothing_half_written(release: Release, archives: Path, failure: str) -> None:
    name, code = "gemma_2b.zip", 6
    receipts = {"files": {}, "accepted": ["gemma"]}
    if failure == "hash":
        release.write_registry(gemma=f'sha256 = "{"0" * 64}"\n')
    elif failure == "403":
        release.server.refuse[name], code = 403, 7
    elif failure == "page":
        release.server.page[name] = "<html><title>Quota exceeded</title></html>"
    else:
        release.serve_spoilt(name, lambda content: content[:-2000])
    ran = release.pull()
    assert ran.returncode == code, ran.stderr
    assert name in ran.stderr and len(ran.stderr.strip().splitlines()[-1]) < 600
    assert release.left() == ["downloads.json"] and release.receipts() == receipts


@pytest.mark.parametrize("fault", ["truncated", "spoilt"])
def test_once_the_server_has_the_whole_file_the_same_command_succeeds(
    release: Release, archives: Path, fault: str
) -> None:
    """A file that is cut short is seen when it comes, one with wrong bytes inside when it is imported."""

    def spoil(content: bytes) -> bytes:
        if fault == "truncated":
            return content[:-2000]
        spoilt = bytearray(content)
        for place in range(1000, len(content) - 5000, 997):
            spoilt[place] ^= 0xFF
        return bytes(spoilt)

    release.serve_spoilt("audiogen_models.zip", spoil)
    failed = release.pull()
    said = failed.stderr.strip().splitlines()[-1]
    assert failed.returncode == 6 and "audiogen_models.zip" in said and "thrown away" in said
    assert "audiogen/audiogen_models.zip" not in release.receipts()["files"]
    kept = set(PARTS) - {"audiogen"} - ({"eva"} if fault == "truncated" else set())
    beside = ["downloads/eva/open_clip_config.json"] if "eva" in kept else []
    assert release.left() == sorted([*(f"downloads/{part}/{PARTS[part]}" for part in kept), *beside, "downloads.json"])
    release.server.folder = archives
    again = release.pull()
    assert again.returncode == 0, again.stderr
    assert [path for path, _ in release.server.requests].count("/gemma_2b.zip") == 1


def test_what_is_wrong_with_the_options_is_told_before_anything_is_fetched(release: Release) -> None:
    for wrong in (["--store", "float7"], ["--part", "delta="], ["--part", f"nose={release.registry}"]):
        ran = release.pull(*wrong)
        assert ran.returncode == 2 and wrong[0].strip("-") in ran.stderr
    assert release.server.requests == [] and release.left() == []


def test_progress_is_told_in_lines_where_there_is_no_terminal(release: Release) -> None:
    release.server.refuse["gemma-finetuned-checkpoint-231000.zip"] = 403
    told = re.findall(r"^gemma_2b\.zip: (.+) of (.+)$", release.pull().stderr, re.MULTILINE)
    assert 2 <= len(told) <= 11 and told[0][0] == "0 bytes"
    assert told[-1][0] == told[-1][1] and len({of for _, of in told}) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal to read from is POSIX")
def test_progress_is_shown_as_a_bar_on_a_terminal(release: Release) -> None:
    release.server.refuse["gemma-finetuned-checkpoint-231000.zip"] = 403
    screen, terminal = os.openpty()
    try:
        assert release.vatt("pull", "vatt-gemma-t", "--accept", "gemma", terminal=terminal).returncode == 7
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", os.read(screen, 1 << 20).decode())
    finally:
        os.close(terminal)
        os.close(screen)
    assert re.search(r"gemma_2b\.zip .*\b(\d+\.\d)/\1 .B", shown), shown


def test_a_licence_that_is_none_is_not_remembered(release: Release) -> None:
    ran = release.vatt("pull", "vatt-gemma-t", "--accept", "gema")
    assert ran.returncode == 2 and "gema" in ran.stderr and "gemma" in ran.stderr
    assert release.server.requests == [] and not (release.home / "data" / "downloads").exists()


@pytest.mark.parametrize("content", ["[]", '{"files": [], "accepted": 3}', '{"files": {"a": 1}}', "{"])
def test_damaged_receipts_are_begun_anew(release: Release, content: str) -> None:
    data = release.home / "data"
    data.mkdir(parents=True)
    (data / "downloads.json").write_text(content)
    release.server.refuse["gemma_2b.zip"] = 403
    assert release.pull().returncode == 7
    assert release.receipts() == {"files": {}, "accepted": ["gemma"]}


@pytest.mark.parametrize("name", ["nano", "two words", "two\nlines", "..", "a/b", ""])
def test_a_name_that_a_model_of_ones_own_cannot_have(release: Release, name: str) -> None:
    ran = release.vatt("import", name, "--like", "vatt-gemma-t", str(release.home))
    assert ran.returncode == 2 and "name" in ran.stderr


def test_a_size_without_end_is_refused_in_a_sentence(release: Release) -> None:
    ran = release.vatt("dry-run", "vatt-gemma-t", "--free", "inf")
    assert ran.returncode == 2 and "--free" in ran.stderr


def test_an_empty_part_is_not_the_present_folder(release: Release) -> None:
    ran = release.vatt("import", "mine", "--like", "vatt-gemma-t", "--part", "delta=")
    assert ran.returncode == 2 and "ROLE=FILE" in ran.stderr


def test_names_and_places(release: Release) -> None:
    listed = json.loads(release.vatt("list", "--json").stdout)
    entry = next(model for model in listed if model["name"] == "vatt-gemma-t")
    assert not entry["installed"] and [licence["name"] for licence in entry["licences"]] == ["gemma", "free"]
    assert release.vatt("path", "vatt-gemma-t").returncode == 3
    assert release.vatt("pull", "nano").returncode == 2
    assert release.vatt("remove", "nano").returncode == 2
    assert release.vatt("import", "vatt-gemma-t").returncode == 6
