"""What pages of a site load and report, and how their service workers say that a message was seen."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import Caller, Sandbox, Server, wait_for
from support.lz import pack

from tocsin.api.pages import SCRIPTS
from tocsin.authenticator.apps import add_app
from tocsin.ingest.push_service import make_token
from tocsin.store.ledger import open_ledger

DEVICE = "web-0b0e2cf2-6f0e-4a52-9f0a-2a6c3f1d0001"
FIELDS: dict[str, Any] = {"target_mode": "webpush", "content": {"title": "Hi", "body": "there"}}


class Page:
    """A page of an account's site, at one browser."""

    def __init__(self, caller: Caller, sandbox: Sandbox, key: str = "", device: str = DEVICE):
        self.caller, self.sandbox, self.device = caller, sandbox, device
        self.key = key or sandbox.control.get("/credentials")[1]["vapid"]["public_key"]

    def report(self, **told: Any) -> tuple[int, Any]:
        """The answer to a report, as a page may read it."""
        nobody = Caller(self.caller.port)
        path = f"/sdk/report?account={self.caller.account_id}&key={self.key}"
        body = json.dumps({"device": self.device, **told}).encode()
        status, answer, headers = nobody.call("POST", path, body, {"Content-Type": "text/plain;charset=UTF-8"})
        assert headers["access-control-allow-origin"] == "*"
        return status, answer

    def subscribe(self) -> dict[str, Any]:
        """A new subscription of this browser, reported."""
        [made] = self.sandbox.control.post("/subscriptions", {})[1]["subscriptions"]
        assert self.report(subscription=made) == (200, {"status": "success", "key": self.key})
        found: dict[str, Any] = made
        return found


def send_to(caller: Caller, tag: str, *identities: str) -> tuple[int, int]:
    """How many of these people got a web push, and how many had no browser."""
    body = {"to": {"Identity": list(identities)}, "content": FIELDS["content"], "tag_group": tag}
    assert caller.post("/1/send/webpush.json", body)[0] == 200

    def ask() -> dict[str, int] | None:
        found = caller.get("/1/tag_groups.json")[1]["tag_groups"].get(tag)
        return found if found and found["sent"] + found["suppressed"] + found["failed"] == len(identities) else None

    found = wait_for(ask)
    return found["sent"], found["suppressed"]


def test_a_page_from_subscribing_to_the_click(sending: Caller, sandbox: Sandbox, server: Server) -> None:
    """A browser subscribes, somebody logs in, an event is theirs; a campaign reaches them, and a click counts once."""
    server.trust_pages(sending)
    page = Page(sending, sandbox)
    subscription = page.subscribe()
    assert page.report(identity="jane") == (200, {"status": "success", "key": page.key})
    assert page.report(event={"name": "Product viewed", "properties": {"Price": 59.99}})[0] == 200
    day = int(time.strftime("%Y%m%d"))
    viewed = {"event_name": "Product viewed", "from": day - 1, "to": day + 1}
    campaign = sending.create(**FIELDS, where=viewed)
    assert sending.result(campaign)["sent"] == 1
    [message] = sandbox.messages("vapid")
    assert message["address"] == subscription["endpoint"]
    push_id = message["body"]["notificationOptions"]["data"]["wzrk_pid"]
    nobody = Caller(sending.port)
    for _ in range(2):
        assert nobody.get(f"/track/clicked?id={push_id}&r=https%3A%2F%2Fx.example&b=button0&s=true")[0] == 200
    assert (
        nobody.call("POST", "/track/viewed", json.dumps({"id": push_id}).encode(), {"Content-Type": "text/plain"})[0]
        == 200
    )
    result = sending.result(campaign)
    assert (result["clicked"], result["viewed"]) == (1, 1)


def test_head_reports_nothing(sending: Caller, sandbox: Sandbox) -> None:
    """Somebody's link checker is no view."""
    page = Page(sending, sandbox)
    page.subscribe()
    campaign = sending.create(**FIELDS)
    assert sending.result(campaign)["sent"] == 1
    push_id = sandbox.messages("vapid")[-1]["body"]["notificationOptions"]["data"]["wzrk_pid"]
    nobody = Caller(sending.port)
    with closing(http.client.HTTPConnection("127.0.0.1", sending.port, timeout=60)) as connection:
        connection.request("HEAD", f"/track/clicked?id={push_id}")
        assert connection.getresponse().status == 200
    assert sending.result(campaign)["clicked"] == 0
    assert nobody.get("/track/clicked?id=made-up")[0] == 400
    assert nobody.get("/track/clicked")[0] == 400
    assert nobody.get(f"/track/deleted?id={push_id}")[0] == 404


def test_a_page_is_not_believed(sending: Caller, sandbox: Sandbox) -> None:
    """Who says to be jane gets nothing of hers, until her own server names the device."""
    page = Page(sending, sandbox)
    page.subscribe()
    sending.upload({"type": "profile", "identity": "jane", "profileData": {"Name": "Jane"}})
    assert page.report(identity="jane")[1]["unconfirmed"] == page.device
    assert send_to(sending, "one", "jane") == (0, 1)
    sending.upload({"type": "profile", "identity": "jane", "objectId": page.device, "profileData": {}})
    assert send_to(sending, "two", "jane") == (1, 0)


def test_a_browser_that_changed_hands(sending: Caller, sandbox: Sandbox, server: Server) -> None:
    """The script makes another device of it, and the subscription moves along: the first one's messages stop."""
    server.trust_pages(sending)
    page = Page(sending, sandbox)
    subscription = page.subscribe()
    page.report(identity="ann")
    second = Page(sending, sandbox, device=DEVICE[:-1] + "2")
    assert second.report(identity="bob", subscription=subscription)[0] == 200
    assert send_to(sending, "t", "ann", "bob") == (1, 1)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"device": "phone-1"}, "device"),
        ({"identity": 7}, "identity"),
        ({"event": {"properties": {}}}, "name"),
        ({"event": {"name": "App Launched"}}, "restricted system event"),
        ({"subscription": {"endpoint": "https://127.0.0.1/x", "keys": {"p256dh": "B", "auth": "a"}}}, "$.subscription"),
        ({"subscription": {"endpoint": "https://web.push.apple.com/x"}}, "$.subscription"),
        ({"profile": {"Email": "a@b.example"}}, "profile"),
    ],
)
def test_what_a_page_may_not_say(sending: Caller, sandbox: Sandbox, told: dict[str, Any], words: str) -> None:
    """No phone's device, no system's event, no profile, no subscription that is none."""
    status, answer = Page(sending, sandbox).report(**told)
    assert status == 400
    assert words in answer["error"]


def test_whose_page_it_is(sending: Caller, sandbox: Sandbox, server: Server) -> None:
    """Another account's key, or none, opens nothing."""
    for page in (
        Page(sending, sandbox, key="B"),
        Page(server.account(), sandbox),
        Page(Caller(sending.port, {"X-CleverTap-Account-Id": ""}), sandbox),
    ):
        status, answer = page.report(identity="jane")
        assert (status, answer["code"]) == (401, 401)


def test_an_app_on_the_web(sending: Caller, sandbox: Sandbox, server: Server) -> None:
    """An app's token opens what the public key does; and CleverTap's Web SDK is told the key to subscribe with, before
    each answer."""
    with closing(open_ledger(server.ledger_url)) as ledger:
        made = add_app(ledger, sending.account_id, "shop", time.time(), platforms="web")
    page = Page(sending, sandbox)
    by_token = Page(sending, sandbox, key=made.token)
    wait_for(lambda: by_token.report()[0] == 200)  # the server looks for apps once a second
    assert by_token.report() == (200, {"status": "success", "key": page.key})
    asked = urlencode(
        {"t": 96, "type": "page", "d": pack(json.dumps({"id": made.sdk_id})), "i": int(time.time()), "rn": 1}
    )
    nobody = Caller(sending.port)
    script = nobody.get(f"/a?{asked}")[1].decode()
    push = f'$WZRK_WR.enableWebPush(true,"{page.key}");$WZRK_WR.tr({{"webPushConfig":{{}}}});$WZRK_WR.s('
    assert script.startswith(push)
    fetched = nobody.call("GET", f"/a?{asked}", headers={"Accept": "application/json"})[1]
    assert (fetched["wpe"], fetched["tr"]) == ({"enabled": True, "key": page.key}, {"webPushConfig": {}})


def test_scripts_are_served(server: Server) -> None:
    """Both together are under 6 kB, any site may load them, and no other file is there."""
    nobody = Caller(server.port)
    for name, content in SCRIPTS.items():
        status, served, headers = nobody.call("GET", f"/sdk/{name}")
        assert (status, served) == (200, content)
        assert headers["content-type"].startswith("text/javascript")
        assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert sorted(SCRIPTS) == ["tocsin-sw.js", "tocsin.js"]
    assert sum(map(len, SCRIPTS.values())) < 6000
    assert nobody.get("/sdk/pages.py")[0] == 404


KEYS = {"p256dh": "B", "auth": "a"}


@pytest.mark.parametrize(
    ("endpoint", "browser", "whole"),
    [
        ("https://web.push.apple.com/x", "", "https://web.push.apple.com/x"),
        ("abc:APA91x", "Chrome", "https://fcm.googleapis.com/fcm/send/abc:APA91x"),
        ("gAAAA", "Firefox", "https://updates.push.services.mozilla.com/wpush/v2/gAAAA"),
        ("QGuQ", "", "https://web.push.apple.com/QGuQ"),
        ("gAAAA", "Netscape", ""),
        ("https://10.0.0.1/x", "Chrome", ""),
        ("", "Chrome", ""),
    ],
)
def test_endpoints_are_made_whole(endpoint: str, browser: str, whole: str) -> None:
    """CleverTap's Web SDK sends the last part of an endpoint, and what it calls the browser."""
    made = make_token({"endpoint": endpoint, "expirationTime": None, "keys": KEYS}, browser)
    assert (json.loads(made) if made else made) == ({"endpoint": whole, "keys": KEYS} if whole else "")
    assert make_token({"endpoint": endpoint, "keys": {"auth": "a"}}, browser) == ""
