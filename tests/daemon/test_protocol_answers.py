"""What the daemon answers is what docs/protocol.md says: the keys of every answer, ends that come, refusals."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
from vatt_client import Client, errors, fields, messages, replies

from vatt_core.errors import VattError
from vatt_core.requests import GenerateRequest


def named(kind: type[messages.Message]) -> set[str]:
    """The keys that the message's definition, and with it the page, promises for its answer."""
    text = re.sub(r"\([^)]*\)", "", kind.ANSWER).partition(", then ")[0]
    return {name.strip() for name in text.split(",")}


def ask(client: Client, body: dict[str, Any], socket: str) -> dict[str, Any]:
    """Send a map as it is, and return the answer's map."""
    link = client.session.link(socket)
    identity = link.begin()
    end = time.monotonic() + 60
    while not link.send([messages.VERSION_FRAME, identity, messages.pack(body)]):
        assert time.monotonic() < end
    while (answer := link.take(identity)) is None:
        link.receive()
        assert time.monotonic() < end
        time.sleep(0.002)
    return answer


def test_every_answer_has_the_keys_that_are_promised(shared: Any, guest: Client) -> None:
    job = guest.run(shared.generate("plain")).id
    clip = str(shared.clip)
    kept = guest.run(messages.Generate(path=clip, output="download:", prompt="kept")).takes().takes[0]
    sent = {"name": "clip.mp4", "size": 5, "sha256": hashlib.sha256(b"bytes").digest()}
    upload = ask(guest, {"type": "upload", **sent}, "jobs")["upload"]
    bodies: dict[str, dict[str, Any]] = {
        "suggest": {"path": clip},
        "generate": {"path": clip, "output": str(shared.output)},
        "batch": {"items": [{"path": clip, "output": str(shared.output)}]},
        "upload": sent,
        "chunk": {"upload": upload, "offset": 0, "data": b"bytes"},
        "finish": {"upload": upload},
        "fetch": {"job": guest.list(limit=1)[0].id, "name": kept.wav},
        "get": {"job": job, "history": True},
        "cancel": {"job": job},
        "watch": {"jobs": [job]},
        "unwatch": {"watch": secrets.token_hex(4)},
    }
    for kind in messages.REQUESTS.values():
        if kind is messages.Shutdown:
            continue
        for socket in kind.SOCKETS:
            answer = ask(guest, {"type": kind.TYPE, **bodies.get(kind.TYPE, {})}, socket)
            promised = named(kind) - ({"seed"} if kind is messages.Batch else set())
            assert set(answer) - {"type"} == promised, kind.TYPE
    full = ask(guest, {"type": "get", "job": job, "history": True}, "control")["job"]
    assert set(full) == set(replies.Job.__dataclass_fields__)
    listed = ask(guest, {"type": "list", "limit": 1}, "control")["jobs"][0]
    assert set(replies.Job.__dataclass_fields__) - set(listed) == {"request", "result", "progress", "history"}
    status = ask(guest, {"type": "status"}, "control")
    assert set(status) - {"type"} == set(replies.DaemonStatus.__dataclass_fields__)


def test_pages_of_a_list_hold_every_job_once(shared: Any, guest: Client) -> None:
    jobs = [guest.submit(shared.generate(f"page {number}")) for number in range(7)]
    found: list[str] = []
    before = None
    while True:
        page = ask(guest, {"type": "list", "limit": 3, "before": before}, "control")
        found += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None or set(jobs) <= set(found):
            break
    assert [job for job in found if job in jobs] == jobs[::-1] and len(set(found)) == len(found)


def test_a_cancelled_request_still_gets_its_end(shared: Any, guest: Client) -> None:
    job = guest.submit(shared.generate("slow 1000"))
    with shared.client() as other:
        states = []
        for found in other.watch([job]):
            states.append(found.state)
            if found.state == "running":
                guest.cancel(job)
    assert states[-1] == "cancelled"
    assert guest.get(job).error is not None and guest.get(job).state == "cancelled"


def test_progress_has_a_unit_and_an_estimate_after_two_samples(shared: Any, guest: Client) -> None:
    seen: list[replies.Progress] = []
    with shared.held():
        guest.generate(shared.clip, output=shared.output, prompt="slow 20", on_progress=seen.append)
    steps = [step for step in seen if step.stage == "codes"]
    # Whoever heard nothing for long asks anew, and may miss some; those that come are in order, to the last.
    assert steps and [step.done for step in steps] == list(range(20))[-len(steps) :]
    assert {step.unit for step in steps} == {"steps"}
    assert all(step.eta is None for step in steps if step.done == 0)
    estimated = [step for step in steps if step.eta is not None]
    assert estimated and all(step.eta >= 0 for step in estimated if step.eta is not None)


def test_unload_takes_an_idle_model_out_of_memory(shared: Any, guest: Client) -> None:
    guest.run(shared.generate("loads the model"))
    shared.until(lambda: guest.status().worker["models"] == ["nano"])
    assert guest.unload("vatt-llama") == []
    shared.until(lambda: guest.unload() == ["nano"] or not guest.status().worker["models"])
    shared.until(lambda: not guest.status().worker["models"])
    assert guest.run(shared.generate("loads it again")).state == "done"


def test_a_deadline_that_is_refused_names_its_field(guest: Client) -> None:
    for wrong in (0, -1, 1e12, "soon", True):
        answer_of = {"type": "suggest", "path": "/clip", "deadline": wrong}
        with pytest.raises(errors.BadRequest) as caught:
            ask(guest, answer_of, "jobs")
        assert caught.value.details["field"] == "deadline"


def test_what_a_field_allows_the_model_takes_and_nothing_else() -> None:
    named = {"path": Path("/clip"), "output": Path("/out"), "base": Path("/take.json")}
    known = {item.name for item in dataclasses.fields(GenerateRequest)}
    for name, (rule, _) in fields.rules(messages.Generate).items():
        if name not in known or not (rule.choices or rule.kind in ("integer", "number")):
            continue
        for value in rule.choices or (rule.minimum, rule.maximum):
            GenerateRequest(**named, **{name: int(value) if rule.kind == "integer" else value})  # type: ignore[arg-type]
        if rule.choices:
            with pytest.raises(VattError):
                GenerateRequest(**named, **{name: "none of them"})  # type: ignore[arg-type]
