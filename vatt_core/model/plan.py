"""How a model is held: precision of each part, whether all parts stay on the device, and whether that fits.

No memory is taken here: sizes come from the headers of files, or from models that are built without memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from vatt_core.errors import BadRequest, OutOfMemory
from vatt_core.model.products import is_slow
from vatt_core.weights.space import in_units

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Keeping = Literal["auto", "keep", "swap"]

LARGE = 1_000_000_000
"""Parameters from which on `auto` looks for less memory than float32 takes."""

Working = Callable[[Mapping[str, torch.dtype], int], Mapping[str, int]]
"""Says for the precision of each part and `llm_bits` how many bytes each stage takes beside its weights."""

BITS_PER_WEIGHT = {8: 8.0, 4: 4.6}
"""With the scales that bitsandbytes keeps (one byte for 64 weights in 4 bits, and theirs)."""


@dataclass(frozen=True)
class LoadOptions:
    """What a user may choose about memory and speed.

    precision: of language model and audio transformer and, on a GPU, of the image tower; "auto": float32 for small models
    and, on a CPU, where it fits half of the free memory, else bfloat16. llm_bits: 8 or 4 quantises the linear layers of
    the language model (0: not), which needs bitsandbytes. memory: "keep" holds every part on the device, "swap" only the
    one at work; "auto" swaps on a GPU that is too small for all. codec: "transformers", or "audiocraft" for whoever has
    it installed.
    """

    precision: Precision = "auto"
    llm_bits: int = 0
    memory: Keeping = "auto"
    codec: Literal["transformers", "audiocraft"] = "transformers"

    def __post_init__(self) -> None:
        for name, values in (
            ("precision", ("auto", "float32", "bfloat16", "float16")),
            ("llm_bits", (0, 8, 4)),
            ("memory", ("auto", "keep", "swap")),
            ("codec", ("transformers", "audiocraft")),
        ):
            if getattr(self, name) not in values:
                said = ", ".join(map(str, values))
                raise BadRequest(f"{name} is {getattr(self, name)!r}; choose one of {said}", field=name)


@dataclass(frozen=True)
class PartPlan:
    """A part as it will be held. weights, working: bytes."""

    name: str
    parameters: int
    dtype: torch.dtype
    bits: float
    working: int

    @property
    def weights(self) -> int:
        return int(self.parameters * self.bits / 8)


@dataclass(frozen=True)
class MemoryPlan:
    """keep: bytes with every part on the device, swap: with the largest alone. available: bytes of the device, None where
    it does not say. swapped: what was decided."""

    device: torch.device
    parts: tuple[PartPlan, ...]
    available: int | None
    swapped: bool

    @property
    def keep(self) -> int:
        return sum(part.weights for part in self.parts) + max(part.working for part in self.parts)

    @property
    def swap(self) -> int:
        return max(part.weights + part.working for part in self.parts)

    @property
    def needed(self) -> int:
        return self.swap if self.swapped else self.keep

    @property
    def fits(self) -> bool:
        return self.available is None or self.needed <= self.available

    @property
    def narrowed(self) -> bool:
        """Whether any part is held in less than float32."""
        return any(part.bits < 32 for part in self.parts)

    @property
    def widened(self) -> bool:
        """Whether any part multiplies in float32 although it is held narrower, see :mod:`vatt_core.model.products`."""
        return any(is_slow(part.dtype, self.device) for part in self.parts)

    def dtype(self, part: str) -> torch.dtype:
        return next(one.dtype for one in self.parts if one.name == part)


def plan_memory(
    parameters: Mapping[str, int],
    linear: int,
    options: LoadOptions,
    *,
    device: torch.device,
    available: int | None,
    working: Working,
) -> MemoryPlan:
    """Decide what `options` leave open. parameters: of each part; linear: those of the language model's linear layers.
    working: asked only for models that are large enough for it to matter."""
    large = sum(parameters.values()) >= LARGE
    candidates = [options.precision]
    if options.precision == "auto":
        candidates = ["float32"] if not large else ["bfloat16"] if device.type != "cpu" else ["float32", "bfloat16"]
    plans = []
    for precision in candidates:
        parts = _parts(parameters, linear, precision, options.llm_bits, device, working if large else None)
        # On the CPU half of the memory is left to the system and to other programs.
        room = available if device.type != "cpu" or available is None or not large else available // 2
        for swapped in {"keep": (False,), "swap": (True,), "auto": (False, True)}[options.memory]:
            if swapped and device.type == "cpu":
                continue  # there is nowhere to swap to
            plan = MemoryPlan(device, parts, available, swapped)
            plans.append(plan)
            if room is None or plan.needed <= room:
                return plan
    if not plans:
        return plan_memory(parameters, linear, LoadOptions(options.precision, options.llm_bits, "keep", options.codec),
                           device=device, available=available, working=working)  # fmt: skip
    return plans[-1]


def _parts(
    parameters: Mapping[str, int],
    linear: int,
    precision: str,
    bits: int,
    device: torch.device,
    working: Working | None,
) -> tuple[PartPlan, ...]:
    narrow: torch.dtype = getattr(torch, precision)
    # Convolutions of the CPU give wrong numbers in bfloat16; the codec is small and stays exact everywhere.
    exact = {"codec", "vision"} if device.type == "cpu" else {"codec"}
    kinds = {name: torch.float32 if name in exact else narrow for name in parameters}
    needs = working(kinds, bits) if working else {}
    parts = []
    for name, count in parameters.items():
        width = 8.0 * kinds[name].itemsize
        if name == "converter" and bits:
            width = (BITS_PER_WEIGHT[bits] * linear + width * (count - linear)) / max(count, 1)
        parts.append(PartPlan(name, count, kinds[name], width, needs.get(name, 0)))
    return tuple(parts)


def check_fits(plan: MemoryPlan, name: str) -> None:
    """Raise OutOfMemory, naming the largest part and what would help, when the plan does not fit."""
    if plan.fits:
        return
    assert plan.available is not None
    cures = []
    if plan.device.type != "cpu" and not plan.swapped:
        cures.append(f'memory = "swap" ({in_units(plan.swap)})')
    if any(part.dtype == torch.float32 for part in plan.parts if part.name == "converter"):
        cures.append('precision = "bfloat16"')
    cures += ["llm_bits = 8 or 4", "a smaller model"]
    largest = max(plan.parts, key=lambda part: part.weights + part.working)
    raise OutOfMemory(
        f"The model {name} needs {in_units(plan.needed)} on the device '{plan.device}', which has "
        f"{in_units(plan.available)} free; its largest part, the {largest.name}, takes "
        f"{in_units(largest.weights + largest.working)}. Choose in the table [worker] of the settings: {', '.join(cures)}.",
        needed=plan.needed,
        available=plan.available,
        part=largest.name,
    )


def device_named(name: str) -> torch.device:
    """The device that a user names; "auto" is a CUDA GPU where there is one, else the CPU. It need not be in this machine.

    Raises BadRequest for a word that names none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.get_device_module(device)
    except RuntimeError as error:
        raise BadRequest(f"There is no device {name!r}; choose auto, cpu or cuda.", field="device") from error
    return device


def chosen_device(name: str) -> torch.device:
    """The device that a user names, see :func:`device_named`. Raises BadRequest also for one that is not in this machine."""
    device = device_named(name)
    there = torch.get_device_module(device)
    if not there.is_available() or (device.index or 0) >= there.device_count():
        raise BadRequest(f"This machine has no device {name!r} that can be used; choose auto or cpu.", field="device")
    return device


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None
