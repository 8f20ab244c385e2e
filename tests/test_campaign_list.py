"""The list of campaigns by state, and what a restore holds back: shown, let go on, dropped."""

from __future__ import annotations

import contextlib
import re

from conftest import Caller, Sandbox, Server, people
from sqlalchemy import func, update
from support.browser import Browser, join, unique

from tocsin.campaign.runs import PRECEDENCE
from tocsin.dashboard.queries import STATES
from tocsin.dashboard.texts import ENGLISH
from tocsin.queue import HOLD_SECONDS
from tocsin.store import schema
from tocsin.store.ledger import open_ledger

LATER = "20990101 09:30"


def hold(server: Server, caller: Caller, campaign: int) -> None:
    """Holds a campaign as `tocsin restore` holds all."""
    run = schema.run
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        mine = update(run).where(run.c.account_id == caller.account_id, run.c.campaign_id == campaign)
        ledger.write_now(lambda one: one.execute(mine.values(retry_at=func.coalesce(run.c.retry_at, 0) + HOLD_SECONDS)))


def names(browser: Browser, query: str) -> list[str]:
    """What the campaigns of a list are called."""
    return re.findall(r'<a href="/dashboard/campaigns/\d+">(.*?)</a>', browser.look(f"/dashboard/?{query}")[1])


def test_a_list_of_one_state(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    sending.upload(*people(2, kinds=("fcm",)))
    done = sending.create(name="Done", labels=["spring"])
    sending.create(name="Waits", when=LATER)
    stopped, held = sending.create(name="Stopped", when=LATER), sending.create(name="Held", when=LATER)
    sending.post("/1/targets/stop.json", {"id": stopped})
    sending.result(done)
    hold(server, sending, held)
    browser = join(server, sending, "viewer", unique("vi", sending))

    shown = {state: names(browser, f"state={state}") for state in STATES}

    some = {"completed": ["Done"], "scheduled": ["Waits"], "stopped": ["Stopped"], "held": ["Held"]}
    assert shown == {state: some.get(state, []) for state in STATES}
    assert sorted(name for found in shown.values() for name in found) == sorted(names(browser, ""))
    assert names(browser, "state=completed&label=spring&q=done") == ["Done"]
    assert names(browser, "state=nonsense") == names(browser, "")
    assert "Nothing matches" in browser.look("/dashboard/?state=missed")[1]


def test_states_that_can_be_asked_for_are_all_states() -> None:
    assert {key for key, _ in ENGLISH.states} == {*STATES, "draft"} == {*PRECEDENCE, "held", "draft"}


def test_held_until_somebody_lets_it_go_on(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """The page says why nothing happens; only marketers let it go on or stop it; then it is sent."""
    sending.upload(*people(2, kinds=("fcm",)))
    campaign = sending.create(name="Held <i>", when=LATER)
    hold(server, sending, campaign)
    viewer = join(server, sending, "viewer", unique("vi", sending))
    marketer = join(server, sending, "marketer", unique("ma", sending))
    path = f"/dashboard/campaigns/{campaign}"

    assert "restored from a backup" in viewer.look(path)[1]
    assert f"{path}/resume" not in viewer.look(path)[1]
    assert viewer.send(f"{path}/resume", {"token": viewer.token()})[0] == 403
    assert 'pill held">held' in marketer.look("/dashboard/")[1]
    assert "Let «Held &lt;i&gt;» go on?" in marketer.look(f"{path}/resume")[1]
    assert marketer.send(f"{path}/resume", {})[0] == 403
    assert 'pill held">held' in viewer.look(path)[1]

    assert marketer.send(f"{path}/resume", {"token": marketer.token()})[0] == 303

    assert 'pill pending">pending' in viewer.look(path)[1]
    assert "It is not held" in marketer.look(f"{path}/resume")[1]
    hold(server, sending, campaign)
    marketer.send(f"{path}/stop", {"token": marketer.token()})
    assert 'pill stopped">stopped' in viewer.look(path)[1]


def test_held_sends_by_identity(server: Server, caller: Caller) -> None:
    chunk = schema.chunk
    caller.post("/1/upload", {"d": people(1)})
    caller.post("/1/send/push.json", {"to": {"Identity": ["user-0"]}, "content": {"title": "a", "body": "b"}})
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        mine = update(chunk).where(chunk.c.account_id == caller.account_id)
        values = {"not_before": HOLD_SECONDS, "lease_owner": None, "lease_until": None, "open": 1}
        ledger.write_now(lambda one: one.execute(mine.values(values)))
    marketer = join(server, caller, "marketer", unique("ma", caller))
    assert "1 held since this server was restored" in marketer.look("/dashboard/tag-groups")[1]

    assert marketer.send("/dashboard/tag-groups/held", {"token": marketer.token(), "do": "drop"})[0] == 303

    assert "are held" not in marketer.look("/dashboard/tag-groups")[1]
