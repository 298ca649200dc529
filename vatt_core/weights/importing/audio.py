"""The audio transformer of a Lightning checkpoint: its sizes from its tensors, its tensors by our names (reference 3, 10)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.model.configuration import AudioTransformerConfig
from vatt_core.model.official_names import PREFIX, from_official
from vatt_core.timing import Timing

_DIM_HEAD = 64  # of every official model; the number of heads follows from the width (reference 3.7)
_RELEASED = AudioTransformerConfig()


@dataclass(frozen=True)
class AudioPart:
    """config: the sizes found; timing: with the codebooks found. state: tensors by our names. own_codebooks: whether
    the checkpoint carried a quantizer of its own, which goes before the codebook file."""

    config: AudioTransformerConfig
    timing: Timing
    state: dict[str, Tensor]
    own_codebooks: bool


def audio_sizes(tensors: Mapping[str, Tensor], path: Path, timing: Timing) -> tuple[AudioTransformerConfig, Timing]:
    """Configuration and timing whose tensors these are. `timing` gives window and rates, the tensors the codebooks.

    tensors: the whole state dict. Raises BadModel when what the sizes are read from is missing.
    """
    shapes = {key.removeprefix(PREFIX): value.shape for key, value in tensors.items() if key.startswith(PREFIX)}
    if not shapes:
        raise BadModel(
            f"{path} holds no audio transformer (no key begins with {PREFIX}); name one of the .ckpt files of "
            "vatt_models.zip",
            file=str(path),
        )

    def shape(name: str, axes: int = 2) -> Sequence[int]:
        if name not in shapes:
            raise BadModel(f"{path} lacks {PREFIX}{name}; it is incomplete, fetch it again", key=PREFIX + name)
        if len(shapes[name]) != axes:
            raise BadModel(
                f"{path}: {PREFIX}{name} has the shape {list(shapes[name])} instead of {axes} axes; it belongs to "
                "another model",
                file=str(path),
                key=PREFIX + name,
            )
        return shapes[name]

    def count(pattern: str) -> int:
        """Layers named by `pattern`, which must be numbered without a gap."""
        found = sorted({int(match[1]) for name in shapes if (match := re.match(pattern, name))})
        if found != list(range(len(found))) or not found:
            gap = next((number for number, other in enumerate(found) if number != other), len(found))
            missing = PREFIX + pattern.replace("\\", "").replace("(d+)", str(gap))
            raise BadModel(f"{path} lacks {missing}…; it is incomplete, fetch it again", key=missing)
        return len(found)

    def layers(stack: str) -> int:
        sub_layers = count(rf"{stack}\.attn_layers\.layers\.(\d+)\.")
        if sub_layers % 2:
            raise BadModel(f"{path}: its {stack} ends in the middle of a layer; it is incomplete, fetch it again")
        return sub_layers // 2

    def heads(stack: str) -> int:
        name = f"{stack}.attn_layers.layers.0.1.to_q.weight"
        if shape(name)[0] < _DIM_HEAD:
            raise BadModel(
                f"{path}: {PREFIX}{name} has the shape {list(shape(name))}, which is less than one head of {_DIM_HEAD}; it "
                "belongs to another model",
                file=str(path),
                key=PREFIX + name,
            )
        return shape(name)[0] // _DIM_HEAD

    dim, latent = shape("embedding.out_proj.weight")
    timing = replace(timing, codebooks=count(r"classifier\.(\d+)\."), codebook_size=shape("classifier.0.weight")[0])
    rows = shape("pos_embed", 3)[-2] if "pos_embed" in shapes else _RELEASED.visual_positions + timing.code_frames
    config = AudioTransformerConfig(
        dim=dim,
        encoder_layers=layers("encoder"),
        decoder_layers=layers("decoder"),
        encoder_heads=heads("encoder"),
        decoder_heads=heads("decoder"),
        dim_head=_DIM_HEAD,
        latent_dim=latent,
        condition_dim=shape("img_linear.weight")[1],
        visual_positions=rows - timing.code_frames,
        token_order="legacy",
    )
    if config.visual_positions <= timing.video_tokens:
        raise BadModel(
            f"{path}: its position table has {rows} rows, too few for {timing.code_frames} code frames and the "
            "condition; it belongs to another model",
            file=str(path),
        )
    if dim == _RELEASED.dim:
        _check_released(config, path)
    return config, timing


def _check_released(config: AudioTransformerConfig, path: Path) -> None:
    """A model of the released width has the released depth: a checkpoint cut at the end of a stack is incomplete."""
    for name in ("encoder_layers", "decoder_layers", "encoder_heads", "decoder_heads"):
        found, released = getattr(config, name), getattr(_RELEASED, name)
        if found != released:
            raise BadModel(
                f"{path} has {found} {name.replace('_', ' ')}, the released models have {released}; it is incomplete, "
                "fetch it again",
                file=str(path),
            )


def read_audio(
    tensors: Mapping[str, Tensor], path: Path, codebooks: Sequence[Tensor] | None, *, timing: Timing
) -> AudioPart:
    """The audio transformer in the state dict of the checkpoint `path`.

    codebooks: K tables [V, latent] of the codebook file, None when there is none. Raises BadModel, naming the file and
    the key, when one of the tensors is missing or misshapen, when the copies of a shared norm differ, or when the
    codebooks are of another size.
    """
    config, timing = audio_sizes(tensors, path, timing)
    own = any(key.startswith(f"{PREFIX}quantizer") for key in tensors)
    try:
        state = from_official(tensors, config, timing, codebooks=codebooks)
    except BadModel as error:
        raise BadModel(f"{path}: {error.message}", file=str(path), **error.details) from error
    return AudioPart(config, timing, state, own)


def window_of(sample_rate: int, hop_length: int) -> Timing:
    """The timing of the official models with the rates of a codec."""
    return Timing(sample_rate=sample_rate, code_rate=Fraction(sample_rate, hop_length))
