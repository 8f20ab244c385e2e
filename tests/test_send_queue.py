"""The send queue: what is accepted is in the ledger, once; too much is turned away; a repeat is no second request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOMY, THOROUGH, Caller, Server, people, token
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, func, select

from tocsin import queue
from tocsin.account import Account, create_account
from tocsin.api.send_rates import SendRates
from tocsin.campaign.send import read_asked, read_plain
from tocsin.campaign.send_queue import TAG_GROUPS, QueuedSend, SendQueue
from tocsin.campaign.send_rate import Due, SendRate, pass_request
from tocsin.delivery.load_shedding import HEAVY, LoadMeter
from tocsin.errors import Problem
from tocsin.idempotency import KEPT_SECONDS, forget_old, keep, read_key
from tocsin.ingest import upload
from tocsin.policy import set_policy
from tocsin.queue import Chunk, NewRequest, lease_due
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

NOW = 1_790_000_000.0
PUSH, UPLOAD, CREATE = "/1/send/push.json", "/1/upload", "/1/targets/create.json"
SEND = {"to": {"Identity": ["somebody"]}, "content": {"title": "Hello", "body": "there"}}

CAMPAIGN = {"name": "n", "where": {}, "content": SEND["content"], "devices": ["ios"], "when": "now"}
QUICK = (SEND, {"to": {"email": ["A@b.com"], "FBID": ["1"]}, "tag_group": "x", "on_crash": "resend"})


def request(account: Account, tag: str = "", text: str = "{}") -> NewRequest:
    return NewRequest(account_id=account.id, channel="push", tag_group=tag, request=text, expires_at=NOW + 60, now=NOW)


def stored(ledger: Ledger, account: Account) -> list[tuple[str, str]]:
    """(request, tag group) of what is queued for an account."""
    table = schema.chunk
    query = select(table.c.request, table.c.tag_group).where(table.c.account_id == account.id).order_by(table.c.id)
    return [(text, tag) for text, tag in ledger.read_now(lambda connection: connection.execute(query).all())]


class LastOffer:
    """Claims the last request of each batch, or all of them, and fails to hand them over."""

    lease_seconds = 60.0

    def __init__(self, count: int | None = 1) -> None:
        self._count = count
        self.ended = self.given_up = 0

    def offer(self, _: Sequence[QueuedSend]) -> LastOffer:
        return self

    def claim(self, connection: Connection, requests: Sequence[NewRequest]) -> list[Chunk | None]:
        count = self._count or len(requests)
        claimed = queue.open_requests(connection, requests[-count:], "last", NOW)
        return [*([None] * (len(requests) - count)), *claimed]

    def hand_over(self) -> None:
        raise OSError("the senders went away")

    def give_up(self) -> None:
        self.given_up += 1

    def end(self) -> None:
        self.ended += 1


async def test_what_is_not_claimed_at_once_is_looked_for(store: Ledger) -> None:
    """Where there is room for some requests of a batch only, whoever delivers is told of the others. All of them keep
    their tag groups, and no two have one id."""
    told: list[str] = []
    account = create_account(store, "some", "UTC", NOW)[0]
    send_queue = SendQueue(store, LastOffer(), told.append)
    assert await send_queue.put(QueuedSend(request(account, "one")))
    assert told == []
    await asyncio.gather(*(send_queue.put(QueuedSend(request(account, tag))) for tag in ("a", "b", "a")))
    assert told == [account.id]
    assert sorted(tag for _, tag in stored(store, account)) == ["a", "a", "b", "one"]
    leased = store.read_now(lambda connection: lease_due(connection, "other", NOW, 60.0, limit=9))
    assert len(leased) == 2


async def test_what_cannot_be_handed_over_is_answered(store: Ledger) -> None:
    """A request that is committed is answered, and so are those behind it, though the worker in this process failed;
    what it kept ready is given back."""
    account, taker = create_account(store, "taker", "UTC", NOW)[0], LastOffer(None)
    send_queue = SendQueue(store, taker)
    for number in range(2):
        async with asyncio.timeout(5):
            assert await send_queue.put(QueuedSend(request(account, text=str(number))))
    assert (taker.given_up, taker.ended, len(stored(store, account))) == (0, 2, 2)


async def test_a_failed_commit_gives_back_what_was_kept_ready(store: Ledger) -> None:
    """Nothing is handed over of requests that are not in the ledger."""
    account, taker = create_account(store, "lost", "UTC", NOW)[0], LastOffer(None)
    wrong = msgspec.structs.replace(request(account), expires_at={})
    with pytest.raises(Exception, match=r"bind|adapt"):
        await SendQueue(store, taker).put(QueuedSend(wrong))
    assert (taker.given_up, taker.ended, stored(store, account)) == (1, 1, [])


@given(
    orders=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["", "k1", "k2", "k3"]), st.sampled_from(["a", "b"])), max_size=60
    )
)
@settings(max_examples=30 if THOROUGH else 10, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_is_accepted_is_queued_once(store: Ledger, orders: list[tuple[int, str, str]]) -> None:
    """Whatever arrives together: without a key all of it, under a key the first; the first groups get their names."""
    account, send_queue = create_account(store, "law", "UTC", NOW)[0], SendQueue(store)

    async def put(number: int, tag: int, name: str, body: str) -> bool | int | None:
        key = read_key(account.id, name or None, PUSH, body.encode())
        try:
            return await send_queue.put(QueuedSend(request(account, f"g{tag}", str(number)), key))
        except Problem as problem:
            return problem.code

    results = await asyncio.gather(*(put(number, *order) for number, order in enumerate(orders)))
    first: dict[str, str] = {}
    expected: list[bool | int | None] = []
    groups: dict[str, None] = {}
    rows = []
    for number, (tag, name, body) in enumerate(orders):
        known = first.setdefault(name, body) if name else body
        seen = name and name in [one for _, one, _ in orders[:number]]
        expected.append(422 if known != body else not seen)
        if expected[-1] is True:
            if len(groups) < TAG_GROUPS:
                groups[f"g{tag}"] = None
            rows.append((str(number), f"g{tag}" if f"g{tag}" in groups else ""))
    assert list(results) == expected
    assert stored(store, account) == rows


async def test_requests_of_one_moment_share_a_commit(store: Ledger) -> None:
    account, send_queue, commits = create_account(store, "many", "UTC", NOW)[0], SendQueue(store), Counter[str]()
    engine: Engine = store._writer
    event.listen(engine, "commit", lambda _: commits.update(["commit"]))
    await asyncio.gather(*(send_queue.put(QueuedSend(request(account, text=str(one)))) for one in range(500)))
    assert len(stored(store, account)) == 500
    assert commits["commit"] <= 6


async def test_a_failing_ledger_refuses_and_recovers(store: Ledger) -> None:
    """When the insert fails everybody is told, and the next one is taken."""
    account, send_queue = create_account(store, "broken", "UTC", NOW)[0], SendQueue(store)
    wrong = msgspec.structs.replace(request(account), expires_at={})
    results = await asyncio.gather(
        send_queue.put(QueuedSend(wrong)), send_queue.put(QueuedSend(request(account))), return_exceptions=True
    )
    assert all(isinstance(result, Exception) for result in results)
    assert await send_queue.put(QueuedSend(request(account)))
    assert len(stored(store, account)) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"to": {"Identity": ["a", 7, "b" * 1000]}},
        {"to": {"identity": ["a"]}, "content": {"title": "t", "platform_specific": {"ios": {"k": [[1]] * 40}}}},
        {"to": {"Identity": ["a\0"]}},
        {"to": {"Identity": [""]}},
        {"to": {"Nobody": ["a"]}},
        {"to": {"Identity": []}},
        {"to": {}},
        {"to": {"Identity": ["a"] * 1001}},
        {"to": {"Identity": ["é" * 600]}},
        {"to": "all"},
        {},
        *QUICK,
    ],
    ids=lambda body: str(body)[:60],
)
def test_the_quick_way_agrees_with_the_long_one(body: dict[str, Any]) -> None:
    """What the quick way takes, the long way takes for the same; what it does not take, the long way decides."""
    plain = read_plain(msgspec.json.encode(body))
    if plain is not None:
        slow = read_asked(body)
        fields = [name for name in type(slow).__struct_fields__ if name != "content"]
        assert [getattr(plain, name) for name in fields] == [getattr(slow, name) for name in fields]
        assert msgspec.json.decode(plain.content) == msgspec.json.decode(slow.content)
    assert (plain is not None) == (body in QUICK)


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        (PUSH, SEND, SEND | {"tag_group": "other"}),
        (UPLOAD, {"d": people(2)}, {"d": people(3)}),
        (CREATE, CAMPAIGN, CAMPAIGN | {"name": "m"}),
    ],
    ids=["send", "upload", "create"],
)
def test_a_repeat_gets_the_first_answer(caller: Caller, path: str, body: dict[str, Any], other: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "once"}
    status, first, headers = caller.call("POST", path, body, key)
    assert status == 200
    assert "idempotent-replayed" not in headers
    status, again, headers = caller.call("POST", path, body, key)
    assert (status, again, headers["idempotent-replayed"]) == (200, first, "true")
    status, answer, _ = caller.call("POST", path, other, key)
    assert (status, answer["code"]) == (422, 422)
    assert caller.call("POST", path, other, {"Idempotency-Key": "twice"})[0] == 200
    status, answer, _ = caller.call("POST", path, body, {"Idempotency-Key": "ä"})
    assert (status, answer["code"]) == (400, 400)


def test_a_refused_request_leaves_its_key_free(caller: Caller) -> None:
    key = {"Idempotency-Key": "free"}
    for path, wrong, right in (
        (PUSH, {"content": SEND["content"]}, SEND),
        (UPLOAD, {"d": 7}, {"d": people(1)}),
        (
            CREATE,
            {"name": ""},
            {"name": "n", "where": {}, "content": SEND["content"], "devices": ["ios"], "when": "now"},
        ),
    ):
        assert caller.call("POST", path, wrong, key | {"Idempotency-Key": path})[0] == 400
        assert caller.call("POST", path, right, key | {"Idempotency-Key": path})[0] == 200


def test_one_create_of_many_at_once(caller: Caller) -> None:
    """The same request from ten callers at the same moment makes one campaign."""
    ids: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: ids.append(caller.call("POST", CREATE, CAMPAIGN, {"Idempotency-Key": "same"})[1]["id"])
        )
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 10
    assert len(set(ids)) == 1


async def test_an_upload_that_broke_off_is_finished_once(store: Ledger, facts: Facts) -> None:
    """The ledger had it and facts had not: the repeat writes what is missing, and adds up nothing twice."""
    account = create_account(store, "half", "UTC", NOW)[0]
    profile = {"type": "profile", "identity": "u", "profileData": {"Visits": {"$incr": 2}, "Name": "U"}}
    bought = {"type": "event", "identity": "u", "evtName": "Bought", "evtData": {}}
    key = read_key(account.id, "k", UPLOAD, b"body")
    assert key is not None
    assert store.write_now(lambda connection: keep(connection, key, "", NOW)) is None
    for _ in range(2):
        await upload(store, facts, account, {"d": [profile, bought]}, NOW, key=key)
    text = store.read_now(
        lambda c: c.scalar(select(schema.user.c.profile).where(schema.user.c.account_id == account.id))
    )
    assert msgspec.json.decode(text or "")["Visits"] == 2
    rows = facts.query_now("SELECT uniqExact(id) FROM event WHERE account = {a:String}", {"a": account.id})
    assert rows == [(1,)]


def test_a_key_is_kept_for_a_day(store: Ledger) -> None:
    account = create_account(store, "day", "UTC", NOW)[0]
    key = read_key(account.id, "k", PUSH, b"body")
    assert key is not None

    def put(now: float) -> str | None:
        kept = store.write_now(lambda connection: keep(connection, key, "answer", now))
        return None if kept is None else kept.answer

    assert [put(NOW), put(NOW + KEPT_SECONDS - 1), put(NOW + KEPT_SECONDS), put(NOW + KEPT_SECONDS + 1)] == [
        *(None, "answer", None, "answer")
    ]
    store.write_now(lambda connection: forget_old(connection, NOW + KEPT_SECONDS * 2))
    count = select(func.count()).where(schema.idempotency.c.account_id == account.id)
    assert store.read_now(lambda connection: connection.scalar(count)) == 0


def test_every_200_survives_a_kill(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """A server killed while it takes requests has every one it said yes to."""
    server = start_server(tmp_path / "data", ROOMY)
    callers, yes = [server.account() for _ in range(4)], Counter[str]()

    def press(caller: Caller) -> None:
        try:
            while True:
                status, _ = caller.post(PUSH, SEND)
                yes[caller.account_id] += status == 200
        except OSError:
            return

    threads = [threading.Thread(target=press, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    while sum(yes.values()) < 200:
        assert any(thread.is_alive() for thread in threads)
    server.kill()
    for thread in threads:
        thread.join()
    table = schema.chunk
    count = select(table.c.account_id, func.count()).group_by(table.c.account_id)
    with closing(open_ledger(server.ledger_url)) as ledger:
        rows = ledger.read_now(lambda connection: connection.execute(count).all())
    found = dict(map(tuple, rows))
    assert set(found) == set(yes)
    assert all(found[account] in (count, count + 1) for account, count in yes.items())


def test_load_is_heavy_for_a_second() -> None:
    """Too many in one second count in that one and in the next."""
    load = LoadMeter()
    assert not load.is_heavy(NOW)
    for _ in range(HEAVY // 1000):
        load.count(1000, NOW)
    assert not load.is_heavy(NOW)
    load.count(1, NOW + 0.5)
    assert load.is_heavy(NOW + 0.9)
    assert load.is_heavy(NOW + 1.9)
    assert not load.is_heavy(NOW + 2)
    load.count(HEAVY, NOW + 5)
    assert not load.is_heavy(NOW + 7)
    load.count(HEAVY, NOW + 8)
    load.count(1, NOW + 7.9)  # taken long to be accepted
    assert load.is_heavy(NOW + 8.5), "and takes nothing back"


def test_devices_are_still_named(sending: Caller) -> None:
    """A caller with an odd body is served by the long way, as well as before."""
    sending.upload({"type": "profile", "identity": "7", "objectId": "d7", "profileData": {}})
    sending.upload({"type": "token", "objectId": "d7", "tokenData": {"type": "fcm", "id": token("fcm", "d7")}})
    assert sending.post(PUSH, SEND | {"to": {"Identity": [7]}})[0] == 200


def rates(ledger: Ledger, heavy: int = HEAVY) -> SendRates:
    return SendRates(ledger, SendRate(), heavy)


def count_admitted(found: SendRates, name: str, rate: SendRate, each: int, calls: int, now: float) -> int:
    admitted, refused = 0, list[Problem]()
    for _ in range(calls):
        try:
            found.admit(name, rate, each, now)
            admitted += 1
        except Problem as problem:
            refused.append(problem)
    assert all(one.status == 429 and (one.retry_after or 0) >= 1 for one in refused)
    return admitted


def test_a_rate_of_sends(own_ledger: Ledger) -> None:
    """A second's worth comes together; then one after the other. Who names many in a slow account waits for all."""
    found = rates(own_ledger)
    assert count_admitted(found, "a", SendRate(requests=5), 1000, 9, NOW) == 5
    assert count_admitted(found, "a", SendRate(requests=5), 1000, 9, NOW + 0.4) == 2
    assert count_admitted(found, "b", SendRate(people=100), 10, 30, NOW) == 10
    assert count_admitted(found, "c", SendRate(people=10), 1000, 3, NOW) == 1
    assert count_admitted(found, "c", SendRate(people=10), 1, 3, NOW + 98) == 0
    assert count_admitted(found, "c", SendRate(people=10), 1, 3, NOW + 101) == 3
    assert count_admitted(found, "c", SendRate(people=10), 1, 3, NOW - 1e6) == 3  # the clock was set back


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1000)), max_size=60), st.floats(0.5, 3000))
def test_no_more_than_the_rate(calls: list[tuple[float, int]], people: float) -> None:
    """Whatever is asked when: never more than the rate's seconds, one second together, and the last request's."""
    due, now, admitted = Due(), NOW, 0
    for wait, count in calls:
        now += wait
        try:
            due = pass_request(due, SendRate(people=people), count, now)
        except Problem:
            continue
        admitted += count
        assert admitted <= people * (now - NOW + 1.1) + 1000


def test_alone_any_number_together_a_share(own_ledger: Ledger) -> None:
    """One account may name as many as it likes; beside others, beyond what can be delivered, as many as they."""
    found, free = rates(own_ledger, heavy=10_000), SendRate()
    assert count_admitted(found, "big", free, 1000, 100, NOW) == 100
    assert count_admitted(found, "small", free, 1, 10, NOW + 1) == 10
    assert count_admitted(found, "big", free, 1000, 100, NOW + 1) == 9  # 10,000 are shared; the half of it is exceeded
    assert count_admitted(found, "small", free, 1, 10, NOW + 1) == 10
    assert count_admitted(found, "big", free, 1000, 100, NOW + 5) == 100


async def test_a_rate_of_its_own(own_ledger: Ledger) -> None:
    """An account's own rate holds a second after it was set, and is read once a second."""
    account, found = create_account(own_ledger, "own", "UTC", NOW)[0], rates(own_ledger)
    assert await found.find(account.id, NOW) == SendRate()
    own = '{"send_requests_per_second": 2, "send_people_per_second": 300}'
    own_ledger.write_now(lambda connection: set_policy(connection, account.id, "limits", own, NOW))
    assert await found.find(account.id, NOW + 0.9) == SendRate()
    assert await found.find(account.id, NOW + 1) == SendRate(2, 300)


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
async def test_a_rate_of_sends_over_processes(store: Ledger, open_again: Callable[[], Ledger]) -> None:
    """Two processes keep one count, in the transactions that insert; who is refused has nothing queued, and keeps the
    key."""
    account = create_account(store, "rate", "UTC", NOW)[0]
    queues = [SendQueue(store), SendQueue(open_again())]
    rate = SendRate(requests=0.001)

    async def call(number: int) -> int:
        key = read_key(account.id, f"key-{number}", PUSH, b"")
        try:
            return int(await queues[number % 2].put(QueuedSend(request(account), key, rate, 1)))
        except Problem as problem:
            return problem.status

    results = await asyncio.gather(*(call(number) for number in range(40)))
    assert Counter(results) == {1: 1, 429: 39}
    assert len(stored(store, account)) == 1
    table = schema.idempotency
    kept = select(func.count()).select_from(table).where(table.c.account_id == account.id)
    assert store.read_now(lambda connection: connection.scalar(kept)) == 1


def test_beyond_the_rate_of_sends(server: Server) -> None:
    """429 with Retry-After, in CleverTap's words; another account is not held up."""
    slow, other = server.account(), server.account()
    own = '{"send_requests_per_second": 0.01}'
    with closing(open_ledger(server.ledger_url)) as ledger:
        ledger.write_now(lambda connection: set_policy(connection, slow.account_id, "limits", own, NOW))
    assert slow.post(PUSH, SEND)[0] == 200
    status, answer, headers = slow.call("POST", PUSH, SEND)
    assert (status, answer["status"], answer["code"]) == (429, "fail", 429)
    assert int(headers["retry-after"]) >= 1
    assert other.post(PUSH, SEND)[0] == 200


def test_a_slow_body_has_no_rate_of_its_own(server: Server) -> None:
    """Requests count when they have arrived, whenever they began: bodies that were kept back bring no further ones."""
    slow, raw, rate = server.account(), msgspec.json.encode(SEND), 5
    with closing(open_ledger(server.ledger_url)) as ledger:
        own = f'{{"send_requests_per_second": {rate}}}'
        ledger.write_now(lambda connection: set_policy(connection, slow.account_id, "limits", own, NOW))
    with ExitStack() as opened:
        kept = [opened.enter_context(closing(HTTPConnection("127.0.0.1", slow.port, timeout=60))) for _ in range(20)]
        began = time.monotonic()
        for one in kept:
            one.putrequest("POST", PUSH)
            for name, value in {**slow.headers, "Content-Type": "application/json", "Content-Length": len(raw)}.items():
                one.putheader(name, str(value))
            one.endheaders(raw[:-1])
        answers: list[int] = []
        while time.monotonic() - began < 0.6 or answers[-1] == 200:
            answers.append(slow.post(PUSH, SEND)[0])
        for one in kept:
            one.send(raw[-1:])
        answers += [one.getresponse().status for one in kept]
        answers += [slow.post(PUSH, SEND)[0] for _ in range(2 * rate)]
    assert set(answers) == {200, 429}
    assert answers.count(200) <= rate * (time.monotonic() - began + 1.1) + 1
