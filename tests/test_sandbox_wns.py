"""The WNS fake: its two token endpoints, its rules, its toasts, its faults."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pycurl
import pytest
from support.sandbox_driver import Answer, Curl, running

from tocsin.sandbox import Sandbox
from tocsin.sandbox.faults import Fault, Kind

ACTION = '<action content="a" arguments="b"/>'
TEXTS = "<text>Hi</text><text>There</text>"


def toast(texts: str = TEXTS, launch: str = "app?wzrk_id=7_20261123&amp;x=1", extra: str = "") -> str:
    binding = f'<visual><binding template="ToastGeneric">{texts}</binding></visual>'
    return f'<toast launch="{launch}">{binding}{extra}</toast>'


@dataclass
class Sender:
    """A client with an access token and the usual headers."""

    sandbox: Sandbox
    curl: Curl
    token: str

    async def send(
        self,
        content: str = toast(),
        channel: str = "device",
        method: str = "POST",
        token: str | None = None,
        **changes: Any,
    ) -> Answer:
        """changes: headers with `_` for `-`; None leaves one out."""
        headers: dict[str, str | None] = {"content-type": "text/xml", "x-wns-type": "wns/toast"}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        headers["authorization"] = f"Bearer {token or self.token}"
        lines = [f"{name}:" if value is None else f"{name}: {value}" for name, value in headers.items()]
        url = self.sandbox.credentials["wns"]["channel_prefix"] + channel
        return await self.curl.ask(method, url, lines, content.encode())


@pytest.fixture
async def sender(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sender]:
    async with running(tmp_path_factory) as sandbox:
        curl = Curl(tmp_path_factory.getbasetemp() / "ca.pem", pycurl.CURL_HTTP_VERSION_1_1)
        wns = sandbox.credentials["wns"]
        answer = await curl.ask("POST", wns["token_endpoint"], (), grant(wns))
        assert isinstance(answer.json["expires_in"], str)
        yield Sender(sandbox, curl, answer.json["access_token"])
        curl.close()


def grant(wns: dict[str, str], **changes: str) -> bytes:
    """The form of the client credentials grant; `changes` replace fields."""
    form = {"grant_type": "client_credentials", "scope": "https://wns.windows.com/.default"}
    form |= {"client_id": wns["client_id"], "client_secret": wns["client_secret"]}
    return urlencode(form | changes).encode()


async def test_a_toast_is_accepted(sender: Sender) -> None:
    """A toast with every optional header is taken; the answer has both status headers and a short message id."""
    answer = await sender.send(
        x_wns_tag="news1",
        x_wns_group="g",
        x_wns_ttl="60",
        x_wns_priority="1",
        x_wns_requestforstatus="true",
        ms_cv="a.1",
    )
    assert answer.status == 200
    assert answer.headers["x-wns-status"] == answer.headers["x-wns-notificationstatus"] == "received"
    assert answer.headers["x-wns-deviceconnectionstatus"] == "connected"
    assert 0 < len(answer.headers["x-wns-msg-id"]) <= 16
    kept = json.loads(sender.sandbox.record.page("wns", 0, 1))["messages"][0]
    assert kept["address"] == sender.sandbox.credentials["wns"]["channel_prefix"] + "device"
    assert (kept["campaign"], kept["body"]) == ("7_20261123", toast())
    assert "authorization" not in kept["headers"]


async def test_duplicates_are_counted(sender: Sender) -> None:
    """The same campaign and channel twice is one duplicate, by the launch's wzrk_id or else the tag."""
    plain = toast(launch="app")
    for content, tag in ((toast(), None), (toast(), "t"), (plain, "t"), (plain, "t"), (plain, None), (plain, None)):
        assert (await sender.send(content, x_wns_tag=tag)).status == 200
    counts = sender.sandbox.record.counts["wns"]
    assert (counts.accepted, counts.duplicates, counts.connections) == (6, 2, 1)


DOCTYPE = '<!DOCTYPE toast [<!ENTITY a "b">]>'

BAD_REQUESTS: dict[str, tuple[dict[str, Any], int]] = {
    "token": ({"token": "stolen"}, 401),
    "method": ({"method": "PUT"}, 405),
    "type missing": ({"x_wns_type": None}, 400),
    "type unknown": ({"x_wns_type": "wns/shout"}, 400),
    "content type": ({"content_type": "application/json"}, 400),
    "raw as xml": ({"x_wns_type": "wns/raw"}, 400),
    "tag too long": ({"x_wns_tag": "x" * 17}, 400),
    "tag with a dash": ({"x_wns_tag": "a-b"}, 400),
    "group": ({"x_wns_group": "a b"}, 400),
    "ttl": ({"x_wns_ttl": "soon"}, 400),
    "priority": ({"x_wns_priority": "9"}, 400),
    "cache policy of a toast": ({"x_wns_cache_policy": "cache"}, 400),
    "request for status": ({"x_wns_requestforstatus": "yes"}, 400),
    "chunked": ({"transfer_encoding": "chunked"}, 411),
    "expect": ({"expect": "100-continue"}, 400),
    "not well-formed": ({"content": "<toast>"}, 400),
    "entities": ({"content": DOCTYPE + toast("<text>&a;</text>")}, 400),
    "another root": ({"content": "<tile/>"}, 400),
    "no binding": ({"content": "<toast><visual/></toast>"}, 400),
    "two bindings": ({"content": toast(TEXTS + '</binding><binding template="ToastGeneric">')}, 400),
    "four texts": ({"content": toast(TEXTS + TEXTS)}, 400),
    "unknown element": ({"content": toast(extra="<script/>")}, 400),
    "image without src": ({"content": toast(TEXTS + "<image/>")}, 400),
    "six actions": (
        {"content": toast(extra="<actions>" + ACTION * 6 + "</actions>")},
        400,
    ),
    "action without arguments": ({"content": toast(extra='<actions><action content="a"/></actions>')}, 400),
    "loop without duration": ({"content": toast(extra='<audio loop="true"/>')}, 400),
    "too large": ({"content": toast("<text>" + "x" * 5000 + "</text>")}, 413),
    "channel expired": ({"channel": "device-expired"}, 410),
    "channel unknown": ({"channel": "notfound"}, 404),
    "channel of another app": ({"channel": "foreign"}, 403),
}


@pytest.mark.parametrize("case", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_bad_requests(sender: Sender, case: tuple[dict[str, Any], int]) -> None:
    """A request that breaks a rule is refused with the documented status and a description."""
    changes, status = case
    answer = await sender.send(**changes)
    assert answer.status == status
    assert answer.headers["x-wns-error-description"]
    counts = sender.sandbox.record.counts["wns"]
    assert (counts.accepted, counts.refused) == (0, 1)


@pytest.mark.parametrize(
    ("channel", "headers", "status"),
    [
        ("device-dropped", {}, "dropped"),
        ("device", {"x_wns_suppresspopup": "true"}, "dropped"),
        ("device-throttled", {}, "channelthrottled"),
    ],
)
async def test_200_is_not_always_accepted(sender: Sender, channel: str, headers: dict[str, str], status: str) -> None:
    """A dropped or throttled notification is answered 200, says so in both status headers, and is not accepted."""
    answer = await sender.send(channel=channel, **headers)
    assert answer.status == 200
    assert answer.headers["x-wns-status"] == answer.headers["x-wns-notificationstatus"] == status
    assert sender.sandbox.record.counts["wns"].accepted == 0


async def test_offline_devices(sender: Sender) -> None:
    """A device that is not connected is reported where the sender asked."""
    answer = await sender.send(channel="offline", x_wns_requestforstatus="true")
    assert answer.headers["x-wns-deviceconnectionstatus"] == "disconnected"


async def test_a_missing_length_is_411(sender: Sender) -> None:
    """A POST without Content-Length is refused."""
    context = ssl.create_default_context(cadata=sender.sandbox.credentials["ca"])
    reader, writer = await asyncio.open_connection("127.0.0.1", sender.sandbox.ports["wns"], ssl=context)
    writer.write(b"POST /w/?token=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 411 ")
    writer.close()
    await writer.wait_closed()


async def test_token_endpoints(sender: Sender) -> None:
    """Entra and live.com each know their own client id and scope, and refuse wrong secrets in their own way."""
    wns = sender.sandbox.credentials["wns"]
    legacy = {"client_id": wns["package_sid"], "scope": "notify.windows.com"}
    cases = [
        ("/oauth2/v2.0/token", {}, 200),
        ("/my-tenant/oauth2/v2.0/token", {"scope": "https://wns.windows.com/.default/"}, 200),
        ("/accesstoken.srf", legacy, 200),
        ("/oauth2/v2.0/token", {"client_secret": "guess"}, 401),
        ("/accesstoken.srf", {**legacy, "client_secret": "guess"}, 400),
        ("/oauth2/v2.0/token", {"scope": "notify.windows.com"}, 400),
        ("/accesstoken.srf", {"scope": "notify.windows.com"}, 400),
        ("/oauth2/v2.0/token", {"grant_type": "password"}, 400),
    ]
    for path, changes, status in cases:
        answer = await sender.curl.ask("POST", wns["endpoint"] + path, (), grant(wns, **changes))
        assert (answer.status, "access_token" in answer.json) == (status, status == 200)
    assert sender.sandbox.record.counts["wns"].refused == 0


STATUS_FAULTS: dict[str, Fault] = {
    "throttled": Fault("wns", Kind.STATUS, status=406, retry_after=30),
    "blocked": Fault("wns", Kind.STATUS, status=410, code="Domain Blocked"),
    "unavailable": Fault("wns", Kind.STATUS, status=503, retry_after=2),
    "redirect": Fault("wns", Kind.STATUS, status=307, code="https://attacker.example/"),
}


@pytest.mark.parametrize("fault", STATUS_FAULTS.values(), ids=STATUS_FAULTS.keys())
async def test_status_faults(sender: Sender, fault: Fault) -> None:
    """A scripted answer has the status, the description or location, and the Retry-After asked for."""
    sender.sandbox.faults.add([fault])
    answer = await sender.send()
    assert answer.status == fault.status
    assert answer.headers.get("retry-after") == (str(fault.retry_after) if fault.retry_after else None)
    shown = answer.headers["location"] if fault.status == 307 else answer.headers["x-wns-error-description"]
    assert fault.code is None or shown == fault.code
    assert (answer.headers.get("x-wns-status") == "channelthrottled") == (fault.status == 406)


@pytest.mark.parametrize(("kind", "accepted"), [(Kind.CUT, 1), (Kind.REFUSE, 0), (Kind.GOAWAY, 0)])
async def test_closed_connections(sender: Sender, kind: Kind, accepted: int) -> None:
    """A cut accepts, then closes; refuse and goaway close first. The sender sees the same either way."""
    sender.sandbox.faults.add([Fault("wns", kind, count=1)])
    sender.curl.renew()
    with pytest.raises(pycurl.error):
        await sender.send()
    assert sender.sandbox.record.counts["wns"].accepted == accepted
    assert (await sender.send()).status == 200
    assert sender.sandbox.record.counts["wns"].duplicates == accepted


async def test_delay_and_hang(sender: Sender) -> None:
    """A delayed answer comes and the connection goes on; a hanging one never comes and is counted nowhere."""
    sender.sandbox.faults.add([Fault("wns", Kind.DELAY, seconds=0.05, count=1)])
    assert [(await sender.send()).status for _ in range(2)] == [200, 200]
    sender.sandbox.faults.add([Fault("wns", Kind.HANG)])
    sender.curl.patience = 0.3
    with pytest.raises(pycurl.error):
        await sender.send()
    counts = sender.sandbox.record.counts["wns"]
    assert (counts.accepted, counts.refused) == (2, 0)
