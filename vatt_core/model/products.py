"""Matrix products as they are fastest on a processor.

Two kinds of processors are better not asked as torch would ask them.

*Narrow numbers where there are no instructions for them.* Weights in bfloat16 or float16 take half the memory
everywhere, but a processor without AMX, AVX512-BF16 or their like multiplies them number by number, up to sixty times
slower than in float32. There the weights stay narrow, and each product is computed in float32 and rounded once: about as
fast as float32, at half the memory.

*float32 on processors of AMD with AVX-512.* torch leaves these products to MKL, which uses half the width of such a
processor; oneDNN, which torch brings along too and takes for bfloat16, uses all of it: 0.43 instead of 0.20 × 10^12
operations per second on two cores of a Zen 5. The sums are as exact, in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NARROW = (torch.bfloat16, torch.float16)

SLOW = 2.0
"""Times as long as in float32 from which on a product is computed in float32, where instructions are not known."""

PIECE = 1 << 24
"""Numbers of a weight that are widened at a time: 64 MiB."""

_SIDE, _RUNS = 256, 4
_PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.linear,
        functional.scaled_dot_product_attention,
        torch.mm,
        torch.bmm,
        torch.matmul,
        Tensor.mm,
        Tensor.bmm,
        Tensor.matmul,
        Tensor.__matmul__,
    }
)


@cache
def product_cost(dtype: torch.dtype) -> float:
    """How many times as long as in float32 the processor takes for a product of matrices in `dtype`, measured once."""

    def fastest(kind: torch.dtype) -> float:
        square = torch.ones(_SIDE, _SIDE, dtype=kind)
        seconds = []
        for _ in range(_RUNS):
            begun = time.perf_counter()
            torch.mm(square, square)
            seconds.append(time.perf_counter() - begun)
        return min(seconds)

    return fastest(dtype) / fastest(torch.float32)


def instructions(dtype: torch.dtype) -> bool | None:
    """Whether the processor has instructions for products in `dtype`; None where torch does not say."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if known.get("architecture") != "x86_64":
        return None
    kind = "bf16" if dtype == torch.bfloat16 else "fp16"
    return bool(known.get(f"amx_{kind}") or known.get(f"avx512_{kind}"))


@cache
def multiplies_fast(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies matrices in `dtype` well: by its instructions, so that it is always the same answer;
    where those are not known, by trying."""
    known = instructions(dtype)
    return product_cost(dtype) <= SLOW if known is None else known


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products in `dtype` on `device` are better computed in float32. Of devices, only the CPU is asked."""
    return device.type == "cpu" and dtype in NARROW and not multiplies_fast(dtype)


@cache
def mkl_is_narrow() -> bool:
    """Whether MKL leaves half of this processor unused in float32: by its name and its instructions, so that it is always
    the same answer."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return onednn and str(known.get("cpu_name", "")).startswith("AMD") and bool(known.get("avx512_f"))


@contextmanager
def products_of(part: nn.Module) -> Iterator[None]:
    """What a part of a model works in: `OneDnnProducts` and `WideProducts` where they are faster, else nothing."""
    weight = next((value for value in part.parameters() if value.is_floating_point()), None)
    with ExitStack() as modes:
        if weight is not None and weight.device.type == "cpu":
            if mkl_is_narrow():
                modes.enter_context(OneDnnProducts())
            if is_slow(weight.dtype, weight.device):  # inside the other: its products in float32 go there
                modes.enter_context(WideProducts())
        yield


class OneDnnProducts(TorchFunctionMode):
    """Inside it, linear layers and plain products in float32 on the CPU are computed by oneDNN where no gradient is wanted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        if func is functional.linear and _suits_onednn(*args, **kwargs):
            return _onednn_linear(*args, **kwargs)
        if func is torch.mm and len(args) == 2 and args[1].ndim == 2 and _suits_onednn(args[0], args[1].t(), **kwargs):
            product, out = _onednn_linear(args[0], args[1].t()), kwargs.get("out")
            return product if out is None else out.copy_(product)
        return func(*args, **kwargs)


def _suits_onednn(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> bool:
    """Whether all are plain float32 on the CPU and fit each other; what does not is left to torch and its words."""
    tensors = [value for value in (input, weight, bias, out) if value is not None]
    plain = all(
        type(value) in (Tensor, nn.Parameter)  # weights of 8 and 4 bits are tensors of their own that say float32
        and value.dtype == torch.float32
        and value.device.type == "cpu"
        and value.layout == torch.strided
        for value in tensors
    )
    fits = plain and weight.ndim == 2 and input.ndim >= 2 and input.shape[-1] == weight.shape[1]
    return fits and (bias is None or bias.shape == weight.shape[:1])


def _onednn_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input [..., n], weight [m, n], bias [m] -> [..., m], float32."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return product


class WideProducts(TorchFunctionMode):
    """Inside it, products and attention of narrow tensors on the CPU are computed in float32 and rounded once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        narrow = _narrow((*args, *kwargs.values())) if func in _PRODUCTS else None
        if narrow is None:
            return func(*args, **kwargs)
        if func is functional.linear:
            return _linear(*args, **kwargs)
        out = kwargs.pop("out", None)
        product = func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        return product.to(narrow) if out is None else out.copy_(product)


def _narrow(values: tuple[Any, ...]) -> torch.dtype | None:
    """The dtype of the first narrow tensor on the CPU."""
    tensors = (value for value in values if isinstance(value, Tensor))
    return next((value.dtype for value in tensors if value.dtype in NARROW and value.device.type == "cpu"), None)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in NARROW else value


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input [..., n], weight [m, n], bias [m] -> [..., m] in the dtype of `input`. No more than `PIECE` numbers of the
    weight are wide at once."""
    wide = input.float()
    rows = max(1, PIECE // max(1, weight.shape[1]))
    if len(weight) <= rows:
        return functional.linear(wide, weight.float(), _wide(bias)).to(input.dtype)
    made = input.new_empty(*input.shape[:-1], len(weight))
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        made[..., part] = functional.linear(wide, weight[part].float(), None if bias is None else _wide(bias[part]))
    return made


def wide_bytes(part: nn.Module) -> int:
    """Bytes that a widened weight of a part takes at most."""
    return 4 * min(PIECE, max(value.numel() for value in part.parameters()))
