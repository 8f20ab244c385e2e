"""A listening socket on loopback with its open connections, and the choice of a protocol by ALPN."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress

from tocsin.errors import Misconfigured

HOST = "127.0.0.1"
CONNECTIONS_LIMIT = 1024
"""Open connections of one listener; a further one is dropped at once."""

CLOSING_LIMIT = 2.0
"""Seconds that `close` waits at most."""

MakeProtocol = Callable[["Listener"], asyncio.Protocol]


def bind(port: int) -> socket.socket:
    """Return a socket bound to `port` on loopback, 0 for a free one. Raise Misconfigured when the port is in use."""
    try:
        return socket.create_server((HOST, port), backlog=512)
    except OSError as error:
        raise Misconfigured(f"Port {port} on {HOST} cannot be had ({error.strerror}); choose another.") from None


class Listener:
    """Serves one socket until `close`, and knows its open connections."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.Transport] = set()

    @classmethod
    async def open(cls, sock: socket.socket, tls: ssl.SSLContext | None, make: MakeProtocol) -> Listener:
        """Accept connections on `sock` and return the listener; `make` makes the protocol of each connection."""
        listener = cls()
        loop = asyncio.get_running_loop()
        listener._server = await loop.create_server(lambda: make(listener), sock=sock, ssl=tls)
        return listener

    def add(self, transport: asyncio.BaseTransport) -> asyncio.Transport:
        """Register a new connection and return its transport, aborted when there are more than CONNECTIONS_LIMIT."""
        assert isinstance(transport, asyncio.Transport)
        self._transports.add(transport)
        # asyncio sets it only when the listening socket was made with IPPROTO_TCP, which `socket.create_server` is not.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self._transports) > CONNECTIONS_LIMIT:
            transport.abort()
        return transport

    def remove(self, transport: asyncio.Transport | None) -> None:
        """Forget a closed connection."""
        if transport is not None:
            self._transports.discard(transport)

    async def close(self) -> None:
        """Stop accepting and drop the open connections."""
        if self._server is None:
            return
        self._server.close()
        for transport in tuple(self._transports):
            transport.abort()
        # From Python 3.12 on this also waits for TLS handshakes in progress, which cannot be cancelled here.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), CLOSING_LIMIT)
        await asyncio.sleep(0)  # runs connection_lost of the dropped connections


class Negotiated(asyncio.Protocol):
    """Passes a TLS connection to the protocol that ALPN selected: "" when the client named none, or none of ours."""

    def __init__(self, choices: Mapping[str, Callable[[], asyncio.Protocol]]) -> None:
        self._choices = choices

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Choose by the ALPN result of the finished handshake."""
        assert isinstance(transport, asyncio.Transport)
        secured = transport.get_extra_info("ssl_object")
        protocol = self._choices[secured.selected_alpn_protocol() or ""]()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
