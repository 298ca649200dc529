"""Words in and out of the converter: templates, instructions, tokenisation, batching (reference 7.1, 7.2, 7.4)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vatt_core.errors import BadModel
from vatt_core.model.configuration import ConverterConfig

# The prompt formats of the released models. Gemma's literal <bos> adds to the one that its tokenizer prepends: the
# released weights were trained with both.
TEMPLATES = {
    "alpaca_short": "### Instruction:\n{instruction}\n\n### Response:\n",
    "gemma": "<bos><start_of_turn>user\n{instruction}<end_of_turn>\n<start_of_turn>model",
}

# Asked of a video when no caption is given. Spelling and grammar are those of the training data.
AUDIO_INSTRUCTIONS = (
    "Imagine possible sounds for this video.",
    "Describe possible sounds that could match the video.",
    "What audio could be inferred from this video?",
    "What sounds could match the video?",
    "Infer the sounds that match the video.",
    "What audio could best match this video?",
    "What sound events could the video yields?",
    "Caption possible sound events that describe the video.",
    "What sound events make sense to this video?",
    "Imagine audio events that match this video.",
)

VISUAL_INSTRUCTIONS = (
    "Describe the visual scene.",
    "Caption the visual scene.",
    "What do you see from the video?",
    "What visual content is shown in the video?",
    "Describe the video content in a sentence.",
    "What do you see from the visual frames?",
    "Provide visual description for the scene.",
    "Describe the visual content in details.",
    "What visual elements do you see in the video?",
    "Describe what happens in the video.",
)

# The instruction that the released evaluation scripts ask for captions (reference 7.3).
CAPTION_INSTRUCTION = {"alpaca_short": AUDIO_INSTRUCTIONS[1], "gemma": AUDIO_INSTRUCTIONS[0]}


def fill_template(text: str, template: str) -> str:
    """The prompt that asks `text` in the words of `template` (a key of TEMPLATES)."""
    return TEMPLATES[template].replace("{instruction}", text)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer folder (tokenizer.json, or tokenizer.model of the official Llama and Gemma folders).

    Raises BadModel when the folder holds none that knows words. Nothing is downloaded.
    """
    broken = (
        f"{folder} holds no tokenizer that can be read: its tokenizer.json or tokenizer.model is missing or damaged; pull or "
        "import the model again"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise BadModel(broken) from error
    # Without a vocabulary transformers makes one of the special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise BadModel(broken)
    tokenizer.padding_side = "left"
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """(pad, eos). A tokenizer without a padding token pads with 0, as the official scripts force."""
    if tokenizer.eos_token_id is None:
        raise BadModel("the tokenizer has no end-of-sequence token; pull the model again")
    return (0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)), int(tokenizer.eos_token_id)


def _tokenise_with_end(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> list[int]:
    ids = [int(token) for token in tokenizer(text)["input_ids"]][:limit]
    eos = special_ids(tokenizer)[1]
    return [*ids, eos] if len(ids) < limit and ids[-1:] != [eos] else ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, config: ConverterConfig) -> list[int]:
    """Ids of the prompt that conditions the audio transformer: template and end token, cut at `max_prompt_tokens`.

    As in the official code the cut is on the right, so a long text loses the template's end and the end token.
    """
    return _tokenise_with_end(tokenizer, fill_template(text, config.template), config.max_prompt_tokens)


def encode_caption_prompt(
    tokenizer: PreTrainedTokenizerBase, config: ConverterConfig, *, instruction: str | None = None
) -> list[int]:
    """Ids that ask for a caption: not cut, and no end token, so that the answer follows.

    instruction None: the one that the released evaluation asks (reference 7.3).
    """
    asked = CAPTION_INSTRUCTION[config.template] if instruction is None else instruction
    return [int(token) for token in tokenizer(fill_template(asked, config.template))["input_ids"]]


def encode_example(
    tokenizer: PreTrainedTokenizerBase, instruction: str, answer: str, config: ConverterConfig
) -> list[int]:
    """Ids of one training text: template, answer and end token, cut at `max_caption_tokens` (reference 7.5)."""
    text = fill_template(instruction, config.template) + answer
    return _tokenise_with_end(tokenizer, text, config.max_caption_tokens)


def pad_left(rows: Sequence[Sequence[int]], *, pad: int, multiple_of: int = 1) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (ids [B, L] int64, mask [B, L] int64 with 1 at text), padded on the left.

    L is the longest row, rounded up to `multiple_of`.
    """
    if not rows:
        raise ValueError("there is no row to pad")
    length = max(len(row) for row in rows)
    length += -length % multiple_of
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), length), dtype=torch.int64)
    for index, row in enumerate(rows):
        if row:
            ids[index, length - len(row) :] = torch.tensor(list(row), dtype=torch.int64)
            mask[index, length - len(row) :] = 1
    return ids, mask


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], config: ConverterConfig
) -> tuple[Tensor, Tensor]:
    """Prompts as one left-padded batch: (ids [B, L], mask [B, L])."""
    return pad_left([encode_prompt(tokenizer, text, config) for text in texts], pad=special_ids(tokenizer)[0])


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of newly generated ids, without special tokens and outer blanks.

    The released Gemma marks turns with ordinary pieces; text from the first of them on is no answer and is dropped.
    """
    text: Any = tokenizer.decode(list(ids), skip_special_tokens=True)
    for marker in ("<end_of_turn>", "<start_of_turn>", "<eos>", "</s>"):
        text = text.split(marker)[0]
    return text.strip()


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, folder: Path) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE on `texts` and write it to `folder`.

    Ids as in Llama's: padding 0, beginning 1 (prepended to every text), end 2. The vocabulary may come out smaller
    than asked when the texts have no more pairs to merge. Raises ValueError below the 259 that bytes and marks take.
    """
    marks = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary_size < len(marks) + len(alphabet):
        raise ValueError(f"a byte-level vocabulary has at least {len(marks) + len(alphabet)} entries")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    os.makedirs(folder, exist_ok=True)
    whole.save_pretrained(str(folder))
    return load_tokenizer(folder)
