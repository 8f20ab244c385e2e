"""What a mail that came back says: a delivery report (RFC 3464), a complaint (RFC 5965), or neither. Pure.

Read by hand and not with `email.parser`, which has no limits, and anybody may send such a mail: here depth, parts and
fields have some, and a step reads every byte once.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from tocsin.errors import Problem
from tocsin.providers.answer_table import clip

LIMIT = 1024 * 1024  # bytes of a report; the part that matters comes before the mail it is about
DEPTH, PARTS, FIELDS, VALUE = 4, 32, 400, 2000  # of nesting; parts, fields of a header, bytes of a field
RECIPIENTS, IDS, ADDRESSES = 32, 16, 16  # of one report

Judgement = Literal["hard", "soft", "refused", ""]
Fields = list[tuple[str, str]]  # (name in lower case, unfolded value)

STATUS = {"message/delivery-status", "message/global-delivery-status"}  # RFC 3464, RFC 6533
FEEDBACK = {"message/feedback-report"}  # RFC 5965
ORIGINAL = {"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"}

# Where our signed id may stand: where the report was sent to, what the report calls the mail, and the mail itself.
OUTER = ("to", "delivered-to", "x-original-to", "envelope-to")
NAMING = ("original-envelope-id", "original-mail-from")
INNER = ("return-path", "list-unsubscribe", "x-original-envelope-id")

# RFC 3463. What is not here is judged by its class and subject.
EXACT: dict[str, Judgement] = {
    "5.1.1": "hard",  # no such mailbox
    "5.1.2": "hard",  # no such domain
    "5.1.10": "hard",  # the domain takes no mail (RFC 7505)
    "5.2.1": "hard",  # the mailbox is closed
    "5.2.2": "soft",  # full: somebody may empty it
    "5.1.7": "refused",  # our own address, in its form
    "5.1.8": "refused",  # our own address, its domain
    "5.2.3": "refused",  # too long for this mailbox
}
OUR_FAULT = ("3", "5", "6", "7")  # subjects: the system, the protocol, the content, policy; never the address
POLICY = re.compile(r"spam|block(?:ed|list)|blacklist|reputation|dmarc|\bspf\b|dkim|policy", re.IGNORECASE)
NOBODY = re.compile(
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
    """What a report says of one address. action: failed, delayed, delivered, relayed or expanded. status: of RFC 3463,
    with three numbers, or "". diagnostic: the other server's words, at most 300 characters. judgement: "" for whatever
    did not fail for good."""

    address: str
    action: str
    status: str
    diagnostic: str
    judgement: Judgement


class Report(msgspec.Struct, frozen=True):
    """A mail that came back. kind: `other` is an automatic reply or somebody's letter. ids: what may be our signed id,
    the likeliest first. about: the recipients of the mail it is about, where the report has its header."""

    kind: Literal["bounce", "complaint", "other"]
    ids: tuple[str, ...] = ()
    recipients: tuple[Recipient, ...] = ()
    about: tuple[str, ...] = ()
    feedback: str = ""  # the Feedback-Type of a complaint: abuse, fraud, not-spam, …

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address the report names: the mail's own, and where it was forwarded to."""
        return tuple(dict.fromkeys((*self.about, *(one.address for one in self.recipients if one.address))))

    def worst(self, address: str) -> Recipient | None:
        """What failed, the most serious first: of `address` when the report names it, else of anybody. None when
        nothing did."""
        named = [one for one in self.recipients if one.address == address]
        failed = [one for one in named or self.recipients if one.judgement]
        return min(failed, key=lambda one: ("hard", "soft", "refused").index(one.judgement), default=None)


def read_report(raw: bytes) -> Report:
    """Reads a message of RFC 5322, with the «From » line of a mailbox file or without. Raises nothing but Problem: for
    what is too large or is no mail."""
    if len(raw) > LIMIT:
        raise Problem(f"The mail is larger than {LIMIT} bytes", code=413, status=413)
    text = raw.replace(b"\r\n", b"\n")
    if text.startswith(b"From "):
        text = text.partition(b"\n")[2]
    outer = _read_fields(_split(text)[0])
    if not outer:
        raise Problem("The body is not a mail: it has no header fields")
    parts = list(_leaves(text, DEPTH, [PARTS]))
    groups = [group for kind, body in parts if kind in STATUS for group in _read_groups(body)]
    notes = [_read_fields(body) for kind, body in parts if kind in FEEDBACK]
    originals = [_read_fields(_split(body)[0]) for kind, body in parts if kind in ORIGINAL]
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
    """How bad a failure is, and the code that says so. `hard`: the address is dead. `soft`: it may come back to life.
    `refused`: the mail or its sender is at fault, and the address may be fine. Of the report's status and the code in
    the server's own words the more exact one counts: many reports say 5.0.0 and quote a 5.1.1."""
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
    """A code that only says «failed for good». A server that blocks us is believed before one that knows nobody: the
    same words stand in both."""
    if POLICY.search(diagnostic):
        return "refused"
    return "hard" if NOBODY.search(diagnostic) else "soft"


def _find_exact(codes: Sequence[tuple[str, str, str]]) -> tuple[str, str, str] | None:
    """The first code with a detail, else the first."""
    plain = [(one[0], str(int(one[1])), str(int(one[2]))) for one in codes]
    return next((one for one in plain if one[2] != "0"), plain[0] if plain else None)


def _read_recipient(group: Fields) -> Recipient:
    values = dict(reversed(group))  # of a field that is there twice the first counts
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
    """The values of these fields, in the order of `names`."""
    return [value for fields in several for wanted in names for name, value in fields if name == wanted]


def _word(value: str) -> str:
    return (value.split() or [""])[0].lower()[:40]


def _leaves(text: bytes, depth: int, left: list[int]) -> Iterator[tuple[str, bytes]]:
    """The parts that hold no others, as (media type, content). left: how many more may be read."""
    head, body = _split(text)
    values = dict(reversed(_read_fields(head)))
    content_type = values.get("content-type", "text/plain")
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        yield kind, _decode(body, _word(values.get("content-transfer-encoding", "")))
        return
    boundary = _BOUNDARY.search(content_type)
    if boundary is None or not depth:
        return
    for part in _cut(body, (boundary[1] or boundary[2]).encode()):
        if not left[0]:
            return
        left[0] -= 1
        yield from _leaves(part, depth - 1, left)


def _cut(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """What stands between the lines of a boundary; a part that was cut off goes to the end."""
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


def _split(text: bytes) -> tuple[bytes, bytes]:
    """Header and body. A part may begin with the empty line that ends a header of nothing."""
    if text.startswith(b"\n"):
        return b"", text[1:]
    head, _, body = text.partition(b"\n\n")
    return head, body


def _read_groups(body: bytes) -> list[Fields]:
    """The groups of fields of a delivery status: one for the message, then one for each recipient."""
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
