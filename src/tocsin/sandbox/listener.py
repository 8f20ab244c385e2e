"""A listening socket on loopback, the connections that came through it, and the choice of protocol by ALPN."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress

from tocsin.errors import Misconfigured

HOST = "127.0.0.1"
CONNECTIONS_LIMIT = 1024
"""Connections one listener holds at a time; one more is closed at once."""

CLOSING_LIMIT = 2.0
"""Seconds `close` waits at most."""

MakeProtocol = Callable[["Listener"], asyncio.Protocol]


def bind(port: int) -> socket.socket:
    """A socket bound to `port` on loopback, 0 for a free one. Raises Misconfigured where it is taken."""
    try:
        return socket.create_server((HOST, port), backlog=512)
    except OSError as error:
        raise Misconfigured(f"Port {port} on {HOST} cannot be had ({error.strerror}); choose another.") from None


class Listener:
    """Serves one socket until `close`, which also drops the connections that are open then."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.Transport] = set()

    @classmethod
    async def open(cls, taken: socket.socket, tls: ssl.SSLContext | None, make: MakeProtocol) -> Listener:
        """Starts to accept on `taken`; `make` is called for each connection."""
        listener = cls()
        loop = asyncio.get_running_loop()
        listener._server = await loop.create_server(lambda: make(listener), sock=taken, ssl=tls)
        return listener

    def admit(self, transport: asyncio.BaseTransport) -> asyncio.Transport:
        """Takes a new connection into the books, or drops it where there are too many."""
        assert isinstance(transport, asyncio.Transport)
        self._transports.add(transport)
        # asyncio does this only where the listening socket names its protocol, which `create_server` leaves out.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self._transports) > CONNECTIONS_LIMIT:
            transport.abort()
        return transport

    def dismiss(self, transport: asyncio.Transport | None) -> None:
        """Forgets a connection that is gone."""
        if transport is not None:
            self._transports.discard(transport)

    async def close(self) -> None:
        """Stops accepting and drops what is open."""
        if self._server is None:
            return
        self._server.close()
        for transport in tuple(self._transports):
            transport.abort()
        # From Python 3.12 on this also waits for handshakes under way, which nothing here can end sooner.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), CLOSING_LIMIT)
        await asyncio.sleep(0)  # lets the dropped connections hear of it


class Negotiated(asyncio.Protocol):
    """Hands a TLS connection to the protocol that ALPN chose, and drops one that agreed on none of `choices`."""

    def __init__(self, choices: Mapping[str, Callable[[], asyncio.Protocol]]) -> None:
        self._choices = choices

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Looks at the outcome of the handshake."""
        assert isinstance(transport, asyncio.Transport)
        secured = transport.get_extra_info("ssl_object")
        make = self._choices.get(secured.selected_alpn_protocol() or "")
        if make is None:
            transport.abort()
            return
        protocol = make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
