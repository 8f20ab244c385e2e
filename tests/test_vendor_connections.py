"""Every trouble a connection can have, with hundreds of messages in flight through a provider and a real peer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from support.bench import Bench, send

from tocsin.outcome import Outcome
from tocsin.providers.contract import Message, Provider, Receipt

pytest_plugins = ("support.bench",)

ACCEPTED, UNKNOWN, UNAVAILABLE = Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.UNAVAILABLE
MANY = 300
PATIENCE = 2.0  # seconds: longer than three hundred messages take on a busy machine
PUSHES = ("fcm", "apns", "wns")
EVERY = pytest.mark.parametrize("name", PUSHES)
MULTIPLEXED = pytest.mark.parametrize("name", ["fcm", "apns"])

Script = dict[str, Any]


@dataclass(frozen=True)
class Trouble:
    """Fault scripts; silent: the peer stops answering, so that only a time-out ends the wait."""

    name: str
    scripts: tuple[Script, ...]
    silent: bool = False

    def __str__(self) -> str:
        return self.name


def some(kind: str, share: float = 0.03, count: int = 4, **more: Any) -> Script:
    """A script that hits a few of the messages, somewhere among the others."""
    return {"kind": kind, "share": share, "count": count, **more}


UNPROCESSED = [
    Trouble("GOAWAY", (some("goaway", count=2),)),
    Trouble("GOAWAY before answers on their way", (some("goaway", count=2), some("delay", 0.3, 100, seconds=0.1))),
    Trouble("REFUSED_STREAM", (some("refuse", 0.1, 30),)),
    Trouble("fewer streams", (some("shrink", 0.05, 8, streams=3),)),
    Trouble("fewer streams, then more", (some("shrink", 0.1, 8, streams=1), some("shrink", 0.1, 8, streams=100))),
    Trouble("fewer streams, late answers", (some("shrink", 0.1, 2, streams=2), some("delay", 0.2, 60, seconds=0.1))),
]
"""In HTTP/2 each of these says which messages were not processed: they go again and cost nobody anything."""

LOST = [
    Trouble("a cut", (some("cut"),)),
    Trouble("the other side stops sending", (some("half"),)),
    Trouble("answers that never come", (some("hang"),), silent=True),
    Trouble("a machine that is gone", (some("vanish", 0.03, 2),), silent=True),
    Trouble("everything", (some("cut"), some("goaway"), some("refuse"), some("half"), some("delay", seconds=0.05))),
]
"""Nobody knows how far the peer had come."""


async def make_trouble(bench: Bench, name: str, trouble: Trouble) -> None:
    """Puts the scripts in force for a vendor."""
    await bench.call("POST", "/faults", [{"vendor": name, **script} for script in trouble.scripts])


async def count_fired(bench: Bench) -> list[int]:
    """How often each script has fired."""
    return [script["fired"] for script in (await bench.call("GET", "/faults"))["faults"]]


async def flood(bench: Bench, provider: Provider, count: int = MANY) -> list[tuple[Message, Receipt]]:
    """So many messages at once, each with the one receipt it got."""
    messages = [bench.message(provider.name) for _ in range(count)]
    receipts = await asyncio.gather(*(send(provider, message) for message in messages))
    return list(zip(messages, receipts, strict=True))


async def check_laws(bench: Bench, name: str, came: list[tuple[Message, Receipt]]) -> Counter[Outcome]:
    """What was receipted as accepted the vendor has once, what is unknown at most once, anything else not at all."""
    page = await bench.call("GET", f"/messages?vendor={name}&limit=1000")
    had = Counter(shown["address"] for shown in page["messages"])
    for message, receipt in came:
        allowed = {ACCEPTED: {1}, UNKNOWN: {0, 1}}.get(receipt.outcome, {0})
        assert had[message.address.value] in allowed, receipt
    counted, outcomes = await bench.counts(name), Counter(receipt.outcome for _, receipt in came)
    assert outcomes[ACCEPTED] <= counted["accepted"] <= outcomes[ACCEPTED] + outcomes[UNKNOWN]
    assert counted["duplicates"] == 0
    return outcomes


@MULTIPLEXED
@pytest.mark.parametrize("trouble", UNPROCESSED, ids=str)
async def test_unprocessed_is_sent_again_at_once(bench: Bench, name: str, trouble: Trouble) -> None:
    """Nothing is lost, nothing doubled and nothing unknown where the peer says what it did not process."""
    provider = bench.provider(name)
    await make_trouble(bench, name, trouble)
    came = await flood(bench, provider)
    assert all(await count_fired(bench))
    assert await check_laws(bench, name, came) == {ACCEPTED: MANY}


@EVERY
@pytest.mark.parametrize("trouble", LOST, ids=str)
async def test_lost_connections(bench: Bench, name: str, trouble: Trouble) -> None:
    """One receipt for each message, no second copies; and the dead connections are not used again."""
    provider = bench.provider(name, timeout=PATIENCE if trouble.silent else 10.0)
    came = await flood(bench, provider, 1)
    await make_trouble(bench, name, trouble)
    came += await flood(bench, provider)
    assert any(await count_fired(bench))
    outcomes = await check_laws(bench, name, came)
    assert outcomes[UNKNOWN] > 0
    assert set(outcomes) <= {ACCEPTED, UNKNOWN, UNAVAILABLE}
    await bench.call("DELETE", "/faults")
    came += await flood(bench, provider, 20)
    assert {receipt.outcome for _, receipt in came[-20:]} == {ACCEPTED}
    await check_laws(bench, name, came)


async def test_vanished_peer_beside_living_ones_is_left(bench: Bench) -> None:
    """Of two connections under steady traffic one vanishes: it costs the time-outs of its streams, and does not swallow
    its share of all that follows."""
    provider = bench.provider("fcm", timeout=0.5)
    await flood(bench, provider, 1)
    slow = some("delay", 1.0, 10**9, seconds=0.05)
    await make_trouble(bench, "fcm", Trouble("", (some("vanish", 0.005, 1), slow)))
    outcomes: list[Counter[Outcome]] = [Counter() for _ in range(8)]
    start = time.monotonic()

    async def work() -> None:
        while (at := time.monotonic() - start) < 4:
            receipt = await send(provider, bench.message("fcm"))
            outcomes[int(at * 2)][receipt.outcome] += 1

    await asyncio.gather(*(work() for _ in range(130)))
    assert sum(half[UNKNOWN] for half in outcomes) > 0
    assert not any(half[UNKNOWN] for half in outcomes[4:]), outcomes


@EVERY
@pytest.mark.parametrize("trouble", UNPROCESSED[:3], ids=str)
async def test_laws_hold_at_a_cold_start(bench: Bench, name: str, trouble: Trouble) -> None:
    """The same when the first message of a provider meets it: no token, no connection, in HTTP/1.1 as well."""
    provider = bench.provider(name)
    await bench.call("POST", "/faults", [{"vendor": name, **script, "share": 1.0} for script in trouble.scripts[:1]])
    await check_laws(bench, name, await flood(bench, provider))


async def test_apns_begins_with_one_stream(bench: Bench) -> None:
    """APNs allows one stream until a token is proven, then a thousand: nobody fails for it, nobody reconnects."""
    came = await flood(bench, bench.provider("apns"), 500)
    assert await check_laws(bench, "apns", came) == {ACCEPTED: 500}
    assert (await bench.counts("apns"))["connections"] <= 2


async def test_apns_token_changes_under_load(bench: Bench) -> None:
    """A new provider token in the middle of many messages is no offence: APNs sees the old one, then the new one."""
    provider, now = bench.provider("apns"), time.time()
    messages = [bench.message("apns") for _ in range(MANY)]
    times = [now - 36 * 60] * (MANY // 2) + [now] * (MANY // 2)
    sent = (provider.send(message, then) for message, then in zip(messages, times, strict=True))
    came = list(zip(messages, await asyncio.gather(*sent), strict=True))
    assert await check_laws(bench, "apns", came) == {ACCEPTED: MANY}


@MULTIPLEXED
async def test_connections_stay_few(bench: Bench, name: str) -> None:
    """However often the peer says goodbye, nobody storms it with new connections: APNs takes that for an attack."""
    provider = bench.provider(name)
    await make_trouble(bench, name, Trouble("", (some("goaway", 0.05, 10),)))
    await check_laws(bench, name, await flood(bench, provider))
    assert (await bench.counts(name))["connections"] <= 4 + 2 * 10


@MULTIPLEXED
async def test_vanished_peer_costs_one_time_out(bench: Bench, name: str) -> None:
    """Messages sent one after another, as a trickle is: the one that met the silence is unknown, the others are not."""
    provider = bench.provider(name, timeout=0.5)
    came = await flood(bench, provider, 1)
    await make_trouble(bench, name, Trouble("", (some("vanish", 1.0, 1),)))
    for _ in range(6):
        came += await flood(bench, provider, 1)
    assert [receipt.outcome for _, receipt in came] == [ACCEPTED, UNKNOWN, *[ACCEPTED] * 5]
    await check_laws(bench, name, came)


@pytest.mark.parametrize("name", ["fcm", "wns"])  # APNs has no token endpoint
async def test_token_endpoint_in_trouble(bench: Bench, name: str) -> None:
    """A connection that dies under a request for a token has taken no message: everybody waits, nothing is unknown."""
    for kind in ("cut", "half", "goaway", "refuse", "hang", "vanish"):
        provider = bench.provider(name, timeout=0.5 if kind in ("hang", "vanish") else 10.0)
        await make_trouble(bench, name, Trouble("", (some(kind, 1.0, 1, of="token"),)))
        came = await flood(bench, provider, 50)
        assert {receipt.outcome for _, receipt in came} <= {UNAVAILABLE, ACCEPTED}, kind
        await check_laws(bench, name, came)
        await bench.call("DELETE", "/messages")
