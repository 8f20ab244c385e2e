"""The mail client held against relays: a sandbox that is strict, and stubs that misbehave on purpose."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dkim
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.sandbox_driver import running
from support.signatures import KEYS, NACL, pem_of, verify

from tocsin.outcome import Outcome
from tocsin.providers.contract import Address, Mail, Receipt, Scope
from tocsin.providers.mail.pool import SmtpPool
from tocsin.providers.smtp import Smtp, SmtpSettings
from tocsin.providers.transport import MailTransfer, Server, Transport
from tocsin.sandbox import Sandbox
from tocsin.sandbox.faults import Fault, Kind

BODY = b"From: a@example.com\r\n\r\nHi\r\n"
Reply = str | None  # "" hangs up, None says nothing
GOOD = {"greeting": "220 stub", "EHLO": "250-stub\r\n250 PIPELINING", "DATA": "354 go", "STARTTLS": "220 go"}
AUTHORITY: dict[str, Any] = {}


def make_tls(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's TLS for 127.0.0.1, and the PEM to trust."""
    if not AUTHORITY:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stub")])
        start = datetime.now(UTC) - timedelta(days=1)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        made = made.serial_number(7).not_valid_before(start).not_valid_after(start + timedelta(days=9))
        made = made.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        AUTHORITY["pem"] = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
        AUTHORITY["key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = folder / "stub.pem"
    path.write_text(AUTHORITY["key"] + AUTHORITY["pem"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, AUTHORITY["pem"]


class Stub:
    """A relay that answers by rote. Each verb has a list of replies, taken in order, then the good one."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.connections: list[Line] = []
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self.most = 0
        self.slow = False  # answers a mail only when `answer` is called
        self.deaf = False  # stops reading at DATA
        self.reached = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, *, implicit: ssl.SSLContext | None = None) -> None:
        """Listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Line(self), "127.0.0.1", 0, ssl=implicit)
        self.port = self._server.sockets[0].getsockname()[1]

    def reply(self, verb: str) -> Reply:
        """What is said to a verb now."""
        scripted = self.replies.get(verb)
        return scripted.pop(0) if scripted else GOOD.get(verb, "250 ok")

    def relay(
        self, *, ca: str = "", connections: int = 5, limits: dict[str, Any] | None = None, **changed: Any
    ) -> SmtpPool:
        """A client of this relay; without TLS unless asked for."""
        given = {"host": "127.0.0.1", "port": self.port, "hello": "us", "tls": "none", **changed}
        return SmtpPool(Server(**given), ca, connections, **(limits or {}))

    @property
    def mails(self) -> list[bytes]:
        """Every mail that came to its end."""
        return [mail for line in self.connections for mail in line.mails]

    async def stop(self) -> None:
        """Hangs up on everybody."""
        assert self._server is not None
        self._server.close()
        for line in self.connections:
            line.transport.abort()
        await asyncio.sleep(0)


class Line(asyncio.Protocol):
    """One connection of a stub."""

    transport: asyncio.Transport

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.heard: list[str] = []  # commands
        self.pieces: list[str] = []  # what came in one piece, as verbs
        self.mails: list[bytes] = []
        self.over = asyncio.Event()
        self._buffer = b""
        self._mail = False
        self._securing = False
        self._verbs: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.stub.connections.append(self)
        self.stub.most = max(self.stub.most, sum(not line.over.is_set() for line in self.stub.connections))
        self.say("greeting")

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()

    def say(self, verb: str) -> None:
        reply = self.stub.reply(verb)
        if reply == "":
            self.transport.abort()
        elif reply is not None:
            self.transport.write(reply.encode() + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._securing:
            return
        self._verbs = []
        while self.advance():
            pass
        self.pieces.append(" ".join(self._verbs))

    def advance(self) -> bool:
        if self._mail:
            end = (b"\r\n" + self._buffer).find(b"\r\n.\r\n")
            if end < 0:
                return False
            self.mails.append(self._buffer[:end])
            self._buffer = self._buffer[end + 3 :]
            self._mail = False
            self._verbs.append(".")
            self.stub.reached.set()
            if not self.stub.slow:
                self.say(".")
            return True
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        self._buffer = rest
        text = line.decode()
        verb = "AUTH" if self.heard and self.heard[-1].startswith("AUTH") and " " not in text else text.split(" ")[0]
        self.heard.append(f"AUTH {text}" if verb == "AUTH" and not text.startswith("AUTH") else text)
        self._verbs.append(verb)
        if verb == "DATA" and self.stub.deaf:
            self.transport.pause_reading()
            self.stub.reached.set()
        self.say(verb)
        self._mail = verb == "DATA" and not self.stub.replies.get("refused data")
        if verb == "STARTTLS" and self.stub.tls:
            self._securing = True
            self._task = asyncio.get_running_loop().create_task(self.secure())
        return True

    async def secure(self) -> None:
        assert self.stub.tls is not None
        loop = asyncio.get_running_loop()
        made = await loop.start_tls(self.transport, self, self.stub.tls, server_side=True)
        assert made is not None
        self.transport = made
        self._securing = False
        self.data_received(b"")


@pytest_asyncio.fixture
async def stub() -> AsyncIterator[Stub]:
    """A relay that listens, without TLS."""
    made = Stub()
    await made.start()
    yield made
    await made.stop()


def envelope(**changed: Any) -> MailTransfer:
    """A mail that is in order."""
    given = {"sender": "a@example.com", "recipient": "b@example.com", "body": BODY, "timeout": 10.0, **changed}
    return MailTransfer(**given)


MAIL_VERBS = "MAIL RCPT DATA"


async def test_mail_takes_two_writes(stub: Stub) -> None:
    """Where the relay pipelines, the commands are one write and the mail another, over one connection."""
    relay = stub.relay()
    for _ in range(3):
        answer = await relay.mail(envelope())
        assert (answer.status, answer.step, answer.failure) == (250, ".", "")
    await relay.aclose()
    assert [line.pieces[:7] for line in stub.connections] == [["EHLO", *[MAIL_VERBS, "."] * 3]]


async def test_step_by_step_without_pipelining(stub: Stub) -> None:
    """A relay that does not offer PIPELINING hears one command at a time."""
    stub.replies["EHLO"] = ["250 stub"]
    stub.replies["RCPT"] = ["250 ok", "550 5.1.1 no", "250 ok"]
    relay = stub.relay()
    assert [(await relay.mail(envelope())).status for _ in range(3)] == [250, 550, 250]
    await relay.aclose()
    mail = ["MAIL", "RCPT", "DATA", "."]
    assert [line.pieces[:12] for line in stub.connections] == [["EHLO", *mail, "MAIL", "RCPT", "RSET", *mail]]


@pytest.mark.parametrize("data", ["354 go", "503 5.5.1 no recipients"])
async def test_refused_recipient_keeps_the_connection(stub: Stub, data: str) -> None:
    """DATA behind a refused RCPT is ended by a lone dot if it was taken; the next mail goes over the same connection,
    behind a RSET, and its answer is its own."""
    stub.replies = {
        "RCPT": ["550 5.1.1 nobody"],
        "DATA": [data],
        ".": ["554 5.5.1 no recipients", "250 2.0.0 queued as X"],
    }
    if data.startswith("503"):
        stub.replies["."].pop(0)
        stub.replies["refused data"] = [None]
    relay = stub.relay()
    refused = await relay.mail(envelope())
    assert (refused.status, refused.step, refused.replies) == (550, "RCPT", ("550 5.1.1 nobody",))
    stub.replies.pop("refused data", None)
    taken = await relay.mail(envelope())
    assert (taken.status, taken.replies) == (250, ("250 2.0.0 queued as X",))
    await relay.aclose()
    assert stub.mails == ([b""] if data.startswith("354") else []) + [BODY]
    said = [piece for piece in stub.connections[0].pieces if piece != "QUIT"]
    assert said[-2:] == [f"RSET {MAIL_VERBS}", "."]
    assert len(stub.connections) == 1


@pytest.mark.parametrize(
    "replies",
    [
        {"MAIL": ["250 ok", "421 4.3.2 bye"]},
        {"MAIL": ["250 ok", ""]},
        {"RCPT": ["250 ok", ""]},
        {"DATA": ["354 go", ""]},
        {".": ["250 ok", "421 4.3.2 bye"]},
    ],
    ids=["421", "end at MAIL", "end at RCPT", "end at DATA", "421 at the dot"],
)
async def test_relay_that_has_hung_up_is_called_again(stub: Stub, replies: dict[str, list[Reply]]) -> None:
    """A kept connection that the relay leaves before the mail was taken costs a new one, and not the mail."""
    stub.replies = replies
    relay = stub.relay()
    assert (await relay.mail(envelope())).status == 250
    assert (await relay.mail(envelope())).status == 250
    assert len(stub.connections) == 2
    assert Counter(stub.mails) == {BODY: 3 if "." in replies else 2}
    await relay.aclose()


async def test_connection_closed_while_resting_is_not_used(stub: Stub) -> None:
    """A connection that ended, or on which something was said, while nobody used it is left."""
    relay = stub.relay()
    await relay.mail(envelope())
    stub.connections[0].transport.write(b"421 4.4.2 idle for too long\r\n")
    await asyncio.sleep(0)
    assert (await relay.mail(envelope())).status == 250
    stub.connections[-1].transport.abort()
    assert (await relay.mail(envelope())).status == 250
    assert len(stub.mails) == 3
    await relay.aclose()


async def test_new_connection_that_ends_is_the_answer(stub: Stub) -> None:
    """On a connection of its own a mail meets the end once: no loop."""
    stub.replies = {"MAIL": ["421 4.7.0 too many", ""], "greeting": ["220 a", "220 b", "421 4.3.2 no", ""]}
    relay = stub.relay()
    assert [(one.status, one.step, one.failure) for one in [await relay.mail(envelope()) for _ in range(4)]] == [
        (421, "MAIL", ""),
        (0, "", "unsent"),
        (421, "greeting", ""),
        (0, "", "unsent"),
    ]
    await relay.aclose()


@pytest.mark.parametrize("piped", [True, False])
@pytest.mark.parametrize("kept", [True, False])
async def test_a_refusal_counts_though_the_relay_hangs_up(stub: Stub, *, piped: bool, kept: bool) -> None:
    """Exim's «drop» refuses a recipient and closes: the mail is refused, and is no reason to hold up others."""
    relay = stub.relay()
    if kept:
        assert (await relay.mail(envelope())).status == 250
    stub.replies = {"RCPT": ["550 5.1.1 No such user"], "DATA": [""]}
    if not piped:
        stub.replies["EHLO"] = ["250 stub"]
    answer = await relay.mail(envelope())
    assert (answer.status, answer.step) == (550, "RCPT")
    stub.replies.clear()
    assert (await relay.mail(envelope())).status == 250
    await relay.aclose()


async def test_lost_after_the_dot_is_unknown(stub: Stub) -> None:
    """The connection that ends in the place of the last reply leaves the mail unknown, and is not tried again."""
    stub.replies = {".": ["250 ok", "", None, "250 late"]}
    relay = stub.relay()
    assert (await relay.mail(envelope())).status == 250
    assert (await relay.mail(envelope())).failure == "unknown"
    assert (await relay.mail(envelope(timeout=0.2))).failure == "unknown"
    assert len(stub.mails) == 3
    await relay.aclose()


async def test_owed_reply_is_nobody_elses(stub: Stub) -> None:
    """After a time-out the connection is left: its late reply would be the next mail's answer."""
    stub.replies = {"DATA": [None]}
    relay = stub.relay()
    came = await relay.mail(envelope(timeout=0.1))
    assert (came.failure, came.detail) == ("unsent", "timed out")
    stub.connections[0].transport.write(b"354 go\r\n250 late\r\n")
    stub.replies = {".": ["550 5.7.1 no"]}
    assert (await relay.mail(envelope())).status == 550
    assert len(stub.connections) == 2
    await relay.aclose()


async def test_given_up_mail_takes_its_connection(stub: Stub) -> None:
    """A caller that is cancelled leaves no connection with a reply on its way."""
    stub.slow = True
    relay = stub.relay()
    task = asyncio.create_task(relay.mail(envelope()))
    await stub.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stub.slow = False
    assert (await relay.mail(envelope())).status == 250
    assert len(stub.connections) == 2
    await relay.aclose()


@pytest.mark.parametrize("tls", ["none", "tls"])
async def test_large_mail_that_was_not_taken_is_unsent(tmp_path: Path, tls: str) -> None:
    """A mail whose end the kernel still holds when the relay goes cannot have been acted on."""
    context, pem = make_tls(tmp_path)
    stub = Stub()
    stub.deaf = True
    await stub.start(implicit=context if tls == "tls" else None)
    relay = stub.relay(tls=tls, ca=pem)
    for ending in ("hang up", "time out"):
        stub.reached.clear()
        patience = 10.0 if ending == "hang up" else 0.3
        task = asyncio.create_task(
            relay.mail(envelope(body=b"x" * 70 + b"\r\n" + b"y\r\n" * 8_000_000, timeout=patience))
        )
        await stub.reached.wait()
        if ending == "hang up":
            stub.connections[-1].transport.abort()
        assert (await task).failure == "unsent"
    assert not stub.mails
    await relay.aclose()
    await stub.stop()


@pytest.mark.parametrize("tls", ["none", "tls"])
@pytest.mark.parametrize("size", [10, 16_000, 17_000, 3_000_000])
async def test_mails_of_every_size_arrive(tmp_path: Path, tls: str, size: int) -> None:
    """Small or large, in the clear or not, a mail arrives byte for byte, its dots doubled."""
    context, pem = make_tls(tmp_path)
    stub = Stub()
    await stub.start(implicit=context if tls == "tls" else None)
    relay = stub.relay(tls=tls, ca=pem)
    body = b".a\r\n..\r\n.\r\n" + b"." * size + b"\r\n.\r\nno end"
    assert (await relay.mail(envelope(body=body, timeout=30.0))).status == 250
    doubled = b"..a\r\n...\r\n..\r\n." + b"." * size + b"\r\n..\r\nno end\r\n"
    assert stub.mails == [doubled]
    await relay.aclose()
    await stub.stop()


ENDLESS = "x" * 70_000
BABBLE: dict[str, dict[str, list[Reply]]] = {
    "endless greeting": {"greeting": ["220 " + ENDLESS]},
    "long line": {"EHLO": ["250 " + "x" * 5000]},
    "long reply": {"EHLO": ["250-x\r\n" * 101 + "250 x"]},
    "http": {"greeting": ["HTTP/1.1 400 Bad HttpPost"]},
    "no number": {"greeting": ["hello"]},
    "babble": {"greeting": ["220 a\r\n" + "220 b\r\n" * 9 + "220 c"]},
    "yes in place of go": {"DATA": ["250 ok"]},
    "go in place of yes": {"MAIL": ["354 go"]},
    "an answer too many": {"DATA": ["354 go\r\n250 queued"]},
    "silence": {"greeting": [None]},
    "half a reply": {"EHLO": ["250-and"]},
}


@pytest.mark.parametrize("replies", BABBLE.values(), ids=BABBLE.keys())
async def test_relay_that_speaks_nonsense(stub: Stub, replies: dict[str, list[Reply]]) -> None:
    """Whatever is at the other end: no mail is taken for sent, nothing grows, and nobody waits for ever."""
    stub.replies = replies
    relay = stub.relay()
    came = await relay.mail(envelope(timeout=0.3))
    assert came.failure == "unsent"
    assert len(came.detail) <= 300
    assert (await relay.mail(envelope())).status == 250
    await relay.aclose()


async def test_answer_before_its_mail_does_not_count(stub: Stub) -> None:
    """A «queued» that comes before the mail was written is not believed, and the mail is not given out."""
    stub.replies = {"DATA": ["354 go\r\n250 queued"]}
    relay = stub.relay()
    assert (await relay.mail(envelope(timeout=1.0))).failure == "unsent"
    assert not stub.mails
    await relay.aclose()


async def test_connections_have_an_end(stub: Stub) -> None:
    """No more connections at once than allowed, no more mails over one than a relay likes."""
    relay = stub.relay(connections=2, limits={"mails": 3})
    answers = await asyncio.gather(*[relay.mail(envelope()) for _ in range(12)])
    assert {answer.status for answer in answers} == {250}
    assert stub.most <= 2
    mails = [len(line.mails) for line in stub.connections]
    assert (max(mails), sum(mails)) == (3, 12), mails
    await relay.aclose()


async def test_resting_connections_are_left(stub: Stub) -> None:
    """A connection that nobody needs is closed politely after a while, without another mail."""
    relay = stub.relay(limits={"idle": 0.05})
    await relay.mail(envelope())
    async with asyncio.timeout(5):
        await stub.connections[0].over.wait()
    assert stub.connections[0].heard[-1] == "QUIT"
    await relay.aclose()


async def test_closing_answers_what_is_under_way(stub: Stub) -> None:
    """A relay closed under a mail gives it a failure, and takes no more."""
    stub.slow = True
    relay = stub.relay()
    task = asyncio.create_task(relay.mail(envelope()))
    await stub.reached.wait()
    await relay.aclose()
    assert (await task).failure == "unknown"
    assert (await relay.mail(envelope())).failure == "unsent"


async def test_address_cannot_end_its_command(stub: Stub) -> None:
    """An address that holds more than an address never reaches the wire."""
    relay = stub.relay()
    for wrong in ("b@example.com>\r\nRCPT TO:<c@example.com", "b@example.com> SIZE=1", "b@example.com\n"):
        with pytest.raises(ValueError, match="address"):
            await relay.mail(envelope(recipient=wrong))
    await relay.aclose()
    assert not any(command.startswith("RCPT") for line in stub.connections for command in line.heard)


async def secured(tmp_path: Path) -> tuple[Stub, str]:
    """A stub that takes STARTTLS and offers a log-in only after it."""
    context, pem = make_tls(tmp_path)
    stub = Stub()
    stub.tls = context
    stub.replies = {"EHLO": ["250-stub\r\n250 STARTTLS", "250-stub\r\n250-PIPELINING\r\n250 AUTH PLAIN LOGIN"]}
    await stub.start()
    return stub, pem


async def test_nothing_said_before_tls_counts(tmp_path: Path) -> None:
    """What was put behind the answer to STARTTLS in the clear is dropped, and EHLO is said again."""
    stub, pem = await secured(tmp_path)
    stub.replies["STARTTLS"] = ["220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n235 welcome"]
    relay = stub.relay(tls="starttls", ca=pem, username="u", password="secret")
    stub.replies["AUTH"] = ["535 5.7.8 no"]
    answer = await relay.mail(envelope())
    assert (answer.status, answer.step) == (535, "AUTH"), answer
    assert [command.split(" ")[0] for command in stub.connections[0].heard][:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
    await relay.aclose()
    await stub.stop()


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        ("AUTH PLAIN LOGIN", ["AUTH PLAIN " + base64.b64encode(b"\0jane\0s\xc3\xa9cret").decode()]),
        ("AUTH=PLAIN", ["AUTH PLAIN " + base64.b64encode(b"\0jane\0s\xc3\xa9cret").decode()]),
        ("AUTH LOGIN", ["AUTH LOGIN", "AUTH amFuZQ==", "AUTH " + base64.b64encode("sécret".encode()).decode()]),
        ("AUTH CRAM-MD5", []),
    ],
)
async def test_logging_in(tmp_path: Path, offered: str, said: list[str]) -> None:
    """PLAIN and LOGIN are spoken under TLS from the start; where neither is offered nothing is sent."""
    context, pem = make_tls(tmp_path)
    stub = Stub()
    asked: list[Reply] = ["334 ", "334 ", "235 ok"]
    stub.replies = {"EHLO": [f"250-stub\r\n250 {offered}"], "AUTH": asked[3 - max(len(said), 1) :]}
    await stub.start(implicit=context)
    relay = stub.relay(tls="tls", ca=pem, username="jane", password="sécret")
    answer = await relay.mail(envelope())
    assert [command for command in stub.connections[0].heard if command.startswith("AUTH")] == said
    assert (answer.status == 250) == bool(said)
    assert "secret" not in answer.detail
    await relay.aclose()
    await stub.stop()


@pytest.mark.parametrize("changed", [{"tls": "none"}, {"tls": "starttls"}, {"tls": "tls"}])
async def test_no_password_in_the_clear(stub: Stub, changed: dict[str, Any]) -> None:
    """A relay that has no TLS hears no password and no mail."""
    stub.replies = {"EHLO": ["250-stub\r\n250 AUTH PLAIN"]}
    relay = stub.relay(username="u", password="secret", **changed)
    assert (await relay.mail(envelope(timeout=1.0))).failure == "unsent"
    assert not [one for one in stub.connections[0].heard if one.startswith(("AUTH", "MAIL"))]
    await relay.aclose()


@pytest.fixture
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """A strict relay."""
    async with running(tmp_path_factory) as made:
        yield made


# What the relay says, and where → outcome, scope, seconds to wait, suspect. Section by section of the RFCs and vendors.
OK, GONE, REFUSED = Outcome.ACCEPTED, Outcome.GONE, Outcome.REFUSED
UNAVAILABLE, THROTTLED, DENIED = Outcome.UNAVAILABLE, Outcome.THROTTLED, Outcome.DENIED
LANE, DEVICE, MESSAGE, CAMPAIGN = Scope.LANE, Scope.DEVICE, Scope.MESSAGE, Scope.CAMPAIGN
Row = tuple[str, str, Outcome, Scope, float | None, bool]
ANSWERS: list[Row] = [
    *(("RCPT", f"550 {code}", GONE, MESSAGE, None, False) for code in ("5.1.1", "5.1.2", "5.1.10", "5.2.1")),
    *((".", f"550 {code}", GONE, MESSAGE, None, False) for code in ("5.1.1", "5.2.1")),
    *(("RCPT", f"550 {code}", REFUSED, MESSAGE, None, True) for code in ("5.7.1", "5.7.26", "5.7.515", "5.7.606")),
    *((".", f"550 {code}", REFUSED, MESSAGE, None, True) for code in ("5.7.1", "5.7.26", "5.7.515", "5.7.350")),
    (".", "554 5.7.0", REFUSED, MESSAGE, None, True),
    (".", "554 5.6.0", REFUSED, MESSAGE, None, False),
    ("RCPT", "550", REFUSED, MESSAGE, None, False),
    ("RCPT", "552", REFUSED, MESSAGE, None, False),
    ("RCPT", "552 5.2.2", REFUSED, MESSAGE, None, False),
    ("RCPT", "452 4.2.2", UNAVAILABLE, DEVICE, 300.0, False),
    ("RCPT", "450 4.2.0", UNAVAILABLE, MESSAGE, 300.0, False),
    ("RCPT", "451 4.7.1", UNAVAILABLE, MESSAGE, 300.0, False),
    ("RCPT", "451", UNAVAILABLE, MESSAGE, 300.0, False),
    (".", "452 4.3.1", UNAVAILABLE, MESSAGE, 300.0, False),
    (".", "421 4.7.28", UNAVAILABLE, LANE, 60.0, False),
    (".", "451 4.7.28", THROTTLED, LANE, 300.0, False),
    (".", "552 5.3.4", REFUSED, CAMPAIGN, None, False),
    (".", "554 5.3.4", REFUSED, CAMPAIGN, None, False),
    ("RCPT", "421 4.3.2", UNAVAILABLE, LANE, 60.0, False),
    (".", "421 4.3.2", UNAVAILABLE, LANE, 60.0, False),
    ("RCPT", "454 4.7.0", UNAVAILABLE, LANE, 300.0, False),
    *(("RCPT", f"{status} 5.7.0", DENIED, LANE, None, False) for status in (530, 534, 535, 538)),
    ("RCPT", "550 5.7.8", DENIED, LANE, None, False),
]


@pytest.mark.parametrize(("place", "said", "outcome", "scope", "wait", "suspect"), ANSWERS)
async def test_answers_over_the_wire(
    sandbox: Sandbox, place: str, said: str, outcome: Outcome, scope: Scope, wait: float | None, suspect: bool
) -> None:
    """Each answer a relay can give, at the place where it gives it, comes to what is written here."""
    status, _, enhanced = said.partition(" ")
    if place == ".":
        sandbox.faults.add([Fault("smtp", Kind.STATUS, status=int(status), code=enhanced, count=1)])
    recipient = f"reply.{said.replace(' ', '.')}@example.com" if place == "RCPT" else "ann@example.com"
    came = await send_by(sandbox, recipient)
    assert (came.outcome, came.scope, came.retry_after, came.suspect) == (outcome, scope, wait, suspect), came
    assert came.code == said
    assert sandbox.record.counts["smtp"].accepted == 0


async def send_by(sandbox: Sandbox, recipient: str) -> Receipt:
    """One mail through the provider to the sandbox."""
    given = sandbox.credentials["smtp"]
    kept = {key: given[key] for key in ("host", "port", "username", "password")}
    async with Transport() as transport:
        settings = SmtpSettings(**kept, sender="news@example.com", ca=sandbox.credentials["ca"], timeout=10.0)
        provider = Smtp(settings, transport)
        written = Mail(id="m", campaign="1", address=Address("email", recipient), subject="s", text="Hi")
        return await provider.send(written, time.time())


@pytest.mark.parametrize("kind", KEYS)
async def test_signed_mails_arrive_whole(sandbox: Sandbox, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty mails at once, signed, over TLS to a strict relay: each arrives once and its signature is good."""
    monkeypatch.setattr(dkim, "nacl", NACL, raising=False)
    given = sandbox.credentials["smtp"]
    kept = {key: given[key] for key in ("host", "port", "username", "password")}
    signing: dict[str, Any] = {"dkim_domain": "example.com", "dkim_selector": "s1", "dkim_key": pem_of(KEYS[kind])}
    async with Transport() as transport:
        settings = SmtpSettings(
            **kept, **signing, sender="news@example.com", ca=sandbox.credentials["ca"], connections=3
        )
        provider = Smtp(settings, transport)
        mails = [
            Mail(
                id=f"m{number}",
                campaign="1",
                address=Address("email", f"user{number}@example.com"),
                subject="Grüße",
                html=f"\n.\n..a  b\n.{number}\n",
                unsubscribe=f"https://tocsin.example.com/u/{number}",
            )
            for number in range(20)
        ]
        receipts = await asyncio.gather(*[provider.send(one, time.time()) for one in mails])
    assert {one.outcome for one in receipts} == {OK}
    messages = json.loads(sandbox.record.page("smtp", 0, 100))["messages"]
    assert {one["address"] for one in messages} == {one.address.value for one in mails}
    assert all(verify(one["body"].encode(), kind) for one in messages)
    counts = sandbox.record.counts["smtp"]
    assert (counts.accepted, counts.duplicates) == (20, 0)
    assert counts.connections <= 3


STUB_ANSWERS: list[tuple[str, str, Outcome, Scope, bool]] = [
    ("greeting", "554 5.7.1 your address is on a list", UNAVAILABLE, LANE, False),
    ("greeting", "421 4.7.0 later", UNAVAILABLE, LANE, False),
    ("EHLO", "550 5.7.1 who are you", UNAVAILABLE, LANE, False),
    ("MAIL", "530 5.7.0 log in", DENIED, LANE, False),
    ("MAIL", "550 5.1.2 no such sender", REFUSED, MESSAGE, True),
    ("MAIL", "553 5.1.8 no such domain", REFUSED, MESSAGE, True),
    ("MAIL", "452 4.3.1 full", UNAVAILABLE, MESSAGE, False),
    ("MAIL", "552 5.3.4 too large", REFUSED, CAMPAIGN, False),
    (".", "552 too large", REFUSED, CAMPAIGN, False),
    (".", "550 this looks like spam", REFUSED, MESSAGE, True),
    (".", "550 blocked by our policy", REFUSED, MESSAGE, True),
    (".", "554 no", REFUSED, MESSAGE, False),
    ("RCPT", "550 no such user", Outcome.GONE, MESSAGE, False),
    ("RCPT", "550-5.7.26 Not authenticated:\r\n550 5.7.26 see the manual", REFUSED, MESSAGE, True),
    (".", "250 2.0.0 Ok: queued as 4XyZ", OK, MESSAGE, False),
]


@pytest.mark.parametrize(("place", "said", "outcome", "scope", "suspect"), STUB_ANSWERS)
async def test_answers_of_other_relays(
    stub: Stub, place: str, said: str, outcome: Outcome, scope: Scope, suspect: bool
) -> None:
    """What the sandbox never says: about the sender, before any mail, without an enhanced code, over several lines."""
    stub.replies = {place: [said]}
    async with Transport() as transport:
        settings = SmtpSettings(
            host="127.0.0.1", port=stub.port, sender="news@example.com", tls="none", bounce="b@e.example"
        )
        written = Mail(
            id="m", campaign="1", address=Address("email", "a@b.example"), subject="s", text="Hi", bounce="x-1"
        )
        came = await Smtp(settings, transport).send(written, time.time())
    assert (came.outcome, came.scope, came.suspect) == (outcome, scope, suspect), came
    if outcome is OK:
        assert came.vendor_id == "4XyZ"
        assert "MAIL FROM:<b+x-1@e.example>" in stub.connections[0].heard
    else:
        assert came.code == " ".join(said.replace("-", " ").split()[: 2 if said[5:6] == "." else 1])
        assert "\n" not in came.detail
    if "\r\n" in said:
        assert came.detail == "Not authenticated: see the manual"
