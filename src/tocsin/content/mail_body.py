"""A mail's body for one profile: its HTML, and its plain text.

The plain text is a template too, made once a campaign: the HTML's text with a mark in place of each tag, which an HTML
parser leaves alone, and then the tags in place of the marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tocsin.content.lexer import find_tags
from tocsin.content.plain_text import TEXT_LETTERS, tidy, to_text
from tocsin.content.template import CompiledTemplate, compile_template, is_template
from tocsin.content.tracked_html import UNSUBSCRIBE, MailLinks, TrackedHtml
from tocsin.errors import Problem
from tocsin.providers.contract import Pieces

_MARKS = "\ue000\ue001"  # private use characters: no text has them
_MARK = re.compile("\ue000([0-9]+)\ue001")
# Filters that make or change HTML: their output is no plain text, so the text is made from the rendered HTML.
_HTML_FILTER = re.compile(r"\|\s*(escape|escape_once|newline_to_br|safe|strip_html)\b")


class Body:
    """A mail's body, compiled. tracked: its links may be followed. Raises Problem for a template that is wrong."""

    def __init__(self, source: str, *, tracked: bool = False):
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        self._tracked = TrackedHtml(source) if tracked else None
        self._html = compile_template("body", source if self._tracked is None else self._tracked.source, html=True)
        self._text = _make_text_template(source)
        self._has_blocks = "{%" in source

    def templates(self) -> Iterator[CompiledTemplate]:
        """Return the templates of HTML and text."""
        yield self._html
        if self._text is not None:
            yield self._text

    def render(self, values: Mapping[str, Any]) -> tuple[str, str]:
        """Return HTML and text for one profile. Values are escaped in the HTML and unchanged in the text. Raises what
        Liquid and its filters raise."""
        html = self._html.fill(values)
        if self._tracked is not None:
            html = self._tracked.restore(html)
        return html, self._make_text(values, html)

    def track(self, values: Mapping[str, Any], links: MailLinks, unsubscribe: str = UNSUBSCRIBE) -> tuple[Pieces, str]:
        """Return HTML and text as `render` does, with a mail's own links in the HTML of a body that is tracked.
        unsubscribe: what stands for UNSUBSCRIBE in an address."""
        filled = self._html.fill(values)
        if self._tracked is None:
            return Pieces((filled,), ()), self._make_text(values, filled)
        plain = self._tracked.restore(filled) if self._text is None else ""
        return self._tracked.track(filled, links, unsubscribe), self._make_text(values, plain)

    def _make_text(self, values: Mapping[str, Any], html: str) -> str:
        """Return the plain text. html: what it is made of, where it has no template of its own."""
        if self._text is None:
            return to_text(html[:TEXT_LETTERS])
        text = self._text.fill(values)
        # Blocks leave empty lines behind.
        return tidy(text[:TEXT_LETTERS]) if self._has_blocks else text


def _make_text_template(source: str) -> CompiledTemplate | None:
    """Return the template of the plain text, None when the text has to be made from the rendered HTML."""
    if not is_template(source):
        text = to_text(source)  # with tags in it, if they were written as entities
        return CompiledTemplate(text, "body", "$.content.body", len(text))
    if _HTML_FILTER.search(source) or any(mark in source for mark in _MARKS):
        return None
    marked: list[str] = []
    tags: list[str] = []
    end = 0
    for tag in find_tags(source):
        marked += [source[end : tag.start], f"\ue000{len(tags)}\ue001"]
        tags.append(source[tag.start : tag.end])
        end = tag.end
    text = to_text("".join([*marked, source[end:]]))
    if "{{" in text or "{%" in text:  # written as entities, or between {% raw %}, they would become tags
        return None
    try:
        return compile_template("body", _MARK.sub(lambda found: tags[int(found[1])], text))
    except Problem:  # a tag began within what a reader sees and ended elsewhere
        return None
