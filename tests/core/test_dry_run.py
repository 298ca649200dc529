"""A dry run of a released model: its sums."""

from __future__ import annotations

from vatt_core.model.dry_run import rehearse
from vatt_core.model.plan import LoadOptions

MILLION = 1_000_000


def test_a_dry_run_adds_up() -> None:
    done = rehearse("vatt-gemma", None, "gemma", LoadOptions(precision="bfloat16"), device="cpu")
    told = done.to_dict()
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"])
    assert [stage["name"] for stage in told["stages"]] == ["vision", "converter", "audio_transformer", "codec"]
    assert all(stage["activations"] > MILLION for stage in told["stages"])
    # The cache of a Gemma: keys and values of 18 layers, one head of 256, two bytes, for 74 tokens and 108 of answer.
    assert told["stages"][1]["cache"] == 18 * 2 * 256 * 2 * (74 + 108)
    assert told["needed"] > sum(stage["weights"] for stage in told["stages"])
    assert any("vatt-gemma" in line for line in done.lines())
