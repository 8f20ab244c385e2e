"""Reports by any columns: over random histories every grouping adds up to what the other results say."""

from __future__ import annotations

import asyncio
import csv
import functools
import io
import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import THOROUGH, Caller, Sandbox, Server, people
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.commands import run_bytes
from support.counting_pool import CountingPool
from support.stage import NOW, Stage, Vendor

from tocsin.campaign.runs import find_campaign, read_stored_spec
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.cleaner import clean
from tocsin.errors import Problem
from tocsin.feedback.interactions import EVENTS
from tocsin.ingest import event_row
from tocsin.outcome import FINAL, NUMBER_OF_OUTCOME, NUMBERS, OUTCOME_OF, SUPPRESSED, Outcome, State, reason_of
from tocsin.policy import set_policy
from tocsin.providers.contract import Receipt
from tocsin.repair.details import add_history, forget_details
from tocsin.stats import counts
from tocsin.stats.report import report as report_module
from tocsin.stats.report.formats import write_csv, write_report
from tocsin.stats.report.report import (
    NUMBER_NAMES,
    CampaignReport,
    ReportNumbers,
    ReportRow,
    read_report,
)
from tocsin.stats.report.scope import COLUMNS, Column, ReportScope
from tocsin.stats.results import count_converted, count_interactions, count_labels, count_tag_groups
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

GOAL = {"event_name": "Charged", "conversion_time": "5M", "revenue_property": "Amount"}
CONTENT = {"title": "t", "body": "b"}
VARIANTS = [{"name": name, "percentage": 50, "content": CONTENT} for name in ("A", "B")]
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"labels": ["spring", "sale"], "conversion_goal": GOAL},
    {"content": None, "variants": VARIANTS, "labels": ["sale"], "conversion_goal": GOAL},
    {"control_group": {"type": "campaign", "percentage": 30}},
)
GROUPINGS: list[tuple[Column, ...]] = [
    (),
    *((one,) for one in COLUMNS if one != "label"),
    ("campaign", "variant", "outcome"),
    ("run", "platform", "code"),
    ("tag_group", "day", "channel"),
    ("campaign", "hour", "platform", "outcome"),
    tuple(name for name in COLUMNS if name != "label"),
]


def answer(dice: random.Random) -> Any:
    outcome = dice.choice([Outcome.ACCEPTED] * 4 + [Outcome.REFUSED, Outcome.UNKNOWN, Outcome.UNAVAILABLE])
    return Receipt(outcome=outcome, code="" if outcome is Outcome.ACCEPTED else dice.choice(["400", "500"]))


class History:
    """An account whose campaigns and sends are delivered in pieces, viewed, bought after and cleaned."""

    def __init__(self, stage: Stage, vendors: list[Vendor], dice: random.Random):
        self.stage, self.vendors, self.dice = stage, vendors, dice
        self.campaigns: list[int] = []
        self.recipients: dict[tuple[int, int], Mapping[str, Any]] = {}

    async def begin(self) -> None:
        text = '{"event_name": "Charged", "conversion_time": "1H", "revenue_property": "Amount"}'
        write = functools.partial(set_policy, account_id=self.stage.account.id, name="conversion", value=text, now=NOW)
        self.stage.ledger.write_now(write)
        await self.stage.people(5, kinds=("fcm", "apns"))

    async def campaign(self) -> None:
        shape = self.dice.choice(SHAPES)
        self.campaigns.append(await self.stage.campaign(devices=["android", "ios"], **shape))

    async def send(self) -> None:
        names = self.dice.sample(["u0", "u1", "u2", "nobody"], 3)
        await self.stage.send({"Identity": names}, tag_group=self.dice.choice(["", "news", "otp"]))

    async def deliver(self) -> None:
        for vendor in self.vendors:
            vendor.answers = [answer(self.dice) for _ in range(8)]
        await self.stage.deliver()

    async def wait(self) -> None:
        self.stage.now += self.dice.choice([1, 40, 4000, 90_000])

    async def react(self) -> None:
        """Views of some messages, and purchases of some people."""
        table, rows = schema.chunk, []
        mine = select(table).where(table.c.account_id == self.stage.account.id, table.c.size > 0)
        for chunk in self.stage.ledger.read_now(lambda c: c.execute(mine).all()):
            users = memoryview(bytes(chunk.users)).cast("I")
            for position, state in enumerate(bytes(chunk.states)):
                if state == State.ACCEPTED and self.dice.random() < 0.6:
                    props = {
                        "Campaign id": chunk.campaign_id,
                        "Variant": chunk.variant or "default",
                        "Channel": chunk.channel,
                        "Platform": PLATFORM_CODES[chunk.platforms[position]],
                        "Tag group": chunk.tag_group,
                    }
                    name, at = self.dice.choice(list(EVENTS.values())), self.stage.now
                    message = chunk.id * 65536 + position
                    rows.append(event_row(self.stage.account, name, users[position], at, message, props))
        for user in range(1, 6):
            if self.dice.random() < 0.5:
                amount = {"Amount": self.dice.randrange(50)}
                bought = self.dice.randrange(1 << 40)
                rows.append(event_row(self.stage.account, "Charged", user, self.stage.now, bought, amount))
        await self.stage.facts.insert("event", rows)

    def remember(self) -> None:
        """Note every recipient as the ledger has them, one by one: cleaned chunks have none any more."""
        table, zone = schema.chunk, self.stage.account.zone
        mine = select(table).where(table.c.account_id == self.stage.account.id)
        for chunk in self.stage.ledger.read_now(lambda c: c.execute(mine).all()):
            notes = json.loads(chunk.notes)
            for place, byte in enumerate(bytes(chunk.states)):
                state, note = State(byte), notes.get(str(place), {})
                at = note.get("at") or chunk.started_at if state in FINAL else None
                local = None if at is None else datetime.fromtimestamp(int(at), UTC).astimezone(zone)
                code = reason_of(state) if state in SUPPRESSED else note.get("code", "") if state in FINAL else ""
                self.recipients[chunk.id, place] = {
                    **{name: getattr(chunk, name) for name in ("channel", "variant", "tag_group")},
                    **{"campaign": chunk.campaign_id, "run": chunk.run_id or 0, "code": code},
                    "platform": PLATFORM_CODES[bytes(chunk.platforms)[place]],
                    "outcome": OUTCOME_OF[state].value if state in FINAL else "under way",
                    "day": "" if local is None else local.date().isoformat(),
                    "hour": "" if local is None else local.replace(minute=0, second=0).isoformat(),
                }

    async def clean(self) -> None:
        self.remember()
        await clean(self.stage.ledger, self.stage.now + 40 * 86_400, asyncio.Event(), 2, 2)

    async def forget(self) -> None:
        """As a ledger from before there were sums by every column: chunks that close from now on add to them."""
        for one in (0, *self.campaigns):
            forget = functools.partial(forget_details, account_id=self.stage.account.id, campaign=one)
            self.stage.ledger.write_now(forget)

    async def check_recipients(self, groupings: list[tuple[Column, ...]]) -> None:
        """Whatever the columns and days, the recipients are those who were noted one by one."""
        self.remember()
        days = sorted({one["day"] for one in self.recipients.values()} - {""})
        first = date.fromisoformat(self.dice.choice(days)) if days else None
        for by in groupings:
            for scope in ({}, {self.dice.choice(["first", "last"]): first}):
                expected: Counter[tuple[Any, ...]] = Counter()
                for one in self.recipients.values():
                    low, high = (scope.get(name) for name in ("first", "last"))
                    day = date.fromisoformat(one["day"]) if one["day"] else None
                    if (low or high) and (day is None or not (low or day) <= day <= (high or day)):
                        continue
                    key = tuple(one[name] for name in by)
                    expected[key, "audience"] += 1
                    expected[key, NUMBER_OF_OUTCOME.get(one["outcome"], "under_way")] += 1
                rows = (await self.ask(by, **scope)).rows
                names = ("audience", "under_way", *NUMBERS)
                found = {(row.key, name): getattr(row.numbers, name) for row in rows for name in names}
                assert {place: count for place, count in found.items() if count} == dict(expected), (by, scope)

    async def check_sums(self) -> None:
        """Reports say the same while sums lack what was closed before, and the sums are as if they never had."""
        await self.check_recipients([("platform", "code", "outcome"), GROUPINGS[-1]])
        await add_history(self.stage.ledger, self.stage.facts, self.stage.account)
        table = schema.unsummed
        mine = select(table).where(table.c.account_id == self.stage.account.id)
        assert not self.stage.ledger.read_now(lambda c: c.execute(mine).all())
        await self.check_recipients([("hour", "variant"), ("tag_group", "channel", "day"), GROUPINGS[-1]])

    async def check(self, groupings: list[tuple[Column, ...]]) -> None:
        ledger, facts, account = self.stage.ledger, self.stage.facts, self.stage.account
        expected = Counter[str]()
        for one in self.campaigns:
            numbers = await self._expect(one)
            found = await self.ask(("campaign",), campaigns=(one,))
            assert flat(found.total) == +numbers
            expected.update(numbers)
        sends = Counter[str]()
        groups = await count_tag_groups(ledger, facts, account.id)
        for own in groups.values():
            sends.update(without_goal(own))
        expected.update(sends)
        by_tag = await self.ask(("tag_group",), campaigns=(0,))
        assert flat(by_tag.total) == +sends
        for row in by_tag.rows:
            assert flat(row.numbers) == +without_goal(groups[str(row.key[0]) or "Not Tagged"])
        labels = await count_labels(ledger, facts, account.id)
        by_label = {row.key[0]: flat(row.numbers) for row in (await self.ask(("label",))).rows if row.key != ("",)}
        assert by_label == {name: +without_goal(own) for name, own in labels.items()}
        await self._check_runs(("campaign", "run"))
        await self._check_runs(("campaign", "run", "platform"))
        for by in groupings:
            found = await self.ask(by)
            assert flat(found.total) == +expected, by
            assert sum((flat(row.numbers) for row in found.rows), Counter()) == +expected, by
            assert found.rows == sorted(found.rows, key=lambda row: row.key)

    async def _check_runs(self, by: tuple[Column, ...]) -> None:
        """Each run has its own recipients, and what was done with them."""
        run = schema.run
        mine = select(run).where(run.c.account_id == self.stage.account.id)
        runs = {row.id: row for row in self.stage.ledger.read_now(lambda c: c.execute(mine).all())}
        audiences = Counter[int]()
        for row in (await self.ask(by)).rows:
            campaign, number = int(row.key[0]), int(row.key[1])
            assert campaign == (runs[number].campaign_id if number else 0)
            audiences[number] += row.numbers.audience
        assert {one: audiences[one] for one in runs} == {one: row.audience for one, row in runs.items()}

    async def _expect(self, campaign: int) -> Counter[str]:
        ledger, facts, account = self.stage.ledger, self.stage.facts, self.stage.account
        spec = await ledger.read(lambda c: read_stored_spec(c, account.id, campaign))
        audience = await ledger.read(lambda c: find_campaign(c, account.id, campaign).audience)
        numbers = await ledger.read(lambda c: counts.sum_numbers(c, campaign))
        seen = await count_interactions(facts, account.id, [campaign])
        converted = await count_converted(ledger, facts, account.id, campaign, spec)
        return without_goal({"audience": audience, **numbers, **seen[campaign], **converted})

    async def ask(self, by: tuple[Column, ...], **more: Any) -> CampaignReport:
        scope = ReportScope(account=self.stage.account, by=by, **more)
        return await read_report(self.stage.ledger, self.stage.facts, scope)


def without_goal(numbers: Any) -> Counter[str]:
    """The numbers that a report has, with those under way."""
    known = Counter({name: numbers[name] for name in NUMBER_NAMES if name in numbers})
    known["under_way"] = known["audience"] - sum(known[name] for name in NUMBERS)
    return known


def flat(numbers: ReportNumbers) -> Counter[str]:
    return +Counter({name: getattr(numbers, name) for name in NUMBER_NAMES})


@pytest.fixture
def vendors() -> list[Vendor]:
    return [Vendor(), Vendor()]


STEPS = ("campaign", "send", "send", "deliver", "deliver", "wait", "react", "clean", "forget")


@settings(
    max_examples=20 if THOROUGH else 2,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
async def test_every_grouping_adds_up(store: Ledger, facts: Facts, vendors: list[Vendor], seed: int) -> None:
    """Whatever was sent, is under way, was viewed, bought after and cleaned: the rows of every grouping add up to the
    total, which is that of campaigns' results, of tag groups and of labels."""
    dice = random.Random(seed)
    stage = Stage(store, facts, dict(zip(("android", "ios"), vendors, strict=True)))
    history = History(stage, vendors, dice)
    await history.begin()
    before = ["campaign", "send", "deliver", "react", *dice.choices(STEPS, k=3)]
    for step in [*before, "forget", "campaign", "send", "deliver"]:
        await getattr(history, step)()
    await history.check([(), *dice.sample(GROUPINGS, 3)])
    await history.check_sums()


def test_over_http(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """By campaign and by what became of everybody, in each format; a comparison; by the command the same bytes."""
    sending.upload(*people(6))
    first, second = sending.create(name="=cmd()", labels=["x"]), sending.create(labels=["@x", "y"])
    result = {one: sending.result(one) for one in (first, second)}
    status, found = sending.post("/1/reports.json", {"by": ["campaign"]})
    assert (status, [row["campaign"] for row in found["rows"]]) == (200, [first, second])
    for row in found["rows"]:
        assert {name: row[name] for name in result[first]} == result[row["campaign"]]
    assert found["total"]["audience"] == sum(one["audience"] for one in result.values())
    asked = {"by": ["label", "platform", "outcome", "day", "hour"], "labels": ["@x"], "format": "csv"}
    status, raw, headers = sending.call("POST", "/1/reports.json", asked)
    assert headers["content-type"] == "text/csv;charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert {row["label"] for row in rows} == {"'@x"}
    assert sum(int(row["audience"]) for row in rows) == result[second]["audience"]
    day, hour = rows[0]["day"], datetime.fromisoformat(rows[0]["hour"])
    assert hour.date() == date.fromisoformat(day)
    assert hour.utcoffset() is not None
    arguments = ("--by", "label,platform,outcome,day,hour", "--label", "@x")
    assert run_report(server, sending, *arguments) == raw
    status, raw, _ = sending.call("POST", "/1/reports.json", asked | {"format": "parquet"})
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
    assert [str(table.schema.field(name).type) for name in ("label", "day", "hour", "audience", "revenue")] == [
        *("string", "date32[day]", "timestamp[ms, tz=UTC]", "int64", "double")
    ]
    assert table["hour"][0].as_py() == hour
    assert sum(table["audience"].to_pylist()) == result[second]["audience"]
    status, found = sending.post("/1/reports.json", {"by": ["platform"], "campaigns": [second], "earlier": first})
    assert {row["earlier_sent"] for row in found["rows"]} == {2}
    assert found["earlier_total"]["audience"] == result[first]["audience"]
    whole = {"by": ["day"], "from": day.replace("-", ""), "to": day.replace("-", "")}
    assert sending.post("/1/reports.json", whole)[1]["total"]["sent"] == 12
    assert sending.post("/1/reports.json", whole | {"to": None, "from": 20990101})[1]["rows"] == []


def run_report(server: Server, caller: Caller, *arguments: str) -> bytes:
    done = run_bytes("report", "--account", caller.account_id, "--data", str(server.data), *arguments)
    done.check_returncode()
    return done.stdout


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"by": ["weather"]}, "$.by[0]"),
        ({"by": ["day", "day"]}, "$.by"),
        ({"group": []}, "$.group"),
        ({"from": "2026-11-01"}, "$.from"),
        ({"from": 20261102, "to": 20261101}, "$.from"),
        ({"to": 20261301}, "$.to"),
        ({"to": 99990101}, "$.to"),
        ({"campaigns": [1]}, "$.campaigns"),
        ({"campaigns": [-1]}, "$.campaigns[0]"),
        ({"campaigns": list(range(1001))}, "$.campaigns"),
        ({"format": "xlsx"}, "$.format"),
        ({"earlier": 1}, "$.earlier"),
        ({"earlier": 1, "campaigns": [2], "by": ["day"]}, "$.by"),
    ],
    ids=str,
)
def test_what_is_wrong_says_where(caller: Caller, body: dict[str, Any], place: str) -> None:
    """Nothing that is not understood is left out of a report."""
    status, answer = caller.post("/1/reports.json", body)
    assert (status, f"(at {place})" in answer["error"]) == (400, True), answer


def test_another_account_has_none_of_it(server: Server, caller: Caller) -> None:
    """A campaign of somebody else is not there, and adds nothing."""
    other = server.account()
    made = other.create(when="20990101 10:00")
    status, answer = caller.post("/1/reports.json", {"campaigns": [made]})
    assert (status, answer["error"]) == (400, f"There is no campaign {made} (at $.campaigns)")
    assert caller.post("/1/reports.json", {"by": ["campaign"]})[1]["rows"] == []
    assert caller.post("/1/reports.json", {"labels": ["none"]})[1]["rows"] == []


def test_no_cell_is_a_formula() -> None:
    """A text that a spreadsheet would compute is marked, a number below 0 is not."""
    keys = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "plain", "a=1", 'a"b,c\n']
    rows = [ReportRow(key=(key,), numbers=ReportNumbers(revenue=-1.5)) for key in keys]
    raw = write_report(CampaignReport(by=("label",), rows=rows, total=ReportNumbers()), "csv")
    read = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert [row["label"] for row in read] == [*(f"'{key}" for key in keys[:4]), "'\t'=1", "'\r'=1", *keys[6:]]
    assert {row["revenue"] for row in read} == {"-1.5"}


@pytest.mark.parametrize("sign", "=+-@\t\r＝＋－＠")
@pytest.mark.parametrize("before", ["", ";", "x;", "\t", "a\n", 'b; "', " "])
def test_no_cell_of_another_dialect_is_a_formula(before: str, sign: str) -> None:
    """Also where a spreadsheet divides at semicolons or tabs, and takes a quoted line break for the end of a row; in
    the head as well."""
    text = f"{before}{sign}1+1"
    for divided in (write_csv([text], [[text]]), write_csv(["a", text], [[1, text]])):
        for line in re.split(r"[\r\n]+", divided):
            for cell in re.split(r"[;\t,]", line):
                assert not cell.strip(' "').startswith(tuple("=+-@＝＋－＠")), divided


async def test_reports_leave_readers_to_others(own_ledger: Ledger, facts: Facts) -> None:
    """However many one account asks for at once, one is read at a time: every request of every account needs the
    ledger's few readers."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    readers, own_ledger._readers = own_ledger._readers, (counted := CountingPool())
    scope = ReportScope(account=stage.account, by=("tag_group",))
    await asyncio.gather(*(read_report(own_ledger, facts, scope) for _ in range(12)))
    assert counted.most <= 3
    own_ledger._readers = readers
    counted.shutdown()


async def test_a_report_is_bounded(own_ledger: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a report may have are refused with what to do."""
    stage = Stage(own_ledger, facts, {"android": Vendor()})
    await stage.people(1)
    await stage.send({"Identity": ["u0"]}, tag_group="a")
    await stage.send({"Identity": ["u0"]}, tag_group="b")
    await stage.deliver()
    monkeypatch.setattr(report_module, "ROWS", 1)
    with pytest.raises(Problem, match="more than 1 rows"):
        await read_report(own_ledger, facts, ReportScope(account=stage.account, by=("tag_group",)))
