"""audiocraft's own codec beside ours: the same checkpoint, the same samples, the same codes (`make test-optional`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vatt_core.model.audiocraft_codec import AudiocraftCodec
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import CodecConfig
from vatt_core.model.folder import load_model
from vatt_core.model.plan import LoadOptions
from vatt_core.timing import Timing
from vatt_core.weights import find_model
from vatt_core.weights.importing.encodec import read_compression

pytestmark = [pytest.mark.optional, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@torch.no_grad()
def test_an_imported_checkpoint_sounds_and_encodes_as_in_audiocraft(tmp_path: Path, pad_mode: str) -> None:
    from tests.optional.record_audiocraft import build

    # The sizes of AudioGen's codec.
    theirs, config = build(n_filters=64, dimension=128, bins=2048, books=4, pad_mode=pad_mode, seed=3)
    file = tmp_path / "compression_state_dict.bin"
    torch.save({"xp.cfg": config, "best_state": theirs.state_dict()}, file)
    found = read_compression(file)
    codec = Codec(CodecConfig(encodec=found.encodec), Timing()).eval()
    missing, surplus = codec.load_state_dict(found.state, strict=False)
    assert not surplus and all(name.endswith("embed_avg") for name in missing)
    backend = AudiocraftCodec(codec)
    for samples in (7, 16_000, 48_123, 160_000):
        wave = torch.rand(2, samples) - 0.5
        codes, _ = theirs.encode(wave[:, None])
        assert torch.equal(codec.encode(wave), codes)
        assert torch.equal(backend.encode(wave), codes)
        assert torch.equal(codec.decode(codes), theirs.decode(codes)[:, 0])
        assert torch.equal(backend.decode(codes), theirs.decode(codes)[:, 0])
    assert torch.equal(backend.codebooks(), codec.codebooks())
    assert backend.context_frames == codec.context_frames
    with pytest.raises(ValueError):
        backend.decode(torch.full((1, 4, 3), 2048))


@torch.no_grad()
def test_whoever_has_audiocraft_may_choose_it_and_hears_the_same() -> None:
    usual = load_model(find_model("nano"))
    chosen = load_model(find_model("nano"), options=LoadOptions(codec="audiocraft"))
    assert isinstance(chosen.codec, AudiocraftCodec)
    timing = usual.config.timing
    generator = torch.Generator().manual_seed(1)
    shape = (2, timing.codebooks, timing.code_frames)
    codes = torch.randint(0, timing.codebook_size, shape, generator=generator)
    wave = usual.codec.decode(codes)
    assert torch.equal(chosen.codec.decode(codes), wave)
    assert torch.equal(chosen.codec.encode(wave), usual.codec.encode(wave))
