"""Mails that came back: what a report says, whom it may be believed about, and what follows."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH, Caller, Sandbox, Server, people
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.bounces import SECRET, Post, mail_all
from support.commands import run_bytes

from tocsin.delivery.push_id import read_push_id, sign_push_id
from tocsin.errors import Problem
from tocsin.feedback.bounce_report import LIMIT, Report, read_report
from tocsin.feedback.suppression import SOFT_DAYS
from tocsin.outcome import Outcome
from tocsin.providers.mail.judgement import READ, judge
from tocsin.providers.smtp import receipt
from tocsin.providers.transport import VendorAnswer
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

DAY = 86_400.0
PUSH_ID = sign_push_id(SECRET, 7, 3, "bounce")
MAIL = {"Content-Type": "message/rfc822"}


def dsn(
    push_id: str = PUSH_ID,
    *,
    to: str = "bounces+{id}@example.com",
    action: str = "failed",
    status: str = "5.1.1",
    diagnostic: str = "smtp; 550 5.1.1 There is no such mailbox",
    recipient: str = "u@example.com",
    original: str = "",
    envelope: str = "",
    more: str = "",
) -> bytes:
    """A delivery report as Postfix writes it."""
    lines = [
        *("Return-Path: <>", "From: MAILER-DAEMON@mx.example.net", f"To: {to.format(id=push_id)}"),
        *("Subject: Undelivered Mail", "MIME-Version: 1.0", "Content-Type: multipart/report;"),
        *("\treport-type=delivery-status;", '\tboundary="4XyZ.17/mx"', "", "This is a MIME message.", ""),
        *("--4XyZ.17/mx", "Content-Type: text/plain", "", "I am sorry to have to tell you.", ""),
        *("--4XyZ.17/mx", "Content-Type: message/delivery-status", "", "Reporting-MTA: dns; mx.example.net"),
        *([f"Original-Envelope-Id: {envelope}"] if envelope else []),
        *("", f"Final-Recipient: rfc822; {recipient}", f"Action: {action}", f"Status: {status}"),
        *(f"Diagnostic-Code: {diagnostic}", *more.splitlines(), ""),
        *("--4XyZ.17/mx", "Content-Type: message/rfc822", "", original or "Subject: Hello", "", "the mail"),
        *("--4XyZ.17/mx--", ""),
    ]
    return "\r\n".join(lines).encode()


def arf(push_id: str, feedback: str = "abuse") -> bytes:
    """A complaint as a mailbox provider's loop sends it: to an address of ours without an id."""
    lines = [
        *("From: <feedback@isp.example>", "To: <abuse@example.com>", "Subject: FW: Hello", "MIME-Version: 1.0"),
        'Content-Type: multipart/report; report-type=feedback-report; boundary="part"',
        *("", "--part", "Content-Type: text/plain", "", "A complaint.", ""),
        *("--part", "Content-Type: message/feedback-report", "", f"Feedback-Type: {feedback}", "Version: 1"),
        *("User-Agent: Loop/1.0", "Original-Rcpt-To: <redacted>", ""),
        *("--part", "Content-Type: message/rfc822", "", f"Return-Path: <bounces+{push_id}@example.com>"),
        *(f"List-Unsubscribe: <https://mail.example.com/u/{push_id}>", "Subject: Hello", "", "text", "--part--", ""),
    ]
    return "\r\n".join(lines).encode()


VACATION = b"From: u@example.com\r\nTo: bounces+x@example.com\r\nAuto-Submitted: auto-replied\r\n\r\nAway until May."


@pytest.mark.parametrize(
    ("status", "diagnostic", "judgement", "code"),
    [
        ("5.1.1", "smtp; 550 5.1.1 <u@example.com>: user unknown", "hard", "5.1.1"),
        ("5.1.2", "", "hard", "5.1.2"),
        ("5.1.10", "smtp; 556 5.1.10 null MX", "hard", "5.1.10"),
        ("5.2.1", "smtp; 550 5.2.1 The account is disabled", "hard", "5.2.1"),
        ("5.01.001", "", "hard", "5.1.1"),
        ("5.1.1 (bad destination)", "", "hard", "5.1.1"),
        ("5.0.0", "smtp; 550 5.1.1 nobody", "hard", "5.1.1"),
        ("5.0.0", "smtp; 550 User unknown", "hard", "5.0.0"),
        ("5.5.0", "smtp; 550 5.5.0 Unknown user: u", "hard", "5.5.0"),
        ("", "smtp; 550 <u@example.com>: Recipient address rejected: User unknown in table", "hard", "550"),
        ("", "No such user here", "hard", ""),
        ("5.2.2", "smtp; 552 5.2.2 Over quota", "soft", "5.2.2"),
        ("5.0.0", "smtp; 552 5.2.2 Over quota", "soft", "5.2.2"),
        ("4.2.2", "smtp; 452 4.2.2 full", "soft", "4.2.2"),
        ("4.4.7", "", "soft", "4.4.7"),
        ("", "smtp; 451 try later", "soft", "451"),
        ("5.4.4", "", "soft", "5.4.4"),
        ("5.1.3", "", "soft", "5.1.3"),
        ("5.0.0", "smtp; 550 mailbox unavailable", "soft", "5.0.0"),
        ("", "", "soft", ""),
        ("5.7.1", "smtp; 550 5.7.1 user unknown to our policy", "refused", "5.7.1"),
        ("5.7.26", "", "refused", "5.7.26"),
        ("5.0.0", "smtp; 550 5.7.1 blocked", "refused", "5.7.1"),
        ("5.0.0", "smtp; 554 Rejected as spam; or user unknown", "refused", "5.0.0"),
        ("5.3.4", "smtp; 552 5.3.4 too big", "refused", "5.3.4"),
        ("5.1.8", "smtp; 553 5.1.8 sender's domain unknown", "refused", "5.1.8"),
        ("5.5.0", "smtp; 550 5.5.0 bad command", "refused", "5.5.0"),
        ("5.6.0", "", "refused", "5.6.0"),
        ("2.0.0", "smtp; 250 fine", "", "2.0.0"),
        ("5.0.0", "smtp; 550 from 5.1.1.2: go away", "soft", "5.0.0"),
        # Words of policy, rate and quota go before a code, and of two codes the milder counts.
        ("5.2.1", "smtp; 550 5.2.1 The mailbox gets mail at a rate that is too high", "soft", "5.2.1"),
        ("5.2.1", "smtp; 550 5.2.1 mailbox temporarily disabled", "soft", "5.2.1"),
        ("5.1.1", "smtp; 552 5.2.2 no more room", "soft", "5.2.2"),
        ("5.1.1", "smtp; 550 5.1.1 account is over its limit", "soft", "5.1.1"),
        ("5.1.1", "smtp; 451 4.2.1 busy", "soft", "4.2.1"),
        ("5.1.1", "smtp; 450 user unknown", "soft", "450"),
        ("5.1.1", "smtp; 550 5.7.1 no", "refused", "5.7.1"),
        ("5.1.1", "smtp; 550 5.1.1 refused by our block list", "refused", "5.1.1"),
        # About us, whatever the class.
        ("4.7.0", "smtp; 421 4.7.0 slow down", "refused", "4.7.0"),
        ("4.7.650", "", "refused", "4.7.650"),
        ("", "smtp; 421 too many complaints about you", "refused", "421"),
        ("5.1.0", "smtp; 550 5.1.0 <news@example.com> sender rejected", "refused", "5.1.0"),
        ("", "550 relaying denied", "refused", "550"),
        ("", "550 your account was closed", "refused", "550"),
        ("5.0.0", "Domain e.example has exceeded the max emails per hour (51/50 (102%)) allowed.", "refused", "5.0.0"),
        ("5.0.0", "has exceeded the max defers and failures per hour (5/5 (100%)) allowed", "refused", "5.0.0"),
        ("5.2.2", "smtp; 552 5.2.2 mailbox is over its daily quota", "soft", "5.2.2"),
        # Machines between us and the mailbox.
        ("5.4.4", "smtp; connection timed out", "soft", "5.4.4"),
        (
            "5.0.0",
            "smtp; 550 the connection to the recipient's server was closed: network unreachable",
            "soft",
            "5.0.0",
        ),
        ("4.4.3", "Host or domain name not found, try again", "soft", "4.4.3"),
        ("5.4.4", "Host or domain name not found", "hard", "5.4.4"),
        ("", "all exchangers point to non-existent hosts", "hard", ""),
        # Dead, in other words.
        ("5.0.0", "smtp; 554 dd This user doesn't have an example.com account (u@example.com) [0]", "hard", "5.0.0"),
        ("5.0.0", "X-Notes; User u (u@example.com) not listed in the address book", "hard", "5.0.0"),
        ("", "552 1 aborted, mailbox not found", "hard", "552"),
        ("", "This account has been disabled or discontinued", "hard", ""),
        ("5.1.1", "smtp; 550 5.1.1 <spam@block.example.com> see https://example.com/policy", "hard", "5.1.1"),
        # Exchange Online says so of a mailbox that does not exist, and Postfix of a rule.
        (
            "5.4.1",
            "smtp;550 5.4.1 [u@example.com]: Recipient address rejected: Access denied [AM7EUR02]",
            "soft",
            "5.4.1",
        ),
        ("5.0.0", "smtp; 550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", "soft", "5.4.1"),
        ("5.7.1", "smtp; 554 5.7.1 <u@example.com>: Recipient address rejected: Access denied", "refused", "5.7.1"),
        ("5.4.1", "smtp; 550 5.4.1 Relay Access Denied", "refused", "5.4.1"),
        # Doubt.
        ("5.5.0", "smtp; 550 Requested action not taken: mailbox unavailable", "soft", "5.5.0"),
        ("5.0.0", "smtp; 550 the recipient's server said: unknown error", "soft", "5.0.0"),
    ],
)
def test_how_bad_a_failure_is(status: str, diagnostic: str, judgement: str, code: str) -> None:
    """Words of us, of later and of the network go before «dead», the milder of two codes before the other; doubt is
    soft."""
    assert judge(status, diagnostic) == (judgement, code)


@pytest.mark.parametrize("code", ["", " 5.1.1", " 5.2.1", " 5.2.2", " 5.7.1", " 5.5.0", " 5.0.0", " 5.1.0"])
@pytest.mark.parametrize(
    "words", ["No such user here", "over quota", "blocked by policy", "sender rejected", "go away"]
)
def test_relay_and_report_are_judged_alike(code: str, words: str) -> None:
    """An address is dead by the relay's own answer exactly when it is by a report that quotes it."""
    line = f"550{code} {words}"
    answer = receipt(VendorAnswer(status=550, replies=(line,), step="RCPT"))
    assert (answer.outcome is Outcome.GONE) == (judge(code.strip(), f"smtp; {line}")[0] == "hard")
    assert answer.outcome in (Outcome.GONE, Outcome.REFUSED)


@given(
    st.lists(
        st.sampled_from(["user ", "no ", "not ", "mailbox ", "is ", "5.1.1 ", "a@b", "x.", "-", "\n"]), max_size=900
    )
)
def test_judging_ends(words: list[str]) -> None:
    """Any words are one of the four, and none takes long."""
    before = time.process_time()
    assert judge("", "".join(words * 5))[0] in ("hard", "soft", "refused", "")
    assert time.process_time() - before < 2
    assert READ < 10_000


def notice(
    words: str, *, sender: str = "MAILER-DAEMON@mx.example.org", to: str = "bounces+{id}@example.com", more: str = ""
) -> bytes:
    """A mail server's own words, without a report."""
    head = f"From: {sender}\n{more}To: {to.format(id=PUSH_ID)}\nSubject: failure notice\n"
    return f"{head}\n{words}\n".encode()


QMAIL = """Hi. This is the qmail-send program at mx.example.org.
This is a permanent error; I've given up.

<U@example.com>:
{said}

--- Below this line is a copy of the message.

Return-Path: <bounces+{id}@example.com>
Subject: no such user, and over quota
To: u@example.com
"""


@pytest.mark.parametrize(
    ("said", "judgement", "code"),
    [
        ("Remote host said: 550 5.1.1 user unknown", "hard", "5.1.1"),
        ("Sorry, no mailbox here by that name. (#5.1.1)", "hard", "5.1.1"),
        ("User's mailbox is full", "soft", ""),
        ("550 5.7.1 blocked", "refused", "5.7.1"),
        ("It did not work.", "soft", ""),
        ("It has not yet been delivered; I will keep trying.", None, ""),
    ],
)
def test_a_notice_without_a_report(said: str, judgement: str | None, code: str) -> None:
    """Its words are judged, those of the mail it quotes are not; the id and the address are found in either."""
    report = read_report(notice(QMAIL.format(said=said, id=PUSH_ID), to="nobody@example.com"))
    assert (report.kind, report.ids, report.addresses) == ("bounce", (PUSH_ID,), ("u@example.com",))
    found = report.worst("u@example.com")
    assert (found and found.judgement, report.recipients[0].status) == (judgement, code)


@pytest.mark.parametrize(
    "raw",
    [
        notice("user unknown", more="X-Failed-Recipients: u@example.com\n", sender="relay@example.org"),
        notice("The following address failed: u@example.com\n550 user unknown", sender="Mail Delivery System <>"),
        notice("user unknown", sender="admin@example.org", to="x@example.com\nReturn-Path: <bounces+{id}@example.com>"),
        notice("<p>u@example.com: <b>user</b> unknown</p>", more="Content-Type: text/html\n"),
        dsn(status="5.0.0", diagnostic="").replace(b"I am sorry to have to tell you.", b"u@example.com: no such user"),
    ],
    ids=["exim", "no sender", "subject", "html", "report that says it to people only"],
)
def test_other_notices(raw: bytes) -> None:
    report = read_report(raw)
    found = report.worst("u@example.com")
    assert (report.kind, report.ids, found and found.judgement) == ("bounce", (PUSH_ID,), "hard")


@pytest.mark.parametrize(
    "raw",
    [
        notice("I am away; the user is unknown here", sender="u@example.com", more="Auto-Submitted: auto-replied\n"),
        notice("no such user", sender="u@example.com", more="X-Autoreply: yes\n"),
        notice("no such user", sender="u@example.com").replace(b"failure notice", b"Re: failure notice"),
        notice("no such user", sender="u@example.com").replace(b"failure notice", b"hello"),
    ],
)
def test_letters_are_no_notices(raw: bytes) -> None:
    assert read_report(raw) == Report("other")


def test_an_older_complaint() -> None:
    """Microsoft's junk mail reports attach the mail with a field of their own: complaints like any other."""
    mail = (
        f"X-HmXmrOriginalRecipient: u@example.com\nReturn-Path: <bounces+{PUSH_ID}@example.com>\nTo: u@example.com\n\nx"
    )
    head = "From: staff@mailbox.example\nTo: abuse@example.com\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
    report = read_report(f"{head}Content-Type: message/rfc822\n\n{mail}\n--b--\n".encode())
    assert (report.kind, report.feedback, report.ids) == ("complaint", "abuse", (PUSH_ID,))


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
async def test_an_id_survives_small_letters(post: Post, spell: Any) -> None:
    """Mail servers change capitals on the way; ids of before, which needed theirs, are still read."""
    await post.move_in("u", "u@example.com")
    [mail] = post.mail(1)
    assert await post.take(dsn(spell(mail))) == ("hard", True)
    chunk, position = read_push_id(SECRET, mail, "unsubscribe")
    raw = struct.pack(">QH", chunk, position)
    signed = raw + hashlib.blake2b(raw, digest_size=10, key=SECRET, person=b"bounce").digest()
    assert await post.take(dsn(base64.urlsafe_b64encode(signed).decode().rstrip("="))) == ("hard", True)


@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed", "expanded", "Delayed (retrying)"])
def test_what_is_no_failure(action: str) -> None:
    """The actions that RFC 3464 has beside `failed` leave the address in peace, whatever the status."""
    report = read_report(dsn(action=action))
    assert (report.kind, report.worst("u@example.com")) == ("bounce", None)


@pytest.mark.parametrize("action", ["failed", "error", "FAILURE", ""])
def test_other_words_for_failed(action: str) -> None:
    """Some write another word for it, or none."""
    found = read_report(dsn(action=action)).worst("u@example.com")
    assert found is not None
    assert found.judgement == "hard"


def test_a_report_is_read() -> None:
    """Everything a report says, with each of the line ends and after a mailbox file's first line."""
    original = "To: Ann <u@example.com>\r\nX-Other: 1"
    raw = dsn(action="Failed (timeout)", recipient="<Forward@Else.example>", original=original)
    for one in (
        raw,
        raw.replace(b"\r\n", b"\n"),
        raw.replace(b"\r\n", b"\r"),
        b"From MAILER-DAEMON Mon May  4\n" + raw,
    ):
        report = read_report(one)
        assert (report.kind, report.ids, report.about) == ("bounce", (PUSH_ID,), ("u@example.com",))
        assert report.addresses == ("u@example.com", "forward@else.example")
        [found] = report.recipients
        assert (found.address, found.action, found.status, found.judgement) == (
            *("forward@else.example", "failed", "5.1.1"),
            "hard",
        )
        assert found.diagnostic == "smtp; 550 5.1.1 There is no such mailbox"


@pytest.mark.parametrize(
    "raw",
    [
        dsn(),
        dsn(to="nobody@example.com\r\nDelivered-To: bounces+{id}@example.com"),
        dsn(to="nobody@example.com\r\nX-Original-To: <bounces+{id}@example.com>"),
        dsn(to="nobody@example.com\r\nEnvelope-To: bounces+{id}@example.com"),
        dsn(to="nobody@example.com", envelope=PUSH_ID),
        dsn(to="nobody@example.com", original=f"Return-Path: <bounces+{PUSH_ID}@example.com>"),
        dsn(to="nobody@example.com", original=f"List-Unsubscribe: <https://m.example.com/u/{PUSH_ID}>"),
        dsn(
            to="nobody@example.com", original=f"List-Unsubscribe:\r\n <https://m.example.com/u/{PUSH_ID}>, <mailto:x@y>"
        ),
        arf(PUSH_ID),
    ],
    ids=["to", "delivered", "original", "envelope", "envid", "return path", "link", "folded", "complaint"],
)
def test_where_the_id_may_stand(raw: bytes) -> None:
    assert PUSH_ID in read_report(raw).ids


def test_diagnostics_are_bounded() -> None:
    """300 characters on one line without control characters."""
    [found] = read_report(dsn(diagnostic="smtp; \x00\x07\x1f" + "é " * 900)).recipients
    assert (len(found.diagnostic), found.diagnostic.isprintable()) == (300, True)


def test_several_recipients() -> None:
    """Of several the one that was meant counts; of others the most serious."""
    more = "\r\nFinal-Recipient: rfc822; v@example.com\r\nAction: failed\r\nStatus: 5.2.2\r\n"
    more += "\r\nFinal-Recipient: rfc822; w@example.com\r\nAction: delivered\r\nStatus: 2.1.5"
    report = read_report(dsn(more=more, diagnostic=""))
    words = {name: found and found.judgement for name in "uvwx" for found in [report.worst(f"{name}@example.com")]}
    assert words == {"u": "hard", "v": "soft", "w": None, "x": "hard"}


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_encoded_parts(encoding: str) -> None:
    """RFC 3464 asks for 7 bits; some encode all the same."""
    import quopri

    status = (
        b"Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; u@example.com\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    )
    written = base64.encodebytes(status) if encoding == "base64" else quopri.encodestring(status)
    raw = (
        f"To: bounces+{PUSH_ID}@example.com\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\n"
        f"Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode()
    report = read_report(raw + written + b"\r\n--b--\r\n")
    assert [one.judgement for one in report.recipients] == ["hard"]


def test_a_report_inside_a_mail_that_was_forwarded() -> None:
    """A part of parts is read, a mail attached to a mail is not."""
    inner = dsn(to="x@example.com").replace(b"\r\n", b"\n")
    nested = b"To: bounces+%s@example.com\nContent-Type: multipart/mixed; boundary=o\n\n--o\n" % PUSH_ID.encode()
    assert read_report(nested + inner + b"\n--o--\n").kind == "bounce"
    attached = b"Content-Type: message/rfc822\n\n" + inner
    assert read_report(nested + attached + b"\n--o--\n").kind == "other"


def test_a_report_cut_short() -> None:
    """A mail server that keeps only the beginning keeps what matters; whatever is left never fails."""
    whole = dsn()
    kinds = {length: read_report(whole[:length]).kind for length in range(40, len(whole))}
    assert set(kinds.values()) == {"bounce"}, "a notice, before the report begins"
    assert read_report(whole[: whole.index(b"the mail")]).recipients[0].judgement == "hard"


PIECES = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"\n\n", b"--b\n", b"--b--\n", b" ", b"\t", b":", b";", b"=", b'"', b"\0", b"\xff"),
        *(b"Content-Type: multipart/report; boundary=b\n", b"Content-Type: multipart/mixed; boundary=b\n"),
        *(b"Content-Type: message/delivery-status\n", b"Content-Type: message/feedback-report\n"),
        *(b"Content-Type: message/rfc822\n", b"Content-Transfer-Encoding: base64\n", b"Feedback-Type:"),
        *(b"Action: failed\n", b"Status: 5.", b"Final-Recipient: ", b"Diagnostic-Code: ", b"To: ", b"From x\n"),
        *(b"5.1.1", "٣.٣.٣".encode(), b"999.999", PUSH_ID.encode()),
    ]
)


@settings(max_examples=300 if THOROUGH else 60, deadline=None)
@given(
    st.one_of(st.binary(max_size=400), st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=60).map(b"".join))
)
@example(b"")
@example(b"\n\n")
def test_any_bytes_are_a_report_or_a_problem(raw: bytes) -> None:
    """Nothing anybody sends raises anything but Problem, and everything read is bounded."""
    for one in (raw, b"To: x\n" + raw, b"Content-Type: multipart/report; boundary=b\n\n--b\n" + raw):
        try:
            report = read_report(one)
        except Problem:
            continue
        assert len(report.ids) <= 16
        assert all(len(found.diagnostic) <= 300 and len(found.address) < 330 for found in report.recipients)


@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: multipart/report; boundary=b\n\n"
        + b"--b\nContent-Type: multipart/mixed; boundary=b\n\n" * 20_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(20_000)),
        b"To: " + b"a" * (LIMIT - 10),
        b"To: x\n" * (LIMIT // 6),
        b"To:" + b"\n " * (LIMIT // 2 - 10),
        dsn(diagnostic="user " * 200_000),
        dsn(diagnostic="5." * 400_000),
        dsn(more="\r\n\r\n".join(["Action: failed"] * 40_000)),
        dsn(original="To: " + "a" * 700_000),
        dsn(original="To: a\r\n" * 90_000),
        b"Content-Type: multipart/report; boundary=b\n\n" + b"--b" + b" " * 900_000,
        b'Content-Type: multipart/report; a="' + b";" * 1_000_000 + b"\n\n--b\n",
        b"Content-Type: multipart/mixed; boundary=b\n\n"
        + b"".join(b"--b\nContent-Type: multipart/mixed; boundary=%d\n\n--%d--\n" % (n, n) for n in range(15_000)),
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(200))
        + b"\n" * 1_000_000,
        b"Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n"
        + b"\n" * 1_000_000,
        b"From: mailer-daemon\n\n" + b"-" * 1_000_000,
        b"From: mailer-daemon\n\n" + (b"-" * 90 + b"cop\n") * 10_000,
        b"From: mailer-daemon\n\n" + b"user is not " * 80_000,
        b"Subject: " + b"deliver " * 100_000 + b"\n\nx",
        b"From: mailer-daemon\nContent-Type: text/html\n\n" + b"<a " * 300_000,
    ],
    ids=[
        *("nested, one boundary", "nested, many boundaries", "one value", "many fields", "one folded value"),
        *("words", "codes", "recipients", "original's value", "original's fields", "blank boundary line"),
        *("semicolons in quotes", "parts side by side", "nested, then lines", "empty groups"),
        *("one ruled line", "ruled lines", "words of a notice", "words of a subject", "tags"),
    ],
)
@pytest.mark.parametrize("cut", [LIMIT])
def test_hostile_mails_are_read_at_once(raw: bytes, cut: int) -> None:
    """A mail of the largest size is read in a moment, however it is made."""
    before = time.process_time()
    with contextlib.suppress(Problem):
        read_report(raw[:cut])
    assert time.process_time() - before < 2


def test_too_large_and_no_mail() -> None:
    with pytest.raises(Problem, match="larger") as large:
        read_report(b"To: x\n\n" + bytes(LIMIT))
    assert large.value.status == 413
    for raw in (b"", b"no mail", b"\r\n\r\nTo: x"):
        with pytest.raises(Problem, match="not a mail"):
            read_report(raw)
    assert read_report(VACATION) == Report("other")


@pytest.fixture
def post(store: Ledger, facts: Facts) -> Post:
    return Post(store, facts)


async def test_a_hard_bounce_ends_the_address(post: Post) -> None:
    """The address is suppressed at once, in the ledger and in facts, with one event, however often it is told."""
    await post.move_in("u", "U@Example.com")
    [mail] = post.mail(1)
    for _ in range(3):
        assert await post.take(dsn(mail)) == ("hard", True)
        post.now += DAY
    assert (post.dead("u@example.com"), await post.reach()) == ({"u@example.com"}, 2)
    assert await post.events("Mail Bounced") == [
        {
            **{"Campaign id": 9, "Variant": "default", "Channel": "email", "Platform": "email", "Tag group": ""},
            **{"Identity": "u@example.com", "Type": "hard", "Status": "5.1.1"},
            "Diagnostic": "smtp; 550 5.1.1 There is no such mailbox",
        }
    ]


async def test_three_soft_bounces(post: Post) -> None:
    """The third mail in 30 days that bounces softly ends the address; one mail that bounces thrice is one."""
    await post.move_in("u", "u@example.com")
    full = {"status": "5.2.2", "diagnostic": "smtp; 552 5.2.2 full"}
    first, second, third, fourth = (post.mail(1)[0] for _ in range(4))
    for _ in range(4):
        assert await post.take(dsn(first, **full)) == ("soft", False)
    post.now += (SOFT_DAYS - 1) * DAY
    assert await post.take(dsn(second, **full)) == ("soft", False)
    post.now += 2 * DAY
    assert await post.take(dsn(third, **full)) == ("soft", False), "the first was too long ago"
    assert (post.dead("u@example.com"), await post.reach()) == (set(), 1)
    assert await post.take(dsn(fourth, **full)) == ("soft", True)
    assert (post.dead("u@example.com"), await post.reach()) == ({"u@example.com"}, 2)
    assert [one["Type"] for one in await post.events("Mail Bounced")] == ["soft"] * 4


async def test_soft_bounces_of_an_earlier_address(post: Post) -> None:
    """A new address begins with nothing against it."""
    await post.move_in("u", "old@example.com")
    for mail in [post.mail(1)[0] for _ in range(2)]:
        await post.take(dsn(mail, status="5.2.2", recipient="old@example.com"))
    await post.move_in("u", "new@example.com")
    taken = await post.take(dsn(post.mail(1)[0], status="5.2.2", recipient="new@example.com"))
    assert (taken, post.dead("new@example.com")) == (("soft", False), set())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"status": "5.7.1", "diagnostic": "smtp; 550 5.7.1 policy"}, "refused"),
        ({"action": "delayed", "status": "4.4.1"}, "ignored"),
        ({"action": "delivered", "status": "2.0.0"}, "ignored"),
        ({"action": "relayed"}, "ignored"),
    ],
)
async def test_what_is_not_the_address_ends_nothing(post: Post, fields: dict[str, str], expected: str) -> None:
    """However often: a policy is recorded, a delay is not even that."""
    await post.move_in("u", "u@example.com")
    for mail in [post.mail(1)[0] for _ in range(4)]:
        assert await post.take(dsn(mail, **fields)) == (expected, False)
    assert (post.dead("u@example.com"), await post.reach()) == (set(), 1)
    assert len(await post.events("Mail Bounced")) == (4 if expected == "refused" else 0)


async def test_nobody_ends_somebody_elses_address(post: Post) -> None:
    """An id is permission for its own recipient: a report that names another address ends neither."""
    await post.move_in("u", "u@example.com")
    await post.move_in("victim", "victim@example.com")
    mail, _ = post.mail(1, 2)
    assert await post.take(dsn(mail, recipient="victim@example.com")) == ("hard", False)
    assert post.dead("u@example.com", "victim@example.com") == set()


async def test_an_address_that_was_changed_since(post: Post) -> None:
    """A report about the old address leaves the new one alone."""
    await post.move_in("u", "old@example.com")
    [mail] = post.mail(1)
    await post.move_in("u", "new@example.com")
    assert await post.take(dsn(mail, recipient="old@example.com")) == ("hard", False)
    assert post.dead("old@example.com", "new@example.com") == set()


async def test_a_mail_that_was_forwarded(post: Post) -> None:
    """The report names where it was forwarded to, the mail in it whom it was for; without addresses the id decides."""
    for user in (1, 2):
        await post.move_in(f"u{user}", f"u{user}@example.com")
    first, second = post.mail(1, 2)
    raw = dsn(first, recipient="elsewhere@example.net", original="To: u1@example.com")
    assert await post.take(raw) == ("hard", True)
    assert await post.take(dsn(second, recipient="")) == ("hard", True)


@pytest.mark.parametrize("feedback", ["abuse", "Abuse"])
async def test_a_complaint_unsubscribes(post: Post, feedback: str) -> None:
    """At once, with one event of each kind however often it comes; the address is not dead for it."""
    await post.move_in("u", "u@example.com")
    [mail] = post.mail(1)
    for _ in range(3):
        assert await post.take(arf(mail, feedback)) == ("complaint", True)
        post.now += 1
    assert (await post.reach(), post.dead("u@example.com")) == (2, set())
    [complained] = await post.events("Mail Complained")
    assert (complained["Campaign id"], complained["Identity"]) == (9, "u@example.com")
    [unsubscribed] = await post.events("Channel Unsubscribed")
    assert (unsubscribed["Type"], unsubscribed["Campaign ID"]) == ("spam", 9)


@pytest.mark.parametrize("feedback", ["not-spam", "fraud", "virus", "other", "", "abusenot"])
async def test_other_feedback_is_no_complaint(post: Post, feedback: str) -> None:
    await post.move_in("u", "u@example.com")
    assert await post.take(arf(post.mail(1)[0], feedback)) == ("ignored", False)
    assert await post.reach() == 1


async def test_reports_of_nothing(post: Post) -> None:
    """No id is 400, a foreign one or a push's is 404; a letter is ignored with any id."""
    await post.move_in("u", "u@example.com")
    push = post.mail(1, channel="push")[0]
    foreign = sign_push_id(b"x" * 32, 1, 0)
    for raw, status in ((dsn(to="x@example.com"), 400), (dsn(foreign), 404), (dsn(push), 404), (arf(foreign), 404)):
        with pytest.raises(Problem) as raised:
            await post.take(raw)
        assert raised.value.status == status
    assert await post.take(VACATION) == ("ignored", False)
    assert await post.events("Mail Bounced") == []


async def test_a_right_id_after_wrong_ones(post: Post) -> None:
    """Words of 27 letters are not yet ids: the first that is signed counts."""
    await post.move_in("u", "u@example.com")
    [mail] = post.mail(1)
    raw = dsn("A" * 27, original=f"Return-Path: <bounces+{mail}@example.com>")
    assert await post.take(raw) == ("hard", True)


# Over the real server, with mails the sandbox received.


@pytest.fixture
def mailed(server: Server, sending: Caller, sandbox: Sandbox) -> list[str]:
    """The ids of mails to three people, which the sandbox received."""
    sending.upload(*people(3, kinds=("fcm",)))
    result, ids = mail_all(server, sending)
    assert (result["sent"], len(sandbox.messages("smtp")), len(ids)) == (3, 3, 3)
    return ids


def test_a_bounce_over_http(server: Server, sending: Caller, sandbox: Sandbox, mailed: list[str]) -> None:
    """Whose mail bounced gets no more, and can be asked for in a `where`."""
    nobody = Caller(server.port)
    for _ in range(2):
        raw = dsn(mailed[1], recipient="user-1@example.com")
        status, answer, _ = nobody.call("POST", "/bounces", raw, MAIL)
        assert (status, answer) == (200, {"status": "success", "result": "hard", "suppressed": True})
    sandbox.clear()
    result, _ = mail_all(server, sending)
    assert (result["sent"], result["suppressed"]) == (2, 1)
    assert {one["address"] for one in sandbox.messages("smtp")} == {"user-0@example.com", "user-2@example.com"}
    where = {
        **{"event_name": "Mail Bounced", "from": "yesterday", "to": "today", "operator": "equals", "value": 1},
        "event_properties": [{"name": "Status", "value": "5.1.1"}, {"name": "Type", "value": "hard"}],
    }
    body = {"name": "n", "where": where, "content": {"title": "t", "body": "b"}, "devices": ["android"], "when": "now"}
    assert sending.post("/1/targets/create.json", body | {"estimate_only": True})[1]["estimates"] == {"android": 1}


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        (dsn("A" * 27), "message/rfc822", 404),
        (dsn(to="x@example.com"), "message/rfc822", 400),
        (b"", "message/rfc822", 400),
        (dsn("A" * 27), "application/json", 400),
        (b"To: x\r\n\r\n" + bytes(LIMIT), "message/rfc822; charset=utf-8", 413),
        (VACATION, "Message/RFC822; x=y", 200),
    ],
    ids=["foreign", "no id", "empty", "type", "large", "letter"],
)
def test_what_is_no_report_of_ours(server: Server, raw: bytes, kind: str, status: int) -> None:
    """What is no report of ours is refused with one sentence, in the one shape of errors."""
    found, answer, _ = Caller(server.port).call("POST", "/bounces", raw, {"Content-Type": kind})
    assert found == status
    if status == 200:
        assert answer == {"status": "success", "result": "ignored", "suppressed": False}
    else:
        assert (answer["status"], answer["code"], "\n" in answer["error"]) == ("fail", status, False)


def test_what_came_back_is_counted(server: Server) -> None:
    """`/metrics` says how many were no report."""
    nobody = Caller(server.port)

    def ignored() -> float:
        lines = nobody.get("/metrics")[1].decode().splitlines()
        found = [line for line in lines if line.startswith('tocsin_feedback_total{result="ignored"}')]
        return float(found[0].split()[1]) if found else 0.0

    before = ignored()
    nobody.call("POST", "/bounces", VACATION, MAIL)
    assert ignored() == before + 1


def run(*arguments: str, mail: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run_bytes("bounce", *arguments, given=mail)


def test_the_pipe_of_a_mail_server(server: Server, sending: Caller, mailed: list[str], tmp_path: Path) -> None:
    """From stdin, from a file, by address: each reaches the running server; what that refuses is said and dropped."""
    here = ("--data", str(server.data))
    done = run(*here, mail=dsn(mailed[0], recipient="user-0@example.com"))
    assert (done.returncode, msgspec.json.decode(done.stdout)) == (0, {"taken": 1, "ignored": 0, "refused": 0})
    file = tmp_path / "mail"
    file.write_bytes(arf(mailed[1]))
    done = run(str(file), "--url", f"http://127.0.0.1:{server.port}/")
    assert (done.returncode, msgspec.json.decode(done.stdout)) == (0, {"taken": 1, "ignored": 0, "refused": 0})
    done = run("-", *here, mail=dsn("A" * 27))
    assert (done.returncode, msgspec.json.decode(done.stdout)["refused"]) == (0, 1)
    assert done.stderr.startswith(b"tocsin: refused: This is not the id")
    long = dsn(mailed[2], recipient="user-2@example.com").replace(b"the mail", b"x\r\n" * LIMIT)
    assert msgspec.json.decode(run(*here, mail=long).stdout)["taken"] == 1
    result, _ = mail_all(server, sending)
    assert (result["sent"], result["suppressed"]) == (0, 3), "two addresses are dead, the third person complained"


def test_a_maildir(server: Server, mailed: list[str], tmp_path: Path) -> None:
    """Everything new is handed over and moved; what the server refused is flagged; a second time there is nothing."""
    box = tmp_path / "Maildir"
    for name in ("new", "cur", "tmp"):
        (box / name).mkdir(parents=True)
    mails = {"1": dsn(mailed[0], recipient="user-0@example.com"), "2": VACATION, "3": dsn("A" * 27), "4": b"no mail"}
    for name, raw in mails.items():
        (box / "new" / f"{name}.host").write_bytes(raw)
    for expected in ({"taken": 1, "ignored": 1, "refused": 2}, {"taken": 0, "ignored": 0, "refused": 0}):
        done = run(str(box), "--data", str(server.data))
        assert (done.returncode, msgspec.json.decode(done.stdout)) == (0, expected)
        assert list((box / "new").iterdir()) == []
        names = sorted(one.name for one in (box / "cur").iterdir())
        assert names == ["1.host:2,S", "2.host:2,S", "3.host:2,FS", "4.host:2,FS"]


def test_without_a_server_it_is_tried_again(tmp_path: Path) -> None:
    """75 and one sentence, and a Maildir keeps its mails; a mistake in the command is 2."""
    box = tmp_path / "Maildir"
    for name in ("new", "cur"):
        (box / name).mkdir(parents=True)
    (box / "new" / "1").write_bytes(VACATION)
    closed = "http://127.0.0.1:1"
    for arguments in (("--data", str(tmp_path)), ("--data", str(tmp_path / "no")), (str(box), "--url", closed)):
        done = run(*arguments, mail=VACATION)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (75, b"", 1), arguments
        assert done.stderr.startswith(b"tocsin: ")
    assert [one.name for one in (box / "new").iterdir()] == ["1"]
    assert not (tmp_path / "no").exists()
    assert run(mail=VACATION).returncode == run("--data", "x", "--url", closed).returncode == 2
