"""Worker processes side by side on one PostgreSQL ledger: nobody is claimed by two of them, also when one is killed.

(`tocsin serve --role worker` needs a ClickHouse server for its facts, so these workers have the ledger only.)
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import wait_for
from sqlalchemy import Connection, func, select
from support.commands import Command

from tocsin import queue
from tocsin.audience.node import Everybody
from tocsin.campaign.runs import insert_campaign, move_run
from tocsin.campaign.spec import Spec
from tocsin.content import Content
from tocsin.outcome import State
from tocsin.queue import Chunk, Recipients, Share
from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.rows import upsert_rows

if TYPE_CHECKING:
    from engines import Postgres

pytest_plugins = ("engines",)

CLAIMER = Path(__file__).parent / "faults" / "claimer.py"
CHUNKS, SIZE = 12, 1000
WINDOW, SMALL_WINDOW = 50, 10  # the small one makes it last
LEASE_SECONDS = 2.0
Claim = tuple[int, int]  # chunk and position


class Workers:
    """Processes of `faults/claimer.py` on one ledger, and the ledger."""

    def __init__(self, url: str, ledger: Ledger, folder: Path):
        self.url, self.ledger, self.folder = url, ledger, folder
        self.running: dict[str, Command] = {}

    def start(self, *owners: str, window: int = WINDOW) -> None:
        """Starts these workers, and gives them a run when all of them are ready."""
        for owner in owners:
            arguments = (self.url, str(self.folder / owner), owner, str(LEASE_SECONDS), str(window))
            self.running[owner] = Command(*arguments, program=str(CLAIMER))
        wait_for(lambda: all((self.folder / owner).exists() for owner in owners))
        self.ledger.write_now(add_run)

    def claims(self, owner: str) -> list[Claim]:
        """What a worker has claimed so far."""
        lines = (self.folder / owner).read_text().rpartition("\n")[0].splitlines()
        return [(int(chunk), int(position)) for chunk, _, position in (line.partition(" ") for line in lines)]

    def wait_for_claims(self, count: int) -> None:
        """Until each worker has claimed so many."""
        wait_for(lambda: all(len(self.claims(owner)) >= count for owner in self.running))

    def all_claims(self) -> Counter[Claim]:
        return Counter(claim for owner in self.running for claim in self.claims(owner))

    def signal(self, owner: str, number: signal.Signals) -> None:
        self.running[owner].send_signal(number)

    def wait(self, owner: str) -> int:
        """The exit code of a worker that has ended."""
        return self.running[owner].wait(60)


@pytest.fixture
def workers(postgres: Postgres, tmp_path: Path) -> Iterator[Workers]:
    url = postgres.new_database()
    with contextlib.closing(open_ledger(url)) as ledger:
        workers = Workers(url, ledger, tmp_path)
        yield workers
        for process in workers.running.values():
            process.kill()
            process.wait()


def add_run(connection: Connection) -> None:
    """A running campaign of CHUNKS chunks of SIZE recipients."""
    now = time.time()
    spec = Spec(name="n", channel="push", where=Everybody(), content=Content(), platforms=("android",), due_at=now)
    owner = {"id": "a", "name": "a", "timezone": "UTC", "created_at": now, "last_user": 0}
    upsert_rows(connection, schema.account, [owner], keys=("id",))
    campaign = insert_campaign(connection, "a", spec, now)
    run_id = int(connection.scalar(select(func.max(schema.run.c.id))) or 0)
    assert move_run(connection, run_id, "running", frozen_at=now, audience=CHUNKS * SIZE)
    queue.insert_run_chunks(
        connection,
        account_id="a",
        run_id=run_id,
        campaign_id=campaign,
        channel="push",
        shares={Share(expires_at=now + 3600): Recipients((user, "android") for user in range(1, CHUNKS * SIZE + 1))},
        now=now,
    )


def read_chunks(ledger: Ledger) -> list[Chunk]:
    def read(connection: Connection) -> list[Chunk]:
        numbers = connection.scalars(select(schema.chunk.c.id).order_by(schema.chunk.c.id)).all()
        found = [queue.load(connection, number) for number in numbers]
        return [one for one in found if one is not None]

    return ledger.read_now(read)


def read_in(ledger: Ledger, state: State) -> set[Claim]:
    """Everybody who stands there."""
    return {
        (chunk.id, position)
        for chunk in read_chunks(ledger)
        for position, byte in enumerate(chunk.states)
        if byte == state
    }


def read_run(ledger: Ledger) -> tuple[str, bool]:
    run = schema.run
    row = ledger.read_now(lambda connection: connection.execute(select(run.c.state, run.c.ended_at)).one())
    return row.state, row.ended_at is not None


def test_processes_claim_apart(workers: Workers) -> None:
    """Three processes on one run: everybody is claimed by exactly one, all of them take part, and the run ends."""
    owners = ("one", "two", "three")
    workers.start(*owners)
    assert [workers.wait(owner) for owner in owners] == [0, 0, 0]
    claimed = workers.all_claims()
    assert [claim for claim, count in claimed.items() if count > 1] == []
    assert set(claimed) == read_in(workers.ledger, State.ACCEPTED)
    assert len(claimed) == CHUNKS * SIZE
    assert all(workers.claims(owner) for owner in owners), "one had nothing to do: nothing was shared"
    assert read_run(workers.ledger) == ("completed", True)


@pytest.mark.parametrize("fate", ["killed", "stopped for longer than its lease"])
def test_a_lost_process_leaves_its_claims(workers: Workers, fate: str) -> None:
    """What a lost process had claimed nobody claims again: it is unknown once the lease has run out. One that comes
    back claims nothing more of what others took over."""
    workers.start("victim", "other", window=SMALL_WINDOW)
    workers.wait_for_claims(3 * SMALL_WINDOW)
    workers.signal("victim", signal.SIGKILL if fate == "killed" else signal.SIGSTOP)
    assert read_run(workers.ledger) == ("running", False), "the victim was lost too late to matter"
    # Not until the other is done: a process that is stopped inside a transaction keeps its row locked.
    lease_over = time.monotonic() + LEASE_SECONDS + 0.5
    wait_for(lambda: time.monotonic() >= lease_over)
    workers.signal("victim", signal.SIGCONT)  # says nothing to one that was killed
    assert workers.wait("other") == 0
    assert workers.wait("victim") == (-signal.SIGKILL if fate == "killed" else 0)

    claimed = workers.all_claims()
    assert [claim for claim, count in claimed.items() if count > 1] == []
    unknown, accepted = read_in(workers.ledger, State.UNKNOWN), read_in(workers.ledger, State.ACCEPTED)
    assert len(unknown) <= SMALL_WINDOW
    assert unknown.isdisjoint(workers.claims("other"))
    assert accepted <= set(claimed) <= accepted | unknown
    assert len(accepted) + len(unknown) == CHUNKS * SIZE
    assert read_run(workers.ledger) == ("completed", True)
