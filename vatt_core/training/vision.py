"""Training of nano's image tower: what is seen, and when something happens.

Full-size towers come pretrained. A tiny one is taught here by heads that are thrown away: per video token which kinds
are on the screen, with which visible attributes, at which frames an event falls and how strong it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import wraps
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vatt_core.model.vision import VisionTower
from vatt_core.timing import Timing
from vatt_core.training.data import Stretch, event_targets
from vatt_core.training.loop import StageOptions, TrainingStage
from vatt_core.world.kinds import COLOURS, KINDS
from vatt_core.world.scene import Scene

Result = TypeVar("Result")

KIND_NAMES = tuple(KINDS)
COLOUR_NAMES = tuple(COLOURS)


FORCE_WEIGHT = 25.0
"""Of the squared error of an event's force in the tower's loss. Forces lie within half of one another, so that their squared
error is a twentieth of the other losses before anything is learnt; with weight 1 the tower hardly looked for them."""


@dataclass(frozen=True)
class SceneTargets:
    """What the heads must say, per clip and video token (V of them), F frames.

    kinds: float32 [N, V, kinds] 1 where the kind is on the screen. colours, values: int64 [N, V, kinds], -1 where the
    kind is absent. events, strengths: float32 [N, F].
    """

    kinds: Tensor
    colours: Tensor
    values: Tensor
    events: Tensor
    strengths: Tensor

    def of(self, rows: Sequence[int], device: torch.device) -> SceneTargets:
        """Those of some clips, on a device."""
        return SceneTargets(*(getattr(self, field.name)[list(rows)].to(device) for field in fields(self)))

    def of_tokens(self, rows: Tensor, order: Tensor, device: torch.device) -> SceneTargets:
        """Those of clips put together from tokens: token v of clip b is order[b, v] of row rows[b, v]; int64 [B, V]."""
        tokens = self.kinds.shape[1]

        def pick(target: Tensor) -> Tensor:
            if target.ndim == 3:
                return target[rows, order]
            return target.unflatten(1, (tokens, -1))[rows, order].flatten(1)

        return SceneTargets(*(pick(getattr(self, field.name)).to(device) for field in fields(self)))


def scene_targets(scenes: Sequence[Scene], timing: Timing) -> SceneTargets:
    tokens = timing.video_tokens
    kinds = np.zeros((len(scenes), tokens, len(KIND_NAMES)), np.float32)
    colours = np.full((len(scenes), tokens, len(KIND_NAMES)), -1, np.int64)
    values = np.full_like(colours, -1)
    for row, scene in enumerate(scenes):
        for shot in scene.shots:
            first = round(shot.start * float(timing.video_token_rate))
            last = round(shot.end * float(timing.video_token_rate))
            for source in shot.sources:
                index = KIND_NAMES.index(source.kind)
                definition = KINDS[source.kind]
                kinds[row, first:last, index] = 1
                colours[row, first:last, index] = COLOUR_NAMES.index(source.attributes["colour"])
                values[row, first:last, index] = definition.values.index(source.attributes[definition.attribute])
    events, strengths = event_targets(scenes, timing)
    return SceneTargets(*(torch.from_numpy(array) for array in (kinds, colours, values, events, strengths)))


def stretch_targets(stretches: Sequence[Stretch], timing: Timing) -> SceneTargets:
    """Those of stretches of one length: V is their tokens, F their frames."""
    found = []
    for one in stretches:
        tokens = torch.arange(one.first, one.first + one.tokens)[None]
        rows = torch.zeros_like(tokens)
        found.append(scene_targets([one.scene], timing).of_tokens(rows, tokens, torch.device("cpu")))
    return SceneTargets(*(torch.cat([getattr(one, field.name) for one in found]) for field in fields(SceneTargets)))


class SceneHeads(nn.Module):
    """Thrown away after training. Features of consecutive frames, stacked per video token.

    What something is must be told from its own token. When it happens, how hard, how fast and how large may be told from
    the tokens around it as well: whatever uses the tower reads them all, and a bounce is seen by what comes before and after.
    """

    def __init__(self, timing: Timing, feature_dim: int, *, width: int = 160) -> None:
        super().__init__()
        self.stack = timing.frames_per_video_token
        kinds = len(KIND_NAMES)
        self.direct = nn.Linear(feature_dim * self.stack, width)
        self.context = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.kinds = nn.Linear(width, kinds)
        self.colours = nn.Linear(width, kinds * len(COLOUR_NAMES))
        self.values = nn.Linear(2 * width, kinds * 2)
        self.events = nn.Linear(2 * width, self.stack)
        self.strengths = nn.Linear(2 * width, self.stack)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """features [B, F, D] -> kinds [B, V, kinds], colours [B, V, kinds, 5], values [B, V, kinds, 2], events and
        strengths [B, F]."""
        batch, frames, dim = features.shape
        hidden = self.direct(features.reshape(batch, frames // self.stack, self.stack * dim))  # [B, V, width]
        inner = functional.gelu(hidden)
        both = torch.cat([inner, self.context(inner)[0]], dim=-1)
        kinds = len(KIND_NAMES)
        return {
            "kinds": self.kinds(hidden),
            "colours": self.colours(hidden).unflatten(-1, (kinds, len(COLOUR_NAMES))),
            "values": self.values(both).unflatten(-1, (kinds, 2)),
            "events": self.events(both).flatten(1),
            "strengths": self.strengths(both).flatten(1),
        }


def in_full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """The same function outside of mixed precision: bfloat16 gradients of convolutions are wrong on some CPUs."""

    @wraps(function)
    def wrapped(*arguments: Tensor) -> Result:
        with torch.autocast(arguments[0].device.type, enabled=False):
            return function(*arguments)

    return wrapped


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU the fused attention's backward pass in bfloat16 takes ten times the time of plain products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def event_losses(events: Tensor, strengths: Tensor, target: Tensor, target_strength: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of event presence, and squared error of the strength where there is an event; [B, F] each."""
    presence = functional.binary_cross_entropy_with_logits(events, target, pos_weight=events.new_tensor(4.0))
    force = ((strengths - target_strength).square() * target).sum() / target.sum().clamp(min=1)
    return presence, force


def event_agreement(logits: Tensor, target: Tensor) -> Tensor:
    """F1 of frames: an event counts as found when the frame or a neighbour is above one half."""
    found, true = (logits > 0).float(), target
    wide_found = functional.max_pool1d(found[:, None], 3, 1, 1)[:, 0]
    wide_true = functional.max_pool1d(true[:, None], 3, 1, 1)[:, 0]
    recall = (wide_found * true).sum() / true.sum().clamp(min=1)
    precision = (wide_true * found).sum() / found.sum().clamp(min=1)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-6)


class VisionStage(TrainingStage):
    """Train the tower on stretches of clips. frames: uint8 [N, F, S, S, 3], those of each stretch.

    Many short stretches teach more than few long ones, as the frames of one clip look much alike; but they are long enough
    to see where something comes from and goes to.
    """

    name = "vision"

    def __init__(
        self,
        frames: NDArray[np.uint8],
        stretches: Sequence[Stretch],
        timing: Timing,
        tower: VisionTower,
        options: StageOptions,
        *,
        batch: int = 24,
    ) -> None:
        self.frames, self.options, self.tower, self.batch = frames, options, tower, batch
        self.targets = stretch_targets(stretches, timing)
        self.heads = SceneHeads(timing, tower.feature_dim).to(tower.mean.device)
        for module in tower.modules():
            if isinstance(module, nn.Conv2d):
                module.forward = in_full_precision(module.forward)  # type: ignore[method-assign]

    def modules(self) -> dict[str, nn.Module]:
        return {"tower": self.tower, "heads": self.heads}

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(self.frames), (self.batch,), generator=generator).tolist()
        pixels = torch.from_numpy(np.stack([self.frames[row] for row in rows]))
        pixels = augment(pixels, generator).to(self.tower.mean.device)
        with plain_attention(pixels.device):
            features = self.tower(self.tower.preprocess(pixels.flatten(0, 1))).unflatten(0, (self.batch, -1))
        said = in_full_precision(self.heads)(features.float())
        targets = self.targets.of(rows, features.device)
        kinds, colours, values = targets.kinds, targets.colours, targets.values
        # Not one yes or no per kind: with twelve of them, "no" to all is a comfortable answer for very long.
        share = kinds / kinds.sum(-1, keepdim=True).clamp(min=1)
        kind_loss = functional.cross_entropy(said["kinds"].flatten(0, 1), share.flatten(0, 1))
        colour_loss = functional.cross_entropy(said["colours"].flatten(0, 2), colours.flatten(), ignore_index=-1)
        value_loss = functional.cross_entropy(said["values"].flatten(0, 2), values.flatten(), ignore_index=-1)
        presence, force = event_losses(said["events"], said["strengths"], targets.events, targets.strengths)
        with torch.no_grad():
            shown = colours >= 0
            colour_right = (said["colours"].argmax(-1) == colours)[shown].float().mean()
            value_right = (said["values"].argmax(-1) == values)[shown].float().mean()
            kind_right = kinds.gather(-1, said["kinds"].argmax(-1, keepdim=True)).mean()
        return {
            "loss": kind_loss + colour_loss + value_loss + 5 * presence + FORCE_WEIGHT * force,
            "kind": kind_right,
            "colour": colour_right,
            "value": value_right,
            "event_f1": event_agreement(said["events"].detach(), targets.events),
            "force_error": force.detach().sqrt(),
        }


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the clips and shift each by up to 3 pixels, all frames of a clip alike. uint8 [B, F, S, S, 3]."""
    result = []
    for clip in pixels:
        if torch.rand((), generator=generator) < 0.5:
            clip = clip.flip(2)
        down, right = (int(n) for n in torch.randint(-3, 4, (2,), generator=generator))
        result.append(torch.roll(clip, (down, right), (1, 2)))
    return torch.stack(result)
