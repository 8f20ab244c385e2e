"""The APNs fake: its connection, its provider tokens, its rules, its faults."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pycurl
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from jh2.errors import ErrorCodes
from jh2.events import ConnectionTerminated, RemoteSettingsChanged, StreamEnded, StreamReset
from jh2.settings import SettingCodes
from structlog.testing import capture_logs
from support.sandbox_driver import Answer, Curl, Wire, provider_token, running

from tocsin.sandbox import Sandbox
from tocsin.sandbox.faults import Fault, Kind

DEVICE = "ab" * 32
ALERT = {"aps": {"alert": {"title": "Hi", "body": "There"}, "sound": "default"}, "wzrk_id": "7_20261123"}


@dataclass
class Sender:
    """A client with a provider token and the usual headers."""

    sandbox: Sandbox
    curl: Curl
    token: str
    headers: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        payload: Any = ALERT,
        device: str = DEVICE,
        method: str = "POST",
        repeated: str = "",
        **changes: str | None,
    ) -> Answer:
        """changes: headers with `_` for `-`; None leaves one out. repeated: one more header line."""
        headers = {**self.headers, "authorization": f"bearer {self.token}".strip()}
        headers |= {"apns-" + name.replace("_", "-"): value for name, value in changes.items() if value is not None}
        for name in (name for name, value in changes.items() if value is None):
            headers.pop("apns-" + name.replace("_", "-"), None)
        lines = [f"{name}: {value}" for name, value in headers.items()] + ([repeated] if repeated else [])
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        url = self.sandbox.credentials["apns"]["endpoint"] + "/3/device/" + device
        return await self.curl.ask(method, url, lines, body)


@pytest.fixture
async def sender(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sender]:
    async with running(tmp_path_factory) as sandbox:
        curl = Curl(tmp_path_factory.getbasetemp() / "ca.pem")
        apns = sandbox.credentials["apns"]
        headers = {"apns-topic": apns["topic"], "apns-push-type": "alert"}
        yield Sender(sandbox, curl, provider_token(apns), headers)
        curl.close()


async def test_a_full_request_is_accepted(sender: Sender) -> None:
    """Every documented header is taken, apns-id comes back, and the answer has no body."""
    sent = str(uuid.uuid4())
    answer = await sender.send(
        id=sent, priority="5", expiration=str(int(time.time()) + 60), collapse_id="x" * 64, push_type="alert"
    )
    assert (answer.status, answer.body, answer.headers["apns-id"]) == (200, b"", sent)
    kept = json.loads(sender.sandbox.record.page("apns", 0, 1))["messages"][0]
    assert (kept["address"], kept["campaign"], kept["body"]) == (DEVICE, "7_20261123", ALERT)
    assert "authorization" not in kept["headers"]


async def test_an_id_is_made_up(sender: Sender) -> None:
    """Without apns-id the answer has one all the same."""
    assert uuid.UUID((await sender.send()).headers["apns-id"]).version == 4


BACKGROUND = {"aps": {"content-available": 1}}

BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "id in capitals": ({"id": str(uuid.uuid4()).upper()}, 400, "BadMessageId"),
    "method": ({"method": "PUT"}, 405, "MethodNotAllowed"),
    "no topic": ({"topic": None}, 400, "MissingTopic"),
    "topic with a space": ({"topic": "dev tocsin"}, 400, "BadTopic"),
    "topic of another app": ({"topic": "com.example.app"}, 400, "TopicDisallowed"),
    "topic without its suffix": ({"push_type": "voip"}, 400, "TopicDisallowed"),
    "collapse id": ({"collapse_id": "x" * 65}, 400, "BadCollapseId"),
    "priority": ({"priority": "7"}, 400, "BadPriority"),
    "background at 10": ({"push_type": "background", "priority": "10", "payload": BACKGROUND}, 400, "BadPriority"),
    "background by default": ({"push_type": "background", "payload": BACKGROUND}, 400, "BadPriority"),
    "expiration": ({"expiration": "tomorrow"}, 400, "BadExpirationDate"),
    "push type": ({"push_type": "shout"}, 400, "InvalidPushType"),
    "background with an alert": ({"push_type": "background", "priority": "5"}, 400, "InvalidPushType"),
    "alert without one": ({"payload": BACKGROUND}, 400, "InvalidPushType"),
    "no device": ({"device": ""}, 400, "MissingDeviceToken"),
    "device not hex": ({"device": "xyz" * 20}, 400, "BadDeviceToken"),
    "device too short": ({"device": "ab" * 8}, 400, "BadDeviceToken"),
    "device of the other environment": ({"device": "bad0" + "ab" * 30}, 400, "BadDeviceToken"),
    "device of another app": ({"device": "bad1" + "ab" * 30}, 400, "DeviceTokenNotForTopic"),
    "device gone": ({"device": "ab" * 30 + "dead"}, 410, "Unregistered"),
    "empty": ({"payload": b""}, 400, "PayloadEmpty"),
    "not JSON": ({"payload": b"{"}, 400, "PayloadEmpty"),
    "no aps": ({"payload": {"alert": "Hi"}}, 400, "PayloadEmpty"),
    "too large": ({"payload": {"aps": {"alert": "x" * 4096}}}, 413, "PayloadTooLarge"),
    "header twice": ({"repeated": "apns-topic: dev.tocsin.sandbox"}, 400, "DuplicateHeaders"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_bad_requests(sender: Sender, case: tuple[dict[str, Any], int, str]) -> None:
    """A request that breaks a rule is refused with Apple's status and reason, and an apns-id; the log says why."""
    changes, status, reason = case
    with capture_logs() as logs:
        answer = await sender.send(**changes)
    assert (answer.status, answer.json["reason"]) == (status, reason)
    assert "apns-id" in answer.headers
    assert [(line["event"], line["answer"]) for line in logs] == [("refused", f"{status} {reason}")]
    assert logs[0]["why"]
    counts = sender.sandbox.record.counts["apns"]
    assert (counts.accepted, counts.refused) == (0, 1)


async def test_gone_devices_have_a_time(sender: Sender) -> None:
    """410 says since when, in milliseconds."""
    answer = await sender.send(device="ab" * 30 + "dead")
    assert abs(answer.json["timestamp"] / 1000 - time.time()) < 5


async def test_a_path_elsewhere(sender: Sender) -> None:
    """Any path but /3/device is BadPath."""
    url = sender.sandbox.credentials["apns"]["endpoint"] + "/4/device/" + DEVICE
    answer = await sender.curl.ask("POST", url, [f"apns-topic: {sender.headers['apns-topic']}"], b"{}")
    assert (answer.status, answer.json["reason"]) == (404, "BadPath")


async def test_background_and_voip(sender: Sender) -> None:
    """Other push types go through with their own priority, topic and size."""
    assert (await sender.send(BACKGROUND, push_type="background", priority="5")).status == 200
    topic = sender.headers["apns-topic"] + ".voip"
    assert (await sender.send({"aps": {}, "x": "x" * 5000}, push_type="voip", topic=topic)).status == 200


@pytest.mark.parametrize(
    ("push_type", "suffix", "payload"),
    [("voip", ".voip", {"call": 1}), ("mdm", "", {"mdm": "x"}), ("fileprovider", ".pushkit.fileprovider", {"a": "b"})],
)
async def test_payloads_of_the_senders_own(sender: Sender, push_type: str, suffix: str, payload: object) -> None:
    """Where Apple leaves the payload to the sender it needs no aps; it has to be an object with something in it."""
    topic = sender.headers["apns-topic"] + suffix
    assert (await sender.send(payload, push_type=push_type, topic=topic)).status == 200
    for nothing in (b"{}", b"[]", b'{"aps":1}'):
        answer = await sender.send(nothing, push_type=push_type, topic=topic)
        assert (answer.status, answer.json["reason"]) == (400, "PayloadEmpty")


async def test_signatures_in_both_forms(sender: Sender) -> None:
    """ES256 as RFC 7518 has it, and in ASN.1 as Java and pushy write it; whatever else is refused."""
    signed, _, signature = sender.token.rpartition(".")
    plain = base64.urlsafe_b64decode(signature + "==")
    numbers = [int.from_bytes(plain[start : start + 32], "big") for start in (0, 32)]
    for wrong, status in ((0, 200), (1, 403)):
        written = encode_dss_signature(numbers[0], numbers[1] + wrong)
        sender.token = f"{signed}.{base64.urlsafe_b64encode(written).decode().rstrip('=')}"
        assert (await sender.send()).status == status


async def test_prior_knowledge(sender: Sender) -> None:
    """HTTP/2 without ALPN, as aioapns and pushy begin it."""
    apns = sender.sandbox.credentials["apns"]
    async with Wire.to(apns["endpoint"], apns_ca(sender), protocols=()) as wire:
        await wire.until(StreamEnded, wire.send(_head(sender), json.dumps(ALERT).encode()))
    assert sender.sandbox.record.counts["apns"].accepted == 1


async def test_bad_provider_tokens(sender: Sender) -> None:
    """A token is refused by what is wrong with it: missing, forged, of another key or team, old, from the future."""
    apns = sender.sandbox.credentials["apns"]
    cases = {
        "": "MissingProviderToken",
        "nonsense": "InvalidProviderToken",
        provider_token(apns)[:-6] + "AAAAAA": "InvalidProviderToken",
        provider_token(apns, kid="ABCDEFGHIJ"): "InvalidProviderToken",
        provider_token({**apns, "team_id": "ABCDEFGHIJ"}): "InvalidProviderToken",
        provider_token(apns, age=-600): "InvalidProviderToken",
        provider_token(apns, age=3700): "ExpiredProviderToken",
    }
    reasons = set()
    for token, reason in cases.items():
        sender.token = token
        with capture_logs() as logs:
            answer = await sender.send()
        assert (answer.status, answer.json["reason"]) == (403, reason)
        reasons |= {line["why"] for line in logs}
    assert len(reasons) == len(cases)


async def test_tokens_may_change_every_twenty_minutes(sender: Sender) -> None:
    """A token minted long after the last is taken, one minted soon after is 429, and the one in use stays good."""
    apns = sender.sandbox.credentials["apns"]
    sender.token = provider_token(apns, age=3000)
    assert (await sender.send()).status == 200
    sender.token = provider_token(apns, age=1200)
    assert (await sender.send()).status == 200
    in_use = sender.token
    for age in (1100, 0):
        sender.token = provider_token(apns, age=age)
        answer = await sender.send()
        assert (answer.status, answer.json["reason"]) == (429, "TooManyProviderTokenUpdates")
    sender.token = in_use
    assert (await sender.send()).status == 200


async def test_one_stream_until_a_token_is_proven(sender: Sender) -> None:
    """A connection may have one stream open, a second is REFUSED_STREAM, until an accepted token makes it 1000."""
    apns = sender.sandbox.credentials["apns"]
    body = json.dumps(ALERT).encode()
    async with Wire.to(apns["endpoint"], apns_ca(sender)) as wire:
        settings = await wire.until(RemoteSettingsChanged)
        assert settings.changed_settings[SettingCodes.MAX_CONCURRENT_STREAMS].new_value == 1
        first = wire.send(_head(sender), body, end=False)
        second = wire.send_over_limit(_head(sender), body)
        assert (await wire.until(StreamReset, second)).error_code == ErrorCodes.REFUSED_STREAM
        wire.events.clear()
        wire.h2.end_stream(first)
        wire.flush()
        await wire.until(StreamEnded, first)
        settings = await wire.until(RemoteSettingsChanged)
        assert settings.changed_settings[SettingCodes.MAX_CONCURRENT_STREAMS].new_value == 1000
        streams = [wire.send(_head(sender), body) for _ in range(200)]
        for stream in streams:
            await wire.until(StreamEnded, stream)
    assert sender.sandbox.record.counts["apns"].accepted == 201


async def test_http_1_is_not_spoken(sender: Sender) -> None:
    """A client that does not offer h2 is dropped, and the log says so."""
    older = Curl(sender.curl.ca, pycurl.CURL_HTTP_VERSION_1_1)
    with capture_logs() as logs, pytest.raises(pycurl.error):
        await older.ask("POST", sender.sandbox.credentials["apns"]["endpoint"] + "/3/device/" + DEVICE, (), b"{}")
    older.close()
    assert [(line["vendor"], "not HTTP/2" in line["why"]) for line in logs] == [("apns", True)]


async def test_duplicates_are_counted(sender: Sender) -> None:
    """The same campaign and device twice is one duplicate, by wzrk_id or else the collapse id."""
    plain = {"aps": {"alert": "Hi"}}
    for payload, collapse in ((ALERT, "a"), (ALERT, "b"), (plain, "a"), (plain, "a"), (plain, None), (plain, None)):
        assert (await sender.send(payload, collapse_id=collapse)).status == 200
    counts = sender.sandbox.record.counts["apns"]
    assert (counts.accepted, counts.duplicates, counts.connections) == (6, 2, 1)


STATUS_FAULTS: dict[str, tuple[Fault, str]] = {
    "this device": (Fault("apns", Kind.STATUS, status=429), "TooManyRequests"),
    "shutdown": (Fault("apns", Kind.STATUS, status=503, code="Shutdown"), "Shutdown"),
    "internal": (Fault("apns", Kind.STATUS, status=500, retry_after=3), "InternalServerError"),
    "expired token": (Fault("apns", Kind.STATUS, status=410, code="ExpiredToken"), "ExpiredToken"),
    "idle": (Fault("apns", Kind.STATUS, status=400, code="IdleTimeout"), "IdleTimeout"),
}


@pytest.mark.parametrize("case", STATUS_FAULTS.values(), ids=STATUS_FAULTS.keys())
async def test_status_faults(sender: Sender, case: tuple[Fault, str]) -> None:
    """A scripted error has Apple's format, the reason asked for and the request's own id; a 410 also has its time."""
    fault, reason = case
    sender.sandbox.faults.add([fault])
    sent = str(uuid.uuid4())
    answer = await sender.send(id=sent)
    assert (answer.status, answer.json["reason"], answer.headers["apns-id"]) == (fault.status, reason, sent)
    assert ("timestamp" in answer.json) == (fault.status == 410)
    assert answer.headers.get("retry-after") == (str(fault.retry_after) if fault.retry_after else None)


async def test_goaway_has_a_reason(sender: Sender) -> None:
    """A scripted GOAWAY says that the stream was not processed, and why, as JSON."""
    apns, body = sender.sandbox.credentials["apns"], json.dumps(ALERT).encode()
    sender.sandbox.faults.add([Fault("apns", Kind.GOAWAY, code="ServiceUnavailable", count=1)])
    async with Wire.to(apns["endpoint"], apns_ca(sender)) as wire:
        wire.send(_head(sender), body)
        goaway = await wire.until(ConnectionTerminated)
    assert goaway.last_stream_id == 0
    assert json.loads(goaway.additional_data) == {"reason": "ServiceUnavailable"}
    assert (await sender.send()).status == 200
    assert sender.sandbox.record.counts["apns"].accepted == 1


async def test_cut_accepts_without_an_answer(sender: Sender) -> None:
    """A cut message is counted, and sending it again is a duplicate."""
    sender.sandbox.faults.add([Fault("apns", Kind.CUT, count=1)])
    with pytest.raises(pycurl.error):
        await sender.send()
    assert (await sender.send()).status == 200
    counts = sender.sandbox.record.counts["apns"]
    assert (counts.accepted, counts.duplicates) == (2, 1)


@pytest.mark.parametrize("kind", ["half", "vanish"])
async def test_silent_ends_accept_without_an_answer(sender: Sender, kind: str) -> None:
    """A half-closed connection ends for the client, a vanished one only by its patience; both have the message."""
    sender.sandbox.faults.add([Fault("apns", Kind(kind), count=1)])
    sender.curl.patience = 0.5 if kind == "vanish" else 10.0
    with pytest.raises(pycurl.error) as caught:
        await sender.send()
    assert (caught.value.args[0] == pycurl.E_OPERATION_TIMEDOUT) == (kind == "vanish")
    sender.curl.renew()
    assert (await sender.send()).status == 200
    counts = sender.sandbox.record.counts["apns"]
    assert (counts.accepted, counts.connections) == (2, 2)


async def test_stream_limit_shrinks_and_grows(sender: Sender) -> None:
    """A scripted limit is announced on that connection; more streams are refused."""
    apns, body = sender.sandbox.credentials["apns"], json.dumps(ALERT).encode()
    async with Wire.to(apns["endpoint"], apns_ca(sender)) as wire:
        await wire.until(StreamEnded, wire.send(_head(sender), body))
        for streams in (3, 1, 1000):
            sender.sandbox.faults.add([Fault("apns", Kind.SHRINK, streams=streams, count=1)])
            await wire.until(StreamEnded, wire.send(_head(sender), body))
            assert wire.h2.remote_settings.max_concurrent_streams == streams
            if streams == 1:
                held = wire.send(_head(sender), body, end=False)
                reset = await wire.until(StreamReset, wire.send_over_limit(_head(sender), body))
                assert reset.error_code == ErrorCodes.REFUSED_STREAM
                wire.h2.end_stream(held)
                wire.flush()
                await wire.until(StreamEnded, held)
    assert sender.sandbox.record.counts["apns"].accepted == 5


async def test_many_connections_are_counted(sender: Sender) -> None:
    """Each connection counts once, however much is sent on it."""
    apns = sender.sandbox.credentials["apns"]
    for _ in range(3):
        async with Wire.to(apns["endpoint"], apns_ca(sender)) as wire:
            await wire.until(RemoteSettingsChanged)
    assert [(await sender.send()).status for _ in range(3)] == [200, 200, 200]
    assert sender.sandbox.record.counts["apns"].connections == 4


def apns_ca(sender: Sender) -> str:
    return str(sender.sandbox.credentials["ca"])


def _head(sender: Sender) -> list[tuple[str, str]]:
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", f"/3/device/{DEVICE}")]
    return [*pseudo, ("authorization", f"bearer {sender.token}"), *sender.headers.items()]
