"""A mail as the bytes that go over the wire: RFC 5322, MIME, CRLF, lines of at most 76 bytes in a body.

Written by hand because `email.message` makes 375 messages a second. Lines are encoded one by one and kept: most lines
of a campaign are the same for all recipients."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parseaddr

import msgspec
from email_validator import EmailNotValidError, validate_email

from tocsin.providers.contract import Mail, Pieces

KEPT_CHARACTERS = 1000  # of a line that is kept encoded; 4,096 are
_LINE = 76  # bytes of a header's line before it is folded
_LONGEST = 900  # letters that may stand without a blank: a line has 998 bytes at most (RFC 5322 2.1.1)
_WORD = 42  # bytes of UTF-8 in one encoded word, which may be 75 long (RFC 2047 2)
_BOUNCE = re.compile(r"[A-Za-z0-9_-]{0,64}")
_BLANKS = re.compile(rb"[ \t]+")

Encoded = tuple[bytes, bytes]  # as it is sent, and in DKIM's relaxed form (RFC 6376 3.4.4)
EncodedPieces = tuple[Sequence[bytes], Sequence[bytes]]  # the same of many pieces


class Letter(msgspec.Struct, frozen=True):
    """A mail in its parts. fields: header fields, each may be folded. relaxed: `body` in DKIM's relaxed form (RFC 6376
    3.4.4)."""

    fields: tuple[str, ...]
    body: bytes
    relaxed: bytes

    def join(self, first: str = "") -> bytes:
        """Return the whole mail; `first` is a field to stand before the others."""
        head = "\r\n".join((first, *self.fields) if first else self.fields)
        return b"%b\r\n\r\n%b" % (head.encode("ascii", "replace"), self.body)


def find_fault(message: Mail, sender: str) -> str:
    """Return why this mail must not be sent, or "". A line break in a header would let its value add headers."""
    named = [
        ("recipient", message.address.value),
        ("sender", sender),
        ("subject", message.subject),
        ("sender name", message.sender_name),
        ("reply-to", message.reply_to),
        ("campaign", message.campaign),
        ("id", message.id),
        ("unsubscribe URL", message.unsubscribe),
    ]
    if not "".join([text for _, text in named]).isprintable():  # the fast path
        for name, value in named:
            if any(sign in value for sign in "\r\n\0"):
                return f"a line break in the {name}"
    recipient = message.address.value
    if "@" not in recipient or any(sign in recipient for sign in "<> \t"):
        return "the recipient is not an address"
    if any(sign in message.unsubscribe for sign in "<> \t") or not message.unsubscribe.isascii():
        return "the unsubscribe URL is not a URL"
    if not message.reply_to.isascii() and (answers := parseaddr(message.reply_to)[1]) and not to_ascii(answers):
        return "the reply-to has other letters than ASCII before its @, which not every relay carries"
    if not _BOUNCE.fullmatch(message.bounce):
        return "the bounce id is not made of letters, digits, - and _"
    return "" if message.html or message.text else "the mail is empty"


@functools.lru_cache(maxsize=1024)
def to_ascii(address: str) -> str:
    """Return an address with its domain in ASCII (RFC 5890); "" for one whose local part is not, which would need
    SMTPUTF8 at every relay, and for what is no address."""
    if address.isascii():
        return address
    try:
        return validate_email(address, check_deliverability=False, test_environment=True).ascii_email or ""
    except EmailNotValidError:
        return ""


def write(message: Mail, sender: str, now: float) -> Letter:
    """Return one mail. sender: the From address. now: epoch seconds, for `Date`. The same `message` has the same
    `Message-ID` on every attempt, so a mailbox that got two can tell."""
    kind, (body, relaxed) = _write_body(message)
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
    relaxed = relaxed.rstrip(b"\r\n")
    return Letter(tuple(fields), body, relaxed + b"\r\n" if relaxed else b"")


def _write_body(message: Mail) -> tuple[str, Encoded]:
    """Return the Content-Type field, and the encoded body."""
    parts = [("plain", encode(message.text))] if message.text else []
    if message.html:
        parts.append(("html", encode(message.html) if message.pieces is None else encode_pieces(message.pieces)))
    if len(parts) == 1:
        kind, encoded = parts[0]
        return f'Content-Type: text/{kind}; charset="utf-8"', encoded
    # No quoted-printable line can hold «=_», so the boundary cannot occur in a part (RFC 2045 6.7).
    pieces: list[Encoded] = []
    for kind, encoded in parts:
        head = (
            f'--=_{message.id}\r\nContent-Type: text/{kind}; charset="utf-8"\r\n'
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        ).encode()
        pieces += ((head, head), encoded, (b"\r\n", b"\r\n"))  # the line end before a boundary belongs to it
    end = f"--=_{message.id}--\r\n".encode()
    pieces.append((end, end))
    body, relaxed = (b"".join(forms) for forms in zip(*pieces, strict=True))
    return f'Content-Type: multipart/alternative; boundary="=_{message.id}"', (body, relaxed)


@functools.lru_cache(maxsize=8)  # a body without templates is the same for all recipients
def encode(text: str) -> Encoded:
    """Return a text in quoted-printable, with CRLF and a line break at its end."""
    return _join(_encode_lines(_break(text).removesuffix("\n").split("\n")))


def encode_pieces(pieces: Pieces) -> Encoded:
    """Return HTML in quoted-printable as `encode` does, with a soft line break at each end of a piece: so the bytes of
    a frame are those of every mail."""
    wires, relaxed = _encode_fixed(pieces.frame) if pieces.fixed else _encode_frame(pieces.frame)
    fills, relaxed_fills = _encode_fills(pieces.fills)
    whole = [b""] * (2 * len(wires) - 1)
    whole[::2], whole[1::2] = wires, fills
    wire = b"".join(whole)
    if relaxed is wires and relaxed_fills is fills:
        return wire, wire
    whole[::2], whole[1::2] = relaxed, relaxed_fills
    return wire, b"".join(whole)


def _encode_frame(frame: tuple[str, ...]) -> EncodedPieces:
    """Return the lines of each piece of a frame; the last one ends with a line break."""
    last = _join(_encode_lines(_break(frame[-1]).removesuffix("\n").split("\n")))
    return _turn([*map(_encode_open, frame[:-1]), last])


_encode_fixed = functools.lru_cache(maxsize=8)(_encode_frame)


def _encode_fills(fills: Sequence[str]) -> EncodedPieces:
    """Return the lines of URLs. Most are short, and in quoted-printable what they are."""
    text = "".join(fills)
    plain = text.isascii() and text.isprintable() and "=" not in text and " " not in text
    if fills and plain and max(map(len, fills)) < _LINE:
        wires = ("=\r\n\0".join(fills) + "=\r\n").encode().split(b"\0")
        return wires, wires
    return _turn([*map(_encode_open, fills)])


def _turn(encoded: Sequence[Encoded]) -> EncodedPieces:
    """Return both forms of each piece; twice the same where they are."""
    wires = [wire for wire, _ in encoded]
    relaxed = [form for _, form in encoded]
    return wires, wires if relaxed == wires else relaxed


def _encode_open(text: str) -> Encoded:
    """Return the lines of a text that goes on, with a soft line break at its end."""
    return _encode_kept(text) if len(text) <= KEPT_CHARACTERS else _encode_kept.__wrapped__(text)


@functools.lru_cache(maxsize=1024)
def _encode_kept(text: str) -> Encoded:
    """The last line is encoded with a letter more, whose place the break takes."""
    *lines, last = _break(text).split("\n")
    encoded = _encode_lines(lines)
    if last:
        [(wire, relaxed)] = _encode_lines([f"{last}x"])
        encoded.append((wire[:-3] + b"=\r\n", relaxed[:-3] + b"=\r\n"))
    return _join(encoded)


def _encode_lines(lines: Sequence[str]) -> list[Encoded]:
    return [_encode_line(line) if len(line) <= KEPT_CHARACTERS else _encode_line.__wrapped__(line) for line in lines]


def _break(text: str) -> str:
    """Return a text with LF at the ends of its lines."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _join(lines: Sequence[Encoded]) -> Encoded:
    return b"".join([wire for wire, _ in lines]), b"".join([relaxed for _, relaxed in lines])


@functools.lru_cache(maxsize=4096)
def _encode_line(line: str) -> Encoded:
    """Return one line, with its soft line breaks (RFC 2045 6.7); a blank at its end is encoded."""
    wire = binascii.b2a_qp(line.encode("utf-8", "replace"), istext=True).replace(b"\n", b"\r\n") + b"\r\n"
    return wire, _BLANKS.sub(b" ", wire) if b"  " in wire or b"\t" in wire else wire


@functools.lru_cache(maxsize=4)
def _write_date(second: int) -> str:
    return f"Date: {format_datetime(datetime.fromtimestamp(second, UTC))}"


@functools.lru_cache(maxsize=256)
def _write_mailbox(name: str, display: str, address: str, otherwise: str = "") -> str:
    """Return a field with one mailbox: `display` is quoted or encoded, the address never is. otherwise: the field's
    text when there is no address."""
    if not address:
        return _write_field(name, otherwise)
    address = to_ascii(address)
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
        longest = max(map(len, value.split(" ")))
        if len(name) + len(value) < _LINE - 2 or len(value) == longest <= _LONGEST:
            return f"{name}: {value}"  # short; or a URL or an address, which must stay whole
        if longest <= _LONGEST and "  " not in value and value == value.strip():
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
    """Return `value` as base64 words (RFC 2047), none of which splits a character."""
    words, start, size = [], 0, 0
    for number, sign in enumerate(value):
        wide = len(sign.encode("utf-8", "replace"))
        if size + wide > _WORD:
            words.append(value[start:number])
            start, size = number, 0
        size += wide
    words.append(value[start:])
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(one.encode('utf-8', 'replace')).decode()}?=" for one in words)
