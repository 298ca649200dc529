"""Residual vector quantisation that learns its codebooks by moving averages (transformers' EnCodec does not train its own).

The codebooks end in `quantizer.layers[k].codebook.embed` of the EncodecModel. Method: SoundStream, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualQuantizer(nn.Module):
    """K codebooks of V entries of D numbers. k-means on the first vectors seen, EMA afterwards, dead entries reset."""

    def __init__(self, codebooks: int, entries: int, dim: int, *, decay: float = 0.98, dead_below: float = 0.4) -> None:
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        self.register_buffer("embed", torch.zeros(codebooks, entries, dim))
        self.register_buffer("count", torch.ones(codebooks, entries))
        self.register_buffer("total", torch.zeros(codebooks, entries, dim))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.embed: Tensor
        self.count: Tensor
        self.total: Tensor
        self.ready: Tensor

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator, *, rounds: int = 12) -> None:
        """k-means, codebook after codebook, on vectors [N, D] (N at least the number of entries)."""
        residual = vectors
        entries = self.embed.shape[1]
        for level in range(self.embed.shape[0]):
            centres = residual[torch.randperm(len(residual), generator=generator)[:entries]].clone()
            for _ in range(rounds):
                nearest = nearest_entry(residual, centres)
                counts = torch.bincount(nearest, minlength=entries).unsqueeze(1)
                sums = torch.zeros_like(centres).index_add_(0, nearest, residual)
                fresh = residual[torch.randint(len(residual), (entries,), generator=generator)]
                centres = torch.where(counts > 0, sums / counts.clamp(min=1), fresh)
            nearest = nearest_entry(residual, centres)
            self.embed[level] = centres
            self.count[level] = torch.bincount(nearest, minlength=entries).float().clamp(min=1)
            self.total[level] = centres * self.count[level].unsqueeze(1)
            residual = residual - centres[nearest]
        self.ready.fill_(True)

    def codes(self, vectors: Tensor) -> Tensor:
        """Nearest entries, [N, D] -> [N, K] int64."""
        residual, found = vectors, []
        for level in range(self.embed.shape[0]):
            nearest = nearest_entry(residual, self.embed[level])
            residual = residual - self.embed[level][nearest]
            found.append(nearest)
        return torch.stack(found, dim=1)

    def forward(self, vectors: Tensor, *, levels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Quantise [N, D] with the first `levels` codebooks and learn from it when training.

        Returns the quantised vectors (gradient passed straight through) and the commitment loss.
        """
        residual = vectors.detach()
        quantised = torch.zeros_like(residual)
        commitment = torch.zeros((), device=vectors.device)
        for level in range(levels):
            nearest = nearest_entry(residual, self.embed[level])
            chosen = self.embed[level][nearest].clone()
            if self.training:
                self._learn(level, residual, nearest, generator)
            commitment = commitment + (vectors - quantised - chosen).square().mean()
            quantised = quantised + chosen
            residual = residual - chosen
        return vectors + (quantised - vectors).detach(), commitment / levels

    @torch.no_grad()
    def _learn(self, level: int, residual: Tensor, nearest: Tensor, generator: torch.Generator) -> None:
        entries = self.embed.shape[1]
        counts = torch.bincount(nearest, minlength=entries).to(self.count)
        sums = torch.zeros_like(self.embed[level]).index_add_(0, nearest, residual)
        self.count[level].lerp_(counts, 1 - self.decay)
        self.total[level].lerp_(sums, 1 - self.decay)
        dead = self.count[level] < self.dead_below
        if dead.any():
            fresh = residual[torch.randint(len(residual), (entries,), generator=generator)]
            self.total[level][dead] = fresh[dead]
            self.count[level][dead] = 1.0
        self.embed[level] = self.total[level] / self.count[level].unsqueeze(1)


def nearest_entry(vectors: Tensor, entries: Tensor) -> Tensor:
    """Index of the nearest entry by Euclidean distance: [N, D], [V, D] -> [N]."""
    return (vectors @ entries.T * 2 - entries.square().sum(1)).argmax(dim=1)
