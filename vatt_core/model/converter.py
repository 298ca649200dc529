"""The VATT Converter: a language model that reads the video and a text (reference 2, 7.3, 15).

One class for both families: what differs between Llama and Gemma is the class of transformers and the scale of the
video part. Video slots come first, left padding lies between video and text, positions are 0 … n-1 for every row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from vatt_core.errors import BadModel
from vatt_core.model.captioning import Caption, SamplingSettings, sample_captions
from vatt_core.model.configuration import ConverterConfig
from vatt_core.timing import Timing

IGNORED_LABEL = -100


@dataclass(frozen=True)
class ConverterOutput:
    """One pass. V video slots (0 without video), L text slots, H hidden size.

    last: [B, V+L, H] after the final norm. condition: [B, V+L, H] what the audio transformer is given (the same
    tensor unless `text_state_layer` is set).
    """

    last: Tensor
    condition: Tensor
    video_slots: int


def _build_language_model(config: ConverterConfig) -> PreTrainedModel:
    # transformers writes into the configuration that it is given.
    arguments: dict[str, Any] = copy.deepcopy(config.llm)
    try:
        if config.family == "gemma":
            return GemmaForCausalLM(GemmaConfig(**arguments))
        if config.family == "llama":
            return LlamaForCausalLM(LlamaConfig(**arguments))
    except (TypeError, ValueError, LookupError, ArithmeticError, StrictDataclassError) as error:
        raise BadModel(f"transformers cannot build the {config.family} of this configuration: {error}") from error
    raise BadModel(f"a converter is of the family 'llama' or 'gemma', not {config.family!r}")


class Converter(nn.Module):
    """Video features and token ids -> states, logits, captions. New instances have random weights.

    feature_dim: D of the frame features. hidden_size: H of the states. Raises BadModel for a configuration that
    transformers or peft refuse.
    """

    def __init__(self, config: ConverterConfig, timing: Timing, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.timing = timing
        self.llm = _build_language_model(config)
        if config.lora is not None:
            adapter = LoraConfig(
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,
                lora_dropout=config.lora.dropout,
                target_modules=list(config.lora.targets),
                bias="none",
            )
            try:
                inject_adapter_in_model(adapter, self.llm)
            except ValueError as error:
                raise BadModel(f"LoRA cannot be put on {list(config.lora.targets)}: {error}") from error
            # peft freezes what it adapts; which parameters learn is the trainer's choice.
            self.llm.requires_grad_(True)
        self.hidden_size = int(self.llm.config.hidden_size)
        stacked = timing.frames_per_video_token if config.pooling == "stack" else 1
        self.video_proj = nn.Linear(feature_dim * stacked, self.hidden_size)
        # Gemma scales by sqrt(H) inside its embedding table; the official code scales the video part as well.
        self.video_scale = math.sqrt(self.hidden_size) if config.family == "gemma" else 1.0
        layers = int(self.llm.config.num_hidden_layers)
        if config.text_state_layer is not None and not 0 <= config.text_state_layer <= layers:
            raise BadModel(f"text_state_layer {config.text_state_layer} is outside 0 … {layers}")

    def pool(self, features: Tensor) -> Tensor:
        """Frame features [B, F, D] -> one vector per video token, [B, V, D] or, stacked, [B, V, D * frames].

        F frames must fill the window: a clip that is shorter holds its last frame before it comes here.
        """
        batch, frames, dim = features.shape
        if frames != self.timing.frames:
            raise ValueError(f"the converter reads exactly {self.timing.frames} frame features, got {frames}")
        if self.config.pooling == "stack":
            return features.reshape(batch, self.timing.video_tokens, self.timing.frames_per_video_token * dim)
        return mean_pool(features, self.timing.video_tokens)

    def embed_video(self, features: Tensor) -> Tensor:
        """Frame features [B, F, D] -> projected video tokens [B, V, H], before Gemma's scale."""
        return self.video_proj(self.pool(features.to(self.video_proj.weight.dtype)))

    def embed(self, features: Tensor | None, ids: Tensor) -> Tensor:
        """The language model's input: concat(video, text), [B, V+L, H]. Without features: text alone, [B, L, H].

        One clip may stand before several texts: features [1, F, D] with ids [B, L].
        """
        text = self.llm.get_input_embeddings()(ids)
        if features is None:
            return text
        video = self.embed_video(features) * self.video_scale
        return torch.cat([video.expand(len(ids), -1, -1), text], dim=1)

    def forward(self, features: Tensor | None, ids: Tensor, mask: Tensor | None = None) -> ConverterOutput:
        """features [B, F, D] or None, ids [B, L], mask [B, L] (1 at text, 0 at padding; None: all text)."""
        return self.read(self.embed(features, ids), ids.shape[1], mask)

    def read(self, embedded: Tensor, text_slots: int, mask: Tensor | None = None) -> ConverterOutput:
        """A pass over input that is embedded already: [B, V+L, H] with L = text_slots, mask [B, L] as in forward."""
        video_slots = embedded.shape[1] - text_slots
        if mask is not None:
            mask = functional.pad(mask.long(), (video_slots, 0), value=1)  # [B, V+L]
        layer = self.config.text_state_layer
        out = self.llm.model(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=torch.arange(embedded.shape[1], device=embedded.device)[None],
            output_hidden_states=layer is not None,
            use_cache=False,
        )
        last = condition = out.last_hidden_state
        if layer is not None:
            condition = torch.cat([last[:, :video_slots], out.hidden_states[layer][:, video_slots:]], dim=1)
        return ConverterOutput(last=last, condition=condition, video_slots=video_slots)

    def encode_all_states(self, features: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The condition of the audio transformer, [B, V+L, H] (reference 2.1; `text_state_layer` for the text slots).

        Rows of padding are computed too and mean nothing.
        """
        return self(features, ids, mask).condition

    def text_logits(self, output: ConverterOutput) -> Tensor:
        """Logits of the text slots of a pass, [B, L, vocabulary]."""
        return self.llm.lm_head(output.last[:, output.video_slots :])

    def logits(self, features: Tensor | None, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the text slots, [B, L, vocabulary]."""
        return self.text_logits(self(features, ids, mask))

    def caption_loss(
        self, features: Tensor | None, ids: Tensor, mask: Tensor | None = None, *, labels: Tensor | None = None
    ) -> Tensor:
        """Shifted cross entropy over the text, a scalar (reference 7.5: prompt, answer and end all count).

        labels [B, L]: ids with IGNORED_LABEL where nothing is learnt; None: everything but the padding.
        """
        if labels is None:
            labels = ids if mask is None else ids.masked_fill(mask == 0, IGNORED_LABEL)
        return shifted_cross_entropy(self.logits(features, ids, mask), labels)

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        end = self.llm.config.eos_token_id
        return frozenset(end if isinstance(end, list | tuple) else [] if end is None else [end])

    @torch.no_grad()
    def generate_captions(
        self,
        features: Tensor,
        prompt_ids: Sequence[int],
        *,
        count: int = 1,
        settings: SamplingSettings | None = None,
        seed: int = 0,
    ) -> list[list[Caption]]:
        """Ask every clip the same prompt; `count` sampled answers each, all in one batch.

        features: [B, F, D]. prompt_ids: unpadded ids without an end token. settings None: those of the official
        evaluation (reference 7.3). Answer i of a clip depends on the clip, `seed` and i alone, not on the other clips
        or on `count`; global random state is neither read nor changed.
        """
        return sample_captions(
            self, features, prompt_ids, count=count, settings=settings or SamplingSettings(), seed=seed
        )


def mean_pool(features: Tensor, tokens: int) -> Tensor:
    """Frame features [B, F, D] -> means over time [B, tokens, D], for any F (reference 1, adaptive average pooling).

    Token i is the mean of the frames from floor(i F / tokens) to ceil((i + 1) F / tokens).
    """
    return functional.adaptive_avg_pool1d(features.transpose(1, 2), tokens).transpose(1, 2)


def shifted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of each slot's successor: logits [B, L, vocabulary], labels [B, L], a scalar over known labels.
    weights: how much each token of the vocabulary counts in that mean, [vocabulary]."""
    return functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), weights, ignore_index=IGNORED_LABEL
    )
