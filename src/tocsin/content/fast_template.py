"""The shape most templates have: texts and fields of the profile, `Hi {{ Profile.Name | default: "you" }}`. Filled here
in a tenth of the time python-liquid takes, with the same result: a test compares the two."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from liquid import escape
from liquid.exceptions import OutputStreamLimitError

_SPACE = r"[ \t\n]*"
_FIELD = re.compile(
    r"\{\{"
    + _SPACE
    + r"Profile(?:\.([A-Za-z_][A-Za-z0-9_]*)|\['([^'\"{}%\\]+)'\]|\[\"([^'\"{}%\\]+)\"\])"
    + _SPACE
    # A comma, a second filter, a variable as the default: whatever is not spelled like this is python-liquid's.
    + r"(?:\|"
    + _SPACE
    + "default:"
    + _SPACE
    + r"(?:'([^'{}%\\]*)'|\"([^\"{}%\\]*)\")"
    + _SPACE
    + r")?\}\}"
)
# Words with a meaning of their own after a dot in Liquid.
_WORDS = re.compile(
    "and|as|blank|cols|contains|continue|else|empty|false|first|for|if|in|last|limit|nil|not|null|offset|or|required|"
    "reversed|size|true|with"
)


class ProfileValues(Mapping[str, Any]):
    """A profile in a template: its keys by their letters, then without regard to case (`Profile.name`)."""

    def __init__(self, profile: Mapping[str, Any]):
        self._profile = profile

    def __getitem__(self, key: str) -> Any:
        if key in self._profile:
            return self._profile[key]
        wanted = str(key).lower()
        for name, value in self._profile.items():
            if name.lower() == wanted:
                return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._profile)

    def __len__(self) -> int:
        return len(self._profile)

    def find(self, key: str, folded: str) -> Any:
        """The value, None where there is none: a template shows both alike. `folded` is the key in lower case."""
        profile = self._profile
        if key in profile:
            return profile[key]
        for name in profile:
            if name.lower() == folded:
                return profile[name]
        return None


class Field(msgspec.Struct, frozen=True):
    """An output: a field of the profile."""

    key: str
    folded: str
    default: str | None  # None: no default filter


class FastTemplate:
    """Texts and fields of the profile in turn."""

    def __init__(self, parts: tuple[str | Field, ...], *, html: bool, limit: int):
        self.parts = parts
        self._html = html
        self._limit = limit

    def render(self, profile: ProfileValues) -> str:
        """The text for one profile. Raises OutputStreamLimitError, and UnicodeEncodeError for half a surrogate pair,
        as python-liquid does."""
        shown = [part if isinstance(part, str) else show(part, profile, html=self._html) for part in self.parts]
        text = "".join(shown)
        if len(text.encode()) > self._limit:
            raise OutputStreamLimitError("output stream limit reached", token=None)
        if "\r" in text:  # python-liquid ends lines as Python reads a file, in each part for itself
            return "".join([part.replace("\r\n", "\n").replace("\r", "\n") for part in shown])
        return text


def show(field: Field, profile: ProfileValues, *, html: bool) -> str:
    """A field as it is shown; escaped for HTML."""
    value = profile.find(field.key, field.folded)
    if field.default is not None and (value is None or value is False or value == "" or value in ([], {})):
        return field.default
    text = value if isinstance(value, str) else _make_text(value)
    return str(escape(text)) if html else text


def _make_text(value: Any) -> str:
    """A value as Liquid shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "".join([str(one) for one in value]) if isinstance(value, list) else str(value)


def read_fast_template(text: str, *, html: bool, limit: int) -> FastTemplate | None:
    """A template of this shape, None for any other; `limit` is the most bytes it may make."""
    if "\r" in text:
        return None
    parts: list[str | Field] = []
    end = 0
    for found in _FIELD.finditer(text):
        before = text[end : found.start()]
        dotted, single, double, *defaults = found.groups()
        key = dotted or single or double
        if _WORDS.fullmatch(key) or before.endswith("{"):
            return None
        default = next((one for one in defaults if one is not None), None)
        parts += [before, Field(key, key.lower(), default)]
        end = found.end()
    parts.append(text[end:])
    if len(parts) == 1 or any(isinstance(part, str) and ("{{" in part or "{%" in part) for part in parts):
        return None
    return FastTemplate(tuple(part for part in parts if part), html=html, limit=limit)
