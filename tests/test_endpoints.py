"""A provider that is given an endpoint sends nothing anywhere else: not a message, not a log-in, not a token."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import Caller, Sandbox, people, token
from support.bench import Bench, send

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.answer_table import move_to
from tocsin.providers.contract import Address, HandOver, Receipt, Scope, unnoted
from tocsin.providers.transport import HttpPost, Pool, PoolLimits, Server, SmtpPool, Transport, VendorAnswer
from tocsin.providers.wns import place_of

pytest_plugins = ("support.bench",)

GOOGLE = "https://oauth2.googleapis.com/token"
CHANNELS = ("https://db3.notify.windows.com/?token=AwYAAAD%2b1", "https://wns2-by3p.Notify.Windows.com:443/w/?token=2")
WEBPUSH = '{"endpoint":"https://push.example.com/abc","keys":{"p256dh":"a","auth":"b"}}'


class NotingTransport(Transport):
    """A transport that notes every URL and relay its pools are told to talk to."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def pool(self, *, ca: str = "", limits: PoolLimits | None = None) -> Pool:
        pool = super().pool(ca=ca, limits=limits)
        post = pool.request

        async def noted(request: HttpPost, hand_over: HandOver = unnoted) -> VendorAnswer:
            self.told.append(request.url)
            return await post(request, hand_over)

        pool.request = noted  # type: ignore[method-assign]
        return pool

    def relay(self, server: Server, *, ca: str = "", connections: int = 20) -> SmtpPool:
        self.told.append(f"smtp://{server.host}:{server.port}/")
        return super().relay(server, ca=ca, connections=connections)


# Credentials as the vendors hand them out, and addresses as devices report them; only the endpoint is the sandbox's.
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("fcm", {"token_uri": GOOGLE}, ""),
    ("fcm", {}, ""),
    ("apns", {}, ""),
    *(("wns", {"token_endpoint": "", "tenant": "contoso.example"}, channel) for channel in CHANNELS),
    ("wns", {"token_endpoint": "", "legacy": True}, CHANNELS[0]),
    ("wns", {}, CHANNELS[0]),
    ("wns", {}, ""),
    ("smtp", {}, ""),
    ("sms", {}, ""),
    ("webpush", {}, WEBPUSH),
    ("vapid", {}, ""),  # at Mozilla's name
]


def test_every_provider_is_looked_at() -> None:
    """A provider without a row here has not been looked at."""
    assert {name for name, _, _ in ROWS} == set(BY_NAME)


async def deliver(bench: Bench, transport: Transport, name: str, options: dict[str, Any], address: str) -> Receipt:
    """One message by a provider with these credentials, to this address (any when empty)."""
    changed = dict(options)
    if uri := changed.pop("token_uri", ""):
        changed["service_account"] = json.dumps(bench.credentials["fcm"]["service_account"] | {"token_uri": uri})
    if changed.pop("legacy", False):
        changed["client_id"] = bench.credentials["wns"]["package_sid"]
    to: dict[str, Any] = {"address": Address(BY_NAME[name].kind, address)} if address else {}
    message = bench.message(name, **to)
    return await send(BY_NAME[name](bench.settings(name, **changed), transport), message)


@pytest.mark.parametrize(("name", "options", "address"), ROWS)
async def test_endpoint_is_all_that_is_contacted(
    bench: Bench, name: str, options: dict[str, Any], address: str
) -> None:
    """The sandbox takes the message, and nobody else was spoken to."""
    told = bench.credentials["webhook" if name in ("sms", "webpush") else name]
    endpoint = told.get(name) or told.get("endpoint") or f"smtp://{told['host']}:{told['port']}"
    transport = NotingTransport()
    async with transport:
        came = await deliver(bench, transport, name, options, address)
        assert {urlsplit(url).netloc for url in transport.told} == {urlsplit(endpoint).netloc}
    assert came.outcome is Outcome.ACCEPTED, came


async def test_channels_stay_apart(bench: Bench) -> None:
    """At an endpoint a channel is still the channel it was: the sandbox shows whole URIs, and counts each once."""
    for channel in CHANNELS:
        await deliver(bench, bench.transport, "wns", {}, channel)
    shown = (await bench.call("GET", "/messages?vendor=wns"))["messages"]
    assert [one["address"] for one in shown] == list(CHANNELS)
    assert (await bench.counts("wns"))["duplicates"] == 0


class FarTransport(Transport):
    """A transport to a world in which one host cannot be reached, and all others take what they are sent."""

    def __init__(self, gone: str) -> None:
        super().__init__()
        self.gone = gone
        self.asked: list[str] = []

    def pool(self, *, ca: str = "", limits: PoolLimits | None = None) -> Pool:
        pool = super().pool(ca=ca, limits=limits)

        async def answer(request: HttpPost, hand_over: HandOver = unnoted) -> VendorAnswer:
            self.asked.append(urlsplit(request.url).netloc)
            if self.asked[-1] == self.gone:
                return VendorAnswer(failure="unsent", detail="libcurl 6: could not resolve host")
            return VendorAnswer(status=200, body=b'{"access_token":"t","expires_in":3600}')

        pool.request = answer  # type: ignore[method-assign]
        return pool


async def test_a_channel_at_a_host_that_is_gone_holds_up_no_other(bench: Bench) -> None:
    """A channel names its host, and one of a data centre that was closed stays with a device for a month: its messages
    wait, and the lane goes on."""
    gone, here = "https://gone.notify.windows.com/?token=1", "https://db3.notify.windows.com/?token=2"
    transport = FarTransport("gone.notify.windows.com")
    async with transport:
        settings = bench.settings("wns", endpoint="", token_endpoint="", tenant="contoso.example")
        provider = BY_NAME["wns"](settings, transport)

        async def send_to(channel: str, now: float) -> Receipt:
            return await provider.send(bench.message("wns", address=Address("wns", channel)), now)

        assert (await send_to(here, 1000.0)).outcome is Outcome.ACCEPTED
        came = await send_to(gone, 1001.0)
        assert (came.outcome, came.scope, came.retry_after) == (Outcome.THROTTLED, Scope.DEVICE, 30.0)
        assert (await send_to(here, 1002.0)).outcome is Outcome.ACCEPTED
        resting = await send_to(gone, 1011.0)
        assert (resting.scope, resting.retry_after) == (Scope.DEVICE, 20.0)
        assert transport.asked.count("gone.notify.windows.com") == 1


def test_microsofts_channels_go_to_microsoft_without_an_endpoint() -> None:
    """Only an endpoint changes where a channel leads."""
    assert place_of(CHANNELS[0], "") == (CHANNELS[0], "")


@pytest.mark.parametrize(
    ("endpoint", "url", "expected"),
    [
        ("https://here:8203", "https://db3.notify.windows.com/?token=a%2b", "https://here:8203/?token=a%2b"),
        ("https://here:8203", "https://here:8203/token", "https://here:8203/token"),
        ("https://here", "https://HERE:443/token", "https://HERE:443/token"),
        ("https://here", "https://here:444/token", "https://here/token"),
        ("https://here/wns", "https://there/token", "https://here/wns/token"),
        ("https://here", "https://there//elsewhere/x", "https://here//elsewhere/x"),
        ("https://here", "https://there", "https://here"),
    ],
)
def test_what_moves_stays_at_the_endpoint(endpoint: str, url: str, expected: str) -> None:
    """The path and query of a URL move to the endpoint, whatever they spell."""
    assert move_to(endpoint, url) == expected


def test_campaign_to_microsofts_channels_arrives_at_the_sandbox(sending: Caller, sandbox: Sandbox) -> None:
    """An account pointed at the sandbox needs no addresses made for it."""
    sending.upload(*people(3, kinds=("wns",)))
    numbers = sending.result(sending.create())
    assert (numbers["sent"], numbers["audience"]) == (3, 3)
    found = {one["address"] for one in sandbox.messages("wns")}
    assert found == {token("wns", f"user-{number}") for number in range(3)}


def test_log_in_elsewhere_is_refused(bench: Bench) -> None:
    """An endpoint and a log-in at another host contradict each other: the operator has to say which."""
    with pytest.raises(Misconfigured, match="token_endpoint"):
        bench.provider("wns", token_endpoint="https://login.example.com/token")
