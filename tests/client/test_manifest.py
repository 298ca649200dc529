"""Manifests: the same items from JSON Lines and from CSV as spreadsheets write it; what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vatt_client import errors, messages
from vatt_client.manifest import read_manifest

ITEM = {"path": "a, b.mp4", "in": 2, "out": "7/2", "prompt": 'a "tin" roof', "seed": 7, "takes": 2, "output": "sound",
        "guidance_scale": 2.5, "preview": True, "loudness": None}  # fmt: skip
CSV = """path,in,out,prompt,seed,takes,output,guidance_scale,preview,loudness
"a, b.mp4",2,7/2,"a ""tin"" roof",7,2,sound,2.5,yes,off

/b.mov,,,,,,,,,
"""


def made(item: dict[str, Any]) -> messages.Generate:
    return messages.Batch(items=(item,), defaults={"output": "/out"}).item(item)


@pytest.mark.parametrize("variant", ["jsonl", "csv", "bom", "semicolons", "tsv", "crlf"])
def test_every_form_gives_the_same_requests(tmp_path: Path, variant: str) -> None:
    name, text = f"clips.{variant if variant in ('jsonl', 'tsv') else 'csv'}", CSV
    if variant == "jsonl":
        text = json.dumps(ITEM) + "\n\n" + json.dumps({"path": "/b.mov"})
    elif variant == "bom":
        text = "\ufeff" + CSV
    elif variant == "crlf":
        text = CSV.replace("\n", "\r\n")
    elif variant in ("semicolons", "tsv"):
        mark = ";" if variant == "semicolons" else "\t"
        text = CSV.replace(",", mark).replace(f"a{mark} b", "a, b")
    file = tmp_path / name
    file.write_bytes(text.encode())
    first, second = (made(item) for item in read_manifest(file))
    assert first == messages.Generate(
        path=str(tmp_path / "a, b.mp4"), output=str(tmp_path / "sound"), start=2, end="7/2", prompt='a "tin" roof',  # type: ignore[arg-type]
        seed=7, takes=2, guidance_scale=2.5, preview=True, loudness=None, priority="batch",
    )  # fmt: skip
    assert second == messages.Generate(path="/b.mov", output="/out", priority="batch")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [("a.jsonl", '{"path": "a"}\n[1]\n', 2), ("a.jsonl", '{"path": "a"}\n\n{"path": \n', 3), ("a.csv", "path\na\nb,c\n", 3),
     ("a.csv", "path,promt\na,b\n", None), ("a.csv", "path,path\na,b\n", None), ("a.csv", "path\n", None),
     ("a.jsonl", "", None), ("a.csv", 'path\n"a\n', 2), ("a.jsonl", "[" * 100_000, 1)],
)  # fmt: skip
def test_what_cannot_be_read_as_a_whole_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, line: int | None
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(errors.BadRequest) as caught:
        read_manifest(file)
    assert caught.value.details.get("line") == line


def test_files_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("path\ncafé".encode("latin-1"))
    with pytest.raises(errors.BadRequest):
        read_manifest(tmp_path / "latin.csv")
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(errors.InputNotVisible):
            read_manifest(missing)
    (tmp_path / "many.jsonl").write_text('{"path": "a"}\n' * 10_001)
    with pytest.raises(errors.BadRequest):
        read_manifest(tmp_path / "many.jsonl")


def test_what_one_item_says_wrongly_is_left_to_that_item(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("path,takes\na.mp4,many\nb.mp4,1\n")
    first, second = read_manifest(tmp_path / "clips.csv")
    with pytest.raises(errors.BadRequest) as caught:
        made(first)
    assert caught.value.details["field"] == "takes"
    assert made(second).takes == 1
