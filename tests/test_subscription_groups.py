"""Subscription groups: kept as a profile or a link says, obeyed by claim and estimate alike, for the whole mailbox."""

from __future__ import annotations

import urllib.parse
from typing import Any

import pytest
from conftest import Caller, Sandbox, Server
from sqlalchemy import select
from support.bounces import CONTENT, Post, mails_of

from tocsin.audience.members import count_reachable
from tocsin.audience.query import read_where
from tocsin.campaign.runs import insert_campaign
from tocsin.campaign.spec import read_spec
from tocsin.delivery.recipients import load_people
from tocsin.ingest import upload
from tocsin.ingest.leaving import remove_people
from tocsin.stats.export.dossier import read_dossier
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.props import fold

pytest_plugins = ("engines",)

BOX = "box@example.com"
LEFT, BACK = "category-unsubscribe", "category-resubscribe"
CREATE, UPLOAD, FORM = "/1/targets/create.json", "/1/upload", {"Content-Type": "application/x-www-form-urlencoded"}
CAMPAIGN = {"name": "n", "target_mode": "email", "where": {}, "content": CONTENT, "when": "now"}


@pytest.fixture
def post(store: Ledger, facts: Facts) -> Post:
    """On each ledger in turn."""
    return Post(store, facts)


async def say(post: Post, identity: str, **said: Any) -> None:
    """An upload of a profile: left, back, email."""
    names = {"left": LEFT, "back": BACK, "email": "Email"}
    data = {names[name]: value if name == "email" else {"email": value} for name, value in said.items()}
    await post.upload({"type": "profile", "identity": identity, "profileData": data})


async def reached(post: Post, *groups: str, users: int) -> list[int]:
    """Who of the account would get a campaign to these groups, as a claim and an estimate say it, which agree."""
    everybody = list(range(1, users + 1))
    people = post.ledger.read_now(lambda connection: load_people(connection, post.account.id, everybody))
    asked = set(map(fold, groups))
    found = [user for user, one in people.items() if "email" in one.addresses and asked.isdisjoint(one.groups_left)]
    counted = await count_reachable(post.facts, post.account, read_where({}), ["email"], post.now, groups=groups)
    assert counted["email"] == len(found)
    return sorted(found)


def ask(post: Post, *groups: str) -> int:
    """A campaign to groups."""
    spec = read_spec(CAMPAIGN | {"subscription_groups": list(groups)}, post.account, post.now)
    return post.ledger.write_now(lambda connection: insert_campaign(connection, post.account.id, spec, post.now))


async def test_groups_of_a_profile(post: Post) -> None:
    """Who leaves one gets what is of others, or of none; and comes back. Case makes no difference."""
    await say(post, "a", email="a@example.com", left=["News", "Sale "])
    await say(post, "b", email="b@example.com")
    assert await reached(post, users=2) == [1, 2]
    assert await reached(post, "NEWS", users=2) == [2]
    assert await reached(post, "other", "sale", users=2) == [2]
    assert await reached(post, "new", "ews", "other", users=2) == [1, 2]
    await say(post, "a", back=["news"])
    assert await reached(post, "News", users=2) == [1, 2]
    assert await reached(post, "Sale", users=2) == [2]
    await say(post, "a", left=["News"], back=["News", "Sale"])
    assert await reached(post, "News", users=2) == [2], "who says both has left"
    assert await reached(post, "Sale", users=2) == [1, 2]
    await post.upload({"type": "profile", "identity": "a", "profileData": {LEFT: {"$delete": 1}}})
    assert await reached(post, "News", users=2) == [1, 2]


async def test_a_link_leaves_the_groups_of_its_mail(post: Post) -> None:
    """For the mailbox, now and later, and nothing else; only whose mail it was brings it back."""
    for name in ("a", "b"):
        await say(post, name, email=BOX)
    link = post.mail(1, campaign=ask(post, "News", "Sale"))[0]
    for _ in range(2):
        await post.feedback.unsubscribe(link, post.now)
    await say(post, "later", email=BOX)
    assert await reached(post, "sale", users=3) == []
    assert await reached(post, users=3) == [1, 2, 3]
    assert await reached(post, "Other", users=3) == [1, 2, 3]
    [event] = await post.events("Channel Unsubscribed")
    assert (event["Subscription groups"], event["Identity"]) == (["News", "Sale"], BOX)
    await say(post, "b", back=["News"])
    assert await reached(post, "News", users=3) == []
    await say(post, "a", back=["NEWS"])
    assert await reached(post, "News", users=3) == [1, 2, 3]
    assert await reached(post, "Sale", users=3) == []
    await post.feedback.unsubscribe(link, post.now, everything=True)
    assert await reached(post, users=3) == []


async def test_a_complaint_leaves_everything(post: Post) -> None:
    await say(post, "a", email=BOX)
    link = post.mail(1, campaign=ask(post, "News"))[0]
    report = f"To: x+{link}@example.com\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n"
    report += "\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n\r\n--b--\r\n"
    assert await post.take(report.encode()) == ("complaint", True)
    assert await reached(post, users=1) == []


async def test_groups_outlive_who_left_them(post: Post) -> None:
    """Who is deleted is forgotten, and their no to a group is not: it is kept as a digest, until they come back."""
    await say(post, "a", email=BOX)
    await post.feedback.unsubscribe(post.mail(1, campaign=ask(post, "News"))[0], post.now)
    found = await read_dossier(post.ledger, post.facts, post.account, 1, 1)
    assert found["person"]["consents"]["groups_left"] == ["News"]
    keys = [("identity", "a")]
    await post.ledger.write(lambda c: remove_people(c, post.account.id, keys, post.now))
    rows = post.ledger.read_now(lambda c: c.execute(select(schema.group_left)).all())
    mine = [row for row in rows if row.account_id == post.account.id]
    assert [(row.name, row.user_id) for row in mine] == [("News", None)]
    assert BOX not in mine[0].address
    await say(post, "anew", email=BOX)
    users = post.ledger.read_now(lambda c: load_people(c, post.account.id, [2]))
    assert list(users[2].groups_left) == ["news"]
    counted = await count_reachable(post.facts, post.account, read_where({}), ["email"], post.now, groups=["News"])
    assert counted["email"] == 0
    await say(post, "anew", back=["News"])
    assert post.ledger.read_now(lambda c: load_people(c, post.account.id, [2]))[2].groups_left == {}


async def test_a_no_to_all_outlives_one_to_a_group(post: Post) -> None:
    """Two had one mailbox; what the first who was deleted said of it holds when the other, who left a group, is too."""
    for name in ("a", "b"):
        await say(post, name, email=BOX)
    links = post.mail(1, 2, campaign=ask(post, "News"))
    await post.feedback.unsubscribe(links[0], post.now, everything=True)
    await post.ledger.write(lambda c: remove_people(c, post.account.id, [("identity", "a")], post.now))
    await post.feedback.unsubscribe(links[1], post.now)
    await post.ledger.write(lambda c: remove_people(c, post.account.id, [("identity", "b")], post.now))
    await say(post, "anew", email=BOX)
    assert await post.reach(3) == 2
    assert "email" not in post.ledger.read_now(lambda c: load_people(c, post.account.id, [3]))[3].addresses


@pytest.mark.parametrize("name", [LEFT, BACK])
@pytest.mark.parametrize(
    "value",
    ["News", ["News"], {"sms": ["News"]}, {"email": [1]}, {"email": [""]}, {"email": ["x" * 121]}, {"email": {}}, 7],
)
async def test_what_is_no_choice_is_refused(post: Post, name: str, value: Any) -> None:
    """By name: nobody can take a choice for kept that is not."""
    record = {"type": "profile", "identity": "a", "profileData": {name: value, "City": "Graz"}}
    found = await upload(post.ledger, post.facts, post.account, {"d": [record]}, post.now)
    assert [(one["code"], name in one["error"]) for one in found.unprocessed] == [(524, True)]


async def test_groups_are_bounded(post: Post) -> None:
    """None is dropped for a newer one: that would mail who left."""
    await say(post, "a", email=BOX, left=[f"g{number}" for number in range(100)])
    record = {"type": "profile", "identity": "a", "profileData": {LEFT: {"email": ["one more"]}}}
    found = await upload(post.ledger, post.facts, post.account, {"d": [record]}, post.now)
    assert [one["code"] for one in found.unprocessed] == [524]
    assert await reached(post, "g0", users=1) == []
    await post.feedback.unsubscribe(post.mail(1, campaign=ask(post, "one more"))[0], post.now)
    assert await reached(post, "one more", users=1) == [], "a link is obeyed all the same"
    assert await reached(post, "g0", users=1) == []


async def test_a_link_leaves_whatever_the_profile_holds(post: Post) -> None:
    """A profile with no room for one more group keeps nobody from leaving it: the mailbox leaves."""
    await say(post, "a", email=BOX, left=[f"g{number}" for number in range(100)])
    await post.feedback.unsubscribe(post.mail(1, campaign=ask(post, "News", "News"))[0], post.now)
    assert await reached(post, "News", users=1) == []
    assert await reached(post, users=1) == [1]


def test_a_campaign_to_a_group(server: Server, caller: Caller, sandbox: Sandbox) -> None:
    """Estimate, outcome, the page behind the link and its two buttons, what is exported; and who may not ask for it."""
    server.use_sandbox(caller, sandbox)
    for name, data in (("a", {}), ("b", {LEFT: {"email": ["News"]}})):
        profile = {"Email": f"{name}@example.com", **data}
        caller.upload({"type": "profile", "identity": name, "profileData": profile})
    body = CAMPAIGN | {"subscription_groups": ["News", "<b>"]}
    assert caller.post(CREATE, body | {"estimate_only": True})[1]["estimates"] == {"web": 1}
    made = caller.post(CREATE, body)[1]["id"]
    result = caller.result(made)
    assert (result["sent"], result["suppressed"]) == (1, 1)
    link = f"/u/{mails_of(server, caller, made)[0]}"
    status, page, _ = Caller(server.port, {"Accept": "text/html"}).call("GET", link)
    assert status == 200
    assert b"News, &lt;b&gt;" in page
    assert page.count(b"<button") == 2
    for more, left in ({}, {"web": 1}), ({"everything": "yes"}, {"web": 1}):
        form = urllib.parse.urlencode({"List-Unsubscribe": "One-Click", **more}).encode()
        assert Caller(server.port).call("POST", link, form, FORM)[0] == 200
        assert caller.post(CREATE, body | {"estimate_only": True})[1]["estimates"] == {"web": 0}
        everybody = caller.post(CREATE, CAMPAIGN | {"estimate_only": True})[1]["estimates"]
        assert everybody == ({"web": 1} if more else {"web": 2}), left
    shown = caller.get("/1/person.json?identity=a")[1]["person"]
    assert sorted(shown["consents"]["groups_left"]) == ["<b>", "News"]
    assert shown["profileData"][LEFT] == {"email": ["News", "<b>"]}
    push = {"target_mode": "push", "devices": ["android"], "content": {"title": "t", "body": "b"}}
    for path, asked in ((CREATE, body | push), ("/1/send/email.json", body | {"to": {"Identity": ["a"]}})):
        status, answer = caller.post(path, asked)
        assert status == 400
        assert "subscription_groups" in answer["error"]
