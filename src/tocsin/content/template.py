"""Liquid templates, `{{ Profile.Name | default: "there" }}`, with limits on loops, output and depth.

A content's are compiled once. In HTML every value from a profile is escaped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from liquid import Environment
from liquid.exceptions import LiquidError, ResourceLimitError, UnknownFilterError
from liquid.template import BoundTemplate

from tocsin.content.fast_template import FastTemplate, ProfileValues, read_fast_template
from tocsin.errors import Problem

__all__ = ["OUTPUT_BYTES", "ProfileValues", "Template", "compile_template", "fill", "is_template"]

Template = BoundTemplate | FastTemplate | str  # a text without a tag stays a text

OUTPUT_BYTES = 2 * 1024 * 1024
TAGS = 200
FILTERS = 10
TEXT_LENGTH = 100_000
TAG = re.compile(r"\{[{%].*?[}%]\}", re.DOTALL)
LOOP = re.compile(r"\{%-?\s*(for|tablerow)\s")
# CleverTap's sentence, with its link: callers compare it.
INVALID_SYNTAX = (
    "Invalid syntax for {field} field. Rectify and try again. "
    "Read more: https://developer.clevertap.com/docs/create-campaign-api"
)


class _Limited(Environment):
    """Liquid with limits: templates come from callers, and the CPU time they take is ours."""

    loop_iteration_limit = 1000
    output_stream_limit = OUTPUT_BYTES
    context_depth_limit = 20
    block_nesting_limit = 20
    local_namespace_limit = 100_000  # bytes, as sys.getsizeof counts them


def _replace_within_limits(text: Any, old: Any, new: Any = "") -> str:
    """Liquid's `replace`, up to TEXT_LENGTH letters. Without a limit seven in a row made 486 MiB of ten letters. Raise
    ValueError beyond it."""
    value, sought, put = str(text), str(old), str(new)
    if len(value) + value.count(sought) * len(put) > TEXT_LENGTH:
        raise ValueError(f"replace makes more than {TEXT_LENGTH} letters")
    return value.replace(sought, put)


def _make_environment(*, autoescape: bool) -> Environment:
    environment = _Limited(autoescape=autoescape)
    environment.filters["replace"] = _replace_within_limits
    return environment


_PLAIN = _make_environment(autoescape=False)
_HTML = _make_environment(autoescape=True)


def is_template(value: Any) -> bool:
    """Return whether a value is a text with a tag."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def compile_template(field: str, text: str, *, html: bool = False) -> Template:
    """Return the compiled template, or the text itself when it has no tag. Raise Problem 400, with the documented
    sentence, for a template that is wrong or beyond the limits. field: its name in `content`, for the sentence."""
    if not is_template(text):
        return text
    try:
        _check_template(text)
        fast = read_fast_template(text, html=html, limit=OUTPUT_BYTES)
        if fast is not None:
            return fast
        template = _parse(text, html)
        _render_empty(template)
        return template
    except (LiquidError, ValueError) as error:
        raise Problem(f"{INVALID_SYNTAX.format(field=field)} (at $.content.{field})") from error


def _render_empty(template: BoundTemplate) -> None:
    """Render for an empty profile: python-liquid finds an unknown filter and a loop beyond the limit only then. Other
    errors may come from what the profile lacks, and are ignored."""
    try:
        template.render(Profile=ProfileValues({}))
    except (UnknownFilterError, ResourceLimitError):
        raise
    except Exception:  # noqa: S110 - see above
        pass


def _check_template(text: str) -> None:
    """Raise ValueError for what python-liquid spends too long on. Measured: it needs 1.5 s to refuse 3,600 bytes of
    unclosed «{{», and makes a range outside a loop as long as the template says."""
    if text.count("{{") != text.count("}}") or text.count("{%") != text.count("%}"):
        raise ValueError("a tag is not closed")
    if text.count("{{") + text.count("{%") > TAGS:
        raise ValueError(f"more than {TAGS} tags")
    for tag in TAG.findall(text):
        if ".." in tag and not LOOP.match(tag):
            raise ValueError("a range is only for loops")
        if tag.count("|") > FILTERS:
            raise ValueError(f"more than {FILTERS} filters in a row")


@functools.lru_cache(maxsize=512)
def _parse(text: str, html: bool) -> BoundTemplate:
    return (_HTML if html else _PLAIN).from_string(text)


def fill(template: Template, values: Mapping[str, Any]) -> str:
    """Return the text for one profile. values: {"Profile": ProfileValues}."""
    if isinstance(template, str):
        return template
    if isinstance(template, FastTemplate):
        return template.render(values["Profile"])
    return template.render(**values)
