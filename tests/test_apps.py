"""Apps over HTTP: what opens `/a1`, `/a` and `/hello`, what is answered so that an SDK goes on, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from conftest import Caller, Sandbox, Server, wait_for
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.lz import pack
from support.sdk import IOS, encode, event, guid, launch, meta, profile, token

from tocsin.api.app_rates import AppRates
from tocsin.authenticator.apps import add_app
from tocsin.cli import tocsin
from tocsin.errors import Problem
from tocsin.ingest.sdk.report import Dropped
from tocsin.policy import set_policy
from tocsin.store.ledger import open_ledger

ONE, TWO = guid(1), guid(2)


class App:
    """An app of an account, as its SDKs report."""

    def __init__(self, server: Server, caller: Caller, *, trust: bool = True, **limits: float):
        self.caller = caller
        self.nobody = Caller(server.port)
        with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
            self.made = add_app(ledger, caller.account_id, "shop", time.time())
            wanted = {"apps": {"identities": "trust" if trust else "confirm"}, "limits": limits}
            for name, value in wanted.items():
                ledger.write_now(
                    partial(set_policy, account_id=caller.account_id, name=name, value=json.dumps(value), now=0.0)
                )
        wait_for(self._is_known)

    def _is_known(self) -> bool:
        """Whether the server has read the app: it looks once a second."""
        before = self.count("unreadable")
        self.send_raw(b"[]")
        return self.count("unreadable") > before

    def send_raw(
        self, body: bytes, headers: Mapping[str, str] | None = None, query: str = "os=Android&t=80200"
    ) -> tuple[int, Any, Mapping[str, str]]:
        account = {"X-CleverTap-Account-ID": self.made.sdk_id, "X-CleverTap-Token": self.made.token}
        kind = {"Content-Type": "application/json; charset=utf-8"}
        path = f"/a1?{query}&z={self.made.sdk_id}&ts=1700000010"
        return self.nobody.call("POST", path, body, kind | account | dict(headers or {}))

    def send(self, start: dict[str, Any], *objects: dict[str, Any], **more: Any) -> tuple[int, Any, Mapping[str, str]]:
        mine = start | {"id": self.made.sdk_id, "tk": self.made.token}
        return self.send_raw(encode(mine, *objects), **more)

    def count(self, result: str) -> float:
        line = f'tocsin_app_reports_total{{result="{result}"}} '
        page = self.nobody.get("/metrics")[1].decode()
        return sum(float(one.removeprefix(line)) for one in page.splitlines() if one.startswith(line))

    def matches(self, where: dict[str, Any]) -> int:
        """How many people a question means."""
        status, answer = self.caller.post("/1/segments/explain.json", {"where": where})
        assert status == 200, answer
        return int(answer["count"])


@pytest.fixture(scope="module")
def app(server: Server) -> App:
    """An app for cases that ask for events of their own."""
    return App(server, server.account())


def test_from_the_first_launch_to_a_click(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """An unmodified app logs in, gets a push that its SDK shows and reports, and the report is of that message, from
    whichever device it comes, however often."""
    app, now = App(server, sending), int(time.time())
    assert (
        app.send(
            meta(ONE), profile(now, Identity="u1"), launch(now), token("register", "t1:fcm-registration-token", now)
        )[0]
        == 200
    )
    app.send(meta(TWO, IOS), profile(now, Identity="u1"), token("register", "ab" * 32, now, "apns"), query="os=iOS")
    assert app.matches({"event_name": "App Launched", "from": "today", "to": "today"}) == 1
    technographics = [{"name": "Device", "value": "Mobile"}, {"name": "Platform", "value": "Android"}]
    common = {"technographics": technographics, "app_fields": [{"name": "App Version", "value": "1.0"}]}
    assert app.matches({"common_profile_properties": common | {"geo_fields": [["India"], ["United States"]]}}) == 1

    campaign = sending.create(content={"title": "Hi", "body": "there"})
    assert sending.result(campaign)["sent"] == 2
    data = sandbox.messages("fcm")[0]["body"]["message"]["data"]
    iphone = sandbox.messages("apns")[0]["body"]
    shown = {"wzrk_acct_id": app.made.sdk_id, "wzrk_pn": "true", "wzrk_rnv": "true", "wzrk_dd": "true"}
    assert data.items() >= shown.items()
    assert (iphone["wzrk_acct_id"], iphone["aps"]["mutable-content"]) == (app.made.sdk_id, 1)
    known = {key: value for key, value in data.items() if key.startswith("wzrk_")}
    for _ in range(2):
        status, answer, headers = app.send(
            meta(guid(9), rtl=[data["wzrk_pid"]], d_src="PI_WM"),
            {"evtName": "Notification Viewed", "evtData": known, "s": 0, "type": "event", "ep": now},
        )
        assert (status, answer) == (200, {"pushamp_notifs": {"list": [], "ack": True}})
        assert "x-wzrk-rd" not in headers
    clicked = {key: value for key, value in iphone.items() if key.startswith("wzrk_")} | {"wzrk_cts": now}
    app.send(meta(TWO, IOS), event("Notification Clicked", now, **clicked), query="os=iOS")
    result = sending.result(campaign)
    assert (result["viewed"], result["clicked"]) == (1, 1)
    assert app.matches({"event_name": "Notification Viewed", "from": "today", "to": "today"}) == 1


def test_a_view_of_somebody_elses_message(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """An id that is made up, or of another account's message, is nobody's view."""
    sending.upload(
        {"type": "profile", "identity": "u", "objectId": "d", "profileData": {}},
        {"type": "token", "objectId": "d", "tokenData": {"type": "fcm", "id": "t1:fcm-registration-token"}},
    )
    campaign = sending.create(content={"title": "Hi", "body": "there"})
    assert sending.result(campaign)["sent"] == 1
    push_id = sandbox.messages("fcm")[0]["body"]["message"]["data"]["wzrk_pid"]
    other, now = App(server, server.account()), int(time.time())
    before = other.count("push id")
    for wrong in (push_id, push_id[:-1] + "A", "", "x" * 10_000, 5, None):
        assert other.send(meta(ONE), event("Notification Viewed", now, wzrk_pid=wrong))[0] == 200
    assert other.count("push id") == before + 6
    assert sending.result(campaign)["viewed"] == 0


def test_an_app_opens_its_own_account_alone(app: App, server: Server) -> None:
    """A wrong id or token, in the headers or in the body, is answered as a right one, and stored nowhere."""
    now, other = int(time.time()), App(server, server.account())
    before = app.count("account")
    right = {"X-CleverTap-Account-ID": app.made.sdk_id, "X-CleverTap-Token": app.made.token}
    mine = meta(ONE) | {"id": app.made.sdk_id, "tk": app.made.token}
    wrong = [
        (mine, right | {"X-CleverTap-Token": other.made.token}),
        (mine, right | {"X-CleverTap-Token": ""}),
        (mine, right | {"X-CleverTap-Account-ID": other.made.sdk_id}),
        (mine, right | {"X-CleverTap-Account-ID": "TEST-none-such"}),
        (mine | {"id": other.made.sdk_id}, right),
        (mine | {"tk": other.made.token}, right),
    ]
    for start, headers in wrong:
        assert app.send_raw(encode(start, event("Viewed", now)), headers)[:2] == (200, {})
    assert app.count("account") == before + len(wrong)
    for one in (app, other):
        assert one.matches({"event_name": "Viewed", "from": "today", "to": "today"}) == 0


HUGE = {"type": "event", "evtName": "Viewed", "evtData": {"a": "x" * 1_200_000}, "ep": 1_790_000_000}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "unreadable"),
        (b"{}", "unreadable"),
        (b"[]", "unreadable"),
        (b"[1,2]", "unreadable"),
        (encode(meta(ONE))[:-20], "unreadable"),
        (encode(meta("not a guid", {})), "unreadable"),
        (encode(meta(ONE), HUGE), "too large"),
        (b"[" * 1_000_000, "unreadable"),
        (b"[" + b"{}," * 300_000 + b"{}]", "unreadable"),
    ],
    ids=["nothing", "object", "empty", "numbers", "cut", "guid", "large", "deep", "many"],
)
def test_bad_bodies(app: App, body: bytes, reason: str) -> None:
    """What would come again unchanged is answered 200, and counted."""
    before = app.count(reason)
    assert app.send_raw(body)[:2] == (200, {})
    assert app.count(reason) == before + 1


def test_what_changes_nothing_leaves_a_line(server: Server) -> None:
    """With its reason, and without what it said: no token, id or name. What an SDK asks leaves none."""
    app, now, marker = App(server, server.account()), int(time.time()), f"m{os.urandom(8).hex()}"
    said: dict[str, dict[str, Any]] = {
        "clock": event("Seen", now + 20 * 365 * 86_400, Note=marker),
        "forbidden": event("Notification Sent", now, Note=marker),
        "unreadable": {"type": marker},
        "token": token("register", marker, now, marker),
        "record": event(marker * 1000, now),
        "forged": event("Notification Clicked", now, wzrk_pid=marker),
        "internal": {"type": "ping", "ep": now, "mc": marker},
    }
    for one in said.values():
        assert app.send(meta(ONE), one)[:2] == (200, {})
    assert app.send_raw(f'["{marker}'.encode())[:2] == (200, {})
    lines = [line for line in (server.data / "log").read_text().splitlines() if app.caller.account_id in line]
    told = {reason: [line for line in lines if f'"{reason}"' in line] for reason in said}
    assert [reason for reason, found in told.items() if not found] == ["internal"]
    secrets = (marker, ONE, app.made.token)
    assert not [line for line in lines for secret in secrets if secret in line]


def test_a_packed_bomb(app: App) -> None:
    """Bodies unfold up to their limit; the SDKs pack none."""
    before = app.count("too large")
    packed = gzip.compress(b" " * 50_000_000)
    assert app.send_raw(packed, {"Content-Encoding": "gzip"})[:2] == (200, {})
    assert app.count("too large") == before + 1


def seal(text: bytes) -> tuple[bytes, bytes]:
    """A body as an SDK encrypts it, and its key."""
    key, iv = os.urandom(32), os.urandom(12)
    parts = {"itp": AESGCM(key).encrypt(iv, text, None), "itk": key, "itv": iv}
    return json.dumps({name: base64.b64encode(part).decode() for name, part in parts.items()}).encode(), key


def test_encryption_in_transit(app: App) -> None:
    """What is encrypted as the SDKs do it is read and answered so; anything else is 402, and comes in clear text."""
    now, asked = int(time.time()), {"X-CleverTap-Encryption-Enabled": "true"}
    mine = meta(ONE) | {"id": app.made.sdk_id, "tk": app.made.token}
    body, key = seal(encode(mine, event("Sealed", now)))
    status, answer, headers = app.send_raw(body, asked)
    assert (status, headers["x-clevertap-encryption-enabled"]) == (200, "true")
    text, iv = (base64.b64decode(answer[name]) for name in ("itp", "itv"))
    assert AESGCM(key).decrypt(iv, text, None) == b"{}"
    assert app.matches({"event_name": "Sealed", "from": "today", "to": "today"}) == 1
    for wrong in (b"{}", b"[]", body[:-9] + b'AAAAAAA"}', b'{"itp":"","itk":"","itv":""}', b'{"itp":1}'):
        assert app.send_raw(wrong, asked)[0] == 402


def test_what_an_iphone_needs_to_report_views(app: App) -> None:
    """Without a second domain it is told the first; one that has both, and an Android, is told nothing."""
    domain = "x-wzrk-spiky-rd"
    assert app.send(meta(ONE, IOS), query="os=iOS")[2][domain] == "t.example"
    assert domain not in app.send(meta(ONE, IOS | {"spikyProxyDomain": "t.example"}), query="os=iOS")[2]
    assert domain not in app.send(meta(ONE, IOS | {"proxyDomain": "a\r\nb: c"}), query="os=iOS")[2]
    assert domain not in app.send(meta(ONE))[2]


def test_hello_and_the_inbox(server: Server) -> None:
    """An SDK is told to report where it asked; there is no inbox."""
    nobody = Caller(server.port)
    status, _, headers = nobody.call("GET", "/hello?os=Android&t=80200&z=TEST", headers={"Host": "t.example"})
    assert (status, headers["x-wzrk-rd"], headers["x-wzrk-spiky-rd"]) == (200, "t.example", "t.example")
    asked = {"Host": "10.0.0.1", "X-CleverTap-Handshake-Domain": "h.example:8443"}
    assert nobody.call("GET", "/hello", headers=asked)[2]["x-wzrk-rd"] == "h.example:8443"
    assert "x-wzrk-rd" not in nobody.call("GET", "/hello", headers={"Host": "<script>"})[2]
    for action in ("getMessages", "deleteMessages"):
        assert nobody.post(f"/inbox/v2/{action}", {})[0] == 403


def test_rates() -> None:
    """An account's apps and each device have their own; what is quiet gets its room back."""
    rates = AppRates(per_second=3, per_minute=2)
    for _ in range(3):
        rates.admit("a", 100.0)
    with pytest.raises(Problem, match="later") as caught:
        rates.admit("a", 100.0)
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    rates.admit("b", 100.0)
    rates.admit("a", 100.4)
    rates.admit("a", 100.5, own=100)
    for _ in range(2):
        rates.admit_device("a", "d", 100.0)
    with pytest.raises(Problem, match="later"):
        rates.admit_device("a", "d", 101.0)
    rates.admit_device("a", "e", 101.0)
    rates.admit_device("b", "d", 101.0)
    rates.admit_device("a", "d", 131.0)


def test_an_account_has_its_own_rate(server: Server) -> None:
    """Beyond it an SDK is told to come again, and another account's app is not."""
    slow = App(server, server.account(), app_requests_per_second=0.001)
    assert slow.send(meta(ONE))[0] == 429
    assert App(server, server.account()).send(meta(ONE))[0] == 200


def test_a_device_is_not_believed(server: Server) -> None:
    """The default: a server's word makes a device somebody's, and not the device's own."""
    app, now = App(server, server.account(), trust=False), int(time.time())
    app.caller.upload({"type": "profile", "identity": "ann", "profileData": {"Name": "Ann"}})
    app.send(meta(ONE), profile(now, Identity="ann", Name="Mallory"), token("register", "t", now))
    push = {"common_profile_properties": {"reachability": [{"name": "has_token", "value": "True"}]}}
    ann = {"common_profile_properties": {"profile_fields": [{"name": "Name", "value": "Ann"}]}}
    assert app.matches(push) == app.matches(ann) == 1
    assert app.matches({"and": [push, ann]}) == 0
    app.caller.upload({"type": "profile", "identity": "ann", "objectId": ONE, "profileData": {}})
    assert app.matches({"and": [push, ann]}) == 1


def test_commands(tmp_path: Path) -> None:
    """Apps are made, listed and removed; all of an account have one id, which no other account may have."""

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(tocsin, [*arguments, "--data", str(tmp_path)], standalone_mode=False)
        if done.exception is not None:
            return str(done.exception)
        return [json.loads(line) for line in done.output.splitlines()]

    one = run("account", "create", "one")[0]["account_id"]
    two = run("account", "create", "two")[0]["account_id"]
    (made,) = run("app", "create", "shop", "--account", one, "--id", "TEST-000-000Z", "--token", "TEST-aaa-bbb")
    assert made["sdk_id"] == "TEST-000-000Z"
    assert made["identities"] == "confirm"
    (web,) = run("app", "create", "site", "--account", one, "--platform", "web")
    assert (web["sdk_id"], web["platforms"]) == ("TEST-000-000Z", "web")
    assert {found["name"] for found in run("app", "list", "--account", one)} == {"shop", "site"}
    for wrong in (
        ("create", "shop", "--account", one),
        ("create", "more", "--account", one, "--id", "TEST-111-1111"),
        ("create", "more", "--account", one, "--token", "TEST-aaa-bbb"),
        ("create", "more", "--account", two, "--id", "TEST-000-000Z"),
        ("create", "more", "--account", two, "--id", one),
        ("create", "more", "--account", two, "--id", "a b"),
        ("create", "", "--account", two),
        ("remove", "none", "--account", one),
        ("list", "--account", "none"),
    ):
        assert isinstance(run("app", *wrong), str), wrong
    assert run("app", "remove", "shop", "--account", one) == [{"account_id": one, "removed": "shop"}]
    assert [found["name"] for found in run("app", "list", "--account", one)] == ["site"]


def test_reasons_are_documented() -> None:
    """docs/apps.md has a row for every word of the metric, in its order."""
    page = (Path(__file__).parent.parent / "docs" / "apps.md").read_text().partition("## What is dropped")[2]
    assert re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) == ["stored", *get_args(Dropped)]


def test_check(app: App, server: Server) -> None:
    """An operator sees whether an app would work, and what is wrong where it would not."""

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        given = ("app", "check", "shop", "--account", app.caller.account_id, "--data", str(server.data), *arguments)
        done = CliRunner().invoke(tocsin, given)
        return done.exit_code, json.loads(done.output)

    code, seen = run()
    assert (code, seen["wrong"], seen["batch"]["status"], seen["web"]["status"]) == (0, [], 200, 204)
    assert app.matches({"event_name": "App Launched", "from": "today", "to": "today"}) >= 1
    code, seen = run("--url", "http://127.0.0.1:9")
    assert (code, len(seen["wrong"])) == (1, 1)


def web(app: App, kind: str, payload: dict[str, Any], **more: Any) -> tuple[int, Any, Mapping[str, str]]:
    """What the Web SDK sends, and the script that comes back."""
    from urllib.parse import urlencode

    headers = more.pop("headers", {})
    whole = {"id": app.made.sdk_id, "pg": 1, "af": {"lib": "web-sdk-v2.7.4", "protocol": "https"}} | payload
    query = {"t": 96, "type": kind, "d": pack(json.dumps(whole)), "i": int(time.time()), "sn": 0} | more
    status, script, got = app.nobody.call("GET", f"/a?{urlencode(query)}", headers=headers)
    return status, script.decode() if isinstance(script, bytes) else script, got


def read_script(script: str) -> list[Any]:
    """The arguments of the call that an answer is."""
    start = "$WZRK_WR.s("
    assert script.startswith(start), script
    found: list[Any] = json.loads(f"[{script.removeprefix(start).removesuffix(');')}]")
    return found


def test_a_browser(app: App) -> None:
    """It hears its GUID at once, keeps it through a log-in, and gets a new one when somebody else logs in."""
    status, script, headers = web(app, "page", {}, rn=1)
    first, session, resume, number = read_script(script)
    assert (status, resume, number, len(first)) == (200, False, 1, 32)
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    mine = {"g": first, "s": session}
    login = {"type": "profile", "profile": {"Identity": "u1", "tz": "GMT+0530", "Kind": "$E_gold"}}
    assert read_script(web(app, "push", mine | login, rn=2, gc=first)[1]) == [first, session, False, 2]
    bought = {"type": "event", "evtName": "Bought", "evtData": {"Text": "é☃😀"}}
    for _ in range(2):
        web(app, "push", mine | bought, rn=3, i=int(time.time()) // 100 * 100, gc=first)
    other = {"type": "profile", "profile": {"Identity": "u2"}, "isOUL": True, "rc": True, "s": session}
    second, _, resume, _ = read_script(web(app, "push", other, rn=4)[1])
    assert (resume, second != first) == (True, True)
    days = {"from": "today", "to": "today"}
    india = {"common_profile_properties": {"profile_fields": [{"name": "Tz", "value": "+05:30"}]}}
    gold = {"common_profile_properties": {"profile_fields": [{"name": "Kind", "value": "gold"}]}}
    text = [{"name": "Text", "value": "é☃😀"}]
    once = {"event_name": "Bought", **days, "event_properties": text, "operator": "equals", "value": 1}
    assert app.matches({"and": [india, gold, once, {"event_name": "App Launched", **days}]}) == 1
    assert app.matches({"common_profile_properties": {"profile_fields": [{"name": "Identity", "value": "u2"}]}}) == 1


def test_a_browsers_subscription(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """The endpoint is put together again; taken back, it is no longer written to."""
    app = App(server, sending)
    keys = {"p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcx", "auth": "BTBZMqHH6r4Tts7J_aSIgg"}
    webpush = {"common_profile_properties": {"profile_fields": [{"name": "Identity", "value": "u"}]}}
    body = {"name": "n", "where": webpush, "target_mode": "webpush", "estimate_only": True, "when": "now"}
    body |= {"content": {"title": "t", "body": "b"}}

    def estimate() -> Any:
        return sending.post("/1/targets/create.json", body)[1].get("estimates")

    web(app, "push", {"g": ONE, "type": "profile", "profile": {"Identity": "u"}}, rn=1, gc=ONE)
    subscribed = {"g": ONE, "endpoint": "abc:APA91", "expirationTime": None, "keys": keys, "browser": "Chrome"}
    assert web(app, "data", subscribed)[:2] == (200, "")
    assert estimate() == {"chrome": 1}
    assert web(app, "data", {"g": ONE, "type": "data", "action": "unregister"})[:2] == (200, "")
    assert estimate() == {"chrome": 0}


def test_fetch_mode_and_opting_out(app: App) -> None:
    """A page that fetches is answered in JSON, and may read it; who opts out hears it in their GUID."""
    status, _, headers = app.nobody.call("OPTIONS", "/a")
    assert (status, headers["access-control-allow-origin"]) == (204, "*")
    assert headers["access-control-allow-headers"] == "X-CleverTap-Encryption-Enabled"
    asked = {"Accept": "application/json", "X-CleverTap-Encryption-Enabled": "true"}
    status, answer, headers = web(app, "page", {}, rn=7, headers=asked)
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert {*answer} == {"tr", "meta"}
    assert answer["meta"]["rn"] == 7
    gone = {"g": ONE, "s": 5, "type": "profile", "profile": {"ct_optout": True}}
    script = web(app, "push", gone, rn=2, gc=ONE, optOut="true")[1]
    assert read_script(script) == [f"{ONE}:OO", 5, False, 2, True]
    back = {"g": f"{ONE}:OO", "s": 5, "type": "profile", "profile": {"ct_optout": False}}
    assert read_script(web(app, "push", back, rn=3, optOut="false")[1]) == [ONE, 5, False, 3, False]


def test_bad_web_requests(app: App, server: Server) -> None:
    """What is not packed as the SDK does it says nothing, and a bomb unfolds no further than its limit."""
    before = app.count("unreadable")
    bomb = pack("a" * 300_000)
    assert len(bomb) < 4000
    for packed in ("", "x", "====", "N4XyAA", bomb, pack("[]"), pack('"x"'), pack("{"), "AAAA" * 10_000):
        status, script, _ = app.nobody.call("GET", f"/a?t=96&type=push&rn=1&d={packed.replace('+', '%2B')}")
        assert (status, script) == (200, b"")
    assert app.count("unreadable") == before + 9
    unknown = app.count("account")
    script = web(app, "page", {"id": "TEST-none-such"}, rn=1)[1]
    assert len(read_script(script)[0]) == 32
    assert app.count("account") == unknown + 1
    marked = web(app, "push", {"g": "<x>", "type": "event", "evtName": "e"}, rn=1)[1]
    assert "<" not in marked
