"""Values of the media package as JSON and raw arrays, and back. Only the types named here come into being."""

from __future__ import annotations

import dataclasses
import importlib
import math
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from vatt_core.media.time_map import TimeMap

LARGEST_ARRAY = 16 << 30
"""Bytes."""

_CLASSES = {
    "MediaLimits": "vatt_core.media.opening",
    "ClipInfo": "vatt_core.media.probe",
    "Watched": "vatt_core.media.watching",
}
_DTYPES = ("uint8", "int16", "int32", "int64", "float32", "float64")


def encode(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """A value as JSON; its arrays are appended to `arrays` and follow in that order. Raises TypeError for others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Fraction):
        return {"$": "fraction", "value": str(value)}
    if isinstance(value, Path):
        return {"$": "path", "value": str(value)}
    if isinstance(value, TimeMap):
        return {"$": "time_map", "value": value.to_list()}
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value))
        return {"$": "array", "dtype": value.dtype.name, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {"$": "map", "value": {str(key): encode(item, arrays) for key, item in value.items()}}
    if isinstance(value, tuple | list):
        return {"$": type(value).__name__, "value": [encode(item, arrays) for item in value]}
    if type(value).__name__ in _CLASSES:
        fields = {item.name: encode(getattr(value, item.name), arrays) for item in dataclasses.fields(value)}
        return {"$": type(value).__name__, "value": fields}
    raise TypeError(f"a {type(value).__name__} cannot be handed to a reading process")


def decode(value: Any, stream: BinaryIO) -> Any:
    """The value of `encode`, its arrays read from the stream. Raises ValueError for anything else."""
    if not isinstance(value, dict):
        return value
    kind: Any = value.get("$")
    inside: Any = value.get("value")
    if kind == "fraction":
        return Fraction(inside)
    if kind == "path":
        return Path(inside)
    if kind == "time_map":
        return TimeMap.from_list(inside)
    if kind == "array":
        return _array(value, stream)
    if kind == "map" and isinstance(inside, dict):
        return {key: decode(item, stream) for key, item in inside.items()}
    if kind in ("tuple", "list") and isinstance(inside, list):
        items = [decode(item, stream) for item in inside]
        return tuple(items) if kind == "tuple" else items
    if kind in _CLASSES and isinstance(inside, dict):
        made = getattr(importlib.import_module(_CLASSES[kind]), kind)
        return made(**{key: decode(item, stream) for key, item in inside.items()})
    raise ValueError(f"an unknown value {kind!r}")


def _array(value: dict[str, Any], stream: BinaryIO) -> NDArray[Any]:
    shape = [int(side) for side in value["shape"]]
    if value["dtype"] not in _DTYPES or any(side < 0 for side in shape):
        raise ValueError("an array of an unknown kind")
    dtype = np.dtype(value["dtype"])
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST_ARRAY:
        raise ValueError(f"an array of {size} bytes")
    found = np.empty(shape, dtype)
    rest = memoryview(cast(Any, found)).cast("B") if size else memoryview(b"")
    while len(rest):
        count = stream.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("an array that ends too early")
        rest = rest[count:]
    return found
