"""Prompts, ids and answers with a tokenizer that is trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vatt_core.errors import BadModel
from vatt_core.model.configuration import ConverterConfig
from vatt_core.model.text import (
    AUDIO_INSTRUCTIONS,
    decode_answer,
    encode_caption_prompt,
    encode_example,
    encode_prompt,
    encode_prompts,
    fill_template,
    load_tokenizer,
    pad_left,
    special_ids,
    train_tokenizer,
)

CAPTIONS = ("A wooden ball bounces on a stone floor.", "Rain falls on a tin roof.", "A metal bell rings twice.")
CONFIG = ConverterConfig()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = [fill_template(text, "alpaca_short") for text in (*AUDIO_INSTRUCTIONS, *CAPTIONS)]
    return train_tokenizer(texts, 400, tmp_path_factory.mktemp("words") / "tokenizer")


def test_marks_are_those_of_llama(tokenizer: Any) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert special_ids(tokenizer) == (0, 2)
    assert len(tokenizer) <= 400


def test_training_twice_gives_the_same_ids(tmp_path: Path) -> None:
    ids = [train_tokenizer(CAPTIONS, 280, tmp_path / name)(CAPTIONS[0])["input_ids"] for name in ("one", "two")]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("text", [*CAPTIONS, "Ünïcode — 日本 🎬", "  two  blanks\n"])
def test_any_text_survives_the_way_there_and_back(tokenizer: Any, text: str) -> None:
    example = encode_example(tokenizer, "?", text, ConverterConfig(max_caption_tokens=500))
    prompt = encode_caption_prompt(tokenizer, CONFIG, instruction="?")
    assert example[0] == tokenizer.bos_token_id
    assert example[-1] == tokenizer.eos_token_id
    whole = decode_answer(tokenizer, example)
    assert whole == fill_template("?", "alpaca_short") + text.rstrip()
    assert decode_answer(tokenizer, prompt) == fill_template("?", "alpaca_short").strip()


def test_a_prompt_ends_with_the_end_token_where_it_fits(tokenizer: Any) -> None:
    ids = encode_prompt(tokenizer, CAPTIONS[0], CONFIG)
    assert ids[-1] == tokenizer.eos_token_id
    exact = ConverterConfig(max_prompt_tokens=len(ids))
    assert encode_prompt(tokenizer, CAPTIONS[0], exact) == ids
    cut = ConverterConfig(max_prompt_tokens=len(ids) - 1)
    assert encode_prompt(tokenizer, CAPTIONS[0], cut) == ids[:-1]
    assert len(encode_prompt(tokenizer, CAPTIONS[0] * 20, CONFIG)) == CONFIG.max_prompt_tokens


def test_braces_in_a_caption_are_plain_text() -> None:
    assert "a {x} {instruction} b" in fill_template("a {x} {instruction} b", "alpaca_short")


def test_batches_are_padded_on_the_left(tokenizer: Any) -> None:
    ids, mask = encode_prompts(tokenizer, CAPTIONS, CONFIG)
    for row, kept, text in zip(ids, mask, CAPTIONS, strict=True):
        alone = encode_prompt(tokenizer, text, CONFIG)
        assert row[-len(alone) :].tolist() == alone
        assert kept.sum() == len(alone)
        assert kept[-len(alone) :].all()
    padded, mask = pad_left([[5], [6, 7, 8]], pad=0, multiple_of=4)
    assert padded.tolist() == [[0, 0, 0, 5], [0, 6, 7, 8]]
    assert mask.tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel):
        load_tokenizer(tmp_path)
    with pytest.raises(BadModel):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadModel):
        load_tokenizer(tmp_path)


def test_a_vocabulary_too_small_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        train_tokenizer(CAPTIONS, 100, tmp_path)
