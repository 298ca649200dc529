"""Where each tensor of an official audio checkpoint goes (reference 3.1 to 3.3).

The official names carry `audio_token_decoder.`; the same pair of encoder norms is stored 25 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.timing import Timing

PREFIX = "audio_token_decoder."
_CODEBOOKS = "quantizer"
_POSITIONS = "pos_embed"


@dataclass(frozen=True)
class Place:
    """Part `part` of `parts` equal parts, along the first axis, of our tensor `name`."""

    name: str
    part: int = 0
    parts: int = 1


def official_places(config: AudioTransformerConfig, timing: Timing) -> dict[str, Place]:
    """Official key (without the prefix) -> our tensor, for all tensors but the codebooks."""
    places = {
        "modality_v": Place("condition_modality"),
        "modality_a": Place("audio_modality"),
        _POSITIONS: Place("positions"),
        "embedding.special.MASK": Place("mask_vectors"),
        "embedding.out_proj.weight": Place("latent_projection.weight"),
        "embedding.out_proj.bias": Place("latent_projection.bias"),
        "img_linear.weight": Place("condition_projection.weight"),
        "img_linear.bias": Place("condition_projection.bias"),
    }
    for book in range(timing.codebooks):
        places[f"classifier.{book}.weight"] = Place("heads.weight", book, timing.codebooks)
    for number in range(config.encoder_layers):
        block = f"encoder.blocks.{number}."
        places |= _attention("encoder", 2 * number, block)
        for letter, modality in (("A", "condition"), ("B", "audio")):
            official = f"encoder.attn_layers.layers.{2 * number + 1}.1.{letter}."
            places |= _feed_forward(official, f"{block}{modality}_feed_forward.")
    norms = [f"encoder.attn_layers.layers.{layer}.0.0." for layer in range(2 * config.encoder_layers)]
    for official in [*norms, "encoder.attn_layers.final_norm."]:
        places |= _norm(f"{official}A.", "encoder.norm.condition.")
        places |= _norm(f"{official}B.", "encoder.norm.audio.")
    for number in range(config.decoder_layers):
        block = f"decoder.blocks.{number}."
        attention, feed_forward = 2 * number, 2 * number + 1
        places |= _norm(f"decoder.attn_layers.layers.{attention}.0.0.", f"{block}attention_norm.")
        places |= _attention("decoder", attention, block)
        places |= _norm(f"decoder.attn_layers.layers.{feed_forward}.0.0.", f"{block}feed_forward_norm.")
        places |= _feed_forward(f"decoder.attn_layers.layers.{feed_forward}.1.", f"{block}feed_forward.")
    return places | _norm("decoder.attn_layers.final_norm.", "decoder.norm.")


def from_official(
    tensors: Mapping[str, Tensor],
    config: AudioTransformerConfig,
    timing: Timing,
    *,
    codebooks: Tensor | Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """The state dict of our :class:`AudioTransformer` from official tensors.

    tensors: by official key; keys without the prefix belong to other parts and are left alone.
    codebooks: [K, V, latent]
    or K times [V, latent], from the codebook file; a `quantizer` in `tensors` was trained and goes before it.
    Raises BadModel, naming the key, when a tensor is missing, unknown, of another shape, or when the copies of the
    shared norms differ.
    """
    given = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    trained = {key: given.pop(key) for key in list(given) if key.split(".")[0] == _CODEBOOKS}
    shapes = _our_shapes(config, timing)
    filled: dict[str, Tensor] = {"codebooks": _codebooks(trained, codebooks, shapes["codebooks"])}
    source: dict[tuple[str, int], str] = {}
    places = official_places(config, timing)
    unknown = sorted(set(given) - set(places))
    if unknown:
        raise BadModel(
            f"the checkpoint has {PREFIX}{unknown[0]}, which a model of the configured size has not "
            f"({len(unknown)} such keys); check that checkpoint and configuration belong together",
            key=PREFIX + unknown[0],
        )
    for key, place in places.items():
        if key not in given:
            if key == _POSITIONS:
                continue  # a fixed table, computed where the checkpoint does not carry it
            raise BadModel(
                f"the checkpoint lacks {PREFIX}{key}; it is incomplete or of another size, fetch it again",
                key=PREFIX + key,
            )
        shape = shapes[place.name]
        part = torch.Size([shape[0] // place.parts, *shape[1:]])
        value = given[key]
        if value.shape.numel() != part.numel() or _core(value.shape) != _core(part):
            raise BadModel(
                f"{PREFIX}{key} has shape {list(value.shape)}, the configured size needs {list(part)}; "
                "check that checkpoint and configuration belong together",
                key=PREFIX + key,
            )
        value = value.to(torch.float32).reshape(part)
        target = filled.setdefault(place.name, torch.empty(shape))
        rows = target[place.part * part[0] : (place.part + 1) * part[0]]
        first = source.setdefault((place.name, place.part), key)
        if first != key and not torch.equal(rows, value):
            raise BadModel(
                f"{PREFIX}{key} differs from {PREFIX}{first}, though both are copies of one norm; "
                "the checkpoint is damaged or of another architecture",
                key=PREFIX + key,
            )
        rows.copy_(value)
    filled.setdefault("positions", AudioTransformer.position_table(config, timing))
    return filled


def _attention(stack: str, layer: int, block: str) -> dict[str, Place]:
    official = f"{stack}.attn_layers.layers.{layer}.1."
    places = {
        f"{official}to_{letter}.weight": Place(f"{block}attention.query_key_value.weight", part, 3)
        for part, letter in enumerate("qkv")
    }
    return places | {f"{official}to_out.weight": Place(f"{block}attention.output.weight")}


def _feed_forward(official: str, ours: str) -> dict[str, Place]:
    return {
        f"{official}ff.0.0.weight": Place(f"{ours}expand.weight"),
        f"{official}ff.2.weight": Place(f"{ours}contract.weight"),
    }


def _norm(official: str, ours: str) -> dict[str, Place]:
    return {f"{official}{part}": Place(f"{ours}{part}") for part in ("weight", "bias")}


def _our_shapes(config: AudioTransformerConfig, timing: Timing) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = AudioTransformer(config, timing)
    return {name: value.shape for name, value in model.state_dict().items()}


def _core(shape: torch.Size) -> list[int]:
    """The shape without axes of length 1, which the official tensors have in front."""
    return [size for size in shape if size != 1]


def _codebooks(trained: Mapping[str, Tensor], file: Tensor | Sequence[Tensor] | None, shape: torch.Size) -> Tensor:
    named = {f"{PREFIX}{key}": value for key, value in trained.items()}
    if f"{PREFIX}{_CODEBOOKS}" in named:
        key, whole = f"{PREFIX}{_CODEBOOKS}", named[f"{PREFIX}{_CODEBOOKS}"]
        tables = list(whole) if whole.ndim else [whole]
    elif named:
        numbered = sorted(named, key=lambda name: int("".join(filter(str.isdigit, name)) or 0))
        key, tables = numbered[0], [named[name] for name in numbered]
    elif file is not None:
        key, tables = "the codebook file", list(file)
    else:
        raise BadModel(
            f"the checkpoint has no {PREFIX}{_CODEBOOKS} and no codebook file was given; "
            "name the codebook file that belongs to it",
            key=PREFIX + _CODEBOOKS,
        )
    if len(tables) != shape[0] or any(table.shape != shape[1:] for table in tables):
        raise BadModel(
            f"{key} holds tables of shapes {[list(table.shape) for table in tables]}, the configured size needs "
            f"{shape[0]} of {list(shape[1:])}; check that codebooks and configuration belong together",
            key=key,
        )
    return torch.stack([table.detach().to(torch.float32) for table in tables])
