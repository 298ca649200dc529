"""The release in miniature: the recorded small checkpoints, with a codec and an image tower in their official formats."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from vatt_core.model.codec import Codec
from vatt_core.model.configuration import CodecConfig, VisionConfig
from vatt_core.model.vision import VisionTower
from vatt_core.timing import Timing

XP_CFG = """
sample_rate: {sample_rate}
channels: 1
compression_model: encodec
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${{sample_rate}}
  channels: ${{channels}}
  causal: false
  renormalize: false
seanet:
  dimension: {dimension}
  channels: ${{channels}}
  causal: ${{encodec.causal}}
  n_filters: {n_filters}
  n_residual_layers: 1
  ratios: {ratios}
  activation: ELU
  activation_params: {{"alpha": 1.}}
  norm: weight_norm
  norm_params: {{}}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: {pad_mode}
  true_skip: true
  compress: 2
  lstm: 2
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
    final_activation_params: null
  encoder: {{}}
rvq:
  n_q: {books}
  q_dropout: false
  bins: {bins}
  decay: 0.99
"""

TOWER = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1},
}


def audiocraft_name(name: str) -> str:
    """What audiocraft calls a tensor of our codec, of two LSTM layers and one residual block per stage."""
    name = name.removeprefix("model.")
    if name.startswith("quantizer."):
        return name.replace("quantizer.layers.", "quantizer.vq.layers.").replace(".codebook.", "._codebook.")
    name = name.replace(".parametrizations.weight.original0", ".weight_g")
    name = name.replace(".parametrizations.weight.original1", ".weight_v")
    name = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
    if match := re.match(r"decoder\.model\.(\d+)\.conv\.", name):
        number = int(match[1])
        if 3 <= number < LAST_DECODER_LAYER and number % 3 == 0:
            return name.replace(".conv.", ".convtr.convtr.")
    return name.replace(".conv.", ".conv.conv.")


LAST_DECODER_LAYER = 15
"""Convolution, LSTM, four stages of three layers, activation, convolution."""


def write_codec(
    folder: Path, *, tables: list[Tensor], n_filters: int = 2, pad_mode: str = "constant", seed: int = 0
) -> Path:
    """A compression checkpoint of audiocraft's form with random weights and the given codebooks."""
    books, (bins, dimension) = len(tables), tables[0].shape
    timing = Timing(sample_rate=16_000, code_rate=Fraction(50), codebooks=books, codebook_size=bins)
    settings = {
        "target_bandwidths": [books * (bins - 1).bit_length() * 50 / 1000], "sampling_rate": 16_000,
        "audio_channels": 1, "normalize": False, "num_filters": n_filters, "hidden_size": dimension,
        "codebook_dim": dimension, "codebook_size": bins, "upsampling_ratios": [8, 5, 4, 2],
        "use_causal_conv": False, "use_conv_shortcut": False, "pad_mode": pad_mode,
    }  # fmt: skip
    torch.manual_seed(seed)
    codec = Codec(CodecConfig(encodec=settings), timing)
    with torch.no_grad():
        for book, table in enumerate(tables):
            codec.model.get_buffer(f"quantizer.layers.{book}.codebook.embed").copy_(table)
    state = {audiocraft_name(name): value.clone() for name, value in codec.state_dict().items()}
    config = XP_CFG.format(sample_rate=16_000, dimension=dimension, n_filters=n_filters, ratios=[8, 5, 4, 2],
                           pad_mode=pad_mode, books=books, bins=bins)  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"xp.cfg": config, "best_state": state, "version": "1.3.0"}, folder / "compression_state_dict.bin")
    return folder / "compression_state_dict.bin"


def write_tower(folder: Path, *, seed: int = 0) -> Path:
    """open_clip weights and their description, of a tiny tower that gives 768 features."""
    torch.manual_seed(seed)
    config = VisionConfig(name="tiny", open_clip_model=TOWER, image_size=32, feature_dim=768)
    state = VisionTower(config).state_dict() | {
        "logit_scale": torch.zeros(()),
        "text.token_embedding.weight": torch.zeros(2, 2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    described = {"model_cfg": TOWER, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    return folder / "open_clip_pytorch_model.bin"


def write_release(mini: Path, folder: Path) -> Path:
    """Everything that an import needs, as folders: a copy of `mini` with a codec and a tower beside."""
    shutil.copytree(mini, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    tables = list(torch.load(folder / "meta_pretrain_vgg_encodec_embed.pt", weights_only=True))
    write_codec(folder / "audiogen_model", tables=tables)
    (folder / "audiogen_model" / "state_dict.bin").write_bytes(b"the language model of AudioGen is not needed")
    write_tower(folder / "eva")
    return folder


ARCHIVES = {
    "vicuna.zip": ["vicuna"],
    "checkpoint-117000.zip": ["checkpoint-117000"],
    "gemma_2b.zip": ["gemma_2b"],
    "gemma-finetuned-checkpoint-231000.zip": ["gemma-finetuned-checkpoint-231000"],
    "vatt_models.zip": ["vatt_models"],
    "audiogen_models.zip": ["audiogen_model"],
}


def pack_release(release: Path, folder: Path) -> Path:
    """The same as the archives and files that the official page names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, inside in ARCHIVES.items():
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for top in inside:
                for path in sorted((release / top).rglob("*")):
                    archive.write(path, path.relative_to(release))
    shutil.copyfile(release / "meta_pretrain_vgg_encodec_embed.pt", folder / "meta_pretrain_vgg_encodec_embed.pt")
    for path in (release / "eva").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


__all__ = ["ARCHIVES", "pack_release", "write_codec", "write_release", "write_tower"]
