"""Lets a torchvision built for CUDA be imported beside a CPU-only torch.

The published torchvision wheel links CUDA libraries. Beside a CPU build of torch its `_C` library does not load, the
operator `torchvision::nms` is never registered, and importing torchvision raises. The hook acts only when torchvision is
really imported: where `_C` cannot be loaded it registers the two operator schemas that torchvision's Python code
refers to, so that everything else of torchvision works. With a matching pair, or without torchvision, it does nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_libraries: list[Any] = []


def define_missing_operators(location: str) -> bool:
    """Register `nms` and `qnms` when torchvision's `_C` under `location` cannot be loaded. True when it was needed."""
    from pathlib import Path

    import torch

    extension = next(iter(sorted(Path(location).glob("_C*.so")) + sorted(Path(location).glob("_C*.pyd"))), None)
    try:
        if extension is not None:
            torch.ops.load_library(str(extension))
            return False
    except OSError:
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(schema)
    _libraries.append(library)  # the registration lives as long as the library object
    return True


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Sees the first import of torchvision, prepares the operators, and steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.submodule_search_locations:
            define_missing_operators(next(iter(spec.submodule_search_locations)))
        return None


def install() -> None:
    """Install the hook once. Cheap: nothing is imported until somebody imports torchvision."""
    if "torchvision" in sys.modules or any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _TorchvisionFinder())
