"""An SMTP submission server: STARTTLS and AUTH required, PIPELINING, enhanced codes, faults per mail.

Source: RFC 5321, 3207 (STARTTLS), 4954 (AUTH), 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8),
2034 and 3463 (enhanced codes). aiosmtpd would cost two to three times the CPU a mail; docs/why.md has the figures.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from tocsin.sandbox.accepted import Accepted, AcceptedLog
from tocsin.sandbox.faults import Faults, Kind
from tocsin.sandbox.listener import Listener
from tocsin.sandbox.mail import MAIL_LIMIT, Mailboxes, campaign_of, is_address, mail_problem, read_fields, read_path
from tocsin.sandbox.mail_envelope import MailEnvelope, failure_reply, sender_problem
from tocsin.sandbox.refusals import RefusalLog
from tocsin.sandbox.smtp_login import Login, Step

COMMAND_LIMIT = 12_288
"""Bytes of a command line, the limit that RFC 4954 sets for AUTH."""

RECIPIENTS_LIMIT = 100
ERRORS_LIMIT = 20
"""Replies 50x and 53x that one connection may get before 421 ends it."""


class SmtpState:
    """State shared by every connection of the SMTP port."""

    def __init__(
        self, tls: ssl.SSLContext, login: Login, faults: Faults, record: AcceptedLog, refusals: RefusalLog
    ) -> None:
        self.tls = tls
        self.login = login
        self.faults = faults
        self.record = record
        self.refusals = refusals
        self.mailboxes = Mailboxes()


class SmtpConnection(asyncio.Protocol):
    """One SMTP connection."""

    def __init__(self, listener: Listener, state: SmtpState) -> None:
        self._listener = listener
        self._state = state
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._upgrade: asyncio.Task[None] | None = None
        self._secure = self._authenticated = self._greeted = False
        self._step: Step | None = None
        self._envelope: MailEnvelope | None = None
        self._in_data = self._too_big = False
        self._scanned = 0
        self._errors = 0
        self._commands: dict[str, Callable[[str], str | None]] = {
            "EHLO": self._ehlo,
            "HELO": self._ehlo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda argument: "250 2.0.0 Nothing done",
            "QUIT": self._quit,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection and send the greeting."""
        self._state.record.connect("smtp")
        self._transport = self._listener.add(transport)
        self._send("220 localhost ESMTP sandbox")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel a delayed reply and forget the connection."""
        if self._timer:
            self._timer.cancel()
        self._listener.remove(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Process the commands and mails that `data` completes, in order: a client may pipeline (RFC 2920)."""
        self._buffer += data
        self._process()

    def _process(self) -> None:
        while self._transport and not self._transport.is_closing() and not self._paused:
            if self._in_data:
                if not self._read_mail():
                    return
                continue
            end = self._buffer.find(b"\r\n")
            if end > COMMAND_LIMIT or (end < 0 and len(self._buffer) > COMMAND_LIMIT):
                self._send("500 5.5.6 The line is too long")
                self._transport.close()
            if end < 0:
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            self._handle_line(line)

    def _handle_line(self, line: bytes) -> None:
        asked = "a command"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            reply: str | None = "500 5.5.2 The command is not UTF-8"
        else:
            if self._step:
                asked, reply = "AUTH", self._next_step(self._step(text))
            else:
                verb, _, argument = text.partition(" ")
                command = self._commands.get(verb.upper())
                asked = text if command and verb.upper() != "AUTH" else verb  # never a password
                reply = command(argument.strip()) if command else f"502 5.5.1 {verb[:20]!a} is not implemented"
        if reply is None or self._transport is None:
            return
        self._note(asked, reply)
        self._errors += reply.startswith(("50", "53"))
        if self._errors > ERRORS_LIMIT:
            reply = "421 4.7.0 Too many errors"
        self._send(reply)
        if reply.startswith(("421", "221")):
            self._transport.close()

    def _ehlo(self, argument: str) -> str:
        if not argument:
            return "501 5.5.4 A name is needed"
        self._greeted = True
        self._envelope = None
        offers = ["localhost", "PIPELINING", f"SIZE {MAIL_LIMIT}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        offers.append("AUTH PLAIN LOGIN" if self._secure else "STARTTLS")
        return "\r\n".join([*(f"250-{offer}" for offer in offers[:-1]), f"250 {offers[-1]}"])

    def _starttls(self, argument: str) -> str | None:
        if self._secure or argument:
            return "503 5.5.1 TLS is in use already" if self._secure else "501 5.5.4 STARTTLS has no argument"
        self._paused = True
        self._buffer.clear()  # RFC 3207 section 6: nothing sent in the clear is processed under TLS
        self._send("220 2.0.0 Ready")
        self._upgrade = asyncio.get_running_loop().create_task(self._secure_connection())
        return None

    async def _secure_connection(self) -> None:
        loop, plain = asyncio.get_running_loop(), self._transport
        if plain is None:
            return
        try:
            secured = await loop.start_tls(plain, self, self._state.tls, server_side=True)
        except (OSError, asyncio.CancelledError) as error:
            secured = None
            self._state.refusals.note("smtp", "STARTTLS", "closed", f"the TLS handshake failed: {error}")
        self._listener.remove(plain)
        if secured is None:
            plain.abort()
            return
        self._transport = self._listener.add(secured)
        self._secure, self._greeted, self._paused = True, False, False
        self._process()

    def _auth(self, argument: str) -> str:
        if not self._secure:
            return "538 5.7.11 Encryption is required; issue STARTTLS"
        if self._authenticated or not self._greeted or self._envelope:
            return "503 5.5.1 Not now"
        return self._next_step(self._state.login.begin(argument))

    def _next_step(self, outcome: tuple[str, Step | None]) -> str:
        reply, self._step = outcome
        self._authenticated = self._authenticated or reply.startswith("235")
        return reply

    def _mail(self, argument: str) -> str | None:
        if not self._secure or not self._authenticated:
            return "530 5.7.0 Authentication is required" if self._secure else "530 5.7.0 Issue STARTTLS first"
        if not self._greeted or self._envelope:
            return "503 5.5.1 Bad sequence of commands"
        path = read_path(argument, "FROM")
        if path is None:
            return "501 5.5.4 MAIL FROM:<address> is expected"
        address, parameters = path
        problem = sender_problem(address, parameters)
        if problem:
            return problem
        fault = self._state.faults.draw("smtp")
        if fault and fault.kind is Kind.GOAWAY:
            return "421 4.3.2 The server is shutting down"
        if fault and fault.kind is Kind.REFUSE and self._transport:
            self._transport.abort()
            return None
        self._envelope = MailEnvelope(fault, parameters)
        return "250 2.1.0 Sender ok"

    def _rcpt(self, argument: str) -> str:
        if self._envelope is None:
            return "503 5.5.1 MAIL comes first"
        path = read_path(argument, "TO")
        if path is None or not is_address(path[0]):
            return "501 5.1.3 RCPT TO:<address> is expected"
        address, parameters = path
        if parameters:
            return "555 5.5.4 RCPT takes no parameters here"
        if not address.isascii() and not self._envelope.utf8:
            return "553 5.6.7 The address needs SMTPUTF8"
        if len(self._envelope.recipients) >= RECIPIENTS_LIMIT:
            return "452 4.5.3 Too many recipients"
        refusal = self._state.mailboxes.refusal(address)
        if refusal:
            self._state.record.refuse("smtp")
            return refusal
        self._envelope.recipients.append(address)
        return "250 2.1.5 Recipient ok"

    def _data(self, argument: str) -> str:
        if self._envelope is None or argument:
            return "503 5.5.1 MAIL comes first" if self._envelope is None else "501 5.5.4 DATA has no argument"
        if not self._envelope.recipients:
            return "554 5.5.1 There are no valid recipients"
        self._in_data, self._too_big, self._scanned = True, False, 0
        self._buffer[:0] = b"\r\n"  # so that a final dot in the first line is found as well
        return "354 End with a dot on a line of its own"

    def _rset(self, argument: str) -> str:
        self._envelope = None
        return "250 2.0.0 Forgotten"

    def _quit(self, argument: str) -> str:
        return "221 2.0.0 Bye"

    def _read_mail(self) -> bool:
        """Process the mail when its final dot has arrived; return whether it has."""
        end = self._buffer.find(b"\r\n.\r\n", self._scanned)
        if end < 0:
            if len(self._buffer) > MAIL_LIMIT + COMMAND_LIMIT:
                self._too_big = True
                del self._buffer[:-4]
            self._scanned = max(0, len(self._buffer) - 4)
            return False
        mail = bytes(self._buffer[2 : end + 2]).replace(b"\r\n.", b"\r\n")
        del self._buffer[: end + 5]
        envelope, self._envelope = self._envelope, None
        self._in_data = False
        assert envelope is not None
        self._finish_mail(envelope, mail[1:] if mail.startswith(b".") else mail)
        return True

    def _finish_mail(self, envelope: MailEnvelope, mail: bytes) -> None:
        fault = envelope.fault
        if fault and fault.kind is Kind.HANG:
            self._pause()
            return
        if fault and fault.kind is Kind.STATUS:
            self._state.record.refuse_by_fault("smtp", " ".join(envelope.recipients), mail)
            self._finish(failure_reply(fault))
            return
        fields = read_fields(mail)
        problem = mail_problem(mail, fields, utf8=envelope.utf8)
        if problem or self._too_big or fields is None:
            self._state.record.refuse("smtp")
            reply = "552 5.3.4 The mail is too big" if self._too_big else problem or "554 5.6.0 No mail"
            self._note("a mail", reply)
            self._finish(reply)
            return
        text, headers, campaign = mail.decode("utf-8", "replace"), dict(fields), campaign_of(fields)
        for address in envelope.recipients:
            self._state.record.accept("smtp", Accepted(address, campaign, headers, text))
        if fault and fault.kind is Kind.CUT and self._transport:
            self._transport.abort()
        elif fault and fault.kind is Kind.DELAY:
            self._pause()
            self._timer = asyncio.get_running_loop().call_later(fault.seconds or 0.0, self._resume)
        else:
            self._finish("250 2.0.0 Accepted")

    def _note(self, asked: str, reply: str) -> None:
        if reply.startswith(("4", "5")):
            self._state.refusals.note("smtp", asked, reply[:3], reply[4:])

    def _pause(self) -> None:
        self._paused = True
        if self._transport:
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._paused, self._timer = False, None
        if self._transport:
            self._transport.resume_reading()
            self._finish("250 2.0.0 Accepted")
            self._process()

    def _finish(self, reply: str) -> None:
        self._send(reply)
        if reply.startswith("421") and self._transport:
            self._transport.close()

    def _send(self, reply: str) -> None:
        if self._transport:
            self._transport.write(reply.encode() + b"\r\n")
