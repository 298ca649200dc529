"""The converter of both families at a tiny size: states, losses, captions."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import pytest
import torch

from vatt_core.errors import BadModel
from vatt_core.model.captioning import GREEDY, SamplingSettings, process_scores
from vatt_core.model.configuration import ConverterConfig, LoraSettings
from vatt_core.model.converter import IGNORED_LABEL, Converter
from vatt_core.timing import Timing

TIMING = Timing(window=Fraction(2), frame_rate=Fraction(8), video_token_rate=Fraction(2))
FEATURES = 6
LLM: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
MARKS = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "gemma": {"bos_token_id": 2, "eos_token_id": 1, "head_dim": 8, "num_key_value_heads": 1},
}
PROMPT = [1, 5, 6, 7]
WARM = SamplingSettings(temperature=1.0, max_new_tokens=8)


def build(family: Any = "llama", **changes: Any) -> Converter:
    torch.manual_seed(1)
    settings = {"family": family, "llm": LLM | MARKS[family], "lora": None} | changes
    return Converter(ConverterConfig(**settings), TIMING, FEATURES).eval()


def clips(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, TIMING.frames, FEATURES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["llama", "gemma"])
def converter(request: pytest.FixtureRequest) -> Converter:
    return build(request.param, lora=LoraSettings(rank=2, alpha=4))


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[1, 9, 8, 7, 6], [0, 0, 1, 5, 4]]), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@torch.no_grad()
def test_states_of_video_and_text(converter: Converter) -> None:
    ids, mask = texts()
    states = converter.encode_all_states(clips(2), ids, mask)
    assert states.shape == (2, TIMING.video_tokens + 5, converter.hidden_size)
    assert states.isfinite().all()
    logits = converter.llm.lm_head(states[:, TIMING.video_tokens :])
    torch.testing.assert_close(logits, converter.logits(clips(2), ids, mask))


@torch.no_grad()
def test_video_slots_do_not_see_the_text(converter: Converter) -> None:
    ids, mask = texts()
    slots = TIMING.video_tokens
    states = converter.encode_all_states(clips(2), ids, mask)[:, :slots]
    torch.testing.assert_close(states, converter.encode_all_states(clips(2), ids + 3)[:, :slots])


@torch.no_grad()
def test_what_stands_under_the_padding_does_not_matter(converter: Converter) -> None:
    ids, mask = texts()
    other = torch.where(mask == 0, 11, ids)
    keep = torch.cat([torch.ones(2, TIMING.video_tokens), mask], dim=1) > 0
    ours = converter.encode_all_states(clips(2), ids, mask)[keep]
    torch.testing.assert_close(ours, converter.encode_all_states(clips(2), other, mask)[keep])


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_text_states_of_an_earlier_layer(layer: int) -> None:
    ids, mask = texts()
    slots = TIMING.video_tokens
    plain = build()
    early = build(text_state_layer=layer)
    states, last = early.encode_all_states(clips(2), ids, mask), plain.encode_all_states(clips(2), ids, mask)
    torch.testing.assert_close(states[:, :slots], last[:, :slots])
    torch.testing.assert_close(early.logits(clips(2), ids, mask), plain.logits(clips(2), ids, mask))
    if layer == 0:
        torch.testing.assert_close(states[:, slots:], early.llm.get_input_embeddings()(ids))
    same = torch.allclose(states[:, slots:], last[:, slots:], atol=1e-5)
    assert same == (layer == LLM["num_hidden_layers"])


def test_a_mean_forgets_the_order_of_frames_and_a_stack_does_not() -> None:
    frames = clips(1)
    swapped = frames[:, [1, 0, *range(2, TIMING.frames)]]
    mean, stack = build(), build(pooling="stack")
    torch.testing.assert_close(mean.embed_video(frames), mean.embed_video(swapped))
    changed = (stack.embed_video(frames) != stack.embed_video(swapped)).any(-1)[0]
    assert changed.tolist() == [True] + [False] * (TIMING.video_tokens - 1)
    with pytest.raises(ValueError):
        mean.pool(frames[:, 1:])


def test_loss_counts_prompt_answer_and_end_but_no_padding(converter: Converter) -> None:
    ids, mask = texts()
    loss = converter.caption_loss(clips(2), ids, mask)
    explicit = ids.masked_fill(mask == 0, IGNORED_LABEL)
    torch.testing.assert_close(loss, converter.caption_loss(clips(2), ids, mask, labels=explicit))
    other = torch.where(mask == 0, 13, ids)
    # The slot before the first word is padding; its prediction of that word is part of the official loss.
    assert torch.isfinite(converter.caption_loss(clips(2), other, mask))
    loss.backward()
    assert converter.video_proj.weight.grad is not None


@pytest.mark.parametrize("settings", [WARM, GREEDY, SamplingSettings(greedy=True, max_new_tokens=8)])
def test_captions_come_with_their_likelihood(converter: Converter, settings: SamplingSettings) -> None:
    settings = dataclasses.replace(settings, max_new_tokens=8)
    for caption in converter.generate_captions(clips(1), PROMPT, count=3, settings=settings)[0]:
        assert caption.finished == (len(caption.ids) < 8) or caption.finished
        ids = [*caption.ids, *(converter.end_ids if caption.finished else ())]
        labels = torch.tensor([[IGNORED_LABEL] * len(PROMPT) + ids])
        loss = converter.caption_loss(clips(1), torch.tensor([PROMPT + ids]), labels=labels)
        assert caption.mean_log_likelihood == pytest.approx(-float(loss.detach()), abs=1e-4)


def test_greedy_captions_are_those_of_transformers(converter: Converter) -> None:
    ids = torch.tensor([PROMPT])
    embedded = converter.embed(clips(1), ids)
    theirs = converter.llm.generate(
        input_ids=ids,
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2]),
        do_sample=False,
        repetition_penalty=1.3,
        max_new_tokens=8,
    )[0].tolist()
    settings = dataclasses.replace(GREEDY, repetition_penalty=1.3, max_new_tokens=8)
    ours = converter.generate_captions(clips(1), PROMPT, settings=settings)[0][0]
    new = theirs[len(PROMPT) :] if theirs[: len(PROMPT)] == PROMPT else theirs
    assert list(ours.ids) == [token for token in new if token not in converter.end_ids]


def test_an_answer_depends_on_clip_seed_and_its_number_alone(converter: Converter) -> None:
    def ask(features: torch.Tensor, count: int, seed: int) -> list[list[tuple[int, ...]]]:
        answers = converter.generate_captions(features, PROMPT, count=count, settings=WARM, seed=seed)
        return [[caption.ids for caption in row] for row in answers]

    both = ask(clips(2), 3, 5)
    assert both == ask(clips(2), 3, 5)
    assert both[1] == ask(clips(2)[1:], 3, 5)[0]
    assert [row[:1] for row in both] == ask(clips(2), 1, 5)
    assert both != ask(clips(2), 3, 6)
    assert len(set(both[0])) > 1


def test_video_and_prompt_are_read_once_and_logits_are_those_of_the_next_token_alone(converter: Converter) -> None:
    read: list[list[int]] = []
    asked: list[list[int]] = []
    hooks = [
        converter.llm.model.register_forward_pre_hook(
            lambda _, __, given: read.append(list(given["inputs_embeds"].shape)), with_kwargs=True
        ),
        converter.llm.lm_head.register_forward_pre_hook(lambda _, given: asked.append(list(given[0].shape))),
    ]
    converter.generate_captions(clips(2), PROMPT, count=3, settings=dataclasses.replace(WARM, max_new_tokens=4))
    for hook in hooks:
        hook.remove()
    width = converter.hidden_size
    assert read[0] == [2, TIMING.video_tokens + len(PROMPT), width]  # not once per answer
    assert read[1:] and all(shape == [6, 1, width] for shape in read[1:])
    assert all(shape == [6, width] for shape in asked)


def test_global_random_state_is_left_alone(converter: Converter) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = converter.generate_captions(clips(1), PROMPT, count=2, settings=WARM)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert first == converter.generate_captions(clips(1), PROMPT, count=2, settings=WARM)


def test_draws_follow_the_distribution() -> None:
    converter = build()
    settings = SamplingSettings(temperature=1.0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=1)
    drawn = converter.generate_captions(clips(1), PROMPT, count=2000, settings=settings)[0]
    wanted = converter.logits(clips(1), torch.tensor([PROMPT]))[0, -1].softmax(-1)
    counts = torch.zeros(LLM["vocab_size"])
    for caption in drawn:
        counts[caption.ids[0] if caption.ids else 2] += 1
    assert (counts / 2000 - wanted).abs().sum() < 0.2


def test_scores_keep_the_likeliest_whatever_the_filters() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, -4.0]])
    seen = torch.tensor([[0]])
    one = process_scores(logits, seen, SamplingSettings(temperature=1.0, top_p=0.01, top_k=4, repetition_penalty=9.0))
    assert one.isfinite().tolist() == [[False, True, False, False]]
    two = process_scores(logits, seen, SamplingSettings(temperature=1.0, top_p=1.0, top_k=2, repetition_penalty=1.0))
    assert two.isfinite().tolist() == [[True, True, False, False]]


@torch.no_grad()
def test_new_adapters_change_nothing() -> None:
    ids, mask = texts()
    torch.testing.assert_close(
        build(lora=LoraSettings(rank=2)).llm.model.layers[0].self_attn.q_proj.scaling, {"default": 16.0}
    )
    adapted = build(lora=LoraSettings(rank=2))
    plain = build()
    state = {key.replace(".base_layer.", "."): value for key, value in adapted.state_dict().items()}
    plain.load_state_dict({key: value for key, value in state.items() if "lora" not in key})
    wanted = plain.encode_all_states(clips(2), ids, mask)
    torch.testing.assert_close(adapted.encode_all_states(clips(2), ids, mask), wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"text_state_layer": 4},
        {"lora": LoraSettings(targets=("no_such_layer",))},
        {"llm": LLM | {"num_attention_heads": 3}},
        {"llm": LLM | {"hidden_size": "wide"}},
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadModel):
        build(**wrong)
    with pytest.raises(BadModel):
        Converter(ConverterConfig(family="bert", llm=LLM), TIMING, FEATURES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_k": 0}, {"max_new_tokens": 0}],
)
def test_sampling_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SamplingSettings(**wrong)
