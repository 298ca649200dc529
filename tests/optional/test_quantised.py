"""The language model in 8 and 4 bits, with bitsandbytes (`make test-optional`)."""

from __future__ import annotations

import pytest
import torch

from vatt_core.model.captioning import SamplingSettings
from vatt_core.model.folder import load_model
from vatt_core.model.plan import BITS_PER_WEIGHT, LoadOptions
from vatt_core.model.quantised import quantised_linear
from vatt_core.model.stages import LiveBytes
from vatt_core.weights import find_model

pytestmark = pytest.mark.optional


@pytest.mark.parametrize(("bits", "likeness", "share"), [(8, 0.99, 0.51), (4, 0.9, 0.3)])
@torch.no_grad()
def test_narrow_layers_take_less_and_say_nearly_the_same(bits: int, likeness: float, share: float) -> None:
    wide = load_model(find_model("nano"), options=LoadOptions(precision="bfloat16"))
    narrow = load_model(find_model("nano"), options=LoadOptions(precision="bfloat16", llm_bits=bits))
    features = torch.randn(1, wide.config.timing.frames, wide.config.vision.feature_dim)
    ids = torch.tensor([wide.tokenizer("a dog barks while the rain falls")["input_ids"]])
    expected = wide.converter.encode_all_states(features, ids).float()
    found = narrow.converter.encode_all_states(features, ids).float()
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > likeness
    for name in ("gate_proj", "o_proj"):
        layers = [dict(model.converter.named_modules()) for model in (wide, narrow)]
        path = next(
            path
            for path in layers[0]
            if path.endswith(f"layers.0.mlp.{name}") or path.endswith(f"layers.0.self_attn.{name}")
        )
        sizes = [layer[path].weight.untyped_storage().nbytes() for layer in layers]
        assert sizes[1] <= share * sizes[0]
    assert narrow.converter.generate_captions(features, ids[0].tolist(), settings=SamplingSettings(max_new_tokens=3))[0]


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_the_widest_layer_of_vicuna_takes_what_the_plan_says(bits: int) -> None:
    wide = torch.randn(11_008, 4096, generator=torch.Generator().manual_seed(1)) / 64
    layer = quantised_linear(wide, bits, dtype=torch.bfloat16, device=torch.device("cpu"))
    kept = [layer.weight, *tensors_of(getattr(layer.weight, "quant_state", None)), *tensors_of(layer.weight)]
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}
    assert 8 * sum(held.values()) / wide.numel() <= BITS_PER_WEIGHT[bits] * 1.01
    x = torch.randn(12, 4096, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(2))
    layer(x)
    with LiveBytes() as mode:
        found = layer(x)
    unpacked = 2 * wide.numel()
    assert mode.peak <= 1.1 * unpacked
    assert torch.nn.functional.cosine_similarity(found.float().flatten(), (x.float() @ wide.T).flatten(), dim=0) > 0.98


def tensors_of(holder: object) -> list[torch.Tensor]:
    """What lies beside the numbers themselves: scales, and the scales of those."""
    if holder is None:
        return []
    names = ("absmax", "code", "offset", "CB", "SCB")
    found = [value for name in names if isinstance(value := getattr(holder, name, None), torch.Tensor)]
    return found + tensors_of(getattr(holder, "state2", None))
