"""The steps from frames to captions, codes and waves, on tensors, with one loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vatt_core.model.captioning import SamplingSettings
from vatt_core.model.choosing import DecodingOptions
from vatt_core.model.decoding import Condition, generate_codes, mean_log_likelihood
from vatt_core.model.folder import LoadedModel, LoadOptions, load_model, model_hash
from vatt_core.model.text import decode_answer, encode_caption_prompt, encode_prompts
from vatt_core.requests import Suggestion
from vatt_core.timing import Timing
from vatt_core.weights import find_model
from vatt_core.wording import best_captions
from vatt_core.work import Stop


class Steps:
    """A loaded model and the steps from frames to a wave, on tensors. Training and evaluation use them one by one."""

    def __init__(self, model: LoadedModel, name: str) -> None:
        self.model = model
        self.name = name
        self.config = model.config
        self.timing: Timing = model.config.timing
        self.device = model.device

    @classmethod
    def load(cls, model: str | Path = "nano", *, device: str = "auto", options: LoadOptions | None = None) -> Self:
        """Load a model by name or folder. device: "auto" takes a CUDA GPU where there is one. options: precision, memory.

        Raises NotFound for an unknown name, BadModel for a damaged folder, OutOfMemory when it does not fit.
        """
        return cls(load_model(find_model(model), device=device, options=options), str(model))

    @property
    def model_hash(self) -> str:
        return model_hash(self.model.folder)

    @torch.no_grad()
    def look(self, frames: NDArray[np.uint8]) -> Tensor:
        """Frames of one window at `timing.frame_rate`, uint8 [N, H, W, 3] -> features [1, F, D].

        N below F holds the last frame. Raises ValueError for no frame or more than a window.
        """
        wanted = self.timing.frames
        if not 0 < len(frames) <= wanted:
            raise ValueError(f"a window has 1 to {wanted} frames, got {len(frames)}")
        with self.model.using("vision"):
            features = self.model.vision.encode(torch.from_numpy(np.ascontiguousarray(frames)))
        held = features[-1:].expand(wanted - len(frames), -1)
        return torch.cat([features, held])[None]

    @torch.no_grad()
    def caption(self, features: Tensor, *, count: int, seed: int, temperature: float | None = None) -> list[Suggestion]:
        """Different captions of one clip, features [1, F, D], best first. Fewer than `count` when the model has no more
        to say than that. score: see `wording.best_captions`."""
        prompt = encode_caption_prompt(self.model.tokenizer, self.config.converter)
        longest = self.config.converter.max_caption_tokens
        texts: list[str] = []
        # Bolder and bolder until there are enough different ones.
        for round_number, boldness in enumerate((1.0, 1.5, 2.2)):
            settings = SamplingSettings(
                temperature=(temperature or self.config.decoding.caption_temperature) * boldness,
                repetition_penalty=self.config.decoding.caption_repetition_penalty,
                max_new_tokens=longest,
            )
            with self.model.using("converter"):
                drawn = self.model.converter.generate_captions(
                    features,
                    prompt,
                    count=count * self.config.decoding.caption_draws,
                    settings=settings,
                    seed=(seed + round_number) % (2**62),
                )[0]
            answers = [decode_answer(self.model.tokenizer, one.ids) for one in drawn if one.finished]
            texts += [text for text in answers if text]
            found = best_captions(texts)
            if len(found) >= count:
                break
        return sorted((Suggestion(text, score) for text, score in found[:count]), key=lambda one: -one.score)

    @torch.no_grad()
    def condition(self, features: Tensor, prompts: Sequence[str]) -> list[Condition]:
        """What the audio transformer is made from: features [B, F, D] and a prompt for each row. Takes of one clip and
        prompt share one pass."""
        known: list[tuple[str, Tensor, Condition]] = []
        conditions = []
        for clip, prompt in zip(features, prompts, strict=True):
            same = (one for text, seen, one in known if text == prompt and torch.equal(seen, clip))
            found = next(same, None)
            if found is None:
                # One at a time: padding would move the text away from the video, and a row would not be what it is alone.
                ids, _ = encode_prompts(self.model.tokenizer, [prompt], self.config.converter)
                with self.model.using("converter"):
                    states = self.model.converter.encode_all_states(clip[None], ids.to(self.device)).float()[0]
                found = Condition(states, torch.ones(len(states), dtype=torch.int64, device=self.device))
                known.append((prompt, clip, found))
            conditions.append(found)
        return conditions

    def sound_codes(
        self,
        features: Tensor,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        options: DecodingOptions | None = None,
        negative_prompts: Sequence[str | None] | None = None,
        known: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Stop | None = None,
    ) -> Tensor:
        """Codes [B, K, T] for features [B, F, D], a prompt and a seed for each row. known: see decoding."""
        conditions = self.condition(features, prompts)
        negatives: list[Condition | None] | None = None
        if negative_prompts is not None and any(negative_prompts):
            said = self.condition(features, [text or "" for text in negative_prompts])
            negatives = [one if text else None for one, text in zip(said, negative_prompts, strict=True)]
        with self.model.using("audio_transformer"):
            return generate_codes(
                self.model.audio_transformer,
                conditions,
                options=options or DecodingOptions.from_defaults(self.config.decoding),
                generators=[torch.Generator().manual_seed(seed) for seed in seeds],
                negatives=negatives,
                known=known,
                progress=progress,
                cancelled=cancelled,
            )

    @torch.no_grad()
    def likelihood(self, features: Tensor, prompts: Sequence[str], codes: Tensor) -> list[float]:
        """How likely codes [B, K, T] are for features [B, F, D] and prompts, see `mean_log_likelihood`."""
        conditions = self.condition(features, prompts)
        with self.model.using("audio_transformer"):
            return mean_log_likelihood(
                self.model.audio_transformer,
                conditions,
                codes.to(self.device),
                fill_order=self.config.decoding.fill_order,
            ).tolist()

    @torch.no_grad()
    def encode(self, wave: NDArray[np.float32]) -> Tensor:
        """A wave [samples] at `timing.sample_rate` -> codes [K, ceil(samples / hop_length)]."""
        with self.model.using("codec"):
            return self.model.codec.encode(torch.from_numpy(np.ascontiguousarray(wave))[None].to(self.device))[0].cpu()

    @torch.no_grad()
    def sound(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> wave [B, T * hop_length] float32 at `timing.sample_rate`."""
        with self.model.using("codec"):
            return self.model.codec.decode(codes)
