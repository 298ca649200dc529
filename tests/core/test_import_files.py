"""What is read of official files: archives, checkpoints, pickles and codebooks, whole ones and damaged ones."""

from __future__ import annotations

import os
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.core.imports import LLAMA_T, refused, run
from tests.core.official_files import pack_release
from vatt_core.errors import BadModel, BadRequest, InputNotVisible
from vatt_core.weights.importing import import_model
from vatt_core.weights.importing.reading import read_codebooks, read_tensors


@pytest.mark.parametrize("name", ["vatt_models.zip", "vicuna.zip"])
def test_a_truncated_archive(whole_release: Path, tmp_path: Path, name: str) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    path = archives / name
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in refused(archives).message
    with pytest.raises(BadModel, match=name):
        import_model("vatt-llama-t", [path], folder=tmp_path / "models" / "m", family="llama", text_steered=True)


def test_a_truncated_archive_that_no_part_needs_is_noted(whole_release: Path, tmp_path: Path) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    for name in ("gemma_2b.zip", "gemma-finetuned-checkpoint-231000.zip"):
        (archives / name).write_bytes((archives / name).read_bytes()[:-1000])
    done = run(archives, folder=tmp_path / "done")
    assert [note for note in done.notes if "gemma" in note] == done.notes and len(done.notes) == 2
    error = refused(archives, "vatt-gemma-t")
    assert error.details["part"] == "base"
    assert all(note in error.message for note in done.notes)


def test_an_archive_with_a_damaged_member(whole_release: Path, tmp_path: Path) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    path = archives / "vatt_models.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    damaged = [refused_by(archives, name) for name in ("vatt-llama-t", "vatt-llama", "vatt-gemma-t")]
    assert any("vatt_models.zip" in message for message in damaged)


def refused_by(release: Path, name: str) -> str:
    try:
        run(release, name, folder=release.parent / "models" / name)
    except BadModel as error:
        return error.message
    return ""


def test_a_member_of_an_archive_is_named_after_it(whole_release: Path, tmp_path: Path) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    odd = archives / "odd:names.zip"
    with zipfile.ZipFile(odd, "w") as archive:
        archive.write(whole_release / LLAMA_T, "of this year/llama.weights")
        archive.write(whole_release / LLAMA_T, "of this year/other.ckpt")
        archive.write(whole_release / LLAMA_T, "third.ckpt")
    with pytest.raises(BadRequest, match=r"2 files .*checkpoint=ARCHIVE:MEMBER; .*other\.ckpt, third\.ckpt"):
        run(archives, parts={"checkpoint": odd})
    with pytest.raises(BadRequest, match=r"0 files .* at fourth\.ckpt"):
        run(archives, parts={"checkpoint": Path(f"{odd}:fourth.ckpt")})
    with pytest.raises(InputNotVisible):
        run(archives, parts={"checkpoint": Path(f"{odd}.zip:third.ckpt")})
    for given in ("of this year/llama.weights", "of this year", " third.ckpt"):
        done = run(archives, parts={"checkpoint": Path(f"{odd}:{given}")}, replace=True)
        assert done.sources["checkpoint"].startswith(f"{odd}: {given.strip()}")
    base = {"base": Path(f"{archives / 'vicuna.zip'}:vicuna")}
    done = run(archives, parts=base | {"checkpoint": Path(f"{odd}:third.ckpt")}, replace=True)
    assert done.sources["base"] == f"{archives / 'vicuna.zip'}: vicuna/config.json"


def test_names_in_an_archive_do_not_leave_the_folder(whole_release: Path, tmp_path: Path) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    with zipfile.ZipFile(archives / "audiogen_models.zip", "w") as archive:
        archive.write(
            whole_release / "audiogen_model" / "compression_state_dict.bin", "../../compression_state_dict.bin"
        )
    run(archives, folder=tmp_path / "models" / "m")
    assert not (tmp_path / "compression_state_dict.bin").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "models"]


def test_a_checkpoint_cut_short(release: Path) -> None:
    path = release / LLAMA_T
    path.write_bytes(path.read_bytes()[:-5000])
    assert "vatt_llama_T_final.ckpt" in refused(release).message
    path.write_text("<html>quota exceeded</html>")
    assert "vatt_llama_T_final.ckpt" in refused(release).message


class Program:
    """What an attacker would put into a checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_pickled_program_runs_only_with_trust(release: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    content = torch.load(release / LLAMA_T, weights_only=True)
    torch.save(content | {"callbacks": Program(trace)}, release / LLAMA_T)
    error = refused(release)
    assert "--trust" in error.message and "vatt_llama_T_final.ckpt" in error.message
    assert not trace.exists()
    run(release, trust=True)
    assert trace.exists()


class Stranger:
    """An object of a module that the reader does not have."""


def test_a_trusted_file_that_needs_a_module_says_which(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = torch.load(release / LLAMA_T, weights_only=True)
    with monkeypatch.context() as patch:
        module = types.ModuleType("some_trainer")
        patch.setitem(sys.modules, "some_trainer", module)
        patch.setattr(Stranger, "__module__", "some_trainer")
        module.Stranger = Stranger  # type: ignore[attr-defined]
        torch.save(content | {"callbacks": Stranger()}, release / LLAMA_T)
    error = refused(release, trust=True)
    assert "some_trainer" in error.message and "damaged" not in error.message


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_file_that_is_no_pickle(tmp_path: Path, content: bytes, trust: bool) -> None:
    (tmp_path / "some.ckpt").write_bytes(content)
    with pytest.raises(BadModel, match="no file of weights"):
        read_tensors(tmp_path / "some.ckpt", trust=trust)


class Unfinished:
    """What cannot be made anew from what was saved of it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return len, ()


def test_a_trusted_file_that_cannot_be_made_anew_is_damaged(tmp_path: Path) -> None:
    torch.save({"state_dict": Unfinished()}, tmp_path / "some.ckpt")
    with pytest.raises(BadModel, match=r"some\.ckpt"):
        read_tensors(tmp_path / "some.ckpt", trust=True)


def forms(tables: torch.Tensor) -> dict[str, Any]:
    embeddings = nn.ModuleList([nn.Embedding.from_pretrained(table) for table in tables])
    return {
        "tensor": tables,
        "parameter": nn.Parameter(tables),
        "list": list(tables),
        "tuple": tuple(tables),
        "parameter list": nn.ParameterList(list(tables)),
        "embeddings": embeddings,
        "list of embeddings": list(embeddings),
        "state dict": embeddings.state_dict(),
        "dictionary": {book: table for book, table in enumerate(tables)},
        "half": tables.half(),
    }


@pytest.mark.parametrize("form", forms(torch.zeros(1, 1, 1)))
def test_codebooks_of_every_form(tmp_path: Path, form: str) -> None:
    tables = torch.randn(11, 16, 8).half().float()
    torch.save(forms(tables)[form], tmp_path / "books.pt")
    assert torch.equal(torch.stack(read_codebooks(tmp_path / "books.pt")), tables)


@pytest.mark.parametrize("wrong", [torch.zeros(16, 8), [torch.zeros(3)], {"a": 1}, "words"])
def test_what_is_no_codebooks(tmp_path: Path, wrong: Any) -> None:
    torch.save(wrong, tmp_path / "books.pt")
    with pytest.raises(BadModel, match=r"books\.pt"):
        read_codebooks(tmp_path / "books.pt")
