"""docs/protocol.md says the same as the code: every message, field, range, default and error code."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_client import errors, fields, messages

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
    return "empty" if default == () else str(default)


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
    for code in errors.CODES:
        assert f"| `{code}` |" in PAGE


def test_the_worked_example_is_what_the_client_sends() -> None:
    message = messages.Suggest(path="/clips/rain.mp4", start=Fraction(1, 2), count=2)
    assert messages.pack(message.to_wire()).hex(" ") in PAGE
    assert messages.VERSION_FRAME.hex(" ") in PAGE
