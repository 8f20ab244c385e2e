"""The plain-text part of a mail, made from its HTML."""

from __future__ import annotations

import functools
from html.parser import HTMLParser


class _TextOf(HTMLParser):
    """The words of an HTML mail, a line a block."""

    BLOCKS = frozenset(("p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "table", "ul", "ol", "hr"))
    SILENT = frozenset(("style", "script", "head", "title"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in self.SILENT
        if tag in self.BLOCKS:
            self.words.append("\n")
        if tag == "a" and (link := dict(attrs).get("href")):
            self.words.append(f"{link} ")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in self.SILENT and self._silent > 0
        if tag in self.BLOCKS:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


@functools.lru_cache(maxsize=8)  # a body without templates is the same for everybody
def to_text(html: str) -> str:
    """The plain-text part of a mail, made from its HTML."""
    parser = _TextOf()
    parser.feed(html)
    parser.close()
    return tidy("".join(parser.words))


def tidy(text: str) -> str:
    """Without empty lines, and with one blank between words."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
