"""While a campaign is written, and before it is sent, its page says who would be held back, by what delivers."""

from __future__ import annotations

import asyncio
import html
import re
import time

import pytest
from conftest import Caller, Sandbox, Server, people
from starlette.requests import Request
from support.browser import Browser, join, unique

from tocsin.dashboard.connection import while_connected
from tocsin.dashboard.formatting import lasting
from tocsin.dashboard.texts import ENGLISH
from tocsin.errors import Problem
from tocsin.outcome import SUPPRESSED, reason_of
from tocsin.policy import set_policy
from tocsin.store.ledger import open_ledger

FORM = {
    "name": "Spring",
    "channel": "push",
    "devices": "android",
    "title": "Hello",
    "body": "there",
    "when": "now",
    "caps": "1",
    "nonce": "0123456789abcdef",
}


def read_lines(page: str) -> list[str]:
    """The lines of a forecast, without its markup."""
    found = re.search(r'id="forecast-numbers">(.*?)</ul>', page, re.DOTALL)
    assert found is not None, page
    items = re.findall(r"<li>(.*?)</li>", found[1], re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<span.*|<[^>]+>", "", item, flags=re.DOTALL)).split()) for item in items]


def foresee(browser: Browser, fields: dict[str, str]) -> list[str]:
    status, page, _ = browser.send("/dashboard/new/forecast", FORM | {"token": browser.token()} | fields)
    assert status == 200
    return read_lines(page)


def test_the_review_says_who_is_held_back(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Who opted out, who had their cap, who is in the control group, who never had a device; the run agrees."""
    sending.upload(*people(12, kinds=("fcm",)), {"type": "profile", "identity": "bare", "profileData": {"Name": "B"}})
    sending.upload({"type": "profile", "identity": "user-3", "profileData": {"MSG-push": False}})
    ledger = open_ledger(server.ledger_url)
    ledger.write_now(lambda one: set_policy(one, sending.account_id, "caps", '{"push": {"most": 1}}', time.time()))
    ledger.close()
    browser = join(server, sending, "marketer", unique("ana", sending))
    form = FORM | {"token": browser.token()}
    assert foresee(browser, {}) == [
        "11 would be sent to, of 12",
        "1 held back: unsubscribed",
        "1 more have no device or address there, and never had",
        "At the pace of the last day: nobody knows yet, nothing was sent on this channel",
    ]
    page = browser.send("/dashboard/new", form | {"do": "review"})[1]
    assert ('hx-post="/dashboard/new/forecast"' in page, "forecast-numbers" in page) == (True, False)
    sent = browser.send("/dashboard/new", form | {"do": "send"})[2]["location"]
    assert sending.result(int(sent.rsplit("/", 1)[1]))["sent"] == 11
    lines = foresee(browser, {"control": "50"})
    assert lines[0] == "0 would be sent to, of 12"
    held = {line.split(": ")[1]: int(line.split()[0]) for line in lines if "held back" in line}
    assert ({"control group", "frequency cap"} <= set(held), sum(held.values())) == (True, 12)
    assert lines[-1] == "At the pace of the last day: less than a minute"
    assert foresee(browser, {"caps": ""})[0] == "11 would be sent to, of 12"
    page = browser.send("/dashboard/new", form | {"do": "foresee"})[1]  # without a script, by a button
    assert (read_lines(page)[0], "Send 11 messages now" in page) == ("0 would be sent to, of 12", True)


def test_an_unfinished_draft_is_foreseen_as_far_as_it_goes(server: Server, caller: Caller) -> None:
    """Without words, but with its control group; without an audience it says what is wrong; nothing is sent."""
    caller.upload(*people(4, kinds=("fcm",)))
    browser = join(server, caller, "marketer", unique("ana", caller))
    unfinished = FORM | {"token": browser.token(), "name": "", "title": "", "control": "99"}
    check = browser.send("/dashboard/new/check", unfinished)[1]
    assert ('hx-post="/dashboard/new/forecast"' in check, "forecast-numbers" in check) == (True, False)
    status, page, _ = browser.send("/dashboard/new/forecast", unfinished)
    assert (status, any("held back: control group" in line for line in read_lines(page))) == (200, True)
    assert re.search(r'<p id="spoken-forecast" hx-swap-oob="innerMorph">\d would be sent to, of 4; \d held back', page)
    form = unfinished | {"json": "{"}
    assert 'hx-post="/dashboard/new/forecast"' not in browser.send("/dashboard/new/check", form)[1]
    status, page, _ = browser.send("/dashboard/new/forecast", form)
    assert (status, "This is not JSON" in page) == (200, True)
    assert browser.send("/dashboard/new", form | {"do": "foresee"})[0] == 400
    assert browser.send("/dashboard/new/forecast", FORM)[0] == 403
    viewer = join(server, caller, "viewer", unique("vic", caller))
    assert viewer.send("/dashboard/new/forecast", FORM | {"token": viewer.token()})[0] == 403


def test_a_part_that_is_refused_is_a_part(server: Server, caller: Caller) -> None:
    """What went wrong stands in the place of the part; where one is picked from a page, in a place of its own."""
    browser = join(server, caller, "marketer", unique("ana", caller))
    for path, asked in (("/dashboard/new/forecast", "partial"), ("/dashboard/new", "full")):
        status, page, headers = browser.send(path, FORM, **{"HX-Request": "true", "HX-Request-Type": asked})
        assert (status, page.strip().startswith('<p class="warn" role="alert">')) == (403, True)
        assert headers.get("hx-retarget") == ("#trouble" if asked == "full" else None)


def test_nobody_works_for_whoever_left() -> None:
    """Work ends with the connection, and its place is free again; else its answer is the answer."""
    ended: list[str] = []

    async def work(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append("over")
        return "done"

    async def stay() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def ask() -> str:
        with pytest.raises(Problem, match="closed"):
            await while_connected(Request({"type": "http"}, leave), work(60))
        await asyncio.sleep(0)
        return await while_connected(Request({"type": "http"}, stay), work(0))

    assert (asyncio.run(ask()), ended) == ("done", ["over", "over"])


def test_every_reason_is_explained() -> None:
    assert {reason_of(state) for state in SUPPRESSED} == set(ENGLISH.held_reasons)


def test_how_long_it_takes() -> None:
    said = [lasting(minutes) for minutes in (0.0, 0.99, 1.2, 3.4, 89.0, 150.0, 4000.0)]
    assert said[:3] == ["less than a minute"] * 2 + ["about a minute"]
    assert said[3:] == ["about 3 minutes", "about 89 minutes", "about 2.5 hours", "about 3 days"]
