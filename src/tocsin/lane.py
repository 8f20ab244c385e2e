"""A lane is one credential of one account. It pauses by itself; the lanes beside it go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from sqlalchemy import select

from tocsin import metrics
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.pacing import lane_pause
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Message, Provider, Receipt, Scope
from tocsin.providers.transport import Transport
from tocsin.store import schema
from tocsin.store.ledger import Ledger

log = structlog.get_logger()


class Lane:
    """One provider of one account, with its pause. A provider whose settings do not load is None: its messages wait for
    the operator. Credentials are proven by one message before the others follow."""

    def __init__(self, account_id: str, name: str, provider: Provider | None, clock: Callable[[], float]):
        self.account_id = account_id
        self.name = name
        self.provider = provider
        self.paused_until = 0.0
        self._clock = clock
        self._proven = False
        self._probe = asyncio.Lock()

    async def send(self, message: Message) -> Receipt:
        """Hands a message to the vendor, unless the lane is paused: then it comes back without a try spent."""
        if not self._proven:
            async with self._probe:
                if not self._proven:
                    return await self._hand_over(message)
        return await self._hand_over(message)

    async def _hand_over(self, message: Message) -> Receipt:
        now = self._clock()
        if self.paused_until > now:
            return Receipt(
                outcome=Outcome.THROTTLED, code="lane paused", retry_after=self.paused_until - now, scope=Scope.LANE
            )
        if self.provider is None:
            receipt = Receipt(outcome=Outcome.DENIED, code="misconfigured", scope=Scope.LANE)
        else:
            try:
                receipt = await self.provider.send(message, now)
            except Exception:  # a bug of the provider: nobody knows whether the message went out
                log.exception("provider failed", account=self.account_id, provider=self.name)
                receipt = Receipt(outcome=Outcome.UNKNOWN, code="internal")
        metrics.RECEIPTS.labels(provider=self.name, outcome=receipt.outcome.value).inc()
        self._proven = receipt.outcome is not Outcome.DENIED
        if pause := lane_pause(receipt):
            self._pause(now, pause, receipt)
        return receipt

    def _pause(self, now: float, seconds: float, receipt: Receipt) -> None:
        if self.paused_until <= now:  # once for all the answers of one window
            log.warning(
                "lane paused",
                account=self.account_id,
                provider=self.name,
                seconds=round(seconds, 1),
                code=receipt.code,
                detail=receipt.detail,
            )
        self.paused_until = max(self.paused_until, now + seconds)


class Lanes:
    """The lanes of every account, made when first needed and anew when `tocsin provider set` changed the credential."""

    def __init__(self, ledger: Ledger, transport: Transport, clock: Callable[[], float]):
        self._ledger = ledger
        self._clock = clock
        self._transport = transport
        self._lanes: dict[tuple[str, str], tuple[float, Lane]] = {}

    async def of(self, account_id: str) -> dict[str, Lane]:
        """An account's lanes by platform. A platform without one has no provider set."""
        table = schema.provider
        rows = await self._ledger.read(
            lambda connection: connection.execute(
                select(table.c.name, table.c.settings, table.c.changed_at).where(table.c.account_id == account_id)
            ).all()
        )
        lanes: dict[str, Lane] = {}
        for name, settings, changed_at in rows:
            key = (account_id, name)
            if key not in self._lanes or self._lanes[key][0] != changed_at:
                self._lanes[key] = (changed_at, self._make(account_id, name, settings))
            lanes[BY_NAME[name].platform] = self._lanes[key][1]
        return lanes

    def _make(self, account_id: str, name: str, settings: str) -> Lane:
        cls = BY_NAME[name]
        try:
            provider = cls(msgspec.json.decode(settings, type=cls.Settings), self._transport)
        except (Misconfigured, msgspec.ValidationError) as error:
            log.error("provider cannot work", account=account_id, provider=name, reason=str(error))
            return Lane(account_id, name, None, self._clock)
        return Lane(account_id, name, provider, self._clock)
