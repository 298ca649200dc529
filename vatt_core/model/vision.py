"""The image tower: frames of a clip become one feature vector each (reference 1.1).

Any tower of open_clip fits, by name (official: EVA02-L-14-336) or by a configuration of open_clip's own form. Only the
visual half is kept. The weights of a new tower are random: a trained one comes from `model/folder.py`, which refuses
a folder without them.
"""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from vatt_core.errors import BadModel
from vatt_core.model.configuration import View, VisionConfig

_NO_TEXT: dict[str, Any] = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def _open_clip_settings(config: VisionConfig) -> dict[str, Any]:
    if config.open_clip_model is not None:
        return copy.deepcopy(config.open_clip_model)
    settings = open_clip.get_model_config(config.name)
    if settings is None:
        raise BadModel(
            f"open_clip knows no image tower named {config.name!r}; give `open_clip_model` in the vision configuration"
        )
    return settings


def build_tower(config: VisionConfig) -> nn.Module:
    """The visual half of the configured open_clip model, with random weights.

    The text half is replaced by the smallest one that open_clip accepts and is thrown away, so that a large model's
    text tower is never allocated. Raises BadModel for an unknown name or settings that open_clip refuses.
    """
    settings = _open_clip_settings(config)
    try:
        vision = {**settings["vision_cfg"], "image_size": config.image_size}
        if vision.get("timm_model_name"):
            vision["timm_model_pretrained"] = False
        whole = open_clip.CLIP(
            embed_dim=settings["embed_dim"],
            vision_cfg=vision,
            text_cfg=dict(_NO_TEXT),
            quick_gelu=bool(settings.get("quick_gelu", False)),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BadModel(f"open_clip cannot build the image tower {config.name!r}: {error}") from error
    if settings["embed_dim"] != config.feature_dim:
        raise BadModel(
            f"the image tower {config.name!r} gives {settings['embed_dim']} features, the configuration says "
            f"{config.feature_dim}; correct `feature_dim`"
        )
    return whole.visual


class VisionTower(nn.Module):
    """Frames -> features, by the configuration's preprocessing and tower. `feature_dim` is D."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.feature_dim
        self.visual = build_tower(config)
        # Scaled to bytes, so that one subtraction and one division do the whole normalisation.
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1) * 255, persistent=False)

    def preprocess(self, frames: Tensor) -> Tensor:
        """Shortest side to `image_size` (antialiased), centre crop, normalise.

        frames: [N, H, W, 3] uint8 RGB. Returns [N, 3, S, S] in the tower's dtype, on the tower's device.
        Resampling gives bytes, as the PIL pipeline of open_clip does.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(f"frames must be uint8 [N, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        size = self.config.image_size
        pixels = frames.permute(0, 3, 1, 2)  # [N, 3, H, W]
        height, width = pixels.shape[-2:]
        if min(height, width) != size:
            target = [size * side // min(height, width) for side in (height, width)]
            # On the CPU torch resamples bytes as PIL does; elsewhere in float32, rounded, at most a few levels off.
            source = pixels if pixels.device.type == "cpu" else pixels.float()
            pixels = functional.interpolate(
                source, target, mode=self.config.interpolation, align_corners=False, antialias=True
            )
            pixels = pixels.round().clamp(0, 255) if pixels.is_floating_point() else pixels
            height, width = target
        top, left = round((height - size) / 2), round((width - size) / 2)
        pixels = pixels[..., top : top + size, left : left + size]  # [N, 3, S, S]
        pixels = pixels.to(self.mean.device).float()
        return ((pixels - self.mean) / self.std).to(next(self.visual.parameters()).dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [N, 3, S, S] from :meth:`preprocess`. Returns features [N, D]."""
        features = self.visual(pixels)
        return functional.normalize(features, dim=-1) if self.config.normalise else features

    @torch.no_grad()
    def encode(self, frames: Tensor, *, batch_size: int = 50) -> Tensor:
        """frames: [N, H, W, 3] uint8. Returns features [N, D] float32, the mean over the configured views, computed `batch_size`
        frames at a time."""
        if len(frames) == 0:
            return torch.zeros(0, self.feature_dim, device=self.mean.device)
        return torch.cat([self._looked_at(self.preprocess(part)) for part in frames.split(batch_size)])

    def _looked_at(self, pixels: Tensor) -> Tensor:
        """The mean of the features in each view, float32 [N, D], of pixels [N, 3, S, S]."""
        views = self.config.views
        total = self(_turned(pixels, views[0])).float()
        for view in views[1:]:
            total += self(_turned(pixels, view)).float()
        return total / len(views)


def _turned(pixels: Tensor, view: View) -> Tensor:
    """pixels [N, 3, S, S] as a view shows them."""
    shown = pixels.flip(-1) if view.mirrored else pixels
    return shown.roll((view.down, view.right), (-2, -1)) if view.down or view.right else shown
