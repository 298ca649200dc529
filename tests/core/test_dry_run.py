"""A dry run: its sums, and that what it finds without memory is what a real run takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vatt_core.errors import BadRequest
from vatt_core.model import dry_run, products
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.dry_run import Rehearsal, count, filled, official_config, rehearse
from vatt_core.model.folder import CONFIG_FILE, PART_NAMES, build_part
from vatt_core.model.plan import LoadOptions, plan_memory
from vatt_core.model.quantised import quantisable
from vatt_core.model.stages import PROMPT, SUGGESTIONS, build_empty, run_stage, working_of
from vatt_core.requests import SuggestRequest
from vatt_core.steps import Steps
from vatt_core.weights import find_model

MILLION = 1_000_000
GIB = 1 << 30
RESERVED = 6 * GIB // 10
"""What a driver and its libraries keep of a GPU for themselves."""


@pytest.fixture(scope="module")
def gemma() -> Rehearsal:
    """For a GPU of 8 GB."""
    return rehearse("vatt-gemma", None, "gemma", LoadOptions(), device="cuda", available=8 * GIB - RESERVED)


def test_a_dry_run_adds_up(gemma: Rehearsal) -> None:
    told = gemma.to_dict()
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"])
    assert [stage["name"] for stage in told["stages"]] == ["vision", "converter", "audio_transformer", "codec"]
    assert all(stage["activations"] > MILLION for stage in told["stages"])
    # The cache of a Gemma: keys and values of 18 layers, one head of 256, two bytes, for 74 tokens and 108 of each answer.
    assert told["stages"][1]["cache"] == 18 * 2 * 256 * 2 * (74 + 108) * 4 * SUGGESTIONS
    together = [stage["weights"] + stage["activations"] + stage["cache"] for stage in told["stages"]]
    whole = sum(stage["weights"] for stage in told["stages"])
    above = max(stage["activations"] + stage["cache"] for stage in told["stages"])
    assert told["needed"] == (max(together) if told["memory"] == "swap" else whole + above)
    assert any("vatt-gemma" in line for line in gemma.lines())


def test_gemma_fits_8_gb(gemma: Rehearsal) -> None:
    assert gemma.fits and gemma.plan.fits
    # The plan allows for eight takes at once, which is never less than the one of a dry run.
    for part, stage in zip(gemma.plan.parts, gemma.stages, strict=True):
        assert part.working >= stage.activations + stage.cache


def test_llama_fits_12_gb() -> None:
    config = official_config("vatt-llama", "llama")
    parts = build_empty(config)
    sizes, working = count(parts), working_of(config, parts)
    fits = {
        bits: plan_memory(
            sizes.parameters, sizes.linear, LoadOptions(llm_bits=bits), device=torch.device("cuda"),
            available=12 * GIB - RESERVED, working=working,
        ).fits for bits in (0, 8, 4)
    }  # fmt: skip
    assert fits == {0: False, 8: True, 4: True}


@pytest.mark.parametrize("name", PART_NAMES)
@torch.no_grad()
def test_what_is_found_without_memory_is_what_a_real_run_takes(name: str) -> None:
    config = ModelConfig.load(find_model("nano") / CONFIG_FILE)
    without = run_stage(config, name, build_empty(config)[name])
    real = filled(build_part(config, name, empty=True), torch.float32, torch.device("cpu"))
    activations, cache = run_stage(config, name, real)
    assert cache == without[1]
    assert activations == pytest.approx(without[0], rel=0.1)


def test_what_is_tied_stays_tied_when_it_is_filled() -> None:
    config = ModelConfig.load(find_model("nano") / CONFIG_FILE)
    empty = build_part(config, "converter", empty=True)
    numbers = sum(value.numel() for value in empty.parameters())
    full = filled(empty, torch.bfloat16, torch.device("cpu"))
    assert sum(value.numel() for value in full.parameters()) == numbers
    assert not any(value.is_meta for value in (*full.parameters(), *full.buffers()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_needs_a_size() -> None:
    with pytest.raises(BadRequest):
        rehearse("vatt-gemma", None, "gemma", LoadOptions(), device="cuda")


def test_a_device_that_is_none() -> None:
    with pytest.raises(BadRequest, match="banana"):
        rehearse("vatt-gemma", None, "gemma", LoadOptions(), device="banana")


def test_a_run_that_computes_takes_what_was_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model("nano")
    foretold, run = (
        rehearse("nano", folder, None, LoadOptions(), device="cpu", available=GIB, run=run) for run in (False, True)
    )
    assert [stage.name for stage in run.stages] == list(PART_NAMES)
    for before, after in zip(foretold.stages, run.stages, strict=True):
        assert (after.name, after.weights, after.cache) == (before.name, before.weights, before.cache)
        assert after.activations == pytest.approx(before.activations, rel=0.1)
    assert run.fits and run.needed == pytest.approx(foretold.needed, rel=0.05)
    # Of a language model that is too large for this machine two layers are run; the cache is that of all.
    built: list[int] = []

    def build(config: ModelConfig, name: str, **options: bool) -> torch.nn.Module:
        built.append(int(config.converter.llm["num_hidden_layers"]))
        return build_part(config, name, **options)

    monkeypatch.setattr(dry_run, "available_memory", lambda device: 1000)
    monkeypatch.setattr(dry_run, "build_part", build)
    short = rehearse("nano", folder, None, LoadOptions(), device="cpu", available=GIB, run=True)
    assert built[PART_NAMES.index("converter")] == dry_run.REHEARSED < max(built)
    assert short.stages[1].cache == run.stages[1].cache


@pytest.mark.parametrize("bits", [8, 4])
def test_a_run_adds_the_layer_that_is_unpacked(bits: int) -> None:
    """As the run without memory does: in both, what narrow weights take beside wide ones is the widest layer."""
    added = []
    for run in (False, True):
        wide, narrow = (
            rehearse("nano", find_model("nano"), None, options, device="cpu", available=GIB, run=run).stages[1]
            for options in (LoadOptions(), LoadOptions(llm_bits=bits))
        )
        assert narrow.weights < wide.weights
        added.append(narrow.activations - wide.activations)
    converter = build_part(ModelConfig.load(find_model("nano") / CONFIG_FILE), "converter")
    widest = max(layer.weight.nbytes for layer in quantisable(converter).values())  # type: ignore[arg-type]
    assert added == pytest.approx([widest, widest], rel=0.01)


def test_what_is_multiplied_wide_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for wide in (True, False):
        monkeypatch.setattr(products, "multiplies_fast", lambda dtype, wide=wide: not wide)
        found = rehearse("nano", find_model("nano"), None, LoadOptions(precision="bfloat16"), device="cpu")
        assert found.to_dict()["products_in_float32"] == wide
        assert any("widened" in line for line in found.lines()) == wide


def test_the_command_lets_the_stages_compute() -> None:
    command = [sys.executable, "-m", "vatt_daemon.cli", "models", "dry-run", "nano", "--run", "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [stage["name"] for stage in told["stages"]] == list(PART_NAMES)
    assert told["fits"] and all(stage["activations"] > 0 for stage in told["stages"])


def test_as_many_captions_are_drawn_side_by_side_as_the_plan_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps.load("nano", device="cpu")
    config, converter = steps.config, steps.model.converter
    drawn: list[int] = []
    generate = converter.generate_captions

    def counted(*given: Any, **named: Any) -> Any:
        answers = generate(*given, **named)
        drawn.append(len(answers[0]))
        return answers

    monkeypatch.setattr(converter, "generate_captions", counted)
    steps.caption(torch.zeros(1, config.timing.frames, config.vision.feature_dim), count=SUGGESTIONS, seed=1)
    assert SuggestRequest(Path("clip.mp4")).count == SUGGESTIONS
    cache = run_stage(config, "converter", converter)[1]
    llm = config.converter.llm
    tokens = config.timing.video_tokens + PROMPT + config.converter.max_caption_tokens
    assert cache == llm["num_hidden_layers"] * 2 * llm["hidden_size"] * 4 * tokens * drawn[0]
