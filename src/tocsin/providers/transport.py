"""The way to the vendors: HTTP/2 and HTTP/1.1 by libcurl, SMTP by hand, everything in flight on one event loop.

A `Transport` belongs to the process and hands out pools and relays, each to one provider object: a connection never
carries another account's credentials (APNs ties it to the first team that pushed on it).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import msgspec

from tocsin.providers.http.multi import CurlMulti
from tocsin.providers.http.transfer import HttpPost, MailTransfer, Transfer, VendorAnswer, is_loopback
from tocsin.providers.mail.pool import Server, SmtpPool

__all__ = ["HttpPost", "MailTransfer", "Pool", "PoolLimits", "Server", "SmtpPool", "Transport", "VendorAnswer"]

RENEW_SECONDS = 1.0  # APNs takes rapid reconnecting for an attack: at most one new set of connections in this time


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one pool asks of a vendor's host. connections: to one host. streams: at once on an HTTP/2 connection,
    lowered by the host's own SETTINGS. in_flight: requests at once; the next one waits its turn without a clock.
    idle: seconds after which an unused connection is not used again. fresh_dns: look the host up every time."""

    connections: int = 4
    streams: int = 100
    in_flight: int = 400
    idle: int = 118
    fresh_dns: bool = False


class Pool:
    """Connections and handles for one provider object. Never raises for what happens on the wire."""

    def __init__(self, ca: str, limits: PoolLimits) -> None:
        self._ca = ca
        self._limits = limits
        self._line = CurlMulti(limits.connections, limits.streams)
        self._leaving: list[CurlMulti] = []
        self._free = limits.in_flight  # places; who finds none waits for a turn
        self._turns: deque[asyncio.Future[None]] = deque()
        self._idle: list[Transfer] = []
        self._closed = False
        self._renewed = 0.0
        self.generation = 0

    async def request(self, request: HttpPost) -> VendorAnswer:
        """One POST, at most once: a second copy leaves this machine only when the peer has refused the first."""
        if not request.url.startswith("https://") and not is_loopback(request.url):
            return VendorAnswer(failure="unsent", detail="plain http is only for this machine")
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # the place was given in the same turn of the loop
                    self._pass_on()
                raise
        try:
            answer, refused = await self._attempt(request)
            if refused:
                # libcurl gives up on a stream after five refusals, and at once on the one whose write has read GOAWAY.
                answer, _ = await self._attempt(request)
            return answer
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """The next in the queue takes the place of one that is done."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():  # its caller may have been cancelled
                turn.set_result(None)
                return
        self._free += 1

    async def _attempt(self, request: HttpPost) -> tuple[VendorAnswer, bool]:
        """The answer, and whether the peer has said that it did not process the request."""
        if self._closed:
            return VendorAnswer(failure="unsent", detail="the pool is closed"), False
        transfer = self._idle.pop() if self._idle else self._make_http()
        transfer.load(request)
        line, generation = self._line, self.generation
        try:
            error = await line.start(transfer)
        except asyncio.CancelledError:
            line.give_up(transfer)
            raise
        self._idle.append(transfer)
        if error is None:
            line.hear(transfer)
            return transfer.read_answer(), False
        answer, refused = transfer.read_failure(error), transfer.is_refused()
        if request.version == "2" and answer.failure == "unknown" and line.is_dead(transfer, error, request):
            # HTTP/2 keeps a connection whose streams time out, and hands a message to one that has just died. One
            # that a firewall has forgotten would swallow its share of all that follow, each of them an unknown.
            self.renew(generation)
        return answer, refused

    def renew(self, generation: int) -> None:
        """Leaves the connections of `generation` (the pool's `generation` before the request that met trouble) and
        starts anew; answers still on their way are read. Does nothing when that has just been done."""
        now = time.monotonic()
        if generation != self.generation or now - self._renewed < RENEW_SECONDS or self._closed:
            return
        self.generation += 1
        self._renewed = now
        old, self._line = self._line, CurlMulti(self._limits.connections, self._limits.streams)
        self._leaving = [line for line in self._leaving if line.busy]
        if old.busy:
            self._leaving.append(old)
        old.retire()

    async def aclose(self) -> None:
        """Closes every connection; a request under way gets its failure."""
        self._closed = True
        for line in (self._line, *self._leaving):
            line.close("the pool was closed")

    def _make_http(self) -> Transfer:
        return Transfer(self._ca, self._limits.idle).prepare_http(fresh_dns=self._limits.fresh_dns)


class Transport:
    """The process's way to the vendors; belongs to one event loop."""

    def __init__(self) -> None:
        self._open: list[Pool | SmtpPool] = []

    def pool(self, *, ca: str = "", limits: PoolLimits | None = None) -> Pool:
        """A pool of its own. `ca`: PEM text of the authorities to trust, empty for the machine's store."""
        pool = Pool(ca, limits or PoolLimits())
        self._open.append(pool)
        return pool

    def relay(self, server: Server, *, ca: str = "", connections: int = 20) -> SmtpPool:
        """Connections of its own to a mail relay; `ca` as for `pool`. Raises Misconfigured for a `ca` that is none."""
        relay = SmtpPool(server, ca, connections)
        self._open.append(relay)
        return relay

    async def aclose(self) -> None:
        """Closes every pool and relay it handed out."""
        for one in self._open:
            await one.aclose()
        self._open.clear()

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
