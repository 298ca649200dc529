"""Writes tests/data/audiocraft: a compression checkpoint of audiocraft and what audiocraft made with it.

    make record-audiocraft

builds audiocraft's own modules with random weights, in an environment that has it (see the Makefile).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.core.official_files import XP_CFG
from vatt_core.model.audiocraft_codec import _import_audiocraft

FOLDER = Path(__file__).parents[1] / "data" / "audiocraft"


def build(*, n_filters: int, dimension: int, bins: int, books: int, pad_mode: str, seed: int) -> tuple[Any, str]:
    """audiocraft's EncodecModel with random weights, and the configuration that its checkpoint would carry."""
    seanet, quantization, encodec = _import_audiocraft()
    ratios = [8, 5, 4, 2]
    torch.manual_seed(seed)
    sizes = {"channels": 1, "dimension": dimension, "n_filters": n_filters, "n_residual_layers": 1, "ratios": ratios,
             "norm": "weight_norm", "causal": False, "pad_mode": pad_mode, "true_skip": True, "lstm": 2}  # fmt: skip
    model = encodec.EncodecModel(
        seanet.SEANetEncoder(**sizes),
        seanet.SEANetDecoder(**sizes),
        quantization.ResidualVectorQuantizer(dimension=dimension, n_q=books, bins=bins, kmeans_init=False),
        frame_rate=50,
        sample_rate=16_000,
        channels=1,
    ).eval()
    with torch.no_grad():
        for layer in model.quantizer.vq.layers:
            layer._codebook.embed.normal_()
            layer._codebook.inited.fill_(1)
    config = XP_CFG.format(sample_rate=16_000, dimension=dimension, n_filters=n_filters, ratios=ratios,
                           pad_mode=pad_mode, books=books, bins=bins)  # fmt: skip
    return model, config


@torch.no_grad()
def record(folder: Path) -> None:
    model, config = build(n_filters=2, dimension=6, bins=16, books=3, pad_mode="reflect", seed=11)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"xp.cfg": config, "best_state": model.state_dict()}, folder / "compression_state_dict.bin")
    recorded = {}
    for samples in (7, 3_201, 16_000):
        wave = torch.rand(1, 1, samples) - 0.5
        codes, _ = model.encode(wave)
        recorded |= {
            f"{samples}.wave": wave[:, 0],
            f"{samples}.codes": codes,
            f"{samples}.decoded": model.decode(codes)[:, 0],
        }
    save_file({name: value.contiguous() for name, value in recorded.items()}, folder / "made.safetensors")


if __name__ == "__main__":
    record(FOLDER)
