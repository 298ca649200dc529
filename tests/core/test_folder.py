"""A model folder: what is written is what is read, and nothing else passes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vatt_core.errors import BadModel
from vatt_core.model.configuration import (
    AudioTransformerConfig,
    CodecConfig,
    ConverterConfig,
    LoraSettings,
    ModelConfig,
    VisionConfig,
)
from vatt_core.model.folder import (
    PART_NAMES,
    build_part,
    load_model,
    load_part,
    model_hash,
    part_file,
    save_part,
)
from vatt_core.model.text import train_tokenizer
from vatt_core.timing import Timing

TIMING = Timing(
    window=Fraction(2),
    frame_rate=Fraction(4),
    video_token_rate=Fraction(2),
    code_rate=Fraction(50),
    sample_rate=800,
    codebooks=3,
    codebook_size=16,
)


def config(family: Any) -> ModelConfig:
    return ModelConfig(
        name="tiny",
        timing=TIMING,
        vision=VisionConfig(
            name="tiny",
            open_clip_model={
                "embed_dim": 8,
                "vision_cfg": {"layers": 1, "width": 8, "head_width": 8, "patch_size": 16},
            },
            image_size=16,
            feature_dim=8,
        ),
        converter=ConverterConfig(
            family=family,
            llm={
                "vocab_size": 270,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "head_dim": 8,
            },
            lora=LoraSettings(rank=2),
        ),
        audio=AudioTransformerConfig(
            dim=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_heads=1,
            decoder_heads=1,
            dim_head=8,
            latent_dim=6,
            condition_dim=8,
            visual_positions=80,
            token_order="aligned",
        ),
        codec=CodecConfig(
            encodec={
                "target_bandwidths": [0.6],
                "sampling_rate": 800,
                "num_filters": 2,
                "hidden_size": 6,
                "upsampling_ratios": [4, 4],
                "codebook_size": 16,
                "use_causal_conv": False,
            }
        ),
    )


def write(folder: Path, family: Any = "llama", *, half: bool = False) -> ModelConfig:
    torch.manual_seed(0)
    settings = config(family)
    for name in PART_NAMES:
        save_part(folder, name, build_part(settings, name), half=half)
    settings.save(folder / "config.json")
    train_tokenizer(["a bell rings"], 260, folder / "tokenizer")
    return settings


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_what_is_saved_is_loaded(tmp_path: Path, family: str) -> None:
    settings = write(tmp_path, family)
    torch.manual_seed(0)
    saved = {name: build_part(settings, name).state_dict() for name in PART_NAMES}
    model = load_model(tmp_path)
    assert model.config == settings
    for name in PART_NAMES:
        part = getattr(model, name)
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())
        loaded = part.state_dict()
        assert loaded.keys() == saved[name].keys()
        assert all(torch.equal(loaded[key], value) for key, value in saved[name].items())


def test_halved_weights_come_back_as_float32(tmp_path: Path) -> None:
    settings = config("llama")
    torch.manual_seed(0)
    codec = build_part(settings, "codec")
    counters = codec.get_buffer("model.quantizer.layers.0.codebook.cluster_size")
    counters.fill_(1e6)  # beyond float16
    whole = save_part(tmp_path / "whole", "codec", codec).stat().st_size
    halved = save_part(tmp_path / "half", "codec", codec, half=True).stat().st_size
    assert halved < whole
    loaded = load_part(tmp_path / "half", settings, "codec").state_dict()
    for key, value in codec.state_dict().items():
        assert loaded[key].dtype == value.dtype
        torch.testing.assert_close(loaded[key], value, atol=1e-4, rtol=1e-3)


def test_a_loaded_model_works(original: Path) -> None:
    model = load_model(original)
    frames = torch.zeros(TIMING.frames, 20, 30, 3, dtype=torch.uint8)
    features = model.vision.encode(frames)[None]
    ids = torch.tensor([model.tokenizer("a bell")["input_ids"]])
    states = model.converter.encode_all_states(features, ids)
    assert states.shape == (1, TIMING.video_tokens + ids.shape[1], model.config.audio.condition_dim)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer", *(f"{name}.safetensors" for name in PART_NAMES)])
def test_a_missing_part_is_named(folder: Path, missing: str) -> None:
    path = folder / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(BadModel, match=missing):
        load_model(folder)
    with pytest.raises(BadModel, match=missing):
        model_hash(folder)


def damage_key(state: dict[str, torch.Tensor]) -> str:
    key = next(iter(sorted(state)))
    del state[key]
    return key


def damage_shape(state: dict[str, torch.Tensor]) -> str:
    key = next(iter(sorted(state)))
    state[key] = torch.cat([state[key], state[key]])
    return key


def damage_value(state: dict[str, torch.Tensor]) -> str:
    key = next(key for key in sorted(state) if state[key].is_floating_point())
    state[key].view(-1)[0] = torch.nan
    return key


def damage_surplus(state: dict[str, torch.Tensor]) -> str:
    state["surplus"] = torch.zeros(1)
    return "surplus"


@pytest.mark.parametrize("damage", [damage_key, damage_shape, damage_value, damage_surplus])
@pytest.mark.parametrize("name", PART_NAMES)
def test_a_damaged_part_is_refused_by_file_and_key(
    folder: Path, name: str, damage: Callable[[dict[str, torch.Tensor]], str]
) -> None:
    path = part_file(folder, name)
    state = load_file(path)
    key = damage(state)
    save_file(state, path)
    with pytest.raises(BadModel) as caught:
        load_part(folder, config("llama"), name)
    assert str(path) in caught.value.message
    assert key in caught.value.message


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = part_file(folder, "codec")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadModel, match=r"codec\.safetensors"):
        load_model(folder)
    path.write_bytes(b"")
    with pytest.raises(BadModel, match=r"codec\.safetensors"):
        load_model(folder)


def test_parts_that_do_not_fit_together_are_refused(folder: Path) -> None:
    settings = config("llama")
    train_tokenizer(["some other words " * 9, *map(chr, range(0x4E00, 0x4E80))], 330, folder / "tokenizer")
    with pytest.raises(BadModel, match="tokenizer"):
        load_model(folder)
    save_part(folder, "converter", build_part(config("gemma"), "converter"))
    with pytest.raises(BadModel):
        load_part(folder, settings, "converter")


def test_nothing_is_written_when_weights_are_not_finite(tmp_path: Path) -> None:
    vision = build_part(config("llama"), "vision")
    with torch.no_grad():
        next(vision.parameters()).fill_(torch.inf)
    with pytest.raises(BadModel):
        save_part(tmp_path, "vision", vision)
    assert not list(tmp_path.iterdir())


def test_the_hash_follows_the_content(folder: Path, original: Path) -> None:
    assert model_hash(folder) == model_hash(original)
    before = model_hash(folder)
    path = part_file(folder, "vision")
    state = load_file(path)
    state[next(iter(state))] += 1
    save_file(state, path)
    assert model_hash(folder) != before
    shutil.copy(part_file(original, "vision"), path)
    assert model_hash(folder) == before
    with (folder / "config.json").open("a") as file:
        file.write("\n")
    assert model_hash(folder) != before
