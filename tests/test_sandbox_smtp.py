"""The SMTP fake: TLS and log-in, the grammar, recipients, mails, faults."""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime, make_msgid
from typing import TypeVar

import pytest
from structlog.testing import capture_logs
from support.sandbox_driver import running

from tocsin.sandbox import Sandbox
from tocsin.sandbox.faults import Fault, Kind

T = TypeVar("T")


def mail(campaign: str | None = "7_20261123", **fields: str) -> bytes:
    """A mail in order; `fields` add header fields with `_` for `-`."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Hi"
    message["Date"], message["Message-ID"] = format_datetime(localtime()), make_msgid(domain="example.com")
    if campaign:
        message["X-Tocsin-Campaign"] = campaign
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    message.set_content("There\n.\n.dot first\n")
    return message.as_bytes().replace(b"\n", b"\r\n")


@dataclass
class Relay:
    """Runs functions of smtplib in threads, each with a connection of its own."""

    sandbox: Sandbox

    async def run(self, use: Callable[[smtplib.SMTP], T], *, login: bool = True, tls: bool = True) -> T:
        return await asyncio.to_thread(self._run, use, login, tls)

    def _run(self, use: Callable[[smtplib.SMTP], T], login: bool, tls: bool) -> T:
        given = self.sandbox.credentials["smtp"]
        with smtplib.SMTP(given["host"], given["port"], local_hostname="client", timeout=10) as client:
            if tls:
                client.starttls(context=ssl.create_default_context(cadata=self.sandbox.credentials["ca"]))
            if login:
                client.login(given["username"], given["password"])
            return use(client)

    async def send(self, *recipients: str, content: bytes | None = None) -> dict[str, tuple[int, bytes]]:
        """Sends one mail; gives the recipients that were refused."""
        body = mail() if content is None else content
        return await self.run(lambda client: client.sendmail("a@example.com", recipients or ("b@example.com",), body))


@pytest.fixture
async def relay(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Relay]:
    async with running(tmp_path_factory) as sandbox:
        yield Relay(sandbox)


async def test_a_mail_is_accepted(relay: Relay) -> None:
    """A mail arrives byte for byte, once per recipient, under its campaign."""
    content = mail()
    assert await relay.send("b@example.com", "c@example.com", content=content) == {}
    kept = json.loads(relay.sandbox.record.page("smtp", 0, 10))["messages"]
    assert [(one["address"], one["campaign"]) for one in kept] == [
        ("b@example.com", "7_20261123"),
        ("c@example.com", "7_20261123"),
    ]
    assert kept[0]["body"] == content.decode()
    assert kept[0]["headers"]["subject"] == "Hi"


async def test_what_is_offered(relay: Relay) -> None:
    """STARTTLS is offered in the clear, AUTH only under TLS, and the other extensions always."""

    def offers(client: smtplib.SMTP) -> dict[str, str]:
        client.ehlo()
        return client.esmtp_features

    clear = await relay.run(offers, login=False, tls=False)
    secure = await relay.run(offers, login=False)
    common = {"pipelining", "size", "8bitmime", "smtputf8", "enhancedstatuscodes"}
    assert clear.keys() == common | {"starttls"}
    assert secure.keys() == common | {"auth"}
    assert secure["auth"].split() == ["PLAIN", "LOGIN"]


async def test_clear_text_is_refused(relay: Relay) -> None:
    """Nothing is sent and nobody logs in before STARTTLS."""

    def attempt(client: smtplib.SMTP) -> list[int]:
        client.ehlo()
        return [client.docmd("AUTH", "PLAIN AGEAYg==")[0], client.mail("a@example.com")[0]]

    assert await relay.run(attempt, login=False, tls=False) == [538, 530]


async def test_nothing_said_in_the_clear_survives_starttls(relay: Relay) -> None:
    """What was smuggled in behind STARTTLS is not obeyed under TLS."""

    def attempt(client: smtplib.SMTP) -> tuple[int, bytes]:
        assert client.sock is not None
        client.ehlo()
        client.send(b"STARTTLS\r\nNOOP\r\n")
        assert client.getreply()[0] == 220
        context = ssl.create_default_context(cadata=relay.sandbox.credentials["ca"])
        client.sock = context.wrap_socket(client.sock, server_hostname="127.0.0.1")
        client.file = None
        return client.ehlo()

    code, offers = await relay.run(attempt, login=False, tls=False)
    assert code == 250
    assert b"AUTH PLAIN LOGIN" in offers


async def test_log_in_is_required(relay: Relay) -> None:
    """Under TLS there is still no mail before AUTH, and a wrong password is 535 5.7.8."""

    def attempt(client: smtplib.SMTP) -> list[tuple[int, bytes]]:
        client.ehlo()
        replies = [client.mail("a@example.com")]
        replies.append(client.docmd("AUTH", "PLAIN AGEAYg=="))
        replies.append(client.docmd("AUTH", "PLAIN !"))
        replies.append(client.docmd("AUTH", "CRAM-MD5"))
        replies += [client.docmd("AUTH", "LOGIN"), client.docmd("*")]
        return replies

    replies = await relay.run(attempt, login=False)
    assert [code for code, _ in replies] == [530, 535, 501, 504, 334, 501]
    assert replies[1][1].startswith(b"5.7.8")


async def test_plain_and_login(relay: Relay) -> None:
    """Both mechanisms work, with the answer in the command or after it."""
    given = relay.sandbox.credentials["smtp"]

    def attempt(mechanism: str, *, initial: bool) -> Callable[[smtplib.SMTP], int]:
        def run(client: smtplib.SMTP) -> int:
            client.ehlo()
            client.user, client.password = given["username"], given["password"]
            method = client.auth_plain if mechanism == "PLAIN" else client.auth_login
            return client.auth(mechanism, method, initial_response_ok=initial)[0]

        return run

    for mechanism in ("PLAIN", "LOGIN"):
        for initial in (True, False):
            assert await relay.run(attempt(mechanism, initial=initial), login=False) == 235


BAD_COMMANDS: dict[str, tuple[list[str], str]] = {
    "unknown": (["XYZZY"], "502 5.5.1"),
    "mail without path": (["MAIL a@example.com"], "501 5.5.4"),
    "sender": (["MAIL FROM:<a@@b>"], "501 5.1.7"),
    "parameter": (["MAIL FROM:<a@b> RET=HDRS"], "555 5.5.4"),
    "size": (["MAIL FROM:<a@b> SIZE=99999999"], "552 5.3.4"),
    "sender needs utf8": (["MAIL FROM:<ä@b>"], "553 5.6.7"),
    "mail twice": (["MAIL FROM:<a@b>", "MAIL FROM:<a@b>"], "503 5.5.1"),
    "rcpt first": (["RCPT TO:<a@b>"], "503 5.5.1"),
    "recipient": (["MAIL FROM:<a@b>", "RCPT TO:<b>"], "501 5.1.3"),
    "recipient needs utf8": (["MAIL FROM:<a@b>", "RCPT TO:<ä@b>"], "553 5.6.7"),
    "data first": (["DATA"], "503 5.5.1"),
    "data without recipients": (["MAIL FROM:<>", "DATA"], "554 5.5.1"),
    "starttls twice": (["STARTTLS"], "503 5.5.1"),
    "auth twice": (["AUTH PLAIN AGEAYg=="], "503 5.5.1"),
    "unknown user": (["MAIL FROM:<a@b>", "RCPT TO:<unknown1@b>"], "550 5.1.1"),
    "full": (["MAIL FROM:<a@b>", "RCPT TO:<full@b>"], "452 4.2.2"),
    "greylisted": (["MAIL FROM:<a@b>", "RCPT TO:<greylist@b>"], "451 4.7.1"),
    "greylisted once": (["MAIL FROM:<a@b>", "RCPT TO:<greylist@b>", "RCPT TO:<greylist@b>"], "250 2.1.5"),
    "utf8": (["MAIL FROM:<ä@b> SMTPUTF8 BODY=8BITMIME", "RCPT TO:<ö@b>"], "250 2.1.5"),
    "reset": (["MAIL FROM:<a@b>", "RSET", "DATA"], "503 5.5.1"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS.values(), ids=BAD_COMMANDS.keys())
async def test_commands(relay: Relay, case: tuple[list[str], str]) -> None:
    """The last of some commands gets the reply and the enhanced code of the RFCs."""
    commands, expected = case

    def attempt(client: smtplib.SMTP) -> str:
        client.ehlo()
        client.command_encoding = "utf-8"
        replies = [client.docmd(command) for command in commands]
        return f"{replies[-1][0]} {replies[-1][1].decode()}"

    assert (await relay.run(attempt)).startswith(expected)


BAD_MAILS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "554 5.6.0"),
    "no date": (b"From: a@b\r\n\r\nHi\r\n", "554 5.6.0"),
    "two froms": (mail().replace(b"Subject:", b"From: c@d\r\nSubject:"), "554 5.6.0"),
    "no header": (b"Hi there\r\n\r\n", "554 5.6.0"),
    "long line": (mail() + b"x" * 999 + b"\r\n", "554 5.6.0"),
    "bare line feed": (mail() + b"a\nb\r\n", "554 5.6.0"),
    "too big": (mail() + (b"x" * 98 + b"\r\n") * 110_000, "552 5.3.4"),
}


@pytest.mark.parametrize("case", BAD_MAILS.values(), ids=BAD_MAILS.keys())
async def test_bad_mails(relay: Relay, case: tuple[bytes, str]) -> None:
    """A mail that breaks a rule is refused after its end and not accepted."""
    content, expected = case

    def attempt(client: smtplib.SMTP) -> str:
        client.ehlo()
        client.mail("a@example.com")
        client.rcpt("b@example.com")
        client.docmd("DATA")
        client.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        code, text = client.getreply()
        return f"{code} {text.decode()}"

    assert (await relay.run(attempt)).startswith(expected)
    counts = relay.sandbox.record.counts["smtp"]
    assert (counts.accepted, counts.refused) == (0, 1)


async def test_eight_bits_without_saying_so(relay: Relay) -> None:
    """What smtplib sends by default: a body of UTF-8, and no BODY=8BITMIME."""
    message = EmailMessage(policy=SMTP.clone(cte_type="8bit"))
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Hi"
    message["Date"] = format_datetime(localtime())
    message.set_content("Grüße\n", cte="8bit")
    assert await relay.run(lambda client: client.send_message(message)) == {}
    assert "Grüße" in json.loads(relay.sandbox.record.page("smtp", 0, 1))["messages"][0]["body"]


async def test_the_log_says_why(relay: Relay) -> None:
    """One line for what is refused, with the reply, and never with a password."""

    def attempt(client: smtplib.SMTP) -> None:
        client.ehlo()
        client.docmd("AUTH", "PLAIN AGEAc2VjcmV0")
        client.docmd("AUTH", "LOGIN")
        client.docmd("c2VjcmV0")
        client.docmd("c2VjcmV0")
        client.docmd("MAIL", "FROM:<a@example.com>")

    with capture_logs() as logs:
        await relay.run(attempt, login=False)
    told = [(line["asked"], line["answer"], line["why"]) for line in logs]
    assert told == [
        ("AUTH", "535", "5.7.8 The user name or the password is wrong"),
        ("MAIL FROM:<a@example.com>", "530", "5.7.0 Authentication is required"),
    ]


async def test_pipelining(relay: Relay) -> None:
    """Commands sent in one piece, and the next mail behind the dot of the last, are answered one by one."""

    def attempt(client: smtplib.SMTP) -> list[int]:
        client.ehlo()
        stuffed = mail().replace(b"\r\n.", b"\r\n..")
        opening = b"MAIL FROM:<a@b>\r\nRCPT TO:<b@b>\r\nRCPT TO:<unknown@b>\r\nDATA\r\n"
        client.send(opening)
        codes = [client.getreply()[0] for _ in range(4)]
        client.send(stuffed + b".\r\n" + opening)
        codes += [client.getreply()[0] for _ in range(5)]
        client.send(stuffed + b".\r\n")
        return [*codes, client.getreply()[0]]

    assert await relay.run(attempt) == [250, 250, 550, 354, 250, 250, 250, 550, 354, 250]


async def test_duplicates_are_counted(relay: Relay) -> None:
    """The same campaign and recipient twice is one duplicate, by X-Tocsin-Campaign or else the Message-ID."""
    plain = mail(None)
    for content in (mail(), mail(), plain, plain, mail(None)):
        await relay.send(content=content)
    counts = relay.sandbox.record.counts["smtp"]
    assert (counts.accepted, counts.duplicates, counts.connections) == (5, 2, 5)


STATUS_FAULTS: dict[str, tuple[Fault, str]] = {
    "policy": (Fault("smtp", Kind.STATUS, status=550, code="5.7.26"), "550 5.7.26"),
    "local": (Fault("smtp", Kind.STATUS, status=451), "451 4.3.0"),
    "closing": (Fault("smtp", Kind.STATUS, status=421), "421 4.3.2"),
    "text": (Fault("smtp", Kind.STATUS, status=554, code="looks like spam"), "554 5.6.0 looks like spam"),
}


@pytest.mark.parametrize("case", STATUS_FAULTS.values(), ids=STATUS_FAULTS.keys())
async def test_status_faults(relay: Relay, case: tuple[Fault, str]) -> None:
    """A scripted reply comes after the final dot, with its enhanced code, and nothing is accepted."""
    fault, expected = case
    relay.sandbox.faults.add([fault])
    with pytest.raises(smtplib.SMTPDataError) as caught:
        await relay.send()
    assert isinstance(caught.value.smtp_error, bytes)
    assert f"{caught.value.smtp_code} {caught.value.smtp_error.decode()}".startswith(expected)
    counts = relay.sandbox.record.counts["smtp"]
    assert (counts.accepted, counts.refused) == (0, 1)


async def test_cut_after_the_dot(relay: Relay) -> None:
    """A cut mail is counted as accepted and its sender sees the connection end; sending it again is a duplicate."""
    relay.sandbox.faults.add([Fault("smtp", Kind.CUT, count=1)])
    with pytest.raises(smtplib.SMTPServerDisconnected):
        await relay.send()
    await relay.send()
    counts = relay.sandbox.record.counts["smtp"]
    assert (counts.accepted, counts.duplicates) == (2, 1)


async def test_turned_away_before_the_mail(relay: Relay) -> None:
    """Refuse closes at MAIL without a reply, goaway with 421; neither accepts anything."""
    relay.sandbox.faults.add([Fault("smtp", Kind.REFUSE, count=1), Fault("smtp", Kind.GOAWAY, count=1)])
    with pytest.raises(smtplib.SMTPServerDisconnected):
        await relay.send()
    with pytest.raises(smtplib.SMTPSenderRefused) as caught:
        await relay.send()
    assert caught.value.smtp_code == 421
    assert relay.sandbox.record.counts["smtp"].accepted == 0


async def test_delay_and_hang(relay: Relay) -> None:
    """A delayed reply comes, no sooner than asked; a hanging one never comes and is counted nowhere."""
    relay.sandbox.faults.add([Fault("smtp", Kind.DELAY, seconds=0.05, count=1), Fault("smtp", Kind.HANG)])
    begun = time.monotonic()
    assert await relay.send() == {}
    assert time.monotonic() - begun >= 0.05

    def attempt(client: smtplib.SMTP) -> None:
        assert client.sock is not None
        client.sock.settimeout(0.2)
        client.sendmail("a@example.com", "b@example.com", mail())

    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        await relay.run(attempt)
    counts = relay.sandbox.record.counts["smtp"]
    assert (counts.accepted, counts.refused) == (1, 0)
