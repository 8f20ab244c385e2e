"""Filters of our own in place of python-liquid's that take quadratic time, or make something huge of something small.

Each says what python-liquid's says, within the limits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any

from liquid import Environment, Markup, soft_str
from liquid.builtin.filters import math, misc
from liquid.exceptions import FilterArgumentError, FilterError
from liquid.filter import sequence_filter, string_filter, with_environment

from tocsin.content.plain_text import strip_tags

TEXT_LENGTH = 100_000  # letters that `replace` may make
NUMBER_BITS = 1024  # of a whole number; one of 300 digits
DATE_LETTERS = 100  # of a date to be read, and of its format
_MISSING = object()


def replace(text: Any, old: Any, new: Any = "") -> str:
    """Liquid's `replace`, up to TEXT_LENGTH letters. Without a limit seven in a row made 486 MiB of ten letters."""
    value, sought, put = str(text), str(old), str(new)
    if len(value) + value.count(sought) * len(put) > TEXT_LENGTH:
        raise FilterError(f"replace makes more than {TEXT_LENGTH} letters", token=None)
    return value.replace(sought, put)


@string_filter
def remove_last(text: str, sought: object) -> str:
    """Return the text without the last occurrence of another."""
    return _replace_last(text, soft_str(sought), "")


@string_filter
def replace_last(text: str, sought: object, new: object) -> str:
    """Return the text with the last occurrence of another replaced."""
    if not soft_str(sought):
        return text + soft_str(new)
    return _replace_last(text, soft_str(sought), soft_str(new))


def _replace_last(text: str, sought: str, new: str) -> str:
    """Python looks for the last occurrence in quadratic time, and for the first in linear."""
    if not sought:
        return text
    after, _, before = str(text)[::-1].partition(str(sought)[::-1])
    if not before:  # none, or at the beginning, where python-liquid leaves it alone
        return text
    kind = Markup if isinstance(text, Markup) else str
    return kind(before[::-1]) + new + kind(after[::-1])


@sequence_filter
def uniq(sequence: list[Any], key: object = None) -> list[object]:
    """Return a list without what was in it before. key: elements are compared by what they have there."""
    seen: set[Hashable] = set()
    found: list[object] = []
    for one in sequence:
        value = one if key is None else _get(one, key)
        mark = _freeze(value)
        if mark not in seen:
            seen.add(mark)
            found.append(one)
    return found


def _get(one: Any, key: object) -> Any:
    try:
        return one[key]
    except KeyError:
        return _MISSING
    except TypeError as error:
        raise FilterArgumentError(f"can't read property '{key}'", token=None) from error


def _freeze(value: Any) -> Hashable:
    """Return something that is equal for equal values, and can be hashed."""
    if isinstance(value, list | tuple):
        return ("list", *map(_freeze, value))
    if isinstance(value, dict):
        return ("object", frozenset((key, _freeze(inner)) for key, inner in value.items()))
    try:
        hash(value)
    except TypeError:  # python-liquid's own nothing, which `map` makes
        return None
    return value  # type: ignore[no-any-return]


@with_environment
@string_filter
def strip_html(text: str, *, environment: Environment) -> str:
    """Return the text without its tags."""
    stripped = strip_tags(text)
    return Markup(stripped) if environment.autoescape and isinstance(text, Markup) else stripped


@with_environment
def date(value: Any, form: Any, *, environment: Environment) -> Any:
    """Return a time in a form of strftime; what is no time as it is."""
    if len(str(form)) > DATE_LETTERS:
        raise FilterArgumentError(f"the form of a date has more than {DATE_LETTERS} letters", token=None)
    if isinstance(value, str) and len(value) > DATE_LETTERS:
        return value
    if isinstance(value, datetime):  # python-liquid remembers one moment of two zones as one time
        made = value.strftime(str(form))
        return Markup(made) if environment.autoescape and isinstance(form, Markup) else made
    return misc.date(value, form, environment=environment)


def _bound(name: str, calculate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(calculate)
    def bounded(number: Any, *args: Any, **options: Any) -> Any:
        made = calculate(number, *args, **options)
        if isinstance(made, int) and made.bit_length() > NUMBER_BITS:
            raise FilterError(f"{name} makes a number of more than {NUMBER_BITS} bits", token=None)
        return made

    return bounded


# Multiplied by itself ten times in a row, a number has a million digits.
_NUMBERS = {name: _bound(name, getattr(math, name)) for name in ("plus", "minus", "times", "divided_by", "modulo")}

FILTERS: dict[str, Callable[..., Any]] = {
    "date": date,
    "remove_last": remove_last,
    "replace": replace,
    "replace_last": replace_last,
    "strip_html": strip_html,
    "uniq": uniq,
    **_NUMBERS,
}
