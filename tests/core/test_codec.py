"""Codes to waves and back, at a tiny size."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from vatt_core.errors import BadModel, BadRequest
from vatt_core.model.audiocraft_codec import _import_audiocraft
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import CodecConfig
from vatt_core.timing import Timing

TIMING = Timing(window=Fraction(1), sample_rate=800, code_rate=Fraction(50), codebooks=3, codebook_size=16)
ENCODEC: dict[str, Any] = {
    "target_bandwidths": [0.6],
    "sampling_rate": 800,
    "audio_channels": 1,
    "num_filters": 2,
    "hidden_size": 6,
    "upsampling_ratios": [4, 4],
    "codebook_size": 16,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
    "pad_mode": "constant",
}


@pytest.fixture
def codec() -> Codec:
    torch.manual_seed(0)
    codec = Codec(CodecConfig(encodec=ENCODEC), TIMING).eval()
    for layer in codec.model.quantizer.layers:
        layer.codebook.embed.normal_()
    return codec


def some_codes(batch: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    shape = (batch, TIMING.codebooks, frames)
    return torch.randint(0, TIMING.codebook_size, shape, generator=generator)


@pytest.mark.parametrize("frames", [1, 2, 7, 50, 73])
@torch.no_grad()
def test_every_length_decodes_to_whole_hops(codec: Codec, frames: int) -> None:
    wave = codec.decode(some_codes(2, frames))
    assert wave.shape == (2, frames * TIMING.hop_length)
    assert wave.dtype == torch.float32
    assert wave.isfinite().all()


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 333])
@torch.no_grad()
def test_every_length_encodes(codec: Codec, samples: int) -> None:
    codes = codec.encode(torch.rand(2, samples) - 0.5)
    assert codes.shape == (2, TIMING.codebooks, -(-samples // TIMING.hop_length))
    codec.check_codes(codes)


@torch.no_grad()
def test_it_is_the_codec_of_transformers(codec: Codec) -> None:
    codes = some_codes(2, 20)
    assert torch.equal(codec.decode(codes), codec.model.decode(codes[None], [None]).audio_values[:, 0])
    wave = torch.rand(2, 333) - 0.5
    assert torch.equal(codec.encode(wave), codec.model.encode(wave[:, None], bandwidth=0.6).audio_codes[0])


@torch.no_grad()
def test_each_codebook_takes_what_the_last_one_left(codec: Codec) -> None:
    codes = some_codes(1, 30)
    latent = codec.quantised(codes)
    books = codec.codebooks()
    assert books.shape == (TIMING.codebooks, TIMING.codebook_size, codec.latent_dim)
    torch.testing.assert_close(latent[0, :, 3], sum(books[k, codes[0, k, 3]] for k in range(TIMING.codebooks)))
    first = codec.quantise(latent)[:, 0]
    distance = (latent.transpose(1, 2)[:, :, None] - books[0]).norm(dim=-1)
    assert torch.equal(first, distance.argmin(-1))


@torch.no_grad()
def test_a_row_does_not_hear_its_neighbours(codec: Codec) -> None:
    codes = some_codes(3, 25)
    torch.testing.assert_close(codec.decode(codes)[1:2], codec.decode(codes[1:2]))


@torch.no_grad()
def test_context_frames_bound_what_a_code_changes(codec: Codec) -> None:
    # The LSTM remembers without bound; with its weights at zero only the convolutions are left.
    for name, parameter in codec.model.decoder.named_parameters():
        if "lstm" in name:
            parameter.zero_()
    codes = some_codes(1, 60)
    other = codes.clone()
    other[:, :, 30] = (other[:, :, 30] + 1) % TIMING.codebook_size
    changed = (codec.decode(codes) != codec.decode(other))[0].nonzero()[:, 0] // TIMING.hop_length
    reach = codec.context_frames
    assert 30 - reach <= changed.min() < 30 < changed.max() <= 30 + reach
    assert reach <= max(30 - int(changed.min()), int(changed.max()) - 30) + 1


@torch.no_grad()
def test_autocast_does_not_reach_the_convolutions(codec: Codec) -> None:
    codes = some_codes(1, 30)
    with torch.autocast("cpu", torch.bfloat16):
        wave = codec.decode(codes)
    assert torch.equal(wave, codec.decode(codes))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.full((1, 3, 4), TIMING.mask),
        torch.full((1, 3, 4), -1),
        torch.zeros(1, 2, 4, dtype=torch.int64),
        torch.zeros(1, 3, 0, dtype=torch.int64),
        torch.zeros(3, 4, dtype=torch.int64),
        torch.zeros(1, 3, 4),
    ],
)
def test_codes_out_of_range_are_refused(codec: Codec, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError):
        codec.decode(wrong)


def test_waves_of_another_form_are_refused(codec: Codec) -> None:
    for wrong in (torch.zeros(2, 1, 100), torch.zeros(2, 0), torch.zeros(2, 100, dtype=torch.int16)):
        with pytest.raises(ValueError):
            codec.encode(wrong)


@pytest.mark.parametrize(
    ("timing", "changes"),
    [
        (dataclasses.replace(TIMING, codebooks=4), {}),
        (dataclasses.replace(TIMING, codebook_size=32), {}),
        (dataclasses.replace(TIMING, code_rate=Fraction(25)), {}),
        (TIMING, {"sampling_rate": 1600}),
        (TIMING, {"normalize": True}),
        (TIMING, {"chunk_length_s": 1.0}),
        (TIMING, {"audio_channels": 2}),
        (TIMING, {"norm_type": "none"}),
    ],
)
def test_a_configuration_that_contradicts_the_timing_is_refused(timing: Timing, changes: dict[str, Any]) -> None:
    with pytest.raises(BadModel):
        Codec(CodecConfig(encodec=ENCODEC | changes), timing)


def write_audiocraft(folder: Path, **more: str) -> None:
    """A package that is laid out as audiocraft is, whose training stack does not load."""
    broken = "raise OSError('libtorch_cuda.so: cannot open shared object file')"
    files = {
        "__init__": "from . import data, modules, models",
        "data/__init__": broken,
        "modules/__init__": broken,
        "modules/conv": "",
        "modules/seanet": "from . import conv",
        "quantization/__init__": "from .vq import quantizer",
        "quantization/vq": "quantizer = 1",
        "models/__init__": "from . import builders",
        "models/encodec": "from .. import quantization",
    }
    for name, text in (files | more).items():
        path = folder / "audiocraft" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def loaded() -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if name.startswith("audiocraft")}


def test_a_training_stack_that_does_not_load_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audiocraft(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = loaded()
    seanet, quantization, encodec = _import_audiocraft()
    assert seanet.conv.__name__ == "audiocraft.modules.conv"
    assert encodec.quantization.quantizer is quantization.quantizer
    assert loaded() == before
    with pytest.raises(OSError):
        importlib.import_module("audiocraft")  # others find it as it is


def test_an_audiocraft_that_loads_stays_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audiocraft(tmp_path, **{"__init__": "", "modules/__init__": "", "models/__init__": ""})
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert _import_audiocraft()[0] is sys.modules["audiocraft.modules.seanet"]
    finally:
        for name in loaded():
            del sys.modules[name]


def test_a_codec_of_audiocraft_that_does_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audiocraft(tmp_path, **{"modules/seanet": "raise OSError('no such library')"})
    monkeypatch.syspath_prepend(tmp_path)
    before = loaded()
    with pytest.raises(BadRequest, match="no such library"):
        _import_audiocraft()
    assert loaded() == before
