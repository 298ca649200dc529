"""docs/protocol.md says the same as the code: every message, field, range, default and error code."""

from __future__ import annotations

import dataclasses
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from vatt_client import errors, fields, messages, replies

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def shown(default: Any) -> str:
    if default is ...:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if default == "":
        return "empty"
    return "empty" if default in ((), {}) else str(default)


def row(name: str, rule: fields.Rule, default: Any) -> str:
    allowed = " ".join(part for part in (rule.range_text.replace(" | ", ", "), rule.unit) if part)
    return f"| `{name}` | {rule.kind} | {allowed} | {shown(default)} | {rule.explanation} |"


def section(kind: type[messages.Message]) -> list[str]:
    """The lines of the page about one message."""
    sockets = " or ".join(kind.SOCKETS)
    lines = [f"### `{kind.TYPE}` ({sockets})", f"Answer: {kind.ANSWER}."]
    return lines + [row(name, rule, default) for name, (rule, default) in fields.rules(kind).items()]


def test_every_message_and_field_stands_on_the_page() -> None:
    for kind in messages.REQUESTS.values():
        for line in section(kind):
            assert line in PAGE, line


def test_the_page_names_no_message_or_field_that_is_not_there() -> None:
    known = {line for kind in messages.REQUESTS.values() for line in section(kind)}
    for line in PAGE.splitlines():
        if line.startswith("### `") or (line.count(" | ") == 4 and line.startswith("| `")):
            assert line in known, line


def test_every_error_code_stands_on_the_page() -> None:
    for code, retryable in [(code, errors.from_wire({"code": code}).retryable) for code in errors.CODES]:
        assert f"| `{code}` | {'yes' if retryable else 'no'} |" in PAGE, code


MAPS = {
    "Answer to `hello`": replies.Welcome,
    "Answer to `ping`": replies.Pong,
    "Answer to `status`": replies.DaemonStatus,
    "A job": replies.Job,
    "Progress": replies.Progress,
    "Result of `suggest`": replies.Suggestions,
    "Result of `generate`": replies.Takes,
    "A take": replies.Take,
    "The report of a batch": replies.BatchReport,
    "An item of a report": replies.BatchItem,
}


def keys(heading: str) -> list[str]:
    """The keys in the first column of the table below a heading."""
    table = PAGE.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.split(" | ", 1)[0] for line in table.splitlines() if line.startswith("| `")]
    return [key for cell in rows for key in re.findall(r"`([a-z_]+)`", cell)]


@pytest.mark.parametrize("heading", MAPS)
def test_the_maps_in_answers_have_the_keys_that_the_client_reads(heading: str) -> None:
    assert sorted(keys(heading)) == sorted(field.name for field in dataclasses.fields(MAPS[heading]))


def frames(number: int) -> list[bytes]:
    """The frames in a block of bytes among the examples."""
    blocks = PAGE.split("## Examples in bytes", 1)[1].split("```")[1::2]
    lines = blocks[number].strip().splitlines()
    return [bytes.fromhex(lines[0]), bytes.fromhex(lines[1]), bytes.fromhex(" ".join(lines[2:]))]


def maps_shown() -> list[str]:
    """The maps that the text around the blocks of bytes shows."""
    return re.findall(r"`(\{.+?\})`(?!`)", PAGE.split("## Examples in bytes", 1)[1], re.DOTALL)


def test_the_bytes_of_the_first_example_are_what_client_and_daemon_send() -> None:
    message = messages.Suggest(path="/clips/rain.mp4", start=Fraction(1, 2), count=2)
    assert frames(0) == messages.encode(message, b"j1")
    assert messages.decode(frames(0), socket="jobs") == message
    answer = {"type": "ok", "job": "00112233445566778899aabbccddeeff", "state": "queued", "seed": 7, "duplicate": False}
    assert frames(1) == [messages.VERSION_FRAME, b"j1", messages.pack(answer)]
    assert [json.loads(text) for text in maps_shown()[:2]] == [message.to_wire(), answer]


def test_the_bytes_of_the_second_example_are_what_the_daemon_answers() -> None:
    asked = {"type": "get", "job": "../passwd"}
    assert frames(2) == [messages.VERSION_FRAME, b"j2", messages.pack(asked)]
    with pytest.raises(errors.BadRequest) as caught:
        messages.decode(frames(2), socket="control")
    answer = {"type": "error", "error": caught.value.to_wire()}
    assert frames(3) == [messages.VERSION_FRAME, b"j2", messages.pack(answer)]
    assert [json.loads(text) for text in maps_shown()[2:]] == [asked, answer]
