"""Parts of the audio transformer: ALiBi, sin-cos positions, attention, feed-forward (reference 3.4 to 3.8)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt_core.model.products import multiplies_fast

# CUDA kernels read the attention bias in vectors of this many numbers; rows that start elsewhere would be copied.
_ALIGNMENT = 16

_CLEAR_OF_ZERO = 2.0**24
"""Weights of far keys come near the smallest number of float32. Their products with values below 1 would lie under it,
where a processor takes a hundred times as long. Values times a power of two, results divided by it, are the same numbers."""


def alibi_slopes(heads: int) -> list[float]:
    """One slope per head: a geometric row for powers of two, else that of the next smaller power of two followed by
    every second slope of the next larger one (reference 3.7)."""
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    if power == heads:
        return slopes
    return slopes + alibi_slopes(2 * power)[0::2][: heads - power]


def sin_cos_positions(rows: int, dim: int) -> Tensor:
    """Fixed positions [rows, dim] float32: sines in the first half, cosines in the second (reference 3.4)."""
    half = dim // 2
    rates = 1.0 / 10000 ** (torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(rows, dtype=torch.float32)[:, None] * rates  # [rows, half]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class AlibiBias(nn.Module):
    """`-slope * |i - j|` per head, built once for the largest length seen; a shorter sequence reads a corner of it."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.slopes = alibi_slopes(heads)
        self._built: Tensor | None = None

    def forward(self, length: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The bias [heads, length, length] in `dtype`; a view, not to be written to."""
        built = self._built
        if built is None or built.shape[-1] < length or built.device != device or built.dtype != dtype:
            size = -(-max(length, 0 if built is None else built.shape[-1]) // _ALIGNMENT) * _ALIGNMENT
            index = torch.arange(size, device=device, dtype=torch.float32)
            distance = (index[None, :] - index[:, None]).abs()
            slopes = torch.tensor(self.slopes, device=device, dtype=torch.float32)
            built = (-slopes[:, None, None] * distance).to(dtype)
            self._built = built
        return built[:, :length, :length]

    def with_keys(self, keep: Tensor, *, dtype: torch.dtype) -> Tensor:
        """The bias [B, heads, N, N] that also forbids the keys where `keep` [B, N] is False."""
        length = keep.shape[1]
        bias = self(length, device=keep.device, dtype=dtype)
        padded = -(-length // _ALIGNMENT) * _ALIGNMENT
        combined = bias.new_empty(keep.shape[0], bias.shape[0], length, padded)[..., :length]
        forbidden = torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill_(~keep, -math.inf)
        return torch.add(bias, forbidden[:, None, None, :], out=combined)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, *, dropout: float) -> Tensor:
    """softmax(query key^T / sqrt(dim_head) + bias) value, all [B, heads, N, dim_head].

    The fused kernel is slow in bfloat16 on the CPU, its backward most of all: there three plain operations take half the
    time. They round the scores too, which is not seen in the logits (at full size they differ from those of float32 by
    0.0073 either way). A processor that has to widen its products does better with the kernel.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        if query.requires_grad:
            return _plain_attention(query, key, value, bias, dropout)
        if multiplies_fast(query.dtype):  # row by row: the scores of all would take ten times what everything else does
            biases = bias.expand(len(query), -1, -1, -1).split(1)
            rows = zip(query.split(1), key.split(1), value.split(1), biases, strict=True)
            return torch.cat([_plain_attention(*row, dropout) for row in rows])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float) -> Tensor:
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    scores += bias
    return torch.matmul(F.dropout(scores.softmax(-1), dropout), value)


class Attention(nn.Module):
    """Bidirectional attention without biases; its scores take an additive bias, its masked rows come out as zero."""

    def __init__(self, dim: int, heads: int, dim_head: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.output = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor, keep: Tensor | None, *, first: int = 0) -> Tensor:
        """x [B, N, dim], bias [1 or B, heads, N, N], keep [B, N] or None (everything) -> [B, N - first, dim].

        Only the slots from `first` on ask; all slots are looked at.
        """
        own = x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        mixed = (self._apart(x) if own else self.query_key_value(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in mixed.unbind(2))  # each [B, heads, N, dim_head]
        if first:
            query, bias = query[:, :, first:], bias[:, :, first:]
        dropout = self.dropout if self.training else 0.0
        scale = _CLEAR_OF_ZERO if own and x.dtype == torch.float32 else 1.0
        if scale != 1.0:
            value.mul_(scale)
        seen = attend(query, key, value, bias.to(query.dtype), dropout=dropout)
        if scale != 1.0:
            seen.div_(scale)
        result = self.output(seen.transpose(1, 2).flatten(2))  # [B, N - first, dim]
        if keep is None:
            return result
        return result * keep[:, first:, None].to(result.dtype)

    def _apart(self, x: Tensor) -> Tensor:
        """Queries, keys and values of x [B, N, dim] side by side, [B, N, 3 * heads * dim_head], with room between the rows.

        A head reads a few numbers of every row. Rows that begin a multiple of 4096 bytes apart drive each other out of
        the processor's cache.
        """
        weight = self.query_key_value.weight
        width = len(weight)
        rows = x.new_empty(x.shape[0] * x.shape[1], width + _ALIGNMENT)[:, :width]
        torch.mm(x.flatten(0, 1), weight.t(), out=rows)
        return rows.unflatten(0, x.shape[:2])


class FeedForward(nn.Module):
    """dim -> 4 dim -> dim with exact GELU, without biases."""

    def __init__(self, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim, bias=False)
        self.contract = nn.Linear(4 * dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]."""
        wide = self.expand(x)
        # Without gradients the widest result of all need not be there twice.
        wide = F.gelu(wide) if torch.is_grad_enabled() else torch.ops.aten.gelu_(wide)
        return self.contract(self.dropout(wide))


def initialise_linear(linear: nn.Linear, *, sub_layer: int, generator: torch.Generator | None) -> None:
    """Truncated normal that shrinks with the depth, cut at three standard deviations (reference 3.10).

    `sub_layer` counts attention and feed-forward separately from the bottom of the stack.
    """
    std = 1.0 / math.sqrt(linear.in_features) / math.sqrt(2.0 * (sub_layer + 1))
    nn.init.trunc_normal_(linear.weight, std=std, a=-3 * std, b=3 * std, generator=generator)
