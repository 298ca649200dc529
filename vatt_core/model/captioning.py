"""Sampling of captions with a key-value cache (reference 7.3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

if TYPE_CHECKING:
    from vatt_core.model.converter import Converter


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are drawn. The defaults are those of the official evaluation scripts (reference 7.3).

    greedy: take the likeliest token after all processors instead of drawing one.
    """

    temperature: float = 0.1
    top_p: float = 0.95
    top_k: int = 500
    repetition_penalty: float = 1.1
    max_new_tokens: int = 400
    greedy: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.repetition_penalty > 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature and repetition_penalty are above 0, top_p is above 0 and at most 1")
        if self.top_k < 1 or self.max_new_tokens < 1:
            raise ValueError("top_k and max_new_tokens are at least 1")


GREEDY = SamplingSettings(temperature=1.0, top_p=1.0, repetition_penalty=1.0, greedy=True)


@dataclass(frozen=True)
class Caption:
    """One answer. ids: new tokens without the end token. mean_log_likelihood: per token, the end token included, under
    the model's plain distribution (no temperature, no filters). finished: False where `max_new_tokens` cut it."""

    ids: tuple[int, ...]
    mean_log_likelihood: float
    finished: bool


def process_scores(logits: Tensor, seen: Tensor, settings: SamplingSettings) -> Tensor:
    """Repetition penalty over what was seen, temperature, top-k, top-p, in this order.

    logits [R, vocabulary], seen [R, n] ids of prompt and answer so far. Returns scores, -inf where filtered out.
    """
    scores = logits.float()
    touched = scores.gather(1, seen)
    penalised = torch.where(touched < 0, touched * settings.repetition_penalty, touched / settings.repetition_penalty)
    scores = scores.scatter(1, seen, penalised) / settings.temperature
    kept = min(settings.top_k, scores.shape[-1])
    scores = scores.masked_fill(scores < scores.topk(kept)[0][:, -1:], -torch.inf)
    if settings.top_p < 1:
        ascending, order = scores.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - settings.top_p
        removed[:, -1] = False  # the likeliest always stays
        scores = scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)
    return scores


def draw(scores: Tensor, uniforms: list[float]) -> Tensor:
    """One token per row from its own uniform number, by the inverse of the distribution function: [R]."""
    cumulative = scores.double().softmax(-1).cumsum(-1)
    # Scaled to the last entry: rounding may leave it a little below 1.
    points = torch.tensor(uniforms, dtype=torch.float64, device=scores.device)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, points, right=True)[:, 0]
    return tokens.clamp(max=scores.shape[-1] - 1)


def sample_captions(
    converter: Converter,
    features: Tensor,
    prompt_ids: Sequence[int],
    *,
    count: int,
    settings: SamplingSettings,
    seed: int,
) -> list[list[Caption]]:
    """See :meth:`Converter.generate_captions`."""
    if count < 1 or not prompt_ids:
        raise ValueError("captioning needs a prompt and at least one answer to give")
    clips, end_ids = len(features), converter.end_ids
    device = converter.video_proj.weight.device
    # A generator per answer, so that answer i does not depend on how many others are drawn beside it.
    sources = [random.Random(f"{seed}/{index}") for _ in range(clips) for index in range(count)]
    rows = len(sources)
    prompt = torch.tensor([list(prompt_ids)], device=device).expand(clips, -1)

    embedded = converter.embed(features.to(device), prompt)  # [clips, V+P, H]
    cache = DynamicCache(config=converter.llm.config)
    out = converter.llm.model(
        inputs_embeds=embedded,
        position_ids=torch.arange(embedded.shape[1], device=device)[None],
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(count)
    state = out.last_hidden_state[:, -1].repeat_interleave(count, dim=0)  # [rows, H]
    position = embedded.shape[1]

    seen = prompt.repeat_interleave(count, dim=0)  # [rows, P + step]
    answers: list[list[int]] = [[] for _ in range(rows)]
    totals = [0.0] * rows
    finished = [False] * rows
    for _ in range(settings.max_new_tokens):
        logits = converter.llm.lm_head(state).float()
        scores = process_scores(logits, seen, settings)
        tokens = scores.argmax(-1) if settings.greedy else draw(scores, [source.random() for source in sources])
        likelihoods = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for row, token in enumerate(tokens.tolist()):
            if not finished[row]:
                totals[row] += likelihoods[row]
                finished[row] = token in end_ids
                if not finished[row]:
                    answers[row].append(token)
        if all(finished):
            break
        seen = torch.cat([seen, tokens[:, None]], dim=1)
        out = converter.llm.model(
            inputs_embeds=converter.llm.get_input_embeddings()(tokens[:, None]),
            position_ids=torch.tensor([[position]], device=device),
            past_key_values=cache,
            use_cache=True,
        )
        state = out.last_hidden_state[:, -1]
        position += 1

    captions = [
        Caption(ids=tuple(ids), mean_log_likelihood=total / (len(ids) + done), finished=done)
        for ids, total, done in zip(answers, totals, finished, strict=True)
    ]
    return [captions[clip * count : (clip + 1) * count] for clip in range(clips)]
