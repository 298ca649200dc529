"""A safetensors file written tensor by tensor, so that converting 13 GB does not take 13 GB of memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.media.atomic import writing_error

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_AT_ONCE = 1 << 24
"""Elements that are converted and written at a time."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    dtype: torch.dtype | None = None,
    origin: Mapping[str, str] = {},
) -> int:
    """Write tensors in the order of their names; floating ones as `dtype` (None: as they are). Returns the bytes.

    source: the file that they come from, for messages; origin: file and key of single ones. Raises BadModel when a
    number is NaN or infinite (in the source or once narrowed) or a tensor stored in a form that no part has, DiskFull,
    ForbiddenPath. The caller removes what a failure leaves.
    """
    kinds = {
        name: dtype if dtype is not None and value.is_floating_point() else value.dtype
        for name, value in tensors.items()
    }
    for name, value in tensors.items():
        if kinds[name] not in _NAMES or value.layout != torch.strided:
            where = origin.get(name, source)
            raise BadModel(
                f"{name} of {where} is stored as {kinds[name]} ({value.layout}), which no part can hold; give the file of the "
                "release",
                file=where,
                key=name,
            )
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        size = tensors[name].numel() * torch.empty((), dtype=kinds[name]).element_size()
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[kinds[name]], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in sorted(tensors):
                for piece in tensors[name].detach().reshape(-1).split(_AT_ONCE):
                    file.write(_bytes(piece, kinds[name], name, origin.get(name, source)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise writing_error(path, error) from error
    return 8 + len(head) + end


def _bytes(piece: Tensor, dtype: torch.dtype, name: str, origin: str) -> bytes:
    converted = piece.to(dtype).contiguous()
    if converted.is_floating_point() and not bool(converted.isfinite().all()):
        if bool(piece.isfinite().all()):
            raise BadModel(
                f"{name} of {origin} holds numbers too large for {dtype}; import it with --store source",
                file=origin,
                key=name,
            )
        raise BadModel(
            f"{name} of {origin} holds NaN or infinity; the file is damaged, fetch it again", file=origin, key=name
        )
    return converted.view(torch.uint8).numpy().tobytes()
