"""Names of models and the folders they stand for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vatt_core.errors import BadRequest, NotFound
from vatt_core.weights import find_model, list_models, registry


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


PART = '[models.a]\ntitle = "a"\nparts = ["b"]\n[parts.b]\n'
WHOLE = PART + 'file = "b.zip"\nsources = ["http://localhost/b.zip"]\nsha256 = "AB"\nlicences = ["free"]\n'
FREE = '[licences.free]\ntitle = "free"\nurl = "http://localhost"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "models"),
        ("[models.a]\n", "title"),
        ('[models.a]\ntitle = "a"\nparts = ["b"]\n', "parts.b"),
        (PART, "file"),
        (WHOLE, "licences.free"),
        (WHOLE + FREE, "must_accept"),
    ],
)
def test_a_registry_that_says_too_little_is_refused_by_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "registry.toml").write_text(text)
    monkeypatch.setenv("VATT_REGISTRY", str(tmp_path / "registry.toml"))
    with pytest.raises(BadRequest, match=named) as caught:
        list_models()
    assert "registry.toml" in caught.value.message


def test_a_hash_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(WHOLE + FREE + "must_accept = false\n")
    monkeypatch.setenv("VATT_REGISTRY", str(tmp_path / "registry.toml"))
    assert registry.find_part("b").sha256 == "ab"


def test_names_are_looked_up_without_torch() -> None:
    check = "import sys, vatt_core.weights; vatt_core.weights.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
