"""What no store keeps and no answer can show, wherever it stands in JSON: a NUL, half a character, a number that is
none, too many levels. Pure."""

from __future__ import annotations

import math
from typing import Any

LEVELS = 32  # of objects and lists in one another
SHOWN = 80  # letters of a key in a place

Flaw = tuple[str, str]  # what is wrong, and the rest of the place: («a text holds a NUL», «.profileData.Name»)


def find_flaw(value: Any, levels: int = LEVELS) -> Flaw | None:
    """Return the first flaw of a JSON value; None for one without. levels: how deep it may be."""
    if isinstance(value, str):
        wrong = _find_in_text(value)
        return (f"a text holds {wrong}", "") if wrong else None
    if isinstance(value, dict):
        if not levels:
            return f"nested deeper than {LEVELS} levels", ""
        for key, inner in value.items():
            if wrong := _find_in_text(key):
                return f"a key holds {wrong}", ""
            # Most values are short texts and whole numbers, and a call for each would take most of the time.
            plain = inner.isascii() and "\0" not in inner if type(inner) is str else type(inner) is int
            if not plain and (found := find_flaw(inner, levels - 1)):
                return found[0], f".{key[:SHOWN]}{found[1]}"
    elif isinstance(value, list):
        if not levels:
            return f"nested deeper than {LEVELS} levels", ""
        for index, inner in enumerate(value):
            if found := find_flaw(inner, levels - 1):
                return found[0], f"[{index}]{found[1]}"
    elif isinstance(value, float) and not math.isfinite(value):
        return "a number is out of range, or none", ""
    return None


def _find_in_text(text: str) -> str:
    if text.isascii():
        return "a NUL" if "\0" in text else ""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate), or bytes that are no UTF-8"
    return "a NUL" if "\0" in text else ""


def to_shown(value: Any, levels: int = LEVELS) -> Any:
    """Return a JSON value as an answer can show it: U+FFFD for half a character, null for a number that is none and
    for what is nested deeper than `levels`. One without a flaw stays as it is."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {to_shown(key): to_shown(inner, levels - 1) for key, inner in value.items()} if levels else None
    if isinstance(value, list):
        return [to_shown(inner, levels - 1) for inner in value] if levels else None
    return None if isinstance(value, float) and not math.isfinite(value) else value
