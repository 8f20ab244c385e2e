"""The bytes of one SMTP connection: what is written, the replies, TLS, and whether the kernel has taken it all.

Everything a relay can say is bounded: a line, the lines of a reply, replies nobody asked for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

import msgspec

LINE_BYTES = 4096  # RFC 5321 4.5.3.1.5 asks for 512
LINES = 100  # of one reply
UNASKED = 4  # replies beyond those owed: a relay may say 421 at any time (RFC 5321 3.8), and little else
CONNECT_SECONDS = 10.0


class SmtpReply(msgspec.Struct, frozen=True):
    """One reply. lines: as they came, without their ends."""

    status: int
    lines: tuple[str, ...]


class ConnectionLost(Exception):  # noqa: N818 - a state of the line, not a failure of ours
    """The connection is over, or speaks something that is not SMTP."""


class SmtpStream(asyncio.Protocol):
    """One connection, in the clear at first."""

    def __init__(self) -> None:
        self.held = False  # something written has not reached the kernel yet
        self._raw: asyncio.Transport | None = None
        self._top: asyncio.Transport | None = None  # what is spoken through: `_raw`, or TLS over it
        self._rest = b""
        self._lines: list[str] = []
        self._replies: deque[SmtpReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._owed = 1  # the greeting
        self._reason = ""

    @staticmethod
    async def connect(host: str, port: int) -> SmtpStream:
        """A connection in the clear. Raises OSError, TimeoutError."""
        async with asyncio.timeout(CONNECT_SECONDS):
            _, wire = await asyncio.get_running_loop().create_connection(SmtpStream, host.strip("[]"), port)
        return wire

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Goes on under TLS. What was said in the clear and not read is dropped: it may be somebody else's (RFC 3207
        section 6). Raises OSError, Lost."""
        if self._raw is None or self.is_over():
            raise ConnectionLost(self._reason or "the connection is closed")
        self._rest = b""
        self._lines.clear()
        self._replies.clear()
        top = await asyncio.get_running_loop().start_tls(
            self._raw, self, context, server_hostname=host.strip("[]"), ssl_handshake_timeout=CONNECT_SECONDS
        )
        if top is None or self.is_over():
            raise ConnectionLost(self._reason or "the connection ended in the TLS handshake")
        self._top = top
        # TLS hands its records on while the kernel takes all of them, and tells us when it has to hold one back.
        top.set_write_buffer_limits(high=1, low=0)

    def write(self, data: bytes, replies: int) -> None:
        """Sends `data`, for which so many replies are owed. Raises Lost when it is certain that not all of it went."""
        if self._top is None or self.is_over():
            raise ConnectionLost(self._reason or "the connection is closed")
        self._owed += replies
        self._top.write(data)
        if self.is_over():  # the kernel refused it
            raise ConnectionLost("the connection broke")

    async def read(self) -> SmtpReply:
        """The next reply. Raises Lost."""
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
        """True when nothing more can be said."""
        return bool(self._reason) or self._raw is None or self._raw.is_closing()

    def is_even(self) -> bool:
        """True when the connection stands, everything written was answered, and nothing else was said."""
        return not (self.is_over() or self._owed or self._replies or self._lines or self._rest)

    def is_behind(self) -> bool:
        """True when a reply is here that was not asked for: the two sides no longer speak of the same command."""
        return len(self._replies) > self._owed

    def abort(self, reason: str) -> None:
        """Hangs up at once; nothing that was held back goes out."""
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
        if len(self._replies) > max(self._owed, 0) + UNASKED:
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
