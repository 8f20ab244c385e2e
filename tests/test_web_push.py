"""Web push: the RFCs' own examples, what a browser reads of what we send, and what each answer becomes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from click.testing import CliRunner
from conftest import SERVER_KEY, Caller, Sandbox, Server, wait_for
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, send
from support.processes import children

from tocsin.cli import tocsin
from tocsin.outcome import Outcome
from tocsin.providers import aes128gcm, vapid_key
from tocsin.providers.contract import Address, Notice, Receipt, Scope
from tocsin.providers.credential import find_web_push_keys
from tocsin.providers.encryption import encrypt, read_keys
from tocsin.providers.outage import Outages
from tocsin.providers.payload import UnsendableError
from tocsin.providers.vapid import Vapid, VapidSettings, complete
from tocsin.providers.vapid_key import VapidSigner, decode_base64url, describe_key, make_key, read_key
from tocsin.providers.web_push import PUSH_HOSTS, find_browser, make_payload, make_topic, read_subscription, read_ttl
from tocsin.sandbox.web_push_key import Keys, decrypt, unseal
from tocsin.store.ledger import open_ledger

pytest_plugins = ("support.bench",)

NOW = 1_790_000_000.0
SUBJECT = "mailto:ops@example.com"

# RFC 8291, appendix A.
RFC_SENDER = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
RFC_BROWSER = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
RFC_POINT = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
RFC_AUTH, RFC_SALT = "BTBZMqHH6r4Tts7J_aSIgg", "DGv6ra1nlYgDCS1FRnbzlw"
RFC_TEXT = b"When I grow up, I want to be a watermelon"
RFC_BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A"
    "_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)
# RFC 8188, 3.1.
WALRUS_SECRET = "yqdlZ-tYemfogSmv7Ws5PQ"
WALRUS_BODY = "I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg"


def browser_keys(number: int = 0) -> Keys:
    """A browser's own half of a subscription."""
    private = ec.derive_private_key(number or int.from_bytes(decode_base64url(RFC_BROWSER), "big"), ec.SECP256R1())
    return Keys(private, aes128gcm.encode_point(private.public_key()), decode_base64url(RFC_AUTH))


def notice(title: str = "Hi", body: str = "there", track_url: str = "", **block: Any) -> Notice:
    """A web push with one block."""
    return Notice(
        id="i",
        campaign="1_20260101",
        collapse="tocsin-1",
        push_id="p" * 27,
        address=Address("webpush", ""),
        content={"title": title, "body": body, "platform_specific": {"chrome": block}},
        expires_at=int(NOW) + 600,
        track_url=track_url,
    )


def test_example_of_rfc_8291() -> None:
    """Appendix A, byte for byte, and back."""
    key = read_key("key", RFC_SENDER)
    point, auth, salt = map(decode_base64url, (RFC_POINT, RFC_AUTH, RFC_SALT))
    body = aes128gcm.encrypt(RFC_TEXT, point, auth, key, salt)
    assert vapid_key.encode_base64url(body) == RFC_BODY
    assert decrypt(body, browser_keys()) == RFC_TEXT
    assert browser_keys().point == point


def test_example_of_rfc_8188() -> None:
    """3.1, a record without a name of its key, byte for byte, and back."""
    secret, body = decode_base64url(WALRUS_SECRET), decode_base64url(WALRUS_BODY)
    assert unseal(body, secret) == b"I am the walrus"
    assert aes128gcm.seal(b"I am the walrus", secret, body[:16], b"") == body


@given(st.binary(max_size=aes128gcm.ROOM), st.integers(1, 2**250))
def test_a_browser_reads_what_was_written(text: bytes, number: int) -> None:
    """Any text that has room, for any browser; twice the same is never the same on the wire."""
    keys = browser_keys(number)
    first, second = (aes128gcm.encrypt(text, keys.point, keys.auth) for _ in range(2))
    assert decrypt(first, keys) == text == decrypt(second, keys)
    assert first[:16] != second[:16]
    assert first[21:86] != second[21:86]
    assert len(first) == len(text) + 103 <= 4096


def test_a_text_without_room_is_not_encrypted() -> None:
    with pytest.raises(ValueError, match="room for 3993"):
        aes128gcm.encrypt(b"x" * 3994, browser_keys().point, b"a" * 16)


@given(st.integers(0, 2**31), st.integers(0, 86_400))
def test_a_token_is_shared_and_good_for_long_enough(start: int, later: int) -> None:
    """RFC 8292: `exp` at most 24 hours ahead. A message never has less than six, and in between there is one token."""
    key = read_key("key", RFC_SENDER)
    signer = VapidSigner(key, SUBJECT)
    values = {now: signer.authorize("https://push.example", now) for now in (start, start + later)}
    for now, value in values.items():
        token, _, shown = value.removeprefix("vapid t=").partition(", k=")
        claims = jwt.decode(token, key.public_key(), ["ES256"], {"verify_exp": False, "verify_aud": False})
        assert (claims["aud"], claims["sub"], shown) == ("https://push.example", SUBJECT, describe_key(key))
        assert 6 * 3600 < claims["exp"] - now <= 12 * 3600
    assert values[start] == VapidSigner(key, SUBJECT).authorize("https://push.example", start)  # of another process
    assert (start // 21_600 == (start + later) // 21_600) == (len(set(values.values())) == 1)


def test_tokens_are_of_their_origin_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers may name many hosts: no more tokens are kept than ORIGINS."""
    monkeypatch.setattr(vapid_key, "ORIGINS", 3)
    signer = VapidSigner(read_key("key", make_key()), SUBJECT)
    made = [signer.authorize(f"https://{one}.notify.windows.com", NOW) for one in range(5)]
    assert len(set(made)) == 5
    assert len(signer._kept) == 3


def test_keys_are_read_as_others_write_them() -> None:
    """PEM, and the base64url of `web-push generate-vapid-keys`, are one key."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = read_key("key", RFC_SENDER)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert describe_key(read_key("key", pem)) == describe_key(key) == describe_key(read_key("key", RFC_SENDER + "="))
    assert len(decode_base64url(describe_key(read_key("key", make_key())))) == 65


GOOD = {"p256dh": RFC_POINT, "auth": RFC_AUTH}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/fcm/send/x:APA91",
        "https://FCM.googleapis.com:443/fcm/send/x",
        "https://jmt17.google.com/fcm/send/x:APA91",
        "https://updates.push.services.mozilla.com/wpush/v2/x",
        "https://web.push.apple.com/x",
        "https://wns2-par02p.notify.windows.com/w/?token=x",
    ],
)
def test_where_a_push_may_go(endpoint: str) -> None:
    """To the push services that are known; the origin is what their tokens are for."""
    found = read_subscription(json.dumps({"endpoint": endpoint, "keys": GOOD}), PUSH_HOSTS)
    assert found.origin == "https://" + endpoint.lower().partition("://")[2].partition("/")[0].removesuffix(":443")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://fcm.googleapis.com/x",
        "https://fcm.googleapis.com:8443/x",
        "https://fcm.googleapis.com",
        "https://fcm.googleapis.com@evil.example/x",
        "https://evil.example/fcm.googleapis.com/x",
        "https://evil.example\\.push.apple.com/x",
        "https://evil.example#.push.apple.com/x",
        "https://evil.example?.push.apple.com/x",
        "https://xnotify.windows.com/x",
        "https://notify.windows.com/x",
        "https://evilfcm.googleapis.com/x",
        "https://fcm.googleapis.com./x",
        "https://169.254.169.254/latest",
        "https://localhost/x",
        "https://[::1]/x",
        "https://web.push.apple.com/x\r\nX-Evil: 1",
        "https://web.push.apple.com/é",
        "",
    ],
)
def test_where_a_push_may_not_go(endpoint: str) -> None:
    """Nowhere else, by no other scheme or port, and however a URL is written."""
    with pytest.raises(UnsendableError) as caught:
        read_subscription(json.dumps({"endpoint": endpoint, "keys": GOOD}), PUSH_HOSTS)
    assert (caught.value.receipt.outcome, caught.value.receipt.code) == (Outcome.REFUSED, "endpoint not allowed")


@pytest.mark.parametrize("keys", [{}, GOOD | {"auth": "c2hvcnQ"}, GOOD | {"p256dh": "BPublic"}, GOOD | {"auth": 7}])
def test_keys_that_are_none_are_refused(keys: dict[str, Any]) -> None:
    value = json.dumps({"endpoint": "https://web.push.apple.com/x", "keys": keys})
    with pytest.raises(UnsendableError, match="without its keys"):
        read_subscription(value, PUSH_HOSTS)


LONG = st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(0, 800))


@given(LONG, LONG, st.integers(0, 3000))
def test_any_text_fits(title: str, body: str, room: int) -> None:
    """Whatever the texts are, the payload has room in a record, and nothing beside them is cut."""
    made = make_payload(notice(title, body), {"image": "i" * room, "own": 1})
    assert len(made) <= aes128gcm.ROOM
    told = json.loads(made)
    assert told["notificationOptions"].get("image", "") == "i" * room
    assert told["notificationOptions"]["data"] == {"own": 1, "wzrk_id": "1_20260101", "wzrk_pid": "p" * 27}
    assert told["notificationOptions"]["tag"] == "tocsin-1"
    shown = told["title"], told["notificationOptions"]["body"]
    for whole, part in zip((title, body), shown, strict=True):
        assert whole == part or (part.endswith("…") and whole.startswith(part[:-1]))


def test_payload_is_what_service_workers_read() -> None:
    """The form of CleverTap's service worker, with CleverTap's names of a block's keys."""
    block = {
        "icon": "https://x.example/i.png",
        "image": "https://x.example/b.png",
        "deep_link": "https://x.example/d",
        "require_interaction": "true",
        "ttl": 10,
        "urgency": "low",
        "cta_title1": "Buy",
        "cta_link1": "https://x.example/buy",
        "cta_iconlink1": "https://x.example/c.png",
        "cta_title2": "Later",
        "colour": "red",
    }
    assert json.loads(make_payload(notice(track_url="https://t.example/track"), block)) == {
        "title": "Hi",
        "notificationOptions": {
            "body": "there",
            "icon": "https://x.example/i.png",
            "image": "https://x.example/b.png",
            "requireInteraction": True,
            "actions": [
                {
                    "action": "action1",
                    "title": "Buy",
                    "icon": "https://x.example/c.png",
                    "deepLink": "https://x.example/buy",
                },
                {"action": "action2", "title": "Later"},
            ],
            "tag": "tocsin-1",
            "data": {"colour": "red", "wzrk_id": "1_20260101", "wzrk_pid": "p" * 27},
        },
        "deepLink": "https://x.example/d",
        "redirectPath": f"https://t.example/track/clicked?id={'p' * 27}",
        "raiseNotificationViewedPath": f"https://t.example/track/viewed?id={'p' * 27}",
    }
    assert (read_ttl(block, notice(), NOW), read_ttl({}, notice(), NOW), read_ttl({}, notice(), NOW + 999)) == (
        10,
        600,
        0,
    )
    hosts = ["updates.push.services.mozilla.com", "web.push.apple.com", "fcm.googleapis.com", "x.notify.windows.com"]
    assert [find_browser(one) for one in hosts] == ["firefox", "safari", "chrome", "chrome"]


@given(st.text(max_size=64))
def test_topic_fits_and_tells_campaigns_apart(collapse: str) -> None:
    """RFC 8030 5.4: at most 32 letters of base64url, whatever the collapse key is."""
    topic = make_topic(collapse)
    assert 1 <= len(topic) <= 32
    assert set(topic) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert make_topic(collapse + "x") != topic


async def arrived(bench: Bench) -> dict[str, Any]:
    """The newest message that the push service has."""
    found: dict[str, Any] = (await bench.call("GET", "/messages?vendor=vapid"))["messages"][-1]
    return found


async def test_headers_of_a_message(bench: Bench) -> None:
    """What RFC 8030 asks for arrives, the browser reads the JSON, and the receipt has the push service's own id."""
    message = bench.message("vapid", data={"urgency": "low", "ttl": "77"})
    came = await send(bench.provider("vapid"), message)
    assert came.outcome is Outcome.ACCEPTED
    assert came.vendor_id
    found = await arrived(bench)
    headers = found["headers"]
    assert (headers["ttl"], headers["urgency"], headers["topic"]) == ("77", "low", "c")
    assert headers["x-tocsin-endpoint"] == found["address"] == json.loads(message.address.value)["endpoint"]
    assert (found["body"]["title"], found["campaign"]) == ("Grüße", "1_20260101")


@pytest.mark.parametrize(
    ("marker", "outcome", "scope", "code", "suspect"),
    [
        ("expired", Outcome.GONE, Scope.MESSAGE, "410 106", False),
        ("notfound", Outcome.GONE, Scope.MESSAGE, "404 102", True),
        ("throttled", Outcome.THROTTLED, Scope.DEVICE, "429 201", False),
    ],
)
async def test_what_a_subscription_answers(
    bench: Bench, marker: str, outcome: Outcome, scope: Scope, code: str, suspect: bool
) -> None:
    address = Address("webpush", json.dumps(bench.subscriptions.make(marker=marker)))
    came = await send(bench.provider("vapid"), bench.message("vapid", address=address))
    assert (came.outcome, came.scope, came.code, came.suspect) == (outcome, scope, code, suspect)


async def test_a_webhook_takes_less(bench: Bench) -> None:
    """Through the webhook nobody knows how the receiver shortens: what is too long is refused here."""
    content = {"title": "t", "body": "b" * 3100}
    came = await send(bench.provider("webpush"), bench.message("webpush", content=content))
    assert (came.outcome, came.code) == (Outcome.REFUSED, "payload too large")
    assert (await bench.counts("webpush"))["accepted"] == 0


def rotated(bench: Bench, **changed: Any) -> Vapid:
    """A provider whose key was replaced: the sandbox's own subscriptions have the one before."""
    old = bench.credentials["vapid"]["key"]
    given = bench.settings("vapid", key=make_key(), previous=old, rotated_at=NOW, **changed)
    assert isinstance(given, VapidSettings)
    return Vapid(given, bench.transport)


@pytest.mark.parametrize(("registered_at", "requests"), [(NOW - 1, 1), (NOW + 1, 2)])
async def test_a_replaced_key_still_reaches_its_browsers(bench: Bench, registered_at: float, requests: int) -> None:
    """The old key goes first for who registered before it was replaced, and second for who says so again later."""
    message = bench.message("vapid")
    address = msgspec.structs.replace(message.address, registered_at=registered_at)
    came = await send(rotated(bench), msgspec.structs.replace(message, address=address))
    assert came.outcome is Outcome.ACCEPTED
    counted = await bench.counts("vapid")
    assert counted["accepted"] + counted["refused"] == requests


async def test_another_key_is_suspected(bench: Bench) -> None:
    """A subscription of a key we never had is dead to us; or it is our key that is wrong, which the breaker weighs."""
    came = await send(bench.provider("vapid", key=make_key()), bench.message("vapid"))
    assert (came.outcome, came.scope, came.suspect, came.code) == (Outcome.GONE, Scope.MESSAGE, True, "403 109")


async def test_an_endpoint_is_a_cage(bench: Bench) -> None:
    """A host that is not named is refused before any call, with and without an endpoint."""
    value = json.dumps({"endpoint": "https://evil.example/x", "keys": GOOD})
    for changed in ({}, {"endpoint": ""}):
        before = await bench.counts("vapid")
        message = bench.message("vapid", address=Address("webpush", value))
        came = await send(bench.provider("vapid", **changed), message)
        assert (came.outcome, came.code) == (Outcome.REFUSED, "endpoint not allowed")
        assert await bench.counts("vapid") == before


def test_one_host_that_is_away_stops_no_other() -> None:
    """Unreachable is the lane's trouble while nothing can be reached; once another host answers, that host alone
    rests."""
    unsent = Receipt(outcome=Outcome.UNAVAILABLE, code="unsent", retry_after=30.0, scope=Scope.LANE)
    taken = Receipt(outcome=Outcome.ACCEPTED)
    outages = Outages(30.0)
    assert outages.weigh("a.example", unsent, NOW).scope is Scope.LANE
    assert outages.weigh("b.example", taken, NOW) is taken
    came = outages.weigh("a.example", unsent, NOW)
    assert (came.outcome, came.scope, came.retry_after) == (Outcome.THROTTLED, Scope.DEVICE, 30.0)
    assert outages.find("b.example", NOW) is None
    resting = outages.find("a.example", NOW + 10)
    assert resting is not None
    assert resting.retry_after == 20.0
    assert outages.find("a.example", NOW + 31) is None
    assert outages.weigh("b.example", unsent, NOW + 1).scope is Scope.LANE


# Through the whole server.


def browsers(sandbox: Sandbox, count: int, prefix: str = "w", **asked: Any) -> list[dict[str, Any]]:
    """Users with a browser each."""
    made = sandbox.control.post("/subscriptions", {"count": count, **asked})[1]["subscriptions"]
    records: list[dict[str, Any]] = []
    for number, subscription in enumerate(made):
        name = f"{prefix}{number}"
        records.append({"type": "profile", "identity": name, "objectId": name, "profileData": {"Name": name}})
        token = {"type": "chrome", "id": subscription["endpoint"], "keys": subscription["keys"]}
        records.append({"type": "token", "objectId": name, "tokenData": token})
    return records


@pytest.mark.parametrize(("room", "status"), [(3500, 200), (3900, 400)])
def test_a_block_without_room_is_refused(sending: Caller, room: int, status: int) -> None:
    """What no browser could get is told at once, with the largest key and its place."""
    block = {"image": "https://x.example/" + "i" * room, "deep_link": "https://x.example"}
    content = {"title": "t", "body": "b" * 300, "platform_specific": {"safari": block}}
    came, answer = sending.post("/1/send/webpush.json", {"to": {"Identity": ["ann"]}, "content": content})
    assert came == status
    assert status == 200 or "(at $.content.platform_specific.safari.image)" in answer["error"]


def run_vapid(server: Server, caller: Caller, *arguments: str) -> dict[str, Any]:
    """What `tocsin provider vapid …` prints; the sentence it fails with is {"error": …}."""
    account = ("--account", caller.account_id, "--data", str(server.data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOCSIN_LEDGER_URL", server.ledger_url)
        patch.setenv("TOCSIN_SECRET_KEY", server.environment["TOCSIN_SECRET_KEY"])
        done = CliRunner().invoke(tocsin, ["provider", "vapid", *arguments, *account])
    if done.exception is not None:
        return {"error": str(done.exception)}
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_a_key_is_made_shown_and_replaced(server: Server, caller: Caller, sandbox: Sandbox) -> None:
    """Each command says what it did, and no private key. Setting one provider for browsers forgets the other."""
    server.use_sandbox(caller, sandbox, webhook=True)
    assert "no VAPID key" in run_vapid(server, caller, "show")["error"]
    made = run_vapid(server, caller, "create", "--subject", SUBJECT)
    assert made["replaced"] == ["webpush"]
    assert "rotate" in run_vapid(server, caller, "create", "--subject", SUBJECT)["error"]
    shown = run_vapid(server, caller, "show")
    assert (shown["public_key"], shown["subject"]) == (made["public_key"], SUBJECT)
    second = run_vapid(server, caller, "rotate")["public_key"]
    assert "--force" in run_vapid(server, caller, "rotate")["error"]
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        keys = ledger.read_now(lambda connection: find_web_push_keys(connection, caller.account_id))
    assert keys == [second, made["public_key"]]
    third = run_vapid(server, caller, "rotate", "--force")["public_key"]
    shown = run_vapid(server, caller, "show")
    assert (shown["public_key"], shown["previous_public_key"]) == (third, second)


def test_public_keys_stay_readable() -> None:
    """Pages are told the public keys by processes that have no key of the ledger."""
    given = VapidSettings(key=make_key(), subject=SUBJECT, previous=make_key())
    settings = msgspec.json.encode(complete(given)).decode()
    stored = encrypt(read_keys(SERVER_KEY), "ABC", "vapid", settings)
    assert json.loads(stored)["public_key"] == json.loads(settings)["public_key"]
    assert len(json.loads(stored)["public_key"].split()) == 2
    assert given.key not in stored


@pytest.mark.parametrize(
    ("key", "value"), [("ttl", -1), ("ttl", "soon"), ("ttl", 2_419_201), ("urgency", "now"), ("urgency", "{{ x }}")]
)
def test_what_no_push_service_takes_is_refused(sending: Caller, key: str, value: Any) -> None:
    content = {"title": "t", "body": "b", "platform_specific": {"firefox": {key: value}}}
    status, answer = sending.post("/1/send/webpush.json", {"to": {"Identity": ["ann"]}, "content": content})
    assert status == 400
    assert f"(at $.content.platform_specific.firefox.{key})" in answer["error"]


FIELDS: dict[str, Any] = {"target_mode": "webpush", "content": {"title": "Hi {{ Profile.Name }}", "body": "there"}}


def test_a_campaign_to_browsers(sending: Caller, sandbox: Sandbox) -> None:
    """Each browser reads its own text; who is gone is forgotten, and the next campaign does not try."""
    sending.upload(*browsers(sandbox, 5), *browsers(sandbox, 1, "x", marker="expired"))
    result = sending.result(sending.create(**FIELDS))
    assert (result["audience"], result["sent"], result["failed"]) == (6, 5, 1)
    found = sandbox.messages("vapid")
    assert {one["body"]["title"] for one in found} == {f"Hi w{number}" for number in range(5)}
    again = sending.result(sending.create(**FIELDS))
    assert (again["audience"], again["sent"], again["suppressed"]) == (6, 5, 1)


@pytest.mark.timeout(120)
def test_a_sender_dies(start_small: Callable[[int], Server], sandbox: Sandbox) -> None:
    """What it had on the wire is unknown and not sent again; the rest another sends."""
    sandbox.fault(vendor="vapid", kind="delay", seconds=1)
    server = start_small(2)
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    caller.upload(*browsers(sandbox, 300))
    campaign = caller.create(**FIELDS)
    wait_for(lambda: sandbox.counts()["vapid"]["accepted"] >= 30)
    before = children(server.process.pid)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: before[0] not in children(server.process.pid) and len(children(server.process.pid)) == 2)
    sandbox.control.call("DELETE", "/faults")
    result = caller.result(campaign)
    counts = sandbox.counts()["vapid"]
    assert result["unknown"] > 0
    assert result["sent"] + result["unknown"] == 300
    assert counts["duplicates"] == 0
    assert 295 <= counts["accepted"] <= 300  # libcurl reads several bodies before it writes them in one piece
    assert server.stop() == 0
