"""The evaluation of a model: true sound reaches its own ceiling, other sound does not, and a whole pipeline runs through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vatt_core.errors import BadRequest
from vatt_core.evaluation.clips import evaluation_scenes, partners
from vatt_core.evaluation.metrics import Wave
from vatt_core.evaluation.report import MEASURES, Row
from vatt_core.evaluation.world import (
    PARTS,
    TrueSound,
    evaluate_captions,
    evaluate_codec,
    evaluate_generation,
    evaluate_world,
    true_sound,
)
from vatt_core.model.codec import Codec
from vatt_core.model.configuration import (
    AudioTransformerConfig,
    CodecConfig,
    ConverterConfig,
    ModelConfig,
    VisionConfig,
)
from vatt_core.model.folder import PART_NAMES, build_part, save_part
from vatt_core.model.text import train_tokenizer
from vatt_core.pipeline import Pipeline
from vatt_core.timing import Timing
from vatt_core.world.kinds import read_caption
from vatt_core.world.scene import Scene
from vatt_core.world.sound import synthesise

TIMING = Timing(window=Fraction(2), frame_rate=Fraction(4), video_token_rate=Fraction(2), codebooks=2, codebook_size=16)


def by_key(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.key: row for row in rows}


@pytest.fixture(scope="module")
def true() -> TrueSound:
    return true_sound(evaluation_scenes(24, 0)["single"])


def sound_of_the_prompt(scenes: Sequence[Scene], prompts: Sequence[str], seeds: Sequence[int]) -> list[Wave]:
    waves = []
    for scene, prompt in zip(scenes, prompts, strict=True):
        material = read_caption(prompt)[0].get("material")
        waves.append(synthesise(scene if material is None else scene.with_material(material)))
    return waves


def test_true_sound_as_generated_reaches_the_ceilings(true: TrueSound) -> None:
    rows = by_key(evaluate_generation(sound_of_the_prompt, true))
    for key in ("generated_kind", "generated_material", "generated_onsets", "generated_margin", "force", "steering"):
        assert rows[key].value == rows[key].ceiling
        assert rows[key].verdict in ("stretch", "")
    assert rows["generated_level"].value == 0
    assert rows["steering"].clips == 6


def test_sound_of_another_clip_of_the_kind_does_not(true: TrueSound) -> None:
    other = {scene.seed: whose for scene, whose in zip(true.scenes, partners(true.scenes), strict=True)}

    def shuffled(scenes: Sequence[Scene], prompts: Sequence[str], seeds: Sequence[int]) -> list[Wave]:
        return [true.waves[other[scene.seed] or 0] for scene in scenes]

    rows = by_key(evaluate_generation(shuffled, true))
    assert rows["generated_kind"].value > 0.9
    assert rows["generated_onsets"].value < 0.7
    assert rows["generated_margin"].value < 0.2
    assert rows["force"].value < 0.5
    assert rows["steering"].value < 0.5


def test_sound_that_ignores_the_words_does_not_steer(true: TrueSound) -> None:
    few = true_sound(true.scenes[:3])
    rows = by_key(evaluate_generation(lambda scenes, prompts, seeds: [synthesise(s) for s in scenes], few))
    assert rows["generated_kind"].value == rows["generated_kind"].ceiling
    assert rows["steering"].value == 0


def test_prompts_and_seeds_of_generation(true: TrueSound) -> None:
    asked: list[tuple[Scene, str, int]] = []

    def compose(scenes: Sequence[Scene], prompts: Sequence[str], seeds: Sequence[int]) -> list[Wave]:
        asked.extend(zip(scenes, prompts, seeds, strict=True))
        return [synthesise(scene) for scene in scenes]

    few = true_sound(true.scenes[:3])
    evaluate_generation(compose, few, batch=2)
    # Three clips with their own caption, then the three look-alikes among them with the other material.
    assert [prompt for _, prompt, _ in asked[:3]] == [scene.caption for scene in few.scenes]
    assert len(asked) == 6
    assert all(
        ("metal" in own[1]) != ("metal" in swapped[1]) for own, swapped in zip(asked[:3], asked[3:], strict=True)
    )
    assert [own[2] for own in asked[:3]] == [swapped[2] for swapped in asked[3:]]


def test_a_codec_that_knows_nothing_misses_the_bars(true: TrueSound) -> None:
    torch.manual_seed(0)
    rows = by_key(evaluate_codec(Codec(configuration().codec, TIMING).eval(), true_sound(true.scenes[:4]), batch=3))
    assert rows["codec_kind"].verdict == rows["codec_log_mel"].verdict == rows["codec_level"].verdict == "missed"
    assert rows["codec_kind"].ceiling == 1


def test_captions_of_others_are_the_control() -> None:
    scenes = evaluation_scenes(24, 0)["single"]
    rows = by_key(evaluate_captions(lambda scene: [scene.caption], scenes))
    assert rows["caption_kind"].value == rows["caption_attributes"].value == 1
    assert rows["caption_kind"].controls == {"same kind": 1, "random": pytest.approx(0, abs=0.3)}
    assert rows["caption_all_attributes"].controls["same kind"] < 0.5
    assert rows["suggestions"].value == 0  # only one


def configuration() -> ModelConfig:
    return ModelConfig(
        name="tiny",
        timing=TIMING,
        vision=VisionConfig(
            name="tiny",
            open_clip_model={
                "embed_dim": 8,
                "vision_cfg": {"layers": 1, "width": 8, "head_width": 8, "patch_size": 16},
                "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1},
            },
            image_size=32,
            feature_dim=8,
        ),
        converter=ConverterConfig(
            llm={
                "vocab_size": 270,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
            },
            lora=None,
            pooling="stack",
            max_caption_tokens=12,
        ),
        audio=AudioTransformerConfig(
            dim=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_heads=1,
            decoder_heads=1,
            dim_head=8,
            latent_dim=6,
            condition_dim=8,
            visual_positions=80,
            token_order="aligned",
        ),
        codec=CodecConfig(
            encodec={
                "target_bandwidths": [0.4],
                "sampling_rate": 16000,
                "num_filters": 2,
                "hidden_size": 6,
                "upsampling_ratios": [5, 4, 4, 4],
                "codebook_size": 16,
                "use_causal_conv": False,
            }
        ),
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    settings = configuration()
    torch.manual_seed(0)
    for name in PART_NAMES:
        save_part(folder, name, build_part(settings, name))
    settings.save(folder / "config.json")
    train_tokenizer(["a bell rings"], 260, folder / "tokenizer")
    return Pipeline.load(folder, device="cpu")


def test_a_whole_pipeline_is_measured(untrained: Pipeline, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = evaluate_world(
        untrained, single=3, double=2, parts=PARTS, batch=2, cache=tmp_path, progress=lambda *said: seen.append(said)
    )
    assert report.clips == {"single": 3, "double": 2}
    assert {(row.key, row.group) for row in report.rows if row.group == "single"} == {
        (key, "single") for key in MEASURES
    }
    assert all(done <= total for _, done, total in seen)
    json.dumps(report.to_dict(), allow_nan=False)
    assert len(list(tmp_path.iterdir())) == 5

    # In other batches the same figures come out.
    again = evaluate_world(untrained, single=3, double=0, parts=["codec", "generation"], batch=5, cache=tmp_path)
    for other in again.rows:
        one = report.row(other.key)
        assert one is not None
        np.testing.assert_allclose(one.value, other.value, rtol=1e-3, atol=1e-3)


def test_only_the_chosen_parts_are_measured(untrained: Pipeline) -> None:
    report = evaluate_world(untrained, single=1, double=0, parts=["captions"])
    assert {row.key.split("_")[0] for row in report.rows} == {"caption", "suggestions"}
    with pytest.raises(BadRequest):
        evaluate_world(untrained, parts=["colour"])
    with pytest.raises(BadRequest):
        evaluate_world(untrained, split="training")
    with pytest.raises(BadRequest):
        evaluate_world(untrained, single=0, double=0)
