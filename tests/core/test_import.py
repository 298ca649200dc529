"""Official files become a model folder, or one plain error says which file, which part and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.core.official_files import pack_release, write_codec, write_release
from vatt_core.errors import BadModel, BadRequest, DiskFull, InputNotVisible, VattError
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.folder import load_model
from vatt_core.weights.fingerprint import model_hash
from vatt_core.weights.importing import ImportOptions, ImportReport, build, import_model
from vatt_core.weights.importing.placing import clear_up
from vatt_core.weights.importing.reading import read_codebooks, read_tensors
from vatt_core.weights.record import read_record
from vatt_core.weights.verify import verify_model

MINI = Path(__file__).parents[1] / "data" / "recorded" / "mini-official"
LLAMA_T = "vatt_models/vatt_llama_T_final.ckpt"
GEMMA_T = "vatt_models/vatt_gemma_T_final.ckpt"


@pytest.fixture(scope="session")
def whole_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(MINI, tmp_path_factory.mktemp("release") / "release")


@pytest.fixture
def release(whole_release: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole_release, tmp_path / "release"))


def run(release: Path, name: str = "vatt-llama-t", *, folder: Path | None = None, **options: Any) -> ImportReport:
    family: Any = "gemma" if "gemma" in name else "llama"
    target = folder or release.parent / "models" / name
    return import_model(
        name,
        [release],
        folder=target,
        family=family,
        text_steered=name.endswith("-t"),
        options=ImportOptions(**options),
    )


def refused(release: Path, name: str = "vatt-llama-t", kind: type[VattError] = BadModel, **options: Any) -> VattError:
    """The error of an import, which must have left nothing behind."""
    with pytest.raises(kind) as caught:
        run(release, name, **options)
    models = release.parent / "models"
    assert not models.exists() or not list(models.iterdir())
    return caught.value


def change(path: Path, action: Callable[[dict[str, Any]], None]) -> None:
    """Load a file of torch, change its state dict, save it again."""
    content = torch.load(path, weights_only=True)
    action(content.get("state_dict", content))
    torch.save(content, path)


def drop(part: str) -> Callable[[dict[str, Any]], None]:
    def action(state: dict[str, Any]) -> None:
        keys = [key for key in state if part in key]
        assert keys
        for key in keys:
            del state[key]

    return action


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


@pytest.mark.parametrize("name", ["vatt_models.zip", "vicuna.zip"])
def test_a_truncated_archive(whole_release: Path, tmp_path: Path, name: str) -> None:
    archives = pack_release(whole_release, tmp_path / "archives")
    path = archives / name
    path.write_bytes(path.read_bytes()[:-1000])
    assert name in refused(archives).message


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
