"""One SMTP session with a relay: greeting, TLS, log-in, then mail after mail.

MAIL, RCPT and DATA go in one write where the relay offers PIPELINING (RFC 2920), so a mail takes two round trips.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
from typing import Literal

import msgspec

from tocsin.providers.http.transfer import HandOver, MailTransfer, VendorAnswer
from tocsin.providers.mail.wire import ConnectionLost, SmtpReply, SmtpStream, TlsFailed

ONE_WRITE = 16 * 1024  # bytes of a mail that is written together with its final dot
_STEPS = (b"MAIL", b"RCPT", b"DATA")
_REFUSED_PATH = frozenset("<>\r\n\0 \t")


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A relay and how to connect to it. hello: our name. tls: «starttls» and «tls» are required, never just tried. A
    user name needs one of them. public: it must have an address outside private networks, whenever it is looked up."""

    host: str
    port: int
    hello: str
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: str = ""
    public: bool = False

    def __repr__(self) -> str:
        return f"Server({self.host!r}, {self.port})"


class SessionRefused(Exception):  # noqa: N818 - an answer
    """The relay refused the session, the log-in or RSET: no mail was begun."""

    def __init__(self, step: str, reply: SmtpReply) -> None:
        super().__init__(step)
        self.answer = answer_of(step, reply)


def answer_of(step: str, reply: SmtpReply) -> VendorAnswer:
    """Return a relay's reply as an answer. step: the command that it answers, «.» for the end of the data."""
    return VendorAnswer(status=reply.status, replies=reply.lines, step=step)


class SmtpSession:
    """One connection. `open` once, then `mail` while `is_clean` says so."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self.carried = 0  # mails
        self.rested_at = 0.0  # monotonic seconds; set by the pool
        self._server = server
        self._context = context
        self._wire: SmtpStream | None = None
        self._offers: dict[str, str] = {}
        self._needs_reset = False  # the relay may still have an unfinished transaction
        self._ended = False  # the end of the mail was written
        self._closed = ""

    async def open(self) -> None:
        """Connect, say EHLO, start TLS and log in as the server's settings say. Raises SessionRefused, ConnectionLost,
        OSError."""
        server = self._server
        self._wire = wire = await SmtpStream.connect(server.host, server.port, public=server.public)
        if self._closed:
            wire.abort(self._closed)
        if server.tls == "tls":
            await wire.secure(self._context, server.host)
        _expect("greeting", await wire.read())
        await self._greet(wire)
        if server.tls == "starttls":
            if "STARTTLS" not in self._offers:
                raise TlsFailed("the relay does not offer STARTTLS")
            await self._ask(wire, "STARTTLS", "STARTTLS")
            await wire.secure(self._context, server.host)
            await self._greet(wire)  # RFC 3207 4.2: what was offered in the clear is forgotten
        if server.username:
            await self._log_in(wire)

    async def mail(self, envelope: MailTransfer, hand_over: HandOver) -> VendorAnswer:
        """Send one mail. Raises ConnectionLost; `judge` then says what is known about the mail. hand_over: called
        before the end of the mail is written."""
        wire = self._wire
        assert wire is not None
        self.carried += 1
        self._ended = False
        commands = self._commands(envelope)
        refused = await self._announce(wire, commands)
        if refused is not None:
            self._needs_reset = True
            return refused
        if wire.is_behind():
            raise ConnectionLost("the relay answered what was not asked")
        self._write_mail(wire, _stuff(envelope.body), hand_over)
        reply = await wire.read()
        if 300 <= reply.status < 400:
            raise ConnectionLost(f"the end of the data was answered {reply.status}")
        self._needs_reset = reply.status >= 400
        return answer_of(".", reply)

    def judge(self, detail: str) -> VendorAnswer:
        """Return the failure of the mail in progress: «unsent» while the kernel has not taken its end, because a relay
        cannot act on a mail without it (RFC 5321 4.1.1.4); else «unknown». detail: the reason."""
        certain = not self._ended or (self._wire is not None and self._wire.held)
        return VendorAnswer(failure="unsent" if certain else "unknown", detail=detail[:300])

    def is_clean(self) -> bool:
        """Return whether another mail may follow: every command is answered and the connection is open."""
        return self._wire is not None and self._wire.is_even()

    def close(self, reason: str = "closed") -> None:
        """Close the connection at once, with QUIT when no mail is in progress."""
        self._closed = reason
        wire = self._wire
        if wire is not None:
            if wire.is_even():
                with contextlib.suppress(ConnectionLost):
                    wire.write(b"QUIT\r\n", 1)
            wire.abort(reason)

    def _commands(self, envelope: MailTransfer) -> list[bytes]:
        for path in (envelope.sender, envelope.recipient):
            if not _REFUSED_PATH.isdisjoint(path):
                raise ValueError("an address would end the command")
        size = f" SIZE={len(envelope.body)}" if "SIZE" in self._offers else ""
        mail = f"MAIL FROM:<{envelope.sender}>{size}\r\n".encode("ascii")
        return [mail, f"RCPT TO:<{envelope.recipient}>\r\n".encode("ascii"), b"DATA\r\n"]

    async def _announce(self, wire: SmtpStream, commands: list[bytes]) -> VendorAnswer | None:
        """Send RSET if needed, MAIL, RCPT and DATA; return the relay's refusal, or None when it waits for the mail."""
        piped = "PIPELINING" in self._offers
        if piped:
            reset = b"RSET\r\n" if self._needs_reset else b""
            wire.write(reset + b"".join(commands), len(commands) + self._needs_reset)
        elif self._needs_reset:
            wire.write(b"RSET\r\n", 1)
        if self._needs_reset:
            _expect("RSET", await wire.read())
            self._needs_reset = False
        refused: VendorAnswer | None = None
        for step, command in zip(_STEPS, commands, strict=True):
            try:
                if not piped:
                    wire.write(command, 1)
                reply = await wire.read()
            except ConnectionLost:
                if refused is None:
                    raise
                return refused  # some relays hang up on whom they refuse (Exim's «drop»)
            if reply.status >= 400:
                refused = refused or answer_of(step.decode(), reply)
                if reply.status == 421 or not piped:
                    return refused
            elif (reply.status == 354) != (step == b"DATA"):
                raise ConnectionLost(f"{step.decode()} was answered {reply.status}")
        if refused is not None and reply.status == 354:
            # RFC 2920 3.1: DATA was taken without a recipient. An empty mail ends it; the relay's answer is an error.
            with contextlib.suppress(ConnectionLost):
                wire.write(b".\r\n", 1)
                await wire.read()
        return refused

    def _write_mail(self, wire: SmtpStream, data: bytes, hand_over: HandOver) -> None:
        try:
            if len(data) <= ONE_WRITE:
                hand_over()
                self._ended = True
                wire.write(data, 1)
            else:
                # Two writes: under TLS only the last one tells us that the kernel has not taken all of it.
                wire.write(data[:-3], 0)
                hand_over()
                self._ended = True
                wire.write(data[-3:], 1)
        except ConnectionLost:
            self._ended = False  # the kernel did not take the end of it
            raise

    async def _greet(self, wire: SmtpStream) -> None:
        reply = await self._ask(wire, "EHLO", f"EHLO {self._server.hello}")
        words = [line[4:].strip().upper().replace("AUTH=", "AUTH ").partition(" ") for line in reply.lines[1:]]
        self._offers = {name: rest for name, _, rest in words}

    async def _log_in(self, wire: SmtpStream) -> None:
        if self._server.tls == "none":
            raise ConnectionLost("no password goes in the clear")
        offered = self._offers.get("AUTH", "").split()
        name, password = self._server.username.encode(), self._server.password.encode()
        if "PLAIN" in offered:
            await self._ask(wire, "AUTH", "AUTH PLAIN " + _base64(b"\0" + name + b"\0" + password))
        elif "LOGIN" in offered:
            for line in ("AUTH LOGIN", _base64(name), _base64(password)):
                await self._ask(wire, "AUTH", line)
        else:
            raise ConnectionLost("the relay offers neither AUTH PLAIN nor AUTH LOGIN")

    async def _ask(self, wire: SmtpStream, step: str, line: str) -> SmtpReply:
        wire.write(line.encode() + b"\r\n", 1)
        return _expect(step, await wire.read())


def _expect(step: str, reply: SmtpReply) -> SmtpReply:
    if reply.status >= 400:
        raise SessionRefused(step, reply)
    return reply


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _stuff(body: bytes) -> bytes:
    """Return the mail as data: dots that begin a line are doubled (RFC 5321 4.5.2), and a line of one dot ends it."""
    stuffed = body.replace(b"\r\n.", b"\r\n..")
    return b"%b%b%b.\r\n" % (
        b"." if stuffed.startswith(b".") else b"",
        stuffed,
        b"" if stuffed.endswith(b"\r\n") else b"\r\n",
    )
