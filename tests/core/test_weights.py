"""Names of models and the folders they stand for."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from vatt_core.errors import BadModel, BadRequest, NotFound
from vatt_core.weights import find_model, list_models, registry
from vatt_core.weights.fingerprint import CONFIG_FILE, PART_NAMES, TOKENIZER_FOLDER
from vatt_core.weights.record import write_record


@pytest.fixture
def own_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(registry, "models_folder", lambda: tmp_path)
    return tmp_path


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_nano_and_the_official_models_are_known(own_models: Path) -> None:
    entries = {entry.name: entry for entry in list_models()}
    assert list(entries) == ["nano", "vatt-llama", "vatt-llama-t", "vatt-gemma", "vatt-gemma-t"]
    assert entries["nano"].embedded
    assert all(entry.licence and entry.title for entry in entries.values())
    for name, entry in entries.items():
        if name != "nano":
            assert not entry.installed
            assert entry.parts
            assert entry.folder == own_models / name


def test_an_installed_model_is_found_by_name_and_by_folder(own_models: Path, tmp_path: Path) -> None:
    folder = put(own_models / "vatt-gemma")
    assert find_model("vatt-gemma") == folder
    mine = put(own_models / "mine")
    assert find_model("mine") == mine
    assert "mine" in [entry.name for entry in list_models() if entry.installed]
    assert find_model(mine) == mine
    assert find_model(str(mine)) == mine


@pytest.mark.parametrize("name", ["no-such", "", "..", "../mine", "vatt-llama"])
def test_what_is_not_there_is_not_found(own_models: Path, name: str) -> None:
    with pytest.raises(NotFound):
        find_model(name)


def test_an_unknown_name_is_answered_with_the_known_ones(own_models: Path) -> None:
    with pytest.raises(NotFound, match=r"nano.*vatt-llama"):
        find_model("nanoo")


PART = '[models.a]\ntitle = "a"\nfamily = "gemma"\nparts = ["b"]\n[parts.b]\n'
WHOLE = PART + 'file = "b.zip"\nsources = ["http://localhost/b.zip"]\nlicences = ["free"]\n'
FREE = '[licences.free]\ntitle = "free"\nurl = "http://localhost"\n'
REGISTRY = WHOLE + FREE + "must_accept = false\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "models"),
        ("[models.a]\n", "title"),
        ('[models.a]\ntitle = "a"\nparts = ["b"]\n', "family"),
        ('[models.a]\ntitle = "a"\nfamily = "gemma"\nparts = ["b"]\n', "parts.b"),
        (REGISTRY.replace('"gemma"', '"bert"'), "family"),
        (PART, "file"),
        (WHOLE, "licences.free"),
        (WHOLE + FREE, "must_accept"),
        ("models = 3\n", "models"),
        (f"parts = 3\n{REGISTRY.replace('[parts.b]', '[other.b]')}", "parts"),
        ("[models]\na = 3\n", "models.a"),
        (REGISTRY.replace("http://localhost/b.zip", "hf:timm/tower/b.zip"), "hf:OWNER/NAME"),
        (REGISTRY.replace("http://localhost/b.zip", "localhost/b.zip"), "localhost/b.zip"),
        (REGISTRY.replace('["http://localhost/b.zip"]', '"http://localhost/b.zip"'), "sources"),
        (REGISTRY.replace('["http://localhost/b.zip"]', "[]"), "sources"),
        (REGISTRY.replace('"b.zip"', '"../b.zip"'), "file"),
        (REGISTRY.replace("licences = [", 'size = "3 GB"\nlicences = ['), "size"),
        (REGISTRY.replace("licences = [", "size = true\nlicences = ["), "size"),
        (REGISTRY.replace("licences = [", 'sha256 = "AB"\nlicences = ['), "sha256"),
        (REGISTRY.replace("licences = [", 'sha265 = "AB"\nlicences = ['), "sha265"),
        (REGISTRY.replace("= false", '= "no"'), "must_accept"),
    ],
)
def test_a_registry_that_says_too_little_or_something_else_is_refused_by_the_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "registry.toml").write_text(text)
    monkeypatch.setenv("VATT_REGISTRY", str(tmp_path / "registry.toml"))
    with pytest.raises(BadRequest, match=named) as caught:
        list_models()
    assert "registry.toml" in caught.value.message


def test_a_hash_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = REGISTRY.replace("licences = [", f'sha256 = "{"AB" * 32}"\nlicences = [')
    (tmp_path / "registry.toml").write_text(given)
    monkeypatch.setenv("VATT_REGISTRY", str(tmp_path / "registry.toml"))
    assert registry.find_part("b").sha256 == "ab" * 32


@pytest.mark.parametrize("source", ["hf:timm/tower", "hf:timm/to-wer.2@refs/pr/3", "https://a.example/b.zip?dl=0"])
def test_the_forms_of_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    (tmp_path / "registry.toml").write_text(REGISTRY.replace("http://localhost/b.zip", source))
    monkeypatch.setenv("VATT_REGISTRY", str(tmp_path / "registry.toml"))
    assert registry.find_part("b").sources == (source,)


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"import\.json"):
        write_record(tmp_path / "absent", {"files": {}})


def test_a_file_that_cannot_be_read_is_no_good_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vatt_core.weights.verify import verify_model

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for name in (CONFIG_FILE, *(f"{part}.safetensors" for part in PART_NAMES), f"{TOKENIZER_FOLDER}/tokenizer.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    write_record(tmp_path, {"files": {}})
    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(BadModel, match=r"config\.json.*Input/output error"):
        verify_model(tmp_path)


def test_names_are_looked_up_without_torch() -> None:
    check = "import sys, vatt_core.weights; vatt_core.weights.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
