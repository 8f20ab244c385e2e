"""A lane is one credential of one account. It pauses by itself; the lanes beside it go on."""

from __future__ import annotations

import msgspec
import structlog
from sqlalchemy import select

from tocsin import metrics
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.pacing import DENIED_PAUSE, lane_pause
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Message, Provider, Receipt, Scope
from tocsin.providers.transport import Transport
from tocsin.store import schema
from tocsin.store.ledger import Ledger

log = structlog.get_logger()


class Lane:
    """One provider of one account, with its pause."""

    def __init__(self, account_id: str, provider: Provider):
        self.account_id = account_id
        self.provider = provider
        self.paused_until = 0.0

    async def send(self, message: Message, now: float) -> Receipt:
        """Hands a message to the vendor, unless the lane is paused: then it comes back without a try spent."""
        if self.paused_until > now:
            return Receipt(
                outcome=Outcome.THROTTLED, code="lane paused", retry_after=self.paused_until - now, scope=Scope.LANE
            )
        receipt = await self.provider.send(message, now)
        metrics.RECEIPTS.labels(provider=self.provider.name, outcome=receipt.outcome.value).inc()
        if pause := lane_pause(receipt):
            if self.paused_until <= now:
                log.warning(
                    "lane paused",
                    account=self.account_id,
                    provider=self.provider.name,
                    seconds=round(pause, 1),
                    code=receipt.code,
                    detail=receipt.detail,
                )
            self.paused_until = max(self.paused_until, now + pause)
        return receipt


class Lanes:
    """The lanes of every account, made when first needed and anew when `tocsin provider set` changed the credential."""

    def __init__(self, ledger: Ledger, transport: Transport):
        self._ledger = ledger
        self._transport = transport
        self._lanes: dict[tuple[str, str], tuple[float, Lane]] = {}
        self._broken: dict[tuple[str, str], float] = {}

    async def of(self, account_id: str, now: float) -> dict[str, Lane]:
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
                self._lanes[key] = (changed_at, self._make(account_id, name, settings, now))
            lane = self._lanes[key][1]
            lanes[lane.provider.platform] = lane
        return lanes

    def _make(self, account_id: str, name: str, settings: str, now: float) -> Lane:
        cls = BY_NAME[name]
        try:
            return Lane(account_id, cls(msgspec.json.decode(settings, type=cls.Settings), self._transport))
        except (Misconfigured, msgspec.ValidationError) as error:
            log.error("provider cannot work", account=account_id, provider=name, reason=str(error))
            return Lane(account_id, _Broken(cls.name, cls.kind, cls.platform, str(error)))


class _Broken:
    """Stands where a provider's settings cannot work: every message waits for the operator."""

    Settings = msgspec.Struct

    def __init__(self, name: str, kind: str, platform: str, reason: str):
        self.name, self.kind, self.platform, self._reason = name, kind, platform, reason

    async def send(self, message: Message, now: float) -> Receipt:
        return Receipt(
            outcome=Outcome.DENIED,
            code="misconfigured",
            detail=self._reason[:300],
            scope=Scope.LANE,
            retry_after=DENIED_PAUSE,
        )
