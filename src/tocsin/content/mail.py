"""A mail: its HTML, the text made from it, and what one mailbox is sent."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from tocsin.content.parts import Content, Envelope, read_text
from tocsin.content.template import compile_template, fill
from tocsin.errors import Problem
from tocsin.providers.contract import Mail

MAIL_BYTES = 1024 * 1024
SUBJECT_BYTES = 900  # a header line may have 998


def read_mail(raw: Mapping[str, Any]) -> Content:
    """The `content` of a mail. Raises Problem."""
    content = Content(
        subject=read_text(raw, "subject"),
        body=read_text(raw, "body"),
        sender_name=read_text(raw, "sender_name", mandatory=False),
        reply_to=read_text(raw, "reply_to", mandatory=False),
    )
    for key in ("cc", "bcc"):
        if raw.get(key):
            raise Problem(f"{key} is not supported: every recipient gets a mail of their own (at $.content.{key})")
    for key in ("subject", "sender_name", "reply_to"):
        value = getattr(content, key)
        if "\r" in value or "\n" in value:
            raise Problem(f"{key} must be one line (at $.content.{key})")
        if len(value.encode()) > SUBJECT_BYTES:
            raise Problem(f"{key} is longer than {SUBJECT_BYTES} bytes (at $.content.{key})")
    if len(content.body.encode()) > MAIL_BYTES:
        raise Problem(f"body is longer than {MAIL_BYTES} bytes (at $.content.body)")
    return content


class MailForm:
    """A mail, compiled. Raises Problem for a template that is wrong."""

    def __init__(self, content: Content):
        self._content = content
        self._subject = compile_template("subject", content.subject)
        self._body = compile_template("body", content.body, html=True)

    def render(self, values: Mapping[str, Any], envelope: Envelope) -> Mail:
        """One mail for one mailbox."""
        html = fill(self._body, values)
        return Mail(
            id=envelope.id,
            campaign=envelope.campaign,
            address=envelope.address,
            subject=" ".join(fill(self._subject, values).split()),  # a value may hold a line break, a header may not
            html=html,
            text=to_text(html),
            sender_name=self._content.sender_name,
            reply_to=self._content.reply_to,
        )


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
    lines = (" ".join(line.split()) for line in "".join(parser.words).splitlines())
    return "\n".join(line for line in lines if line)
