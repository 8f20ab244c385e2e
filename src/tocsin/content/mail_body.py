"""A mail's body in pieces: the template's own words, made once a campaign, and the values between them.

Even pieces are the words, the same `str` objects for every recipient, so that whoever encodes them has to do it once;
odd pieces are values. The plain-text part is made from the template too, with a mark in the place of each value that an
HTML parser lets stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from liquid.ast import Node
from liquid.builtin.content import ContentNode
from liquid.builtin.output import OutputNode
from liquid.exceptions import ResourceLimitError
from liquid.stringify import to_liquid_string
from liquid.template import BoundTemplate

from tocsin.content.fast_template import FastTemplate, Field, show
from tocsin.content.plain_text import tidy, to_text
from tocsin.content.template import OUTPUT_BYTES, TAG, Template, compile_template, fill
from tocsin.errors import Problem

Pieces = tuple[str, ...]

_MARKS = "\ue000\ue001"  # private use: in no text that means anything to anybody
_MARK = re.compile("\ue000([0-9]+)\ue001")
# Filters that make or mend HTML: what they make is no plain text, so the text comes from what was rendered.
_HTML_FILTER = re.compile(r"\|\s*(escape|escape_once|newline_to_br|safe|strip_html)\b")


class Body:
    """The HTML of a mail, compiled. `render` gives its pieces and those of the plain text. Raises Problem for a
    template that is wrong."""

    def __init__(self, source: str):
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        self._html = compile_template("body", source, html=True)
        self._outlines = _split(self._html, source)
        self._text = _make_text_template(source) if self._outlines is None else None

    def render(self, values: Mapping[str, Any]) -> tuple[Pieces, Pieces]:
        """HTML and text for one profile. Values are escaped in the HTML and stand as they are in the text. Raises what
        Liquid and its filters raise."""
        if self._outlines is not None:
            html, text = self._outlines
            return html.render(values), text.render(values)
        rendered = fill(self._html, values)
        plain = to_text(rendered) if self._text is None else tidy(fill(self._text, values))
        return ("", rendered), ("", plain)


class _Outline:
    """Words and outputs in turn. escape: whether the outputs are HTML."""

    def __init__(self, template: BoundTemplate | None, words: Sequence[str], outputs: Sequence[Node], *, escape: bool):
        self._template = template
        self._words = words
        self._expressions = [node.expression for node in outputs if isinstance(node, OutputNode)]
        self._escape = escape
        self._still = (words[0],) if not self._expressions else None

    def render(self, values: Mapping[str, Any]) -> Pieces:
        if self._still is not None or self._template is None:
            return self._still or ("",)
        context = self._template.context_class(self._template, globals=self._template.make_globals(dict(values)))
        filled = [to_liquid_string(one.evaluate(context), self._escape) for one in self._expressions]
        if sum(map(len, filled)) > OUTPUT_BYTES:
            raise ResourceLimitError("output stream limit reached", token=None)
        # Even pieces first, then odd ones, in turn; words are one more than outputs.
        return (*chain.from_iterable(zip(self._words, map(str, filled), strict=False)), self._words[-1])


class _Sketch:
    """`_Outline` of a phrase."""

    def __init__(self, words: Sequence[str], fields: Sequence[Field], *, html: bool):
        self._words = words
        self._fields = fields
        self._html = html

    def render(self, values: Mapping[str, Any]) -> Pieces:
        profile = values["Profile"]
        filled = [show(field, profile, html=self._html) for field in self._fields]
        if sum(map(len, filled)) > OUTPUT_BYTES:
            raise ResourceLimitError("output stream limit reached", token=None)
        filled = [one.replace("\r\n", "\n").replace("\r", "\n") if "\r" in one else one for one in filled]
        return (*chain.from_iterable(zip(self._words, filled, strict=False)), self._words[-1])


def _split(html: Template, source: str) -> tuple[_Outline | _Sketch, _Outline | _Sketch] | None:
    """The outlines of HTML and text where a body is nothing but words and outputs, else None."""
    if isinstance(html, str):
        return _Outline(None, [html], [], escape=True), _Outline(None, [to_text(html)], [], escape=False)
    if any(mark in source for mark in _MARKS):
        return None
    if isinstance(html, FastTemplate):
        return _split_template(html)
    nodes = html.nodes
    if not all(isinstance(node, ContentNode | OutputNode) for node in nodes) or _HTML_FILTER.search(source):
        return None
    words, outputs = _group(nodes)
    plain = compile_template("body", source)
    if isinstance(plain, str | FastTemplate) or len(plain.nodes) != len(nodes):
        return None
    plain_words, order = _make_plain(words)
    plain_outputs = _group(plain.nodes)[1]
    chosen = [plain_outputs[number] for number in order]
    return _Outline(html, words, outputs, escape=True), _Outline(plain, plain_words, chosen, escape=False)


def _split_template(phrase: FastTemplate) -> tuple[_Sketch, _Sketch]:
    words, fields = [""], []
    for part in phrase.parts:
        if isinstance(part, str):
            words[-1] += part
        else:
            fields.append(part)
            words.append("")
    plain_words, order = _make_plain(words)
    return _Sketch(words, fields, html=True), _Sketch(plain_words, [fields[number] for number in order], html=False)


def _make_plain(words: Sequence[str]) -> tuple[list[str], list[int]]:
    """The words of the plain text around the outputs that are left in it, and which outputs these are."""
    marked = "".join(f"{word}\ue000{number}\ue001" for number, word in enumerate(words[:-1])) + words[-1]
    found = _MARK.split(to_text(marked))
    return found[::2], [int(number) for number in found[1::2]]


def _group(nodes: Sequence[Node]) -> tuple[list[str], list[Node]]:
    """The words around the outputs, one more than there are outputs."""
    words: list[str] = [""]
    outputs: list[Node] = []
    for node in nodes:
        if isinstance(node, ContentNode):
            words[-1] += node.text
        else:
            outputs.append(node)
            words.append("")
    return words, outputs


def _make_text_template(source: str) -> Template | None:
    """The plain text as a template of its own, of a body with tags; None where only what was rendered will do."""
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
