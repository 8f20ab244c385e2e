"""A mail's body for one profile: its HTML, and its plain text.

The plain text is a template too, made once a campaign: the HTML's text with a mark in place of each tag, which an HTML
parser leaves alone, and then the tags in place of the marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tocsin.content.plain_text import tidy, to_text
from tocsin.content.template import TAG, Template, compile_template, fill
from tocsin.errors import Problem

_MARKS = "\ue000\ue001"  # private use characters: no text has them
_MARK = re.compile("\ue000([0-9]+)\ue001")
# Filters that make or change HTML: their output is no plain text, so the text is made from the rendered HTML.
_HTML_FILTER = re.compile(r"\|\s*(escape|escape_once|newline_to_br|safe|strip_html)\b")


class Body:
    """A mail's body, compiled. Raises Problem for a template that is wrong."""

    def __init__(self, source: str):
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        self._html = compile_template("body", source, html=True)
        self._text = _make_text_template(source)
        self._has_blocks = "{%" in source

    def render(self, values: Mapping[str, Any]) -> tuple[str, str]:
        """Return HTML and text for one profile. Values are escaped in the HTML and unchanged in the text. Raises what
        Liquid and its filters raise."""
        html = fill(self._html, values)
        if self._text is None:
            return html, to_text(html)
        text = fill(self._text, values)
        return html, tidy(text) if self._has_blocks else text  # blocks leave empty lines behind


def _make_text_template(source: str) -> Template | None:
    """Return the template of the plain text, None when the text has to be made from the rendered HTML."""
    if _HTML_FILTER.search(source) or any(mark in source for mark in _MARKS):
        return None
    tags: list[str] = []

    def mark(found: re.Match[str]) -> str:
        tags.append(found[0])
        return f"\ue000{len(tags) - 1}\ue001"

    marked = to_text(TAG.sub(mark, source))
    if "{{" in marked or "{%" in marked:  # written as entities, they would become tags
        return None
    try:
        return compile_template("body", _MARK.sub(lambda found: tags[int(found[1])], marked))
    except Problem:  # a tag began within what a reader sees and ended elsewhere
        return None
