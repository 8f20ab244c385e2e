"""The SMTP vendor's rules for addresses, recipients and mails.

A recipient's local part selects the reply: one that contains `unknown` gets 550 5.1.1, `full` 452 4.2.2, `greylist`
451 4.7.1 the first time and is accepted afterwards; one that begins with `reply.550.5.7.1` gets that reply, with
`reply.550` a reply without an enhanced code.

Source: RFC 5321 (addresses, lines), RFC 5322 (header fields), RFC 6531 (SMTPUTF8), RFC 3463 (enhanced codes).
"""

from __future__ import annotations

import re

MAIL_LIMIT = 10 * 1024 * 1024
"""Bytes of one mail, announced as SIZE."""

LINE_LIMIT = 998
"""Bytes of a line without CRLF (RFC 5322 2.1.1)."""

GREYLIST_KEPT = 100_000
"""Addresses; past it the oldest is forgotten."""

_ADDRESS = re.compile(r"[^\s<>@\"(),:;\\\[\]]{1,64}@(?:[^\s<>@\"(),:;\\\[\].]{1,63}\.)*[^\s<>@\"(),:;\\\[\].]{1,63}")
_FIELD = re.compile(rb"([!-9;-~]+):[ \t]*(.*)")
_PATH = re.compile(r"<([^<>]*)>(?: +(.*))?", re.DOTALL)
_SCRIPTED = re.compile(r"reply\.([45]\d\d)(?:\.([45]\.\d{1,3}\.\d{1,3}))?(?![0-9.])")


class Mailboxes:
    """The recipients' mailboxes, with the addresses that were greylisted."""

    def __init__(self) -> None:
        self._greylisted: dict[str, None] = {}

    def refusal(self, address: str) -> str | None:
        """Return the reply to RCPT that refuses a recipient, None for one that is accepted."""
        local = address.rpartition("@")[0].lower()
        scripted = _SCRIPTED.match(local)
        if scripted:
            return " ".join(filter(None, (scripted[1], scripted[2], "The recipient's name asks for it")))
        if "unknown" in local:
            return "550 5.1.1 There is no such mailbox"
        if "full" in local:
            return "452 4.2.2 The mailbox is full"
        if "greylist" in local and address not in self._greylisted:
            self._greylisted[address] = None
            if len(self._greylisted) > GREYLIST_KEPT:
                del self._greylisted[next(iter(self._greylisted))]
            return "451 4.7.1 Greylisted, try again later"
        return None


def read_path(argument: str, keyword: str) -> tuple[str, dict[str, str]] | None:
    """Return address and parameters from the argument of MAIL (`FROM`) or RCPT (`TO`), None when it is malformed."""
    prefix, colon, rest = argument.partition(":")
    match = _PATH.fullmatch(rest.strip())
    if prefix.upper() != keyword or not colon or match is None:
        return None
    parameters = {}
    for word in (match[2] or "").split():
        name, _, value = word.partition("=")
        parameters[name.upper()] = value
    return match[1], parameters


def is_address(text: str) -> bool:
    """Return whether `text` is local@domain; quoted local parts and address literals are not accepted."""
    return _ADDRESS.fullmatch(text) is not None and ".." not in text


def read_fields(mail: bytes) -> list[tuple[str, str]] | None:
    """Return names (lower-case) and unfolded values of the header fields, None when a line is no field."""
    head = mail.partition(b"\r\n\r\n")[0]
    fields = []
    for line in re.sub(rb"\r\n(?=[ \t])", b"", head).split(b"\r\n"):
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1].decode("ascii").lower(), match[2].decode("utf-8", "replace").strip()))
    return fields


def mail_problem(mail: bytes, fields: list[tuple[str, str]] | None, *, utf8: bool) -> str | None:
    """Return the reply that refuses a mail which breaks a rule, else None. utf8: MAIL had SMTPUTF8.

    Bytes over 127 in the body are taken without BODY=8BITMIME too: RFC 6152 wants it, Python's smtplib leaves it out,
    and the relays that announce 8BITMIME take both.
    """
    if len(mail) > MAIL_LIMIT:
        return "552 5.3.4 The mail is too big"
    ends = mail.count(b"\r\n")
    if mail.count(b"\n") != ends or mail.count(b"\r") != ends or b"\0" in mail:
        return "554 5.6.0 Lines have to end with CRLF, and there may be no NUL"
    if max(map(len, mail.split(b"\r\n"))) > LINE_LIMIT:
        return f"554 5.6.0 A line is longer than {LINE_LIMIT} bytes"
    if fields is None:
        return "554 5.6.0 The header is not made of fields"
    names = [name for name, _ in fields]
    for name, most in (("from", 1), ("date", 1), ("message-id", 1), ("subject", 1), ("to", 1)):
        if names.count(name) > most or (name in ("from", "date") and name not in names):
            return f"554 5.6.0 There has to be one {name.title()} field"
    if not mail.partition(b"\r\n\r\n")[0].isascii() and not utf8:
        return "554 5.6.7 A header that is not ASCII needs SMTPUTF8"
    return None


def campaign_of(fields: list[tuple[str, str]]) -> str:
    """Return the value of X-Tocsin-Campaign, else of Message-ID, else an empty string."""
    named = dict(fields)
    return named.get("x-tocsin-campaign") or named.get("message-id", "")
