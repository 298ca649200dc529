"""Training of the codec in four stages: codes, decoder, encoder, both.

Learning codes end to end on waveforms is slow on small machines. So the codes are learnt first, on mel spectra, where it
takes minutes (:class:`CodesStage`); then EnCodec's decoder learns to sound them (:class:`DecoderStage`), its encoder learns
to find the same latents from the wave (:class:`EncoderStage`), and at last both learn together (:class:`CodecStage`). What
comes out is one ordinary EncodecModel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import EncodecModel

from vatt_core.timing import Timing
from vatt_core.training.loop import StageOptions, TrainingStage
from vatt_core.training.quantizer import ResidualQuantizer
from vatt_core.training.spectra import MelSpectrum, MultiScaleMel, Rises

Sounds = NDArray[np.int16]
"""[clips, samples] at the codec's rate, as :class:`vatt_core.training.data.WorldClips` keeps them."""


EDGE = 6
"""Code frames at either end of a training segment."""


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer perceptron per frame. [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, *, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 3 * channels)
        self.contract = nn.Linear(3 * channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.norm(self.depthwise(hidden).transpose(1, 2))  # [B, T, C]
        return hidden + self.contract(functional.gelu(self.expand(inner))).transpose(1, 2)


class MelAutoencoder(nn.Module):
    """Mel features of each code frame -> latent -> mel features. Thrown away once the codes are learnt.

    The features of a code frame are one long-window mel spectrum and several short-window ones (where in the frame does it
    begin), as ln(mel + floor) scaled to about -1…1.
    """

    floor = 3e-4

    def __init__(self, timing: Timing, latent_dim: int, *, width: int = 160, blocks: int = 3) -> None:
        super().__init__()
        hop, rate = timing.hop_length, timing.sample_rate
        self.parts = 4
        self.long = MelSpectrum(sample_rate=rate, window=1024, hop=hop, mels=80)
        self.short = MelSpectrum(sample_rate=rate, window=hop // 2, hop=hop // self.parts, mels=20)
        size = 80 + self.parts * 20
        self.encode_in = nn.Conv1d(size, width, 3, padding=1)
        self.encoder = nn.Sequential(*[ConvNextBlock(width, kernel=5) for _ in range(blocks)])
        self.encode_out = nn.Conv1d(width, latent_dim, 1)
        self.decode_in = nn.Conv1d(latent_dim, width, 3, padding=1)
        self.decoder = nn.Sequential(*[ConvNextBlock(width, kernel=5) for _ in range(blocks)])
        self.decode_out = nn.Conv1d(width, size, 1)

    def features(self, wave: Tensor) -> Tensor:
        """[B, samples] -> [B, features, T]."""
        long = self.long(wave)
        short = self.short(wave)[..., : long.shape[-1] * self.parts]
        batch, mels, _ = short.shape
        short = (
            short.reshape(batch, mels, long.shape[-1], self.parts)
            .permute(0, 1, 3, 2)
            .reshape(batch, -1, long.shape[-1])
        )
        scaled = torch.cat([long, short], 1).add(self.floor).log()
        return (scaled + 4.5) / 3.6

    def encode(self, features: Tensor) -> Tensor:
        """[B, features, T] -> [B, latent, T]."""
        return self.encode_out(self.encoder(self.encode_in(features)))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decode_out(self.decoder(self.decode_in(latents)))


def random_segments(
    sounds: Sounds,
    *,
    batch: int,
    samples: int,
    hop: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[batch, samples] float32, cut at multiples of the hop from clips drawn at random, with a random gain of ± 3 dB."""
    clips = torch.randint(len(sounds), (batch,), generator=generator).tolist()
    last = (sounds.shape[1] - samples) // hop
    starts = (torch.randint(last + 1, (batch,), generator=generator) * hop).tolist()
    gains = 10 ** ((torch.rand(batch, 1, generator=generator) - 0.5) * 6 / 20)
    waves = [
        sounds[clip, start : start + samples].astype(np.float32) for clip, start in zip(clips, starts, strict=True)
    ]
    return (torch.from_numpy(np.stack(waves)) / 32767 * gains).to(device)


class CodesStage(TrainingStage):
    """Learn the residual codebooks on mel features: a few hundred steps unquantised, k-means, then quantised."""

    name = "codes"

    def __init__(
        self,
        sounds: Sounds,
        timing: Timing,
        latent_dim: int,
        options: StageOptions,
        *,
        batch: int = 12,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sounds, self.timing, self.options, self.batch, self.device = sounds, timing, options, batch, device
        self.unquantised_steps = min(250, options.steps // 4)
        self.autoencoder = MelAutoencoder(timing, latent_dim).to(device)
        self.quantizer = ResidualQuantizer(timing.codebooks, timing.codebook_size, latent_dim).to(device)

    def modules(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder, "quantizer": self.quantizer}

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        wave = self._segments(self.batch, generator)
        features = self.autoencoder.features(wave)
        latents = self.autoencoder.encode(features)
        commitment = latents.new_zeros(())
        if step >= self.unquantised_steps:
            vectors = latents.transpose(1, 2).flatten(0, 1)  # [B * T, D]
            if not bool(self.quantizer.ready):
                self._start(generator)
            # Some steps see only the first codebooks, so that these alone already say most.
            levels = self.timing.codebooks
            if torch.rand((), generator=generator) < 0.3:
                levels = int(torch.randint(1, levels + 1, (), generator=generator))
            quantised, commitment = self.quantizer(vectors, levels=levels, generator=generator)
            latents = quantised.reshape(latents.shape[0], -1, latents.shape[1]).transpose(1, 2)
        rebuilt = self.autoencoder.decode(latents)
        # What is loud counts more: without this, strong partials come out several dB too low.
        weight = 0.4 + (features + 1).clamp(min=0)
        difference = rebuilt - features
        loss = (weight * (difference.abs() + difference.square())).mean()
        return {
            "loss": loss + 0.25 * commitment,
            "log_mel": difference.detach().abs().mean() * 3.6,
            "commitment": commitment.detach(),
        }

    def _segments(self, batch: int, generator: torch.Generator) -> Tensor:
        hop = self.timing.hop_length
        return random_segments(
            self.sounds, batch=batch, samples=128 * hop, hop=hop, generator=generator, device=self.device
        )

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        wave = self._segments(160, generator)
        vectors = self.autoencoder.encode(self.autoencoder.features(wave)).transpose(1, 2).flatten(0, 1)
        self.quantizer.start(vectors, generator)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, D, T] before quantisation and codes [B, K, T] of waves [B, samples]."""
        latents = self.autoencoder.encode(self.autoencoder.features(wave))
        codes = self.quantizer.codes(latents.transpose(1, 2).flatten(0, 1))
        return latents, codes.reshape(latents.shape[0], -1, codes.shape[1]).transpose(1, 2)


def write_codebooks(encodec: EncodecModel, quantizer: ResidualQuantizer) -> None:
    """Put learnt codebooks into an EncodecModel."""
    with torch.no_grad():
        for level, entries in enumerate(quantizer.embed):
            codebook = f"quantizer.layers.{level}.codebook"
            for name in ("embed", "embed_avg"):
                encodec.get_buffer(f"{codebook}.{name}").copy_(entries)
            encodec.get_buffer(f"{codebook}.cluster_size").fill_(1.0)


class _EncodecStage(TrainingStage):
    """What the trainings of EnCodec's halves share. trained: which of them learn."""

    trained: tuple[str, ...]

    def __init__(
        self,
        sounds: Sounds,
        timing: Timing,
        encodec: EncodecModel,
        options: StageOptions,
        *,
        batch: int = 8,
        frames: int = 64,
    ) -> None:
        self.sounds, self.timing, self.options = sounds, timing, options
        self.encodec, self.batch, self.frames = encodec, batch, frames
        encodec.requires_grad_(False)
        for half in self.modules().values():
            half.requires_grad_(True)
        self.device = next(encodec.parameters()).device
        self.distance = MultiScaleMel(sample_rate=timing.sample_rate).to(self.device)

    def modules(self) -> dict[str, nn.Module]:
        return {name: self.encodec.get_submodule(name) for name in self.trained}

    def _segments(self, generator: torch.Generator) -> Tensor:
        """Waves [B, (EDGE + frames + EDGE) * hop]. The edges are not judged: what lies before and after is missing there."""
        hop = self.timing.hop_length
        samples = (self.frames + 2 * EDGE) * hop
        return random_segments(
            self.sounds, batch=self.batch, samples=samples, hop=hop, generator=generator, device=self.device
        )

    def _inner(self, wave: Tensor) -> Tensor:
        """Without the edges."""
        return wave[..., EDGE * self.timing.hop_length : -EDGE * self.timing.hop_length]

    def _spectral_losses(self, made: Tensor, wave: Tensor) -> dict[str, Tensor]:
        """Of waves [B, samples] without edges: the loss, by spectra alone, and its figures."""
        distance = self.distance(made, wave)
        # No mel band reaches down to a constant offset, so it needs a word of its own.
        slow = functional.avg_pool1d((made - wave)[:, None], self.timing.sample_rate // 10)
        offset = slow.abs().mean()
        made_power, power = (one.square().mean(1).clamp(min=1e-7) for one in (made.detach(), wave))
        return {
            "loss": distance["log"] + distance["linear"] + 0.5 * distance["energy"] + 10 * offset,
            **{name: value.detach() for name, value in distance.items()},
            "level_db": 10 * torch.log10(made_power / power).mean(),
            "offset": offset.detach(),
        }


Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Waves -> latents and codes, of :class:`CodesStage`."""


class _HalfStage(_EncodecStage):
    """One half, taught by what :class:`CodesStage` makes of the waves."""

    def __init__(
        self, sounds: Sounds, timing: Timing, encodec: EncodecModel, encode: Encode, options: StageOptions
    ) -> None:
        super().__init__(sounds, timing, encodec, options)
        self.encode = encode


class DecoderStage(_HalfStage):
    """EnCodec's decoder learns to sound the frozen codes, by spectral losses alone (the codes carry no phase)."""

    name = "decoder"
    trained = ("decoder",)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        wave = self._segments(generator)
        _, codes = self.encode(wave)
        made = self.encodec.decoder(self.encodec.quantizer.decode(codes.transpose(0, 1)))[:, 0]
        return self._spectral_losses(self._inner(made), self._inner(wave))


class EncoderStage(_HalfStage):
    """EnCodec's encoder learns, from the wave, the latents that the codes were made of."""

    name = "encoder"
    trained = ("encoder",)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        wave = self._segments(generator)
        latents, codes = self.encode(wave)
        found = self.encodec.encoder(wave[:, None])  # [B, D, T]
        inner = slice(EDGE, EDGE + self.frames)
        scale = latents.square().mean()
        loss = (found - latents)[..., inner].square().mean() / scale
        with torch.no_grad():
            embed = self.encodec.get_buffer("quantizer.layers.0.codebook.embed")
            distances = torch.cdist(found.transpose(1, 2), embed[None])
            agreement = (distances.argmin(-1) == codes[:, 0])[:, inner].float().mean()
        return {"loss": loss, "first_codebook_agreement": agreement}


class CodecStage(_EncodecStage):
    """Both halves together, through codebooks that stay: the encoder learns which codes sound most like the wave.

    The latents of :class:`CodesStage` hold what is loudest. Of a bird over an engine they keep the engine, and no decoder
    can bring the bird back. A loss on what begins to sound asks for it.
    """

    name = "codec"
    trained = ("encoder", "decoder")

    def __init__(self, sounds: Sounds, timing: Timing, encodec: EncodecModel, options: StageOptions) -> None:
        super().__init__(sounds, timing, encodec, options)
        self.rises = Rises(sample_rate=timing.sample_rate).to(self.device)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        wave = self._segments(generator)
        latents = self.encodec.encoder(wave[:, None])  # [B, D, T]
        with torch.no_grad():
            codes = self.encodec.quantizer.encode(latents, self.encodec.config.target_bandwidths[-1])
            quantised = self.encodec.quantizer.decode(codes)
        # Straight through: the gradient of what was quantised is the gradient of the latents.
        made = self.encodec.decoder(latents + (quantised - latents).detach())[:, 0]
        figures = self._spectral_losses(self._inner(made), self._inner(wave))
        rises = self.rises(self._inner(made), self._inner(wave))
        commitment = (latents - quantised)[..., EDGE:-EDGE].square().mean() / quantised.square().mean().clamp(min=1e-8)
        figures["loss"] = figures["loss"] + 0.3 * rises + 0.1 * commitment
        return figures | {"rises": rises.detach(), "commitment": commitment.detach()}
