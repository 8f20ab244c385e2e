"""Why somebody got a campaign or not: the same story from the API, from the command, and before it is sent."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from conftest import Caller, Server, token, wait_for
from support.browser import join, unique

from tocsin.account import create_account
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.send import StoredRequest
from tocsin.cli import tocsin
from tocsin.ingest import upload
from tocsin.ingest.identity import find_users
from tocsin.queue import NewRequest, insert_requests
from tocsin.settings import Settings
from tocsin.stats.why_send import NAMES, explain_send
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

WHY, FORECAST, SAMPLE = "/1/targets/why.json", "/1/targets/forecast.json", "/1/targets/sample.json"
SEND = "/1/send/why.json"
TIMELINE = "/1/profile/timeline.json"
GOLD = {"common_profile_properties": {"profile_fields": [{"name": "Plan", "operator": "equals", "value": "Gold"}]}}
CONTENT = {"subject": "For {{ Profile.Name }}", "body": "<p>Hello {{ Profile.Name }}</p>", "sender_name": "n"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, server: Server) -> Server:
    """The shared server, on each ledger in turn."""
    other: Server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else server
    return other


def ask(caller: Caller, path: str, **body: Any) -> dict[str, Any]:
    status, answer = caller.post(path, body)
    assert (status, answer["status"]) == (200, "success"), answer
    found: dict[str, Any] = answer
    return found


def somebody(name: str, plan: str = "Gold", more: Any = None) -> dict[str, Any]:
    profile: dict[str, Any] = {"Name": name.title(), "Plan": plan, "Email": f"{name}@example.com"} | (more or {})
    return {"type": "profile", "identity": name, "profileData": profile}


def test_the_story_of_a_campaign(sending: Caller, server: Server) -> None:
    """Who got it, who wanted none, whose mailbox another has, who was not meant: said before, after, and by the
    command; with what was shown, and what came back."""
    sending.upload(
        somebody("ann"),
        somebody("bea", more={"MSG-email": False}),
        somebody("cem", more={"Email": "ann@example.com"}),
        somebody("dan", "Free"),
    )
    asked = {"name": "n", "target_mode": "email", "where": GOLD, "content": CONTENT, "when": "now"}
    said = ask(sending, FORECAST, **asked)
    assert said["minutes"] == "unknown"
    assert said["forecast"]["suppressed_by"] == {"unsubscribed": 1, "duplicate address": 1}
    assert (said["forecast"]["audience"], said["forecast"]["sent"]) == (3, 1)

    later = sending.create(**asked | {"when": "20990101 10:00"})
    coming = ask(sending, WHY, id=later, identity="bea")
    assert coming["would"][0]["reason"] == "unsubscribed"
    assert coming["verdict"].startswith("in the audience of the run that is to come: would get nothing: unsubscribed")
    assert ask(sending, FORECAST, id=later)["forecast"] == said["forecast"] | {"waiting": 0}

    made = sending.create(**asked)
    numbers = wait_for(lambda: sending.post("/1/targets/result.json", {"id": made})[1].get("result"))
    assert {name: numbers[name] for name in ("audience", "sent")} == {"audience": 3, "sent": 1}

    ann = ask(sending, WHY, id=made, identity="ann")
    [message] = ann["messages"]
    assert (ann["in"], message["state"], message["platform"]) == (True, "accepted", "email")
    assert (ann["shown"]["email"]["subject"], ann["shown"]["email"]["address"]) == ("For Ann", "ann@example.com")
    assert ask(sending, WHY, id=made, identity="bea")["verdict"] == "in the audience, held back: unsubscribed"
    assert ask(sending, WHY, id=made, identity="cem")["messages"][0]["reason"] == "duplicate address"
    dan = ask(sending, WHY, id=made, identity="dan")
    assert (dan["in"], dan["verdict"], dan["why"]["decides"]) == (False, "not in the audience", True)

    found = {
        (one["outcome"], one.get("reason", "")): one["people"] for one in ask(sending, SAMPLE, id=made)["outcomes"]
    }
    assert found == {
        ("accepted", ""): [{"identity": "ann"}],
        ("suppressed", "unsubscribed"): [{"identity": "bea"}],
        ("suppressed", "duplicate address"): [{"identity": "cem"}],
    }
    command = ["why", "--account", sending.account_id, "--data", str(server.data), "--campaign"]
    printed = CliRunner().invoke(tocsin, [*command, str(made), "--identity", "bea"])
    assert json.loads(printed.stdout)["verdict"] == "in the audience, held back: unsubscribed"
    assert ask(sending, FORECAST, **asked)["pace"]["campaign"] == made

    printed = CliRunner().invoke(tocsin, [*command, str(later)])
    assert json.loads(printed.stdout)["forecast"]["suppressed_by"] == said["forecast"]["suppressed_by"]

    browser = join(server, sending, "marketer", unique("why", sending))
    page = browser.look(f"/dashboard/campaigns/{made}/people")[1]
    assert f'href="/dashboard/people?identity=bea&amp;campaign={made}"' in page
    assert "held back: unsubscribed" in browser.look(f"/dashboard/campaigns/{later}/people")[1]
    page = browser.look(f"/dashboard/people?identity=ann&campaign={made}")[1]
    assert ("For Ann" in page, "the vendor took the message for email" in page) == (True, True)
    assert "Invalid campaign id" in browser.look("/dashboard/people?identity=ann&campaign=7")[1]
    lately, whole = (
        browser.look(f"/dashboard/people{one}")[1] for one in ("/lately?identity=ann", "?identity=ann&lately=1")
    )
    assert ("first seen" in page, "first seen" in lately, "first seen" in whole) == (False, True, True)
    assert ("<html" in lately, browser.look("/dashboard/people/lately?identity=nobody")[0]) == (False, 404)
    viewer = join(server, sending, "viewer", unique("viewer", sending))
    assert viewer.look("/dashboard/people/lately?identity=ann")[0] == 403
    assert viewer.look(f"/dashboard/campaigns/{made}/people")[0] == 403


def test_the_story_of_a_send(sending: Caller, server: Server) -> None:
    """Of the requests of a tag group: who got it, who wanted none, who was not named, and who was not known yet."""
    sending.upload(somebody("ann"), somebody("bea", more={"MSG-email": False}), somebody("cem"))

    def send(tag: str, *names: str) -> None:
        body = {"to": {"Identity": list(names)}, "tag_group": tag, "content": CONTENT}
        assert sending.post("/1/send/email.json", body)[0] == 200

    def asked(name: str, **more: Any) -> dict[str, Any]:
        return ask(sending, SEND, **{"tag_group": "receipts", "identity": name} | more)

    send("receipts", "ann", "bea", "dan")
    send("other", "cem")
    wait_for(lambda: asked("ann").get("messages", [{}])[0].get("state") == "accepted")
    wait_for(lambda: ask(sending, SEND, tag_group="other", identity="cem").get("messages"))
    sending.upload(somebody("dan"))

    ann = asked("ann")
    assert (ann["verdict"], ann["reachable"]["email"]) == (
        "named in a request: the vendor took the message for email",
        True,
    )
    assert (ann["shown"]["email"]["subject"], ann["messages"][0]["platform"]) == ("For Ann", "email")
    assert asked("bea")["verdict"] == "named in a request, held back: unsubscribed"
    for nobody in ("cem", "dan"):
        assert asked(nobody)["verdict"].startswith("named in no request of this tag group that is known")
    assert asked("ann", tag_group="Not Tagged")["verdict"].startswith("named in no request")
    given = ["why", "--account", sending.account_id, "--data", str(server.data), "--tag-group", "receipts"]
    printed = CliRunner().invoke(tocsin, [*given, "--identity", "bea"])
    assert json.loads(printed.stdout)["verdict"] == "named in a request, held back: unsubscribed"
    assert sending.post(SEND, {"tag_group": "receipts", "identity": "nobody"})[0] == 400
    assert sending.post(SEND, {"tag_group": 5, "identity": "ann"})[0] == 400


async def test_a_request_that_waits(store: Ledger, facts: Facts) -> None:
    """One whose people are not looked up yet names them all the same."""
    account = create_account(store, "test", "UTC", 0.0)[0]
    await upload(store, facts, account, {"d": [somebody("ann"), somebody("bea")]}, 0.0)
    request = StoredRequest(to={"identity": ["ann"]}, content=msgspec.Raw(b"{}"))
    new = NewRequest(
        account_id=account.id,
        channel="email",
        tag_group="receipts",
        request=msgspec.json.encode(request).decode(),
        resend=False,
        expires_at=1e9,
        now=1.0,
    )
    store.write_now(lambda connection: insert_requests(connection, [new]))
    users = store.read_now(lambda one: find_users(one, account.id, [("identity", "ann"), ("identity", "bea")]))
    said = {
        name: await explain_send(store, facts, account, "receipts", user, 2.0, Settings(), CompilePool())
        for (_, name), user in users.items()
    }
    assert (said["ann"].queued, said["ann"].verdict) == (1, "named in a request that waits for its turn")
    assert said["bea"].queued == 0


async def test_requests_that_wait_hold_up_nobody(store: Ledger, facts: Facts) -> None:
    """However many there are, as large as they may be, with as many names: a part of them is held at a time, and no
    more names are looked up than a reader of the ledger can spare."""
    account = create_account(store, "test", "UTC", 0.0)[0]
    await upload(store, facts, account, {"d": [somebody("ann")]}, 0.0)
    large = StoredRequest(to={"identity": ["ann"]}, content=msgspec.Raw(msgspec.json.encode("x" * 1024 * 1024)))
    many = StoredRequest(to={"identity": ["ann", *map(str, range(999))]}, content=msgspec.Raw(b"{}"))

    def queue(tag_group: str, request: StoredRequest, count: int) -> None:
        new = NewRequest(
            account_id=account.id,
            channel="email",
            tag_group=tag_group,
            request=msgspec.json.encode(request).decode(),
            resend=False,
            expires_at=1e9,
            now=1.0,
        )
        store.write_now(lambda connection: insert_requests(connection, [new] * count))

    queue("large", large, 48)
    queue("many", many, 61)
    [user] = store.read_now(lambda one: find_users(one, account.id, [("identity", "ann")])).values()
    tracemalloc.start()
    try:
        said = await explain_send(store, facts, account, "large", user, 2.0, Settings(), CompilePool())
        assert (said.queued, tracemalloc.get_traced_memory()[1] < 24 * 1024 * 1024) == (48, True)
    finally:
        tracemalloc.stop()
    assert (
        await explain_send(store, facts, account, "many", user, 2.0, Settings(), CompilePool())
    ).queued == NAMES // 1000


def test_a_time_line_by_pages(caller: Caller) -> None:
    """Every moment once, the newest first, however small the pages; only of this person and account."""
    events = [
        {"type": "event", "identity": "ann", "ts": 1_760_000_000 + n // 3, "evtName": f"E{n % 2}", "evtData": {"n": n}}
        for n in range(12)
    ]
    caller.upload(
        *(
            {**somebody("ann"), "objectId": "phone"},
            {"type": "token", "objectId": "phone", "tokenData": {"type": "fcm", "id": token("fcm", "ann")}},
        ),
        *events,
        {"type": "event", "identity": "bea", "evtName": "E0", "evtData": {"n": 99}},
    )
    caller.post("/1/subscribe", {"d": [{"type": "email", "value": "ann@example.com", "status": "Unsubscribe"}]})
    whole = ask(caller, TIMELINE, identity="ann", limit=1000, days=3650)
    assert "next_cursor" not in whole
    pages, body = list[dict[str, Any]](), dict[str, Any](identity="ann", limit=4, days=3650)
    while body:
        page = ask(caller, TIMELINE, **body)
        pages += page["moments"]
        assert len(page["moments"]) <= 4
        body = {"cursor": page["next_cursor"]} if "next_cursor" in page else {}
    assert pages == whole["moments"]
    assert [one["at"] for one in pages] == sorted((one["at"] for one in pages), reverse=True)
    assert sorted(one["details"]["n"] for one in pages if one["what"] in ("E0", "E1")) == [*range(12)]
    assert {"registered", "unsubscribed", "first seen"} <= {one["what"] for one in pages}
    assert all(one["at"] > 1_770_000_000 for one in ask(caller, TIMELINE, identity="ann", days=1)["moments"])


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (WHY, {"id": 1, "identity": "ann"}, "Nobody has the identity"),
        (WHY, {"id": 1}, "Name one person"),
        (WHY, {"identity": "ann"}, "Invalid campaign id"),
        (FORECAST, {"id": 1}, "Invalid campaign id"),
        (SAMPLE, {"id": 1}, "Invalid campaign id"),
        (TIMELINE, {"cursor": "x"}, "Incorrect Usage"),
        (TIMELINE, {"identity": "ann", "limit": 0}, "limit"),
    ],
)
def test_what_is_refused(caller: Caller, path: str, body: dict[str, Any], says: str) -> None:
    _, answer = caller.post(path, body)
    assert (answer["status"], says in answer["error"]) == ("fail", True), answer
