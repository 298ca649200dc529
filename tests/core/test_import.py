"""Official files become a model folder, or one plain error says which file, which part and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.core.imports import GEMMA_T, LLAMA_T, change, drop, refused, run
from tests.core.official_files import pack_release, write_codec
from vatt_core.errors import BadModel, BadRequest, InputNotVisible
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.folder import load_model
from vatt_core.weights.fingerprint import model_hash
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
    assert done.ignored[str(whole_release / "eva" / "open_clip_pytorch_model.bin")] == [
        "logit_scale",
        "text.token_embedding.weight",
    ]
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


def split_in_shards(folder: Path) -> dict[str, list[str]]:
    """Write the weights of a base folder as two files; which keys are in which."""
    whole = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(whole)
    shards = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
    for file, keys in shards.items():
        torch.save({key: whole[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return shards


def test_the_folder_of_a_base_model_may_hold_shards(release: Path) -> None:
    split_in_shards(release / "vicuna")
    run(release, folder=release.parent / "done")
    (release / "vicuna" / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin" in refused(release).message


def rewrite_as_safetensors(path: Path) -> Path:
    """The same tensors in a file that needs no unpickling, instead of the pickled one."""
    names = {"pytorch_model": "model", "open_clip_pytorch_model": "open_clip_model"}
    stem = next(stem for stem in names if path.stem == stem or path.stem.startswith(f"{stem}-"))
    written = path.with_name(path.name.replace(stem, names[stem])).with_suffix(".safetensors")
    tensors = torch.load(path, weights_only=True)
    save_file({key: value.clone() for key, value in tensors.items()}, written)
    path.unlink()
    return written


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(("name", "base"), [("vatt-llama-t", "vicuna"), ("vatt-gemma-t", "gemma_2b")])
def test_base_and_tower_may_be_safetensors(release: Path, tmp_path: Path, name: str, base: str, shards: bool) -> None:
    pickled = run(release, name, folder=tmp_path / "pickled")
    if shards:
        split_in_shards(release / base)
        index = release / base / "pytorch_model.bin.index.json"
        named = index.read_text().replace("pytorch_model", "model").replace(".bin", ".safetensors")
        index.with_name("model.safetensors.index.json").write_text(named)
        index.unlink()
    for path in sorted((release / base).glob("pytorch_model*.bin")):
        rewrite_as_safetensors(path)
    tower = rewrite_as_safetensors(release / "eva" / "open_clip_pytorch_model.bin")
    done = run(release, name, folder=tmp_path / "done")
    assert done.sources["vision"] == str(tower)
    assert model_hash(done.folder) == model_hash(pickled.folder)


def test_safetensors_go_before_a_pickled_form_beside_them(release: Path) -> None:
    for pickled in (release / "vicuna" / "pytorch_model.bin", release / "eva" / "open_clip_pytorch_model.bin"):
        rewrite_as_safetensors(pickled)
        pickled.write_bytes(b"never read")
    run(release)


@pytest.mark.parametrize(
    ("pickled", "key"),
    [
        ("eva/open_clip_pytorch_model.bin", "visual.ln_post.weight"),
        ("vicuna/pytorch_model.bin", "lm_head.weight"),
    ],
)
def test_safetensors_with_numbers_that_are_none_or_cut_short(release: Path, pickled: str, key: str) -> None:
    change(release / pickled, lambda state: state[key].view(-1)[:1].fill_(torch.nan))
    written = rewrite_as_safetensors(release / pickled)
    error = refused(release)
    assert error.details["file"] == str(written) and error.details["key"] == key
    written.write_bytes(written.read_bytes()[:-100])
    assert str(written) in refused(release).message


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


@pytest.mark.parametrize("wrong", ["ten", [1], None, 0, -1.0, float("nan"), float("inf")])
def test_an_angle_of_gemma_that_is_no_number(release: Path, wrong: Any) -> None:
    path = release / "gemma_2b" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": wrong}))
    error = refused(release, "vatt-gemma-t")
    assert str(path) in error.message and "rope_theta" in error.message


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
        ("video_proj.weight", [LLAMA_T, "checkpoint-117000/pytorch_model.bin"]),
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


def test_a_gap_between_layers_is_told(release: Path) -> None:
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
        ("vicuna/pytorch_model.bin", "lm_head.weight"),
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
    assert error.details["file"] == str(release / file) and str(release / file) in error.message
    assert error.details["key"] and error.details["part"] in error.message


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_of_the_base_that_are_none_are_refused_by_archive_and_member(
    release: Path, tmp_path: Path, shards: bool, packed: bool
) -> None:
    key = "lm_head.weight"
    names = split_in_shards(release / "vicuna") if shards else {"pytorch_model.bin": [key]}
    name = next(file for file, keys in names.items() if key in keys)
    change(release / "vicuna" / name, lambda state: state[key].view(-1)[:1].fill_(torch.nan))
    wanted = str(release / "vicuna" / name)
    if packed:
        release = pack_release(release, tmp_path / "packed")
        wanted = f"{release / 'vicuna.zip'}: vicuna/{name}"
    error = refused(release)
    assert error.message.startswith(f"{wanted}: {key} ") and "converter" in error.message
    assert error.details == {"file": wanted, "key": key, "part": "converter"}


def test_what_is_told_of_archives_names_them_and_their_members(release: Path, tmp_path: Path) -> None:
    change(release / "vicuna" / "pytorch_model.bin", lambda state: state.update(strange=torch.zeros(1)))
    settings = json.loads((release / "vicuna" / "config.json").read_text())
    (release / "vicuna" / "config.json").write_text(json.dumps(settings | {"rope_theta": 7.0}))
    change(release / LLAMA_T, lambda state: state.update({"other": torch.zeros(1), "encoder.more": torch.zeros(1)}))
    packed = pack_release(release, tmp_path / "packed")
    done = run(packed)
    assert done.ignored[f"{packed / 'vicuna.zip'}: vicuna/pytorch_model.bin"] == ["strange"]
    assert done.ignored[f"{packed / 'vatt_models.zip'}: {LLAMA_T}"] == ["other", "encoder.more"]
    assert any(note.startswith(f"{packed / 'vicuna.zip'}: vicuna/config.json: rope_theta") for note in done.notes)
    record = read_record(done.folder)
    assert record is not None and record["ignored"] == done.ignored and record["notes"] == done.notes


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
