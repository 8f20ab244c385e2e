"""Text messages and web push: who gets what, signed how, what each answer becomes, and who has left."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid
from typing import Any

import msgspec
import pytest
from conftest import Caller, Sandbox, Server, wait_for

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Address, Notice, Push, Receipt, Scope
from tocsin.providers.transport import Transport
from tocsin.providers.webhook import WebhookSettings, encode, read_secret, sign

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
SEND = {"sms": "/1/send/sms.json", "webpush": "/1/send/webpush.json", "email": "/1/send/email.json"}
CONTENT: dict[str, dict[str, Any]] = {
    "sms": {"body": "Hi {{ Profile.Name }}"},
    "webpush": {
        "title": "Hi {{ Profile.Name }}",
        "body": "there",
        "platform_specific": {"chrome": {"deep_link": "https://x.example/{{ Profile.Name }}", "ttl": 10}},
    },
    "email": {"subject": "Hi", "body": "<p>there</p>"},
}
KEYS = {"p256dh": "BPublic", "auth": "secret"}


def person(name: str, phone: str = "+491701234567", **data: Any) -> list[dict[str, Any]]:
    """A user with a number, an address and a browser."""
    profile = {"Name": name, "Phone": phone, "Email": f"{name}@example.com"} | data
    browser = {"id": f"https://push.example/{name}", "type": "chrome", "keys": KEYS}
    return [
        {"type": "profile", "identity": name, "objectId": f"browser-{name}", "profileData": profile},
        {"type": "token", "objectId": f"browser-{name}", "tokenData": browser},
    ]


def group(caller: Caller, tag: str = "t") -> dict[str, int]:
    """A tag group's numbers once all add up."""

    def ask() -> dict[str, int] | None:
        found = caller.get("/1/tag_groups.json")[1]["tag_groups"].get(tag)
        if not found or found["audience"] == 0:
            return None
        final = found["sent"] + found["unknown"] + found["failed"] + found["suppressed"]
        return found if final == found["audience"] else None

    return wait_for(ask)


@pytest.mark.parametrize("channel", ["sms", "webpush"])
def test_by_identity(hooked: Caller, sandbox: Sandbox, channel: str) -> None:
    hooked.upload(*person("ann"))
    body = {"to": {"Identity": ["ann", "nobody"]}, "content": CONTENT[channel], "tag_group": "t"}
    assert hooked.post(SEND[channel], body)[0] == 200
    found = group(hooked)
    assert (found["sent"], found["suppressed"]) == (1, 1)
    [message] = sandbox.messages("webhook")
    data = message["body"]["data"]
    if channel == "sms":
        assert (data["to"], data["content"]) == ("+491701234567", {"body": "Hi ann"})
    else:
        assert data["to"] == {"endpoint": "https://push.example/ann", "keys": KEYS}
        chrome = {"deep_link": "https://x.example/ann", "ttl": 10}
        assert data["content"] == {"title": "Hi ann", "body": "there", "platform_specific": {"chrome": chrome}}
    assert message["headers"]["webhook-id"] == data["id"]


@pytest.mark.parametrize(("channel", "key"), [("sms", "web"), ("webpush", "chrome"), ("email", "web")])
def test_by_audience(hooked: Caller, channel: str, key: str) -> None:
    """The estimate is what is sent: who has no number, no browser, or does not want it is not in it."""
    hooked.upload(*person("ann"), *person("bob", phone="+491701234568"))
    hooked.upload({"type": "profile", "identity": "carl", "profileData": {"Name": "no number"}})
    no = {"sms": {"MSG-sms": False}, "webpush": {"MSG-push-all": False}, "email": {"MSG-email": False}}[channel]
    hooked.upload({"type": "profile", "identity": "bob", "profileData": no})
    fields = {"target_mode": channel, "content": CONTENT[channel], "name": "n", "where": {}, "when": "now"}
    status, answer = hooked.post("/1/targets/create.json", fields)
    assert (status, answer["estimates"]) == (200, {key: 1})
    result = hooked.result(answer["id"])
    assert (result["audience"], result["sent"], result["suppressed"]) == (2, 1, 1)


@pytest.mark.parametrize("channel", ["sms", "webpush"])
def test_without_a_provider_it_is_refused_by_name(caller: Caller, channel: str) -> None:
    body = {"to": {"Identity": ["ann"]}, "content": CONTENT[channel]}
    status, answer = caller.post(SEND[channel], body)
    assert (status, answer["code"]) == (400, 400)
    assert f"No {channel} provider" in answer["error"]
    fields = {"target_mode": channel, "content": CONTENT[channel], "name": "n", "where": {}, "when": "now"}
    status, answer = caller.post("/1/targets/create.json", fields)
    assert status == 400
    assert f"No {channel} provider" in answer["error"]


@pytest.mark.parametrize(
    ("channel", "content", "words"),
    [
        ("sms", {}, "Field body is empty"),
        ("sms", {"body": "x" * 20_000}, "at most 16384"),
        ("sms", {"body": "{{ x"}, "Invalid syntax for body"),
        ("webpush", {"body": "b"}, "Field title is empty"),
        ("webpush", {"title": "t", "body": "b", "platform_specific": {"netscape": {}}}, "netscape"),
        ("webpush", {"title": "t", "body": "b", "platform_specific": {"chrome": 7}}, "chrome"),
    ],
)
def test_wrong_content(sending: Caller, channel: str, content: dict[str, Any], words: str) -> None:
    status, answer = sending.post(SEND[channel], {"to": {"Identity": ["ann"]}, "content": content})
    assert status == 400
    assert words in answer["error"]


# What the receiver answers, and what must come of it: for text messages, then for browsers where that differs.
ANSWERS: list[tuple[dict[str, Any], tuple[Outcome, Scope], tuple[Outcome, Scope] | None]] = [
    ({"status": 400}, (Outcome.REFUSED, Scope.MESSAGE), None),
    ({"status": 413}, (Outcome.REFUSED, Scope.MESSAGE), None),
    ({"status": 422}, (Outcome.REFUSED, Scope.MESSAGE), None),
    ({"status": 401}, (Outcome.DENIED, Scope.LANE), None),
    ({"status": 403}, (Outcome.DENIED, Scope.LANE), None),
    ({"status": 404}, (Outcome.DENIED, Scope.LANE), (Outcome.GONE, Scope.MESSAGE)),
    ({"status": 410}, (Outcome.DENIED, Scope.LANE), (Outcome.GONE, Scope.MESSAGE)),
    ({"status": 429, "retry_after": 7}, (Outcome.THROTTLED, Scope.LANE), None),
    ({"status": 429}, (Outcome.THROTTLED, Scope.LANE), None),
    ({"status": 500}, (Outcome.UNAVAILABLE, Scope.MESSAGE), None),
    ({"status": 503, "retry_after": 3}, (Outcome.UNAVAILABLE, Scope.MESSAGE), None),
    ({"status": 302}, (Outcome.DENIED, Scope.LANE), None),
    ({"status": 418}, (Outcome.REFUSED, Scope.MESSAGE), None),
    ({"kind": "cut"}, (Outcome.UNKNOWN, Scope.MESSAGE), None),
    ({"kind": "half"}, (Outcome.UNKNOWN, Scope.MESSAGE), None),
]


@pytest.mark.parametrize("channel", ["sms", "webpush"])
@pytest.mark.parametrize(("fault", "text", "browser"), ANSWERS, ids=str)
async def test_every_answer_has_its_outcome(
    sandbox: Sandbox,
    channel: str,
    fault: dict[str, Any],
    text: tuple[Outcome, Scope],
    browser: tuple[Outcome, Scope] | None,
) -> None:
    sandbox.fault(**{"vendor": "webhook", "kind": "status", "count": 1} | fault)
    found = await hand_over(sandbox, channel)
    assert (found.outcome, found.scope) == (browser if channel == "webpush" and browser else text)
    assert found.code
    if "retry_after" in fault:
        assert found.retry_after == fault["retry_after"]
    elif fault.get("status") == 429:
        assert found.retry_after == 60
    assert (await hand_over(sandbox, channel)).outcome is Outcome.ACCEPTED


async def hand_over(sandbox: Sandbox, channel: str, **fields: Any) -> Receipt:
    given = sandbox.control.get("/credentials")[1]
    options = {"url": given["webhook"][channel], "secret": given["webhook"]["secret"], "ca": given["ca"]}
    async with Transport() as transport:
        provider = BY_NAME[channel](WebhookSettings(**options | fields), transport)
        return await provider.send(notice(channel), time.time())


def notice(channel: str) -> Notice:
    value = "+491701234567" if channel == "sms" else "https://push.example/a"
    return Notice(
        id=str(uuid.uuid4()),
        campaign="1_20261124",
        collapse="tocsin-1",
        push_id="p",
        address=Address("sms" if channel == "sms" else "webpush", value),
        content={"body": "b"},
        expires_at=int(time.time()) + 60,
    )


async def test_a_wrong_secret_stops_the_lane(sandbox: Sandbox) -> None:
    found = await hand_over(sandbox, "sms", secret=SECRET)
    assert (found.outcome, found.scope) == (Outcome.DENIED, Scope.LANE)


async def test_nobody_listens(sandbox: Sandbox) -> None:
    found = await hand_over(sandbox, "sms", url="https://127.0.0.1:1/sms")
    assert (found.outcome, found.scope) == (Outcome.UNAVAILABLE, Scope.LANE)


async def test_a_form_s_receiver_is_in_no_private_network(sandbox: Sandbox) -> None:
    """An account's admin may not post into the operator's network, whatever a name leads to when it is connected to."""
    found = await hand_over(sandbox, "sms", network="public")
    assert (found.outcome, "127.0.0.1 is an address that is not posted to" in found.detail) == (
        Outcome.UNAVAILABLE,
        True,
    )
    assert sandbox.messages("webhook") == []


async def test_a_message_of_another_kind_is_refused() -> None:
    async with Transport() as transport:
        provider = BY_NAME["sms"](WebhookSettings(url="http://127.0.0.1:1/", secret=SECRET), transport)
        push = Push(id="i", collapse="c", address=Address("fcm", "x"), title="t", body="b", expires_at=1)
        assert (await provider.send(push, 0.0)).outcome is Outcome.REFUSED
        assert (await provider.send(notice("webpush"), 0.0)).outcome is Outcome.REFUSED


def test_the_signature_is_that_of_the_specification() -> None:
    """Over «id.timestamp.body», as any verifier computes it."""
    body = encode(notice("sms"), 1_790_000_000.0)
    key = read_secret(SECRET)
    wanted = hmac.new(key, b"msg_1.1790000000." + body, hashlib.sha256).digest()
    assert sign(key, "msg_1", 1_790_000_000, body) == "v1," + base64.b64encode(wanted).decode()
    told = msgspec.json.decode(body)
    assert (told["type"], told["timestamp"]) == ("message.sms", "2026-09-21T14:13:20Z")


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://gateway.example.com/", "secret": SECRET},
        {"url": "https://gateway.example.com/", "secret": "short"},
        {"url": "https://gateway.example.com/", "secret": "whsec_" + base64.b64encode(b"k" * 10).decode()},
        {"url": "ftp://x", "secret": SECRET},
    ],
    ids=str,
)
def test_settings_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        BY_NAME["sms"](WebhookSettings(**options), Transport())
    assert SECRET not in repr(WebhookSettings(url="https://x.example", secret=SECRET))


@pytest.mark.parametrize(
    "keys", [{"p256dh": "x"}, "text", {"p256dh": 1, "auth": 2}, {"p256dh": "x" * 2048, "auth": "y"}], ids=str
)
def test_a_browser_needs_both_keys(caller: Caller, keys: Any) -> None:
    record = {
        "type": "token",
        "objectId": "b",
        "tokenData": {"id": "https://push.example/x", "type": "chrome", "keys": keys},
    }
    answer = caller.post("/1/upload", {"d": [record]})[1]
    assert (answer["status"], answer["unprocessed"][0]["code"]) == ("fail", 535)


def test_a_dead_browser_is_forgotten(hooked: Caller) -> None:
    """410: its subscription is over, and the next campaign does not try."""
    records = person("expired")
    hooked.upload(*records)
    for tag, expected in (("one", "failed"), ("two", "suppressed")):
        body = {"to": {"Identity": ["expired"]}, "content": CONTENT["webpush"], "tag_group": tag}
        assert hooked.post(SEND["webpush"], body)[0] == 200
        assert group(hooked, tag)[expected] == 1


def test_an_address_that_left_gets_nothing_whoever_has_it(sending: Caller) -> None:
    """Two profiles share a number, and a third takes it afterwards; who subscribes again gets messages again."""
    sending.upload(*person("ann"), *person("bob"))
    leave = {"d": [{"type": "phone", "value": "+49 170 1234567", "status": "Unsubscribe"}]}
    assert sending.post("/1/subscribe", leave) == (200, {"status": "success", "processed": 1, "unprocessed": []})
    sending.upload(*person("late"))
    body = {"to": {"Identity": ["ann", "bob", "late"]}, "content": CONTENT["sms"]}
    assert sending.post(SEND["sms"], body | {"tag_group": "one"})[0] == 200
    assert group(sending, "one")["suppressed"] == 3
    fields: dict[str, Any] = {"target_mode": "sms", "content": CONTENT["sms"], "name": "n", "where": {}, "when": "now"}
    estimate = sending.post("/1/targets/create.json", fields | {"estimate_only": True})[1]["estimates"]
    assert estimate == {"web": 0}
    asked = {"event_name": "Channel Unsubscribed", "from": 20200101, "to": 20991231}
    mail = {"where": asked, "estimate_only": True, "target_mode": "email", "content": CONTENT["email"]}
    assert sending.post("/1/targets/create.json", fields | mail)[1]["estimates"] == {"web": 2}
    back = {"d": [{"type": "phone", "value": "+491701234567", "status": "Resubscribe"}]}
    assert sending.post("/1/subscribe", back)[1]["processed"] == 1
    assert sending.post(SEND["sms"], body | {"tag_group": "two"})[0] == 200
    assert group(sending, "two")["sent"] == 3


def test_a_mailbox_that_left(sending: Caller) -> None:
    sending.upload(*person("ann"))
    leave = {"d": [{"type": "email", "value": "ANN@example.com", "status": "unsubscribe"}]}
    assert sending.post("/1/subscribe", leave)[1]["processed"] == 1
    body = {"to": {"Identity": ["ann"]}, "content": CONTENT["email"], "tag_group": "t"}
    assert sending.post(SEND["email"], body)[0] == 200
    assert group(sending)["suppressed"] == 1


@pytest.mark.parametrize(("kind", "channel"), [("SMS", "sms"), ("Email", "email")])
def test_an_event_that_says_so(sending: Caller, kind: str, channel: str) -> None:
    """«Channel Unsubscribed» that is uploaded takes the user's own address off."""
    sending.upload(*person("ann"))
    left = {"type": "event", "identity": "ann", "evtName": "Channel Unsubscribed", "evtData": {"Campaign Type": kind}}
    sending.upload(left)
    body = {"to": {"Identity": ["ann"]}, "content": CONTENT[channel], "tag_group": "t"}
    assert sending.post(SEND[channel], body)[0] == 200
    assert group(sending)["suppressed"] == 1


def test_wrong_subscriptions(caller: Caller) -> None:
    records = [
        {"type": "fax", "value": "+491701234567", "status": "Unsubscribe"},
        {"type": "phone", "value": "12", "status": "Unsubscribe"},
        {"type": "email", "value": "a@example.com", "status": "maybe"},
        7,
        {"type": "email", "value": "a@example.com", "status": "Unsubscribe"},
    ]
    status, answer = caller.post("/1/subscribe", {"d": records})
    assert (status, answer["status"], answer["processed"]) == (200, "partial", 1)
    assert [one["record"] for one in answer["unprocessed"]] == records[:4]
    assert caller.post("/1/subscribe", {"d": records[:1]})[1]["status"] == "fail"
    assert caller.post("/1/subscribe", {"d": "x"})[0] == 400
    assert caller.post("/1/subscribe", {"d": [records[4]] * 1001})[0] == 400
    assert Caller(caller.port).post("/1/subscribe", {"d": []})[0] == 401


def test_consent_is_asked_when_it_is_sent(server: Server, caller: Caller, sandbox: Sandbox) -> None:
    """A choice made after the audience was frozen, while the vendor was away, still counts."""
    server.use_sandbox(caller, sandbox)
    caller.upload(*person("ann"))
    sandbox.fault(vendor="webhook", kind="status", status=503, retry_after=1, count=3)
    fields = {"target_mode": "sms", "content": CONTENT["sms"], "name": "n", "where": {}, "when": "now"}
    made = caller.post("/1/targets/create.json", fields)[1]["id"]
    wait_for(lambda: sandbox.counts()["webhook"]["refused"] >= 1)
    assert (
        caller.post("/1/subscribe", {"d": [{"type": "phone", "value": "+491701234567", "status": "Unsubscribe"}]})[0]
        == 200
    )
    result = caller.result(made)
    assert (result["sent"], result["suppressed"]) == (0, 1)
    assert sandbox.messages("webhook") == []
