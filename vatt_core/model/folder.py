"""A model folder: config.json, tokenizer/ and one safetensors file per part.

Nothing is guessed: a missing, surplus, misshapen or damaged tensor is an error that names the file and the key.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vatt_core.errors import BadModel, BadRequest
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.converter import Converter
from vatt_core.model.text import load_tokenizer
from vatt_core.model.vision import VisionTower
from vatt_core.weights.fingerprint import (
    CONFIG_FILE,
    PART_NAMES,
    TOKENIZER_FOLDER,
    model_files,
    model_hash,
    part_file,
)

__all__ = [
    "CONFIG_FILE",
    "PART_NAMES",
    "TOKENIZER_FOLDER",
    "LoadedModel",
    "build_part",
    "load_model",
    "load_part",
    "load_weights",
    "model_hash",
    "part_file",
    "save_part",
]


@dataclass(frozen=True)
class LoadedModel:
    """A whole model on one device, ready for use (evaluation mode, no gradients)."""

    folder: Path
    config: ModelConfig
    vision: VisionTower
    converter: Converter
    tokenizer: PreTrainedTokenizerBase
    audio_transformer: AudioTransformer
    codec: Codec
    device: torch.device


def build_part(config: ModelConfig, name: str) -> nn.Module:
    """A new part with random weights. Raises BadModel for settings that contradict each other."""
    if name == "vision":
        return VisionTower(config.vision)
    if name == "converter":
        return Converter(config.converter, config.timing, config.vision.feature_dim)
    if name == "audio_transformer":
        return AudioTransformer(config.audio, config.timing)
    if name == "codec":
        return Codec(config.codec, config.timing)
    raise ValueError(f"a model has the parts {', '.join(PART_NAMES)}, not {name!r}")


def _stored_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Key -> the key under which its tensor is stored: tied tensors (Gemma's head and table) are stored once."""
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    return {
        key: seen.setdefault((value.data_ptr(), value.shape, value.stride()), key) if value.numel() else key
        for key, value in state.items()
    }


def _halved(value: Tensor) -> Tensor:
    """float16 where its range suffices, for example not for the counters of a codebook."""
    if value.dtype != torch.float32 or (value.numel() and value.abs().max() > torch.finfo(torch.float16).max):
        return value
    return value.half()


def save_part(folder: Path, name: str, module: nn.Module, *, half: bool = False) -> Path:
    """Write a part's weights to the folder, whole or not at all. `half` stores float32 as float16.

    Raises BadModel, and writes nothing, when a weight is no finite number.
    """
    path = part_file(folder, name)
    state = module.state_dict()
    names = _stored_names(state)
    stored = {
        key: (_halved(value) if half else value).detach().cpu().contiguous()
        for key, value in state.items()
        if names[key] == key
    }
    for key in _not_finite(stored):
        raise BadModel(f"{name} is not saved: {key} holds NaN or infinity; go back to an earlier checkpoint")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(stored, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _not_finite(state: dict[str, Tensor]) -> Iterator[str]:
    return (key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all())


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill `module` from a file of :func:`save_part`, in the module's own dtypes.

    Raises BadModel naming file and key when the file is missing or damaged, lacks a key, has one too many, or when a
    tensor has another shape or holds NaN or infinity.
    """
    again = "pull or import the model again"
    if not path.is_file():
        raise BadModel(f"{path} is missing; {again}", file=str(path))
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} is damaged ({error}); {again}", file=str(path)) from error
    wanted = module.state_dict()
    names = _stored_names(wanted)

    def refuse(key: str, what: str) -> BadModel:
        return BadModel(f"{path}: {key} {what}; {again}", file=str(path), key=key)

    for key, value in wanted.items():
        if names[key] not in found:
            raise refuse(key, "is missing")
        if found[names[key]].shape != value.shape:
            raise refuse(
                key, f"has the shape {list(found[names[key]].shape)}, the configuration says {list(value.shape)}"
            )
    for key in found:
        if key not in wanted:
            raise refuse(key, "belongs to no part of this model")
    for key in _not_finite(found):
        raise refuse(key, "holds NaN or infinity")
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(found[names[key]])


def load_part(folder: Path, config: ModelConfig, name: str) -> nn.Module:
    """One part of the folder on the CPU, float32, in evaluation mode. Raises BadModel as :func:`load_weights` does."""
    module = build_part(config, name)
    load_weights(module, part_file(folder, name))
    return module.eval()


def load_model(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Read a whole model folder.

    dtype: of the language model and, away from the CPU, of the image tower. Audio transformer and codec stay float32,
    as in the official code (reference 2.6), and so do all convolutions of the CPU, whose bfloat16 kernels are wrong.
    Raises BadModel for a folder that is incomplete or damaged, BadRequest for a device that is not there.
    """
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadRequest("no CUDA device can be used here; choose the device 'cpu'", device=str(device))
    model_files(folder)
    config = ModelConfig.load(folder / CONFIG_FILE)
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)

    vision = load_part(folder, config, "vision")
    converter = load_part(folder, config, "converter")
    audio_transformer = load_part(folder, config, "audio_transformer")
    codec = load_part(folder, config, "codec")
    assert isinstance(vision, VisionTower)
    assert isinstance(converter, Converter)
    assert isinstance(audio_transformer, AudioTransformer)
    assert isinstance(codec, Codec)
    if converter.hidden_size != config.audio.condition_dim:
        raise BadModel(
            f"{folder}: the converter's states are {converter.hidden_size} wide, the audio transformer reads "
            f"{config.audio.condition_dim}; pull or import the model again"
        )
    if len(tokenizer) > converter.llm.config.vocab_size:
        raise BadModel(
            f"{folder}: the tokenizer has {len(tokenizer)} entries, the converter {converter.llm.config.vocab_size}; "
            "pull or import the model again"
        )
    for part in (vision, converter, audio_transformer, codec):
        part.requires_grad_(False).to(device)
    converter.to(dtype)
    if device.type != "cpu":
        vision.to(dtype)
    return LoadedModel(
        folder=folder,
        config=config,
        vision=vision,
        converter=converter,
        tokenizer=tokenizer,
        audio_transformer=audio_transformer,
        codec=codec,
        device=device,
    )
