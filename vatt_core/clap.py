"""How well a sound agrees with words, by a CLAP model, where one is installed: transformers' files of one (such as
laion/clap-htsat-unfused) in the folder `clap` among the models. Nothing is fetched, and without it nothing is missing.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional

from vatt_core.media.spool import Sound
from vatt_core.media.waves import resample
from vatt_core.weights.registry import models_folder

log = logging.getLogger(__name__)

_PIECE_SECONDS = 10  # what these models hear at once
_MOST_PIECES = 6  # of a long sound, evenly taken


class Clap:
    """A CLAP model of a folder. Raises what transformers raises for files that are none."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        self._model = ClapModel.from_pretrained(folder, local_files_only=True).eval()
        self._listener = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def agreement(self, sound: Sound, text: str) -> float:
        """Cosine (-1 … 1) of what is heard and what is said; of a long sound the mean over some pieces."""
        rate = int(self._listener.sampling_rate)
        piece = _PIECE_SECONDS * sound.sample_rate
        count = min(_MOST_PIECES, max(1, sound.samples // piece))
        last = max(0, sound.samples - piece)
        starts = [last * n // max(1, count - 1) for n in range(count)]
        waves = [
            resample(sound.read(start, min(sound.samples, start + piece)), sound.sample_rate, rate) for start in starts
        ]
        heard = self._listener(waves, sampling_rate=rate, return_tensors="pt")
        said = self._tokenizer([text], return_tensors="pt", truncation=True, max_length=64)
        out = self._model(
            input_ids=said["input_ids"],
            attention_mask=said["attention_mask"],
            input_features=heard["input_features"],
            is_longer=heard["is_longer"],
        )
        return float(functional.cosine_similarity(out.audio_embeds, out.text_embeds).mean())


@lru_cache(maxsize=1)
def installed_clap() -> Clap | None:
    """The installed model, loaded once; None where there is none, or none that can be read."""
    folder = models_folder() / "clap"
    if not (folder / "config.json").is_file():
        return None
    try:
        return Clap(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        log.warning("the CLAP model in %s cannot be used: %s", folder, error)
        return None
