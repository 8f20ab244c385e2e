"""The plain-text part of a mail, made from its HTML."""

from __future__ import annotations

import functools
from html.parser import HTMLParser


class _TextParser(HTMLParser):
    """Collects the text of an HTML mail, one line for each block, links before their text."""

    BLOCKS = frozenset(("p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "table", "ul", "ol", "hr"))
    HIDDEN = frozenset(("style", "script", "head", "title"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._hidden = 0  # open elements whose text is not shown

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.words.append("\n")
        if tag == "a" and (link := dict(attrs).get("href")):
            self.words.append(f"{link} ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self.HIDDEN and self._hidden > 0
        if tag in self.BLOCKS:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


@functools.lru_cache(maxsize=8)  # a body without templates is the same for all recipients
def to_text(html: str) -> str:
    """Return the plain-text part of a mail, made from its HTML."""
    parser = _TextParser()
    parser.feed(html)
    parser.close()
    return tidy("".join(parser.words))


def tidy(text: str) -> str:
    """Return `text` without empty lines, and with one blank between words."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
