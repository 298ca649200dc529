"""Imports of official files, as the tests ask for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vatt_core.errors import BadModel, VattError
from vatt_core.weights.importing import ImportOptions, ImportReport, import_model

LLAMA_T = "vatt_models/vatt_llama_T_final.ckpt"
GEMMA_T = "vatt_models/vatt_gemma_T_final.ckpt"


def run(release: Path, name: str = "vatt-llama-t", *, folder: Path | None = None, **options: Any) -> ImportReport:
    family: Any = "gemma" if "gemma" in name else "llama"
    target = folder or release.parent / "models" / name
    return import_model(
        name,
        [release],
        folder=target,
        family=family,
        text_steered=name.endswith("-t"),
        options=ImportOptions(**options),
    )


def refused(release: Path, name: str = "vatt-llama-t", kind: type[VattError] = BadModel, **options: Any) -> VattError:
    """The error of an import, which must have left nothing behind."""
    with pytest.raises(kind) as caught:
        run(release, name, **options)
    models = release.parent / "models"
    assert not models.exists() or not list(models.iterdir())
    return caught.value


def change(path: Path, action: Callable[[dict[str, Any]], None]) -> None:
    """Load a file of torch, change its state dict, save it again."""
    content = torch.load(path, weights_only=True)
    action(content.get("state_dict", content))
    torch.save(content, path)


def drop(part: str) -> Callable[[dict[str, Any]], None]:
    def action(state: dict[str, Any]) -> None:
        keys = [key for key in state if part in key]
        assert keys
        for key in keys:
            del state[key]

    return action
