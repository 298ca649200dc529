"""The image tower out of open_clip weights: the visual half, by the names that it has here (reference 1.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.model.configuration import VisionConfig
from vatt_core.weights.importing.reading import read_tensors

CONFIG = "open_clip_config.json"
_VISUAL = "visual."


def read_vision(
    path: Path, *, normalise: bool = False, trust: bool = False
) -> tuple[VisionConfig, dict[str, Tensor], list[str]]:
    """Configuration, tensors and ignored keys of a file of open_clip weights.

    What the tower is says the `open_clip_config.json` beside it; without one it is EVA02-L-14-336. Raises BadModel.
    """
    config = VisionConfig(normalise=normalise)
    described = path.with_name(CONFIG)
    if described.is_file():
        config = _described(described, normalise=normalise)
    tensors = read_tensors(path, trust=trust)
    visual = {key: value for key, value in tensors.items() if key.startswith(_VISUAL)}
    if not visual:
        raise BadModel(
            f"{path} holds no image tower (no key begins with {_VISUAL}); name the weights that open_clip publishes for "
            "EVA02-L-14-336 merged2b_s6b_b61k",
            file=str(path),
        )
    return config, visual, sorted(set(tensors) - set(visual))


def _described(path: Path, *, normalise: bool) -> VisionConfig:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model, prepare = values["model_cfg"], values.get("preprocess_cfg", {})
        size = model["vision_cfg"].get("image_size", 224)
        released = VisionConfig()
        vision = model["vision_cfg"]
        known = vision.get("timm_model_name") == "eva02_large_patch14_clip_336" and size == released.image_size
        return VisionConfig(
            name=released.name if known else str(vision.get("timm_model_name", "open_clip tower")),
            open_clip_model=None if known else model,
            image_size=int(size),
            mean=tuple(prepare.get("mean", released.mean)),
            std=tuple(prepare.get("std", released.std)),
            interpolation=prepare.get("interpolation", "bicubic"),
            feature_dim=int(model["embed_dim"]),
            normalise=normalise,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{path} is no configuration of open_clip ({error}); fetch it again", file=str(path)) from error
