"""Narrow weights on a processor that cannot multiply them: the numbers of float32 products, rounded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from vatt_core.model import layers, products
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.folder import load_model
from vatt_core.model.layers import attend
from vatt_core.model.plan import LoadOptions
from vatt_core.model.products import OneDnnProducts, WideProducts, is_slow, mkl_is_narrow, product_cost
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
        assert exact.held == "cpu" + " onednn" * mkl_is_narrow()
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


@pytest.fixture
def asked_of_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """The shape of each product that went to oneDNN."""
    seen: list[torch.Size] = []
    multiply = products._onednn_linear

    def linear(*given: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        made = multiply(*given, **named)
        seen.append(made.shape)
        return made

    monkeypatch.setattr(products, "_onednn_linear", linear)
    yield seen


onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@onednn
@torch.no_grad()
def test_onednn_gives_the_same_products(asked_of_onednn: list[torch.Size]) -> None:
    x, weight, bias = numbers(2, 7, 33), numbers(9, 66, seed=2)[:, ::2], numbers(9, seed=3)
    room = torch.zeros(7, 12)[:, :9]
    rows = x.transpose(0, 1)[:, 0]
    with OneDnnProducts():
        found = [functional.linear(x, weight, bias), functional.linear(x, weight=weight), torch.mm(rows, weight.t())]
        given = torch.mm(rows, weight.t(), out=room)
    expected = [functional.linear(x, weight, bias), functional.linear(x, weight), rows @ weight.t()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert given is room and torch.equal(room, found[2])
    assert len(asked_of_onednn) == 4


@onednn
def test_onednn_is_asked_for_nothing_that_it_does_not_suit(asked_of_onednn: list[torch.Size]) -> None:
    x, weight = numbers(3, 8), numbers(4, 8, seed=2).requires_grad_()
    with OneDnnProducts():
        functional.linear(x, weight).sum().backward()
        with torch.no_grad():
            functional.linear(x.double(), weight.double())
            functional.linear(x.bfloat16(), weight.bfloat16())
            assert functional.linear(x[0], weight).shape == (4,)
            assert functional.linear(x.to("meta"), weight.to("meta")).is_meta
            with torch.autocast("cpu", torch.bfloat16):
                assert functional.linear(x, weight).dtype == torch.bfloat16
            assert torch.mm(x, mat2=weight.t()).shape == (3, 4)
            with pytest.raises(RuntimeError, match="matrix"):
                torch.mm(x, weight[None])
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                functional.linear(x, weight[:, :7])
    assert weight.grad is not None and asked_of_onednn == []


@onednn
def test_a_model_asks_onednn_where_mkl_is_narrow_and_only_there(
    monkeypatch: pytest.MonkeyPatch, asked_of_onednn: list[torch.Size]
) -> None:
    model = load_model(find_model("nano"))
    config, timing = model.config, model.config.timing
    codes, states = torch.full((1, timing.codebooks, 20), timing.mask), numbers(1, 40, config.audio.condition_dim)
    found = {}
    for narrow in (True, False):
        monkeypatch.setattr(products, "mkl_is_narrow", lambda narrow=narrow: narrow)
        asked_of_onednn.clear()
        with model.using("audio_transformer"), torch.no_grad():
            found[narrow] = model.audio_transformer(codes, states, torch.ones(1, 40))
        layers = config.audio.encoder_layers + config.audio.decoder_layers
        assert len(asked_of_onednn) > 4 * layers if narrow else not asked_of_onednn
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-4)


@onednn
@torch.no_grad()
def test_widened_products_go_to_onednn_too(
    monkeypatch: pytest.MonkeyPatch, asked_of_onednn: list[torch.Size], counted: list[torch.dtype]
) -> None:
    monkeypatch.setattr(products, "mkl_is_narrow", lambda: True)
    monkeypatch.setattr(products, "multiplies_fast", lambda dtype: False)
    layer = torch.nn.Linear(8, 4).to(torch.float16)
    with products.products_of(layer):
        layer(numbers(3, 8).half())
    assert counted == [torch.float16] and asked_of_onednn == [torch.Size([3, 4])]


def test_mkl_is_narrow_on_processors_of_amd_with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(**capabilities: object) -> bool:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        mkl_is_narrow.cache_clear()
        return mkl_is_narrow()

    try:
        assert narrow(cpu_name="AMD EPYC", avx512_f=True) == torch.backends.mkldnn.is_available()
        assert not narrow(cpu_name="AMD EPYC", avx512_f=False, avx2=True)
        assert not narrow(cpu_name="Intel Xeon", avx512_f=True, amx_bf16=True)
        assert not narrow()
    finally:
        mkl_is_narrow.cache_clear()


@torch.no_grad()
@pytest.mark.parametrize("rows_of_bias", [1, 2])
def test_attention_in_bfloat16_comes_nearly_as_close_to_float32_as_the_kernel(
    monkeypatch: pytest.MonkeyPatch, rows_of_bias: int
) -> None:
    query, key, value = (numbers(2, 3, 50, 16, seed=seed) for seed in (1, 2, 3))
    bias = numbers(rows_of_bias, 3, 50, 50, seed=4)
    bias[..., 40:] = -torch.inf
    exact = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    errors = {}
    for fast in (True, False):
        monkeypatch.setattr(layers, "multiplies_fast", lambda dtype, fast=fast: fast)
        narrow = (tensor.bfloat16() for tensor in (query, key, value, bias))
        errors[fast] = (attend(*narrow, dropout=0.0).float() - exact).square().mean().sqrt().item()
    # Its scores are rounded once more; by how much the kernel is closer depends on the processor.
    assert errors[True] != errors[False] and max(errors.values()) < 0.004
