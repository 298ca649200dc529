"""A compression checkpoint of audiocraft as transformers' EncodecModel (reference 11).

The checkpoint's own `xp.cfg` says how it is built; what EncodecModel cannot express is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.model.audiocraft_codec import our_name
from vatt_core.weights.importing.reading import read_pickled, state_dict

FILE = "compression_state_dict.bin"

# What an EncodecModel always does, by its name in `xp.cfg`.
_FIXED = {
    "compression_model": "encodec",
    "encodec.autoencoder": "seanet",
    "encodec.quantizer": "rvq",
    "encodec.renormalize": False,
    "seanet.activation": "ELU",
    "seanet.activation_params.alpha": 1.0,
    "seanet.norm": "weight_norm",
    "seanet.disable_norm_outer_blocks": 0,
    "seanet.decoder.final_activation": None,
}
_PAD_MODES = ("constant", "reflect", "replicate", "circular")
_DEFAULTS: dict[str, Any] = {  # of audiocraft, where a configuration leaves them out
    "seanet.activation": "ELU",
    "seanet.activation_params.alpha": 1.0,
    "seanet.disable_norm_outer_blocks": 0,
    "encodec.renormalize": False,
    "seanet.decoder.final_activation": None,
    "seanet.decoder.trim_right_ratio": 1.0,
    "encodec.causal": False,
}


@dataclass(frozen=True)
class CompressionCheckpoint:
    """encodec: the arguments of transformers' EncodecConfig. state: tensors by their names in our codec."""

    encodec: dict[str, Any]
    state: dict[str, Tensor]


def read_compression(path: Path, *, trust: bool = False) -> CompressionCheckpoint:
    """Read `compression_state_dict.bin`. Raises BadModel."""
    content = read_pickled(path, trust=trust)
    if not isinstance(content, Mapping) or "xp.cfg" not in content or "best_state" not in content:
        raise BadModel(
            f"{path} is no compression checkpoint of audiocraft (it has no 'xp.cfg' and 'best_state'); name the "
            f"{FILE} of AudioGen",
            file=str(path),
        )
    try:
        settings = yaml.safe_load(content["xp.cfg"]) if isinstance(content["xp.cfg"], str) else dict(content["xp.cfg"])
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise BadModel(f"{path}: its configuration 'xp.cfg' cannot be read; fetch it again", file=str(path)) from error
    tensors = state_dict(content["best_state"], path)
    return CompressionCheckpoint(encodec_arguments(settings, path), from_audiocraft(tensors))


def encodec_arguments(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of EncodecConfig for a configuration of audiocraft, with its `${references}` resolved.

    Raises BadModel naming what cannot be built or is no number.
    """
    try:
        return _arguments(settings, path)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadModel(
            f"{path}: its configuration 'xp.cfg' cannot be understood ({error}); fetch it again", file=str(path)
        ) from error


def _arguments(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    def value(name: str) -> Any:
        found: Any = settings
        for part in name.split("."):
            if not isinstance(found, Mapping) or part not in found:
                if name in _DEFAULTS:
                    return _DEFAULTS[name]
                raise BadModel(f"{path}: its configuration 'xp.cfg' does not say {name}; fetch it again", key=name)
            found = found[part]
        if isinstance(found, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", found)):
            return value(reference[1])
        return found

    for name, needed in _FIXED.items():
        if value(name) != needed:
            raise BadModel(
                f"{path}: its {name} is {value(name)!r}, but the codec can only be built with {needed!r}; use the "
                "codec of AudioGen",
                key=name,
            )
    for side in ("encoder", "decoder"):
        surplus = set((settings.get("seanet") or {}).get(side) or {})
        surplus -= {"trim_right_ratio", "final_activation", "final_activation_params"} if side == "decoder" else set()
        if surplus:
            raise BadModel(f"{path}: its seanet.{side}.{min(surplus)} cannot be built; use the codec of AudioGen")
    bins, books, ratios = int(value("rvq.bins")), int(value("rvq.n_q")), [int(x) for x in value("seanet.ratios")]
    rate = int(value("encodec.sample_rate"))
    if min(rate, bins, books, len(ratios), *ratios) < 1:
        raise ValueError(f"sample rate {rate}, ratios {ratios}, {books} codebooks of {bins}")
    if value("seanet.pad_mode") not in _PAD_MODES:
        raise ValueError(f"padding {value('seanet.pad_mode')!r}")
    bits = math.log2(bins)
    if bits != int(bits) or int(value("seanet.lstm")) < 1 or int(value("encodec.channels")) != 1:
        raise BadModel(
            f"{path}: {bins} entries per codebook, {value('seanet.lstm')} LSTM layers, {value('encodec.channels')} "
            "channels; the codec needs a power of two, at least one layer and one channel",
            file=str(path),
        )
    return {
        "target_bandwidths": [_bandwidth(books, int(bits), math.ceil(Fraction(rate, math.prod(ratios))))],
        "sampling_rate": rate,
        "audio_channels": 1,
        "normalize": False,
        "hidden_size": int(value("seanet.dimension")),
        "codebook_dim": int(value("seanet.dimension")),
        "codebook_size": bins,
        "num_filters": int(value("seanet.n_filters")),
        "num_residual_layers": int(value("seanet.n_residual_layers")),
        "upsampling_ratios": ratios,
        "norm_type": "weight_norm",
        "kernel_size": int(value("seanet.kernel_size")),
        "last_kernel_size": int(value("seanet.last_kernel_size")),
        "residual_kernel_size": int(value("seanet.residual_kernel_size")),
        "dilation_growth_rate": int(value("seanet.dilation_base")),
        "use_causal_conv": bool(value("encodec.causal")),
        "pad_mode": str(value("seanet.pad_mode")),
        "compress": int(value("seanet.compress")),
        "num_lstm_layers": int(value("seanet.lstm")),
        "trim_right_ratio": float(value("seanet.decoder.trim_right_ratio")),
        "use_conv_shortcut": not value("seanet.true_skip"),
    }


def _bandwidth(books: int, bits: int, frame_rate: int) -> float:
    """Kilobits per second; nudged where rounding would make transformers count a codebook less."""
    bandwidth = books * bits * frame_rate / 1000
    while int(1000 * bandwidth // (frame_rate * bits)) < books:
        bandwidth = math.nextafter(bandwidth, math.inf)
    return bandwidth


def from_audiocraft(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in our codec. The moving average of the codebooks only matters to training."""
    return {our_name(name): value for name, value in state.items() if not name.endswith("._codebook.embed_avg")}
