"""A worker on a stage: scripted vendors, people, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from sqlalchemy import select

from support.database_clock import follow_clock
from tocsin import queue
from tocsin.account import create_account
from tocsin.audience.members import count_reachable
from tocsin.audience.query import read_where
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.runs import find_campaign, insert_campaign
from tocsin.campaign.send import accept, read_asked
from tocsin.campaign.send_queue import SendQueue
from tocsin.campaign.spec import read_spec
from tocsin.channels import PLATFORMS, AddressKind, Platform
from tocsin.delivery.circuit_breaker import NO_RULES, BreakerRules
from tocsin.delivery.dispatcher import Dispatcher
from tocsin.delivery.lane import Lane
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.sender_pool import SenderPool
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.delivery.wakeup import Wakeup
from tocsin.delivery.worker import Worker
from tocsin.feedback.interactions import TRACK_DAYS
from tocsin.feedback.reports import Reports
from tocsin.feedback.signed_id import SignedIds
from tocsin.ingest import upload
from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Credential, HandOver, Message, Receipt, Scope, unnoted
from tocsin.queue import Chunk
from tocsin.settings import Settings
from tocsin.stats.results import read_result
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

NOW = 1_800_000_000.0
SETTINGS = Settings(window=2, lease_seconds=60.0, retry_floor=10.0, retries=2, message_hours=1.0)
CONTENT = {"title": "Hi", "body": "there"}
BODY = {"name": "n", "where": {}, "content": CONTENT, "devices": ["android"], "when": "now"}


Answer = Receipt | Outcome | Callable[[Message], Awaitable[Receipt | Outcome]]


class Vendor:
    """A vendor that answers by a script: the answers in turn, then always «accepted»."""

    name: ClassVar[str] = "script"
    kind: ClassVar[AddressKind] = "fcm"
    platform: ClassVar[Platform] = "android"
    Settings: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    def __init__(self, *answers: Answer):
        self.answers = list(answers)
        self.got: list[Message] = []
        self.accepted: Counter[str] = Counter()

    at_once: ClassVar[int] = 1000

    async def send(self, message: Message, now: float, hand_over: HandOver = unnoted) -> Receipt:
        hand_over()
        self.got.append(message)
        answer: Any = self.answers.pop(0) if self.answers else Outcome.ACCEPTED
        if callable(answer) and not isinstance(answer, Outcome):
            answer = await answer(message)
        receipt = answer if isinstance(answer, Receipt) else Receipt(outcome=answer, code=str(answer.value))
        self.accepted[message.address.value] += receipt.outcome is Outcome.ACCEPTED
        return receipt

    async def check(self, now: float) -> Receipt:
        return Receipt(outcome=Outcome.ACCEPTED)

    def retire(self) -> None:
        pass

    @property
    def tokens(self) -> list[str]:
        return [message.address.value for message in self.got]


class Script(SenderPool):
    """The lanes of every account lead to these vendors, in this process."""

    def __init__(
        self, vendors: Mapping[str, Vendor], clock: Callable[[], float], rules: BreakerRules = NO_RULES, ahead: int = 8
    ):
        super().__init__(0, ahead, clock, rules, lambda credential: vendors[credential.name])
        self._platforms = list(vendors)

    def lanes_of(self, credentials: Sequence[Credential]) -> Mapping[str, Lane]:
        return {platform: self.find_lane(Credential("any", platform, "{}", 1.0)) for platform in self._platforms}

    def list_lanes(self, account_id: str, platforms: Collection[str]) -> list[Lane]:
        return [lane for platform, lane in self.lanes_of(()).items() if platform in platforms]

    def find_current(self, credentials: Sequence[Credential]) -> Mapping[str, Lane] | None:
        return self.lanes_of(credentials)


class UntilIdle(Wakeup):
    """Stops the worker when it would wait with nothing to do."""

    worker: Worker

    async def wait(self, seconds: float) -> frozenset[str]:
        if self.worker.busy:
            return await super().wait(seconds)
        self.worker.stop()
        return frozenset()


class StageWorker(Worker):
    """A worker that counts what it leases, and ends when there is nothing more to do now."""

    def __init__(self, stage: Stage, folder: Path, senders: SenderPool):
        wakeup = UntilIdle()
        clock: Callable[[], float] = lambda: stage.now  # noqa: E731
        secrets = Secrets(b"s" * 32, b"s" * 32)
        super().__init__(stage.ledger, stage.facts, senders, stage.settings, secrets, clock, wakeup, folder)
        wakeup.worker = self
        self.senders = senders
        self.leased = 0

    def _pass_on(self, chunks: Sequence[Chunk]) -> None:
        self.leased += len(chunks)
        assert self.leased < 1000, "chunks come back without end"
        super()._pass_on(chunks)

    async def _run_dispatcher(self, key: tuple[str, str, bool], dispatcher: Dispatcher) -> None:
        await super()._run_dispatcher(key, dispatcher)
        self._wakeup.notify()  # to look whether it is idle now, not when it polls next


class Stage:
    """A ledger, an account with people, vendors, a worker and a clock that the test moves."""

    def __init__(
        self,
        ledger: Ledger,
        facts: Facts,
        vendors: dict[str, Vendor],
        options: Settings = SETTINGS,
        rules: BreakerRules = NO_RULES,
    ):
        self.ledger, self.facts, self.now, self.settings = ledger, facts, NOW, options
        follow_clock(ledger, lambda: self.now)
        self.account = create_account(ledger, "stage", "UTC", NOW)[0]
        self.folder = Path(tempfile.mkdtemp(prefix="tocsin-stage-"))
        self.lanes = Script(vendors, lambda: self.now, rules, 2 * options.window)
        self.send_queue = SendQueue(ledger)
        self.worker = StageWorker(self, self.folder, self.lanes)
        self._running: asyncio.Task[None] | None = None

    async def upload(self, *records: dict[str, Any]) -> None:
        result = await upload(self.ledger, self.facts, self.account, {"d": list(records)}, self.now)
        assert result.unprocessed == []

    async def people(self, count: int, devices: int = 1, kinds: Sequence[str] = ("fcm",)) -> None:
        """People u0, u1, … with `devices` of each kind."""
        records: list[dict[str, Any]] = []
        for user in range(count):
            for kind in kinds:
                for number in range(devices):
                    device = f"u{user}-{kind}-{number}"
                    records.append({"type": "profile", "identity": f"u{user}", "objectId": device, "profileData": {}})
                    records.append(token(device, kind))
        await self.upload(*records)

    async def campaign(self, **fields: Any) -> int:
        """A campaign that is due, frozen."""
        spec = read_spec(BODY | fields, self.account, self.now)
        made = await self.ledger.write(lambda c: insert_campaign(c, self.account.id, spec, self.now))
        assert await snapshot_due_runs(self.ledger, self.facts, self.now, self.settings) == 1
        return made

    async def send(self, to: dict[str, list[Any]], channel: str = "push", **fields: Any) -> None:
        body = {"to": to, "content": CONTENT} | fields
        await accept(self.send_queue, self.account, channel, read_asked(body), self.now, self.settings, CompilePool())

    async def lease(self, owner: str = "other") -> Chunk | None:
        chunks = await self.ledger.write(
            lambda connection: queue.lease_due(connection, owner, self.now, self.settings.lease_seconds)
        )
        return chunks[0] if chunks else None

    async def deliver(self) -> int:
        """Delivers what is due now, until there is nothing more or `kill`; answers how many chunks."""
        if self._running is not None and self._running.cancelled():
            self.worker = StageWorker(self, self.folder, self.worker.senders)
        self.worker.leased = 0
        self._running = asyncio.create_task(self.worker.run())
        done, _ = await asyncio.wait([self._running], timeout=60)
        assert done, "the worker does not end"
        if not self._running.cancelled():
            self._running.result()
        return self.worker.leased

    async def kill(self, _message: Message) -> Outcome:
        """As a vendor's answer: the worker and its senders end while the vendor thinks."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.Event().wait()
        raise AssertionError

    async def deliver_all(self) -> None:
        """Delivers, and moves the clock to whatever waits next, until nothing is open."""
        table = schema.chunk
        nearest = select(table.c.not_before).where(table.c.open == 1).order_by(table.c.not_before).limit(1)
        for _ in range(1000):
            await self.deliver()
            due = await self.ledger.read(lambda connection: connection.scalar(nearest))
            if due is None:
                return
            self.now = max(self.now, due)
        raise AssertionError("recipients wait for ever")

    async def states(self) -> list[str]:
        """Where everybody stands in the ledger, by the order of chunks and positions."""
        table = schema.chunk
        query = select(table.c.states).where(table.c.account_id == self.account.id).order_by(table.c.id)
        rows = await self.ledger.read(lambda connection: connection.scalars(query).all())
        return [State(byte).name for row in rows for byte in row]

    async def state(self, campaign_id: int) -> str:
        """The state of a campaign's run."""
        row = await self.ledger.read(lambda connection: find_campaign(connection, self.account.id, campaign_id))
        return str(row.state)

    async def result(self, campaign_id: int) -> dict[str, int]:
        numbers = await read_result(self.ledger, self.facts, self.account.id, campaign_id)
        return {name: count for name, count in numbers.items() if count}

    async def count(self, table: str, more: str = "1") -> int:
        """Rows of the account in facts."""
        rows = await self.facts.query(
            f"SELECT count() FROM {table} FINAL WHERE account = {{account:String}} AND {more}",
            {"account": self.account.id},
        )
        return int(rows[0][0])

    async def sent_events(self) -> int:
        return await self.count("event", "name = 'Notification Sent'")

    async def reachable(self) -> int:
        counts = await count_reachable(self.facts, self.account, read_where({}), PLATFORMS, NOW)
        return counts["android"]

    async def gone_codes(self) -> list[str | None]:
        device = schema.device
        query = select(device.c.gone_code).where(device.c.account_id == self.account.id).order_by(device.c.id)
        return list(await self.ledger.read(lambda connection: connection.scalars(query).all()))


def token(device: str, kind: str = "fcm") -> dict[str, Any]:
    value = f"https://db3.notify.windows.com/?token={device}" if kind == "wns" else device
    return {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": value}}


def held(outcome: Outcome, seconds: float | None = None) -> Receipt:
    return Receipt(outcome=outcome, code="429", retry_after=seconds, scope=Scope.LANE)


async def report_view(
    ledger: Ledger, facts: Facts, ids: SignedIds, push_id: str, now: float, kind: str = "viewed"
) -> None:
    """Reports that a message was viewed or clicked, as `/track` does."""
    message = await ids.read(push_id, "track")
    await Reports(ledger, facts, TRACK_DAYS).take("track", kind, *message, now)
