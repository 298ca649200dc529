"""What the audio transformer is asked in training: which codes are hidden, how its answers are scored (reference 5.1).

A ratio is drawn for every row; its distribution is that of the official code, which draws one for the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1


class RatioDistribution(Protocol):
    """How much of the codes is hidden."""

    def quantile(self, share: Tensor) -> Tensor:
        """The ratio below which a share (float64 in [0, 1]) of the draws lies."""
        ...


@dataclass(frozen=True)
class TruncatedNormalRatio:
    """A normal distribution cut to [low, high]. Official: mean 0.55 (Llama) or 0.75 (Gemma), std 0.25, 0.5 to 1."""

    mean: float = 0.55
    std: float = 0.25
    low: float = 0.5
    high: float = 1.0

    def quantile(self, share: Tensor) -> Tensor:
        """Exact inverse of :meth:`cdf`."""
        below, above = self._normal(self.low), self._normal(self.high)
        score = torch.special.ndtri(below + share.double() * (above - below))
        return (self.mean + self.std * score).clamp(self.low, self.high)

    def cdf(self, ratio: Tensor) -> Tensor:
        """The share (float64 in [0, 1]) of the draws that lies below a ratio."""
        below, above = self._normal(self.low), self._normal(self.high)
        score = torch.special.ndtr((ratio.double() - self.mean) / self.std)
        return ((score - below) / (above - below)).clamp(0.0, 1.0)

    def _normal(self, value: float) -> float:
        return 0.5 * (1.0 + math.erf((value - self.mean) / self.std / math.sqrt(2.0)))


@dataclass(frozen=True)
class CosineRatio:
    """The ratios that decoding with a cosine schedule meets, each step equally often: cos(pi u / 2)."""

    def quantile(self, share: Tensor) -> Tensor:
        """See :class:`RatioDistribution`."""
        return torch.sin(share.double() * math.pi / 2)


@dataclass(frozen=True)
class OftenHigh:
    """`rest`, but a `share` of the draws is uniform in [low, 1]: early steps, where the condition decides."""

    rest: RatioDistribution
    share: float = 0.5
    low: float = 0.97

    def quantile(self, share: Tensor) -> Tensor:
        """A draw, not an ordered quantile: shares below `share` go to [low, 1]."""
        share = share.double()
        high = self.low + (1.0 - self.low) * share / max(self.share, 1e-12)
        rest = self.rest.quantile(((share - self.share) / max(1.0 - self.share, 1e-12)).clamp(0.0, 1.0))
        return torch.where(share < self.share, high, rest)


@dataclass(frozen=True)
class MaskedCodes:
    """One training question.

    codes: [B, K, T] int64 with the mask token at hidden places. targets: [B, k, T] int64, IGNORED where nothing is
    asked; k = K, or 1 when each row asks for one codebook only, which `codebooks` [B] names.
    """

    codes: Tensor
    targets: Tensor
    codebooks: Tensor | None = None


def mask_joint(codes: Tensor, *, mask_token: int, ratio: RatioDistribution, generator: torch.Generator) -> MaskedCodes:
    """Hide each code [B, K, T] with the probability drawn for its row, and ask for all hidden ones."""
    ratios = draw_ratios(len(codes), ratio=ratio, generator=generator, device=codes.device)
    hidden = _uniform(codes.shape, generator, codes.device) < ratios[:, None, None]
    return MaskedCodes(codes.masked_fill(hidden, mask_token), codes.masked_fill(~hidden, IGNORED))


def mask_coarse_first(
    codes: Tensor,
    *,
    mask_token: int,
    ratio: RatioDistribution,
    generator: torch.Generator,
    weights: Sequence[float] | None = None,
) -> MaskedCodes:
    """Draw a codebook q for every row of `codes` [B, K, T]: coarser ones are known, finer ones hidden, q itself is
    hidden with the drawn ratio and asked for. `weights`: how often each codebook is drawn (default: equally)."""
    batch, books, frames = codes.shape
    shares = torch.tensor(weights if weights is not None else [1.0] * books, dtype=torch.float64)
    level = torch.searchsorted(
        shares.cumsum(0) / shares.sum(), _uniform((batch,), generator, torch.device("cpu")), right=True
    )
    level = level.clamp_(max=books - 1).to(codes.device)
    ratios = draw_ratios(batch, ratio=ratio, generator=generator, device=codes.device)
    hidden_here = _uniform((batch, frames), generator, codes.device) < ratios[:, None]  # [B, T]
    book = torch.arange(books, device=codes.device)[None, :, None]
    here = book == level[:, None, None]
    hidden = (book > level[:, None, None]) | (here & hidden_here[:, None])
    own = codes[torch.arange(batch, device=codes.device), level]  # [B, T]
    targets = own.masked_fill(~hidden_here, IGNORED)[:, None]
    return MaskedCodes(codes.masked_fill(hidden, mask_token), targets, level)


def draw_ratios(rows: int, *, ratio: RatioDistribution, generator: torch.Generator, device: torch.device) -> Tensor:
    """One ratio per row [B] float64."""
    return ratio.quantile(_uniform((rows,), generator, torch.device("cpu"))).to(device)


def masked_loss(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.1, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the places that are asked for (scalar; zero when nothing is).

    logits: [B, k, T, V]; targets: [B, k, T] int64 with IGNORED elsewhere. weights: [B, T] float, how much each code
    frame counts in the mean (None: all alike).
    """
    asked = targets != IGNORED
    losses = F.cross_entropy(logits[asked].float(), targets[asked], label_smoothing=label_smoothing, reduction="none")
    if weights is None:
        return losses.sum() / asked.sum().clamp(min=1)
    counts = weights[:, None, :].expand_as(targets)[asked]
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def _uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), float64, drawn where the generator lives so that a seed means the same everywhere."""
    drawn = torch.rand(tuple(shape), generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.to(device)
