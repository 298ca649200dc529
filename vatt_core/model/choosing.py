"""How to decode, and which token is chosen at a place: drawn, or the one that comes nearest to what is expected."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vatt_core.errors import BadRequest
from vatt_core.model.configuration import DecodingDefaults, FillOrder

PerCodebook = float | tuple[float, ...]
GuidanceSchedule = Literal["constant", "rising", "falling"]


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode. Numbers with a tuple hold one value per codebook.

    steps: for "joint" the steps in all. steps_per_codebook: for "coarse_first" the steps of each codebook (empty:
    `steps` each). guidance_scale: 1 switches guidance off. temperature: of the tokens. mask_temperature: noise on the
    confidence, falling to zero over the steps. top_k: tokens kept per code. guidance_schedule: "rising" begins without
    guidance and ends with twice the scale's strength, "falling" the other way round; the mean is the same.
    drawn_codebooks: so many of the coarsest codebooks are drawn (None: all); of the finer ones the entry is taken that lies
    nearest to what the model expects, the mean of all entries by their probabilities.
    """

    steps: int = 16
    guidance_scale: PerCodebook = 5.0
    temperature: PerCodebook = 1.0
    mask_temperature: PerCodebook = 25.5
    top_k: int | tuple[int, ...] = 256
    fill_order: FillOrder = "joint"
    steps_per_codebook: tuple[int, ...] = ()
    guidance_schedule: GuidanceSchedule = "constant"
    drawn_codebooks: int | None = None

    def __post_init__(self) -> None:
        limits = {"steps": 1, "steps_per_codebook": 1, "top_k": 1, "mask_temperature": 0.0, "guidance_scale": 0.0}
        for name, lowest in limits.items():
            for value in _as_tuple(getattr(self, name)):
                if not math.isfinite(value) or value < lowest:
                    raise BadRequest(f"{name} is {value}; give a number of at least {lowest}", field=name)
        for value in _as_tuple(self.temperature):
            if not math.isfinite(value) or value <= 0:
                raise BadRequest(f"temperature is {value}; give a number above 0", field="temperature")
        if self.drawn_codebooks is not None and self.drawn_codebooks < 0:
            raise BadRequest(
                f"drawn_codebooks is {self.drawn_codebooks}; give a number of at least 0", field="drawn_codebooks"
            )

    @classmethod
    def from_defaults(cls, defaults: DecodingDefaults, **overrides: Any) -> DecodingOptions:
        """A model's own settings with some replaced; None leaves a setting as it is.

        A changed `steps` scales the steps of each codebook in the same proportion. Raises BadRequest for a setting
        that does not exist or is out of range.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        known = {field.name for field in fields(cls)}
        for name in given:
            if name not in known:
                raise BadRequest(
                    f"there is no decoding setting {name}; there are {', '.join(sorted(known))}", field=name
                )
        options = cls(**{name: getattr(defaults, name) for name in known if hasattr(defaults, name)})
        if "steps" in given and "steps_per_codebook" not in given:
            scale = given["steps"] / defaults.steps
            scaled = tuple(max(1, round(steps * scale)) for steps in defaults.steps_per_codebook)
            options = replace(options, steps_per_codebook=scaled)
        return replace(options, **given)


@dataclass(frozen=True)
class CodebookSettings:
    """The options as one value per codebook. entries: [K, V, latent], what the tokens stand for. drawn: whether a token is
    drawn, or the one that is nearest to what is expected."""

    guidance: Tensor
    temperature: Tensor
    mask_temperature: Tensor
    top_k: tuple[int, ...]
    entries: Tensor
    drawn: tuple[bool, ...]

    @property
    def guided(self) -> bool:
        return bool((self.guidance != 1.0).any())

    def guidance_at(self, kind: GuidanceSchedule, step: int, steps: int) -> Tensor:
        """The scale of each codebook at `step` (from 0) of `steps`. 1 is no guidance, so what is scaled is the rest."""
        if kind == "constant" or steps == 1:
            return self.guidance
        share = step / (steps - 1)
        return 1.0 + (self.guidance - 1.0) * 2.0 * (share if kind == "rising" else 1.0 - share)

    @classmethod
    def of(cls, options: DecodingOptions, entries: Tensor) -> CodebookSettings:
        """entries: [K, V, latent] of the codebooks, on the device that codes are chosen on."""
        codebooks = len(entries)

        def spread(name: str) -> tuple[float, ...]:
            values = _as_tuple(getattr(options, name))
            if len(values) == 1:
                return values * codebooks
            if len(values) != codebooks:
                raise BadRequest(
                    f"{name} has {len(values)} values; give one, or {codebooks} (one per codebook)", field=name
                )
            return values

        def tensor(name: str) -> Tensor:
            return torch.tensor(spread(name), dtype=torch.float32, device=entries.device)

        top_k = tuple(int(value) for value in spread("top_k"))
        drawn = codebooks if options.drawn_codebooks is None else options.drawn_codebooks
        return cls(
            guidance=tensor("guidance_scale"),
            temperature=tensor("temperature"),
            mask_temperature=tensor("mask_temperature"),
            top_k=top_k,
            entries=entries.float(),
            drawn=tuple(book < drawn for book in range(codebooks)),
        )

    def of_codebooks(self, part: slice) -> CodebookSettings:
        """Those of some codebooks."""
        return CodebookSettings(**{field.name: getattr(self, field.name)[part] for field in fields(self)})


def choose_tokens(logits: Tensor, book: Tensor, uniform: Tensor, settings: CodebookSettings) -> tuple[Tensor, Tensor]:
    """Tokens [M] and their probabilities [M] float32 from logits [M, V] of slots of codebooks `book` [M].

    uniform: float64 [M] in [0, 1), what is drawn with.
    """
    size = logits.shape[1]
    limits = [min(value, size) for value in settings.top_k]
    likely = logits
    if min(limits) < size and len(logits):
        highest = logits.topk(max(limits), dim=1).values  # [M, k]
        which = torch.tensor(limits, device=logits.device)[book] - 1
        likely = logits.masked_fill(logits < highest.gather(1, which[:, None]), -math.inf)  # ties stay
    probabilities = torch.softmax(likely / settings.temperature[book][:, None], dim=1)
    tokens = sample_tokens(probabilities, uniform)
    for number, drawn in enumerate(settings.drawn):
        if not drawn:
            own = book == number
            tokens[own] = nearest_to_expected(logits[own], settings.entries[number])
            probabilities[own] = torch.softmax(logits[own], dim=1)
    return tokens, probabilities.gather(1, tokens[:, None])[:, 0]


def nearest_to_expected(logits: Tensor, entries: Tensor) -> Tensor:
    """Tokens [M] whose entries [V, latent] lie nearest to the mean of all by their probabilities, logits [M, V].

    Of all choices it errs least on the average, in squared distance. A draw of what a coarser codebook has left over adds
    noise of its own, and what the model knows of how loud something is drowns in it.
    """
    expected = torch.softmax(logits, dim=1) @ entries  # [M, latent]
    return (entries.square().sum(1) - 2 * expected @ entries.T).argmin(1)


def sample_tokens(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [M] from probabilities [M, V] by inverting the cumulative sum in float64 at uniform [M] in [0, 1)."""
    cumulative = probabilities.double().cumsum(1)
    total = cumulative[:, -1:]
    token = torch.searchsorted(cumulative, uniform.double()[:, None] * total, right=True)
    # Rounding may lift the product to the total: then it means the last token that can be chosen at all.
    last = torch.searchsorted(cumulative, total.contiguous())
    return torch.minimum(token, last)[:, 0]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
