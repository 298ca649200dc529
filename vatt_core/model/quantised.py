"""Linear layers in 8 or 4 bits, by bitsandbytes: LLM.int8 (Dettmers et al. 2022) and NF4 (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vatt_core.errors import BadRequest
from vatt_core.model.converter import Converter


def quantisable(converter: Converter) -> dict[str, nn.Linear]:
    """The layers that may be narrowed, by name: those of the language model's blocks, without adapters and head."""
    return {
        name: layer
        for name, layer in converter.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("llm.model.layers.") and ".lora_" not in name
    }


def quantised_linear(weight: Tensor, bits: int, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A layer that multiplies by `weight` [out, in], held in `bits` bits and computing in `dtype`. Without a bias.

    Raises BadRequest when bitsandbytes is not installed.
    """
    library = _library()
    rows, columns = weight.shape
    weight = weight.to(dtype)
    if bits == 4:
        layer = library.nn.Linear4bit(columns, rows, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
        layer.weight = library.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    else:
        layer = library.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
        layer.weight = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    moved: nn.Module = layer.to(device)  # where the layer arrives it is narrowed
    return moved


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise BadRequest(
            "llm_bits needs the library bitsandbytes: pip install 'vatt[quantised]', or set llm_bits to 0",
            field="llm_bits",
        ) from error
    return bitsandbytes
