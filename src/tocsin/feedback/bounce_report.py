"""Parse a mail that came back: a delivery report (RFC 3464), a mail server's notice, a complaint (RFC 5965 and
Microsoft's older ones), or none of them. Pure.

Not with `email.parser`: anybody may send such a mail, and it limits neither depth, parts nor fields. 1 MB of semicolons
in a Content-Type, or of empty lines in a delivery status, keep it busy for more than 40 s. Here all three are limited,
and each step reads a byte once.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from tocsin.errors import Problem
from tocsin.feedback.bounce_notice import ADDRESS, ADDRESSES, Fields, is_notice, read_notice
from tocsin.providers.answer_table import clip
from tocsin.providers.mail.judgement import MILDEST, Judgement, judge, judge_words

LIMIT = 1024 * 1024  # bytes of a report; the delivery status stands before the original mail
DEPTH, PARTS, FIELDS, VALUE = 4, 32, 400, 2000  # levels of multipart, parts, fields of a header, bytes of a value
RECIPIENTS, IDS = 32, 16  # of one report

STATUS = {"message/delivery-status", "message/global-delivery-status"}  # RFC 3464, RFC 6533
FEEDBACK = {"message/feedback-report"}  # RFC 5965
ORIGINAL = {"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"}

# Fields that may hold our signed id: of the report's own header, of the delivery status, and of the original mail.
OUTER = ("to", "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "return-path")
NAMING = ("original-envelope-id", "original-mail-from")
INNER = ("return-path", "list-unsubscribe", "x-original-envelope-id")
JMRP = "x-hmxmroriginalrecipient"  # Microsoft's junk mail reports, in the mail they attach: a complaint like any other

HARMLESS = ("delayed", "delivered", "relayed", "expanded")  # RFC 3464 2.3.3; anything else is a failure
_ID = re.compile(r"(?<![\w-])(?:[A-Za-z0-9_-]{27}|[A-Za-z2-7]{32})(?![\w-])")
_TAG = re.compile(rb"<[a-zA-Z/!][^<>@]{0,500}>")
_BOUNDARY = re.compile(r'\bboundary\s*=\s*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)


class Recipient(msgspec.Struct, frozen=True):
    """The report about one address.

    action: failed, delayed, delivered, relayed or expanded, as sent. status: the code that decided, of RFC 3463 or a
    basic reply code, or "". diagnostic: the remote server's text, at most 300 characters. judgement: "" for the actions
    that are no failure.
    """

    address: str
    action: str
    status: str
    diagnostic: str
    judgement: Judgement


class Report(msgspec.Struct, frozen=True):
    """A mail that came back.

    kind: `other` is an automatic reply or a letter. ids: strings that may be our signed id, the most likely first.
    about: the recipients of the original mail, when the report has its header.
    """

    kind: Literal["bounce", "complaint", "other"]
    ids: tuple[str, ...] = ()
    recipients: tuple[Recipient, ...] = ()
    about: tuple[str, ...] = ()
    feedback: str = ""  # the Feedback-Type of a complaint: abuse, fraud, not-spam, …

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return every address in the report: the original recipients, then those it was forwarded to."""
        return tuple(dict.fromkeys((*self.about, *(one.address for one in self.recipients if one.address))))

    def worst(self, address: str) -> Recipient | None:
        """Return the most serious failure: of `address` when the report names it, else of any; None without one."""
        named = [one for one in self.recipients if one.address == address]
        failed = [one for one in named or self.recipients if one.judgement]
        return min(failed, key=lambda one: -MILDEST.index(one.judgement), default=None)


def read_report(raw: bytes) -> Report:
    """Read a message of RFC 5322, with the «From » line of a mailbox file or without.

    Raise Problem 413 when it is larger than LIMIT, and Problem 400 when it has no header fields; nothing else.
    """
    text = _read_lines(raw)
    outer = _read_fields(_split_header(text)[0])
    if not outer:
        raise Problem("The body is not a mail: it has no header fields")
    parts = list(_find_leaves(text, DEPTH, [PARTS]))
    groups = [group for kind, body in parts if kind in STATUS for group in _read_groups(body)]
    notes = [_read_fields(body) for kind, body in parts if kind in FEEDBACK]
    originals = [_read_fields(_split_header(body)[0]) for kind, body in parts if kind in ORIGINAL]
    ids = [*_pick([outer], OUTER), *_pick([*groups, *notes], NAMING), *_pick(originals, (*INNER, *OUTER))]
    about = tuple(one.lower() for value in _pick(originals, ("to",))[:ADDRESSES] for one in ADDRESS.findall(value))
    about = about[:ADDRESSES]
    if notes or (not groups and _pick(originals, (JMRP,))):
        feedback = next(iter(_pick(notes, ("feedback-type",))), "" if notes else "abuse")
        return Report("complaint", _find_ids(ids), about=about, feedback=_word(feedback))
    texts = [body for kind, body in parts if kind == "text/plain"]
    texts = texts or [_TAG.sub(b" ", body) for kind, body in parts if kind == "text/html"]
    failures = [group for group in groups if any(name in ("action", "final-recipient") for name, _ in group)]
    if failures:
        words = read_notice(outer, texts).words
        recipients = tuple(_read_recipient(group, words) for group in failures[:RECIPIENTS])
        return Report("bounce", _find_ids(ids), recipients, about)
    return _read_notice(outer, texts, ids, about) if groups or is_notice(outer) else Report("other")


def _read_lines(raw: bytes) -> bytes:
    if len(raw) > LIMIT:
        raise Problem(f"The mail is larger than {LIMIT} bytes", code=413, status=413)
    text = raw.replace(b"\r\n", b"\n") if b"\n" in raw else raw.replace(b"\r", b"\n")
    return text.partition(b"\n")[2] if text.startswith(b"From ") else text


def _read_notice(outer: Fields, texts: Sequence[bytes], ids: Sequence[str], about: tuple[str, ...]) -> Report:
    notice = read_notice(outer, texts)
    copy = _read_fields(notice.copy.encode())
    ids = [*ids, *_pick([copy], (*INNER, *OUTER))]
    quoted = [one.lower() for value in _pick([copy], ("to",)) for one in ADDRESS.findall(value)]
    about = tuple(dict.fromkeys((*about, *quoted, *notice.about)))[:ADDRESSES]
    judgement, code = judge("", notice.words)
    failure = Recipient("", "delayed" if notice.delayed else "failed", code, clip(notice.words), judgement)
    return Report("bounce", _find_ids(ids), (_spare(failure),), about)


def _spare(failure: Recipient) -> Recipient:
    return msgspec.structs.replace(failure, judgement="") if failure.action in HARMLESS else failure


def _read_recipient(group: Fields, text: str) -> Recipient:
    """Read a group of fields. text: of the report's part for people, which counts where the fields say too little."""
    values = dict(reversed(group))  # the first of a repeated field counts
    action = _word(values.get("action", "failed"))
    status, diagnostic = values.get("status", ""), values.get("diagnostic-code", "")
    judgement, code = judge(status, diagnostic)
    if judgement in ("soft", "refused") and code[3:] in ("", ".0") and code[:1] != "4" and not judge_words(diagnostic):
        judgement, code = judge(status, f"{diagnostic} {text}")
    named = values.get("original-recipient") or values.get("final-recipient", "")
    found = ADDRESS.search(named.partition(";")[2] or named)
    address = found[0].lower() if found else ""
    return _spare(Recipient(address, action, code, clip(diagnostic), judgement))


def _find_ids(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for value in values for one in _ID.findall(value)))[:IDS]


def _pick(several: Iterable[Fields], names: Sequence[str]) -> list[str]:
    """Return the values of these fields: header by header, and in each in the order of `names`."""
    return [value for fields in several for wanted in names for name, value in fields if name == wanted]


def _word(value: str) -> str:
    return (value.split() or [""])[0].lower()[:40]


def _find_leaves(text: bytes, depth: int, left: list[int]) -> Iterator[tuple[str, bytes]]:
    """Yield the parts that are no multipart as (media type, content). left: parts that may still be read."""
    head, body = _split_header(text)
    values = dict(reversed(_read_fields(head)))
    content_type = values.get("content-type", "text/plain")
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        yield kind, _decode(body, _word(values.get("content-transfer-encoding", "")))
        return
    boundary = _BOUNDARY.search(content_type)
    if boundary is None or not depth:
        return
    for part in _split_parts(body, (boundary[1] or boundary[2]).encode()):
        if not left[0]:
            return
        left[0] -= 1
        yield from _find_leaves(part, depth - 1, left)


def _split_parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield the parts between boundary lines; a truncated part reaches to the end."""
    start = -1
    for line in re.finditer(rb"^--" + re.escape(boundary) + rb"(--)?[ \t]*$", body, re.MULTILINE):
        if start >= 0:
            yield body[start : line.start()]
        start = line.end() + 1
        if line[1]:
            return
    if start >= 0:
        yield body[start:]


def _decode(body: bytes, encoding: str) -> bytes:
    try:
        if encoding == "base64":
            return binascii.a2b_base64(body).replace(b"\r\n", b"\n")
        return binascii.a2b_qp(body).replace(b"\r\n", b"\n") if encoding == "quoted-printable" else body
    except binascii.Error:
        return b""


def _split_header(text: bytes) -> tuple[bytes, bytes]:
    """Return header and body. A part without a header begins with the empty line."""
    if text.startswith(b"\n"):
        return b"", text[1:]
    head, _, body = text.partition(b"\n\n")
    return head, body


def _read_groups(body: bytes) -> list[Fields]:
    """Return the groups of fields of a delivery status: one for the message, then one for each recipient."""
    blocks = re.split(rb"\n[ \t]*\n", body.strip(b"\n"), maxsplit=RECIPIENTS + 1)[: RECIPIENTS + 1]
    return [fields for block in blocks if (fields := _read_fields(block))]


def _read_fields(head: bytes) -> Fields:
    lines = re.sub(rb"\n[ \t]+", b" ", head).split(b"\n", FIELDS)[:FIELDS]
    fields: Fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and re.fullmatch(rb"[!-9;-~]{1,80}", name.rstrip()):
            fields.append((name.rstrip().decode("ascii").lower(), value[:VALUE].decode("utf-8", "replace").strip()))
    return fields
