"""A safetensors file written tensor by tensor, so that converting 13 GB does not take 13 GB of memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vatt_core.errors import BadModel

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
    origin: Mapping[str, tuple[str, str]] = {},
) -> int:
    """Write tensors in the order of their names; floating ones as `dtype` (None: as they are). Returns the bytes.

    source: the file that they come from, for messages; origin: file and key of those from other files. Raises BadModel when
    a number is NaN or infinite (in the source or once narrowed) or a tensor stored in a form that no part has, OSError.
    The caller removes what a failure leaves.
    """
    kinds = {
        name: dtype if dtype is not None and value.is_floating_point() else value.dtype
        for name, value in tensors.items()
    }
    for name, value in tensors.items():
        if kinds[name] not in _NAMES or value.layout != torch.strided:
            file, key = origin.get(name, (source, name))
            raise BadModel(
                f"{file}: {key} is stored as {kinds[name]} ({value.layout}), which the part {path.stem} cannot hold; give the "
                "file of the release",
                file=file,
                key=key,
                part=path.stem,
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
    with path.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(tensors):
            for piece in tensors[name].detach().reshape(-1).split(_AT_ONCE):
                stream.write(_bytes(piece, kinds[name], path.stem, *origin.get(name, (source, name))))
        stream.flush()
        os.fsync(stream.fileno())
    return 8 + len(head) + end


def _bytes(piece: Tensor, dtype: torch.dtype, part: str, file: str, key: str) -> bytes:
    converted = piece.to(dtype).contiguous()
    if converted.is_floating_point() and not bool(converted.isfinite().all()):
        if bool(piece.isfinite().all()):
            raise BadModel(
                f"{file}: {key} of the part {part} holds numbers too large for {dtype}; import it with --store source",
                file=file,
                key=key,
                part=part,
            )
        raise BadModel(
            f"{file}: {key} of the part {part} holds NaN or infinity; the file is damaged, fetch it again",
            file=file,
            key=key,
            part=part,
        )
    return converted.view(torch.uint8).numpy().tobytes()
