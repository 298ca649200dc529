"""A CLAP model is used where its files lie, and its absence or damage is no fault. A tiny one stands for the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from vatt_core.clap import installed_clap
from vatt_core.media.spool import Held
from vatt_core.model.text import load_tokenizer
from vatt_core.weights import find_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("vatt_core.clap.models_folder", lambda: tmp_path)
    installed_clap.cache_clear()
    return tmp_path / "clap"


def write_tiny(folder: Path) -> None:
    tokenizer = load_tokenizer(find_model("nano") / "tokenizer")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    heard = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 64,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
    }
    torch.manual_seed(0)
    config = ClapConfig(text_config={"vocab_size": len(tokenizer), **small}, audio_config=heard, projection_dim=16)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_words_and_sounds_are_compared_where_the_model_lies(folder: Path) -> None:
    assert installed_clap() is None
    installed_clap.cache_clear()
    write_tiny(folder)
    clap = installed_clap()
    assert clap is not None
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 25)
    for samples in (16_000, len(noise)):
        for text in ("a bell", "rain falls on a tin roof"):
            value = clap.agreement(Held(noise[:samples], 16_000), text)
            assert -1 <= value <= 1


def test_damaged_files_are_as_good_as_none(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert installed_clap() is None
