"""The cleaner and the kept sums: who a message went to is forgotten in time, and every number stays."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, func, select, text, update
from sqlalchemy.engine import make_url
from support.bounces import IDS, SECRET, Post
from support.chunks import lease, must_lease, release, settle
from support.empty_ledger import drop_tables
from support.stage import CONTENT, NOW, Stage, Vendor, report_view

from tocsin import queue
from tocsin.account import create_account
from tocsin.audience.node import Everybody
from tocsin.campaign.runs import insert_campaign, move_run
from tocsin.campaign.spec import Spec
from tocsin.content import Content
from tocsin.delivery.cleaner import DAY, clean, clean_requests, empty_chunks, find_ended_runs
from tocsin.delivery.push_id import sign_push_id
from tocsin.delivery.recorder import record_outcomes
from tocsin.errors import Misconfigured, Problem
from tocsin.outcome import FINAL, NUMBERS, STATES, SUPPRESSED, State, count_numbers, reason_of
from tocsin.policy import set_policy
from tocsin.queue import Chunk, NewRequest, Recipients, Share
from tocsin.repair import record_again
from tocsin.stats import counts
from tocsin.stats.results import count_tag_groups, read_breakdown
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, migrate, open_ledger
from tocsin.store.sums import add_closed

pytest_plugins = ("engines",)

SPEC = Spec(name="n", channel="push", where=Everybody(), content=Content(), platforms=("android",), due_at=NOW)
VARIANTS = {"content": None, "variants": [{"name": one, "percentage": 50, "content": CONTENT} for one in ("A", "B")]}
LONG = 31 * DAY
TAGS, NAMES = ("", "t", "u"), ("", "A", "B")
Numbers = dict[str, int]


class World:
    """An account whose chunks are closed and cleaned step by step, and what its numbers have to be."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.now = ledger, NOW
        self.account = create_account(ledger, "world", "UTC", NOW)[0].id
        self.campaigns: dict[int, int] = {}  # run by campaign
        self.states: dict[int, tuple[int, str, bytes]] = {}  # campaign, tag group or variant, by chunk
        self.leased: list[Chunk] = []

    def add_requests(self, number: int) -> None:
        new = [
            NewRequest(
                account_id=self.account, channel="push", tag_group=tag, request="{}", expires_at=NOW + 1e9, now=NOW
            )
            for tag in random.Random(number).choices(TAGS, k=number % 4)
        ]
        self.ledger.write_now(lambda connection: queue.insert_requests(connection, new))

    def add_campaign(self, number: int) -> None:
        """One of up to three chunks, each of another variant."""
        sizes = dict.fromkeys(NAMES[: number % 4], 1 + number % 5)

        def write(connection: Connection) -> tuple[int, int]:
            campaign = insert_campaign(connection, self.account, SPEC, NOW)
            run = int(connection.scalar(select(func.max(schema.run.c.id))) or 0)
            assert move_run(connection, run, "running", frozen_at=NOW, audience=sum(sizes.values()))
            queue.insert_run_chunks(
                connection,
                account_id=self.account,
                run_id=run,
                campaign_id=campaign,
                channel="push",
                shares={
                    Share(expires_at=NOW + 1e9, variant=name): Recipients((user, "android") for user in range(size))
                    for name, size in sizes.items()
                },
                now=NOW,
            )
            queue.end_run(connection, run, self.now)
            return campaign, run

        campaign, run = self.ledger.write_now(write)
        self.campaigns[campaign] = run

    def lease(self, number: int) -> None:
        """Lease a chunk, look its people up, and let some of them be final."""
        if (chunk := lease(self.ledger, now=self.now)) is None:
            return
        if chunk.request is not None and not chunk.users:
            pairs = [(user, "android") for user in range(1, 1 + number % 6)] + [(0, "")] * (number % 3 == 0)
            queue.name_recipients(chunk, pairs, self.now)
        self.leased.append(chunk)
        self._end(chunk, random.Random(number), share=number % 100)

    def close(self, number: int) -> None:
        """Close a leased chunk, or leave it for later."""
        if not self.leased:
            return
        chunk = self.leased.pop(number % len(self.leased))
        later = number % 5 == 0
        if not later:
            self._end(
                chunk, random.Random(number), share=100
            )  # also when its lease is lost: then it counts for nothing
        release(self.ledger, chunk, self.now if later else None, now=self.now)

    def clean(self, number: int) -> None:
        """One piece of a request's, and one of a run's, of any size."""
        before, limit = self.now - (number % 3) * 10, 1 + number % 3
        self.ledger.write_now(lambda connection: clean_requests(connection, self.account, before, limit))
        for run in self.ledger.read_now(lambda connection: find_ended_runs(connection, self.account, before)):
            self.ledger.write_now(
                functools.partial(empty_chunks, account_id=self.account, run_id=run, after=0, limit=limit, now=self.now)
            )

    def wait(self, number: int) -> None:
        self.now += number % 30

    def _end(self, chunk: Chunk, choose: random.Random, share: int) -> None:
        for position, state in enumerate(chunk.states):
            if state == State.WAITING and choose.randrange(100) < share:
                to = choose.choice(sorted(FINAL))
                if to not in STATES[State.WAITING]:
                    chunk.move(position, State.CLAIMED)
                chunk.move(position, to)
        if not settle(self.ledger, chunk, now=self.now):
            return
        label = chunk.variant if chunk.run_id is not None else chunk.tag_group
        self.states[chunk.id] = chunk.campaign_id, label, bytes(chunk.states)

    def check(self) -> None:
        """The numbers are a recount of everything that ever was."""
        recount: dict[tuple[int, str], Counter[int]] = defaultdict(Counter)
        for campaign, label, states in self.states.values():
            recount[campaign, label].update(states)
        groups = {label: _numbers(recount[0, label]) for campaign, label in recount if campaign == 0}
        assert groups == self.ledger.read_now(lambda c: counts.sum_numbers_by_tag_group(c, self.account))
        for campaign in self.campaigns:
            total = sum((recount[campaign, name] for name in NAMES), Counter[int]())
            found = self.ledger.read_now(lambda c: counts.sum_numbers(c, campaign))  # noqa: B023
            assert found == {name: _numbers(total)[name] for name in NUMBERS}
            reasons = self.ledger.read_now(lambda c: counts.count_suppressed(c, campaign))  # noqa: B023
            assert reasons == {reason_of(state): total[state] for state in SUPPRESSED if total[state]}
            parts = self.ledger.read_now(lambda c: counts.sum_numbers_by_variant(c, campaign))  # noqa: B023
            for name in NAMES:
                assert not recount[campaign, name] or parts[name] == _numbers(recount[campaign, name])


def _numbers(states: Counter[int]) -> Numbers:
    return {"audience": states.total(), **count_numbers(bytes(states.elements()))}


STEPS = ("add_requests", "add_campaign", "lease", "lease", "lease", "close", "close", "clean", "wait")


@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1000)), max_size=40))
@settings(max_examples=25 if THOROUGH else 8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_a_recount(store: Ledger, steps: list[tuple[str, int]]) -> None:
    """Whatever is closed and cleaned in whatever order, every number is what adding up all recipients would give."""
    store.write_now(lambda connection: connection.execute(update(schema.chunk).values(open=0)))
    world = World(store)
    for name, number in steps:
        getattr(world, name)(number)
    world.check()
    while world.leased:
        world.close(1)
    world.now += 100
    world.clean(30)
    world.check()


class Closed(msgspec.Struct):
    """What is counted of a closed chunk."""

    run_id: int | None
    tag_group: str
    states: bytes
    account_id: str
    campaign_id: int = 0
    channel: str = "push"
    variant: str = ""
    platforms: bytes = b"\1\1"
    notes: Mapping[int, Any] = {}
    started_at: float = NOW


async def test_sums_of_two_processes(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Two processes that close chunks of the same groups and runs in any order lose nothing and do not deadlock."""

    async def close_all(ledger: Ledger, seed: int) -> None:
        for turn in range(20):
            numbers = random.Random(seed + turn).sample(range(24), 24)
            closed = [
                Closed(one % 3 or None, f"t{one % 4}", bytes((State.ACCEPTED, 16 + one % 8)), account)
                for one in numbers
            ]
            await ledger.write(functools.partial(add_closed, chunks=closed))

    account = create_account(store, "two", "Asia/Kolkata", NOW)[0].id
    await asyncio.gather(close_all(store, 1), close_all(open_again(), 100))
    columns = [table.c.recipients for table in (schema.tag_sum, schema.run_sum, schema.recipient_sum)]
    sums = store.read_now(lambda c: [int(c.scalar(select(func.sum(column))) or 0) for column in columns])
    assert sums == [2 * 20 * 8 * 2, 2 * 20 * 16 * 2, 2 * 20 * 24 * 2]


@pytest.fixture
def stage(store: Ledger, facts: Facts) -> Stage:
    return Stage(store, facts, {"android": Vendor()})


async def clean_all(stage: Stage, later: float = LONG) -> int:
    """What a sweep cleans so much later, in pieces of two."""
    return await clean(stage.ledger, stage.now + later, asyncio.Event(), 2, 2)


def rows_of(ledger: Ledger) -> list[Any]:
    return list(ledger.read_now(lambda c: c.execute(select(schema.chunk).order_by(schema.chunk.c.id)).all()))


def dump(ledger: Ledger) -> str:
    """Everything in the ledger, as one text."""
    tables = schema.metadata.sorted_tables
    return repr(ledger.read_now(lambda c: [tuple(row) for table in tables for row in c.execute(select(table))]))


async def test_who_it_went_to_is_forgotten(stage: Stage) -> None:
    """After its time a request leaves nothing but its numbers, a campaign's chunk its numbers and its variant. Names
    are gone as soon as the users are known."""
    await stage.people(5)
    await stage.send({"Identity": ["u0", "u1", "nobody known"]}, tag_group="news")
    assert "nobody known" in dump(stage.ledger)
    campaign = await stage.campaign(**VARIANTS)
    await stage.send({"Identity": ["u2"]})
    await stage.deliver()
    assert "nobody known" not in dump(stage.ledger)
    before = await stage.result(campaign), await count_tag_groups(stage.ledger, stage.facts, stage.account.id)
    details = await read_breakdown(stage.ledger, stage.facts, stage.account.id, campaign)
    assert before[1]["news"]["sent"] == 2
    assert await clean_all(stage, 29 * DAY) == 0
    assert await clean_all(stage) == len(rows_of(stage.ledger)) + 1
    assert await clean_all(stage) == 0
    for row in rows_of(stage.ledger):
        assert (row.request, row.users, row.platforms, row.states, row.notes) == (None, b"", b"", b"", "{}")
    assert [row.run_id for row in rows_of(stage.ledger)].count(None) == 1  # the newest of all, for its id
    after = await stage.result(campaign), await count_tag_groups(stage.ledger, stage.facts, stage.account.id)
    assert after == before
    assert await read_breakdown(stage.ledger, stage.facts, stage.account.id, campaign) == details


async def test_ids_are_given_once(stage: Stage) -> None:
    """A message after cleaning has an id that no message before it had."""
    await stage.people(1)
    seen: list[int] = []
    for _ in range(3):
        await stage.send({"Identity": ["u0"]})
        seen += [row.id for row in rows_of(stage.ledger) if row.users == b"" and row.request]
        await stage.deliver()
        await clean_all(stage)
    assert seen == sorted(set(seen))
    assert len(seen) == 3


async def test_what_is_open_is_kept(stage: Stage) -> None:
    """What still waits is never cleaned, however old it is, and neither is a campaign of which a part waits."""
    stage = Stage(stage.ledger, stage.facts, {})
    await stage.people(2)
    await stage.send({"Identity": ["u0"]})
    await stage.campaign()
    before = dump(stage.ledger)
    assert await clean_all(stage, 10 * LONG) == 0
    assert dump(stage.ledger) == before


async def test_accounts_keep_as_long_as_they_say(stage: Stage) -> None:
    """An account's retention is a policy of its own; 30 days where there is none."""
    other = Stage(stage.ledger, stage.facts, {"android": Vendor()})
    other.worker = stage.worker
    for one in (stage, other):
        await one.people(1)
        await one.send({"Identity": ["u0"]})
    await stage.send({"Identity": ["u0"]})
    await stage.deliver()
    write = functools.partial(set_policy, account_id=other.account.id, name="retention", now=NOW)
    for wrong in ('{"days": 0}', '{"days": 1e9}', '{"weeks": 1}', "30"):
        with pytest.raises(Misconfigured):
            stage.ledger.write_now(functools.partial(write, value=wrong))
    stage.ledger.write_now(functools.partial(write, value='{"days": 2}'))
    assert await clean_all(stage, 3 * DAY) == 1
    assert {row.account_id for row in rows_of(stage.ledger)} == {stage.account.id}
    assert await clean_all(stage) == 2


class Soon(asyncio.Event):
    """Is set once it was asked for so many times."""

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def is_set(self) -> bool:
        self.times -= 1
        return self.times < 0


async def test_a_sweep_can_be_stopped(stage: Stage) -> None:
    """Once it is told to stop, a sweep begins no further piece; the next one does the rest."""
    await stage.people(1)
    for _ in range(4):
        await stage.send({"Identity": ["u0"]})
    await stage.deliver()
    assert await clean(stage.ledger, stage.now + LONG, Soon(2), 1, 1) == 2
    assert len(rows_of(stage.ledger)) == 2
    await clean_all(stage)
    assert len(rows_of(stage.ledger)) == 1


async def test_views_of_cleaned_messages_count(stage: Stage) -> None:
    """A message is viewed and clicked after it was cleaned: it counts for its campaign, variant and tag group, once."""
    await stage.people(6)
    campaign = await stage.campaign(**VARIANTS)
    await stage.send({"Identity": ["u0", "u1", "nobody"]}, tag_group="news")
    await stage.send({"Identity": ["u1"]})
    await stage.deliver()
    places = [(row.id, place) for row in rows_of(stage.ledger) for place in range(row.size)]
    to_nobody = places.pop(8)
    await clean_all(stage)
    with pytest.raises(Problem, match="not of a message"):
        await report_view(*(stage.ledger, stage.facts, IDS, sign_push_id(SECRET, *to_nobody), stage.now + LONG))
    for place in places[:1] + places:
        sign = sign_push_id(SECRET, *place)
        await report_view(stage.ledger, stage.facts, IDS, sign, stage.now + LONG)
    with pytest.raises(Problem, match="not of a message"):
        await report_view(*(stage.ledger, stage.facts, IDS, sign_push_id(SECRET, places[-1][0], 7), stage.now))
    assert (await stage.result(campaign))["viewed"] == 6
    variants = (await read_breakdown(stage.ledger, stage.facts, stage.account.id, campaign))["variants"]
    assert [one["viewed"] for one in variants.values()] == [one["sent"] for one in variants.values()]
    groups = await count_tag_groups(stage.ledger, stage.facts, stage.account.id)
    assert {name: one["viewed"] for name, one in groups.items()} == {"news": 2, "Not Tagged": 1}
    assert await stage.count("event", "name = 'Notification Viewed' AND user != 0") == 9


async def test_repair_leaves_what_is_cleaned(stage: Stage) -> None:
    """Repair writes again what the ledger still has, and the outcomes of what was cleaned stay in facts."""
    await stage.people(3)
    await stage.campaign()
    await stage.send({"Identity": ["u0"]})
    await stage.deliver()
    await clean_all(stage)
    stage.now += LONG
    await stage.send({"Identity": ["u0", "u1"]})
    await stage.deliver()
    assert await record_again(stage.ledger, stage.facts, stage.account) == 2
    assert await stage.count("outcome") == 6


async def test_mails_that_were_cleaned(store: Ledger, facts: Facts) -> None:
    """The unsubscribe link of a mail, and reports about it, lead to its recipient as long as the mail is old."""
    post = Post(store, facts)
    await post.move_in("1", "one@example.com")
    push_id = post.mail(1)[0]
    chunk = must_lease(store)
    chunk.move_all([0], State.CLAIMED)
    chunk.move_all([0], State.ACCEPTED)
    await record_outcomes(facts, [(post.account, chunk)])
    assert settle(store, chunk)
    release(store, chunk)
    kept = await post.feedback.find_link(push_id, NOW + LONG)
    assert store.write_now(lambda connection: empty_chunks(connection, post.account.id, 1, 0, 10, NOW + LONG)) == [
        chunk.id
    ]
    assert await post.feedback.find_link(push_id, NOW + LONG) == msgspec.structs.replace(kept, cleaned=True)
    await post.feedback.unsubscribe(push_id, NOW + LONG)
    assert await post.reach() == 2
    assert len(await post.events("Channel Unsubscribed")) == 1


def test_history_is_added_up_once(ledger_url: str) -> None:
    """A ledger of 0008 is upgraded with closed and open chunks in it: the sums are of the closed ones."""
    location = make_url(ledger_url)
    postgresql = location.get_backend_name() == "postgresql"
    engine = create_engine(location.set(drivername="postgresql+psycopg") if postgresql else location)
    drop_tables(ledger_url)
    migrate(ledger_url, "0008")
    columns = "account_id, run_id, campaign_id, channel, tag_group, priority, open, not_before, expires_at, variant"
    insert = text(
        f"INSERT INTO chunk ({columns}, users, platforms, states, notes, size, sent, unknown, failed, suppressed, "
        f"created_at) VALUES ('a', :run, 1, 'push', :tag, 0, :open, 0, 0, :variant, :states, :states, :states, '{{}}', "
        "0, 0, 0, 0, 0, 0)"
    )
    chunks = [
        *[(None, "t", 0, "", b"\x02\x02\x13")] * 2,
        *[(None, "t", 0, "", b"\x13"), (None, "", 0, "", b"\x02"), (None, "t", 1, "", b"\x02")],
        *[(7, "", 0, "A", b"\x02" * 1000), (7, "", 0, "A", b"\x02\x1b"), (7, "", 1, "A", b"\x02")],
    ]
    with engine.begin() as connection:
        for one in chunks:
            connection.execute(insert, dict(zip(("run", "tag", "open", "variant", "states"), one, strict=True)))
    engine.dispose()
    upgraded = open_ledger(ledger_url)
    tags, runs = upgraded.read_now(
        lambda c: [{tuple(row) for row in c.execute(select(table))} for table in (schema.tag_sum, schema.run_sum)]
    )
    upgraded.close()
    assert tags == {("a", "t", 2, 4), ("a", "t", 19, 3), ("a", "", 2, 1)}
    assert runs == {(7, "A", 2, "a", 1001), (7, "A", 27, "a", 1)}
