"""Wake-ups between processes on one PostgreSQL ledger."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import ROOMY, Server, wait_for
from sqlalchemy import Connection, text
from support.stage import BODY, NOW

from tocsin import queue
from tocsin.account import create_account
from tocsin.campaign.runs import insert_campaign, stop_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery.wakeup import Wakeup
from tocsin.queue import NewRequest, Recipients, Share
from tocsin.store.ledger import Ledger
from tocsin.store.notification import listen, notify

pytest_plugins = ("engines",)
on_postgresql = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)

REQUEST = NewRequest(account_id="a", channel="push", tag_group="", request="{}", expires_at=NOW + 60, now=NOW)
LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
ELSEWHERE = """
import contextlib, sys
from tocsin.store.ledger import open_ledger
from tocsin.store.notification import notify
with contextlib.closing(open_ledger(sys.argv[1])) as ledger:
    ledger.write_now(notify)
"""


def insert_request(connection: Connection) -> None:
    queue.insert_requests(connection, [REQUEST])


class Ear:
    """Counts the notifications that arrived, in the order of their commits."""

    def __init__(self) -> None:
        self.heard = 0
        self._wakeup = Wakeup()

    def wake(self) -> None:
        self.heard += 1
        self._wakeup.notify()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.heard < count:
                await self._wakeup.wait(30)


@asynccontextmanager
async def listening(ledger: Ledger) -> AsyncIterator[Ear]:
    """An ear that has begun to listen, and has heard nothing yet."""
    ear = Ear()
    task = asyncio.create_task(listen(ledger, ear.wake))
    await ear.wait_for(1)
    ear.heard = 0
    yield ear
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@on_postgresql
async def test_what_is_new_wakes_another_process(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Requests, campaigns, chunks of a run and a stop are each heard once, when they are committed."""
    other = open_again()
    account = create_account(store, "notify", "UTC", NOW)[0]
    spec = read_spec(BODY, account, NOW)
    share = Share(expires_at=NOW + 60)
    async with listening(other) as ear:
        await store.write(insert_request)
        await ear.wait_for(1)
        campaign = await store.write(lambda c: insert_campaign(c, account.id, spec, NOW))
        await ear.wait_for(2)
        await store.write(
            lambda c: queue.insert_run_chunks(
                *(c,),
                account_id=account.id,
                run_id=1,
                campaign_id=campaign,
                channel="push",
                shares={share: Recipients([(user, platform) for user in (1, 2) for platform in ("android", "ios")])},
                now=NOW,
            )
        )
        await ear.wait_for(3)
        await store.write(lambda c: c.execute(text("UPDATE run SET state = 'running'")))
        await store.write(lambda c: stop_campaign(c, account.id, campaign, NOW))
        await ear.wait_for(4)

        def fail(connection: Connection) -> None:
            insert_request(connection)
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011 - our own
            await store.write(fail)
        await store.write(notify)
        await ear.wait_for(5)
        assert ear.heard == 5, "what was rolled back was heard"


@on_postgresql
async def test_a_real_process_is_heard(store: Ledger, ledger_url: str) -> None:
    """What another process commits wakes this one."""
    async with listening(store) as ear:
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", ELSEWHERE, ledger_url], check=True)
        await ear.wait_for(1)


@on_postgresql
async def test_a_broken_connection_is_made_again(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Cut off, a listener is back soon, looks for what it missed, and hears what comes."""
    other = open_again()
    async with listening(other) as ear:
        for _ in range(2):
            before = ear.heard
            cut = f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listener"
            assert store.read_now(lambda c, cut=cut: c.execute(text(cut)).all()) == [(True,)]  # type: ignore[misc]
            await ear.wait_for(before + 1)
            await store.write(notify)
            await ear.wait_for(before + 2)


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
async def test_one_process_needs_no_listener(store: Ledger) -> None:
    """On SQLite there is nothing to listen to, and what is new is stored without a word."""
    ear = Ear()
    await listen(store, ear.wake)
    await store.write(insert_request)
    await store.write(notify)
    assert ear.heard == 0


@on_postgresql
def test_a_server_listens(store: Ledger, ledger_url: str, tmp_path: Path, start_server: Callable[..., Server]) -> None:
    """`tocsin serve` on PostgreSQL listens while it runs, and ends as usual."""
    server = start_server(tmp_path, ROOMY | {"TOCSIN_LEDGER_URL": ledger_url})
    wait_for(lambda: store.read_now(lambda c: c.execute(text(LISTENERS)).all()))
    assert server.stop() == 0
    assert store.read_now(lambda c: c.execute(text(LISTENERS)).all()) == []
