"""Health: whether both stores answer, and what is due; asked once a second however many want to know."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from tocsin.errors import Problem
from tocsin.stats.results import backlog
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

FRESH_SECONDS = 1.0  # for so long an answer is told again
PATIENCE_SECONDS = 0.2  # who asks waits no longer for a new answer: an old one is told meanwhile
STALE_SECONDS = 10.0  # an answer this old counts for nothing
LIMIT_SECONDS = 5.0  # after which a store that says nothing is away
BACKLOG = ("chunks", "overdue", "leaving", "leaving_oldest")
UNKNOWN: Mapping[str, float] = dict.fromkeys(BACKLOG, math.nan)


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What this process is, as it was when it started. migration: of the ledger; facts: its engine's version."""

    version: str
    role: str
    ledger: str
    migration: str
    facts: str
    facts_version: str
    started_at: float


class Health:
    """The state of both stores. Nobody asks them while nobody asks us."""

    def __init__(self, ledger: Ledger, facts: Facts, clock: Callable[[], float], installation: Installation):
        self.installation = installation
        self._ledger = ledger
        self._facts = facts
        self._clock = clock
        self._asking: asyncio.Task[None] | None = None
        self._known_at = float("-inf")
        self._away: tuple[str, ...] = ()
        self._backlog: Mapping[str, float] = UNKNOWN

    async def check(self) -> None:
        """Return while both stores answer. Raises Problem 503, which names the store that does not."""
        await self._look()
        if time.monotonic() - self._known_at > STALE_SECONDS:
            raise _away(("a store",))
        if self._away:
            raise _away(self._away)

    async def read_backlog(self) -> Mapping[str, float]:
        """Return the BACKLOG that waits, NaN while the ledger cannot be read."""
        await self._look()
        return UNKNOWN if time.monotonic() - self._known_at > STALE_SECONDS else self._backlog

    async def _look(self) -> None:
        if time.monotonic() - self._known_at > FRESH_SECONDS:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
            fresh = time.monotonic() - self._known_at < STALE_SECONDS
            await asyncio.wait([self._asking], timeout=PATIENCE_SECONDS if fresh else LIMIT_SECONDS)

    async def _ask(self) -> None:
        reading = self._ledger.read(lambda connection: backlog(connection, self._clock()))
        parts: dict[str, Awaitable[object]] = {"ledger": reading, "facts": self._facts.check()}
        found = await asyncio.gather(*map(_limit, parts.values()), return_exceptions=True)
        failed = {name: one for name, one in zip(parts, found, strict=True) if isinstance(one, Exception)}
        if failed and tuple(failed) != self._away:
            log.error("not healthy", **{name: type(one).__name__ for name, one in failed.items()})
        self._backlog = found[0] if isinstance(found[0], Mapping) else UNKNOWN
        self._away, self._known_at = tuple(failed), time.monotonic()


async def _limit(part: Awaitable[object]) -> object:
    async with asyncio.timeout(LIMIT_SECONDS):
        return await part


def _away(names: tuple[str, ...]) -> Problem:
    return Problem(f"No answer from: {', '.join(names)}", code=503, status=503)
