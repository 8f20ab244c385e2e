"""How properties lie in the facts store, so that a condition reads one typed column and nothing else.

A property `k` of any shape becomes at most two paths of the JSON column `props`:

- `k`, a Float64: a number below 2^53;
- `k`, a String: anything else, as its elements, folded, each between two unit separators. `Gold` is `␟gold␟`, the list
  `["Gold", 5]` is `␟gold␟5␟`: one search answers equality and `contains`, for one value and for a list alike;
- `#k`, an Array(Float64) beside such a String: the numbers that its elements are or read as.

An object counts as the list of the values in it; each of its keys is also a property `k.key` of its own. What was
uploaded, as it was, is the column `raw` of `event`, and the ledger's profile.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec

SEPARATOR = "\x1f"
NOTHING = "\x1e"  # the element of an item that lacks the key its neighbours have; equal to nothing
EXACT = 2.0**53  # from here on a float does not tell neighbouring integers apart
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_UNTIDY = str.maketrans({SEPARATOR: " ", NOTHING: " "})

Value = str | int | float | bool


def path_of(key: str) -> str:
    """Return a property's subcolumn, to be bound as an `Identifier`: `Customer Type` → `props.Customer Type`."""
    return f"props.{escape_key(key)}"


def numbers_path_of(key: str) -> str:
    """Return the subcolumn that holds the numbers of a property that is no plain number."""
    return f"props.#{escape_key(key)}"


@functools.lru_cache(maxsize=8192)  # names are few, and each is met with every record
def escape_key(key: str) -> str:
    """Return a property's key as a JSON path of one step, a different one for each key.

    In ClickHouse a dot separates steps and a quote ends a name, so everything but ASCII letters, digits, spaces and `_`
    is percent-encoded.
    """
    return quote(key, safe=" ").replace(".", "%2E").replace("~", "%7E").replace("-", "%2D") or "%"


def encode_props(props: Mapping[str, Any]) -> str:
    """Return a property object as the text of a `props` column."""
    out: dict[str, Any] = {}
    nested = [(key, value) for key, value in props.items() if isinstance(value, dict | list)]
    for key, value in nested:
        for inner, elements in _open(key, value):
            _put(out, inner, elements)
    for key, value in props.items():  # after what came out of objects: a key that was itself uploaded goes first
        if value is not None:
            _put(out, key, value if not isinstance(value, dict | list) else list(_leaves(value)))
    return msgspec.json.encode(out).decode()


def list_names(props: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a property object has columns for: its keys, and `key.inner` of objects in it."""
    for key, value in props.items():
        yield key
        if isinstance(value, dict | list):
            yield from (inner for inner, _ in _open(key, value))


def encode_raw(props: Mapping[str, Any]) -> str:
    """Return a property object as the text of a `raw` column: as it was uploaded."""
    return msgspec.json.encode(props).decode()


def fold(text: str) -> str:
    """Return a text as it is compared: without case, in any script, and with composed letters (NFC)."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFC", text.casefold())
    return folded.translate(_UNTIDY) if SEPARATOR in folded or NOTHING in folded else folded


def as_number(value: Value) -> float | None:
    """Return a number, the number a text spells, or that of a `$D_` date; None for anything else and for infinities."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if value[:1].isalpha():
            return None
        value = value.removeprefix("$D_")
        if not NUMBER.fullmatch(value):
            return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def element_of(value: Value) -> str:
    """Return a value as the text of one element: digits for a number, `true` or `false`, else the folded text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    number = as_number(value)
    if number is None or (abs(number) < EXACT and isinstance(value, str)):
        return fold(str(value))
    if abs(number) >= EXACT:
        exactly = Decimal(value.removeprefix("$D_") if isinstance(value, str) else value)
        whole = exactly.to_integral_value()
        return str(int(whole)) if whole == exactly else fold(str(value))
    return str(int(number)) if number.is_integer() else repr(number)


def _put(out: dict[str, Any], key: str, value: Any) -> None:
    path = escape_key(key)
    if path in out:
        del out[path]
        out.pop(f"#{path}", None)
    kind = type(value)
    if kind is str and value[:1].isalpha():  # no number
        out[path] = f"{SEPARATOR}{fold(value)}{SEPARATOR}"
        return
    if (kind is int or kind is float) and abs(value) < EXACT:
        out[path] = float(value)
        return
    elements = value if isinstance(value, list) else [value]
    texts = [NOTHING if one is None else element_of(one) for one in elements]
    out[path] = SEPARATOR + "".join(text + SEPARATOR for text in texts)
    numbers = [number for one in elements if one is not None and (number := as_number(one)) is not None]
    if numbers:
        out[f"#{path}"] = numbers


def _open(key: str, value: Any) -> Iterator[tuple[str, list[Any]]]:
    """Yield the properties `key.inner` of an object, or of all objects of a list, with their elements.

    An object of a list that lacks the key has the element None.
    """
    if isinstance(value, dict):
        for inner, one in value.items():
            yield f"{key}.{inner}", [*_leaves(one)]
            yield from _open(f"{key}.{inner}", one)
        return
    if isinstance(value, list):
        value = list(_flatten(value))
        if not any(isinstance(one, dict) for one in value):
            return
        for inner in dict.fromkeys(name for one in value if isinstance(one, dict) for name in one):
            below = [one.get(inner) if isinstance(one, dict) else None for one in value]
            if all(one is None for one in below):
                continue
            yield f"{key}.{inner}", [leaf for one in below for leaf in (_leaves(one) if one is not None else [None])]
            yield from _open(f"{key}.{inner}", below)


def _flatten(values: list[Any]) -> Iterator[Any]:
    for one in values:
        if isinstance(one, list):
            yield from _flatten(one)
        else:
            yield one


def _leaves(value: Any) -> Iterable[Value]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield value
