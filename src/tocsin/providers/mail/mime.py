"""A mail as the bytes that go over the wire: RFC 5322, MIME, CRLF, lines of at most 76 bytes in a body.

Built by hand because `email.message` makes 375 messages a second. What a template says to everybody is encoded once and
kept; only the values filled in are encoded for each recipient, and joined to it by soft line breaks (RFC 2045 6.7).
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime, parseaddr

import msgspec

from tocsin.providers.contract import Mail

KEPT_BYTES = 32 * 1024 * 1024  # of encoded templates; a body has at most 1 MB
_LINE = 76  # bytes of a header's line before it is folded
_WORD = 42  # bytes of UTF-8 in one encoded word, which may be 75 long (RFC 2047 2)
_OWN = frozenset(
    (
        *("from", "to", "subject", "date", "message-id", "mime-version", "content-type", "content-transfer-encoding"),
        *("reply-to", "list-unsubscribe", "list-unsubscribe-post", "dkim-signature"),
    )
)
_BOUNCE = re.compile(r"[A-Za-z0-9_-]{0,64}")
_BLANKS = re.compile(rb"[ \t]+")

Coded = tuple[bytes, bytes]  # a piece on the wire, and in DKIM's relaxed form


class Letter(msgspec.Struct, frozen=True):
    """A mail in its parts. fields: header fields, each may be folded. canonical: `body` in the relaxed form of DKIM
    (RFC 6376 3.4.4), empty when it was not asked for."""

    fields: tuple[str, ...]
    body: bytes
    canonical: bytes = b""

    def join(self, first: str = "") -> bytes:
        """The whole mail; `first` is a field to go before the others."""
        head = "\r\n".join((first, *self.fields) if first else self.fields)
        return b"%b\r\n\r\n%b" % (head.encode("ascii", "replace"), self.body)


def find_fault(message: Mail, sender: str) -> str:
    """Why this mail must not be sent, or "": a line break in a header would let its text write headers of its own."""
    named = [
        ("recipient", message.address.value),
        ("sender", sender),
        ("subject", message.subject),
        ("sender name", message.sender_name),
        ("reply-to", message.reply_to),
        ("campaign", message.campaign),
        ("id", message.id),
        ("unsubscribe URL", message.unsubscribe),
        *((f"header {name!r}", name + value) for name, value in message.headers),
    ]
    if not "".join([text for _, text in named]).isprintable():  # the quick way for the many in order
        for name, value in named:
            if any(sign in value for sign in "\r\n\0"):
                return f"a line break in the {name}"
    for name, _ in message.headers:
        if not all(33 <= ord(sign) <= 126 and sign != ":" for sign in name) or not name:
            return f"a header is named {name!r}"
    recipient = message.address.value
    if "@" not in recipient or any(sign in recipient for sign in "<> \t"):
        return "the recipient is not an address"
    if any(sign in message.unsubscribe for sign in "<> \t") or not message.unsubscribe.isascii():
        return "the unsubscribe URL is not a URL"
    if not _BOUNCE.fullmatch(message.bounce):
        return "the bounce id is not made of letters, digits, - and _"
    return "" if any(message.html) or any(message.text) else "the mail is empty"


def write(message: Mail, sender: str, now: float, *, canonical: bool = False) -> Letter:
    """One mail. sender: the From address. now: epoch seconds, for `Date`. canonical: make DKIM's form of the body too.
    The same `message` has the same `Message-ID` on every attempt, so a mailbox that got two can tell."""
    kind, pieces = _write_body(message)
    fields = [
        _write_mailbox("From", message.sender_name, sender),
        _write_field("To", message.address.value),
        _write_field("Subject", message.subject),
        _write_date(int(now)),
        f"Message-ID: <{message.id}@{sender.rpartition('@')[2]}>",
        _write_field("X-Tocsin-Campaign", message.campaign),
        "MIME-Version: 1.0",
        kind,
    ]
    if not kind.startswith("Content-Type: multipart/"):
        fields.append("Content-Transfer-Encoding: quoted-printable")
    if message.reply_to:
        fields.append(_write_mailbox("Reply-To", *parseaddr(message.reply_to), message.reply_to))
    if message.unsubscribe.startswith("https://"):  # RFC 8058 3.1: one https URI, and exactly this second field
        fields.append(f"List-Unsubscribe: <{message.unsubscribe}>")
        fields.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    fields.extend(_write_field(name, value) for name, value in message.headers if name.lower() not in _OWN)
    relaxed = b""
    if canonical:
        relaxed = b"".join([piece[1] for piece in pieces]).rstrip(b"\r\n")
        relaxed = relaxed + b"\r\n" if relaxed else b""
    return Letter(tuple(fields), b"".join([piece[0] for piece in pieces]), relaxed)


def render(message: Mail, sender: str, now: float) -> bytes:
    """The whole mail, unsigned."""
    return write(message, sender, now).join()


def _write_body(message: Mail) -> tuple[str, list[Coded]]:
    """The Content-Type field, and the body in encoded pieces."""
    parts = [(kind, text) for kind, text in (("plain", message.text), ("html", message.html)) if any(text)]
    if len(parts) == 1:
        kind, text = parts[0]
        return f'Content-Type: text/{kind}; charset="utf-8"', encode(text)
    # No quoted-printable line can hold «=_», so the boundary cannot occur in a part (RFC 2045 6.7).
    pieces: list[Coded] = []
    for kind, text in parts:
        head = (
            f'--=_{message.id}\r\nContent-Type: text/{kind}; charset="utf-8"\r\n'
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        ).encode()
        pieces += ((head, head), *encode(text), (b"\r\n", b"\r\n"))  # the line end before a boundary is the boundary's
    end = f"--=_{message.id}--\r\n".encode()
    pieces.append((end, end))
    return f'Content-Type: multipart/alternative; boundary="=_{message.id}"', pieces


def encode(pieces: Iterable[str]) -> list[Coded]:
    """A text in quoted-printable pieces to be joined, with a line break at its end. Even pieces are looked up among
    those that were encoded before, odd ones are values. Each piece begins at the start of a line."""
    coded: list[Coded] = []
    for number, piece in enumerate(pieces):
        if piece:
            if number % 2 == 0:
                coded.append(_TEMPLATES.encode(piece))
            else:
                coded.append(_encode_short(piece) if len(piece) < 75 else _encode(piece))
    if coded and coded[-1][0].endswith(b"=\r\n"):
        coded[-1] = (_end(coded[-1][0]), _end(coded[-1][1]))
    return coded


def _end(piece: bytes) -> bytes:
    """The soft break at the end of a text made hard; a blank before it would be lost there and keeps its own line."""
    return piece + b"\r\n" if piece[-4:-3] in (b" ", b"\t") else piece[:-3] + b"\r\n"


def _encode(text: str) -> Coded:
    """A piece, ended by a line break of its own or by a soft one: what follows begins at the start of a line."""
    if len(text) < 75 and text.isascii() and text.isprintable() and "=" not in text and "  " not in text:
        plain = text.encode() + b"=\r\n"
        return plain, plain
    unix = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    # The sign at the end keeps a blank from being the last of its line, and keeps room for the soft break.
    coded = binascii.b2a_qp(unix.encode("utf-8", "replace") + b"x", istext=True)[:-1]
    if not coded.endswith(b"\n"):
        coded += b"=\n"
    wire = coded.replace(b"\n", b"\r\n")
    # No line of quoted-printable ends with a blank, so only runs within a line are left to shorten.
    return wire, _BLANKS.sub(b" ", wire) if b"  " in wire or b"\t" in wire else wire


_encode_short = functools.lru_cache(maxsize=4096)(_encode)  # first names, cities and prices come again and again


class _Codebook:
    """Templates' pieces, encoded: as many as fit, then it starts anew."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._known: dict[str, Coded] = {}

    def encode(self, text: str) -> Coded:
        known = self._known.get(text)
        if known is None:
            known = _encode(text)
            size = len(text) + len(known[0]) + len(known[1])
            if self._size + size > self._limit:
                self._known.clear()
                self._size = 0
            self._known[text] = known
            self._size += size
        return known


_TEMPLATES = _Codebook(KEPT_BYTES)


@functools.lru_cache(maxsize=4)
def _write_date(second: int) -> str:
    return f"Date: {format_datetime(datetime.fromtimestamp(second, UTC))}"


@functools.lru_cache(maxsize=256)
def _write_mailbox(name: str, display: str, address: str, otherwise: str = "") -> str:
    """A field with one mailbox: `display` is quoted or encoded, the address never is. otherwise: the text as it came,
    for what is no mailbox."""
    if not address:
        return _write_field(name, otherwise)
    if not display:
        return f"{name}: {address}"
    if (
        display.isascii()
        and display.isprintable()
        and len(display) + len(address) < _LINE - len(name) - 6
        and "=?" not in display
    ):
        quoted = display.replace("\\", "\\\\").replace('"', '\\"')
        return f'{name}: "{quoted}" <{address}>'
    return f"{name}: {_encode_words(display)}\r\n <{address}>"


def _write_field(name: str, value: str) -> str:
    if value.isascii() and value.isprintable() and "=?" not in value:
        if len(name) + len(value) < _LINE - 2 or " " not in value:
            return f"{name}: {value}"  # short; or a URL or an address, which must stay whole
        if "  " not in value and value == value.strip():
            return _fold(name, value)
    return f"{name}: {_encode_words(value)}"


def _fold(name: str, value: str) -> str:
    lines = [f"{name}:"]
    for word in value.split(" "):
        if len(lines[-1]) + 1 + len(word) > _LINE and lines[-1] != f"{name}:":
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)


def _encode_words(value: str) -> str:
    """RFC 2047: base64 words, none of which splits a letter."""
    words, start, size = [], 0, 0
    for number, sign in enumerate(value):
        wide = len(sign.encode("utf-8", "replace"))
        if size + wide > _WORD:
            words.append(value[start:number])
            start, size = number, 0
        size += wide
    words.append(value[start:])
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(one.encode('utf-8', 'replace')).decode()}?=" for one in words)
