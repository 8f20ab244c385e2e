"""The proxy on the control port: `CONNECT fcm.googleapis.com:443` leads to the sandbox's FCM, and so on.

Senders whose library knows one host and no other come here by `HTTPS_PROXY`, as they are. It leads to this sandbox's
own ports and nowhere else. What is no CONNECT goes to the control API.

Source: RFC 9110 9.3.6.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping

from tocsin.sandbox.credentials import VENDOR_HOSTS
from tocsin.sandbox.listener import HOST, Listener
from tocsin.sandbox.refusals import RefusalLog

HEAD_LIMIT = 16 * 1024
"""Bytes of a CONNECT with its headers."""

_CONNECT = b"CONNECT "
_TARGET = re.compile(rb"CONNECT ([^\s:]{1,255}):(\d{1,5}) HTTP/1\.[01]\r\n")


def find_port(host: str, port: int, ports: Mapping[str, int]) -> int | None:
    """Return the port of this sandbox that stands for `host` and `port`, None when there is none."""
    host = host.lower().rstrip(".")
    if host in (HOST, "localhost"):
        return port if port in ports.values() else None
    for vendor, names in VENDOR_HOSTS.items():
        parent = "*." + host.partition(".")[2]
        if port in (443, 2197) and (host in names or parent in names):  # 2197: Apple's second port
            return ports[vendor]
    return None


class Entrance(asyncio.Protocol):
    """One connection to the control port until its first bytes say what it wants."""

    def __init__(
        self,
        listener: Listener,
        ports: Mapping[str, int],
        refusals: RefusalLog,
        make_control: Callable[[], asyncio.Protocol],
    ) -> None:
        self._listener = listener
        self._ports = ports
        self._refusals = refusals
        self._make_control = make_control
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self._transport = self._listener.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._listener.remove(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Pass the connection on as soon as it is clear where to."""
        self._buffer += data
        assert self._transport is not None
        if not self._buffer.startswith(_CONNECT[: len(self._buffer)]):
            self._hand_over(self._make_control())
        elif b"\r\n\r\n" in self._buffer:
            self._connect(self._transport)
        elif len(self._buffer) > HEAD_LIMIT:
            self._transport.abort()

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        transport, self._transport = self._transport, None
        assert transport is not None
        self._listener.remove(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._buffer))

    def _connect(self, transport: asyncio.Transport) -> None:
        asked = _TARGET.match(self._buffer)
        port = find_port(asked[1].decode("latin-1"), int(asked[2]), self._ports) if asked else None
        if port is None:
            line = self._buffer.partition(b"\r\n")[0].decode("latin-1")
            self._refusals.note(
                "proxy", line, "403", "the proxy leads to the hosts of FCM, APNs, WNS and web push only, port 443"
            )
            transport.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            transport.close()
            return
        transport.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open_tunnel(transport, port))

    async def _open_tunnel(self, transport: asyncio.Transport, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            far, _ = await loop.create_connection(lambda: Pipe(transport), HOST, port)
        except OSError:
            transport.abort()
            return
        if self._transport is None:  # the client left in the meantime
            far.abort()
            return
        early = bytes(self._buffer).partition(b"\r\n\r\n")[2]
        transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        transport.set_protocol(Pipe(far, lambda: self._listener.remove(transport)))
        if early:
            far.write(early)
        transport.resume_reading()


class Pipe(asyncio.Protocol):
    """One direction of a tunnel: what comes is written to `other`, which is read no faster than this end is written."""

    def __init__(self, other: asyncio.Transport, closed: Callable[[], None] = lambda: None) -> None:
        self._other = other
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self._other.write(data)

    def pause_writing(self) -> None:
        """Stop reading from the other end while this one is full."""
        self._other.pause_reading()

    def resume_writing(self) -> None:
        """Read again; see pause_writing."""
        self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end, a broken connection by a broken one."""
        if exc is None:
            self._other.close()
        else:
            self._other.abort()
        self._closed()
