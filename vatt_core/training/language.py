"""Training of the converter: for nano a language model from nothing, then the two sub-stages of VATT.

A full-size converter starts from a pretrained language model that knows the world by words. nano's gets that in
:class:`LanguageStage`: it reads clips as sums of learnt concept vectors in the place of the video tokens and says what they
show. The sub-stages of VATT (reference 7.5) follow on real features: :class:`ConverterStage` with the projection alone,
then with LoRA and the projection.

Two heads that are thrown away keep in the last states what a caption loss alone would let go: the instants of events in the
video slots, with what is seen there, and the words of the prompt in the text slots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from vatt_core.model.converter import IGNORED_LABEL, Converter, ConverterOutput, shifted_cross_entropy
from vatt_core.model.text import encode_example, encode_prompts
from vatt_core.timing import Timing
from vatt_core.training.data import CUT_SHARE, Stretch, cut_scenes, draw_cut
from vatt_core.training.loop import StageOptions, TrainingStage
from vatt_core.training.texts import WORDS, caption, draw, instruction, prompt, words_of
from vatt_core.training.vision import (
    COLOUR_NAMES,
    KIND_NAMES,
    SceneTargets,
    event_agreement,
    event_losses,
    plain_attention,
    scene_targets,
    stretch_targets,
)
from vatt_core.world.kinds import MATERIALS
from vatt_core.world.scene import Scene

STATE_FORCE_WEIGHT = 8.0
"""Of the squared error of an event's force beside its presence: what the states do not tell, no soundtrack can follow."""


class AttributeHeads(nn.Module):
    """Thrown away after training. What each video token shows: kinds, and of each thing its colour and second attribute."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        kinds = len(KIND_NAMES)
        self.kinds = nn.Linear(hidden, kinds)
        self.colours = nn.Linear(hidden, kinds * len(COLOUR_NAMES))
        self.values = nn.Linear(hidden, kinds * 2)

    def losses(self, tokens: Tensor, targets: SceneTargets) -> dict[str, tuple[Tensor, Tensor]]:
        """Loss and accuracy of the colour and of the second attribute ("value": speed, size, intensity) of each thing, loss and
        share of tokens whose likeliest kind is there of the kinds; told from tokens [B, V, H]."""
        kinds = self.kinds(tokens)
        share = targets.kinds / targets.kinds.sum(-1, keepdim=True).clamp(min=1)
        right = targets.kinds.gather(-1, kinds.argmax(-1, keepdim=True)).mean()
        found = {"kind": (functional.cross_entropy(kinds.flatten(0, 1), share.flatten(0, 1)), right)}
        for name, head, wanted in (("colour", self.colours, targets.colours), ("value", self.values, targets.values)):
            logits = head(tokens).unflatten(-1, (len(KIND_NAMES), -1)).flatten(0, 2)
            true = wanted.flatten()
            right = (logits.argmax(-1) == true)[true >= 0].float().mean()
            found[name] = functional.cross_entropy(logits, true, ignore_index=-1), right
        return found


class StateHeads(nn.Module):
    """Thrown away after training. What the last states must still know, and what the projected tokens must bring along: with
    two things at once, captions alone hardly teach which of them has which colour."""

    def __init__(self, timing: Timing, hidden: int) -> None:
        super().__init__()
        self.events = nn.Linear(hidden, timing.frames_per_video_token)
        self.strengths = nn.Linear(hidden, timing.frames_per_video_token)
        self.projected = AttributeHeads(hidden)
        self.last = AttributeHeads(hidden)
        self.words = nn.Linear(hidden, len(WORDS))

    def event_loss(self, video_states: Tensor, targets: SceneTargets) -> tuple[Tensor, Tensor]:
        """Loss and frame F1 of events told by the video states [B, V, H]."""
        logits = self.events(video_states).flatten(1)
        presence, force = event_losses(
            logits, self.strengths(video_states).flatten(1), targets.events, targets.strengths
        )
        return presence + STATE_FORCE_WEIGHT * force, event_agreement(logits.detach(), targets.events)

    def word_loss(self, text_states: Tensor, mask: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of the prompt's words, told by the mean of its states [B, L, H]; mask [B, L]."""
        mean = (text_states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        logits, true = self.words(mean), words_of(texts).to(mean.device)
        return functional.binary_cross_entropy_with_logits(logits, true), ((logits > 0) == (true > 0)).float().mean()


class ConceptTable(nn.Module):
    """Stands for a pretrained tower while the language model is learnt: each thing on the screen adds the vectors of its
    kind, colour and second attribute to the video tokens, each event that of its frame. Thrown away afterwards."""

    noise = 0.15

    def __init__(self, timing: Timing, hidden: int) -> None:
        super().__init__()
        kinds = len(KIND_NAMES)
        self.stack = timing.frames_per_video_token
        self.kinds = nn.Parameter(torch.randn(kinds, hidden) * 0.3)
        self.colours = nn.Parameter(torch.randn(kinds, len(COLOUR_NAMES), hidden) * 0.3)
        self.values = nn.Parameter(torch.randn(kinds, 2, hidden) * 0.3)
        self.events = nn.Parameter(torch.randn(self.stack, hidden) * 0.3)

    def forward(self, targets: SceneTargets, generator: torch.Generator) -> Tensor:
        """Video tokens [B, V, H] of the clips that `targets` describe."""
        shown = targets.kinds  # [B, V, kinds]
        colours = functional.one_hot(targets.colours.clamp(min=0), len(COLOUR_NAMES)).float() * shown.unsqueeze(-1)
        values = functional.one_hot(targets.values.clamp(min=0), 2).float() * shown.unsqueeze(-1)
        events = (targets.events * (0.5 + targets.strengths)).unflatten(1, (-1, self.stack))  # [B, V, stack]
        tokens = (
            shown @ self.kinds
            + torch.einsum("bvkc,kch->bvh", colours, self.colours)
            + torch.einsum("bvkc,kch->bvh", values, self.values)
            + events @ self.events
        )
        return tokens + self.noise * torch.randn(tokens.shape, generator=generator).to(tokens.device)


class _CaptionStage(TrainingStage):
    """What both trainings of the converter share: texts of a batch, the losses, the figures."""

    converter: Converter
    tokenizer: PreTrainedTokenizerBase
    heads: StateHeads
    token_weights: Tensor | None = None
    caption_weight: float = 1.0

    def _read(self, video: Tensor, ids: Tensor, mask: Tensor) -> ConverterOutput:
        text = self.converter.llm.get_input_embeddings()(ids)
        with plain_attention(video.device):
            return self.converter.read(torch.cat([video, text], dim=1), ids.shape[1], mask)

    def _losses(
        self, scenes: Sequence[Scene], video: Tensor, targets: SceneTargets, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """video: the clips' tokens [B, V, H] as the language model reads them."""
        device = self.converter.video_proj.weight.device
        config = self.converter.config
        texts = [
            encode_example(self.tokenizer, instruction(generator), caption(scene, generator), config)
            for scene in scenes
        ]
        # Padded after the text, which stands where it will when captions are asked for. With padding before it, every text
        # of a batch ends in the same slot, and a small model learns to count slots instead of looking.
        ids, mask = (tensor.to(device) for tensor in _pad_right(texts))
        output = self._read(video, ids, mask)
        labels = ids.masked_fill(mask == 0, IGNORED_LABEL)
        caption_loss = weighed_cross_entropy(self.converter.text_logits(output), labels, self.token_weights)
        seen = output.last[:, : output.video_slots]
        event_loss, event_f1 = self.heads.event_loss(seen, targets)
        attributes = self.heads.last.losses(seen, targets)
        projected = self.heads.projected.losses(video, targets)
        attribute_loss = sum(loss for one in (attributes, projected) for loss, _ in one.values())

        # Prompts of other clips before this clip's video: the words must come from the text.
        prompts = [prompt(scene, generator) for scene in scenes]
        order = [(i + 1) % len(prompts) if i % 2 else i for i in range(len(prompts))]
        prompts = [prompts[i] for i in order]
        ids, mask = (tensor.to(device) for tensor in encode_prompts(self.tokenizer, prompts, config))
        output = self._read(video, ids, mask)
        word_loss, word_accuracy = self.heads.word_loss(output.last[:, output.video_slots :], mask, prompts)
        return {
            "loss": self.caption_weight * caption_loss + 3 * event_loss + attribute_loss + 3 * word_loss,
            "caption": caption_loss.detach(),
            "event_f1": event_f1,
            **{name: right for name, (_, right) in attributes.items()},
            "projected_colour": projected["colour"][1],
            "words": word_accuracy,
        }


def weighed_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """:func:`shifted_cross_entropy` in which tokens count differently, weights [vocabulary], and which is still least for the
    true distribution: alone, the weights would teach to say what counts more where it could be left out."""
    return shifted_cross_entropy(logits if weights is None else logits + weights.log(), labels, weights)


def seen_word_weights(tokenizer: PreTrainedTokenizerBase, vocabulary: int, weight: float) -> Tensor:
    """How much each token counts in a caption's loss, [vocabulary]: `weight` for the words that tell what is seen, else 1.
    They are a tenth of all tokens; the rest is the instruction and the turns of phrase, which no picture decides."""
    words = [word for word in WORDS if word not in MATERIALS]
    ids = {token for word in words for text in (word, f" {word}") for token in _single_token(tokenizer, text)}
    weights = torch.ones(vocabulary)
    weights[sorted(ids)] = weight
    return weights


def _single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids if len(ids) == 1 else []


def _pad_right(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (ids [B, L] int64, mask [B, L] int64 with 1 at text)."""
    texts = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(texts, batch_first=True), pad_sequence(
        [torch.ones_like(text) for text in texts], batch_first=True
    )


class LanguageStage(_CaptionStage):
    """The tiny language model learns to speak of clips that it is told in concept vectors. Needs no pictures."""

    name = "language"

    def __init__(
        self,
        scenes: Sequence[Scene],
        timing: Timing,
        converter: Converter,
        tokenizer: PreTrainedTokenizerBase,
        options: StageOptions,
        *,
        batch: int = 16,
    ) -> None:
        self.scenes, self.timing, self.options, self.batch = scenes, timing, options, batch
        self.converter, self.tokenizer = converter, tokenizer
        self.device = converter.video_proj.weight.device
        self.concepts = ConceptTable(timing, converter.hidden_size).to(self.device)
        self.heads = StateHeads(timing, converter.hidden_size).to(self.device)
        converter.requires_grad_(True)
        for name, parameter in converter.named_parameters():
            if "lora_" in name or name.startswith("video_proj"):
                parameter.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"converter": self.converter, "concepts": self.concepts, "heads": self.heads}

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(self.scenes), (self.batch,), generator=generator).tolist()
        scenes = [self.scenes[row] for row in rows]
        targets = scene_targets(scenes, self.timing).of(range(len(scenes)), self.device)
        return self._losses(scenes, self.concepts(targets, generator), targets, generator)


class Stretches(NamedTuple):
    """Short parts of clips that are shown over and over until a window is full. features: float [M, frames, D]."""

    features: Tensor
    parts: Sequence[Stretch]


STRETCH_SHARE = 0.25
"""Of the rows, how many show a stretch: many more things than whole clips do, for the time that it takes to draw them."""


class ConverterStage(_CaptionStage):
    """A sub-stage of VATT's converter training on real features. features: float [N, F, D], computed once. stretches: shown in
    STRETCH_SHARE of the rows, where there are any.

    `learn`: regular expression over parameter names; the projection alone (`video_proj`) in sub-stage 1, with LoRA
    (`video_proj|lora_`) in sub-stage 2 (reference 7.5). word_weight: see :func:`seen_word_weights`; 1 in VATT.
    caption_weight: of the loss of captions beside those of the heads on the states.
    """

    def __init__(
        self,
        name: str,
        features: Tensor,
        scenes: Sequence[Scene],
        stretches: Stretches | None,
        timing: Timing,
        converter: Converter,
        tokenizer: PreTrainedTokenizerBase,
        heads: StateHeads,
        options: StageOptions,
        *,
        learn: str,
        batch: int = 16,
        word_weight: float = 1.0,
        caption_weight: float = 1.0,
    ) -> None:
        self.name = name
        self.features, self.scenes, self.timing = features, scenes, timing
        self.options, self.batch, self.learn = options, batch, learn
        self.converter, self.tokenizer, self.heads = converter, tokenizer, heads
        self.caption_weight = caption_weight
        if word_weight != 1:
            self.token_weights = seen_word_weights(tokenizer, converter.llm.config.vocab_size, word_weight).to(
                converter.video_proj.weight.device
            )
        self.targets = scene_targets(scenes, timing)
        self.stretches = stretches
        self.stretch_targets = None if stretches is None else stretch_targets(stretches.parts, timing)
        self.singles = [row for row, scene in enumerate(scenes) if scene.layout == "single"]

    def modules(self) -> dict[str, nn.Module]:
        return {"converter": self.converter, "heads": self.heads}

    def trainable(self) -> Iterable[nn.Parameter]:
        for name, parameter in self.converter.named_parameters():
            parameter.requires_grad_(re.search(self.learn, name) is not None)
        self.heads.requires_grad_(True)
        return super().trainable()

    def _clip(self, row: int, generator: torch.Generator) -> tuple[Scene, Tensor, Tensor]:
        """A clip, often turned in time or cut to another: its scene, and per video token the row and the token that it is
        taken from, int64 [V] each."""
        tokens = self.timing.video_tokens
        rows, order = torch.full((tokens,), row), torch.arange(tokens)
        scene, share = self.scenes[row], float(torch.rand((), generator=generator))
        if scene.layout == "single" and share < CUT_SHARE:
            other = self.singles[draw(generator, len(self.singles))]
            cut = draw_cut(self.timing, generator)
            rows[cut:] = other
            return cut_scenes(scene, self.scenes[other], cut / float(self.timing.video_token_rate)), rows, order
        if scene.layout != "two_scenes" and share > 0.5:
            order = order.roll(draw(generator, tokens))
        return scene, rows, order

    def losses(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        device = self.converter.video_proj.weight.device
        share = 0.0 if self.stretches is None else STRETCH_SHARE
        shown = int((torch.rand(self.batch, generator=generator) < share).sum())
        parts = [
            pick(count, generator)
            for pick, count in ((self._stretches, shown), (self._clips, self.batch - shown))
            if count
        ]
        scenes = [scene for some, _, _ in parts for scene in some]
        features = torch.cat([features for _, features, _ in parts]).to(device)
        targets = SceneTargets(
            *(torch.cat([getattr(one, field.name) for _, _, one in parts]).to(device) for field in fields(SceneTargets))
        )
        return self._losses(
            scenes, self.converter.embed_video(features) * self.converter.video_scale, targets, generator
        )

    def _clips(self, count: int, generator: torch.Generator) -> tuple[list[Scene], Tensor, SceneTargets]:
        """Some clips: scenes, features [count, F, D] and targets."""
        chosen = torch.randint(len(self.scenes), (count,), generator=generator).tolist()
        clips = [self._clip(row, generator) for row in chosen]
        rows, order = (torch.stack(parts) for parts in list(zip(*clips, strict=True))[1:])
        found = self._tokens(self.features, self.targets, rows, order)
        return [scene for scene, _, _ in clips], *found

    def _stretches(self, count: int, generator: torch.Generator) -> tuple[list[Scene], Tensor, SceneTargets]:
        """Some stretches, each from a token of its own on and over and over."""
        assert self.stretches is not None and self.stretch_targets is not None
        chosen = torch.randint(len(self.stretches.parts), (count,), generator=generator)
        length = self.stretch_targets.kinds.shape[1]
        order = torch.arange(self.timing.video_tokens) + torch.randint(length, (count, 1), generator=generator)
        rows = chosen[:, None].expand_as(order)
        found = self._tokens(self.stretches.features, self.stretch_targets, rows, order % length)
        return [self.stretches.parts[row].scene for row in chosen.tolist()], *found

    def _tokens(
        self, features: Tensor, targets: SceneTargets, rows: Tensor, order: Tensor
    ) -> tuple[Tensor, SceneTargets]:
        """Features [B, F, D] and targets of windows put together from tokens, see `SceneTargets.of_tokens`."""
        stacked = features.unflatten(1, (-1, self.timing.frames_per_video_token))  # [N, V, stack, D]
        return stacked[rows, order].flatten(1, 2).float(), targets.of_tokens(rows, order, torch.device("cpu"))
