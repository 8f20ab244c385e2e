"""A lane is one credential of one account. It pauses by itself; the lanes beside it go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from tocsin.batch import Batch, Sent, carry
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.pacing import lane_pause
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Message, Provider, Receipt, Scope
from tocsin.providers.transport import Transport

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

    async def carry(self, batch: Batch) -> Sent:
        """Renders and sends a batch; see `batch.carry`."""
        return Sent(await carry(batch, self.send), self.paused_until)

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


class Credential(msgspec.Struct, frozen=True, array_like=True):
    """What `tocsin provider set` stored. settings: JSON. changed_at: epoch seconds; another time, another lane."""

    account_id: str
    name: str
    settings: str
    changed_at: float

    def __repr__(self) -> str:
        return f"Credential({self.account_id!r}, {self.name!r})"


class Lanes:
    """The lanes of this process, made when first needed and anew when the credential changed."""

    def __init__(self, transport: Transport, clock: Callable[[], float]):
        self._clock = clock
        self._transport = transport
        self._lanes: dict[tuple[str, str], tuple[float, Lane]] = {}

    def get(self, credential: Credential) -> Lane:
        key = (credential.account_id, credential.name)
        if key not in self._lanes or self._lanes[key][0] != credential.changed_at:
            self._lanes[key] = (credential.changed_at, self._make(credential))
        return self._lanes[key][1]

    def _make(self, credential: Credential) -> Lane:
        account_id, name = credential.account_id, credential.name
        cls = BY_NAME[name]
        try:
            provider = cls(msgspec.json.decode(credential.settings, type=cls.Settings), self._transport)
        except (Misconfigured, msgspec.ValidationError) as error:
            log.error("provider cannot work", account=account_id, provider=name, reason=str(error))
            return Lane(account_id, name, None, self._clock)
        return Lane(account_id, name, provider, self._clock)
