"""Lanes delay only themselves: a vendor, a credential or a content that fails holds up no other, and who sends by
identity does not wait for campaigns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import SMALL_AT_ONCE, SMALL_WINDOW, Caller, Sandbox, Server, people, wait_for
from support.stage import Stage, Vendor

from tocsin.delivery.content_breaker import REFUSALS_IN_A_ROW
from tocsin.outcome import Outcome
from tocsin.providers.contract import Message, Receipt, Scope
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

REFUSED = Receipt(outcome=Outcome.REFUSED, code="400 INVALID_ARGUMENT", scope=Scope.CAMPAIGN)
DEAD: list[dict[str, Any]] = [
    {"vendor": "fcm", "kind": "hang"},
    {"vendor": "fcm", "kind": "status", "status": 429, "code": "QUOTA_EXCEEDED", "retry_after": 600},
    {"vendor": "fcm", "kind": "status", "status": 503, "code": "UNAVAILABLE", "retry_after": 600},
    {"vendor": "fcm", "kind": "status", "status": 401, "code": "UNAUTHENTICATED"},
    {"vendor": "fcm", "kind": "refuse"},
]


def new_account(server: Server, sandbox: Sandbox, count: int, prefix: str, kinds: tuple[str, ...]) -> Caller:
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    caller.upload(*people(count, prefix, kinds, sandbox.port + 3))
    return caller


@pytest.mark.parametrize("dead", DEAD, ids=lambda dead: f"{dead['kind']} {dead.get('status', '')}".strip())
def test_a_dead_vendor_delays_no_other(
    start_small: Callable[[int], Server], sandbox: Sandbox, dead: dict[str, Any]
) -> None:
    """Many chunks for a vendor that does not take them; the campaign's other platforms, mail, and another account's
    campaign that begins later are all delivered meanwhile."""
    sandbox.fault(**dead)
    server = start_small(2 if dead["kind"] == "hang" else 0)
    broken = new_account(server, sandbox, 300, "broken", ("fcm", "apns", "wns"))
    for _ in range(2 * SMALL_AT_ONCE):  # more chunks than there are places
        broken.create(devices=["android"])
    campaign = broken.create()
    mail = broken.create(target_mode="email", content={"subject": "s", "body": "b", "sender_name": "x"})
    other = new_account(server, sandbox, 300, "other", ("apns", "wns"))

    assert other.result(other.create())["sent"] == 300
    assert broken.result(mail)["sent"] == 300
    wait_for(
        lambda: (
            {vendor: sandbox.counts()[vendor]["accepted"] for vendor in ("apns", "wns")}
            == {
                "apns": 250,
                "wns": 250,
            }
        )
    )
    assert sandbox.counts()["fcm"]["accepted"] == 0
    assert broken.post("/1/targets/result.json", {"id": campaign})[0] != 200, "it is not over"


@pytest.mark.parametrize("senders", [0, 2])
def test_a_send_overtakes_a_campaign(start_small: Callable[[int], Server], sandbox: Sandbox, senders: int) -> None:
    """Somebody's password waits behind what is already with the vendor, not behind the rest of the campaign."""
    sandbox.fault(vendor="fcm", kind="delay", seconds=0.3)
    server = start_small(senders)
    caller = new_account(server, sandbox, 3000, "many", ("fcm",))
    campaign = caller.create()
    wait_for(lambda: sandbox.counts()["fcm"]["accepted"] >= 100)
    before = sandbox.counts()["fcm"]["accepted"]
    body = {"to": {"identity": ["many-7"]}, "content": {"title": "Your code", "body": "is 1234"}, "tag_group": "code"}
    assert caller.post("/1/send/push.json", body)[0] == 200

    assert caller.result(campaign)["sent"] == 3000
    wait_for(lambda: sandbox.counts()["fcm"]["accepted"] == 3001)
    places = [place for place, one in enumerate(sandbox.messages("fcm")) if "Your code" in str(one["body"])]
    assert len(places) == 1
    # Those already claimed when it came, and those claimed while its one message was rendered, signed and sent.
    assert places[0] - before <= 3 * SMALL_WINDOW * SMALL_AT_ONCE
    assert places[0] < 2000


async def refuse(message: Message) -> Receipt:
    return REFUSED


async def test_a_refused_content_is_not_tried_on_everybody(own_ledger: Ledger, facts: Facts) -> None:
    """After so many refusals for what the content is, and none accepted, the rest of it is refused untried. Another
    content on the same lane goes its way."""
    vendor = Vendor(*[refuse] * 500)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(200)
    bad = await stage.campaign()
    await stage.deliver_all()

    tried, ahead = len(vendor.got), 2 * stage.settings.window  # those are with a sender when the last refusal comes
    assert REFUSALS_IN_A_ROW <= tried < REFUSALS_IN_A_ROW + ahead
    assert await stage.result(bad) == {"audience": 200, "failed": 200}

    vendor.answers.clear()
    good = await stage.campaign(name="another")
    await stage.deliver_all()
    assert await stage.result(good) == {"audience": 200, "sent": 200}


async def test_a_few_refusals_stop_nothing(own_ledger: Ledger, facts: Facts) -> None:
    """A template that is wrong for some people is still right for the others, however many the some are."""
    vendor = Vendor(Outcome.ACCEPTED, *[refuse] * (2 * REFUSALS_IN_A_ROW))
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(100)
    campaign = await stage.campaign()
    await stage.deliver_all()
    assert len(vendor.got) == 100
    assert await stage.result(campaign) == {
        "audience": 100,
        "sent": 100 - 2 * REFUSALS_IN_A_ROW,
        "failed": 2 * REFUSALS_IN_A_ROW,
    }
