"""EnCodec: waves to codes and back (reference 11), on transformers' EncodecModel.

Codes are [B, K, T] with codebook 0 the coarsest; waves are mono in [-1, 1]. Everything runs in float32: bfloat16
convolutions of the CPU give wrong numbers, and the codec is a small part of the work.
"""

from __future__ import annotations

import copy
import math

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from vatt_core.errors import BadModel
from vatt_core.model.configuration import CodecConfig
from vatt_core.timing import Timing


def _build(config: CodecConfig, timing: Timing) -> EncodecModel:
    try:
        model = EncodecModel(EncodecConfig(**copy.deepcopy(config.encodec)))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise BadModel(f"transformers cannot build the codec of this configuration: {error}") from error
    said, built = timing, model.config
    for what, wanted, got in (
        ("sample rate", said.sample_rate, built.sampling_rate),
        ("hop length", said.hop_length, built.hop_length),
        ("number of codebooks", said.codebooks, len(model.quantizer.layers)),
        ("codebook size", said.codebook_size, built.codebook_size),
        ("channels", 1, built.audio_channels),
    ):
        if wanted != got:
            raise BadModel(f"the codec's {what} is {got}, the model's timing says {wanted}; correct the configuration")
    if built.normalize or built.chunk_length_s is not None:
        raise BadModel("the codec must not normalise or cut into chunks; set normalize false and chunk_length_s null")
    return model


class Codec(nn.Module):
    """Waves <-> codes. New instances have random weights and empty codebooks.

    model: the EncodecModel, for trainers. Raises BadModel when the configuration contradicts `timing`.
    """

    def __init__(self, config: CodecConfig, timing: Timing) -> None:
        super().__init__()
        self.config = config
        self.timing = timing
        self.model = _build(config, timing)
        for book in range(timing.codebooks):
            # The moving average is of no use without training: one tensor serves both names.
            self.model.get_submodule(f"quantizer.layers.{book}.codebook").register_buffer(
                "embed_avg", self._entries(book)
            )
        # Width of the latent and of every codebook entry.
        self.latent_dim = int(self._entries(0).shape[1])

    def _entries(self, book: int) -> Tensor:
        return self.model.get_buffer(f"quantizer.layers.{book}.codebook.embed")

    def codebooks(self) -> Tensor:
        """The entries of all codebooks, [K, V, latent] float32."""
        return torch.stack([self._entries(book).float() for book in range(self.timing.codebooks)])

    def check_codes(self, codes: Tensor) -> None:
        """Raise ValueError unless codes is [B, K, T] of integers, T at least 1, every code inside its codebook."""
        books, size = self.timing.codebooks, self.timing.codebook_size
        if codes.ndim != 3 or codes.shape[1] != books or codes.shape[2] < 1 or codes.is_floating_point():
            raise ValueError(f"codes must be integers [B, {books}, T], got {codes.dtype} {list(codes.shape)}")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= size):
            raise ValueError(
                f"codes must lie in 0 … {size - 1}, got {int(codes.min())} … {int(codes.max())}; "
                f"{size} stands for 'not decided yet' and cannot be heard"
            )

    def check_wave(self, wave: Tensor) -> None:
        """Raise ValueError unless wave is [B, N] of floating point, N at least 1."""
        if wave.ndim != 2 or wave.shape[1] < 1 or not wave.is_floating_point():
            raise ValueError(f"a wave must be floating point [B, N], got {wave.dtype} {list(wave.shape)}")

    def quantised(self, codes: Tensor) -> Tensor:
        """The latent that codes stand for, the sum of their entries: [B, K, T] -> [B, latent, T]."""
        self.check_codes(codes)
        return self.model.quantizer.decode(codes.long().transpose(0, 1))

    def quantise(self, latent: Tensor) -> Tensor:
        """Residual quantisation: [B, latent, T] -> codes [B, K, T] int64, each codebook taking what the last left."""
        # Without a bandwidth every codebook is used; transformers puts the codebooks first.
        return self.model.quantizer.encode(latent).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: [B, K, T] int -> wave [B, T * hop_length] float32. No clipping. Raises ValueError for a bad code."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.model.decoder(self.quantised(codes)).squeeze(1)

    def encode(self, wave: Tensor) -> Tensor:
        """wave: [B, N] float in [-1, 1] -> codes [B, K, ceil(N / hop_length)] int64."""
        self.check_wave(wave)
        with torch.autocast(wave.device.type, enabled=False):
            return self.quantise(self.model.encoder(wave.float()[:, None]))

    @property
    def context_frames(self) -> int:
        """Code frames on either side that the decoder's convolutions reach: what a code can change of the wave.

        Walked from one output sample back to the latent. The LSTM's memory of the past is not bounded and fades; it
        is not counted.
        """
        settings = self.model.config
        sided = 2 if not settings.use_causal_conv else 1
        reach = math.ceil((settings.last_kernel_size - 1) / sided)
        for ratio in reversed(settings.upsampling_ratios):
            for layer in range(settings.num_residual_layers):
                dilation = settings.dilation_growth_rate**layer
                reach += math.ceil((settings.residual_kernel_size - 1) * dilation / sided)
            # A transposed convolution of kernel 2 * ratio reads one input to either side.
            reach = math.ceil(reach / ratio) + 1
        return reach + math.ceil((settings.kernel_size - 1) / sided)
