"""The codec run by audiocraft itself, for whoever has it installed: same interface, same samples.

audiocraft pins an old torch and imports its training stack on the way to its codec. Where that fails, only the modules
of the codec are imported, which need nothing but einops, flashy and omegaconf beside torch (see docs/models.md). They import
nothing later, so that no other importer of audiocraft finds half of it loaded.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import math
import re
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vatt_core.errors import BadRequest
from vatt_core.model.codec import Codec


class AudiocraftCodec(Codec):
    """Codes <-> waves by audiocraft's EncodecModel with the weights of `codec`. See :class:`Codec` for the interface.

    Raises BadRequest when audiocraft is not installed.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.config, codec.timing)
        state = codec.state_dict()
        self.load_state_dict(state)
        self.audiocraft = build_audiocraft(codec)
        self.audiocraft.load_state_dict({name: state[our_name(name)] for name in self.audiocraft.state_dict()})
        # Only the quantizer of transformers' model is still needed, for the codebooks.
        for unused in ("encoder", "decoder"):
            setattr(self.model, unused, nn.Identity())
        self.eval()

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes: [B, K, T] int -> wave [B, T * hop_length] float32."""
        self.check_codes(codes)
        with torch.autocast(codes.device.type, enabled=False):
            return self.audiocraft.decode(codes.long()).squeeze(1)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """wave: [B, N] float in [-1, 1] -> codes [B, K, ceil(N / hop_length)] int64."""
        self.check_wave(wave)
        with torch.autocast(wave.device.type, enabled=False):
            return self.audiocraft.encode(wave.float()[:, None])[0]


_TO_OURS = (
    (r"^(encoder|decoder)\.model\.", r"model.\1.layers."),
    (r"\.(?:conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"model.quantizer.layers.\1.codebook."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def our_name(name: str) -> str:
    """The name in :class:`Codec` of a tensor that audiocraft calls `name` (reference 11)."""
    for pattern, replacement in _TO_OURS:
        name = re.sub(pattern, replacement, name)
    return name


def build_audiocraft(codec: Codec) -> Any:
    """audiocraft's EncodecModel of the same sizes, with random weights."""
    settings, timing = codec.model.config, codec.timing
    common = {
        "channels": settings.audio_channels,
        "dimension": settings.hidden_size,
        "n_filters": settings.num_filters,
        "n_residual_layers": settings.num_residual_layers,
        "ratios": list(settings.upsampling_ratios),
        "norm": settings.norm_type,
        "kernel_size": settings.kernel_size,
        "last_kernel_size": settings.last_kernel_size,
        "residual_kernel_size": settings.residual_kernel_size,
        "dilation_base": settings.dilation_growth_rate,
        "causal": settings.use_causal_conv,
        "pad_mode": settings.pad_mode,
        "true_skip": not settings.use_conv_shortcut,
        "compress": settings.compress,
        "lstm": settings.num_lstm_layers,
    }
    seanet, quantization, encodec = _import_audiocraft()
    return encodec.EncodecModel(
        seanet.SEANetEncoder(**common),
        seanet.SEANetDecoder(**common, trim_right_ratio=settings.trim_right_ratio),
        quantization.ResidualVectorQuantizer(
            dimension=settings.hidden_size, n_q=timing.codebooks, bins=timing.codebook_size, kmeans_init=True
        ),
        frame_rate=math.ceil(timing.code_rate),
        sample_rate=timing.sample_rate,
        channels=settings.audio_channels,
        causal=settings.use_causal_conv,
    ).eval()


_PACKAGE = "audiocraft"
_MODULES = ("audiocraft.modules.seanet", "audiocraft.quantization.vq", "audiocraft.models.encodec")
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)
"""What importing an old library beside a new torch raises; OSError: torchaudio was built for another torch."""


def _import_audiocraft() -> tuple[Any, Any, Any]:
    """audiocraft's modules with the autoencoder, the quantizer and the model of both."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BadRequest("audiocraft is not installed; choose the codec 'transformers', or see docs/models.md")
    loaded = _loaded()
    try:
        seanet, quantization, encodec = map(importlib.import_module, _MODULES)
    except _BROKEN:
        try:
            seanet, quantization, encodec = _import_bare(found.submodule_search_locations[0])
        except _BROKEN as error:
            raise BadRequest(
                f"audiocraft's codec cannot be imported ({error}); choose the codec 'transformers', or see docs/models.md"
            ) from error
        finally:
            _put_back(loaded)
    return seanet, quantization, encodec


def _import_bare(folder: str) -> tuple[Any, Any, Any]:
    """The same without running the `__init__` of the packages that they lie in. The caller puts back what was loaded."""
    _put_back({})
    for package in (_PACKAGE, "audiocraft.modules", "audiocraft.models"):
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = ["/".join([folder, *package.split(".")[1:]])]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    seanet, quantization, encodec = map(importlib.import_module, _MODULES)
    return seanet, quantization, encodec


def _loaded() -> dict[str, ModuleType]:
    """The modules of audiocraft that are loaded."""
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _PACKAGE}


def _put_back(modules: dict[str, ModuleType]) -> None:
    """Let these be the modules of audiocraft that others find loaded."""
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(modules)
