"""Iterative parallel decoding: all codes undecided, then more and more of them decided per step (reference 6).

Every row of a batch is on its own: its number of hidden codes, its cut and its random draws are those of the same
request alone. Known codes (anything but the mask token) are kept from the start, which is what in-painting needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vatt_core.errors import BadRequest, Cancelled
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.choosing import CodebookSettings, DecodingOptions, choose_tokens
from vatt_core.model.configuration import FillOrder

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Condition:
    """What one row is made from: states [S, condition_dim] float and pad_mask [S], non-zero = keep."""

    states: Tensor
    pad_mask: Tensor


class Draws(Protocol):
    """The random numbers of one row. Asked once per step."""

    def step(self, slots: int) -> tuple[Tensor, Tensor]:
        """Two uniform rows [slots]: float64 in [0, 1) that choose the tokens, float32 in (0, 1) for the noise on the
        confidence. Slots count (time, codebook) for "joint", time for "coarse_first"."""
        ...


class GeneratorDraws:
    """Draws from a torch.Generator; on the CPU, one seed gives the same numbers whatever the model runs on."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def step(self, slots: int) -> tuple[Tensor, Tensor]:
        generator, device = self.generator, self.generator.device
        tokens = torch.rand(slots, generator=generator, dtype=torch.float64, device=device)
        noise = torch.rand(slots, generator=generator, dtype=torch.float32, device=device).clamp_(min=1e-20)
        return tokens, noise


@torch.no_grad()
def generate_codes(
    model: AudioTransformer,
    conditions: Sequence[Condition],
    *,
    options: DecodingOptions,
    generators: Sequence[torch.Generator | Draws],
    negatives: Sequence[Condition | None] | None = None,
    known: Tensor | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Tensor:
    """Generate codes for every condition, as one batch.

    conditions: one per row; their numbers of slots may differ. generators: one per row. negatives: per row the
    condition to be guided away from, None for the null condition. known: [B, K, T] int64, codes to keep, the mask
    token where undecided (default: nothing known, T of the model's window). progress: called with (done, total)
    after each step. cancelled: asked before each step.
    Returns codes [B, K, T] int64, every one decided, on the model's device (on the CPU when that has no float64).
    Raises Cancelled, and BadRequest when settings or known codes do not fit the model.
    """
    timing = model.timing
    device = model.codebooks.device
    if device.type == "mps":  # has no float64, which the choice of tokens needs
        device = torch.device("cpu")
    if known is None:
        shape = (len(conditions), timing.codebooks, timing.code_frames)
        codes = torch.full(shape, timing.mask, dtype=torch.int64, device=device)
    else:
        codes = known.to(device=device, dtype=torch.int64, copy=True)
    _check(codes, conditions, generators, model)
    settings = CodebookSettings.of(options, model.codebooks.to(device))
    branches = _Branches.of(model, conditions, negatives, guided=settings.guided)
    draws = [GeneratorDraws(one) if isinstance(one, torch.Generator) else one for one in generators]
    plan = _plan(options, timing.codebooks)
    total = sum(steps for _, steps in plan)
    done = 0
    for part, steps in plan:
        undecided = codes[:, part] == timing.mask
        hidden_at_start = undecided.flatten(1).sum(1).tolist()
        for step in range(steps):
            if cancelled is not None and cancelled():
                raise Cancelled(f"stopped after {done} of {total} decoding steps", done=done, total=total)
            if any(hidden_at_start):
                guidance = settings.guidance_at(options.guidance_schedule, step, steps)
                logits = branches.logits(model, codes, part, guidance)
                codes[:, part] = _decide(
                    logits, codes[:, part], draws, settings.of_codebooks(part), timing.mask,
                    hidden_at_start=hidden_at_start, step=step, steps=steps,
                )  # fmt: skip
            done += 1
            if progress is not None:
                progress(done, total)
    return codes


SCORED_RUN = 10
"""Code frames hidden in a row when a likelihood is measured: next to a known one a guess would be too easy."""


@torch.no_grad()
def mean_log_likelihood(
    model: AudioTransformer, conditions: Sequence[Condition], codes: Tensor, *, fill_order: FillOrder
) -> Tensor:
    """How likely the model finds codes: the mean log-likelihood per code [B] float32, each half of the code frames guessed
    from the other half. Of the coarsest codebook alone where codebooks are filled one after the other.

    codes: [B, K, T] int64; frames with the mask token are not scored.
    """
    part = slice(0, 1) if fill_order == "coarse_first" else slice(0, codes.shape[1])
    branches = _Branches.of(model, conditions, None, guided=False)
    known = (codes != model.timing.mask).all(1)  # [B, T]
    run = torch.arange(codes.shape[2], device=codes.device) // SCORED_RUN % 2
    total, count = torch.zeros(len(codes)), torch.zeros(len(codes))
    for half in (0, 1):
        hidden = run == half
        logits = branches.logits(model, codes.masked_fill(hidden, model.timing.mask), part, torch.ones(0))
        chances = logits.log_softmax(-1).gather(3, codes[:, part, :, None].clamp(max=logits.shape[-1] - 1))[..., 0]
        scored = (hidden & known)[:, None].expand(-1, chances.shape[1], -1)
        total += (chances * scored).sum((1, 2)).cpu()
        count += scored.sum((1, 2)).cpu()
    return total / count.clamp(min=1)


def hidden_after(step: int, steps: int, hidden_at_start: int) -> int:
    """Codes that stay hidden after `step` (from 0) of `steps`: floor(cos(pi r / 2) * N0), in float32 like the official
    code, where a product that is whole in real numbers may come out one lower."""
    return int(torch.floor(torch.tensor(schedule(step, steps), dtype=torch.float32) * hidden_at_start))


def schedule(step: int, steps: int) -> float:
    """Share of the codes that stays hidden after `step` (from 0) of `steps`, rounded as float32 rounds it."""
    angle = torch.tensor((step + 1) / steps, dtype=torch.float32) * (math.pi / 2)
    return torch.tensor(max(math.cos(angle.item()), 1e-10), dtype=torch.float32).item()


@dataclass(frozen=True)
class _Group:
    """Rows of the model's batch whose conditions have the same number of slots. rows: their places among all, [R]."""

    rows: Tensor
    states: Tensor
    pad_mask: Tensor
    drop: Tensor | None


@dataclass(frozen=True)
class _Branches:
    """The rows of the model's batch: the conditions, then (when guided) what to be guided away from.

    Rows of different lengths go through the model one length after the other: filled up they would be rounded otherwise
    than alone, and now and then a token would be another.
    """

    groups: tuple[_Group, ...]
    guided: bool

    @classmethod
    def of(
        cls,
        model: AudioTransformer,
        conditions: Sequence[Condition],
        negatives: Sequence[Condition | None] | None,
        *,
        guided: bool,
    ) -> _Branches:
        rows = list(conditions)
        drop = [False] * len(rows)
        if guided:
            others = negatives if negatives is not None else [None] * len(conditions)
            if len(others) != len(conditions):
                raise BadRequest(f"{len(others)} negative conditions for {len(conditions)} rows; give one per row")
            pairs = list(zip(conditions, others, strict=True))
            rows += [own if other is None else other for own, other in pairs]
            drop += [other is None for other in others]
        device = model.codebooks.device
        groups = []
        for length in sorted({len(row.states) for row in rows}):
            places = [place for place, row in enumerate(rows) if len(row.states) == length]
            dropped = [drop[place] for place in places]
            groups.append(
                _Group(
                    rows=torch.tensor(places, device=device),
                    states=torch.stack([rows[place].states.to(device) for place in places]),
                    pad_mask=torch.stack([rows[place].pad_mask.to(device) > 0 for place in places]),
                    drop=torch.tensor(dropped, device=device) if any(dropped) else None,
                )
            )
        return cls(tuple(groups), guided)

    def logits(self, model: AudioTransformer, codes: Tensor, part: slice, guidance: Tensor) -> Tensor:
        """Guided logits [B, k, T, V] float32 of the codebooks in `part`."""
        seen = codes
        if part.stop < codes.shape[1]:
            # Training shows no code finer than the one that is asked for.
            seen = codes.clone()
            seen[:, part.stop :] = model.timing.mask
        seen = seen.to(model.codebooks.device)
        if self.guided:
            seen = seen.repeat(2, 1, 1)
        parts = [
            model(seen[group.rows], group.states, group.pad_mask, drop_condition=group.drop, codebooks=part).float()
            for group in self.groups
        ]
        logits = parts[0]
        if len(parts) > 1:
            logits = torch.cat(parts)[torch.cat([group.rows for group in self.groups]).argsort()]
        logits = logits.to(codes.device)
        if not self.guided:
            return logits
        toward, away = logits.chunk(2)
        return away + guidance[part][None, :, None, None] * (toward - away)


def _decide(
    logits: Tensor,
    codes: Tensor,
    draws: Sequence[Draws],
    settings: CodebookSettings,
    mask: int,
    *,
    hidden_at_start: Sequence[int],
    step: int,
    steps: int,
) -> Tensor:
    """One step: choose tokens for the hidden places and hide the least confident ones again.

    logits: [B, k, T, V] float32, codes: [B, k, T] -> codes [B, k, T].
    """
    batch, books, frames = codes.shape
    flat = codes.transpose(1, 2).reshape(batch, -1)  # [B, T * k], slots in the order (time, codebook)
    by_slot = logits.transpose(1, 2).flatten(1, 2)  # [B, T * k, V]
    book = torch.arange(books, device=codes.device).repeat(frames)  # codebook of each slot
    decided = []
    for row, row_draws in enumerate(draws):
        uniform, noise = row_draws.step(flat.shape[1])
        gumbel = -torch.log(-torch.log(noise.float()))
        slots = (flat[row] == mask).nonzero()[:, 0]  # the hidden ones, [M]
        tokens, chances = choose_tokens(by_slot[row, slots], book[slots], uniform.to(slots.device)[slots], settings)
        chosen = flat[row].clone()
        chosen[slots] = tokens
        scale = settings.mask_temperature[book[slots]] * (1.0 - (step + 1) / steps)
        confidence = chances.log() + scale * gumbel.to(slots.device)[slots]
        stay = hidden_after(step, steps, hidden_at_start[row])
        if step < steps - 1:
            stay = max(1, min(len(slots) - 1, stay))
        if stay < len(slots):
            again = confidence < confidence.sort().values[stay]
        else:
            again = torch.ones_like(confidence, dtype=torch.bool)
        chosen[slots[again]] = mask
        decided.append(chosen)
    return torch.stack(decided).view(batch, frames, books).transpose(1, 2)


def _plan(options: DecodingOptions, codebooks: int) -> list[tuple[slice, int]]:
    """Which codebooks are decided together, and in how many steps."""
    if options.fill_order == "joint":
        return [(slice(0, codebooks), options.steps)]
    steps = options.steps_per_codebook or (options.steps,) * codebooks
    if len(steps) != codebooks:
        raise BadRequest(
            f"steps_per_codebook has {len(steps)} values; this model has {codebooks} codebooks",
            field="steps_per_codebook",
        )
    return [(slice(book, book + 1), count) for book, count in enumerate(steps)]


def _check(
    codes: Tensor, conditions: Sequence[Condition], generators: Sequence[object], model: AudioTransformer
) -> None:
    timing = model.timing
    if not len(conditions) == len(generators) == len(codes) > 0:
        raise BadRequest(
            f"{len(conditions)} conditions, {len(generators)} generators and {len(codes)} rows of known codes; "
            "give one of each per take"
        )
    if codes.ndim != 3 or codes.shape[1] != timing.codebooks or not codes.shape[2]:
        raise BadRequest(
            f"known codes have shape {list(codes.shape)}; give [rows, {timing.codebooks}, code frames]", field="known"
        )
    if bool(((codes < 0) | (codes > timing.mask)).any()):
        raise BadRequest(f"known codes must lie between 0 and {timing.mask} (undecided)", field="known")
