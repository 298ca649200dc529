"""Rules for the fields of a message: type, range, unit, default and a line of explanation, kept beside the field.

A message is a frozen dataclass whose fields are made by the functions below (`text`, `integer`, …). The rule is
stored in the field's metadata, so that one definition serves the client that sends, the daemon that checks and
the tables of docs/protocol.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from vatt_client.errors import BadRequest

_FRACTION = re.compile(r"-?\d{1,15}(/\d{1,12}|\.\d{1,12})?")
_HEXADECIMAL = re.compile(r"([0-9A-Fa-f]{2})*")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Rule:
    """What one field may hold. `minimum` and `maximum` are inclusive; for texts and lists they bound the length."""

    kind: str
    explanation: str
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    choices: tuple[Any, ...] = ()
    optional: bool = False

    @property
    def range_text(self) -> str:
        """The range in words, as docs/protocol.md prints it."""
        if self.choices:
            return " | ".join(str(choice) for choice in self.choices)
        if self.minimum is None and self.maximum is None:
            return ""
        low, high = ("" if bound is None else _plain(bound) for bound in (self.minimum, self.maximum))
        return f"{low} … {high}"

    def check(self, name: str, value: Any) -> Any:
        """Return the value in its one inner form. Raises BadRequest that names the field."""
        if value is None:
            if self.optional:
                return None
            raise _refusal(name, "is missing", self)
        try:
            checked = _CHECKS[self.kind](self, name, value)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise _refusal(name, f"cannot be read as {self.kind}", self) from error
        named = checked if isinstance(checked, tuple) else (checked,)
        if self.choices and any(item not in self.choices for item in named):
            raise _refusal(name, f"must be one of {', '.join(map(str, self.choices))}")
        return checked


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _refusal(name: str, problem: str, rule: Rule | None = None) -> BadRequest:
    """rule: the one whose range the message names; None where the problem is another one, or names it already."""
    allowed = f" (allowed: {rule.range_text}{' ' + rule.unit if rule.unit else ''})" if rule and rule.range_text else ""
    return BadRequest(f"The field '{name}' {problem}{allowed}.", field=name)


def _within(rule: Rule, name: str, value: Any, size: Any) -> Any:
    if (rule.minimum is not None and size < rule.minimum) or (rule.maximum is not None and size > rule.maximum):
        raise _refusal(name, "is out of range", rule)
    return value


def _check_text(rule: Rule, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refusal(name, "must be a text", rule)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _refusal(name, "holds characters that are not valid Unicode", rule) from error
    if "\0" in value:
        raise _refusal(name, "holds a zero character", rule)
    return str(_within(rule, name, value, len(value)))


def is_identifier(value: Any) -> bool:
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


def _check_identifier(rule: Rule, name: str, value: Any) -> str:
    if not is_identifier(value):
        raise _refusal(name, "must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit", rule)
    return str(value)


def _check_integer(rule: Rule, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refusal(name, "must be a whole number", rule)
    return int(_within(rule, name, value, value))


def _check_number(rule: Rule, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(name, "must be a number", rule)
    _within(rule, name, value, value)
    if not math.isfinite(value):
        raise _refusal(name, "must be a finite number", rule)
    return float(value)


def _check_flag(rule: Rule, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refusal(name, "must be true or false", rule)
    return value


def to_fraction(value: Any) -> Fraction:
    """Read a time: an integer, a finite float, or a text such as '1001/30000' or '2.5'. Raises ValueError."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool):
        raise ValueError("a truth value is no time")
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float):
        if not math.isfinite(value) or abs(value) > 1e15:
            raise ValueError("not a finite time")
        # The shortest decimal that names this float is what the sender wrote.
        return Fraction(repr(value)).limit_denominator(10**12)
    if isinstance(value, str) and _FRACTION.fullmatch(value):
        return Fraction(value)
    raise ValueError("not a time")


def _check_time(rule: Rule, name: str, value: Any) -> Fraction:
    try:
        time = to_fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        problem = "must be a finite time in seconds: a number, or a fraction written as a text such as '1001/30000'"
        raise _refusal(name, problem, rule) from error
    return Fraction(_within(rule, name, time, time))


def _check_time_map(rule: Rule, name: str, value: Any) -> tuple[tuple[Fraction, Fraction], ...]:
    if not isinstance(value, list | tuple):
        raise _refusal(name, "must be a list of [timeline seconds, source seconds] pairs", rule)
    _within(rule, name, value, len(value))
    points = []
    for number, point in enumerate(value):
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise _refusal(f"{name}[{number}]", "must be a pair [timeline seconds, source seconds]", rule)
        pair = Rule("time", "", 0, MAXIMUM_SECONDS, "s")
        points.append(
            (_check_time(pair, f"{name}[{number}][0]", point[0]), _check_time(pair, f"{name}[{number}][1]", point[1]))
        )
    if points[0][0] != 0:
        raise _refusal(f"{name}[0][0]", "must be 0: a time map begins at the clip's first moment", rule)
    if any(later[0] <= earlier[0] for earlier, later in itertools.pairwise(points)):
        raise _refusal(name, "must have rising timeline seconds")
    return tuple(points)


def _check_identifiers(rule: Rule, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _refusal(name, "must be a list of texts", rule)
    _within(rule, name, value, len(value))
    return tuple(_check_identifier(rule, f"{name}[{number}]", item) for number, item in enumerate(value))


def _check_map(rule: Rule, name: str, value: Any) -> dict[str, Any]:
    """What a map may hold is checked where it is used: the fields of an item decide about that item alone."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refusal(name, "must be a map with texts as keys", rule)
    return dict(_within(rule, name, value, len(value)))


def _check_maps(rule: Rule, name: str, value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list | tuple):
        raise _refusal(name, "must be a list of maps", rule)
    _within(rule, name, value, len(value))
    each = Rule("map", "", 0, LARGEST_MAP, "entries")
    return tuple(_check_map(each, f"{name}[{number}]", item) for number, item in enumerate(value))


def _check_texts(rule: Rule, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _refusal(name, "must be a list of texts", rule)
    _within(rule, name, value, len(value))
    each = Rule("text", "", 0, LONGEST_TEXT, "characters")
    return tuple(_check_text(each, f"{name}[{number}]", item) for number, item in enumerate(value))


def _check_hexadecimal(rule: Rule, name: str, value: Any) -> str:
    if not isinstance(value, str) or not _HEXADECIMAL.fullmatch(value):
        raise _refusal(name, "must be hexadecimal digits, two for each byte", rule)
    return str(_within(rule, name, value, len(value)))


def _check_bytes(rule: Rule, name: str, value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise _refusal(name, "must be bytes", rule)
    return bytes(_within(rule, name, value, len(value)))


def _check_times(rule: Rule, name: str, value: Any) -> tuple[Fraction, ...]:
    if not isinstance(value, list | tuple):
        raise _refusal(name, "must be a list of times in seconds", rule)
    _within(rule, name, value, len(value))
    each = Rule("time", "", 0, MAXIMUM_SECONDS, "s")
    times = tuple(_check_time(each, f"{name}[{number}]", item) for number, item in enumerate(value))
    for earlier, later in itertools.pairwise(times):
        if later <= earlier:
            order = "the second time after the first" if rule.maximum == 2 else "each time after the one before it"
            raise _refusal(name, f"must have {order}, not {float(earlier):g} s and then {float(later):g} s")
    return times


MAXIMUM_SECONDS = 1_000_000.0
LONGEST_TEXT = 1000
"""Characters of one text of a list."""
LARGEST_MAP = 256
"""Entries of a map, here and in msgpack."""

_CHECKS = {
    "text": _check_text,
    "identifier": _check_identifier,
    "integer": _check_integer,
    "number": _check_number,
    "flag": _check_flag,
    "time": _check_time,
    "time map": _check_time_map,
    "identifiers": _check_identifiers,
    "hexadecimal": _check_hexadecimal,
    "bytes": _check_bytes,
    "texts": _check_texts,
    "times": _check_times,
    "map": _check_map,
    "maps": _check_maps,
}


def _field(rule: Rule, default: Any) -> Any:
    if default is ...:
        return dataclasses.field(metadata={"rule": rule})
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=dict, metadata={"rule": rule})
    if default is None:
        rule = dataclasses.replace(rule, optional=True)
    return dataclasses.field(default=default, metadata={"rule": rule})


def text(explanation: str, *, default: Any = ..., shortest: int = 0, longest: int = 4096) -> Any:
    return _field(Rule("text", explanation, shortest, longest, "characters"), default)


def identifier(explanation: str, *, default: Any = ...) -> Any:
    return _field(Rule("identifier", explanation), default)


def hexadecimal(explanation: str, *, default: Any = ..., shortest: int, longest: int) -> Any:
    return _field(Rule("hexadecimal", explanation, shortest, longest, "digits"), default)


def data(explanation: str, *, default: Any = ..., shortest: int, longest: int) -> Any:
    return _field(Rule("bytes", explanation, shortest, longest, "bytes"), default)


def identifiers(explanation: str, *, default: Any = ..., longest: int = 10_000) -> Any:
    return _field(Rule("identifiers", explanation, 0, longest, "items"), default)


def texts(explanation: str, *, default: Any = ..., longest: int = 4096) -> Any:
    return _field(Rule("texts", explanation, 0, longest, "items"), default)


def times(explanation: str, *, default: Any = ..., shortest: int = 0, longest: int = 4096) -> Any:
    return _field(Rule("times", explanation, shortest, longest, "items"), default)


def choice(explanation: str, *choices: Any, default: Any = ...) -> Any:
    kind = "text" if all(isinstance(item, str) for item in choices) else "integer"
    return _field(Rule(kind, explanation, choices=choices), default)


def some_of(explanation: str, *choices: str, default: Any = ..., longest: int) -> Any:
    return _field(Rule("identifiers", explanation, 0, longest, choices=choices), default)


def integer(explanation: str, *, minimum: int, maximum: int, default: Any = ..., unit: str = "") -> Any:
    return _field(Rule("integer", explanation, minimum, maximum, unit), default)


def number(
    explanation: str, *, minimum: float, maximum: float, default: Any = ..., unit: str = "", optional: bool = False
) -> Any:
    return _field(Rule("number", explanation, minimum, maximum, unit, optional=optional), default)


def flag(explanation: str, *, default: Any = ...) -> Any:
    return _field(Rule("flag", explanation), default)


def seconds(explanation: str, *, default: Any = ...) -> Any:
    return _field(Rule("time", explanation, 0, MAXIMUM_SECONDS, "s"), default)


def time_map(explanation: str, *, default: Any = ...) -> Any:
    return _field(Rule("time map", explanation, 2, 4096, "points"), default)


def mapping(explanation: str, *, default: Any = ...) -> Any:
    return _field(Rule("map", explanation, 0, LARGEST_MAP, "entries"), default)


def maps(explanation: str, *, default: Any = ..., longest: int = 10_000) -> Any:
    return _field(Rule("maps", explanation, 0, longest, "items"), default)


_RULES: dict[type, dict[str, tuple[Rule, Any]]] = {}


def rules(message: type) -> dict[str, tuple[Rule, Any]]:
    """The fields of a message: name → (rule, default); a default of `...` means that the field must be given."""
    found = _RULES.get(message)
    if found is None:
        found = _RULES[message] = {
            field.name: (field.metadata["rule"], _default(field)) for field in dataclasses.fields(message)
        }
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return ... if field.default is dataclasses.MISSING else field.default


def check_fields(name: str, known: Mapping[str, Any], body: Mapping[Any, Any]) -> None:
    """Raise BadRequest for the first field of `body` that the message does not have, or lacks."""
    for key in body:
        if not isinstance(key, str) or key not in known:
            shown = str(key)[:64]
            raise BadRequest(
                f"A '{name}' message has no field '{shown}'. It has: {', '.join(known) or 'none'}.", field=shown
            )
    for key, (_, default) in known.items():
        if default is ... and key not in body:
            raise BadRequest(f"The '{name}' message lacks the field '{key}'.", field=key)


def to_wire(value: Any) -> Any:
    """The form of a value on the wire: fractions as texts 'n/d', paths as texts, tuples as lists."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [to_wire(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_wire(item) for key, item in value.items()}
    return value
