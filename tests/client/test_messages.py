"""The message definitions: what goes out comes in again, and what is wrong is refused by the field's name."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import msgpack
import pytest
from vatt_client import errors, fields, messages, replies
from vatt_client.fields import Rule


def sample(rule: Rule) -> Any:
    """A value that the rule allows and that differs from most defaults."""
    values: dict[str, Any] = {
        "text": "some words", "identifier": "an-identifier", "flag": True, "time": Fraction(1001, 30000),
        "time map": ((Fraction(0), Fraction(1)), (Fraction(7, 3), Fraction(1, 2))), "identifiers": ("one", "two"),
        "texts": ("some words", "others"), "times": (Fraction(1, 3), Fraction(2)),
        "map": {"takes": 2, "in": "1/2"}, "maps": ({"path": "/clip"}, {}), "hexadecimal": "6a31",
    }  # fmt: skip
    if rule.choices:
        return rule.choices[-1:] if rule.kind == "identifiers" else rule.choices[-1]
    if rule.kind == "bytes":
        return bytes(int(rule.minimum or 0))
    if rule.kind in ("integer", "number"):
        low, high = rule.minimum or 0, rule.maximum or 0
        return int((low + high) // 2) if rule.kind == "integer" else (low + high) / 2
    return values[rule.kind]


def frames(body: dict[str, Any]) -> list[bytes]:
    return [messages.VERSION_FRAME, b"id", messages.pack(body)]


@pytest.mark.parametrize("kind", messages.REQUESTS.values(), ids=lambda kind: kind.TYPE)
def test_every_message_survives_the_wire(kind: type[messages.Message]) -> None:
    left_out = {"time_map", "manifest", "peak"}  # exclude start and end, items, and a loudness
    values = {name: sample(rule) for name, (rule, _) in fields.rules(kind).items() if name not in left_out}
    if "start" in values:
        values["end"] = values["start"] + 1
    message = kind(**values)
    for socket in kind.SOCKETS:
        assert messages.decode(frames(message.to_wire()), socket=socket) == message
    for socket in {messages.JOBS, messages.CONTROL} - set(kind.SOCKETS):
        with pytest.raises(errors.BadRequest):
            messages.decode(frames(message.to_wire()), socket=socket)


@pytest.mark.parametrize("kind", messages.REQUESTS.values(), ids=lambda kind: kind.TYPE)
def test_every_field_has_a_rule_and_refuses_another_type_by_its_name(kind: type[messages.Message]) -> None:
    good = {"type": kind.TYPE}
    good |= {name: fields.to_wire(sample(rule)) for name, (rule, default) in fields.rules(kind).items()
             if default is ... or (kind.TYPE, name) == ("batch", "items")}  # fmt: skip
    socket = kind.SOCKETS[0]
    messages.decode(frames(good), socket=socket)
    for name, (rule, default) in fields.rules(kind).items():
        assert rule.explanation
        for wrong in ({}, [[]], float("nan"), b"bytes", "", -5000):
            if (wrong == "" and rule.kind == "text" and not rule.minimum) or (wrong == {} and rule.kind == "map"):
                continue
            if wrong == b"bytes" and rule.kind == "bytes" and rule.minimum == 1:
                continue
            with pytest.raises(errors.BadRequest) as caught:
                messages.decode(frames({**good, name: wrong}), socket=socket)
            assert str(caught.value.details["field"]).startswith(name)
        if default is ...:
            with pytest.raises(errors.BadRequest) as caught:
                messages.decode(frames({key: value for key, value in good.items() if key != name}), socket=socket)
            assert caught.value.details["field"] == name
    with pytest.raises(errors.BadRequest) as caught:
        messages.decode(frames({**good, "nonsense": 1}), socket=socket)
    assert caught.value.details["field"] == "nonsense"


def test_times_are_exact() -> None:
    for given, exact in [(0.1, Fraction(1, 10)), ("1001/30000", Fraction(1001, 30000)), (3, Fraction(3)),
                         ("2.5", Fraction(5, 2)), (Fraction(1, 3), Fraction(1, 3))]:  # fmt: skip
        sent = messages.Suggest(path="/clip", start=given).to_wire()
        assert messages.decode(frames(sent), socket="jobs").start == exact  # type: ignore[attr-defined]
    for wrong in (float("inf"), "nan", "1e9", "1/0", "", "9" * 400, True, -0.5, [1]):
        with pytest.raises(errors.BadRequest):
            messages.Suggest(path="/clip", start=wrong)  # type: ignore[arg-type]


def test_a_range_must_not_be_empty_and_excludes_a_time_map() -> None:
    points = ((0, 0), (1, 2))
    assert messages.Suggest(path="/clip", time_map=points).time_map == points  # type: ignore[arg-type]
    for values in ({"start": 2, "end": 2}, {"start": 3, "end": 2}, {"start": 0, "time_map": points}):
        with pytest.raises(errors.BadRequest):
            messages.Suggest(path="/clip", **values)  # type: ignore[arg-type]
    for wrong in (((0, 0),), ((0, 0), (0, 1)), ((1, 0), (2, 1)), ((0, 0), (1,)), ((0, 0), (1, -1))):
        with pytest.raises(errors.BadRequest):
            messages.Suggest(path="/clip", time_map=wrong)  # type: ignore[arg-type]


def refused(**values: Any) -> errors.BadRequest:
    with pytest.raises(errors.BadRequest) as caught:
        messages.Generate(path="/clip", output="/out", **values)
    return caught.value


def test_times_that_do_not_rise_are_told_without_the_range_of_their_number() -> None:
    for values in ({"region": (3, 1)}, {"cuts": (1, 2.5, 2.5)}):
        message = refused(**values).message
        assert next(iter(values)) in message and "allowed" not in message and "…" not in message
        assert all(f"{time:g} s" in message for time in (values.get("region") or (2.5,)))


def test_a_choice_that_there_is_not_names_each_choice_once() -> None:
    for name, value, choices in (("container", "mp3", ("wav", "flac")), ("bits", 8, ("16", "24", "32"))):
        message = refused(**{name: value}).message
        assert [message.count(choice) for choice in choices] == [1] * len(choices), message


def test_a_peak_goes_with_no_loudness_but_the_default_which_gives_way() -> None:
    assert refused(peak=-3.0, loudness=-16.0).details["field"] == "peak"
    for loudness in (None, -23.0):
        assert messages.Generate(path="/clip", output="/out", peak=-3.0, loudness=loudness).peak == -3.0


def test_messages_are_frozen_and_checked_when_made() -> None:
    message = messages.Generate(path="/clip", output="/out")
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.takes = 5  # type: ignore[misc]
    with pytest.raises(errors.BadRequest):
        messages.Generate(path="/clip", output="/out", takes=99)
    with pytest.raises(errors.BadRequest):
        messages.Generate(path="/clip\udcff", output="/out")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x91" * 3000, b"\x81\xa1a", b"\xdf\xff\xff\xff\xff",
                                  b"\x81\xa4type\xa3\xff\xfe\xfd", msgpack.packb({1: 2}), msgpack.packb([1]),
                                  msgpack.packb({str(n): n for n in range(1000)})])  # fmt: skip
def test_what_is_no_map_of_sane_size_is_a_bad_request(data: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        messages.unpack(data)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "list", "states": ["done", "finished"]}, "states"),
        ({"type": "unwatch", "watch": "zz"}, "watch"),
        ({"type": "unwatch", "watch": "abc"}, "watch"),
        ({"type": "generate", "path": "/clip", "output": "/out", "preset": "wild"}, "preset"),
        ({"type": "generate", "path": "/clip", "output": "/out", "guidance_schedule": "wild"}, "guidance_schedule"),
        ({"type": "batch", "items": [{}], "defaults": {"takes": 99}}, "defaults.takes"),
        ({"type": "batch", "items": [{}], "defaults": {"promt": "rain"}}, "defaults.promt"),
        ({"type": "batch", "items": [{}], "defaults": {"priority": "batch"}}, "defaults.priority"),
        ({"type": "batch", "items": [{}], "defaults": {"in": 1, "start": 1}}, "in"),
        ({"type": "ping", "client": "me"}, "client"),
    ],
)
def test_a_value_that_no_field_takes_is_refused_by_its_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        messages.decode(frames(body), socket=messages.REQUESTS[body["type"]].SOCKETS[0])
    assert caught.value.details["field"] == field


def test_error_codes_come_back_as_their_class() -> None:
    for code in errors.CODES:
        found = errors.from_wire({"code": code, "message": "what", "retryable": True, "retry_after": 2.0,
                                  "details": {"field": "x", "message": "y"}})  # fmt: skip
        assert found.code == code and found.retryable and found.retry_after == 2.0
        assert errors.from_wire(found.to_wire()).to_wire() == found.to_wire()
    newer = errors.from_wire({"code": "from_the_future", "message": "what"})
    assert isinstance(newer, errors.Internal) and newer.code == "from_the_future"


def test_answers_with_more_fields_than_known_are_read() -> None:
    result = {"captions": [{"text": "rain", "score": -1.0, "new": 2}], "new": 3}
    job = replies.Job.from_wire({"id": "a", "kind": "suggest", "state": "done", "new": 1, "result": result})
    assert job.suggestions().captions == [replies.Caption(text="rain", score=-1.0)]
    with pytest.raises(errors.Cancelled):
        replies.Job(id="a", kind="suggest", state="cancelled").suggestions()


def test_a_long_list_goes_on_in_raw_buffers_and_comes_back_whole() -> None:
    items = tuple({"path": f"/clips/{number}.mp4", "prompt": "x" * 100} for number in range(2000))
    message = messages.Batch(items=items, defaults={"output": "/out"})
    sent = messages.encode(message, b"id", largest=50_000)
    assert len(sent) > 4 and max(map(len, sent)) <= 50_000
    assert messages.decode(sent, socket="jobs") == message
    assert len(messages.encode(message, b"id", largest=1 << 20)) == 3
    with pytest.raises(errors.BadRequest):
        messages.encode(message, b"id", largest=1000)
    with pytest.raises(errors.BadRequest):
        messages.encode(messages.Suggest(path="/" * 4000), b"id", largest=1000)
    for wrong in ([*sent, b"\xc1"], [*sent, msgpack.packb({})], [*sent[:3], *[msgpack.packb([])] * 65],
                  [*frames(messages.Ping().to_wire()), msgpack.packb([])]):  # fmt: skip
        with pytest.raises(errors.BadRequest):
            messages.decode(wrong, socket="jobs")


def test_an_item_takes_what_it_does_not_say_from_the_defaults() -> None:
    batch = messages.Batch(items=({},), defaults={"output": "/out", "takes": 2, "in": 1})
    made = batch.item({"path": "/clip", "in": "3/2", "end": 2, "takes": 3})
    assert (made.start, made.end, made.takes, made.output) == (Fraction(3, 2), 2, 3, "/out")
    assert made.priority == "batch"
    for wrong, field in [({}, "path"), ({"path": "/clip", "promt": "x"}, "promt"), ({"path": "/clip", "seed": -1}, "seed"),
                         ({"path": "/clip", "in": 0, "start": 0}, "in"), ({"path": "/clip", "priority": "batch"},
                         "priority")]:  # fmt: skip
        with pytest.raises(errors.BadRequest) as caught:
            batch.item(wrong)
        assert caught.value.details["field"] == field
    for nothing in ({}, {"items": (), "manifest": None}, {"items": ({},), "manifest": "/clips.csv"}):
        with pytest.raises(errors.BadRequest):
            messages.Batch(**nothing)
