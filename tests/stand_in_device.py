"""A stand-in for a CUDA device where there is none: tensors of the CPU that count as lying on it.

What a device refuses is refused here too: operations on tensors of two places, arrays of its tensors, its random numbers by
a generator of the CPU. So a tensor that was left behind is found without a GPU. What CUDA itself does (kernels, rounding,
memory, speed) is not shown; `make test-gpu` runs on a real one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
ACROSS = ("copy_", "_has_compatible_shallow_copy_type")
"""What takes tensors of two places."""


class TwoPlaces(RuntimeError):
    """What a real device would have refused."""


def stand_in(patch: pytest.MonkeyPatch) -> StandInDevice:
    """The device, to be entered as a context; until the patch is undone torch says that it has one."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (64 << 30, 80 << 30))
    patch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.zeros(1, dtype=torch.uint8))
    patch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
    patch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    return StandInDevice()


class StandInDevice(TorchFunctionMode):
    """While it is entered, `cuda` is a device. Tensors that came to it count as lying there as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self._there: dict[int, weakref.ref[Tensor]] = {}

    def holds(self, tensor: Tensor) -> bool:
        return id(tensor) in self._there

    def _place(self, tensor: Tensor, there: bool) -> Tensor:
        number = id(tensor)
        if not there:
            self._there.pop(number, None)
        elif number not in self._there:
            self._there[number] = weakref.ref(tensor, lambda _: self._there.pop(number, None))
        return tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):
            return self._property(func, name, args)
        if name in ("to", "cpu", "cuda"):
            return self._moved(func, name, args, named)
        wanted = named.get("device")
        if wanted is not None:
            named["device"] = "cpu" if torch.device(wanted).type == "cuda" else wanted
        made_there = wanted is not None and torch.device(wanted).type == "cuda"
        tensors = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        there = any(map(self.holds, tensors))
        if there or made_there:
            self._refuse(name, args, named, tensors)
        result = func(*args, **named)
        if made_there or (there and wanted is None):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._place(leaf, True)
        return result

    def _refuse(self, name: str, args: tuple[Any, ...], named: dict[str, Any], tensors: list[Tensor]) -> None:
        """Raise TwoPlaces for what a real device does not do. Single values of the CPU are welcome there."""
        if isinstance(named.get("generator"), torch.Generator):
            raise TwoPlaces(f"{name} draws on the device with a generator of the CPU")
        if name in ("numpy", "__array__"):
            raise TwoPlaces("an array of a tensor on the device")
        if name in ACROSS:
            return
        if name == "__getitem__":
            tensors = tensors[:1]  # where to look may lie on the CPU
        elif name == "__setitem__" and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(args[1])):
            return  # a copy
        left = [tuple(one.shape) for one in tensors if not self.holds(one) and Tensor.dim(one)]
        if left:
            raise TwoPlaces(f"{name}: tensors {left} were left on the CPU")

    def _property(self, func: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
        what = getattr(getattr(func, "__self__", None), "__name__", "")
        tensor = args[0]
        if name == "__set__":
            func(*args)
            if what == "data":
                self._place(tensor, self.holds(args[1]))
            return None
        if self.holds(tensor):
            if what == "device":
                return DEVICE
            if what in ("is_cuda", "is_cpu"):
                return what == "is_cuda"
        result = func(*args)
        return self._place(result, True) if isinstance(result, Tensor) and self.holds(tensor) else result

    def _moved(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        wanted = named.pop("device", None) if name == "to" else name
        kept = []
        for value in rest:
            if isinstance(value, str | torch.device):
                wanted = value
            elif isinstance(value, Tensor):
                wanted = DEVICE if self.holds(value) else "cpu"
                kept.append(value.dtype)
            elif isinstance(value, torch.dtype):
                kept.append(value)
        there = self.holds(tensor) if wanted is None else torch.device(wanted).type == "cuda"
        result = tensor.to(*kept, **named) if name == "to" and (kept or named) else tensor
        if result is tensor and there != self.holds(tensor):
            result = tensor.clone()
        return self._place(result, there)
