"""The audio transformer at sizes that were not recorded, against reference 3 and 4 word for word: one row, one head, one slot at
a time, from tensors by their official names."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.official_names import official_places
from vatt_core.timing import Timing

Tensors = dict[str, Tensor]
DIM, DIM_HEAD = 24, 8


def slopes(heads: int) -> list[float]:
    def even(count: int) -> list[float]:
        return [2 ** (-8 * (number + 1) / count) for number in range(count)]

    below = 1
    while below * 2 <= heads:
        below *= 2
    return even(below) + even(2 * below)[0::2][: heads - below]


def norm(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * tensors[f"{name}weight"] + tensors[f"{name}bias"]


def attention(x: Tensor, tensors: Tensors, name: str, heads: int, keep: Tensor) -> Tensor:
    length = len(x)
    place = torch.arange(length, dtype=x.dtype)
    query, key, value = (x @ tensors[f"{name}to_{letter}.weight"].T for letter in "qkv")
    seen = []
    for head, slope in enumerate(slopes(heads)):
        own = slice(head * DIM_HEAD, (head + 1) * DIM_HEAD)
        rows = []
        for slot in range(length):
            scores = key[:, own] @ query[slot, own] / math.sqrt(DIM_HEAD) - slope * (place - slot).abs()
            weights = torch.where(keep, scores.exp(), torch.zeros(()))
            rows.append(weights @ value[:, own] / weights.sum())
        seen.append(torch.stack(rows))
    return (torch.cat(seen, 1) @ tensors[f"{name}to_out.weight"].T) * keep[:, None]


def feed_forward(x: Tensor, tensors: Tensors, name: str) -> Tensor:
    return functional.gelu(x @ tensors[f"{name}ff.0.0.weight"].T) @ tensors[f"{name}ff.2.weight"].T


def by_the_reference(
    tensors: Tensors,
    books: Tensor,
    config: AudioTransformerConfig,
    codes: Tensor,
    states: Tensor,
    pad: Tensor,
    drop: bool,
) -> Tensor:
    """Logits [K, T, V] of one row: codes [K, T], states [S, H], pad [S]."""
    (count, frames), slots = codes.shape, len(states)
    condition = states @ tensors["img_linear.weight"].T + tensors["img_linear.bias"]
    if drop:
        condition = torch.zeros_like(condition)
    latent = torch.zeros(frames, books.shape[2], dtype=states.dtype)
    for book in range(count):
        latent += torch.cat([books[book], tensors["embedding.special.MASK"][book][None]])[codes[book]]
    audio = latent @ tensors["embedding.out_proj.weight"].T + tensors["embedding.out_proj.bias"]
    places = tensors["pos_embed"]
    x = torch.cat(
        [
            condition + places[:slots] + tensors["modality_v"],
            audio + places[slots : slots + frames] + tensors["modality_a"],
        ]
    )
    keep = torch.cat([pad > 0, torch.ones(frames, dtype=torch.bool)])

    def both(x: Tensor, name: str) -> Tensor:
        return torch.cat([norm(x[:slots], tensors, f"{name}A."), norm(x[slots:], tensors, f"{name}B.")])

    for layer in range(config.encoder_layers):
        first, second = (f"encoder.attn_layers.layers.{2 * layer + more}." for more in (0, 1))
        x = x + attention(both(x, f"{first}0.0."), tensors, f"{first}1.", config.encoder_heads, keep)
        normed = both(x, f"{second}0.0.")
        x = x + torch.cat(
            [
                feed_forward(normed[:slots], tensors, f"{second}1.A."),
                feed_forward(normed[slots:], tensors, f"{second}1.B."),
            ]
        )
    x = both(x, "encoder.attn_layers.final_norm.")
    for layer in range(config.decoder_layers):
        first, second = (f"decoder.attn_layers.layers.{2 * layer + more}." for more in (0, 1))
        x = x + attention(norm(x, tensors, f"{first}0.0."), tensors, f"{first}1.", config.decoder_heads, keep)
        x = x + feed_forward(norm(x, tensors, f"{second}0.0."), tensors, f"{second}1.")
    x = norm(x, tensors, "decoder.attn_layers.final_norm.")[slots:]
    heads = [x @ tensors[f"classifier.{head}.weight"].T for head in range(count)]  # each [position, V]
    made = torch.zeros(count, frames, heads[0].shape[1], dtype=x.dtype)
    for time in range(frames):
        for book in range(count):
            head, position = divmod(time * count + book, frames)
            made[book, time] = heads[head][position]
    return made


@pytest.mark.parametrize(
    ("heads", "books", "frames", "slots", "layers"),
    [
        ((3, 5), 3, 16, 7, (2, 2)), ((6, 1), 5, 7, 4, (1, 3)), ((7, 12), 2, 11, 9, (3, 1)), ((8, 3), 1, 5, 1, (2, 1)),
        ((1, 9), 4, 10, 6, (1, 1)),
    ],
)  # fmt: skip
def test_logits_of_any_size_are_those_of_the_reference(
    heads: tuple[int, int], books: int, frames: int, slots: int, layers: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(100 * books + frames)
    timing = Timing(window=Fraction(frames, 8), code_rate=Fraction(8), frame_rate=Fraction(8), video_token_rate=Fraction(8),
                    codebooks=books, codebook_size=13)  # fmt: skip
    config = AudioTransformerConfig(
        dim=DIM, encoder_layers=layers[0], decoder_layers=layers[1], encoder_heads=heads[0], decoder_heads=heads[1],
        dim_head=DIM_HEAD, latent_dim=6, condition_dim=10, visual_positions=20, token_order="legacy",
    )  # fmt: skip
    model = AudioTransformer(config, timing).eval()
    with torch.no_grad():
        for value in model.state_dict().values():  # no norm of ones and zeros
            value.copy_(torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5)
    ours = model.state_dict()
    tensors = {}
    for name, place in official_places(config, timing).items():
        part = ours[place.name].chunk(place.parts)[place.part].double()
        tensors[name] = part[0] if name.startswith("classifier.") else part
    codes = torch.randint(0, 14, (2, books, frames), generator=generator)  # 13 is the mask
    states = torch.randn(2, slots, 10, generator=generator)
    pad = torch.ones(2, slots)
    pad[1, slots // 2 : slots - 1] = 0
    drop = torch.tensor([False, True])
    with_gradients = model(codes, states, pad, drop_condition=drop)
    with torch.no_grad():
        without = model(codes, states, pad, drop_condition=drop)
    for row in range(2):
        wanted = by_the_reference(
            tensors, ours["codebooks"].double(), config, codes[row], states[row].double(), pad[row], bool(drop[row])
        ).float()
        for made in (with_gradients, without):
            torch.testing.assert_close(made[row].detach(), wanted, atol=1e-4, rtol=1e-4)
