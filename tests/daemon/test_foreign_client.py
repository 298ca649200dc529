"""A client in another language, written from docs/protocol.md alone, asks the real daemon everything.

It needs Node and two packages: `make test-foreign` fetches them into a folder that git ignores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from vatt_client import connection, messages, replies

FOREIGN = Path(__file__).parent / "foreign"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (FOREIGN / "node_modules" / "zeromq").is_dir(),
    reason="Node or its packages are missing: make test-foreign",
)


def keys(body: dict[str, Any], kind: type[replies.Reply]) -> None:
    """Every key of an answer is one that the client's own type knows, and so one that the page tells."""
    assert set(body) - {"type", "id"} <= set(kind.__dataclass_fields__) | ({"id"} if kind is replies.Job else set())


def test_the_page_is_enough_to_write_a_client(home: Any) -> None:
    home.start()
    found = connection.read_connection(home.file)
    ran = subprocess.run(
        ["node", "tour.mjs", str(home.file), str(home.clip), str(home.output)],
        cwd=FOREIGN, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)

    assert seen["hello"]["instance"] == seen["ping"]["instance"] == found.instance
    assert "nano" in seen["models"] and seen["unload"] == []
    keys(seen["hello"], replies.Welcome)
    keys(seen["status"], replies.DaemonStatus)
    keys(seen["generate"], replies.Job)
    assert seen["suggest"]["state"] == "done" and seen["suggest"]["request"]["start"] == "1/2"
    assert [caption["text"] for caption in seen["suggest"]["result"]["captions"]] == ["caption 0", "caption 1"]

    job = seen["generate"]
    assert job["state"] == "done" and all(Path(take["wav"]).exists() for take in job["result"]["takes"])
    assert len(job["result"]["takes"]) == 2
    # The job may begin before the watch, so the first reports may be missed; those that come are in order, to the last.
    steps = [step["done"] for step in seen["progress"] if step["stage"] == "codes"]
    assert steps and steps == list(range(60))[-len(steps) :]
    assert seen["again"]["job"] == job["id"] and seen["again"]["duplicate"] is True
    assert [step["state"] for step in seen["get"]["history"]] == ["queued", "running", "done"]

    assert seen["cancel"]["state"] in ("running", "cancelled") and seen["cancelled"]["state"] == "cancelled"
    assert seen["cancelled"]["error"]["code"] == "cancelled"

    assert seen["batch"]["state"] == "done"
    assert seen["batch"]["result"]["counts"] == {"done": 27, "failed": 3, "cancelled": 0, "kept": 0}
    items = sorted(seen["items"], key=lambda item: item["position"])
    assert [item["position"] for item in items] == list(range(30))
    assert [item["position"] for item in items if item["state"] == "failed"] == [9, 19, 29]
    assert {item["error"]["code"] for item in items if item["error"]} == {"input_not_visible"}
    assert len(set(seen["pages"])) == len(seen["pages"]) == 4

    assert seen["upload"]["offset"] == 0 and seen["finish"]["complete"] is True
    assert seen["gap"]["details"]["offset"] == home.clip.stat().st_size
    assert seen["uploadAgain"]["complete"] is True and seen["uploadAgain"]["upload"] == seen["upload"]["upload"]
    assert [take["wav"].startswith("from-afar") for take in seen["afar"]["result"]["takes"]] == [True]
    assert seen["fetched"] == ["RIFF from afar"]

    assert seen["unwatch"]["watch"] is True
    for what, code, field in [
        ("unknownField", "bad_request", "promt"), ("outOfRange", "bad_request", "count"),
        ("otherContent", "bad_request", "idempotency_key"), ("noJob", "not_found", None),
        ("noFile", "not_found", None), ("noClip", "input_not_visible", None), ("version", "unsupported_version", None),
        ("wrongKey", "unauthorised", None),
    ]:  # fmt: skip
        assert (seen[what]["code"], seen[what]["field"]) == (code, field)
    assert seen["version"]["details"]["maximum"] == list(messages.PROTOCOL)
    assert home.processes[-1].wait(60) == 0
