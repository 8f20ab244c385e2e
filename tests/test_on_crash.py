"""`on_crash`: what becomes of a message nobody knows about. "report" says so; "resend" sends it again, to be
replaced on the screen by its collapse key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOMY, Caller, Sandbox, Server, people, wait_for
from support.chunks import LEASE, NOW, POLICY, lease, load, must_lease, settle
from support.stage import BODY, CONTENT, Stage, Vendor

from tocsin import queue
from tocsin.account import Account
from tocsin.campaign.send import read_asked
from tocsin.campaign.spec import read_spec
from tocsin.delivery.retry import decide
from tocsin.errors import Problem
from tocsin.outcome import Outcome, State
from tocsin.providers.contract import Push, Receipt
from tocsin.queue import Recipients, Share
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

UNKNOWN = Receipt(outcome=Outcome.UNKNOWN, code="cut")


def read_on_crash(body: dict[str, Any]) -> str:
    """What a create request and a send with that field read, which is the same."""
    campaign = read_spec(BODY | body, Account("A", "", "UTC"), NOW).on_crash
    assert read_asked({"to": {"Identity": ["a"]}, "content": CONTENT} | body).on_crash == campaign
    return campaign


@pytest.mark.parametrize(
    ("body", "read"), [({}, "report"), ({"on_crash": "report"}, "report"), ({"on_crash": "resend"}, "resend")]
)
def test_what_is_read(body: dict[str, Any], read: str) -> None:
    assert read_on_crash(body) == read


@pytest.mark.parametrize("value", ["", "Resend", None, True, 1, ["resend"]])
def test_what_is_refused(value: Any) -> None:
    with pytest.raises(Problem, match=r"\$\.on_crash"):
        read_on_crash({"on_crash": value})


@pytest.mark.parametrize(
    ("resend", "tries", "left", "state"),
    [
        (False, 0, 3600.0, State.UNKNOWN),
        (True, 0, 3600.0, State.WAITING),
        (True, 1, 3600.0, State.WAITING),
        (True, 2, 3600.0, State.UNKNOWN),  # tries are over
        (True, 0, 10.0, State.UNKNOWN),  # no time is left
    ],
)
def test_an_unknown_answer(resend: bool, tries: int, left: float, state: State) -> None:
    step = decide(UNKNOWN, tries, NOW, NOW + left, POLICY, 0.5, resend=resend)
    assert (step.state, step.tries) == (state, tries + 1)
    assert (step.not_before > NOW) == (state is State.WAITING)


def add_chunk(store: Ledger, *, resend: bool) -> None:
    def write(connection: Any) -> None:
        queue.insert_run_chunks(
            connection,
            account_id="a",
            run_id=1,
            campaign_id=1,
            channel="push",
            shares={Share(expires_at=NOW + 86_400): Recipients((user, "android") for user in range(1, 4))},
            now=NOW,
            resend=resend,
        )

    store.write_now(write)


@pytest.mark.parametrize("resend", [False, True])
def test_a_worker_is_lost(store: Ledger, resend: bool) -> None:
    """What was claimed by a worker that died is unknown, or sent again; what it had not claimed waits as it did."""
    add_chunk(store, resend=resend)
    chunk = must_lease(store, "one")
    chunk.move(0, State.CLAIMED)
    assert settle(store, chunk)

    assert lease(store, "two", NOW + LEASE) is None
    taken = must_lease(store, "two", NOW + LEASE + 1)
    expected = State.WAITING if resend else State.UNKNOWN
    assert [State(state) for state in taken.states] == [expected, State.WAITING, State.WAITING]
    assert taken.notes[0].code == "worker lost"
    assert [State(state) for state in load(store, taken.id).states] == [expected, State.WAITING, State.WAITING]


def test_resending_ends(store: Ledger) -> None:
    """A recipient over whom worker after worker is lost, perhaps because of them, is unknown in the end."""
    add_chunk(store, resend=True)
    now = NOW
    for number in range(POLICY.retries + 1):
        chunk = must_lease(store, f"worker {number}", now)
        assert State(chunk.states[0]) is State.WAITING
        chunk.move(0, State.CLAIMED)
        assert settle(store, chunk, now=now)
        now += LEASE + 1
    assert State(must_lease(store, "last", now).states[0]) is State.UNKNOWN


@pytest.mark.parametrize("on_crash", ["report", "resend"])
async def test_a_vendor_that_cuts(own_ledger: Ledger, facts: Facts, on_crash: str) -> None:
    """An answer that never came: reported at once, or sent again under the same key until one comes."""
    vendor = Vendor(Outcome.UNKNOWN)
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(3)
    campaign = await stage.campaign(on_crash=on_crash)
    await stage.deliver_all()

    resend = on_crash == "resend"
    numbers = {"sent": 3} if resend else {"sent": 2, "unknown": 1}
    assert await stage.result(campaign) == {"audience": 3} | numbers
    assert len(vendor.got) == (4 if resend else 3)
    same = [one for one in vendor.got if one.address.value == vendor.tokens[0]]
    keys = {push.collapse for push in same if isinstance(push, Push)}
    assert len(keys) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("on_crash", ["report", "resend"])
def test_a_killed_server(tmp_path: Path, sandbox: Sandbox, on_crash: str) -> None:
    """`kill -9` while the vendors hold their answers back: with "resend" nobody is unknown, and every second copy has
    the first one's collapse key; with "report" there is no second copy."""
    server = Server(tmp_path, ROOMY | {"TOCSIN_WINDOW": "100", "TOCSIN_SENDERS": "1"})
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    caller.upload(*people(900, kinds=("fcm", "apns")))
    for vendor in ("fcm", "apns"):
        sandbox.fault(vendor=vendor, kind="delay", seconds=2)
    campaign = caller.create(on_crash=on_crash)
    wait_for(lambda: accepted(sandbox) >= 100)
    server.kill()
    sandbox.control.call("DELETE", "/faults")
    server = server.again()
    result = Caller(server.port, caller.headers).result(campaign)
    assert server.stop() == 0

    assert result["audience"] == 900 == sum(result[name] for name in ("sent", "unknown", "failed", "suppressed"))
    keys: dict[str, list[str]] = {}
    for message in sandbox.messages("fcm"):
        keys.setdefault(message["address"], []).append(message["body"]["message"]["android"]["collapse_key"])
    for message in sandbox.messages("apns"):
        keys.setdefault(message["address"], []).append(message["headers"]["apns-collapse-id"])
    copies = Counter(len(one) for one in keys.values())
    if on_crash == "resend":
        assert result["sent"] == 900 == len(keys)
        assert copies[2] > 0
    else:
        assert 0 < result["unknown"] <= 8 * 100
        assert set(copies) == {1}
        assert result["sent"] <= len(keys) <= 900
    assert all(len(set(one)) == 1 and one[0] for one in keys.values())


def accepted(sandbox: Sandbox) -> int:
    return sum(one["accepted"] for one in sandbox.counts().values())
