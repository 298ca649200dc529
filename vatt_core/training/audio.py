"""Training of the audio transformer in VATT's two stages: dummy instructions, then captions (reference 5).

The condition comes from the frozen converter; the codes are those of the true sound. Augmentation follows reference
5.4, on any timing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.configuration import FillOrder
from vatt_core.model.converter import Converter
from vatt_core.model.masking import (
    IGNORED,
    MaskedCodes,
    RatioDistribution,
    TruncatedNormalRatio,
    mask_coarse_first,
    mask_joint,
    masked_loss,
)
from vatt_core.model.text import encode_prompts
from vatt_core.timing import Timing, exact_division
from vatt_core.training.data import CUT_SHARE, cut_scenes, draw_cut
from vatt_core.training.loop import StageOptions, TrainingStage
from vatt_core.training.texts import chance, draw, instruction, prompt
from vatt_core.world.scene import Scene

EVENT_SECONDS = 0.12
"""For how long the code frames from an event on count more in the loss, where they do."""


@dataclass(frozen=True)
class Questions:
    """What the audio transformer is asked; by default what VATT was (reference 5.1).

    fill_order: as in decoding; "coarse_first" asks each row for one codebook, drawn by `codebook_weights` (None: equally).
    ratio: how much is hidden. null_condition: share of rows whose condition is dropped, so that decoding can be guided away
    from it. event_weight: how much the code frames from an event on count in the loss; they are a thirtieth of all and
    decide how loud the event is heard, which a small model hardly learns among the decay and hiss of the rest.
    look_alike_weight: how much oftener a clip is drawn whose sound only the words decide.
    """

    fill_order: FillOrder = "joint"
    ratio: RatioDistribution = field(default_factory=TruncatedNormalRatio)
    codebook_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.1
    null_condition: float = 0.1
    event_weight: float = 1.0
    look_alike_weight: float = 1.0

    def ask(self, codes: Tensor, *, mask_token: int, generator: torch.Generator) -> MaskedCodes:
        """One question about each row of `codes` [B, K, T]."""
        if self.fill_order == "joint":
            return mask_joint(codes, mask_token=mask_token, ratio=self.ratio, generator=generator)
        return mask_coarse_first(
            codes, mask_token=mask_token, ratio=self.ratio, generator=generator, weights=self.codebook_weights
        )


class Clip(NamedTuple):
    """What is learnt from: features [F, D], codes [K, T], and how much each code frame counts [T]."""

    features: Tensor
    codes: Tensor
    weights: Tensor

    def rolled(self, frames: int, timing: Timing) -> Clip:
        """Turned in time by a number of frames, circularly. Raises ValueError where they last no whole number of codes."""
        codes = exact_division(frames * timing.code_rate, timing.frame_rate)
        return Clip(
            torch.roll(self.features, frames, 0), torch.roll(self.codes, codes, 1), torch.roll(self.weights, codes, 0)
        )

    def cut_to(self, other: Clip, tokens: int, timing: Timing) -> Clip:
        """The first `tokens` video tokens of this one, then the rest of the other."""
        frame, code = tokens * timing.frames_per_video_token, tokens * timing.codes_per_video_token
        return Clip(
            torch.cat([self.features[:frame], other.features[frame:]]),
            torch.cat([self.codes[:, :code], other.codes[:, code:]], dim=1),
            torch.cat([self.weights[:code], other.weights[code:]]),
        )


def event_weights(scenes: Sequence[Scene], timing: Timing, weight: float) -> Tensor:
    """How much each code frame counts in the loss, float32 [N, T]: 1, or `weight` from an event on."""
    weights = torch.ones(len(scenes), timing.code_frames)
    for row, scene in enumerate(scenes):
        for time in scene.event_times:
            first = int(time * timing.code_rate)
            weights[row, first : first + round(EVENT_SECONDS * timing.code_rate)] = weight
    return weights


class AudioStage(TrainingStage):
    """One stage. codes: int16 [N, K, T]. features: float [N, F, D]. captions: prompts are what is true of the sound,
    one in eight a dummy instruction; otherwise dummy instructions alone."""

    def __init__(
        self,
        name: str,
        codes: Tensor,
        features: Tensor,
        scenes: Sequence[Scene],
        timing: Timing,
        transformer: AudioTransformer,
        converter: Converter,
        tokenizer: PreTrainedTokenizerBase,
        options: StageOptions,
        *,
        captions: bool,
        batch: int = 8,
        questions: Questions | None = None,
    ) -> None:
        self.name = name
        self.codes, self.features, self.scenes, self.timing = codes, features, scenes, timing
        self.transformer, self.converter, self.tokenizer = transformer, converter, tokenizer
        self.options, self.captions, self.batch = options, captions, batch
        self.questions = questions or Questions()
        # Clips are rolled by frames, as VATT's were, or by video tokens where a frame lasts no whole number of codes.
        self.roll_step = 1 if timing.code_rate % timing.frame_rate == 0 else timing.frames_per_video_token
        self.events = event_weights(scenes, timing, self.questions.event_weight)
        self.singles = [row for row, scene in enumerate(scenes) if scene.layout == "single"]
        look_alike = torch.tensor(
            [any("material" in source.attributes for source in scene.sources) for scene in scenes]
        )
        self.weights = torch.where(look_alike, self.questions.look_alike_weight, 1.0)

    def modules(self) -> dict[str, nn.Module]:
        return {"audio_transformer": self.transformer}

    def trainable(self) -> Iterable[nn.Parameter]:
        return [parameter for parameter in self.transformer.parameters() if parameter.requires_grad]

    def _clip(self, index: int) -> Clip:
        # Features are kept in half precision, which the CPU's autocast takes for none of its own and refuses to cut and roll.
        return Clip(self.features[index].float(), self.codes[index], self.events[index])

    def _row(self, index: int, generator: torch.Generator) -> tuple[Clip, str]:
        """One row, augmented, and its prompt."""
        clip, scene, timing = self._clip(index), self.scenes[index], self.timing
        dummy = not self.captions or chance(generator, 0.125)
        share = float(torch.rand((), generator=generator))
        if dummy and share < 0.5:
            other = draw(generator, len(self.scenes))
            per_second = int(timing.video_token_rate)
            at = per_second * (1 + draw(generator, int(timing.window) - 2))
            clip = clip.cut_to(self._clip(other), at, timing)
        elif scene.layout == "single" and share < CUT_SHARE:
            other = self.singles[draw(generator, len(self.singles))]
            at = draw_cut(timing, generator)
            clip = clip.cut_to(self._clip(other), at, timing)
            scene = cut_scenes(scene, self.scenes[other], at / float(timing.video_token_rate))
        elif share > 0.5 and (dummy or scene.layout != "two_scenes"):
            clip = clip.rolled(self.roll_step * draw(generator, timing.frames // self.roll_step), timing)
        return clip, instruction(generator) if dummy else prompt(scene, generator)

    @torch.no_grad()
    def _condition(self, features: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """States [B, S, H] and pad mask [B, S] of the frozen converter."""
        ids, mask = (t.to(features.device) for t in encode_prompts(self.tokenizer, prompts, self.converter.config))
        states = self.converter.encode_all_states(features, ids, mask).float()
        return states, functional.pad(mask, (states.shape[1] - ids.shape[1], 0), value=1)

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        device = self.transformer.codebooks.device
        rows = [
            self._row(index, generator)
            for index in torch.multinomial(self.weights, self.batch, replacement=True, generator=generator).tolist()
        ]
        features, codes, weights = (
            torch.stack(parts).to(device) for parts in zip(*(clip for clip, _ in rows), strict=True)
        )
        codes = codes.long()
        states, pad_mask = self._condition(features, [text for _, text in rows])
        asked = self.questions.ask(codes, mask_token=self.timing.mask, generator=generator)
        dropped = (torch.rand(self.batch, generator=generator) < self.questions.null_condition).to(device)
        logits = self.transformer(asked.codes, states, pad_mask, drop_condition=dropped, codebooks=asked.codebooks)
        loss = masked_loss(logits, asked.targets, label_smoothing=self.questions.label_smoothing, weights=weights)
        figures = {"loss": loss}
        with torch.no_grad():
            # The figure to watch: the first codebook with a condition, mostly hidden.
            hidden = (asked.targets != IGNORED).float().mean((1, 2))
            first = (asked.codebooks == 0) & ~dropped & (hidden > 0.9) if asked.codebooks is not None else ~dropped
            if bool(first.any()):
                self._first = masked_loss(logits[first], asked.targets[first], label_smoothing=0.0).detach()
        figures["first_codebook"] = getattr(self, "_first", loss.detach())
        return figures
