"""The shipped weights: they are those of docs/nano.md, small enough, and know what they were taught."""

from __future__ import annotations

from pathlib import Path

from vatt_core.evaluation.world import evaluate_world
from vatt_core.pipeline import Pipeline
from vatt_core.training.nano import one_thread
from vatt_core.weights import find_model, model_hash

REPOSITORY = Path(__file__).parents[2]


def test_the_documented_weights_are_shipped_and_stay_small() -> None:
    folder = find_model("nano")
    assert f"Model `{model_hash(folder)[:12]}`" in (REPOSITORY / "docs" / "nano.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 16_000_000


def test_one_clip_of_each_kind_is_named_and_kept_by_the_codec() -> None:
    """What is generated is heard in tests/daemon/test_nano.py, in the demonstration."""
    with one_thread():
        report = evaluate_world(
            Pipeline.load("nano", device="cpu"), single=12, double=0, parts=("captions", "codec"), split="validation"
        )
    found = {row.key: row.value for row in report.rows}
    # Well under what docs/nano.md says of 240 clips, and well over chance.
    assert found["caption_kind"] >= 10 / 12
    assert found["caption_attributes"] > 0.8
    assert found["codec_kind"] > 0.8 and found["codec_onsets"] > 0.8
