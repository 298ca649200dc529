"""Calls of Resolve's scripting interface, made safe.

The interface answers None to what it does not know, and its objects claim to have every attribute; `dir` alone tells the
truth. Arguments are positional only.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any


class ResolveProblem(Exception):
    """What stands in the way, in a plain sentence."""


def has(thing: Any, name: str) -> bool:
    """Whether an object of Resolve really offers a method."""
    return name in dir(thing)


def ask(thing: Any, name: str, *arguments: Any) -> Any:
    """Call a method if there is one; None where there is none, and where Resolve answers nothing."""
    return getattr(thing, name)(*arguments) if thing is not None and has(thing, name) else None


def need(thing: Any, name: str, *arguments: Any, problem: str) -> Any:
    """Call a method that must answer. Raises ResolveProblem(problem) for None and False."""
    answer = ask(thing, name, *arguments)
    if answer is None or answer is False:
        raise ResolveProblem(problem)
    return answer


def find_resolve(given: Any = None) -> Any:
    """Resolve's root object: the one a menu script is given, else through the vendor's module (Studio).

    Raises ResolveProblem.
    """
    if given is not None:
        return given
    for folder in _module_folders():
        if os.path.isdir(folder) and folder not in sys.path:
            sys.path.append(folder)
    try:
        module = importlib.import_module("DaVinciResolveScript")
        found = module.scriptapp("Resolve")
    except Exception as error:
        raise ResolveProblem(
            f"Resolve's scripting module cannot be loaded ({error}). Run the script from Workspace > Scripts > VATT."
        ) from None
    if found is None:
        raise ResolveProblem(
            "Resolve does not answer. Start it and, in Studio, allow external scripting for 'Local' in "
            "Preferences > System > General; the free version runs scripts from Workspace > Scripts alone."
        )
    return found


def _module_folders() -> Iterator[str]:
    given = os.environ.get("RESOLVE_SCRIPT_API")
    if given:
        yield os.path.join(given, "Modules")
    if sys.platform == "darwin":
        yield "/Library/Application Support/Blackmagic Design/DaVinci Resolve/Developer/Scripting/Modules"
    elif sys.platform == "win32":
        data = os.environ.get("PROGRAMDATA", "C:\\ProgramData")
        yield data + "\\Blackmagic Design\\DaVinci Resolve\\Support\\Developer\\Scripting\\Modules"
    else:
        yield "/opt/resolve/Developer/Scripting/Modules"
        yield "/home/resolve/Developer/Scripting/Modules"


def version_of(resolve: Any) -> tuple[int, int]:
    """(major, minor) of the running Resolve; (0, 0) where it does not say."""
    numbers = ask(resolve, "GetVersion")
    if isinstance(numbers, (list, tuple)) and len(numbers) >= 2:
        return int(numbers[0]), int(numbers[1])
    found = re.match(r"(\d+)\.(\d+)", str(ask(resolve, "GetVersionString") or ""))
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


_NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "47.95": 48, "59.94": 60, "119.88": 120}


def exact_rate(value: Any) -> Fraction:
    """A frame rate as Resolve says it (24, "25", 29.97, "29.97 DF") as a Fraction. Raises ResolveProblem."""
    text = str(value).upper().replace("DF", "").strip()
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1000:
        raise ResolveProblem(f"Resolve gives no frame rate ({value!r}).")
    for name, whole in _NTSC.items():
        if abs(number - float(name)) < 0.006:
            return Fraction(whole * 1000, 1001)
    return Fraction(text).limit_denominator(1000)


def whole(value: Any) -> int:
    """A frame number as an int; Resolve gives floats now and then. Raises ResolveProblem for what is between frames."""
    if value is None or isinstance(value, bool):
        raise ResolveProblem("Resolve gives no frame number.")
    number = round(float(value))
    if abs(float(value) - number) > 0.01:
        raise ResolveProblem(f"A clip begins or ends between two frames ({value}): trim it to whole frames.")
    return number
