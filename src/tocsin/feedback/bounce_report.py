"""Parse a mail that came back: a delivery report (RFC 3464), a complaint (RFC 5965), or neither. Pure.

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
from tocsin.providers.answer_table import clip

LIMIT = 1024 * 1024  # bytes of a report; the delivery status stands before the original mail
DEPTH, PARTS, FIELDS, VALUE = 4, 32, 400, 2000  # levels of multipart, parts, fields of a header, bytes of a value
RECIPIENTS, IDS, ADDRESSES = 32, 16, 16  # of one report

Judgement = Literal["hard", "soft", "refused", ""]
Fields = list[tuple[str, str]]  # (name in lower case, unfolded value)

STATUS = {"message/delivery-status", "message/global-delivery-status"}  # RFC 3464, RFC 6533
FEEDBACK = {"message/feedback-report"}  # RFC 5965
ORIGINAL = {"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"}

# Fields that may hold our signed id: of the report's own header, of the delivery status, and of the original mail.
OUTER = ("to", "delivered-to", "x-original-to", "envelope-to")
NAMING = ("original-envelope-id", "original-mail-from")
INNER = ("return-path", "list-unsubscribe", "x-original-envelope-id")

# RFC 3463. Codes not listed are judged by their class and subject.
EXACT: dict[str, Judgement] = {
    "5.1.1": "hard",  # no such mailbox
    "5.1.2": "hard",  # no such domain
    "5.1.10": "hard",  # the domain takes no mail (RFC 7505)
    "5.2.1": "hard",  # the mailbox is closed
    "5.2.2": "soft",  # full
    "5.1.7": "refused",  # the syntax of the sender's address
    "5.1.8": "refused",  # the domain of the sender's address
    "5.2.3": "refused",  # the message is too long for this mailbox
}
OUR_FAULT = ("3", "5", "6", "7")  # subjects: system, protocol, content, policy; not the address
POLICY = re.compile(r"spam|block(?:ed|list)|blacklist|reputation|dmarc|\bspf\b|dkim|policy", re.IGNORECASE)
NO_MAILBOX = re.compile(
    r"(?:user|recipient|mailbox|account|address|alias)[\w<>@. '\"-]{0,80}"
    r"(?:unknown|(?:does not|doesn't) exist|not found)"
    r"|(?:unknown|invalid|no such|not a known) (?:user|recipient|mailbox|account|address|local)"
    r"|no mailbox here|not our customer",
    re.IGNORECASE,
)

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)", re.ASCII)
_BASIC = re.compile(r"(?<![\d.])([45])\d\d(?![\d.])", re.ASCII)
_ID = re.compile(r"(?<![\w-])[A-Za-z0-9_-]{27}(?![\w-])")
_ADDRESS = re.compile(r"[^\s<>,;:\"()@]{1,64}@[^\s<>,;:\"()@]{1,255}")
_BOUNDARY = re.compile(r'\bboundary\s*=\s*(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)


class Recipient(msgspec.Struct, frozen=True):
    """The report about one address.

    action: failed, delayed, delivered, relayed or expanded, as sent. status: the code that decided, of RFC 3463 or a
    basic reply code, or "". diagnostic: the remote server's text, at most 300 characters. judgement: "" for any action
    other than failed.
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
        return min(failed, key=lambda one: ("hard", "soft", "refused").index(one.judgement), default=None)


def read_report(raw: bytes) -> Report:
    """Read a message of RFC 5322, with the «From » line of a mailbox file or without.

    Raise Problem 413 when it is larger than LIMIT, and Problem 400 when it has no header fields; nothing else.
    """
    if len(raw) > LIMIT:
        raise Problem(f"The mail is larger than {LIMIT} bytes", code=413, status=413)
    text = raw.replace(b"\r\n", b"\n")
    if text.startswith(b"From "):
        text = text.partition(b"\n")[2]
    outer = _read_fields(_split_header(text)[0])
    if not outer:
        raise Problem("The body is not a mail: it has no header fields")
    parts = list(_find_leaves(text, DEPTH, [PARTS]))
    groups = [group for kind, body in parts if kind in STATUS for group in _read_groups(body)]
    notes = [_read_fields(body) for kind, body in parts if kind in FEEDBACK]
    originals = [_read_fields(_split_header(body)[0]) for kind, body in parts if kind in ORIGINAL]
    if not groups and not notes:
        return Report("other")
    ids = _find_ids(
        [*_pick([outer], OUTER), *_pick([*groups, *notes], NAMING), *_pick(originals, (*INNER, *OUTER))],
    )
    about = [one.lower() for value in _pick(originals, ("to",))[:ADDRESSES] for one in _ADDRESS.findall(value)]
    if notes:
        feedback = next(iter(_pick(notes, ("feedback-type",))), "")
        return Report("complaint", ids, about=tuple(about[:ADDRESSES]), feedback=_word(feedback))
    recipients = [_read_recipient(group) for group in groups if any(name == "action" for name, _ in group)]
    return Report("bounce", ids, tuple(recipients[:RECIPIENTS]), tuple(about[:ADDRESSES]))


def judge(status: str, diagnostic: str) -> tuple[Judgement, str]:
    """Return the severity of a failure and the code that decided it.

    `hard`: the address does not exist. `soft`: it may work later. `refused`: the mail or its sender is at fault, and
    the address may be valid. Of `status` and the codes in `diagnostic` the first with a detail counts: many reports
    have status 5.0.0 and quote a 5.1.1. "" for a code of success.
    """
    code = _find_exact(_ENHANCED.findall(f"{status} {diagnostic}"))
    if code is None:
        basic = _BASIC.search(diagnostic)
        return _judge_words(diagnostic) if basic is None or basic[1] == "5" else "soft", basic[0] if basic else ""
    name = ".".join(code)
    if name in EXACT:
        return EXACT[name], name
    if code[0] != "5":
        return "soft" if code[0] == "4" else "", name
    if code[1] == "7" or code[2] != "0":
        return "refused" if code[1] in OUR_FAULT else "soft", name
    judged = _judge_words(diagnostic)
    return "refused" if judged == "soft" and code[1] in OUR_FAULT else judged, name


def _judge_words(diagnostic: str) -> Judgement:
    """Return the severity by the words of a permanent failure. Words of policy count first: a server that blocks a
    sender may also write «user unknown»."""
    if POLICY.search(diagnostic):
        return "refused"
    return "hard" if NO_MAILBOX.search(diagnostic) else "soft"


def _find_exact(codes: Sequence[tuple[str, str, str]]) -> tuple[str, str, str] | None:
    """Return the first code with a detail other than 0, else the first, else None."""
    plain = [(one[0], str(int(one[1])), str(int(one[2]))) for one in codes]
    return next((one for one in plain if one[2] != "0"), plain[0] if plain else None)


def _read_recipient(group: Fields) -> Recipient:
    values = dict(reversed(group))  # the first of a repeated field counts
    action = _word(values.get("action", ""))
    diagnostic = clip("".join(sign if sign.isprintable() else " " for sign in values.get("diagnostic-code", "")))
    judgement, code = judge(values.get("status", ""), diagnostic)
    named = values.get("original-recipient") or values.get("final-recipient", "")
    found = _ADDRESS.search(named.partition(";")[2] or named)
    address = found[0].lower() if found else ""
    return Recipient(address, action, code, diagnostic, judgement if action == "failed" else "")


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
