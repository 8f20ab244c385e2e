"""The FCM fake: its token endpoint, its rules, its errors, its faults."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pycurl
import pytest
from jh2.errors import ErrorCodes
from jh2.events import StreamEnded, StreamReset
from support.sandbox_driver import GOAWAY, HEADERS, Answer, Curl, Wire, assertion, grant_form, running

from tocsin.sandbox import Sandbox
from tocsin.sandbox.faults import Fault, Kind
from tocsin.sandbox.fcm_grant import Bearers

TOKEN = "d" * 152


@dataclass
class Sender:
    """A client with an access token."""

    sandbox: Sandbox
    curl: Curl
    bearer: str

    async def send(self, message: Any, **request: Any) -> Answer:
        return await self.raw(json.dumps({"message": message, **request}).encode())

    async def raw(self, body: bytes, project: str = "tocsin-sandbox", bearer: str | None = None) -> Answer:
        url = f"{self.sandbox.credentials['fcm']['endpoint']}/v1/projects/{project}/messages:send"
        headers = (f"Authorization: Bearer {bearer or self.bearer}", "Content-Type: application/json")
        return await self.curl.ask("POST", url, headers, body)


@pytest.fixture
async def sender(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sender]:
    async with running(tmp_path_factory) as sandbox:
        curl = Curl(tmp_path_factory.getbasetemp() / "ca.pem")
        account = sandbox.credentials["fcm"]["service_account"]
        answer = await curl.ask("POST", account["token_uri"], (), grant_form(assertion(account)))
        yield Sender(sandbox, curl, answer.json["access_token"])
        curl.close()


def machine(answer: Answer) -> str:
    """What a client decides by: the FcmError code, else the violated field, else the bare status."""
    error = answer.json["error"]
    assert error["code"] == answer.status
    for detail in error.get("details", ()):
        if detail["@type"].endswith("fcm.v1.FcmError"):
            return str(detail["errorCode"])
        if detail["@type"].endswith("rpc.BadRequest"):
            return str(detail["fieldViolations"][0]["field"])
    return str(error["status"])


async def test_a_full_message_is_accepted(sender: Sender) -> None:
    """Every documented field is taken, in snake_case and camelCase, and the answer names the message."""
    notification = {"title": "Hi", "body": "There", "color": "#aaBB01", "channel_id": "news", "sticky": True}
    notification |= {"notification_priority": "PRIORITY_HIGH", "visibility": "PUBLIC", "vibrateTimings": ["0.1s", "2s"]}
    notification |= {"eventTime": "2026-11-23T10:00:00.5Z", "notification_count": 3, "title_loc_args": ["a"]}
    notification |= {"lightSettings": {"color": {"red": 1, "alpha": 0.5}, "light_on_duration": "1s"}}
    answer = await sender.send(
        {
            "token": TOKEN,
            "data": {"wzrk_id": "7_20261123", "empty": ""},
            "notification": {"title": "Hi", "body": "There", "image": None},
            "android": {"collapseKey": "7", "priority": "high", "ttl": "3.5s", "notification": notification},
            "apns": {"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": "Hi"}}},
            "webpush": {"headers": {"TTL": "60"}, "fcm_options": {"link": "https://example.com/"}},
            "fcmOptions": {"analyticsLabel": "autumn_7"},
        }
    )
    assert answer.status == 200
    assert answer.json["name"].startswith("projects/tocsin-sandbox/messages/")
    kept = json.loads(sender.sandbox.record.page("fcm", 0, 1))["messages"][0]
    assert (kept["address"], kept["campaign"]) == (TOKEN, "7_20261123")
    assert kept["body"]["message"]["android"]["ttl"] == "3.5s"
    assert "authorization" not in kept["headers"]


BAD_MESSAGES: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown field": ({"token": TOKEN, "sound": "x"}, 400, "message"),
    "unknown nested field": (
        {"token": TOKEN, "android": {"notification": {"colour": "x"}}},
        400,
        "message.android.notification",
    ),
    "data number": ({"token": TOKEN, "data": {"n": 1}}, 400, "message.data[0].value"),
    "data list": ({"token": TOKEN, "data": []}, 400, "message.data"),
    "reserved from": ({"token": TOKEN, "data": {"from": "me"}}, 400, "message.data[0].key"),
    "reserved prefix": ({"token": TOKEN, "android": {"data": {"google.x": ""}}}, 400, "message.android.data[0].key"),
    "no target": ({"data": {"a": "b"}}, 400, "message"),
    "two targets": ({"token": TOKEN, "topic": "news"}, 400, "message"),
    "topic with prefix": ({"topic": "/topics/news"}, 400, "message.topic"),
    "enum": ({"token": TOKEN, "android": {"priority": "urgent"}}, 400, "message.android.priority"),
    "ttl number": ({"token": TOKEN, "android": {"ttl": 60}}, 400, "message.android.ttl"),
    "ttl without s": ({"token": TOKEN, "android": {"ttl": "60"}}, 400, "message.android.ttl"),
    "ttl too long": ({"token": TOKEN, "android": {"ttl": "2419201s"}}, 400, "message.android.ttl"),
    "ttl negative": ({"token": TOKEN, "android": {"ttl": "-1s"}}, 400, "message.android.ttl"),
    "colour": (
        {"token": TOKEN, "android": {"notification": {"color": "red"}}},
        400,
        "message.android.notification.color",
    ),
    "bool as text": ({"token": TOKEN, "android": {"direct_boot_ok": "true"}}, 400, "message.android.direct_boot_ok"),
    "int": (
        {"token": TOKEN, "android": {"notification": {"notification_count": 1.5}}},
        400,
        "message.android.notification.notification_count",
    ),
    "list item": (
        {"token": TOKEN, "android": {"notification": {"vibrate_timings": ["1s", "x"]}}},
        400,
        "message.android.notification.vibrate_timings[1]",
    ),
    "label": ({"token": TOKEN, "fcm_options": {"analytics_label": "a b"}}, 400, "message.fcm_options.analytics_label"),
    "web link": (
        {"token": TOKEN, "webpush": {"fcm_options": {"link": "http://x"}}},
        400,
        "message.webpush.fcm_options.link",
    ),
    "same field twice": (
        {"token": TOKEN, "android": {"collapse_key": "a", "collapseKey": "a"}},
        400,
        "message.android.collapse_key",
    ),
    "too big": ({"token": TOKEN, "data": {"a": "x" * 4096}}, 400, "message"),
    "too big for a topic": ({"topic": "news", "data": {"a": "x" * 2048}}, 400, "message"),
    "empty token": ({"token": ""}, 400, "INVALID_ARGUMENT"),
    "short token": ({"token": "abc"}, 400, "INVALID_ARGUMENT"),
    "token with a space": ({"token": "abcd efgh ijkl"}, 400, "INVALID_ARGUMENT"),
    "dead token": ({"token": TOKEN + "-unregistered"}, 404, "UNREGISTERED"),
    "dead installation": ({"fid": "cMvPq-unregistered"}, 404, "UNREGISTERED"),
    "foreign token": ({"token": TOKEN + "-mismatch"}, 403, "SENDER_ID_MISMATCH"),
}


@pytest.mark.parametrize("case", BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
async def test_bad_messages(sender: Sender, case: tuple[dict[str, Any], int, str]) -> None:
    """A message that breaks a rule is refused with the status and code that tell which."""
    message, status, code = case
    answer = await sender.send(message)
    assert (answer.status, machine(answer)) == (status, code)
    if code == "INVALID_ARGUMENT":
        assert answer.json["error"]["message"] == "The registration token is not a valid FCM registration token"
    counts = sender.sandbox.record.counts["fcm"]
    assert (counts.accepted, counts.refused) == (0, 1)


async def test_bad_requests(sender: Sender) -> None:
    """What is wrong around the message is told apart from the message: token, project, path, JSON."""
    good = json.dumps({"message": {"token": TOKEN}}).encode()
    assert machine(await sender.raw(good, bearer="stolen")) == "UNAUTHENTICATED"
    assert machine(await sender.raw(good, project="another")) == "PERMISSION_DENIED"
    assert machine(await sender.raw(b"{")) == ""
    assert machine(await sender.raw(b"{}")) == "message"
    endpoint = sender.sandbox.credentials["fcm"]["endpoint"]
    gone = await sender.curl.ask("POST", endpoint + "/fcm/send", (), good)
    assert gone.status == 404
    assert gone.headers["content-type"].startswith("text/html")


async def test_validate_only_delivers_nothing(sender: Sender) -> None:
    """A dry run is checked and answered like any other but not accepted."""
    answer = await sender.send({"token": TOKEN}, validate_only=True)
    assert answer.status == 200
    assert sender.sandbox.record.counts["fcm"].accepted == 0


async def test_duplicates_are_counted(sender: Sender) -> None:
    """The same campaign and device twice is one duplicate, by wzrk_id or else the collapse key."""
    by_id = {"token": TOKEN, "data": {"wzrk_id": "1"}, "android": {"collapse_key": "k"}}
    by_key = {"token": TOKEN, "android": {"collapse_key": "k"}}
    for message in (by_id, by_id, by_key, by_key, {"token": TOKEN}, {"token": TOKEN}, {**by_id, "token": TOKEN + "2"}):
        assert (await sender.send(message)).status == 200
    counts = sender.sandbox.record.counts["fcm"]
    assert (counts.accepted, counts.duplicates, counts.connections) == (7, 2, 1)


BAD_ASSERTIONS: dict[str, tuple[dict[str, object], str]] = {
    "wrong issuer": ({"iss": "someone@example.com"}, "invalid_grant"),
    "wrong audience": ({"aud": "https://example.com/token"}, "invalid_grant"),
    "wrong scope": ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope"),
    "too long": ({"exp": int(time.time()) + 7200}, "invalid_grant"),
    "over": ({"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600}, "invalid_grant"),
    "not yet": ({"iat": int(time.time()) + 3600, "exp": int(time.time()) + 7200}, "invalid_grant"),
    "no times": ({"iat": None, "exp": None}, "invalid_grant"),
}


@pytest.mark.parametrize("case", BAD_ASSERTIONS.values(), ids=BAD_ASSERTIONS.keys())
async def test_bad_assertions(sender: Sender, case: tuple[dict[str, object], str]) -> None:
    """An assertion that breaks a rule is refused with 400 and an OAuth error, and is no refused message."""
    changes, error = case
    account = sender.sandbox.credentials["fcm"]["service_account"]
    answer = await sender.curl.ask("POST", account["token_uri"], (), grant_form(assertion(account, **changes)))
    assert (answer.status, answer.json["error"]) == (400, error)
    assert sender.sandbox.record.counts["fcm"].refused == 0


AUTH = "https://www.googleapis.com/auth/"
SCOPES = {
    "Admin SDK of Node": ("cloud-platform", "firebase.database", "firebase.messaging", "identitytoolkit"),
    "Admin SDK of Python and Go": (
        "cloud-platform",
        "datastore",
        "devstorage.read_write",
        "firebase",
        "userinfo.email",
    ),
    "of Android's publisher": ("androidpublisher", "firebase.messaging"),
}


@pytest.mark.parametrize("names", SCOPES.values(), ids=SCOPES.keys())
async def test_scopes_of_the_sdks(sender: Sender, names: tuple[str, ...]) -> None:
    """Any scopes of Google's, as long as one of them may send."""
    account = sender.sandbox.credentials["fcm"]["service_account"]
    for scopes, status in ((names, 200), ([name for name in names if "m" not in name], 400)):
        form = grant_form(assertion(account, scope=" ".join(AUTH + name for name in scopes)))
        assert (await sender.curl.ask("POST", account["token_uri"], (), form)).status == status


async def test_android_v2(sender: Sender) -> None:
    """The second form of `android`: an urgent notification, or a quiet synchronisation."""
    shown = {"title": "Hi", "color": "#112233", "id": 7}
    urgent = {"collapseKey": "k", "ttl": "60s", "remoteNotification": {"mutableContent": True, "notification": shown}}
    quiet = {"data": {"a": "b"}, "background_sync": {}, "directBootOk": True}
    for name, config in (("androidV2", urgent), ("android_v2", quiet)):
        assert (await sender.send({"token": TOKEN, name: config})).status == 200
    bad: list[dict[str, Any]] = [
        {"android_v2": urgent, "android": {}},
        {"android_v2": urgent | quiet},
        {"android_v2": {"priority": "high"}},
        {"android_v2": {"remote_notification": {"notification": {"color": "red"}}}},
        {"android_v2": {"ttl": "2419201s"}},
        {"android_v2": {"remote_notification": {"notification": {"title": "x" * 4097}}}},
    ]
    for config in bad:
        answer = await sender.send({"token": TOKEN, **config})
        assert (answer.status, machine(answer)[:7]) == (400, "message"), config


async def test_token_endpoint_details(sender: Sender) -> None:
    """The endpoint speaks HTTP/1.1 as well, takes its own address as audience, and refuses forgeries."""
    account = sender.sandbox.credentials["fcm"]["service_account"]
    own = assertion(account, aud=account["token_uri"])
    older = Curl(sender.curl.ca, pycurl.CURL_HTTP_VERSION_1_1)
    answer = await older.ask("POST", account["token_uri"], (), grant_form(own))
    older.close()
    assert (answer.status, answer.json["expires_in"], answer.json["token_type"]) == (200, 3599, "Bearer")
    forged = own[:-8] + "AAAAAAAA"
    assert (await sender.curl.ask("POST", account["token_uri"], (), grant_form(forged))).json[
        "error"
    ] == "invalid_grant"
    refused = await sender.curl.ask("POST", account["token_uri"], (), b"grant_type=password")
    assert refused.json["error"] == "unsupported_grant_type"


def test_bearers_expire() -> None:
    """An access token is good until its end and not a moment longer."""
    bearers = Bearers()
    token = bearers.issue(now=1000.0, lifetime=60)
    assert bearers.valid(f"Bearer {token}", 1059.9)
    assert not bearers.valid(f"Bearer {token}", 1060.0)
    assert not bearers.valid(f"Basic {token}", 1000.0)


STATUS_FAULTS: dict[str, tuple[Fault, str]] = {
    "quota": (Fault("fcm", Kind.STATUS, status=429, retry_after=7), "QUOTA_EXCEEDED"),
    "unavailable": (Fault("fcm", Kind.STATUS, status=503, code="UNAVAILABLE", retry_after=1), "UNAVAILABLE"),
    "internal": (Fault("fcm", Kind.STATUS, status=500), "INTERNAL"),
    "unregistered": (Fault("fcm", Kind.STATUS, status=404), "UNREGISTERED"),
    "token refused": (Fault("fcm", Kind.STATUS, status=401), "UNAUTHENTICATED"),
    "third party": (Fault("fcm", Kind.STATUS, status=401, code="THIRD_PARTY_AUTH_ERROR"), "THIRD_PARTY_AUTH_ERROR"),
    "permission": (Fault("fcm", Kind.STATUS, status=403, code="PERMISSION_DENIED"), "PERMISSION_DENIED"),
}


@pytest.mark.parametrize("case", STATUS_FAULTS.values(), ids=STATUS_FAULTS.keys())
async def test_status_faults(sender: Sender, case: tuple[Fault, str]) -> None:
    """A scripted error has Google's format, the code asked for and the Retry-After asked for; nothing is accepted."""
    fault, code = case
    sender.sandbox.faults.add([fault])
    answer = await sender.send({"token": TOKEN})
    assert (answer.status, machine(answer)) == (fault.status, code)
    assert answer.headers.get("retry-after") == (str(fault.retry_after) if fault.retry_after else None)
    counts = sender.sandbox.record.counts["fcm"]
    assert (counts.accepted, counts.refused) == (0, 1)


async def test_count_ends_a_fault(sender: Sender) -> None:
    """A script with a count fires so often and no more, then the next script has its turn."""
    sender.sandbox.faults.add(
        [Fault("fcm", Kind.STATUS, status=500, count=1), Fault("fcm", Kind.STATUS, status=503, count=1)]
    )
    assert [(await sender.send({"token": TOKEN})).status for _ in range(3)] == [500, 503, 200]


async def test_cut_accepts_without_an_answer(sender: Sender) -> None:
    """A cut message is counted as accepted though its sender is never told, so sending it again is a duplicate."""
    message = {"token": TOKEN, "data": {"wzrk_id": "1"}}
    sender.sandbox.faults.add([Fault("fcm", Kind.CUT, count=2)])
    assert (await sender.send({"token": ""})).status == 400  # a cut accepts nothing that the rules refuse
    sender.curl.renew()  # on a connection used before, libcurl would send again by itself
    with pytest.raises(pycurl.error):
        await sender.send(message)
    assert (await sender.send(message)).status == 200
    counts = sender.sandbox.record.counts["fcm"]
    assert (counts.accepted, counts.duplicates, counts.refused) == (2, 1, 1)


@pytest.mark.parametrize("kind", [Kind.GOAWAY, Kind.REFUSE])
async def test_unprocessed_streams_are_safe_to_resend(sender: Sender, kind: Kind) -> None:
    """After GOAWAY or REFUSED_STREAM libcurl sends again by itself, and the message has arrived once."""
    sender.sandbox.faults.add([Fault("fcm", kind, count=1)])
    assert (await sender.send({"token": TOKEN, "data": {"wzrk_id": "1"}})).status == 200
    counts = sender.sandbox.record.counts["fcm"]
    assert (counts.accepted, counts.duplicates, counts.refused) == (1, 0, 0)


async def test_goaway_answers_earlier_streams(sender: Sender) -> None:
    """GOAWAY names the stream before the one it turns away, and that one is still answered on the same connection."""
    fcm, body = sender.sandbox.credentials["fcm"], json.dumps({"message": {"token": TOKEN}}).encode()
    sender.sandbox.faults.add([Fault("fcm", Kind.DELAY, seconds=0.05, count=1), Fault("fcm", Kind.GOAWAY, count=1)])
    async with Wire.to(fcm["endpoint"], sender.sandbox.credentials["ca"]) as wire:
        first, _ = wire.send(_head(sender), body), wire.send(_head(sender), body)
        frames = await wire.frames_until(HEADERS, first)
    goaway = next(payload for kind, _, payload in frames if kind == GOAWAY)
    assert struct.unpack(">II", goaway[:8]) == (first, ErrorCodes.NO_ERROR)
    assert sender.sandbox.record.counts["fcm"].accepted == 1


async def test_refused_stream_is_a_reset(sender: Sender) -> None:
    """REFUSE resets the one stream with REFUSED_STREAM and leaves the connection in use."""
    fcm, body = sender.sandbox.credentials["fcm"], json.dumps({"message": {"token": TOKEN}}).encode()
    sender.sandbox.faults.add([Fault("fcm", Kind.REFUSE, count=1)])
    async with Wire.to(fcm["endpoint"], sender.sandbox.credentials["ca"]) as wire:
        first, second = wire.send(_head(sender), body), wire.send(_head(sender), body)
        assert (await wire.until(StreamReset, first)).error_code == ErrorCodes.REFUSED_STREAM
        await wire.until(StreamEnded, second)
    assert sender.sandbox.record.counts["fcm"].accepted == 1


async def test_a_stream_given_up_harms_no_other(sender: Sender) -> None:
    """A request that is reset in the same bytes that completed it leaves the connection in use."""
    fcm, body = sender.sandbox.credentials["fcm"], json.dumps({"message": {"token": TOKEN}}).encode()
    async with Wire.to(fcm["endpoint"], sender.sandbox.credentials["ca"]) as wire:
        wire.send_reset(_head(sender), body)
        await wire.until(StreamEnded, wire.send(_head(sender), body))


async def test_hang_is_never_answered_and_stop_ends_it(sender: Sender) -> None:
    """A hanging request holds nothing up: others on the connection are answered, and it is counted nowhere."""
    fcm, body = sender.sandbox.credentials["fcm"], json.dumps({"message": {"token": TOKEN}}).encode()
    sender.sandbox.faults.add([Fault("fcm", Kind.HANG, count=1)])
    async with Wire.to(fcm["endpoint"], sender.sandbox.credentials["ca"]) as wire:
        hanging, second = wire.send(_head(sender), body), wire.send(_head(sender), body)
        await wire.until(StreamEnded, second)
        assert not any(getattr(event, "stream_id", None) == hanging for event in wire.events)
    counts = sender.sandbox.record.counts["fcm"]
    assert (counts.accepted, counts.refused) == (1, 0)


async def test_delay_holds_the_answer_back(sender: Sender) -> None:
    """A delayed message is answered as ever, no sooner than asked, and others overtake it."""
    sender.sandbox.faults.add([Fault("fcm", Kind.DELAY, seconds=0.1, count=1)])
    begun = time.monotonic()
    assert (await sender.send({"token": TOKEN})).status == 200
    assert time.monotonic() - begun >= 0.1


def _head(sender: Sender) -> list[tuple[str, str]]:
    path = "/v1/projects/tocsin-sandbox/messages:send"
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", path)]
    return [*pseudo, ("authorization", f"Bearer {sender.bearer}"), ("content-type", "application/json")]
