"""A compression checkpoint of audiocraft becomes our codec: recorded with audiocraft's own modules, replayed without it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.core.official_files import XP_CFG
from vatt_core.errors import BadModel
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import CodecConfig
from vatt_core.timing import Timing
from vatt_core.weights.importing.encodec import encodec_arguments, read_compression

RECORDED = Path(__file__).parents[1] / "data" / "audiocraft"


@torch.no_grad()
def test_recorded_waves_and_codes() -> None:
    found = read_compression(RECORDED / "compression_state_dict.bin")
    books = [value for key, value in found.state.items() if key.endswith("codebook.embed")]
    timing = Timing(sample_rate=16_000, code_rate=Fraction(50), codebooks=len(books), codebook_size=len(books[0]))
    codec = Codec(CodecConfig(encodec=found.encodec), timing).eval()
    missing, surplus = codec.load_state_dict(found.state, strict=False)
    assert not surplus and all(name.endswith("embed_avg") for name in missing)
    made = load_file(RECORDED / "made.safetensors")
    lengths = {name.partition(".")[0] for name in made}
    assert len(lengths) == 3
    for length in lengths:
        codes = made[f"{length}.codes"]
        assert torch.equal(codec.encode(made[f"{length}.wave"]), codes)
        torch.testing.assert_close(codec.decode(codes), made[f"{length}.decoded"], atol=1e-6, rtol=1e-5)


def settings(**changes: Any) -> dict[str, Any]:
    text = XP_CFG.format(sample_rate=16_000, dimension=128, n_filters=64, ratios=[8, 5, 4, 2], pad_mode="constant",
                         books=4, bins=2048)  # fmt: skip
    values: dict[str, Any] = yaml.safe_load(text)
    for name, value in changes.items():
        *tables, last = name.split("__")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
        if value is None and last in table:
            del table[last]
        else:
            table[last] = value
    return values


def test_the_configuration_of_audiogen() -> None:
    made = encodec_arguments(settings(), Path("x"))
    assert made["target_bandwidths"] == [2.2]
    assert made["sampling_rate"] == 16_000 and made["upsampling_ratios"] == [8, 5, 4, 2]
    assert made["use_causal_conv"] is False and made["use_conv_shortcut"] is False
    assert encodec_arguments(settings(seanet__pad_mode="reflect"), Path("x"))["pad_mode"] == "reflect"


@pytest.mark.parametrize(
    "change",
    [
        {"seanet__activation": "GELU"},
        {"seanet__decoder__final_activation": "Tanh"},
        {"seanet__disable_norm_outer_blocks": 1},
        {"seanet__norm": "time_group_norm"},
        {"seanet__lstm": 0},
        {"seanet__encoder__n_filters": 32},
        {"rvq__bins": 1000},
        {"encodec__renormalize": True},
        {"encodec__quantizer": "no_quant"},
        {"channels": 2},
        {"seanet__ratios": None},
        {"seanet__ratios": []},
        {"seanet__ratios": [8, 0]},
        {"seanet__n_filters": "many"},
        {"seanet__pad_mode": "none"},
        {"rvq__bins": 0},
        {"sample_rate": 0},
        {"sample_rate": "${sample_rate}"},
    ],
)
def test_what_the_codec_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadModel):
        encodec_arguments(settings(**change), Path("x"))


@pytest.mark.parametrize(("books", "bins"), [(1, 2), (3, 1024), (4, 2048), (8, 1024), (12, 512), (32, 1024)])
def test_every_number_of_codebooks_is_counted_right(books: int, bins: int) -> None:
    made = encodec_arguments(
        settings(rvq__n_q=books, rvq__bins=bins, seanet__n_filters=2, seanet__dimension=4), Path("x")
    )
    timing = Timing(sample_rate=16_000, code_rate=Fraction(50), codebooks=books, codebook_size=bins)
    assert len(Codec(CodecConfig(encodec=made), timing).codebooks()) == books


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"pretrained": "facebook/encodec_32khz"}, tmp_path / "compression_state_dict.bin")
    with pytest.raises(BadModel, match="compression_state_dict"):
        read_compression(tmp_path / "compression_state_dict.bin")


@pytest.mark.parametrize("state", [None, [1], {}, {"model": None}, {"model": [1]}, {"model": {}}])
def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path, state: Any) -> None:
    torch.save({"xp.cfg": yaml.safe_dump(settings()), "best_state": state}, tmp_path / "compression_state_dict.bin")
    with pytest.raises(BadModel, match="compression_state_dict"):
        read_compression(tmp_path / "compression_state_dict.bin")
