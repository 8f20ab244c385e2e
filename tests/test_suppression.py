"""Consent belongs to the address: who leaves leaves with every profile; who is suppressed can be listed and lifted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import structlog.testing
from click.testing import CliRunner
from conftest import Caller, Sandbox, Server, people
from support.bounces import CONTENT, Post

from tocsin.cli import tocsin
from tocsin.delivery.recipients import find_addresses, load_people
from tocsin.errors import Problem
from tocsin.feedback.bounce_report import Recipient, Report
from tocsin.feedback.suppression import SOFT_DAYS, end_soft_bounces, list_suppressed
from tocsin.ingest.subscription import AddressChange, apply_address_changes
from tocsin.outcome import State
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

DAY = 86_400.0
BOX = "box@example.com"


@pytest.fixture
def post(ledger: Ledger, facts: Facts) -> Post:
    return Post(ledger, facts)


@pytest.fixture
def either(store: Ledger, facts: Facts) -> Post:
    """On each ledger in turn."""
    return Post(store, facts)


async def reached(post: Post, *users: int) -> list[bool]:
    """Whether users would get a mail, as a claim and an estimate say it, which have to agree."""
    found = post.ledger.read_now(lambda connection: load_people(connection, post.account.id, users))
    claimed = [not isinstance(find_addresses(found[user], "email", every_device=False), State) for user in users]
    assert claimed == [await post.reach(user) == 1 for user in users]
    return claimed


async def leave(post: Post, how: str, mail: str) -> None:
    if how == "link":
        await post.feedback.unsubscribe(mail, post.now)
    elif how == "complaint":
        await post.feedback.take_report(Report("complaint", (mail,), feedback="abuse"), post.now)
    elif how == "bounce":
        dead = Recipient(BOX, "failed", "5.1.1", "", "hard")
        await post.feedback.take_report(Report("bounce", (mail,), (dead,)), post.now)
    else:
        event = {"type": "event", "identity": "a", "evtName": "Channel Unsubscribed"}
        await post.upload({**event, "evtData": {"Campaign Type": "Email", "Identity": BOX}})


@pytest.mark.parametrize("how", ["link", "complaint", "event", "bounce"])
async def test_a_mailbox_leaves_for_everybody(post: Post, how: str) -> None:
    """Every profile that has it, those that come later too; another mailbox stays."""
    for name, email in (("a", BOX), ("b", "Box@Example.com"), ("c", "other@example.com")):
        await post.move_in(name, email)
    assert await reached(post, 1, 2, 3) == [True, True, True]
    await leave(post, how, post.mail(1)[0])
    await post.move_in("later", BOX)
    assert await reached(post, 1, 2, 3, 4) == [False, False, True, False]
    await post.move_in("b", "new@example.com")
    assert await reached(post, 2) == [True], "a new mailbox never left"


async def test_who_left_by_a_link_comes_back(either: Post) -> None:
    """By their own profile, with the mailbox; not by another profile's."""
    post = either
    await post.move_in("a", BOX)
    await post.move_in("b", BOX)
    await leave(post, "link", post.mail(1)[0])
    for word in (False, True):
        await post.upload({"type": "profile", "identity": "b", "profileData": {"MSG-email": word}})
    assert await reached(post, 1, 2) == [False, False]
    await post.upload({"type": "profile", "identity": "a", "profileData": {"MSG-email": True}})
    assert await reached(post, 1, 2) == [True, True]


@pytest.mark.parametrize("first", ["API", "link"])
async def test_what_the_account_said_a_profile_does_not_take_back(post: Post, first: str) -> None:
    """`/1/subscribe` takes off until it brings back, whether the link was used before or after."""
    await post.move_in("a", BOX)
    change = AddressChange("email", BOX, opts_out=True)
    for how in (first, "link" if first == "API" else "API"):
        if how == "link":
            await leave(post, "link", post.mail(1)[0])
        else:
            await post.ledger.write(lambda c: apply_address_changes(c, post.account.id, [change], post.now))
    await post.upload({"type": "profile", "identity": "a", "profileData": {"MSG-email": True}})
    assert await reached(post, 1) == [False]


async def test_soft_is_not_for_ever(either: Post) -> None:
    """After its days an address that was only soft gets mail again, with a line in the log; a dead one does not."""
    post = either
    for name in ("a", "b"):
        await post.move_in(name, f"{name}@example.com")
    for user, verdict in ((1, "soft"), (2, "hard")):
        for mail in [post.mail(user)[0] for _ in range(3)]:
            told = Recipient("", "failed", "5.2.2" if verdict == "soft" else "5.1.1", "", verdict)  # type: ignore[arg-type]
            await post.feedback.take_report(Report("bounce", (mail,), (told,)), post.now)
    assert await reached(post, 1, 2) == [False, False]
    assert await end_soft_bounces(post.ledger, post.facts, post.now + SOFT_DAYS * DAY - 1) == 0
    with structlog.testing.capture_logs() as lines:
        assert await end_soft_bounces(post.ledger, post.facts, post.now + SOFT_DAYS * DAY + 1) == 1
    assert [(one["account"], one["users"], one["by"]) for one in lines] == [(post.account.id, [1], "rest")]
    assert await reached(post, 1, 2) == [True, False]
    post.now += SOFT_DAYS * DAY + 1
    soft = Recipient("", "failed", "5.2.2", "", "soft")
    await post.feedback.take_report(Report("bounce", (post.mail(1)[0],), (soft,)), post.now)
    assert await reached(post, 1) == [True], "it begins anew"


async def test_about_us_never_counts(post: Post) -> None:
    """However often we are slowed down or refused, the address stays."""
    await post.move_in("a", BOX)
    for mail in [post.mail(1)[0] for _ in range(5)]:
        told = Recipient(BOX, "failed", "4.7.0", "421 4.7.0 deferred for complaints", "refused")
        await post.feedback.take_report(Report("bounce", (mail,), (told,)), post.now)
    assert await reached(post, 1) == [True]


async def test_the_list_says_why(either: Post) -> None:
    """Each address once for each reason, by pages."""
    post = either
    await post.move_in("a", BOX)
    await leave(post, "link", post.mail(1)[0])
    await leave(post, "bounce", post.mail(1)[0])
    changes = [AddressChange("phone", "+14155550100", opts_out=True)]
    await post.ledger.write(lambda c: apply_address_changes(c, post.account.id, changes, post.now))
    found, total = post.ledger.read_now(lambda c: list_suppressed(c, post.account.id, 0, 10))
    assert [(one.type, one.address, one.reason, one.detail) for one in found] == [
        ("email", BOX, "bounced", "hard bounce 5.1.1"),
        ("email", BOX, "unsubscribed", "link"),
        ("phone", "+14155550100", "unsubscribed", "API"),
    ]
    assert {one.since for one in found} == {int(post.now)}
    assert total == 3
    page = post.ledger.read_now(lambda c: list_suppressed(c, post.account.id, 2, 2))
    assert (page[0], page[1]) == (found[2:], 3)
    await post.feedback.free_address(post.account.id, BOX)
    with pytest.raises(Problem, match="/1/subscribe brings it back"):
        await post.feedback.free_address(post.account.id, BOX)


def email(sending: Caller, **more: Any) -> tuple[int, dict[str, Any]]:
    """The estimate of an e-mail to everybody, and what came of it."""
    body = {"content": CONTENT, "target_mode": "email", "devices": [], **more}
    asked = {"name": "n", "where": {}, "when": "now", "estimate_only": True, **body}
    estimate = sending.post("/1/targets/create.json", asked)[1]["estimates"]["web"]
    made = sending.create(**body)
    sending.result(made)
    return estimate, sending.post("/1/targets/result.json", {"id": made})[1]


def test_one_mail_to_one_mailbox(sending: Caller, sandbox: Sandbox) -> None:
    """One campaign, one mail, whoever shares the mailbox; the estimate says so; who does not want mail takes nobody's
    place; with `send_to_every_profile` each gets theirs."""
    sending.upload(*people(5, kinds=("fcm",)))
    for number, wants in ((0, False), (1, True), (2, True), (3, True)):
        profile = {"Email": "Shared@example.com", "MSG-email": wants}
        sending.upload({"type": "profile", "identity": f"user-{number}", "profileData": profile})
    estimate, answer = email(sending)
    result = answer["result"]
    assert (estimate, result["sent"], result["suppressed"], result["audience"]) == (2, 2, 3, 5)
    assert answer["suppressed_by"] == {"duplicate address": 2, "unsubscribed": 1}
    assert sorted(one["address"] for one in sandbox.messages("smtp")) == ["shared@example.com", "user-4@example.com"]
    sandbox.clear()
    estimate, answer = email(sending, send_to_every_profile=True)
    assert (estimate, answer["result"]["sent"]) == (4, 4)
    assert [one["address"] for one in sandbox.messages("smtp")].count("shared@example.com") == 3


def test_lifted_over_http(server: Server, sending: Caller) -> None:
    """The routes list and lift; the command lists too; what left is named another way back."""
    sending.upload(*people(2, kinds=("fcm",)))
    left = {"type": "email", "value": "user-1@example.com", "status": "Unsubscribe"}
    sending.post("/1/subscribe", {"d": [left]})
    status, answer = sending.post("/1/suppressions/list.json", {})
    [one] = answer["suppressed"]
    assert (status, answer["total_pages"], one["address"], one["detail"]) == (200, 1, "user-1@example.com", "API")
    assert sending.post("/1/suppressions/list.json", {"limit": 0})[0] == 400
    for address, status in (("user-1@example.com", 404), ("user-0@example.com", 404), ("", 400)):
        found, answer = sending.post("/1/suppressions/lift.json", {"address": address})
        assert (found, "$.address" in answer["error"]) == (status, True)
    run = CliRunner().invoke(tocsin, ["suppressed", "--account", sending.account_id, "--data", str(server.data)])
    assert [json.loads(line)["reason"] for line in run.stdout.splitlines()] == ["unsubscribed"]


def test_a_mailbox_leaves_over_http(sending: Caller) -> None:
    """Two profiles, one mailbox: after the event of one the estimate knows both are gone."""
    sending.upload(*people(3, kinds=("fcm",)))
    for number in (0, 1):
        shared = {"Email": BOX}
        sending.upload({"type": "profile", "identity": f"user-{number}", "profileData": shared})
    event = {"type": "event", "identity": "user-0", "evtName": "Channel Unsubscribed"}
    sending.upload({**event, "evtData": {"Campaign Type": "Email"}})
    estimate, answer = email(sending)
    assert (estimate, answer["result"]["sent"], answer["suppressed_by"]) == (1, 1, {"unsubscribed": 2})


async def test_at_once(post: Post) -> None:
    """Two people with one mailbox leave in the same moment."""
    await post.move_in("a", BOX)
    await post.move_in("b", BOX)
    await asyncio.gather(*(post.feedback.unsubscribe(mail, post.now) for mail in post.mail(1, 2)))
    assert await reached(post, 1, 2) == [False, False]
