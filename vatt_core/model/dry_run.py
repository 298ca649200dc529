"""A model at its real size without its weights: parameters, bytes per part, and what each stage takes while it works.

Everything runs on the device `meta`, which knows shapes and computes nothing, so that no memory is needed for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import (
    AudioTransformerConfig,
    CodecConfig,
    ConverterConfig,
    Family,
    ModelConfig,
    VisionConfig,
)
from vatt_core.model.converter import Converter
from vatt_core.model.folder import PART_NAMES, build_part
from vatt_core.model.plan import LoadOptions, MemoryPlan, available_memory, plan_memory
from vatt_core.model.quantised import quantisable
from vatt_core.model.vision import VisionTower
from vatt_core.timing import Timing
from vatt_core.weights.fingerprint import CONFIG_FILE
from vatt_core.weights.space import in_units

PROMPT = 64
"""Tokens of the longest prompt that conditions the audio transformer."""

_LLAMA: dict[str, Any] = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu", "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_GEMMA: dict[str, Any] = {
    "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
    "tie_word_embeddings": True,
}  # fmt: skip
_ENCODEC: dict[str, Any] = {
    "target_bandwidths": [2.2], "sampling_rate": 16_000, "audio_channels": 1, "normalize": False, "num_filters": 64,
    "upsampling_ratios": [8, 5, 4, 2], "codebook_size": 2048, "use_causal_conv": False, "use_conv_shortcut": False,
    "pad_mode": "constant",
}  # fmt: skip


def official_config(name: str, family: Family) -> ModelConfig:
    """The sizes of a released model (reference 1 to 3, 11)."""
    gemma = family == "gemma"
    llm = _GEMMA if gemma else _LLAMA
    return ModelConfig(
        name=name,
        timing=Timing(),
        vision=VisionConfig(),
        converter=ConverterConfig(family=family, llm=dict(llm), template="gemma" if gemma else "alpaca_short"),
        audio=AudioTransformerConfig(condition_dim=int(llm["hidden_size"])),
        codec=CodecConfig(encodec=dict(_ENCODEC)),
    )


@dataclass(frozen=True)
class Sizes:
    """parameters: of each part, tied tensors once. linear: of the language model's layers that can be quantised."""

    parameters: dict[str, int]
    linear: int


@dataclass(frozen=True)
class Stage:
    """Bytes of one stage: weights of its part, the most that its intermediate results take at once, and the key-value
    cache of the language model at the end."""

    name: str
    weights: int
    activations: int
    cache: int = 0


def build_empty(config: ModelConfig) -> dict[str, nn.Module]:
    """Every part at its size, on the device meta."""
    parts = {name: build_part(config, name, empty=True).to("meta") for name in PART_NAMES if name != "codec"}
    with init_empty_weights(include_buffers=False):
        parts["codec"] = build_part(config, "codec")  # its convolutions read how far to pad from buffers
    return {name: part.eval().requires_grad_(False) for name, part in parts.items()}


def count(parts: dict[str, nn.Module]) -> Sizes:
    """Parameters of models without memory."""

    def numbers(part: nn.Module) -> int:
        unique = {id(value): value for value in part.state_dict(keep_vars=True).values()}
        return sum(value.numel() for value in unique.values())

    converter = parts["converter"]
    assert isinstance(converter, Converter)
    linear = sum(layer.weight.numel() for layer in quantisable(converter).values())
    return Sizes({name: numbers(part) for name, part in parts.items()}, linear)


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that operations have made and that are still there; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._seen.setdefault(self._key(value), 0)  # there before: weights and inputs
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    @staticmethod
    def _key(value: Tensor) -> int:
        return value.untyped_storage()._cdata

    def _count(self, value: Tensor) -> None:
        key = self._key(value)
        if key in self._seen:
            return
        storage = value.untyped_storage()
        size = storage.nbytes()
        self._seen[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """Yields a function that says how many bytes were needed at once, beside what was there before."""
    with torch.no_grad(), LiveBytes() as mode:
        yield lambda: mode.peak


def stage_bytes(
    config: ModelConfig,
    parts: dict[str, nn.Module],
    weights: dict[str, int],
    *,
    dtype: torch.dtype,
    takes: int = 1,
    device: str = "meta",
) -> list[Stage]:
    """What the stages of a clip of one window take: frames, captions, condition, one guided step, sound.

    weights: bytes of each part, for the sums. dtype: of the language model and the audio transformer. With a device that
    computes, the parts must lie there with weights, and the figures are those of a real run.
    """
    timing, stages = config.timing, []
    vision, converter = parts["vision"], parts["converter"]
    transformer, codec = parts["audio_transformer"], parts["codec"]
    assert (
        isinstance(vision, VisionTower)
        and isinstance(converter, Converter)
        and isinstance(transformer, AudioTransformer)
    )
    size, width = config.vision.image_size, config.audio.condition_dim
    kind = next(vision.parameters()).dtype
    with measured() as peak:
        vision(torch.zeros(timing.frames, 3, size, size, device=device, dtype=kind))
    stages.append(Stage("vision", weights["vision"], peak()))

    prefix = timing.video_tokens + PROMPT
    cache_bytes = 0
    with measured() as peak:
        cache = DynamicCache(config=converter.llm.config)
        out = converter.llm.model(
            inputs_embeds=torch.zeros(1, prefix, width, device=device, dtype=dtype), past_key_values=cache, use_cache=True
        )  # fmt: skip
        converter.llm.lm_head(out.last_hidden_state[:, -1]).float()
        cache_bytes = sum(
            tensor.numel() * tensor.element_size()
            for layer in cache.layers
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if isinstance(tensor, Tensor)
        )
    per_token = cache_bytes // prefix
    answers = per_token * config.converter.max_caption_tokens
    stages.append(Stage("converter", weights["converter"], peak() - cache_bytes, cache_bytes + answers))

    rows = 2 * takes
    with measured() as peak:
        transformer(
            torch.zeros(rows, timing.codebooks, timing.code_frames, dtype=torch.int64, device=device),
            torch.zeros(rows, prefix, width, device=device, dtype=dtype),
            torch.ones(rows, prefix, device="cpu"),
        )
    stages.append(Stage("audio_transformer", weights["audio_transformer"], peak()))
    with measured() as peak:
        # The codes themselves cannot be looked up without memory; their sum is what the decoder reads.
        latent = int(codec.latent_dim)  # type: ignore[arg-type]
        codec.model.decoder(torch.zeros(takes, latent, timing.code_frames, device=device))  # type: ignore[union-attr,operator]
    stages.append(Stage("codec", weights["codec"], peak()))
    return stages


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run found: see :class:`MemoryPlan` and :class:`Stage`."""

    config: ModelConfig
    plan: MemoryPlan
    stages: tuple[Stage, ...]

    @property
    def needed(self) -> int:
        """Bytes on the device at once, by the stages that were measured."""
        if self.plan.swapped:
            return max(stage.weights + stage.activations + stage.cache for stage in self.stages)
        return sum(stage.weights for stage in self.stages) + max(
            stage.activations + stage.cache for stage in self.stages
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "device": str(self.plan.device),
            "parameters": sum(part.parameters for part in self.plan.parts),
            "parts": [
                {"name": part.name, "parameters": part.parameters, "dtype": str(part.dtype).removeprefix("torch."),
                 "bytes": part.weights} for part in self.plan.parts
            ],
            "stages": [vars(stage) for stage in self.stages],
            "memory": "swap" if self.plan.swapped else "keep",
            "needed": self.needed,
            "available": self.plan.available,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.config.name} on '{self.plan.device}'",
            "",
            f"{'part':<20}{'parameters':>16}{'precision':>12}{'weights':>12}",
        ]
        for part in self.plan.parts:
            kind = str(part.dtype).removeprefix("torch.")
            narrow = f"{part.bits:.1f} bits" if part.bits not in (16.0, 32.0) else kind
            lines.append(f"{part.name:<20}{part.parameters:>16,}{narrow:>12}{in_units(part.weights):>12}")
        whole = sum(part.parameters for part in self.plan.parts)
        lines += [
            f"{'together':<20}{whole:>16,}{'':>12}{in_units(sum(part.weights for part in self.plan.parts)):>12}",
            "",
        ]
        lines.append(f"{'stage':<20}{'weights':>12}{'working':>12}{'KV cache':>12}{'together':>12}")
        for stage in self.stages:
            together = stage.weights + stage.activations + stage.cache
            cells = [in_units(value) for value in (stage.weights, stage.activations, stage.cache, together)]
            lines.append(f"{stage.name:<20}" + "".join(f"{cell:>12}" for cell in cells))
        held = "the part at work alone (swap)" if self.plan.swapped else "all parts (keep)"
        free = "an unknown amount" if self.plan.available is None else in_units(self.plan.available)
        verdict = "fits" if self.plan.available is None or self.needed <= self.plan.available else "does not fit"
        return [*lines, "", f"on the device at once: {held}, {in_units(self.needed)}; {free} is free: it {verdict}"]


def rehearse(
    name: str,
    folder: Path | None,
    family: Family | None,
    options: LoadOptions,
    *,
    device: str = "auto",
    takes: int = 1,
) -> Rehearsal:
    """Build the model of `folder`, or the released one of `family`, without memory, and plan it for `device`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = (
        official_config(name, family)
        if folder is None and family
        else ModelConfig.load((folder or Path()) / CONFIG_FILE)
    )
    where = torch.device(device)
    parts = build_empty(config)
    sizes = count(parts)
    plan = plan_memory(sizes.parameters, sizes.linear, options, device=where, available=available_memory(where))
    for part in plan.parts:
        parts[part.name].to(part.dtype)
    weights = {part.name: part.weights for part in plan.parts}
    stages = stage_bytes(config, parts, weights, dtype=plan.dtype("converter"), takes=takes)
    return Rehearsal(config, plan, tuple(stages))
