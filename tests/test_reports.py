"""Reports of views and clicks, in any order and number: each message counts once, and none that was not sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog.testing
from conftest import THOROUGH, new_sqlite
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.sent_chunks import add_chunk

from tocsin.account import create_account
from tocsin.errors import Problem
from tocsin.feedback.first_reports import First, Heard, Key, keep_first
from tocsin.feedback.interactions import EVENTS, INTERACTIONS
from tocsin.feedback.machines import QuickClicks, is_quick, judge_visit
from tocsin.feedback.report_log import AT_ONCE, ReportLog
from tocsin.feedback.reports import PLACES, SHARE, Reports, Way
from tocsin.outcome import State
from tocsin.stats.results import count_interactions, count_tag_groups
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

NOW, DAY, DAYS = 1_800_000_000.0, 86_400.0, 90.0
CAMPAIGN = 9
GROUPS = ("", "orders", "codes")
STATES = [State.ACCEPTED] * 4 + [State.UNKNOWN, State.REFUSED, State.GONE]

# (number of a chunk, position, kind, days after it was sent, the number of the process that hears it)
REPORTS = st.lists(
    st.tuples(
        *(st.integers(0, 3), st.integers(0, 4), st.sampled_from(list(EVENTS))),
        *(st.sampled_from([0.0, 1.0, 89.0, 91.0]), st.integers(0, 1)),
    ),
    max_size=30,
)
Said = tuple[int, int, str, float, int]


class World:
    """An account with a chunk of a campaign and one of each tag group, all closed; and two processes."""

    def __init__(self, ledger: Ledger, facts: Facts, states: Sequence[Sequence[State]]):
        self.ledger, self.facts, self.states = ledger, facts, states
        self.account = create_account(ledger, "world", "UTC", NOW)[0]
        self.chunks = [add_chunk(ledger, self.account.id, campaign, group, chosen) for (campaign, group), chosen in zip(
            [(CAMPAIGN, ""), *((0, group) for group in GROUPS)], states, strict=True)]  # fmt: skip
        self.processes = [Reports(ledger, facts, DAYS) for _ in range(2)]

    async def hear(self, said: Said) -> None:
        number, position, kind, days, process = said
        with contextlib.suppress(Problem):
            at = NOW + days * DAY
            await self.processes[process].take("track", kind, self.chunks[number], position, at)

    async def numbers(self) -> dict[str, dict[str, int]]:
        """{kind: messages} of the campaign and of each group."""
        campaign = await count_interactions(self.facts, self.account.id, [CAMPAIGN])
        groups: Any = await count_tag_groups(self.ledger, self.facts, self.account.id)
        found: dict[str, Any] = {"campaign": campaign[CAMPAIGN], **{name or "": one for name, one in groups.items()}}
        return {name: {kind: one[kind] for kind in EVENTS if one.get(kind)} for name, one in found.items()}


def expect(states: Sequence[Sequence[State]], history: Sequence[Said]) -> dict[str, dict[str, int]]:
    """What the history comes to, whatever its order."""
    counted = {
        (number, position, kind)
        for number, position, kind, days, _ in history
        if days <= DAYS and position < len(states[number]) and states[number][position] is State.ACCEPTED
    }
    names = ["campaign", "Not Tagged", *GROUPS[1:]]
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for number, _, kind in counted:
        found[names[number]][kind] = found[names[number]].get(kind, 0) + 1
    return found


@settings(max_examples=100 if THOROUGH else 8, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(st.sampled_from(STATES), min_size=1, max_size=4), min_size=4, max_size=4),
    REPORTS,
    st.randoms(use_true_random=False),
)
@example([[State.ACCEPTED]] * 4, [(1, 0, "viewed", 1, 0), (1, 0, "viewed", 0.0, 1)] * 2, None)
async def test_any_history_has_the_numbers_of_its_messages(
    tmp_path_factory: pytest.TempPathFactory, facts: Facts, states: list[list[State]], history: list[Said], dice: Any
) -> None:
    """With duplicates, late ones, by two processes, one by one or all at once: each message counts once of a kind,
    none that was not sent; the same in another order; groups add up to their messages."""
    with contextlib.closing(open_ledger(new_sqlite(tmp_path_factory.mktemp("law")))) as ledger:
        worlds = [World(ledger, facts, states) for _ in range(2)]
        for said in history:
            await worlds[0].hear(said)
        other = list(history)
        if dice is not None:
            dice.shuffle(other)
        await asyncio.gather(*map(worlds[1].hear, other))
        expected = expect(states, history)
        for world in worlds:
            found = await world.numbers()
            assert {name: one for name, one in found.items() if one} == {
                name: one for name, one in expected.items() if one
            }
        for name, chosen in zip(expected, states, strict=True):
            assert all(count <= chosen.count(State.ACCEPTED) for count in expected[name].values())


async def test_one_of_two_processes_is_first(store: Ledger, facts: Facts, open_again: Callable[[], Ledger]) -> None:
    """On either engine, with reports of many messages at once: one is new and the others are repeats."""
    account = create_account(store, "a", "UTC", NOW)[0]
    chunk = add_chunk(store, account.id, CAMPAIGN, "", [State.ACCEPTED] * 50)
    processes = [Reports(store, facts, DAYS), Reports(open_again(), facts, DAYS)]
    asked = [(one, position) for position in range(50) for one in processes for _ in range(2)]
    results = await asyncio.gather(*(one.take("track", "viewed", chunk, position, NOW) for one, position in asked))
    assert sorted(results) == ["counted"] * 50 + ["repeated"] * 150
    assert (await count_interactions(facts, account.id, [CAMPAIGN]))[CAMPAIGN] == {"viewed": 50, "clicked": 0}


def test_the_first_time_is_kept(store: Ledger) -> None:
    """Of each key, in one statement for many."""
    keys = [Key(chunk, position, kind) for chunk in (1, 2**40) for position in (0, 999) for kind in EVENTS]
    first = [Heard(key, "a", NOW + number) for number, key in enumerate(keys)]
    later = [Heard(key, "a", NOW + 1000) for key in keys]
    new = Heard(Key(3, 3, "viewed"), "a", NOW + 7.25)
    assert store.write_now(lambda one: keep_first(one, first)) == {one.key: First(one.at, new=True) for one in first}
    found = store.write_now(lambda one: keep_first(one, [*later, new]))
    assert found == {one.key: First(one.at, new=False) for one in first} | {new.key: First(new.at, new=True)}


async def test_reports_of_one_account_take_a_share(
    store: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the ledger is busy, so many wait and further ones are told so; others have their turn."""
    loud, quiet = (create_account(store, name, "UTC", NOW)[0] for name in ("loud", "quiet"))
    monkeypatch.setattr("tocsin.feedback.reports.PLACES", 40)
    monkeypatch.setattr("tocsin.feedback.reports.BLOCK", 4)
    many, one = (
        add_chunk(store, loud.id, CAMPAIGN, "", [State.ACCEPTED] * 30),
        add_chunk(store, quiet.id, 8, "", [State.ACCEPTED]),
    )
    reports = Reports(store, facts, DAYS)
    order: list[str] = []

    async def report(name: str, chunk: int, position: int) -> str:
        try:
            found = await reports.take("track", "viewed", chunk, position, NOW)
        except Problem as problem:
            return str(problem.status)
        order.append(name)
        return found

    asked = [report("loud", many, position) for position in range(30)]
    results = await asyncio.gather(*asked, report("quiet", one, 0))
    assert sorted(results) == ["429"] * 20 + ["counted"] * 11
    assert order.index("quiet") < len(order) - 1, "it waited for all of the other account"
    assert PLACES // SHARE > 1000
    assert await reports.take("track", "viewed", many, 29, NOW) == "counted"


async def test_a_store_that_fails_is_told_and_comes_back(
    store: Ledger, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that could not be stored is an error, and is taken when it comes again."""
    account = create_account(store, "a", "UTC", NOW)[0]
    chunk = add_chunk(store, account.id, CAMPAIGN, "", [State.ACCEPTED])
    reports = Reports(store, facts, DAYS)
    ways: list[Way] = ["link", "pixel"]
    with monkeypatch.context() as broken:
        broken.setattr(facts, "insert", _fail)
        with pytest.raises(OSError, match="away"):
            await reports.take("track", "viewed", chunk, 0, NOW)
        for way in ways:
            stored = reports.start(way, "clicked", chunk, 0, NOW)
            assert stored is not None
            await asyncio.wait((stored,))
    # The ledger has it as an old one; its event is written now.
    assert await reports.take("track", "viewed", chunk, 0, NOW) == "repeated"
    assert (await count_interactions(facts, account.id, [CAMPAIGN]))[CAMPAIGN]["viewed"] == 1


async def _fail(*_: Any) -> None:
    raise OSError("away")


async def test_of_a_cleaned_message_once(store: Ledger, facts: Facts) -> None:
    """When the ledger no longer knows whom it went to, facts do."""
    account = create_account(store, "a", "UTC", NOW)[0]
    chunk = add_chunk(store, account.id, CAMPAIGN, "", [State.ACCEPTED], cleaned=True)
    await facts.insert(
        "outcome", [(account.id, CAMPAIGN, chunk, 0, 7, "android", "push", "accepted", "", "", "", *_day())]
    )
    reports = Reports(store, facts, DAYS)
    assert [await reports.take("track", "viewed", chunk, 0, NOW + n) for n in range(3)] == [
        "counted",
        "repeated",
        "repeated",
    ]
    assert (await count_interactions(facts, account.id, [CAMPAIGN]))[CAMPAIGN] == {"viewed": 1, "clicked": 0}
    with pytest.raises(Problem, match="not of a message"):
        await reports.take("track", "viewed", chunk, 1, NOW)
    with pytest.raises(Problem, match="has ended"):
        await reports.take("track", "viewed", chunk, 0, NOW + 100 * DAY)


def _day() -> tuple[Any, Any]:
    at = datetime.fromtimestamp(NOW, UTC)
    return at.date(), at


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ("Mozilla/5.0", "proxy"),
        (" Mozilla/5.0 ", "proxy"),
        ("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)", "proxy"),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "proxy"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0", "proxy"),
        ("BarracudaCentral", "scanner"),
        ("Mozilla/5.0 (compatible; bingbot/2.0)", "scanner"),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/120.0", "scanner"),
        ("Mozilla/5.0 (Linux; Android 12; CUBOT P50) Chrome/120.0 Mobile", ""),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15", ""),
        ("Mozilla/4.0 (compatible; ms-office; MSOffice 16)", ""),
        ("Python-urllib/3.11", ""),
        ("", ""),
        ("x" * 100_000 + "bot", ""),
    ],
)
def test_who_is_a_machine(agent: str, reason: str) -> None:
    assert judge_visit("GET", [(b"user-agent", agent.encode())]) == reason
    assert judge_visit("HEAD", [(b"user-agent", agent.encode())]) == "head"


async def test_quick_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One link, again and again, may be a person's; two are a machine's."""
    monkeypatch.setattr("tocsin.feedback.machines.HOLD_SECONDS", 0.05)
    quick, heard = QuickClicks(), asyncio.Queue[tuple[str, bool]]()
    for name, links in (("one", [b"a", b"a", b"a"]), ("two", [b"a", b"b", b"b"])):
        for link in links:
            quick.take((len(name), ord(name[0])), link, lambda machine, name=name: heard.put_nowait((name, machine)))  # type: ignore[misc]
    found = [await asyncio.wait_for(heard.get(), 10) for _ in range(3)]
    assert sorted(found) == [("one", False), ("two", True), ("two", True)]
    assert [is_quick(seconds) for seconds in (-5, 0, 2, 3)] == [False, True, True, False]


def test_a_flood_has_few_lines() -> None:
    """Ten a minute of one kind, and the next minute's says how many there were."""
    log = ReportLog()
    with structlog.testing.capture_logs() as lines:
        for number in range(1000):
            log.tell("link", "forged", "", NOW + number * 0.01)
        log.tell("link", "forged", "", NOW + 61)
        log.tell("link", "stale", "a", NOW + 61)
    assert len(lines) == AT_ONCE + 2
    assert sum(one["count"] for one in lines) == 1002
    assert INTERACTIONS.keys() < EVENTS.keys()
