"""A lane over real vendors: what stops it, what goes on by itself, and what the operator can say."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest_asyncio
from click.testing import CliRunner
from conftest import Sandbox, new_sqlite, token
from sqlalchemy import select, update
from structlog.testing import capture_logs
from support.stage import SETTINGS, Stage, StageWorker, Vendor, held
from support.town import Town

from tocsin import metrics
from tocsin.account import create_account
from tocsin.cli import tocsin
from tocsin.cli.providers import store_providers
from tocsin.delivery.circuit_breaker import BreakerRules
from tocsin.delivery.in_flight import LEAST_AT_ONCE as AT_ONCE
from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers.contract import Message, Receipt
from tocsin.providers.keyring import sandbox_settings
from tocsin.sandbox.credentials import make_credentials
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

WRONG_ENVIRONMENT = {"vendor": "apns", "kind": "status", "status": 400, "code": "BadDeviceToken"}
SUSPECT = Receipt(outcome=Outcome.GONE, code="400 BadDeviceToken", suspect=True)


class Street(Town):
    """A town whose worker takes larger windows, and with a way to ask how often a fault has hit."""

    def __init__(self, ledger: Ledger, facts: Facts, sandbox: Sandbox):
        super().__init__(ledger, facts, sandbox)
        self.sandbox = sandbox
        self.settings = msgspec.structs.replace(SETTINGS, window=50)
        self.worker = StageWorker(self, self.folder, self.senders)

    async def settle(self, count: int, kind: str) -> None:
        """People with a device each."""
        records: list[dict[str, Any]] = []
        for number in range(count):
            name = f"p{number}"
            records.append({"type": "profile", "identity": name, "objectId": name, "profileData": {}})
            value = token(kind, f"{name}-{self.account.id}")
            records.append({"type": "token", "objectId": name, "tokenData": {"type": kind, "id": value}})
        await self.upload(*records)

    def hits(self) -> int:
        """Messages that met a fault of the vendors."""
        return sum(one["fired"] for one in self.sandbox.control.get("/faults")[1]["faults"])

    def change(self, name: str, **values: Any) -> None:
        """What `tocsin provider …` does to a row while the server runs."""
        table = schema.provider
        mine = (table.c.account_id == self.account.id, table.c.name == name)
        changed = update(table).where(*mine).values(**values, changed_at=self.now)
        self.ledger.write_now(lambda connection: connection.execute(changed))

    def notes(self) -> list[dict[str, dict[str, Any]]]:
        """What each chunk keeps of recipients that were not plainly accepted."""
        query = select(schema.chunk.c.notes).order_by(schema.chunk.c.id)
        rows = self.ledger.read_now(lambda connection: connection.scalars(query).all())
        return [msgspec.json.decode(row) for row in rows]

    def forgotten(self) -> int:
        return sum(at is not None for at, _code in self.gone())


@pytest_asyncio.fixture
async def street(own_ledger: Ledger, facts: Facts, sandbox: Sandbox) -> AsyncIterator[Street]:
    """An account that sends to the sandbox."""
    street = Street(own_ledger, facts, sandbox)
    yield street
    await street.senders.aclose()


def stops(reason: str, provider: str) -> float:
    """What the metric says."""
    value = metrics.REGISTRY.get_sample_value("tocsin_lane_stops_total", {"provider": provider, "reason": reason})
    return value or 0.0


async def test_a_wrong_environment_forgets_no_device(street: Street, sandbox: Sandbox) -> None:
    """An APNs campaign with the wrong environment: ten messages are spent, nobody is forgotten, the operator is told
    once, and when it points right everybody who waited gets theirs."""
    sandbox.fault(**WRONG_ENVIRONMENT)
    await street.settle(120, "apns")
    campaign = await street.campaign(devices=["ios"])
    before = stops("breaker", "apns")
    with capture_logs() as logs:
        await street.deliver()
    assert street.hits() == 10
    assert Counter(await street.states()) == {"REFUSED": 9, "WAITING": 111}
    assert street.forgotten() == 0
    [stop] = [line for line in logs if line["event"] == "lane paused"]
    assert (stop["reason"], stop["seconds"]) == ("breaker", 60)
    assert "10 of the last 10 answers say 400 BadDeviceToken" in stop["detail"]
    assert "tocsin provider set apns" in stop["todo"]
    assert stops("breaker", "apns") == before + 1

    street.now += 61
    await street.deliver()
    assert street.hits() == 20  # ten probes, and the next stop is longer
    sandbox.clear()
    street.change("apns")
    await street.deliver_all()
    assert await street.result(campaign) == {"audience": 120, "sent": 111, "failed": 9}
    counts = sandbox.counts()["apns"]
    assert (counts["accepted"], counts["duplicates"], street.forgotten()) == (111, 0, 0)
    [notes] = street.notes()
    assert all(note.get("tries", 1) == 1 for note in notes.values())


async def test_a_lane_comes_back_by_itself(street: Street, sandbox: Sandbox) -> None:
    """A vendor that doubts everybody for a while: once it accepts again the campaign goes on, without the operator."""
    sandbox.fault(**WRONG_ENVIRONMENT, count=15)
    await street.settle(80, "apns")
    campaign = await street.campaign(devices=["ios"])
    await street.deliver_all()
    assert await street.result(campaign) == {"audience": 80, "sent": 71, "failed": 9}
    assert street.forgotten() == 0


async def test_a_throttled_lane_loses_nothing(street: Street, sandbox: Sandbox) -> None:
    """429 with Retry-After pauses the lane for that time; everybody gets one message afterwards, no try is spent."""
    await street.settle(120, "fcm")
    await street.push("p0")  # the lane is proven: the campaign's first window goes at once
    sandbox.clear()
    sandbox.fault(vendor="fcm", kind="status", status=429, code="QUOTA_EXCEEDED", retry_after=45, count=3)
    campaign = await street.campaign()
    began = street.now
    with capture_logs() as logs:
        await street.deliver()
    assert [line["reason"] for line in logs if line["event"] == "lane paused"] == ["throttled"]
    assert "WAITING" in await street.states()
    street.now = began + 44
    assert await street.deliver() == 0
    await street.deliver_all()
    assert street.now == began + 45
    assert await street.result(campaign) == {"audience": 120, "sent": 120}
    counts = sandbox.counts()["fcm"]
    assert (counts["accepted"], counts["duplicates"]) == (120, 0)
    [_, notes] = street.notes()
    assert all(note.get("tries", 1) == 1 for note in notes.values())


async def test_a_storm_of_5xx_spends_few_tries(street: Street, sandbox: Sandbox) -> None:
    """A vendor that answers 503 to everybody pauses the lane; after it everybody gets their message."""
    await street.settle(120, "fcm")
    sandbox.fault(vendor="fcm", kind="status", status=503, code="UNAVAILABLE", retry_after=20, count=50)
    campaign = await street.campaign()
    with capture_logs() as logs:
        await street.deliver()
    assert [line["reason"] for line in logs if line["event"] == "lane paused"] == ["storm"]
    sandbox.clear()
    await street.deliver_all()
    assert await street.result(campaign) == {"audience": 120, "sent": 120}
    [notes] = street.notes()
    assert Counter(note.get("tries", 1) for note in notes.values())[2] == 19


async def test_the_brake_keeps_devices(street: Street, sandbox: Sandbox) -> None:
    """When seven in ten are UNREGISTERED some hundred devices are forgotten, the others kept, and it is said once; an
    operator who says «they really are dead» has them all forgotten."""
    sandbox.fault(vendor="fcm", kind="status", status=404, code="UNREGISTERED", share=0.7)
    await street.settle(300, "fcm")
    with capture_logs() as logs:
        await street.campaign()
        await street.deliver_all()
    dead = street.hits()
    assert dead > 180
    assert (await street.states()).count("GONE") == street.forgotten() == 99
    assert (await street.states()).count("REFUSED") == dead - 99
    [line] = [line for line in logs if line["event"] == "lane brakes"]
    assert "tocsin provider trust fcm" in line["todo"]

    street.change("fcm", trusted=1)
    sandbox.clear()
    sandbox.fault(vendor="fcm", kind="status", status=404, code="UNREGISTERED")
    await street.campaign()
    await street.deliver_all()
    assert street.forgotten() == 300


async def test_mails_wait_for_tls_that_a_setting_has_to_mend(street: Street, sandbox: Sandbox) -> None:
    """A relay whose certificate is not trusted: the log says what to set, and with that set the mail goes out."""
    right = sandbox_settings(sandbox.control.get("/credentials")[1])["smtp"]
    street.change("smtp", settings=msgspec.json.encode(right | {"ca": make_credentials().ca}).decode())
    await street.upload({"type": "profile", "identity": "p", "profileData": {"Email": "p@example.com"}})
    with capture_logs() as logs:
        await street.send({"Identity": ["p"]}, "email", content={"subject": "s", "body": "b"})
        await street.deliver()
    [stop] = [line for line in logs if line["event"] == "lane paused"]
    assert (stop["reason"], stop["code"]) == ("unavailable", "no TLS")
    assert "certificate" in stop["detail"]
    assert "`tocsin provider set smtp …` with --ca FILE" in stop["todo"]
    street.change("smtp", settings=msgspec.json.encode(right).decode())
    street.now += 61
    await street.deliver_all()
    assert sandbox.counts()["smtp"]["accepted"] == 1


async def test_doubtful_settings_are_proven_one_by_one(own_ledger: Ledger, facts: Facts) -> None:
    """While answers may be about our settings one message goes at a time; when one is accepted the others follow."""
    under_way = 0
    most: list[int] = []

    async def doubt(_message: Message) -> Receipt:
        nonlocal under_way
        under_way += 1
        most.append(under_way)
        number = len(most)
        for _ in range(3):
            await asyncio.sleep(0)
        under_way -= 1
        return SUSPECT if number <= 5 else Receipt(outcome=Outcome.ACCEPTED)

    stage = Stage(own_ledger, facts, {"android": Vendor(*[doubt] * 50)}, msgspec.structs.replace(SETTINGS, window=50))
    await stage.people(50)
    campaign = await stage.campaign()
    await stage.deliver_all()
    assert await stage.result(campaign) == {"audience": 50, "sent": 45, "failed": 5}
    assert most[:6] == [1] * 6
    assert max(most) > 1


async def test_a_lane_climbs_after_a_pause(own_ledger: Ledger, facts: Facts) -> None:
    """After a pause a crowd goes a few at a time, under a line from a twentieth of the peak to the peak; nobody spends
    a try, and after the climb all go."""
    vendor = Vendor(Outcome.ACCEPTED, held(Outcome.THROTTLED, 30.0))
    options = msgspec.structs.replace(SETTINGS, window=50)
    stage = Stage(own_ledger, facts, {"android": vendor}, options, BreakerRules(slow_start_seconds=60.0))
    await stage.people(30)
    campaign = await stage.campaign()
    await stage.deliver()
    paused = len(vendor.got)
    assert sum(vendor.accepted.values()) < paused <= 10  # what was on its way when the lane paused
    stage.now += 30
    counts: list[int] = []
    for _ in range(4):
        await stage.deliver()
        counts.append(len(vendor.got) - paused)
        stage.now += 1
    assert counts == [1, 2, 3, 4]  # the line allows 1 at once, then 1.2, 2.6 and 4.4
    stage.now += 60
    await stage.deliver_all()
    assert await stage.result(campaign) == {"audience": 30, "sent": 30}
    assert {note["tries"] for notes in map(msgspec.json.decode, read_notes(own_ledger)) for note in notes.values()} <= {
        1
    }


async def test_what_waits_in_a_sender_meets_the_pause(own_ledger: Ledger, facts: Facts) -> None:
    """Messages that are claimed and not handed over when the lane pauses come back: the vendor never hears of them,
    and they spend no try."""

    async def throttle(_message: Message) -> Receipt:
        await release.wait()
        return held(Outcome.THROTTLED, 30.0)

    async def wait(_message: Message) -> Outcome:
        if len(vendor.got) == AT_ONCE + 1:
            release.set()
        await release.wait()
        await asyncio.sleep(0)  # those that waited go first
        return Outcome.ACCEPTED

    release = asyncio.Event()
    vendor = Vendor(Outcome.ACCEPTED, throttle, *[wait] * 200)
    stage = Stage(own_ledger, facts, {"android": vendor}, msgspec.structs.replace(SETTINGS, window=100))
    await stage.people(100)
    await stage.campaign()
    await stage.deliver()
    assert len(vendor.got) == AT_ONCE + 1
    assert Counter(await stage.states()) == {"ACCEPTED": AT_ONCE, "WAITING": 100 - AT_ONCE}
    assert all("tries" not in notes for notes in read_notes(own_ledger))


async def test_a_provider_that_fails_is_unknown(own_ledger: Ledger, facts: Facts) -> None:
    """An exception of a provider is not an answer: nobody knows, and nothing is concluded from it."""

    async def fail(_message: Message) -> Receipt:
        raise RuntimeError

    stage = Stage(own_ledger, facts, {"android": Vendor(*[fail] * 3)})
    await stage.people(3)
    campaign = await stage.campaign()
    await stage.deliver()
    assert await stage.result(campaign) == {"audience": 3, "unknown": 3}
    assert await stage.count("outcome", "code = 'internal'") == 3


def read_notes(ledger: Ledger) -> list[str]:
    """What each chunk keeps of recipients that were not plainly accepted."""
    query = select(schema.chunk.c.notes).order_by(schema.chunk.c.id)
    return list(ledger.read_now(lambda connection: connection.scalars(query).all()))


def test_trust_is_said_and_taken_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """`tocsin provider trust` alters the row so that lanes are made anew; `--undo` and `provider set` take it back."""
    ledger = open_ledger(new_sqlite(tmp_path))
    account = create_account(ledger, "a", "UTC", time.time())[0].id
    name = ("apns", "--account", account, "--data", str(tmp_path))
    operator = CliRunner()
    given = sandbox_settings(sandbox.control.get("/credentials")[1])

    def row() -> tuple[int, float]:
        table = schema.provider
        query = select(table.c.trusted, table.c.changed_at).where(table.c.name == "apns")
        return tuple(ledger.read_now(lambda connection: connection.execute(query).one()))

    missing = operator.invoke(tocsin, ["provider", "trust", *name])
    assert isinstance(missing.exception, Misconfigured)
    assert "has no provider apns" in str(missing.exception)
    store_providers(tmp_path, account, {"apns": given["apns"]})
    seen = [row()]
    for more, trusted in ((), True), (("--undo",), False), ((), True):
        done = operator.invoke(tocsin, ["provider", "trust", *name, *more])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"account_id": account, "provider": "apns", "trusted": trusted}
        seen.append(row())
    store_providers(tmp_path, account, {"apns": given["apns"]})
    seen.append(row())
    assert [trusted for trusted, _ in seen] == [0, 1, 0, 1, 0]
    assert len({changed_at for _, changed_at in seen}) == len(seen)
    ledger.close()
