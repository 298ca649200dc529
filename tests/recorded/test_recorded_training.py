"""How training turns and joins clips, beside what the official data class made of three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vatt_core.timing import Timing
from vatt_core.training.audio import Clip

pytestmark = pytest.mark.recorded

Recording = Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]


def test_augmented_clips_are_the_recorded_ones(recording: Recording) -> None:
    tensors, description = recording("text_and_data")
    names = sorted(name.rsplit(".", 1)[1] for name in tensors if name.startswith("in.tokens_npy."))
    timing = Timing()

    def clip(name: str) -> Clip:
        codes = tensors[f"in.tokens_npy.{name}"].T
        return Clip(tensors[f"in.video_first_dim.{name}"][:, None], codes, torch.arange(codes.shape[1]))

    seen = set()
    for case in description["augmentation"]["cases"]:
        own, draws = clip(case["item"]), case["randints"]
        if case["roll"] is not None:
            seen.add("rolled")
            made = own.rolled(case["roll"], timing)
        elif case["randoms"][0] < 0.5 and len(draws) == 3:
            seen.add("joined")
            _, partner, seconds = draws
            made = own.cut_to(clip(names[partner]), int(seconds * timing.video_token_rate), timing)
        else:
            seen.add("as it is")
            made = own
        assert torch.equal(made.codes, tensors[f"out.{case['tag']}.audio_tokens"])
        assert torch.equal(made.features[:, 0], tensors[f"out.{case['tag']}.video_first_dim"])
    assert seen == {"rolled", "joined", "as it is"}
