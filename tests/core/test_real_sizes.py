"""The released models at their real sizes, without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vatt_core.errors import BadModel
from vatt_core.model.configuration import Family
from vatt_core.model.dry_run import count, official_config
from vatt_core.model.official_names import PREFIX, official_places
from vatt_core.model.stages import LiveBytes, build_empty
from vatt_core.timing import Timing
from vatt_core.weights.importing.audio import audio_sizes
from vatt_core.weights.importing.language import read_source

KEYS = json.loads((Path(__file__).parents[1] / "data" / "recorded" / "full_size_keys.json").read_text(encoding="utf-8"))
MILLION = 1_000_000


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_names_and_shapes_are_those_of_the_release(family: str) -> None:
    config = official_config(family, family)  # type: ignore[arg-type]
    parts = build_empty(config)
    ours = {name: value.shape for name, value in parts["audio_transformer"].state_dict().items()}
    recorded = KEYS[f"audio_token_decoder.{family}"]
    places = official_places(config.audio, config.timing)
    assert {PREFIX + key for key in places} == set(recorded) and len(recorded) == 330
    for key, place in places.items():
        shape = ours[place.name]
        part = [shape[0] // place.parts, *shape[1:]]
        assert [size for size in recorded[PREFIX + key] if size != 1] == [size for size in part if size != 1], key
    assert set(ours) - {place.name for place in places.values()} == {"codebooks"}
    shared: dict[str, int] = {}
    for place in places.values():
        shared[place.name] = shared.get(place.name, 0) + 1
    assert [number for name, number in shared.items() if name.startswith("encoder.norm.")] == KEYS[
        f"shared_groups.{family}"
    ]

    # The converter: one layer is recorded, the others are like it.
    shown = next(value for name, value in KEYS.items() if name.startswith(f"delta_{family}"))
    renamed = read_source(Path("delta"), "delta", {key: torch.empty(0) for key in shown}).original
    converter = {
        name.removeprefix("llm.").removeprefix("model.").replace(".base_layer.", "."): list(value.shape)
        for name, value in parts["converter"].state_dict().items()
    }
    for name, key in renamed.items():
        if not name.endswith("rotary_emb.inv_freq"):
            assert converter[name] == shown[key], key
    layers = 32 if family == "llama" else 18
    assert len([name for name in converter if ".lora_" in name]) == 4 * layers

    sizes = count(parts)
    # 416.45 and 414.35 million with the positions (reference 3), and 1.05 million numbers of codebooks.
    wanted = {"llama": 417.5, "gemma": 415.4}[family]
    assert sizes.parameters["audio_transformer"] / MILLION == pytest.approx(wanted, abs=0.1)
    assert 300 * MILLION < sizes.parameters["vision"] < 310 * MILLION
    assert 56 * MILLION < sizes.parameters["codec"] < 58 * MILLION
    billions = sizes.parameters["converter"] / 1e9
    assert 6.7 < billions < 6.8 if family == "llama" else 2.5 < billions < 2.52


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_checkpoint_of_the_released_width_has_the_released_depth(family: Family) -> None:
    """One that is cut at the end of a stack has no gap in its numbers, yet is incomplete."""
    shapes = KEYS[f"audio_token_decoder.{family}"]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    released = official_config(family, family)
    assert audio_sizes(tensors, Path("whole.ckpt"), Timing()) == (released.audio, released.timing)
    for stack, layers in (("encoder", released.audio.encoder_layers), ("decoder", released.audio.decoder_layers)):
        # A layer is two of these: attention and feed-forward.
        last = tuple(f"{PREFIX}{stack}.attn_layers.layers.{2 * layers - number}." for number in (1, 2))
        short = {key: value for key, value in tensors.items() if not key.startswith(last)}
        assert 0 < len(short) < len(tensors)
        with pytest.raises(BadModel, match=rf"short\.ckpt has {layers - 1} {stack} layers"):
            audio_sizes(short, Path("short.ckpt"), Timing())
        # Of another width it would be a model of its own.
        narrow = {key: value for key, value in short.items() if not key.endswith("embedding.out_proj.weight")}
        narrow[f"{PREFIX}embedding.out_proj.weight"] = torch.empty(64, released.audio.latent_dim, device="meta")
        assert getattr(audio_sizes(narrow, Path("own.ckpt"), Timing())[0], f"{stack}_layers") == layers - 1


def test_live_bytes_are_those_that_are_there_at_once() -> None:
    given = torch.zeros(1000)
    with LiveBytes() as mode:
        first = given + 1  # 4000 bytes
        second = first * 2  # and 4000 more
        del first
        third = second[:10] - 1  # a view, and 40
        assert mode.now == 4040
        del second, third
    assert mode.peak == 8000
    assert mode.now == 0
