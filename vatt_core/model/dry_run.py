"""A model at its real size without its weights: parameters, bytes per part, and what each stage takes while it works.

Everything runs on the device `meta`, which knows shapes and computes nothing, so that no memory is needed for it, unless the
stages shall really compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vatt_core.errors import BadRequest
from vatt_core.model.configuration import (
    AudioTransformerConfig,
    CodecConfig,
    ConverterConfig,
    Family,
    ModelConfig,
    VisionConfig,
)
from vatt_core.model.converter import Converter
from vatt_core.model.folder import build_part
from vatt_core.model.plan import LoadOptions, MemoryPlan, available_memory, device_named, plan_memory
from vatt_core.model.products import is_slow, wide_bytes
from vatt_core.model.quantised import quantisable
from vatt_core.model.stages import Stage, build_empty, run_stage, unpacked, working_of
from vatt_core.timing import Timing
from vatt_core.weights.fingerprint import CONFIG_FILE
from vatt_core.weights.space import in_units

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


def count(parts: dict[str, nn.Module]) -> Sizes:
    """Parameters of models without memory."""

    def numbers(part: nn.Module) -> int:
        unique = {id(value): value for value in part.state_dict(keep_vars=True).values()}
        return sum(value.numel() for value in unique.values())

    converter = parts["converter"]
    assert isinstance(converter, Converter)
    linear = sum(layer.weight.numel() for layer in quantisable(converter).values())
    return Sizes({name: numbers(part) for name, part in parts.items()}, linear)


REHEARSED = 2
"""Layers of a language model that is too large for this machine, when it is run."""


def run_parts(config: ModelConfig, plan: MemoryPlan, *, takes: int, llm_bits: int = 0) -> Iterator[Stage]:
    """Build one part after the other on the plan's device with random numbers, and run its stage.

    Of a language model that would fill more than half of the free memory only the first layers are built: `cache` is
    multiplied by the number of layers then, `weights` are those of the plan, and activations do not depend on it. Layers that
    `llm_bits` would quantise compute as wide as the rest; the one that would be unpacked is added.
    """
    for part_plan in plan.parts:
        name, device, share = part_plan.name, plan.device, 1
        room = available_memory(device)
        used = config
        if name == "converter" and room is not None and part_plan.parameters * part_plan.dtype.itemsize > room // 2:
            layers = int(config.converter.llm["num_hidden_layers"])
            llm = {**config.converter.llm, "num_hidden_layers": REHEARSED}
            used = replace(config, converter=replace(config.converter, llm=llm))
            share = layers // REHEARSED
        part = filled(build_part(used, name, empty=True), part_plan.dtype, device)
        activations, cache = run_stage(used, name, part, takes=takes)
        activations += unpacked(part, llm_bits) if isinstance(part, Converter) else 0
        yield Stage(name, part_plan.weights, activations, cache * share)


def filled(part: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A part that was built without memory, with random numbers on a device; what was tied stays tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in part.modules():
        for key, value in module._parameters.items():
            if value is None:
                continue
            if value not in made:
                numbers = torch.empty(value.shape, dtype=dtype, device=device).uniform_(-0.02, 0.02)
                made[value] = nn.Parameter(numbers, requires_grad=False)
            module._parameters[key] = made[value]
    return part.to(device).eval()


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

    @property
    def fits(self) -> bool:
        return self.plan.available is None or self.needed <= self.plan.available

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
            "products_in_float32": self.plan.widened,
            "needed": self.needed,
            "available": self.plan.available,
            "fits": self.fits,
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
        verdict = "fits" if self.fits else "does not fit"
        lines += ["", f"on the device at once: {held}, {in_units(self.needed)}; {free} is free: it {verdict}"]
        if self.plan.widened:
            lines.append("this processor has no fast products of narrow numbers: weights are widened as they are used")
        return lines


def rehearse(
    name: str,
    folder: Path | None,
    family: Family | None,
    options: LoadOptions,
    *,
    device: str = "auto",
    takes: int = 1,
    available: int | None = None,
    run: bool = False,
) -> Rehearsal:
    """Plan the model of `folder`, or the released one of `family`, for `device`, and say what its stages take.

    available: bytes that are free there (None: as found; a device that is not in this machine can be planned for so).
    run: the stages really compute on the device, with random numbers; else only their shapes are followed.
    """
    config = (
        official_config(name, family)
        if folder is None and family
        else ModelConfig.load((folder or Path()) / CONFIG_FILE)
    )
    where = device_named(device)
    if where.type == "cuda" and not torch.cuda.is_available() and (run or available is None):
        raise BadRequest(
            "There is no CUDA device here: say how much memory it would have free (--free), without --run."
        )
    parts = build_empty(config)
    sizes = count(parts)
    room = available_memory(where) if available is None else available
    plan = plan_memory(
        sizes.parameters, sizes.linear, options, device=where, available=room, working=working_of(config, parts)
    )
    if run:
        del parts
        stages = list(run_parts(config, plan, takes=takes, llm_bits=options.llm_bits))
    else:
        stages = []
        for part in plan.parts:
            parts[part.name].to(part.dtype)
            whole = parts[part.name]
            activations, cache = run_stage(config, part.name, whole, takes=takes)
            activations += unpacked(whole, options.llm_bits) if isinstance(whole, Converter) else 0
            activations += wide_bytes(whole) if is_slow(part.dtype, where) else 0
            stages.append(Stage(part.name, part.weights, activations, cache))
    return Rehearsal(config, plan, tuple(stages))
