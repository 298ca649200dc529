"""Every size and every choice of a model, as data. One JSON file per model folder holds a :class:`ModelConfig`.

What nano needs beyond the official architecture (several views of a picture, stacked pooling, aligned token order, video
states on the audio positions, coarse codebooks first, text states of an earlier layer) is a field whose default is the
official behaviour.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vatt_core.errors import BadModel
from vatt_core.timing import Timing

Pooling = Literal["mean", "stack"]
Family = Literal["llama", "gemma"]
TokenOrder = Literal["legacy", "aligned"]
FillOrder = Literal["joint", "coarse_first"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class View:
    """How the tower looks at a picture: mirrored left to right or not, then turned by some pixels down and to the right, what
    leaves at one side coming in at the other."""

    mirrored: bool = False
    down: int = 0
    right: int = 0


@dataclass(frozen=True)
class VisionConfig:
    """The image tower, built by open_clip. `open_clip_model` is a JSON model configuration of open_clip for towers that
    open_clip does not know by name; None means that `name` is one of open_clip's own. `normalise` L2-normalises the
    features (reference 1.1: open; default off). `views`: a picture's features are the mean of what is seen of it in each of
    these; the official tower looks once."""

    name: str = "EVA02-L-14-336"
    open_clip_model: dict[str, Any] | None = None
    image_size: int = 336
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    feature_dim: int = 768
    normalise: bool = False
    views: tuple[View, ...] = (View(),)

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError("`views` is empty: the tower must look at a picture at least once")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters of the converter (reference 2.4)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True)
class ConverterConfig:
    """The language model that reads video and text. `llm` holds the arguments of transformers' LlamaConfig or GemmaConfig.

    pooling: how the frame features of one video token become one vector ("mean": their mean, official; "stack": their
    concatenation). text_state_layer: which layer's output stands for the text slots in the condition (None: the last
    normed states, official; 0: the embeddings; i: after layer i). template: prompt template of `model/text.py`.
    """

    family: Family = "llama"
    llm: dict[str, Any] = field(default_factory=dict)
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    pooling: Pooling = "mean"
    text_state_layer: int | None = None
    template: Literal["alpaca_short", "gemma"] = "alpaca_short"
    max_prompt_tokens: int = 64
    max_caption_tokens: int = 108


@dataclass(frozen=True)
class AudioTransformerConfig:
    """The masked-token audio transformer (reference 3). `condition_dim` is the hidden size of the converter.

    token_order: reference 4. video_to_audio: add a projection of the video states to the audio positions of the same
    instant (official: off). video_place_rank: with it, what is added also depends on the place of the code frame within its
    video token, through that many products (official: 0, nothing). visual_positions: rows of the position table kept for
    the condition (official: 500).
    """

    dim: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    encoder_heads: int = 16
    decoder_heads: int = 16
    dim_head: int = 64
    latent_dim: int = 128
    condition_dim: int = 4096
    visual_positions: int = 500
    token_order: TokenOrder = "legacy"
    video_to_audio: bool = False
    video_place_rank: int = 0
    dropout: float = 0.1


@dataclass(frozen=True)
class CodecConfig:
    """EnCodec. `encodec` holds the arguments of transformers' EncodecConfig (facts: target_bandwidths, upsampling_ratios…)."""

    encodec: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DecodingDefaults:
    """How a model is best decoded (reference 6). fill_order "joint": all codebooks in one schedule (official);
    "coarse_first": codebook after codebook, `steps_per_codebook[k]` steps each; `steps` then scales that list.
    drawn_codebooks: so many of the coarsest are drawn (None: all), of the finer ones what is nearest to the expected.
    caption_*: how suggestions are sampled (reference 7.3); caption_draws: so many are drawn for each that is asked for."""

    steps: int = 16
    guidance_scale: float = 5.0
    temperature: float = 1.0
    mask_temperature: float = 25.5
    top_k: int = 256
    fill_order: FillOrder = "joint"
    steps_per_codebook: tuple[int, ...] = ()
    drawn_codebooks: int | None = None
    caption_temperature: float = 0.1
    caption_repetition_penalty: float = 1.1
    caption_draws: int = 4


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: its rates and its five parts."""

    name: str
    timing: Timing = field(default_factory=Timing)
    vision: VisionConfig = field(default_factory=VisionConfig)
    converter: ConverterConfig = field(default_factory=ConverterConfig)
    audio: AudioTransformerConfig = field(default_factory=AudioTransformerConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    decoding: DecodingDefaults = field(default_factory=DecodingDefaults)

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        values["timing"] = self.timing.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`. Raises BadModel for unknown or missing fields."""
        try:
            converter = dict(values["converter"])
            lora = converter.pop("lora", None)
            vision = _tuples(values["vision"])
            if "views" in vision:
                vision["views"] = tuple(View(**view) for view in vision["views"])
            return cls(
                name=str(values["name"]),
                timing=Timing.from_dict(values["timing"]),
                vision=VisionConfig(**vision),
                converter=ConverterConfig(lora=None if lora is None else LoraSettings(**_tuples(lora)), **converter),
                audio=AudioTransformerConfig(**values["audio"]),
                codec=CodecConfig(**values["codec"]),
                decoding=DecodingDefaults(**_tuples(values["decoding"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadModel(
                f"the model configuration cannot be read ({error}); import or pull the model again"
            ) from error

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ModelConfig:
        """Read a configuration file. Raises BadModel when it is missing or is no configuration."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadModel(f"{path} is no model configuration ({error}); pull or import the model again") from error
        return cls.from_dict(values)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
