"""The completer: delivered chunks are recorded in blocks, closed, and taken again when the facts store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import func, select
from support.chunks import settle
from support.stage import Stage, Vendor

from tocsin import queue
from tocsin.delivery.completer import LINGER_SECONDS, TROUBLE_SECONDS, Completer, DeliveredChunk
from tocsin.outcome import State
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

NOWHERE = "clickhouse://127.0.0.1:1/nowhere"  # nobody listens on port 1


BLOCK = 32  # of these tests: each chunk is a request to one


class Blocks(Completer):
    """Notes how many chunks were closed at once."""

    def __init__(self, stage: Stage, facts: Facts, *, busy: bool = False, linger: float = LINGER_SECONDS):
        super().__init__(stage.ledger, facts, lambda: stage.now, lambda: busy, lambda: None, linger, BLOCK)
        self.sizes: list[int] = []

    async def close(self, block: Sequence[DeliveredChunk]) -> None:
        self.sizes.append(len(block))
        await super().close(block)


async def make_done(stage: Stage, count: int) -> list[DeliveredChunk]:
    """Requests to one each, delivered and not yet closed."""
    await stage.people(count)
    for user in range(count):
        await stage.send({"identity": [f"u{user}"]})
    done = []
    for user in range(1, count + 1):
        chunk = await stage.lease()
        assert chunk is not None
        queue.name_recipients(chunk, [(user, "android")], stage.now)
        chunk.move(0, State.CLAIMED)
        chunk.move(0, State.ACCEPTED)
        assert settle(stage.ledger, chunk, now=stage.now)
        chunk.new = False
        done.append(DeliveredChunk(stage.account, chunk))
    return done


async def count_open(stage: Stage) -> int:
    table = schema.chunk
    query = select(func.count()).where(table.c.account_id == stage.account.id, table.c.open == 1)
    return int(await stage.ledger.read(lambda connection: connection.scalar(query) or 0))


async def test_a_store_that_is_away(own_ledger: Ledger, facts: Facts) -> None:
    """What cannot be recorded stays open, is taken again a little later, is sent to nobody again, and counts once."""
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    done = await make_done(stage, 3)
    away = Facts(NOWHERE)
    await Blocks(stage, away).close(done)
    away.close()

    assert await count_open(stage) == 3
    assert await stage.lease() is None
    stage.now += TROUBLE_SECONDS
    assert await stage.deliver() == 3
    assert await count_open(stage) == 0
    assert vendor.got == []
    assert await stage.count("outcome") == 3


async def test_a_block_closed_twice_counts_once(own_ledger: Ledger, facts: Facts) -> None:
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    done = await make_done(stage, 3)
    completer = Blocks(stage, facts)
    await completer.close(done)
    await completer.close(done)
    assert await count_open(stage) == 0
    assert await stage.count("outcome") == 3


@pytest.mark.parametrize(
    ("count", "busy", "linger", "sizes"),
    [
        (3, False, 60.0, [3]),  # of a campaign, and nobody else is busy: at once
        (BLOCK + 2, True, 60.0, [BLOCK, 2]),  # full: at once; the rest when it ends
        (BLOCK, True, 60.0, [BLOCK]),  # just full
        (3, True, 0.0, [3]),  # waited long enough
    ],
)
async def test_blocks(
    own_ledger: Ledger,
    facts: Facts,
    count: int,
    busy: bool,
    linger: float,
    sizes: list[int],
) -> None:
    """Chunks wait for each other until the block is full, nobody is on the way, or the time is over."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    done = await make_done(stage, count)
    completer = Blocks(stage, facts, busy=busy, linger=linger)
    for one in done:
        one.chunk.request = None
        completer.put(one)
    running = asyncio.create_task(completer.run())
    async with asyncio.timeout(30):
        while sum(completer.sizes) < sizes[0]:  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)
        completer._linger = 0.0
        completer._is_busy = lambda: False
        completer.end()
        await running
    assert completer.sizes == sizes
    assert await count_open(stage) == 0
    assert await stage.count("outcome") == count


async def test_requests_wait_for_each_other(own_ledger: Ledger, facts: Facts) -> None:
    """Requests are recorded together though nothing else is on its way, and at once when the worker ends."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    done = await make_done(stage, 2)
    completer = Blocks(stage, facts, busy=False, linger=60.0)
    running = asyncio.create_task(completer.run())
    for one in done:
        completer.put(one)
        for _ in range(20):
            await asyncio.sleep(0)
    assert completer.sizes == []
    completer.end()
    await running
    assert completer.sizes == [2]


async def test_ended_before_it_began(own_ledger: Ledger, facts: Facts) -> None:
    """A worker that is stopped while it starts waits for nothing, and one that runs again completes."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    completer = Blocks(stage, facts)
    running = asyncio.create_task(completer.run())
    completer.end()
    await asyncio.wait_for(running, 20)

    again = asyncio.create_task(completer.run())
    await asyncio.sleep(0)
    completer.end()
    await asyncio.wait_for(again, 20)
