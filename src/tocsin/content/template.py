"""Liquid templates, `{{ Profile.Name | default: "there" }}`, compiled, tried out and filled.

In HTML every value from a profile is escaped. What a template may be and do is bounded: its source by `lexer.py`, its
work by `metering.py`, loops and output by `liquid_environment.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from liquid.exceptions import LiquidError, ResourceLimitError
from liquid.template import BoundTemplate

from tocsin.content.fast_template import FastTemplate, read_fast_template
from tocsin.content.lexer import find_tags
from tocsin.content.liquid_environment import OUTPUT_BYTES, parse
from tocsin.content.profile_values import ProfileValues
from tocsin.errors import Problem, forget_frames

__all__ = [
    "CompiledTemplate",
    "CompiledValue",
    "ProfileValues",
    "compile_template",
    "compile_value",
    "explain",
    "fill_value",
    "find_templates",
    "is_template",
    "try_out",
]

# Bytes that a letter inside tags takes once it is compiled: measured 60 for usual tags, 95 for `{{a}}`.
TREE_BYTES = 100
# CleverTap's sentence, with its link: callers compare it.
INVALID_SYNTAX = (
    "Invalid syntax for {field} field. Rectify and try again. "
    "Read more: https://developer.clevertap.com/docs/create-campaign-api"
)


def is_template(value: Any) -> bool:
    """Return whether a value is a text with a tag."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


class CompiledTemplate(msgspec.Struct, frozen=True):
    """A template, compiled; a text without a tag stays a text. field: its name in the content; place: where it stands.
    memory: about how many bytes it takes."""

    template: BoundTemplate | FastTemplate | str
    field: str
    place: str
    memory: int

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the text for one profile. values: {"Profile": ProfileValues}."""
        template = self.template
        if isinstance(template, str):
            return template
        if isinstance(template, FastTemplate):
            return template.render(values["Profile"])
        return template.render(**values)


def compile_template(field: str, text: str, *, place: str = "", html: bool = False) -> CompiledTemplate:
    """Return the compiled template. Raise Problem 400, with the documented sentence, line, column and reason, for one
    that is wrong or beyond the limits.

    field: its name, for the sentence; place: where it stands, by default that field of `content`. html: values are
    escaped."""
    place = place or f"$.content.{field}"
    if not is_template(text):
        return CompiledTemplate(text, field, place, len(text))
    try:
        letters = sum(tag.end - tag.start for tag in find_tags(text))
        template = read_fast_template(text, html=html, limit=OUTPUT_BYTES) or parse(text, html=html)
    except LiquidError as error:
        raise _refuse(field, place, error) from forget_frames(error)
    return CompiledTemplate(template, field, place, 2 * len(text) + TREE_BYTES * letters)


# A value of the caller's JSON with its texts compiled, however deep they lie.
CompiledValue = CompiledTemplate | list[Any] | dict[str, Any] | int | float | bool | None


def compile_value(field: str, value: Any, place: str) -> CompiledValue:
    """Return a value with its templates compiled. Raise Problem 400, as `compile_template`."""
    match value:
        case str():
            return compile_template(field, value, place=place)
        case list():
            return [compile_value(field, one, f"{place}[{index}]") for index, one in enumerate(value)]
        case dict():
            return {key: compile_value(field, one, f"{place}.{key}") for key, one in value.items()}
    return value  # type: ignore[no-any-return]


def find_templates(value: CompiledValue) -> Iterator[CompiledTemplate]:
    """Return the templates in a value, without the texts that have no tag."""
    match value:
        case CompiledTemplate(template=template):
            if not isinstance(template, str):
                yield value
        case list():
            for one in value:
                yield from find_templates(one)
        case dict():
            for one in value.values():
                yield from find_templates(one)


def fill_value(value: CompiledValue, values: Mapping[str, Any] | None) -> Any:
    """Return a value with its templates filled for one profile; with None each template becomes ""."""
    match value:
        case CompiledTemplate(template=template):
            return "" if values is None and not isinstance(template, str) else value.fill(values or {})
        case list():
            return [fill_value(one, values) for one in value]
        case dict():
            return {key: fill_value(one, values) for key, one in value.items()}
    return value


def try_out(one: CompiledTemplate) -> None:
    """Fill a template from an empty profile. Raise Problem 400 for one that is beyond the limits for everybody. Other
    errors may come from what the profile lacks, and are ignored."""
    if isinstance(one.template, BoundTemplate):
        try:
            one.fill({"Profile": ProfileValues({})})
        except ResourceLimitError as error:
            raise _refuse(one.field, one.place, error) from forget_frames(error)
        except Exception as error:
            forget_frames(error)  # and let it pass, see above


def _refuse(field: str, place: str, error: LiquidError) -> Problem:
    reason = explain(error)
    joint = ", " if reason.startswith("line ") else ": "
    return Problem(f"{INVALID_SYNTAX.format(field=field)} (at {place}{joint}{reason})")


def explain(error: BaseException) -> str:
    """Return what is wrong with a template and where: «line 3, column 17: unknown filter 'x'». python-liquid itself
    draws the place, in several lines."""
    if not isinstance(error, LiquidError):
        return f"{type(error).__name__}: {error}"
    cause = error.__cause__ if error.args and error.args[0] == "unexpected liquid parsing error" else None
    reason = explain(cause) if cause is not None else str(error.args[0]) if error.args else type(error).__name__
    token = error.token
    if token is None or token.start_index < 0:
        return reason
    line = token.source.count("\n", 0, token.start_index) + 1
    column = token.start_index - token.source.rfind("\n", 0, token.start_index)
    return f"line {line}, column {column}: {reason}"
