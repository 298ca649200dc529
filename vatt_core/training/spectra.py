"""Mel spectra as torch modules: the features that codes are learnt from, and the losses of the codec's decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def mel_filters(sample_rate: int, window: int, mels: int) -> Tensor:
    """Triangular filters on the HTK mel scale (2595 log10(1 + f / 700)), each with unit sum. Returns [mels, window // 2 + 1]."""
    bins = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    # A filter narrower than one bin may miss every bin: it then takes the nearest one.
    empty = filters.sum(1) == 0
    nearest = (bins[None] - edges[1:-1, None]).abs().argmin(1)
    filters[empty, nearest[empty]] = 1.0
    return (filters / filters.sum(1, keepdim=True)).float()


class MelSpectrum(nn.Module):
    """Mel magnitudes of a wave: [B, samples] -> [B, mels, frames], frame i centred at i * hop + hop / 2."""

    def __init__(self, *, sample_rate: int, window: int, hop: int, mels: int) -> None:
        super().__init__()
        self.window, self.hop = window, hop
        hann = torch.hann_window(window)
        self.register_buffer("hann", hann / hann.sum() * 2, persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, window, mels), persistent=False)
        self.hann: Tensor
        self.filters: Tensor

    def forward(self, wave: Tensor) -> Tensor:
        frames = wave.shape[-1] // self.hop
        left = (self.window - self.hop) // 2
        right = frames * self.hop - wave.shape[-1] + self.window - self.hop - left
        padded = functional.pad(wave, (left, max(0, right)))
        spectrum = torch.stft(
            padded, self.window, self.hop, window=self.hann, center=False, return_complex=True
        )  # [B, window // 2 + 1, frames]
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-14)
        return torch.matmul(self.filters, magnitude[..., :frames])


class MultiScaleMel(nn.Module):
    """Spectral distances over several window lengths. `scales`: (window, mels) pairs, hop = window / 4."""

    def __init__(
        self,
        *,
        sample_rate: int,
        scales: tuple[tuple[int, int], ...] = ((64, 8), (128, 16), (256, 24), (512, 40), (1024, 64), (2048, 96)),
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.spectra = nn.ModuleList(
            MelSpectrum(sample_rate=sample_rate, window=window, hop=window // 4, mels=mels) for window, mels in scales
        )

    def forward(self, wave: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Three distances of [B, samples] waves, each a mean over the scales.

        log: mean |ln mel - ln target| with magnitudes clamped at the floor. linear: spectral convergence
        (Frobenius norm of the difference over that of the target). energy: the same logarithm on the mean power of each
        band over about 100 ms, weighted by where the target's energy is; it pulls the level of strong partials up.
        """
        log = linear = energy = torch.zeros((), device=wave.device)
        for spectrum in self.spectra:
            mine, theirs = spectrum(wave), spectrum(target)
            log = log + (mine.clamp(min=self.floor).log() - theirs.clamp(min=self.floor).log()).abs().mean()
            norm = theirs.square().sum((1, 2)).clamp(min=1e-6)
            linear = linear + ((mine - theirs).square().sum((1, 2)) / norm).clamp(min=1e-12).sqrt().mean()
            width = max(1, min(mine.shape[-1], round(1600 / spectrum.hop)))  # type: ignore[arg-type, operator]
            mine_power = functional.avg_pool1d(mine.square(), width) + 1e-9
            their_power = functional.avg_pool1d(theirs.square(), width) + 1e-9
            weight = their_power.sqrt()
            weight = weight / weight.mean((1, 2), keepdim=True)
            energy = energy + (weight * 0.5 * (mine_power.log() - their_power.log()).abs()).mean()
        count = len(self.spectra)
        return {"log": log / count, "linear": linear / count, "energy": energy / count}


class Rises(nn.Module):
    """How much of what begins to sound is missing: where a mel band of the target rises within 20 ms by `least` or more
    (natural logarithm), the mean difference of the two rises."""

    lag = 4

    def __init__(self, *, sample_rate: int, least: float = 0.8, floor: float = 1e-4) -> None:
        super().__init__()
        self.least, self.floor = least, floor
        self.spectrum = MelSpectrum(sample_rate=sample_rate, window=512, hop=sample_rate // 200, mels=48)

    def _rises(self, wave: Tensor) -> Tensor:
        level = self.spectrum(wave).clamp(min=self.floor).log()
        return functional.relu(level[..., self.lag :] - level[..., : -self.lag])

    def forward(self, wave: Tensor, target: Tensor) -> Tensor:
        """[B, samples] each -> a scalar; 0 where nothing begins."""
        mine, theirs = self._rises(wave), self._rises(target)
        begins = (theirs > self.least).float()
        return (begins * (mine - theirs).abs()).sum() / begins.sum().clamp(min=1)
