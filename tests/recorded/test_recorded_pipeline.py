"""The small official checkpoints, imported into model folders, give what the official code gave: prompt → codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.official_files import write_codec, write_tower
from vatt_core.model.audio_transformer import order_logits
from vatt_core.model.choosing import DecodingOptions
from vatt_core.model.decoding import Condition, generate_codes
from vatt_core.model.folder import LoadedModel, load_model
from vatt_core.model.masking import masked_loss
from vatt_core.model.text import encode_prompts, fill_template
from vatt_core.pipeline import Pipeline
from vatt_core.weights.importing import ImportOptions, import_model
from vatt_core.weights.importing.reading import read_codebooks

pytestmark = pytest.mark.recorded

Recording = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]
Case = tuple[LoadedModel, dict[str, Tensor], dict[str, Any]]
Imported = Callable[[str, str], LoadedModel]


@pytest.fixture(scope="module")
def imported(recording: Recording, mini_official_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """`imported(case, checkpoint)` is the model of a recording, through the import that users have."""
    known: dict[tuple[str, str], LoadedModel] = {}
    folder = tmp_path_factory.mktemp("models")

    def model(case: str, checkpoint: str) -> LoadedModel:
        if (case, checkpoint) not in known:
            names = recording(case)[1]["files"]
            files = {role: mini_official_folder / name for role, name in names.items()}
            parts = {
                "base": files["base"],
                "delta": files["delta"],
                "codebooks": files["codebooks"],
                "checkpoint": mini_official_folder / checkpoint,
                "codec": write_codec(folder / f"{case}-codec", tables=read_codebooks(files["codebooks"])),
                "vision": write_tower(folder / "tower"),
            }
            words = files["base"] / "word_embeds.pth"
            if words.is_file():
                parts["word_embeds"] = words
            family: Any = case.removeprefix("pipeline_")
            made = folder / f"{case}-{Path(checkpoint).stem}"
            import_model(
                case, [], folder=made, family=family, text_steered=True, options=ImportOptions(parts=parts)
            )  # fmt: skip
            known[case, checkpoint] = load_model(made)
        return known[case, checkpoint]

    return model


@pytest.fixture(params=["pipeline_llama", "pipeline_gemma"])
def case(request: pytest.FixtureRequest, recording: Recording, imported: Imported) -> Case:
    tensors, description = recording(request.param)
    return imported(request.param, description["files"]["ckpt"]), tensors, description


class ReplayedDraws:
    """Hands out recorded uniform numbers, step by step."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        tokens, noise = tensors["rec.multinomial_uniform"].double(), tensors["rec.gumbel_uniform"]
        self.rows = iter(zip(tokens, noise, strict=True))

    def step(self, slots: int) -> tuple[Tensor, Tensor]:
        tokens, noise = next(self.rows)
        assert len(tokens) == slots
        return tokens, noise


def options_of(description: dict[str, Any]) -> DecodingOptions:
    sampling = description["sampling"]
    return DecodingOptions(
        steps=sampling["sampling_steps"],
        guidance_scale=sampling["cfg_coef"],
        temperature=sampling["sampling_temperature"],
        mask_temperature=sampling["mask_temperature"],
        top_k=sampling["top_k"],
    )


def check(ours: Tensor, recorded: Tensor, description: dict[str, Any]) -> None:
    tolerance = description["tolerance"]
    torch.testing.assert_close(ours, recorded, atol=tolerance["atol"], rtol=tolerance["rtol"])


def test_prompt_and_ids(case: Case) -> None:
    model, tensors, description = case
    assert fill_template(description["caption"], model.config.converter.template) == description["prompt"]
    ids, mask = encode_prompts(model.tokenizer, [description["caption"]], model.config.converter)
    assert torch.equal(ids, tensors["in.input_ids"])
    assert torch.equal(mask, tensors["in.attention_mask"][:, -ids.shape[1] :].long())
    assert model.tokenizer.convert_ids_to_tokens(ids[0].tolist()) == description["tokens"]


@torch.no_grad()
def test_states(case: Case) -> None:
    model, tensors, description = case
    condition = Pipeline(model, "recorded").condition(tensors["in.video_input"], [description["caption"]])[0]
    check(condition.states[None], tensors["out.cond_hidden"], description)


def test_codes_of_the_whole_way(case: Case) -> None:
    model, tensors, description = case
    condition = Pipeline(model, "recorded").condition(tensors["in.video_input"], [description["caption"]])
    seen: list[Tensor] = []
    guided: list[Tensor] = []

    def watch(_: torch.nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        seen.append(arguments[0].chunk(2)[0].clone())
        toward, away = logits.chunk(2)
        guided.append((away + description["sampling"]["cfg_coef"] * (toward - away)).transpose(1, 2).flatten(1, 2)[0])

    hook = model.audio_transformer.register_forward_hook(watch)
    try:
        codes = generate_codes(
            model.audio_transformer, condition, options=options_of(description), generators=[ReplayedDraws(tensors)]
        )
    finally:
        hook.remove()
    first = tensors["step0.cfg_logits_first_slots"]
    check(guided[0][: len(first)], first, description)
    assert torch.equal(torch.cat(seen), tensors["step.masked_codes_in"].long())
    assert torch.equal(codes, tensors["out.codes"].long())


def train_step(model: LoadedModel, tensors: dict[str, Tensor], description: dict[str, Any], prefix: str = "") -> None:
    codes, mask = tensors["train.codes"].long(), model.config.timing.mask
    hidden = tensors["train.mask_uniform"] < description["train"]["mask_ratio"]
    drop = torch.full((len(codes),), bool(description["train"]["condition_dropout"]))
    keep = tensors["in.attention_mask"]
    condition = model.converter.encode_all_states(
        tensors["in.video_input"], tensors["in.input_ids"], keep[:, -tensors["in.input_ids"].shape[1] :]
    )
    logits = model.audio_transformer(codes.masked_fill(hidden, mask), condition, keep, drop_condition=drop)
    check(masked_loss(logits, codes.masked_fill(~hidden, -1)), tensors[f"{prefix}train.loss"].squeeze(), description)
    by_slot = logits.transpose(1, 2).flatten(1, 2)[
        0
    ]  # slots in the order (time, codebook), which is that of the record
    check(by_slot[::50], tensors[f"{prefix}train.logits_every_50th_slot"], description)


@torch.no_grad()
def test_training_step(case: Case) -> None:
    train_step(*case)


@torch.no_grad()
def test_loss_with_codebooks_of_the_checkpoint(recording: Recording, imported: Imported) -> None:
    """A checkpoint that carries its own quantizer: loss and every 50th logit, which is what was recorded of it."""
    tensors, description = recording("pipeline_llama")
    found = re.search(r"\S+\.ckpt", description["variant"] or "")
    if found is None:
        pytest.skip("this recording has no variant")
    model = imported("pipeline_llama", found[0])
    file = imported("pipeline_llama", description["files"]["ckpt"])
    assert not torch.equal(model.audio_transformer.codebooks, file.audio_transformer.codebooks)
    train_step(model, tensors, description, prefix="variant.")


def test_a_row_of_a_batch_is_the_request_alone(case: Case, recording: Recording) -> None:
    model, tensors, description = case
    pipeline = Pipeline(model, "recorded")
    generator = torch.Generator().manual_seed(5)
    others = torch.randn(2, *tensors["in.video_input"].shape[1:], generator=generator)
    features = torch.cat([others[:1], tensors["in.video_input"], others[1:]])
    prompts = ["Rain.", description["caption"], "A dog barks far away while somebody plays the piano in a big hall."]
    few = DecodingOptions(steps=4)
    batch = pipeline.sound_codes(features, prompts, seeds=[1, 2, 3], options=few)
    for row in range(3):
        alone = pipeline.sound_codes(features[row : row + 1], prompts[row : row + 1], seeds=[row + 1], options=few)
        assert torch.equal(batch[row], alone[0])

    # And the recorded row stays the recorded one with others beside it.
    conditions: list[Condition] = pipeline.condition(features, prompts)
    codes = generate_codes(
        model.audio_transformer,
        conditions,
        options=options_of(description),
        generators=[torch.Generator().manual_seed(1), ReplayedDraws(tensors), torch.Generator().manual_seed(3)],
    )
    assert torch.equal(codes[1:2], tensors["out.codes"].long())


def test_known_slots_of_the_legacy_order_survive(case: Case) -> None:
    model, tensors, _ = case
    timing = model.config.timing
    logits = torch.arange(timing.codebooks * timing.code_frames, dtype=torch.float32)
    by_head = logits.view(1, timing.codebooks, timing.code_frames, 1)
    ordered = order_logits(by_head, model.config.audio.token_order)
    assert torch.equal(ordered.transpose(1, 2).flatten(), logits)
    assert tensors["out.codes"].shape[1:] == (timing.codebooks, timing.code_frames)
