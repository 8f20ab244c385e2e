"""A Liquid source as tags, and as the tokens that python-liquid parses: in one pass, and within limits.

python-liquid's own lexer is a regular expression that looks to the end of the text at each tag that is not closed, and
at white space in `{% liquid %}` again and again: 240 kB took it half a minute. This one finds the ends of tags by
`str.find` and says the same; a law of the tests compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from liquid.exceptions import LiquidSyntaxError
from liquid.token import TOKEN_CONTENT, TOKEN_DOC, TOKEN_EOF, TOKEN_EXPRESSION, TOKEN_OUTPUT, TOKEN_TAG, Token

TAGS = 200  # of a text; each line of {% liquid %} counts as one
TAG_LETTERS = 65_536  # inside all tags of a text
WORDS = 5_000  # and signs in them, a quoted text being one: python-liquid takes up to 14 µs for one
BRACKETS = 100  # round or square ones of a tag: python-liquid looks to the tag's end at each

_OPEN = re.compile(r"\{[{%]")
_NAME = re.compile(r"\{%-?\s*+(#|\w+)")
_LINE = re.compile(r"[ \t]*+(#|\w+)[ \t]*+")
# As python-liquid takes an expression apart.
_WORD = re.compile(
    r"""\[\s*(?P<bracketed>["']).*?(?P=bracketed)\s*\]|(?P<quote>["']).*?(?P=quote)|\w+|[^\w\s]""", re.DOTALL
)
_VERBATIM = {name: re.compile(rf"\{{%-?\s*+end{name}\s*+-?%\}}") for name in ("raw", "doc")}


class Tag(NamedTuple):
    """One tag of a source. name: "" for an output, `{{ … }}`. inner: where its expression begins and ends.
    is_verbatim: what follows is a text, up to the next tag."""

    start: int
    end: int
    name: str
    inner: tuple[int, int]
    strips_before: bool
    strips_after: bool
    is_verbatim: bool = False


def find_tags(source: str) -> Iterator[Tag]:
    """Return the tags of a source from left to right. What stands between {% raw %} and {% endraw %} is a text, and
    an open brace in a comment is one too. Raise LiquidSyntaxError for a tag that is not closed, and beyond the
    limits."""
    position = count = letters = comments = 0
    endless: set[str] = set()  # ends that do not come any more
    while found := _OPEN.search(source, position):
        tag = _read_tag(source, found.start(), endless)
        if tag is None:
            if not comments:
                raise _refuse(source, found.start(), _explain_open(source, found.start()))
            position = found.start() + 1
            continue
        count += 1 + (source.count("\n", *tag.inner) if tag.name == "liquid" else 0)
        letters += tag.end - tag.start
        if count > TAGS:
            raise _refuse(source, tag.start, f"more than {TAGS} tags; a line of {{% liquid %}} is one")
        if letters > TAG_LETTERS:
            raise _refuse(source, tag.start, f"more than {TAG_LETTERS} letters inside tags")
        comments = max(0, comments + (tag.name == "comment") - (tag.name == "endcomment"))
        last = _find_end(source, tag, endless)
        if last is None:
            if tag.name in _VERBATIM and tag.inner[0] == tag.inner[1] and not comments:
                raise _refuse(source, tag.start, f"{{% {tag.name} %}} is not closed")
            yield tag
            position = tag.end
        else:
            yield tag._replace(is_verbatim=True)
            yield last
            position = last.end


def lex(source: str) -> Iterator[Token]:
    """Return the tokens of a source. Raise LiquidSyntaxError as `find_tags`, and for too many words in tags."""
    position = comments = words = 0
    strips = False  # what follows loses its white space
    verbatim = ""
    for tag in find_tags(source):
        if verbatim:
            kind = TOKEN_DOC if verbatim == "doc" else TOKEN_CONTENT
            if not comments:
                yield Token(kind, source[position : tag.start], position, source)
            verbatim, position = "", tag.end
            continue
        if not comments:
            yield from _cut_text(source, position, tag.start, strips, tag.strips_before)
        position = tag.end
        if tag.is_verbatim:
            verbatim = tag.name
            strips = strips if comments else tag.strips_after
            continue
        was_comment, comments = comments > 0, max(0, comments + (tag.name == "comment") - (tag.name == "endcomment"))
        if was_comment and comments:
            continue
        strips = tag.strips_after
        words += _count_words(source, tag)
        if words > WORDS:
            raise _refuse(source, tag.start, f"more than {WORDS} words and signs inside tags")
        # Whatever else the end of a comment says is part of the comment.
        ends = was_comment and tag.name == "endcomment"
        yield from _cut_tag(source, tag._replace(inner=(tag.end, tag.end)) if ends else tag)
    if not comments:
        yield from _cut_text(source, position, len(source), strips, before=False)


def split_lines(expression: Token) -> Iterator[Token]:
    """Return the tokens of the lines of {% liquid %}."""
    start = 0
    for line in expression.value.split("\n"):
        found = _LINE.match(line)
        if found is None:
            if line.strip():
                raise _refuse(expression.source, expression.start_index + start, "a line does not begin with a tag")
        else:
            at = expression.start_index + start
            yield Token(TOKEN_TAG, found[1], at + found.start(1), expression.source)
            if value := line[found.end() :].rstrip(" \t\r"):
                yield Token(TOKEN_EXPRESSION, value, at + found.end(), expression.source)
        start += len(line) + 1


def _read_tag(source: str, start: int, endless: set[str]) -> Tag | None:
    """Return the tag that begins at `start`, None when it has no end or no name."""
    name, begin, closing = "", start + 2, "}}"
    if source[start + 1] == "%":
        found = _NAME.match(source, start)
        if found is None:
            return None
        name, begin, closing = found[1], found.end(), "%}"
    end = -1 if closing in endless else source.find(closing, begin)
    if end < 0:
        endless.add(closing)
        return None
    strips_before = source.startswith("-", start + 2)
    inner = begin + (strips_before and not name), end
    strips_after = inner[0] < end and source[end - 1] == "-"
    return Tag(start, end + 2, name, _trim(source, inner[0], end - strips_after), strips_before, strips_after)


def _trim(source: str, begin: int, end: int) -> tuple[int, int]:
    text = source[begin:end]
    begin += len(text) - len(text.lstrip())
    return begin, begin + len(text.strip())


def _find_end(source: str, tag: Tag, endless: set[str]) -> Tag | None:
    """Return the {% endraw %} of a {% raw %}, the {% enddoc %} of a {% doc %}; None for other tags, and without one."""
    if tag.name not in _VERBATIM or tag.name in endless or tag.inner[0] < tag.inner[1]:
        return None
    found = _VERBATIM[tag.name].search(source, tag.end)
    if found is None:
        endless.add(tag.name)
        return None
    strips_after = found[0].endswith("-%}")
    return Tag(found.start(), found.end(), f"end{tag.name}", (found.end(), found.end()), False, strips_after)


def _cut_text(source: str, start: int, end: int, after: bool, before: bool) -> Iterator[Token]:
    """Return the token of a text between tags; after, before: it loses the white space there."""
    text = source[start:end]
    if after:
        text = text.lstrip()
    if before:
        text = text.rstrip()
    if text:
        yield Token(TOKEN_CONTENT, text, start, source)


def _count_words(source: str, tag: Tag) -> int:
    if tag.name == "#":  # a comment
        return 0
    expression = source[slice(*tag.inner)]
    if max(expression.count("("), expression.count("[")) > BRACKETS:
        raise _refuse(source, tag.start, f"more than {BRACKETS} brackets in a tag")
    return sum(1 for _ in _WORD.finditer(expression))


def _cut_tag(source: str, tag: Tag) -> Iterator[Token]:
    expression = source[slice(*tag.inner)]
    if not tag.name:
        yield Token(TOKEN_OUTPUT, source[tag.start : tag.end], tag.start, source)
        yield Token(TOKEN_EXPRESSION, expression, tag.inner[0], source)
        return
    yield Token(TOKEN_TAG, tag.name, source.index(tag.name, tag.start), source)
    if expression:
        yield Token(TOKEN_EXPRESSION, expression, tag.inner[0], source)


def _explain_open(source: str, start: int) -> str:
    if source[start + 1] == "{":
        return "{{ is not closed"
    return "{% is not closed" if _NAME.match(source, start) else "{% has no name after it"


def _refuse(source: str, start: int, reason: str) -> LiquidSyntaxError:
    return LiquidSyntaxError(reason, token=Token(TOKEN_EOF, source[start : start + 2], start, source))
