"""Connections to the vendors: HTTP/2 and HTTP/1.1 by libcurl, SMTP by `mail/`, all on one event loop.

A `Transport` belongs to the process. Each provider object gets a pool of its own: a connection never carries another
account's credentials (APNs ties it to the first team that pushed on it).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from weakref import WeakSet

import msgspec

from tocsin.providers.http.multi import CurlMulti
from tocsin.providers.http.transfer import (
    Allows,
    HandOver,
    HttpPost,
    MailTransfer,
    Transfer,
    VendorAnswer,
    is_loopback,
    unnoted,
)
from tocsin.providers.mail.pool import Server, SmtpPool

__all__ = ["HttpPost", "MailTransfer", "Pool", "PoolLimits", "Server", "SmtpPool", "Transport", "VendorAnswer"]

RENEW_SECONDS = 1.0  # at most one new set of connections in this time: APNs treats rapid reconnecting as an attack


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one pool. connections: to one host. streams: at once on an HTTP/2 connection; the host's SETTINGS may
    lower it. in_flight: requests at once; others wait, and a request's timeout starts after the wait. idle: seconds
    after which an unused connection is not used again. fresh_dns: look the host up for every connection. allows: says
    which addresses may be connected to; None for all."""

    connections: int = 4
    streams: int = 100
    in_flight: int = 400
    idle: int = 118
    fresh_dns: bool = False
    allows: Allows | None = None


class Pool:
    """Connections and handles for one provider object. Never raises for what happens on the wire."""

    def __init__(self, ca: str, limits: PoolLimits) -> None:
        self._ca = ca
        self._limits = limits
        self._line = self._make_line()
        self._leaving: list[CurlMulti] = []
        self._free = limits.in_flight  # requests that may start now; others wait for a turn
        self._turns: deque[asyncio.Future[None]] = deque()
        self._idle: list[Transfer] = []
        self._closed = False
        self._retired = False
        self._renewed = 0.0
        self.generation = 0

    @property
    def at_once(self) -> int:
        """How many requests may be in flight."""
        return self._limits.in_flight

    async def request(self, request: HttpPost, hand_over: HandOver = unnoted) -> VendorAnswer:
        """Send one POST, at most once: it is sent again only when the peer has said that it did not process the
        first. hand_over: called before a byte of its body can leave."""
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
                if not turn.cancelled():  # the turn came in the same iteration of the loop
                    self._pass_on()
                raise
        try:
            answer, refused = await self._attempt(request, hand_over)
            if refused:
                # libcurl fails a stream after five refusals, and at once the one whose write has read GOAWAY.
                answer, _ = await self._attempt(request, hand_over)
            return answer
        finally:
            self._pass_on()
            self._close_if_left()

    def _pass_on(self) -> None:
        """Let the next waiting request start in place of one that is done."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():  # its caller may have been cancelled
                turn.set_result(None)
                return
        self._free += 1

    async def _attempt(self, request: HttpPost, hand_over: HandOver) -> tuple[VendorAnswer, bool]:
        """Return the answer, and whether the peer has said that it did not process the request."""
        if self._closed:
            return VendorAnswer(failure="unsent", detail="the pool is closed"), False
        transfer = self._idle.pop() if self._idle else self._make_http()
        transfer.load(request, hand_over)
        if self._line.retired:  # the pool has closed it, and is asked once more
            self._line = self._make_line()
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
            # libcurl keeps an HTTP/2 connection whose streams time out, and uses one that has just died. On one that
            # a firewall dropped every later message would time out and be unknown.
            self.renew(generation)
        return answer, refused

    def renew(self, generation: int) -> None:
        """Use new connections from now on; answers still on their way are read from the old ones. generation: the
        pool's before the request that failed. Do nothing when that one is already left, or within RENEW_SECONDS."""
        now = time.monotonic()
        if generation != self.generation or now - self._renewed < RENEW_SECONDS or self._closed:
            return
        self.generation += 1
        self._renewed = now
        old, self._line = self._line, self._make_line()
        self._leaving = [line for line in self._leaving if line.busy]
        if old.busy:
            self._leaving.append(old)
        old.retire()

    def retire(self) -> None:
        """Keep no connection from now on when the last answer is in. A later request is sent, over a new one."""
        self._retired = True
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._retired and self._free == self._limits.in_flight:
            self._line.retire()
            while self._idle:
                self._idle.pop().curl.close()

    async def aclose(self) -> None:
        """Close every connection; a request in flight gets a failure."""
        self._closed = True
        for line in (self._line, *self._leaving):
            line.close("the pool was closed")

    def _make_line(self) -> CurlMulti:
        return CurlMulti(self._limits.connections, self._limits.streams)

    def _make_http(self) -> Transfer:
        return Transfer(self._ca, self._limits.idle).prepare_http(
            fresh_dns=self._limits.fresh_dns, allows=self._limits.allows
        )


class Transport:
    """All pools of a process; belongs to one event loop."""

    def __init__(self) -> None:
        self._open: WeakSet[Pool | SmtpPool] = WeakSet()  # without those that retired and were forgotten

    def pool(self, *, ca: str = "", limits: PoolLimits | None = None) -> Pool:
        """Return a new pool. ca: PEM text of the authorities to trust, empty for the machine's store."""
        pool = Pool(ca, limits or PoolLimits())
        self._open.add(pool)
        return pool

    def relay(self, server: Server, *, ca: str = "", connections: int = 20) -> SmtpPool:
        """Return a new pool of connections to a mail relay; `ca` as for `pool`. Raises Misconfigured for a wrong
        `ca`."""
        relay = SmtpPool(server, ca, connections)
        self._open.add(relay)
        return relay

    async def aclose(self) -> None:
        """Close every pool."""
        for one in list(self._open):
            await one.aclose()
        self._open.clear()

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
