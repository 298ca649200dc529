"""A model folder: config.json, tokenizer/ and one safetensors file per part.

Nothing is guessed: a missing, surplus, misshapen or damaged tensor is an error that names the file and the key.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vatt_core.errors import BadModel
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.converter import Converter
from vatt_core.model.plan import (
    LoadOptions,
    MemoryPlan,
    Working,
    available_memory,
    check_fits,
    chosen_device,
    plan_memory,
)
from vatt_core.model.products import mkl_is_narrow, products_of
from vatt_core.model.quantised import quantisable, quantised_linear
from vatt_core.model.residence import Residence
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
    "LoadOptions",
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
    plan: MemoryPlan
    residence: Residence

    @property
    def held(self) -> str:
        """Device, its library of products where there are two, and precisions: another of them rounds otherwise."""
        kinds = "".join(f" {part.name}={part.dtype}/{part.bits:g}" for part in self.plan.parts)
        onednn = " onednn" if self.device.type == "cpu" and mkl_is_narrow() else ""
        return f"{self.device.type}{onednn}{kinds + ' wide' * self.plan.widened if self.plan.narrowed else ''}"

    @contextmanager
    def using(self, part: str) -> Iterator[None]:
        """Hold a part on the device while it works, and let it multiply as is fastest there."""
        with self.residence.using(part), products_of(getattr(self, part)):
            yield


def build_part(config: ModelConfig, name: str, *, empty: bool = False) -> nn.Module:
    """A new part with random weights, or, `empty`, with weights that take no memory (device meta) until some are loaded.

    Raises BadModel for settings that contradict each other.
    """
    if not empty:
        return _build(config, name)
    if name == "codec":  # small, and its normalised convolutions and shared tables do not survive the way through meta
        return _build(config, name)
    with init_empty_weights(include_buffers=False):
        module = _build(config, name)
    _tie(module)
    return module


def _build(config: ModelConfig, name: str) -> nn.Module:
    if name == "vision":
        return VisionTower(config.vision)
    if name == "converter":
        return Converter(config.converter, config.timing, config.vision.feature_dim)
    if name == "audio_transformer":
        return AudioTransformer(config.audio, config.timing)
    if name == "codec":
        return Codec(config.codec, config.timing)
    raise ValueError(f"a model has the parts {', '.join(PART_NAMES)}, not {name!r}")


def _stored_names(module: nn.Module) -> dict[str, str]:
    """Key -> the key under which its tensor is stored: tied tensors (Gemma's head and table) are stored once."""
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    names = {}
    for key, value in module.state_dict(keep_vars=True).items():
        # Tensors without memory are told apart as objects, all others by where they lie.
        place = (id(value) if value.is_meta or not value.numel() else value.data_ptr(), value.shape, value.stride())
        names[key] = seen.setdefault(place, key)
    return names


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
    names = _stored_names(module)
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


AGAIN = "pull or import the model again"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of :func:`save_part`, mapped into memory. Raises BadModel when it is missing or damaged."""
    if not path.is_file():
        raise BadModel(f"{path} is missing; {AGAIN}", file=str(path))
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} is damaged ({error}); {AGAIN}", file=str(path)) from error


def _check(module: nn.Module, found: Mapping[str, Tensor], source: str) -> dict[str, str]:
    """Raise BadModel naming source and key unless `found` is exactly what `module` stores. Returns its stored names."""
    wanted = module.state_dict()
    names = _stored_names(module)

    def refuse(key: str, what: str) -> BadModel:
        return BadModel(f"{source}: {key} {what}; {AGAIN}", file=source, key=key)

    for key, value in wanted.items():
        if names[key] not in found:
            raise refuse(key, "is missing")
        shape = found[names[key]].shape
        if shape != value.shape:
            raise refuse(key, f"has the shape {list(shape)}, the configuration says {list(value.shape)}")
    for key in found:
        if key not in wanted:
            raise refuse(key, "belongs to no part of this model")
    return names


def check_tensors(config: ModelConfig, name: str, found: Mapping[str, Tensor], *, source: str) -> None:
    """Raise BadModel unless `found` holds what the part `name` stores, no more and no less. Takes no memory."""
    _check(build_part(config, name, empty=True), found, source)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill `module` from a file of :func:`save_part`, in the module's own dtypes.

    Raises BadModel naming file and key when the file is missing or damaged, lacks a key, has one too many, or when a
    tensor has another shape or holds NaN or infinity.
    """
    found = read_weights(path)
    names = _check(module, found, str(path))
    for key in _not_finite(found):
        raise BadModel(f"{path}: {key} holds NaN or infinity; {AGAIN}", file=str(path), key=key)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            value.copy_(found[names[key]])


def load_part(
    folder: Path,
    config: ModelConfig,
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    bits: int = 0,
) -> nn.Module:
    """One part of the folder in evaluation mode, its floating-point weights as `dtype`; with `bits` 8 or 4 the linear
    layers of the language model as narrow as that.

    The part is built without memory and its tensors are read one by one, so that it never stands there twice. Raises
    BadModel as :func:`load_weights` does.
    """
    path = part_file(folder, name)
    found = read_weights(path)
    module = build_part(config, name, empty=True)
    names = _check(module, found, str(path))
    placed: dict[str, Tensor] = {}
    device = torch.device(device)
    narrowed = quantisable(module) if bits and isinstance(module, Converter) else {}
    for key in sorted(set(names.values())):
        value = found.pop(key)
        if value.is_floating_point():
            if not bool(value.isfinite().all()):
                raise BadModel(f"{path}: {key} holds NaN or infinity; {AGAIN}", file=str(path), key=key)
            if key.removesuffix(".weight") in narrowed:
                layer = quantised_linear(value, bits, dtype=dtype, device=device)
                module.set_submodule(key.removesuffix(".weight"), layer)
                continue
            value = value.to(device=device, dtype=dtype, copy=True)
        placed[key] = value.to(device)
    kept = {key: placed[stored] for key, stored in names.items() if stored in placed}
    # What is not kept stands in the module already; every name was checked above.
    module.load_state_dict(kept, assign=True, strict=not narrowed)
    _tie(module)
    return module.to(device).eval()


def _tie(module: nn.Module) -> None:
    if isinstance(module, Converter):
        module.llm.tie_weights()


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    options: LoadOptions | None = None,
) -> LoadedModel:
    """Read a whole model folder.

    device: "auto", "cpu", "cuda" or "cuda:1". options: precision and memory.
    Raises BadModel for a folder that is incomplete or damaged, BadRequest for a device that is not there, OutOfMemory
    before anything is read when the model does not fit.
    """
    chosen = chosen_device(device)
    options = options or LoadOptions()
    model_files(folder)
    config = ModelConfig.load(folder / CONFIG_FILE)
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    sizes = {name: count_parameters(part_file(folder, name)) for name in PART_NAMES}
    plan = plan_memory(
        {name: whole for name, (whole, _) in sizes.items()},
        sizes["converter"][1],
        options,
        device=chosen,
        available=available_memory(chosen),
        working=_working(config),
    )
    check_fits(plan, config.name)
    where = torch.device("cpu") if plan.swapped else chosen
    vision, converter, audio_transformer, codec = (
        load_part(folder, config, name, dtype=plan.dtype(name), device=where, bits=options.llm_bits)
        for name in PART_NAMES
    )
    assert isinstance(vision, VisionTower)
    assert isinstance(converter, Converter)
    assert isinstance(audio_transformer, AudioTransformer)
    assert isinstance(codec, Codec)
    if converter.hidden_size != config.audio.condition_dim:
        raise BadModel(
            f"{folder}: the converter's states are {converter.hidden_size} wide, the audio transformer reads "
            f"{config.audio.condition_dim}; {AGAIN}"
        )
    if len(tokenizer) > converter.llm.config.vocab_size:
        raise BadModel(
            f"{folder}: the tokenizer has {len(tokenizer)} entries, the converter {converter.llm.config.vocab_size}; "
            f"{AGAIN}"
        )
    if options.codec == "audiocraft":
        from vatt_core.model.audiocraft_codec import AudiocraftCodec

        codec = AudiocraftCodec(codec).to(where)
    parts: dict[str, nn.Module] = {
        "vision": vision, "converter": converter, "audio_transformer": audio_transformer, "codec": codec,
    }  # fmt: skip
    for part in parts.values():
        part.requires_grad_(False)
    return LoadedModel(
        folder=folder,
        config=config,
        vision=vision,
        converter=converter,
        tokenizer=tokenizer,
        audio_transformer=audio_transformer,
        codec=codec,
        device=chosen,
        plan=plan,
        residence=Residence(parts, chosen, swapped=plan.swapped),
    )


def _working(config: ModelConfig) -> Working:
    def working(kinds: Mapping[str, torch.dtype], bits: int) -> Mapping[str, int]:
        from vatt_core.model.stages import working_of  # which builds parts, and so imports this module

        return working_of(config)(kinds, bits)

    return working


def count_parameters(path: Path) -> tuple[int, int]:
    """Numbers in a file of weights, all and those of the layers that can be quantised. Reads only its head."""
    if not path.is_file():
        raise BadModel(f"{path} is missing; {AGAIN}", file=str(path))
    whole = linear = 0
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                count = math.prod(file.get_slice(key).get_shape())
                whole += count
                in_block = key.startswith("llm.model.layers.") and ".lora_" not in key
                linear += count if in_block and key.endswith(("_proj.weight", ".base_layer.weight")) else 0
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} is damaged ({error}); {AGAIN}", file=str(path)) from error
    return whole, linear
