"""The converter and its texts against numbers recorded from the official code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vatt_core.model import text
from vatt_core.model.captioning import GREEDY, SamplingSettings, process_scores
from vatt_core.model.configuration import ConverterConfig, LoraSettings
from vatt_core.model.converter import Converter, mean_pool, shifted_cross_entropy
from vatt_core.timing import Timing

pytestmark = pytest.mark.recorded
FAMILIES = ("llama", "gemma")


def build(family: Any, tensors: dict[str, Tensor], description: dict[str, Any]) -> Converter:
    lora = description["lora"]
    config = ConverterConfig(
        family=family,
        llm=description["config_json"],
        lora=LoraSettings(rank=lora["r"], alpha=lora["alpha"], targets=tuple(lora["targets"])),
        template="gemma" if family == "gemma" else "alpaca_short",
    )
    converter = Converter(config, Timing(), tensors["in.video_input"].shape[-1]).eval()
    wanted = set(converter.state_dict())
    state = {}
    for name, value in tensors.items():
        source, _, key = name.partition(".")
        if source == "delta":
            key = key.removeprefix("base_model.model.")
        elif source != "base":
            continue
        key = key.removeprefix("model.") if "video_proj" in key else f"llm.{key}"
        wrapped = key.replace("_proj.weight", "_proj.base_layer.weight")
        state[wrapped if wrapped in wanted else key] = value
    missing, unexpected = converter.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"llm.lm_head.weight"}  # tied in Gemma
    assert missing == [] or converter.llm.config.tie_word_embeddings
    return converter


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest, recording: Any) -> tuple[Converter, dict[str, Tensor], dict[str, Any]]:
    tensors, description = recording(f"converter_{request.param}")
    return build(request.param, tensors, description), tensors, description


def check(ours: Tensor, recorded: Tensor, description: dict[str, Any]) -> None:
    tolerance = description["tolerance"]
    torch.testing.assert_close(ours, recorded, atol=tolerance["atol"], rtol=tolerance["rtol"])


def text_mask(tensors: dict[str, Tensor]) -> Tensor:
    return tensors["in.attention_mask"][:, -tensors["in.input_ids"].shape[1] :]


@torch.no_grad()
def test_states(case: tuple[Converter, dict[str, Tensor], dict[str, Any]]) -> None:
    converter, tensors, description = case
    video, ids, mask = tensors["in.video_input"], tensors["in.input_ids"], text_mask(tensors)
    check(converter.embed_video(video), tensors["out.video_embeds"], description)
    check(converter.encode_all_states(video, ids, mask), tensors["out.encode_all_states"], description)
    check(converter.encode_all_states(video, ids), tensors["out.encode_all_states.no_mask"], description)


@torch.no_grad()
def test_states_of_every_layer(case: tuple[Converter, dict[str, Tensor], dict[str, Any]]) -> None:
    converter, tensors, description = case
    ids = tensors["in.input_ids"]
    slots = converter.timing.video_tokens
    final = tensors["out.encode_all_states"]
    for layer in range(converter.llm.config.num_hidden_layers + 1):
        converter.config = dataclasses.replace(converter.config, text_state_layer=layer)
        states = converter.encode_all_states(tensors["in.video_input"], ids, text_mask(tensors))
        check(states[:, slots:], tensors[f"out.encode_all_states.hidden.{layer}"][:, slots:], description)
        check(states[:, :slots], final[:, :slots], description)


@torch.no_grad()
def test_logits_and_loss(case: tuple[Converter, dict[str, Tensor], dict[str, Any]]) -> None:
    converter, tensors, description = case
    video, ids, mask = tensors["in.video_input"], tensors["in.input_ids"], text_mask(tensors)
    check(converter.logits(video, ids, mask), tensors["out.lm.logits"], description)
    loss = converter.caption_loss(video, ids, mask, labels=tensors["in.labels"])
    check(loss[None], tensors["out.lm.loss"], description)


@torch.no_grad()
def test_logits_and_loss_of_text_alone(case: tuple[Converter, dict[str, Tensor], dict[str, Any]]) -> None:
    """Without video a slot of padding sees nothing at all, and what it says means nothing. The official loss counts it where a
    word follows, so there it is taken from the record."""
    converter, tensors, description = case
    ids, mask, labels = tensors["in.input_ids"], text_mask(tensors), tensors["in.labels"]
    recorded, shown = tensors["out.lm_text_only.logits"], mask > 0
    ours = converter.logits(None, ids, mask)
    check(ours[shown], recorded[shown], description)
    seen = torch.where(shown[..., None], ours, recorded)
    check(shifted_cross_entropy(seen, labels)[None], tensors["out.lm_text_only.loss"], description)
    whole = shown.all(1)
    assert whole.any()
    loss = converter.caption_loss(None, ids[whole], mask[whole], labels=labels[whole])
    check(loss, shifted_cross_entropy(recorded[whole], labels[whole]), description)


@pytest.mark.parametrize(("name", "settings"), [("greedy", GREEDY), ("official_argmax", SamplingSettings(greedy=True))])
def test_captions(
    case: tuple[Converter, dict[str, Tensor], dict[str, Any]], name: str, settings: SamplingSettings
) -> None:
    converter, tensors, _ = case
    row = int(tensors["in.gen.row"])
    prompt = tensors["in.gen.input_ids"][0].tolist()
    wanted = tensors[f"out.gen.{name}.sequence"].tolist()[len(prompt) :]
    settings = dataclasses.replace(settings, max_new_tokens=len(wanted))
    caption = converter.generate_captions(tensors["in.video_input"][row : row + 1], prompt, settings=settings)[0][0]
    assert [*caption.ids] == [token for token in wanted if token not in converter.end_ids]


def test_processed_scores(case: tuple[Converter, dict[str, Tensor], dict[str, Any]]) -> None:
    _, tensors, description = case
    logits = tensors["out.gen.official_argmax.teacher_forced_logits"]
    scores = tensors["out.gen.official_argmax.scores"]
    sequence = tensors["out.gen.official_argmax.sequence"]
    start = tensors["in.gen.input_ids"].shape[1]
    for step in range(len(logits)):
        ours = process_scores(logits[step : step + 1], sequence[None, : start + step], SamplingSettings())
        check(ours, scores[step : step + 1], description)


def test_pooling(recording: Any) -> None:
    tensors, description = recording("misc")
    pooled = tensors["pool.in"]
    config = ConverterConfig(
        llm={"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        | {"num_attention_heads": 1},
        lora=None,
    )
    converter = Converter(config, Timing(), pooled.shape[-1])
    check(converter.pool(pooled), tensors["pool.out"], description)


def test_pooling_of_any_length(recording: Any) -> None:
    tensors, description = recording("misc")
    lengths = [name.rpartition(".")[2] for name in tensors if name.startswith("pool_general.in.")]
    assert lengths
    for length in lengths:
        wanted = tensors[f"pool_general.out.{length}"]
        check(mean_pool(tensors[f"pool_general.in.{length}"], wanted.shape[1]), wanted, description)


@pytest.fixture(params=FAMILIES)
def words(
    request: pytest.FixtureRequest, recording: Any, mini_official_folder: Path
) -> tuple[Any, ConverterConfig, Any]:
    described = recording("text_and_data")[1][request.param]
    tokenizer = text.load_tokenizer(mini_official_folder / Path(described["tokenizer_dir"]).name)
    return tokenizer, ConverterConfig(family=request.param, template=described["template"]), described


def test_prompts_and_ids(words: tuple[Any, ConverterConfig, Any]) -> None:
    tokenizer, config, described = words
    assert text.special_ids(tokenizer) == (described["pad"], described["eos"])
    for case in described["cases"]:
        assert text.fill_template(case["text"], config.template) == case["prompt"]
        assert text.encode_prompt(tokenizer, case["text"], config) == case["audio_ids_max64_eos"]
        asked = text.encode_caption_prompt(tokenizer, config, instruction=case["text"])
        assert asked == case["caption_prompt_ids_no_eos"]


def test_training_ids(words: tuple[Any, ConverterConfig, Any], recording: Any) -> None:
    tokenizer, config, described = words
    instructions = recording("text_and_data")[1]["instructions"]
    for case in described["train"]:
        heads = {text.fill_template(asked, config.template): asked for asked in instructions}
        head = next(head for head in heads if case["full_prompt"].startswith(head))
        answer = case["full_prompt"].removeprefix(head)
        assert text.encode_example(tokenizer, heads[head], answer, config) == case["train_ids_cutoff108_eos"]
        assert text.encode_caption_prompt(tokenizer, config, instruction=heads[head]) == case["user_prompt_ids"]


def test_batch(words: tuple[Any, ConverterConfig, Any]) -> None:
    tokenizer, config, described = words
    collated = described["collator"]
    ids, mask = text.encode_prompts(tokenizer, collated["texts"], config)
    assert ids.tolist() == collated["input_ids"]
    video = torch.ones(len(ids), Timing().video_tokens, dtype=torch.int64)
    assert torch.cat([video, mask], dim=1).tolist() == torch.tensor(collated["attention_mask"]).long().tolist()


def test_answers(words: tuple[Any, ConverterConfig, Any]) -> None:
    tokenizer, _, described = words
    prompts = [case["caption_prompt_ids_no_eos"] for case in described["cases"]]
    for case in described["decode"]:
        prompt = max((ids for ids in prompts if case["ids"][: len(ids)] == ids), key=len)
        answer = text.decode_answer(tokenizer, case["ids"][len(prompt) :])
        # Where the official slice lost the ends of an unfinished answer, ours keeps them.
        assert case["official_pred"].strip() in answer
        assert not case["ends_with_eos"] or answer == case["official_pred"].strip()


def test_lists_of_words(recording: Any) -> None:
    description = recording("text_and_data")[1]
    assert list(text.AUDIO_INSTRUCTIONS) == description["instructions"]
    for name, template in description["templates"].items():
        assert text.TEMPLATES[name] == template["prompt_no_input"]
