"""The masked-token audio transformer: which code stands where, given video and text states (reference 3 and 4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt_core.errors import BadModel
from vatt_core.model.configuration import AudioTransformerConfig, TokenOrder
from vatt_core.model.layers import (
    AlibiBias,
    Attention,
    FeedForward,
    initialise_linear,
    sin_cos_positions,
)
from vatt_core.timing import Timing


def order_logits(logits: Tensor, token_order: TokenOrder) -> Tensor:
    """Logits by (head, position) [B, K, T, V] -> logits by (codebook, time) [B, K, T, V] (reference 4).

    The released weights learnt a fixed permutation: slot m = head * T + position answers for the code at
    time m div K of codebook m mod K. Models trained here have head k at position t answer for code (k, t).
    """
    if token_order == "aligned":
        return logits
    batch, heads, positions, size = logits.shape
    by_slot = logits.reshape(batch, heads * positions, size)
    return by_slot.view(batch, positions, heads, size).transpose(1, 2)


class ConditionAudioNorm(nn.Module):
    """Two layer norms: one for the condition slots (before `split`), one for the audio slots, which come out apart."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.condition = nn.LayerNorm(dim)
        self.audio = nn.LayerNorm(dim)

    def forward(self, x: Tensor, split: int) -> tuple[Tensor, Tensor]:
        """x [B, N, dim] -> [B, split, dim] and [B, N - split, dim]."""
        return self.condition(x[:, :split]), self.audio(x[:, split:])


class EncoderBlock(nn.Module):
    """Attention shared by both modalities and a feed-forward for each. The norms belong to the encoder."""

    def __init__(self, config: AudioTransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.encoder_heads, config.dim_head, dropout=config.dropout)
        self.condition_feed_forward = FeedForward(config.dim, dropout=config.dropout)
        self.audio_feed_forward = FeedForward(config.dim, dropout=config.dropout)

    def forward(self, x: Tensor, norm: ConditionAudioNorm, bias: Tensor, keep: Tensor | None, split: int) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]. bias and keep: see `Attention.forward`; split: the number of condition slots."""
        x = x + self.attention(torch.cat(norm(x, split), dim=1), bias, keep)
        condition, audio = norm(x, split)
        return x + torch.cat([self.condition_feed_forward(condition), self.audio_feed_forward(audio)], dim=1)


class Encoder(nn.Module):
    """Multiway encoder. One pair of norms serves every sub-layer and the end (reference 3.2)."""

    def __init__(self, config: AudioTransformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.norm = ConditionAudioNorm(config.dim)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_layers))

    def forward(self, x: Tensor, bias: Tensor, keep: Tensor | None, *, split: int) -> Tensor:
        """x [B, N, dim], split = number of condition slots -> [B, N, dim]."""
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, self.norm, bias, keep, split)
        return torch.cat(self.norm(x, split), dim=1)


class DecoderBlock(nn.Module):
    """Attention and feed-forward, each with a norm of its own before it."""

    def __init__(self, config: AudioTransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.decoder_heads, config.dim_head, dropout=config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, dropout=config.dropout)

    def forward(self, x: Tensor, bias: Tensor, keep: Tensor | None, *, first: int = 0) -> Tensor:
        """x [B, N, dim] -> [B, N - first, dim]. bias and keep: see `Attention.forward`."""
        x = x[:, first:] + self.attention(self.attention_norm(x), bias, keep, first=first)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Decoder(nn.Module):
    """Plain pre-norm stack over condition and audio slots, bidirectional (reference 3.6)."""

    def __init__(self, config: AudioTransformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, bias: Tensor, keep: Tensor | None, *, first: int = 0) -> Tensor:
        """x [B, N, dim] -> [B, N - first, dim]: the last layer computes only the slots from `first` on."""
        x = self.dropout(x)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x, bias, keep, first=first if number == last else 0)
        return self.norm(x if self.blocks else x[:, first:])


class VideoPlaces(nn.Module):
    """What a video token says of each of its code frames, beyond what it says of all: U (V h * p) for place p of the token.

    Without it the instant within a token can only be told from how the tokens around differ.
    """

    def __init__(self, condition_dim: int, dim: int, *, places: int, rank: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(condition_dim, rank, bias=False)
        self.places = nn.Parameter(torch.empty(places, rank))
        self.widen = nn.Linear(rank, dim, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """states [B, V, condition_dim] -> [B, V * places, dim]."""
        return self.widen(self.narrow(states)[:, :, None] * self.places).flatten(1, 2)


class CodeHeads(nn.Module):
    """One linear classifier per codebook, kept as one weight [K, V, dim]."""

    def __init__(self, codebooks: int, size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codebooks, size, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, dim] -> logits [B, K, T, V]."""
        books, size, dim = self.weight.shape
        logits = F.linear(x, self.weight.view(books * size, dim))  # [B, T, K * V]
        return logits.view(*x.shape[:2], books, size).transpose(1, 2)

    def some(self, x: Tensor, codebooks: slice) -> Tensor:
        """The logits [B, k, T, V] of the k heads named by `codebooks`."""
        weight = self.weight[codebooks]
        logits = F.linear(x, weight.reshape(-1, weight.shape[-1]))
        return logits.view(*x.shape[:2], *weight.shape[:2]).transpose(1, 2)

    def one_per_row(self, x: Tensor, codebook: Tensor) -> Tensor:
        """The logits [B, 1, T, V] of head codebook[b] for row b."""
        return torch.matmul(x, self.weight[codebook].transpose(1, 2))[:, None]


class AudioTransformer(nn.Module):
    """Predicts masked codes from known codes and the converter's states.

    Sizes come from `config` and `timing` alone. The codebooks [K, V, latent] are those of the codec: they are saved
    with the model but not trained unless somebody asks for their gradient.
    """

    def __init__(self, config: AudioTransformerConfig, timing: Timing) -> None:
        super().__init__()
        if config.dim % 2:
            raise BadModel(f"the audio transformer's dim is {config.dim}; choose an even one", dim=config.dim)
        self.config = config
        self.timing = timing
        books, size, dim = timing.codebooks, timing.codebook_size, config.dim
        self.codebooks = nn.Parameter(torch.empty(books, size, config.latent_dim), requires_grad=False)
        self.mask_vectors = nn.Parameter(torch.empty(books, config.latent_dim))
        self.latent_projection = nn.Linear(config.latent_dim, dim)
        self.condition_projection = nn.Linear(config.condition_dim, dim)
        self.video_projection = nn.Linear(config.condition_dim, dim, bias=False) if config.video_to_audio else None
        self.video_places = None
        if config.video_place_rank:
            self.video_places = VideoPlaces(
                config.condition_dim, dim, places=timing.codes_per_video_token, rank=config.video_place_rank
            )
        self.condition_modality = nn.Parameter(torch.empty(dim))
        self.audio_modality = nn.Parameter(torch.empty(dim))
        self.positions: Tensor
        self.register_buffer("positions", self.position_table(config, timing))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.heads = CodeHeads(books, size, dim)
        self.encoder_bias = AlibiBias(config.encoder_heads)
        same = config.decoder_heads == config.encoder_heads
        self.decoder_bias = self.encoder_bias if same else AlibiBias(config.decoder_heads)
        self._more_positions: Tensor | None = None
        self.initialise()

    @staticmethod
    def position_table(config: AudioTransformerConfig, timing: Timing) -> Tensor:
        """The positions [visual positions + T of a window, dim] that the model keeps."""
        return sin_cos_positions(config.visual_positions + timing.code_frames, config.dim)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew (reference 3.10). The codebooks are noise until those of a codec are copied in."""
        config = self.config
        nn.init.normal_(self.codebooks, generator=generator)
        nn.init.normal_(self.mask_vectors, generator=generator)
        nn.init.normal_(self.condition_modality, std=0.02, generator=generator)
        nn.init.normal_(self.audio_modality, std=0.02, generator=generator)
        projections = [self.latent_projection, self.condition_projection, self.video_projection]
        if self.video_places is not None:
            nn.init.normal_(self.video_places.places, generator=generator)
            projections += [self.video_places.narrow, self.video_places.widen]
        for linear in [one for one in projections if one is not None]:
            bound = 1.0 / math.sqrt(linear.in_features)
            nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
            if linear.bias is not None:
                nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
        bound = 1.0 / math.sqrt(config.dim)
        nn.init.uniform_(self.heads.weight, -bound, bound, generator=generator)
        for stack in (self.encoder, self.decoder):
            for name, linear in stack.named_modules():  # blocks.NUMBER.PART.LAYER
                if isinstance(linear, nn.Linear):
                    _, number, part, _ = name.split(".")
                    sub_layer = 2 * int(number) + part.endswith("feed_forward")
                    initialise_linear(linear, sub_layer=sub_layer, generator=generator)
        for norm in self.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.reset_parameters()

    def forward(
        self,
        codes: Tensor,
        states: Tensor,
        pad_mask: Tensor,
        *,
        drop_condition: Tensor | None = None,
        codebooks: slice | Tensor | None = None,
    ) -> Tensor:
        """Logits of every code.

        codes: [B, K, T] int64, `timing.mask` where undecided; T is free. states: [B, S, condition_dim] float; S is
        free. pad_mask: [B, S], non-zero = keep. drop_condition: [B] bool, True replaces the row's projected states by
        zeros (the null condition). codebooks: None for all; a slice for some; [B] int64 for one per row.
        Returns [B, K, T, V] (K: the number of codebooks asked for), ordered by (codebook, time).
        """
        slots = states.shape[1]
        if codes.shape[1] != self.timing.codebooks:
            raise ValueError(f"codes have {codes.shape[1]} codebooks; this model has {self.timing.codebooks}")
        x = torch.cat(self.embed(codes, states, drop_condition=drop_condition), dim=1)
        encoder_bias, decoder_bias, keep = self.attention_inputs(pad_mask, codes.shape[2], x)
        x = self.encoder(x, encoder_bias, keep, split=slots)
        x = self.decoder(x, decoder_bias, keep, first=slots)  # [B, T, dim]
        return self._logits(x, codebooks)

    def embed(self, codes: Tensor, states: Tensor, *, drop_condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What enters the encoder: condition slots [B, S, dim] and audio slots [B, T, dim] (reference 3.4)."""
        slots, frames = states.shape[1], codes.shape[2]
        states = states.to(self.condition_projection.weight.dtype)
        condition = self.condition_projection(states)
        audio = self.latent_projection(self.embed_codes(codes))
        shown = None if drop_condition is None else (~drop_condition)[:, None, None].to(condition.dtype)
        video = self._video_at_codes(states[:, : self.timing.video_tokens], frames)
        if video is not None:
            audio = audio + (video if shown is None else video * shown)
        if shown is not None:  # times zero, not left out: every parameter takes part in every step (DDP)
            condition = condition * shown
        positions = self._positions(slots + frames).to(condition.dtype)  # [S + T, dim]
        condition = condition + positions[:slots] + self.condition_modality
        audio = audio + positions[slots:] + self.audio_modality
        return condition, audio

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Sum over the codebooks of their entries' vectors [B, T, latent]; masked codes have vectors of their own."""
        books, size, latent = self.codebooks.shape
        table = torch.cat([self.codebooks, self.mask_vectors[:, None]], dim=1)  # [K, V + 1, latent]
        rows = torch.arange(books, device=codes.device)[:, None] * (size + 1)
        return F.embedding(codes + rows, table.view(-1, latent)).sum(dim=1)

    def attention_inputs(self, pad_mask: Tensor, frames: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encoder bias, decoder bias ([1 or B, heads, N, N]) and keep mask ([B, N], None when nothing is padded)."""
        device = x.device
        autocast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else x.dtype
        present = pad_mask > 0  # asked where the mask lies: on the CPU that needs no waiting for a GPU
        if bool(present.all()):
            length = pad_mask.shape[1] + frames
            biases = [bias(length, device=device, dtype=dtype)[None] for bias in (self.encoder_bias, self.decoder_bias)]
            return biases[0], biases[1], None
        keep = F.pad(present.to(device), (0, frames), value=True)
        encoder_bias = self.encoder_bias.with_keys(keep, dtype=dtype)
        if self.decoder_bias is self.encoder_bias:
            return encoder_bias, encoder_bias, keep
        return encoder_bias, self.decoder_bias.with_keys(keep, dtype=dtype), keep

    def _logits(self, x: Tensor, codebooks: slice | Tensor | None) -> Tensor:
        """x [B, T, dim] -> [B, k, T, V]."""
        if codebooks is None:
            return order_logits(self.heads(x), self.config.token_order)
        if self.config.token_order == "aligned":
            if isinstance(codebooks, slice):
                return self.heads.some(x, codebooks)
            return self.heads.one_per_row(x, codebooks)
        # In the legacy order every head answers for every codebook: there is nothing to save.
        logits = order_logits(self.heads(x), self.config.token_order)
        if isinstance(codebooks, slice):
            return logits[:, codebooks]
        return logits[torch.arange(len(codebooks), device=logits.device), codebooks][:, None]

    def _positions(self, rows: int) -> Tensor:
        """Positions [rows, dim], computed where the table ends."""
        table = self.positions
        if rows <= table.shape[0]:
            return table[:rows]
        more = self._more_positions
        if more is None or more.shape[0] < rows or more.device != table.device:
            more = sin_cos_positions(rows, table.shape[1]).to(table)
            more[: table.shape[0]] = table
            self._more_positions = more
        return more[:rows]

    def _video_at_codes(self, states: Tensor, frames: int) -> Tensor | None:
        """Video states [B, V, condition_dim] -> [B, T, dim], None where the model adds no video to its audio slots.

        Each code frame gets its token; past the window the last token holds.
        """
        if self.video_projection is None:
            return None
        each = self.timing.codes_per_video_token
        frame = torch.arange(frames, device=states.device)
        token = (frame // each).clamp_(max=states.shape[1] - 1)
        video = self.video_projection(states)[:, token]
        if self.video_places is not None:
            video = video + self.video_places(states)[:, token * each + frame % each]
        return video
