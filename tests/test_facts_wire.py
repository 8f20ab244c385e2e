"""Inserts over the wire: whatever becomes of the connection or the server, each row is there once, in the table and in
what its views keep; and what was given up is where it came from."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow
import pytest
from support.clickhouse_server import FAULTS
from support.role_processes import FactsServer
from support.stage import Stage, Vendor

from tocsin.store.facts import COLUMNS, Facts, open_facts
from tocsin.store.facts_error import FactsError
from tocsin.store.insert_pace import InsertPace
from tocsin.store.ledger import Ledger
from tocsin.store.native_block import encode_block, encode_json, encode_numbers, encode_texts

pytest_plugins = ("engines",)

AT = datetime(2027, 1, 15, 8, tzinfo=UTC)
DAY = date(2027, 1, 15)
PARTS, MEMORY, BUSY = "252", "241", "202"
WRONG = "117"  # incorrect data: no waiting makes it good

Row = tuple[Any, ...]
Write = Callable[[Facts, Sequence[Row]], Awaitable[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FactsServer]:
    server = FactsServer(tmp_path_factory.mktemp("wire") / "facts")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def wire(server: FactsServer) -> Iterator[Facts]:
    facts = open_facts(server.url)
    yield facts
    facts.close()


@pytest.fixture(scope="module")
def impatient(server: FactsServer) -> Iterator[Facts]:
    """A store that is asked three times, and waits two seconds for each answer."""
    facts = open_facts(server.url, insert_seconds=2, insert_tries=3)
    yield facts
    facts.close()


def make_events(account: str, count: int, first: int = 0) -> list[Row]:
    """One event of each of so many users."""
    return [(account, "Viewed", DAY, number, AT, number, "{}", "{}") for number in range(first, first + count)]


async def by_rows(facts: Facts, rows: Sequence[Row]) -> None:
    await asyncio.gather(*(facts.insert("event", [row]) for row in rows))


async def by_columns(facts: Facts, rows: Sequence[Row]) -> None:
    await facts.insert_columns("event", list(zip(*rows, strict=True)))


async def by_block(facts: Facts, rows: Sequence[Row]) -> None:
    account, names, _, users, _, ids, _, raw = zip(*rows, strict=True)
    columns = {
        "account": encode_texts(pyarrow.array(account)),
        "name": encode_texts(pyarrow.array(names)),
        "day": encode_numbers(pyarrow.array([(DAY - date(1970, 1, 1)).days] * len(rows), pyarrow.uint16()), "Date"),
        "user": encode_numbers(pyarrow.array(users, pyarrow.uint32()), "UInt32"),
        "at": encode_numbers(pyarrow.array([int(AT.timestamp())] * len(rows), pyarrow.uint32()), "DateTime('UTC')"),
        "id": encode_numbers(pyarrow.array(ids, pyarrow.uint64()), "UInt64"),
        "props": encode_json({}),
        "raw": encode_texts(pyarrow.array(raw)),
    }
    await facts.insert_block(
        "event", encode_block(COLUMNS["event"], [columns[one] for one in COLUMNS["event"]], len(rows))
    )


async def count(facts: Facts, account: str) -> tuple[int, int]:
    """Return how many events an account has, and how many people are in what the view keeps of them."""
    [(events,)] = await facts.query(
        "SELECT count() FROM event FINAL WHERE account = {account:String}", {"account": account}
    )
    [(people,)] = await facts.query(
        "SELECT groupBitmapMerge(users) FROM activity WHERE account = {account:String}", {"account": account}
    )
    return int(events), int(people)


@pytest.mark.parametrize("write", [by_rows, by_columns, by_block])
@pytest.mark.parametrize("fault", ["drop before", "drop after", "half", PARTS, MEMORY, BUSY])
async def test_a_fault_that_passes(server: FactsServer, wire: Facts, write: Write, fault: str) -> None:
    """Two inserts in a row meet a fault: all rows are stored when the call returns, and each is one."""
    assert fault in FAULTS or fault.isdigit()
    account = secrets.token_hex(8)
    server.plant(fault, 2)
    await write(wire, make_events(account, 40))
    assert await count(wire, account) == (40, 40)
    assert server.count_inserts()["came"] > 2


@pytest.mark.parametrize("fault", ["die before", "die half", "die after"])
async def test_a_server_that_restarts(server: FactsServer, wire: Facts, fault: str) -> None:
    """The server dies in the middle of an insert and is back after a moment: nobody has to repeat anything."""
    account = secrets.token_hex(8)
    server.plant(fault)

    def restart() -> None:
        server.wait()
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    await asyncio.gather(by_rows(wire, make_events(account, 20)), by_columns(wire, make_events(account, 20, 20)))
    await asyncio.to_thread(thread.join)
    assert await count(wire, account) == (40, 40)


async def test_an_answer_that_does_not_come(server: FactsServer, impatient: Facts) -> None:
    """A server that stores the rows and falls silent costs the time one waits for it, and no row twice."""
    account = secrets.token_hex(8)
    server.plant("silent after")
    await by_columns(impatient, make_events(account, 40))
    assert await count(impatient, account) == (40, 40)
    assert server.count_inserts() == {"came": 2, "stored": 2}


async def test_too_many_parts_make_blocks_rarer(server: FactsServer, wire: Facts) -> None:
    """While the server is behind with merging, what comes waits and goes together."""
    account = secrets.token_hex(8)
    server.plant(PARTS, 3)

    async def trickle(number: int) -> None:
        await asyncio.sleep(number * 0.005)
        await wire.insert("event", make_events(account, 1, number))

    await asyncio.gather(*(trickle(number) for number in range(100)))
    assert await count(wire, account) == (100, 100)
    assert server.count_inserts()["came"] <= 8


async def test_a_fault_that_stays(server: FactsServer, impatient: Facts) -> None:
    """After so many tries every caller is told, and none of them tries alone."""
    account = secrets.token_hex(8)
    server.plant(PARTS, 1000)
    told = await asyncio.gather(
        *(impatient.insert("event", [row]) for row in make_events(account, 50)), return_exceptions=True
    )
    assert {type(one) for one in told} == {FactsError}
    asked = server.count_inserts()
    assert asked["stored"] == 0
    assert asked["came"] in (3, 6), "one block of three tries, or the first row and what came meanwhile"
    server.plant("", 0)
    await by_rows(impatient, make_events(account, 50))
    assert await count(impatient, account) == (50, 50)


async def test_a_wrong_row_is_told_at_once(server: FactsServer, wire: Facts) -> None:
    """What no waiting mends is not tried again."""
    server.plant(WRONG)
    with pytest.raises(FactsError, match="117"):
        await by_columns(wire, make_events(secrets.token_hex(8), 1))
    assert server.count_inserts() == {"came": 1, "stored": 0}


async def test_memory_makes_blocks_smaller() -> None:
    """A server that has memory for small blocks gets small ones, every row in its turn."""
    written: list[tuple[int, int]] = []

    async def write(start: int, stop: int) -> None:
        if stop - start > 15_000:
            raise FactsError(int(MEMORY), "MEMORY_LIMIT_EXCEEDED")
        written.append((start, stop))

    await InsertPace().store("event", 40_000, write)
    assert [start for start, _ in written] == [0, *(stop for _, stop in written[:-1])]
    assert written[-1][1] == 40_000


async def test_outcomes_wait_in_the_ledger(server: FactsServer, impatient: Facts, own_ledger: Ledger) -> None:
    """Outcomes that facts do not take stay with their chunk, which is open until they are recorded, once each."""
    stage = Stage(own_ledger, impatient, {"android": Vendor()})
    await stage.people(5)
    campaign = await stage.campaign()
    server.plant(PARTS, 1000)
    await stage.deliver()
    assert await stage.state(campaign) != "completed"
    server.plant("", 0)
    stage.now += 60.0
    await stage.deliver()
    assert await stage.state(campaign) == "completed"
    found = await impatient.query(
        "SELECT count(), uniqExact(user), any(outcome) FROM outcome FINAL WHERE account = {account:String}",
        {"account": stage.account.id},
    )
    assert found == [(5, 5, "accepted")]
    assert (await stage.result(campaign))["sent"] == 5
