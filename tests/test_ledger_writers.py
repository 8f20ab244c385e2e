"""The writers of a ledger: work side by side on PostgreSQL, run again when it is broken off, and always answered."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from conftest import wait_for
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from support.blocked import wait_until_blocked
from support.empty_ledger import drop_tables

from tocsin.account import create_account
from tocsin.campaign.send_queue import QueuedSend, SendQueue
from tocsin.queue import NewRequest
from tocsin.store import ledger as ledger_module
from tocsin.store import schema
from tocsin.store.ledger import TRIES, WRITERS, Ledger, open_ledger

pytest_plugins = ("engines",)

NOW = 1_800_000_000.0
on_postgresql = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)

table = schema.secret


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def put(name: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(insert(table).values(name=name, value=b""))

    return work


def touch(connection: Connection, name: str) -> None:
    connection.execute(update(table).where(table.c.name == name).values(value=table.c.value.concat(b"x")))


def read(store: Ledger) -> dict[str, bytes]:
    rows = store.read_now(lambda connection: connection.execute(select(table.c.name, table.c.value)).all())
    return {row.name: bytes(row.value) for row in rows}


@on_postgresql
async def test_one_that_waits_holds_up_nobody(store: Ledger, threads: ThreadPoolExecutor) -> None:
    """While one piece of work waits for the lock of another, a third is committed, and is visible to all."""
    for name in ("one", "two"):
        store.write_now(put(name))
    held, go = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        touch(connection, "one")
        held.set()
        assert go.wait(30)

    first = threads.submit(store.write_now, hold)
    assert held.wait(30)
    second = threads.submit(store.write_now, lambda connection: touch(connection, "one"))
    wait_until_blocked(store, 1, second)
    third = threads.submit(store.write_now, lambda connection: touch(connection, "two"))
    wait_for(lambda: third.done() or read(store)["two"] == b"x", seconds=5)
    assert read(store) == {"one": b"", "two": b"x"}
    go.set()
    for done in (first, second, third):
        done.result(30)
    assert read(store) == {"one": b"xx", "two": b"x"}


@on_postgresql
def test_a_deadlock_is_run_again(store: Ledger, open_again: Callable[[], Ledger], threads: ThreadPoolExecutor) -> None:
    """Two processes that lock two rows crosswise both come through, and the one that was broken off wrote nothing
    twice."""
    for name in ("one", "two"):
        store.write_now(put(name))
    meet = threading.Barrier(2)
    runs = itertools.count()

    def cross(connection: Connection, first: str, second: str) -> None:
        touch(connection, first)
        if next(runs) < 2:
            meet.wait(30)
        touch(connection, second)

    both = [
        threads.submit(store.write_now, lambda connection: cross(connection, "one", "two")),
        threads.submit(open_again().write_now, lambda connection: cross(connection, "two", "one")),
    ]
    for done in both:
        done.result(30)
    assert read(store) == {"one": b"xx", "two": b"xx"}
    assert next(runs) == 3, "nothing was broken off: they did not meet"


@on_postgresql
@pytest.mark.parametrize(("failures", "tried"), [(1, 2), (TRIES - 1, TRIES), (TRIES, TRIES)])
def test_what_is_broken_off_is_tried_a_few_times(store: Ledger, failures: int, tried: int) -> None:
    """A serialization failure again and again: so many tries, then the error; and nothing of the failed tries stays."""
    tries: list[int] = []

    def work(connection: Connection) -> str:
        tries.append(len(tries))
        put(f"try {len(tries)}")(connection)
        if len(tries) <= failures:
            connection.execute(text("DO $$ BEGIN RAISE serialization_failure; END $$"))
        return "done"

    if failures < TRIES:
        assert store.write_now(work) == "done"
    else:
        with pytest.raises(DBAPIError, match="serialization"):
            store.write_now(work)
    assert len(tries) == tried
    assert list(read(store)) == [f"try {tried}"] * (failures < TRIES)


@on_postgresql
def test_other_errors_are_not_tried_again(store: Ledger) -> None:
    """An error of the work or of its data is answered at once."""
    store.write_now(put("one"))
    tries: list[str] = []

    def work(connection: Connection) -> None:
        tries.append("one")
        put("one")(connection)

    with pytest.raises(DBAPIError, match="duplicate"):
        store.write_now(work)
    assert len(tries) == 1


@on_postgresql
def test_a_lock_is_not_waited_for_without_end(
    store: Ledger, open_again: Callable[[], Ledger], threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a process that hangs inside its transaction a write fails after LOCK_SECONDS, and the next one works."""
    monkeypatch.setattr(ledger_module, "LOCK_SECONDS", 1)
    other = open_again()
    store.write_now(put("one"))
    held, go = threading.Event(), threading.Event()

    def hang(connection: Connection) -> None:
        touch(connection, "one")
        held.set()
        assert go.wait(60)

    hanging = threads.submit(store.write_now, hang)
    assert held.wait(30)
    waiting = threads.submit(other.write_now, lambda connection: touch(connection, "one"))
    try:
        with pytest.raises(DBAPIError, match="lock timeout"):
            waiting.result(20)
        other.write_now(put("two"))
    finally:
        go.set()
    hanging.result(30)
    assert read(store) == {"one": b"x", "two": b""}


@on_postgresql
def test_writers_are_bounded(store: Ledger) -> None:
    """However many pieces wait, at most WRITERS transactions are open."""
    busy, most, lock = 0, 0, threading.Lock()

    def work(connection: Connection) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        connection.execute(text("SELECT pg_sleep(0.005)"))
        with lock:
            busy -= 1

    async def write_many() -> None:
        await asyncio.gather(*(store.write(work) for _ in range(60)))

    asyncio.run(write_many())
    assert most == WRITERS


class LateQueue(queue.SimpleQueue[Any]):
    """A queue into which work goes late: when the closing mark is in it, or `seconds` later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.late, self.marked = threading.Event(), threading.Event()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is not None:
            self.late.set()
            self.marked.wait(self.seconds)
        super().put(item)
        if item is None:
            self.marked.set()


def test_nothing_is_queued_behind_the_closing_mark(ledger_url: str, threads: ThreadPoolExecutor) -> None:
    """A write that meets `close` is committed or refused, and never left without an answer."""
    store = open_ledger(ledger_url)
    late = LateQueue(0.3)
    before, store._queue = store._queue, late
    for _ in range(WRITERS):
        before.put((lambda _connection: None, Future(), True))  # on to the late one
    writing = threads.submit(store._enqueue, put("one"))
    assert late.late.wait(30)
    closing = threads.submit(store.close)
    try:
        writing.result(10).result(10)
        written = True
    except RuntimeError:
        written = False
    closing.result(30)
    again = open_ledger(ledger_url)
    assert ("one" in read(again)) == written
    again.close()


@on_postgresql
def test_two_processes_migrate_at_once(ledger_url: str, threads: ThreadPoolExecutor) -> None:
    """Two servers that start on a new database: one makes the tables, the other waits and finds them."""
    drop_tables(ledger_url)
    meet = threading.Barrier(2)

    def start() -> Ledger:
        meet.wait(30)
        return open_ledger(ledger_url)

    opened = [threads.submit(start) for _ in range(2)]
    for one in opened:
        one.result(60).close()


@on_postgresql
async def test_a_tag_group_survives_a_second_try(store: Ledger) -> None:
    """A batch of requests that is broken off after it added a tag group adds it again."""
    account = create_account(store, "tags", "UTC", NOW)[0]
    with store._writer.begin() as connection:  # the first insert of a request is broken off
        connection.execute(text("CREATE SEQUENCE tries"))
        connection.execute(
            text(
                "CREATE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF nextval('tries') = 1 THEN RAISE serialization_failure; END IF; RETURN NEW; END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER break_off BEFORE INSERT ON chunk FOR EACH ROW EXECUTE FUNCTION break_off()")
        )
    request = NewRequest(
        account_id=account.id, channel="push", tag_group="group", request="{}", expires_at=NOW + 60, now=NOW
    )
    assert await SendQueue(store).put(QueuedSend(request))
    with store._writer.begin() as connection:
        connection.execute(text("DROP TRIGGER break_off ON chunk"))
        connection.execute(text("DROP FUNCTION break_off"))
        connection.execute(text("DROP SEQUENCE tries"))
    groups = store.read_now(lambda connection: list(connection.scalars(select(schema.tag_group.c.name))))
    chunks = store.read_now(lambda connection: connection.scalar(select(func.count()).select_from(schema.chunk)))
    assert (groups, chunks) == (["group"], 1)
