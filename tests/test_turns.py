"""Accounts take turns: in the queue, when runs begin, and at the facts store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing

import msgspec
import pytest
from conftest import THOROUGH, Caller, Sandbox, Server, people, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update
from support.stage import NOW

from tocsin import queue
from tocsin.campaign.send import StoredRequest
from tocsin.errors import Problem
from tocsin.queue import TRANSACTIONAL, NewRequest
from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.turns import Turns

pytest_plugins = ("engines",)

LEASE = 60.0
backlogs = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 12), min_size=1)


def put(ledger: Ledger, account_id: str, count: int, now: float = NOW) -> None:
    one = NewRequest(account_id=account_id, channel="push", tag_group="", request="{}", expires_at=now + 60, now=now)
    ledger.write_now(lambda connection: queue.insert_requests(connection, [one] * count))


def lease(ledger: Ledger, limit: int, turns: dict[str, None], rooms: Mapping[str, int] | None = None) -> Counter[str]:
    found = ledger.write_now(
        lambda connection: queue.lease_in_turns(
            *(connection, "me", NOW + 1, LEASE),
            priority=TRANSACTIONAL,
            limit=limit,
            rooms=rooms or {},
            turns=turns,
        )
    )
    return Counter(chunk.account_id for chunk in found)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40 if THOROUGH else 12, deadline=None
)
@given(backlogs, st.integers(1, 10))
def test_every_account_has_its_turn(store: Ledger, backlog: dict[str, int], limit: int) -> None:
    """However the backlogs are, each lease takes what it may; nobody waits for a second turn of somebody else, and all
    chunks are leased once."""
    store.write_now(lambda connection: connection.execute(delete(schema.chunk)))
    for account_id, count in backlog.items():
        put(store, account_id, count)
    left, turns, served = Counter(backlog), dict[str, None](), Counter[str]()
    while left.total():
        got = lease(store, limit, turns)
        assert 0 < got.total() <= limit
        waited = {one for one in left if left[one] and not got[one]}
        assert len(got) == min(limit, len([one for one in left if left[one]])) or left.total() < limit
        served.update(got.keys())
        left.subtract(got)
        assert all(count >= 0 for count in left.values())
        assert all(served[one] <= served[other] + 1 for one in got for other in waited)
    assert not lease(store, limit, turns)


def test_who_has_no_room_keeps_nobody_waiting(store: Ledger) -> None:
    """An account whose chunks wait unclaimed already gets no more; the others do, however long its backlog is."""
    store.write_now(lambda connection: connection.execute(delete(schema.chunk)))
    put(store, "b", 600, NOW - 60)
    put(store, "a", 1)
    assert lease(store, 256, {}, {"b": 0}) == {"a": 1}
    put(store, "a", 1)
    assert lease(store, 4, {}, {"b": 1}) == {"a": 1, "b": 1}
    put(store, "a", 1)
    assert lease(store, 256, {})["a"] == 1


async def test_turns_of_questions() -> None:
    """Two of four places, then the account that was served longest ago; what is broken off takes no place along."""
    turns, order, free = Turns(4, 2, 50), list[str](), asyncio.Event()

    async def ask(account_id: str) -> None:
        async with turns.take(account_id):
            order.append(account_id)
            await free.wait()

    asked = [asyncio.create_task(ask("b")) for _ in range(20)]
    await asyncio.sleep(0)
    asked += [asyncio.create_task(ask("a")) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert Counter(order) == {"b": 2, "a": 2}
    asked[5].cancel()
    free.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert Counter(order) == {"b": 19, "a": 3}
    assert order.index("a", order.index("a", order.index("a") + 1) + 1) < 8

    narrow = Turns(1, 1, 1)
    async with narrow.take("b"):
        waiting = asyncio.create_task(narrow.take("b").__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await narrow.take("b").__aenter__()
        assert caught.value.status == 429
        waiting.cancel()


def test_a_backlog_holds_up_nobody_else(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Requests of 1,000 people nobody knows, and then one push of another account: it has arrived before half of those
    that were waiting are done. It came last before."""
    sending.upload(*people(1, kinds=("fcm",)))
    other = server.account()
    to = {"Identity": [f"nobody-{number}" for number in range(1000)]}
    request = StoredRequest(to=to, content=msgspec.Raw(b'{"title":"t","body":"b"}'))
    at = time.time()
    one = NewRequest(
        account_id=other.account_id,
        channel="push",
        tag_group="",
        request=msgspec.json.encode(request).decode(),
        expires_at=at + 60,
        now=at,
    )
    mine = (schema.chunk.c.account_id == other.account_id, schema.chunk_is_open)
    with closing(open_ledger(server.ledger_url)) as ledger:

        def count_open() -> int:
            return ledger.read_now(lambda connection: connection.scalar(select(func.count()).where(*mine))) or 0

        ledger.write_now(lambda connection: queue.insert_requests(connection, [one] * 400))
        waiting = count_open()
        body = {"to": {"Identity": ["user-0"]}, "content": {"title": "t", "body": "b"}}
        assert sending.post("/1/send/push.json", body)[0] == 200
        wait_for(lambda: sandbox.counts()["fcm"]["accepted"] == 1)
        left = count_open()
        ledger.write_now(lambda connection: connection.execute(update(schema.chunk).where(*mine).values(open=0)))
    assert (waiting, left > waiting / 2) == (400, True)
