"""One SMTP connection: writes, replies, TLS, and whether the kernel has taken everything that was written.

Everything a relay can send is bounded: a line, the lines of a reply, unsolicited replies. aiosmtplib 5.1.3 keeps an
unsolicited reply for the next command, so that a refused mail is reported as accepted, and has no PIPELINING.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

import msgspec

from tocsin.providers.mail.lookup import find_addresses

LINE_BYTES = 4096  # RFC 5321 4.5.3.1.5 asks for 512
LINES = 100  # of one reply
UNSOLICITED = 4  # replies beyond those owed: a relay may send 421 at any time (RFC 5321 3.8)
CONNECT_SECONDS = 10.0
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # OpenSSL's, to an answer in clear text: before 3.2, since


class SmtpReply(msgspec.Struct, frozen=True):
    """One reply. lines: as received, without line ends."""

    status: int
    lines: tuple[str, ...]


class ConnectionLost(Exception):  # noqa: N818 - the state of a connection
    """The connection ended, or the other side does not speak SMTP."""


class TlsFailed(ConnectionLost):
    """TLS with the relay is impossible until somebody changes a setting, ours or the relay's."""


class SmtpStream(asyncio.Protocol):
    """One connection, in the clear at first."""

    def __init__(self) -> None:
        self.held = False  # the kernel has not taken everything that was written
        self._raw: asyncio.Transport | None = None
        self._top: asyncio.Transport | None = None  # where we write: `_raw`, or TLS over it
        self._rest = b""
        self._lines: list[str] = []
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._owed = 1  # the greeting
        self._reason = ""

    @staticmethod
    async def connect(host: str, port: int, *, public: bool = False) -> SmtpStream:
        """Return a new connection in the clear, to the first address of the host that takes one. public: as in
        `find_addresses`. Raises OSError, TimeoutError."""
        refused = OSError("the host has no address")
        async with asyncio.timeout(CONNECT_SECONDS):
            for address in await find_addresses(host.strip("[]"), public=public):
                try:
                    _, wire = await asyncio.get_running_loop().create_connection(SmtpStream, address, port)
                except OSError as error:
                    refused = error
                else:
                    return wire
        raise refused

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS. Unread replies are dropped: somebody else may have injected them (RFC 3207 6). Raises OSError,
        ConnectionLost; TlsFailed for a certificate that is not trusted, and for a relay that speaks no TLS there."""
        if self._raw is None or self.is_over():
            raise ConnectionLost(self._reason or "the connection is closed")
        self._rest = b""
        self._lines.clear()
        self._replies.clear()
        try:
            top = await asyncio.get_running_loop().start_tls(
                self._raw, self, context, server_hostname=host.strip("[]"), ssl_handshake_timeout=CONNECT_SECONDS
            )
        except ssl.SSLCertVerificationError as error:
            raise TlsFailed(f"the relay's certificate: {error.verify_message}") from None
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                raise TlsFailed(f"the relay speaks no TLS there: {error.reason}") from None
            raise
        if top is None or self.is_over():
            raise ConnectionLost(self._reason or "the connection ended in the TLS handshake")
        self._top = top
        # TLS passes its records on while the kernel takes all of them, and calls `pause_writing` when it cannot.
        top.set_write_buffer_limits(high=1, low=0)

    def write(self, data: bytes, replies: int) -> None:
        """Write `data`, which `replies` replies will answer. Raises ConnectionLost when the kernel did not take all of
        it."""
        if self._top is None or self.is_over():
            raise ConnectionLost(self._reason or "the connection is closed")
        self._owed += replies
        self._top.write(data)
        if self.is_over():  # the kernel refused it
            raise ConnectionLost("the connection broke")

    async def read(self) -> SmtpReply:
        """Return the next reply. Raises ConnectionLost."""
        while not self._replies:
            if self._reason:
                raise ConnectionLost(self._reason)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._owed -= 1
        return self._replies.popleft()

    def is_over(self) -> bool:
        """Return whether the connection has ended."""
        return bool(self._reason) or self._raw is None or self._raw.is_closing()

    def is_even(self) -> bool:
        """Return whether the connection is open, every command is answered, and no unsolicited byte was received."""
        return not (self.is_over() or self._owed or self._replies or self._lines or self._rest)

    def is_behind(self) -> bool:
        """Return whether there is a reply to no command: later replies would be taken for those of other commands."""
        return len(self._replies) > self._owed

    def abort(self, reason: str) -> None:
        """Close the connection at once; what the kernel has not taken is not sent."""
        self._reason = self._reason or reason
        if self._raw is not None:
            self._raw.abort()
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = self._top = transport
        transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._reason = self._reason or (f"{type(exc).__name__}: {exc}" if exc else "the relay hung up")
        self._wake()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.held = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.held = False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > LINE_BYTES:
            self.abort("a line of the relay's reply is too long")
        if len(self._replies) > max(self._owed, 0) + UNSOLICITED:
            self.abort("the relay says too much")
        self._wake()

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if len(line) > LINE_BYTES or len(self._lines) >= LINES:
            self.abort("the relay's reply is too long")
        elif not (line[:3].isdigit() and b"200" <= line[:3] <= b"599" and line[3:4] in (b"", b" ", b"-", b"\r")):
            self.abort(f"the relay does not speak SMTP: {text[:60]!r}")
        else:
            self._lines.append(text)
            if line[3:4] != b"-":
                self._replies.append(SmtpReply(int(line[:3]), tuple(self._lines)))
                self._lines.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
