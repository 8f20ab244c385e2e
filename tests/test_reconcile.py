"""Reconciliation: every number that is made wrong is told and made right, and nothing is told while all is well."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from conftest import Caller, Sandbox, Server, people
from sqlalchemy import delete, select, update
from support import commands
from support.stage import Stage, Vendor

from tocsin import metrics
from tocsin.delivery.cleaner import DAY, clean
from tocsin.delivery.leavers import erase_leavers
from tocsin.errors import Problem
from tocsin.feedback.interactions import SentMessage, record_sent
from tocsin.ingest.leaving import remove_people
from tocsin.outcome import Outcome, State
from tocsin.repair.details import add_history, forget_details
from tocsin.repair.drift import Drift, find_drift, measure_drift, mend_drift, reconcile
from tocsin.stats.report.recipients import Cells, count_in_facts
from tocsin.store import schema
from tocsin.store.erasure import erase_people
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

VARIANTS = [{"name": name, "percentage": 50, "content": {"title": name, "body": "b"}} for name in ("A", "B")]
LATER = 1000.0  # after which a report has to be in facts
Plant = Callable[[Stage, int], Any]


async def look(stage: Stage) -> list[Drift]:
    return await find_drift(stage.ledger, stage.facts, stage.account, stage.now + LATER, rest=0)


@pytest.fixture
async def stage(store: Ledger, facts: Facts) -> Stage:
    """Six people, of whom a campaign of two variants and sends of a tag group went to some."""
    stage = Stage(store, facts, {"android": Vendor()})
    await stage.people(6)
    await stage.send({"Identity": ["u0", "u1", "nobody"]}, tag_group="news")
    await stage.send({"Identity": ["u2"]})
    return stage


async def begin(stage: Stage) -> int:
    """Deliver the sends and a campaign, of which a message is viewed."""
    campaign = await stage.campaign(content=None, variants=VARIANTS)
    await stage.deliver()
    await view(stage, campaign)
    return campaign


async def view(stage: Stage, campaign: int) -> None:
    """View the first message of each chunk of a campaign, 0: of the sends."""
    table = schema.chunk
    mine = select(table).where(table.c.account_id == stage.account.id, table.c.campaign_id == campaign)
    for chunk in stage.ledger.read_now(lambda c: c.execute(mine).all()):
        sent = SentMessage(
            account=stage.account,
            chunk_id=chunk.id,
            position=0,
            user=memoryview(bytes(chunk.users)).cast("I")[0],
            campaign_id=campaign,
            channel="push",
            platform="android",
            tag_group=chunk.tag_group,
            variant=chunk.variant,
        )
        await record_sent(stage.ledger, stage.facts, sent, "viewed", stage.now)


def write(stage: Stage, statement: Any) -> None:
    stage.ledger.write_now(lambda connection: connection.execute(statement))


async def test_a_large_account_is_compared_in_pieces(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that takes too long is asked of fewer chunks, until all were; what differs is found as before, and
    what fails for another reason, or for one chunk alone, is said."""
    campaign = await begin(stage)
    plant_numbers(stage, campaign)
    plant_sums(stage, campaign)
    expected = await look(stage)
    assert expected
    ask, asked, most = stage.facts.query, list[tuple[int, int]](), 2

    async def query(sql: str, parameters: Mapping[str, Any]) -> list[Any]:
        if "FROM outcome" in sql:
            first, last = int(parameters["first"]), int(parameters["last"])
            if last - first >= most:
                raise Problem("The question needs more than 30 seconds", status=503)
            asked.append((first, last))
        return await ask(sql, parameters)

    monkeypatch.setattr(stage.facts, "query", query)
    assert await look(stage) == expected
    begins = [number for number, (first, _) in enumerate(asked) if not first]
    for start, end in zip(begins, [*begins[1:], len(asked)], strict=True):
        pieces = asked[start:end]
        assert all(one[1] + 1 == two[0] for one, two in itertools.pairwise(pieces)), "each chunk once"
    most = 0
    with pytest.raises(Problem, match="more than 30 seconds"):
        await look(stage)


def plant_sums(stage: Stage, _: int) -> None:
    table = schema.run_sum
    write(stage, update(table).where(table.c.account_id == stage.account.id).values(recipients=table.c.recipients + 3))


def plant_missing_sums(stage: Stage, _: int) -> None:
    write(stage, delete(schema.run_sum).where(schema.run_sum.c.account_id == stage.account.id))


def plant_numbers(stage: Stage, campaign: int) -> None:
    table = schema.chunk
    write(stage, update(table).where(table.c.campaign_id == campaign).values(sent=table.c.sent + 1, failed=7))


def plant_low_tag_sums(stage: Stage, _: int) -> None:
    table = schema.tag_sum
    mine = (table.c.account_id == stage.account.id, table.c.tag_group == "news")
    write(stage, delete(table).where(*mine, table.c.state == State.NOT_FOUND))
    write(stage, update(table).where(*mine).values(recipients=1))


def plant_details(stage: Stage, _: int) -> None:
    table = schema.recipient_sum
    write(stage, update(table).where(table.c.account_id == stage.account.id).values(recipients=table.c.recipients + 1))


def plant_missing_details(stage: Stage, _: int) -> None:
    write(stage, delete(schema.recipient_sum).where(schema.recipient_sum.c.account_id == stage.account.id))


def forget_facts(table: str) -> Plant:
    def plant(stage: Stage, campaign: int) -> None:
        mine = f"account = '{stage.account.id}' AND campaign = {campaign}"
        stage.facts.command_now(f"ALTER TABLE {table} DELETE WHERE {mine} SETTINGS mutations_sync = 1")

    return plant


def forget_sends(stage: Stage, _: int) -> None:
    forget_facts("outcome")(stage, 0)


PLANTS: dict[str, tuple[Plant, set[str]]] = {
    "sums too high": (plant_sums, {"sums", "outcomes", "details"}),
    "sums lost": (plant_missing_sums, {"sums", "outcomes", "details"}),
    "numbers of chunks": (plant_numbers, {"numbers"}),
    "sums of tag groups too low": (plant_low_tag_sums, {"outcomes", "details"}),
    "sums by every column too high": (plant_details, {"details"}),
    "sums by every column lost": (plant_missing_details, {"details"}),
    "chunks closed without outcomes": (forget_facts("outcome"), {"outcomes"}),
    "sends without outcomes": (forget_sends, {"outcomes"}),
    "views that facts lost": (forget_facts("interaction"), {"interactions"}),
}


def read_details(stage: Stage) -> list[tuple[Any, ...]]:
    table = schema.recipient_sum
    mine = select(table).where(table.c.account_id == stage.account.id)
    return sorted(tuple(row) for row in stage.ledger.read_now(lambda c: c.execute(mine).all()))


async def test_what_is_planted_is_found_and_mended(stage: Stage) -> None:
    """Each number that is made wrong is told by what it is, and after mending all is as it was."""
    campaign = await begin(stage)
    assert await look(stage) == []
    before, details = await stage.result(campaign), read_details(stage)
    for name, (plant, kinds) in PLANTS.items():
        plant(stage, campaign)
        drift = await look(stage)
        assert {one.kind for one in drift} == kinds, name
        await mend_drift(stage.ledger, stage.facts, stage.account, drift)
        assert await look(stage) == [], name
        assert await stage.result(campaign) == before, name
        assert read_details(stage) == details, name


async def test_sums_are_whole_or_facts_are_asked(stage: Stage) -> None:
    """Sums that cannot be made of facts, because facts lack something, are not used; once facts have it they are."""
    campaign = await begin(stage)
    details = read_details(stage)
    forget = functools.partial(forget_details, account_id=stage.account.id, campaign=campaign)
    stage.ledger.write_now(forget)
    forget_facts("outcome")(stage, campaign)
    unsummed = select(schema.unsummed.c.campaign_id).where(schema.unsummed.c.account_id == stage.account.id)
    await add_history(stage.ledger, stage.facts, stage.account)
    assert stage.ledger.read_now(lambda c: c.scalars(unsummed).all()) == [campaign]
    assert len(read_details(stage)) < len(details)
    await mend_drift(stage.ledger, stage.facts, stage.account, await look(stage))
    assert stage.ledger.read_now(lambda c: c.scalars(unsummed).all()) == []
    assert read_details(stage) == details


async def test_nothing_is_told_while_all_is_well(store: Ledger, facts: Facts) -> None:
    """Not before, between and after the tries of a campaign, not after a kill of the worker, not after cleaning, and
    not after a recipient was erased."""
    vendor = Vendor()
    stage = Stage(store, facts, {"android": vendor})
    await stage.people(8)
    campaign = await stage.campaign(content=None, variants=VARIANTS)
    await stage.send({"Identity": ["u0", "u1", "nobody"]}, tag_group="news")
    assert await look(stage) == []
    vendor.answers = [Outcome.ACCEPTED, Outcome.UNAVAILABLE, Outcome.REFUSED, Outcome.ACCEPTED, stage.kill]
    await stage.deliver()
    assert State.CLAIMED.name in await stage.states()
    assert await look(stage) == []
    stage.now += stage.settings.lease_seconds + 1
    await stage.deliver()
    assert await look(stage) == []
    await stage.deliver_all()
    await view(stage, campaign)
    await view(stage, 0)
    assert await look(stage) == []
    await clean(stage.ledger, stage.now + 40 * DAY, asyncio.Event(), 2, 2)
    assert await look(stage) == []
    await asyncio.to_thread(erase_people, facts, [(stage.account.id, 1)])
    assert await stage.count("outcome", "user = 1") == 0
    assert await look(stage) == []


async def test_what_moves_is_no_drift(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that differs otherwise in the second look, because something is under way, is not told."""
    campaign = await begin(stage)
    plant_sums(stage, campaign)

    async def move(_: float) -> None:
        plant_sums(stage, campaign)

    monkeypatch.setattr("tocsin.repair.drift.asyncio.sleep", move)
    assert await look(stage) == []


async def test_what_is_delivered_meanwhile_is_not_added(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes to its end between the two counts of a repair is in its tag group's sums once."""
    campaign = await begin(stage)
    plant_low_tag_sums(stage, campaign)
    drift = await look(stage)
    await stage.send({"Identity": ["u3", "u4"]}, tag_group="news")

    async def deliver_first(*given: Any) -> Cells:
        await stage.deliver()
        return await count_in_facts(*given)

    with monkeypatch.context() as patched:
        patched.setattr("tocsin.repair.details.count_in_facts", deliver_first)
        await mend_drift(stage.ledger, stage.facts, stage.account, drift)
    assert await look(stage) == []


async def test_outcomes_of_who_was_erased_are_made_again(stage: Stage) -> None:
    """A recipient who is nobody's any more is mended like others: one outcome, and no event of anybody."""
    campaign = await begin(stage)
    keys = [("identity", "u1")]
    stage.ledger.write_now(lambda connection: remove_people(connection, stage.account.id, keys, stage.now))
    assert await erase_leavers(stage.ledger, stage.facts, stage.now) == 1
    for lost in (0, campaign):
        forget_facts("outcome")(stage, lost)
    await mend_drift(stage.ledger, stage.facts, stage.account, await look(stage))
    assert await look(stage) == []
    assert await stage.count("event", "user = 0") == 0


async def test_what_is_lost_for_good_is_told(stage: Stage) -> None:
    """Outcomes that facts lost after the ledger forgot them: the sums stay as they are, and the difference is told."""
    await begin(stage)
    await clean(stage.ledger, stage.now + 40 * DAY, asyncio.Event(), 100, 100)
    forget_facts("outcome")(stage, 0)
    found = await reconcile(stage.ledger, stage.facts, stage.account, stage.now + LATER, rest=0, mend=True)
    assert [(one.campaign, one.group, one.expected, one.found) for one in found["left"]] == [
        (0, "accepted", 1, 0),
        (0, "news accepted", 2, 0),
        (0, "news suppressed", 1, 0),
    ]


async def test_the_metric_counts_what_differs(own_ledger: Ledger, facts: Facts) -> None:
    """The metric has how many recipients differ, and is 0 again once they agree."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    await stage.people(1)
    campaign = await stage.campaign()
    await stage.deliver()
    plant_sums(stage, campaign)
    for expected in (3.0, 0.0):
        await measure_drift(own_ledger, facts, stage.now, rest=0)
        assert metrics.REGISTRY.get_sample_value("tocsin_drift", {"kind": "sums"}) == expected
        await mend_drift(own_ledger, facts, stage.account, await look(stage))


def test_by_command(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """`tocsin doctor` says that numbers differ, `tocsin reconcile` which, and with --repair none is left."""
    sending.upload(*people(3))
    sending.result(sending.create())
    name = ("--account", sending.account_id, "--data", str(server.data))
    assert run("reconcile", *name)[0] == 0
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        table = schema.run_sum
        wrong = update(table).where(table.c.account_id == sending.account_id).values(recipients=100)
        ledger.write_now(lambda connection: connection.execute(wrong))
    assert f"MEND {sending.account_id}: 3 numbers differ" in run("doctor", "--data", str(server.data))[1]
    code, said = run("reconcile", *name)
    assert (code, {one["kind"] for one in json.loads(said)["drift"]}) == (1, {"sums", "outcomes", "details"})
    code, said = run("reconcile", *name, "--repair")
    assert (code, json.loads(said)["left"]) == (0, [])


def run(*arguments: str) -> tuple[int, str]:
    done = commands.run(*arguments)
    return done.returncode, done.stdout
