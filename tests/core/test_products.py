"""Narrow weights on a processor that cannot multiply them: the numbers of float32 products, rounded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from vatt_core.model import products
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.folder import load_model
from vatt_core.model.plan import LoadOptions
from vatt_core.model.products import WideProducts, is_slow, product_cost
from vatt_core.timing import Timing
from vatt_core.weights import find_model

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """The dtype of each linear layer that was computed wide."""
    seen: list[torch.dtype] = []
    wide = products._linear

    def linear(input: torch.Tensor, *more: torch.Tensor | None) -> torch.Tensor:
        seen.append(input.dtype)
        return wide(input, *more)

    monkeypatch.setattr(products, "_linear", linear)
    yield seen


@pytest.mark.parametrize("kind", products.NARROW)
@pytest.mark.parametrize("piece", [1 << 24, 70])
def test_products_are_those_of_float32_rounded_once(
    kind: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "PIECE", piece)
    x, weight, bias = numbers(2, 5, 32).to(kind), numbers(9, 32, seed=2).to(kind), numbers(9, seed=3).to(kind)
    other = weight.t().contiguous()
    room = torch.zeros(10, 12, dtype=kind)[:, :9]
    with WideProducts():
        linear, plain = functional.linear(x, weight, bias), functional.linear(x, weight)
        matmul, batch = x @ other, torch.bmm(x, other.expand(2, -1, -1))
        given = torch.mm(x.flatten(0, 1), other, out=room)
        seen = functional.scaled_dot_product_attention(x, x, x, attn_mask=bias[:5])
    wide = x.float() @ weight.float().t()
    assert torch.equal(linear, functional.linear(x.float(), weight.float(), bias.float()).to(kind))
    for product in (plain, matmul, batch):
        torch.testing.assert_close(product, wide.to(kind), rtol=1e-2, atol=1e-6)
        assert product.dtype == kind
    assert given is room and torch.equal(room, plain.flatten(0, 1))
    expected = functional.scaled_dot_product_attention(x.float(), x.float(), x.float(), attn_mask=bias[:5].float())
    assert torch.equal(seen, expected.to(kind))


def test_everything_else_is_left_alone(counted: list[torch.dtype]) -> None:
    x, weight = numbers(3, 8), numbers(4, 8, seed=2)
    with WideProducts():
        assert torch.equal(functional.linear(x, weight), x @ weight.t())
        assert (x.bfloat16() + 1).dtype == torch.bfloat16
        assert torch.equal(torch.arange(4).view(2, 2) @ torch.eye(2, dtype=torch.int64), torch.arange(4).view(2, 2))
    assert counted == []
    with WideProducts():
        functional.linear(x.bfloat16(), weight.bfloat16())
    functional.linear(x.bfloat16(), weight.bfloat16())
    assert counted == [torch.bfloat16]


@torch.no_grad()
def test_a_narrow_transformer_comes_closer_to_the_wide_one() -> None:
    config = AudioTransformerConfig(
        dim=64, encoder_layers=2, decoder_layers=2, encoder_heads=3, decoder_heads=2, dim_head=16, latent_dim=8,
        condition_dim=12, visual_positions=40,
    )  # fmt: skip
    timing = Timing(codebooks=3, codebook_size=32)
    model = AudioTransformer(config, timing).eval()
    codes, states = torch.full((2, 3, 40), timing.mask), numbers(2, 20, 12)
    keep = torch.ones(2, 20)
    expected = model(codes, states, keep)
    model.to(torch.bfloat16)
    with WideProducts():
        found = model(codes, states, keep)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_a_model_is_multiplied_wide_where_that_is_faster_and_only_there(
    monkeypatch: pytest.MonkeyPatch, counted: list[torch.dtype]
) -> None:
    model = load_model(find_model("nano"), options=LoadOptions(precision="bfloat16"))
    exact = load_model(find_model("nano"))
    states = numbers(1, 40, model.config.audio.condition_dim)
    codes = torch.full((1, model.config.timing.codebooks, 20), model.config.timing.mask)
    held = set()
    for wide in (True, False):
        monkeypatch.setattr(products, "multiplies_fast", lambda dtype, wide=wide: not wide)
        counted.clear()
        with model.using("audio_transformer"):
            model.audio_transformer(codes, states, torch.ones(1, 40))
        assert bool(counted) == wide
        counted.clear()
        model.audio_transformer(codes, states, torch.ones(1, 40))
        with exact.using("audio_transformer"):
            exact.audio_transformer(codes, states, torch.ones(1, 40))
        assert counted == []
        held.add(model.held)
        assert exact.held == "cpu"
    # What was remembered of the one is not taken for the other.
    assert len(held) == 2


@torch.no_grad()
def test_a_narrow_language_model_says_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch, counted: list[torch.dtype]
) -> None:
    monkeypatch.setattr(products, "multiplies_fast", lambda dtype: False)
    exact, narrow = (
        load_model(find_model("nano"), options=LoadOptions(precision=kind)) for kind in ("float32", "float16")
    )
    features = numbers(1, exact.config.timing.frames, exact.config.vision.feature_dim)
    ids = torch.tensor([exact.tokenizer("a dog barks while the rain falls")["input_ids"]])
    with narrow.using("converter"):
        found = narrow.converter.encode_all_states(features, ids)
        captions = narrow.converter.generate_captions(features, ids[0].tolist(), count=2)
    assert found.dtype == torch.float16 and set(counted) == {torch.float16}
    expected = exact.converter.encode_all_states(features, ids)
    assert functional.cosine_similarity(found.float().flatten(), expected.flatten(), dim=0) > 0.999
    assert len(captions[0]) == 2


def test_instructions_decide_and_trying_where_they_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fast(capabilities: dict[str, object], cost: float) -> list[bool]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        monkeypatch.setattr(products, "product_cost", lambda dtype: cost)
        products.multiplies_fast.cache_clear()
        return [products.multiplies_fast(kind) for kind in products.NARROW]

    try:
        assert fast({"architecture": "x86_64", "avx2": True}, 0.1) == [False, False]
        assert fast({"architecture": "x86_64", "avx512_bf16": True}, 9.0) == [True, False]
        assert fast({"architecture": "x86_64", "amx_bf16": True, "amx_fp16": True}, 9.0) == [True, True]
        assert fast({"architecture": "aarch64"}, 0.5) == [True, True]
        assert fast({}, 30.0) == [False, False]
    finally:
        products.multiplies_fast.cache_clear()


def test_only_the_cpu_is_asked() -> None:
    assert product_cost(torch.float32) > 0
    assert not is_slow(torch.float32, CPU)
    assert not is_slow(torch.bfloat16, torch.device("cuda"))
    assert not is_slow(torch.bfloat16, torch.device("meta"))
