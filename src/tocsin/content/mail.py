"""The content of a mail campaign: checked, compiled, and rendered for one mailbox."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from email.utils import getaddresses
from html import escape
from typing import Any

from tocsin.content.content import Addressing, Content, Unrenderable, read_text
from tocsin.content.mail_body import Body
from tocsin.content.template import CompiledTemplate, compile_template
from tocsin.content.tracked_html import UNSUBSCRIBE
from tocsin.errors import Problem
from tocsin.providers.contract import Mail
from tocsin.providers.mail.mime import to_ascii

MAIL_BYTES = 1024 * 1024
_ESCAPED_TAG = re.compile(r"\*%7CUNSUBSCRIBE%7C\*", re.IGNORECASE)  # as editors of HTML write it in an address
SUBJECT_BYTES = 900  # a header line may have 998


def read_mail(raw: Mapping[str, Any], unsubscribe_link: bool = True) -> Content:
    """Return the `content` of a mail. Raises Problem for a field that is missing, too long or not one line, for cc and
    bcc, and for UNSUBSCRIBE without an `unsubscribe_link`."""
    content = Content(
        subject=read_text(raw, "subject"),
        body=_ESCAPED_TAG.sub(UNSUBSCRIBE, read_text(raw, "body")),
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
    if content.reply_to and not is_mailbox(content.reply_to):
        raise Problem("reply_to must be an address, such as Shop <shop@example.com> (at $.content.reply_to)")
    if len(content.body.encode()) > MAIL_BYTES:
        raise Problem(f"body is longer than {MAIL_BYTES} bytes (at $.content.body)")
    if UNSUBSCRIBE in content.body and not unsubscribe_link:
        raise Problem(
            f"{UNSUBSCRIBE} needs a public address: the operator has to set TOCSIN_PUBLIC_URL (at $.content.body)"
        )
    return content


def is_mailbox(text: str) -> bool:
    """Return whether a text is one address that every relay carries, with or without a name before it."""
    from tocsin.ingest.record import read_email  # it opens stores; a sender, which renders, has none

    found = getaddresses([text]) if text.isprintable() else []
    return len(found) == 1 and bool(to_ascii(read_email(found[0][1])))


class MailForm:
    """A mail's compiled templates. tracked: its links may be followed. Raises Problem for a template that is wrong."""

    def __init__(self, content: Content, *, tracked: bool = False):
        self._content = content
        self._subject = compile_template("subject", content.subject)
        self._body = Body(content.body, tracked=tracked)
        self._has_link = UNSUBSCRIBE in content.body

    def templates(self) -> Iterator[CompiledTemplate]:
        """Return the templates."""
        yield self._subject
        yield from self._body.templates()

    def render(self, platform: str, values: Mapping[str, Any], envelope: Addressing) -> Mail:
        """Return the mail for one mailbox. Raises what Liquid and its filters raise."""
        if self._has_link and not envelope.unsubscribe:
            raise Unrenderable(f"{UNSUBSCRIBE} needs TOCSIN_PUBLIC_URL")
        pieces, leave = None, escape(envelope.unsubscribe)
        if envelope.tracking is None:
            html, text = self._body.render(values)
        else:
            pieces, text = self._body.track(values, envelope.tracking, leave or UNSUBSCRIBE)
            html = pieces.join()
        if self._has_link:
            if UNSUBSCRIBE in html:  # outside of addresses too
                html, pieces = html.replace(UNSUBSCRIBE, leave), None
            text = text.replace(UNSUBSCRIBE, envelope.unsubscribe)
        return Mail(
            id=envelope.id,
            campaign=envelope.campaign,
            address=envelope.address,
            subject=" ".join(self._subject.fill(values).split()),  # a value may hold a line break, a header may not
            html=html,
            text=text,
            sender_name=self._content.sender_name,
            reply_to=self._content.reply_to,
            unsubscribe=envelope.unsubscribe,
            bounce=envelope.push_id,
            pieces=pieces,
        )
