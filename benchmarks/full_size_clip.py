"""The whole way of a clip of ten seconds at the size of a released model, random weights: frames, captions, codes, wave."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size_rates import bandwidth, matrix_rate, timed
from benchmarks.measure import peak_memory
from vatt_core.model.audio_transformer import AudioTransformer
from vatt_core.model.captioning import SamplingSettings
from vatt_core.model.choosing import DecodingOptions
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import Family, ModelConfig
from vatt_core.model.converter import Converter
from vatt_core.model.decoding import Condition, generate_codes
from vatt_core.model.dry_run import filled, official_config
from vatt_core.model.folder import PART_NAMES, build_part
from vatt_core.model.products import products_of
from vatt_core.model.vision import VisionTower

CAPTION_TOKENS = 20
"""Of an answer: random weights never come to an end."""

PROMPT_TOKENS = 30
STEPS = 16
SECOND, EIGHT, WHOLE = "another take", "8 takes in one batch", "end to end"
BARS_OF_CLIP = {WHOLE: 0.6, SECOND: 0.3, EIGHT: 1.0}
"""Seconds on an H200 that the project wants."""


@dataclass(frozen=True)
class Part:
    """seconds: median. floor: of the matrix products at the measured rate, or of reading the weights as often as the stage
    must, whichever is longer. peak: MiB of the GPU, or of the process until then."""

    name: str
    seconds: float
    floor: float
    peak: float


class Clip:
    """A model of random weights on a device, and the stages of one request."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.timing = config.timing
        self.device = device
        exact = {"codec", "vision"} if device.type == "cpu" else {"codec"}
        parts: dict[str, Any] = {
            name: filled(build_part(config, name, empty=True), torch.float32 if name in exact else dtype, device)
            for name in PART_NAMES
        }
        self.vision: VisionTower = parts["vision"]
        self.converter: Converter = parts["converter"]
        self.transformer: AudioTransformer = parts["audio_transformer"]
        self.codec: Codec = parts["codec"]
        size = config.vision.image_size
        self.frames = torch.zeros(self.timing.frames, size, size, 3, dtype=torch.uint8)
        self.prompt = list(range(5, 5 + PROMPT_TOKENS))
        self.features = self.look()

    def look(self) -> Tensor:
        return self.vision.encode(self.frames)[None]

    def caption(self) -> Any:
        settings = SamplingSettings(max_new_tokens=CAPTION_TOKENS)
        return self.converter.generate_captions(self.features, self.prompt, count=1, settings=settings)

    def condition(self) -> Condition:
        ids = torch.tensor([self.prompt], device=self.device)
        states = self.converter.encode_all_states(self.features, ids).float()[0]
        return Condition(states, torch.ones(len(states)))

    def compose(self, takes: int) -> Tensor:
        generators = [torch.Generator().manual_seed(take) for take in range(takes)]
        return generate_codes(
            self.transformer, [self.condition()] * takes, options=DecodingOptions(steps=STEPS), generators=generators
        )

    def sound(self, takes: int = 1) -> Tensor:
        timing = self.timing
        return self.codec.decode(
            torch.zeros(takes, timing.codebooks, timing.code_frames, dtype=torch.int64, device=self.device)
        )

    def take(self, takes: int = 1) -> Tensor:
        """Takes of a clip whose features are known."""
        return self.codec.decode(self.compose(takes).to(self.device))

    def whole(self) -> Tensor:
        self.features = self.look()
        self.caption()
        return self.take()


@torch.no_grad()
def measure_clip(family: Family, device: torch.device, precision: str, runs: int) -> list[Part]:
    """Every stage, then the three that the project has bars for."""
    return measure_config(official_config(f"vatt-{family}", family), device, precision, runs)


@torch.no_grad()
def measure_config(config: ModelConfig, device: torch.device, precision: str, runs: int) -> list[Part]:
    dtype: torch.dtype = getattr(torch, precision)
    clip = Clip(config, device, dtype)
    with products_of(clip.converter):
        return list(_measured(clip, device, dtype, runs))


def _measured(clip: Clip, device: torch.device, dtype: torch.dtype, runs: int) -> Iterator[Part]:
    rate, reading = matrix_rate(dtype, device, runs), bandwidth(device, runs)
    llm = bytes_of(clip.converter)
    look = (clip.look, bytes_of(clip.vision))
    caption = (clip.caption, llm * CAPTION_TOKENS)
    steps = bytes_of(clip.transformer) * STEPS + llm
    stages: dict[str, tuple[Callable[[], Any], float]] = {
        "look at the frames": look,
        "one caption": caption,
        f"{STEPS} guided steps": (lambda: clip.compose(1), steps),
        "wave": (clip.sound, bytes_of(clip.codec)),
        SECOND: (clip.take, steps + bytes_of(clip.codec)),
        EIGHT: (lambda: clip.take(8), steps + bytes_of(clip.codec)),
        WHOLE: (clip.whole, look[1] + caption[1] + steps + bytes_of(clip.codec)),
    }
    for name, (action, read) in stages.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = timed(action, device, runs)
        with FlopCounterMode(display=False) as counted:
            action()
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory(os.getpid())
        floor = max(counted.get_total_flops() / rate, read / reading)
        yield Part(name, statistics.median(seconds), floor, peak)


def bytes_of(part: nn.Module) -> float:
    return float(sum(value.numel() * value.element_size() for value in part.parameters()))
