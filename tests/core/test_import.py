"""Official files become a model folder, or one plain error says which file, which part and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.imports import GEMMA_T, LLAMA_T, change, drop, refused, run
from tests.core.official_files import pack_release, write_codec
from vatt_core.errors import BadModel, BadRequest, DiskFull, InputNotVisible
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.folder import load_model
from vatt_core.weights.fingerprint import model_hash
from vatt_core.weights.importing import build, import_model
from vatt_core.weights.importing.placing import clear_up
from vatt_core.weights.importing.reading import read_tensors
from vatt_core.weights.record import read_record
from vatt_core.weights.verify import verify_model


def test_an_imported_folder_is_complete_recorded_and_needs_no_pickle(whole_release: Path, tmp_path: Path) -> None:
    done = run(whole_release, folder=tmp_path / "models" / "vatt-llama-t")
    folder = done.folder
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".model"}
    assert [path.name for path in folder.parent.iterdir()] == ["vatt-llama-t"]
    record = read_record(folder)
    assert record is not None and set(record["files"]) >= {
        "config.json",
        "vision.safetensors",
        "tokenizer/tokenizer.model",
    }
    assert done.ignored["open_clip_pytorch_model.bin"] == ["logit_scale", "text.token_embedding.weight"]
    config = ModelConfig.load(folder / "config.json")
    assert config.audio.token_order == "legacy" and config.vision.mean == (0.5, 0.5, 0.5)
    assert verify_model(folder)
    before = model_hash(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile))
    assert model_hash(copy) == before
    weights = copy / "vision.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert model_hash(copy) != before
    with pytest.raises(BadModel, match=r"vision\.safetensors"):
        verify_model(copy)


def test_archives_give_the_same_model_as_folders(whole_release: Path, tmp_path: Path) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    first = run(whole_release, "vatt-gemma-t", folder=tmp_path / "a" / "vatt-gemma-t")
    second = run(archives, "vatt-gemma-t", folder=tmp_path / "b" / "vatt-gemma-t")
    assert model_hash(first.folder) == model_hash(second.folder)
    assert load_model(second.folder).config.converter.family == "gemma"


def test_weights_may_be_stored_narrower(whole_release: Path, tmp_path: Path) -> None:
    done = run(whole_release, folder=tmp_path / "m", store="bfloat16", normalise_features=True, lora_alpha=16)
    kinds = {value.dtype for value in read_tensors(done.folder / "converter.safetensors").values()}
    assert kinds == {torch.bfloat16}
    config = ModelConfig.load(done.folder / "config.json")
    assert config.vision.normalise
    assert config.converter.lora is not None and config.converter.lora.alpha == 16


def test_the_folder_of_a_base_model_may_hold_shards(release: Path) -> None:
    whole = torch.load(release / "vicuna" / "pytorch_model.bin", weights_only=True)
    (release / "vicuna" / "pytorch_model.bin").unlink()
    names = sorted(whole)
    shards = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
    for file, keys in shards.items():
        torch.save({key: whole[key] for key in keys}, release / "vicuna" / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (release / "vicuna" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    run(release, folder=release.parent / "done")
    (release / "vicuna" / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin" in refused(release).message


@pytest.mark.parametrize(
    ("missing", "role"),
    [
        ("vicuna", "base"),
        ("audiogen_model", "codec"),
        ("eva", "vision"),
        ("meta_pretrain_vgg_encodec_embed*", "codebooks"),
        ("vatt_models", "checkpoint"),
    ],
)
def test_a_missing_part_is_named(release: Path, missing: str, role: str) -> None:
    for path in release.glob(missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert refused(release).details["part"] == role


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short"])
def test_a_tokenizer_without_words_is_refused_by_the_name_of_the_base(release: Path, damage: str) -> None:
    path = release / "vicuna" / "tokenizer.model"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    error = refused(release)
    assert error.details["part"] == "base" and str(release / "vicuna" / "config.json") in error.message


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@pytest.mark.parametrize(
    "wrong", [[1], *({name: None} for name in SIZES), {"num_attention_heads": 0}, {"hidden_act": "none"}]
)
def test_a_configuration_that_no_model_can_be_built_from(release: Path, wrong: Any) -> None:
    path = release / "vicuna" / "config.json"
    written = {**json.loads(path.read_text()), **wrong} if isinstance(wrong, dict) else wrong
    path.write_text(json.dumps(written))
    error = refused(release, parts={"base": path})
    assert str(path) in error.message


def test_an_image_tower_that_cannot_be_built_is_refused_by_its_file(release: Path) -> None:
    path = release / "eva" / "open_clip_config.json"
    described = json.loads(path.read_text())
    described["model_cfg"]["vision_cfg"]["no_such_size"] = 1
    path.write_text(json.dumps(described))
    error = refused(release)
    assert error.details["part"] == "vision" and str(release / "eva") in error.message


def test_a_path_that_is_not_there(release: Path) -> None:
    with pytest.raises(InputNotVisible):
        run(release / "no-such.zip", folder=release / "m")


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("audio_token_decoder.decoder.attn_layers.layers.1.1.ff.2.weight", [LLAMA_T]),
        ("audio_token_decoder.modality_a", [LLAMA_T]),
        ("video_proj.bias", [LLAMA_T, "checkpoint-117000/pytorch_model.bin"]),
        ("layers.1.self_attn.v_proj.lora_B", [LLAMA_T, "checkpoint-117000/pytorch_model.bin"]),
        ("layers.0.mlp.up_proj", [LLAMA_T, "vicuna/pytorch_model.bin"]),
        ("lm_head", ["vicuna/pytorch_model.bin"]),
    ],
)
def test_every_tensor_must_come_from_somewhere(release: Path, part: str, files: list[str]) -> None:
    for file in files:
        change(release / file, drop(part))
    assert part.removeprefix("audio_token_decoder.") in refused(release).message


AUDIO, TEXT = "audio_token_decoder.", "encoder.base_model.model.model."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (AUDIO + "embedding.out_proj.weight", torch.zeros(3)),
        (AUDIO + "classifier.0.weight", torch.zeros(())),
        (AUDIO + "img_linear.weight", torch.zeros(3)),
        (AUDIO + "encoder.attn_layers.layers.0.1.to_q.weight", torch.zeros(3, 3)),
        (AUDIO + "pos_embed", torch.zeros(())),
        (AUDIO + "quantizer", torch.zeros(())),
        (TEXT + "video_proj.weight", torch.zeros(3)),
        (TEXT + "layers.0.self_attn.q_proj.lora_A.default.weight", torch.zeros(())),
        (TEXT + "norm.weight", torch.zeros(64, dtype=torch.int32)),
        (TEXT + "norm.weight", torch.zeros(64, dtype=torch.complex64)),
        (TEXT + "norm.weight", torch.ones(64).to(torch.float8_e4m3fn)),
        (TEXT + "norm.weight", torch.ones(64).to_sparse()),
    ],
)
def test_a_tensor_of_no_form_that_a_part_has(release: Path, key: str, value: torch.Tensor) -> None:
    change(release / LLAMA_T, lambda state: state.update({key: value}))
    assert "vatt_llama_T_final.ckpt" in refused(release).message


def test_one_source_is_enough(release: Path) -> None:
    change(release / LLAMA_T, drop("encoder.base_model"))
    first = run(release, folder=release.parent / "without-encoder")
    assert torch.equal(
        read_tensors(first.folder / "converter.safetensors")["video_proj.bias"],
        torch.load(release / "checkpoint-117000" / "pytorch_model.bin")["base_model.model.model.video_proj.bias"],
    )
    change(release / "checkpoint-117000" / "pytorch_model.bin", drop("lora_A"))
    assert "LoRA" in refused(release).message


def test_copies_of_the_shared_norm_must_agree(release: Path) -> None:
    def action(state: dict[str, Any]) -> None:
        state["audio_token_decoder.encoder.attn_layers.layers.2.0.0.B.weight"][0] += 1

    change(release / LLAMA_T, action)
    assert "norm" in refused(release).message


def test_a_whole_layer_that_is_missing_at_the_released_width_is_missed(release: Path) -> None:
    change(release / LLAMA_T, drop("encoder.attn_layers.layers.2."))
    assert "layers.2" in refused(release).message


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vatt-llama-t", {"delta": "gemma-finetuned-checkpoint-231000/pytorch_model.bin"}),
        ("vatt-gemma-t", {"delta": "checkpoint-117000/pytorch_model.bin"}),
        ("vatt-gemma-t", {"checkpoint": LLAMA_T}),
        ("vatt-llama-t", {"checkpoint": GEMMA_T}),
    ],
)
def test_a_file_of_the_other_family_is_refused_by_name(release: Path, name: str, parts: dict[str, str]) -> None:
    error = refused(release, name, parts={role: release / file for role, file in parts.items()})
    assert next(iter(parts.values())) in error.message
    assert "Llama" in error.message and "Gemma" in error.message


def test_a_base_model_of_another_kind(release: Path) -> None:
    error = refused(release, parts={"base": release / "gemma_2b"})
    assert "gemma_2b" in error.message
    (release / "vicuna" / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    assert refused(release).details["part"] == "base"


@pytest.mark.parametrize(
    ("file", "key"),
    [
        (LLAMA_T, "encoder.base_model.model.model.norm.weight"),
        (LLAMA_T, "audio_token_decoder.classifier.1.weight"),
        ("audiogen_model/compression_state_dict.bin", "decoder.model.15.conv.conv.bias"),
        ("eva/open_clip_pytorch_model.bin", "visual.ln_post.weight"),
        ("meta_pretrain_vgg_encodec_embed.pt", ""),
    ],
)
def test_numbers_that_are_none_are_refused_by_file_and_part(release: Path, file: str, key: str) -> None:
    content = torch.load(release / file, weights_only=True)
    state = content if not key else content.get("state_dict", content.get("best_state", content))
    tensor = state[key] if key else content
    tensor.view(-1)[:1].fill_(torch.nan)
    torch.save(content, release / file)
    error = refused(release)
    assert "NaN" in error.message
    assert Path(file).name in error.message and error.details["key"]


def test_codebooks_of_another_size(release: Path) -> None:
    torch.save(torch.randn(4, 255, 8), release / "meta_pretrain_vgg_encodec_embed.pt")
    assert "255" in refused(release).message
    torch.save(torch.randn(4, 256, 8), release / "meta_pretrain_vgg_encodec_embed.pt")
    write_codec(release / "audiogen_model", tables=[torch.randn(256, 8)] * 3)
    assert "compression_state_dict.bin" in refused(release).message


def test_codebooks_that_differ_from_the_codec_are_told(release: Path) -> None:
    torch.save(torch.randn(4, 256, 8), release / "meta_pretrain_vgg_encodec_embed.pt")
    assert any("codebooks" in note for note in run(release).notes)


def test_several_files_for_one_part_are_asked_about(release: Path) -> None:
    shutil.copyfile(release / LLAMA_T, release / "vatt_models" / "vatt_llama_T_other.ckpt")
    with pytest.raises(BadRequest, match="--part checkpoint="):
        run(release)
    run(release, parts={"checkpoint": release / LLAMA_T})


def test_an_installed_model_is_replaced_only_when_asked(release: Path) -> None:
    folder = run(release).folder
    with pytest.raises(BadRequest, match="--replace"):
        run(release)
    (release / "vicuna" / "config.json").unlink()
    with pytest.raises(BadModel):
        run(release, replace=True)
    assert verify_model(folder)  # a failed import leaves the old one
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_killed_imports_left_goes_and_the_model_they_had_put_aside_comes_back(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    model = tmp_path / "own"
    for work, name in (
        (f".own.{ended.pid}.1a", "old"),
        (f".own.{os.getpid()}.2b", "model"),
        (f".own2.{ended.pid}.3c", "model"),
        (f".own.7.{ended.pid}.4d", "old"),
    ):
        (tmp_path / work / name).mkdir(parents=True)
        (tmp_path / work / name / "config.json").write_text(work)
    clear_up(model)
    assert (model / "config.json").read_text() == f".own.{ended.pid}.1a"
    left = {f".own.{os.getpid()}.2b", f".own2.{ended.pid}.3c", f".own.7.{ended.pid}.4d"}
    assert {path.name for path in tmp_path.iterdir()} == {"own", *left}


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
