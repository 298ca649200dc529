"""What each stage of a request takes beside the weights, found by running it under hooks.

On the device `meta` only shapes are followed, so that no memory is needed; on any other device the stages really compute.
What kernels allocate inside themselves is not seen, except on a GPU, whose allocator is asked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.captioning import SamplingSettings, draw, process_scores
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.converter import Converter
from vatt_core.model.folder import PART_NAMES, build_part
from vatt_core.model.plan import Working
from vatt_core.model.products import products_of
from vatt_core.model.quantised import quantisable
from vatt_core.model.vision import VisionTower

PROMPT = 64
"""Tokens of the longest prompt that conditions the audio transformer."""

SUGGESTIONS = 3
"""Captions that a user is shown at once; more are drawn, side by side."""

TAKES = 8
"""Rows that go through the audio transformer together at most, each with its guidance."""


@dataclass(frozen=True)
class Stage:
    """Bytes of one stage: weights of its part, the most that its intermediate results take at once, and the key-value
    cache of the language model when all answers have their full length."""

    name: str
    weights: int
    activations: int
    cache: int = 0


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that operations have made and that are still there; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._count(value, made=False)  # there before: weights and inputs
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, value: Tensor, *, made: bool = True) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes() if made else 0
        self._seen[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        # What was not made here is watched too: the next one may come to lie at its place.
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)


class FusedAttention(TorchFunctionMode):
    """Attention on the device meta takes what the fused kernels of real devices take: its result, and no scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            if given["query"].is_meta:
                return given["query"].new_empty(*given["query"].shape[:-1], given["value"].shape[-1])
        return func(*args, **(kwargs or {}))


@contextmanager
def measured(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yields a function that says how many bytes were needed at once, beside what was there before."""
    with torch.no_grad():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            yield lambda: torch.cuda.max_memory_allocated(device) - before
            return
        with FusedAttention(), LiveBytes() as mode:
            yield lambda: mode.peak


def run_stage(config: ModelConfig, name: str, part: nn.Module, *, takes: int = 1) -> tuple[int, int]:
    """Bytes that a part takes for a clip of one window beside its weights: (activations, key-value cache).

    The image tower reads all frames; the converter reads the longest prompt, then writes the last token of all answers; the
    audio transformer makes one guided step for `takes` takes; the codec decodes one.
    """
    device = next(part.parameters()).device
    with measured(device) as peak, products_of(part):
        cache = _run(config, part, takes)
        return peak() - cache, cache


def _run(config: ModelConfig, part: nn.Module, takes: int) -> int:
    """Run a part; what its cache takes at the end."""
    timing, device = config.timing, next(part.parameters()).device
    if isinstance(part, VisionTower):
        size = config.vision.image_size
        kind = next(part.visual.parameters()).dtype
        part(torch.zeros(timing.frames, 3, size, size, device=device).to(kind))
    elif isinstance(part, Converter):
        return _answer(config, part)
    elif isinstance(part, AudioTransformer):
        _guided_step(config, part, takes)
    elif isinstance(part, Codec):
        # The codes themselves cannot be looked up without memory; their sum is what the decoder reads.
        part.model.decoder(torch.zeros(1, part.latent_dim, timing.code_frames, device=device))
    return 0


def _answer(config: ModelConfig, converter: Converter) -> int:
    weight = converter.video_proj.weight
    prefix, answers = config.timing.video_tokens + PROMPT, SUGGESTIONS * config.decoding.caption_draws
    model, cache = converter.llm.model, DynamicCache(config=converter.llm.config)
    embedded = weight.new_zeros(1, prefix, converter.hidden_size)
    state = model(inputs_embeds=embedded, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
    cache.batch_repeat_interleave(answers)
    layers: list[Any] = list(cache.layers)
    for number, layer in enumerate(layers):
        # All tokens of the answers but the last, as if they had been written.
        rows, heads, _, width = layer.keys.shape
        more = layer.keys.new_zeros(rows, heads, config.converter.max_caption_tokens - 1, width)
        cache.update(more, more, number)
    seen = torch.zeros(answers, PROMPT, dtype=torch.int64, device=weight.device)
    logits = converter.llm.lm_head(state.expand(answers, -1)).float()
    tokens = draw(process_scores(logits, seen, SamplingSettings()), [0.5] * answers)
    logits.log_softmax(-1)
    following = converter.llm.get_input_embeddings()(tokens[:, None])
    model(inputs_embeds=following, past_key_values=cache, use_cache=True)
    kept = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _guided_step(config: ModelConfig, transformer: AudioTransformer, takes: int) -> None:
    timing, weight = config.timing, transformer.condition_projection.weight
    rows, slots = 2 * takes, timing.video_tokens + PROMPT
    codes = torch.zeros(rows, timing.codebooks, timing.code_frames, dtype=torch.int64, device=weight.device)
    states = weight.new_zeros(rows, slots, config.audio.condition_dim)
    toward, away = transformer(codes, states, torch.ones(rows, slots)).float().chunk(2)
    guided = away + 5.0 * (toward - away)
    guided.transpose(1, 2).flatten(1, 2)[0].softmax(-1)


def build_empty(config: ModelConfig) -> dict[str, nn.Module]:
    """Every part at its size, on the device meta."""
    parts = {name: build_part(config, name, empty=True).to("meta") for name in PART_NAMES if name != "codec"}
    with init_empty_weights(include_buffers=False):
        parts["codec"] = build_part(config, "codec")  # its convolutions read how far to pad from buffers
    return {name: part.eval().requires_grad_(False) for name, part in parts.items()}


def unpacked(converter: Converter, bits: int) -> int:
    """Bytes that the widest of the quantised layers takes while it multiplies: its weight in the precision of the rest."""
    if not bits:
        return 0
    return max(layer.weight.numel() * layer.weight.element_size() for layer in quantisable(converter).values())


def working_of(config: ModelConfig, parts: Mapping[str, nn.Module] | None = None) -> Working:
    """What a plan asks: bytes of each stage beside the weights. parts: from :func:`build_empty`, built when first asked."""
    empty: dict[str, nn.Module] = dict(parts or {})
    known: dict[tuple[tuple[str, torch.dtype], ...], dict[str, int]] = {}

    def working(kinds: Mapping[str, torch.dtype], bits: int) -> dict[str, int]:
        empty.update({} if empty else build_empty(config))
        key = tuple(sorted(kinds.items(), key=str))
        if key not in known:
            for name, part in empty.items():
                part.to(kinds[name])
            known[key] = {name: sum(run_stage(config, name, part, takes=TAKES)) for name, part in empty.items()}
        converter = empty["converter"].to(kinds["converter"])
        assert isinstance(converter, Converter)
        return {**known[key], "converter": known[key]["converter"] + unpacked(converter, bits)}

    return working
