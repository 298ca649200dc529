"""XML elements with text, for the formats that are XML."""

from __future__ import annotations

from xml.etree import ElementTree as tree


def add(parent: tree.Element, tag: str, text: str | int | None = None, **attributes: str) -> tree.Element:
    """Append an element to `parent`. Control characters, which XML 1.0 cannot hold, are left out of its text."""
    element = tree.SubElement(parent, tag, attributes)
    if text is not None:
        element.text = "".join(letter for letter in str(text) if letter >= " " or letter in "\t\n")
    return element
