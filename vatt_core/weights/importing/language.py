"""The converter out of three sources: base folder, fine-tuned delta, Lightning checkpoint; later ones win (reference 10.2).

The official loader takes what fits and is silent about the rest. Here every tensor must come from somewhere, a file of
the other family is refused, and what nobody needed is listed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.model.configuration import ConverterConfig, Family, LoraSettings
from vatt_core.model.converter import Converter
from vatt_core.timing import Timing

_ENCODER = "encoder."
_HARMLESS = re.compile(r"rotary_emb\.inv_freq$|\.original_max_seq_len$")
"""Tables that transformers computes itself."""

# Of the official Llama, whatever the folder says (reference 2.2): the bundled code knows no other.
_LLAMA_ROPE = 10_000.0
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES = (
    *_NEEDED, "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id",
    "tie_word_embeddings", "attention_bias", "head_dim",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Tensors of one file by the names that the language model itself would give them (`layers.0…`, `video_proj…`,
    `embed_tokens…`, `lm_head…`). family: what the file itself tells, None when it fits both."""

    path: Path
    what: str
    tensors: dict[str, Tensor]
    original: dict[str, str]
    family: Family | None = None


@dataclass
class LanguagePart:
    """state: tensors by the names of our Converter. origin: name -> file and key. ignored: keys that nobody needed."""

    config: ConverterConfig
    state: dict[str, Tensor]
    feature_dim: int
    origin: dict[str, tuple[str, str]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_llm_config(folder: Path) -> tuple[Family, dict[str, Any], list[str]]:
    """Family, arguments of transformers' configuration, and settings that the official code leaves unread.

    Raises BadModel when the folder's config.json is neither that of a Llama nor that of a Gemma, or lacks a size.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read ({error}); name the folder of the base model", file=str(path)) from error
    family = values.get("model_type") if isinstance(values, dict) else None
    if family not in ("llama", "gemma"):
        raise BadModel(
            f"{path} describes a {family!r}; VATT is built on Vicuna ('llama') or Gemma ('gemma')", file=str(path)
        )
    kept = {name: values[name] for name in _SIZES if values.get(name) is not None}
    for name in _NEEDED:
        if name not in kept:
            raise BadModel(f"{path} does not say {name}; give the whole config.json of the base model", file=str(path))
    notes = []
    if family == "gemma":
        kept["hidden_act"] = values.get("hidden_activation") or "gelu_pytorch_tanh"
        theta = values.get("rope_theta", 10_000.0)
        if not isinstance(theta, int | float) or not 0 < theta < math.inf:
            raise BadModel(
                f"{path}: rope_theta is {theta!r} and no number above zero; give the config.json of the base model",
                file=str(path),
            )
        kept["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta)}
        kept.setdefault("tie_word_embeddings", True)
    else:
        kept["hidden_act"] = values.get("hidden_act", "silu")
        kept["rope_parameters"] = {"rope_type": "default", "rope_theta": _LLAMA_ROPE}
        kept.setdefault("tie_word_embeddings", False)
        for name in ("rope_scaling", "rope_theta"):
            if values.get(name) not in (None, _LLAMA_ROPE):
                notes.append(f"{path}: {name} {values[name]} is not used, as in the official code")
    return family, kept, notes


def delta_family(tensors: Mapping[str, Tensor]) -> Family | None:
    """Gemma's value projection is narrower than its query projection, Vicuna's is as wide."""
    widths = {}
    for letter in "qv":
        for name in (f"{letter}_proj.lora_B.default.weight", f"{letter}_proj.weight"):
            found = [value.shape[0] for key, value in tensors.items() if key.endswith(name) and value.ndim]
            if found:
                widths[letter] = found[0]
                break
    if len(widths) < 2:
        return None
    return "llama" if widths["q"] == widths["v"] else "gemma"


def read_source(path: Path, what: str, tensors: Mapping[str, Tensor]) -> Source:
    """Tensors of a file of the base, a delta or a checkpoint (of which only `encoder.*` counts), renamed."""
    renamed: dict[str, Tensor] = {}
    original: dict[str, str] = {}
    family: Family | None = None
    for key, value in tensors.items():
        name = key
        if what == "checkpoint":
            if key == "embed_tokens.weight":  # Gemma's text table stands beside its encoder
                family = "gemma"
            elif not key.startswith(_ENCODER):
                continue
            name = key.removeprefix(_ENCODER)
            if name.startswith("base_model.model."):
                family = "llama" if name.startswith("base_model.model.model.") else "gemma"
        name = name.removeprefix("base_model.model.").removeprefix("model.").replace(".base_layer.", ".")
        renamed[name] = value
        original[name] = key
    return Source(path, what, renamed, original, family or delta_family(renamed))


def converter_config(family: Family, llm: dict[str, Any], sources: list[Source], *, lora_alpha: int) -> ConverterConfig:
    """The configuration; the rank of LoRA is that of its tensors."""
    ranks = {
        value.shape[0] if value.ndim == 2 else 0
        for source in sources
        for key, value in source.tensors.items()
        if "lora_A." in key
    }  # fmt: skip
    if len(ranks) != 1:
        files = ", ".join(str(source.path) for source in sources if source.what != "base")
        raise BadModel(
            f"no LoRA tensors are in {files or 'the given files'}, or of several ranks; without them the converter is "
            "not fine-tuned. Name the delta (pytorch_model.bin of the checkpoint folder)"
        )
    return ConverterConfig(
        family=family,
        llm=llm,
        lora=LoraSettings(rank=ranks.pop(), alpha=lora_alpha),
        template="gemma" if family == "gemma" else "alpaca_short",
    )


def read_converter(folder: Path, sources: list[Source], *, timing: Timing, lora_alpha: int = 32) -> LanguagePart:
    """Everything that the converter needs, from `sources` in rising order of precedence (base, delta, checkpoint).

    folder: of the base model, for its configuration. Raises BadModel for a source of the other family, and naming the
    tensor when one is missing everywhere or has another shape.
    """
    family, llm, notes = read_llm_config(folder)
    for source in sources:
        if source.family not in (None, family):
            raise BadModel(
                f"{source.path} is a {source.what} of VATT {source.family.capitalize()}, but {folder} is a "
                f"{family.capitalize()}; give files of one family",
                file=str(source.path),
            )
    projections = [source for source in sources if "video_proj.weight" in source.tensors]
    if not projections:
        raise BadModel(_missing("video_proj.weight", sources))
    projection = projections[-1].tensors["video_proj.weight"]
    if projection.ndim != 2:
        raise BadModel(
            f"{projections[-1].path}: {projections[-1].original['video_proj.weight']} has the shape "
            f"{list(projection.shape)} instead of two axes; it belongs to another model",
            file=str(projections[-1].path),
        )
    config = converter_config(family, llm, sources, lora_alpha=lora_alpha)
    feature_dim = projection.shape[1]
    try:
        with init_empty_weights(include_buffers=False):
            wanted = Converter(config, timing, feature_dim).state_dict()
    except BadModel as error:
        path = folder / "config.json"
        raise BadModel(f"{path}: {error.message}; give the config.json of the base model", file=str(path)) from error
    part = LanguagePart(config, {}, feature_dim, notes=notes)
    used: set[tuple[int, str]] = set()
    tied = bool(llm["tie_word_embeddings"])
    for name, value in wanted.items():
        key = name.removeprefix("llm.").removeprefix("model.").replace(".base_layer.", ".")
        if tied and key == "lm_head.weight":
            continue
        number = next((n for n in reversed(range(len(sources))) if key in sources[n].tensors), None)
        if number is None:
            raise BadModel(_missing(key, sources), key=key)
        source = sources[number]
        found = source.tensors[key]
        if found.shape != value.shape:
            raise BadModel(
                f"{source.path}: {source.original[key]} has the shape {list(found.shape)}, this {family.capitalize()} "
                f"needs {list(value.shape)}; give files of one model",
                file=str(source.path),
                key=source.original[key],
            )
        if not found.is_floating_point():
            raise BadModel(
                f"{source.path}: {source.original[key]} holds {found.dtype}, not weights; give the file of the release",
                file=str(source.path),
                key=source.original[key],
            )
        part.state[name] = found
        part.origin[name] = (str(source.path), source.original[key])
        used.add((number, key))
    needed = {name.removeprefix("llm.").removeprefix("model.").replace(".base_layer.", ".") for name in wanted}
    for source in sources:
        surplus = [source.original[key] for key in source.tensors if key not in needed and not _HARMLESS.search(key)]
        if surplus:
            part.ignored[str(source.path)] = sorted(surplus)
    part.notes += _tables_that_differ(sources)
    return part


def _missing(key: str, sources: list[Source]) -> str:
    looked = ", ".join(f"{source.path} ({source.what})" for source in sources)
    return (
        f"{key} is in none of the files of the converter: {looked or 'none was given'}; one of them is incomplete, fetch it "
        "again"
    )


def _tables_that_differ(sources: list[Source]) -> list[str]:
    """The token table may come from four files; they should agree."""
    tables = [
        (source, source.tensors["embed_tokens.weight"]) for source in sources if "embed_tokens.weight" in source.tensors
    ]
    winner = tables[-1] if tables else None
    notes = []
    for source, table in tables[:-1]:
        assert winner is not None
        narrow = torch.bfloat16 if torch.bfloat16 in (table.dtype, winner[1].dtype) else torch.float16
        if table.shape != winner[1].shape or not torch.equal(table.to(narrow), winner[1].to(narrow)):
            notes.append(f"the token tables of {source.path} and {winner[0].path} differ; the latter is used")
    return notes
